/* A trainer's lanes, devices and hints, on the small tree. Devices are the
 * processor's pretence (tests/plugins/host), or GPUs where TSCAF_TEST_CUDA=1
 * asks for them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "model/train/trainer.h"
#include "model/train/weights.h"
#include "tests/support/unit.h"

#define SIDE 112
#define HALF 3
#define PLACES 49
#define TEACHER 5

struct run {
    struct mdl_model model;
    struct mdl_trainer *trainer;
    int task;
    double loss;
};

static unsigned seed;

static float noise(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8 & 0xffff) / 32768 - 1;
}

static void fresh_of(const char *text, size_t len, struct mdl_model *m)
{
    struct mdl_spec spec;
    struct ut_error e;

    if (mdl_spec_parse(text, len, &spec, &e) ||
        mdl_model_fresh(&spec, 3, m, &e))
        fail_msg("%s", e.msg);
}

static void fresh(struct mdl_model *m)
{
    struct ut_error e;
    struct ut_buf text;

    ut_buf_init(&text, 4096);
    if (ut_buf_add_file(&text, "tests/support/tiny.json", &e))
        fail_msg("%s", e.msg);
    fresh_of(text.data, text.len, m);
    ut_buf_fini(&text);
}

static struct mdl_optimizer optimizer = {MDL_SGD, 0.9f, 0, 0, 0};
static int threads = 2;
static bool frozen_root;

/* Of r->model as it is. */
static enum ut_err open_trainer(struct run *r, const char *backend, int batch,
                                int lanes, const char *hint, float clip,
                                float branch_rate, struct ut_error *e)
{
    struct mdl_trainer_config c = {
        .clip = clip,
        .backend = backend,
        .threads = threads,
        .lanes = lanes,
        .batch = batch,
        .momentum = 0.1f,
        .frozen_root = frozen_root,
        .optimizer = optimizer,
    };
    struct mdl_recognition recognition = {
        .arcface = {.classes = 4, .k = 2, .scale = 16, .margin = 0.3f},
        .arcface_weight = 1,
        .hint = {.module = hint, .teacher_channels = TEACHER, .weight = 2},
        .seed = 1,
    };
    enum ut_err rc;

    r->trainer = NULL;
    rc = mdl_trainer_new(&r->model, &c, &r->trainer, e);
    return rc ? rc
              : mdl_trainer_leaf(r->trainer, "recognition", &recognition,
                                 branch_rate, &r->task, e);
}

static enum ut_err open_run_at(struct run *r, const char *backend, int batch,
                               int lanes, const char *hint, float clip,
                               float branch_rate, struct ut_error *e)
{
    fresh(&r->model);
    return open_trainer(r, backend, batch, lanes, hint, clip, branch_rate, e);
}

static enum ut_err open_run(struct run *r, const char *backend, int batch,
                            int lanes, const char *hint, struct ut_error *e)
{
    return open_run_at(r, backend, batch, lanes, hint, 0, 1, e);
}

static void close_run(struct run *r)
{
    mdl_trainer_free(r->trainer);
    mdl_model_close(&r->model);
}

/* The same HALF pictures, `times` times over; the last has this label. */
static enum ut_err try_batch(struct run *r, int times, const char *hint,
                             int32_t last, struct ut_error *e)
{
    static uint8_t images[2 * HALF * SIDE * SIDE * 3];
    float teacher[2 * HALF * TEACHER * PLACES];
    const int32_t label[2 * HALF] = {0, 1, last, 0, 1, last};
    struct mdl_labels labels = {.label = label, .hint = hint ? teacher : NULL};
    size_t half = sizeof(images) / 2, map = sizeof(teacher) / 4 / 2;

    seed = 7;
    for (size_t i = 0; i < half; i++)
        images[i] = images[half + i] = (uint8_t)(128 + 100 * noise());
    for (size_t i = 0; i < map; i++)
        teacher[i] = teacher[map + i] = noise();
    assert_true(times <= 2);
    return mdl_trainer_batch(r->trainer, r->task, images, &labels, 1, &r->loss,
                             e);
}

static void learn(struct run *r, int times, const char *hint)
{
    struct ut_error e;

    if (try_batch(r, times, hint, -1, &e))
        fail_msg("%s", e.msg);
}

/* The relative difference of two trainings' weights or statistics. */
static double apart(const struct run *a, const struct run *b, bool statistics)
{
    const struct mdl_graph *g = &a->model.graph;
    double off = 0, norm = 0;

    for (int v = 0; v < g->n_values; v++) {
        const struct mdl_value *value = &g->values[v];
        const float *x = value->data, *y = b->model.graph.values[v].data;

        if (!x || (value->kind == MDL_VALUE_BUFFER) != statistics)
            continue;
        for (size_t i = 0; i < mdl_shape_count(&value->shape); i++) {
            off += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
            norm += (double)x[i] * x[i];
        }
    }
    assert_true(norm > 0);
    return sqrt(off / norm);
}

/* The gradients of products' weights are another training's; those of a
 * BatchNorm before a BatchNorm are little but rounding. */
static void same_gradients(const struct run *one, const struct run *two)
{
    const struct mdl_graph *g = &one->model.graph;
    int compared = 0;

    for (int v = 0; v < g->n_values; v++) {
        const struct mdl_value *w = &g->values[v];
        const float *a = mdl_trainer_gradient(one->trainer, w->name);
        const float *b = mdl_trainer_gradient(two->trainer, w->name);
        double norm = 0, off = 0;

        if (!a || w->shape.n_dims < 2)
            continue;
        assert_non_null(b);
        for (size_t i = 0; i < mdl_shape_count(&w->shape); i++) {
            norm += (double)a[i] * a[i];
            off += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        }
        /* float32 sums in another order, through fifty layers */
        if (!(norm > 0 && sqrt(off) < 1e-3 * sqrt(norm)))
            fail_msg("%s: %g, off by %g", w->name, sqrt(norm), sqrt(off));
        compared++;
    }
    assert_true(compared > 50);
}

/* A part of its own that says the same as the other changes nothing: neither
 * the means that losses are, nor what BatchNorms see and remember. Each lane
 * has a thread, then two. */
static void lanes__equal_parts__as_one(void **state)
{
    (void)state;
    for (threads = 2; threads <= 4; threads += 2) {
        struct run one, two, unmoved;
        struct ut_error e;

        fresh(&unmoved.model);
        if (open_run(&one, "cpu", HALF, 1, "root.stage5", &e) ||
            open_run(&two, "cpu", 2 * HALF, 2, "root.stage5", &e))
            fail_msg("%s", e.msg);
        learn(&one, 1, "root.stage5");
        learn(&two, 2, "root.stage5");
        assert_true(fabs(one.loss - two.loss) < 1e-5 * one.loss);
        same_gradients(&one, &two);
        assert_true(apart(&one, &two, true) <
                    1e-3 * apart(&unmoved, &one, true));
        close_run(&one);
        close_run(&two);
        mdl_model_close(&unmoved.model);
    }
    threads = 2;
}

/* Lanes share copies of the weights: all see an update, with 3x3 convolutions
 * between maps too, which may have a layout of their own. */
static void lanes__updated__all_see_it(void **state)
{
    static const char spec[] =
        "{\"input\":112,\"trees\":[{\"name\":\"root\",\"module\":\"iresnet\","
        "\"layers\":[1,1,1,1],\"widths\":[8,8,16,16],\"children\":["
        "{\"name\":\"recognition\",\"module\":\"none\",\"head\":\"embedding\","
        "\"dim\":16}]}]}";
    struct run runs[2];
    struct ut_error e;

    (void)state;
    for (int i = 0; i < 2; i++) {
        double first;

        fresh_of(spec, strlen(spec), &runs[i].model);
        if (open_trainer(&runs[i], "cpu", (i + 1) * HALF, i + 1, NULL, 0, 1,
                         &e))
            fail_msg("%s", e.msg);
        learn(&runs[i], i + 1, NULL);
        first = runs[i].loss;
        if (mdl_trainer_update(runs[i].trainer, 0.05, NULL, &e))
            fail_msg("%s", e.msg);
        learn(&runs[i], i + 1, NULL);
        if (!(fabs(runs[i].loss - first) > 0.05 * first))
            fail_msg("%d lanes: %g, then %g", i + 1, first, runs[i].loss);
    }
    if (!(fabs(runs[0].loss - runs[1].loss) < 1e-3 * runs[0].loss))
        fail_msg("one lane %g, two %g", runs[0].loss, runs[1].loss);
    close_run(&runs[0]);
    close_run(&runs[1]);
}

static const float *weight_of(const struct run *r, const char *name)
{
    const struct mdl_graph *g = &r->model.graph;

    for (int v = 0; v < g->n_values; v++)
        if (g->values[v].data && !strcmp(g->values[v].name, name))
            return g->values[v].data;
    return NULL;
}

/* ---- devices ---- */

static void need_two_devices(void)
{
    struct mdl_backend *b;
    struct ut_error e;
    int n;

    setenv("TSCAF_HOST_DEVICES", "2", 1);
    if (mdl_backend_open("cuda", 0, &b, &e))
        fail_msg("%s", e.msg);
    n = mdl_backend_devices(b);
    mdl_backend_close(b);
    if (n < 2) {
        printf("SKIPPED devices: there is one GPU\n");
        skip();
    }
}

/* Batches and updates, and what they came to. */
static void train(struct run *r, int updates, int times, const char *hint)
{
    struct ut_error e;

    for (int i = 0; i < updates; i++) {
        learn(r, times, hint);
        if (mdl_trainer_update(r->trainer, 0.01, NULL, &e))
            fail_msg("%s", e.msg);
    }
    if (mdl_trainer_read(r->trainer, &e))
        fail_msg("%s", e.msg);
}

/* What of two trainings may differ after one update, by the way that a third
 * went. */
static void check_apart(const struct run *a, const struct run *b,
                        const struct run *unmoved, double bound)
{
    for (int statistics = 0; statistics < 2; statistics++) {
        double moved = apart(unmoved, a, statistics);
        double off = apart(a, b, statistics);

        if (!(moved > 0 && off <= bound * moved))
            fail_msg("%s: moved by %g, %g apart",
                     statistics ? "statistics" : "weights", moved, off);
    }
}

/* One device, two with half of the batch each, which says the same, and the
 * processor. After one update: a second has another sign behind a ReLU here
 * and there, and three pictures' BatchNorms make much of it. */
static void devices__equal_parts__move_as_one(void **state)
{
    struct run one, two, here, unmoved;
    struct ut_error e;

    (void)state;
    need_two_devices();
    fresh(&unmoved.model);
    if (open_run(&one, "cuda", HALF, 1, "root.stage5", &e) ||
        open_run(&two, "cuda", 2 * HALF, 2, "root.stage5", &e) ||
        open_run(&here, "cpu", HALF, 1, "root.stage5", &e))
        fail_msg("%s", e.msg);
    train(&one, 1, 1, "root.stage5");
    train(&two, 1, 2, "root.stage5");
    train(&here, 1, 1, "root.stage5");
    assert_true(fabs(one.loss - two.loss) < 1e-5 * one.loss);
    assert_true(fabs(one.loss - here.loss) < 1e-4 * here.loss);
    check_apart(&one, &two, &unmoved, 1e-3);
    check_apart(&one, &here, &unmoved, 1e-3);
    for (int i = 0; i < 4 * 2 * 64; i++) { /* classes, k, dim */
        float centre = mdl_trainer_centres(one.trainer, one.task)[i];

        assert_true(fabsf(mdl_trainer_centres(two.trainer, two.task)[i] -
                          centre) < 1e-5f);
        assert_true(fabsf(mdl_trainer_centres(here.trainer, here.task)[i] -
                          centre) < 1e-4f);
    }
    close_run(&one);
    close_run(&two);
    close_run(&here);
    mdl_model_close(&unmoved.model);
    unsetenv("TSCAF_HOST_DEVICES");
}

static void devices__gone_on_from_a_checkpoint__as_never_stopped(void **state)
{
    char path[64];
    struct run straight, stopped, resumed;
    struct ut_error e;

    (void)state;
    snprintf(path, sizeof(path), "/tmp/test_trainer.%d", (int)getpid());
    need_two_devices();
    if (open_run(&straight, "cuda", 2 * HALF, 2, "root.stage5", &e) ||
        open_run(&stopped, "cuda", 2 * HALF, 2, "root.stage5", &e))
        fail_msg("%s", e.msg);
    train(&straight, 4, 2, "root.stage5");
    train(&stopped, 2, 2, "root.stage5");
    if (mdl_trainer_write(stopped.trainer, path, NULL, 0, true, &e))
        fail_msg("%s", e.msg);
    close_run(&stopped);
    if (mdl_model_open(path, &resumed.model, &e) ||
        open_trainer(&resumed, "cuda", 2 * HALF, 2, "root.stage5", 0, 1, &e) ||
        mdl_trainer_restore(resumed.trainer, &e))
        fail_msg("%s", e.msg);
    train(&resumed, 2, 2, "root.stage5");
    assert_true(apart(&straight, &resumed, false) == 0);
    assert_true(apart(&straight, &resumed, true) == 0);
    assert_true(straight.loss == resumed.loss);
    close_run(&straight);
    close_run(&resumed);
    unlink(path);
    unsetenv("TSCAF_HOST_DEVICES");
}

/* What a batch that failed in its loss had from the update before is no part of
 * the next one's gradient. */
static void batch__label_past_the_classes__gathers_nothing(void **state)
{
    static const char *const backends[] = {"cpu", "cuda"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct run good, failed;
        const float *a, *b;
        struct ut_error e;

        if (open_run(&good, backends[i], HALF, 1, NULL, &e) ||
            open_run(&failed, backends[i], HALF, 1, NULL, &e))
            fail_msg("%s", e.msg);
        train(&good, 1, 1, NULL);
        train(&failed, 1, 1, NULL);
        assert_int_equal(try_batch(&failed, 1, NULL, 4, &e), UT_EINVAL);
        learn(&good, 1, NULL);
        learn(&failed, 1, NULL);
        a = mdl_trainer_gradient(good.trainer, "recognition.arcface.weight");
        b = mdl_trainer_gradient(failed.trainer, "recognition.arcface.weight");
        assert_non_null(a);
        assert_non_null(b);
        assert_memory_equal(a, b, 4 * 2 * 64 * sizeof(*a));
        close_run(&good);
        close_run(&failed);
    }
}

/* A first batch that found no room may be tried again, and still trains on the
 * device. */
static void batch__no_room_at_first__learns_on_the_device_later(void **state)
{
    static const char name[] = "recognition.head.fc.weight";
    struct run r;
    struct ut_error e;
    float before;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    if (open_run(&r, "cuda", HALF, 1, NULL, &e))
        fail_msg("%s", e.msg);
    before = weight_of(&r, name)[0];
    setenv("TSCAF_HOST_DEVICE_MIB", "0", 1);
    assert_int_equal(try_batch(&r, 1, NULL, -1, &e), UT_ENOMEM);
    unsetenv("TSCAF_HOST_DEVICE_MIB");
    learn(&r, 1, NULL);
    if (mdl_trainer_update(r.trainer, 0.01, NULL, &e))
        fail_msg("%s", e.msg);
    assert_true(weight_of(&r, name)[0] == before); /* it moved elsewhere */
    if (mdl_trainer_read(r.trainer, &e))
        fail_msg("%s", e.msg);
    assert_true(weight_of(&r, name)[0] != before);
    close_run(&r);
}

/* A device that fails in what was queued is noticed by whoever waits for it. */
static void wait__device_lost_after_an_update__said(void **state)
{
    char file[] = "/tmp/tscaf-test-XXXXXX";
    int fd = mkstemp(file);
    struct run r;
    struct ut_error e;

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    if (!getenv("TSCAF_TEST_CUDA")) {
        if (open_run(&r, "cuda", HALF, 1, NULL, &e))
            fail_msg("%s", e.msg);
        learn(&r, 1, NULL);
        if (mdl_trainer_update(r.trainer, 0.01, NULL, &e) ||
            mdl_trainer_wait(r.trainer, &e))
            fail_msg("%s", e.msg);
        setenv("TSCAF_HOST_LOSE", file, 1);
        assert_int_equal(mdl_trainer_wait(r.trainer, &e), UT_EDEVICE);
        unsetenv("TSCAF_HOST_LOSE");
        close_run(&r);
    }
    unlink(file);
}

/* Neither a weight nor a count of steps moves in an update that found no room
 * for what its optimiser remembers. */
static void update__no_room_at_first__tried_again_as_the_first(void **state)
{
    const struct mdl_optimizer usual = optimizer;
    struct run straight, again;
    struct ut_error e;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    optimizer = (struct mdl_optimizer){MDL_ADAMW, 0.9f, 0.999f, 1e-8f, 0.01f};
    if (open_run(&straight, "cuda", HALF, 1, NULL, &e) ||
        open_run(&again, "cuda", HALF, 1, NULL, &e))
        fail_msg("%s", e.msg);
    learn(&again, 1, NULL);
    setenv("TSCAF_HOST_DEVICE_MIB", "0", 1);
    assert_int_equal(mdl_trainer_update(again.trainer, 0.01, NULL, &e),
                     UT_ENOMEM);
    unsetenv("TSCAF_HOST_DEVICE_MIB");
    if (mdl_trainer_update(again.trainer, 0.01, NULL, &e))
        fail_msg("%s", e.msg);
    train(&straight, 2, 1, NULL);
    train(&again, 1, 1, NULL);
    assert_true(apart(&straight, &again, false) == 0);
    close_run(&straight);
    close_run(&again);
    optimizer = usual;
}

#define SHARED 5 /* operations with one matrix of 3 x 3 */

static void shared_gradient(const char *backend, float out[9])
{
    static const float mean[3], scale[] = {0.01f, 0.01f, 0.01f};
    static const float up[] = {1, 2, 3};
    static const uint8_t image[] = {40, 90, 200};
    float x[] = {0.9f, 0.1f, -0.2f, 0.3f, 1.1f, 0.4f, -0.5f, 0.6f, 0.8f};
    const float *got;
    struct mdl_backend *b;
    struct mdl_weights w;
    struct mdl_graph g;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    struct mdl_step s;
    struct ut_error e;
    int v, shared;

    mdl_graph_init(&g);
    mdl_graph_module(&g, "test");
    v = mdl_graph_pool(
        &g, mdl_graph_image(&g, mdl_graph_input(&g, 1, 1), mean, scale, false));
    shared = mdl_graph_param(&g, MDL_VALUE_PARAM, mdl_shape_of(2, 3, 3), "x");
    g.values[shared].data = x;
    for (int i = 0; i < SHARED; i++)
        v = mdl_graph_linear(&g, v, shared, -1);
    if (mdl_weights_take(&g, &w, &e) ||
        mdl_step_build(&g, &v, 1, w.trains, &s, &e) ||
        mdl_backend_open(backend, 0, &b, &e) || mdl_lane_new(b, &lane, &e) ||
        mdl_plan_new(lane, &s.graph, MDL_PREC_F32, 1, &plan, &e) ||
        mdl_weights_place(&w, &lane, 1, &e) ||
        mdl_plan_run_nodes(plan, image, 0, s.n_forward, &e) ||
        mdl_plan_set(plan, s.seeds[0], up, &e) ||
        mdl_plan_run_nodes(plan, image, s.n_forward, s.graph.n_nodes, &e) ||
        mdl_weights_learn(&w, &s, &plan, 1, 0, &e))
        fail_msg("%s: %s", backend, e.msg);
    assert_int_equal(s.n_gradients, SHARED);
    got = mdl_weights_gradient(&w, &w.list[shared]);
    assert_non_null(got);
    memcpy(out, got, 9 * sizeof(*out));
    mdl_weights_fini(&w);
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_backend_close(b);
    mdl_step_fini(&s);
    mdl_graph_fini(&g);
}

/* More gradients come than there are weights. */
static void learn__one_weight_of_many_operations__all_add_up(void **state)
{
    float here[9], there[9];

    (void)state;
    shared_gradient("cpu", here);
    shared_gradient("cuda", there);
    for (int i = 0; i < 9; i++)
        assert_true(here[i] != 0 &&
                    fabsf(there[i] - here[i]) < 1e-5f * fabsf(here[i]) + 1e-6f);
}

static void leaf__after_the_first_batch__refused(void **state)
{
    struct run r;
    struct ut_error e;
    int task;

    (void)state;
    if (open_run(&r, "cpu", HALF, 1, NULL, &e))
        fail_msg("%s", e.msg);
    learn(&r, 1, NULL);
    assert_int_equal(mdl_trainer_leaf(r.trainer, "fatigue", NULL, 1, &task, &e),
                     UT_EBUSY);
    assert_non_null(strstr(e.msg, "fatigue comes after the first batch"));
    close_run(&r);
}

static void devices__one_more_than_there_are__refused(void **state)
{
    struct run r;
    struct ut_error e;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    setenv("TSCAF_HOST_DEVICES", "2", 1);
    assert_int_equal(open_run(&r, "cuda", 6, 3, NULL, &e), UT_EINVAL);
    if (!strstr(e.msg, "3 lanes") ||
        !strstr(e.msg, "at most 2, one for each device"))
        fail_msg("%s", e.msg);
    close_run(&r);
    unsetenv("TSCAF_HOST_DEVICES");
}

/* How far one update moves the first weight of root and branch. */
static double move(float clip, float branch_rate, double moved[2])
{
    static const char *const names[] = {"root.features.0.0.weight",
                                        "recognition.head.fc.weight"};
    double before[2], norm;
    struct run r;
    struct ut_error e;

    if (open_run_at(&r, "cpu", HALF, 1, NULL, clip, branch_rate, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < 2; i++)
        before[i] = (double)weight_of(&r, names[i])[0];
    learn(&r, 1, NULL);
    if (mdl_trainer_update(r.trainer, 0.1, &norm, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < 2; i++)
        moved[i] = (double)weight_of(&r, names[i])[0] - before[i];
    close_run(&r);
    return norm;
}

static void update__clipped_and_at_a_branchs_rate__so_much_shorter(void **state)
{
    double whole[2], clipped[2], unclipped[2], slow[2], norm;

    (void)state;
    norm = move(0, 1, whole);
    assert_true(norm > 0 && whole[0] != 0 && whole[1] != 0);
    /* The norm is told as it was; over a limit nothing changes. */
    assert_true(fabs(move((float)norm / 4, 1, clipped) - norm) < 1e-4 * norm);
    move((float)norm * 1.01f, 1, unclipped);
    move(0, 0.5f, slow);
    for (int i = 0; i < 2; i++) {
        /* A difference of two weights has few of their digits. */
        assert_true(fabs(clipped[i] - whole[i] / 4) < 1e-2 * fabs(whole[i]));
        assert_true(fabs(unclipped[i] - whole[i]) < 1e-2 * fabs(whole[i]));
    }
    assert_true(fabs(slow[0] - whole[0]) < 1e-2 * fabs(whole[0]));
    assert_true(fabs(slow[1] - whole[1] / 2) < 1e-2 * fabs(whole[1]));
}

static void lanes__uneven__refused(void **state)
{
    struct run r;
    struct ut_error e;

    (void)state;
    assert_int_equal(open_run(&r, "cpu", 3, 2, NULL, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "2 lanes"));
    close_run(&r);
    assert_int_equal(open_run(&r, "cpu", 6, 3, NULL, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "at most 2"));
    close_run(&r);
}

/* Only what lies before the hint learns from it, and both backends agree. */
static void hint__its_gradient__joins_before_it(void **state)
{
    static const char *const before = "root.features.0.0.weight",
                             *const behind = "root.features.18.0.weight";
    float stem[2], last[2];
    struct run with, without, ref;
    struct ut_error e;

    (void)state;
    if (open_run(&with, "cpu", HALF, 1, "root.stage5", &e) ||
        open_run(&without, "cpu", HALF, 1, NULL, &e) ||
        open_run(&ref, "ref", HALF, 1, "root.stage5", &e))
        fail_msg("%s", e.msg);
    learn(&with, 1, "root.stage5");
    learn(&without, 1, NULL);
    learn(&ref, 1, "root.stage5");
    assert_true(with.loss > without.loss);
    assert_true(fabs(with.loss - ref.loss) < 1e-4 * ref.loss);
    stem[0] = mdl_trainer_gradient(with.trainer, before)[0];
    stem[1] = mdl_trainer_gradient(without.trainer, before)[0];
    last[0] = mdl_trainer_gradient(with.trainer, behind)[0];
    last[1] = mdl_trainer_gradient(without.trainer, behind)[0];
    assert_true(stem[0] != stem[1]);
    assert_true(last[0] == last[1] && last[0] != 0);
    assert_true(fabsf(mdl_trainer_gradient(ref.trainer, before)[0] - stem[0]) <
                1e-2f * fabsf(stem[0]) + 1e-5f);
    close_run(&with);
    close_run(&without);
    close_run(&ref);
}

static void hint__no_such_module__named(void **state)
{
    struct run r;
    struct ut_error e;

    (void)state;
    assert_int_equal(open_run(&r, "cpu", 2, 1, "root.stage99", &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "\"root.stage99\""));
    close_run(&r);
}

/* It would be asked of a teacher and learnt by nobody. */
static void hint__in_a_frozen_root__named(void **state)
{
    struct run r;
    struct ut_error e;

    (void)state;
    frozen_root = true;
    assert_int_equal(open_run(&r, "cpu", 2, 1, "root.stage5", &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "nothing that trains leads to root.stage5"));
    close_run(&r);
    assert_int_equal(open_run(&r, "cpu", 2, 1, NULL, &e), UT_OK);
    close_run(&r);
    frozen_root = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lanes__equal_parts__as_one),
        cmocka_unit_test(lanes__updated__all_see_it),
        cmocka_unit_test(devices__equal_parts__move_as_one),
        cmocka_unit_test(devices__gone_on_from_a_checkpoint__as_never_stopped),
        cmocka_unit_test(batch__label_past_the_classes__gathers_nothing),
        cmocka_unit_test(batch__no_room_at_first__learns_on_the_device_later),
        cmocka_unit_test(wait__device_lost_after_an_update__said),
        cmocka_unit_test(update__no_room_at_first__tried_again_as_the_first),
        cmocka_unit_test(learn__one_weight_of_many_operations__all_add_up),
        cmocka_unit_test(leaf__after_the_first_batch__refused),
        cmocka_unit_test(devices__one_more_than_there_are__refused),
        cmocka_unit_test(
            update__clipped_and_at_a_branchs_rate__so_much_shorter),
        cmocka_unit_test(lanes__uneven__refused),
        cmocka_unit_test(hint__its_gradient__joins_before_it),
        cmocka_unit_test(hint__no_such_module__named),
        cmocka_unit_test(hint__in_a_frozen_root__named),
    };

    if (!getenv("TSCAF_TEST_CUDA")) {
        setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
        setenv("TSCAF_CUDA_CACHE", "/dev/null", 1);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
