/* A graph's node becomes a step: which of oneDNN's primitives or our kernels,
 * in which layout, with which weights. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/cpu/fc.h"
#include "model/backends/cpu/plan.h"

static dnnl_data_type_t type_of(const struct plan *p)
{
    return p->bf16 ? dnnl_bf16 : dnnl_f32;
}

dnnl_memory_desc_t cpu_desc(const struct plan *p, int v)
{
    const struct mdl_map *m = &p->maps[v];
    dnnl_dims_t dims = {m->batch, m->channels, m->height, m->width};
    dnnl_memory_desc_t d;

    if (m->vector)
        dnnl_memory_desc_init_by_tag(&d, 2, dims, dnnl_f32, dnnl_nc);
    else
        dnnl_memory_desc_init_by_tag(&d, 4, dims, type_of(p),
                                     m->lanes == 1   ? dnnl_nchw
                                     : m->lanes == 8 ? dnnl_nChw8c
                                                     : dnnl_nChw16c);
    return d;
}

dnnl_memory_desc_t cpu_plain(int n, const dnnl_dims_t dims, dnnl_data_type_t t)
{
    static const dnnl_format_tag_t tags[] = {dnnl_format_tag_undef,
                                             dnnl_a,
                                             dnnl_ab,
                                             dnnl_abc,
                                             dnnl_abcd,
                                             dnnl_abcde};
    dnnl_memory_desc_t d;

    dnnl_memory_desc_init_by_tag(&d, n, dims, t, tags[n]);
    return d;
}

enum ut_err cpu_zeros(int64_t n, float **out, struct ut_error *e)
{
    size_t len = (size_t)(n + 15) / 16 * 16 * sizeof(float);

    *out = aligned_alloc(ALIGN, (len + ALIGN - 1) / ALIGN * ALIGN);
    if (!*out)
        return ut_fail(e, UT_ENOMEM, "no memory for a plan");
    memset(*out, 0, len);
    return UT_OK;
}

enum ut_err cpu_pad(const float *from, int64_t n, float **out,
                    struct ut_error *e)
{
    enum ut_err rc = from ? cpu_zeros(n, out, e) : UT_OK;

    if (from && !rc)
        memcpy(*out, from, (size_t)n * sizeof(float));
    return rc;
}

const float *cpu_param(const struct plan *p, const struct mdl_node *n, int role)
{
    return role < n->n_in && n->in[role] >= 0 ? p->g->values[n->in[role]].data
                                              : NULL;
}

void cpu_arg(struct step *s, int which, dnnl_memory_t m)
{
    s->args[s->n_args++] = (dnnl_exec_arg_t){which, m};
}

enum ut_err cpu_place(struct plan *p, struct step *s, int which, int value,
                      const dnnl_memory_desc_t *md, struct ut_error *e)
{
    dnnl_memory_t m;
    enum ut_err rc =
        cpu_check(dnnl_memory_create(&m, md, p->ctx->engine, DNNL_MEMORY_NONE),
                  "a memory", e);

    if (rc)
        return rc;
    s->placed[s->n_placed++] = (struct placed){m, value};
    cpu_arg(s, which, m);
    return UT_OK;
}

static dnnl_status_t append_act(dnnl_post_ops_t po, enum mdl_act act,
                                float alpha)
{
    switch (act) {
    case MDL_ACT_RELU:
        return dnnl_post_ops_append_eltwise(po, 1, dnnl_eltwise_relu, 0, 0);
    case MDL_ACT_LEAKY:
        return dnnl_post_ops_append_eltwise(po, 1, dnnl_eltwise_relu, alpha, 0);
    case MDL_ACT_RELU6:
        return dnnl_post_ops_append_eltwise(po, 1, dnnl_eltwise_clip, 0, 6);
    case MDL_ACT_SIGMOID:
        return dnnl_post_ops_append_eltwise(po, 1, dnnl_eltwise_logistic, 0, 0);
    case MDL_ACT_NONE:
    case MDL_ACT_PRELU:
        break;
    }
    return dnnl_success;
}

enum ut_err cpu_scratchpad(struct plan *p, struct step *s,
                           dnnl_primitive_desc_t pd, struct ut_error *e)
{
    const dnnl_memory_desc_t *md =
        dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    size_t size = dnnl_memory_desc_get_size(md);

    if (!size)
        return UT_OK;
    if (size > p->scratch_size)
        p->scratch_size = size;
    return cpu_place(p, s, DNNL_ARG_SCRATCHPAD, -1, md, e);
}

/* Finishes a step whose primitive descriptor is chosen: primitive, weights,
 * bias, scratchpad. */
static enum ut_err complete(struct plan *p, struct step *s,
                            dnnl_primitive_desc_t pd,
                            const dnnl_memory_desc_t *user, int outputs,
                            struct ut_error *e)
{
    const dnnl_memory_desc_t *want =
        dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    const float *bias = cpu_param(p, s->node, MDL_IN_B);
    dnnl_memory_desc_t bias_md = cpu_plain(1, (dnnl_dims_t){outputs}, dnnl_f32);
    const char *info = "";
    enum ut_err rc;

    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&info);
    strncpy(s->detail, info, sizeof(s->detail) - 1);
    rc = cpu_check(dnnl_primitive_create(&s->primitive, pd), info, e);
    if (!rc)
        rc = cpu_weights_dnnl(p, s->node, user, want, &s->weights, e);
    if (!rc)
        cpu_arg(s, DNNL_ARG_WEIGHTS, s->weights->memory);
    if (!rc && bias) {
        rc = cpu_check(dnnl_memory_create(&s->bias, &bias_md, p->ctx->engine,
                                          (void *)(uintptr_t)bias),
                       "a bias", e);
        if (!rc)
            cpu_arg(s, DNNL_ARG_BIAS, s->bias);
    }
    if (!rc)
        rc = cpu_scratchpad(p, s, pd, e);
    return rc;
}

static dnnl_status_t conv_desc(struct plan *p, const struct mdl_node *n,
                               dnnl_alg_kind_t alg,
                               const dnnl_memory_desc_t *user, bool fuse,
                               dnnl_primitive_desc_t *pd)
{
    dnnl_memory_desc_t src = cpu_desc(p, n->in[MDL_IN_X]);
    dnnl_memory_desc_t dst = cpu_desc(p, n->out), w, b;
    const dnnl_dims_t stride = {n->stride, n->stride}, dilate = {0, 0},
                      pads = {n->pad, n->pad};
    dnnl_convolution_desc_t d;
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t po;
    dnnl_status_t s;

    dnnl_memory_desc_init_by_tag(&w, user->ndims, user->dims, type_of(p),
                                 dnnl_format_tag_any);
    dnnl_memory_desc_init_by_tag(&b, 1, (dnnl_dims_t){dst.dims[1]}, dnnl_f32,
                                 dnnl_a);
    s = dnnl_dilated_convolution_forward_desc_init(
        &d, dnnl_forward_inference, alg, &src, &w,
        n->in[MDL_IN_B] >= 0 ? &b : NULL, &dst, stride, dilate, pads, pads);
    if (s != dnnl_success)
        return s;
    dnnl_primitive_attr_create(&attr);
    dnnl_post_ops_create(&po);
    dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    s = fuse ? append_act(po, n->act, n->alpha) : dnnl_success;
    if (s == dnnl_success)
        s = dnnl_primitive_attr_set_post_ops(attr, po);
    if (s == dnnl_success)
        s = dnnl_primitive_desc_create(pd, &d, attr, p->ctx->engine, NULL);
    dnnl_post_ops_destroy(po);
    dnnl_primitive_attr_destroy(attr);
    return s;
}

bool cpu_is_plain_3x3(const struct mdl_node *n)
{
    return n->kernel == 3 && n->stride == 1 && n->pad == 1 && n->groups == 1;
}

static enum ut_err build_conv(struct plan *p, struct step *s,
                              struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    const struct mdl_shape *w = &p->g->values[n->in[MDL_IN_W]].shape;
    int outputs = (int)w->dim[0], ins = p->maps[n->in[MDL_IN_X]].channels;
    bool grouped = n->groups > 1;
    dnnl_dims_t dims = {outputs, ins, n->kernel, n->kernel};
    dnnl_dims_t grouped_dims = {n->groups, outputs / n->groups, ins / n->groups,
                                n->kernel, n->kernel};
    dnnl_memory_desc_t user = grouped ? cpu_plain(5, grouped_dims, dnnl_f32)
                                      : cpu_plain(4, dims, dnnl_f32);
    dnnl_memory_desc_t src = cpu_desc(p, n->in[MDL_IN_X]);
    dnnl_memory_desc_t dst = cpu_desc(p, n->out);
    dnnl_primitive_desc_t pd = NULL;
    bool fuse = n->act != MDL_ACT_PRELU;
    enum ut_err rc;

    rc = cpu_pad(cpu_param(p, n, MDL_IN_SLOPE), outputs, &s->slope, e);
    if (!rc)
        rc = cpu_pad(cpu_param(p, n, MDL_IN_SHIFT), outputs, &s->shift, e);
    if (!rc)
        rc = cpu_build_wino(p, s, e);
    if (rc || s->wino)
        return rc;
    if (!p->bf16 && cpu_is_plain_3x3(n) && ins >= 16 && outputs >= 16 &&
        (n->act == MDL_ACT_NONE || n->act == MDL_ACT_RELU ||
         n->act == MDL_ACT_PRELU))
        if (conv_desc(p, n, dnnl_convolution_winograd, &user, fuse, &pd) !=
            dnnl_success)
            pd = NULL;
    if (!pd)
        rc = cpu_check(
            conv_desc(p, n, dnnl_convolution_direct, &user, fuse, &pd),
            "a convolution", e);
    if (rc)
        return rc;
    s->act = fuse ? MDL_ACT_NONE : n->act;
    s->epilogue = !fuse || s->shift || n->in[MDL_IN_RESIDUAL] >= 0;
    rc = cpu_place(p, s, DNNL_ARG_SRC, n->in[MDL_IN_X], &src, e);
    if (!rc)
        rc = cpu_place(p, s, DNNL_ARG_DST, n->out, &dst, e);
    if (!rc)
        rc = complete(p, s, pd, &user, outputs, e);
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

static enum ut_err build_linear(struct plan *p, struct step *s,
                                struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    enum ut_err rc = cpu_weights_fc(p, n, &s->weights, e);

    strcpy(s->detail, p->maps[n->in[MDL_IN_X]].bf16 ? "fc bf16" : "fc f32");
    return rc ? rc
              : cpu_pad(cpu_param(p, n, MDL_IN_SLOPE), p->maps[n->out].channels,
                        &s->slope, e);
}

static enum ut_err build_batchnorm(struct plan *p, struct step *s,
                                   struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    int channels = p->maps[n->out].channels;
    const float *gamma = cpu_param(p, n, MDL_BN_GAMMA);
    const float *beta = cpu_param(p, n, MDL_BN_BETA);
    const float *mean = cpu_param(p, n, MDL_BN_MEAN);
    const float *var = cpu_param(p, n, MDL_BN_VAR);
    enum ut_err rc = cpu_pad(mean, channels, &s->offset, e);

    if (!rc)
        rc = cpu_pad(var, channels, &s->scale, e);
    for (int c = 0; c < channels && !rc; c++) {
        double k = (gamma ? gamma[c] : 1) / sqrt((double)var[c] + n->eps);

        s->scale[c] = (float)k;
        s->offset[c] = (float)((beta ? beta[c] : 0) - mean[c] * k);
    }
    return rc;
}

enum ut_err cpu_build(struct plan *p, struct step *s, struct ut_error *e)
{
    if (p->trains && s->node->op != MDL_OP_CONV &&
        s->node->op != MDL_OP_BATCHNORM)
        return cpu_build_gradient(p, s, e);
    switch (s->node->op) {
    case MDL_OP_CONV:
        return build_conv(p, s, e);
    case MDL_OP_LINEAR:
        return build_linear(p, s, e);
    case MDL_OP_BATCHNORM:
        return build_batchnorm(p, s, e);
    case MDL_OP_ACT:
        return cpu_pad(cpu_param(p, s->node, 1), p->maps[s->node->out].channels,
                       &s->slope, e);
    case MDL_OP_IMAGE:
    case MDL_OP_POOL:
    case MDL_OP_ADD:
    case MDL_OP_SCALE:
    case MDL_OP_L2NORM:
    case MDL_OP_UPSAMPLE:
    case MDL_OP_CONCAT:
    case MDL_OP_SOFTMAX:
        return UT_OK;
    default:
        return ut_fail(e, UT_EINVAL, "%s: the plan does not train",
                       mdl_op_name(s->node->op));
    }
}
