#ifndef MODEL_BACKENDS_CPU_KERNELS_H
#define MODEL_BACKENDS_CPU_KERNELS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "model/graph.h"

/* Our own operations. Maps lie in blocks of so many channels as suit the
 * processor (nChw16c, nChw8c), padded lanes zero; vectors are plain [batch, C]
 * float32. Thread: any. */

struct mdl_map {
    void *data;
    int batch, channels, height, width;
    int lanes;   /* channels of a block */
    bool bf16;   /* elements */
    bool vector; /* [batch, channels] float32 */
};

static inline int mdl_map_blocks(const struct mdl_map *m)
{
    return (m->channels + m->lanes - 1) / m->lanes;
}

static inline float mdl_float_of(uint16_t bf16)
{
    uint32_t bits = (uint32_t)bf16 << 16;
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* To the nearest, ties to even. */
static inline uint16_t mdl_bf16_of(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float mdl_activate(enum mdl_act act, float alpha, float slope,
                                 float x)
{
    switch (act) {
    case MDL_ACT_NONE:
        return x;
    case MDL_ACT_RELU:
        return x > 0 ? x : 0;
    case MDL_ACT_RELU6:
        return x > 0 ? (x < 6 ? x : 6) : 0;
    case MDL_ACT_LEAKY:
        return x > 0 ? x : alpha * x;
    case MDL_ACT_PRELU:
        return x > 0 ? x : slope * x;
    case MDL_ACT_SIGMOID:
        return 1 / (1 + expf(-x));
    }
    return x;
}

/* y = act(y), in place, of a vector map. */
void mdl_k_activate(const struct mdl_map *y, enum mdl_act act, float alpha,
                    const float *slope);
/* u8 [batch, h, w, 3] to [batch, 3, h, w], plain, float32 or bfloat16. */
void mdl_k_image(const struct mdl_node *n, const uint8_t *rgb, int batch,
                 int pixels, bool bf16, void *out);
void mdl_k_l2norm(const struct mdl_map *x, const struct mdl_map *y);

/* Those that know how maps lie. Arrays of channels are [blocks * lanes], zero
 * where padded. */
struct mdl_kernels {
    int lanes;
    /* y = act(y) + shift + residual, in place; slope, shift and residual may
     * be NULL. */
    void (*epilogue)(const struct mdl_map *y, enum mdl_act act, float alpha,
                     const float *slope, const float *shift,
                     const void *residual);
    /* y = s x + t by channel. */
    void (*affine)(const struct mdl_map *x, const float *s, const float *t,
                   const struct mdl_map *y);
    void (*copy)(const struct mdl_map *x, const struct mdl_map *y);
    void (*pool)(const struct mdl_map *x, const struct mdl_map *y);
    void (*add)(const struct mdl_map *x, int n, const struct mdl_map *y);
    void (*scale)(const struct mdl_map *x, const struct mdl_map *s,
                  const struct mdl_map *y);
    void (*upsample)(const struct mdl_map *x, const struct mdl_map *y);
    void (*concat)(const struct mdl_map *x, int n, const struct mdl_map *y);
    void (*softmax)(const struct mdl_map *x, const struct mdl_map *y);
    /* To row-major float32 [batch, C, H, W]. */
    void (*output)(const struct mdl_map *x, float *out);
};
extern const struct mdl_kernels mdl_kernels_8, mdl_kernels_16;

#endif
