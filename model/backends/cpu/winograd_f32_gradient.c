/* The gradient by the weights of Winograd F(4x4, 3x3):
 *
 *   Z[p]  = (A dy A^T)[p]    dy's tile 4x4 -> 36 matrices  [tiles, outputs]
 *   dU[p] = V[p]^T Z[p]      36 products                   [channels, outputs]
 *   dw    = G^T dU G
 *
 * Everything is the transpose of the convolution's. Z lies as M does there, dU
 * as U. */
#include "model/backends/cpu/winograd_f32.h"

/* A dy, of 8 outputs. */
INLINE void gradient_to_points(const __m256 y[SIDE], __m256 z[EDGE])
{
    const __m256 a = _mm256_set1_ps(A), aa = _mm256_set1_ps(A * A);
    const __m256 b = _mm256_set1_ps(B), bb = _mm256_set1_ps(B * B);
    const __m256 even_a = _mm256_fmadd_ps(aa, y[2], y[0]);
    const __m256 odd_a = _mm256_mul_ps(a, _mm256_fmadd_ps(aa, y[3], y[1]));
    const __m256 even_b = _mm256_fmadd_ps(bb, y[2], y[0]);
    const __m256 odd_b = _mm256_mul_ps(b, _mm256_fmadd_ps(bb, y[3], y[1]));

    z[0] = y[0];
    z[1] = _mm256_add_ps(even_a, odd_a);
    z[2] = _mm256_sub_ps(even_a, odd_a);
    z[3] = _mm256_add_ps(even_b, odd_b);
    z[4] = _mm256_sub_ps(even_b, odd_b);
    z[5] = y[3];
}

/* 8 outputs of a tile to the points; dy: the outputs of the first image, z: the
 * first point's place. */
INLINE void take_gradient(const struct mdl_wino *c, struct tile t,
                          const float *dy, float *z, size_t step)
{
    int rows = c->height - t.row, cols = c->width - t.col;
    __m256 half[EDGE][SIDE];

    dy += t.image * c->out.image + t.row * c->out.row + t.col * c->out.pixel;
#pragma GCC unroll 4
    for (int j = 0; j < SIDE; j++) {
        __m256 column[SIDE], points[EDGE];

#pragma GCC unroll 4
        for (int i = 0; i < SIDE; i++)
            column[i] =
                i < rows && j < cols
                    ? _mm256_loadu_ps(dy + i * c->out.row + j * c->out.pixel)
                    : _mm256_setzero_ps();
        gradient_to_points(column, points);
#pragma GCC unroll 6
        for (int i = 0; i < EDGE; i++)
            half[i][j] = points[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < EDGE; i++) {
        __m256 points[EDGE];

        gradient_to_points(half[i], points);
#pragma GCC unroll 6
        for (int j = 0; j < EDGE; j++)
            _mm256_store_ps(z + (size_t)(i * EDGE + j) * step, points[j]);
    }
}

/* 8 outputs of n tiles from t on, from output o on; zeros where those are
 * padded. */
TARGET static void take_outputs(const struct mdl_wino *c, const struct work *w,
                                struct tile t, int n, const float *dy, int o,
                                float *z)
{
    z += (size_t)(o / COLS * w->block) * COLS + o % COLS;
    dy += o / LANES * c->out.block;
    for (int i = 0; i < n; i++, tile_next(c, SIDE, &t), z += COLS)
        if (o < c->outputs)
            take_gradient(c, t, dy, z, w->m_step);
        else
            for (size_t p = 0; p < POINTS; p++)
                _mm256_store_ps(z + p * w->m_step, _mm256_setzero_ps());
}

/* n tiles from t on into Z, [36][groups][tiles][16]. */
static void take_gradients(const struct mdl_wino *c, const struct work *w,
                           struct tile t, int n, const float *dy, float *z)
{
#pragma omp parallel for
    for (int o = 0; o < w->groups * COLS; o += LANES)
        take_outputs(c, w, t, n, dy, o, z);
}

/* du [rows, 16] += v^T z of n tiles, or = of the first ones; `rows` channels
 * from c on. */
INLINE void multiply_gradient(int rows, int n, const float *v, int c,
                              const float *z, bool first, float *du)
{
    __m256 sum[ROWS][2];
    const float *x[ROWS];

#pragma GCC unroll 6
    for (int k = 0; k < rows; k++) {
        x[k] = v + (c + k) / LANES * n * LANES + (c + k) % LANES;
        sum[k][0] = sum[k][1] = _mm256_setzero_ps();
        if (!first) {
            sum[k][0] = _mm256_load_ps(du + k * COLS);
            sum[k][1] = _mm256_load_ps(du + k * COLS + LANES);
        }
    }
    for (int i = 0; i < n; i++, z += COLS) {
        __m256 z0 = _mm256_load_ps(z), z1 = _mm256_load_ps(z + LANES);

#pragma GCC unroll 6
        for (int k = 0; k < rows; k++) {
            __m256 xk = _mm256_broadcast_ss(x[k] + i * LANES);

            sum[k][0] = _mm256_fmadd_ps(xk, z0, sum[k][0]);
            sum[k][1] = _mm256_fmadd_ps(xk, z1, sum[k][1]);
        }
    }
#pragma GCC unroll 6
    for (int k = 0; k < rows; k++) {
        _mm256_store_ps(du + k * COLS, sum[k][0]);
        _mm256_store_ps(du + k * COLS + LANES, sum[k][1]);
    }
}

/* Of a point and 16 outputs: v, z and du are theirs. Channels come in eights:
 * after the sixes two or four may be left. */
TARGET static void multiply_panel(int channels, int n, const float *v,
                                  const float *z, bool first, float *du)
{
    int c = 0;

    for (; c + ROWS <= channels; c += ROWS)
        multiply_gradient(ROWS, n, v, c, z, first, du + c * COLS);
    if (channels - c == 4)
        multiply_gradient(4, n, v, c, z, first, du + c * COLS);
    else if (channels - c == 2)
        multiply_gradient(2, n, v, c, z, first, du + c * COLS);
}

/* dU += V^T Z of n tiles; of the first ones, =. */
static void multiply_gradients(const struct work *w, int n, const float *v,
                               const float *z, bool first, float *du)
{
    int channels = w->blocks * LANES;

#pragma omp parallel for collapse(2)
    for (int p = 0; p < POINTS; p++)
        for (int g = 0; g < w->groups; g++)
            multiply_panel(
                channels, n, v + (size_t)p * w->v_step,
                z + (size_t)p * w->m_step + (size_t)(g * w->block) * COLS,
                first,
                du + (size_t)p * w->u_step + (size_t)(g * channels) * COLS);
}

size_t wino_f32_gradient_scratch(const struct mdl_wino *c, int batch)
{
    struct work w = wino_f32_work(c, batch);

    return POINTS * (w.v_step + w.m_step + w.u_step) * sizeof(float);
}

void wino_f32_gradient(const struct mdl_wino *c, int batch, const void *x,
                       const void *dy, float *dw, void *scratch)
{
    struct work w = wino_f32_work(c, batch);
    float *v = scratch, *z = v + POINTS * w.v_step, *du = z + POINTS * w.m_step;

    for (int first = 0; first < w.tiles; first += w.block) {
        int n = w.tiles - first < w.block ? w.tiles - first : w.block;
        struct tile t = tile_at(c, SIDE, first);

        wino_f32_take(c, &w, t, n, n, x, v);
        take_gradients(c, &w, t, n, dy, z);
        multiply_gradients(&w, n, v, z, first == 0, du);
    }
    wino_f32_unpack(du, c->channels, c->outputs, dw);
}
