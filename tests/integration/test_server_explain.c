/* What /v1/explain draws is what the engine explains; its queue is bounded. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/eval/explain.h"
#include "model/vision/face.h"
#include "model/vision/image.h"
#include "tests/support/server.h"
#include "tests/support/unit.h"

#define SIDE 112
#define PIXELS (SIDE * SIDE)
#define EXPLAIN "/v1/explain?input=crop"

static struct test_server server;
static char *png;
static size_t png_len;
static uint8_t face[3 * PIXELS];

static int set_up(void **state)
{
    struct mdl_image im = {0};
    struct ut_error e;

    (void)state;
    png = test_face(3, 1, &png_len);
    assert_int_equal(
        mdl_image_decode((const uint8_t *)png, png_len, 0, &im, &e), UT_OK);
    assert_int_equal(mdl_face_crop(&im, face, &e), UT_OK);
    mdl_image_fini(&im);
    test_server_start(&server, NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(png);
    return test_server_stop(&server);
}

/* The server's picture of EXPLAIN and query. */
static void picture(const char *query, uint8_t out[3 * PIXELS])
{
    struct test_answer a = {0};
    struct mdl_image im = {0};
    struct ut_error e;
    char path[200];

    snprintf(path, sizeof(path), EXPLAIN "%s", query);
    if (test_png(&server, path, png, png_len, &a) != 200)
        fail_msg("%s: %ld %s", path, a.status, a.body);
    assert_string_equal(a.type, "image/png");
    assert_int_equal(
        mdl_image_decode((const uint8_t *)a.body, a.len, 0, &im, &e), UT_OK);
    assert_int_equal(im.width, SIDE);
    assert_int_equal(im.height, SIDE);
    memcpy(out, im.rgb, 3 * PIXELS);
    mdl_image_fini(&im);
    test_answer_fini(&a);
}

/* The same by the engine, as the server runs it. */
static void maps(const char *leaf, bool against, float *cam, float *attention)
{
    struct mdl_question q = {.against = against};
    struct mdl_explanation x = {.cam = cam, .attention = attention};
    struct mdl_explainer *explainer;
    struct mdl_backend *backend;
    struct mdl_model model;
    struct ut_error e;

    assert_int_equal(mdl_model_open(test_model(), &model, &e), UT_OK);
    assert_int_equal(mdl_backend_open(NULL, 0, &backend, &e), UT_OK);
    assert_int_equal(
        mdl_explainer_new(&model, leaf, backend, MDL_PREC_F32, &explainer, &e),
        UT_OK);
    assert_int_equal(mdl_explainer_run(explainer, face, &q, &x, &e), UT_OK);
    mdl_explainer_free(explainer);
    mdl_backend_close(backend);
    mdl_model_close(&model);
}

/* Rounding may fall either way. Returns the brightest. */
static int assert_grey(const uint8_t *rgb, const float *map)
{
    int most = 0;

    for (int i = 0; i < PIXELS; i++) {
        int v = rgb[3 * i];

        if (abs(v - (int)(255 * map[i] + 0.5f)) > 1 || rgb[3 * i + 1] != v ||
            rgb[3 * i + 2] != v)
            fail_msg("pixel %d is %d,%d,%d for %g", i, v, rgb[3 * i + 1],
                     rgb[3 * i + 2], (double)map[i]);
        most = v > most ? v : most;
    }
    return most;
}

static void explain__each_branch_and_map__as_the_engine_says(void **state)
{
    static float cam[PIXELS], attention[PIXELS];
    static uint8_t got[3 * PIXELS], over[3 * PIXELS];
    int most;

    (void)state;
    maps("fatigue", false, cam, attention);
    picture("&bare=true&map=attention", got);
    assert_true(assert_grey(got, attention) > 0);
    picture("", got);
    mdl_explain_draw(face, cam, SIDE, over);
    for (int i = 0; i < 3 * PIXELS; i++)
        assert_in_range(got[i] + 1 - over[i], 0, 2);
    maps("recognition", false, cam, NULL);
    picture("&task=recognition&bare=true", got);
    most = assert_grey(got, cam);
    maps("recognition", true, cam, NULL);
    picture("&task=recognition&bare=true&against=true", got);
    /* One of both has something to show. */
    assert_true(most + assert_grey(got, cam) > 128);
}

static void wants(const struct test_server *s, const char *path,
                  const char *bytes, size_t len, long status, const char *says)
{
    struct test_answer a = {0};

    if (test_png(s, path, bytes, len, &a) != status || !strstr(a.body, says))
        fail_msg("%s: %ld, not %ld, or no \"%s\" in: %s", path, a.status,
                 status, says, a.body);
    test_answer_fini(&a);
}

static void explain__face_not_there__says_how_many_are(void **state)
{
    (void)state;
    wants(&server, EXPLAIN "&face=1", png, png_len, 400, "1 face was found");
    wants(&server, EXPLAIN "&face=63", png, png_len, 400, "1 face was found");
    wants(&server, EXPLAIN "&face=64", png, png_len, 400, "limit of 63");
    wants(&server, EXPLAIN "&task=nose", png, png_len, 400, "task");
    wants(&server, EXPLAIN "&min_score=1.5", png, png_len, 400, "min_score");
}

/* A face at x, y of a frame, as large as it is drawn or twice. */
static void paste(uint8_t *rgb, int width, int x, int y, int scale)
{
    for (int i = 0; i < SIDE * scale; i++)
        for (int j = 0; j < SIDE * scale; j++)
            memcpy(rgb +
                       3 * ((size_t)(y + i) * (size_t)width + (size_t)(x + j)),
                   face + 3 * (i / scale * SIDE + j / scale), 3);
}

static void explain__frames__the_face_that_is_asked_for(void **state)
{
    enum { W = 640, H = 360 };
    static uint8_t rgb[3 * W * H];
    const char *const flags[] = {"--detector=", NULL};
    struct test_server frames = {0};
    struct test_answer a = {0}, b = {0};
    struct ut_error e;
    uint8_t *bytes;
    size_t len;

    (void)state;
    memset(rgb, 90, sizeof(rgb));
    test_server_start(&frames, flags);
    assert_int_equal(mdl_image_encode_png(rgb, W, H, &bytes, &len, &e), UT_OK);
    wants(&frames, "/v1/explain", (char *)bytes, len, 422, "NO_FACE");
    free(bytes);
    paste(rgb, W, 40, 60, 1);
    paste(rgb, W, 300, 60, 2);
    assert_int_equal(mdl_image_encode_png(rgb, W, H, &bytes, &len, &e), UT_OK);
    wants(&frames, "/v1/explain?face=2", (char *)bytes, len, 400,
          "2 faces were found");
    assert_int_equal(
        test_png(&frames, "/v1/explain?face=1", (char *)bytes, len, &b), 200);
    assert_int_equal(test_png(&frames, "/v1/explain", (char *)bytes, len, &a),
                     200);
    assert_true(a.len != b.len || memcmp(a.body, b.body, a.len));
    assert_int_equal(
        test_png(&frames, "/v1/explain?face=0", (char *)bytes, len, &b), 200);
    assert_true(a.len == b.len && !memcmp(a.body, b.body, a.len));
    free(bytes);
    test_answer_fini(&a);
    test_answer_fini(&b);
    assert_int_equal(test_server_stop(&frames), 0);
}

static void explain__model_without_attention_or_branch__400(void **state)
{
    static const char spec_text[] =
        "{\"input\":112,\"trees\":[{\"name\":\"root\",\"module\":"
        "\"mobilenetv2\",\"width\":0.1,\"children\":[{\"name\":\"fatigue\","
        "\"module\":\"se\",\"head\":\"binary\"}]}]}";
    static struct mdl_spec spec;
    char path[] = "/tmp/tscaf-plain-XXXXXX";
    const char *const flags[] = {"--model", path, NULL};
    struct test_server plain = {0};
    struct mdl_model model;
    struct ut_error e;

    (void)state;
    close(mkstemp(path));
    assert_int_equal(mdl_spec_parse(spec_text, strlen(spec_text), &spec, &e),
                     UT_OK);
    assert_int_equal(mdl_model_fresh(&spec, 5, &model, &e), UT_OK);
    assert_int_equal(
        mdl_model_write(path, &model.spec, &model.graph, NULL, 0, NULL, 0, &e),
        UT_OK);
    mdl_model_close(&model);
    test_server_start(&plain, flags);
    unlink(path);
    wants(&plain, EXPLAIN "&map=attention", png, png_len, 400,
          "fatigue branch has no spatial attention");
    wants(&plain, EXPLAIN "&task=recognition", png, png_len, 400,
          "cannot do recognition");
    wants(&plain, EXPLAIN, png, png_len, 200, "PNG");
    assert_int_equal(test_server_stop(&plain), 0);
}

/* A leaf's spatial attention of face, by a plan that gives nothing else. */
static size_t attention_of(const char *leaf, float out[64])
{
    float *results[MDL_MAX_OUTPUTS] = {0};
    struct mdl_backend *backend;
    struct mdl_model model;
    struct mdl_graph graph;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    struct ut_error e;
    char name[64];
    size_t n;
    int at;

    snprintf(name, sizeof(name), "%s.attention.la", leaf);
    assert_int_equal(mdl_model_open(test_model(), &model, &e), UT_OK);
    assert_int_equal(mdl_backend_open(NULL, 0, &backend, &e), UT_OK);
    at = mdl_graph_find_output(&model.graph, name);
    mdl_graph_init(&graph);
    assert_int_equal(mdl_graph_optimise(&model.graph, 1ull << at, &graph, &e),
                     UT_OK);
    assert_int_equal(mdl_lane_new(backend, &lane, &e), UT_OK);
    assert_int_equal(mdl_plan_new(lane, &graph, MDL_PREC_F32, 1, &plan, &e),
                     UT_OK);
    results[at] = out;
    n = mdl_shape_count(&graph.values[graph.outputs[at]].shape);
    assert_true(n <= 64);
    assert_int_equal(mdl_plan_run(plan, &(struct mdl_io){face, results}, &e),
                     UT_OK);
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_graph_fini(&graph);
    mdl_backend_close(backend);
    mdl_model_close(&model);
    return n;
}

/* The answer's map of a branch, in the face that comes at that place. */
static void assert_map(const struct test_answer *a, int face_at,
                       const char *task)
{
    float want[64];
    size_t n = attention_of(task, want);
    const char *at = a->body;
    char *end, key[64];

    for (int i = 0; i <= face_at; i++)
        assert_non_null(at = strstr(at + 1, "\"attention\":["));
    snprintf(key, sizeof(key), "{\"task\":\"%s\",\"width\":", task);
    assert_non_null(at = strstr(at, key));
    assert_non_null(at = strstr(at, "\"values\":["));
    at += strlen("\"values\":[");
    for (size_t i = 0; i < n; i++, at = end + 1) {
        float got = strtof(at, &end);

        assert_true(end > at && *end == (i + 1 < n ? ',' : ']'));
        /* Sums in another order, of a batch of another size. */
        if (!(got > want[i] - 1e-4f && got < want[i] + 1e-4f))
            fail_msg("%s: %zu is %g, not %g", task, i, (double)got,
                     (double)want[i]);
    }
}

static void analyze__attention_asked_for__the_maps_of_its_tasks(void **state)
{
    struct test_answer a = {0};

    (void)state;
    test_png(&server, "/v1/analyze?input=crop&return=attention", png, png_len,
             &a);
    assert_int_equal(a.status, 200);
    assert_map(&a, 0, "fatigue");
    assert_map(&a, 0, "recognition");
    test_png(&server,
             "/v1/analyze?input=crop&return=attention&tasks=recognition", png,
             png_len, &a);
    assert_map(&a, 0, "recognition");
    assert_null(strstr(a.body, "\"task\":\"fatigue\""));
    test_png(&server, "/v1/analyze?input=crop", png, png_len, &a);
    assert_non_null(strstr(a.body, "\"attention\":[]"));
    test_answer_fini(&a);
}

/* Every face of a batch has its own. */
static void analyze__attention_of_two_pictures__each_its_own(void **state)
{
    static const char head[] = "--x\r\nContent-Disposition: form-data; "
                               "name=\"images\"; filename=\"a\"\r\n\r\n";
    size_t other_len, at = 0;
    char *other = test_face(8, 2, &other_len);
    char *body = malloc(png_len + other_len + 300);
    struct test_request r = {.path = "/v1/analyze?input=crop&return=attention",
                             .type = "multipart/form-data; boundary=x",
                             .body = body};
    struct test_answer a = {0};

    (void)state;
    assert_non_null(body);
    at += (size_t)sprintf(body, "%s", head);
    memcpy(body + at, other, other_len);
    at += other_len;
    at += (size_t)sprintf(body + at, "\r\n%s", head);
    memcpy(body + at, png, png_len);
    at += png_len;
    at += (size_t)sprintf(body + at, "\r\n--x--\r\n");
    r.len = at;
    test_send(&server, &r, &a);
    assert_int_equal(a.status, 200);
    assert_map(&a, 1, "fatigue");
    assert_map(&a, 1, "recognition");
    test_answer_fini(&a);
    free(body);
    free(other);
}

/* ---- the queue ---- */

#define CALLERS 64

struct caller {
    pthread_t thread;
    long status;
    bool says_so;
};

static struct test_server large; /* with a model that takes its time */

static void *call(void *arg)
{
    struct caller *c = arg;
    struct test_answer a = {0};

    c->status = test_png(&large, EXPLAIN, png, png_len, &a);
    c->says_so = strstr(a.body, "explain: 16 jobs wait") != NULL &&
                 strcasestr(a.headers, "Retry-After:") != NULL;
    test_answer_fini(&a);
    return NULL;
}

static void
explain__more_than_may_wait__503_and_the_others_answered(void **state)
{
    const char *const flags[] = {"--model=none", NULL};
    struct caller callers[CALLERS] = {0};
    int ok = 0, refused = 0;

    (void)state;
    test_server_start(&large, flags);
    /* Its plan is made by the first call, in whose time all others arrive. */
    for (int i = 0; i < CALLERS; i++)
        assert_int_equal(
            pthread_create(&callers[i].thread, NULL, call, &callers[i]), 0);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(callers[i].thread, NULL);
        ok += callers[i].status == 200;
        refused += callers[i].status == 503 && callers[i].says_so;
    }
    assert_int_equal(ok + refused, CALLERS);
    assert_true(ok >= 16);
    assert_true(refused > 0);
    assert_int_equal(test_server_stop(&large), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(explain__each_branch_and_map__as_the_engine_says),
        cmocka_unit_test(explain__face_not_there__says_how_many_are),
        cmocka_unit_test(explain__frames__the_face_that_is_asked_for),
        cmocka_unit_test(explain__model_without_attention_or_branch__400),
        cmocka_unit_test(analyze__attention_asked_for__the_maps_of_its_tasks),
        cmocka_unit_test(analyze__attention_of_two_pictures__each_its_own),
        cmocka_unit_test(
            explain__more_than_may_wait__503_and_the_others_answered),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
