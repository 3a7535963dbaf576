/* Frames of one size as one batch, on a device for which the processor stands
 * (tests/plugins/host), against frames one by one. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/inference/detect.h"
#include "tests/support/unit.h"

#define SMALL 16 /* seen as 32: enlarged twice */
#define LARGE 48
#define FRAMES 9
#define SCORE 0.4f /* of a detector that was never trained: some of them */
#define MAX 20

static char lose[128];
static struct mdl_detector *detector;
static struct mdl_backend *device;

struct answer {
    struct mdl_face faces[MAX];
    int n;
};

static int side = SMALL;

/* Frame i; every third is of another size. */
static struct mdl_image frame_of(unsigned i)
{
    int w = side, h = i % 3 == 2 ? 2 * side : side - (int)(i % 2);
    struct mdl_image im = {.width = w,
                           .height = h,
                           .full_width = 2 * w,
                           .full_height = 2 * h,
                           .rgb = malloc((size_t)(w * h) * 3)};

    assert_non_null(im.rgb);
    for (int k = 0; k < w * h * 3; k++)
        im.rgb[k] = (uint8_t)(((unsigned)k + 7 * i) * 2654435761u >> 20);
    return im;
}

static struct mdl_finder *finder_new(void)
{
    struct mdl_finder *f;
    struct ut_error e;

    if (mdl_finder_new(detector, device, &f, &e))
        fail_msg("%s", e.msg);
    return f;
}

static void one_by_one(struct answer want[FRAMES])
{
    struct mdl_finder *f = finder_new();
    struct ut_error e;
    int found = 0;

    for (unsigned i = 0; i < FRAMES; i++) {
        struct mdl_image im = frame_of(i);

        if (mdl_finder_run(f, &im, 0, SCORE, MAX, want[i].faces, &want[i].n,
                           &e))
            fail_msg("%s", e.msg);
        found += want[i].n;
        mdl_image_fini(&im);
    }
    assert_true(found >= FRAMES); /* or nothing is compared */
    mdl_finder_free(f);
}

static void assert_same(const struct answer *got, const struct answer *want)
{
    assert_int_equal(got->n, want->n);
    assert_memory_equal(got->faces, want->faces,
                        (size_t)want->n * sizeof(want->faces[0]));
}

/* Frames 0, 1, 3, 4, 6, 7, 9... are alike. */
static unsigned alike(unsigned i)
{
    return i / 2 * 3 + i % 2;
}

/* From `from` up to one past the largest batch. */
static void many(const struct answer want[FRAMES], unsigned from)
{
    struct mdl_finder *f = finder_new();
    struct answer got[MDL_FINDER_BATCH + 1];
    struct mdl_find list[MDL_FINDER_BATCH + 1];
    struct mdl_image ims[MDL_FINDER_BATCH + 1];
    struct ut_error e;

    for (unsigned n = from; n <= MDL_FINDER_BATCH + 1; n++) {
        for (unsigned i = 0; i < n; i++) {
            ims[i] = frame_of(alike(i) % 9);
            list[i] = (struct mdl_find){&ims[i], SCORE, MAX, got[i].faces, 9};
        }
        if (mdl_finder_run_many(f, 0, list, (int)n, &e))
            fail_msg("%s", e.msg);
        for (unsigned i = 0; i < n; i++) {
            got[i].n = list[i].n;
            assert_same(&got[i], &want[alike(i) % 9]);
            mdl_image_fini(&ims[i]);
        }
    }
    mdl_finder_free(f);
}

static void no_room_for(int batch)
{
    struct mdl_graph g, fast;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    struct ut_error e;

    if (mdl_detector_graph(detector, 2 * LARGE, 2 * LARGE, &g, &e) ||
        mdl_graph_optimise(&g, ~0ull, &fast, &e) ||
        mdl_lane_new(device, &lane, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(mdl_plan_new(lane, &fast, MDL_PREC_F32, batch, &plan, &e),
                     UT_ENOMEM);
    mdl_lane_free(lane);
    mdl_graph_fini(&fast);
    mdl_graph_fini(&g);
}

static void many__any_number__as_one_by_one(void **state)
{
    static struct answer want[FRAMES];

    (void)state;
    one_by_one(want);
    many(want, 1);
    side = LARGE;
    one_by_one(want);
    setenv("TSCAF_HOST_DEVICE_MIB", "1", 1); /* for few frames at once */
    no_room_for(MDL_FINDER_BATCH);
    many(want, MDL_FINDER_BATCH + 1);
    unsetenv("TSCAF_HOST_DEVICE_MIB");
    side = SMALL;
}

static void many__another_size__named(void **state)
{
    struct mdl_finder *f = finder_new();
    struct mdl_image a = frame_of(0), b = frame_of(2);
    struct answer got[2];
    struct mdl_find list[] = {{&a, SCORE, MAX, got[0].faces, 9},
                              {&b, SCORE, MAX, got[1].faces, 9}};
    struct ut_error e;

    (void)state;
    assert_false(mdl_finder_alike(detector, &a, &b, 0));
    assert_int_equal(mdl_finder_run_many(f, 0, list, 2, &e), UT_EINVAL);
    assert_string_equal(e.msg, "a frame of 16x32 is not of the first one's "
                               "size, 16x16, to the network");
    assert_int_equal(list[0].n, 0);
    mdl_image_fini(&a);
    mdl_image_fini(&b);
    mdl_finder_free(f);
}

/* ---- threads ---- */

struct worker {
    struct srv_detect *detect;
    unsigned idx;
    struct answer got[FRAMES];
    enum ut_err rc[FRAMES];
    pthread_t thread;
};

static void *find_all(void *arg)
{
    struct worker *w = arg;

    for (unsigned k = 0; k < FRAMES; k++) {
        unsigned i = (k + w->idx) % FRAMES;
        struct mdl_image im = frame_of(i);
        struct ut_error e;

        w->rc[i] = srv_detect_run(w->detect, (int)w->idx, &im, SCORE, MAX,
                                  w->got[i].faces, &w->got[i].n, &e);
        mdl_image_fini(&im);
    }
    return NULL;
}

#define WORKERS 4

static void run_workers(struct srv_detect *t, struct worker workers[WORKERS])
{
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){.detect = t, .idx = i};
        assert_int_equal(
            pthread_create(&workers[i].thread, NULL, find_all, &workers[i]), 0);
    }
    for (int i = 0; i < WORKERS; i++)
        pthread_join(workers[i].thread, NULL);
}

/* What waits runs together, at most so many, and all are answered rightly. */
static void detect__many_threads__batches_right(void **state)
{
    static struct answer want[FRAMES];
    static struct worker workers[WORKERS];
    struct srv_detect *t;
    struct ut_error e;
    uint64_t batches = 0, frames = 0;

    (void)state;
    one_by_one(want);
    assert_int_equal(srv_detect_new(detector, device, WORKERS, &t, &e), UT_OK);
    for (int round = 0; round < 20 && batches == frames; round++) {
        run_workers(t, workers);
        for (int i = 0; i < WORKERS; i++)
            for (int k = 0; k < FRAMES; k++) {
                assert_int_equal(workers[i].rc[k], UT_OK);
                assert_same(&workers[i].got[k], &want[k]);
            }
        srv_detect_stats(t, &batches, &frames);
        assert_int_equal(frames, (uint64_t)(round + 1) * WORKERS * FRAMES);
    }
    assert_true(batches < frames);
    srv_detect_free(t);
}

/* A lost context fails what was in its batches, and nothing after. */
static void detect__context_lost__those_frames_fail(void **state)
{
    static struct answer want[FRAMES];
    static struct worker workers[WORKERS];
    struct srv_detect *t;
    struct ut_error e;
    int failed = 0;

    (void)state;
    one_by_one(want);
    assert_int_equal(srv_detect_new(detector, device, WORKERS, &t, &e), UT_OK);
    fclose(fopen(lose, "w"));
    run_workers(t, workers);
    for (int i = 0; i < WORKERS; i++)
        for (int k = 0; k < FRAMES; k++) {
            if (workers[i].rc[k])
                assert_int_equal(workers[i].rc[k], UT_EDEVICE);
            else
                assert_same(&workers[i].got[k], &want[k]);
            failed += workers[i].rc[k] != UT_OK;
        }
    assert_in_range(failed, 1, 2 * MDL_FINDER_BATCH);
    run_workers(t, workers);
    for (int i = 0; i < WORKERS; i++)
        for (int k = 0; k < FRAMES; k++) {
            assert_int_equal(workers[i].rc[k], UT_OK);
            assert_same(&workers[i].got[k], &want[k]);
        }
    srv_detect_free(t);
}

/* On the processor each thread has its own, and nothing waits. */
static void detect__processor__no_batches(void **state)
{
    static struct worker workers[WORKERS];
    struct mdl_backend *cpu;
    struct srv_detect *t;
    struct ut_error e;
    uint64_t batches, frames;

    (void)state;
    assert_int_equal(mdl_backend_open("cpu", 0, &cpu, &e), UT_OK);
    assert_int_equal(srv_detect_new(detector, cpu, WORKERS, &t, &e), UT_OK);
    run_workers(t, workers);
    for (int i = 0; i < WORKERS; i++)
        for (int k = 0; k < FRAMES; k++) {
            assert_int_equal(workers[i].rc[k], UT_OK);
            assert_same(&workers[i].got[k], &workers[0].got[k]);
        }
    srv_detect_stats(t, &batches, &frames);
    assert_int_equal(batches, 0);
    srv_detect_free(t);
    mdl_backend_close(cpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many__any_number__as_one_by_one),
        cmocka_unit_test(many__another_size__named),
        cmocka_unit_test(detect__many_threads__batches_right),
        cmocka_unit_test(detect__context_lost__those_frames_fail),
        cmocka_unit_test(detect__processor__no_batches),
    };
    struct ut_error e;
    int bad;

    snprintf(lose, sizeof(lose), "%s/lose", test_dir());
    setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
    setenv("TSCAF_CUDA_CACHE", test_dir(), 1);
    setenv("TSCAF_HOST_LOSE", lose, 1);
    cmocka_set_test_filter(getenv("TEST_FILTER")); /* NULL: all */
    if (mdl_detector_fresh(3, &detector, &e) ||
        mdl_backend_open("cuda", 0, &device, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    mdl_backend_close(device);
    mdl_detector_close(detector);
    return bad;
}
