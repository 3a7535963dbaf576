/* How many processors there are for this process. */
#include "base/processors.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/unit.h"

/* cpu.max of a group below the test's folder. */
static void limit(const char *group, const char *text)
{
    char line[512];

    snprintf(line, sizeof(line),
             "mkdir -p %s/cg%s && echo '%s' > %s/cg%s/cpu.max", test_dir(),
             group, text, test_dir(), group);
    assert_int_equal(system(line), 0);
}

static void quota__of_groups__the_least_rounded_up(void **state)
{
    static const struct {
        const char *outer, *inner;
        int want;
    } rows[] = {
        {"max 100000", "max 100000", 0},
        {"max 100000", "200000 100000", 2},
        {"150000 100000", "max 100000", 2},
        {"150000 100000", "50000 100000", 1},
        {"100000 100000", "400000 100000", 1},
        {"max 100000", "150000 50000", 3},
        {"nothing", "0 0", 0},
    };
    char root[256];

    (void)state;
    snprintf(root, sizeof(root), "%s/cg", test_dir());
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int got;

        limit("/pod", rows[i].outer);
        limit("/pod/it", rows[i].inner);
        got = ut_processors_quota(root, "/pod/it");
        if (got != rows[i].want)
            fail_msg("%s in %s: %d, not %d", rows[i].inner, rows[i].outer, got,
                     rows[i].want);
    }
    assert_int_equal(ut_processors_quota(root, "/"), 0);
    assert_int_equal(ut_processors_quota(root, "/nowhere"), 0);
}

static void processors__affinity__no_more(void **state)
{
    cpu_set_t before, one;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    assert_in_range(ut_processors(), 1, CPU_COUNT(&before));
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++)
        if (CPU_ISSET(i, &before))
            CPU_SET(i, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    assert_int_equal(ut_processors(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quota__of_groups__the_least_rounded_up),
        cmocka_unit_test(processors__affinity__no_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
