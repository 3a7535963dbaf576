#ifndef API_OIP_H
#define API_OIP_H

#include "api/error.h"
#include "api/oip/inference.pb-c.h"
#include "base/buf.h"

/* Inference over HTTP as the Open Inference Protocol has it: JSON with tensors
 * as lists of numbers, or with their bytes after the JSON (the binary tensor
 * extension). Thread: any.
 * Sources: api/oip/inference.proto. */

#define API_OIP_MAX_ELEMENTS (32 * 112 * 112 * 3) /* in all lists together */
#define API_OIP_ALL_JSON SIZE_MAX

/* Reads a request; free it by protobuf_c_message_free_unpacked(msg, NULL).
 * raw_input_contents holds every input's bytes, however they came; lists may be
 * nested or flat. json_len: how much of body is JSON, the rest being tensors;
 * API_OIP_ALL_JSON: all of it. Datatypes of lists: UINT8, FP32. Errors: name
 * the member. */
UT_MUSTUSE enum ut_err api_oip_read(const char *body, size_t len,
                                    size_t json_len,
                                    Inference__ModelInferRequest **out,
                                    struct api_error *err);

/* Appends an answer, whose tensors are FP32 in raw_output_contents, as request
 * wants each; *json_len is how much of it is JSON. Errors: those of ut_buf_add,
 * UT_EINVAL for a number that JSON cannot say. */
UT_MUSTUSE enum ut_err
api_oip_write(const Inference__ModelInferRequest *request,
              const Inference__ModelInferResponse *m, struct ut_buf *b,
              size_t *json_len, struct ut_error *e);

#endif
