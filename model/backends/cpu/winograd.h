#ifndef MODEL_BACKENDS_CPU_WINOGRAD_H
#define MODEL_BACKENDS_CPU_WINOGRAD_H

#include <stdbool.h>
#include <stddef.h>

/* 3x3, stride 1, pad 1 convolutions by Winograd's fewer multiplications, with
 * their epilogue: y = act(conv(x) + bias) + shift + residual. Accumulated in
 * float32. Their gradients too: that by x is such a convolution of dy.
 * Source: Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural
 * Networks", section 4. */

/* Where a block of channels of a pixel lies, in elements. */
struct mdl_wino_layout {
    ptrdiff_t image, row, pixel, block; /* next of each */
};

struct mdl_wino_kernel;

struct mdl_wino {
    const struct mdl_wino_kernel *kernel;
    int channels, outputs;
    int height, width;
    struct mdl_wino_layout in, out;
    const void *weights; /* as the kernel packed them */
    /* Each [outputs], with zeros up to a whole block of channels, or NULL. */
    const float *bias;
    const float *slope; /* of what is below zero; NULL: no activation */
    const float *shift;
};

struct mdl_wino_kernel {
    const char *name;
    /* Bytes of the transformed weights. */
    size_t (*weights_bytes)(int channels, int outputs);
    /* Transforms w, [outputs, channels, 3, 3] float32, into out, 64-byte
     * aligned. */
    void (*pack)(const float *w, int channels, int outputs, void *out);
    /* The same for the gradient by x of the convolution with w, which is
     * [channels, outputs, 3, 3] then. NULL: no gradients. */
    void (*pack_back)(const float *w, int channels, int outputs, void *out);
    /* Bytes of scratch that a run over so many images needs. */
    size_t (*scratch)(const struct mdl_wino *c, int batch);
    /* x, y, residual: elements of the kernel's type in the layouts given
     * (residual in out's, or NULL; it may be y itself). scratch: 64-byte
     * aligned. Thread: any, one scratch per thread. */
    void (*run)(const struct mdl_wino *c, int batch, const void *x,
                const void *residual, void *y, void *scratch);
    /* The gradient by the weights, dw [outputs, channels, 3, 3] float32, of
     * x and the gradient dy by y; its scratch. NULL: no gradients. */
    size_t (*gradient_scratch)(const struct mdl_wino *c, int batch);
    void (*gradient)(const struct mdl_wino *c, int batch, const void *x,
                     const void *dy, float *dw, void *scratch);
};

/* F(2x2, 3x3), 2.25 times fewer multiplications: bfloat16 in blocks of 16
 * channels, by AVX-512 BF16; channels a multiple of 32, outputs of 64. */
extern const struct mdl_wino_kernel mdl_wino_bf16;
bool mdl_wino_bf16_available(void);

/* F(4x4, 3x3), 4 times fewer: float32 in blocks of 8 channels, zero where
 * padded, by AVX2. Uses OpenMP's threads; what it computes does not depend on
 * their number. */
extern const struct mdl_wino_kernel mdl_wino_f32;

/* The kernel that does such a convolution faster than oneDNN on this
 * processor; NULL if none does. */
const struct mdl_wino_kernel *
mdl_wino_choose(bool bf16, int channels, int outputs, int height, int width);

#endif
