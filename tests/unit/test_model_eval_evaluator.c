/* A dataset through a model: every picture's own numbers, the same bits on any
 * number of lanes. */
#include "model/eval/evaluator.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/vision/face.h"
#include "model/vision/image.h"
#include "tests/support/unit.h"

#define PICTURES 53 /* three batches and a part of one */

static const char spec_text[] =
    "{\"input\":112,\"trees\":[{\"name\":\"root\",\"module\":\"mobilenetv2\","
    "\"width\":0.1,\"children\":[{\"name\":\"recognition\",\"module\":\"none\","
    "\"head\":\"embedding\",\"dim\":16}]}]}";

static char dir[] = "/tmp/tscaf-evaluator-XXXXXX";
static struct mdl_model model;
static struct mdl_spec spec;

static void write_file(const char *name, const void *bytes, size_t len)
{
    char path[96];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    fclose(f);
}

static int set_up(void **state)
{
    static uint8_t face[MDL_FACE_SIDE_PX * MDL_FACE_SIDE_PX * 3];
    char manifest[PICTURES * 16] = "file\tlabel\n", name[16];
    struct ut_error e;

    (void)state;
    assert_non_null(mkdtemp(dir));
    for (uint32_t i = 0; i < PICTURES; i++) {
        struct mdl_sample_face s = {i + 1, 1, 0.1f, 0.9f, 0, i};
        uint8_t *png;
        size_t len;

        mdl_sample_face_draw(&s, face);
        assert_int_equal(mdl_image_encode_png(face, MDL_FACE_SIDE_PX,
                                              MDL_FACE_SIDE_PX, &png, &len, &e),
                         UT_OK);
        snprintf(name, sizeof(name), "%u.png", i);
        write_file(name, png, len);
        free(png);
        sprintf(manifest + strlen(manifest), "%u.png\t%u\n", i, i);
    }
    write_file("all.tsv", manifest, strlen(manifest));
    assert_int_equal(mdl_spec_parse(spec_text, strlen(spec_text), &spec, &e),
                     UT_OK);
    assert_int_equal(mdl_model_fresh(&spec, 1, &model, &e), UT_OK);
    return 0;
}

static int tear_down(void **state)
{
    char line[96];

    (void)state;
    mdl_model_close(&model);
    snprintf(line, sizeof(line), "rm -r %s", dir);
    return system(line);
}

static struct mdl_dataset open_set(const char *name)
{
    struct mdl_dataset d;
    char path[96];
    struct ut_error e;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (mdl_dataset_open(path, &d, &e))
        fail_msg("%s", e.msg);
    return d;
}

static struct mdl_evaluator *evaluator(int lanes)
{
    struct mdl_evaluator *v;
    struct ut_error e;

    if (mdl_evaluator_new(&model, "cpu", MDL_PREC_F32, lanes, &v, &e))
        fail_msg("%s", e.msg);
    return v;
}

static float *embed(int lanes, const struct mdl_dataset *d)
{
    struct mdl_evaluator *v = evaluator(lanes);
    struct ut_error e;
    float *x;
    int size;

    if (mdl_evaluate(v, d, "recognition.embedding.normalized", &x, &size, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(size, 16);
    mdl_evaluator_free(v);
    return x;
}

static void evaluate__any_lanes__the_same_bits_in_order(void **state)
{
    struct mdl_dataset d = open_set("all.tsv"), last = d;
    float *one, *many, *alone;

    (void)state;
    one = embed(1, &d);
    for (int lanes = 2; lanes <= 5; lanes++) { /* more than there are batches */
        many = embed(lanes, &d);
        assert_memory_equal(one, many, PICTURES * 16 * sizeof(float));
        free(many);
    }
    /* The last picture by itself: the numbers are its own. */
    last.examples = &d.examples[PICTURES - 1];
    last.n = 1;
    alone = embed(2, &last);
    assert_close(one + (PICTURES - 1) * 16, alone, 16, 1e-5, 0, "the last");
    for (int i = 1; i < PICTURES; i++)
        assert_true(memcmp(one, one + i * 16, 16 * sizeof(float)) != 0);
    free(alone);
    free(one);
    mdl_dataset_fini(&d);
}

static void evaluate__broken_pictures__counted_and_first_named(void **state)
{
    static const char manifest[] = "file\tlabel\n0.png\t0\nfirst.png\t1\n"
                                   "1.png\t0\nsecond.png\t1\n";
    struct mdl_evaluator *v = evaluator(3);
    struct mdl_dataset d;
    struct ut_error e;
    float *x;
    int size;

    (void)state;
    write_file("broken.tsv", manifest, strlen(manifest));
    write_file("first.png", "junk", 4);
    d = open_set("broken.tsv");
    assert_int_equal(
        mdl_evaluate(v, &d, "recognition.embedding", &x, &size, &e),
        UT_EFORMAT);
    assert_null(x);
    assert_non_null(strstr(e.msg, "2 pictures cannot be read"));
    assert_non_null(strstr(e.msg, "first.png"));
    assert_int_equal(mdl_evaluate(v, &d, "mood", &x, &size, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "\"mood\""));
    mdl_dataset_fini(&d);
    mdl_evaluator_free(v);
}

static void evaluate__no_finite_number__output_and_picture_named(void **state)
{
    const float bias[16] = {[7] = NAN};
    int at = mdl_graph_param(&model.graph, MDL_VALUE_PARAM, mdl_shape_of(1, 16),
                             "recognition.head.fc.bias");
    struct mdl_dataset d = open_set("all.tsv");
    const float *was = model.graph.values[at].data;
    struct mdl_evaluator *v;
    struct ut_error e;
    float *x;
    int size;

    (void)state;
    assert_non_null(was);
    model.graph.values[at].data = bias;
    v = evaluator(2);
    assert_int_equal(
        mdl_evaluate(v, &d, "recognition.embedding", &x, &size, &e), UT_ESTATE);
    assert_null(x);
    assert_non_null(strstr(e.msg, "/0.png, picture 1 of 53"));
    assert_non_null(strstr(e.msg, "\"recognition.embedding\" is nan"));
    model.graph.values[at].data = was;
    mdl_dataset_fini(&d);
    mdl_evaluator_free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evaluate__any_lanes__the_same_bits_in_order),
        cmocka_unit_test(evaluate__broken_pictures__counted_and_first_named),
        cmocka_unit_test(evaluate__no_finite_number__output_and_picture_named),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
