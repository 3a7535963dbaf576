#ifndef MODEL_BACKENDS_CUDA_LEARNER_KERNELS_H
#define MODEL_BACKENDS_CUDA_LEARNER_KERNELS_H

#include "model/backends/cuda/gpu.h"

/* What moves a learner's arrays (learner_kernels.cu), queued. A network has
 * hundreds of tensors, most of them small: a launch takes up to GPU_LIST of
 * them, cut into chunks, and their numbers come with its arguments, which may
 * be 4 KiB: nothing is copied for it, nothing is waited for. How a tensor is
 * cut depends on its size alone, so that sums repeat bit for bit. */

#ifdef __cplusplus
extern "C" {
#endif

#define GPU_LIST 64
#define GPU_CHUNK 4096 /* numbers */
#define GPU_CHUNKS(n) ((n) / GPU_CHUNK + ((n) % GPU_CHUNK != 0))

/* In all lists: n numbers of a tensor, which begin with the launch's chunk
 * `chunk`. */

/* to[j] = or += the row-major number at + j of from, which is a map of so many
 * channels and places an image. */
struct gpu_gather {
    const float *from;
    float *to;
    uint32_t n, chunk, at, channels, places;
    int more;
};
struct gpu_gathers {
    int n;
    uint32_t chunks;
    struct gpu_gather of[GPU_LIST];
};
void gpu_l_gather(void *stream, const struct gpu_gathers *l);

/* mean, var [n] go towards stats [2, n], as of struct mdl_running. */
struct gpu_run {
    const float *stats;
    float *mean, *var;
    uint32_t n, chunk;
    float momentum, unbias;
};
struct gpu_runs {
    int n;
    uint32_t chunks;
    struct gpu_run of[GPU_LIST];
};
void gpu_l_run(void *stream, const struct gpu_runs *l);

/* to, a map of so many channels and places an image, from row-major numbers. */
struct gpu_layout {
    const float *from;
    void *to;
    uint32_t n, chunk, channels, places;
    enum gpu_type type;
};
struct gpu_layouts {
    int n;
    uint32_t chunks;
    struct gpu_layout of[GPU_LIST];
};
void gpu_l_layout(void *stream, const struct gpu_layouts *l);

/* squares[to] = the sum of the squares of x's numbers from `at` on. */
struct gpu_square {
    size_t at;
    uint32_t n, chunk, part; /* part: where its chunks' sums begin */
    int to;
};
struct gpu_squares {
    int n;
    uint32_t chunks;
    const float *x;
    double *parts, *squares;
    struct gpu_square of[GPU_LIST];
};
void gpu_l_square(void *stream, const struct gpu_squares *l);

/* Adam: joined is the weight decay that joins the gradient, keep what the other
 * leaves of x, step the rate over the first moment's correction, fix the root
 * of the second's. SGD: keep is the momentum, step the rate. */
struct gpu_move {
    size_t at;
    uint32_t n, chunk;
    float joined, keep, step, fix;
};
struct gpu_moves {
    int n;
    uint32_t chunks;
    float factor, beta1, beta2, eps;
    float *x, *first, *second; /* of all tensors */
    const float *gradient;
    struct gpu_move of[GPU_LIST];
};
void gpu_l_sgd(void *stream, const struct gpu_moves *l);
void gpu_l_adam(void *stream, const struct gpu_moves *l);

void gpu_l_zero(void *stream, float *x, size_t n);

#ifdef __cplusplus
}
#endif

#endif
