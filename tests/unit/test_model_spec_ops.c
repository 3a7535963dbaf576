/* Specs that list their operations: what they build, keep and refuse. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "model/model.h"
#include "tests/support/unit.h"

/* A root that is its own head around a list of operations. */
#define HEADED(ops, head)                                                      \
    "{\"input\":16,\"trees\":[{\"name\":\"r\",\"module\":\"graph\"," head      \
    ",\"ops\":[" ops "]}]}"
#define LEAF(ops) HEADED(ops, "\"head\":\"binary\"")
#define CONV4 "{\"op\":\"convolution\",\"out\":4,\"kernel\":3,\"pad\":1}"

/* Parses and builds; the error's code. */
static enum ut_err build(const char *json, struct mdl_graph *g,
                         struct ut_error *e)
{
    struct mdl_spec *spec = malloc(sizeof(*spec));
    enum ut_err rc = mdl_spec_parse(json, strlen(json), spec, e);

    mdl_graph_init(g);
    if (!rc)
        rc = mdl_model_build(spec, g, e);
    free(spec);
    return rc;
}

/* parts: what the last operation puts together. */
#define EVERY(parts)                                                           \
    "{\"input\":16,\"trees\":[{\"name\":\"root\",\"module\":\"graph\","        \
    "\"image\":{\"mean\":[1.5,2,0.1],\"scale\":[0.017124753445386887,1,-0.5]," \
    "\"bgr\":true},\"ops\":["                                                  \
    "{\"op\":\"convolution\",\"out\":8,\"kernel\":3,\"stride\":2,\"pad\":1},"  \
    "{\"op\":\"batch_norm\"},{\"op\":\"prelu\"},"                              \
    "{\"op\":\"convolution\",\"out\":8,\"groups\":8,\"bias\":true},"           \
    "{\"op\":\"relu6\"},{\"op\":\"add\",\"of\":[3,5]},"                        \
    "{\"op\":\"pool\"},{\"op\":\"linear\",\"out\":8,\"bias\":true},"           \
    "{\"op\":\"sigmoid\"},{\"op\":\"scale\",\"of\":[6,9]},"                    \
    "{\"op\":\"concat\",\"of\":[" parts "]}],\"children\":["                   \
    "{\"name\":\"who\",\"module\":\"graph\",\"head\":\"embedding\","           \
    "\"dim\":6,\"ops\":[{\"op\":\"linear\",\"out\":6},"                        \
    "{\"op\":\"leaky_relu\",\"alpha\":0.25},"                                  \
    "{\"op\":\"batch_norm\",\"eps\":0.001}]},"                                 \
    "{\"name\":\"map\",\"module\":\"graph\",\"head\":\"embedding\","           \
    "\"dim\":5,\"ops\":[{\"op\":\"relu\"}]},"                                  \
    "{\"name\":\"drowsy\",\"module\":\"lase\",\"head\":\"binary\"}]}]}"

static void spec__every_operation__builds_and_comes_back(void **state)
{
    const char *json = EVERY("10,3");
    struct mdl_spec *spec = malloc(sizeof(*spec));
    struct mdl_spec *again = malloc(sizeof(*again));
    char *text = NULL;
    struct mdl_model m;
    struct ut_error e;

    (void)state;
    if (mdl_spec_parse(json, strlen(json), spec, &e) ||
        mdl_model_fresh(spec, 1, &m, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(m.graph.nodes[0].op, MDL_OP_IMAGE);
    assert_true(m.graph.nodes[0].bgr);
    assert_true(m.graph.nodes[0].scale[0] == 0.017124753445386887f);
    assert_true(mdl_graph_find_output(&m.graph, "root") >= 0);
    assert_true(mdl_graph_find_output(&m.graph, "who.embedding") >= 0);
    assert_true(mdl_graph_find_output(&m.graph, "who.embedding.normalized") >=
                0);
    assert_true(mdl_graph_find_output(&m.graph, "map.embedding") >= 0);
    assert_true(mdl_graph_find_output(&m.graph, "drowsy.logit") >= 0);
    assert_int_equal(mdl_spec_write(spec, &text, &e), UT_OK);
    assert_int_equal(mdl_spec_parse(text, strlen(text), again, &e), UT_OK);
    assert_memory_equal(spec->ops, again->ops,
                        (size_t)spec->n_ops * sizeof(*spec->ops));
    assert_int_equal(spec->n_ops, again->n_ops);
    assert_true(
        mdl_spec_image_equal(&spec->nodes[0].image, &again->nodes[0].image));
    mdl_model_close(&m);
    free(text);
    free(spec);
    free(again);
}

struct text_of {
    const struct mdl_spec *spec;
    char *whole;
};

static enum ut_err write_again(void *arg, struct ut_error *e)
{
    const struct text_of *t = arg;
    char *text = NULL;
    enum ut_err rc = mdl_spec_write(t->spec, &text, e);

    if (!rc)
        assert_string_equal(text, t->whole);
    free(text);
    return rc;
}

static void write__any_allocation_fails__no_member_lost(void **state)
{
    struct mdl_spec *spec = malloc(sizeof(*spec));
    struct text_of t = {.spec = spec};
    struct ut_error e;

    (void)state;
    json_set_alloc_funcs(malloc, free); /* this program's, which can fail */
    assert_int_equal(
        mdl_spec_parse(EVERY("10,3"), strlen(EVERY("10,3")), spec, &e), UT_OK);
    assert_int_equal(mdl_spec_write(spec, &t.whole, &e), UT_OK);
    assert_true(each_allocation_fails(write_again, &t) > 100);
    free(t.whole);
    free(spec);
}

/* Two trees that are shown the picture alike share it, others do not. */
static void image__of_two_trees__shared_where_equal(void **state)
{
#define TREE(name, image)                                                      \
    "{\"name\":\"" name "\",\"module\":\"graph\"," image                       \
    "\"head\":\"binary\",\"ops\":[" CONV4 "]}"
    static const struct {
        const char *json;
        int images;
    } rows[] = {
        {"{\"trees\":[" TREE("a", "") "," TREE("b", "") "]}", 1},
        {"{\"trees\":[" TREE("a", "") "," TREE(
             "b", "\"image\":{\"mean\":[127.5,127.5,127.5]},") "]}",
         1},
        {"{\"trees\":[" TREE("a", "") "," TREE(
             "b", "\"image\":{\"mean\":[0,0,0]},") "]}",
         2},
        {"{\"trees\":[" TREE("a", "\"image\":{\"bgr\":true},") "," TREE(
             "b", "") "]}",
         2},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct mdl_graph g;
        struct ut_error e;
        int images = 0;

        if (build(rows[i].json, &g, &e))
            fail_msg("%s", e.msg);
        for (int k = 0; k < g.n_nodes; k++)
            images += g.nodes[k].op == MDL_OP_IMAGE;
        assert_int_equal(images, rows[i].images);
        mdl_graph_fini(&g);
    }
}

static const struct {
    const char *json, *says;
} faults[] = {
    {LEAF(""), "0 \"ops\"; a file has 1 to 1024"},
    {LEAF("1"), "operation 0\": there is no operation \"\""},
    {LEAF("{\"op\":\"softmax\"}"), "there is no operation \"softmax\""},
    {LEAF(CONV4 ",{\"op\":\"relu\",\"alpha\":1}"), "member \"alpha\""},
    {LEAF("{\"op\":\"convolution\"}"), "there is no \"out\""},
    {LEAF("{\"op\":\"convolution\",\"out\":4097}"), "from 1 to 4096"},
    {LEAF("{\"op\":\"convolution\",\"out\":4,\"kernel\":33}"), "from 1 to 32"},
    {LEAF("{\"op\":\"convolution\",\"out\":4,\"stride\":17}"), "from 1 to 16"},
    {LEAF("{\"op\":\"convolution\",\"out\":4,\"pad\":65}"), "from 0 to 64"},
    {LEAF("{\"op\":\"convolution\",\"out\":4,\"groups\":0}"), "from 1 to 4096"},
    {LEAF("{\"op\":\"convolution\",\"out\":4,\"bias\":1}"), "neither true nor"},
    {LEAF("{\"op\":\"relu\",\"of\":[1]}"), "\"of\"[0] is not a value from 0"},
    {LEAF("{\"op\":\"relu\",\"of\":[-1]}"), "\"of\"[0] is not a value"},
    {LEAF("{\"op\":\"relu\",\"of\":[0.5]}"), "\"of\"[0] is not a value"},
    {LEAF("{\"op\":\"relu\",\"of\":[]}"), "\"of\" 0 values, not 1 to 1"},
    {LEAF("{\"op\":\"scale\"}"), "\"of\" 1 values, not 2 to 2"},
    {LEAF("{\"op\":\"add\",\"of\":[0,0,0,0,0,0,0,0,0]}"), "9 values, not 1"},
    {LEAF("{\"op\":\"batch_norm\",\"eps\":2}"), "\"eps\" is not from 0 to 1"},
    {LEAF("{\"op\":\"batch_norm\",\"eps\":\"x\"}"), "\"eps\" is not"},
    {"{\"trees\":[{\"name\":\"r\",\"module\":\"mobilenetv2\",\"ops\":[],"
     "\"head\":\"binary\"}]}",
     "member \"ops\""},
    {HEADED(CONV4, "\"head\":\"binary\",\"image\":{\"mean\":[1,2]}"),
     "\"mean\" is not three numbers"},
    {HEADED(CONV4, "\"head\":\"binary\",\"image\":{\"scale\":[1,2,1e9]}"),
     "\"scale\" is not three numbers"},
    {HEADED(CONV4, "\"head\":\"binary\",\"image\":{\"bgr\":1}"), "\"bgr\""},
    {HEADED(CONV4, "\"head\":\"binary\",\"image\":[]"), "\"image\" is no obj"},
    {HEADED(CONV4, "\"head\":\"binary\",\"image\":{\"std\":1}"),
     "member \"std\""},
    {"{\"trees\":[{\"name\":\"r\",\"module\":\"graph\",\"ops\":[" CONV4
     "],\"children\":[{\"name\":\"l\",\"module\":\"lase\",\"image\":{},"
     "\"head\":\"binary\"}]}]}",
     "is no root and has an \"image\""},
    /* What only building shows. */
    {LEAF("{\"op\":\"convolution\",\"out\":4,\"groups\":2}"),
     "node \"r\", operation 0: convolution on [3, 16, 16]: the channels"},
    {LEAF("{\"op\":\"convolution\",\"out\":4,\"kernel\":17}"),
     "smaller than the kernel"},
    {LEAF("{\"op\":\"pool\"}," CONV4), "operation 1: convolution on [3]"},
    {LEAF("{\"op\":\"pool\"},{\"op\":\"pool\"}"), "operation 1: pool on [3]"},
    {LEAF(CONV4 ",{\"op\":\"add\",\"of\":[0,1]}"), "another shape"},
    {LEAF(CONV4 ",{\"op\":\"scale\",\"of\":[0,1]}"), "neither [C] nor [1,H"},
    {LEAF("{\"op\":\"pool\"},{\"op\":\"concat\",\"of\":[1,1]}"),
     "another size"},
    {LEAF("{\"op\":\"pool\"}"), "ends in 3 numbers, but its head has 1"},
    {HEADED("{\"op\":\"linear\",\"out\":7}",
            "\"head\":\"embedding\",\"dim\":8"),
     "ends in 7 numbers, but its head has 8"},
    {EVERY("10,0"), "operation 10: concat on [8, 8, 8]: another part"},
    {"{\"trees\":[{\"name\":\"r\",\"module\":\"graph\",\"ops\":[{\"op\":"
     "\"pool\"}],\"children\":[{\"name\":\"l\",\"module\":\"lase\",\"head\":"
     "\"binary\"}]}]}",
     "on [3]"},
};

static void spec__each_fault__named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++) {
        struct mdl_graph g;
        struct ut_error e = {0};
        enum ut_err rc = build(faults[i].json, &g, &e);

        if ((rc != UT_EFORMAT && rc != UT_EINVAL) ||
            !strstr(e.msg, faults[i].says))
            fail_msg("%s: said \"%s\", not \"%s\"", faults[i].json, e.msg,
                     faults[i].says);
        mdl_graph_fini(&g);
    }
}

/* n times the operation, between the first and the last. */
static enum ut_err build_many(const char *first, const char *op, int n,
                              const char *last, struct ut_error *e)
{
    struct ut_buf json;
    struct mdl_graph g;
    enum ut_err rc;

    ut_buf_init(&json, 1 << 20);
    rc = ut_buf_addf(&json, e,
                     "{\"input\":1024,\"trees\":[{\"name\":\"r\",\"module\":"
                     "\"graph\",\"head\":\"binary\",\"ops\":[%s",
                     first);
    for (int i = 0; i < n && !rc; i++)
        rc = ut_buf_addf(&json, e, "%s%s", i || *first ? "," : "", op);
    if (!rc)
        rc = ut_buf_addf(&json, e, "%s]}]}", last);
    assert_int_equal(rc, UT_OK);
    rc = build(json.data, &g, e);
    mdl_graph_fini(&g);
    ut_buf_fini(&json);
    return rc;
}

static void limits__at_and_past(void **state)
{
    struct ut_error e;

    (void)state;
    if (build_many("", "{\"op\":\"relu\"}", MDL_SPEC_MAX_OPS, "", &e))
        fail_msg("%s", e.msg);
    assert_int_equal(
        build_many("", "{\"op\":\"relu\"}", MDL_SPEC_MAX_OPS + 1, "", &e),
        UT_EFORMAT);
    assert_non_null(strstr(e.msg, "has 1025 \"ops\"; a file has 1 to 1024"));
    /* 64 channels of 1024x1024 are the most that a value has. */
    if (build_many("", "{\"op\":\"convolution\",\"out\":64}", 1, "", &e))
        fail_msg("%s", e.msg);
    assert_int_equal(
        build_many("", "{\"op\":\"convolution\",\"out\":65}", 1, "", &e),
        UT_EINVAL);
    assert_non_null(strstr(e.msg, "operation 0: [65, 1024, 1024] is not 1 to "
                                  "67108864 numbers"));
    /* A fully connected layer of 2^28 numbers; one output more. */
    if (build_many("{\"op\":\"convolution\",\"out\":64,\"stride\":16}",
                   "{\"op\":\"linear\",\"out\":1024}", 1,
                   ",{\"op\":\"linear\",\"out\":1}", &e))
        fail_msg("%s", e.msg);
    assert_int_equal(
        build_many("{\"op\":\"convolution\",\"out\":64,\"stride\":16}",
                   "{\"op\":\"linear\",\"out\":1025}", 1, "", &e),
        UT_EINVAL);
    assert_non_null(strstr(e.msg, "operation 1: [1025, 262144] is not 1 to "
                                  "268435456 numbers"));
    /* Channels that grow eightfold with each of many operations. */
    assert_int_equal(
        build_many("{\"op\":\"convolution\",\"out\":1,\"stride\":16}",
                   "{\"op\":\"relu\"}", 1,
                   ",{\"op\":\"concat\",\"of\":[1,1,1,1,1,1,1,1]},"
                   "{\"op\":\"concat\",\"of\":[3,3,3,3,3,3,3,3]},"
                   "{\"op\":\"concat\",\"of\":[4,4,4,4,4,4,4,4]},"
                   "{\"op\":\"concat\",\"of\":[5,5,5,5,5,5,5,5]},"
                   "{\"op\":\"concat\",\"of\":[6,6,6,6,6,6,6,6]}",
                   &e),
        UT_EINVAL);
    assert_non_null(strstr(e.msg, "is not 1 to 67108864 numbers"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spec__every_operation__builds_and_comes_back),
        cmocka_unit_test(write__any_allocation_fails__no_member_lost),
        cmocka_unit_test(image__of_two_trees__shared_where_equal),
        cmocka_unit_test(spec__each_fault__named),
        cmocka_unit_test(limits__at_and_past),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
