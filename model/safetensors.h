#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include "model/tensor.h"

/* The safetensors file format, read and written.
 *
 *   8 bytes  little-endian length of the header
 *   header   JSON: {"__metadata__":{text:text}, name:{"dtype","shape",
 *            "data_offsets":[begin,end]}, ...}, padded with spaces
 *   data     the tensors' little-endian bytes
 *
 * Source: https://github.com/huggingface/safetensors, "Format". */

#define MDL_ST_MAX_HEADER (16u << 20) /* bytes   */
#define MDL_ST_MAX_TENSORS 65536

struct mdl_st_tensor {
    const char *name;
    enum mdl_dtype dtype;
    struct mdl_shape shape;
    const void *data; /* view into the mapping; may be unaligned */
    size_t len;       /* bytes                                    */
};

struct mdl_st; /* an open file: read-only, shareable between threads */

/* Maps the file at path and checks all of it: header size, JSON, dtypes,
 * shapes against byte ranges, overlaps, gaps past the end, duplicate names.
 * The file must not be changed while it is open.
 * Errors: UT_EIO, UT_ENOMEM; UT_EFORMAT naming the tensor and the fault. */
UT_MUSTUSE enum ut_err mdl_st_open(const char *path, struct mdl_st **out,
                                   struct ut_error *e);

/* The same over bytes that outlive the handle; name stands in messages. */
UT_MUSTUSE enum ut_err mdl_st_open_memory(const char *name, const void *data,
                                          size_t len, struct mdl_st **out,
                                          struct ut_error *e);

/* Ends all views. Accepts NULL. */
void mdl_st_close(struct mdl_st *st);

size_t mdl_st_count(const struct mdl_st *st);
const struct mdl_st_tensor *mdl_st_at(const struct mdl_st *st, size_t idx);

/* NULL if there is none of that name. */
const struct mdl_st_tensor *mdl_st_find(const struct mdl_st *st,
                                        const char *name);

/* A metadata text, or NULL. */
const char *mdl_st_meta(const struct mdl_st *st, const char *key);

/* The i-th metadata pair; false past the last. */
bool mdl_st_meta_at(const struct mdl_st *st, size_t idx, const char **key,
                    const char **value);

/* All bytes of the file, for hashing. */
const void *mdl_st_bytes(const struct mdl_st *st, size_t *len);

/* Copies a float tensor (F32, F16 or BF16) into out as float32; out holds
 * mdl_shape_count(&t->shape) floats. Errors: UT_EFORMAT for other types. */
UT_MUSTUSE enum ut_err mdl_st_floats(const struct mdl_st_tensor *t, float *out,
                                     struct ut_error *e);

struct mdl_st_pair {
    const char *key, *value;
};

/* Writes a file whole (base/file.h). The data begins at a multiple of 64 bytes.
 * Errors: UT_EIO (a full disk among them), UT_ENOMEM, UT_EINVAL (duplicate
 * name, len against shape, text that is not UTF-8, over the limits above). */
UT_MUSTUSE enum ut_err mdl_st_write(const char *path,
                                    const struct mdl_st_tensor *tensors,
                                    size_t n_tensors,
                                    const struct mdl_st_pair *meta,
                                    size_t n_meta, struct ut_error *e);

#endif
