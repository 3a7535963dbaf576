#ifndef MODEL_BACKENDS_CUDA_TRAIN_KERNELS_H
#define MODEL_BACKENDS_CUDA_TRAIN_KERNELS_H

#include "model/backends/cuda/gpu.h"

/* The operations of training (train_kernels.cu), queued; graph.h says what each
 * computes. Sums over a batch are of parts, float32, and then of the parts in
 * double: how they are cut depends on the shapes alone, so that a run repeats
 * bit for bit. room: device memory for the parts. */

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes for the sums over x's places, of up to two numbers a channel. */
size_t gpu_t_room(const struct gpu_map *x);

void gpu_t_bn_stats(void *stream, const struct gpu_map *x, float *stats,
                    void *room);
void gpu_t_bn_train(void *stream, const struct gpu_map *x, const float *gamma,
                    const float *beta, const float *stats, float eps,
                    const struct gpu_map *y);
void gpu_t_bn_dparam(void *stream, const struct gpu_map *x, const float *stats,
                     float eps, const struct gpu_map *dy, float *dparam,
                     void *room);
void gpu_t_bn_dx(void *stream, const struct gpu_map *x, const float *gamma,
                 const float *stats, const float *dparam, float eps,
                 const struct gpu_map *dy, const struct gpu_map *dx);

void gpu_t_act_dx(void *stream, int act, float alpha, const float *slope,
                  const struct gpu_map *x, const struct gpu_map *dy,
                  const struct gpu_map *dx);
void gpu_t_act_dslope(void *stream, const struct gpu_map *x,
                      const struct gpu_map *dy, float *dslope, void *room);
void gpu_t_sum(void *stream, const struct gpu_map *x, float *sums, void *room);

void gpu_t_pool_dx(void *stream, const struct gpu_map *dy,
                   const struct gpu_map *dx);
void gpu_t_scale_ds(void *stream, const struct gpu_map *x,
                    const struct gpu_map *dy, const struct gpu_map *ds);
void gpu_t_l2norm_dx(void *stream, const struct gpu_map *x,
                     const struct gpu_map *dy, const struct gpu_map *dx);
void gpu_t_upsample_dx(void *stream, const struct gpu_map *dy,
                       const struct gpu_map *dx);
void gpu_t_slice(void *stream, const struct gpu_map *x, int first,
                 const struct gpu_map *y);
void gpu_t_softmax_dx(void *stream, const struct gpu_map *y,
                      const struct gpu_map *dy, const struct gpu_map *dx);

/* w as for gpu_k_conv; dw in the same order, float32. */
void gpu_t_conv_dx(void *stream, const struct gpu_window *k,
                   const struct gpu_map *dy, const void *w,
                   const struct gpu_map *dx);
size_t gpu_t_conv_dw_room(const struct gpu_window *k, const struct gpu_map *x,
                          const struct gpu_map *dy);
void gpu_t_conv_dw(void *stream, const struct gpu_window *k,
                   const struct gpu_map *x, const struct gpu_map *dy, float *dw,
                   void *room);

/* Fully connected: dy [batch, o] float32; w [o, h w c] of the type of x and
 * dx; dw float32. */
void gpu_t_rows_dx(void *stream, const struct gpu_map *dy, const void *w,
                   const struct gpu_map *dx);
void gpu_t_rows_dw(void *stream, const struct gpu_map *x,
                   const struct gpu_map *dy, float *dw);

/* The other way than gpu_k_output: from row-major float32. */
void gpu_t_input(void *stream, const float *x, const struct gpu_map *y);

#ifdef __cplusplus
}
#endif

#endif
