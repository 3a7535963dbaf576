/* Grad-CAM against differences, t-SNE on clusters, figures by gnuplot. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/eval/explain.h"
#include "model/eval/tsne.h"
#include "model/nets/nets.h"
#include "model/plot/plot.h"
#include "model/vision/face.h"
#include "tests/support/unit.h"

static const char spec_text[] =
    "{\"input\":112,\"trees\":[{\"name\":\"root\",\"module\":\"mobilenetv2\","
    "\"width\":0.1,\"children\":[{\"name\":\"fatigue\",\"module\":\"lase\","
    "\"head\":\"binary\"},{\"name\":\"recognition\",\"module\":\"se\","
    "\"head\":\"embedding\",\"dim\":24}]}]}";

#define CELLS 16 /* 4 x 4 places */

static struct mdl_model model;
static struct mdl_backend *backend;
static uint8_t face[112 * 112 * 3], other[112 * 112 * 3];

static int set_up(void **state)
{
    static struct mdl_spec spec;
    struct mdl_sample_face f = {.identity = 3, .eyes = 1, .light = 1};
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_spec_parse(spec_text, strlen(spec_text), &spec, &e),
                     UT_OK);
    assert_int_equal(mdl_model_fresh(&spec, 5, &model, &e), UT_OK);
    assert_int_equal(mdl_backend_open("ref", 0, &backend, &e), UT_OK);
    mdl_sample_face_draw(&f, face);
    f.identity = 8;
    f.turn = 0.5f;
    mdl_sample_face_draw(&f, other);
    /* Statistics that are not 0 and 1. */
    for (int v = 0; v < model.graph.n_values; v++) {
        struct mdl_value *x = &model.graph.values[v];
        float *data = (float *)(uintptr_t)x->data;

        for (size_t i = 0; strstr(x->name, "recognition.head.bn") &&
                           i < mdl_shape_count(&x->shape);
             i++)
            data[i] += 0.3f + 0.05f * (float)(i % 7);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    mdl_backend_close(backend);
    mdl_model_close(&model);
    return 0;
}

/* A leaf's head alone, from the feature map on. */
struct head {
    struct mdl_graph graph;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    int in, out;
    size_t n; /* of the result */
};

static void open_head(const char *leaf, const char *result, struct head *h)
{
    char name[96];
    struct ut_error e;
    int at;

    snprintf(name, sizeof(name), "%s.lase", leaf);
    at = model.graph.outputs[mdl_graph_find_output(&model.graph, name)];
    mdl_graph_init(&h->graph);
    h->graph.input = mdl_graph_input(&h->graph, 1, 1);
    h->in = mdl_graph_given(&h->graph, model.graph.values[at].shape);
    mdl_graph_module(&h->graph, "head");
    mdl_net_head(&h->graph, h->in,
                 &model.spec.nodes[mdl_spec_find(&model.spec, leaf)]);
    assert_int_equal(h->graph.error.code, UT_OK);
    for (int v = 0; v < h->graph.n_values; v++)
        for (int w = 0; w < model.graph.n_values; w++)
            if (h->graph.values[v].kind != MDL_VALUE_INPUT &&
                h->graph.values[v].kind != MDL_VALUE_RESULT &&
                !strcmp(h->graph.values[v].name, model.graph.values[w].name))
                h->graph.values[v].data = model.graph.values[w].data;
    snprintf(name, sizeof(name), "%s.%s", leaf, result);
    h->out = h->graph.outputs[mdl_graph_find_output(&h->graph, name)];
    h->n = mdl_shape_count(&h->graph.values[h->out].shape);
    h->graph.values[h->out].keep = true;
    assert_int_equal(mdl_lane_new(backend, &h->lane, &e), UT_OK);
    assert_int_equal(
        mdl_plan_new(h->lane, &h->graph, MDL_PREC_F32, 1, &h->plan, &e), UT_OK);
}

static void close_head(struct head *h)
{
    mdl_plan_free(h->plan);
    mdl_lane_free(h->lane);
    mdl_graph_fini(&h->graph);
}

/* The score of a feature map: logit, cosine with r, or length. */
static double score_of(struct head *h, const float *y, const float *r)
{
    float v[64];
    double length = 0, dot = 0;
    struct ut_error e;
    uint8_t pixel[3] = {0};

    assert_int_equal(mdl_plan_set(h->plan, h->in, y, &e), UT_OK);
    assert_int_equal(
        mdl_plan_run_nodes(h->plan, pixel, 0, h->graph.n_nodes, &e), UT_OK);
    assert_int_equal(mdl_plan_get(h->plan, h->out, v, &e), UT_OK);
    if (h->n == 1)
        return v[0];
    for (size_t i = 0; i < h->n; i++) {
        length += (double)v[i] * v[i];
        dot += r ? (double)v[i] * r[i] : 0;
    }
    return r ? dot / sqrt(length) : sqrt(length);
}

/* The feature map of a face, from the whole network. */
static float *map_of(const char *leaf, const uint8_t *picture, int *channels)
{
    float *out[MDL_MAX_OUTPUTS] = {0}, *y;
    struct mdl_graph g;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    struct ut_error e;
    char name[96];
    int at;

    snprintf(name, sizeof(name), "%s.lase", leaf);
    assert_int_equal(mdl_graph_optimise(&model.graph, ~0ull, &g, &e), UT_OK);
    at = mdl_graph_find_output(&g, name);
    *channels = (int)g.values[g.outputs[at]].shape.dim[0];
    y = malloc((size_t)*channels * CELLS * sizeof(*y));
    assert_non_null(y);
    out[at] = y;
    assert_int_equal(mdl_lane_new(backend, &lane, &e), UT_OK);
    assert_int_equal(mdl_plan_new(lane, &g, MDL_PREC_F32, 1, &plan, &e), UT_OK);
    assert_int_equal(mdl_plan_run(plan, &(struct mdl_io){picture, out}, &e),
                     UT_OK);
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_graph_fini(&g);
    return y;
}

/* Grad-CAM by its definition, the gradient by differences: a_c is what moving
 * all of channel c moves the score, over the places. */
static void by_differences(const char *leaf, const char *result, const float *r,
                           bool against, double cam[CELLS])
{
    struct head h;
    int channels;
    float *y = map_of(leaf, face, &channels);
    double most = 1e-30, sum[CELLS] = {0};

    open_head(leaf, result, &h);
    for (int c = 0; c < channels; c++) {
        double up, down, a, step = 0.02;

        for (int i = 0; i < CELLS; i++)
            y[c * CELLS + i] += (float)step;
        up = score_of(&h, y, r);
        for (int i = 0; i < CELLS; i++)
            y[c * CELLS + i] -= (float)(2 * step);
        down = score_of(&h, y, r);
        for (int i = 0; i < CELLS; i++)
            y[c * CELLS + i] += (float)step;
        a = (up - down) / (2 * step) / CELLS;
        for (int i = 0; i < CELLS; i++)
            sum[i] += a * y[c * CELLS + i];
    }
    for (int i = 0; i < CELLS; i++) {
        cam[i] = fmax(0, against ? -sum[i] : sum[i]);
        most = fmax(most, cam[i]);
    }
    for (int i = 0; i < CELLS; i++)
        cam[i] /= most;
    close_head(&h);
    free(y);
}

static void check(const char *leaf, const char *result, const float *r,
                  bool against, float *score)
{
    static float cam[112 * 112];
    struct mdl_question q = {r, against};
    struct mdl_explanation out = {.cam = cam};
    struct mdl_explainer *x;
    struct ut_error e;
    double want[CELLS];

    by_differences(leaf, result, r, against, want);
    assert_int_equal(
        mdl_explainer_new(&model, leaf, backend, MDL_PREC_F32, &x, &e), UT_OK);
    assert_int_equal(mdl_explainer_side(x), 112);
    assert_int_equal(mdl_explainer_run(x, face, &q, &out, &e), UT_OK);
    for (int i = 0; i < CELLS; i++) {
        /* A cell's middle lies between two pixels, 1/56 of a cell off. */
        int at = (i / 4 * 28 + 13) * 112 + i % 4 * 28 + 13;
        double got =
            (cam[at] + cam[at + 1] + cam[at + 112] + cam[at + 113]) / 4;

        if (!(fabs(got - want[i]) < 0.04))
            fail_msg("%s, cell %d: %g, by differences %g", leaf, i, got,
                     want[i]);
    }
    *score = out.score;
    mdl_explainer_free(x);
}

static void grad_cam__either_head__by_differences(void **state)
{
    float reference[24], score, same;
    struct mdl_explainer *x;
    struct mdl_explanation out = {.embedding = reference};
    struct ut_error e;

    (void)state;
    check("fatigue", "logit", NULL, false, &score);
    assert_true(score > 0 && score < 1);
    check("fatigue", "logit", NULL, true, &score);
    check("recognition", "embedding", NULL, false, &score);
    assert_true(score > 0);
    assert_int_equal(
        mdl_explainer_new(&model, "recognition", backend, MDL_PREC_F32, &x, &e),
        UT_OK);
    assert_int_equal(mdl_explainer_dim(x), 24);
    assert_false(mdl_explainer_attends(x)); /* SENet alone */
    assert_int_equal(
        mdl_explainer_run(x, other, &(struct mdl_question){0}, &out, &e),
        UT_OK);
    check("recognition", "embedding", reference, false, &score);
    assert_true(score < 0.9999f && score > -1);
    /* With itself: 1. */
    assert_int_equal(mdl_explainer_run(x, other,
                                       &(struct mdl_question){reference, false},
                                       &out, &e),
                     UT_OK);
    same = out.score;
    assert_true(fabsf(same - 1) < 1e-5f);
    mdl_explainer_free(x);
}

static void explain__attention_and_no_leaf(void **state)
{
    static float map[112 * 112];
    struct mdl_explanation out = {.attention = map};
    struct mdl_explainer *x;
    struct ut_error e;

    (void)state;
    assert_int_equal(
        mdl_explainer_new(&model, "fatigue", backend, MDL_PREC_F32, &x, &e),
        UT_OK);
    assert_true(mdl_explainer_attends(x));
    assert_int_equal(
        mdl_explainer_run(x, face, &(struct mdl_question){0}, &out, &e), UT_OK);
    for (int i = 0; i < 112 * 112; i++)
        assert_true(map[i] > 0 && map[i] < 1); /* a sigmoid */
    mdl_explainer_free(x);
    assert_int_equal(
        mdl_explainer_new(&model, "root", backend, MDL_PREC_F32, &x, &e),
        UT_EINVAL);
    assert_null(x);
    assert_non_null(strstr(e.msg, "\"root\""));
}

static void explain__drawn__hot_is_red(void **state)
{
    uint8_t grey[2 * 2 * 3], out[2 * 2 * 3];
    const float map[4] = {0, 0.5f, 1, 7};

    (void)state;
    memset(grey, 100, sizeof(grey));
    mdl_explain_draw(grey, map, 2, out);
    assert_true(out[2] > out[0] && out[2] > out[1]); /* blue */
    assert_true(out[4] > out[5]);                    /* green */
    assert_true(out[6] > out[7] && out[6] > out[8]); /* red */
    assert_memory_equal(out + 6, out + 9, 3);        /* and no more than it */
}

/* ---- t-SNE ---- */

static void tsne__clusters__stay_together(void **state)
{
    enum { N = 90, DIM = 8 };
    static float x[N * DIM], a[2 * N], b[2 * N];
    struct ut_error e;
    unsigned seed = 3;

    (void)state;
    for (int i = 0; i < N * DIM; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / (1 << 24) + (i % DIM == i / DIM % 3) * 4.f;
    }
    assert_int_equal(mdl_tsne(x, N, DIM, 10, 1, a, &e), UT_OK);
    for (int i = 0; i < N; i++) {
        double near = INFINITY;
        int nearest = -1;

        for (int j = 0; j < N; j++) {
            double d = hypot((double)a[2 * i] - (double)a[2 * j],
                             (double)a[2 * i + 1] - (double)a[2 * j + 1]);

            if (j != i && d < near) {
                near = d;
                nearest = j;
            }
        }
        assert_int_equal(nearest % 3, i % 3);
    }
    assert_int_equal(mdl_tsne(x, N, DIM, 10, 1, b, &e), UT_OK);
    assert_memory_equal(a, b, sizeof(a));
    assert_int_equal(mdl_tsne(x, N, DIM, 10, 2, b, &e), UT_OK);
    assert_memory_not_equal(a, b, sizeof(a));
}

static void tsne__limits__named(void **state)
{
    float x[8] = {0}, out[8];
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_tsne(x, 4, 2, 1, 1, out, &e), UT_OK);
    for (int i = 0; i < 8; i++) /* all in one place: still numbers */
        assert_true(isfinite(out[i]));
    assert_int_equal(mdl_tsne(x, 3, 2, 1, 1, out, &e), UT_EINVAL);
    assert_int_equal(mdl_tsne(x, MDL_TSNE_MAX + 1, 2, 1, 1, out, &e),
                     UT_EINVAL);
    assert_int_equal(mdl_tsne(x, 4, 2, 1.01, 1, out, &e), UT_EINVAL);
}

/* ---- figures ---- */

static void begins_with(const char *path, const char *bytes, size_t n)
{
    char got[16] = {0};
    FILE *f = fopen(path, "rb");

    assert_non_null(f);
    assert_int_equal(fread(got, 1, n, f), n);
    fclose(f);
    assert_memory_equal(got, bytes, n);
    unlink(path);
}

static void plot__every_figure__png_and_svg(void **state)
{
    static const char *const names[] = {"it's \"a\"\n$b`c`", "b"};
    static const char *const ends[] = {"png", "svg"};
    static const uint8_t pixels[2 * 8 * 8 * 3] = {200};
    const double x[] = {0, 0.5, 1}, y[] = {0, 0.9, 1};
    const float xy[] = {0, 0, 1, 2, 3, 1};
    const int classes[] = {0, 1, 1};
    struct mdl_curve curves[4] = {
        {names[0], x, y, 3}, {"b", x, x, 3}, {"c", x, y, 0}, {"d", x, y, 3}};
    struct mdl_confusion c = {5, 1, 6, 0};
    struct mdl_points points = {names[0], xy, classes, 3};
    char dir[] = "/tmp/test_plot_XXXXXX", path[64];
    struct ut_error e;

    (void)state;
    assert_non_null(mkdtemp(dir));
    for (int i = 0; i < 10; i++) {
        enum ut_err rc = UT_OK;

        snprintf(path, sizeof(path), "%s/f.%s", dir, ends[i % 2]);
        if (i / 2 == 0)
            rc = mdl_plot_roc(path, names[0], curves, 2, &e);
        else if (i / 2 == 1)
            rc = mdl_plot_training(path, names, 2, curves, 2, &e);
        else if (i / 2 == 2)
            rc = mdl_plot_confusion(path, names[0], names, &c, &e);
        else if (i / 2 == 3)
            rc = mdl_plot_points(path, &points, 1, names, 2, &e);
        else
            rc = mdl_plot_pictures(path, names, 2, 1, pixels, 8, &e);
        if (rc)
            fail_msg("figure %d: %s", i, e.msg);
        if (i % 2)
            begins_with(path, "<?xml", 5);
        else
            begins_with(path, "\x89PNG", 4);
    }
    assert_int_equal(rmdir(dir), 0); /* nothing else was left */
}

static void plot__mistakes__named(void **state)
{
    const double x[] = {0, 1};
    struct mdl_curve curve = {"a", x, x, 2};
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_plot_roc("/tmp/x.gif", "t", &curve, 1, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "neither with .png nor .svg"));
    assert_int_equal(mdl_plot_roc("/tmp/x.png", "t", &curve, 0, &e), UT_EINVAL);
    assert_int_equal(
        mdl_plot_roc("/tmp/x.png", "t", &curve, MDL_PLOT_CURVES + 1, &e),
        UT_EINVAL);
    curve.n = 0;
    assert_int_equal(mdl_plot_training("/tmp/x.png", (const char *[]){"t"}, 1,
                                       &curve, 1, &e),
                     UT_EINVAL);
    curve.n = 2;
    assert_int_equal(mdl_plot_roc("/nowhere/x.png", "t", &curve, 1, &e),
                     UT_EIO);
    assert_non_null(strstr(e.msg, "gnuplot"));
}

/* Without the program: told what to install. */
static void plot__no_gnuplot__told(void **state)
{
    const double x[] = {0, 1};
    struct mdl_curve curve = {"a", x, x, 2};
    char *path = strdup(getenv("PATH"));
    struct ut_error e;

    (void)state;
    setenv("PATH", "/nowhere", 1);
    assert_int_equal(mdl_plot_roc("/tmp/x.png", "t", &curve, 1, &e),
                     UT_ENOTFOUND);
    assert_non_null(strstr(e.msg, "gnuplot-nox"));
    setenv("PATH", path, 1);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grad_cam__either_head__by_differences),
        cmocka_unit_test(explain__attention_and_no_leaf),
        cmocka_unit_test(explain__drawn__hot_is_red),
        cmocka_unit_test(tsne__clusters__stay_together),
        cmocka_unit_test(tsne__limits__named),
        cmocka_unit_test(plot__every_figure__png_and_svg),
        cmocka_unit_test(plot__mistakes__named),
        cmocka_unit_test(plot__no_gnuplot__told),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
