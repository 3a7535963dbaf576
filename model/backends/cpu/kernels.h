#ifndef MODEL_BACKENDS_CPU_KERNELS_H
#define MODEL_BACKENDS_CPU_KERNELS_H

#include "model/graph.h"

/* Our own operations. Maps are nChw16c: blocks of 16 channels, padded lanes
 * zero; vectors are plain [batch, C] float32. Thread: any. */

struct mdl_map {
    void *data;
    int batch, channels, height, width;
    bool bf16;   /* elements */
    bool vector; /* [batch, channels] float32 */
};

/* Blocks of 16 channels. */
static inline int mdl_map_blocks(const struct mdl_map *m)
{
    return (m->channels + 15) / 16;
}

/* y = act(y) + shift + residual, in place. slope, shift: [blocks * 16], zero
 * where padded, or NULL; residual may be NULL. */
void mdl_k_epilogue(const struct mdl_map *y, enum mdl_act act, float alpha,
                    const float *slope, const float *shift,
                    const void *residual);

/* y = act(y), in place, of a vector map. */
void mdl_k_activate(const struct mdl_map *y, enum mdl_act act, float alpha,
                    const float *slope);

/* y = s x + t by channel; s, t: [blocks * 16], zero where padded. */
void mdl_k_affine(const struct mdl_map *x, const float *s, const float *t,
                  const struct mdl_map *y);

/* u8 [batch, h, w, 3] to [batch, 3, h, w], plain, float32 or bfloat16. */
void mdl_k_image(const struct mdl_node *n, const uint8_t *rgb, int batch,
                 int pixels, bool bf16, void *out);

void mdl_k_copy(const struct mdl_map *x, const struct mdl_map *y);
void mdl_k_pool(const struct mdl_map *x, const struct mdl_map *y);
void mdl_k_add(const struct mdl_map *x, int n, const struct mdl_map *y);
void mdl_k_scale(const struct mdl_map *x, const struct mdl_map *s,
                 const struct mdl_map *y);
void mdl_k_l2norm(const struct mdl_map *x, const struct mdl_map *y);
void mdl_k_upsample(const struct mdl_map *x, const struct mdl_map *y);
void mdl_k_concat(const struct mdl_map *x, int n, const struct mdl_map *y);
void mdl_k_softmax(const struct mdl_map *x, const struct mdl_map *y);

/* To row-major float32 [batch, C, H, W]. */
void mdl_k_output(const struct mdl_map *x, float *out);

#endif
