/* Every operation's gradient: the reference's against finite differences, the
 * CPU's and CUDA's (the processor in the GPU's place, or on a GPU where
 * TSCAF_TEST_CUDA=1 asks for it) against the reference's. The loss is a fixed
 * random sum of the result. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/backend.h"
#include "model/train/backward.h"
#include "tests/support/unit.h"

#define SIDE 6
#define BATCH 3

static unsigned seed;

static float noise(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8 & 0xffff) / 32768 - 1;
}

static int param(struct mdl_graph *g, struct mdl_shape shape, double mid,
                 double spread)
{
    static int n;
    size_t count = mdl_shape_count(&shape);
    float *data = malloc(count * sizeof(*data));

    for (size_t i = 0; i < count; i++)
        data[i] = (float)((mid + noise()) / spread);
    return mdl_graph_param_owned(g, shape, &data, "p%d", n++);
}

static int bare_conv(struct mdl_graph *g, int x, int outputs, int kernel,
                     int stride, int groups, int bias)
{
    int ins = (int)g->values[x].shape.dim[0] / groups;
    int w = param(g, mdl_shape_of(4, outputs, ins, kernel, kernel), 0,
                  sqrt(ins * kernel * kernel / 3.0));

    return mdl_graph_conv(g, x, w, bias, stride, kernel / 2, groups);
}

static int conv(struct mdl_graph *g, int x, int outputs, int kernel, int stride,
                int groups)
{
    return bare_conv(g, x, outputs, kernel, stride, groups,
                     param(g, mdl_shape_of(1, outputs), 0, 2));
}

/* [channels, SIDE, SIDE], trained itself, so that a gradient must come back. */
static int start(struct mdl_graph *g, int channels)
{
    static const float mean[] = {127.5f, 120, 130},
                       scale[] = {0.01f, 0.01f, 0.01f};

    mdl_graph_init(g);
    mdl_graph_module(g, "test");
    return conv(
        g,
        mdl_graph_image(g, mdl_graph_input(g, SIDE, SIDE), mean, scale, false),
        channels, 1, 1, 1);
}

static int batchnorm(struct mdl_graph *g, int x)
{
    int c = (int)g->values[x].shape.dim[0];

    return mdl_graph_batchnorm(g, x, param(g, mdl_shape_of(1, c), 3, 3),
                               param(g, mdl_shape_of(1, c), 0, 2),
                               param(g, mdl_shape_of(1, c), 0, 2),
                               param(g, mdl_shape_of(1, c), 2, 2), 1e-5f);
}

struct machine {
    struct mdl_backend *backend;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
};

static struct machine open_machine(const char *name, const struct mdl_step *s)
{
    struct machine m;
    struct ut_error e;

    if (mdl_backend_open(name, 0, &m.backend, &e) ||
        mdl_lane_new(m.backend, &m.lane, &e))
        fail_msg("%s: %s", name, e.msg);
    mdl_lane_threads(m.lane, 2);
    if (mdl_plan_new(m.lane, &s->graph, MDL_PREC_F32, BATCH, &m.plan, &e))
        fail_msg("%s: %s", name, e.msg);
    return m;
}

static void close_machine(struct machine *m)
{
    mdl_plan_free(m->plan);
    mdl_lane_free(m->lane);
    mdl_backend_close(m->backend);
}

static double loss_of(struct machine *m, const struct mdl_step *s,
                      const uint8_t *in, const float *weights, size_t n)
{
    float *y = malloc(n * sizeof(*y));
    double sum = 0;
    struct ut_error e;

    assert_int_equal(mdl_plan_refresh(m->plan, &e), UT_OK);
    assert_int_equal(mdl_plan_run_nodes(m->plan, in, 0, s->n_forward, &e),
                     UT_OK);
    assert_int_equal(mdl_plan_get(m->plan, s->ends[0], y, &e), UT_OK);
    for (size_t i = 0; i < n; i++)
        sum += (double)y[i] * weights[i];
    free(y);
    return sum;
}

/* All gradients of a parameter, in floats of its size. */
static float *gradient_of(struct machine *m, const struct mdl_step *s, int at,
                          size_t n)
{
    const struct mdl_gradient *g = &s->gradients[at];
    size_t whole = mdl_shape_count(&s->graph.values[g->grad].shape);
    float *all = malloc(whole * sizeof(*all)), *part = malloc(n * sizeof(*all));
    struct ut_error e;

    assert_int_equal(mdl_plan_get(m->plan, g->grad, all, &e), UT_OK);
    memcpy(part, all + g->at, n * sizeof(*part));
    free(all);
    return part;
}

static void back(struct machine *m, const struct mdl_step *s, const uint8_t *in,
                 const float *weights)
{
    struct ut_error e;

    assert_int_equal(mdl_plan_set(m->plan, s->seeds[0], weights, &e), UT_OK);
    assert_int_equal(
        mdl_plan_run_nodes(m->plan, in, s->n_forward, s->graph.n_nodes, &e),
        UT_OK);
}

/* A few elements of a parameter against central differences. */
static void differences(struct machine *m, const struct mdl_step *s,
                        const uint8_t *in, const float *weights, size_t n_out,
                        float *x, size_t n, const float *got, const char *what)
{
    double norm = 0;

    for (size_t i = 0; i < n; i++)
        norm += (double)got[i] * got[i];
    for (size_t k = 0; k < 4; k++) {
        size_t i = (size_t)(seed >> 4) % n;
        float old = x[i], step = 4e-3f;
        double up, down, want;

        noise();
        x[i] = old + step;
        up = loss_of(m, s, in, weights, n_out);
        x[i] = old - step;
        down = loss_of(m, s, in, weights, n_out);
        x[i] = old;
        want = (up - down) / (2.0 * (double)step);
        /* A kink between the two points may cost a little; 1e-3 is what the
         * results' rounding makes of a gradient of zero. */
        if (!(fabs(got[i] - want) <=
              0.02 * sqrt(norm) + 0.02 * fabs(want) + 1e-3))
            fail_msg("%s: element %zu of %zu: %g, by differences %g, norm %g",
                     what, i, n, got[i], want, sqrt(norm));
    }
}

/* A backend's gradient against the reference's, want [n]. */
static void compare(struct machine *m, const struct mdl_step *s, int at,
                    const float *want, size_t n, const char *name,
                    const char *what)
{
    float *got = gradient_of(m, s, at, n);
    double off = 0, norm = 0;

    for (size_t k = 0; k < n; k++) {
        off += ((double)want[k] - got[k]) * ((double)want[k] - got[k]);
        norm += (double)want[k] * want[k];
    }
    if (!(sqrt(off) <= 1e-4 * sqrt(norm) + 1e-4))
        fail_msg("%s: %s is off by %g of %g", what, name, sqrt(off),
                 sqrt(norm));
    free(got);
}

/* Parameters that moved are seen by every plan that is told so. */
static void moved(struct machine m[4], const struct mdl_graph *g,
                  const struct mdl_step *s, const uint8_t *in,
                  const float *weights, size_t n_out, const char *what)
{
    double before = loss_of(&m[0], s, in, weights, n_out), want;

    for (int i = 0; i < s->n_gradients; i++) {
        const struct mdl_value *p = &g->values[s->gradients[i].param];
        float *x = (float *)(uintptr_t)p->data;

        for (size_t k = 0; k < mdl_shape_count(&p->shape); k++)
            x[k] += 0.2f * noise();
    }
    want = loss_of(&m[0], s, in, weights, n_out);
    for (int i = 1; i < 4; i++) {
        double got = loss_of(&m[i], s, in, weights, n_out);

        if (!(fabs(got - want) < 1e-3 * (1 + fabs(want - before))))
            fail_msg("%s: %g where parameters moved, machine %d says %g", what,
                     want, i, got);
    }
}

static void check(struct mdl_graph *g, int y, const char *what)
{
    static const char *const names[] = {"ref", "cpu", "cuda", "cuda"};
    static uint8_t in[BATCH * SIDE * SIDE * 3];
    bool *trains = calloc((size_t)g->n_values, sizeof(*trains));
    struct machine m[4];
    struct mdl_step s;
    struct ut_error e;
    float *weights;
    size_t n_out;

    if (g->error.code)
        fail_msg("%s: %s", what, g->error.msg);
    for (int v = 0; v < g->n_values; v++)
        trains[v] = g->values[v].kind == MDL_VALUE_PARAM;
    if (mdl_step_build(g, &y, 1, trains, &s, &e))
        fail_msg("%s: %s", what, e.msg);
    n_out = BATCH * mdl_shape_count(&g->values[y].shape);
    weights = malloc(n_out * sizeof(*weights));
    for (size_t i = 0; i < n_out; i++)
        weights[i] = noise();
    for (size_t i = 0; i < sizeof(in); i++)
        in[i] = (uint8_t)(128 + 120 * noise());
    for (int i = 0; i < 4; i++) {
        if (i == 3) /* by engines (tests/plugins/host/engines.c) */
            setenv("TSCAF_HOST_ENGINES", "f", 1);
        m[i] = open_machine(names[i], &s);
        loss_of(&m[i], &s, in, weights, n_out);
        back(&m[i], &s, in, weights);
    }
    unsetenv("TSCAF_HOST_ENGINES");
    for (int i = 0; i < s.n_gradients; i++) {
        const struct mdl_value *p = &g->values[s.gradients[i].param];
        size_t n = mdl_shape_count(&p->shape);
        float *a = gradient_of(&m[0], &s, i, n);

        for (int k = 1; k < 4; k++)
            compare(&m[k], &s, i, a, n, names[k], what);
        differences(&m[0], &s, in, weights, n_out, (float *)(uintptr_t)p->data,
                    n, a, what);
        /* The plan has moved on: bring it back for the next one. */
        loss_of(&m[0], &s, in, weights, n_out);
        back(&m[0], &s, in, weights);
        free(a);
    }
    moved(m, g, &s, in, weights, n_out, what);
    for (int i = 0; i < 4; i++)
        close_machine(&m[i]);
    mdl_step_fini(&s);
    mdl_graph_fini(g);
    free(weights);
    free(trains);
}

static void convolutions__shapes__by_differences(void **state)
{
    static const struct {
        int ins, outs, kernel, stride, groups;
    } c[] = {{3, 5, 3, 1, 1},    {16, 32, 3, 1, 1},  {17, 5, 3, 2, 1},
             {20, 20, 3, 1, 20}, {16, 16, 3, 2, 16}, {8, 24, 1, 1, 1}};
    struct mdl_graph g;
    char what[64];

    (void)state;
    seed = 1;
    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        snprintf(what, sizeof(what), "convolution %zu", i);
        check(&g,
              conv(&g, start(&g, c[i].ins), c[i].outs, c[i].kernel, c[i].stride,
                   c[i].groups),
              what);
    }
    check(&g, bare_conv(&g, start(&g, 12), 20, 3, 1, 1, -1),
          "convolution without a bias");
}

static void activations__each__by_differences(void **state)
{
    struct mdl_graph g;
    char what[64];

    (void)state;
    seed = 2;
    for (int act = MDL_ACT_RELU; act <= MDL_ACT_SIGMOID; act++) {
        int x = start(&g, 19), slope = -1;

        snprintf(what, sizeof(what), "activation %d", act);
        if (act == MDL_ACT_PRELU)
            slope = param(&g, mdl_shape_of(1, 19), 1, 4);
        check(&g, mdl_graph_act(&g, x, (enum mdl_act)act, 0.1f, slope), what);
    }
}

static void batchnorms__maps_and_vectors__by_differences(void **state)
{
    struct mdl_graph g;

    (void)state;
    seed = 3;
    check(&g, batchnorm(&g, start(&g, 20)), "BatchNorm of a map");
    check(&g, batchnorm(&g, mdl_graph_pool(&g, start(&g, 7))),
          "BatchNorm of a vector");
}

static void others__each__by_differences(void **state)
{
    struct mdl_graph g;
    int x, s;

    (void)state;
    seed = 4;
    check(&g, mdl_graph_pool(&g, start(&g, 18)), "pool");
    check(&g, mdl_graph_l2norm(&g, mdl_graph_pool(&g, start(&g, 18))),
          "l2 norm");
    x = start(&g, 18);
    s = mdl_graph_act(&g, mdl_graph_pool(&g, x), MDL_ACT_SIGMOID, 0, -1);
    check(&g, mdl_graph_scale(&g, x, s), "scale by channel");
    x = start(&g, 18);
    s = mdl_graph_act(&g, conv(&g, x, 1, 1, 1, 1), MDL_ACT_SIGMOID, 0, -1);
    check(&g, mdl_graph_scale(&g, x, s), "scale by place");
    x = start(&g, 18);
    s = conv(&g, x, 18, 1, 1, 1);
    check(&g, mdl_graph_add(&g, (int[]){x, s, x}, 3), "add");
    x = conv(&g, start(&g, 8), 18, 3, 2, 1);
    check(&g, mdl_graph_upsample(&g, x, SIDE, SIDE), "upsample");
    x = start(&g, 18);
    s = conv(&g, x, 7, 1, 1, 1);
    check(&g, mdl_graph_concat(&g, (int[]){x, s}, 2), "concat");
    check(&g, mdl_graph_softmax(&g, start(&g, 6)), "softmax");
    x = start(&g, 5);
    check(&g,
          mdl_graph_linear(&g, x, param(&g, mdl_shape_of(2, 9, 5 * 36), 0, 8),
                           param(&g, mdl_shape_of(1, 9), 0, 2)),
          "linear");
}

static void build__nothing_trained__refused(void **state)
{
    bool trains[64] = {false};
    struct mdl_graph g;
    struct mdl_step s;
    struct ut_error e;

    int y;

    (void)state;
    y = start(&g, 4);
    assert_int_equal(mdl_step_build(&g, &y, 1, trains, &s, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "nothing that trains leads to test"));
    mdl_graph_fini(&g);
}

/* The reference adds up in double: one is left of one between two that are much
 * larger and cancel, at every place. */
static void ref__terms_that_cancel__leave_what_is_between(void **state)
{
    static const uint8_t in[BATCH * SIDE * SIDE * 3];
    static float seeds[BATCH][3][SIDE * SIDE];
    bool trains[64] = {false};
    struct machine m;
    struct mdl_graph g;
    struct mdl_step s;
    struct ut_error e;
    float *w, *bias;
    int x, w_at, end;

    (void)state;
    for (int i = 0; i < BATCH * SIDE * SIDE; i++) {
        seeds[i % BATCH][0][i / BATCH] = 1e8f;
        seeds[i % BATCH][1][i / BATCH] = 1;
        seeds[i % BATCH][2][i / BATCH] = -1e8f;
    }
    x = start(&g, 1);
    w_at = param(&g, mdl_shape_of(4, 3, 1, 1, 1), 0, 1);
    w = (float *)(uintptr_t)g.values[w_at].data;
    w[0] = w[1] = w[2] = 1;
    end = mdl_graph_conv(&g, x, w_at, -1, 1, 0, 1);
    for (int v = 0; v < g.n_values; v++) /* the bias before it */
        trains[v] = g.values[v].kind == MDL_VALUE_PARAM &&
                    g.values[v].shape.n_dims == 1;
    assert_int_equal(mdl_step_build(&g, &end, 1, trains, &s, &e), UT_OK);
    m = open_machine("ref", &s);
    loss_of(&m, &s, in, seeds[0][0], sizeof(seeds) / sizeof(float));
    back(&m, &s, in, seeds[0][0]);
    bias = gradient_of(&m, &s, 0, 1);
    assert_true(bias[0] == BATCH * SIDE * SIDE);
    free(bias);
    close_machine(&m);
    mdl_step_fini(&s);
    mdl_graph_fini(&g);
}

/* What is set of no use to anybody lies in nobody's place. */
static void plan__input_that_nobody_uses__set_without_harm(void **state)
{
    static uint8_t in[BATCH * SIDE * SIDE * 3];
    static float seeds[BATCH * 4 * SIDE * SIDE], junk[BATCH * 4 * SIDE * SIDE];
    size_t n = sizeof(seeds) / sizeof(*seeds);
    float *gradient[2];
    bool trains[64] = {false};
    struct machine m;
    struct mdl_graph g;
    struct mdl_step s;
    struct ut_error e;
    int end, unused;

    (void)state;
    for (size_t i = 0; i < sizeof(in); i++)
        in[i] = (uint8_t)(128 + 100 * noise());
    for (size_t i = 0; i < n; i++) {
        seeds[i] = noise();
        junk[i] = 1000;
    }
    end = mdl_graph_act(&g, start(&g, 4), MDL_ACT_RELU, 0, -1);
    for (int v = 0; v < g.n_values; v++)
        trains[v] = g.values[v].kind == MDL_VALUE_PARAM;
    assert_int_equal(mdl_step_build(&g, &end, 1, trains, &s, &e), UT_OK);
    unused = mdl_graph_given(&s.graph, mdl_shape_of(3, 4, SIDE, SIDE));
    m = open_machine("cpu", &s);
    for (int i = 0; i < 2; i++) {
        loss_of(&m, &s, in, seeds, n);
        if (i)
            assert_int_equal(mdl_plan_set(m.plan, unused, junk, &e), UT_OK);
        back(&m, &s, in, seeds);
        gradient[i] = gradient_of(&m, &s, 0, 12);
    }
    assert_memory_equal(gradient[0], gradient[1], 12 * sizeof(float));
    free(gradient[0]);
    free(gradient[1]);
    close_machine(&m);
    mdl_step_fini(&s);
    mdl_graph_fini(&g);
}

/* A context that is lost between forward and backward, by whoever it was, takes
 * what the forward pass left: that is an error, and then all is as before. */
static void cuda__context_lost_between__said_then_as_before(void **state)
{
    static const uint8_t in[BATCH * SIDE * SIDE * 3] = {200, 100, 50};
    float seeds[BATCH * 4 * SIDE * SIDE], y[BATCH * 4 * SIDE * SIDE];
    char file[] = "/tmp/tscaf-test-XXXXXX";
    struct machine one, other;
    bool trains[64] = {false};
    struct mdl_graph g;
    struct mdl_step s;
    struct ut_error e;
    float *before, *after;
    size_t n = BATCH * 4 * SIDE * SIDE;
    int end;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    for (size_t i = 0; i < n; i++)
        seeds[i] = noise();
    end = start(&g, 4);
    for (int v = 0; v < g.n_values; v++)
        trains[v] = g.values[v].kind == MDL_VALUE_PARAM;
    assert_int_equal(mdl_step_build(&g, &end, 1, trains, &s, &e), UT_OK);
    one = open_machine("cuda", &s);
    other = open_machine("cuda", &s);
    /* What no forward pass left cannot be gone back from, nor got. */
    assert_int_equal(
        mdl_plan_run_nodes(one.plan, in, s.n_forward, s.graph.n_nodes, &e),
        UT_EDEVICE);
    assert_int_equal(mdl_plan_get(one.plan, s.ends[0], y, &e), UT_EDEVICE);
    loss_of(&one, &s, in, seeds, n);
    back(&one, &s, in, seeds);
    before = gradient_of(&one, &s, 0, 12);
    loss_of(&one, &s, in, seeds, n);
    close(mkstemp(file));
    setenv("TSCAF_HOST_LOSE", file, 1);
    assert_int_equal(mdl_plan_run_nodes(other.plan, in, 0, s.n_forward, &e),
                     UT_EDEVICE);
    assert_non_null(strstr(e.msg, "illegal access"));
    assert_int_equal(mdl_plan_set(one.plan, s.seeds[0], seeds, &e), UT_OK);
    assert_int_equal(
        mdl_plan_run_nodes(one.plan, in, s.n_forward, s.graph.n_nodes, &e),
        UT_EDEVICE);
    assert_non_null(strstr(e.msg, "gone with its context"));
    unsetenv("TSCAF_HOST_LOSE");
    loss_of(&one, &s, in, seeds, n);
    back(&one, &s, in, seeds);
    after = gradient_of(&one, &s, 0, 12);
    assert_memory_equal(before, after, 12 * sizeof(*before));
    free(before);
    free(after);
    close_machine(&one);
    close_machine(&other);
    mdl_step_fini(&s);
    mdl_graph_fini(&g);
}

/* Nor does it train in a type whose gradients would vanish. */
static void cuda__float16__refused(void **state)
{
    struct machine m;
    bool trains[64] = {false};
    struct mdl_graph g;
    struct mdl_step s;
    struct mdl_plan *plan;
    struct ut_error e;
    int end;

    (void)state;
    end = start(&g, 4);
    for (int v = 0; v < g.n_values; v++)
        trains[v] = g.values[v].kind == MDL_VALUE_PARAM;
    assert_int_equal(mdl_step_build(&g, &end, 1, trains, &s, &e), UT_OK);
    m = open_machine("cuda", &s);
    assert_int_equal(
        mdl_plan_new(m.lane, &s.graph, MDL_PREC_F16, BATCH, &plan, &e),
        UT_EINVAL);
    assert_non_null(strstr(e.msg, "not in float16"));
    close_machine(&m);
    mdl_step_fini(&s);
    mdl_graph_fini(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolutions__shapes__by_differences),
        cmocka_unit_test(activations__each__by_differences),
        cmocka_unit_test(batchnorms__maps_and_vectors__by_differences),
        cmocka_unit_test(others__each__by_differences),
        cmocka_unit_test(build__nothing_trained__refused),
        cmocka_unit_test(ref__terms_that_cancel__leave_what_is_between),
        cmocka_unit_test(plan__input_that_nobody_uses__set_without_harm),
        cmocka_unit_test(cuda__context_lost_between__said_then_as_before),
        cmocka_unit_test(cuda__float16__refused),
    };

    if (!getenv("TSCAF_TEST_CUDA")) {
        setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
        setenv("TSCAF_CUDA_CACHE", "/dev/null", 1);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
