/* Winograd F(2x2, 3x3) in bfloat16.
 *
 *   V[p] = (B^T d B)[p]    input tile 4x4 -> 16 matrices  [tiles, channels]
 *   M[p] = V[p] U[p]       16 products                    [tiles, outputs]
 *   y    = A^T M A         16 values -> output tile 2x2, and the epilogue
 *
 * Tiles are taken in blocks whose V stays in the second-level cache; M holds
 * 64 outputs at a time, so that the output transform finds it there too. */
#include <immintrin.h>
#include <string.h>

#include "model/backends/cpu/kernels.h"
#include "model/backends/cpu/winograd_tile.h"
#include "model/isa.h"

#define SIDE 2              /* outputs along a side of a tile              */
#define POINTS 16           /* of its 4x4 inputs                           */
#define ROWS 6              /* tiles per kernel call: 6 x 4 accumulators   */
#define COLS 64             /* outputs per kernel call                     */
#define V_BYTES (256 << 10) /* of the 1 MiB second-level cache             */

#define TARGET                                                                 \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

bool mdl_wino_bf16_available(void)
{
    return mdl_isa() == MDL_ISA_AVX512 && __builtin_cpu_supports("avx512bf16");
}

static size_t weights_bytes(int channels, int outputs)
{
    return POINTS * (size_t)channels * (size_t)outputs * sizeof(uint16_t);
}

/* U = G g G^T of one filter. */
static void transform_filter(const float g[9], float u[POINTS])
{
    static const double matrix[4][3] = {
        {1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
    double t[4][3];

    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 3; j++)
            t[i][j] = matrix[i][0] * g[j] + matrix[i][1] * g[3 + j] +
                      matrix[i][2] * g[6 + j];
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            u[i * 4 + j] =
                (float)(t[i][0] * matrix[j][0] + t[i][1] * matrix[j][1] +
                        t[i][2] * matrix[j][2]);
}

/* Laid out [outputs / 64][16][channels / 2][64][2]: what the kernel reads in
 * order, two channels side by side as vdpbf16ps wants them. */
static void pack(const float *w, int channels, int outputs, void *out)
{
    uint16_t *to = out;

    for (int o = 0; o < outputs; o++)
        for (int c = 0; c < channels; c++) {
            float u[POINTS];

            transform_filter(w + ((size_t)o * (size_t)channels + (size_t)c) * 9,
                             u);
            for (int p = 0; p < POINTS; p++) {
                size_t at = (size_t)(o / COLS) * POINTS + (size_t)p;

                at = at * (size_t)(channels / 2) + (size_t)(c / 2);
                at = (at * COLS + (size_t)(o % COLS)) * 2 + (size_t)(c % 2);
                to[at] = mdl_bf16_of(u[p]);
            }
        }
}

/* Tiles per block, a multiple of ROWS. */
static int block_tiles(const struct mdl_wino *c)
{
    int fit = V_BYTES / (POINTS * c->channels * 2) / ROWS * ROWS;

    return fit < 2 * ROWS ? 2 * ROWS : fit;
}

/* From one point's matrix to the next: a cache line more than it fills, as
 * multiples of 4 KiB would put all sixteen into one set of the cache. */
static size_t v_step(const struct mdl_wino *c)
{
    return (size_t)block_tiles(c) * (size_t)c->channels + 32;
}

static size_t m_step(const struct mdl_wino *c)
{
    return (size_t)block_tiles(c) * COLS + 16;
}

static size_t scratch_bytes(const struct mdl_wino *c, int batch)
{
    (void)batch;
    return POINTS * (v_step(c) * sizeof(uint16_t) + m_step(c) * sizeof(float));
}

TARGET static inline __m512 load_bf16(const uint16_t *p)
{
    __m256i v = _mm256_loadu_si256((const __m256i *)p);

    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}

TARGET static inline void store_bf16(uint16_t *p, __m512 v)
{
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v));
}

/* B^T d B for 16 channels; v is the first point's place, points lie step
 * elements apart. */
TARGET static inline void transform_tile(const __m512 d[4][4], uint16_t *v,
                                         size_t step)
{
    __m512 t[4][4];

#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        t[0][j] = _mm512_sub_ps(d[0][j], d[2][j]);
        t[1][j] = _mm512_add_ps(d[1][j], d[2][j]);
        t[2][j] = _mm512_sub_ps(d[2][j], d[1][j]);
        t[3][j] = _mm512_sub_ps(d[1][j], d[3][j]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        store_bf16(v + (size_t)(i * 4 + 0) * step,
                   _mm512_sub_ps(t[i][0], t[i][2]));
        store_bf16(v + (size_t)(i * 4 + 1) * step,
                   _mm512_add_ps(t[i][1], t[i][2]));
        store_bf16(v + (size_t)(i * 4 + 2) * step,
                   _mm512_sub_ps(t[i][2], t[i][1]));
        store_bf16(v + (size_t)(i * 4 + 3) * step,
                   _mm512_sub_ps(t[i][1], t[i][3]));
    }
}

/* Tile idx into row `at` of every V[p], [tiles, channels]. */
TARGET static void transform_input(const struct mdl_wino *c, const uint16_t *x,
                                   int idx, uint16_t *v, size_t step)
{
    struct tile t = tile_at(c, SIDE, idx);
    const uint16_t *corner = x + t.image * c->in.image +
                             (t.row - 1) * c->in.row +
                             (t.col - 1) * c->in.pixel;
    bool inside =
        t.row > 0 && t.col > 0 && t.row + 2 < c->height && t.col + 2 < c->width;

    for (int b = 0; b < c->channels / 16; b++) {
        const uint16_t *p = corner + b * c->in.block;
        __m512 d[4][4];

        if (inside) {
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++)
                    d[i][j] = load_bf16(p + i * c->in.row + j * c->in.pixel);
        } else {
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) {
                    int row = t.row - 1 + i, col = t.col - 1 + j;

                    d[i][j] =
                        row >= 0 && row < c->height && col >= 0 &&
                                col < c->width
                            ? load_bf16(p + i * c->in.row + j * c->in.pixel)
                            : _mm512_setzero_ps();
                }
        }
        transform_tile(d, v + b * 16, step);
    }
}

/* m [ROWS, COLS] = v [ROWS, channels] u [channels / 2, COLS, 2]. */
TARGET static void multiply(const uint16_t *v, size_t v_row, const uint16_t *u,
                            int pairs, float *m)
{
    __m512 acc[ROWS][4];

#pragma GCC unroll 6
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            acc[i][j] = _mm512_setzero_ps();
    for (int k = 0; k < pairs; k++) {
        __m512bh b[4];

#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            b[j] =
                (__m512bh)_mm512_load_si512(u + (size_t)k * 2 * COLS + 32 * j);
#pragma GCC unroll 6
        for (int i = 0; i < ROWS; i++) {
            int pair;
            __m512bh a;

            memcpy(&pair, v + (size_t)i * v_row + 2 * (size_t)k, sizeof(pair));
            a = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                acc[i][j] = _mm512_dpbf16_ps(acc[i][j], b[j], a);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            _mm512_store_ps(m + i * COLS + 16 * j, acc[i][j]);
}

TARGET static inline __m512 vector_at(const float *p, int at)
{
    return p ? _mm512_loadu_ps(p + at) : _mm512_setzero_ps();
}

/* One output tile of 16 outputs from channel o on; m is its first point. */
TARGET static inline void put_tile(const struct mdl_wino *c, struct tile t,
                                   int o, const float *m, size_t step,
                                   const uint16_t *residual, uint16_t *y)
{
    ptrdiff_t at = t.image * c->out.image + t.row * c->out.row +
                   t.col * c->out.pixel + o / 16 * c->out.block;
    const __m512 bias = vector_at(c->bias, o), shift = vector_at(c->shift, o);
    const __m512 slope =
        c->slope ? _mm512_loadu_ps(c->slope + o) : _mm512_set1_ps(1);
    __m512 s[2][4];

#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512 m1 = _mm512_load_ps(m + (size_t)(4 + j) * step);
        __m512 m2 = _mm512_load_ps(m + (size_t)(8 + j) * step);

        s[0][j] = _mm512_add_ps(_mm512_load_ps(m + (size_t)j * step),
                                _mm512_add_ps(m1, m2));
        s[1][j] = _mm512_sub_ps(_mm512_sub_ps(m1, m2),
                                _mm512_load_ps(m + (size_t)(12 + j) * step));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m512 out[2];

        out[0] = _mm512_add_ps(s[i][0], _mm512_add_ps(s[i][1], s[i][2]));
        out[1] = _mm512_sub_ps(_mm512_sub_ps(s[i][1], s[i][2]), s[i][3]);
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            ptrdiff_t place = at + i * c->out.row + j * c->out.pixel;
            __m512 v = _mm512_add_ps(out[j], bias);

            if (t.row + i >= c->height || t.col + j >= c->width)
                continue;
            v = _mm512_mask_mul_ps(
                v, _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_LT_OQ), v,
                slope);
            v = _mm512_add_ps(v, shift);
            if (residual)
                v = _mm512_add_ps(v, load_bf16(residual + place));
            store_bf16(y + place, v);
        }
    }
}

TARGET static void run(const struct mdl_wino *c, int batch, const void *x,
                       const void *residual, void *y, void *scratch)
{
    int tiles = tiles_of(c, SIDE, batch);
    int block = block_tiles(c), pairs = c->channels / 2;
    size_t channels = (size_t)c->channels, vs = v_step(c), ms = m_step(c);
    uint16_t *v = scratch;
    float *m = (void *)(v + POINTS * vs);

    for (int first = 0; first < tiles; first += block) {
        int n = tiles - first < block ? tiles - first : block;
        const uint16_t *u = c->weights;

        for (int i = 0; i < n; i++)
            transform_input(c, x, first + i, v + (size_t)i * channels, vs);
        for (int o = 0; o < c->outputs; o += COLS) {
            for (int p = 0; p < POINTS; p++, u += (size_t)pairs * 2 * COLS)
                /* Rows past n hold an earlier block's numbers, or whatever
                 * the scratch held; what they yield is never read. */
                for (int i = 0; i < n; i += ROWS)
                    multiply(v + (size_t)p * vs + (size_t)i * channels,
                             channels, u, pairs,
                             m + (size_t)p * ms + (size_t)i * COLS);
            for (int i = 0; i < n; i++)
                for (int k = 0; k < COLS; k += 16)
                    put_tile(c, tile_at(c, SIDE, first + i), o + k,
                             m + (size_t)i * COLS + k, ms, residual, y);
        }
    }
}

const struct mdl_wino_kernel mdl_wino_bf16 = {
    .name = "winograd bf16 F(2,3)",
    .weights_bytes = weights_bytes,
    .pack = pack,
    .scratch = scratch_bytes,
    .run = run,
};
