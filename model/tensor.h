#ifndef MODEL_TENSOR_H
#define MODEL_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"

/* Shapes and element types, common to files, graphs and backends. */

#define MDL_MAX_DIMS 5

enum mdl_dtype {
    MDL_F32,
    MDL_F16,
    MDL_BF16,
    MDL_I64,
    MDL_I32,
    MDL_I8,
    MDL_U8,
};

struct mdl_shape {
    int n_dims;                /* 0 for a scalar                        */
    int64_t dim[MDL_MAX_DIMS]; /* row-major, outermost first; each >= 0 */
};

/* Bytes of one element. */
size_t mdl_dtype_size(enum mdl_dtype t);

/* As in a safetensors header: "F32", "BF16", "U8"... */
const char *mdl_dtype_name(enum mdl_dtype t);

/* Elements in s. The product must have been checked where s was read. */
size_t mdl_shape_count(const struct mdl_shape *s);

/* As mdl_shape_count, for dimensions from outside. Errors: UT_EINVAL when a
 * dimension is negative or the product, in bytes, exceeds size_t or max. */
UT_MUSTUSE enum ut_err mdl_shape_bytes(const struct mdl_shape *s,
                                       enum mdl_dtype t, size_t max,
                                       size_t *bytes, struct ut_error *e);

bool mdl_shape_equal(const struct mdl_shape *a, const struct mdl_shape *b);

/* Writes "[64, 3, 3, 3]" into text and returns text. */
const char *mdl_shape_text(const struct mdl_shape *s, char text[80]);

/* One shape from its dimensions: mdl_shape_of(4, 64, 3, 3, 3). */
struct mdl_shape mdl_shape_of(int n_dims, ...);

/* To the nearest bfloat16, ties to even. */
static inline uint16_t mdl_bf16_of(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    if ((bits & 0x7fffffff) > 0x7f800000) /* NaN must stay one */
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Half-precision conversions of n elements; round to nearest even. */
void mdl_bf16_to_f32(const uint16_t *in, float *out, size_t n);
void mdl_f16_to_f32(const uint16_t *in, float *out, size_t n);
void mdl_f32_to_bf16(const float *in, uint16_t *out, size_t n);
void mdl_f32_to_f16(const float *in, uint16_t *out, size_t n);

#endif
