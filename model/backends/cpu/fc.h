#ifndef MODEL_BACKENDS_CPU_FC_H
#define MODEL_BACKENDS_CPU_FC_H

#include <stddef.h>

#include "model/backends/cpu/kernels.h"

/* Fully connected layers: y = x W^T + b, W packed in panels (model/panel.h)
 * with its columns as x lies in memory, and in x's element type. At a driver's
 * batch sizes they are bound by reading W once. Thread: any, on different x and
 * y. */

/* Bytes of the packed weights for inputs shaped like x (its batch does not
 * matter). */
size_t mdl_fc_bytes(const struct mdl_map *x, int outputs);

/* w: [outputs, channels * height * width], row-major; packed is 64-byte
 * aligned. */
void mdl_fc_pack(const struct mdl_map *x, int outputs, const float *w,
                 void *packed);

/* y: a vector map; bias [outputs] or NULL. */
void mdl_fc_run(const struct mdl_map *x, const void *packed, const float *bias,
                const struct mdl_map *y);

#endif
