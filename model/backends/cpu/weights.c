/* Weights in the layouts that steps read, shared by the plans of a device. */
#include <stdlib.h>

#include "model/backends/cpu/fc.h"
#include "model/backends/cpu/plan.h"

static void weights_free(struct weights *w)
{
    if (w->memory)
        dnnl_memory_destroy(w->memory);
    free(w->packed);
    free(w);
}

void cpu_weights_put(struct ctx *c, struct weights *w)
{
    struct weights **at = &c->weights;

    if (!w)
        return;
    pthread_mutex_lock(&c->lock);
    if (--w->refs == 0) {
        while (*at != w)
            at = &(*at)->next;
        *at = w->next;
        weights_free(w);
    }
    pthread_mutex_unlock(&c->lock);
}

enum ut_err cpu_copy(struct plan *p, const dnnl_memory_desc_t *from_md,
                     const void *from, const dnnl_memory_desc_t *to_md,
                     void *to, struct ut_error *e)
{
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t prim = NULL;
    dnnl_memory_t in = NULL, out = NULL;
    dnnl_exec_arg_t args[2];
    enum ut_err rc;

    rc = cpu_check(dnnl_memory_create(&in, from_md, p->ctx->engine,
                                      (void *)(uintptr_t)from),
                   "a reorder", e);
    if (!rc)
        rc = cpu_check(dnnl_memory_create(&out, to_md, p->ctx->engine, to),
                       "a reorder", e);
    if (!rc)
        rc = cpu_check(dnnl_reorder_primitive_desc_create(&pd, from_md,
                                                          p->ctx->engine, to_md,
                                                          p->ctx->engine, NULL),
                       "a reorder", e);
    if (!rc)
        rc = cpu_check(dnnl_primitive_create(&prim, pd), "a reorder", e);
    if (!rc) {
        args[0] = (dnnl_exec_arg_t){DNNL_ARG_FROM, in};
        args[1] = (dnnl_exec_arg_t){DNNL_ARG_TO, out};
        rc = cpu_check(dnnl_primitive_execute(prim, p->lane->stream, 2, args),
                       "a reorder", e);
        dnnl_stream_wait(p->lane->stream);
    }
    dnnl_primitive_destroy(prim);
    dnnl_primitive_desc_destroy(pd);
    dnnl_memory_destroy(in);
    dnnl_memory_destroy(out);
    return rc;
}

/* from in plain layout `user` to the layout md. */
static enum ut_err reorder(struct plan *p, const float *from,
                           const dnnl_memory_desc_t *user, struct weights *w,
                           struct ut_error *e)
{
    enum ut_err rc =
        w->memory
            ? UT_OK
            : cpu_check(dnnl_memory_create(&w->memory, &w->md, p->ctx->engine,
                                           DNNL_MEMORY_ALLOCATE),
                        "weights", e);
    void *to = NULL;

    if (!rc)
        rc = cpu_check(dnnl_memory_get_data_handle(w->memory, &to), "weights",
                       e);
    return rc ? rc : cpu_copy(p, user, from, &w->md, to, e);
}

static enum ut_err pack(struct plan *p, const struct mdl_node *n,
                        struct weights *w, struct ut_error *e)
{
    const struct mdl_map *x = &p->maps[n->in[MDL_IN_X]];
    int outputs = p->maps[n->out].channels;
    bool fc = w->layout == WEIGHTS_FC;
    const struct mdl_wino_kernel *wino = fc ? NULL : cpu_wino(p, n);
    size_t size = fc ? mdl_fc_bytes(x, outputs)
                     : wino->weights_bytes(x->channels, outputs);

    w->packed = aligned_alloc(ALIGN, (size + ALIGN - 1) / ALIGN * ALIGN);
    if (!w->packed)
        return ut_fail(e, UT_ENOMEM, "no memory for weights");
    if (fc)
        mdl_fc_pack(x, outputs, w->from, w->packed);
    else
        wino->pack(w->from, x->channels, outputs, w->packed);
    return UT_OK;
}

enum ut_err cpu_weights_get(struct plan *p, const struct mdl_node *n,
                            enum layout layout, const dnnl_memory_desc_t *user,
                            const dnnl_memory_desc_t *md, struct weights **out,
                            struct ut_error *e)
{
    const float *from = cpu_param(p, n, MDL_IN_W);
    bool bf16 = p->maps[n->in[MDL_IN_X]].bf16;
    enum ut_err rc = UT_OK;
    struct weights *w;

    pthread_mutex_lock(&p->ctx->lock);
    for (w = p->ctx->weights; w; w = w->next)
        if (w->from == from && w->layout == layout && w->bf16 == bf16 &&
            (!md || dnnl_memory_desc_equal(&w->md, md)))
            break;
    if (!w) {
        w = calloc(1, sizeof(*w));
        if (!w) {
            rc = ut_fail(e, UT_ENOMEM, "no memory for weights");
            goto out;
        }
        w->from = from;
        w->layout = layout;
        w->bf16 = bf16;
        if (md) {
            w->md = *md;
            w->user = *user;
            rc = reorder(p, from, user, w, e);
        } else {
            rc = pack(p, n, w, e);
        }
        if (rc) {
            weights_free(w);
            goto out;
        }
        w->next = p->ctx->weights;
        p->ctx->weights = w;
    }
    w->refs++;
    *out = w;
out:
    pthread_mutex_unlock(&p->ctx->lock);
    return rc;
}

enum ut_err cpu_weights_refresh(struct plan *p, struct weights *w,
                                struct ut_error *e)
{
    return w && w->memory ? reorder(p, w->from, &w->user, w, e) : UT_OK;
}
