/* Kernels to which it is all one how maps lie. */
#include "model/backends/cpu/kernels.h"

#include <math.h>

#include "model/backends/cpu/per_isa.h"

INLINE void image(const struct mdl_node *n, const uint8_t *rgb, int batch,
                  int pixels, bool bf16, void *out)
{
    for (int i = 0; i < batch; i++)
        for (int c = 0; c < 3; c++) {
            const uint8_t *in =
                rgb + (size_t)i * (size_t)pixels * 3 + (n->bgr ? 2 - c : c);
            size_t at = ((size_t)i * 3 + (size_t)c) * (size_t)pixels;

            for (int p = 0; p < pixels; p++) {
                float v = (in[3 * (size_t)p] - n->mean[c]) * n->scale[c];

                if (bf16)
                    ((uint16_t *)out)[at + (size_t)p] = mdl_bf16_of(v);
                else
                    ((float *)out)[at + (size_t)p] = v;
            }
        }
}

PER_ISA(, mdl_k_image, image,
        (const struct mdl_node *n, const uint8_t *rgb, int batch, int pixels,
         bool bf16, void *out),
        (n, rgb, batch, pixels, bf16, out))

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
