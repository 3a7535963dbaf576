/* The filters of Winograd F(4x4, 3x3), to the points and from them. */
#include "model/backends/cpu/winograd_f32.h"

size_t wino_f32_u_step(int channels, int outputs)
{
    return up(channels, LANES) * up(outputs, COLS) + COLS;
}

size_t wino_f32_weights_bytes(int channels, int outputs)
{
    return POINTS * wino_f32_u_step(channels, outputs) * sizeof(float);
}

/* Eight filters' numbers side by side: in double, as they are few. */
typedef double filters __attribute__((vector_size(LANES * sizeof(double))));
typedef float narrow
    __attribute__((vector_size(LANES * sizeof(float)), may_alias));

#define OF_0 (1 / (1.0 * A * A * B * B))
#define OF_A (1 / (2.0 * A * A * (A * A - B * B)))
#define OF_B (1 / (2.0 * B * B * (B * B - A * A)))

/* G g, at 0, A, -A, B, -B and infinity. */
INLINE void filter_to_points(const filters g[3], filters u[EDGE])
{
    const filters even_a = OF_A * (g[0] + A * A * g[2]),
                  odd_a = OF_A * A * g[1];
    const filters even_b = OF_B * (g[0] + B * B * g[2]),
                  odd_b = OF_B * B * g[1];

    u[0] = OF_0 * g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
}

/* Where a filter's nine numbers lie in w. */
struct filter_layout {
    size_t output, channel; /* floats to the next */
    bool turned;            /* by half a turn */
};

/* U of n of 8 outputs, of one channel; u: the first point's place. */
INLINE void pack_filters(const float *w, const struct filter_layout *l, int n,
                         size_t step, float *u)
{
    filters g[3][3] = {0}, half[EDGE][3];

    for (int i = 0; i < n; i++)
#pragma GCC unroll 9
        for (int k = 0; k < 9; k++)
            g[k / 3][k % 3][i] =
                w[(size_t)i * l->output + (size_t)(l->turned ? 8 - k : k)];
#pragma GCC unroll 3
    for (int k = 0; k < 3; k++) {
        const filters column[3] = {g[0][k], g[1][k], g[2][k]};
        filters points[EDGE];

        filter_to_points(column, points);
#pragma GCC unroll 6
        for (int i = 0; i < EDGE; i++)
            half[i][k] = points[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < EDGE; i++) {
        filters points[EDGE];

        filter_to_points(half[i], points);
#pragma GCC unroll 6
        for (int j = 0; j < EDGE; j++)
            *(narrow *)(u + (size_t)(i * EDGE + j) * step) =
                __builtin_convertvector(points[j], narrow);
    }
}

/* U of 16 outputs from o on, of channel c. */
TARGET static void pack_group(const float *w, const struct filter_layout *l,
                              int channels, int outputs, int o, int c, float *u)
{
    size_t padded = up(channels, LANES),
           step = wino_f32_u_step(channels, outputs);

    u += ((size_t)(o / COLS) * padded + (size_t)c) * COLS;
    for (int k = 0; k < COLS; k += LANES, o += LANES) {
        int n = c < channels && o < outputs ? outputs - o : 0;
        const float *from =
            n ? w + (size_t)o * l->output + (size_t)c * l->channel : w;

        pack_filters(from, l, n < LANES ? n : LANES, step, u + k);
    }
}

static void pack_all(const float *w, const struct filter_layout *l,
                     int channels, int outputs, float *u)
{
    int padded = (int)up(channels, LANES);

#pragma omp parallel for collapse(2)
    for (int o = 0; o < outputs; o += COLS)
        for (int c = 0; c < padded; c++)
            pack_group(w, l, channels, outputs, o, c, u);
}

void wino_f32_pack(const float *w, int channels, int outputs, void *out)
{
    const struct filter_layout l = {9 * (size_t)channels, 9, false};

    pack_all(w, &l, channels, outputs, out);
}

void wino_f32_pack_back(const float *w, int channels, int outputs, void *out)
{
    const struct filter_layout l = {9, 9 * (size_t)outputs, true};

    pack_all(w, &l, channels, outputs, out);
}

/* G^T u */
INLINE void filter_from_points(const filters u[EDGE], filters g[3])
{
    const filters even_a = OF_A * (u[1] + u[2]), odd_a = OF_A * (u[1] - u[2]);
    const filters even_b = OF_B * (u[3] + u[4]), odd_b = OF_B * (u[3] - u[4]);

    g[0] = OF_0 * u[0] + even_a + even_b;
    g[1] = A * odd_a + B * odd_b;
    g[2] = A * A * even_a + B * B * even_b + u[5];
}

/* dw of n of 8 outputs, of one channel; du: the first point's place. */
INLINE void unpack_filters(const float *du, size_t step, int n, size_t output,
                           float *dw)
{
    filters half[3][EDGE], g[3];

#pragma GCC unroll 6
    for (int j = 0; j < EDGE; j++) {
        filters column[EDGE];

#pragma GCC unroll 6
        for (int i = 0; i < EDGE; i++)
            column[i] = __builtin_convertvector(
                *(const narrow *)(du + (size_t)(i * EDGE + j) * step), filters);
        filter_from_points(column, g);
#pragma GCC unroll 3
        for (int k = 0; k < 3; k++)
            half[k][j] = g[k];
    }
#pragma GCC unroll 3
    for (int k = 0; k < 3; k++) {
        filter_from_points(half[k], g);
        for (int i = 0; i < n; i++)
#pragma GCC unroll 3
            for (int j = 0; j < 3; j++)
                dw[(size_t)i * output + (size_t)(k * 3 + j)] = (float)g[j][i];
    }
}

/* Of 16 outputs from o on, of channel c. */
TARGET static void unpack_group(const float *du, int channels, int outputs,
                                int o, int c, float *dw)
{
    size_t padded = up(channels, LANES),
           step = wino_f32_u_step(channels, outputs);
    size_t output = 9 * (size_t)channels;

    du += ((size_t)(o / COLS) * padded + (size_t)c) * COLS;
    dw += (size_t)c * 9;
    for (int k = 0; k < COLS && o < outputs; k += LANES, o += LANES)
        unpack_filters(du + k, step, outputs - o < LANES ? outputs - o : LANES,
                       output, dw + (size_t)o * output);
}

void wino_f32_unpack(const float *du, int channels, int outputs, float *dw)
{
#pragma omp parallel for collapse(2)
    for (int o = 0; o < outputs; o += COLS)
        for (int c = 0; c < channels; c++)
            unpack_group(du, channels, outputs, o, c, dw);
}
