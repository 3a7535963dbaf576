/* Plans that train: the backward convolutions that are oneDNN's, its matrix
 * products, our kernels for the rest. */
#include <stdlib.h>
#include <string.h>

#include "model/backends/cpu/plan.h"
#include "model/backends/cpu/train_kernels.h"

/* The weights' descriptor as the parameter lies, [O,I,K,K] or grouped. */
static dnnl_memory_desc_t user_weights(const struct plan *p,
                                       const struct mdl_node *n, int w)
{
    const struct mdl_shape *s = &p->g->values[n->in[w]].shape;
    dnnl_dims_t dims = {s->dim[0], s->dim[1], n->kernel, n->kernel};
    dnnl_dims_t grouped = {n->groups, s->dim[0] / n->groups, s->dim[1],
                           n->kernel, n->kernel};

    return n->groups > 1 ? cpu_plain(5, grouped, dnnl_f32)
                         : cpu_plain(4, dims, dnnl_f32);
}

/* The backward primitive's descriptor, by the forward one as a hint. */
static dnnl_status_t
conv_backward(struct plan *p, const struct mdl_node *n, dnnl_alg_kind_t alg,
              const dnnl_memory_desc_t *user, const dnnl_memory_desc_t *x,
              const dnnl_memory_desc_t *y, dnnl_primitive_desc_t *pd)
{
    const dnnl_dims_t stride = {n->stride, n->stride}, dilate = {0, 0},
                      pads = {n->pad, n->pad};
    dnnl_primitive_desc_t forward = NULL;
    dnnl_convolution_desc_t d;
    dnnl_primitive_attr_t attr;
    dnnl_memory_desc_t w, dw;
    dnnl_status_t s;

    *pd = NULL;
    dnnl_memory_desc_init_by_tag(&w, user->ndims, user->dims,
                                 p->bf16 ? dnnl_bf16 : dnnl_f32,
                                 dnnl_format_tag_any);
    dnnl_memory_desc_init_by_tag(&dw, user->ndims, user->dims, dnnl_f32,
                                 dnnl_format_tag_any);
    dnnl_primitive_attr_create(&attr);
    dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    s = dnnl_dilated_convolution_forward_desc_init(&d, dnnl_forward_training,
                                                   alg, x, &w, NULL, y, stride,
                                                   dilate, pads, pads);
    if (s == dnnl_success)
        s = dnnl_primitive_desc_create(&forward, &d, attr, p->ctx->engine,
                                       NULL);
    if (s == dnnl_success)
        s = n->op == MDL_OP_CONV_DX
                ? dnnl_dilated_convolution_backward_data_desc_init(
                      &d, alg, x, &w, y, stride, dilate, pads, pads)
                : dnnl_dilated_convolution_backward_weights_desc_init(
                      &d, alg, x, &dw, NULL, y, stride, dilate, pads, pads);
    if (s == dnnl_success)
        s = dnnl_primitive_desc_create(pd, &d, attr, p->ctx->engine, forward);
    dnnl_primitive_desc_destroy(forward);
    dnnl_primitive_attr_destroy(attr);
    return s;
}

static enum ut_err choose(struct plan *p, const struct mdl_node *n,
                          const dnnl_memory_desc_t *user,
                          const dnnl_memory_desc_t *x,
                          const dnnl_memory_desc_t *y,
                          dnnl_primitive_desc_t *pd, struct ut_error *e)
{
    bool wino = !p->bf16 && cpu_is_plain_3x3(n) && user->dims[0] >= 16 &&
                user->dims[1] >= 16;

    if (wino && conv_backward(p, n, dnnl_convolution_winograd, user, x, y,
                              pd) == dnnl_success)
        return UT_OK;
    return cpu_check(
        conv_backward(p, n, dnnl_convolution_direct, user, x, y, pd),
        mdl_op_name(n->op), e);
}

/* dy, w -> dx */
static enum ut_err finish_dx(struct plan *p, struct step *s,
                             dnnl_primitive_desc_t pd,
                             const dnnl_memory_desc_t *user,
                             const dnnl_memory_desc_t *x,
                             const dnnl_memory_desc_t *y, struct ut_error *e)
{
    const dnnl_memory_desc_t *want =
        dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    enum ut_err rc = cpu_weights_dnnl(p, s->node, user, want, &s->weights, e);

    if (!rc)
        cpu_arg(s, DNNL_ARG_WEIGHTS, s->weights->memory);
    if (!rc)
        rc = cpu_place(p, s, DNNL_ARG_DIFF_DST, s->node->in[0], y, e);
    return rc ? rc : cpu_place(p, s, DNNL_ARG_DIFF_SRC, s->node->out, x, e);
}

/* x, dy -> dw, in the layout that the primitive likes */
static enum ut_err finish_dw(struct plan *p, struct step *s,
                             dnnl_primitive_desc_t pd,
                             const dnnl_memory_desc_t *x,
                             const dnnl_memory_desc_t *y, struct ut_error *e)
{
    dnnl_memory_desc_t *dw = &p->whole[s->node->out];
    enum ut_err rc;

    *dw = *dnnl_primitive_desc_query_md(pd, dnnl_query_diff_weights_md, 0);
    rc = cpu_place(p, s, DNNL_ARG_SRC, s->node->in[0], x, e);
    if (!rc)
        rc = cpu_place(p, s, DNNL_ARG_DIFF_DST, s->node->in[1], y, e);
    return rc ? rc
              : cpu_place(p, s, DNNL_ARG_DIFF_WEIGHTS, s->node->out, dw, e);
}

static enum ut_err build_conv(struct plan *p, struct step *s,
                              struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    bool dx = n->op == MDL_OP_CONV_DX;
    dnnl_memory_desc_t user = user_weights(p, n, dx ? 1 : 2);
    dnnl_memory_desc_t x = cpu_desc(p, n->in[dx ? 2 : 0]);
    dnnl_memory_desc_t y = cpu_desc(p, n->in[dx ? 0 : 1]);
    dnnl_primitive_desc_t pd = NULL;
    const char *info = "";
    enum ut_err rc = cpu_build_wino(p, s, e);

    if (rc || s->wino)
        return rc;
    rc = choose(p, n, &user, &x, &y, &pd, e);
    if (rc)
        return rc;
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&info);
    strncpy(s->detail, info, sizeof(s->detail) - 1);
    rc = cpu_check(dnnl_primitive_create(&s->primitive, pd), info, e);
    if (!rc)
        rc = dx ? finish_dx(p, s, pd, &user, &x, &y, e)
                : finish_dw(p, s, pd, &x, &y, e);
    if (!rc)
        rc = cpu_scratchpad(p, s, pd, e);
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

/* Room for the rows of a linear's input. */
static void want_rows(struct plan *p, int x)
{
    size_t size = (size_t)p->batch * mdl_shape_count(&p->g->values[x].shape) *
                  sizeof(float);

    if (size > p->scratch_size)
        p->scratch_size = size;
}

enum ut_err cpu_build_gradient(struct plan *p, struct step *s,
                               struct ut_error *e)
{
    const struct mdl_node *n = s->node;

    switch (n->op) {
    case MDL_OP_CONV_DX:
    case MDL_OP_CONV_DW:
        return build_conv(p, s, e);
    case MDL_OP_LINEAR:
    case MDL_OP_LINEAR_DW:
        want_rows(p, n->in[0]);
        return UT_OK;
    case MDL_OP_LINEAR_DX:
        want_rows(p, n->in[2]);
        return UT_OK;
    default:
        return UT_OK;
    }
}

/* ---- running ---- */

static const struct mdl_map *map(const struct plan *p, const struct mdl_node *n,
                                 int role)
{
    return role < n->n_in && n->in[role] >= 0 ? &p->maps[n->in[role]] : NULL;
}

/* A parameter, or a whole value of an earlier step. */
static const float *array(const struct plan *p, const struct mdl_node *n,
                          int role)
{
    int v = role < n->n_in ? n->in[role] : -1;

    if (v < 0)
        return NULL;
    return p->g->values[v].whole ? p->maps[v].data : p->g->values[v].data;
}

/* Rows [batch, K] of a map or a vector; vectors are rows already. */
static const float *rows_of(const struct plan *p, const struct mdl_map *x)
{
    float *rows = (float *)(void *)(p->base + p->scratch);

    if (x->vector)
        return x->data;
    p->ctx->kernels->to_rows(x, rows);
    return rows;
}

static void linear(struct plan *p, struct step *s)
{
    const struct mdl_node *n = s->node;
    const struct mdl_map *y = &p->maps[n->out];
    const float *w = array(p, n, MDL_IN_W), *bias = array(p, n, MDL_IN_B);
    int64_t outs = y->channels;
    int64_t k = (int64_t)mdl_shape_count(&p->g->values[n->in[0]].shape);
    float *out = y->data;

    for (int64_t i = 0; i < p->batch * outs; i++)
        out[i] = bias ? bias[i % outs] : 0;
    dnnl_sgemm('N', 'T', p->batch, outs, k, 1, rows_of(p, map(p, n, 0)), k, w,
               k, 1, out, outs);
}

static void linear_dx(struct plan *p, struct step *s)
{
    const struct mdl_node *n = s->node;
    const struct mdl_map *dx = &p->maps[n->out];
    int64_t outs = map(p, n, 0)->channels;
    int64_t k = (int64_t)mdl_shape_count(&p->g->values[n->out].shape);
    float *rows =
        dx->vector ? dx->data : (float *)(void *)(p->base + p->scratch);

    dnnl_sgemm('N', 'N', p->batch, k, outs, 1, map(p, n, 0)->data, outs,
               array(p, n, 1), k, 0, rows, k);
    if (!dx->vector)
        p->ctx->training->from_rows(rows, dx);
}

static void linear_dw(struct plan *p, struct step *s)
{
    const struct mdl_node *n = s->node;
    int64_t outs = map(p, n, 1)->channels;
    int64_t k = (int64_t)mdl_shape_count(&p->g->values[n->in[0]].shape);

    dnnl_sgemm('T', 'N', outs, k, p->batch, 1, map(p, n, 1)->data, outs,
               rows_of(p, map(p, n, 0)), k, 0, p->maps[n->out].data, k);
}

bool cpu_run_gradient(struct plan *p, struct step *s)
{
    const struct mdl_node *n = s->node;
    const struct mdl_map *x = map(p, n, 0), *out = &p->maps[n->out];

    switch (n->op) {
    case MDL_OP_LINEAR:
        linear(p, s);
        return true;
    case MDL_OP_LINEAR_DX:
        linear_dx(p, s);
        return true;
    case MDL_OP_LINEAR_DW:
        linear_dw(p, s);
        return true;
    case MDL_OP_ACT:
        p->ctx->kernels->act(x, n->act, n->alpha, array(p, n, 1), NULL, NULL,
                             out);
        return true;
    case MDL_OP_BN_STATS:
        p->ctx->training->bn_stats(x, out->data);
        return true;
    case MDL_OP_BN_TRAIN:
        p->ctx->training->bn_train(x, array(p, n, 1), array(p, n, 2),
                                   array(p, n, 3), n->eps, out);
        return true;
    case MDL_OP_BN_DPARAM:
        p->ctx->training->bn_dparam(x, array(p, n, 1), n->eps, map(p, n, 2),
                                    out->data);
        return true;
    case MDL_OP_BN_DX:
        p->ctx->training->bn_dx(x, array(p, n, 1), array(p, n, 2),
                                array(p, n, 3), n->eps, map(p, n, 4), out);
        return true;
    case MDL_OP_SUM:
        p->ctx->training->sum(x, out->data);
        return true;
    case MDL_OP_ACT_DX:
        p->ctx->training->act_dx(n->act, n->alpha, array(p, n, 1), x,
                                 map(p, n, 2), out);
        return true;
    case MDL_OP_ACT_DSLOPE:
        p->ctx->training->act_dslope(x, map(p, n, 1), out->data);
        return true;
    case MDL_OP_POOL_DX:
        p->ctx->training->pool_dx(x, out);
        return true;
    case MDL_OP_SCALE_DS:
        p->ctx->training->scale_ds(x, map(p, n, 1), out);
        return true;
    case MDL_OP_L2NORM_DX:
        p->ctx->training->l2norm_dx(x, map(p, n, 1), out);
        return true;
    case MDL_OP_UPSAMPLE_DX:
        p->ctx->training->upsample_dx(x, out);
        return true;
    case MDL_OP_SLICE:
        p->ctx->training->slice(x, n->first, out);
        return true;
    case MDL_OP_SOFTMAX_DX:
        p->ctx->training->softmax_dx(x, map(p, n, 1), out);
        return true;
    default:
        return false;
    }
}
