/* Training's own kernels. A block is 16 channels of one image: area rows of 16
 * floats that lie together; of a vector it is one row, which may be shorter at
 * the end. */
#include "model/backends/cpu/train_kernels.h"

#include <math.h>
#include <string.h>

#include "model/backends/cpu/twice.h"

static inline int area(const struct mdl_map *m)
{
    return m->vector ? 1 : m->height * m->width;
}

static inline float *block(const struct mdl_map *m, int n, int b)
{
    float *data = m->data;

    return m->vector
               ? data + (size_t)n * (size_t)m->channels + b * LANES
               : data + ((size_t)n * (size_t)mdl_map_blocks(m) + (size_t)b) *
                            (size_t)area(m) * LANES;
}

/* Channels of block b; lanes past them are padding, zero in maps. */
static inline int channels(const struct mdl_map *m, int b)
{
    int left = m->channels - b * LANES;

    return left < LANES ? left : LANES;
}

/* A block's row as 16 lanes, zero past the channels. */
INLINE void get(const struct mdl_map *m, int b, const float *p, float v[LANES])
{
    if (m->vector) {
        memset(v, 0, LANES * sizeof(*v));
        memcpy(v, p, (size_t)channels(m, b) * sizeof(*v));
    } else {
        memcpy(v, p, LANES * sizeof(*v));
    }
}

INLINE void put(const struct mdl_map *m, int b, float *p, const float v[LANES])
{
    memcpy(p, v, (size_t)(m->vector ? channels(m, b) : LANES) * sizeof(*v));
}

/* 16 values of a parameter, zero past the channels or if it is absent. */
INLINE void param(const struct mdl_map *m, int b, const float *from,
                  float otherwise, float v[LANES])
{
    for (int k = 0; k < LANES; k++)
        v[k] = k >= channels(m, b) ? 0 : from ? from[b * LANES + k] : otherwise;
}

#define EACH_BLOCK(m, n, b)                                                    \
    _Pragma("omp parallel for collapse(2) schedule(static)") for (             \
        int n = 0; n < (m)->batch; n++) for (int b = 0; b < mdl_map_blocks(m); \
                                             b++)

/* ---- BatchNorm ---- */

/* sums[k] += f over one block's rows: sum of x - mean, or of its squares. */
INLINE void moments(const struct mdl_map *x, int n, int b,
                    const float mean[LANES], bool squares, double sums[LANES])
{
    const float *p = block(x, n, b);
    float part[LANES] = {0}, v[LANES];

    for (int i = 0; i < area(x); i++, p += LANES) {
        get(x, b, p, v);
        for (int k = 0; k < LANES; k++) {
            float d = v[k] - mean[k];

            part[k] += squares ? d * d : d;
        }
    }
    for (int k = 0; k < LANES; k++)
        sums[k] += part[k];
}

INLINE void stats_of_block(const struct mdl_map *x, int b, float *stats)
{
    double count = (double)area(x) * x->batch;
    float mean[LANES] = {0};
    double sum[LANES] = {0}, squares[LANES] = {0};

    for (int n = 0; n < x->batch; n++)
        moments(x, n, b, mean, false, sum);
    for (int k = 0; k < LANES; k++)
        mean[k] = (float)(sum[k] / count);
    for (int n = 0; n < x->batch; n++)
        moments(x, n, b, mean, true, squares);
    for (int k = 0; k < channels(x, b); k++) {
        stats[b * LANES + k] = mean[k];
        stats[x->channels + b * LANES + k] = (float)(squares[k] / count);
    }
}
TWICE(static, stats_block, stats_of_block,
      (const struct mdl_map *x, int b, float *stats), (x, b, stats))

void mdl_t_bn_stats(const struct mdl_map *x, float *stats)
{
#pragma omp parallel for schedule(static)
    for (int b = 0; b < mdl_map_blocks(x); b++)
        stats_block(x, b, stats);
}

/* 1 / sqrt(var + eps), zero past the channels. */
INLINE void inverse(const struct mdl_map *x, int b, const float *stats,
                    float eps, float k[LANES])
{
    float var[LANES];

    param(x, b, stats + x->channels, 0, var);
    for (int i = 0; i < LANES; i++)
        k[i] = i < channels(x, b) ? 1 / sqrtf(var[i] + eps) : 0;
}

/* y = x k + t */
INLINE void affine_of_block(const struct mdl_map *x, int n, int b,
                            const float k[LANES], const float t[LANES],
                            const struct mdl_map *y)
{
    const float *in = block(x, n, b);
    float *out = block(y, n, b), v[LANES];

    for (int i = 0; i < area(x); i++, in += LANES, out += LANES) {
        get(x, b, in, v);
        for (int j = 0; j < LANES; j++)
            v[j] = v[j] * k[j] + t[j];
        put(y, b, out, v);
    }
}
TWICE(static, affine_block, affine_of_block,
      (const struct mdl_map *x, int n, int b, const float k[LANES],
       const float t[LANES], const struct mdl_map *y),
      (x, n, b, k, t, y))

void mdl_t_bn_train(const struct mdl_map *x, const float *gamma,
                    const float *beta, const float *stats, float eps,
                    const struct mdl_map *y)
{
    EACH_BLOCK(x, n, b)
    {
        float k[LANES], t[LANES], mean[LANES], g[LANES];

        inverse(x, b, stats, eps, k);
        param(x, b, gamma, 1, g);
        param(x, b, beta, 0, t);
        param(x, b, stats, 0, mean);
        for (int i = 0; i < LANES; i++) {
            k[i] *= g[i];
            t[i] -= mean[i] * k[i];
        }
        affine_block(x, n, b, k, t, y);
    }
}

/* a += dy, c += dy (x - mean), or with a mean of NULL: dy where x <= 0, times
 * x. */
INLINE void dparam_of_block(const struct mdl_map *x, int b, const float *stats,
                            float eps, const struct mdl_map *dy, float *out)
{
    double dgamma[LANES] = {0}, dbeta[LANES] = {0};
    float mean[LANES], k[LANES];

    param(x, b, stats, 0, mean);
    inverse(x, b, stats, eps, k);
    for (int n = 0; n < x->batch; n++) {
        const float *px = block(x, n, b), *pd = block(dy, n, b);
        float g[LANES] = {0}, s[LANES] = {0}, v[LANES], d[LANES];

        for (int i = 0; i < area(x); i++, px += LANES, pd += LANES) {
            get(x, b, px, v);
            get(dy, b, pd, d);
            for (int j = 0; j < LANES; j++) {
                s[j] += d[j];
                g[j] += d[j] * (v[j] - mean[j]);
            }
        }
        for (int j = 0; j < LANES; j++) {
            dgamma[j] += (double)g[j] * k[j];
            dbeta[j] += s[j];
        }
    }
    for (int j = 0; j < channels(x, b); j++) {
        out[b * LANES + j] = (float)dgamma[j];
        out[x->channels + b * LANES + j] = (float)dbeta[j];
    }
}
TWICE(static, dparam_block, dparam_of_block,
      (const struct mdl_map *x, int b, const float *stats, float eps,
       const struct mdl_map *dy, float *out),
      (x, b, stats, eps, dy, out))

void mdl_t_bn_dparam(const struct mdl_map *x, const float *stats, float eps,
                     const struct mdl_map *dy, float *dparam)
{
#pragma omp parallel for schedule(static)
    for (int b = 0; b < mdl_map_blocks(x); b++)
        dparam_block(x, b, stats, eps, dy, dparam);
}

/* dx = k dy + l x + t */
INLINE void two_of_block(const struct mdl_map *x, const struct mdl_map *dy,
                         int n, int b, const float k[LANES],
                         const float l[LANES], const float t[LANES],
                         const struct mdl_map *dx)
{
    const float *px = block(x, n, b), *pd = block(dy, n, b);
    float *out = block(dx, n, b), v[LANES], d[LANES];

    for (int i = 0; i < area(x); i++) {
        get(x, b, px + i * LANES, v);
        get(dy, b, pd + i * LANES, d);
        for (int j = 0; j < LANES; j++)
            v[j] = k[j] * d[j] + l[j] * v[j] + t[j];
        put(dx, b, out + i * LANES, v);
    }
}
TWICE(static, two_block, two_of_block,
      (const struct mdl_map *x, const struct mdl_map *dy, int n, int b,
       const float k[LANES], const float l[LANES], const float t[LANES],
       const struct mdl_map *dx),
      (x, dy, n, b, k, l, t, dx))

void mdl_t_bn_dx(const struct mdl_map *x, const float *gamma,
                 const float *stats, const float *dparam, float eps,
                 const struct mdl_map *dy, const struct mdl_map *dx)
{
    float count = (float)area(x) * (float)x->batch;

    EACH_BLOCK(x, n, b)
    {
        float k[LANES], l[LANES], t[LANES], g[LANES], inv[LANES];
        float mean[LANES], dgamma[LANES], dbeta[LANES];

        inverse(x, b, stats, eps, inv);
        param(x, b, gamma, 1, g);
        param(x, b, stats, 0, mean);
        param(x, b, dparam, 0, dgamma);
        param(x, b, dparam + x->channels, 0, dbeta);
        for (int i = 0; i < LANES; i++) {
            k[i] = g[i] * inv[i];
            l[i] = -k[i] * inv[i] * dgamma[i] / count;
            t[i] = -k[i] * dbeta[i] / count - l[i] * mean[i];
        }
        two_block(x, dy, n, b, k, l, t, dx);
    }
}

/* ---- activations ---- */

INLINE float activate(enum mdl_act act, float alpha, float slope, float x)
{
    switch (act) {
    case MDL_ACT_NONE:
        return x;
    case MDL_ACT_RELU: /* products, not choices: those become vectors */
        return x * (float)(x > 0);
    case MDL_ACT_RELU6:
        return x * (float)((x > 0) & (x < 6)) + 6 * (float)(x >= 6);
    case MDL_ACT_LEAKY:
        return x > 0 ? x : alpha * x;
    case MDL_ACT_PRELU:
        return x * ((float)(x > 0) + slope * (float)(x <= 0));
    case MDL_ACT_SIGMOID:
        return 1 / (1 + expf(-x));
    }
    return x;
}

INLINE float derivative(enum mdl_act act, float alpha, float slope, float x)
{
    float s;

    switch (act) {
    case MDL_ACT_NONE:
        return 1;
    case MDL_ACT_RELU:
        return (float)(x > 0);
    case MDL_ACT_RELU6:
        return (float)((x > 0) & (x < 6));
    case MDL_ACT_LEAKY:
        return x > 0 ? 1 : alpha;
    case MDL_ACT_PRELU:
        return (float)(x > 0) + slope * (float)(x <= 0);
    case MDL_ACT_SIGMOID:
        s = 1 / (1 + expf(-x));
        return s * (1 - s);
    }
    return 1;
}

/* y = act(x), or with dy: y = dy act'(x). Padding stays zero. */
INLINE void act_rows(enum mdl_act act, float alpha, const float slopes[LANES],
                     const struct mdl_map *x, const struct mdl_map *dy, int n,
                     int b, const struct mdl_map *y)
{
    const float *px = block(x, n, b), *pd = dy ? block(dy, n, b) : NULL;
    float *out = block(y, n, b), v[LANES], d[LANES];

    for (int i = 0; i < area(x); i++) {
        get(x, b, px + i * LANES, v);
        if (dy) {
            get(dy, b, pd + i * LANES, d);
            for (int k = 0; k < LANES; k++)
                v[k] = d[k] * derivative(act, alpha, slopes[k], v[k]);
        } else {
            for (int k = 0; k < LANES; k++)
                v[k] = activate(act, alpha, slopes[k], v[k]);
            for (int k = channels(x, b); act == MDL_ACT_SIGMOID && k < LANES;
                 k++)
                v[k] = 0;
        }
        put(y, b, out + i * LANES, v);
    }
}

#define ACT_ROWS(known) act_rows(known, 0, slopes, x, dy, n, b, y)

/* Each activation with its constants known to the compiler. */
INLINE void act_of_block(enum mdl_act act, float alpha,
                         const float slopes[LANES], const struct mdl_map *x,
                         const struct mdl_map *dy, int n, int b,
                         const struct mdl_map *y)
{
    switch (act) {
    case MDL_ACT_RELU:
        ACT_ROWS(MDL_ACT_RELU);
        return;
    case MDL_ACT_RELU6:
        ACT_ROWS(MDL_ACT_RELU6);
        return;
    case MDL_ACT_PRELU:
        ACT_ROWS(MDL_ACT_PRELU);
        return;
    default:
        act_rows(act, alpha, slopes, x, dy, n, b, y);
    }
}
TWICE(static, act_block, act_of_block,
      (enum mdl_act act, float alpha, const float slopes[LANES],
       const struct mdl_map *x, const struct mdl_map *dy, int n, int b,
       const struct mdl_map *y),
      (act, alpha, slopes, x, dy, n, b, y))

void mdl_t_act(enum mdl_act act, float alpha, const float *slope,
               const struct mdl_map *x, const struct mdl_map *y)
{
    EACH_BLOCK(x, n, b)
    {
        float slopes[LANES];

        param(x, b, slope, 0, slopes);
        act_block(act, alpha, slopes, x, NULL, n, b, y);
    }
}

void mdl_t_act_dx(enum mdl_act act, float alpha, const float *slope,
                  const struct mdl_map *x, const struct mdl_map *dy,
                  const struct mdl_map *dx)
{
    EACH_BLOCK(x, n, b)
    {
        float slopes[LANES];

        param(x, b, slope, 0, slopes);
        act_block(act, alpha, slopes, x, dy, n, b, dx);
    }
}

/* Sums over batch and places of dy times x where that is negative, or of dy
 * alone (x NULL). */
INLINE void reduce_of_block(const struct mdl_map *x, const struct mdl_map *dy,
                            int b, float *out)
{
    double sums[LANES] = {0};

    for (int n = 0; n < dy->batch; n++) {
        const float *px = x ? block(x, n, b) : NULL;
        const float *pd = block(dy, n, b);
        float part[LANES] = {0}, v[LANES], d[LANES];

        for (int i = 0; i < area(dy); i++) {
            get(dy, b, pd + i * LANES, d);
            if (x)
                get(x, b, px + i * LANES, v);
            for (int k = 0; k < LANES; k++)
                part[k] += x ? d[k] * (v[k] < 0 ? v[k] : 0) : d[k];
        }
        for (int k = 0; k < LANES; k++)
            sums[k] += part[k];
    }
    for (int k = 0; k < channels(dy, b); k++)
        out[b * LANES + k] = (float)sums[k];
}

TWICE(static, reduce_block, reduce_of_block,
      (const struct mdl_map *x, const struct mdl_map *dy, int b, float *out),
      (x, dy, b, out))

void mdl_t_act_dslope(const struct mdl_map *x, const struct mdl_map *dy,
                      float *dslope)
{
#pragma omp parallel for schedule(static)
    for (int b = 0; b < mdl_map_blocks(x); b++)
        reduce_block(x, dy, b, dslope);
}

void mdl_t_sum(const struct mdl_map *x, float *sums)
{
#pragma omp parallel for schedule(static)
    for (int b = 0; b < mdl_map_blocks(x); b++)
        reduce_block(NULL, x, b, sums);
}

/* ---- the rest ---- */

INLINE void add_of_block(const struct mdl_map *x, int count,
                         const struct mdl_map *y, int n, int b)
{
    float *out = block(y, n, b);

    for (int i = 0; i < area(y); i++) {
        float sum[LANES] = {0}, v[LANES];

        for (int k = 0; k < count; k++) {
            get(&x[k], b, block(&x[k], n, b) + i * LANES, v);
            for (int j = 0; j < LANES; j++)
                sum[j] += v[j];
        }
        put(y, b, out + i * LANES, sum);
    }
}
TWICE(static, add_block, add_of_block,
      (const struct mdl_map *x, int count, const struct mdl_map *y, int n,
       int b),
      (x, count, y, n, b))

void mdl_t_add(const struct mdl_map *x, int count, const struct mdl_map *y)
{
    EACH_BLOCK(y, n, b)
    {
        add_block(x, count, y, n, b);
    }
}

void mdl_t_pool_dx(const struct mdl_map *dy, const struct mdl_map *dx)
{
    float share = 1 / (float)area(dx);

    EACH_BLOCK(dx, n, b)
    {
        float *out = block(dx, n, b), v[LANES];

        get(dy, b, block(dy, n, b), v);
        for (int k = 0; k < LANES; k++)
            v[k] *= share;
        for (int i = 0; i < area(dx); i++)
            memcpy(out + i * LANES, v, sizeof(v));
    }
}

static void ds_by_channel(const struct mdl_map *x, const struct mdl_map *dy,
                          const struct mdl_map *ds)
{
    EACH_BLOCK(x, n, b)
    {
        const float *px = block(x, n, b), *pd = block(dy, n, b);
        float sum[LANES] = {0};

        for (int i = 0; i < area(x) * LANES; i += LANES)
            for (int k = 0; k < LANES; k++)
                sum[k] += px[i + k] * pd[i + k];
        put(ds, b, block(ds, n, b), sum);
    }
}

static void ds_by_place(const struct mdl_map *x, const struct mdl_map *dy,
                        const struct mdl_map *ds)
{
#pragma omp parallel for schedule(static)
    for (int n = 0; n < x->batch; n++)
        for (int i = 0; i < area(x); i++) {
            float v[LANES] = {0};

            for (int b = 0; b < mdl_map_blocks(x); b++) {
                const float *px = block(x, n, b) + i * LANES;
                const float *pd = block(dy, n, b) + i * LANES;

                for (int k = 0; k < LANES; k++)
                    v[0] += px[k] * pd[k];
            }
            memcpy(block(ds, n, 0) + i * LANES, v, sizeof(v));
        }
}

void mdl_t_scale_ds(const struct mdl_map *x, const struct mdl_map *dy,
                    const struct mdl_map *ds)
{
    if (ds->vector)
        ds_by_channel(x, dy, ds);
    else
        ds_by_place(x, dy, ds);
}

void mdl_t_l2norm_dx(const struct mdl_map *x, const struct mdl_map *dy,
                     const struct mdl_map *dx)
{
    for (int n = 0; n < x->batch; n++) {
        const float *in = block(x, n, 0), *d = block(dy, n, 0);
        float *out = block(dx, n, 0);
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

void mdl_t_upsample_dx(const struct mdl_map *dy, const struct mdl_map *dx)
{
    EACH_BLOCK(dy, n, b)
    {
        const float *d = block(dy, n, b);
        float *out = block(dx, n, b);

        memset(out, 0, (size_t)area(dx) * LANES * sizeof(*out));
        for (int i = 0; i < dy->height; i++)
            for (int j = 0; j < dy->width; j++, d += LANES) {
                float *to = out + (i * dx->height / dy->height * dx->width +
                                   j * dx->width / dy->width) *
                                      LANES;

                for (int k = 0; k < LANES; k++)
                    to[k] += d[k];
            }
    }
}

void mdl_t_slice(const struct mdl_map *x, int first, const struct mdl_map *y)
{
    EACH_BLOCK(y, n, b)
    {
        float *out = block(y, n, b);

        memset(out, 0, (size_t)area(y) * LANES * sizeof(*out));
        for (int k = 0; k < channels(y, b); k++) {
            int c = first + b * LANES + k;
            const float *from = block(x, n, c / LANES) + c % LANES;

            for (int i = 0; i < area(y); i++)
                out[i * LANES + k] = from[i * LANES];
        }
    }
}

void mdl_t_softmax_dx(const struct mdl_map *y, const struct mdl_map *dy,
                      const struct mdl_map *dx)
{
    EACH_BLOCK(y, n, b)
    {
        const float *p = block(y, n, b), *d = block(dy, n, b);
        float *out = block(dx, n, b);

        for (int i = 0; i < area(y) * LANES; i += 2) {
            float v = p[i] * p[i + 1] * (d[i] - d[i + 1]);

            out[i] = v;
            out[i + 1] = -v;
        }
    }
}

void mdl_t_to_rows(const struct mdl_map *x, float *rows)
{
    int places = area(x);

    EACH_BLOCK(x, n, b)
    {
        const float *p = block(x, n, b);
        float *to =
            rows + ((size_t)n * (size_t)x->channels + (size_t)b * LANES) *
                       (size_t)places;

        for (int k = 0; k < channels(x, b); k++)
            for (int i = 0; i < places; i++)
                to[k * places + i] = p[i * LANES + k];
    }
}

void mdl_t_from_rows(const float *rows, const struct mdl_map *x)
{
    int places = area(x);

    EACH_BLOCK(x, n, b)
    {
        float *p = block(x, n, b);
        const float *from =
            rows + ((size_t)n * (size_t)x->channels + (size_t)b * LANES) *
                       (size_t)places;

        if (!x->vector)
            memset(p, 0, (size_t)places * LANES * sizeof(*p));
        for (int k = 0; k < channels(x, b); k++)
            for (int i = 0; i < places; i++)
                p[i * LANES + k] = from[k * places + i];
    }
}
