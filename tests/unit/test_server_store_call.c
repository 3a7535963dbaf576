/* Calls that wait for the store's thread, which is held meanwhile: what comes
 * to it too late is answered so, and not done. */
#include "server/calls/store_call.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "server/app.h"
#include "server/methods/handlers.h"
#include "tests/support/unit.h"
#include "tests/unit/hold.h"

#define FAR 60000000 /* us */
#define SOON 20000

static struct srv_app app;
static char dir[64];

struct call {
    struct srv_call c;
    bool answered;
    struct api_error err; /* code 0: none */
};

static void on_reply(struct srv_call *c, const ProtobufCMessage *response)
{
    (void)response;
    ((struct call *)c)->answered = true;
}

static void on_fail(struct srv_call *c, const struct api_error *err)
{
    struct call *k = (struct call *)c;

    k->answered = true;
    k->err = *err;
}

static struct call call_of(const ProtobufCMessage *request, int64_t us)
{
    return (struct call){.c = {.app = &app,
                               .request = request,
                               .actor = "local",
                               .deadline_us = ut_clock_us() + us,
                               .reply = on_reply,
                               .fail = on_fail}};
}

static void wait_for(const struct call *k)
{
    while (!k->answered)
        uv_run(&app.loop, UV_RUN_ONCE);
}

static void wait_until(int64_t us)
{
    while (ut_clock_us() < us)
        usleep(1000);
}

static int set_up(void **state)
{
    struct ut_error e;

    (void)state;
    memset(&app, 0, sizeof(app));
    strcpy(dir, "/tmp/tscaf-store-call-XXXXXX");
    assert_non_null(mkdtemp(dir));
    uv_loop_init(&app.loop);
    if (srv_mailbox_new(&app.loop, &app.mailbox, &e) ||
        srv_store_open(dir, NULL, &app.store, &e) ||
        srv_pool_new("store", 1, 4, &app.store_pool, &e) ||
        srv_pool_new("datasets", 1, 4, &app.dataset_pool, &e))
        fail_msg("%s", e.msg);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    srv_pool_free(app.dataset_pool);
    srv_pool_free(app.store_pool);
    srv_store_close(app.store);
    srv_mailbox_free(app.mailbox);
    uv_run(&app.loop, UV_RUN_DEFAULT);
    uv_loop_close(&app.loop);
    ut_remove_tree(dir);
    return 0;
}

static size_t identities(void)
{
    struct srv_identity *list;
    struct ut_error e;
    size_t n;

    assert_int_equal(
        srv_store_identity_list(app.store, "", "", 10, &list, &n, &e), UT_OK);
    for (size_t i = 0; i < n; i++)
        srv_identity_fini(&list[i]);
    free(list);
    return n;
}

static void create__too_late_or_left_in_the_queue__not_stored(void **state)
{
    Tscaf__V1__CreateIdentityRequest r =
        TSCAF__V1__CREATE_IDENTITY_REQUEST__INIT;
    struct call late, left, good;
    struct hold h;

    (void)state;
    r.name = (char *)(uintptr_t) "Ada";
    hold(app.store_pool, &h);
    late = call_of(&r.base, SOON);
    left = call_of(&r.base, FAR);
    good = call_of(&r.base, FAR);
    srv_handle_create_identity(&late.c);
    srv_handle_create_identity(&left.c);
    srv_handle_create_identity(&good.c);
    __atomic_store_n(&left.c.cancelled, true, __ATOMIC_RELAXED);
    wait_until(late.c.deadline_us);
    uv_sem_post(&h.go);
    wait_for(&late);
    wait_for(&left);
    wait_for(&good);
    assert_int_equal(late.err.code, API_DEADLINE_EXCEEDED);
    assert_int_equal(left.err.code, API_CANCELED);
    assert_int_equal(good.err.code, 0);
    assert_int_equal(identities(), 1);
    hold_fini(&h);
}

static int n_done;

static enum ut_err do_it(struct srv_store_call *w, struct ut_error *e)
{
    (void)w;
    (void)e;
    n_done++;
    return UT_OK;
}

/* An import keeps that thread for longer than most deadlines. */
static void start_on__another_thread__late_is_done_left_is_not(void **state)
{
    struct call late = call_of(NULL, SOON), left = call_of(NULL, FAR);
    struct hold h;

    (void)state;
    n_done = 0;
    hold(app.dataset_pool, &h);
    srv_store_call_start_on(&late.c, app.dataset_pool, NULL, NULL, do_it,
                            srv_store_call_reply_empty);
    srv_store_call_start_on(&left.c, app.dataset_pool, NULL, NULL, do_it,
                            srv_store_call_reply_empty);
    __atomic_store_n(&left.c.cancelled, true, __ATOMIC_RELAXED);
    wait_until(late.c.deadline_us);
    uv_sem_post(&h.go);
    wait_for(&late);
    wait_for(&left);
    assert_int_equal(late.err.code, 0);
    assert_int_equal(left.err.code, API_CANCELED);
    assert_int_equal(n_done, 1);
    hold_fini(&h);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(create__too_late_or_left_in_the_queue__not_stored),
        TEST(start_on__another_thread__late_is_done_left_is_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
