/* Kernels to which it is all one how maps lie. */
#include "model/backends/cpu/kernels.h"

#include <math.h>
#include <string.h>

#include "model/backends/cpu/per_isa.h"

INLINE void image_in(size_t lanes, const struct mdl_node *n, const uint8_t *rgb,
                     const struct mdl_map *y)
{
    size_t pixels = (size_t)y->height * (size_t)y->width;
    bool bf16 = y->bf16;
    void *out = y->data;

    for (size_t i = 0; i < (size_t)y->batch; i++)
        for (size_t c = 0; c < 3; c++) {
            const uint8_t *in = rgb + i * pixels * 3 + (n->bgr ? 2 - c : c);
            size_t at =
                lanes == 1 ? (i * 3 + c) * pixels : i * pixels * lanes + c;

            for (size_t p = 0; p < pixels; p++) {
                float v = (in[3 * p] - n->mean[c]) * n->scale[c];

                if (bf16)
                    ((uint16_t *)out)[at + p * lanes] = mdl_bf16_of(v);
                else
                    ((float *)out)[at + p * lanes] = v;
            }
        }
}

INLINE void image(const struct mdl_node *n, const uint8_t *rgb,
                  const struct mdl_map *y)
{
    size_t lanes = (size_t)y->lanes;
    size_t places = (size_t)y->batch * (size_t)y->height * (size_t)y->width;

    if (lanes == 1) {
        image_in(1, n, rgb, y);
    } else {
        memset(y->data, 0, places * lanes * (y->bf16 ? 2 : 4));
        image_in(lanes, n, rgb, y);
    }
}

PER_ISA(, mdl_k_image, image,
        (const struct mdl_node *n, const uint8_t *rgb, const struct mdl_map *y),
        (n, rgb, y))

void mdl_k_l2norm(const struct mdl_map *x, const struct mdl_map *y)
{
    for (int n = 0; n < x->batch; n++) {
        const float *in = (const float *)x->data + n * x->channels;
        float *out = (float *)y->data + n * x->channels;
        double sum = 0;

        for (int c = 0; c < x->channels; c++)
            sum += (double)in[c] * in[c];
        for (int c = 0; c < x->channels; c++)
            out[c] = (float)(in[c] / fmax(sqrt(sum), 1e-12));
    }
}
