/* A queue that is read faster than it is filled, and one that is not. */
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <unistd.h>

#include "model/data/queue.h"
#include "tests/support/unit.h"

#define BATCH 2

static sem_t allowed; /* pictures that may be made */

static enum ut_err make(const void *arg, int i, uint64_t *seed,
                        uint8_t *scratch, uint8_t *image, void *note,
                        struct ut_error *e)
{
    (void)arg, (void)seed, (void)scratch, (void)note, (void)e;
    sem_wait(&allowed);
    *image = (uint8_t)i;
    return UT_OK;
}

static void allow(int batches)
{
    for (int i = 0; i < batches * BATCH; i++)
        sem_post(&allowed);
}

static struct mdl_queue_state state_of(struct mdl_queue *q)
{
    struct mdl_queue_state s;

    mdl_queue_state(q, &s);
    return s;
}

/* Lets the first batch be made once somebody waits for it. */
static void *allow_when_dry(void *arg)
{
    while (!state_of(arg).dry)
        usleep(1000);
    allow(1);
    return NULL;
}

static void next__nothing_ready__counted_as_dry(void **state)
{
    const struct mdl_source source = {.n = 100, .make = make};
    const struct mdl_queue_config c = {
        .batch = BATCH, .side = 1, .threads = 1, .seed = 1};
    const struct mdl_batch *b = NULL;
    struct mdl_queue *q;
    struct ut_error e;
    pthread_t thread;

    (void)state;
    sem_init(&allowed, 0, 0);
    assert_int_equal(mdl_queue_open(&source, &c, &q, &e), UT_OK);
    assert_int_equal(pthread_create(&thread, NULL, allow_when_dry, q), 0);
    assert_int_equal(mdl_queue_next(q, &b, &e), UT_OK);
    pthread_join(thread, NULL);
    assert_int_equal(state_of(q).dry, 1);
    assert_int_equal(state_of(q).waiting, 0);

    /* Where batches are ready nobody waits, and no more than fit are made. */
    allow(2 * MDL_QUEUE_BATCHES);
    while (state_of(q).waiting < MDL_QUEUE_BATCHES - 1) /* one is handed out */
        usleep(1000);
    for (int i = 0; i < MDL_QUEUE_BATCHES - 1; i++)
        assert_int_equal(mdl_queue_next(q, &b, &e), UT_OK);
    assert_int_equal(state_of(q).dry, 1);
    allow(MDL_QUEUE_BATCHES); /* none is left waiting for the end */
    mdl_queue_free(q);
    sem_destroy(&allowed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(next__nothing_ready__counted_as_dry),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
