/* The CPU backend against the golden numbers. */
#include <math.h>

#include "tests/golden/golden.h"

/* As on the reference backend; Winograd F(4,3) in float32 adds about 1e-5. */
static void check_float32(const char *output, const float *got,
                          const float *want, size_t n, const char *what)
{
    (void)output;
    assert_close(got, want, n, 1e-4, 1e-4, what);
}

/* bfloat16 rounds every stored value to 2^-9 of itself. Up to 54 layers
 * (MobileNetV2), whose
 * errors add like noise: 2^-9 * sqrt(2 * 54) is 2.0 % of a tensor's norm;
 * twice that leaves room for the worst case. A logit is one sum of such values
 * with mixed signs, and what cancels costs it up to one bit more. */
static void check_bfloat16(const char *output, const float *got,
                           const float *want, size_t n, const char *what)
{
    double off = 0, norm = 0, bound = 0.04;

    for (size_t i = 0; i < n; i++) {
        off += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    if (strstr(output, "logit"))
        bound *= 2;
    if (!(sqrt(off) <= bound * sqrt(norm)))
        fail_msg("%s: relative error %g", what, sqrt(off / norm));
}

static void cpu__float32__matches_golden(void **state)
{
    const char *leaves[] = {"fatigue.probability",
                            "recognition.embedding.normalized"};

    (void)state;
    for (size_t i = 0; i < N_GOLDEN_CASES; i++) {
        golden_run(golden_cases[i], "cpu", MDL_PREC_F32, 4, ~0ull,
                   check_float32);
        golden_run(golden_cases[i], "cpu", MDL_PREC_F32, 1, ~0ull,
                   check_float32);
        for (size_t k = 0; k < 2; k++)
            golden_run(golden_cases[i], "cpu", MDL_PREC_F32, 2,
                       golden_bit(golden_cases[i], leaves[k]), check_float32);
    }
}

static void cpu__bfloat16__within_bound(void **state)
{
    struct mdl_backend *b;
    struct ut_error e;
    bool able;

    (void)state;
    if (mdl_backend_open("cpu", 0, &b, &e))
        fail_msg("%s", e.msg);
    able = mdl_backend_supports(b, MDL_PREC_BF16);
    mdl_backend_close(b);
    if (!able) {
        printf("SKIPPED cpu__bfloat16: no AVX-512 BF16 here\n");
        return;
    }
    for (size_t i = 0; i < N_GOLDEN_CASES; i++) {
        golden_run(golden_cases[i], "cpu", MDL_PREC_BF16, 4, ~0ull,
                   check_bfloat16);
        golden_run(
            golden_cases[i], "cpu", MDL_PREC_BF16, 1,
            golden_bit(golden_cases[i], "recognition.embedding.normalized"),
            check_bfloat16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu__float32__matches_golden),
        cmocka_unit_test(cpu__bfloat16__within_bound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
