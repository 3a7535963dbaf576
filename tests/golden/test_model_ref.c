/* The reference backend against the golden numbers. */
#include "tests/golden/golden.h"

/* The golden numbers are float32 and carry under 1e-6 of their own error;
 * folding reorders sums of up to 5,000 float32 products of order 1. */
static void check_float32(const char *output, const float *got,
                          const float *want, size_t n, const char *what)
{
    (void)output;
    assert_close(got, want, n, 1e-4, 1e-4, what);
}

static void ref__all_outputs__match_golden(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_GOLDEN_CASES; i++)
        golden_run(golden_cases[i], "ref", MDL_PREC_F32, 2, ~0ull,
                   check_float32);
}

/* Fewer outputs let the passes fuse more: the numbers must stay. */
static void ref__leaves_only__match_golden(void **state)
{
    const char *leaves[] = {"fatigue.probability",
                            "recognition.embedding.normalized"};

    (void)state;
    for (size_t i = 0; i < N_GOLDEN_CASES; i++)
        for (size_t k = 0; k < 2; k++)
            golden_run(golden_cases[i], "ref", MDL_PREC_F32, 4,
                       golden_bit(golden_cases[i], leaves[k]), check_float32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref__all_outputs__match_golden),
        cmocka_unit_test(ref__leaves_only__match_golden),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
