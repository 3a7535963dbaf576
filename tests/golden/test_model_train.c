/* Losses, gradients, statistics and four-step runs against the golden ones. */
#include "tests/golden/train.h"

static void ref__one_step__gradients_and_statistics(void **state)
{
    (void)state;
    steps("ref", MDL_PREC_F32, 1e-3);
}

static void ref__four_steps__both_modes(void **state)
{
    (void)state;
    runs("ref");
}

static void cpu__one_step__gradients_and_statistics(void **state)
{
    (void)state;
    steps("cpu", MDL_PREC_F32, 1e-3);
}

static void cpu__four_steps__both_modes(void **state)
{
    (void)state;
    runs("cpu");
}

static void need_bfloat16(void)
{
    struct mdl_backend *b;
    struct ut_error e;
    bool able;

    assert_int_equal(mdl_backend_open("cpu", 0, &b, &e), UT_OK);
    able = mdl_backend_supports(b, MDL_PREC_BF16);
    mdl_backend_close(b);
    if (!able) {
        printf("SKIPPED cpu__bfloat16: no AVX-512 BF16 here\n");
        skip();
    }
}

static void cpu__bfloat16__gradients_of_iresnets(void **state)
{
    (void)state;
    need_bfloat16();
    gradients_bfloat16("cpu");
}

static void cpu__bfloat16__four_steps_move_float32_weights(void **state)
{
    (void)state;
    need_bfloat16();
    runs_bfloat16("cpu");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref__one_step__gradients_and_statistics),
        cmocka_unit_test(ref__four_steps__both_modes),
        cmocka_unit_test(cpu__one_step__gradients_and_statistics),
        cmocka_unit_test(cpu__four_steps__both_modes),
        cmocka_unit_test(cpu__bfloat16__gradients_of_iresnets),
        cmocka_unit_test(cpu__bfloat16__four_steps_move_float32_weights),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
