/* The batcher over a real, small model: batching, order, deadlines, limits. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/inference/batcher.h"
#include "tests/support/unit.h"

#define CROP ((size_t)112 * 112 * 3)
#define MODEL "build/test_batcher.safetensors"
#define DIM 16
#define FAR 60000000 /* us */

static const char tiny[] =
    "{\"input\":112,\"trees\":[{\"name\":\"root\",\"module\":\"mobilenetv2\","
    "\"width\":0.1,\"children\":[{\"name\":\"fatigue\",\"module\":\"se\","
    "\"head\":\"binary\"},{\"name\":\"recognition\",\"module\":\"none\","
    "\"head\":\"embedding\",\"dim\":16}]}]}";

static struct srv_engine *engine;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int n_done;
static struct srv_item *order[256];

static void on_done(struct srv_item *it)
{
    pthread_mutex_lock(&lock);
    order[n_done++] = it;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_for(int n)
{
    pthread_mutex_lock(&lock);
    while (n_done < n)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

/* n items over their own noisy crops; freed by items_free. */
static struct srv_item *items_new(int n, unsigned tasks)
{
    struct srv_item *items = calloc((size_t)n, sizeof(*items));

    n_done = 0;
    for (int i = 0; i < n; i++) {
        uint8_t *crop = malloc(CROP);

        for (size_t k = 0; k < CROP; k++)
            crop[k] = (uint8_t)((size_t)(i + 1) * k * 2654435761u >> 13);
        items[i] = (struct srv_item){.tasks = tasks,
                                     .crop = crop,
                                     .deadline_us = ut_clock_us() + FAR,
                                     .done = on_done};
        items[i].scores.embedding = calloc(DIM, sizeof(float));
    }
    return items;
}

static void items_free(struct srv_item *items, int n)
{
    for (int i = 0; i < n; i++) {
        free((void *)(uintptr_t)items[i].crop);
        free(items[i].scores.embedding);
    }
    free(items);
}

static struct srv_batcher *batcher(size_t max_items, int64_t delay_us)
{
    struct srv_batcher_config c = {max_items, delay_us};
    struct srv_batcher *b;
    struct ut_error e;

    if (srv_batcher_new(engine, NULL, NULL, NULL, &c, &b, &e))
        fail_msg("%s", e.msg);
    return b;
}

static void push(struct srv_batcher *b, struct srv_item *items, int n)
{
    struct srv_item *list[256];
    struct ut_error e;

    for (int i = 0; i < n; i++)
        list[i] = &items[i];
    if (srv_batcher_push(b, list, n, &e))
        fail_msg("%s", e.msg);
}

static void push__many__few_batches_and_the_numbers_of_one(void **state)
{
    struct srv_item *items =
        items_new(32, SRV_TASK_FATIGUE | SRV_TASK_RECOGNITION);
    struct srv_item *alone =
        items_new(32, SRV_TASK_FATIGUE | SRV_TASK_RECOGNITION);
    struct srv_batcher *b = batcher(64, 0);
    double runs = 0;

    (void)state;
    push(b, items, 32);
    wait_for(32);
    for (int i = 0; i < 32; i++) {
        assert_int_equal(items[i].rc, UT_OK);
        runs += 1.0 / items[i].batch_size;
    }
    /* Both executors were idle: each takes a share of up to 8 at a time. */
    assert_true(runs < 16);
    n_done = 0;
    for (int i = 0; i < 32; i++) {
        push(b, &alone[i], 1);
        wait_for(i + 1);
        assert_int_equal(alone[i].batch_size, 1);
        /* Batch sizes may choose other kernels: float32, 50 layers. */
        assert_close(items[i].scores.embedding, alone[i].scores.embedding, DIM,
                     1e-4, 1e-3, "embedding");
        assert_close(&items[i].scores.probability, &alone[i].scores.probability,
                     1, 1e-4, 1e-3, "fatigue");
    }
    srv_batcher_free(b);
    items_free(items, 32);
    items_free(alone, 32);
}

static void push__expired_and_cancelled__never_computed(void **state)
{
    struct srv_item *items = items_new(3, SRV_TASK_FATIGUE);
    struct srv_batcher *b = batcher(8, 0);
    struct srv_batcher_stats stats;
    bool gone = true;

    (void)state;
    items[0].deadline_us = ut_clock_us() - 1;
    items[1].cancelled = &gone;
    push(b, items, 3);
    wait_for(3);
    assert_true(items[0].expired && items[0].rc == UT_EBUSY);
    assert_true(items[1].dropped && items[1].rc == UT_EBUSY);
    assert_int_equal(items[0].batch_size, 0);
    assert_int_equal(items[1].batch_size, 0);
    assert_int_equal(items[2].batch_size, 1);
    srv_batcher_stats(b, &stats);
    assert_int_equal(stats.failed, 2);
    assert_int_equal(stats.faces, 1);
    assert_int_equal(stats.batches, 1);
    assert_int_equal(stats.of_size[1].batches, 1);
    assert_int_equal(stats.of_size[1].compute_us, items[2].compute_us);
    srv_batcher_free(b);
    items_free(items, 3);
}

static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;

/* Keeps its executor busy until the test lets go. */
static void on_done_held(struct srv_item *it)
{
    on_done(it);
    pthread_mutex_lock(&held);
    pthread_mutex_unlock(&held);
}

static void push__expires_while_all_executors_are_busy__ended_then(void **state)
{
    int lanes = srv_engine_lanes(engine), n = lanes + 2;
    struct srv_item *items = items_new(n, SRV_TASK_FATIGUE);
    struct srv_batcher *b = batcher(64, 0);
    struct srv_item *late = &items[lanes], *later = &items[lanes + 1];

    (void)state;
    pthread_mutex_lock(&held);
    for (int i = 0; i < lanes; i++) {
        items[i].done = on_done_held;
        push(b, &items[i], 1);
        wait_for(i + 1); /* so that each lane has one */
    }
    later->deadline_us = ut_clock_us() + 20000;
    push(b, later, 1);
    late->deadline_us = ut_clock_us() + 10000; /* sooner than is waited for */
    late->bulk = true;
    push(b, late, 1);
    wait_for(n);
    for (int i = lanes; i < n; i++) {
        assert_true(items[i].expired && items[i].rc == UT_EBUSY);
        assert_int_equal(items[i].batch_size, 0);
    }
    pthread_mutex_unlock(&held);
    srv_batcher_free(b);
    items_free(items, n);
}

/* A delay holds all back, so that what waits is known. */
static void push__limit__at_it_and_one_past(void **state)
{
    struct srv_item *items = items_new(5, SRV_TASK_FATIGUE), *list[5];
    struct srv_batcher *b = batcher(4, FAR);
    struct ut_error e;

    (void)state;
    for (int i = 0; i < 5; i++)
        list[i] = &items[i];
    /* Waiting does not help a request that is larger than the queue. */
    assert_int_equal(srv_batcher_push(b, list, 5, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "5 faces in one request"));
    assert_non_null(strstr(e.msg, "4 (--max-queue)"));
    assert_int_equal(srv_batcher_queued(b), 0);
    assert_int_equal(srv_batcher_push(b, list, 4, &e), UT_OK);
    assert_int_equal(srv_batcher_queued(b), 4);
    assert_int_equal(srv_batcher_push(b, list + 4, 1, &e), UT_EBUSY);
    assert_non_null(strstr(e.msg, "limit of 4"));
    srv_batcher_free(b); /* runs what is queued */
    assert_int_equal(n_done, 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(items[i].rc, UT_OK);
    items_free(items, 5);
}

/* All at once, again while both executors are idle, and one that fills it. */
static void push__delay_but_a_full_batch__computed_at_once(void **state)
{
    const int full = srv_engine_max_batch(engine);
    const int firsts[] = {full, full, full, full - 1};
    struct srv_batcher *b = batcher(64, FAR);

    (void)state;
    for (int k = 0; k < 4; k++) {
        struct srv_item *items = items_new(full, SRV_TASK_FATIGUE);

        push(b, items, firsts[k]);
        if (firsts[k] < full)
            push(b, items + firsts[k], full - firsts[k]);
        wait_for(full);
        for (int i = 0; i < full; i++) {
            assert_int_equal(items[i].rc, UT_OK);
            assert_int_equal(items[i].batch_size, full);
        }
        items_free(items, full);
    }
    srv_batcher_free(b);
}

static void
push__two_task_sets_and_priorities__not_mixed_live_first(void **state)
{
    struct srv_item *items = items_new(12, SRV_TASK_FATIGUE);
    struct srv_batcher *b = batcher(64, FAR);
    int first_bulk = 12;

    (void)state;
    for (int i = 0; i < 12; i++) {
        items[i].bulk = i < 4;
        if (i % 2)
            items[i].tasks = SRV_TASK_RECOGNITION;
        items[i].scores.probability = -1;
    }
    push(b, items, 12);
    srv_batcher_free(b);
    assert_int_equal(n_done, 12);
    for (int i = 0; i < 12; i++)
        if (order[i]->bulk && i < first_bulk)
            first_bulk = i;
    /* Two executors: the other may end its bulk batch just before. */
    assert_true(first_bulk >= 4);
    for (int i = 0; i < 12; i++) /* a task that was not asked was not done */
        assert_true((items[i].scores.probability >= 0) == !(i % 2));
    items_free(items, 12);
}

static int make_engine(void **state)
{
    struct srv_engine_config c = {.model_path = MODEL,
                                  .backend = "cpu",
                                  .precision = MDL_PREC_F32,
                                  .max_batch = 8,
                                  .n_lanes = 2};
    struct mdl_st_pair meta = {"trained", "false"};
    struct mdl_spec spec;
    struct mdl_model m;
    struct ut_error e;

    (void)state;
    if (mdl_spec_parse(tiny, strlen(tiny), &spec, &e) ||
        mdl_model_fresh(&spec, 1, &m, &e) ||
        mdl_model_write(MODEL, &m.spec, &m.graph, &meta, 1, NULL, 0, &e))
        fail_msg("%s", e.msg);
    mdl_model_close(&m);
    if (srv_engine_new(&c, &engine, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(srv_engine_dim(engine), DIM);
    assert_int_equal(srv_engine_batch(engine, 7), 4);
    assert_int_equal(srv_engine_batch(engine, 100), 8);
    return 0;
}

static int free_engine(void **state)
{
    (void)state;
    srv_engine_free(engine);
    return 0;
}

static void engine__bad_batch_or_model__named(void **state)
{
    struct srv_engine_config c = {.max_batch = 3};
    struct srv_engine *en;
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_engine_new(&c, &en, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "batch of 3"));
    c.max_batch = 64;
    assert_int_equal(srv_engine_new(&c, &en, &e), UT_EINVAL);
    c.max_batch = 1;
    c.model_path = "/nowhere.safetensors";
    assert_int_equal(srv_engine_new(&c, &en, &e), UT_EIO);
    assert_null(en);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(push__many__few_batches_and_the_numbers_of_one),
        cmocka_unit_test(push__expired_and_cancelled__never_computed),
        cmocka_unit_test(
            push__expires_while_all_executors_are_busy__ended_then),
        cmocka_unit_test(push__limit__at_it_and_one_past),
        cmocka_unit_test(push__delay_but_a_full_batch__computed_at_once),
        cmocka_unit_test(
            push__two_task_sets_and_priorities__not_mixed_live_first),
        cmocka_unit_test(engine__bad_batch_or_model__named),
    };

    return cmocka_run_group_tests(tests, make_engine, free_engine);
}
