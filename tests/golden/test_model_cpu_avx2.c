/* The CPU backend against the golden numbers on processors without AVX-512,
 * which one that has it can stand in for. */
#include <stdlib.h>

#include "tests/golden/train.h"

static void check_float32(const char *output, const float *got,
                          const float *want, size_t n, const char *what)
{
    (void)output;
    assert_close(got, want, n, 1e-4, 1e-4, what);
}

static void avx2__float32__matches_golden(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_GOLDEN_CASES; i++)
        golden_run(golden_cases[i], "cpu", MDL_PREC_F32, 4, ~0ull,
                   check_float32);
}

static void avx2__one_step__gradients_and_statistics(void **state)
{
    (void)state;
    steps("cpu", MDL_PREC_F32, 1e-3);
}

static void avx2__four_steps__both_modes(void **state)
{
    (void)state;
    runs("cpu");
}

/* Maps in blocks of 8 channels are no place for bfloat16. */
static void avx2__bfloat16__is_not_there(void **state)
{
    struct mdl_backend *b;
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_backend_open("cpu", 0, &b, &e), UT_OK);
    assert_false(mdl_backend_supports(b, MDL_PREC_BF16));
    mdl_backend_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(avx2__float32__matches_golden),
        cmocka_unit_test(avx2__one_step__gradients_and_statistics),
        cmocka_unit_test(avx2__four_steps__both_modes),
        cmocka_unit_test(avx2__bfloat16__is_not_there),
    };

    setenv("DNNL_MAX_CPU_ISA", "AVX2", 1); /* before oneDNN's first call */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
