/* tscaf-model graft from the outside: a recogniser as ONNX becomes a tree that
 * is described, trained, measured, exported and served, its answers kept. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "model/onnx/onnx.h"
#include "tests/support/server.h"
#include "tests/support/shell.h"
#include "tests/support/unit.h"

#define DIM 40 /* of the embedding: no 512 */

static const char *dir; /* the work folder */

static const char *at(const char *name, char path[256])
{
    snprintf(path, 256, "%s/%s", dir, name);
    return path;
}

/* A recogniser that is not ours: only an ONNX file is left of it. */
static void write_recogniser(void)
{
    static const char json[] =
        "{\"input\":112,\"trees\":[{\"name\":\"net\",\"module\":\"mobilenetv2\""
        ",\"width\":0.1,\"children\":[{\"name\":\"id\",\"module\":\"none\","
        "\"head\":\"embedding\",\"dim\":40}]}]}";
    struct mdl_spec *spec = malloc(sizeof(*spec));
    struct mdl_model m;
    struct ut_error e;
    char path[256];

    if (mdl_spec_parse(json, strlen(json), spec, &e) ||
        mdl_model_fresh(spec, 7, &m, &e) ||
        mdl_onnx_write(at("teacher.onnx", path), &m.graph,
                       1ull << mdl_graph_find_output(&m.graph, "id.embedding"),
                       &e))
        fail_msg("%s", e.msg);
    mdl_model_close(&m);
    free(spec);
}

/* Four pictures of noise as `run` takes them. */
static void write_images(void)
{
    static uint8_t images[4 * 112 * 112 * 3];
    struct mdl_st_tensor t = {"images", MDL_U8, mdl_shape_of(4, 4, 112, 112, 3),
                              images, sizeof(images)};
    struct ut_error e;
    char path[256];

    for (size_t i = 0; i < sizeof(images); i++)
        images[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_int_equal(
        mdl_st_write(at("images.safetensors", path), &t, 1, NULL, 0, &e),
        UT_OK);
}

static int set_up(void **state)
{
    char text[65536];

    (void)state;
    dir = shell_init();
    write_recogniser();
    write_images();
    if (shell(
            "mkdir -p fatigue/0 fatigue/1 pairs; for i in 1 2 3 4 5 6; do "
            "tscaf-model sample --identity $i --eyes 1 --mouth 0 --noise $i "
            "fatigue/0/$i.png; tscaf-model sample --identity $i --eyes 0.1 "
            "--mouth 1 --noise $i fatigue/1/$i.png; done; printf "
            "'fold\\tsame\\ta\\tb\\n' > pairs.tsv; for i in 1 2 3 4; do for n "
            "in 8 9; do tscaf-model sample --identity $i --noise $n "
            "pairs/$i.$n.png; done; done; for i in 1 2 3 4; do o=$((i % 4 + "
            "1));"
            "printf \"$((i % 2))\\t1\\tpairs/$i.8.png\\tpairs/$i.9.png\\n$((i "
            "% "
            "2))\\t0\\tpairs/$i.8.png\\tpairs/$o.9.png\\n\" >> pairs.tsv; "
            "done; "
            "tscaf-model graft --name mine teacher.onnx tree.safetensors",
            text, sizeof(text)))
        fail_msg("%s", text);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    shell_fini();
    return 0;
}

static const struct mdl_st_tensor *output(const char *file, const char *name,
                                          struct mdl_st **st)
{
    struct ut_error e;
    char path[256];

    if (mdl_st_open(at(file, path), st, &e))
        fail_msg("%s", e.msg);
    return mdl_st_find(*st, name);
}

static void graft__onnx__described_and_the_same_bits(void **state)
{
    static const char *const ways[] = {"--backend ref", "--backend cpu"};

    (void)state;
    shell_says(
        0, "tscaf-model graft teacher.onnx again.safetensors",
        "[1280, 4, 4]: root of 151 operations, recognition of 2, embedding of "
        "40");
    shell_says(0, "tscaf-model describe tree.safetensors", "mine, version");
    shell_says(0, "tscaf-model describe tree.safetensors", "untrained");
    shell_says(0, "tscaf-model describe tree.safetensors", "root.56x56");
    for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
        const struct mdl_st_tensor *a, *b;
        struct mdl_st *before, *after;
        char line[512];

        snprintf(line, sizeof(line),
                 "tscaf-model run %s teacher.onnx images.safetensors a && "
                 "tscaf-model run %s tree.safetensors images.safetensors b",
                 ways[i], ways[i]);
        shell_says(0, line, "");
        a = output("a", "id.embedding", &before);
        b = output("b", "recognition.embedding", &after);
        assert_int_equal(b->shape.dim[1], DIM);
        assert_int_equal(a->len, b->len);
        assert_memory_equal(a->data, b->data, a->len);
        mdl_st_close(before);
        mdl_st_close(after);
    }
}

/* Its spec is a spec like any other: a file can be made anew of it. */
static void init__of_a_grafted_spec__builds(void **state)
{
    struct mdl_model m;
    struct ut_error e;
    char path[256], *json;
    FILE *f;

    (void)state;
    assert_int_equal(mdl_model_open(at("tree.safetensors", path), &m, &e),
                     UT_OK);
    assert_int_equal(mdl_spec_write(&m.spec, &json, &e), UT_OK);
    f = fopen(at("spec.json", path), "w");
    fputs(json, f);
    fclose(f);
    free(json);
    mdl_model_close(&m);
    shell_says(0, "tscaf-model init spec.json fresh.safetensors", "");
    shell_says(0, "tscaf-model describe fresh.safetensors", "untrained");
    shell_says(0,
               "tscaf-model export tree.safetensors tree.onnx && ls tree.onnx",
               "tree.onnx");
}

static void train__frozen_root__recognition_as_it_was(void **state)
{
    struct mdl_model before, after;
    int same = 0, moved = 0;
    struct ut_error e;
    char path[256];

    (void)state;
    shell_says(
        0,
        "tscaf-model train --model tree.safetensors --out trained.safetensors "
        "--fatigue fatigue --frozen-root --steps 6 --batch 4 --held-out 0 && "
        "tscaf-model eval --fatigue fatigue trained.safetensors",
        "\"task\":\"fatigue\"");
    shell_says(
        0,
        "tscaf-model eval --pairs pairs.tsv tree.safetensors > a && "
        "tscaf-model eval --pairs pairs.tsv trained.safetensors > b && cmp a "
        "b && cat b",
        "\"pairs\":8");
    if (mdl_model_open(at("tree.safetensors", path), &before, &e) ||
        mdl_model_open(at("trained.safetensors", path), &after, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < before.graph.n_values; i++) {
        const struct mdl_value *v = &before.graph.values[i];
        size_t size = mdl_shape_count(&v->shape) * sizeof(float);
        bool equal;

        if (!v->data)
            continue;
        equal = !memcmp(v->data, after.graph.values[i].data, size);
        if (!strncmp(v->name, "fatigue.", 8)) {
            moved += !equal;
            continue;
        }
        if (!equal)
            fail_msg("%s has moved", v->name);
        same++;
    }
    assert_true(same > 100); /* BatchNorms' statistics too */
    assert_true(moved > 4);
    assert_true(after.trained);
    mdl_model_close(&before);
    mdl_model_close(&after);
}

static void has(const struct test_answer *a, long status, const char *what)
{
    if (a->status != status || !strstr(a->body, what))
        fail_msg("%ld, not %ld, or \"%s\" is not in: %.2000s", a->status,
                 status, what, a->body);
}

static void serve__a_grafted_file__enrols_and_matches(void **state)
{
    char model[256], id[40], path[200], *list;
    const char *const flags[] = {"--model", at("tree.safetensors", model),
                                 NULL};
    struct test_answer a = {0};
    struct test_server s;
    int numbers = 1;
    size_t len;
    char *png = test_face(1, 1, &len);

    (void)state;
    test_server_start(&s, flags);
    test_get(&s, "/v1/models", &a);
    has(&a, 200, "\\\"module\\\":\\\"graph\\\"");
    test_json(&s, "POST", "/v1/identities", "{\"name\":\"Ada\"}", &a);
    test_member(&a, "id", id, sizeof(id));
    snprintf(path, sizeof(path), "/v1/identities/%s/faces?input=crop", id);
    test_png(&s, path, png, len, &a);
    has(&a, 201, "\"has_crop\":true");
    /* The gallery comes back with its dimension. */
    test_server_signal(&s, SIGTERM);
    assert_int_equal(test_server_wait(&s), 0);
    test_server_restart(&s, flags);
    test_png(&s, "/v1/analyze?input=crop&return=embedding", png, len, &a);
    has(&a, 200, "\"verdict\":\"match\"");
    has(&a, 200, "\"probability\":");
    list = strstr(a.body, "\"embedding\":[");
    assert_non_null(list);
    for (const char *c = list; *c && *c != ']'; c++)
        numbers += *c == ',';
    assert_int_equal(numbers, DIM);
    free(png);
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&s), 0);
}

static void graft__mistakes__named(void **state)
{
    (void)state;
    shell_says(2, "tscaf-model graft", "usage:");
    shell_says(0, "tscaf-model graft --help", "--cut NAME");
    shell_says(2, "tscaf-model graft --input grey a b",
               "--input cannot be \"grey\"");
    shell_says(2, "tscaf-model graft --seed x a b", "--seed cannot be \"x\"");
    shell_says(1, "tscaf-model graft nowhere.onnx x", "nowhere.onnx");
    shell_says(1, "tscaf-model graft nowhere.safetensors x",
               "nowhere.safetensors");
    shell_says(1, "tscaf-model graft images.safetensors x",
               "no tensor \"layer1.0.conv1.weight\" of InsightFace's IResNet");
    shell_says(1, "tscaf-model graft --cut images teacher.onnx x",
               "\"images\" is no feature map that all else comes from");
    shell_says(1, "tscaf-model graft --cut x images.safetensors x", "for ONNX");
    shell_says(1, "tscaf-model graft teacher.onnx /nowhere/x", "/nowhere/x");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(graft__onnx__described_and_the_same_bits),
        cmocka_unit_test(init__of_a_grafted_spec__builds),
        cmocka_unit_test(train__frozen_root__recognition_as_it_was),
        cmocka_unit_test(serve__a_grafted_file__enrols_and_matches),
        cmocka_unit_test(graft__mistakes__named),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
