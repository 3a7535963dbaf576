#ifndef MODEL_BACKENDS_CPU_KERNELS_H
#define MODEL_BACKENDS_CPU_KERNELS_H

#include <stdint.h>

#include "model/graph.h"

/* Our own operations. Maps lie in blocks of so many channels as suit the
 * processor (nChw16c, nChw8c), padded lanes zero; vectors are plain [batch, C]
 * float32. Thread: any. */

struct mdl_map {
    void *data;
    int batch, channels, height, width;
    int lanes;   /* channels of a block; 1, a plain array: the picture, where
                    only convolutions read it */
    bool bf16;   /* elements */
    bool vector; /* [batch, channels] float32 */
};

static inline int mdl_map_blocks(const struct mdl_map *m)
{
    return (m->channels + m->lanes - 1) / m->lanes;
}

/* u8 [batch, h, w, 3] to a map of 3 channels, also a plain one. */
void mdl_k_image(const struct mdl_node *n, const uint8_t *rgb,
                 const struct mdl_map *y);
void mdl_k_l2norm(const struct mdl_map *x, const struct mdl_map *y);

/* Those that know how maps lie; maps or vectors. Arrays are by channel. They
 * use OpenMP's threads. */
struct mdl_kernels {
    int lanes;
    /* y = act(x) + shift + residual; y may be x. slope, shift and residual may
     * be NULL. */
    void (*act)(const struct mdl_map *x, enum mdl_act act, float alpha,
                const float *slope, const float *shift,
                const struct mdl_map *residual, const struct mdl_map *y);
    /* y = s x + t by channel. */
    void (*affine)(const struct mdl_map *x, const float *s, const float *t,
                   const struct mdl_map *y);
    void (*pool)(const struct mdl_map *x, const struct mdl_map *y);
    void (*add)(const struct mdl_map *x, int n, const struct mdl_map *y);
    void (*scale)(const struct mdl_map *x, const struct mdl_map *s,
                  const struct mdl_map *y);
    void (*upsample)(const struct mdl_map *x, const struct mdl_map *y);
    void (*concat)(const struct mdl_map *x, int n, const struct mdl_map *y);
    void (*softmax)(const struct mdl_map *x, const struct mdl_map *y);
    /* To row-major float32 [batch, C, H, W]. */
    void (*to_rows)(const struct mdl_map *x, float *rows);
};
extern const struct mdl_kernels mdl_kernels_8, mdl_kernels_16;

#endif
