/* Maps in blocks of LANES channels, a row at a time; what the kernels' bodies
 * share, and include. A block is LANES channels of one image: area rows of so
 * many floats that lie together; of a vector it is one row, which may be
 * shorter at the end. */
#include <math.h>
#include <string.h>

#include "model/backends/cpu/kernels.h"
#include "model/backends/cpu/per_isa.h"

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
    uvec w, nan;
    hvec h;

    if (kind == ROWS_F32) {
        memcpy(at, &v, sizeof(v));
    } else if (kind == ROWS_BF16) { /* as mdl_bf16_of */
        nan = (uvec)(v != v);
        w = (uvec)v;
        w = (nan & (w | 0x400000)) | (~nan & (w + 0x7fff + (w >> 16 & 1)));
        h = __builtin_convertvector(w >> 16, hvec);
        memcpy(at, &h, sizeof(h));
    } else {
        for (int k = 0; k < r.lanes; k++)
            ((float *)(void *)at)[k] = v[k];
    }
}

static enum kind kind_of(const struct mdl_map *m)
{
    return m->vector ? ROWS_VECTOR : m->bf16 ? ROWS_BF16 : ROWS_F32;
}

/* As load() and store(), where speed is no matter. */
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

/* body(ACT, ...) with the activation known to the compiler. */
#define EACH_ACT(body, act, ...)                                               \
    do {                                                                       \
        switch (act) {                                                         \
        case MDL_ACT_NONE:                                                     \
            body(MDL_ACT_NONE, __VA_ARGS__);                                   \
            break;                                                             \
        case MDL_ACT_RELU:                                                     \
            body(MDL_ACT_RELU, __VA_ARGS__);                                   \
            break;                                                             \
        case MDL_ACT_RELU6:                                                    \
            body(MDL_ACT_RELU6, __VA_ARGS__);                                  \
            break;                                                             \
        case MDL_ACT_LEAKY:                                                    \
            body(MDL_ACT_LEAKY, __VA_ARGS__);                                  \
            break;                                                             \
        case MDL_ACT_PRELU:                                                    \
            body(MDL_ACT_PRELU, __VA_ARGS__);                                  \
            break;                                                             \
        case MDL_ACT_SIGMOID:                                                  \
            body(MDL_ACT_SIGMOID, __VA_ARGS__);                                \
            break;                                                             \
        }                                                                      \
    } while (0)

/* y = s x + t. */
INLINE void affine_rows(enum kind kind, const struct mdl_map *x, vec s, vec t,
                        int n, int b, const struct mdl_map *y)
{
    struct rows in = rows_of(kind, x, n, b), out = rows_of(kind, y, n, b);
    const int places = area(x);

    for (int i = 0; i < places; i++)
        store(kind, out, i, load(kind, in, i) * s + t);
}
