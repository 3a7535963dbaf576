#ifndef MODEL_BACKENDS_CPU_WINOGRAD_H
#define MODEL_BACKENDS_CPU_WINOGRAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A 3x3, stride 1, pad 1 convolution in bfloat16 by Winograd F(2x2, 3x3), with
 * its epilogue: y = act(conv(x) + bias) + shift + residual. 2.25 times fewer
 * multiplications than direct; accumulates in float32.
 * Source: Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural
 * Networks", section 4.1. */

/* Where 16 channels of a pixel lie, in elements: nhwc and nChw16c alike. */
struct mdl_wino_layout {
    ptrdiff_t image, row, pixel,
        block; /* next image, row, pixel, 16 channels */
};

struct mdl_wino {
    int channels, outputs; /* multiples of 32 and of 64 */
    int height, width;
    struct mdl_wino_layout in, out;
    const uint16_t *weights; /* mdl_wino_weights' output */
    const float *bias;       /* [outputs] or NULL */
    const float *slope;      /* [outputs]: PReLU; NULL: no activation */
    const float *shift;      /* [outputs] or NULL */
};

/* Whether this processor has what the kernel needs (AVX-512 BF16). */
bool mdl_wino_available(void);

/* Whether the kernel takes such channels. */
bool mdl_wino_fits(int channels, int outputs);

/* Elements of the transformed weights. */
size_t mdl_wino_weights_count(int channels, int outputs);

/* Transforms w, [outputs, channels, 3, 3] float32, into out, 64-byte aligned,
 * mdl_wino_weights_count elements. */
void mdl_wino_weights(const float *w, int channels, int outputs, uint16_t *out);

/* Bytes of scratch that one run needs. */
size_t mdl_wino_scratch(const struct mdl_wino *c);

/* x, y, residual: bfloat16 in the layouts given (residual in out's, or NULL;
 * it may be y itself). scratch: 64-byte aligned. Thread: any, one scratch per
 * thread. */
void mdl_wino_run(const struct mdl_wino *c, int batch, const uint16_t *x,
                  const uint16_t *residual, uint16_t *y, void *scratch);

#endif
