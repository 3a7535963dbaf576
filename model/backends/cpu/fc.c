/* Fully connected layers over maps: W's columns in the order of x's memory. */
#include "model/backends/cpu/fc.h"

#include <string.h>

#include "model/panel.h"

/* Elements of one image of x as they lie in memory. */
static size_t inputs_of(const struct mdl_map *x)
{
    size_t area = (size_t)x->height * (size_t)x->width;

    return x->vector ? (size_t)x->channels
                     : (size_t)(mdl_map_blocks(x) * x->lanes) * area;
}

size_t mdl_fc_bytes(const struct mdl_map *x, int outputs)
{
    return mdl_panel_count((size_t)outputs, inputs_of(x)) * (x->bf16 ? 2 : 4);
}

/* The column of W for input i of x; -1 for padding. */
static ptrdiff_t column(const struct mdl_map *x, size_t i)
{
    size_t area = (size_t)x->height * (size_t)x->width, c;
    size_t lanes = (size_t)x->lanes;

    if (x->vector)
        return (ptrdiff_t)i;
    c = i / (lanes * area) * lanes + i % lanes;
    return c < (size_t)x->channels ? (ptrdiff_t)(c * area + i / lanes % area)
                                   : -1;
}

void mdl_fc_pack(const struct mdl_map *x, int outputs, const float *w,
                 void *packed)
{
    size_t n = inputs_of(x), area = (size_t)x->height * (size_t)x->width;
    size_t columns = (size_t)x->channels * (x->vector ? 1 : area);

    memset(packed, 0, mdl_fc_bytes(x, outputs));
    for (size_t i = 0; i < n; i++) {
        ptrdiff_t from = column(x, i);

        for (size_t o = 0; o < (size_t)outputs && from >= 0; o++) {
            size_t at = mdl_panel_at(x->bf16, n, o, i);
            float v = w[o * columns + (size_t)from];

            if (x->bf16)
                ((uint16_t *)packed)[at] = mdl_bf16_of(v);
            else
                ((float *)packed)[at] = v;
        }
    }
}

void mdl_fc_run(const struct mdl_map *x, const void *packed, const float *bias,
                const struct mdl_map *y)
{
    size_t n = inputs_of(x), n_out = (size_t)y->channels;
    float *out = y->data;

    for (int r = 0; r < y->batch; r++)
        for (size_t o = 0; o < n_out; o++)
            out[(size_t)r * n_out + o] = bias ? bias[o] : 0;
    mdl_panel_product(x->bf16, packed, n_out, n, x->data, n, y->batch, out);
}
