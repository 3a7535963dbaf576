/* Training's own kernels; included once for each width by
 * train_kernels_LANES.c. */
#include "model/backends/cpu/rows_body.h"
#include "model/backends/cpu/train_kernels.h"

/* An image's sums in float, the batch's in double. */
INLINE void add_to(double sums[LANES], vec v)
{
    for (int k = 0; k < LANES; k++)
        sums[k] += (double)v[k];
}

/* ---- BatchNorm ---- */

INLINE void stats_rows(enum kind kind, const struct mdl_map *x, int b,
                       float *stats)
{
    const int places = area(x);
    double count = (double)places * x->batch;
    double sum[LANES] = {0}, squares[LANES] = {0};
    vec mean = {0};

    for (int n = 0; n < x->batch; n++) {
        struct rows in = rows_of(kind, x, n, b);
        vec part = {0};

        for (int i = 0; i < places; i++)
            part += load(kind, in, i);
        add_to(sum, part);
    }
    for (int k = 0; k < LANES; k++)
        mean[k] = (float)(sum[k] / count);
    for (int n = 0; n < x->batch; n++) {
        struct rows in = rows_of(kind, x, n, b);
        vec part = {0};

        for (int i = 0; i < places; i++) {
            vec d = load(kind, in, i) - mean;

            part += d * d;
        }
        add_to(squares, part);
    }
    for (int k = 0; k < channels(x, b); k++) {
        stats[b * LANES + k] = mean[k];
        stats[x->channels + b * LANES + k] = (float)(squares[k] / count);
    }
}

INLINE void stats_of_block(const struct mdl_map *x, int b, float *stats)
{
    EACH_KIND(stats_rows, x, x, b, stats);
}
PER_ISA(static, stats_block, stats_of_block,
        (const struct mdl_map *x, int b, float *stats), (x, b, stats))

static void t_bn_stats(const struct mdl_map *x, float *stats)
{
    EACH_CHANNEL_BLOCK(x, b)
    {
        stats_block(x, b, stats);
    }
}

/* 1 / sqrt(var + eps), zero past the channels. */
INLINE vec inverse(const struct mdl_map *x, int b, const float *stats,
                   float eps)
{
    vec var = param(x, b, stats + x->channels, 0), v = {0};

    for (int i = 0; i < LANES; i++)
        v[i] = i < channels(x, b) ? 1 / sqrtf(var[i] + eps) : 0;
    return v;
}

INLINE void train_of_block(const struct mdl_map *x, const float *gamma,
                           const float *beta, const float *stats, float eps,
                           int n, int b, const struct mdl_map *y)
{
    vec k = inverse(x, b, stats, eps) * param(x, b, gamma, 1);
    vec t = param(x, b, beta, 0) - param(x, b, stats, 0) * k;

    EACH_KIND(affine_rows, x, x, k, t, n, b, y);
}
PER_ISA(static, train_block, train_of_block,
        (const struct mdl_map *x, const float *gamma, const float *beta,
         const float *stats, float eps, int n, int b, const struct mdl_map *y),
        (x, gamma, beta, stats, eps, n, b, y))

static void t_bn_train(const struct mdl_map *x, const float *gamma,
                       const float *beta, const float *stats, float eps,
                       const struct mdl_map *y)
{
    EACH_BLOCK(x, n, b)
    {
        train_block(x, gamma, beta, stats, eps, n, b, y);
    }
}

INLINE void dparam_rows(enum kind kind, const struct mdl_map *x, int b,
                        const float *stats, float eps, const struct mdl_map *dy,
                        float *out)
{
    vec mean = param(x, b, stats, 0), k = inverse(x, b, stats, eps);
    double dgamma[LANES] = {0}, dbeta[LANES] = {0};
    const int places = area(x);

    for (int n = 0; n < x->batch; n++) {
        struct rows in = rows_of(kind, x, n, b), back = rows_of(kind, dy, n, b);
        vec g = {0}, s = {0};

        for (int i = 0; i < places; i++) {
            vec d = load(kind, back, i);

            s += d;
            g += d * (load(kind, in, i) - mean);
        }
        add_to(dgamma, g * k);
        add_to(dbeta, s);
    }
    for (int j = 0; j < channels(x, b); j++) {
        out[b * LANES + j] = (float)dgamma[j];
        out[x->channels + b * LANES + j] = (float)dbeta[j];
    }
}

INLINE void dparam_of_block(const struct mdl_map *x, int b, const float *stats,
                            float eps, const struct mdl_map *dy, float *out)
{
    EACH_KIND(dparam_rows, x, x, b, stats, eps, dy, out);
}
PER_ISA(static, dparam_block, dparam_of_block,
        (const struct mdl_map *x, int b, const float *stats, float eps,
         const struct mdl_map *dy, float *out),
        (x, b, stats, eps, dy, out))

static void t_bn_dparam(const struct mdl_map *x, const float *stats, float eps,
                        const struct mdl_map *dy, float *dparam)
{
    EACH_CHANNEL_BLOCK(x, b)
    {
        dparam_block(x, b, stats, eps, dy, dparam);
    }
}

/* dx = k dy + l x + t */
INLINE void dx_rows(enum kind kind, const struct mdl_map *x,
                    const struct mdl_map *dy, int n, int b, vec k, vec l, vec t,
                    const struct mdl_map *dx)
{
    struct rows in = rows_of(kind, x, n, b), back = rows_of(kind, dy, n, b);
    struct rows out = rows_of(kind, dx, n, b);
    const int places = area(x);

    for (int i = 0; i < places; i++)
        store(kind, out, i,
              k * load(kind, back, i) + l * load(kind, in, i) + t);
}

INLINE void dx_of_block(const struct mdl_map *x, const float *gamma,
                        const float *stats, const float *dparam, float eps,
                        const struct mdl_map *dy, int n, int b,
                        const struct mdl_map *dx)
{
    float share = 1 / ((float)area(x) * (float)x->batch);
    vec inv = inverse(x, b, stats, eps), k = param(x, b, gamma, 1) * inv;
    vec l = -k * inv * param(x, b, dparam, 0) * share;
    vec t = -k * param(x, b, dparam + x->channels, 0) * share -
            l * param(x, b, stats, 0);

    EACH_KIND(dx_rows, x, x, dy, n, b, k, l, t, dx);
}
PER_ISA(static, dx_block, dx_of_block,
        (const struct mdl_map *x, const float *gamma, const float *stats,
         const float *dparam, float eps, const struct mdl_map *dy, int n, int b,
         const struct mdl_map *dx),
        (x, gamma, stats, dparam, eps, dy, n, b, dx))

static void t_bn_dx(const struct mdl_map *x, const float *gamma,
                    const float *stats, const float *dparam, float eps,
                    const struct mdl_map *dy, const struct mdl_map *dx)
{
    EACH_BLOCK(x, n, b)
    {
        dx_block(x, gamma, stats, dparam, eps, dy, n, b, dx);
    }
}

/* ---- activations ---- */

INLINE void act_dx_rows(enum mdl_act act, enum kind kind, vec slope,
                        const struct mdl_map *x, const struct mdl_map *dy,
                        int n, int b, const struct mdl_map *dx)
{
    struct rows in = rows_of(kind, x, n, b), back = rows_of(kind, dy, n, b);
    struct rows out = rows_of(kind, dx, n, b);
    const int places = area(x);

    for (int i = 0; i < places; i++)
        store(kind, out, i,
              activated(act, slope, load(kind, in, i), load(kind, back, i),
                        true));
}

INLINE void act_dx_kind(enum kind kind, enum mdl_act act, vec slope,
                        const struct mdl_map *x, const struct mdl_map *dy,
                        int n, int b, const struct mdl_map *dx)
{
    EACH_ACT(act_dx_rows, act, kind, slope, x, dy, n, b, dx);
}

INLINE void act_dx_of_block(enum mdl_act act, float alpha, const float *slope,
                            const struct mdl_map *x, const struct mdl_map *dy,
                            int n, int b, const struct mdl_map *dx)
{
    EACH_KIND(act_dx_kind, x, act, param(x, b, slope, alpha), x, dy, n, b, dx);
}
PER_ISA(static, act_dx_block, act_dx_of_block,
        (enum mdl_act act, float alpha, const float *slope,
         const struct mdl_map *x, const struct mdl_map *dy, int n, int b,
         const struct mdl_map *dx),
        (act, alpha, slope, x, dy, n, b, dx))

static void t_act_dx(enum mdl_act act, float alpha, const float *slope,
                     const struct mdl_map *x, const struct mdl_map *dy,
                     const struct mdl_map *dx)
{
    EACH_BLOCK(x, n, b)
    {
        act_dx_block(act, alpha, slope, x, dy, n, b, dx);
    }
}

/* Sums over batch and places of dy, or where negative of dy times x where
 * that is. */
INLINE void reduce_rows(enum kind kind, const struct mdl_map *x,
                        const struct mdl_map *dy, bool negative, int b,
                        float *out)
{
    const int places = area(dy);
    double sums[LANES] = {0};
    const vec zero = {0};

    for (int n = 0; n < dy->batch; n++) {
        struct rows in = rows_of(kind, x, n, b), back = rows_of(kind, dy, n, b);
        vec part = {0};

        for (int i = 0; i < places; i++) {
            vec d = load(kind, back, i), v = load(kind, in, i);

            part += negative ? d * choose(v < zero, v, zero) : d;
        }
        add_to(sums, part);
    }
    for (int k = 0; k < channels(dy, b); k++)
        out[b * LANES + k] = (float)sums[k];
}

INLINE void dslope_of_block(const struct mdl_map *x, const struct mdl_map *dy,
                            int b, float *out)
{
    EACH_KIND(reduce_rows, x, x, dy, true, b, out);
}
PER_ISA(static, dslope_block, dslope_of_block,
        (const struct mdl_map *x, const struct mdl_map *dy, int b, float *out),
        (x, dy, b, out))

static void t_act_dslope(const struct mdl_map *x, const struct mdl_map *dy,
                         float *dslope)
{
    EACH_CHANNEL_BLOCK(x, b)
    {
        dslope_block(x, dy, b, dslope);
    }
}

INLINE void sum_of_block(const struct mdl_map *x, int b, float *out)
{
    EACH_KIND(reduce_rows, x, x, x, false, b, out);
}
PER_ISA(static, sum_block, sum_of_block,
        (const struct mdl_map *x, int b, float *out), (x, b, out))

static void t_sum(const struct mdl_map *x, float *sums)
{
    EACH_CHANNEL_BLOCK(x, b)
    {
        sum_block(x, b, sums);
    }
}

/* ---- the rest ---- */

static void t_pool_dx(const struct mdl_map *dy, const struct mdl_map *dx)
{
    EACH_BLOCK(dx, n, b)
    {
        vec v = get(dy, n, b, 0) / (float)area(dx);

        for (int i = 0; i < area(dx); i++)
            put(dx, n, b, i, v);
    }
}

static void ds_by_channel(const struct mdl_map *x, const struct mdl_map *dy,
                          const struct mdl_map *ds)
{
    EACH_BLOCK(x, n, b)
    {
        vec sum = {0};

        for (int i = 0; i < area(x); i++)
            sum += get(x, n, b, i) * get(dy, n, b, i);
        put(ds, n, b, 0, sum);
    }
}

static void ds_by_place(const struct mdl_map *x, const struct mdl_map *dy,
                        const struct mdl_map *ds)
{
#pragma omp parallel for schedule(static)
    for (int n = 0; n < x->batch; n++)
        for (int i = 0; i < area(x); i++) {
            vec v = {0}, sum = {0};

            for (int b = 0; b < blocks(x); b++)
                v += get(x, n, b, i) * get(dy, n, b, i);
            for (int k = 0; k < LANES; k++)
                sum[0] += v[k];
            put(ds, n, 0, i, sum);
        }
}

static void t_scale_ds(const struct mdl_map *x, const struct mdl_map *dy,
                       const struct mdl_map *ds)
{
    if (ds->vector)
        ds_by_channel(x, dy, ds);
    else
        ds_by_place(x, dy, ds);
}

static void t_l2norm_dx(const struct mdl_map *x, const struct mdl_map *dy,
                        const struct mdl_map *dx)
{
    for (int n = 0; n < x->batch; n++) {
        const float *in = (const float *)x->data + n * x->channels;
        const float *d = (const float *)dy->data + n * x->channels;
        float *out = (float *)dx->data + n * x->channels;
        double squares = 0, along = 0, norm;

        for (int c = 0; c < x->channels; c++) {
            squares += (double)in[c] * in[c];
            along += (double)in[c] * d[c];
        }
        norm = fmax(sqrt(squares), 1e-12);
        for (int c = 0; c < x->channels; c++)
            out[c] = (float)((d[c] - in[c] / norm * along / norm) / norm);
    }
}

static void t_upsample_dx(const struct mdl_map *dy, const struct mdl_map *dx)
{
    EACH_BLOCK(dy, n, b)
    {
        for (int i = 0; i < area(dx); i++)
            put(dx, n, b, i, (vec){0});
        for (int i = 0; i < dy->height; i++)
            for (int j = 0; j < dy->width; j++) {
                int to = i * dx->height / dy->height * dx->width +
                         j * dx->width / dy->width;

                put(dx, n, b, to,
                    get(dx, n, b, to) + get(dy, n, b, i * dy->width + j));
            }
    }
}

static void t_slice(const struct mdl_map *x, int first, const struct mdl_map *y)
{
    EACH_BLOCK(y, n, b)
    {
        for (int i = 0; i < area(y); i++) {
            vec v = {0};

            for (int k = 0; k < channels(y, b); k++) {
                int c = first + b * LANES + k;

                v[k] = get(x, n, c / LANES, i)[c % LANES];
            }
            put(y, n, b, i, v);
        }
    }
}

static void t_softmax_dx(const struct mdl_map *y, const struct mdl_map *dy,
                         const struct mdl_map *dx)
{
    EACH_BLOCK(y, n, b)
    {
        for (int i = 0; i < area(y); i++) {
            vec p = get(y, n, b, i), d = get(dy, n, b, i), v = {0};

            for (int k = 0; k < LANES; k += 2) {
                v[k] = p[k] * p[k + 1] * (d[k] - d[k + 1]);
                v[k + 1] = -v[k];
            }
            put(dx, n, b, i, v);
        }
    }
}

static void t_from_rows(const float *rows, const struct mdl_map *x)
{
    int places = area(x);

    EACH_BLOCK(x, n, b)
    {
        const float *from =
            rows + ((size_t)n * (size_t)x->channels + (size_t)b * LANES) *
                       (size_t)places;

        for (int i = 0; i < places; i++) {
            vec v = {0};

            for (int k = 0; k < channels(x, b); k++)
                v[k] = from[k * places + i];
            put(x, n, b, i, v);
        }
    }
}

const struct mdl_train_kernels KERNELS = {
    .bn_stats = t_bn_stats,
    .bn_train = t_bn_train,
    .bn_dparam = t_bn_dparam,
    .bn_dx = t_bn_dx,
    .act_dx = t_act_dx,
    .act_dslope = t_act_dslope,
    .sum = t_sum,
    .pool_dx = t_pool_dx,
    .scale_ds = t_scale_ds,
    .l2norm_dx = t_l2norm_dx,
    .upsample_dx = t_upsample_dx,
    .slice = t_slice,
    .softmax_dx = t_softmax_dx,
    .from_rows = t_from_rows,
};
