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

static enum ut_err reorder(struct plan *p, struct weights *w,
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
    return rc ? rc : cpu_copy(p, &w->user, w->from, &w->md, to, e);
}

static enum ut_err pack(struct weights *w, struct ut_error *e)
{
    int channels = w->x.channels;
    size_t size = w->layout == WEIGHTS_FC
                      ? mdl_fc_bytes(&w->x, w->outputs)
                      : w->wino->weights_bytes(channels, w->outputs);

    if (!w->packed)
        w->packed = aligned_alloc(ALIGN, (size + ALIGN - 1) / ALIGN * ALIGN);
    if (!w->packed)
        return ut_fail(e, UT_ENOMEM, "no memory for weights");
    if (w->layout == WEIGHTS_FC)
        mdl_fc_pack(&w->x, w->outputs, w->from, w->packed);
    else if (w->layout == WEIGHTS_WINO)
        w->wino->pack(w->from, channels, w->outputs, w->packed);
    else
        w->wino->pack_back(w->from, channels, w->outputs, w->packed);
    return UT_OK;
}

enum ut_err cpu_weights_refresh(struct plan *p, struct weights *w,
                                struct ut_error *e)
{
    return w->layout == WEIGHTS_DNNL ? reorder(p, w, e) : pack(w, e);
}

static bool same(const struct weights *a, const struct weights *b)
{
    return a->from == b->from && a->layout == b->layout && a->wino == b->wino &&
           a->x.bf16 == b->x.bf16 && dnnl_memory_desc_equal(&a->md, &b->md);
}

/* The device's weights like `want`, made if there are none. */
static enum ut_err share(struct plan *p, const struct mdl_node *n,
                         struct weights *want, struct weights **out,
                         struct ut_error *e)
{
    struct ctx *c = p->ctx;
    enum ut_err rc = UT_OK;
    struct weights *w;

    want->from = cpu_param(p, n, MDL_IN_W);
    want->x = p->maps[n->in[0]];
    want->outputs = p->maps[n->out].channels;
    pthread_mutex_lock(&c->lock);
    for (w = c->weights; w && !same(w, want); w = w->next)
        continue;
    if (!w) {
        w = malloc(sizeof(*w));
        if (!w) {
            rc = ut_fail(e, UT_ENOMEM, "no memory for weights");
            goto out;
        }
        *w = *want;
        rc = cpu_weights_refresh(p, w, e);
        if (rc) {
            weights_free(w);
            goto out;
        }
        w->next = c->weights;
        c->weights = w;
    }
    w->refs++;
    *out = w;
out:
    pthread_mutex_unlock(&c->lock);
    return rc;
}

enum ut_err cpu_weights_dnnl(struct plan *p, const struct mdl_node *n,
                             const dnnl_memory_desc_t *user,
                             const dnnl_memory_desc_t *md, struct weights **out,
                             struct ut_error *e)
{
    struct weights want = {.layout = WEIGHTS_DNNL, .md = *md, .user = *user};

    return share(p, n, &want, out, e);
}

enum ut_err cpu_weights_wino(struct plan *p, const struct mdl_node *n,
                             const struct mdl_wino_kernel *kernel,
                             struct weights **out, struct ut_error *e)
{
    struct weights want = {.layout = n->op == MDL_OP_CONV ? WEIGHTS_WINO
                                                          : WEIGHTS_WINO_BACK,
                           .wino = kernel};

    return share(p, n, &want, out, e);
}

enum ut_err cpu_weights_fc(struct plan *p, const struct mdl_node *n,
                           struct weights **out, struct ut_error *e)
{
    struct weights want = {.layout = WEIGHTS_FC};

    return share(p, n, &want, out, e);
}
