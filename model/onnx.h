#ifndef MODEL_ONNX_H
#define MODEL_ONNX_H

#include "model/graph.h"

/* Writes a bound graph as ONNX (opset 17, IR 8; https://onnx.ai/onnx), for
 * other engines: input "images" uint8 [N, H, W, 3], and the outputs in the bit
 * set keep under their names. The graph is as trained, or optimised: a fused
 * convolution becomes its parts again. Errors: UT_EINVAL for an unbound
 * parameter, UT_EBUSY over protobuf's 2 GiB, UT_EIO, UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_onnx_write(const char *path,
                                      const struct mdl_graph *g, uint64_t keep,
                                      struct ut_error *e);

#endif
