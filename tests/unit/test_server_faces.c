/* The way of a request's faces where it ends early, over a real, small model:
 * the decoder's thread is held, so that what happens meanwhile is known. */
#include "server/inference/faces.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/app.h"
#include "server/metrics.h"
#include "tests/support/unit.h"
#include "tests/unit/hold.h"

#define CROP ((size_t)112 * 112 * 3)
#define FAR 60000000 /* us */
#define MAX_FRAMES 2

static const char tiny[] =
    "{\"input\":112,\"trees\":[{\"name\":\"root\",\"module\":\"mobilenetv2\","
    "\"width\":0.1,\"children\":[{\"name\":\"fatigue\",\"module\":\"se\","
    "\"head\":\"binary\"}]}]}";

static struct srv_app app;
static struct srv_config config;
static const uint8_t crop[CROP];

struct answer {
    bool came;
    struct api_error err; /* code 0: none */
};

static void on_done(struct srv_faces_job *job, const struct api_error *err)
{
    struct answer *a = job->arg;

    a->came = true;
    if (err)
        a->err = *err;
}

static void write_model(const char *path)
{
    struct mdl_spec *spec = malloc(sizeof(*spec));
    struct mdl_model m;
    struct ut_error e;

    assert_non_null(spec);
    if (mdl_spec_parse(tiny, strlen(tiny), spec, &e) ||
        mdl_model_fresh(spec, 1, &m, &e) ||
        mdl_model_write(path, spec, &m.graph, NULL, 0, NULL, 0, &e))
        fail_msg("%s", e.msg);
    mdl_model_close(&m);
    free(spec);
}

static int make(int max_batch, int64_t delay_us)
{
    char path[128];
    struct ut_error e;

    memset(&app, 0, sizeof(app));
    snprintf(path, sizeof(path), "%s/model.safetensors", test_dir());
    write_model(path);
    config = (struct srv_config){.backend = (char *)(uintptr_t) "cpu",
                                 .precision = MDL_PREC_F32,
                                 .max_batch = max_batch,
                                 .batch_delay_us = delay_us,
                                 .max_queue = MAX_FRAMES,
                                 .max_queue_bytes = 1 << 20,
                                 .gallery_max_faces = 1};
    app.config = &config;
    pthread_mutex_init(&app.generations.lock, NULL);
    uv_loop_init(&app.loop);
    if (srv_mailbox_new(&app.loop, &app.mailbox, &e) ||
        srv_metrics_new(NULL, 0, &app.metrics, &e) ||
        srv_generation_new(&app, path, &app.generations.current, &e) ||
        srv_generation_execute(app.generations.current, &e) ||
        srv_pool_new("decode", 1, 8, &app.decode_pool, &e) ||
        srv_faces_new(&app, &app.faces, &e))
        fail_msg("%s", e.msg);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    return make(1, 0);
}

/* Faces wait for more than the queue takes. */
static int set_up_waiting(void **state)
{
    (void)state;
    return make(2 * MAX_FRAMES, FAR);
}

static int tear_down(void **state)
{
    (void)state;
    srv_faces_free(app.faces);
    srv_pool_free(app.decode_pool);
    srv_generations_free(&app);
    srv_metrics_free(app.metrics);
    srv_mailbox_free(app.mailbox);
    uv_run(&app.loop, UV_RUN_DEFAULT);
    uv_loop_close(&app.loop);
    pthread_mutex_destroy(&app.generations.lock);
    return 0;
}

/* One of n crops; frames has room for them. */
static struct srv_faces_job job_of(int n, struct srv_faces_frame *frames,
                                   const bool *cancelled, struct answer *a)
{
    for (int i = 0; i < n; i++)
        frames[i] = (struct srv_faces_frame){.bytes = crop, .len = CROP};
    *a = (struct answer){0};
    return (struct srv_faces_job){.app = &app,
                                  .generation = srv_generation_take(&app),
                                  .frames = frames,
                                  .n_frames = n,
                                  .input = SRV_INPUT_U8,
                                  .tasks = SRV_TASK_FATIGUE,
                                  .deadline_us = ut_clock_us() + FAR,
                                  .cancelled = cancelled,
                                  .field = "images",
                                  .done = on_done,
                                  .arg = a};
}

static void wait_for(const struct answer *a)
{
    while (!a->came)
        uv_run(&app.loop, UV_RUN_ONCE);
}

/* How many of them were rejected for that reason. */
static int rejected(const char *reason)
{
    char line[80];
    const char *at;
    struct ut_buf text;
    struct ut_error e;
    int n;

    ut_buf_init(&text, 1 << 20);
    assert_int_equal(srv_metrics_write(app.metrics, &text, &e), UT_OK);
    snprintf(line, sizeof(line), "\ntscaf_rejections_total{reason=\"%s\"} ",
             reason);
    at = strstr(text.data, line);
    assert_non_null(at);
    n = atoi(at + strlen(line));
    ut_buf_fini(&text);
    return n;
}

static void start__client_left_before_decoding__canceled_and_counted(void **s)
{
    struct srv_faces_frame frames[MAX_FRAMES];
    bool left = false;
    struct answer a;
    struct srv_faces_job job = job_of(MAX_FRAMES, frames, &left, &a);
    struct hold h;
    struct ut_error e;

    (void)s;
    hold(app.decode_pool, &h);
    assert_int_equal(srv_faces_start(&job, &e), UT_OK);
    __atomic_store_n(&left, true, __ATOMIC_RELAXED);
    uv_sem_post(&h.go);
    wait_for(&a);
    assert_int_equal(a.err.code, API_CANCELED);
    assert_int_equal(rejected("cancelled"), MAX_FRAMES);
    srv_faces_job_fini(&job);
    hold_fini(&h);
}

static void start__too_late_before_decoding__refused_and_counted(void **s)
{
    struct srv_faces_frame frames[MAX_FRAMES];
    bool left = false;
    struct answer a;
    struct srv_faces_job job = job_of(MAX_FRAMES, frames, &left, &a);
    struct hold h;
    struct ut_error e;

    (void)s;
    job.deadline_us = ut_clock_us();
    hold(app.decode_pool, &h);
    assert_int_equal(srv_faces_start(&job, &e), UT_OK);
    uv_sem_post(&h.go);
    wait_for(&a);
    assert_int_equal(a.err.code, API_DEADLINE_EXCEEDED);
    assert_int_equal(rejected("expired"), MAX_FRAMES);
    srv_faces_job_fini(&job);
    hold_fini(&h);
}

/* Later it would be refused again. */
static void start__as_many_as_the_queue_takes_and_one_more__no_retry(void **s)
{
    struct srv_faces_frame frames[MAX_FRAMES + 1];
    bool left = false;
    struct answer a;
    struct srv_faces_job job = job_of(MAX_FRAMES, frames, &left, &a);
    struct api_error err;
    struct ut_error e;

    (void)s;
    assert_int_equal(srv_faces_start(&job, &e), UT_OK);
    wait_for(&a);
    assert_int_equal(a.err.code, 0);
    srv_faces_job_fini(&job);
    job = job_of(MAX_FRAMES + 1, frames, &left, &a);
    assert_int_equal(srv_faces_start(&job, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "3 pictures"));
    assert_non_null(strstr(e.msg, "2 (--max-queue)"));
    srv_faces_job_fini(&job);
    api_fail_from(&err, &e);
    assert_int_equal(err.retry_after_s, 0);
}

static void on_item(struct srv_item *it)
{
    (void)it;
}

/* What embeds the gallery anew tries again and again: no request is refused. */
static void start__queue_is_full__refused_and_counted_only_here(void **s)
{
    static struct srv_item items[MAX_FRAMES + 1];
    struct srv_item *list[MAX_FRAMES + 1];
    struct srv_batcher *b = app.generations.current->batcher;
    struct srv_faces_frame frames[1];
    bool left = false;
    struct answer a;
    struct srv_faces_job job = job_of(1, frames, &left, &a);
    struct ut_error e;

    (void)s;
    for (int i = 0; i <= MAX_FRAMES; i++) {
        items[i] = (struct srv_item){.tasks = SRV_TASK_FATIGUE,
                                     .crop = crop,
                                     .deadline_us = ut_clock_us() + FAR,
                                     .done = on_item};
        list[i] = &items[i];
    }
    assert_int_equal(srv_batcher_push(b, list, MAX_FRAMES, &e), UT_OK);
    assert_int_equal(srv_batcher_push(b, list + MAX_FRAMES, 1, &e), UT_EBUSY);
    assert_int_equal(rejected("queue_full"), 0);
    assert_int_equal(srv_faces_start(&job, &e), UT_OK);
    wait_for(&a);
    assert_int_equal(a.err.code, API_UNAVAILABLE);
    assert_true(a.err.retry_after_s > 0);
    assert_int_equal(rejected("queue_full"), 1);
    srv_faces_job_fini(&job);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(start__client_left_before_decoding__canceled_and_counted),
        TEST(start__too_late_before_decoding__refused_and_counted),
        TEST(start__as_many_as_the_queue_takes_and_one_more__no_retry),
        cmocka_unit_test_setup_teardown(
            start__queue_is_full__refused_and_counted_only_here, set_up_waiting,
            tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
