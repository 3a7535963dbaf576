/* Queues a plan's steps on its lane's stream. */
#include <string.h>

#include "model/backends/cuda/plan.h"

static struct gpu_epilogue epilogue_of(const struct plan *p,
                                       const struct step *s)
{
    const struct mdl_node *n = s->node;
    size_t c = (size_t)p->maps[s->out].c;

    return (struct gpu_epilogue){
        .scale = s->affine,
        .bias = s->affine ? s->affine + c
                : s->bias ? s->bias->data
                          : NULL,
        .slope = s->slope ? s->slope->data : NULL,
        .shift = s->shift ? s->shift->data : NULL,
        .residual =
            s->n_in > 1 && s->in[1] >= 0 ? p->maps[s->in[1]].data : NULL,
        .act = (int)n->act,
        .alpha = n->alpha,
    };
}

static enum ut_err run_product(const struct plan *p, const struct step *s,
                               struct ut_error *e)
{
    struct gpu_operands a = {.x = p->maps[s->in[0]].data,
                             .w = s->w->data,
                             .ep = epilogue_of(p, s),
                             .y = p->maps[s->out].data,
                             .room = p->lane->work + p->room};

    return cuda_compute(p->lane->stream, p->lane->handles, &s->product, s->way,
                        s->engine, &a, e);
}

static void run_image(const struct plan *p, const struct step *s, void *stream)
{
    const struct mdl_node *n = s->node;
    struct gpu_image k = {.bgr = n->bgr};

    memcpy(k.mean, n->mean, sizeof(k.mean));
    memcpy(k.factor, n->scale, sizeof(k.factor));
    gpu_k_image(stream, &k,
                (const uint8_t *)p->lane->work + p->offset[p->g->input],
                &p->maps[s->out]);
}

static void run_many(const struct plan *p, const struct step *s, void *stream)
{
    const struct gpu_map *y = &p->maps[s->out];
    const void *terms[MDL_NODE_INPUTS];
    int first = 0;

    for (int k = 0; k < s->n_in; k++) {
        const struct gpu_map *x = &p->maps[s->in[k]];

        terms[k] = x->data;
        if (s->node->op == MDL_OP_CONCAT)
            gpu_k_concat(stream, x, first, y);
        first += x->c;
    }
    if (s->node->op == MDL_OP_ADD)
        gpu_k_add(stream, terms, s->n_in, y);
}

static void run_step(const struct plan *p, const struct step *s, void *stream)
{
    const struct gpu_map *x = &p->maps[s->in[0]], *y = &p->maps[s->out];
    struct gpu_epilogue ep = epilogue_of(p, s);

    if (s->attends) {
        gpu_k_attend(stream, x, s->base,
                     s->in[1] < 0 ? NULL : p->maps[s->in[1]].data,
                     s->in[2] < 0 ? NULL : p->maps[s->in[2]].data, y);
        return;
    }
    switch (s->node->op) {
    case MDL_OP_IMAGE:
        run_image(p, s, stream);
        return;
    case MDL_OP_BATCHNORM:
    case MDL_OP_ACT:
        gpu_k_epilogue(stream, x, &ep, y);
        return;
    case MDL_OP_ADD:
    case MDL_OP_CONCAT:
        run_many(p, s, stream);
        return;
    case MDL_OP_L2NORM:
        gpu_k_l2norm(stream, x, y);
        return;
    case MDL_OP_UPSAMPLE:
        gpu_k_upsample(stream, x, y);
        return;
    case MDL_OP_SOFTMAX:
        gpu_k_softmax(stream, x, y);
        return;
    default:
        return; /* build.c refused it */
    }
}

enum ut_err cuda_queue_step(struct plan *p, const struct step *s,
                            struct ut_error *e)
{
    if (s->node->op >= MDL_OP_BN_STATS)
        return cuda_queue_gradient(p, s, e);
    if (s->w)
        return run_product(p, s, e);
    run_step(p, s, gpu_native(p->lane->stream));
    return gpu_launched(mdl_op_name(s->node->op), e);
}

enum ut_err cuda_queue(struct plan *p, uint64_t wanted, struct ut_error *e)
{
    const struct mdl_graph *g = p->g;
    struct lane *l = p->lane;
    void *stream = gpu_native(l->stream);
    enum ut_err rc = gpu_copy_in(l->stream, l->work + p->offset[g->input],
                                 l->host, cuda_in_len(p), e);

    if (!rc)
        rc = gpu_mark(l->stream, l->from, e);
    for (int i = 0; i < p->n_steps && !rc; i++)
        if (p->steps[i].needs & wanted)
            rc = cuda_queue_step(p, &p->steps[i], e);
    for (int i = 0; i < g->n_outputs && !rc; i++)
        if (wanted >> i & 1) {
            char *rows = l->work + p->offset[g->n_values + i];

            gpu_k_output(stream, &p->maps[g->outputs[i]],
                         (float *)(void *)rows);
            rc = gpu_launched("an output", e);
        }
    if (!rc)
        rc = gpu_mark(l->stream, l->to, e);
    for (int i = 0; i < g->n_outputs && !rc; i++)
        if (wanted >> i & 1)
            rc = gpu_copy_out(l->stream, l->host + p->host_out[i],
                              l->work + p->offset[g->n_values + i],
                              cuda_out_len(p, i), e);
    return rc;
}
