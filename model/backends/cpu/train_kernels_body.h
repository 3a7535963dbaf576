/* Training's own kernels, over maps in blocks of LANES channels; included once
 * for each width by train_kernels_LANES.c. A block is LANES channels of one
 * image: area rows of so many floats that lie together; of a vector it is one
 * row, which may be shorter at the end. */
#include <math.h>
#include <string.h>

#include "model/backends/cpu/per_isa.h"
#include "model/backends/cpu/train_kernels.h"

static inline int blocks(const struct mdl_map *m)
{
    return (m->channels + LANES - 1) / LANES;
}

/* Vectors of the compiler's own: LANES of them whatever the processor has. */
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));

/* How a map's rows lie. Kernels are compiled for each. */
enum kind { ROWS_F32, ROWS_BF16, ROWS_VECTOR };

#define EACH_KIND(body, m, ...)                                                \
    do {                                                                       \
        if ((m)->vector)                                                       \
            body(ROWS_VECTOR, __VA_ARGS__);                                    \
        else if ((m)->bf16)                                                    \
            body(ROWS_BF16, __VA_ARGS__);                                      \
        else                                                                   \
            body(ROWS_F32, __VA_ARGS__);                                       \
    } while (0)

static inline int area(const struct mdl_map *m)
{
    return m->vector ? 1 : m->height * m->width;
}

/* Channels of block b; lanes past them are padding, zero in maps. */
static inline int channels(const struct mdl_map *m, int b)
{
    int left = m->channels - b * LANES;

    return left < LANES ? left : LANES;
}

/* The rows of image n's block b: where they begin, how many channels the last
 * has. By value, so that a store through it changes nothing in a loop. */
struct rows {
    char *at;
    int lanes;
};

INLINE struct rows rows_of(enum kind kind, const struct mdl_map *m, int n,
                           int b)
{
    size_t size = kind == ROWS_BF16 ? sizeof(uint16_t) : sizeof(float);
    size_t at = kind == ROWS_VECTOR
                    ? (size_t)n * (size_t)m->channels + (size_t)b * LANES
                    : ((size_t)n * (size_t)blocks(m) + (size_t)b) *
                          (size_t)area(m) * LANES;

    return (struct rows){(char *)m->data + at * size, channels(m, b)};
}

/* Row i as a vector, zero past the channels. */
INLINE vec load(enum kind kind, struct rows r, int i)
{
    const char *at = r.at + (size_t)i * LANES * (kind == ROWS_BF16 ? 2 : 4);
    vec v = {0};
    uvec w;
    hvec h;

    if (kind == ROWS_F32) {
        memcpy(&v, at, sizeof(v));
    } else if (kind == ROWS_BF16) {
        memcpy(&h, at, sizeof(h));
        w = __builtin_convertvector(h, uvec) << 16;
        memcpy(&v, &w, sizeof(v));
    } else {
        for (int k = 0; k < r.lanes; k++)
            v[k] = ((const float *)(const void *)at)[k];
    }
    return v;
}

INLINE void store(enum kind kind, struct rows r, int i, vec v)
{
    char *at = r.at + (size_t)i * LANES * (kind == ROWS_BF16 ? 2 : 4);
    uvec w;
    hvec h;

    if (kind == ROWS_F32) {
        memcpy(at, &v, sizeof(v));
    } else if (kind == ROWS_BF16) { /* to the nearest, ties to even */
        memcpy(&w, &v, sizeof(w));
        w += 0x7fff + (w >> 16 & 1);
        h = __builtin_convertvector(w >> 16, hvec);
        memcpy(at, &h, sizeof(h));
    } else {
        for (int k = 0; k < r.lanes; k++)
            ((float *)(void *)at)[k] = v[k];
    }
}

/* The same where speed is no matter. */
static enum kind kind_of(const struct mdl_map *m)
{
    return m->vector ? ROWS_VECTOR : m->bf16 ? ROWS_BF16 : ROWS_F32;
}

INLINE vec get(const struct mdl_map *m, int n, int b, int i)
{
    enum kind kind = kind_of(m);

    return load(kind, rows_of(kind, m, n, b), i);
}

INLINE void put(const struct mdl_map *m, int n, int b, int i, vec v)
{
    enum kind kind = kind_of(m);

    store(kind, rows_of(kind, m, n, b), i, v);
}

/* A block of a parameter, zero past the channels or if it is absent. */
INLINE vec param(const struct mdl_map *m, int b, const float *from,
                 float otherwise)
{
    vec v = {0};

    for (int k = 0; k < LANES; k++)
        v[k] = k >= channels(m, b) ? 0 : from ? from[b * LANES + k] : otherwise;
    return v;
}

/* where is all ones: a, else b. */
INLINE vec choose(ivec where, vec a, vec b)
{
    return (vec)((where & (ivec)a) | (~where & (ivec)b));
}

#define EACH_BLOCK(m, n, b)                                                    \
    _Pragma("omp parallel for collapse(2) schedule(static)") for (             \
        int n = 0; n < (m)->batch; n++) for (int b = 0; b < blocks(m); b++)
#define EACH_CHANNEL_BLOCK(m, b)                                               \
    _Pragma("omp parallel for schedule(static)") for (int b = 0;               \
                                                      b < blocks(m); b++)

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

INLINE void train_rows(enum kind kind, const struct mdl_map *x, int n, int b,
                       vec k, vec t, const struct mdl_map *y)
{
    struct rows in = rows_of(kind, x, n, b), out = rows_of(kind, y, n, b);
    const int places = area(x);

    for (int i = 0; i < places; i++)
        store(kind, out, i, load(kind, in, i) * k + t);
}

INLINE void train_of_block(const struct mdl_map *x, const float *gamma,
                           const float *beta, const float *stats, float eps,
                           int n, int b, const struct mdl_map *y)
{
    vec k = inverse(x, b, stats, eps) * param(x, b, gamma, 1);
    vec t = param(x, b, beta, 0) - param(x, b, stats, 0) * k;

    EACH_KIND(train_rows, x, x, n, b, k, t, y);
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

/* f(v), or with back: d f'(v). */
INLINE vec activated(enum mdl_act act, vec slope, vec v, vec d, bool back)
{
    const vec zero = {0}, three = zero + 3, six = zero + 6;
    vec y = back ? d : v;

    switch (act) {
    case MDL_ACT_RELU:
        return (vec)((ivec)y & (v > zero));
    case MDL_ACT_RELU6:
        if (back) /* |v - 3| < 3: gcc takes two masks' "and" apart by lanes */
            return (vec)((ivec)d &
                         ((vec)((ivec)(v - three) & INT32_MAX) < three));
        return (vec)((ivec)choose(v < six, v, six) & (v > zero));
    case MDL_ACT_LEAKY:
    case MDL_ACT_PRELU:
        return choose(v > zero, y, slope * y);
    case MDL_ACT_SIGMOID:
        for (int k = 0; k < LANES; k++) {
            float s = 1 / (1 + expf(-v[k]));

            y[k] = back ? d[k] * s * (1 - s) : s;
        }
        return y;
    case MDL_ACT_NONE:
        break;
    }
    return y;
}

/* Padding stays zero, also where f(0) is not. */
INLINE void act_rows(enum kind kind, enum mdl_act act, vec slope,
                     const struct mdl_map *x, const struct mdl_map *dy,
                     bool back, int n, int b, const struct mdl_map *y)
{
    struct rows in = rows_of(kind, x, n, b), from = rows_of(kind, dy, n, b);
    struct rows out = rows_of(kind, y, n, b);
    const int places = area(x);
    ivec lanes = {0};

    for (int k = 0; k < LANES; k++)
        lanes[k] = k < in.lanes ? -1 : 0;
    for (int i = 0; i < places; i++) {
        vec v = load(kind, in, i), d = back ? load(kind, from, i) : v;

        v = activated(act, slope, v, d, back);
        if (act == MDL_ACT_SIGMOID)
            v = (vec)((ivec)v & lanes);
        store(kind, out, i, v);
    }
}

/* Each activation and direction in loops of its own. */
INLINE void act_kind(enum kind kind, enum mdl_act act, vec slope,
                     const struct mdl_map *x, const struct mdl_map *dy, int n,
                     int b, const struct mdl_map *y)
{
#define ACT_ROWS(known)                                                        \
    case known:                                                                \
        if (dy)                                                                \
            act_rows(kind, known, slope, x, dy, true, n, b, y);                \
        else                                                                   \
            act_rows(kind, known, slope, x, x, false, n, b, y);                \
        return
    switch (act) {
        ACT_ROWS(MDL_ACT_NONE);
        ACT_ROWS(MDL_ACT_RELU);
        ACT_ROWS(MDL_ACT_RELU6);
        ACT_ROWS(MDL_ACT_LEAKY);
        ACT_ROWS(MDL_ACT_PRELU);
        ACT_ROWS(MDL_ACT_SIGMOID);
    }
#undef ACT_ROWS
}

INLINE void act_of_block(enum mdl_act act, float alpha, const float *slope,
                         const struct mdl_map *x, const struct mdl_map *dy,
                         int n, int b, const struct mdl_map *y)
{
    EACH_KIND(act_kind, x, act, param(x, b, slope, alpha), x, dy, n, b, y);
}
PER_ISA(static, act_block, act_of_block,
        (enum mdl_act act, float alpha, const float *slope,
         const struct mdl_map *x, const struct mdl_map *dy, int n, int b,
         const struct mdl_map *y),
        (act, alpha, slope, x, dy, n, b, y))

static void t_act(enum mdl_act act, float alpha, const float *slope,
                  const struct mdl_map *x, const struct mdl_map *y)
{
    EACH_BLOCK(x, n, b)
    {
        act_block(act, alpha, slope, x, NULL, n, b, y);
    }
}

static void t_act_dx(enum mdl_act act, float alpha, const float *slope,
                     const struct mdl_map *x, const struct mdl_map *dy,
                     const struct mdl_map *dx)
{
    EACH_BLOCK(x, n, b)
    {
        act_block(act, alpha, slope, x, dy, n, b, dx);
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

static void t_add(const struct mdl_map *x, int count, const struct mdl_map *y)
{
    EACH_BLOCK(y, n, b)
    {
        add_block(x, count, y, n, b);
    }
}

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

static void t_to_rows(const struct mdl_map *x, float *rows)
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
    .act = t_act,
    .act_dx = t_act_dx,
    .act_dslope = t_act_dslope,
    .sum = t_sum,
    .add = t_add,
    .pool_dx = t_pool_dx,
    .scale_ds = t_scale_ds,
    .l2norm_dx = t_l2norm_dx,
    .upsample_dx = t_upsample_dx,
    .slice = t_slice,
    .softmax_dx = t_softmax_dx,
    .to_rows = t_to_rows,
    .from_rows = t_from_rows,
};
