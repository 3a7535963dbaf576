/* Parameters on the device, in the layout and type that a step reads. */
#include <stdlib.h>

#include "model/backends/cuda/learner_kernels.h"
#include "model/backends/cuda/plan.h"
#include "model/backends/cuda/train_kernels.h"

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

static void convert(const struct weights *w, void *to)
{
    size_t n = mdl_shape_count(&w->shape);

    for (size_t i = 0; i < n; i++) {
        size_t at = place_of(w->layout, &w->shape, &w->x, i);

        if (w->type == GPU_F32)
            ((float *)to)[at] = w->from[i];
        else if (w->type == GPU_F16)
            mdl_f32_to_f16(&w->from[i], &((uint16_t *)to)[at], 1);
        else
            mdl_f32_to_bf16(&w->from[i], &((uint16_t *)to)[at], 1);
    }
}

static size_t len_of(const struct weights *w)
{
    return mdl_shape_count(&w->shape) * (w->type == GPU_F32 ? 4 : 2);
}

static enum ut_err upload(const struct weights *w, struct ut_error *e)
{
    void *host = malloc(len_of(w));
    enum ut_err rc;

    if (!host)
        return ut_fail(e, UT_ENOMEM, "no memory to convert weights");
    convert(w, host);
    rc = gpu_upload(w->data, host, len_of(w), e);
    free(host);
    return rc;
}

static enum ut_err make(struct weights *w, struct ut_error *e)
{
    enum ut_err rc = gpu_alloc(len_of(w), &w->data, e);

    if (!rc)
        rc = upload(w, e);
    if (rc)
        gpu_free(w->data);
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
            *w = (struct weights){.from = v->data,
                                  .shape = v->shape,
                                  .layout = layout,
                                  .type = type};
            if (x)
                w->x = *x;
            rc = make(w, e);
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

/* w as a map: each layout is one, of the parameter as it lies. */
static struct gpu_map map_of(const struct weights *w)
{
    const struct mdl_shape *s = &w->shape;
    struct gpu_map m = {w->data, w->type, 1, 1, 1, (int)mdl_shape_count(s)};

    if (w->layout == LAYOUT_ROWS) {
        m = w->x;
        m.data = w->data;
        m.type = w->type;
        m.batch = (int)s->dim[0];
    } else if (w->layout != LAYOUT_VECTOR) {
        bool depthwise = w->layout == LAYOUT_DEPTHWISE;

        m.batch = depthwise ? 1 : (int)s->dim[0];
        m.h = m.w = (int)s->dim[2];
        m.c = (int)s->dim[depthwise ? 0 : 1];
    }
    return m;
}

size_t cuda_weights_room(const struct weights *w)
{
    return !w || w->layout == LAYOUT_VECTOR
               ? 0
               : mdl_shape_count(&w->shape) * sizeof(float);
}

/* The parameter's numbers go over as they are; the device lays them out. */
static enum ut_err renew(const struct plan *p, const struct weights *w,
                         struct ut_error *e)
{
    float *rows = (float *)(void *)(p->lane->work + p->room);
    const struct gpu_map m = map_of(w);
    enum ut_err rc;

    if (w->layout == LAYOUT_VECTOR)
        return upload(w, e);
    rc = gpu_upload(rows, w->from, cuda_weights_room(w), e);
    if (rc)
        return rc;
    gpu_t_input(gpu_native(p->lane->stream), rows, &m);
    rc = gpu_launched("weights", e);
    return rc ? rc : gpu_wait(p->lane->stream, e);
}

/* A learner's masters are on the device: these layouts are made of them, many
 * at a time. */
struct learned {
    struct gpu_layouts layouts;
    bool apart; /* as of cuda_learned */
};

static void send(const struct plan *p, struct learned *l)
{
    if (l->layouts.n)
        gpu_l_layout(gpu_native(p->lane->stream), &l->layouts);
    l->layouts.n = 0;
    l->layouts.chunks = 0;
}

static void add(const struct plan *p, const struct weights *w, const float *x,
                struct learned *l)
{
    struct gpu_layouts *to = &l->layouts;
    const struct gpu_map m = map_of(w);
    uint32_t n = (uint32_t)gpu_items(&m);

    if (to->n == GPU_LIST)
        send(p, l);
    to->of[to->n++] = (struct gpu_layout){.from = x,
                                          .to = w->data,
                                          .n = n,
                                          .chunk = to->chunks,
                                          .channels = (uint32_t)m.c,
                                          .places = (uint32_t)(m.h * m.w),
                                          .type = w->type};
    to->chunks += GPU_CHUNKS(n);
}

static enum ut_err refresh(const struct plan *p, struct weights *w,
                           struct learned *l, struct ut_error *e)
{
    const float *x;
    enum ut_err rc;

    if (!w || w->round == p->ctx->rounds)
        return UT_OK;
    w->round = p->ctx->rounds;
    rc = cuda_learned(p, w->from, &x, &l->apart, e);
    if (rc)
        return rc;
    if (!x)
        return renew(p, w, e);
    add(p, w, x, l);
    return UT_OK;
}

/* In a plan that trains these are frozen. A learner's do not move, and stay as
 * they were made; the host's may have. */
static enum ut_err refresh_affine(struct plan *p, struct step *s,
                                  struct ut_error *e)
{
    int mean = s->node->in[MDL_BN_MEAN];
    const float *x;
    bool ignored;
    enum ut_err rc;

    pthread_mutex_lock(&p->ctx->lock);
    rc = cuda_learned(p, p->g->values[mean].data, &x, &ignored, e);
    pthread_mutex_unlock(&p->ctx->lock);
    return rc || x ? rc : cuda_build_affine(p, s, e);
}

enum ut_err cuda_weights_refresh(struct plan *p, struct ut_error *e)
{
    struct ctx *c = p->ctx;
    struct learned l = {0};
    enum ut_err rc = UT_OK;

    pthread_mutex_lock(&c->lock);
    c->rounds++;
    for (int i = 0; i < p->n_steps; i++) {
        struct step *s = &p->steps[i];
        struct weights *of[] = {s->w, s->bias, s->slope, s->shift};

        for (int k = 0; k < 4 && !rc; k++)
            rc = refresh(p, of[k], &l, e);
    }
    send(p, &l);
    if (!rc)
        rc = gpu_launched("weights", e);
    if (!rc && l.apart) /* the next update must not overtake */
        rc = gpu_wait(p->lane->stream, e);
    pthread_mutex_unlock(&c->lock);
    for (int i = 0; i < p->n_steps && !rc; i++)
        if (p->steps[i].affine)
            rc = refresh_affine(p, &p->steps[i], e);
    return rc;
}

void cuda_weights_lose(struct ctx *c)
{
    pthread_mutex_lock(&c->lock);
    for (; c->weights; c->weights = c->weights->next)
        c->weights->lost = true;
    pthread_mutex_unlock(&c->lock);
}
