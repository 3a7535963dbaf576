/* Pools and mailboxes: every job runs once, limits hold, letters arrive. */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

#include "server/mailbox.h"
#include "server/pool.h"
#include "tests/support/unit.h"

static sem_t gate, entered;
static atomic_int ran, worker_seen[4];

static void wait_at_gate(void *arg, int worker)
{
    (void)arg;
    (void)worker;
    sem_post(&entered);
    sem_wait(&gate);
    atomic_fetch_add(&ran, 1);
}

static void count(void *arg, int worker)
{
    atomic_fetch_add(&ran, *(int *)arg);
    atomic_store(&worker_seen[worker], 1);
}

static int reset(void **state)
{
    (void)state;
    atomic_store(&ran, 0);
    sem_init(&gate, 0, 0);
    sem_init(&entered, 0, 0);
    return 0;
}

static void push__at_the_limit_and_one_past__busy(void **state)
{
    struct srv_pool *p;
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_pool_new("test", 1, 3, &p, &e), UT_OK);
    assert_int_equal(srv_pool_push(p, wait_at_gate, NULL, &e), UT_OK);
    sem_wait(&entered); /* that one no longer waits */
    for (int i = 0; i < 3; i++)
        assert_int_equal(srv_pool_push(p, wait_at_gate, NULL, &e), UT_OK);
    assert_int_equal(srv_pool_queued(p), 3);
    assert_int_equal(srv_pool_push(p, wait_at_gate, NULL, &e), UT_EBUSY);
    assert_non_null(strstr(e.msg, "3 jobs"));
    for (int i = 0; i < 4; i++)
        sem_post(&gate);
    srv_pool_free(p); /* runs what is queued */
    assert_int_equal(atomic_load(&ran), 4);
}

static void jobs__many_on_few_threads__each_once(void **state)
{
    struct srv_pool *p;
    struct ut_error e;
    int one = 1;

    (void)state;
    assert_int_equal(srv_pool_new("test", 4, 16, &p, &e), UT_OK);
    for (int i = 0; i < 5000; i++)
        while (srv_pool_push(p, count, &one, &e))
            sched_yield();
    srv_pool_free(p);
    assert_int_equal(atomic_load(&ran), 5000);
}

static void new__nonsense_and_no_memory__clean_errors(void **state)
{
    struct srv_pool *p;
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_pool_new("test", 0, 1, &p, &e), UT_EINVAL);
    assert_int_equal(srv_pool_new("test", 1, 0, &p, &e), UT_EINVAL);
    assert_null(p);
    for (long nth = 0; nth < 3; nth++) {
        fault_arm(nth);
        assert_int_equal(srv_pool_new("test", 1, 1, &p, &e), UT_ENOMEM);
        assert_true(fault_disarm());
        assert_null(p);
    }
    srv_pool_free(NULL);
}

/* ---- Mailbox ---- */

#define SENDERS 4
#define LETTERS 1000

struct letter {
    struct srv_mail mail; /* first */
    int sender, number;
};

static struct letter letters[SENDERS][LETTERS];
static struct srv_mailbox *box;
static int next_number[SENDERS], delivered;

static void on_letter(struct srv_mail *m)
{
    struct letter *l = (struct letter *)m;

    /* In the order in which each sender posted them. */
    assert_int_equal(l->number, next_number[l->sender]++);
    if (++delivered == SENDERS * LETTERS)
        srv_mailbox_free(box);
}

static void *send_all(void *arg)
{
    int sender = *(int *)arg;

    for (int i = 0; i < LETTERS; i++) {
        letters[sender][i] = (struct letter){
            .mail = {.fn = on_letter}, .sender = sender, .number = i};
        srv_mailbox_post(box, &letters[sender][i].mail);
    }
    return NULL;
}

static void post__from_many_threads__all_in_order(void **state)
{
    pthread_t threads[SENDERS];
    int names[SENDERS];
    struct ut_error e;
    uv_loop_t loop;

    (void)state;
    uv_loop_init(&loop);
    assert_int_equal(srv_mailbox_new(&loop, &box, &e), UT_OK);
    for (int i = 0; i < SENDERS; i++) {
        names[i] = i;
        pthread_create(&threads[i], NULL, send_all, &names[i]);
    }
    uv_run(&loop, UV_RUN_DEFAULT); /* ends when the mailbox is closed */
    assert_int_equal(delivered, SENDERS * LETTERS);
    for (int i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void on_one(struct srv_mail *m)
{
    (void)m;
    delivered++;
}

static void free__with_letters_inside__delivers_them(void **state)
{
    struct srv_mail a = {.fn = on_one}, b = {.fn = on_one};
    struct ut_error e;
    uv_loop_t loop;

    (void)state;
    delivered = 0;
    uv_loop_init(&loop);
    assert_int_equal(srv_mailbox_new(&loop, &box, &e), UT_OK);
    srv_mailbox_post(box, &a);
    srv_mailbox_post(box, &b);
    srv_mailbox_free(box);
    assert_int_equal(delivered, 2);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    srv_mailbox_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(push__at_the_limit_and_one_past__busy, reset),
        cmocka_unit_test_setup(jobs__many_on_few_threads__each_once, reset),
        cmocka_unit_test(new__nonsense_and_no_memory__clean_errors),
        cmocka_unit_test(post__from_many_threads__all_in_order),
        cmocka_unit_test(free__with_letters_inside__delivers_them),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
