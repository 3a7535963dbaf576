/* Recognisers cut and grafted: where, and that their answers stay the same bit
 * for bit. The ONNX networks are our own writer's, with drawn weights. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/backend.h"
#include "model/graft.h"
#include "model/onnx/onnx.h"
#include "tests/support/unit.h"

static const struct mdl_onnx_input bytes_in = {{0, 0, 0}, {1, 1, 1}, false};

/* Output `name` for three drawn pictures. */
static float *answers(const struct mdl_graph *g, const char *name,
                      const char *backend, enum mdl_precision precision,
                      size_t *len)
{
    size_t image = mdl_shape_count(&g->values[g->input].shape);
    uint8_t *images = malloc(3 * image);
    float *out[MDL_MAX_OUTPUTS] = {0};
    int at = name ? mdl_graph_find_output(g, name) : 0;
    struct mdl_io io = {images, out};
    struct mdl_backend *b;
    struct mdl_lane *lane;
    struct mdl_graph fused;
    struct mdl_plan *plan;
    struct ut_error e;

    assert_true(at >= 0);
    for (size_t i = 0; i < 3 * image; i++)
        images[i] = (uint8_t)(i * 2654435761u >> 13);
    *len = 3 * mdl_shape_count(&g->values[g->outputs[at]].shape);
    out[at] = malloc(*len * sizeof(float));
    if (mdl_graph_optimise(g, ~0ull, &fused, &e) ||
        mdl_backend_open(backend, 0, &b, &e) || mdl_lane_new(b, &lane, &e) ||
        mdl_plan_new(lane, &fused, precision, 3, &plan, &e) ||
        mdl_plan_run(plan, &io, &e))
        fail_msg("%s", e.msg);
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_backend_close(b);
    mdl_graph_fini(&fused);
    free(images);
    return out[at];
}

static bool has_bf16(void)
{
    struct mdl_backend *b;
    struct ut_error e;
    bool has;

    assert_int_equal(mdl_backend_open("cpu", 0, &b, &e), UT_OK);
    has = mdl_backend_supports(b, MDL_PREC_BF16);
    mdl_backend_close(b);
    return has;
}

static void same_answers(const struct mdl_graph *before,
                         const struct mdl_graph *after)
{
    static const struct {
        const char *backend;
        enum mdl_precision precision;
    } ways[] = {
        {"ref", MDL_PREC_F32}, {"cpu", MDL_PREC_F32}, {"cpu", MDL_PREC_BF16}};

    for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
        size_t n, m;
        float *a, *b;

        if (ways[i].precision == MDL_PREC_BF16 && !has_bf16())
            continue;
        a = answers(before, NULL, ways[i].backend, ways[i].precision, &n);
        b = answers(after, "recognition.embedding", ways[i].backend,
                    ways[i].precision, &m);
        assert_int_equal(n, m);
        assert_close(b, a, n, 0, 0, ways[i].backend);
        assert_memory_equal(a, b, n * sizeof(*a));
        free(a);
        free(b);
    }
}

/* g's outputs in keep, through an ONNX file, into *back. */
static void through_onnx(const struct mdl_graph *g, uint64_t keep,
                         struct mdl_graph *back)
{
    char path[] = "/tmp/test_graft_XXXXXX";
    int fd = mkstemp(path);
    struct ut_error e;

    assert_true(fd >= 0);
    close(fd);
    if (mdl_onnx_write(path, g, keep, &e) ||
        mdl_onnx_read(path, &bytes_in, back, &e))
        fail_msg("%s", e.msg);
    unlink(path);
}

/* Cuts, grafts, writes, opens: the file answers as the network did. */
static void graft__survives_the_file(const struct mdl_graph *g, const char *cut,
                                     int rows)
{
    char path[] = "/tmp/test_graft_XXXXXX";
    int fd = mkstemp(path), at;
    struct mdl_model tree, opened;
    struct ut_error e;

    assert_true(fd >= 0);
    close(fd);
    if (mdl_graft_cut(g, cut, &at, &e) || mdl_graft(g, at, 1, &tree, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(g->values[at].shape.dim[1], rows);
    if (mdl_model_write(path, &tree.spec, &tree.graph, NULL, 0, NULL, 0, &e) ||
        mdl_model_open(path, &opened, &e))
        fail_msg("%s", e.msg);
    same_answers(g, &opened.graph);
    assert_true(mdl_graph_find_output(&opened.graph, "root") >= 0);
    assert_true(mdl_graph_find_output(&opened.graph, "fatigue.logit") >= 0);
    mdl_model_close(&opened);
    mdl_model_close(&tree);
    unlink(path);
}

static void graft__our_networks_as_onnx__same_bits(void **state)
{
    static const struct {
        const char *module;
        int rows; /* of the last map */
    } rows[] = {{"\"iresnet\",\"layers\":[1,2],\"widths\":[16,24]", 8},
                {"\"mobilenetv2\",\"width\":0.2", 1}};

    (void)state;
    for (int i = 0; i < 2; i++) {
        char json[512];
        struct mdl_spec *spec = malloc(sizeof(*spec));
        struct mdl_graph back;
        struct mdl_model m;
        struct ut_error e;
        int at;

        snprintf(json, sizeof(json),
                 "{\"input\":32,\"trees\":[{\"name\":\"net\",\"module\":%s,"
                 "\"children\":[{\"name\":\"id\",\"module\":\"none\",\"head\":"
                 "\"embedding\",\"dim\":40}]}]}",
                 rows[i].module);
        if (mdl_spec_parse(json, strlen(json), spec, &e) ||
            mdl_model_fresh(spec, 7, &m, &e))
            fail_msg("%s", e.msg);
        at = mdl_graph_find_output(&m.graph, "id.embedding");
        through_onnx(&m.graph, 1ull << at, &back);
        if (rows[i].rows > 1)
            graft__survives_the_file(&back, NULL, rows[i].rows);
        else /* 32 pixels end in 1x1: the last true map is before the last
                stride */
            graft__survives_the_file(&back, NULL, 2);
        mdl_graph_fini(&back);
        mdl_model_close(&m);
        free(spec);
    }
}

/* ---- by hand ---- */

static int weight(struct mdl_graph *g, const char *name, struct mdl_shape s)
{
    return mdl_graph_param(g, MDL_VALUE_PARAM, s, "%s", name);
}

/* BGR in, every operation that a spec has, a skip, a [D,1,1] at the end:
 *   a [8,16,16] -> b -> c = b + a -> d (squeezed and scaled c) -> e [12,8,8]
 *   -> f [10,1,1] */
static void build_by_hand(struct mdl_graph *g, float **floats)
{
    static const float mean[] = {10, 20, 30}, scale[] = {0.01f, 0.02f, 0.03f};
    struct ut_error e;
    int x, a, b, c, s;

    mdl_graph_init(g);
    mdl_graph_module(g, "hand");
    x = mdl_graph_image(g, mdl_graph_input(g, 16, 16), mean, scale, true);
    a = mdl_graph_conv(g, x, weight(g, "w.a", mdl_shape_of(4, 8, 3, 3, 3)), -1,
                       1, 1, 1);
    a = mdl_graph_batchnorm(g, a, weight(g, "n.weight", mdl_shape_of(1, 8)),
                            weight(g, "n.bias", mdl_shape_of(1, 8)),
                            weight(g, "n.mean", mdl_shape_of(1, 8)),
                            weight(g, "n.running_var", mdl_shape_of(1, 8)),
                            1e-3f);
    a = mdl_graph_act(g, a, MDL_ACT_PRELU, 0,
                      weight(g, "prelu", mdl_shape_of(1, 8)));
    mdl_graph_output(g, a, "a");
    b = mdl_graph_conv(g, a, weight(g, "w.b", mdl_shape_of(4, 8, 1, 3, 3)),
                       weight(g, "w.bb", mdl_shape_of(1, 8)), 1, 1, 8);
    b = mdl_graph_act(g, b, MDL_ACT_LEAKY, 0.1f, -1);
    mdl_graph_output(g, b, "b");
    c = mdl_graph_add(g, (int[]){b, a}, 2);
    mdl_graph_output(g, c, "c");
    s = mdl_graph_linear(g, mdl_graph_pool(g, c),
                         weight(g, "w.s", mdl_shape_of(2, 8, 8)),
                         weight(g, "w.sb", mdl_shape_of(1, 8)));
    s = mdl_graph_scale(g, c, mdl_graph_act(g, s, MDL_ACT_SIGMOID, 0, -1));
    mdl_graph_output(g, s, "d");
    x = mdl_graph_concat(
        g,
        (int[]){mdl_graph_act(g, s, MDL_ACT_RELU6, 0, -1),
                mdl_graph_conv(g, s,
                               weight(g, "w.t", mdl_shape_of(4, 4, 8, 1, 1)),
                               -1, 1, 0, 1)},
        2);
    x = mdl_graph_conv(g, x, weight(g, "w.e", mdl_shape_of(4, 12, 12, 3, 3)),
                       -1, 2, 1, 1);
    mdl_graph_output(g, x, "e");
    x = mdl_graph_conv(g, x, weight(g, "w.f", mdl_shape_of(4, 12, 1, 8, 8)), -1,
                       1, 0, 12);
    x = mdl_graph_conv(g, x, weight(g, "w.h", mdl_shape_of(4, 10, 12, 1, 1)),
                       -1, 1, 0, 1);
    mdl_graph_output(g, x, "f");
    if (g->error.code || mdl_model_init(g, 3, floats, &e))
        fail_msg("%s", g->error.msg);
}

/* Only the last output, as ONNX. */
static void read_by_hand(struct mdl_graph *back)
{
    struct mdl_graph g;
    float *floats;

    build_by_hand(&g, &floats);
    through_onnx(&g, 1ull << mdl_graph_find_output(&g, "f"), back);
    mdl_graph_fini(&g);
    free(floats);
}

static void graft__every_operation__same_bits_wherever_cut(void **state)
{
    static const struct {
        const char *cut;
        int rows;
    } cuts[] = {{NULL, 8}, {"e", 8}, {"d", 16}, {"c", 16}, {"a", 16}};
    struct mdl_graph g;

    (void)state;
    read_by_hand(&g);
    for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++)
        graft__survives_the_file(&g, cuts[i].cut, cuts[i].rows);
    mdl_graph_fini(&g);
}

static void cut__where_something_bypasses__refused(void **state)
{
    static const char *const names[] = {"b", "f", "none", "images", ""};
    struct mdl_graph g;
    struct ut_error e;
    int cut;

    (void)state;
    read_by_hand(&g);
    assert_int_equal(mdl_graft_cut(&g, NULL, &cut, &e), UT_OK);
    assert_string_equal(g.values[cut].name, "e");
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        assert_int_equal(mdl_graft_cut(&g, names[i], &cut, &e), UT_EINVAL);
        assert_non_null(strstr(e.msg, "the last such is \"e\""));
    }
    mdl_graph_fini(&g);
}

/* A graph of one operation on the picture, or a map at its end. */
static void graft__no_recogniser__refused(void **state)
{
    static const float mean[3] = {0}, scale[] = {1, 1, 1};
    struct mdl_graph g;
    struct mdl_model m;
    struct ut_error e;
    int x, cut;

    (void)state;
    mdl_graph_init(&g);
    mdl_graph_module(&g, "m");
    x = mdl_graph_image(&g, mdl_graph_input(&g, 16, 16), mean, scale, false);
    mdl_graph_output(&g, mdl_graph_pool(&g, x), "y");
    assert_int_equal(mdl_graft_cut(&g, NULL, &cut, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "nothing to cut at"));
    mdl_graph_fini(&g);

    mdl_graph_init(&g);
    mdl_graph_module(&g, "m");
    x = mdl_graph_image(&g, mdl_graph_input(&g, 16, 16), mean, scale, false);
    x = mdl_graph_act(&g, x, MDL_ACT_RELU, 0, -1);
    mdl_graph_output(&g, mdl_graph_act(&g, x, MDL_ACT_RELU, 0, -1), "y");
    assert_int_equal(mdl_graft_cut(&g, NULL, &cut, &e), UT_OK);
    assert_int_equal(mdl_graft(&g, cut, 1, &m, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "[3, 16, 16], not one embedding"));
    mdl_graph_fini(&g);

    mdl_graph_init(&g);
    mdl_graph_module(&g, "m");
    x = mdl_graph_image(&g, mdl_graph_input(&g, 16, 32), mean, scale, false);
    x = mdl_graph_act(&g, x, MDL_ACT_RELU, 0, -1);
    mdl_graph_output(&g, mdl_graph_pool(&g, x), "y");
    assert_int_equal(mdl_graft_cut(&g, NULL, &cut, &e), UT_OK);
    assert_int_equal(mdl_graft(&g, cut, 1, &m, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "32x16: not square"));
    mdl_graph_fini(&g);

    mdl_graph_init(&g);
    mdl_graph_module(&g, "m");
    x = mdl_graph_image(&g, mdl_graph_input(&g, 16, 16), mean, scale, false);
    x = mdl_graph_upsample(&g, x, 32, 32);
    x = mdl_graph_act(&g, x, MDL_ACT_RELU, 0, -1);
    mdl_graph_output(&g, mdl_graph_pool(&g, x), "y");
    assert_int_equal(mdl_graft_cut(&g, NULL, &cut, &e), UT_OK);
    assert_int_equal(mdl_graft(&g, cut, 1, &m, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "a upsample cannot be grafted"));
    mdl_graph_fini(&g);
}

/* JSON has no NaN: a spec would read back its defaults. */
static void graft__number_not_finite__refused(void **state)
{
    static const float mean[3] = {0};
    static const struct {
        float scale, alpha;
        const char *says; /* NULL: it is grafted */
    } rows[] = {
        {1, 0.5f, NULL},
        {INFINITY, 0.5f, "node \"root\": the image's mean or scale is not"},
        {1, NAN, "node \"root\", operation 1: its number is not finite"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        const float scale[] = {1, rows[i].scale, 1};
        struct mdl_model m = {0};
        struct mdl_graph g;
        struct ut_error e;
        int x, cut;

        mdl_graph_init(&g);
        mdl_graph_module(&g, "m");
        x = mdl_graph_image(&g, mdl_graph_input(&g, 16, 16), mean, scale,
                            false);
        x = mdl_graph_act(&g, x, MDL_ACT_RELU, 0, -1);
        x = mdl_graph_act(&g, x, MDL_ACT_LEAKY, rows[i].alpha, -1);
        mdl_graph_output(&g, mdl_graph_pool(&g, x), "y");
        assert_int_equal(mdl_graft_cut(&g, NULL, &cut, &e), UT_OK);
        assert_int_equal(mdl_graft(&g, cut, 1, &m, &e),
                         rows[i].says ? UT_EINVAL : UT_OK);
        if (rows[i].says && !strstr(e.msg, rows[i].says))
            fail_msg("said \"%s\"", e.msg);
        mdl_model_close(&m);
        mdl_graph_fini(&g);
    }
}

static void insightface__sizes_of_fc__checked(void **state)
{
    static const struct {
        struct mdl_shape fc;
        const char *says; /* NULL: it is one */
    } rows[] = {
        {{2, {5, 512}}, NULL},
        {{2, {0, 512}}, "\"dim\" is not a whole number from 1"},
        {{2, {5, 448}}, "\"fc.weight\" is [5, 448], not of a square map of 8"},
        {{1, {512}}, "\"fc.weight\" is [512], not"},
        {{2, {0, 0}}, "\"fc.weight\" is [0, 0], not"},
        {{2, {0, 1ll << 62}}, "\"fc.weight\" is [0, 4611686018427387904], not"},
        {{2, {0, INT32_MAX}}, "\"fc.weight\" is [0, 2147483647], not"},
        /* 16384 x 16384 */
        {{2, {0, 1ll << 31}}, "\"fc.weight\" is [0, 2147483648], not"},
    };
    static const float zeros[5 * 512];
    char path[64];

    (void)state;
    snprintf(path, sizeof(path), "%s/insightface", test_dir());
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        const struct mdl_shape conv = mdl_shape_of(4, 8, 3, 3, 3);
        const struct mdl_st_tensor t[] = {
            {"layer1.0.conv1.weight", MDL_F32, conv, zeros,
             mdl_shape_count(&conv) * 4},
            {"fc.weight", MDL_F32, rows[i].fc, zeros,
             mdl_shape_count(&rows[i].fc) * 4},
        };
        struct mdl_spec *spec = malloc(sizeof(*spec));
        struct mdl_st *st;
        struct ut_error e;

        if (mdl_st_write(path, t, 2, NULL, 0, &e) || mdl_st_open(path, &st, &e))
            fail_msg("%s", e.msg);
        assert_int_equal(mdl_graft_insightface(st, spec, &e),
                         rows[i].says ? UT_EFORMAT : UT_OK);
        if (rows[i].says && !strstr(e.msg, rows[i].says))
            fail_msg("said \"%s\"", e.msg);
        if (!rows[i].says)
            assert_int_equal(spec->input, 16);
        mdl_st_close(st);
        free(spec);
    }
}

static enum ut_err attempt(void *arg, struct ut_error *e)
{
    const struct mdl_graph *g = arg;
    struct mdl_model m = {0};
    int cut;
    enum ut_err rc = mdl_graft_cut(g, NULL, &cut, e);

    if (!rc)
        rc = mdl_graft(g, cut, 1, &m, e);
    mdl_model_close(&m);
    return rc;
}

static void graft__any_allocation_fails__clean_error(void **state)
{
    struct mdl_graph g;

    (void)state;
    read_by_hand(&g);
    assert_true(each_allocation_fails(attempt, &g) > 10);
    mdl_graph_fini(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(graft__our_networks_as_onnx__same_bits),
        cmocka_unit_test(graft__every_operation__same_bits_wherever_cut),
        cmocka_unit_test(cut__where_something_bypasses__refused),
        cmocka_unit_test(graft__no_recogniser__refused),
        cmocka_unit_test(graft__number_not_finite__refused),
        cmocka_unit_test(insightface__sizes_of_fc__checked),
        cmocka_unit_test(graft__any_allocation_fails__clean_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
