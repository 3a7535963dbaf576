/* Specs, sizes, and what opening a model file checks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/model.h"
#include "tests/support/unit.h"

static int64_t parameters(const struct mdl_graph *g)
{
    int64_t n = 0;

    for (int i = 0; i < g->n_values; i++)
        if (g->values[i].kind == MDL_VALUE_PARAM)
            n += (int64_t)mdl_shape_count(&g->values[i].shape);
    return n;
}

static int64_t macs(const struct mdl_graph *g)
{
    int64_t n = 0;

    for (int i = 0; i < g->n_nodes; i++)
        n += mdl_node_macs(g, &g->nodes[i]);
    return n;
}

static void build(const char *json, struct mdl_spec *spec, struct mdl_graph *g)
{
    struct ut_error e;

    if (mdl_spec_parse(json, strlen(json), spec, &e) ||
        mdl_model_build(spec, g, &e))
        fail_msg("%s", e.msg);
}

/* The sizes of tests/golden/reference.py count, which are the paper's 43.92 M
 * and 14.77 M. */
static void builtin_specs__have_the_papers_sizes(void **state)
{
    static const struct {
        const char *name;
        int64_t parameters, macs;
    } rows[] = {{"iresnet50", 43921155, 6322267136},
                {"mobilenetv2", 14765731, 118035328}};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct mdl_spec spec;
        struct mdl_graph g;

        build(mdl_model_builtin_spec(rows[i].name), &spec, &g);
        assert_int_equal(parameters(&g), rows[i].parameters);
        assert_int_equal(macs(&g), rows[i].macs);
        mdl_graph_fini(&g);
    }
}

static void spec__deep_tree_and_two_trees__build(void **state)
{
    const char json[] =
        "{\"input\":64,\"trees\":[{\"name\":\"r\",\"module\":\"mobilenetv2\","
        "\"width\":0.1,\"children\":[{\"name\":\"mid\",\"module\":\"lase\","
        "\"children\":[{\"name\":\"x\",\"module\":\"se\",\"head\":\"binary\"},"
        "{\"name\":\"y\",\"module\":\"la\",\"head\":\"binary\"},"
        "{\"name\":\"z\",\"module\":\"none\",\"head\":\"embedding\","
        "\"dim\":8}]}]},{\"name\":\"q\",\"module\":\"iresnet\",\"layers\":[1],"
        "\"widths\":[8],\"children\":[{\"name\":\"w\",\"module\":\"lase\","
        "\"head\":\"binary\"}]}]}";
    struct mdl_spec spec, again;
    struct mdl_graph g;
    struct ut_error e;
    char *text;

    (void)state;
    build(json, &spec, &g);
    assert_true(mdl_graph_find_output(&g, "mid.lase") >= 0);
    assert_true(mdl_graph_find_output(&g, "x.probability") >= 0);
    assert_true(mdl_graph_find_output(&g, "z.embedding.normalized") >= 0);
    assert_true(mdl_graph_find_output(&g, "w.logit") >= 0);
    assert_true(mdl_graph_find_output(&g, "q") >= 0);
    assert_int_equal(mdl_spec_write(&spec, &text, &e), UT_OK);
    assert_int_equal(mdl_spec_parse(text, strlen(text), &again, &e), UT_OK);
    assert_memory_equal(&spec, &again, sizeof(spec));
    free(text);
    mdl_graph_fini(&g);
}

#define ROOT "\"name\":\"r\",\"module\":\"mobilenetv2\""

static const struct {
    const char *json, *says;
} bad_specs[] = {
    {"", "no JSON object"},
    {"[]", "no JSON object"},
    {"{\"trees\":[]}", "\"trees\""},
    {"{\"trees\":[{}]}", "name"},
    {"{\"trees\":[1]}", "not an object"},
    {"{\"input\":8,\"trees\":[{" ROOT ",\"head\":\"binary\"}]}", "\"input\""},
    {"{\"trees\":[{" ROOT "}]}", "leaf \"r\" has no head"},
    {"{\"trees\":[{" ROOT ",\"head\":\"cosine\"}]}", "\"head\""},
    {"{\"trees\":[{" ROOT ",\"hed\":\"binary\"}]}", "member \"hed\""},
    {"{\"tree\":[]}", "member \"tree\""},
    {"{\"trees\":[{" ROOT ",\"children\":{\"a\":1},\"head\":\"binary\"}]}",
     "\"children\" is no list"},
    {"{\"trees\":[{" ROOT ",\"head\":\"binary\",\"dim\":8}]}",
     "\"dim\" but no embedding"},
    /* Known, but not of this module; two known ones in one. */
    {"{\"trees\":[{" ROOT ",\"layers\":[1],\"head\":\"binary\"}]}",
     "r has an unknown member \"layers\"; known are name module width head"},
    {"{\"trees\":[{" ROOT ",\"la_r\":2,\"head\":\"binary\"}]}",
     "member \"la_r\""},
    {"{\"trees\":[{\"name\":\"r\",\"module\":\"iresnet18\",\"width\":2,"
     "\"head\":\"binary\"}]}",
     "member \"width\""},
    {"{\"trees\":[{" ROOT ",\"head dim\":1,\"head\":\"binary\"}]}",
     "member \"head dim\""},
    {"{\"trees\":[{\"name\":\"r\",\"module\":\"lase\",\"head\":\"binary\"}]}",
     "cannot be the root"},
    {"{\"trees\":[{\"name\":\"r\",\"module\":\"vgg\",\"head\":\"binary\"}]}",
     "module \"vgg\""},
    {"{\"trees\":[{\"name\":\"R!\",\"module\":\"iresnet18\"}]}", "name"},
    {"{\"trees\":[{\"name\":\"r\",\"module\":\"iresnet\",\"layers\":[1,2],"
     "\"widths\":[8],\"head\":\"binary\"}]}",
     "2 layers but 1 widths"},
    {"{\"trees\":[{\"name\":\"r\",\"module\":\"iresnet50\",\"layers\":"
     "[3,4,14,3,2],\"head\":\"binary\"}]}",
     "5 layers but 4 widths"},
    {"{\"trees\":[{\"name\":\"r\",\"module\":\"iresnet\",\"layers\":[0],"
     "\"widths\":[8],\"head\":\"binary\"}]}",
     "\"layers\"[0]"},
    {"{\"trees\":[{" ROOT ",\"width\":0,\"head\":\"binary\"}]}", "\"width\""},
    {"{\"trees\":[{" ROOT ",\"head\":\"embedding\",\"dim\":4096}]}", "\"dim\""},
    {"{\"trees\":[{" ROOT ",\"head\":\"binary\"},{" ROOT
     ",\"head\":\"binary\"}]}",
     "two nodes"},
};

static void spec__each_fault__named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad_specs) / sizeof(bad_specs[0]); i++) {
        struct mdl_spec spec;
        struct ut_error e = {0};

        assert_int_equal(mdl_spec_parse(bad_specs[i].json,
                                        strlen(bad_specs[i].json), &spec, &e),
                         UT_EFORMAT);
        if (!strstr(e.msg, bad_specs[i].says))
            fail_msg("%s: said \"%s\"", bad_specs[i].json, e.msg);
    }
}

static const char tiny[] =
    "{\"input\":32,\"trees\":[{\"name\":\"root\",\"module\":\"mobilenetv2\","
    "\"width\":0.1,\"children\":[{\"name\":\"fatigue\",\"module\":\"se\","
    "\"head\":\"binary\"}]}]}";

/* Writes the tiny model with `skip`'s weight left out (NULL: none) and one
 * more tensor `extra` (NULL: none). */
static void write_tiny(const char *path, const char *skip, const char *extra)
{
    struct mdl_st_pair meta[] = {
        {"format", "tscaf/1"}, {"spec", tiny}, {"threshold.fatigue", "0.625"}};
    struct mdl_st_tensor t[512];
    struct mdl_spec spec;
    struct mdl_model m;
    struct ut_error e;
    size_t n = 0;

    mkdir("build", 0755);
    if (mdl_spec_parse(tiny, strlen(tiny), &spec, &e) ||
        mdl_model_fresh(&spec, 1, &m, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < m.graph.n_values; i++) {
        const struct mdl_value *v = &m.graph.values[i];

        if (!v->data || (skip && !strcmp(v->name, skip)))
            continue;
        t[n++] = (struct mdl_st_tensor){v->name, MDL_F32, v->shape, v->data,
                                        mdl_shape_count(&v->shape) * 4};
    }
    if (extra)
        t[n++] = (struct mdl_st_tensor){extra, MDL_F32, mdl_shape_of(1, 1),
                                        m.floats, 4};
    if (mdl_st_write(path, t, n, meta, 3, &e))
        fail_msg("%s", e.msg);
    mdl_model_close(&m);
}

static void threshold__written_and_read__the_same_float(void **state)
{
    static const float all[] = {1e-7f, 1.40129846e-45f, 0.1f,
                                0.5f,  0.999999940f,    -0.333333343f};
    const char *path = "build/threshold.safetensors";

    (void)state;
    mkdir("build", 0755);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        char text[MDL_THRESHOLD_LEN];
        struct mdl_st_pair meta = {"threshold.fatigue", text};
        struct mdl_model m = {0};
        struct ut_error e;

        mdl_model_threshold_text(all[i], text);
        if (mdl_st_write(path, NULL, 0, &meta, 1, &e) ||
            mdl_st_open(path, &m.file, &e))
            fail_msg("%s", e.msg);
        if (mdl_model_threshold(&m, "fatigue", 0.7) != (double)all[i])
            fail_msg("%g: %s", (double)all[i], text);
        mdl_model_close(&m);
    }
    unlink(path);
}

static void open__whole_file__bound_and_named(void **state)
{
    const char *path = "build/tiny model.safetensors";
    struct mdl_model m, again;
    struct ut_error e;

    (void)state;
    write_tiny(path, NULL, "recognition.arcface.weight");
    if (mdl_model_open(path, &m, &e) || mdl_model_open(path, &again, &e))
        fail_msg("%s", e.msg);
    assert_string_equal(m.name, "tiny model");
    assert_int_equal(strlen(m.version), 16);
    assert_string_equal(m.version, again.version);
    assert_true(m.trained);
    assert_true(mdl_model_threshold(&m, "fatigue", 0.5) == 0.625);
    assert_true(mdl_model_threshold(&m, "none", 0.5) == 0.5);
    mdl_model_close(&m);
    mdl_model_close(&again);
    unlink(path);
}

#define E10 "\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9"

static void open__stem_too_long_or_no_utf8__a_name_that_is(void **state)
{
    static const struct {
        const char *stem, *name;
    } rows[] = {
        {"a" E10 E10 E10 "\u00e9", "a" E10 E10 E10 "\u00e9"}, /* 63 bytes */
        {"aa" E10 E10 E10 "\u00e9", "aa" E10 E10 E10},
        {"a.b caf\xe9", "a.b caf?"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct mdl_model m;
        struct ut_error e;
        char path[128];

        snprintf(path, sizeof(path), "%s/%s.safetensors", test_dir(),
                 rows[i].stem);
        write_tiny(path, NULL, NULL);
        if (mdl_model_open(path, &m, &e))
            fail_msg("%s", e.msg);
        assert_string_equal(m.name, rows[i].name);
        mdl_model_close(&m);
    }
}

static void open__tensor_missing_or_left_over__listed(void **state)
{
    const char *path = "build/tiny2.safetensors";
    struct mdl_model m;
    struct ut_error e;

    (void)state;
    write_tiny(path, "fatigue.head.fc.bias", "fatigue.head.fc.offset");
    assert_int_equal(mdl_model_open(path, &m, &e), UT_EFORMAT);
    assert_non_null(strstr(e.msg, "2 tensors"));
    assert_non_null(strstr(e.msg, "missing fatigue.head.fc.bias"));
    assert_non_null(strstr(e.msg, "left over fatigue.head.fc.offset"));
    unlink(path);
}

static void fresh__same_seed__same_weights_and_version(void **state)
{
    struct mdl_spec spec;
    struct mdl_model a, b, c;
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_spec_parse(tiny, strlen(tiny), &spec, &e), UT_OK);
    if (mdl_model_fresh(&spec, 1, &a, &e) ||
        mdl_model_fresh(&spec, 1, &b, &e) || mdl_model_fresh(&spec, 2, &c, &e))
        fail_msg("%s", e.msg);
    assert_string_equal(a.version, b.version);
    assert_string_not_equal(a.version, c.version);
    assert_memory_equal(a.floats, b.floats, 1000 * sizeof(float));
    assert_false(a.trained);
    mdl_model_close(&a);
    mdl_model_close(&b);
    mdl_model_close(&c);
}

static void halves__known_bits__converted(void **state)
{
    const uint16_t bf[] = {0x3f80, 0xc000, 0x7f80};
    const uint16_t f16[] = {0x3c00, 0x0001, 0x8400, 0x7bff};
    const float values[] = {1.0f, 1.00390625f, 1.01171875f};
    uint16_t back[3];
    float out[4];

    (void)state;
    mdl_bf16_to_f32(bf, out, 3);
    assert_true(out[0] == 1 && out[1] == -2 && out[2] > 3e38f);
    mdl_f16_to_f32(f16, out, 4);
    assert_true(out[0] == 1 && out[1] == 0x1p-24f && out[2] == -0x1p-14f &&
                out[3] == 65504);
    /* Ties go to the even neighbour. */
    mdl_f32_to_bf16(values, back, 3);
    assert_int_equal(back[0], 0x3f80);
    assert_int_equal(back[1], 0x3f80);
    assert_int_equal(back[2], 0x3f82);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(builtin_specs__have_the_papers_sizes),
        cmocka_unit_test(spec__deep_tree_and_two_trees__build),
        cmocka_unit_test(spec__each_fault__named),
        cmocka_unit_test(threshold__written_and_read__the_same_float),
        cmocka_unit_test(open__whole_file__bound_and_named),
        cmocka_unit_test(open__stem_too_long_or_no_utf8__a_name_that_is),
        cmocka_unit_test(open__tensor_missing_or_left_over__listed),
        cmocka_unit_test(fresh__same_seed__same_weights_and_version),
        cmocka_unit_test(halves__known_bits__converted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
