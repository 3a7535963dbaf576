/* One panel of W by up to 8 rows of x at a time. */
#include "model/panel.h"

#include <immintrin.h>
#include <string.h>

#include "model/isa.h"

#define OUTS MDL_PANEL_ROWS /* of y per kernel call: two vectors            */
#define ROWS 8   /* of x per kernel call: 16 accumulators                 */
#define GROUP 32 /* rows of x that pass while a chunk of W is cached      */
#define CHUNK                                                                  \
    1024         /* columns, even: their part of a panel and of a group        \
                    stay in the second-level cache                        */
#define BLOCK 64 /* columns of a panel, 8 KiB, between AVX2's quarters   */

size_t mdl_panel_count(size_t rows, size_t columns)
{
    return (rows + OUTS - 1) / OUTS * OUTS * columns;
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
#define AVX2 __attribute__((target("avx2,fma")))
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

/* Half of the outputs of up to 4 rows: 8 accumulators of the 16 registers. */
static inline __attribute__((always_inline)) AVX2 void
half_avx2(int rows, const float *x, size_t stride, const float *w, size_t n,
          float (*acc)[OUTS])
{
    __m256 a[4][2];

    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int v = 0; v < 2; v++)
        a[r][v] = _mm256_loadu_ps(&acc[r][8 * v]);
    for (size_t i = 0; i < n; i++) {
        __m256 w0 = _mm256_load_ps(w + i * OUTS);
        __m256 w1 = _mm256_load_ps(w + i * OUTS + 8);

        UNROLL
        for (int r = 0; r < rows; r++) {
            __m256 b = _mm256_broadcast_ss(&x[i * stride + (size_t)r]);

            a[r][0] = _mm256_fmadd_ps(w0, b, a[r][0]);
            a[r][1] = _mm256_fmadd_ps(w1, b, a[r][1]);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int v = 0; v < 2; v++)
        _mm256_storeu_ps(&acc[r][8 * v], a[r][v]);
}

/* The quarters of a tile in turn over a few columns of w, which stay in the
 * first-level cache, so that w comes from memory line by line, once. */
static inline __attribute__((always_inline)) AVX2 void
tile_avx2(int rows, const float *x, const float *w, size_t n,
          float acc[ROWS][OUTS])
{
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t left = n - i < BLOCK ? n - i : BLOCK;

        for (int v = 0; v < OUTS; v += 16) {
            float(*half)[OUTS] = (float(*)[OUTS]) & acc[0][v];

            half_avx2(rows < 4 ? rows : 4, x, (size_t)rows, w + v, left, half);
            if (rows > 4)
                half_avx2(rows - 4, x + 4, (size_t)rows, w + v, left, half + 4);
        }
        x += BLOCK * (size_t)rows;
        w += BLOCK * OUTS;
    }
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

static AVX2 void run_avx2(int rows, const float *x, const float *w, size_t n,
                          float acc[ROWS][OUTS])
{
    BY_ROWS(tile_avx2, x, w, n, acc)
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

struct product {
    bool bf16;
    const void *panels;
    size_t rows, columns; /* of W */
    const void *x;
    size_t stride;
    float *y;
};

/* Columns [from, from + n) of x's rows [first, first + rows), turned:
 * [n][rows], or in pairs [n / 2][rows][2]. Rows of x may lie multiples of
 * 4 KiB apart, which is one set of the first-level cache; turned, they share
 * cache lines. */
static void turn(const struct product *p, int first, int rows, size_t from,
                 size_t n, void *out)
{
    size_t size = p->bf16 ? 2 : 4, count = n * size / 4;
    const char *x = p->x;

    for (int r = 0; r < rows; r++) {
        const char *row = x + ((size_t)(first + r) * p->stride + from) * size;
        uint32_t *to = (uint32_t *)out + r;

        for (size_t i = 0; i < count; i++)
            memcpy(to + i * (size_t)rows, row + 4 * i, 4);
    }
}

static void run_tile(const struct product *p, int rows, const void *x,
                     size_t at, size_t n, float acc[ROWS][OUTS])
{
    if (p->bf16)
        run_bf16(rows, x, (const uint16_t *)p->panels + at, n, acc);
    else if (mdl_isa() == MDL_ISA_AVX512)
        run_f32(rows, x, (const float *)p->panels + at, n, acc);
    else if (mdl_isa() == MDL_ISA_AVX2)
        run_avx2(rows, x, (const float *)p->panels + at, n, acc);
    else
        run_any(rows, x, (const float *)p->panels + at, n, acc);
}

/* Rows [first, first + images) of y += columns [from, from + n). */
static void run_chunk(const struct product *p, int first, int images,
                      size_t from, size_t n)
{
    float turned[GROUP * CHUNK] __attribute__((aligned(64)));

    for (int g = 0; g < images; g += ROWS)
        turn(p, first + g, images - g < ROWS ? images - g : ROWS, from, n,
             turned + (size_t)g * CHUNK);
    for (size_t row = 0; row < p->rows; row += OUTS)
        for (int g = 0; g < images; g += ROWS) {
            int rows = images - g < ROWS ? images - g : ROWS;
            size_t left = p->rows - row;
            size_t size = (left < OUTS ? left : OUTS) * sizeof(float);
            float *y = p->y + (size_t)(first + g) * p->rows + row;
            float acc[ROWS][OUTS] = {0};

            for (int r = 0; r < rows; r++)
                memcpy(acc[r], y + (size_t)r * p->rows, size);
            run_tile(p, rows, turned + (size_t)g * CHUNK,
                     row * p->columns + from * OUTS, n, acc);
            for (int r = 0; r < rows; r++)
                memcpy(y + (size_t)r * p->rows, acc[r], size);
        }
}

void mdl_panel_product(bool bf16, const void *panels, size_t rows,
                       size_t columns, const void *x, size_t stride, int n,
                       float *y)
{
    struct product p = {bf16, panels, rows, columns, x, stride, y};

    for (int first = 0; first < n; first += GROUP)
        for (size_t from = 0; from < columns; from += CHUNK)
            run_chunk(&p, first, n - first < GROUP ? n - first : GROUP, from,
                      columns - from < CHUNK ? columns - from : CHUNK);
}
