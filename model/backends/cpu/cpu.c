/* The CPU backend: graphs to steps, steps to oneDNN primitives or our kernels.
 *
 *   maps     nChw16c in float32 or bfloat16 where there is AVX-512, else
 *            nChw8c in float32: what oneDNN's convolutions are written for;
 *            but an image that only convolutions read, which is nchw
 *   vectors  [batch, C] float32
 *   3x3      stride 1: our Winograd where wino_step.c says so, in training
 *            in float32 alone; oneDNN's in float32 over nChw16c
 *   1x1, stride 2, depthwise: oneDNN direct
 *
 * A step runs only if an output that was asked for needs it. Memory is planned
 * per plan and lies in the lane's workspace, which its plans share. */
#include "model/backends/cpu/cpu.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/backends/cpu/fc.h"
#include "model/backends/cpu/plan.h"
#include "model/backends/cpu/train_kernels.h"
#include "model/isa.h"

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
    bool wide;

    (void)device;
    if (!c)
        return ut_fail(e, UT_ENOMEM, "no memory for the CPU backend");
    rc =
        cpu_check(dnnl_engine_create(&c->engine, dnnl_cpu, 0), "the engine", e);
    if (rc) {
        free(c);
        return rc;
    }
    wide = mdl_isa() == MDL_ISA_AVX512;
    c->kernels = wide ? &mdl_kernels_16 : &mdl_kernels_8;
    c->training = wide ? &mdl_train_kernels_16 : &mdl_train_kernels_8;
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
           (precision == MDL_PREC_BF16 && mdl_wino_bf16_available());
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
        cpu_weights_put(p->ctx, s->weights);
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
        cpu_map_values(p);
    }
    for (int i = 0; i < g->n_nodes && !rc; i++) {
        p->steps[i].node = &g->nodes[i];
        p->steps[i].needs = needs[i];
        rc = cpu_build(p, &p->steps[i], e);
    }
    if (!rc)
        rc = cpu_plan_memory(p, e);
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

/* What a convolution adds to its result, or NULL. */
static const struct mdl_map *residual(const struct plan *p,
                                      const struct mdl_node *n)
{
    int value = n->op == MDL_OP_CONV ? n->in[MDL_IN_RESIDUAL] : -1;

    return value >= 0 ? &p->maps[value] : NULL;
}

static void run_kernel(struct plan *p, struct step *s, const void *in)
{
    const struct mdl_node *n = s->node;
    const struct mdl_map *x = &p->maps[n->in[0]], *y = &p->maps[n->out];
    struct mdl_map list[MDL_NODE_INPUTS];

    if (s->wino) {
        cpu_run_wino(p, s, residual(p, n));
        return;
    }
    if (p->trains && cpu_run_gradient(p, s))
        return;
    switch (n->op) {
    case MDL_OP_IMAGE:
        mdl_k_image(n, in, y);
        return;
    case MDL_OP_LINEAR:
        mdl_fc_run(x, s->weights->packed, cpu_param(p, n, MDL_IN_B), y);
        if (n->act != MDL_ACT_NONE)
            p->ctx->kernels->act(y, n->act, n->alpha, s->slope, NULL, NULL, y);
        return;
    case MDL_OP_BATCHNORM:
        p->ctx->kernels->affine(x, s->scale, s->offset, y);
        return;
    case MDL_OP_ACT:
        p->ctx->kernels->act(x, n->act, n->alpha, s->slope, NULL, NULL, y);
        return;
    case MDL_OP_POOL:
        p->ctx->kernels->pool(x, y);
        return;
    case MDL_OP_ADD:
        p->ctx->kernels->add(inputs(p, n, list), n->n_in, y);
        return;
    case MDL_OP_SCALE:
        p->ctx->kernels->scale(x, &p->maps[n->in[1]], y);
        return;
    case MDL_OP_L2NORM:
        mdl_k_l2norm(x, y);
        return;
    case MDL_OP_UPSAMPLE:
        p->ctx->kernels->upsample(x, y);
        return;
    case MDL_OP_CONCAT:
        p->ctx->kernels->concat(inputs(p, n, list), n->n_in, y);
        return;
    case MDL_OP_SOFTMAX:
        p->ctx->kernels->softmax(x, y);
        return;
    default:
        return; /* of training: cpu_run_gradient */
    }
}

static enum ut_err run_step(struct plan *p, struct step *s, const void *in,
                            struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    const struct mdl_map *y = &p->maps[n->out];
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
    p->ctx->kernels->act(y, s->act, n->alpha, s->slope, s->shift,
                         residual(p, n), y);
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
    cpu_bind(p);
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
            p->ctx->kernels->to_rows(&p->maps[g->outputs[i]], io->out[i]);
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
    cpu_bind(p);
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
    cpu_bind(p);
    p->ctx->training->from_rows(from, &p->maps[value]);
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
        p->ctx->kernels->to_rows(&p->maps[value], to);
        return UT_OK;
    }
    if (!n) {
        memcpy(to, p->maps[value].data, size);
        return UT_OK;
    }
    plain = cpu_plain(n, p->whole[value].dims, dnnl_f32);
    return cpu_copy(p, &p->whole[value], p->maps[value].data, &plain, to, e);
}

static enum ut_err refresh(void *ctx, void *plan, struct ut_error *e)
{
    struct plan *p = plan;
    enum ut_err rc = UT_OK;

    (void)ctx;
    use_threads(p);
    for (int i = 0; i < p->n_steps && !rc; i++)
        if (p->steps[i].weights)
            rc = cpu_weights_refresh(p, p->steps[i].weights, e);
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
