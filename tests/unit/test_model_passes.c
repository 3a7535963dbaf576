/* The passes: what they remove, and that the numbers stay. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backend.h"
#include "model/model.h"
#include "tests/support/unit.h"

static const char iresnet[] =
    "{\"input\":32,\"trees\":[{\"name\":\"root\",\"module\":\"iresnet\","
    "\"layers\":[2,1,1,1],\"widths\":[8,8,16,16],\"children\":["
    "{\"name\":\"a\",\"module\":\"lase\",\"head\":\"binary\"},"
    "{\"name\":\"b\",\"module\":\"none\",\"head\":\"embedding\","
    "\"dim\":16}]}]}";

static void make(struct mdl_model *m)
{
    struct mdl_spec spec;
    struct ut_error e;

    if (mdl_spec_parse(iresnet, strlen(iresnet), &spec, &e) ||
        mdl_model_fresh(&spec, 7, m, &e))
        fail_msg("%s", e.msg);
}

/* The i-th float parameter value of that name, writable: the model is ours. */
static float *weights(struct mdl_model *m, const char *name, size_t *n)
{
    for (int i = 0; i < m->graph.n_values; i++)
        if (!strcmp(m->graph.values[i].name, name)) {
            *n = mdl_shape_count(&m->graph.values[i].shape);
            return (float *)(uintptr_t)m->graph.values[i].data;
        }
    fail_msg("no parameter %s", name);
    return NULL;
}

/* BatchNorms that are far from the identity, so that folding has to work. */
static void disturb(struct mdl_model *m)
{
    unsigned seed = 1;

    for (int i = 0; i < m->graph.n_values; i++) {
        struct mdl_value *v = &m->graph.values[i];
        float *data = (float *)(uintptr_t)v->data;

        if (v->shape.n_dims != 1 || !data)
            continue;
        for (int64_t k = 0; k < v->shape.dim[0]; k++) {
            float r =
                (float)((seed = seed * 1103515245 + 12345) >> 16 & 1023) / 1024;

            data[k] += strstr(v->name, "running_var") ? r : r - 0.5f;
        }
    }
}

static int count_op(const struct mdl_graph *g, enum mdl_op op)
{
    int n = 0;

    for (int i = 0; i < g->n_nodes; i++)
        n += g->nodes[i].op == op;
    return n;
}

/* Output `name` of graph g for a fixed image, on the reference backend. */
static void forward(const struct mdl_graph *g, const char *name, float *out)
{
    float *outs[MDL_MAX_OUTPUTS] = {0};
    struct mdl_backend *b;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    struct ut_error e;
    uint8_t image[32 * 32 * 3];
    struct mdl_io io = {image, outs};

    for (size_t i = 0; i < sizeof(image); i++)
        image[i] = (uint8_t)(i * i * 7 >> 3);
    outs[mdl_graph_find_output(g, name)] = out;
    if (mdl_backend_open("ref", 0, &b, &e) || mdl_lane_new(b, &lane, &e) ||
        mdl_plan_new(lane, g, MDL_PREC_F32, 1, &plan, &e) ||
        mdl_plan_run(plan, &io, &e))
        fail_msg("%s", e.msg);
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_backend_close(b);
}

static void
optimise__serving_outputs__only_the_last_batchnorm_is_left(void **state)
{
    struct mdl_model m;
    struct mdl_graph g;
    struct ut_error e;
    uint64_t keep;

    (void)state;
    make(&m);
    keep = 1ull << mdl_graph_find_output(&m.graph, "a.probability") |
           1ull << mdl_graph_find_output(&m.graph, "b.embedding.normalized");
    assert_int_equal(mdl_graph_optimise(&m.graph, keep, &g, &e), UT_OK);
    /* root.bn2 stands before the branches, which are no convolutions. */
    assert_int_equal(count_op(&g, MDL_OP_BATCHNORM), 1);
    /* The LASE sum alone: residuals are fused, the "none" copy is dropped. */
    assert_int_equal(count_op(&g, MDL_OP_ADD), 1);
    /* Sigmoids after a linear are fused as well as the PReLUs. */
    assert_int_equal(count_op(&g, MDL_OP_ACT), 0);
    mdl_graph_fini(&g);
    mdl_model_close(&m);
}

static void optimise__disturbed_batchnorms__same_numbers(void **state)
{
    struct mdl_model m;
    struct mdl_graph g;
    struct ut_error e;
    float want[16], got[16];
    const char *names[] = {"b.embedding", "a.logit"};
    size_t n[] = {16, 1};

    (void)state;
    make(&m);
    disturb(&m);
    assert_int_equal(mdl_graph_optimise(&m.graph, ~0ull, &g, &e), UT_OK);
    for (int i = 0; i < 2; i++) {
        forward(&m.graph, names[i], want);
        forward(&g, names[i], got);
        /* float32, twelve layers: sums of 144 terms reordered. */
        assert_close(got, want, n[i], 1e-4, 1e-4, names[i]);
    }
    mdl_graph_fini(&g);
    mdl_model_close(&m);
}

/* gamma 0 with beta 1 cannot be shifted: t / s does not exist. */
static void optimise__dead_channel__batchnorm_stays_and_is_right(void **state)
{
    struct mdl_model m;
    struct mdl_graph g;
    struct ut_error e;
    float want[16], got[16];
    uint64_t keep;
    size_t n;

    (void)state;
    make(&m);
    disturb(&m);
    weights(&m, "root.layer1.1.bn1.weight", &n)[3] = 0;
    weights(&m, "root.layer1.1.bn1.bias", &n)[3] = 1;
    keep = 1ull << mdl_graph_find_output(&m.graph, "b.embedding");
    assert_int_equal(mdl_graph_optimise(&m.graph, keep, &g, &e), UT_OK);
    assert_int_equal(count_op(&g, MDL_OP_BATCHNORM), 2);
    forward(&m.graph, "b.embedding", want);
    forward(&g, "b.embedding", got);
    assert_close(got, want, 16, 1e-4, 1e-4, "b.embedding");
    mdl_graph_fini(&g);
    mdl_model_close(&m);
}

static void optimise__one_output__the_other_branch_is_gone(void **state)
{
    struct mdl_model m;
    struct mdl_graph g;
    struct ut_error e;
    int bit;

    (void)state;
    make(&m);
    bit = mdl_graph_find_output(&m.graph, "a.probability");
    assert_int_equal(mdl_graph_optimise(&m.graph, 1ull << bit, &g, &e), UT_OK);
    assert_int_equal(mdl_graph_find_output(&g, "a.probability"), bit);
    assert_int_equal(mdl_graph_find_output(&g, "b.embedding"), -1);
    assert_int_equal(count_op(&g, MDL_OP_L2NORM), 0);
    mdl_graph_fini(&g);
    mdl_model_close(&m);
}

static void optimise__unbound_parameter__named(void **state)
{
    struct mdl_spec spec;
    struct mdl_graph g, out;
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_spec_parse(iresnet, strlen(iresnet), &spec, &e),
                     UT_OK);
    assert_int_equal(mdl_model_build(&spec, &g, &e), UT_OK);
    assert_int_equal(mdl_graph_optimise(&g, ~0ull, &out, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "root.conv1.weight"));
    mdl_graph_fini(&g);
}

static void optimise__any_allocation_fails__clean_error(void **state)
{
    struct mdl_model m;

    (void)state;
    make(&m);
    for (long nth = 0;; nth++) {
        struct mdl_graph g;
        struct ut_error e;
        enum ut_err rc;
        bool hit;

        fault_arm(nth);
        rc = mdl_graph_optimise(&m.graph, ~0ull, &g, &e);
        hit = fault_disarm();
        if (!hit) {
            assert_int_equal(rc, UT_OK);
            mdl_graph_fini(&g);
            break;
        }
        assert_int_equal(rc, UT_ENOMEM);
    }
    mdl_model_close(&m);
}

static void builder__wrong_shapes__first_error_kept(void **state)
{
    struct mdl_graph g;
    int x, w;

    (void)state;
    mdl_graph_init(&g);
    x = mdl_graph_image(&g, mdl_graph_input(&g, 8, 8), (float[3]){0},
                        (float[3]){1, 1, 1}, false);
    w = mdl_graph_param(&g, MDL_VALUE_PARAM, mdl_shape_of(4, 4, 5, 3, 3), "w");
    assert_int_equal(mdl_graph_conv(&g, x, w, -1, 1, 1, 1), -1);
    assert_non_null(strstr(g.error.msg, "convolution on [3, 8, 8]"));
    assert_int_equal(mdl_graph_pool(&g, x), -1);
    assert_non_null(strstr(g.error.msg, "convolution"));
    mdl_graph_fini(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            optimise__serving_outputs__only_the_last_batchnorm_is_left),
        cmocka_unit_test(optimise__disturbed_batchnorms__same_numbers),
        cmocka_unit_test(optimise__dead_channel__batchnorm_stays_and_is_right),
        cmocka_unit_test(optimise__one_output__the_other_branch_is_gone),
        cmocka_unit_test(optimise__unbound_parameter__named),
        cmocka_unit_test(optimise__any_allocation_fails__clean_error),
        cmocka_unit_test(builder__wrong_shapes__first_error_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
