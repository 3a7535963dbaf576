/* Shapes, element types and half-precision conversions. */
#include "model/tensor.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [MDL_F32] = {"F32", 4}, [MDL_F16] = {"F16", 2}, [MDL_BF16] = {"BF16", 2},
    [MDL_I64] = {"I64", 8}, [MDL_I32] = {"I32", 4}, [MDL_I8] = {"I8", 1},
    [MDL_U8] = {"U8", 1},
};

size_t mdl_dtype_size(enum mdl_dtype t)
{
    return dtypes[t].size;
}

const char *mdl_dtype_name(enum mdl_dtype t)
{
    return dtypes[t].name;
}

size_t mdl_shape_count(const struct mdl_shape *s)
{
    size_t n = 1;

    for (int i = 0; i < s->n_dims; i++)
        n *= (size_t)s->dim[i];
    return n;
}

enum ut_err mdl_shape_bytes(const struct mdl_shape *s, enum mdl_dtype t,
                            size_t max, size_t *bytes, struct ut_error *e)
{
    size_t n = mdl_dtype_size(t);
    bool empty = false;

    for (int i = 0; i < s->n_dims; i++) {
        if (s->dim[i] < 0)
            return ut_fail(e, UT_EINVAL, "dimension %d is %lld, below 0", i,
                           (long long)s->dim[i]);
        empty = empty || s->dim[i] == 0;
    }
    for (int i = 0; i < s->n_dims && !empty; i++)
        if (__builtin_mul_overflow(n, (size_t)s->dim[i], &n) || n > max)
            return ut_fail(e, UT_EINVAL, "the shape needs over %zu bytes", max);
    *bytes = empty ? 0 : n;
    return UT_OK;
}

bool mdl_shape_equal(const struct mdl_shape *a, const struct mdl_shape *b)
{
    if (a->n_dims != b->n_dims)
        return false;
    for (int i = 0; i < a->n_dims; i++)
        if (a->dim[i] != b->dim[i])
            return false;
    return true;
}

const char *mdl_shape_text(const struct mdl_shape *s, char text[80])
{
    int at = snprintf(text, 80, "[");

    for (int i = 0; i < s->n_dims && at < 78; i++)
        at += snprintf(text + at, 80 - (size_t)at, "%s%lld", i ? ", " : "",
                       (long long)s->dim[i]);
    if (at < 79)
        snprintf(text + at, 80 - (size_t)at, "]");
    return text;
}

struct mdl_shape mdl_shape_of(int n_dims, ...)
{
    struct mdl_shape s = {.n_dims = n_dims};
    va_list args;

    va_start(args, n_dims);
    for (int i = 0; i < n_dims; i++)
        s.dim[i] = va_arg(args, int);
    va_end(args);
    return s;
}

static float float_of(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

void mdl_bf16_to_f32(const uint16_t *in, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = float_of((uint32_t)in[i] << 16);
}

void mdl_f16_to_f32(const uint16_t *in, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(in[i] & 0x8000) << 16;
        uint32_t exponent = (in[i] >> 10) & 31, mantissa = in[i] & 0x3ff;

        if (exponent == 31) /* infinity, NaN */
            out[i] = float_of(sign | 0x7f800000 | mantissa << 13);
        else if (exponent) /* normal: rebias from 15 to 127 */
            out[i] = float_of(sign | (exponent + 112) << 23 | mantissa << 13);
        else /* subnormal: mantissa * 2^-24 */
            out[i] = (sign ? -1.0f : 1.0f) * (float)mantissa * 0x1p-24f;
    }
}

void mdl_f32_to_bf16(const float *in, uint16_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = mdl_bf16_of(in[i]);
}

static uint16_t f16_of(float x)
{
    uint32_t bits, sign, mantissa, shift = 13;
    int exponent;

    memcpy(&bits, &x, sizeof(bits));
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    exponent = (int)(bits >> 23) - 112; /* rebiased from 127 to 15 */
    if (bits > 0x7f800000)
        return (uint16_t)(sign | 0x7e00); /* NaN */
    if (exponent >= 31)
        return (uint16_t)(sign | 0x7c00);
    mantissa = bits & 0x7fffff;
    if (exponent <= 0) { /* subnormal: the leading 1 is written, and shifted */
        if (exponent < -10)
            return (uint16_t)sign;
        mantissa |= 0x800000;
        shift = (uint32_t)(14 - exponent);
        exponent = 0;
    }
    bits = (uint32_t)exponent << 10 | mantissa >> shift;
    mantissa &= (1u << shift) - 1;
    /* A carry out of the mantissa is the next exponent: also infinity. */
    bits += mantissa > 1u << (shift - 1) ||
            (mantissa == 1u << (shift - 1) && bits & 1);
    return (uint16_t)(sign | bits);
}

void mdl_f32_to_f16(const float *in, uint16_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = f16_of(in[i]);
}
