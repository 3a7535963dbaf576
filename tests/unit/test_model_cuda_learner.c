/* Weights that learn on a CUDA device, with the processor in its place
 * (tests/plugins/host), or on a GPU where TSCAF_TEST_CUDA=1 asks for it: what
 * the processor's optimisers make of the same numbers. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/backends/plugin.h"
#include "model/learner.h"
#include "model/train/backward.h"
#include "model/train/optimizer.h"
#include "tests/support/unit.h"

#define SIDE 6
#define BATCH 3
#define WIDE 41000

static unsigned seed;

static float noise(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8 & 0xffff) / 32768 - 1;
}

static void fill(float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = scale * noise();
}

/* A GPU's compiler joins a product and a sum where the processor's, here, does
 * not. */
static void same(const float *got, const float *want, size_t n,
                 const char *what)
{
    double bound = getenv("TSCAF_TEST_CUDA") ? 2e-6 : 0;
#ifdef __FMA__
    bound = 2e-6;
#endif
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <=
              bound * (1 + fabs((double)want[i]))))
            fail_msg("%s: number %zu of %zu is %.9g, not %.9g", what, i, n,
                     (double)got[i], (double)want[i]);
}

static struct ut_error e; /* of the last call that failed */

#define FINE(call)                                                             \
    do {                                                                       \
        if (call)                                                              \
            fail_msg("%s: %s", #call, e.msg);                                  \
    } while (0)

static void refused(enum ut_err rc, const char *what)
{
    assert_int_equal(rc, UT_EDEVICE);
    if (!strstr(e.msg, what))
        fail_msg("the error is \"%s\"", e.msg);
}

/* ---- a device, and a small network on it ---- */

struct rig {
    int device;
    void *handle, *ctx, *lane, *plan;
    const struct mdl_backend_ops *ops;
    const struct mdl_learner_ops *learner;
    struct mdl_graph graph;
    struct mdl_step step;
    int wide; /* its value that is given: WIDE numbers, once for the batch */
};

static int param(struct mdl_graph *g, enum mdl_value_kind kind,
                 struct mdl_shape shape, float mid)
{
    static int n;
    size_t count = mdl_shape_count(&shape);
    float *data = malloc(count * sizeof(*data));
    int v;

    for (size_t i = 0; i < count; i++)
        data[i] = mid + noise() / 4;
    v = mdl_graph_param_owned(g, shape, &data, "p%d", n++);
    g->values[v].kind = kind;
    return v;
}

static int conv(struct mdl_graph *g, int x, int outputs, int kernel, int groups)
{
    int ins = (int)g->values[x].shape.dim[0] / groups;
    int w = param(g, MDL_VALUE_PARAM,
                  mdl_shape_of(4, outputs, ins, kernel, kernel), 0);

    return mdl_graph_conv(
        g, x, w, param(g, MDL_VALUE_PARAM, mdl_shape_of(1, outputs), 0), 1,
        kernel / 2, groups);
}

/* All layouts of parameters: convolutions plain and depthwise, BatchNorm,
 * slopes, rows that meet a map. */
static int network(struct mdl_graph *g)
{
    static const float mean[] = {127.5f, 120, 130},
                       scale[] = {0.01f, 0.01f, 0.01f};
    int x, s[4];

    mdl_graph_init(g);
    mdl_graph_module(g, "test");
    x = conv(
        g,
        mdl_graph_image(g, mdl_graph_input(g, SIDE, SIDE), mean, scale, false),
        5, 3, 1);
    for (int i = 0; i < 4; i++)
        s[i] = param(g, i < 2 ? MDL_VALUE_PARAM : MDL_VALUE_BUFFER,
                     mdl_shape_of(1, 5), i % 3 ? 0 : 1);
    x = mdl_graph_batchnorm(g, x, s[0], s[1], s[2], s[3], 1e-5f);
    x = mdl_graph_act(g, x, MDL_ACT_PRELU, 0,
                      param(g, MDL_VALUE_PARAM, mdl_shape_of(1, 5), 0));
    x = conv(g, x, 5, 3, 5);
    return mdl_graph_linear(
        g, x,
        param(g, MDL_VALUE_PARAM, mdl_shape_of(2, 70, 5 * SIDE * SIDE), 0),
        param(g, MDL_VALUE_PARAM, mdl_shape_of(1, 70), 0));
}

static bool frozen; /* the next network, up to its BatchNorm */

static int vast(struct mdl_graph *g)
{
    static const float mean[3], scale[] = {1, 1, 1};
    int x;

    mdl_graph_init(g);
    mdl_graph_module(g, "test");
    x = mdl_graph_pool(
        g, mdl_graph_image(g, mdl_graph_input(g, 1, 1), mean, scale, false));
    return mdl_graph_linear(
        g, x, param(g, MDL_VALUE_PARAM, mdl_shape_of(2, WIDE, 3), 0), -1);
}

static void open_device(struct rig *r, const struct mdl_graph *g, int batch,
                        enum mdl_precision precision)
{
    FINE(mdl_plugin_open(&r->handle, &r->ops, &e));
    r->learner = r->ops->learner;
    assert_non_null(r->learner);
    FINE(r->ops->open(r->device, &r->ctx, &e));
    FINE(r->ops->lane_new(r->ctx, &r->lane, &e));
    FINE(r->ops->compile(r->ctx, r->lane, g, precision, batch, &r->plan, &e));
}

static void open_rig(struct rig *r, int (*make)(struct mdl_graph *), int batch,
                     enum mdl_precision precision)
{
    bool *trains;
    int end = make(&r->graph);

    if (r->graph.error.code)
        fail_msg("%s", r->graph.error.msg);
    trains = calloc((size_t)r->graph.n_values, sizeof(*trains));
    for (int v = 0; v < r->graph.n_values; v++)
        trains[v] = r->graph.values[v].kind == MDL_VALUE_PARAM;
    for (int i = 0; i < r->graph.n_nodes && frozen; i++) {
        const struct mdl_node *n = &r->graph.nodes[i];

        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] >= 0)
                trains[n->in[k]] = false;
        if (n->op == MDL_OP_BATCHNORM)
            break;
    }
    FINE(mdl_step_build(&r->graph, &end, 1, trains, &r->step, &e));
    free(trains);
    open_device(r, &r->step.graph, batch, precision);
}

static void close_device(struct rig *r)
{
    r->ops->plan_free(r->ctx, r->plan);
    r->ops->lane_free(r->ctx, r->lane);
    r->ops->close(r->ctx);
    mdl_plugin_close(r->handle);
}

static void close_rig(struct rig *r)
{
    close_device(r);
    mdl_step_fini(&r->step);
    mdl_graph_fini(&r->graph);
}

static void *open_learner(const struct rig *r, const struct mdl_tensor *t,
                          int n)
{
    void *l = NULL;

    FINE(r->learner->open(&r->ctx, &r->lane, 1, t, n, &l, &e));
    return l;
}

/* ---- tensors without a network ---- */

/* More of them than a launch takes, of every kind of end. */
static const size_t sizes[] = {1, 63, 64, 65, 5000, 4096, 8193};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))
#define TENSORS 80

struct tensors {
    struct mdl_tensor list[TENSORS];
    struct mdl_moments moments[TENSORS];
    float *gradient[TENSORS];
    bool gathered[TENSORS];
};

static float *numbers(size_t n)
{
    float *x = malloc(n * sizeof(*x));

    assert_non_null(x);
    fill(x, n, 1);
    return x;
}

static void make_tensors(struct tensors *t)
{
    *t = (struct tensors){0};
    for (int i = 0; i < TENSORS; i++) {
        size_t n = i < (int)SIZES ? sizes[i] : (size_t)(i * 37 % 300 + 1);

        t->list[i].n = n;
        t->list[i].x = numbers(n);
        t->gradient[i] = numbers(n);
        t->gathered[i] = i % 5 != 3;
    }
}

static void free_tensors(struct tensors *t)
{
    for (int i = 0; i < TENSORS; i++) {
        free(t->list[i].x);
        free(t->gradient[i]);
        mdl_moments_fini(&t->moments[i]);
    }
}

/* The gradients go over as the numbers of a value that is given. */
static void gather_tensors(const struct rig *r, void *l,
                           const struct tensors *t, bool more)
{
    struct mdl_gather list[TENSORS];
    float *all = calloc(WIDE, sizeof(*all));
    size_t at = 0;
    int n = 0;

    for (int i = 0; i < TENSORS; i++) {
        if (!t->gathered[i])
            continue;
        list[n++] = (struct mdl_gather){i, r->step.seeds[0], at, more};
        memcpy(all + at, t->gradient[i], t->list[i].n * sizeof(*all));
        at += t->list[i].n;
        assert_true(at <= WIDE);
    }
    FINE(r->ops->set(r->ctx, r->plan, r->step.seeds[0], all, &e));
    FINE(r->learner->gather(l, r->device, r->plan, list, n, &e));
    free(all);
}

static void expect(const struct rig *r, void *l, int tensor,
                   enum mdl_learned what, const float *want, size_t n)
{
    float *got = numbers(n);
    char text[64];

    snprintf(text, sizeof(text), "tensor %d, what %d", tensor, what);
    FINE(r->learner->get(l, tensor, what, got, &e));
    same(got, want, n, text);
    free(got);
}

/* A few steps on the device and on the processor, moments included. */
static void steps_by(const struct rig *r, void *l, struct tensors *t,
                     const struct mdl_optimizer *o)
{
    struct mdl_move moves[TENSORS];

    for (int step = 0; step < 4; step++) {
        float factor = step % 2 ? 0.37f : 1;

        for (int i = 0; i < TENSORS; i++) {
            fill(t->gradient[i], t->list[i].n, 2);
            t->gathered[i] = (i + step) % 5 != 3;
            moves[i] = (struct mdl_move){.moves = t->gathered[i],
                                         .decays = i % 2,
                                         .rate = 1e-2 / (1 + i % 3),
                                         .steps = t->moments[i].steps + 1};
        }
        gather_tensors(r, l, t, false);
        FINE(r->learner->update(l, o, moves, factor, &e));
        for (int i = 0; i < TENSORS; i++)
            if (t->gathered[i])
                FINE(mdl_optimizer_step(
                    o, &t->moments[i], moves[i].rate, moves[i].decays, factor,
                    1, t->list[i].x, t->gradient[i], t->list[i].n, &e));
    }
    for (int i = 0; i < TENSORS; i++) {
        static const float none[8193];
        size_t n = t->list[i].n;
        const struct mdl_moments *m = &t->moments[i];

        assert_true(n <= 8193);
        expect(r, l, i, MDL_X, t->list[i].x, n);
        expect(r, l, i, MDL_FIRST, m->first ? m->first : none, n);
        expect(r, l, i, MDL_SECOND, m->second ? m->second : none, n);
    }
}

static const struct mdl_optimizer optimizers[] = {
    {MDL_SGD, 0.9f, 0, 0, 0.01f},
    {MDL_ADAM, 0.9f, 0.99f, 1e-3f, 0.01f},
    {MDL_ADAMW, 0.8f, 0.999f, 1e-3f, 0.02f}};

static void update__each_optimiser__as_the_processor_moves(void **state)
{
    struct rig r = {0};

    (void)state;
    seed = 1;
    open_rig(&r, vast, 1, MDL_PREC_F32);
    for (int i = 0; i < 3; i++) {
        struct tensors t;
        void *l;

        make_tensors(&t);
        l = open_learner(&r, t.list, TENSORS);
        steps_by(&r, l, &t, &optimizers[i]);
        r.learner->close(l);
        /* Once more, from what the host then knows. */
        for (int k = 0; k < TENSORS; k++) {
            t.list[k].first = t.moments[k].first;
            t.list[k].second = t.moments[k].second;
        }
        l = open_learner(&r, t.list, TENSORS);
        steps_by(&r, l, &t, &optimizers[i]);
        r.learner->close(l);
        free_tensors(&t);
    }
    close_rig(&r);
}

static void gather__more__adds_up_until_an_update(void **state)
{
    struct rig r = {0};
    struct mdl_move moves[TENSORS] = {0};
    struct tensors t;
    float *sum[TENSORS];
    void *l;

    (void)state;
    seed = 2;
    open_rig(&r, vast, 1, MDL_PREC_F32);
    make_tensors(&t);
    l = open_learner(&r, t.list, TENSORS);
    gather_tensors(&r, l, &t, false);
    for (int i = 0; i < TENSORS; i++) {
        sum[i] = malloc(t.list[i].n * sizeof(float));
        memcpy(sum[i], t.gradient[i], t.list[i].n * sizeof(float));
        fill(t.gradient[i], t.list[i].n, 1);
        for (size_t k = 0; k < t.list[i].n; k++)
            sum[i][k] += t.gradient[i][k];
    }
    gather_tensors(&r, l, &t, true);
    for (int i = 0; i < TENSORS; i++) {
        if (t.gathered[i])
            expect(&r, l, i, MDL_GRADIENT, sum[i], t.list[i].n);
        free(sum[i]);
    }
    /* The first after an update is no more, whatever the caller believes. */
    FINE(r.learner->update(l, &optimizers[0], moves, 1, &e));
    gather_tensors(&r, l, &t, true);
    for (int i = 0; i < TENSORS; i++)
        if (t.gathered[i])
            expect(&r, l, i, MDL_GRADIENT, t.gradient[i], t.list[i].n);
    r.learner->close(l);
    free_tensors(&t);
    close_rig(&r);
}

static void meet__one_device__squares_by_tensor(void **state)
{
    double squares[TENSORS], again[TENSORS];
    struct rig r = {0};
    struct tensors t;
    void *l;

    (void)state;
    seed = 3;
    open_rig(&r, vast, 1, MDL_PREC_F32);
    make_tensors(&t);
    l = open_learner(&r, t.list, TENSORS);
    for (int round = 0; round < 2; round++) {
        if (round) {
            t.gradient[4][4999] = NAN;
            t.gradient[6][0] = INFINITY;
        }
        gather_tensors(&r, l, &t, false);
        FINE(r.learner->meet(l, t.gathered, squares, &e));
        FINE(r.learner->meet(l, t.gathered, again, &e));
        for (int i = 0; i < TENSORS; i++) {
            double want = 0;

            for (size_t k = 0; k < t.list[i].n && t.gathered[i]; k++)
                want += (double)t.gradient[i][k] * t.gradient[i][k];
            if (round && (i == 4 || i == 6)) {
                assert_false(isfinite(squares[i]));
                continue;
            }
            if (!(fabs(squares[i] - want) <= 1e-12 * want))
                fail_msg("tensor %d: %.17g, not %.17g", i, squares[i], want);
            assert_memory_equal(&squares[i], &again[i], sizeof(double));
        }
    }
    r.learner->close(l);
    free_tensors(&t);
    close_rig(&r);
}

/* ---- a network's ---- */

struct held {
    struct mdl_tensor list[64];
    int value[64], n;
};

static void hold(const struct rig *r, struct held *h)
{
    h->n = 0;
    for (int v = 0; v < r->graph.n_values; v++)
        if (r->graph.values[v].data) {
            h->value[h->n] = v;
            h->list[h->n++] = (struct mdl_tensor){
                .x = (float *)(uintptr_t)r->graph.values[v].data,
                .n = mdl_shape_count(&r->graph.values[v].shape),
                .statistics = r->graph.values[v].kind == MDL_VALUE_BUFFER};
        }
}

static int tensor_of(const struct held *h, int value)
{
    for (int i = 0; i < h->n; i++)
        if (h->value[i] == value)
            return i;
    fail_msg("value %d is not held", value);
    return -1;
}

static int dose = 1; /* so that batches differ */

/* Forward and back on fixed numbers; y: the result, unless NULL. */
static void run_step(const struct rig *r, float *y)
{
    uint8_t in[BATCH * SIDE * SIDE * 3];
    float seeds[BATCH * 70];
    unsigned before = seed;

    seed = 76 + (unsigned)dose;
    for (size_t i = 0; i < sizeof(in); i++)
        in[i] = (uint8_t)(128 + 120 * noise());
    fill(seeds, BATCH * 70, 1);
    seed = before;
    FINE(r->ops->run_nodes(r->ctx, r->plan, in, 0, r->step.n_forward, &e));
    if (y)
        FINE(r->ops->get(r->ctx, r->plan, r->step.ends[0], y, &e));
    FINE(r->ops->set(r->ctx, r->plan, r->step.seeds[0], seeds, &e));
    FINE(r->ops->run_nodes(r->ctx, r->plan, in, r->step.n_forward,
                           r->step.graph.n_nodes, &e));
}

static int gathers_of(const struct rig *r, const struct held *h,
                      struct mdl_gather *list)
{
    for (int i = 0; i < r->step.n_gradients; i++) {
        const struct mdl_gradient *g = &r->step.gradients[i];

        list[i] = (struct mdl_gather){tensor_of(h, g->param), g->grad,
                                      (size_t)g->at, false};
    }
    return r->step.n_gradients;
}

static void gather__every_layout__as_got_by_the_host(void **state)
{
    struct rig r = {0};
    struct mdl_gather list[64];
    struct held h;
    float all[70 * 5 * SIDE * SIDE];
    void *l;
    int n;

    (void)state;
    seed = 4;
    open_rig(&r, network, BATCH, MDL_PREC_F32);
    hold(&r, &h);
    l = open_learner(&r, h.list, h.n);
    run_step(&r, NULL);
    n = gathers_of(&r, &h, list);
    assert_int_equal(n, 9);
    FINE(r.learner->gather(l, 0, r.plan, list, n, &e));
    for (int i = 0; i < n; i++) {
        FINE(r.ops->get(r.ctx, r.plan, list[i].value, all, &e));
        expect(&r, l, list[i].tensor, MDL_GRADIENT, all + list[i].at,
               h.list[list[i].tensor].n);
    }
    r.learner->close(l);
    close_rig(&r);
}

static void run__statistics__as_the_host_moves_them(void **state)
{
    const float momentum = 0.1f, unbias = 1.01f;
    struct rig r = {0};
    struct mdl_running run;
    struct held h;
    float stats[10], *mean, *var;
    void *l;

    (void)state;
    seed = 5;
    open_rig(&r, network, BATCH, MDL_PREC_F32);
    hold(&r, &h);
    l = open_learner(&r, h.list, h.n);
    run_step(&r, NULL);
    assert_int_equal(r.step.n_statistics, 1);
    run = (struct mdl_running){tensor_of(&h, r.step.statistics[0].mean),
                               tensor_of(&h, r.step.statistics[0].var),
                               r.step.statistics[0].stats, momentum, unbias};
    FINE(r.learner->run(l, 0, r.plan, &run, 1, &e));
    FINE(r.ops->get(r.ctx, r.plan, run.value, stats, &e));
    mean = h.list[run.mean].x;
    var = h.list[run.var].x;
    for (int c = 0; c < 5; c++) {
        mean[c] += momentum * (stats[c] - mean[c]);
        var[c] += momentum * (stats[5 + c] * unbias - var[c]);
    }
    expect(&r, l, run.mean, MDL_X, mean, 5);
    expect(&r, l, run.var, MDL_X, var, 5);
    r.learner->close(l);
    close_rig(&r);
}

/* A plan refreshed from the device, whose weights moved, answers as one whose
 * weights come from the host, bit for bit, whatever the host has meanwhile. */
static void refresh__held__takes_the_devices(void **state)
{
    static const enum mdl_precision precisions[] = {MDL_PREC_F32,
                                                    MDL_PREC_BF16};

    (void)state;
    seed = 6;
    for (int k = 0; k < 2; k++) {
        float first[BATCH * 70], moved[BATCH * 70], y[BATCH * 70];
        struct mdl_move moves[64] = {0};
        struct mdl_gather list[64];
        struct rig r = {0};
        struct held h;
        void *l;
        int n;

        open_rig(&r, network, BATCH, precisions[k]);
        hold(&r, &h);
        l = open_learner(&r, h.list, h.n);
        run_step(&r, first);
        n = gathers_of(&r, &h, list);
        FINE(r.learner->gather(l, 0, r.plan, list, n, &e));
        for (int i = 0; i < n; i++)
            moves[list[i].tensor] = (struct mdl_move){true, false, 0.1, 1};
        FINE(r.learner->update(l, &optimizers[1], moves, 1, &e));
        FINE(r.ops->refresh(r.ctx, r.plan, &e));
        run_step(&r, moved);
        assert_memory_not_equal(first, moved, sizeof(first));
        FINE(r.ops->refresh(r.ctx, r.plan, &e));
        run_step(&r, y);
        assert_memory_equal(moved, y, sizeof(y));
        for (int i = 0; i < h.n; i++)
            FINE(r.learner->get(l, i, MDL_X, h.list[i].x, &e));
        r.learner->close(l);
        FINE(r.ops->refresh(r.ctx, r.plan, &e));
        run_step(&r, y);
        assert_memory_equal(moved, y, sizeof(y));
        close_rig(&r);
    }
}

/* A frozen BatchNorm does not move while a learner holds it, whatever the host
 * has; without one it is the host's. */
static void refresh__frozen_batchnorm__as_it_was_made(void **state)
{
    float first[BATCH * 70], y[BATCH * 70];
    struct rig r = {0};
    struct held h;
    void *l;

    (void)state;
    seed = 8;
    frozen = true;
    open_rig(&r, network, BATCH, MDL_PREC_F32);
    frozen = false;
    assert_int_equal(r.step.n_statistics, 0);
    hold(&r, &h);
    l = open_learner(&r, h.list, h.n);
    run_step(&r, first);
    for (int i = 0; i < h.n; i++)
        if (h.list[i].statistics)
            h.list[i].x[0] += 1;
    FINE(r.ops->refresh(r.ctx, r.plan, &e));
    run_step(&r, y);
    assert_memory_equal(first, y, sizeof(y));
    r.learner->close(l);
    FINE(r.ops->refresh(r.ctx, r.plan, &e));
    run_step(&r, y);
    assert_memory_not_equal(first, y, sizeof(y));
    close_rig(&r);
}

/* What a learner does not hold comes from the host, as ever; a plan on another
 * lane sees the updates too. */
static void refresh__not_held_or_another_lane__as_it_should(void **state)
{
    struct rig r = {0};
    struct mdl_move moves[64] = {0};
    struct mdl_gather list[1] = {0};
    float one[BATCH * 70], other[BATCH * 70], *x;
    struct held h;
    void *l, *lane, *plan, *mine;
    int bias;

    (void)state;
    seed = 7;
    open_rig(&r, network, BATCH, MDL_PREC_F32);
    hold(&r, &h);
    bias = tensor_of(&h, r.graph.nodes[r.graph.n_nodes - 1].in[MDL_IN_B]);
    x = h.list[bias].x;
    h.list[bias].x = numbers(70); /* held, but nobody's */
    l = open_learner(&r, h.list, h.n);
    FINE(r.ops->lane_new(r.ctx, &lane, &e));
    FINE(r.ops->compile(r.ctx, lane, &r.step.graph, MDL_PREC_F32, BATCH, &plan,
                        &e));
    run_step(&r, one);
    x[3] += 2;
    FINE(r.ops->refresh(r.ctx, r.plan, &e));
    run_step(&r, other);
    assert_true(fabsf(other[3] - one[3] - 2) < 1e-5f);
    other[3] = one[3];
    other[70 + 3] = one[70 + 3];
    other[140 + 3] = one[140 + 3];
    assert_memory_equal(one, other, sizeof(one));

    for (int i = 0; i < r.step.n_gradients; i++)
        if (r.graph.values[r.step.gradients[i].param].shape.n_dims == 4)
            list[0] =
                (struct mdl_gather){tensor_of(&h, r.step.gradients[i].param),
                                    r.step.gradients[i].grad, 0, false};
    FINE(r.learner->gather(l, 0, r.plan, list, 1, &e));
    moves[list[0].tensor] = (struct mdl_move){true, false, 0.5, 1};
    FINE(r.learner->update(l, &optimizers[0], moves, 1, &e));
    mine = r.plan;
    r.plan = plan;
    FINE(r.ops->refresh(r.ctx, r.plan, &e));
    run_step(&r, one);
    assert_true(fabsf(one[0] - other[0]) > 1e-3f);
    r.plan = mine;
    FINE(r.ops->refresh(r.ctx, r.plan, &e));
    run_step(&r, other);
    assert_memory_equal(one, other, sizeof(one));
    r.ops->plan_free(r.ctx, plan);
    r.ops->lane_free(r.ctx, lane);
    r.learner->close(l);
    free(h.list[bias].x);
    close_rig(&r);
}

/* ---- several devices ---- */

#define DEVICES 3

struct crowd {
    struct rig rig[DEVICES];
    void *backends[DEVICES], *lanes[DEVICES];
    int n;
};

/* The same network's plan on each. */
static void open_crowd(struct crowd *c, int n, int (*make)(struct mdl_graph *),
                       int batch)
{
    char text[8];

    *c = (struct crowd){.n = n};
    snprintf(text, sizeof(text), "%d", n);
    setenv("TSCAF_HOST_DEVICES", text, 1);
    seed = 21;
    open_rig(&c->rig[0], make, batch, MDL_PREC_F32);
    for (int i = 0; i < n; i++) {
        c->rig[i].device = i;
        c->rig[i].step = c->rig[0].step;
        if (i)
            open_device(&c->rig[i], &c->rig[0].step.graph, batch, MDL_PREC_F32);
        c->backends[i] = c->rig[i].ctx;
        c->lanes[i] = c->rig[i].lane;
    }
}

static void close_crowd(struct crowd *c)
{
    for (int i = c->n - 1; i > 0; i--)
        close_device(&c->rig[i]);
    close_rig(&c->rig[0]);
    unsetenv("TSCAF_HOST_DEVICES");
}

static void *crowd_learner(const struct crowd *c, const struct mdl_tensor *t,
                           int n)
{
    void *l = NULL;

    FINE(c->rig[0].learner->open(c->backends, c->lanes, c->n, t, n, &l, &e));
    return l;
}

/* Which of the devices have tensor i's gradient, a bit each: all, or one. */
static unsigned who(int i, int devices)
{
    unsigned all = (1u << devices) - 1;

    return i < 4 ? all : i % 3 == 0 ? 1u << i % devices : all;
}

/* A few updates of several devices, which have gradients of their own, against
 * those of one that has their sums. */
static void meet__several__sums_as_one_that_saw_all(void **state)
{
    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    for (int devices = 2; devices <= DEVICES; devices++) {
        struct mdl_move moves[TENSORS];
        double squares[TENSORS], alone[TENSORS];
        struct tensors t, part;
        struct crowd c;
        void *many, *one;

        open_crowd(&c, devices, vast, 1);
        seed = 22;
        make_tensors(&t);
        part = t;
        for (int i = 0; i < TENSORS; i++)
            part.gradient[i] = numbers(t.list[i].n);
        many = crowd_learner(&c, t.list, TENSORS);
        one = open_learner(&c.rig[0], t.list, TENSORS);
        for (int step = 0; step < 3; step++) {
            for (int i = 0; i < TENSORS; i++) {
                t.gathered[i] = (i + step) % 7 != 3;
                memset(t.gradient[i], 0, t.list[i].n * sizeof(float));
                moves[i] = (struct mdl_move){t.gathered[i], i % 2, 0.01, 1};
            }
            for (int d = 0; d < devices; d++) {
                for (int i = 0; i < TENSORS; i++) {
                    part.gathered[i] =
                        t.gathered[i] && who(i, devices) >> d & 1;
                    fill(part.gradient[i], t.list[i].n, 1);
                    for (size_t k = 0; k < t.list[i].n && part.gathered[i]; k++)
                        t.gradient[i][k] += part.gradient[i][k];
                }
                gather_tensors(&c.rig[d], many, &part, false);
            }
            gather_tensors(&c.rig[0], one, &t, false);
            FINE(c.rig[0].learner->meet(many, t.gathered, squares, &e));
            FINE(c.rig[0].learner->meet(one, t.gathered, alone, &e));
            assert_memory_equal(squares, alone, sizeof(squares));
            FINE(c.rig[0].learner->update(many, &optimizers[1], moves, 1, &e));
            FINE(c.rig[0].learner->update(one, &optimizers[1], moves, 1, &e));
        }
        /* A loss's: no plan left it, and the others' are not looked at. */
        for (int i = 0; i < TENSORS; i++) {
            FINE(c.rig[0].learner->get(many, i, MDL_GRADIENT, t.gradient[i],
                                       &e));
            t.gathered[i] = i == 5;
        }
        FINE(c.rig[0].learner->meet(many, t.gathered, squares, &e));
        for (int i = 0; i < TENSORS; i++) {
            expect(&c.rig[0], many, i, MDL_GRADIENT, t.gradient[i],
                   t.list[i].n);
            FINE(c.rig[0].learner->get(one, i, MDL_X, t.list[i].x, &e));
            expect(&c.rig[0], many, i, MDL_X, t.list[i].x, t.list[i].n);
            free(part.gradient[i]);
        }
        c.rig[0].learner->close(one);
        c.rig[0].learner->close(many);
        free_tensors(&t);
        close_crowd(&c);
    }
}

/* Networks whose batches differ answer alike after each update, and their
 * running statistics are means of what each saw. */
static void meet__several__weights_and_statistics_are_one(void **state)
{
    const float momentum = 0.25f;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    for (int devices = 2; devices <= DEVICES; devices++) {
        float first[BATCH * 70], y[DEVICES][BATCH * 70], stats[10], want[5];
        struct mdl_move moves[64] = {0};
        struct mdl_gather list[64];
        struct mdl_running run;
        bool gathered[64] = {false};
        double squares[64];
        struct crowd c;
        struct held h;
        void *l;
        int n;

        open_crowd(&c, devices, network, BATCH);
        hold(&c.rig[0], &h);
        l = crowd_learner(&c, h.list, h.n);
        n = gathers_of(&c.rig[0], &h, list);
        for (int i = 0; i < n; i++) {
            gathered[list[i].tensor] = true;
            moves[list[i].tensor] = (struct mdl_move){true, false, 0.05, 1};
        }
        run = (struct mdl_running){
            tensor_of(&h, c.rig[0].step.statistics[0].mean),
            tensor_of(&h, c.rig[0].step.statistics[0].var),
            c.rig[0].step.statistics[0].stats, momentum, 1};
        memcpy(want, h.list[run.mean].x, sizeof(want));
        for (int step = 0; step < 3; step++) {
            float sum[5] = {0};

            for (int d = 0; d < devices; d++) {
                const struct rig *r = &c.rig[d];

                dose = 1 + d + step;
                run_step(r, NULL);
                FINE(r->learner->gather(l, d, r->plan, list, n, &e));
                FINE(r->learner->run(l, d, r->plan, &run, 1, &e));
                FINE(r->ops->get(r->ctx, r->plan, run.value, stats, &e));
                for (int k = 0; k < 5; k++)
                    sum[k] += want[k] + momentum * (stats[k] - want[k]);
            }
            for (int k = 0; k < 5; k++)
                want[k] = sum[k] / (float)devices;
            FINE(c.rig[0].learner->meet(l, gathered, squares, &e));
            FINE(c.rig[0].learner->update(l, &optimizers[2], moves, 1, &e));
            expect(&c.rig[0], l, run.mean, MDL_X, want, 5);
            dose = 1;
            for (int d = 0; d < devices; d++) {
                FINE(c.rig[d].ops->refresh(c.rig[d].ctx, c.rig[d].plan, &e));
                run_step(&c.rig[d], y[d]);
                assert_memory_equal(y[d], y[0], sizeof(y[0]));
            }
            if (step)
                assert_memory_not_equal(first, y[0], sizeof(first));
            memcpy(first, y[0], sizeof(first));
        }
        c.rig[0].learner->close(l);
        close_crowd(&c);
    }
}

/* ---- what goes wrong ---- */

static void gather__not_there__refused(void **state)
{
    struct mdl_gather list[64];
    struct rig r = {0};
    struct held h;
    float *x;
    size_t n;
    void *l;

    (void)state;
    seed = 8;
    open_rig(&r, network, BATCH, MDL_PREC_F32);
    hold(&r, &h);
    l = open_learner(&r, h.list, h.n);
    (void)gathers_of(&r, &h, list);
    refused(r.learner->gather(l, 0, r.plan, list, 1, &e),
            "a gradient is not on the GPU");
    run_step(&r, NULL);
    list[0].at = 1;
    refused(r.learner->gather(l, 0, r.plan, list, 1, &e), "is no gradient of");
    /* What comes before it has gathered. */
    n = h.list[list[0].tensor].n;
    x = calloc(n, sizeof(*x));
    expect(&r, l, list[0].tensor, MDL_GRADIENT, x, n);
    list[0].at = 0;
    list[1].at = 1u << 20;
    refused(r.learner->gather(l, 0, r.plan, list, 2, &e), "is no gradient of");
    FINE(r.learner->get(l, list[0].tensor, MDL_GRADIENT, x, &e));
    assert_true(x[0] != 0);
    FINE(r.learner->gather(l, 0, r.plan, list, 1, &e));
    expect(&r, l, list[0].tensor, MDL_GRADIENT, x, n);
    free(x);
    r.learner->close(l);
    close_rig(&r);
}

static void learner__context_lost__every_call_says_so(void **state)
{
    static const char gone[] = "went with its context";
    struct mdl_optimizer o = optimizers[1];
    struct mdl_move moves[64] = {{true, true, 0.1, 1}};
    char file[] = "/tmp/tscaf-test-XXXXXX";
    float y[BATCH * 70], again[BATCH * 70], *x;
    bool gathered[64] = {true};
    struct mdl_running run;
    struct mdl_gather list[64];
    struct rig r = {0};
    double squares[64];
    struct held h;
    void *l;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    seed = 9;
    open_rig(&r, network, BATCH, MDL_PREC_F32);
    hold(&r, &h);
    x = numbers(70 * 5 * SIDE * SIDE);
    l = open_learner(&r, h.list, h.n);
    run_step(&r, y);
    (void)gathers_of(&r, &h, list);
    run = (struct mdl_running){tensor_of(&h, r.step.statistics[0].mean),
                               tensor_of(&h, r.step.statistics[0].var),
                               r.step.statistics[0].stats, 0.1f, 1};
    close(mkstemp(file));
    setenv("TSCAF_HOST_LOSE", file, 1);
    refused(r.learner->meet(l, gathered, squares, &e), "illegal access");
    unsetenv("TSCAF_HOST_LOSE");
    refused(r.learner->meet(l, gathered, squares, &e), gone);
    refused(r.learner->gather(l, 0, r.plan, list, 1, &e), gone);
    refused(r.learner->run(l, 0, r.plan, &run, 1, &e), gone);
    refused(r.learner->update(l, &o, moves, 1, &e), gone);
    refused(r.learner->get(l, 0, MDL_X, x, &e), gone);
    refused(r.ops->refresh(r.ctx, r.plan, &e), gone);
    assert_non_null(strstr(e.msg, "checkpoint"));
    r.learner->close(l);
    /* A new one, on what the device is now. */
    l = open_learner(&r, h.list, h.n);
    FINE(r.ops->refresh(r.ctx, r.plan, &e));
    run_step(&r, again);
    assert_memory_equal(y, again, sizeof(y));
    FINE(r.learner->gather(l, 0, r.plan, list, 1, &e));
    r.learner->close(l);
    free(x);
    close_rig(&r);
}

static void learner__no_room__says_what_it_wants(void **state)
{
    struct mdl_move moves[1] = {{true, true, 0.1, 1}};
    struct mdl_tensor t = {.n = 600000};
    struct rig r = {0};
    float *x;
    void *l;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    seed = 10;
    t.x = numbers(t.n);
    open_rig(&r, network, BATCH, MDL_PREC_F32);
    setenv("TSCAF_HOST_DEVICE_MIB", "1", 1);
    assert_int_equal(r.learner->open(&r.ctx, &r.lane, 1, &t, 1, &l, &e),
                     UT_ENOMEM);
    if (!strstr(e.msg, "1 tensors of 2 MiB that are to learn on GPU 0: the GPU "
                       "has no 2 MiB"))
        fail_msg("%s", e.msg);
    unsetenv("TSCAF_HOST_DEVICE_MIB");
    l = open_learner(&r, &t, 1);
    /* The second moment is made when an optimiser first needs it. */
    setenv("TSCAF_HOST_DEVICE_MIB", "1", 1);
    assert_int_equal(r.learner->update(l, &optimizers[1], moves, 1, &e),
                     UT_ENOMEM);
    unsetenv("TSCAF_HOST_DEVICE_MIB");
    x = malloc(t.n * sizeof(*x));
    FINE(r.learner->get(l, 0, MDL_X, x, &e));
    assert_memory_equal(x, t.x, t.n * sizeof(*x));
    FINE(r.learner->update(l, &optimizers[1], moves, 1, &e));
    r.learner->close(l);
    free(x);
    free(t.x);
    close_rig(&r);
}

static void open__several__says_what_is_missing(void **state)
{
    struct mdl_tensor t = {.n = 70};
    struct crowd c;
    void *l;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    open_crowd(&c, 2, vast, 1);
    t.x = numbers(t.n);
    setenv("TSCAF_HOST_NO_NCCL", "1", 1);
    refused(c.rig[0].learner->open(c.backends, c.lanes, 2, &t, 1, &l, &e),
            "libnccl.so.2");
    l = crowd_learner(&(struct crowd){.rig[0] = c.rig[0],
                                      .backends = {c.rig[1].ctx},
                                      .lanes = {c.rig[1].lane},
                                      .n = 1},
                      &t, 1);
    c.rig[0].learner->close(l);
    unsetenv("TSCAF_HOST_NO_NCCL");
    c.backends[1] = c.backends[0];
    refused(c.rig[0].learner->open(c.backends, c.lanes, 2, &t, 1, &l, &e),
            "GPU 0 would meet itself");
    free(t.x);
    close_crowd(&c);
}

static void meet__one_of_several_lost__says_which(void **state)
{
    const uint8_t in[BATCH * SIDE * SIDE * 3] = {1};
    struct mdl_move moves[64] = {{true, false, 0.05, 1}};
    char file[] = "/tmp/tscaf-test-XXXXXX";
    bool gathered[64] = {false};
    double squares[64];
    struct crowd c;
    struct held h;
    void *l;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    open_crowd(&c, 2, network, BATCH);
    hold(&c.rig[0], &h);
    l = crowd_learner(&c, h.list, h.n);
    close(mkstemp(file));
    setenv("TSCAF_HOST_LOSE", file, 1);
    refused(c.rig[1].ops->run_nodes(c.rig[1].ctx, c.rig[1].plan, in, 0,
                                    c.rig[1].step.n_forward, &e),
            "illegal access");
    unsetenv("TSCAF_HOST_LOSE");
    refused(c.rig[0].learner->meet(l, gathered, squares, &e),
            "learned on GPU 1 went with its context");
    refused(c.rig[0].learner->update(l, &optimizers[0], moves, 1, &e),
            "learned on GPU 1 went with its context");
    c.rig[0].learner->close(l);
    l = crowd_learner(&c, h.list, h.n);
    FINE(c.rig[0].learner->meet(l, gathered, squares, &e));
    /* As it meets. */
    close(open(file, O_CREAT | O_WRONLY, 0600));
    setenv("TSCAF_HOST_LOSE", file, 1);
    refused(c.rig[0].learner->meet(l, gathered, squares, &e), "illegal access");
    unsetenv("TSCAF_HOST_LOSE");
    refused(c.rig[0].learner->meet(l, gathered, squares, &e),
            "learned on GPU 0 went with its context");
    c.rig[0].learner->close(l);
    close_crowd(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(update__each_optimiser__as_the_processor_moves),
        cmocka_unit_test(gather__more__adds_up_until_an_update),
        cmocka_unit_test(meet__one_device__squares_by_tensor),
        cmocka_unit_test(gather__every_layout__as_got_by_the_host),
        cmocka_unit_test(run__statistics__as_the_host_moves_them),
        cmocka_unit_test(refresh__held__takes_the_devices),
        cmocka_unit_test(refresh__frozen_batchnorm__as_it_was_made),
        cmocka_unit_test(refresh__not_held_or_another_lane__as_it_should),
        cmocka_unit_test(meet__several__sums_as_one_that_saw_all),
        cmocka_unit_test(meet__several__weights_and_statistics_are_one),
        cmocka_unit_test(open__several__says_what_is_missing),
        cmocka_unit_test(meet__one_of_several_lost__says_which),
        cmocka_unit_test(gather__not_there__refused),
        cmocka_unit_test(learner__context_lost__every_call_says_so),
        cmocka_unit_test(learner__no_room__says_what_it_wants),
    };

    if (!getenv("TSCAF_TEST_CUDA")) {
        setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
        setenv("TSCAF_CUDA_CACHE", "/dev/null", 1);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
