#ifndef MODEL_BACKENDS_CPU_WINOGRAD_TILE_H
#define MODEL_BACKENDS_CPU_WINOGRAD_TILE_H

#include "model/backends/cpu/winograd.h"

/* What the Winograd kernels share: a batch as one row of tiles. */

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

#endif
