#ifndef MODEL_ONNX_H
#define MODEL_ONNX_H

#include "model/graph.h"

/* Writes a bound graph as ONNX (opset 17, IR 8; https://onnx.ai/onnx), for
 * other engines: input "images" uint8 [N, H, W, 3], and the outputs in the bit
 * set keep under their names. The graph is as trained, or optimised: a fused
 * convolution becomes its parts again. The file is replaced whole or stays.
 * Errors: UT_EINVAL for an unbound parameter or an output called "images",
 * UT_EBUSY over protobuf's 2 GiB, UT_EIO, UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_onnx_write(const char *path,
                                      const struct mdl_graph *g, uint64_t keep,
                                      struct ut_error *e);

/* How a network's own input is made from bytes:
 * in[c] = (rgb[bgr ? 2 - c : c] - mean[c]) * scale[c]. */
struct mdl_onnx_input {
    float mean[3], scale[3];
    bool bgr;
};

/* "imagenet" (torchvision's), "insightface" ((x - 127.5) / 127.5), "bytes"
 * (0 to 255); false for others. */
bool mdl_onnx_input_parse(const char *text, struct mdl_onnx_input *out);

/* Reads an ONNX network of one picture in, [N, 3, H, W] float32 or as
 * mdl_onnx_write's, as a bound graph; results keep their names. The operators
 * that face embedders use, opset 7 to 21; weights float32 or float16 inside
 * the file. The graph owns all. Errors: UT_EIO, UT_EFORMAT naming the node and
 * what of it is not supported, UT_EBUSY over 2 GiB, UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_onnx_read(const char *path,
                                     const struct mdl_onnx_input *input,
                                     struct mdl_graph *out, struct ut_error *e);

/* The same of bytes; name is for errors. */
UT_MUSTUSE enum ut_err mdl_onnx_read_memory(const char *name, const void *data,
                                            size_t len,
                                            const struct mdl_onnx_input *input,
                                            struct mdl_graph *out,
                                            struct ut_error *e);

#endif
