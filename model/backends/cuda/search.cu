/* From a tile's scores to the nearest panels. Scores of all rows never lie in
 * memory together: a tile's are read once, from the cache, and of each panel
 * the best is kept. */
#include "model/backends/cuda/kernel.cuh"
#include "model/backends/cuda/search.h"

#include <limits.h>

#ifdef __CUDACC__
#define WARP_IN_STEP __syncwarp()

INLINE void warp_best(float *x, int *at)
{
    for (int k = 16; k; k /= 2) {
        float y = __shfl_xor_sync(0xffffffffu, *x, k);
        int other = __shfl_xor_sync(0xffffffffu, *at, k);

        if (y > *x || (y == *x && other < *at)) {
            *x = y;
            *at = other;
        }
    }
}
#else
#define WARP_IN_STEP ((void)0)

INLINE void warp_best(float *x, int *at)
{
    (void)x;
    (void)at;
}
#endif

/* The highest of x[from, to), and where: the first of equals, INT_MAX where
 * there is none. A NaN is none. A warp's. */
INLINE float highest(const float *x, long long from, long long to, int *at)
{
    float best = -INFINITY;

    *at = INT_MAX;
    for (long long i = from + LANE; i < to; i += LANES)
        if (x[i] > best) {
            best = x[i];
            *at = (int)i;
        }
    warp_best(&best, at);
    return best;
}

KERNEL panels_of(const float *scores, int tile, int rows, long long n,
                 long long size, long long first, float *trees)
{
    EACH_ROW(i, n)
    {
        int per = tile / MDL_PANEL_ROWS;
        long long query = i / per, panel = i % per;
        long long from = panel * MDL_PANEL_ROWS, to = from + MDL_PANEL_ROWS;
        int at;
        float best =
            highest(scores + query * tile, from, to < rows ? to : rows, &at);

        if (LANE == 0)
            trees[query * size + first + panel] = best;
    }
}

KERNEL grow(struct gpu_tree t, int level, long long n, float *trees)
{
    EACH_ROW(i, n)
    {
        float *tree = trees + i / t.n[level] * t.size;
        long long node = i % t.n[level], from = node * SEARCH_FAN;
        long long to = from + SEARCH_FAN, end = t.n[level - 1];
        int at;
        float best =
            highest(tree + t.first[level - 1], from, to < end ? to : end, &at);

        if (LANE == 0)
            tree[t.first[level] + node] = best;
    }
}

KERNEL nearest(struct gpu_tree t, long long queries, float *trees,
               struct mdl_near *near)
{
    EACH_ROW(query, queries)
    {
        float *tree = trees + query * t.size;

        for (int i = 0; i < MDL_INDEX_NEAR; i++) {
            long long from = 0, to = t.n[t.levels - 1];
            float best = -INFINITY;
            int at = INT_MAX;

            for (int level = t.levels - 1; level >= 0; level--) {
                best = highest(tree + t.first[level], from, to, &at);
                if (at == INT_MAX || !level)
                    break;
                from = (long long)at * SEARCH_FAN;
                to = from + SEARCH_FAN;
                to = to < t.n[level - 1] ? to : t.n[level - 1];
            }
            if (LANE == 0) {
                struct mdl_near *out = &near[query * MDL_INDEX_NEAR + i];

                out->score = best;
                out->panel = at == INT_MAX ? -1 : at;
                if (at != INT_MAX)
                    tree[at] = -INFINITY;
            }
            if (at == INT_MAX)
                continue;
            WARP_IN_STEP;
            for (int level = 1; level < t.levels; level++) {
                int child;

                at /= SEARCH_FAN;
                from = (long long)at * SEARCH_FAN;
                to = from + SEARCH_FAN;
                to = to < t.n[level - 1] ? to : t.n[level - 1];
                best = highest(tree + t.first[level - 1], from, to, &child);
                if (LANE == 0)
                    tree[t.first[level] + at] = best;
                WARP_IN_STEP;
            }
        }
    }
}

void gpu_k_panels(void *stream, const float *scores, int tile, int rows,
                  int queries, const struct gpu_tree *t, long long first,
                  float *trees)
{
    long long n = (long long)queries * (tile / MDL_PANEL_ROWS);

    LAUNCH(panels_of, stream, 32 * n, scores, tile, rows, n, t->size, first,
           trees);
}

void gpu_k_grow(void *stream, const struct gpu_tree *t, int queries,
                float *trees)
{
    for (int level = 1; level < t->levels; level++) {
        long long n = queries * t->n[level];

        LAUNCH(grow, stream, 32 * n, *t, level, n, trees);
    }
}

void gpu_k_nearest(void *stream, const struct gpu_tree *t, int queries,
                   float *trees, struct mdl_near *near)
{
    LAUNCH(nearest, stream, 32ll * queries, *t, queries, trees, near);
}
