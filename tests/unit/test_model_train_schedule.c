/* The rate of a step: warm-up, cosine; and settings that must agree. */
#include <math.h>
#include <string.h>

#include "model/train/schedule.h"
#include "tests/support/unit.h"

/* As fractions of the peak: what is checked holds for any peak. */
struct row {
    const char *what;
    long step, steps, warm_up;
    double rate;
};

static void rate__steps__as_by_hand(void **state)
{
    static const struct row rows[] = {
        /* The first step moves already; the last of the warm-up is at the peak,
         * and so is the first of the cosine. */
        {"start of a warm-up", 0, 110, 10, 0.1},
        {"middle of a warm-up", 4, 110, 10, 0.5},
        {"last of a warm-up", 9, 110, 10, 1},
        {"one past the warm-up", 10, 110, 10, 1},
        {"a quarter of the cosine", 35, 110, 10, (1 + 0.70710678118654752) / 2},
        {"middle of the cosine", 60, 110, 10, 0.5},
        {"three quarters", 85, 110, 10, (1 - 0.70710678118654752) / 2},
        /* (1 + cos(pi (1 - 1/100))) / 2: the last step still moves. */
        {"last step", 109, 110, 10, 2.4671981713422e-4},
        {"one past the last", 110, 110, 10, 0},

        {"no warm-up, start", 0, 100, 0, 1},
        {"no warm-up, middle", 50, 100, 0, 0.5},
        {"no warm-up, one past", 100, 100, 0, 0},
        {"warm-up of one step", 0, 100, 1, 1},
        {"one step in all", 0, 1, 0, 1},
        {"one step in all, one past", 1, 1, 0, 0},
        /* A warm-up as long as the training, or longer, never comes to the
         * cosine. */
        {"all warm-up, last", 9, 10, 10, 1},
        {"warm-up past the end", 9, 10, 20, 0.5},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct row *r = &rows[i];
        double got = mdl_rate_at(0.02, r->step, r->steps, r->warm_up);

        if (!(fabs(got - 0.02 * r->rate) < 1e-12))
            fail_msg("%s: %.15g, not %.15g", r->what, got, 0.02 * r->rate);
    }
}

static void stable__steps__as_by_hand(void **state)
{
    /* 10 of warm-up, 4 of decay, 30 in all. */
    static const struct row rows[] = {
        {"start of the warm-up", 0, 30, 10, 0.1},
        {"last of the warm-up", 9, 30, 10, 1},
        {"one past the warm-up", 10, 30, 10, 1},
        {"middle", 20, 30, 10, 1},
        {"last before the decay", 25, 30, 10, 1},
        {"first of the decay", 26, 30, 10, 0.8},
        {"last step", 29, 30, 10, 0.2},
        {"one past the last", 30, 30, 10, 0},
        {"no warm-up", 0, 30, 0, 1},
        /* A warm-up that ends within the decay comes first. */
        {"last of a long warm-up", 27, 30, 28, 1},
        {"then the decay", 28, 30, 28, 0.4},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct row *r = &rows[i];
        double got = mdl_stable_rate_at(0.02, r->step, r->steps, r->warm_up, 4);

        if (!(fabs(got - 0.02 * r->rate) < 1e-12))
            fail_msg("%s: %.15g, not %.15g", r->what, got, 0.02 * r->rate);
    }
    assert_true(mdl_stable_rate_at(0.02, 29, 30, 10, 0) == 0.02);
}

static void rate__all_steps__up_then_down_and_never_below_zero(void **state)
{
    double last = 0;

    (void)state;
    for (long step = 0; step <= 110; step++) {
        double rate = mdl_rate_at(1, step, 110, 10);

        if (!(step <= 9 ? rate > last : rate <= last) || rate < 0)
            fail_msg("step %ld: %g after %g", step, rate, last);
        last = rate;
    }
}

static void settings__differ__named_with_the_file(void **state)
{
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_settings_agree("x", "a=1;b=2", "a=1;b=2", &e), UT_OK);
    assert_int_equal(
        mdl_settings_agree("run/c.st", "a=1;b=21;c=3", "a=1;b=22;c=3", &e),
        UT_EINVAL);
    assert_string_equal(
        e.msg, "run/c.st: was made with \"b=21;c=3\", not \"b=22;c=3\"");
    /* One that ends where the other goes on. */
    assert_int_equal(mdl_settings_agree("x", "a=1", "a=1;b=2", &e), UT_EINVAL);
    assert_int_equal(mdl_settings_agree("x", "", "a=1", &e), UT_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rate__steps__as_by_hand),
        cmocka_unit_test(stable__steps__as_by_hand),
        cmocka_unit_test(rate__all_steps__up_then_down_and_never_below_zero),
        cmocka_unit_test(settings__differ__named_with_the_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
