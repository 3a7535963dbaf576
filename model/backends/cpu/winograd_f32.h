#ifndef MODEL_BACKENDS_CPU_WINOGRAD_F32_H
#define MODEL_BACKENDS_CPU_WINOGRAD_F32_H

#include <immintrin.h>

#include "model/backends/cpu/winograd_tile.h"

/* What the files of Winograd F(4x4, 3x3) in float32 share: the convolution
 * (winograd_f32.c), its filters (winograd_f32_filters.c), its gradient by the
 * weights (winograd_f32_gradient.c).
 *
 *   V[p] = (B^T d B)[p]    input tile 6x6 -> 36 matrices  [tiles, channels]
 *   U[p] = (G g G^T)[p]    filter 3x3 -> 36 matrices      [channels, outputs]
 *
 * The 36 points are 0, A, -A, B, -B and infinity in each direction. U lies as
 * [36][outputs / 16][channels][16], in the order in which it is read. */

#define SIDE 4 /* outputs along a side of a tile */
#define EDGE 6 /* inputs */
#define POINTS 36
#define LANES 8
#define ROWS 6  /* per kernel call: 6 x 2 of 16 registers add up */
#define COLS 16 /* outputs per kernel call */

/* Any two numbers would do; with these the error is a third of that with the
 * usual 1 and 2, and all that is made of them is exact in float32. */
#define A 0.75f
#define B 1.5f

#define TARGET __attribute__((target("avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) TARGET

static inline size_t up(int n, int to)
{
    return (size_t)(n + to - 1) / (size_t)to * (size_t)to;
}

/* How a batch is taken. */
struct work {
    int blocks, groups; /* of 8 channels, of 16 outputs */
    int tiles, block;   /* of the batch, and at a time */
    /* Floats from a point to the next: a cache line more than it fills, as
     * multiples of 4 KiB would put all of them into one set of the cache. */
    size_t u_step, v_step, m_step;
};

struct work wino_f32_work(const struct mdl_wino *c, int batch);

/* n tiles from t on into V: for each point, `most` tiles side by side for each
 * block of channels, [n / most][blocks][most][8]; the last are fewer. */
void wino_f32_take(const struct mdl_wino *c, const struct work *w,
                   struct tile t, int n, int most, const float *x, float *v);

/* As in struct mdl_wino_kernel; floats from a point of U to the next. */
size_t wino_f32_u_step(int channels, int outputs);
size_t wino_f32_weights_bytes(int channels, int outputs);
void wino_f32_pack(const float *w, int channels, int outputs, void *u);
void wino_f32_pack_back(const float *w, int channels, int outputs, void *u);
/* dw = G^T dU G, [outputs, channels, 3, 3]. */
void wino_f32_unpack(const float *du, int channels, int outputs, float *dw);

/* As in struct mdl_wino_kernel. */
size_t wino_f32_gradient_scratch(const struct mdl_wino *c, int batch);
void wino_f32_gradient(const struct mdl_wino *c, int batch, const void *x,
                       const void *dy, float *dw, void *scratch);

#endif
