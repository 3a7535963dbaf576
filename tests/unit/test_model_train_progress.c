/* What a training says of its data, at the limits and one past them. */
#include <string.h>

#include "model/train/session.h"
#include "tests/support/unit.h"

static void warnings__at_the_limit_and_one_past__silent_and_told(void **state)
{
    static const struct {
        struct mdl_progress p;
        const char *words; /* NULL: nothing to say */
    } rows[] = {
        {{.step = 100}, NULL},
        {{.step = 100, .queue[MDL_FATIGUE].dry = 11}, NULL},
        {{.step = 100, .queue[MDL_FATIGUE].dry = 12},
         "training waited 12 times for pictures of fatigue"},
        {{.step = 1, .queue[MDL_RECOGNITION].dry = 1}, NULL}, /* the first */
        {{.step = 1, .queue[MDL_RECOGNITION].dry = 2},
         "training waited 2 times for pictures of recognition"},
        {{.trained = {true, true}, .epochs = {20, 1}}, NULL},
        {{.trained = {true, true}, .epochs = {21, 1}},
         "the fatigue data were gone through 21 times, "
         "the other 2: it is much shorter"},
        {{.trained = {true}, .epochs = {21, 0}}, NULL}, /* there is no other */
        {{.trained = {true, true}, .epochs = {0, 11}},
         "the recognition data were gone through 11"},
        {{.queue[MDL_FATIGUE] = {.broken = 1, .last = "a.png: is none"}},
         "1 pictures of fatigue could not be read, the last: a.png: is none"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[MDL_WARNINGS][MDL_WARNING_LEN];
        int n = mdl_progress_warnings(&rows[i].p, text);

        if (n != (rows[i].words != NULL))
            fail_msg("row %zu: %d warnings", i, n);
        if (n && !strstr(text[0], rows[i].words))
            fail_msg("row %zu: %s", i, text[0]);
    }
}

static void warnings__all_there_are__fit(void **state)
{
    struct mdl_progress p = {.trained = {true, true}, .epochs = {1000, 5}};
    char text[MDL_WARNINGS][MDL_WARNING_LEN];

    (void)state;
    for (int i = 0; i < MDL_TASKS; i++) {
        p.queue[i].dry = 1000;
        p.queue[i].broken = 7;
        memset(p.queue[i].last, 'x', sizeof(p.queue[i].last) - 1);
    }
    assert_int_equal(mdl_progress_warnings(&p, text), 5);
    for (int i = 0; i < 5; i++)
        assert_true(strlen(text[i]) < MDL_WARNING_LEN - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warnings__at_the_limit_and_one_past__silent_and_told),
        cmocka_unit_test(warnings__all_there_are__fit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
