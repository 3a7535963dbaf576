/* tscaf-model from the outside: what it prints, writes and refuses. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/model.h"
#include "tests/support/unit.h"

static char tool[512], dir[] = "/tmp/tscaf-tool-XXXXXX";

/* Runs "tscaf-model ARGS" (with %s in it standing for the work folder);
 * returns the exit code, and what it printed in text. */
static int run(const char *args, char *text, size_t size)
{
    char line[1024], with_dir[512];
    size_t n;
    FILE *p;
    int status;

    snprintf(with_dir, sizeof(with_dir), args, dir, dir, dir);
    snprintf(line, sizeof(line), "%s %s 2>&1", tool, with_dir);
    p = popen(line, "r");
    assert_non_null(p);
    n = fread(text, 1, size - 1, p);
    text[n] = '\0';
    status = pclose(p);
    return WEXITSTATUS(status);
}

static void says(const char *args, int code, const char *what)
{
    char text[16384];
    int got = run(args, text, sizeof(text));

    if (got != code || !strstr(text, what))
        fail_msg("%s: exit %d, not %d, or not \"%s\" in:\n%s", args, got, code,
                 what, text);
}

static void describe__builtin_specs__the_papers_table_1(void **state)
{
    (void)state;
    says("describe iresnet50", 0,
         "this tree: 43921155 parameters, 6322267136 multiply-adds (43.92 M");
    says("describe mobilenetv2", 0,
         "this tree: 14765731 parameters, 118035328 multiply-adds (14.77 M");
    says("describe iresnet50", 0, "parallel style, 2 networks: ");
    says("describe iresnet50", 0, "[512, 7, 7]");
}

static void usage__each_mistake__exit_2_or_1_and_a_word(void **state)
{
    (void)state;
    says("", 2, "usage:");
    says("--help", 0, "usage:");
    says("fly", 2, "no command \"fly\"");
    says("describe", 2, "usage:");
    says("describe /nowhere.json", 1, "/nowhere.json");
    says("describe /nowhere.safetensors", 1, "/nowhere.safetensors");
    says("init --seed x mobilenetv2 %s/x", 2, "--seed x");
    says("run --precision float9 a b c", 2, "--precision float9");
    says("run --batch 0 a b c", 2, "--batch 0");
    says("import a b", 2, "usage:");
    says("import --from insightface --seed foo a b", 2, "--seed foo");
    says("init --seed -1 mobilenetv2 %s/x", 2, "--seed -1");
}

#define GOLDEN "tests/golden/cases/iresnet_lase/"

static void run__golden_images__every_output_written(void **state)
{
    const char *outputs[] = {"root",
                             "fatigue.lase",
                             "fatigue.attention.la",
                             "recognition.attention.se",
                             "fatigue.probability",
                             "recognition.embedding.normalized"};
    char path[256];
    struct mdl_st *got, *want;
    struct ut_error e;

    (void)state;
    says("run --backend ref --batch 3 " GOLDEN "weights.safetensors " GOLDEN
         "batches.safetensors %s/out.safetensors",
         0, "");
    snprintf(path, sizeof(path), "%s/out.safetensors", dir);
    if (mdl_st_open(path, &got, &e) ||
        mdl_st_open(GOLDEN "forward.safetensors", &want, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(mdl_st_count(got), mdl_st_count(want));
    for (size_t i = 0; i < sizeof(outputs) / sizeof(outputs[0]); i++) {
        const struct mdl_st_tensor *a = mdl_st_find(got, outputs[i]);
        const struct mdl_st_tensor *b = mdl_st_find(want, outputs[i]);
        float *x = malloc(a->len), *y = malloc(b->len);

        assert_int_equal(a->len, b->len);
        memcpy(x, a->data, a->len);
        memcpy(y, b->data, b->len);
        assert_close(x, y, a->len / 4, 1e-4, 1e-4, outputs[i]);
        free(x);
        free(y);
    }
    mdl_st_close(got);
    mdl_st_close(want);
    says("run --backend ref " GOLDEN "weights.safetensors " GOLDEN
         "forward.safetensors %s/none",
         1, "there is no tensor \"images\"");
    says("run --backend gpu " GOLDEN "weights.safetensors " GOLDEN
         "batches.safetensors %s/none",
         1, "no backend \"gpu\"; known are");
}

/* A model of spec.json, saved under InsightFace's names and imported back
 * into a "none" tree, is the same model. */
static void import__insightface_names__exact(void **state)
{
    const char spec[] =
        "{\"input\":32,\"trees\":[{\"name\":\"root\",\"module\":\"iresnet\","
        "\"layers\":[1,1],\"widths\":[8,8],\"children\":[{\"name\":\"id\","
        "\"module\":\"none\",\"head\":\"embedding\",\"dim\":16}]}]}";
    char path[256], names[512][64];
    struct mdl_st_tensor t[512];
    struct mdl_model m, back;
    struct ut_error e;
    size_t n = 0;
    FILE *f;

    (void)state;
    snprintf(path, sizeof(path), "%s/spec.json", dir);
    f = fopen(path, "w");
    fputs(spec, f);
    fclose(f);
    says("init --seed 5 --name mine %s/spec.json %s/m.safetensors", 0, "");
    snprintf(path, sizeof(path), "%s/m.safetensors", dir);
    if (mdl_model_open(path, &m, &e))
        fail_msg("%s", e.msg);
    assert_string_equal(m.name, "mine");
    assert_false(m.trained);
    for (int i = 0; i < m.graph.n_values; i++) {
        const struct mdl_value *v = &m.graph.values[i];
        const char *head_fc = strstr(v->name, "id.head.fc.");
        const char *head_bn = strstr(v->name, "id.head.bn.");

        if (!v->data)
            continue;
        if (head_fc)
            snprintf(names[n], 64, "fc.%s", head_fc + 11);
        else if (head_bn)
            snprintf(names[n], 64, "features.%s", head_bn + 11);
        else
            snprintf(names[n], 64, "%s", v->name + 5);
        t[n] = (struct mdl_st_tensor){names[n], MDL_F32, v->shape, v->data,
                                      mdl_shape_count(&v->shape) * 4};
        n++;
    }
    snprintf(path, sizeof(path), "%s/insight.safetensors", dir);
    assert_int_equal(mdl_st_write(path, t, n, NULL, 0, &e), UT_OK);
    says("import --from insightface --seed 9 --spec %s/spec.json "
         "%s/insight.safetensors %s/back.safetensors",
         0, " 0 fresh");
    snprintf(path, sizeof(path), "%s/back.safetensors", dir);
    if (mdl_model_open(path, &back, &e))
        fail_msg("%s", e.msg);
    assert_true(back.trained);
    for (int i = 0; i < m.graph.n_values; i++)
        if (m.graph.values[i].data)
            assert_memory_equal(m.graph.values[i].data,
                                back.graph.values[i].data,
                                mdl_shape_count(&m.graph.values[i].shape) * 4);
    mdl_model_close(&back);

    /* Grafted: the depth, the size and the embedding are read off the file. */
    says("graft %s/insight.safetensors %s/grafted.safetensors", 0, " taken");
    snprintf(path, sizeof(path), "%s/grafted.safetensors", dir);
    if (mdl_model_open(path, &back, &e))
        fail_msg("%s", e.msg);
    assert_false(back.trained); /* fatigue is not */
    assert_int_equal(back.spec.input, 32);
    for (int i = 0; i < m.graph.n_values; i++) {
        const struct mdl_value *v = &m.graph.values[i];
        const struct mdl_st_tensor *taken;
        char ours[64];

        if (!v->data)
            continue;
        snprintf(ours, sizeof(ours), "%s%s",
                 strncmp(v->name, "id.", 3) ? "" : "recognition.",
                 v->name + (strncmp(v->name, "id.", 3) ? 0 : 3));
        taken = mdl_st_find(back.file, ours);
        if (!taken || memcmp(taken->data, v->data, taken->len))
            fail_msg("%s is not as it was", ours);
    }
    mdl_model_close(&m);
    mdl_model_close(&back);
}

/* torchvision's mobilenet_v2 has these names and shapes, a classifier and
 * counters; the root is taken over, the branches start fresh. */
static void import__torchvision_names__root_taken_over(void **state)
{
    static const struct {
        const char *name;
        int dims[4];
    } known[] = {
        {"features.0.0.weight", {32, 3, 3, 3}},
        {"features.0.1.running_var", {32}},
        {"features.1.conv.0.0.weight", {32, 1, 3, 3}},
        {"features.1.conv.1.weight", {16, 32, 1, 1}},
        {"features.1.conv.2.bias", {16}},
        {"features.2.conv.0.0.weight", {96, 16, 1, 1}},
        {"features.2.conv.1.0.weight", {96, 1, 3, 3}},
        {"features.2.conv.2.weight", {24, 96, 1, 1}},
        {"features.2.conv.3.running_mean", {24}},
        {"features.17.conv.2.weight", {320, 960, 1, 1}},
        {"features.18.0.weight", {1280, 320, 1, 1}},
        {"features.18.1.weight", {1280}},
    };
    static float classifier[10 * 1280];
    static struct mdl_st_tensor t[512];
    struct mdl_model m, back;
    struct ut_error e;
    int64_t count = 7;
    char path[256];
    size_t n = 2;

    (void)state;
    says("init --seed 5 mobilenetv2 %s/mb.safetensors", 0, "");
    snprintf(path, sizeof(path), "%s/mb.safetensors", dir);
    assert_int_equal(mdl_model_open(path, &m, &e), UT_OK);
    t[0] = (struct mdl_st_tensor){"classifier.1.weight", MDL_F32,
                                  mdl_shape_of(2, 10, 1280), classifier,
                                  sizeof(classifier)};
    t[1] = (struct mdl_st_tensor){"features.0.1.num_batches_tracked", MDL_I64,
                                  mdl_shape_of(1, 1), &count, sizeof(count)};
    for (int i = 0; i < m.graph.n_values; i++) {
        const struct mdl_value *v = &m.graph.values[i];

        if (v->data && !strncmp(v->name, "root.", 5))
            t[n++] =
                (struct mdl_st_tensor){v->name + 5, MDL_F32, v->shape, v->data,
                                       mdl_shape_count(&v->shape) * 4};
    }
    assert_int_equal(n, 2 + 260); /* 52 convolutions, 52 BatchNorms of four */
    for (size_t k = 0; k < sizeof(known) / sizeof(known[0]); k++) {
        size_t at = 0;

        while (at < n && strcmp(t[at].name, known[k].name))
            at++;
        if (at == n)
            fail_msg("there is no %s", known[k].name);
        for (int d = 0; d < t[at].shape.n_dims; d++)
            assert_int_equal(t[at].shape.dim[d], known[k].dims[d]);
    }
    snprintf(path, sizeof(path), "%s/tv.safetensors", dir);
    assert_int_equal(mdl_st_write(path, t, n, NULL, 0, &e), UT_OK);
    says("import --from torchvision --seed 9 %s/tv.safetensors "
         "%s/tb.safetensors",
         0, "260 tensors taken over");
    snprintf(path, sizeof(path), "%s/tb.safetensors", dir);
    assert_int_equal(mdl_model_open(path, &back, &e), UT_OK);
    assert_false(back.trained);
    for (int i = 0; i < m.graph.n_values; i++)
        if (m.graph.values[i].data &&
            !strncmp(m.graph.values[i].name, "root.", 5))
            assert_memory_equal(m.graph.values[i].data,
                                back.graph.values[i].data,
                                mdl_shape_count(&m.graph.values[i].shape) * 4);
    mdl_model_close(&m);
    mdl_model_close(&back);
}

static void export__a_model__written_as_onnx(void **state)
{
    (void)state;
    says("export", 2, "usage:");
    says("export --all /nowhere.safetensors %s/x.onnx", 1, "/nowhere");
    says("export " GOLDEN "weights.safetensors /nowhere/x.onnx", 1,
         "/nowhere/x.onnx");
    says("export " GOLDEN "weights.safetensors %s/x.onnx", 0, "");
}

static void bench__network_and_gallery__figures(void **state)
{
    (void)state;
    says("bench --reps 1 --batch 1 --precision float32 " GOLDEN
         "weights.safetensors",
         0, "peak");
    says("bench --json --reps 1 --threads 1 --batch 1,2 --precision float32 "
         "--profile " GOLDEN "weights.safetensors",
         0, "\"batch\":2,\"ms_per_face\":");
    says("bench --gallery 100 --reps 1", 0, "share of reading");
    says("bench --gallery 5000 --json --threads 1 --reps 1", 0,
         "{\"faces\":5000,\"queries\":32,");
    says("bench --gallery 100 x", 2, "usage:");
    says("bench --batch 257 mobilenetv2", 2, "--batch 257");
}

static int clean(void **state)
{
    char line[256];

    (void)state;
    snprintf(line, sizeof(line), "rm -rf %s", dir);
    return system(line);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(describe__builtin_specs__the_papers_table_1),
        cmocka_unit_test(usage__each_mistake__exit_2_or_1_and_a_word),
        cmocka_unit_test(run__golden_images__every_output_written),
        cmocka_unit_test(import__insightface_names__exact),
        cmocka_unit_test(import__torchvision_names__root_taken_over),
        cmocka_unit_test(export__a_model__written_as_onnx),
        cmocka_unit_test(bench__network_and_gallery__figures),
    };

    (void)argc;
    /* build/VARIANT/tests/integration/test_model_tool */
    snprintf(tool, sizeof(tool), "%.*s/../../tscaf-model",
             (int)(strrchr(argv[0], '/') - argv[0]), argv[0]);
    if (!mkdtemp(dir))
        return 1;
    return cmocka_run_group_tests(tests, NULL, clean);
}
