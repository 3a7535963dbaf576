/* Kernels over maps in blocks of LANES channels; included once for each width
 * by kernels_LANES.c. All work on rows of LANES floats; the loops over them are
 * what the compiler turns into vectors. */
#include <math.h>
#include <string.h>

#include "model/backends/cpu/kernels.h"
#include "model/backends/cpu/per_isa.h"

static inline int blocks(const struct mdl_map *m)
{
    return (m->channels + LANES - 1) / LANES;
}

/* Row i, as floats. */
static inline void get(const void *data, bool bf16, size_t i, float v[LANES])
{
    if (bf16) {
        const uint16_t *p = (const uint16_t *)data + i * LANES;

        for (int k = 0; k < LANES; k++)
            v[k] = mdl_float_of(p[k]);
    } else {
        memcpy(v, (const float *)data + i * LANES, LANES * sizeof(*v));
    }
}

static inline void put(void *data, bool bf16, size_t i, const float v[LANES])
{
    if (bf16) {
        uint16_t *p = (uint16_t *)data + i * LANES;

        for (int k = 0; k < LANES; k++)
            p[k] = mdl_bf16_of(v[k]);
    } else {
        memcpy((float *)data + i * LANES, v, LANES * sizeof(*v));
    }
}

static inline size_t area(const struct mdl_map *m)
{
    return (size_t)m->height * (size_t)m->width;
}

/* Row of image n, block b, place i. */
static inline size_t row_of(const struct mdl_map *m, int n, int b, size_t i)
{
    return ((size_t)n * (size_t)blocks(m) + (size_t)b) * area(m) + i;
}

/* Sigmoid makes padded zeros one half: they must be zero again. */
static inline void clear_padding(const struct mdl_map *m, int b, float v[LANES])
{
    for (int k = m->channels - b * LANES; k < LANES; k++)
        v[k] = 0;
}

INLINE void epilogue(const struct mdl_map *y, enum mdl_act act, float alpha,
                     const float *slope, const float *shift,
                     const void *residual, bool bf16)
{
    for (int n = 0; n < y->batch; n++)
        for (int b = 0; b < blocks(y); b++) {
            float slopes[LANES] = {0}, shifts[LANES] = {0};
            size_t first = row_of(y, n, b, 0);

            if (slope)
                memcpy(slopes, slope + b * LANES, sizeof(slopes));
            if (shift)
                memcpy(shifts, shift + b * LANES, sizeof(shifts));
            for (size_t i = first; i < first + area(y); i++) {
                float v[LANES], r[LANES] = {0};

                get(y->data, bf16, i, v);
                if (residual)
                    get(residual, bf16, i, r);
                for (int k = 0; k < LANES; k++)
                    v[k] = mdl_activate(act, alpha, slopes[k], v[k]) +
                           shifts[k] + r[k];
                if (act == MDL_ACT_SIGMOID)
                    clear_padding(y, b, v);
                put(y->data, bf16, i, v);
            }
        }
}

/* The usual ones with their constants known to the compiler. */
INLINE void hot(const struct mdl_map *y, enum mdl_act act, float alpha,
                const float *slope, const float *shift, const void *residual)
{
    if (act == MDL_ACT_PRELU && y->bf16)
        epilogue(y, MDL_ACT_PRELU, 0, slope, shift, residual, true);
    else if (act == MDL_ACT_PRELU)
        epilogue(y, MDL_ACT_PRELU, 0, slope, shift, residual, false);
    else if (act == MDL_ACT_NONE)
        epilogue(y, MDL_ACT_NONE, 0, NULL, shift, residual, y->bf16);
    else
        epilogue(y, act, alpha, slope, shift, residual, y->bf16);
}

PER_ISA(static, k_epilogue, hot,
        (const struct mdl_map *y, enum mdl_act act, float alpha,
         const float *slope, const float *shift, const void *residual),
        (y, act, alpha, slope, shift, residual))

INLINE void affine(const struct mdl_map *x, const float *s, const float *t,
                   const struct mdl_map *y)
{
    if (x->vector) {
        for (int n = 0; n < x->batch; n++)
            for (int c = 0; c < x->channels; c++) {
                size_t at = (size_t)n * (size_t)x->channels + (size_t)c;

                ((float *)y->data)[at] =
                    ((const float *)x->data)[at] * s[c] + t[c];
            }
        return;
    }
    for (int n = 0; n < x->batch; n++)
        for (int b = 0; b < blocks(x); b++)
            for (size_t i = 0; i < area(x); i++) {
                size_t at = row_of(x, n, b, i);
                float v[LANES];

                get(x->data, x->bf16, at, v);
                for (int k = 0; k < LANES; k++)
                    v[k] = v[k] * s[b * LANES + k] + t[b * LANES + k];
                put(y->data, y->bf16, at, v);
            }
}

PER_ISA(static, k_affine, affine,
        (const struct mdl_map *x, const float *s, const float *t,
         const struct mdl_map *y),
        (x, s, t, y))

/* Elements of a map with its padding, or of a vector. */
static size_t count(const struct mdl_map *m)
{
    if (m->vector)
        return (size_t)m->batch * (size_t)m->channels;
    return row_of(m, m->batch, 0, 0) * LANES;
}

static void k_copy(const struct mdl_map *x, const struct mdl_map *y)
{
    memcpy(y->data, x->data, count(x) * (x->bf16 ? 2 : 4));
}

INLINE void pool(const struct mdl_map *x, const struct mdl_map *y, bool bf16)
{
    for (int n = 0; n < x->batch; n++)
        for (int b = 0; b < blocks(x); b++) {
            float sum[LANES] = {0};

            for (size_t i = 0; i < area(x); i++) {
                float v[LANES];

                get(x->data, bf16, row_of(x, n, b, i), v);
                for (int k = 0; k < LANES; k++)
                    sum[k] += v[k];
            }
            for (int k = 0; k < LANES && b * LANES + k < x->channels; k++)
                ((float *)y->data)[n * x->channels + b * LANES + k] =
                    sum[k] / (float)area(x);
        }
}

INLINE void pool_hot(const struct mdl_map *x, const struct mdl_map *y)
{
    if (x->bf16)
        pool(x, y, true);
    else
        pool(x, y, false);
}
PER_ISA(static, k_pool, pool_hot,
        (const struct mdl_map *x, const struct mdl_map *y), (x, y))

INLINE void add(const struct mdl_map *x, int n, const struct mdl_map *y,
                bool bf16)
{
    size_t total = count(y);

    if (y->vector) {
        for (size_t i = 0; i < total; i++) {
            float sum = 0;

            for (int k = 0; k < n; k++)
                sum += ((const float *)x[k].data)[i];
            ((float *)y->data)[i] = sum;
        }
        return;
    }
    for (size_t i = 0; i < total / LANES; i++) {
        float sum[LANES] = {0}, v[LANES];

        for (int k = 0; k < n; k++) {
            get(x[k].data, bf16, i, v);
            for (int j = 0; j < LANES; j++)
                sum[j] += v[j];
        }
        put(y->data, bf16, i, sum);
    }
}

INLINE void add_hot(const struct mdl_map *x, int n, const struct mdl_map *y)
{
    if (y->bf16)
        add(x, n, y, true);
    else
        add(x, n, y, false);
}
PER_ISA(static, k_add, add_hot,
        (const struct mdl_map *x, int n, const struct mdl_map *y), (x, n, y))

INLINE void scale(const struct mdl_map *x, const struct mdl_map *s,
                  const struct mdl_map *y, bool bf16)
{
    for (int n = 0; n < x->batch; n++)
        for (int b = 0; b < blocks(x); b++) {
            float factor[LANES] = {0};

            for (int k = 0; s->vector && k < LANES; k++)
                if (b * LANES + k < x->channels)
                    factor[k] = ((const float *)
                                     s->data)[n * x->channels + b * LANES + k];
            for (size_t i = 0; i < area(x); i++) {
                size_t at = row_of(x, n, b, i);
                float v[LANES];

                if (!s->vector) {
                    get(s->data, bf16, row_of(s, n, 0, i), v);
                    for (int k = 0; k < LANES; k++)
                        factor[k] = v[0];
                }
                get(x->data, bf16, at, v);
                for (int k = 0; k < LANES; k++)
                    v[k] *= factor[k];
                put(y->data, bf16, at, v);
            }
        }
}

INLINE void scale_hot(const struct mdl_map *x, const struct mdl_map *s,
                      const struct mdl_map *y)
{
    if (x->bf16)
        scale(x, s, y, true);
    else
        scale(x, s, y, false);
}
PER_ISA(static, k_scale, scale_hot,
        (const struct mdl_map *x, const struct mdl_map *s,
         const struct mdl_map *y),
        (x, s, y))

static void k_upsample(const struct mdl_map *x, const struct mdl_map *y)
{
    size_t bytes = LANES * (x->bf16 ? 2 : 4);

    for (int n = 0; n < y->batch; n++)
        for (int b = 0; b < blocks(y); b++)
            for (int i = 0; i < y->height; i++)
                for (int j = 0; j < y->width; j++) {
                    int from = i * x->height / y->height * x->width +
                               j * x->width / y->width;
                    size_t to = row_of(y, n, b, (size_t)(i * y->width + j));

                    memcpy((char *)y->data + to * bytes,
                           (const char *)x->data +
                               row_of(x, n, b, (size_t)from) * bytes,
                           bytes);
                }
}

/* One element of a map. */
static float element(const struct mdl_map *m, int n, int c, size_t i)
{
    size_t at = row_of(m, n, c / LANES, i) * LANES + (size_t)(c % LANES);

    return m->bf16 ? mdl_float_of(((const uint16_t *)m->data)[at])
                   : ((const float *)m->data)[at];
}

static void set_element(const struct mdl_map *m, int n, int c, size_t i,
                        float v)
{
    size_t at = row_of(m, n, c / LANES, i) * LANES + (size_t)(c % LANES);

    if (m->bf16)
        ((uint16_t *)m->data)[at] = mdl_bf16_of(v);
    else
        ((float *)m->data)[at] = v;
}

static void k_concat(const struct mdl_map *x, int n, const struct mdl_map *y)
{
    memset(y->data, 0, count(y) * (y->bf16 ? 2 : 4));
    for (int b = 0; b < y->batch; b++) {
        int first = 0;

        for (int k = 0; k < n; first += x[k++].channels)
            for (int c = 0; c < x[k].channels; c++)
                for (size_t i = 0; i < area(y); i++)
                    set_element(y, b, first + c, i, element(&x[k], b, c, i));
    }
}

static void k_softmax(const struct mdl_map *x, const struct mdl_map *y)
{
    memset(y->data, 0, count(y) * (y->bf16 ? 2 : 4));
    for (int b = 0; b < x->batch; b++)
        for (int c = 0; c < x->channels; c += 2)
            for (size_t i = 0; i < area(x); i++) {
                float d = element(x, b, c + 1, i) - element(x, b, c, i);

                set_element(y, b, c, i, 1 / (1 + expf(d)));
                set_element(y, b, c + 1, i, 1 / (1 + expf(-d)));
            }
}

static void k_output(const struct mdl_map *x, float *out)
{
    if (x->vector) {
        memcpy(out, x->data, count(x) * sizeof(*out));
        return;
    }
    for (int n = 0; n < x->batch; n++)
        for (int c = 0; c < x->channels; c++)
            for (size_t i = 0; i < area(x); i++)
                *out++ = element(x, n, c, i);
}

const struct mdl_kernels KERNELS = {
    .lanes = LANES,
    .epilogue = k_epilogue,
    .affine = k_affine,
    .copy = k_copy,
    .pool = k_pool,
    .add = k_add,
    .scale = k_scale,
    .upsample = k_upsample,
    .concat = k_concat,
    .softmax = k_softmax,
    .output = k_output,
};
