/* The operations of training as steps: what they read, and their kernels. */
#include "model/backends/cuda/plan.h"
#include "model/backends/cuda/train_kernels.h"

/* The forward product's x and y among the inputs of one of its gradients. */
static int x_of(const struct mdl_node *n)
{
    return n->op == MDL_OP_CONV_DX || n->op == MDL_OP_LINEAR_DX ? n->in[2]
                                                                : n->in[0];
}

static int y_of(const struct mdl_node *n)
{
    return n->op == MDL_OP_CONV_DX || n->op == MDL_OP_LINEAR_DX ? n->in[0]
                                                                : n->in[1];
}

static void describe(const struct plan *p, struct step *s, enum gpu_pass pass)
{
    const struct mdl_node *n = s->node;

    s->product = (struct gpu_product){
        .pass = pass,
        .rows = n->op == MDL_OP_LINEAR_DX || n->op == MDL_OP_LINEAR_DW,
        .tf32 = p->tf32,
        .window = {n->kernel, n->stride, n->pad, n->groups},
        .x = p->maps[x_of(n)],
        .y = p->maps[y_of(n)]};
}

static enum ut_err build_dx(struct plan *p, struct step *s, struct ut_error *e)
{
    const struct gpu_map *x = &p->maps[x_of(s->node)];
    enum ut_err rc = cuda_weights_get(
        p, s->node->in[1], cuda_layout(s->node, x, &p->maps[y_of(s->node)]),
        x->type, x, &s->w, e);

    s->in[1] = s->in[2] = -1; /* of x, only its shape */
    describe(p, s, GPU_DX);
    return rc ? rc : cuda_choose(p->ctx, &s->product, &s->way, &s->engine, e);
}

/* dw lies as the weights do, so that mdl_plan_get brings it back as an output:
 * [o][kernel][kernel][c / groups] is a map of o images. */
static enum ut_err build_dw(struct plan *p, struct step *s, struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    const struct gpu_map *x = &p->maps[x_of(n)], *y = &p->maps[y_of(n)];
    struct gpu_map *dw = &p->maps[n->out];

    describe(p, s, GPU_DW);
    s->in[2] = -1;
    *dw = (struct gpu_map){.type = GPU_F32, .batch = y->c};
    switch (cuda_layout(n, x, y)) {
    case LAYOUT_ROWS:
        dw->h = x->h;
        dw->w = x->w;
        dw->c = x->c;
        break;
    case LAYOUT_DEPTHWISE:
        dw->batch = 1;
        dw->h = dw->w = n->kernel;
        dw->c = x->c;
        break;
    default:
        dw->h = dw->w = n->kernel;
        dw->c = x->c / n->groups;
    }
    s->room = cuda_own_room(&s->product);
    return cuda_choose(p->ctx, &s->product, &s->way, &s->engine, e);
}

/* A vector of parameters in a role. */
static enum ut_err vector(struct plan *p, struct step *s, int role,
                          struct weights **out, struct ut_error *e)
{
    s->in[role] = -1;
    return s->node->in[role] < 0
               ? UT_OK
               : cuda_weights_get(p, s->node->in[role], LAYOUT_VECTOR, GPU_F32,
                                  NULL, out, e);
}

enum ut_err cuda_build_gradient(struct plan *p, struct step *s,
                                struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    enum ut_err rc;

    s->n_in = n->n_in;
    for (int k = 0; k < n->n_in; k++)
        s->in[k] = n->in[k];
    switch (n->op) {
    case MDL_OP_CONV_DX:
    case MDL_OP_LINEAR_DX:
        return build_dx(p, s, e);
    case MDL_OP_CONV_DW:
    case MDL_OP_LINEAR_DW:
        return build_dw(p, s, e);
    case MDL_OP_BN_TRAIN:
        rc = vector(p, s, 1, &s->slope, e);
        return rc ? rc : vector(p, s, 2, &s->bias, e);
    case MDL_OP_BN_DX:
    case MDL_OP_ACT_DX:
        return vector(p, s, 1, &s->slope, e);
    case MDL_OP_BN_STATS:
    case MDL_OP_BN_DPARAM:
    case MDL_OP_SUM:
    case MDL_OP_ACT_DSLOPE:
        s->room = gpu_t_room(&p->maps[n->in[0]]);
        return UT_OK;
    case MDL_OP_SCALE_DS:
        s->in[2] = -1;
        return UT_OK;
    case MDL_OP_POOL_DX:
    case MDL_OP_UPSAMPLE_DX:
    case MDL_OP_SLICE:
        s->in[1] = -1;
        return UT_OK;
    case MDL_OP_L2NORM_DX:
    case MDL_OP_SOFTMAX_DX:
        return UT_OK;
    default:
        return ut_fail(e, UT_EINVAL, "the CUDA backend has no %s",
                       mdl_op_name(n->op));
    }
}

/* ---- queueing ---- */

static enum ut_err queue_product(struct plan *p, const struct step *s,
                                 struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    bool dx = s->product.pass == GPU_DX;
    struct gpu_operands a = {
        .x = p->maps[n->in[0]].data,
        .w = dx ? s->w->data : p->maps[n->in[1]].data,
        .y = p->maps[n->out].data,
        .room = p->lane->work + p->room,
    };

    return cuda_compute(p->lane->stream, p->lane->handles, &s->product, s->way,
                        s->engine, &a, e);
}

static const float *data_of(const struct weights *w)
{
    return w ? w->data : NULL;
}

static void queue_sums(const struct plan *p, const struct step *s, void *stream)
{
    const struct mdl_node *n = s->node;
    const struct gpu_map *x = &p->maps[n->in[0]];
    float *out = p->maps[n->out].data;
    void *room = p->lane->work + p->room;

    if (n->op == MDL_OP_BN_STATS)
        gpu_t_bn_stats(stream, x, out, room);
    else if (n->op == MDL_OP_BN_DPARAM)
        gpu_t_bn_dparam(stream, x, p->maps[n->in[1]].data, n->eps,
                        &p->maps[n->in[2]], out, room);
    else if (n->op == MDL_OP_ACT_DSLOPE)
        gpu_t_act_dslope(stream, x, &p->maps[n->in[1]], out, room);
    else
        gpu_t_sum(stream, x, out, room);
}

static void queue_rest(const struct plan *p, const struct step *s, void *stream)
{
    const struct mdl_node *n = s->node;
    const struct gpu_map *in[5], *out = &p->maps[n->out];

    for (int k = 0; k < 5; k++)
        in[k] = k < s->n_in && s->in[k] >= 0 ? &p->maps[s->in[k]] : NULL;
    switch (n->op) {
    case MDL_OP_BN_TRAIN:
        gpu_t_bn_train(stream, in[0], data_of(s->slope), data_of(s->bias),
                       in[3]->data, n->eps, out);
        return;
    case MDL_OP_BN_DX:
        gpu_t_bn_dx(stream, in[0], data_of(s->slope), in[2]->data, in[3]->data,
                    n->eps, in[4], out);
        return;
    case MDL_OP_ACT_DX:
        gpu_t_act_dx(stream, (int)n->act, n->alpha, data_of(s->slope), in[0],
                     in[2], out);
        return;
    case MDL_OP_POOL_DX:
        gpu_t_pool_dx(stream, in[0], out);
        return;
    case MDL_OP_SCALE_DS:
        gpu_t_scale_ds(stream, in[0], in[1], out);
        return;
    case MDL_OP_L2NORM_DX:
        gpu_t_l2norm_dx(stream, in[0], in[1], out);
        return;
    case MDL_OP_UPSAMPLE_DX:
        gpu_t_upsample_dx(stream, in[0], out);
        return;
    case MDL_OP_SLICE:
        gpu_t_slice(stream, in[0], n->first, out);
        return;
    case MDL_OP_SOFTMAX_DX:
        gpu_t_softmax_dx(stream, in[0], in[1], out);
        return;
    default:
        queue_sums(p, s, stream);
    }
}

enum ut_err cuda_queue_gradient(struct plan *p, const struct step *s,
                                struct ut_error *e)
{
    if (s->product.pass != GPU_FORWARD)
        return queue_product(p, s, e);
    queue_rest(p, s, gpu_native(p->lane->stream));
    return gpu_launched(mdl_op_name(s->node->op), e);
}
