#ifndef MODEL_BACKENDS_CUDA_SEARCH_H
#define MODEL_BACKENDS_CUDA_SEARCH_H

#include "model/backends/cuda/gpu.h"
#include "model/index.h"

/* Among the scores of a query's panels, the highest again and again: a tree of
 * maxima, SEARCH_FAN children to a node, the panels first. */

#define SEARCH_FAN 32
#define SEARCH_LEVELS 7 /* 32^7 panels */

struct gpu_tree {
    int levels;                     /* at most FAN nodes in the last */
    long long first[SEARCH_LEVELS]; /* where a level begins          */
    long long n[SEARCH_LEVELS];     /* its nodes                     */
    long long size;                 /* of one query's tree           */
};

#ifdef __cplusplus
extern "C" {
#endif

/* device.c: rows of one product, a multiple of a panel's. Their scores for
 * all queries stay in the chip's second-level cache. */
extern const int gpu_tile_rows;

/* search.cu. scores [queries][tile]; rows of them count. Into the trees
 * [queries][t->size], from panel first on, for all panels of the tile. */
void gpu_k_panels(void *stream, const float *scores, int tile, int rows,
                  int queries, const struct gpu_tree *t, long long first,
                  float *trees);
/* Every level from the one below. */
void gpu_k_grow(void *stream, const struct gpu_tree *t, int queries,
                float *trees);
/* The next MDL_INDEX_NEAR of each query [queries][NEAR], which leave the tree.
 */
void gpu_k_nearest(void *stream, const struct gpu_tree *t, int queries,
                   float *trees, struct mdl_near *near);

#ifdef __cplusplus
}
#endif

#endif
