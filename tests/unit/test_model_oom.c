/* Memory that runs out while a network is read, built and compiled. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backend.h"
#include "model/model.h"
#include "model/onnx/onnx.h"
#include "tests/support/unit.h"

#define ONNX "build/test_model_oom.onnx"

/* Every module, and stages of one block. */
static const char spec_text[] =
    "{\"input\":32,\"trees\":[{\"name\":\"root\",\"module\":\"iresnet\","
    "\"layers\":[1,1],\"widths\":[16,32],\"children\":["
    "{\"name\":\"fatigue\",\"module\":\"lase\",\"la_r\":2,\"se_r\":2,"
    "\"head\":\"binary\"},{\"name\":\"recognition\",\"module\":\"lase\","
    "\"la_r\":2,\"se_r\":2,\"head\":\"embedding\",\"dim\":16}]}]}";

static struct mdl_spec spec;
static struct mdl_graph optimised;
static struct mdl_model model;

static enum ut_err fresh(void *arg, struct ut_error *e)
{
    struct mdl_model m;
    enum ut_err rc;

    (void)arg;
    rc = mdl_model_fresh(&spec, 1, &m, e);
    if (!rc)
        mdl_model_close(&m);
    return rc;
}

struct target {
    const char *backend;
    enum mdl_precision precision;
};

/* The backend from its opening to a plan that has run. */
static enum ut_err compile(void *arg, struct ut_error *e)
{
    const struct target *t = arg;
    static uint8_t images[2 * 32 * 32 * 3];
    float probability[2], embedding[2 * 16];
    float *out[MDL_MAX_OUTPUTS] = {0};
    struct mdl_backend *b = NULL;
    struct mdl_lane *lane = NULL;
    struct mdl_plan *plan = NULL;
    struct mdl_io io = {.in = images, .out = out};
    enum ut_err rc = mdl_backend_open(t->backend, 0, &b, e);

    if (!rc)
        rc = mdl_lane_new(b, &lane, e);
    if (!rc)
        rc = mdl_plan_new(lane, &optimised, t->precision, 2, &plan, e);
    out[mdl_graph_find_output(&optimised, "fatigue.probability")] = probability;
    out[mdl_graph_find_output(&optimised, "recognition.embedding")] = embedding;
    if (!rc)
        rc = mdl_plan_run(plan, &io, e);
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_backend_close(b);
    return rc;
}

static enum ut_err read_onnx(void *arg, struct ut_error *e)
{
    struct mdl_onnx_input in;
    struct mdl_graph g;
    enum ut_err rc;

    (void)arg;
    if (!mdl_onnx_input_parse("bytes", &in))
        return ut_fail(e, UT_EINVAL, "bytes");
    rc = mdl_onnx_read(ONNX, &in, &g, e);
    if (!rc)
        mdl_graph_fini(&g);
    return rc;
}

static enum ut_err write_onnx(void *arg, struct ut_error *e)
{
    const struct mdl_graph *g = &model.graph;

    (void)arg;
    return mdl_onnx_write(
        ONNX, g,
        1ull << mdl_graph_find_output(g, "fatigue.logit") |
            1ull << mdl_graph_find_output(g, "recognition.embedding"),
        e);
}

static void model_fresh__any_allocation_fails__clean_error(void **state)
{
    (void)state;
    assert_true(each_allocation_fails(fresh, NULL) > 3);
}

static void plan__any_allocation_fails__clean_error(void **state)
{
    struct target targets[] = {
        {"ref", MDL_PREC_F32}, {"cpu", MDL_PREC_F32}, {"cpu", MDL_PREC_BF16}};
    struct mdl_backend *b;
    struct ut_error e;

    (void)state;
    for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
        bool has;

        assert_int_equal(mdl_backend_open(targets[i].backend, 0, &b, &e),
                         UT_OK);
        has = mdl_backend_supports(b, targets[i].precision);
        mdl_backend_close(b);
        if (has)
            assert_true(each_allocation_fails(compile, &targets[i]) > 5);
    }
}

struct lane_in_use {
    struct mdl_lane *lane;
    struct mdl_plan *plan; /* of one picture */
    float embedding[16];   /* its answer */
};

static enum ut_err run_one(const struct lane_in_use *l, float embedding[16],
                           struct ut_error *e)
{
    static uint8_t image[32 * 32 * 3];
    float *out[MDL_MAX_OUTPUTS] = {0};
    struct mdl_io io = {.in = image, .out = out};

    for (size_t i = 0; i < sizeof(image); i++)
        image[i] = (uint8_t)(i * 37);
    out[mdl_graph_find_output(&optimised, "recognition.embedding")] = embedding;
    return mdl_plan_run(l->plan, &io, e);
}

static enum ut_err compile_larger(void *arg, struct ut_error *e)
{
    struct lane_in_use *l = arg;
    struct mdl_plan *larger = NULL;
    struct ut_error other;
    float embedding[16];
    enum ut_err rc =
        mdl_plan_new(l->lane, &optimised, MDL_PREC_F32, 8, &larger, e);

    mdl_plan_free(larger);
    if (run_one(l, embedding, &other))
        fail_msg("%s", other.msg);
    assert_memory_equal(embedding, l->embedding, sizeof(embedding));
    return rc;
}

/* A server goes on with the smaller plans. */
static void plan__no_room_for_a_larger__runs_on(void **state)
{
    struct lane_in_use l = {0};
    struct mdl_backend *b;
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_backend_open("cpu", 0, &b, &e), UT_OK);
    assert_int_equal(mdl_lane_new(b, &l.lane, &e), UT_OK);
    assert_int_equal(
        mdl_plan_new(l.lane, &optimised, MDL_PREC_F32, 1, &l.plan, &e), UT_OK);
    assert_int_equal(run_one(&l, l.embedding, &e), UT_OK);
    assert_true(each_allocation_fails(compile_larger, &l) > 5);
    mdl_plan_free(l.plan);
    mdl_lane_free(l.lane);
    mdl_backend_close(b);
}

static void onnx__any_allocation_fails__clean_error(void **state)
{
    (void)state;
    assert_true(each_allocation_fails(write_onnx, NULL) > 1);
    assert_true(each_allocation_fails(read_onnx, NULL) > 10);
}

static int set_up(void **state)
{
    struct ut_error e;

    (void)state;
    if (mdl_spec_parse(spec_text, strlen(spec_text), &spec, &e) ||
        mdl_model_fresh(&spec, 1, &model, &e) ||
        mdl_graph_optimise(&model.graph, ~0ull, &optimised, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    mdl_graph_fini(&optimised);
    mdl_model_close(&model);
    remove(ONNX);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model_fresh__any_allocation_fails__clean_error),
        cmocka_unit_test(plan__any_allocation_fails__clean_error),
        cmocka_unit_test(plan__no_room_for_a_larger__runs_on),
        cmocka_unit_test(onnx__any_allocation_fails__clean_error),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
