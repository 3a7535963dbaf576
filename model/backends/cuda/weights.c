/* Parameters on the device, in the layout and type that a step reads. */
#include <stdlib.h>

#include "model/backends/cuda/plan.h"

/* to[at(i)] = from[i]: where element i of the parameter goes. x: the map that
 * rows meet. */
static size_t place_of(enum layout layout, const struct mdl_shape *s,
                       const struct gpu_map *x, size_t i)
{
    size_t area, c, per;

    switch (layout) {
    case LAYOUT_CONV: /* [o][c][k][k] -> [o][k][k][c] */
        c = (size_t)s->dim[1];
        area = (size_t)(s->dim[2] * s->dim[3]);
        break;
    case LAYOUT_DEPTHWISE: /* [c][1][k][k] -> [k][k][c] */
        area = (size_t)(s->dim[2] * s->dim[3]);
        return i % area * (size_t)s->dim[0] + i / area;
    case LAYOUT_ROWS:
        c = (size_t)x->c;
        area = (size_t)(x->h * x->w);
        break;
    default:
        return i;
    }
    per = c * area;
    return i / per * per + i % area * c + i / area % c;
}

static void convert(const struct weights *w, const struct mdl_shape *s,
                    const struct gpu_map *x, void *to)
{
    size_t n = mdl_shape_count(s);

    for (size_t i = 0; i < n; i++) {
        size_t at = place_of(w->layout, s, x, i);

        if (w->type == GPU_F32)
            ((float *)to)[at] = w->from[i];
        else if (w->type == GPU_F16)
            mdl_f32_to_f16(&w->from[i], &((uint16_t *)to)[at], 1);
        else
            mdl_f32_to_bf16(&w->from[i], &((uint16_t *)to)[at], 1);
    }
}

static enum ut_err make(struct weights *w, const struct mdl_shape *s,
                        const struct gpu_map *x, struct ut_error *e)
{
    size_t len = mdl_shape_count(s) * (w->type == GPU_F32 ? 4 : 2);
    void *host = malloc(len);
    enum ut_err rc;

    if (!host)
        return ut_fail(e, UT_ENOMEM, "no memory to convert weights");
    convert(w, s, x, host);
    rc = gpu_alloc(len, &w->data, e);
    if (!rc)
        rc = gpu_upload(w->data, host, len, e);
    if (rc)
        gpu_free(w->data);
    free(host);
    return rc;
}

enum ut_err cuda_weights_get(struct plan *p, int value, enum layout layout,
                             enum gpu_type type, const struct gpu_map *x,
                             struct weights **out, struct ut_error *e)
{
    const struct mdl_value *v = &p->g->values[value];
    struct ctx *c = p->ctx;
    struct weights *w;
    enum ut_err rc = UT_OK;

    pthread_mutex_lock(&c->lock);
    for (w = c->weights; w; w = w->next)
        if (w->from == v->data && w->layout == layout && w->type == type)
            break;
    if (!w) {
        w = calloc(1, sizeof(*w));
        if (w) {
            *w = (struct weights){
                .from = v->data, .layout = layout, .type = type};
            rc = make(w, &v->shape, x, e);
        } else {
            rc = ut_fail(e, UT_ENOMEM, "no memory for weights");
        }
        if (rc) {
            free(w);
            w = NULL;
        } else {
            w->next = c->weights;
            c->weights = w;
        }
    }
    if (w)
        w->refs++;
    pthread_mutex_unlock(&c->lock);
    *out = w;
    return rc;
}

void cuda_weights_put(struct ctx *c, struct weights *w)
{
    struct weights **at = &c->weights;

    if (!w)
        return;
    pthread_mutex_lock(&c->lock);
    if (!--w->refs) {
        if (!w->lost) {
            while (*at != w)
                at = &(*at)->next;
            *at = w->next;
            gpu_free(w->data);
        }
        free(w);
    }
    pthread_mutex_unlock(&c->lock);
}

void cuda_weights_lose(struct ctx *c)
{
    pthread_mutex_lock(&c->lock);
    for (; c->weights; c->weights = c->weights->next)
        c->weights->lost = true;
    pthread_mutex_unlock(&c->lock);
}
