/* Serving's kernels, also of training's forward pass; included once for each
 * width by kernels_LANES.c. */
#include "model/backends/cpu/rows_body.h"

/* ---- y = act(x) + shift + residual ---- */

INLINE void act_rows(enum mdl_act act, enum kind kind, vec slope, vec shift,
                     const struct mdl_map *x, const struct mdl_map *residual,
                     int n, int b, const struct mdl_map *y)
{
    struct rows in = rows_of(kind, x, n, b), out = rows_of(kind, y, n, b);
    struct rows more = residual ? rows_of(kind, residual, n, b) : out;
    const int places = area(x);
    ivec lanes = {0};

    for (int k = 0; k < LANES; k++)
        lanes[k] = k < in.lanes ? -1 : 0;
    for (int i = 0; i < places; i++) {
        vec v = load(kind, in, i);

        v = activated(act, slope, v, v, false) + shift;
        if (act == MDL_ACT_SIGMOID) /* of a padded zero it is one half */
            v = (vec)((ivec)v & lanes);
        if (residual)
            v += load(kind, more, i);
        store(kind, out, i, v);
    }
}

INLINE void act_kind(enum kind kind, enum mdl_act act, vec slope, vec shift,
                     const struct mdl_map *x, const struct mdl_map *residual,
                     int n, int b, const struct mdl_map *y)
{
    if (residual)
        EACH_ACT(act_rows, act, kind, slope, shift, x, residual, n, b, y);
    else
        EACH_ACT(act_rows, act, kind, slope, shift, x, NULL, n, b, y);
}

INLINE void act_of_block(const struct mdl_map *x, enum mdl_act act, float alpha,
                         const float *slope, const float *shift,
                         const struct mdl_map *residual, int n, int b,
                         const struct mdl_map *y)
{
    EACH_KIND(act_kind, x, act, param(x, b, slope, alpha),
              param(x, b, shift, 0), x, residual, n, b, y);
}
PER_ISA(static, act_block, act_of_block,
        (const struct mdl_map *x, enum mdl_act act, float alpha,
         const float *slope, const float *shift, const struct mdl_map *residual,
         int n, int b, const struct mdl_map *y),
        (x, act, alpha, slope, shift, residual, n, b, y))

static void k_act(const struct mdl_map *x, enum mdl_act act, float alpha,
                  const float *slope, const float *shift,
                  const struct mdl_map *residual, const struct mdl_map *y)
{
    EACH_BLOCK(x, n, b)
    {
        act_block(x, act, alpha, slope, shift, residual, n, b, y);
    }
}

/* ---- the rest ---- */

INLINE void affine_of_block(const struct mdl_map *x, const float *s,
                            const float *t, int n, int b,
                            const struct mdl_map *y)
{
    EACH_KIND(affine_rows, x, x, param(x, b, s, 1), param(x, b, t, 0), n, b, y);
}
PER_ISA(static, affine_block, affine_of_block,
        (const struct mdl_map *x, const float *s, const float *t, int n, int b,
         const struct mdl_map *y),
        (x, s, t, n, b, y))

static void k_affine(const struct mdl_map *x, const float *s, const float *t,
                     const struct mdl_map *y)
{
    EACH_BLOCK(x, n, b)
    {
        affine_block(x, s, t, n, b, y);
    }
}

INLINE void pool_rows(enum kind kind, const struct mdl_map *x, int n, int b,
                      const struct mdl_map *y)
{
    struct rows in = rows_of(kind, x, n, b);
    const int places = area(x);
    vec sum = {0};

    for (int i = 0; i < places; i++)
        sum += load(kind, in, i);
    put(y, n, b, 0, sum / (float)places);
}

INLINE void pool_of_block(const struct mdl_map *x, int n, int b,
                          const struct mdl_map *y)
{
    EACH_KIND(pool_rows, x, x, n, b, y);
}
PER_ISA(static, pool_block, pool_of_block,
        (const struct mdl_map *x, int n, int b, const struct mdl_map *y),
        (x, n, b, y))

static void k_pool(const struct mdl_map *x, const struct mdl_map *y)
{
    EACH_BLOCK(x, n, b)
    {
        pool_block(x, n, b, y);
    }
}

INLINE void add_rows(enum kind kind, const struct mdl_map *x, int count,
                     const struct mdl_map *y, int n, int b)
{
    struct rows in[MDL_NODE_INPUTS], out = rows_of(kind, y, n, b);
    const int places = area(y);

    for (int k = 0; k < count; k++)
        in[k] = rows_of(kind, &x[k], n, b);
    for (int i = 0; i < places; i++) {
        vec sum = load(kind, in[0], i);

        for (int k = 1; k < count; k++)
            sum += load(kind, in[k], i);
        store(kind, out, i, sum);
    }
}

INLINE void add_of_block(const struct mdl_map *x, int count,
                         const struct mdl_map *y, int n, int b)
{
    EACH_KIND(add_rows, y, x, count, y, n, b);
}
PER_ISA(static, add_block, add_of_block,
        (const struct mdl_map *x, int count, const struct mdl_map *y, int n,
         int b),
        (x, count, y, n, b))

static void k_add(const struct mdl_map *x, int count, const struct mdl_map *y)
{
    EACH_BLOCK(y, n, b)
    {
        add_block(x, count, y, n, b);
    }
}

/* By channel if s is a vector, else by place: a map of one channel. */
INLINE void scale_rows(enum kind kind, const struct mdl_map *x,
                       const struct mdl_map *s, int n, int b,
                       const struct mdl_map *y)
{
    struct rows in = rows_of(kind, x, n, b), out = rows_of(kind, y, n, b);
    const int places = area(x);

    if (s->vector) {
        vec factor = get(s, n, b, 0);

        for (int i = 0; i < places; i++)
            store(kind, out, i, load(kind, in, i) * factor);
    } else {
        struct rows by = rows_of(kind, s, n, 0);

        for (int i = 0; i < places; i++)
            store(kind, out, i, load(kind, in, i) * load(kind, by, i)[0]);
    }
}

INLINE void scale_of_block(const struct mdl_map *x, const struct mdl_map *s,
                           int n, int b, const struct mdl_map *y)
{
    EACH_KIND(scale_rows, x, x, s, n, b, y);
}
PER_ISA(static, scale_block, scale_of_block,
        (const struct mdl_map *x, const struct mdl_map *s, int n, int b,
         const struct mdl_map *y),
        (x, s, n, b, y))

static void k_scale(const struct mdl_map *x, const struct mdl_map *s,
                    const struct mdl_map *y)
{
    EACH_BLOCK(x, n, b)
    {
        scale_block(x, s, n, b, y);
    }
}

static void k_upsample(const struct mdl_map *x, const struct mdl_map *y)
{
    EACH_BLOCK(y, n, b)
    {
        for (int i = 0; i < y->height; i++)
            for (int j = 0; j < y->width; j++) {
                int from = i * x->height / y->height * x->width +
                           j * x->width / y->width;

                put(y, n, b, i * y->width + j, get(x, n, b, from));
            }
    }
}

/* Of block b of y, the channels that x has from y's channel first on. */
static void concat_block(const struct mdl_map *x, int first, int n, int b,
                         const struct mdl_map *y)
{
    int from = b * LANES - first; /* x's channel in lane 0 */

    if (from <= -LANES || from >= x->channels)
        return;
    for (int i = 0; i < area(y); i++) {
        vec v = get(y, n, b, i);

        if (from % LANES == 0)
            v = get(x, n, from / LANES, i);
        else
            for (int k = from < 0 ? -from : 0;
                 k < LANES && from + k < x->channels; k++)
                v[k] = get(x, n, (from + k) / LANES, i)[(from + k) % LANES];
        put(y, n, b, i, v);
    }
}

static void k_concat(const struct mdl_map *x, int count,
                     const struct mdl_map *y)
{
    EACH_BLOCK(y, n, b)
    {
        int first = 0;

        for (int i = 0; i < area(y); i++)
            put(y, n, b, i, (vec){0});
        for (int k = 0; k < count; first += x[k++].channels)
            concat_block(&x[k], first, n, b, y);
    }
}

/* Over pairs of channels: 2 k and 2 k + 1. */
static void k_softmax(const struct mdl_map *x, const struct mdl_map *y)
{
    EACH_BLOCK(x, n, b)
    {
        for (int i = 0; i < area(x); i++) {
            vec v = get(x, n, b, i), p = {0};

            for (int k = 0; k < channels(x, b); k += 2) {
                p[k] = 1 / (1 + expf(v[k + 1] - v[k]));
                p[k + 1] = 1 / (1 + expf(v[k] - v[k + 1]));
            }
            put(y, n, b, i, p);
        }
    }
}

static void k_to_rows(const struct mdl_map *x, float *rows)
{
    int places = area(x);

    EACH_BLOCK(x, n, b)
    {
        float *to =
            rows + ((size_t)n * (size_t)x->channels + (size_t)b * LANES) *
                       (size_t)places;

        for (int i = 0; i < places; i++) {
            vec v = get(x, n, b, i);

            for (int k = 0; k < channels(x, b); k++)
                to[k * places + i] = v[k];
        }
    }
}

const struct mdl_kernels KERNELS = {
    .lanes = LANES,
    .act = k_act,
    .affine = k_affine,
    .pool = k_pool,
    .add = k_add,
    .scale = k_scale,
    .upsample = k_upsample,
    .concat = k_concat,
    .softmax = k_softmax,
    .to_rows = k_to_rows,
};
