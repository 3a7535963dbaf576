#ifndef MODEL_BACKENDS_CUDA_LOSS_KERNELS_H
#define MODEL_BACKENDS_CUDA_LOSS_KERNELS_H

#include "model/backends/cuda/gpu.h"

/* What losses.c computes beside its products (loss_kernels.cu), queued. All
 * numbers are float32 and on the device; sums are of doubles, cut by the shapes
 * alone, so that a loss repeats bit for bit. */

/* The margin m of ArcFace, as its kernels want it. */
struct gpu_arcface {
    int classes, k;
    double scale, cosine, sine; /* of m */
    double past;                /* cos(pi - m) */
    double less;                /* m sin m: taken away past it */
};

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of x [rows, dim] to length 1, and their lengths [rows], 1e-12 at least.
 */
void gpu_loss_unit(void *stream, const float *x, int rows, int dim, float *unit,
                   float *norm);
/* d [rows, dim], the gradient by x / |x|, to the gradient by x: out = share
 * times it, or that more. out may be d. */
void gpu_loss_through_unit(void *stream, const float *x, const float *norm,
                           const float *d, int rows, int dim, float share,
                           bool more, float *out);
/* out [n] = share times d, or that more. */
void gpu_loss_share(void *stream, const float *d, long long n, float share,
                    bool more, float *out);

/* cosine [n, classes, k] becomes the gradient by it of the mean over the
 * labelled, of which there is at least one unless all of label [n] is below 0.
 * loss [n]: each one's own. room: device memory. */
size_t gpu_loss_arcface_room(const struct gpu_arcface *a, int n);
void gpu_loss_arcface(void *stream, const struct gpu_arcface *a,
                      const int32_t *label, int n, int labelled, float *cosine,
                      double *loss, void *room);

/* p [n, dim] becomes the gradient by it of weight times the mean of 1 - <p /
 * |p|, teacher>; loss [n]: its terms. */
void gpu_loss_cosine(void *stream, const float *teacher, int n, int dim,
                     double weight, float *p, double *loss);
/* here, there [n, n]: cosines of all pairs. here becomes twice the gradient by
 * it of weight times the mean over pairs of (here - there)^2, for its two
 * sides; loss [n]: what each row adds to that mean. */
void gpu_loss_similarity(void *stream, const float *there, int n, double weight,
                         float *here, double *loss);

/* Each column of x [rows, columns] to mean 0 and, if asked, to deviation 1. */
size_t gpu_loss_standard_room(int rows, int columns);
void gpu_loss_standard(void *stream, int rows, int columns, bool deviation,
                       float *x, void *room);
/* said [n] becomes the gradient by it of factor times the sum of (said -
 * wanted)^2; loss [gpu_loss_off_parts]: parts of that sum. */
int gpu_loss_off_parts(long long n);
void gpu_loss_off(void *stream, const float *wanted, long long n, double factor,
                  float *said, double *loss);

#ifdef __cplusplus
}
#endif

#endif
