/* The reference backend: every operation as its definition says. */
#include "model/backends/ref/ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/ref/plan.h"

float *ref_value(const struct plan *p, int v, int b)
{
    const struct mdl_value *value = &p->g->values[v];
    bool batched = (value->kind == MDL_VALUE_RESULT && !value->whole) ||
                   value->kind == MDL_VALUE_INPUT;

    return p->values[v] +
           (batched ? (size_t)b * mdl_shape_count(&value->shape) : 0);
}

struct map ref_map(const struct plan *p, int v, int b)
{
    const struct mdl_shape *s = &p->g->values[v].shape;
    struct map m = {ref_value(p, v, b), s->dim[0], 1, 1};

    if (s->n_dims == 3) {
        m.h = s->dim[1];
        m.w = s->dim[2];
    }
    return m;
}

const float *ref_in(const struct plan *p, const struct mdl_node *n, int role)
{
    if (role >= n->n_in || n->in[role] < 0)
        return NULL;
    return ref_value(p, n->in[role], p->image);
}

static struct map map_of(const struct plan *p, int v)
{
    return ref_map(p, v, p->image);
}

static float activate(const struct mdl_node *n, const float *slope, int64_t c,
                      float x)
{
    switch (n->act) {
    case MDL_ACT_NONE:
        return x;
    case MDL_ACT_RELU:
        return x > 0 ? x : 0;
    case MDL_ACT_RELU6:
        return x > 0 ? (x < 6 ? x : 6) : 0;
    case MDL_ACT_LEAKY:
        return x > 0 ? x : n->alpha * x;
    case MDL_ACT_PRELU:
        return x > 0 ? x : slope[c] * x;
    case MDL_ACT_SIGMOID:
        return (float)(1 / (1 + exp(-(double)x)));
    }
    return x;
}

static void run_image(const struct plan *p, const struct mdl_node *n,
                      const uint8_t *rgb)
{
    struct map y = map_of(p, n->out);

    for (int64_t c = 0; c < 3; c++)
        for (int64_t i = 0; i < y.h * y.w; i++)
            y.data[c * y.h * y.w + i] =
                (rgb[i * 3 + (n->bgr ? 2 - c : c)] - n->mean[c]) * n->scale[c];
}

/* One output pixel's sum over its window; outside the image is zero. */
static double window(const struct mdl_node *n, struct map x, const float *w,
                     int64_t first, int64_t channels, int64_t i, int64_t j)
{
    double sum = 0;

    for (int64_t c = 0; c < channels; c++)
        for (int64_t a = 0; a < n->kernel; a++)
            for (int64_t b = 0; b < n->kernel; b++) {
                int64_t row = i * n->stride - n->pad + a;
                int64_t col = j * n->stride - n->pad + b;

                if (row < 0 || row >= x.h || col < 0 || col >= x.w)
                    continue;
                sum += (double)w[(c * n->kernel + a) * n->kernel + b] *
                       x.data[((first + c) * x.h + row) * x.w + col];
            }
    return sum;
}

static void run_conv(const struct plan *p, const struct mdl_node *n)
{
    struct map x = map_of(p, n->in[MDL_IN_X]), y = map_of(p, n->out);
    const float *w = ref_in(p, n, MDL_IN_W), *b = ref_in(p, n, MDL_IN_B);
    const float *slope = ref_in(p, n, MDL_IN_SLOPE);
    const float *shift = ref_in(p, n, MDL_IN_SHIFT);
    const float *residual = ref_in(p, n, MDL_IN_RESIDUAL);
    int64_t ins = x.c / n->groups, outs = y.c / n->groups;

    for (int64_t o = 0; o < y.c; o++)
        for (int64_t i = 0; i < y.h; i++)
            for (int64_t j = 0; j < y.w; j++) {
                int64_t at = (o * y.h + i) * y.w + j;
                double sum = window(n, x, w + o * ins * n->kernel * n->kernel,
                                    o / outs * ins, ins, i, j);

                y.data[at] =
                    activate(n, slope, o, (float)(sum + (b ? b[o] : 0))) +
                    (shift ? shift[o] : 0) + (residual ? residual[at] : 0);
            }
}

static void run_linear(const struct plan *p, const struct mdl_node *n)
{
    const float *x = ref_in(p, n, MDL_IN_X), *w = ref_in(p, n, MDL_IN_W);
    const float *b = ref_in(p, n, MDL_IN_B);
    const float *slope = ref_in(p, n, MDL_IN_SLOPE);
    const struct mdl_shape *s = &p->g->values[n->in[MDL_IN_W]].shape;

    for (int64_t o = 0; o < s->dim[0]; o++) {
        double sum = b ? b[o] : 0;

        for (int64_t i = 0; i < s->dim[1]; i++)
            sum += (double)w[o * s->dim[1] + i] * x[i];
        ref_value(p, n->out, p->image)[o] = activate(n, slope, o, (float)sum);
    }
}

static void run_batchnorm(const struct plan *p, const struct mdl_node *n)
{
    struct map x = map_of(p, n->in[0]), y = map_of(p, n->out);
    const float *gamma = ref_in(p, n, MDL_BN_GAMMA);
    const float *beta = ref_in(p, n, MDL_BN_BETA);
    const float *mean = ref_in(p, n, MDL_BN_MEAN);
    const float *var = ref_in(p, n, MDL_BN_VAR);

    for (int64_t c = 0; c < x.c; c++) {
        double s = (gamma ? gamma[c] : 1) / sqrt((double)var[c] + n->eps);

        for (int64_t i = 0; i < x.h * x.w; i++)
            y.data[c * x.h * x.w + i] =
                (float)((x.data[c * x.h * x.w + i] - (double)mean[c]) * s +
                        (beta ? beta[c] : 0));
    }
}

static void run_act(const struct plan *p, const struct mdl_node *n)
{
    struct map x = map_of(p, n->in[0]), y = map_of(p, n->out);
    const float *slope = ref_in(p, n, 1);

    for (int64_t c = 0; c < x.c; c++)
        for (int64_t i = 0; i < x.h * x.w; i++)
            y.data[c * x.h * x.w + i] =
                activate(n, slope, c, x.data[c * x.h * x.w + i]);
}

static void run_pool(const struct plan *p, const struct mdl_node *n)
{
    struct map x = map_of(p, n->in[0]);

    for (int64_t c = 0; c < x.c; c++) {
        double sum = 0;

        for (int64_t i = 0; i < x.h * x.w; i++)
            sum += x.data[c * x.h * x.w + i];
        ref_value(p, n->out, p->image)[c] = (float)(sum / (double)(x.h * x.w));
    }
}

static void run_add(const struct plan *p, const struct mdl_node *n)
{
    struct map y = map_of(p, n->out);

    for (int64_t i = 0; i < y.c * y.h * y.w; i++) {
        double sum = 0;

        for (int k = 0; k < n->n_in; k++)
            sum += ref_in(p, n, k)[i];
        y.data[i] = (float)sum;
    }
}

static void run_scale(const struct plan *p, const struct mdl_node *n)
{
    struct map x = map_of(p, n->in[0]), y = map_of(p, n->out);
    bool places = p->g->values[n->in[1]].shape.n_dims == 3;
    const float *s = ref_in(p, n, 1);

    for (int64_t c = 0; c < x.c; c++)
        for (int64_t i = 0; i < x.h * x.w; i++)
            y.data[c * x.h * x.w + i] =
                x.data[c * x.h * x.w + i] * (places ? s[i] : s[c]);
}

static void run_l2norm(const struct plan *p, const struct mdl_node *n)
{
    struct map x = map_of(p, n->in[0]);
    double sum = 0;

    for (int64_t i = 0; i < x.c; i++)
        sum += (double)x.data[i] * x.data[i];
    for (int64_t i = 0; i < x.c; i++)
        ref_value(p, n->out, p->image)[i] =
            (float)(x.data[i] / fmax(sqrt(sum), 1e-12));
}

static void run_upsample(const struct plan *p, const struct mdl_node *n)
{
    struct map x = map_of(p, n->in[0]), y = map_of(p, n->out);

    for (int64_t c = 0; c < y.c; c++)
        for (int64_t i = 0; i < y.h; i++)
            for (int64_t j = 0; j < y.w; j++)
                y.data[(c * y.h + i) * y.w + j] =
                    x.data[(c * x.h + i * x.h / y.h) * x.w + j * x.w / y.w];
}

static void run_concat(const struct plan *p, const struct mdl_node *n)
{
    float *to = ref_value(p, n->out, p->image);

    for (int k = 0; k < n->n_in; k++) {
        size_t count = mdl_shape_count(&p->g->values[n->in[k]].shape);

        memcpy(to, ref_in(p, n, k), count * sizeof(*to));
        to += count;
    }
}

static void run_softmax(const struct plan *p, const struct mdl_node *n)
{
    struct map x = map_of(p, n->in[0]), y = map_of(p, n->out);
    int64_t area = x.h * x.w;

    for (int64_t c = 0; c < x.c; c += 2)
        for (int64_t i = 0; i < area; i++) {
            double d =
                (double)x.data[(c + 1) * area + i] - x.data[c * area + i];

            y.data[c * area + i] = (float)(1 / (1 + exp(d)));
            y.data[(c + 1) * area + i] = (float)(1 / (1 + exp(-d)));
        }
}

static void run_node(const struct plan *p, const struct mdl_node *n,
                     const uint8_t *in)
{
    switch (n->op) {
    case MDL_OP_IMAGE:
        run_image(p, n, in);
        return;
    case MDL_OP_CONV:
        run_conv(p, n);
        return;
    case MDL_OP_LINEAR:
        run_linear(p, n);
        return;
    case MDL_OP_BATCHNORM:
        run_batchnorm(p, n);
        return;
    case MDL_OP_ACT:
        run_act(p, n);
        return;
    case MDL_OP_POOL:
        run_pool(p, n);
        return;
    case MDL_OP_ADD:
        run_add(p, n);
        return;
    case MDL_OP_SCALE:
        run_scale(p, n);
        return;
    case MDL_OP_L2NORM:
        run_l2norm(p, n);
        return;
    case MDL_OP_UPSAMPLE:
        run_upsample(p, n);
        return;
    case MDL_OP_CONCAT:
        run_concat(p, n);
        return;
    case MDL_OP_SOFTMAX:
        run_softmax(p, n);
        return;
    default:
        return; /* of training: ref_run_gradient */
    }
}

/* ---- the table ---- */

static int score(void)
{
    return 1; /* works everywhere, slowly */
}

static enum ut_err open_ref(int device, void **ctx, struct ut_error *e)
{
    (void)e;
    (void)device;
    *ctx = NULL;
    return UT_OK;
}

static void close_ref(void *ctx)
{
    (void)ctx;
}

static enum ut_err lane_new(void *ctx, void **lane, struct ut_error *e)
{
    (void)ctx;
    (void)e;
    *lane = NULL;
    return UT_OK;
}

static void lane_free(void *ctx, void *lane)
{
    (void)ctx;
    (void)lane;
}

/* Results, and inputs that the caller sets. */
static bool is_ours(const struct mdl_value *v)
{
    return v->kind == MDL_VALUE_RESULT ||
           (v->kind == MDL_VALUE_INPUT && v->dtype == MDL_F32);
}

static size_t count_of(const struct plan *p, int v)
{
    const struct mdl_value *value = &p->g->values[v];

    return mdl_shape_count(&value->shape) *
           (value->whole ? 1 : (size_t)p->batch);
}

static void plan_free(void *ctx, void *plan)
{
    struct plan *p = plan;

    (void)ctx;
    for (int i = 0; p->values && i < p->g->n_values; i++)
        if (is_ours(&p->g->values[i]))
            free(p->values[i]);
    free(p->values);
    free(p->needs);
    free(p);
}

static enum ut_err compile(void *ctx, void *lane, const struct mdl_graph *g,
                           enum mdl_precision precision, int batch, void **plan,
                           struct ut_error *e)
{
    struct plan *p = calloc(1, sizeof(*p));

    (void)lane;
    (void)precision;
    if (!p)
        goto no_memory;
    p->g = g;
    p->batch = batch;
    p->values = calloc((size_t)g->n_values, sizeof(*p->values));
    p->needs = calloc((size_t)g->n_nodes, sizeof(*p->needs));
    if (!p->values || !p->needs)
        goto no_memory;
    mdl_graph_needs(g, p->needs);
    for (int i = 0; i < g->n_values; i++) {
        const struct mdl_value *v = &g->values[i];

        if (!is_ours(v))
            p->values[i] = (float *)(uintptr_t)v->data; /* never written */
        else if (!(p->values[i] = malloc(count_of(p, i) * sizeof(float))))
            goto no_memory;
    }
    *plan = p;
    return UT_OK;
no_memory:
    if (p)
        plan_free(ctx, p);
    return ut_fail(e, UT_ENOMEM, "no memory for a plan of %d nodes",
                   g->n_nodes);
}

static void run_nodes_of(struct plan *p, const uint8_t *in, int first, int last,
                         uint64_t wanted)
{
    const struct mdl_graph *g = p->g;
    size_t in_len = mdl_shape_count(&g->values[g->input].shape);

    for (int i = first; i < last; i++) {
        const struct mdl_node *n = &g->nodes[i];

        if ((wanted && !(p->needs[i] & wanted)) || ref_run_gradient(p, n))
            continue;
        for (p->image = 0; p->image < p->batch; p->image++)
            run_node(p, n, in + (size_t)p->image * in_len);
    }
}

static enum ut_err get(void *ctx, void *plan, int value, float *to,
                       struct ut_error *e)
{
    const struct plan *p = plan;

    (void)ctx;
    (void)e;
    memcpy(to, p->values[value], count_of(p, value) * sizeof(*to));
    return UT_OK;
}

static enum ut_err run(void *ctx, void *plan, const struct mdl_io *io,
                       struct ut_error *e)
{
    struct plan *p = plan;
    const struct mdl_graph *g = p->g;
    uint64_t wanted = 0;

    for (int i = 0; i < g->n_outputs; i++)
        if (io->out[i] && g->outputs[i] >= 0)
            wanted |= 1ull << i;
    if (wanted)
        run_nodes_of(p, io->in, 0, g->n_nodes, wanted);
    for (int i = 0; i < g->n_outputs; i++)
        if (wanted >> i & 1 && get(ctx, p, g->outputs[i], io->out[i], e))
            return UT_EDEVICE; /* it cannot: get only copies */
    return UT_OK;
}

/* ---- training ---- */

static void lane_threads(void *ctx, void *lane, int n)
{
    (void)ctx;
    (void)lane;
    (void)n;
}

static enum ut_err run_nodes(void *ctx, void *plan, const void *in, int first,
                             int last, struct ut_error *e)
{
    (void)ctx;
    (void)e;
    run_nodes_of(plan, in, first, last, 0);
    return UT_OK;
}

static enum ut_err set(void *ctx, void *plan, int value, const float *from,
                       struct ut_error *e)
{
    struct plan *p = plan;

    (void)ctx;
    (void)e;
    memcpy(p->values[value], from, count_of(p, value) * sizeof(*from));
    return UT_OK;
}

static enum ut_err refresh(void *ctx, void *plan, struct ut_error *e)
{
    (void)ctx;
    (void)plan;
    (void)e;
    return UT_OK; /* parameters are read where they are */
}

static bool supports(void *ctx, enum mdl_precision precision)
{
    (void)ctx;
    return precision == MDL_PREC_F32;
}

const struct mdl_backend_ops mdl_ref_ops = {
    .name = "ref",
    .score = score,
    .open = open_ref,
    .close = close_ref,
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
};
