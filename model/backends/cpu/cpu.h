#ifndef MODEL_BACKENDS_CPU_CPU_H
#define MODEL_BACKENDS_CPU_CPU_H

#include "model/backend.h"

/* oneDNN, and our own kernels where it is slow. Single-threaded: one lane a
 * core. float32 everywhere, bfloat16 where the processor has AVX-512 BF16. */
extern const struct mdl_backend_ops mdl_cpu_ops;

#endif
