/* The convolution of Winograd F(4x4, 3x3):
 *
 *   M[p] = V[p] U[p]    36 products                    [tiles, outputs]
 *   y    = A^T M A      36 values -> output tile 4x4, and the epilogue
 *
 * Tiles are taken in blocks: all of one point's are multiplied before the next
 * one's, so that its weights are read once a block. */
#include "model/backends/cpu/winograd_f32.h"

struct work wino_f32_work(const struct mdl_wino *c, int batch)
{
    size_t channels = up(c->channels, LANES), outputs = up(c->outputs, COLS);
    /* So many that V and M are as large as U: neither is what costs. */
    int most = (int)(channels * outputs / (channels + outputs));
    struct work w = {.blocks = (int)channels / LANES,
                     .groups = (int)outputs / COLS,
                     .tiles = tiles_of(c, SIDE, batch)};
    int n;

    if (most < 4 * ROWS)
        most = 4 * ROWS;
    n = (w.tiles + most - 1) / most;
    w.block = (int)up((w.tiles + n - 1) / n, ROWS);
    w.u_step = wino_f32_u_step(c->channels, c->outputs);
    w.v_step = (size_t)w.block * channels + COLS;
    w.m_step = (size_t)w.block * outputs + COLS;
    return w;
}

static size_t scratch_bytes(const struct mdl_wino *c, int batch)
{
    struct work w = wino_f32_work(c, batch);

    return POINTS * (w.v_step + w.m_step) * sizeof(float);
}

/* B^T d, of 8 channels. */
INLINE void to_points(const __m256 d[EDGE], __m256 v[EDGE])
{
    const __m256 a = _mm256_set1_ps(A), aa = _mm256_set1_ps(A * A);
    const __m256 b = _mm256_set1_ps(B), bb = _mm256_set1_ps(B * B);
    const __m256 product = _mm256_set1_ps(A * A * B * B);
    const __m256 sum = _mm256_set1_ps(A * A + B * B);
    const __m256 even_a = _mm256_fnmadd_ps(bb, d[2], d[4]);
    const __m256 odd_a = _mm256_fnmadd_ps(bb, d[1], d[3]);
    const __m256 even_b = _mm256_fnmadd_ps(aa, d[2], d[4]);
    const __m256 odd_b = _mm256_fnmadd_ps(aa, d[1], d[3]);

    v[0] = _mm256_fmadd_ps(product, d[0], _mm256_fnmadd_ps(sum, d[2], d[4]));
    v[1] = _mm256_fmadd_ps(a, odd_a, even_a);
    v[2] = _mm256_fnmadd_ps(a, odd_a, even_a);
    v[3] = _mm256_fmadd_ps(b, odd_b, even_b);
    v[4] = _mm256_fnmadd_ps(b, odd_b, even_b);
    v[5] = _mm256_fmadd_ps(product, d[1], _mm256_fnmadd_ps(sum, d[3], d[5]));
}

/* A^T m, of 8 outputs. */
INLINE void from_points(const __m256 m[EDGE], __m256 y[SIDE])
{
    const __m256 a = _mm256_set1_ps(A), b = _mm256_set1_ps(B);
    const __m256 aa = _mm256_set1_ps(A * A), bb = _mm256_set1_ps(B * B);
    const __m256 aaa = _mm256_set1_ps(A * A * A);
    const __m256 bbb = _mm256_set1_ps(B * B * B);
    const __m256 even_a = _mm256_add_ps(m[1], m[2]);
    const __m256 odd_a = _mm256_sub_ps(m[1], m[2]);
    const __m256 even_b = _mm256_add_ps(m[3], m[4]);
    const __m256 odd_b = _mm256_sub_ps(m[3], m[4]);

    y[0] = _mm256_add_ps(m[0], _mm256_add_ps(even_a, even_b));
    y[1] = _mm256_fmadd_ps(a, odd_a, _mm256_mul_ps(b, odd_b));
    y[2] = _mm256_fmadd_ps(aa, even_a, _mm256_mul_ps(bb, even_b));
    y[3] = _mm256_fmadd_ps(aaa, odd_a, _mm256_fmadd_ps(bbb, odd_b, m[5]));
}

/* The 6x6 inputs of a tile that reaches over the map's edge, zeros there. */
INLINE void copy_edge(const struct mdl_wino *c, const float *corner,
                      struct tile t, __m256 d[EDGE][EDGE])
{
    for (int i = 0; i < EDGE; i++)
        for (int j = 0; j < EDGE; j++) {
            int row = t.row - 1 + i, col = t.col - 1 + j;

            d[i][j] =
                row >= 0 && row < c->height && col >= 0 && col < c->width
                    ? _mm256_loadu_ps(corner + i * c->in.row + j * c->in.pixel)
                    : _mm256_setzero_ps();
        }
}

/* 8 channels of a tile to the points; x: the channels of the first image, v:
 * the first point's place. */
INLINE void take_tile(const struct mdl_wino *c, struct tile t, const float *x,
                      float *v, size_t step)
{
    ptrdiff_t row = c->in.row, pixel = c->in.pixel;
    const float *d =
        x + t.image * c->in.image + (t.row - 1) * row + (t.col - 1) * pixel;
    __m256 edge[EDGE][EDGE], half[EDGE][EDGE];

    if (t.row == 0 || t.col == 0 || t.row + SIDE >= c->height ||
        t.col + SIDE >= c->width) {
        copy_edge(c, d, t, edge);
        d = (const float *)edge;
        row = EDGE * LANES;
        pixel = LANES;
    }
#pragma GCC unroll 6
    for (int j = 0; j < EDGE; j++) {
        __m256 column[EDGE], points[EDGE];

#pragma GCC unroll 6
        for (int i = 0; i < EDGE; i++)
            column[i] = _mm256_loadu_ps(d + i * row + j * pixel);
        to_points(column, points);
#pragma GCC unroll 6
        for (int i = 0; i < EDGE; i++)
            half[i][j] = points[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < EDGE; i++) {
        __m256 points[EDGE];

        to_points(half[i], points);
#pragma GCC unroll 6
        for (int j = 0; j < EDGE; j++)
            _mm256_store_ps(v + (size_t)(i * EDGE + j) * step, points[j]);
    }
}

/* Of one block of channels. A function of its own, as are others below: what
 * clang makes of a parallel loop's body does not have the target. */
TARGET static void take_channels(const struct mdl_wino *c, const struct work *w,
                                 struct tile t, int n, int most, const float *x,
                                 int b, float *v)
{
    x += b * c->in.block;
    for (int i = 0; i < n; i += most) {
        int rows = n - i < most ? n - i : most;
        float *to =
            v +
            ((size_t)i * (size_t)w->blocks + (size_t)b * (size_t)rows) * LANES;

        for (int r = 0; r < rows; r++, tile_next(c, SIDE, &t))
            take_tile(c, t, x, to + r * LANES, w->v_step);
    }
}

void wino_f32_take(const struct mdl_wino *c, const struct work *w,
                   struct tile t, int n, int most, const float *x, float *v)
{
#pragma omp parallel for
    for (int b = 0; b < w->blocks; b++)
        take_channels(c, w, t, n, most, x, b, v);
}

/* m [rows, 16] = v [blocks, rows, 8] u [blocks, 8, 16]; the weights that come
 * after these are fetched meanwhile. */
INLINE void multiply(int rows, const float *v, const float *u, int blocks,
                     float *m)
{
    const size_t ahead = (size_t)blocks * LANES * COLS;
    __m256 sum[ROWS][2];

#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    for (int b = 0; b < blocks; b++, v += rows * LANES)
        for (int k = 0; k < LANES; k++, u += COLS) {
            __m256 u0 = _mm256_load_ps(u), u1 = _mm256_load_ps(u + 8);

            _mm_prefetch((const char *)(u + ahead), _MM_HINT_T0);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                __m256 x = _mm256_broadcast_ss(v + r * LANES + k);

                sum[r][0] = _mm256_fmadd_ps(x, u0, sum[r][0]);
                sum[r][1] = _mm256_fmadd_ps(x, u1, sum[r][1]);
            }
        }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        _mm256_store_ps(m + r * COLS, sum[r][0]);
        _mm256_store_ps(m + r * COLS + 8, sum[r][1]);
    }
}

/* A constant number of rows keeps the sums in registers. */
TARGET static void multiply_rows(int rows, const float *v, const float *u,
                                 int blocks, float *m)
{
    switch (rows) {
    case 1:
        multiply(1, v, u, blocks, m);
        break;
    case 2:
        multiply(2, v, u, blocks, m);
        break;
    case 3:
        multiply(3, v, u, blocks, m);
        break;
    case 4:
        multiply(4, v, u, blocks, m);
        break;
    case 5:
        multiply(5, v, u, blocks, m);
        break;
    default:
        multiply(ROWS, v, u, blocks, m);
    }
}

/* M = V U of n tiles; M is [36][groups][tiles][16]. */
static void multiply_block(const struct work *w, int n, const float *v,
                           const float *u, float *m)
{
    size_t panel = (size_t)w->blocks * LANES;

#pragma omp parallel for collapse(2)
    for (int p = 0; p < POINTS; p++)
        for (int g = 0; g < w->groups; g++)
            for (int i = 0; i < n; i += ROWS)
                multiply_rows(n - i < ROWS ? n - i : ROWS,
                              v + (size_t)p * w->v_step + (size_t)i * panel,
                              u + (size_t)p * w->u_step +
                                  (size_t)g * panel * COLS,
                              w->blocks,
                              m + (size_t)p * w->m_step +
                                  (size_t)(g * w->block + i) * COLS);
}

/* Of 8 outputs. */
struct epilogue {
    __m256 bias, slope, shift;
};

INLINE __m256 finish(const struct epilogue *e, __m256 v)
{
    v = _mm256_add_ps(v, e->bias);
    v = _mm256_blendv_ps(v, _mm256_mul_ps(v, e->slope), v); /* by its sign */
    return _mm256_add_ps(v, e->shift);
}

/* 8 outputs of a tile; m: the first point's, residual and y: the outputs of the
 * first image. */
INLINE void give_tile(const struct mdl_wino *c, struct tile t, const float *m,
                      size_t step, const struct epilogue *e,
                      const float *residual, float *y)
{
    ptrdiff_t at =
        t.image * c->out.image + t.row * c->out.row + t.col * c->out.pixel;
    int rows = c->height - t.row, cols = c->width - t.col;
    __m256 half[SIDE][EDGE];

#pragma GCC unroll 6
    for (int j = 0; j < EDGE; j++) {
        __m256 column[EDGE], out[SIDE];

#pragma GCC unroll 6
        for (int i = 0; i < EDGE; i++)
            column[i] = _mm256_load_ps(m + (size_t)(i * EDGE + j) * step);
        from_points(column, out);
#pragma GCC unroll 4
        for (int i = 0; i < SIDE; i++)
            half[i][j] = out[i];
    }
#pragma GCC unroll 4
    for (int i = 0; i < SIDE; i++) {
        __m256 out[SIDE];

        if (i >= rows)
            break;
        from_points(half[i], out);
#pragma GCC unroll 4
        for (int j = 0; j < SIDE; j++) {
            ptrdiff_t place = at + i * c->out.row + j * c->out.pixel;
            __m256 v = finish(e, out[j]);

            if (j >= cols)
                break;
            if (residual)
                v = _mm256_add_ps(v, _mm256_loadu_ps(residual + place));
            _mm256_storeu_ps(y + place, v);
        }
    }
}

/* 8 outputs of n tiles from t on, from output o on. */
TARGET static void give_outputs(const struct mdl_wino *c, const struct work *w,
                                struct tile t, int n, const float *m, int o,
                                const float *residual, float *y)
{
    const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1);
    ptrdiff_t block = o / LANES * c->out.block;
    const float *from = m + (size_t)(o / COLS * w->block) * COLS + o % COLS;
    const struct epilogue e = {
        c->bias ? _mm256_loadu_ps(c->bias + o) : zero,
        c->slope ? _mm256_loadu_ps(c->slope + o) : one,
        c->shift ? _mm256_loadu_ps(c->shift + o) : zero,
    };

    for (int i = 0; i < n; i++, tile_next(c, SIDE, &t))
        give_tile(c, t, from + i * COLS, w->m_step, &e,
                  residual ? residual + block : NULL, y + block);
}

static void give_block(const struct mdl_wino *c, const struct work *w,
                       struct tile t, int n, const float *m,
                       const float *residual, float *y)
{
#pragma omp parallel for
    for (int o = 0; o < c->outputs; o += LANES)
        give_outputs(c, w, t, n, m, o, residual, y);
}

static void run(const struct mdl_wino *c, int batch, const void *x,
                const void *residual, void *y, void *scratch)
{
    struct work w = wino_f32_work(c, batch);
    float *v = scratch, *m = v + POINTS * w.v_step;

    for (int first = 0; first < w.tiles; first += w.block) {
        int n = w.tiles - first < w.block ? w.tiles - first : w.block;
        struct tile t = tile_at(c, SIDE, first);

        wino_f32_take(c, &w, t, n, ROWS, x, v);
        multiply_block(&w, n, v, c->weights, m);
        give_block(c, &w, t, n, m, residual, y);
    }
}

const struct mdl_wino_kernel mdl_wino_f32 = {
    .name = "winograd f32 F(4,3)",
    .weights_bytes = wino_f32_weights_bytes,
    .pack = wino_f32_pack,
    .pack_back = wino_f32_pack_back,
    .scratch = scratch_bytes,
    .run = run,
    .gradient_scratch = wino_f32_gradient_scratch,
    .gradient = wino_f32_gradient,
};
