#ifndef MODEL_BACKENDS_CPU_TRAIN_KERNELS_H
#define MODEL_BACKENDS_CPU_TRAIN_KERNELS_H

#include "model/backends/cpu/kernels.h"

/* The operations of training over maps and vectors, sums in float32 and
 * beyond; graph.h says what each computes. Whole results are plain arrays. All
 * use OpenMP's threads, and add up in an order that does not depend on their
 * number. */

struct mdl_train_kernels {
    void (*bn_stats)(const struct mdl_map *x, float *stats);
    void (*bn_train)(const struct mdl_map *x, const float *gamma,
                     const float *beta, const float *stats, float eps,
                     const struct mdl_map *y);
    void (*bn_dparam)(const struct mdl_map *x, const float *stats, float eps,
                      const struct mdl_map *dy, float *dparam);
    void (*bn_dx)(const struct mdl_map *x, const float *gamma,
                  const float *stats, const float *dparam, float eps,
                  const struct mdl_map *dy, const struct mdl_map *dx);

    void (*act_dx)(enum mdl_act act, float alpha, const float *slope,
                   const struct mdl_map *x, const struct mdl_map *dy,
                   const struct mdl_map *dx);
    void (*act_dslope)(const struct mdl_map *x, const struct mdl_map *dy,
                       float *dslope);
    void (*sum)(const struct mdl_map *x, float *sums);
    void (*pool_dx)(const struct mdl_map *dy, const struct mdl_map *dx);
    void (*scale_ds)(const struct mdl_map *x, const struct mdl_map *dy,
                     const struct mdl_map *ds);
    void (*l2norm_dx)(const struct mdl_map *x, const struct mdl_map *dy,
                      const struct mdl_map *dx);
    void (*upsample_dx)(const struct mdl_map *dy, const struct mdl_map *dx);
    void (*slice)(const struct mdl_map *x, int first, const struct mdl_map *y);
    void (*softmax_dx)(const struct mdl_map *y, const struct mdl_map *dy,
                       const struct mdl_map *dx);

    /* What to_rows of struct mdl_kernels wrote. */
    void (*from_rows)(const float *rows, const struct mdl_map *x);
};
extern const struct mdl_train_kernels mdl_train_kernels_8, mdl_train_kernels_16;

#endif
