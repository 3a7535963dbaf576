/* Fully connected layers: 32 outputs of up to 8 images at a time, weights
 * streamed once per 8 images. */
#include "model/backends/cpu/fc.h"

#include <immintrin.h>
#include <string.h>

#define OUTS 32  /* outputs per kernel call: two vectors                  */
#define ROWS 8   /* images per kernel call: 16 accumulators               */
#define GROUP 32 /* images that pass while a chunk of weights is cached   */
#define CHUNK                                                                  \
    1024 /* inputs, even: their weights and their part of a group              \
            stay in the second-level cache                        */

/* Elements of one image of x as they lie in memory. */
static size_t inputs_of(const struct mdl_map *x)
{
    size_t area = (size_t)x->height * (size_t)x->width;

    return x->vector ? (size_t)x->channels
                     : (size_t)mdl_map_blocks(x) * 16 * area;
}

static size_t tiles_of(int outputs)
{
    return (size_t)(outputs + OUTS - 1) / OUTS;
}

size_t mdl_fc_bytes(const struct mdl_map *x, int outputs)
{
    size_t size = x->bf16 ? 2 : 4;

    return tiles_of(outputs) * inputs_of(x) * OUTS * size;
}

/* The column of W for input i of x; -1 for padding. */
static ptrdiff_t column(const struct mdl_map *x, size_t i)
{
    size_t area = (size_t)x->height * (size_t)x->width, c;

    if (x->vector)
        return (ptrdiff_t)i;
    c = i / (16 * area) * 16 + i % 16;
    return c < (size_t)x->channels ? (ptrdiff_t)(c * area + i / 16 % area) : -1;
}

static uint16_t bf16_of(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void mdl_fc_pack(const struct mdl_map *x, int outputs, const float *w,
                 void *packed)
{
    size_t n = inputs_of(x);
    size_t columns =
        x->vector ? n
                  : (size_t)x->channels * (size_t)x->height * (size_t)x->width;
    bool bf16 = x->bf16;

    for (size_t t = 0; t < tiles_of(outputs); t++)
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < OUTS; k++) {
                size_t o = t * OUTS + k;
                ptrdiff_t at = column(x, i);
                float v = at >= 0 && o < (size_t)outputs
                              ? w[o * columns + (size_t)at]
                              : 0;

                if (bf16)
                    ((uint16_t *)
                         packed)[(t * n + i / 2 * 2) * OUTS + 2 * k + i % 2] =
                        bf16_of(v);
                else
                    ((float *)packed)[(t * n + i) * OUTS + k] = v;
            }
}

/* ---- one tile: acc[rows][OUTS] += x[n][rows]^T w[n][OUTS] ---- */

typedef float vector __attribute__((vector_size(64), aligned(4)));

static inline __attribute__((always_inline)) void
tile_any(int rows, const float *x, const float *w, size_t n,
         float acc[ROWS][OUTS])
{
    for (size_t i = 0; i < n; i++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < OUTS; v += 16)
                *(vector *)&acc[r][v] += x[i * (size_t)rows + (size_t)r] *
                                         *(const vector *)&w[i * OUTS + v];
}

/* Accumulators are registers only if every loop over them is unrolled. */
#define UNROLL _Pragma("GCC unroll 8")
#define AVX512 __attribute__((target("avx512f")))
#define BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

static inline __attribute__((always_inline)) AVX512 void
tile_f32(int rows, const float *x, const float *w, size_t n,
         float acc[ROWS][OUTS])
{
    __m512 a[ROWS][2];

    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int v = 0; v < 2; v++)
        a[r][v] = _mm512_loadu_ps(&acc[r][16 * v]);
    for (size_t i = 0; i < n; i++) {
        __m512 w0 = _mm512_load_ps(w + i * OUTS);
        __m512 w1 = _mm512_load_ps(w + i * OUTS + 16);

        UNROLL
        for (int r = 0; r < rows; r++) {
            __m512 b = _mm512_set1_ps(x[i * (size_t)rows + (size_t)r]);

            a[r][0] = _mm512_fmadd_ps(w0, b, a[r][0]);
            a[r][1] = _mm512_fmadd_ps(w1, b, a[r][1]);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int v = 0; v < 2; v++)
        _mm512_storeu_ps(&acc[r][16 * v], a[r][v]);
}

/* x and w in pairs of inputs. */
static inline __attribute__((always_inline)) BF16 void
tile_bf16(int rows, const uint16_t *x, const uint16_t *w, size_t n,
          float acc[ROWS][OUTS])
{
    __m512 a[ROWS][2];

    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int v = 0; v < 2; v++)
        a[r][v] = _mm512_loadu_ps(&acc[r][16 * v]);
    for (size_t i = 0; i < n; i += 2) {
        __m512bh w0 = (__m512bh)_mm512_load_si512(w + i * OUTS);
        __m512bh w1 = (__m512bh)_mm512_load_si512(w + i * OUTS + 32);

        UNROLL
        for (int r = 0; r < rows; r++) {
            __m512bh b;
            int pair;

            memcpy(&pair, x + i * (size_t)rows + 2 * r, sizeof(pair));
            b = (__m512bh)_mm512_set1_epi32(pair);
            a[r][0] = _mm512_dpbf16_ps(a[r][0], w0, b);
            a[r][1] = _mm512_dpbf16_ps(a[r][1], w1, b);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int v = 0; v < 2; v++)
        _mm512_storeu_ps(&acc[r][16 * v], a[r][v]);
}

/* A constant number of rows keeps the accumulators in registers. */
#define BY_ROWS(tile, ...)                                                     \
    switch (rows) {                                                            \
    case 1:                                                                    \
        tile(1, __VA_ARGS__);                                                  \
        break;                                                                 \
    case 2:                                                                    \
        tile(2, __VA_ARGS__);                                                  \
        break;                                                                 \
    case 3:                                                                    \
        tile(3, __VA_ARGS__);                                                  \
        break;                                                                 \
    case 4:                                                                    \
        tile(4, __VA_ARGS__);                                                  \
        break;                                                                 \
    case 5:                                                                    \
        tile(5, __VA_ARGS__);                                                  \
        break;                                                                 \
    case 6:                                                                    \
        tile(6, __VA_ARGS__);                                                  \
        break;                                                                 \
    case 7:                                                                    \
        tile(7, __VA_ARGS__);                                                  \
        break;                                                                 \
    default:                                                                   \
        tile(8, __VA_ARGS__);                                                  \
    }

static void run_any(int rows, const float *x, const float *w, size_t n,
                    float acc[ROWS][OUTS])
{
    tile_any(rows, x, w, n, acc);
}

static AVX512 void run_f32(int rows, const float *x, const float *w, size_t n,
                           float acc[ROWS][OUTS])
{
    BY_ROWS(tile_f32, x, w, n, acc)
}

static BF16 void run_bf16(int rows, const uint16_t *x, const uint16_t *w,
                          size_t n, float acc[ROWS][OUTS])
{
    BY_ROWS(tile_bf16, x, w, n, acc)
}

/* Inputs [from, from + n) of rows images, turned: [n][rows], or in pairs
 * [n / 2][rows][2]. Rows of x may lie multiples of 4 KiB apart, which is one
 * set of the first-level cache; turned, they share cache lines. */
static void turn(const struct mdl_map *x, int first, int rows, size_t from,
                 size_t n, void *out)
{
    size_t stride = inputs_of(x), count = x->bf16 ? n / 2 : n;
    const char *data = x->data;

    for (int r = 0; r < rows; r++) {
        size_t at = ((size_t)(first + r) * stride + from) * (x->bf16 ? 2 : 4);
        uint32_t *to = (uint32_t *)out + r;

        for (size_t i = 0; i < count; i++)
            memcpy(to + i * (size_t)rows, data + at + 4 * i, 4);
    }
}

static void run_tile(bool bf16, int rows, const void *x, const void *packed,
                     size_t at, size_t n, float acc[ROWS][OUTS])
{
    if (bf16)
        run_bf16(rows, x, (const uint16_t *)packed + at, n, acc);
    else if (__builtin_cpu_supports("avx512f"))
        run_f32(rows, x, (const float *)packed + at, n, acc);
    else
        run_any(rows, x, (const float *)packed + at, n, acc);
}

/* out [images, n_out] += x[first...][from, from + n) w */
static void run_chunk(const struct mdl_map *x, const void *packed, int first,
                      int images, size_t from, size_t n, float *out,
                      size_t n_out)
{
    float turned[GROUP * CHUNK] __attribute__((aligned(64)));
    size_t inputs = inputs_of(x);

    for (int g = 0; g < images; g += ROWS)
        turn(x, first + g, images - g < ROWS ? images - g : ROWS, from, n,
             turned + (size_t)g * CHUNK);
    for (size_t t = 0; t * OUTS < n_out; t++)
        for (int g = 0; g < images; g += ROWS) {
            int rows = images - g < ROWS ? images - g : ROWS;
            size_t left = n_out - t * OUTS;
            size_t size = (left < OUTS ? left : OUTS) * sizeof(float);
            float *at = out + (size_t)g * n_out + t * OUTS;
            float acc[ROWS][OUTS] = {0};

            for (int r = 0; r < rows; r++)
                memcpy(acc[r], at + (size_t)r * n_out, size);
            run_tile(x->bf16, rows, turned + (size_t)g * CHUNK, packed,
                     (t * inputs + from) * OUTS, n, acc);
            for (int r = 0; r < rows; r++)
                memcpy(at + (size_t)r * n_out, acc[r], size);
        }
}

void mdl_fc_run(const struct mdl_map *x, const void *packed, const float *bias,
                enum mdl_act act, float alpha, const float *slope,
                const struct mdl_map *y)
{
    size_t n = inputs_of(x), n_out = (size_t)y->channels;
    float *out = y->data;

    for (int r = 0; r < y->batch; r++)
        for (size_t o = 0; o < n_out; o++)
            out[(size_t)r * n_out + o] = bias ? bias[o] : 0;
    for (int first = 0; first < y->batch; first += GROUP) {
        int images = y->batch - first < GROUP ? y->batch - first : GROUP;

        for (size_t from = 0; from < n; from += CHUNK)
            run_chunk(x, packed, first, images, from,
                      n - from < CHUNK ? n - from : CHUNK,
                      out + (size_t)first * n_out, n_out);
    }
    mdl_k_activate(y, act, alpha, slope);
}
