/* How long devices that meet are waited for. */
#include <string.h>

#include "model/backends/cuda/meeting.h"
#include "tests/support/unit.h"

#define NEVER (-1)
#define LONG_MS (60 * 1000)

/* How often each is looked at before it is done, and which fails when. */
struct rig {
    int looks[4], fails_at[4];
    int seen[4];
};

static enum ut_err look(void *arg, int i, bool *busy, struct ut_error *e)
{
    struct rig *r = arg;
    int seen = r->seen[i]++;

    if (r->fails_at[i] && seen >= r->fails_at[i])
        return ut_fail(e, UT_EDEVICE, "device %d fell off the bus", i);
    *busy = r->looks[i] == NEVER || seen < r->looks[i];
    return UT_OK;
}

static const int devices[] = {3, 5, 7, 11};

static void watch__devices_of_all_speeds__until_the_last(void **state)
{
    struct rig r = {.looks = {0, 20, 3, 7}};
    struct ut_error e;

    (void)state;
    if (gpu_watch(devices, 4, look, &r, LONG_MS, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < 4; i++) /* those that are done may still fail */
        assert_int_equal(r.seen[i], 21);
}

static void watch__some_never_end__named_with_the_time(void **state)
{
    struct rig r = {.looks = {0, NEVER, 1, NEVER}};
    struct ut_error e;

    (void)state;
    assert_int_equal(gpu_watch(devices, 4, look, &r, 20, &e), UT_EDEVICE);
    if (!strstr(e.msg, "GPU 5, 11: ") || !strstr(e.msg, "after 0.02 s"))
        fail_msg("%s", e.msg);
    assert_true(r.seen[1] > 1);
}

/* What is done by the time that is looked at last is not late. */
static void watch__done_at_the_limit__no_error(void **state)
{
    struct rig r = {0};
    struct ut_error e;

    (void)state;
    if (gpu_watch(devices, 4, look, &r, 0, &e))
        fail_msg("%s", e.msg);
}

static void watch__one_fails__said_at_once(void **state)
{
    struct rig r = {.looks = {NEVER, NEVER, NEVER, NEVER},
                    .fails_at = {0, 0, 2}};
    struct ut_error e;

    (void)state;
    assert_int_equal(gpu_watch(devices, 4, look, &r, LONG_MS, &e), UT_EDEVICE);
    assert_string_equal(e.msg, "device 2 fell off the bus");
    assert_int_equal(r.seen[3], 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(watch__devices_of_all_speeds__until_the_last),
        cmocka_unit_test(watch__some_never_end__named_with_the_time),
        cmocka_unit_test(watch__done_at_the_limit__no_error),
        cmocka_unit_test(watch__one_fails__said_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
