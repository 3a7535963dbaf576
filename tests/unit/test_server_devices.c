/* The server's engine and batcher on devices that are not the processor, with
 * the CUDA backend's plug-in whose GPU the processor stands for
 * (tests/plugins/host): several devices, too little memory, errors that stay.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/app.h"
#include "server/inference/batcher.h"
#include "server/inference/devices.h"
#include "server/log.h"
#include "tests/support/unit.h"

#define CROP ((size_t)112 * 112 * 3)
#define DIM 16
#define FAR 60000000 /* us */
#define N 24

static const char tiny[] =
    "{\"input\":112,\"trees\":[{\"name\":\"root\",\"module\":\"mobilenetv2\","
    "\"width\":0.1,\"children\":[{\"name\":\"fatigue\",\"module\":\"se\","
    "\"head\":\"binary\"},{\"name\":\"recognition\",\"module\":\"none\","
    "\"head\":\"embedding\",\"dim\":16}]}]}";

static char folder[] = "/tmp/tscaf-test-XXXXXX";
static char model[64], lose[64];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int n_done;

static void on_done(struct srv_item *it)
{
    (void)it;
    pthread_mutex_lock(&lock);
    n_done++;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static struct srv_engine *engine_new(const char *backend, int max_batch,
                                     int lanes)
{
    struct srv_engine_config c = {.model_path = model,
                                  .backend = backend,
                                  .max_batch = max_batch,
                                  .n_lanes = lanes};
    struct srv_engine *en;
    struct ut_error e;

    if (srv_engine_new(&c, &en, &e))
        fail_msg("%s", e.msg);
    return en;
}

/* Runs n faces through a batcher of this engine; how many failed. */
static int run(struct srv_batcher *b, int n, float embeddings[N][DIM])
{
    static uint8_t crops[N][CROP];
    struct srv_item items[N] = {0}, *list[N];
    struct ut_error e;
    int failed = 0;

    n_done = 0;
    for (int i = 0; i < n; i++) {
        for (size_t k = 0; k < CROP; k++)
            crops[i][k] = (uint8_t)((size_t)(i + 1) * k * 2654435761u >> 13);
        items[i] = (struct srv_item){.tasks = SRV_TASK_RECOGNITION,
                                     .crop = crops[i],
                                     .deadline_us = ut_clock_us() + FAR,
                                     .done = on_done};
        items[i].scores.embedding = embeddings[i];
        list[i] = &items[i];
    }
    assert_int_equal(srv_batcher_push(b, list, n, &e), UT_OK);
    pthread_mutex_lock(&lock);
    while (n_done < n)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < n; i++) {
        failed += items[i].rc != UT_OK;
        if (items[i].rc)
            assert_int_equal(items[i].rc, UT_EDEVICE);
    }
    return failed;
}

static struct srv_batcher *batcher_new(struct srv_engine *en,
                                       struct srv_log *log)
{
    struct srv_batcher_config c = {.max_items = 100};
    struct srv_batcher *b;
    struct ut_error e;

    if (srv_batcher_new(en, NULL, NULL, log, &c, &b, &e))
        fail_msg("%s", e.msg);
    return b;
}

static struct mdl_device_stats stats_of(const struct srv_engine *en, int i)
{
    struct mdl_device_stats s;

    assert_true(mdl_backend_stats(srv_engine_device_at(en, i), &s));
    return s;
}

/* One queue feeds the executors of both devices. */
static void devices__two__both_work(void **state)
{
    struct srv_engine *en, *cpu;
    struct srv_batcher *b;
    static float got[N][DIM], want[N][DIM];

    (void)state;
    setenv("TSCAF_HOST_DEVICES", "2", 1);
    en = engine_new("cuda", 4, 0);
    assert_int_equal(srv_engine_devices(en), 2);
    assert_int_equal(srv_engine_lanes(en), 4);
    assert_null(srv_engine_remark(en, 0));
    b = batcher_new(en, NULL);
    for (int i = 0;
         i < 50 && !(stats_of(en, 0).batches && i && stats_of(en, 1).batches);
         i++)
        assert_int_equal(run(b, N, got), 0);
    assert_true(stats_of(en, 0).batches > 0);
    assert_true(stats_of(en, 1).batches > 0);
    srv_batcher_free(b);
    srv_engine_free(en);
    en = engine_new("cuda", 4, 1); /* one lane has no use for the other */
    assert_int_equal(srv_engine_devices(en), 1);
    srv_engine_free(en);
    cpu = engine_new("cpu", 4, 1);
    assert_int_equal(srv_engine_devices(cpu), 1);
    b = batcher_new(cpu, NULL);
    assert_int_equal(run(b, N, want), 0);
    assert_close(got[0], want[0], N * DIM, 1e-3, 0, "embeddings");
    srv_batcher_free(b);
    srv_engine_free(cpu);
    unsetenv("TSCAF_HOST_DEVICES");
}

/* A batch's error is its own, and logged; the device is made anew and goes on,
 * and its figures say so. */
static void device__error_that_stays__one_batch_fails(void **state)
{
    struct srv_engine *en = engine_new("cuda", 4, 1);
    static float before[N][DIM], after[N][DIM];
    char line[SRV_LOG_MAX_LINE];
    FILE *lines = tmpfile();
    struct srv_batcher *b;
    struct srv_log *log;
    struct ut_error e;
    struct ut_buf text;

    (void)state;
    assert_non_null(lines);
    assert_int_equal(srv_log_new(fileno(lines), SRV_LOG_INFO, &log, &e), UT_OK);
    b = batcher_new(en, log);
    assert_int_equal(run(b, 4, before), 0);
    fclose(fopen(lose, "w"));
    assert_int_equal(run(b, 4, after), 4);
    assert_int_equal(run(b, 4, after), 0);
    assert_memory_equal(after, before, 4 * DIM * sizeof(float));
    ut_buf_init(&text, 1 << 16);
    assert_int_equal(srv_devices_metrics(en, &text, &e), UT_OK);
    assert_int_equal(srv_devices_json(en, &text, &e), UT_OK);
    assert_non_null(strstr(text.data,
                           "\ntscaf_device_contexts_lost_total{device=\"0\"} "
                           "1\n"));
    assert_non_null(
        strstr(text.data, "\ntscaf_device_memory_bytes{device=\"0\"} "));
    assert_non_null(strstr(text.data,
                           "\ntscaf_device_kernel_seconds_total{device=\"0\"} "
                           "0.002\n")); /* two batches, a look at its clock */
    assert_non_null(strstr(text.data, ",\"devices\":[{\"device\":0,"));
    assert_non_null(strstr(text.data, "\"contexts_lost\":1}]"));
    ut_buf_fini(&text);
    srv_batcher_free(b);
    srv_engine_free(en);
    srv_log_free(log);
    rewind(lines);
    assert_non_null(fgets(line, sizeof(line), lines));
    assert_non_null(strstr(line, "\"level\":\"warn\""));
    if (!strstr(line, "a batch of 4 on lane 0 failed: CUDA: ") ||
        !strstr(line, "an illegal access"))
        fail_msg("%s", line);
    assert_null(fgets(line, sizeof(line), lines));
    fclose(lines);
}

/* A device that gets no new context makes the server unready, until a batch
 * runs on it again. */
static void device__stays_lost__not_well_until_a_batch_runs(void **state)
{
    struct srv_config config = {.backend = (char *)(uintptr_t) "cuda",
                                .max_batch = 4,
                                .max_queue = 100,
                                .gallery_max_faces = 10};
    struct srv_app app = {.config = &config};
    static float got[N][DIM];
    struct srv_generation *g;
    struct srv_batcher *b;
    struct ut_error why = {0};

    (void)state;
    pthread_mutex_init(&app.generations.lock, NULL);
    assert_int_equal(srv_generation_new(&app, model, &g, &why), UT_OK);
    assert_int_equal(srv_generation_execute(g, &why), UT_OK);
    b = g->batcher;
    app.generations.current = g;
    assert_false(srv_health_ready(&app, &why));
    assert_string_equal(why.msg, "the server is starting");
    app.ready = true;
    assert_int_equal(run(b, 4, got), 0);
    setenv("TSCAF_HOST_STAYS_LOST", "1", 1);
    fclose(fopen(lose, "w"));
    assert_int_equal(run(b, 1, got), 1);
    assert_true(srv_health_ready(&app, &why)); /* one batch tells nothing */
    for (int i = 1; i < SRV_DEVICE_FAILURES; i++)
        assert_int_equal(run(b, 1, got), 1);
    assert_false(srv_health_ready(&app, &why));
    assert_string_equal(why.msg, "on device 0 the last 16 batches failed: "
                                 "CUDA: a new context: the bus is dead");
    unsetenv("TSCAF_HOST_STAYS_LOST");
    assert_int_equal(run(b, 1, got), 1);
    assert_int_equal(run(b, 1, got), 0);
    assert_true(srv_health_ready(&app, &why));
    srv_generation_drop_now(g);
    pthread_mutex_destroy(&app.generations.lock);
}

/* Memory for small batches only: those, and a line for each size that is not.
 */
static void device__little_memory__smaller_batches(void **state)
{
    struct srv_engine_config c = {
        .model_path = model, .backend = "cuda", .max_batch = 32, .n_lanes = 2};
    struct srv_engine *en;
    struct srv_batcher *b;
    static float got[N][DIM];
    struct ut_error e;
    int max;

    (void)state;
    setenv("TSCAF_HOST_DEVICE_MIB", "2", 1);
    en = engine_new("cuda", 32, 2);
    max = srv_engine_max_batch(en);
    assert_in_range(max, 1, 16);
    assert_int_equal(srv_engine_batch(en, 32), max);
    for (int size = 2 * max, i = 0; size <= 32; size *= 2, i++) {
        char want[64];

        snprintf(want, sizeof(want),
                 "no batches of %d: a plan for %d faces needs ", size, size);
        assert_non_null(srv_engine_remark(en, i));
        if (strncmp(srv_engine_remark(en, i), want, strlen(want)))
            fail_msg("%s", srv_engine_remark(en, i));
    }
    b = batcher_new(en, NULL);
    assert_int_equal(run(b, N, got), 0);
    srv_batcher_free(b);
    srv_engine_free(en);
    setenv("TSCAF_HOST_DEVICE_MIB", "0", 1); /* not even one face */
    assert_int_equal(srv_engine_new(&c, &en, &e), UT_ENOMEM);
    assert_non_null(strstr(e.msg, "the GPU has no"));
    unsetenv("TSCAF_HOST_DEVICE_MIB");
}

/* At the start and after a change over alike. */
static void generation__little_memory__logged(void **state)
{
    struct srv_config config = {.backend = (char *)(uintptr_t) "cuda",
                                .max_batch = 32,
                                .gallery_max_faces = 10};
    struct srv_app app = {.config = &config};
    FILE *file = tmpfile();
    struct srv_generation *g;
    char text[4096];
    struct ut_error e;

    (void)state;
    setenv("TSCAF_HOST_DEVICE_MIB", "2", 1);
    assert_non_null(file);
    assert_int_equal(srv_log_new(fileno(file), SRV_LOG_WARN, &app.log, &e),
                     UT_OK);
    assert_int_equal(srv_generation_new(&app, model, &g, &e), UT_OK);
    rewind(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    assert_non_null(strstr(text, "no batches of 32: a plan for 32 faces"));
    srv_generation_drop(g);
    srv_log_free(app.log);
    fclose(file);
    unsetenv("TSCAF_HOST_DEVICE_MIB");
}

static void processor__no_figures(void **state)
{
    struct srv_engine *en = engine_new("cpu", 1, 1);
    struct ut_buf text;
    struct ut_error e;

    (void)state;
    ut_buf_init(&text, 1 << 16);
    assert_int_equal(srv_devices_metrics(en, &text, &e), UT_OK);
    assert_int_equal(srv_devices_json(en, &text, &e), UT_OK);
    assert_int_equal(text.len, 0);
    ut_buf_fini(&text);
    srv_engine_free(en);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices__two__both_work),
        cmocka_unit_test(device__error_that_stays__one_batch_fails),
        cmocka_unit_test(device__stays_lost__not_well_until_a_batch_runs),
        cmocka_unit_test(device__little_memory__smaller_batches),
        cmocka_unit_test(generation__little_memory__logged),
        cmocka_unit_test(processor__no_figures),
    };
    struct mdl_st_pair meta = {"trained", "false"};
    struct mdl_spec *spec = malloc(sizeof(*spec));
    struct mdl_model m;
    struct ut_error e;
    char command[64];
    int bad;

    if (!spec || !mkdtemp(folder))
        return 1;
    snprintf(model, sizeof(model), "%s/model.safetensors", folder);
    snprintf(lose, sizeof(lose), "%s/lose", folder);
    setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
    setenv("TSCAF_CUDA_CACHE", folder, 1);
    setenv("TSCAF_HOST_LOSE", lose, 1);
    if (mdl_spec_parse(tiny, strlen(tiny), spec, &e) ||
        mdl_model_fresh(spec, 1, &m, &e) ||
        mdl_model_write(model, &m.spec, &m.graph, &meta, 1, NULL, 0, &e))
        return 1;
    mdl_model_close(&m);
    free(spec);
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command) || bad;
}
