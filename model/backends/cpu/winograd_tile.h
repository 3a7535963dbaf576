#ifndef MODEL_BACKENDS_CPU_WINOGRAD_TILE_H
#define MODEL_BACKENDS_CPU_WINOGRAD_TILE_H

#include "model/backends/cpu/winograd.h"

/* What the Winograd kernels share: a batch as one row of tiles, and filters as
 * points. */

/* One tile's place. */
struct tile {
    int image, row, col; /* of its first output pixel */
};

/* Tiles with `side` outputs along a side. */
static inline int tiles_of(const struct mdl_wino *c, int side, int batch)
{
    return (c->width + side - 1) / side * ((c->height + side - 1) / side) *
           batch;
}

static inline struct tile tile_at(const struct mdl_wino *c, int side, int idx)
{
    int across = (c->width + side - 1) / side;
    int image = tiles_of(c, side, 1);
    struct tile t = {idx / image, idx % image / across * side,
                     idx % across * side};

    return t;
}

static inline void tile_next(const struct mdl_wino *c, int side, struct tile *t)
{
    t->col += side;
    if (t->col < c->width)
        return;
    t->col = 0;
    t->row += side;
    if (t->row < c->height)
        return;
    t->row = 0;
    t->image++;
}

/* u [n, n] = G g G^T of one 3x3 filter; G [n, 3], n at most 6. */
static inline void transform_filter(int n, const double (*matrix)[3],
                                    const float *g, float *u)
{
    double t[6][3];

    for (int i = 0; i < n; i++)
        for (int j = 0; j < 3; j++)
            t[i][j] = matrix[i][0] * g[j] + matrix[i][1] * g[3 + j] +
                      matrix[i][2] * g[6 + j];
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            u[i * n + j] =
                (float)(t[i][0] * matrix[j][0] + t[i][1] * matrix[j][1] +
                        t[i][2] * matrix[j][2]);
}

#endif
