/* The CPU backend: graphs to steps, steps to oneDNN primitives or our kernels.
 *
 *   maps     nChw16c in float32 or bfloat16, but the image, which is nchw
 *   vectors  [batch, C] float32
 *   3x3      stride 1: our Winograd in bfloat16, oneDNN's in float32
 *   1x1, stride 2, depthwise: oneDNN direct
 *
 * A step runs only if an output that was asked for needs it. Memory is planned
 * per plan and lies in the lane's workspace, which its plans share. */
#include "model/backends/cpu/cpu.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/backends/cpu/fc.h"
#include "model/backends/cpu/plan.h"
#include "model/backends/cpu/train_kernels.h"

enum ut_err cpu_check(dnnl_status_t s, const char *what, struct ut_error *e)
{
    if (s == dnnl_success)
        return UT_OK;
    return ut_fail(e, s == dnnl_out_of_memory ? UT_ENOMEM : UT_EDEVICE,
                   "oneDNN: %s failed with status %d", what, (int)s);
}

/* ---- the device and its lanes ---- */

static int score(void)
{
    return 10;
}

static enum ut_err open_cpu(int device, void **out, struct ut_error *e)
{
    struct ctx *c = calloc(1, sizeof(*c));
    enum ut_err rc;

    (void)device;
    if (!c)
        return ut_fail(e, UT_ENOMEM, "no memory for the CPU backend");
    rc =
        cpu_check(dnnl_engine_create(&c->engine, dnnl_cpu, 0), "the engine", e);
    if (rc) {
        free(c);
        return rc;
    }
    pthread_mutex_init(&c->lock, NULL);
    *out = c;
    return UT_OK;
}

static void close_cpu(void *ctx)
{
    struct ctx *c = ctx;

    dnnl_engine_destroy(c->engine);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static enum ut_err lane_new(void *ctx, void **out, struct ut_error *e)
{
    struct lane *l = calloc(1, sizeof(*l));
    enum ut_err rc;

    if (!l)
        return ut_fail(e, UT_ENOMEM, "no memory for a lane");
    l->threads = 1;
    rc = cpu_check(dnnl_stream_create(&l->stream, ((struct ctx *)ctx)->engine,
                                      dnnl_stream_default_flags),
                   "a stream", e);
    if (rc)
        free(l);
    else
        *out = l;
    return rc;
}

static void lane_free(void *ctx, void *lane)
{
    struct lane *l = lane;

    (void)ctx;
    dnnl_stream_destroy(l->stream);
    free(l->workspace);
    free(l);
}

static bool supports(void *ctx, enum mdl_precision precision)
{
    (void)ctx;
    return precision == MDL_PREC_F32 ||
           (precision == MDL_PREC_BF16 && mdl_wino_available());
}

/* ---- descriptors ---- */

static dnnl_data_type_t type_of(const struct plan *p)
{
    return p->bf16 ? dnnl_bf16 : dnnl_f32;
}

/* The descriptor of value v as it lies in memory. */
dnnl_memory_desc_t cpu_desc(const struct plan *p, int v)
{
    const struct mdl_map *m = &p->maps[v];
    dnnl_dims_t dims = {m->batch, m->channels, m->height, m->width};
    bool image = p->g->values[v].producer >= 0 &&
                 p->g->nodes[p->g->values[v].producer].op == MDL_OP_IMAGE;
    dnnl_memory_desc_t d;

    if (m->vector)
        dnnl_memory_desc_init_by_tag(&d, 2, dims, dnnl_f32, dnnl_nc);
    else
        dnnl_memory_desc_init_by_tag(&d, 4, dims, type_of(p),
                                     image ? dnnl_nchw : dnnl_nChw16c);
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

/* n floats with zeros up to a multiple of 16; NULL stays NULL. */
static enum ut_err pad(const float *from, int64_t n, float **out,
                       struct ut_error *e)
{
    size_t len = (size_t)(n + 15) / 16 * 16 * sizeof(float);

    if (!from)
        return UT_OK;
    *out = aligned_alloc(ALIGN, (len + ALIGN - 1) / ALIGN * ALIGN);
    if (!*out)
        return ut_fail(e, UT_ENOMEM, "no memory for a plan");
    memset(*out, 0, len);
    memcpy(*out, from, (size_t)n * sizeof(float));
    return UT_OK;
}

const float *cpu_param(const struct plan *p, const struct mdl_node *n, int role)
{
    return role < n->n_in && n->in[role] >= 0 ? p->g->values[n->in[role]].data
                                              : NULL;
}

/* ---- weights ---- */

static void weights_free(struct weights *w)
{
    if (w->memory)
        dnnl_memory_destroy(w->memory);
    free(w->packed);
    free(w);
}

static void weights_put(struct ctx *c, struct weights *w)
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

/* Copies from one layout to another. */
static enum ut_err copy(struct plan *p, const dnnl_memory_desc_t *from_md,
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
    return rc ? rc : copy(p, user, from, &w->md, to, e);
}

static enum ut_err pack(struct plan *p, const struct mdl_node *n,
                        struct weights *w, struct ut_error *e)
{
    const struct mdl_map *x = &p->maps[n->in[MDL_IN_X]];
    int outputs = p->maps[n->out].channels;
    bool fc = w->layout == WEIGHTS_FC;
    size_t size = fc ? mdl_fc_bytes(x, outputs)
                     : 2 * mdl_wino_weights_count(x->channels, outputs);

    w->packed = aligned_alloc(ALIGN, (size + ALIGN - 1) / ALIGN * ALIGN);
    if (!w->packed)
        return ut_fail(e, UT_ENOMEM, "no memory for weights");
    if (fc)
        mdl_fc_pack(x, outputs, w->from, w->packed);
    else
        mdl_wino_weights(w->from, x->channels, outputs, w->packed);
    return UT_OK;
}

/* The shared weights of node n in a layout; user and md are for oneDNN's. */
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

/* ---- building steps ---- */

void cpu_arg(struct step *s, int which, dnnl_memory_t m)
{
    s->args[s->n_args++] = (dnnl_exec_arg_t){which, m};
}

/* An argument in the workspace; its place is set when the plan is bound. */
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
        rc = cpu_weights_get(p, s->node, WEIGHTS_DNNL, user, want, &s->weights,
                             e);
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

static enum ut_err build_wino(struct plan *p, struct step *s,
                              struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    const struct mdl_map *x = &p->maps[n->in[MDL_IN_X]];
    const struct mdl_map *y = &p->maps[n->out];
    ptrdiff_t plane = (ptrdiff_t)x->height * x->width * 16;
    enum ut_err rc;

    s->wino = calloc(1, sizeof(*s->wino));
    if (!s->wino)
        return ut_fail(e, UT_ENOMEM, "no memory for a plan");
    rc = cpu_weights_get(p, n, WEIGHTS_WINO, NULL, NULL, &s->weights, e);
    if (!rc)
        rc = pad(cpu_param(p, n, MDL_IN_B), y->channels, &s->padded_bias, e);
    if (rc)
        return rc;
    *s->wino = (struct mdl_wino){
        .channels = x->channels,
        .outputs = y->channels,
        .height = x->height,
        .width = x->width,
        .in = {plane * mdl_map_blocks(x), 16 * x->width, 16, plane},
        .out = {plane * mdl_map_blocks(y), 16 * x->width, 16, plane},
        .weights = s->weights->packed,
        .bias = s->padded_bias,
        .slope = s->slope,
        .shift = s->shift,
    };
    if (mdl_wino_scratch(s->wino) > p->scratch_size)
        p->scratch_size = mdl_wino_scratch(s->wino);
    strcpy(s->detail, "winograd bf16 F(2,3)");
    return UT_OK;
}

static bool is_plain_3x3(const struct mdl_node *n)
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

    rc = pad(cpu_param(p, n, MDL_IN_SLOPE), outputs, &s->slope, e);
    if (!rc)
        rc = pad(cpu_param(p, n, MDL_IN_SHIFT), outputs, &s->shift, e);
    if (rc)
        return rc;
    if (p->bf16 && !p->trains && is_plain_3x3(n) &&
        mdl_wino_fits(ins, outputs) &&
        (n->act == MDL_ACT_NONE || n->act == MDL_ACT_PRELU))
        return build_wino(p, s, e);
    if (!p->bf16 && is_plain_3x3(n) && ins >= 16 && outputs >= 16 &&
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
    s->epilogue = !fuse || s->shift || n->in[MDL_IN_RESIDUAL] >= 0 ||
                  n->act == MDL_ACT_SIGMOID;
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
    enum ut_err rc =
        cpu_weights_get(p, n, WEIGHTS_FC, NULL, NULL, &s->weights, e);

    strcpy(s->detail, p->maps[n->in[MDL_IN_X]].bf16 ? "fc bf16" : "fc f32");
    return rc ? rc
              : pad(cpu_param(p, n, MDL_IN_SLOPE), p->maps[n->out].channels,
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
    enum ut_err rc = pad(mean, channels, &s->offset, e);

    if (!rc)
        rc = pad(var, channels, &s->scale, e);
    for (int c = 0; c < channels && !rc; c++) {
        double k = (gamma ? gamma[c] : 1) / sqrt((double)var[c] + n->eps);

        s->scale[c] = (float)k;
        s->offset[c] = (float)((beta ? beta[c] : 0) - mean[c] * k);
    }
    return rc;
}

static enum ut_err build(struct plan *p, struct step *s, struct ut_error *e)
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
        return pad(cpu_param(p, s->node, 1), p->maps[s->node->out].channels,
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

/* ---- memory ---- */

static void describe(struct plan *p, int v)
{
    const struct mdl_shape *s = &p->g->values[v].shape;
    struct mdl_map *m = &p->maps[v];

    if (p->g->values[v].whole)
        return; /* only its data */
    m->batch = p->batch;
    m->channels = (int)s->dim[0];
    m->vector = s->n_dims == 1;
    m->height = m->vector ? 1 : (int)s->dim[1];
    m->width = m->vector ? 1 : (int)s->dim[2];
    m->bf16 = p->bf16 && !m->vector;
}

static size_t bytes_of(const struct plan *p, int v)
{
    const struct mdl_value *value = &p->g->values[v];
    dnnl_memory_desc_t d;
    size_t size;

    if (!value->whole) {
        d = cpu_desc(p, v);
        size = dnnl_memory_desc_get_size(&d);
    } else if (p->whole[v].ndims) {
        size = dnnl_memory_desc_get_size(&p->whole[v]);
    } else {
        size = mdl_shape_count(&value->shape) * sizeof(float);
    }
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

/* A value that a plan gives a place: a result, or an input that is set. */
static bool is_placed(const struct mdl_value *v)
{
    return v->kind == MDL_VALUE_RESULT ||
           (v->kind == MDL_VALUE_INPUT && v->dtype == MDL_F32);
}

/* When a value lives: steps [first, last]. */
struct life {
    int value, first, last;
    size_t size;
};

static int by_first(const void *a, const void *b)
{
    return ((const struct life *)a)->first - ((const struct life *)b)->first;
}

/* From its step to the last that uses it, or to the end if it is asked for. */
static int find_lives(const struct plan *p, struct life *lives)
{
    const struct mdl_graph *g = p->g;
    int n = 0;

    for (int v = 0; v < g->n_values; v++) {
        const struct mdl_value *value = &g->values[v];
        bool stays = value->output >= 0 || value->keep;

        if (!is_placed(value))
            continue;
        lives[n++] = (struct life){
            .value = v,
            .first = value->producer < 0 ? 0 : value->producer,
            .last = stays ? g->n_nodes : value->producer,
            .size = bytes_of(p, v),
        };
    }
    for (int k = 0; k < n; k++)
        for (int i = lives[k].first; i < g->n_nodes; i++)
            for (int j = 0; j < g->nodes[i].n_in; j++)
                if (g->nodes[i].in[j] == lives[k].value && i > lives[k].last)
                    lives[k].last = i;
    qsort(lives, (size_t)n, sizeof(*lives), by_first);
    return n;
}

/* Gives every value the lowest place that is free for its whole life. */
static enum ut_err plan_memory(struct plan *p, struct ut_error *e)
{
    struct life *lives = malloc((size_t)p->g->n_values * sizeof(*lives));
    int n;

    if (!lives)
        return ut_fail(e, UT_ENOMEM, "no memory for a plan");
    n = find_lives(p, lives);
    for (int i = 0; i < n; i++) {
        const struct life *l = &lives[i];
        bool moved = true;
        size_t at = 0;

        while (moved) {
            moved = false;
            for (int k = 0; k < i; k++) {
                size_t from = p->offset[lives[k].value];

                if (lives[k].last >= l->first && at < from + lives[k].size &&
                    from < at + l->size) {
                    at = from + lives[k].size;
                    moved = true;
                }
            }
        }
        p->offset[l->value] = at;
        if (at + l->size > p->scratch)
            p->scratch = at + l->size;
    }
    free(lives);
    return UT_OK;
}

static enum ut_err grow_workspace(struct plan *p, struct ut_error *e)
{
    struct lane *l = p->lane;
    size_t size;

    p->total = p->scratch + p->scratch_size;
    size = (p->total + 4095) / 4096 * 4096;
    if (size <= l->size)
        return UT_OK;
    free(l->workspace);
    l->size = 0;
    l->workspace = aligned_alloc(4096, size);
    if (!l->workspace)
        return ut_fail(e, UT_ENOMEM, "no memory for a workspace of %zu bytes",
                       size);
    l->size = size;
    return UT_OK;
}

/* Points everything into the lane's workspace, where it moved. */
static void bind(struct plan *p)
{
    if (p->base == p->lane->workspace)
        return;
    p->base = p->lane->workspace;
    for (int v = 0; v < p->g->n_values; v++)
        if (is_placed(&p->g->values[v]))
            p->maps[v].data = p->base + p->offset[v];
    for (int i = 0; i < p->n_steps; i++)
        for (int k = 0; k < p->steps[i].n_placed; k++) {
            const struct placed *x = &p->steps[i].placed[k];

            dnnl_memory_set_data_handle(
                x->memory,
                p->base + (x->value < 0 ? p->scratch : p->offset[x->value]));
        }
}

/* ---- plans ---- */

static void plan_free(void *ctx, void *plan)
{
    struct plan *p = plan;

    (void)ctx;
    for (int i = 0; p->steps && i < p->n_steps; i++) {
        struct step *s = &p->steps[i];

        dnnl_primitive_destroy(s->primitive);
        for (int k = 0; k < s->n_placed; k++)
            dnnl_memory_destroy(s->placed[k].memory);
        if (s->bias)
            dnnl_memory_destroy(s->bias);
        weights_put(p->ctx, s->weights);
        free(s->wino);
        free(s->slope);
        free(s->shift);
        free(s->scale);
        free(s->offset);
        free(s->padded_bias);
    }
    free(p->steps);
    free(p->offset);
    free(p->maps);
    free(p->whole);
    free(p);
}

/* A setting of the calling thread: one thread serves a lane, several train. */
static void use_threads(const struct plan *p)
{
    omp_set_num_threads(p->trains ? p->lane->threads : 1);
}

static enum ut_err compile(void *ctx, void *lane, const struct mdl_graph *g,
                           enum mdl_precision precision, int batch, void **out,
                           struct ut_error *e)
{
    struct plan *p = calloc(1, sizeof(*p));
    uint64_t *needs = calloc((size_t)g->n_nodes + 1, sizeof(*needs));
    enum ut_err rc = UT_OK;

    if (!p || !needs) {
        free(p);
        free(needs);
        return ut_fail(e, UT_ENOMEM, "no memory for a plan");
    }
    *p = (struct plan){.ctx = ctx,
                       .lane = lane,
                       .g = g,
                       .batch = batch,
                       .bf16 = precision == MDL_PREC_BF16,
                       .n_steps = g->n_nodes};
    p->steps = calloc((size_t)g->n_nodes + 1, sizeof(*p->steps));
    p->offset = calloc((size_t)g->n_values, sizeof(*p->offset));
    p->maps = calloc((size_t)g->n_values, sizeof(*p->maps));
    p->whole = calloc((size_t)g->n_values, sizeof(*p->whole));
    for (int i = 0; i < g->n_nodes; i++)
        p->trains |= g->nodes[i].op >= MDL_OP_BN_STATS;
    use_threads(p);
    if (!p->steps || !p->offset || !p->maps || !p->whole)
        rc = ut_fail(e, UT_ENOMEM, "no memory for a plan");
    if (!rc) {
        mdl_graph_needs(g, needs);
        for (int v = 0; v < g->n_values; v++)
            if (is_placed(&g->values[v]))
                describe(p, v);
    }
    for (int i = 0; i < g->n_nodes && !rc; i++) {
        p->steps[i].node = &g->nodes[i];
        p->steps[i].needs = needs[i];
        rc = build(p, &p->steps[i], e);
    }
    if (!rc)
        rc = plan_memory(p, e);
    if (!rc)
        rc = grow_workspace(p, e);
    free(needs);
    if (rc)
        plan_free(ctx, p);
    else
        *out = p;
    return rc;
}

/* The maps of a node's inputs, for ADD and CONCAT. */
static const struct mdl_map *inputs(const struct plan *p,
                                    const struct mdl_node *n,
                                    struct mdl_map list[MDL_NODE_INPUTS])
{
    for (int i = 0; i < n->n_in; i++)
        list[i] = p->maps[n->in[i]];
    return list;
}

static void run_act(struct plan *p, struct step *s)
{
    const struct mdl_node *n = s->node;
    const struct mdl_map *x = &p->maps[n->in[0]], *y = &p->maps[n->out];

    mdl_k_copy(x, y);
    if (y->vector)
        mdl_k_activate(y, n->act, n->alpha, s->slope);
    else
        mdl_k_epilogue(y, n->act, n->alpha, s->slope, NULL, NULL);
}

static void run_kernel(struct plan *p, struct step *s, const void *in)
{
    const struct mdl_node *n = s->node;
    const struct mdl_map *x = &p->maps[n->in[0]], *y = &p->maps[n->out];
    struct mdl_map list[MDL_NODE_INPUTS];

    if (p->trains && cpu_run_gradient(p, s))
        return;
    switch (n->op) {
    case MDL_OP_IMAGE:
        mdl_k_image(n, in, p->batch, y->height * y->width, y->bf16, y->data);
        return;
    case MDL_OP_CONV:
        mdl_wino_run(s->wino, p->batch, x->data,
                     n->in[MDL_IN_RESIDUAL] >= 0
                         ? p->maps[n->in[MDL_IN_RESIDUAL]].data
                         : NULL,
                     y->data, p->base + p->scratch);
        return;
    case MDL_OP_LINEAR:
        mdl_fc_run(x, s->weights->packed, cpu_param(p, n, MDL_IN_B), n->act,
                   n->alpha, s->slope, y);
        return;
    case MDL_OP_BATCHNORM:
        mdl_k_affine(x, s->scale, s->offset, y);
        return;
    case MDL_OP_ACT:
        run_act(p, s);
        return;
    case MDL_OP_POOL:
        mdl_k_pool(x, y);
        return;
    case MDL_OP_ADD:
        mdl_k_add(inputs(p, n, list), n->n_in, y);
        return;
    case MDL_OP_SCALE:
        mdl_k_scale(x, &p->maps[n->in[1]], y);
        return;
    case MDL_OP_L2NORM:
        mdl_k_l2norm(x, y);
        return;
    case MDL_OP_UPSAMPLE:
        mdl_k_upsample(x, y);
        return;
    case MDL_OP_CONCAT:
        mdl_k_concat(inputs(p, n, list), n->n_in, y);
        return;
    case MDL_OP_SOFTMAX:
        mdl_k_softmax(x, y);
        return;
    default:
        return; /* of training: cpu_run_gradient */
    }
}

static enum ut_err run_step(struct plan *p, struct step *s, const void *in,
                            struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    enum ut_err rc;

    if (!s->primitive) {
        run_kernel(p, s, in);
        return UT_OK;
    }
    rc = cpu_check(dnnl_primitive_execute(s->primitive, p->lane->stream,
                                          s->n_args, s->args),
                   mdl_op_name(n->op), e);
    if (!rc)
        rc =
            cpu_check(dnnl_stream_wait(p->lane->stream), mdl_op_name(n->op), e);
    if (rc || !s->epilogue)
        return rc;
    mdl_k_epilogue(&p->maps[n->out], s->act, n->alpha, s->slope, s->shift,
                   n->in[MDL_IN_RESIDUAL] >= 0
                       ? p->maps[n->in[MDL_IN_RESIDUAL]].data
                       : NULL);
    return UT_OK;
}

static enum ut_err run(void *ctx, void *plan, const struct mdl_io *io,
                       struct ut_error *e)
{
    struct plan *p = plan;
    const struct mdl_graph *g = p->g;
    uint64_t wanted = 0;

    (void)ctx;
    use_threads(p);
    bind(p);
    for (int i = 0; i < g->n_outputs; i++)
        if (io->out[i] && g->outputs[i] >= 0)
            wanted |= 1ull << i;
    for (int i = 0; i < p->n_steps; i++) {
        int64_t start = ut_clock_us();
        enum ut_err rc;

        if (!(p->steps[i].needs & wanted))
            continue;
        rc = run_step(p, &p->steps[i], io->in, e);
        if (rc)
            return rc;
        p->steps[i].us = (double)(ut_clock_us() - start);
    }
    for (int i = 0; i < g->n_outputs; i++)
        if (wanted >> i & 1)
            mdl_k_output(&p->maps[g->outputs[i]], io->out[i]);
    return UT_OK;
}

/* ---- training ---- */

static void lane_threads(void *ctx, void *lane, int n)
{
    (void)ctx;
    ((struct lane *)lane)->threads = n;
}

static enum ut_err run_nodes(void *ctx, void *plan, const void *in, int first,
                             int last, struct ut_error *e)
{
    struct plan *p = plan;
    enum ut_err rc = UT_OK;

    (void)ctx;
    use_threads(p);
    bind(p);
    for (int i = first; i < last && !rc; i++) {
        int64_t start = ut_clock_us();

        rc = run_step(p, &p->steps[i], in, e);
        p->steps[i].us = (double)(ut_clock_us() - start);
    }
    return rc;
}

static enum ut_err set(void *ctx, void *plan, int value, const float *from,
                       struct ut_error *e)
{
    struct plan *p = plan;

    (void)ctx;
    (void)e;
    bind(p);
    mdl_t_from_rows(from, &p->maps[value]);
    return UT_OK;
}

static enum ut_err get(void *ctx, void *plan, int value, float *to,
                       struct ut_error *e)
{
    struct plan *p = plan;
    const struct mdl_value *v = &p->g->values[value];
    size_t size = mdl_shape_count(&v->shape) * sizeof(*to);
    dnnl_memory_desc_t plain = p->whole[value];
    int n = plain.ndims;

    (void)ctx;
    if (!v->whole) {
        mdl_t_to_rows(&p->maps[value], to);
        return UT_OK;
    }
    if (!n) {
        memcpy(to, p->maps[value].data, size);
        return UT_OK;
    }
    plain = cpu_plain(n, p->whole[value].dims, dnnl_f32);
    return copy(p, &p->whole[value], p->maps[value].data, &plain, to, e);
}

/* oneDNN's copies of the weights, anew from the parameters. */
static enum ut_err refresh(void *ctx, void *plan, struct ut_error *e)
{
    struct plan *p = plan;
    enum ut_err rc = UT_OK;

    (void)ctx;
    use_threads(p);
    for (int i = 0; i < p->n_steps && !rc; i++) {
        struct weights *w = p->steps[i].weights;

        if (w && w->memory)
            rc = reorder(p, w->from, &w->user, w, e);
    }
    return rc;
}

static void profile(void *plan,
                    void (*line)(void *arg, const char *name,
                                 const char *detail, double us, double macs),
                    void *arg)
{
    const struct plan *p = plan;

    for (int i = 0; i < p->n_steps; i++) {
        const struct mdl_node *n = p->steps[i].node;
        const char *module =
            n->module >= 0 ? p->g->modules[n->module] : mdl_op_name(n->op);

        line(arg, module,
             p->steps[i].detail[0] ? p->steps[i].detail : mdl_op_name(n->op),
             p->steps[i].us, (double)mdl_node_macs(p->g, n) * p->batch);
    }
}

const struct mdl_backend_ops mdl_cpu_ops = {
    .name = "cpu",
    .score = score,
    .open = open_cpu,
    .close = close_cpu,
    .lane_new = lane_new,
    .lane_free = lane_free,
    .compile = compile,
    .plan_free = plan_free,
    .run = run,
    .supports = supports,
    .lane_threads = lane_threads,
    .run_nodes = run_nodes,
    .set = set,
    .get = get,
    .refresh = refresh,
    .profile = profile,
};
