#ifndef MODEL_BACKENDS_REF_REF_H
#define MODEL_BACKENDS_REF_REF_H

#include "model/backend.h"

/* Plain C, written to be read: what the other backends must match. float32
 * values, double accumulators, one image at a time. */
extern const struct mdl_backend_ops mdl_ref_ops;

#endif
