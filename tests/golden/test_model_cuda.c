/* The CUDA backend's plan and kernels against the golden numbers and, on odd
 * shapes, against the reference: with the processor in the GPU's place
 * (tests/plugins/host), or on a GPU where TSCAF_TEST_CUDA=1 asks for it. */
#include <math.h>

#include "tests/golden/golden.h"

/* As on the reference backend: float32 sums in another order. */
static void check_float32(const char *output, const float *got,
                          const float *want, size_t n, const char *what)
{
    (void)output;
    assert_close(got, want, n, 1e-4, 1e-4, what);
}

/* As in test_model_cpu.c: bits' last place, once for each of 54 layers,
 * adding up like noise, twice; a logit may lose one bit more, and so may the
 * probability, whose relative error is (1 - p) |logit| times the logit's: it is
 * held to the logit's bound. */
static void within(int bits, const char *output, const float *got,
                   const float *want, size_t n, const char *what)
{
    double off = 0, norm = 0, bound = 2 * ldexp(1, -bits) * sqrt(2 * 54.0);

    for (size_t i = 0; i < n; i++) {
        off += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    if (strstr(output, "logit") || strstr(output, "probability"))
        bound *= 2;
    if (!(sqrt(off) <= bound * sqrt(norm)))
        fail_msg("%s: relative error %g, bound %g", what, sqrt(off / norm),
                 bound);
}

static void check_bfloat16(const char *output, const float *got,
                           const float *want, size_t n, const char *what)
{
    within(9, output, got, want, n, what);
}

static void check_float16(const char *output, const float *got,
                          const float *want, size_t n, const char *what)
{
    within(12, output, got, want, n, what);
}

static void cuda__every_case__matches_golden(void **state)
{
    static const struct {
        enum mdl_precision precision;
        golden_check check;
    } ways[] = {{MDL_PREC_F32, check_float32},
                {MDL_PREC_BF16, check_bfloat16},
                {MDL_PREC_F16, check_float16}};
    /* Alone: the LASE block and the fatigue head's mean are one step. */
    static const char *const leaves[] = {"fatigue.probability",
                                         "recognition.embedding.normalized"};

    (void)state;
    for (size_t i = 0; i < N_GOLDEN_CASES; i++)
        for (size_t w = 0; w < 3; w++) {
            golden_run(golden_cases[i], "cuda", ways[w].precision, 4, ~0ull,
                       ways[w].check);
            golden_run(golden_cases[i], "cuda", ways[w].precision, 1,
                       golden_bit(golden_cases[i], leaves[0]) |
                           golden_bit(golden_cases[i], leaves[1]),
                       ways[w].check);
        }
}

/* A plan that the device's memory has no room for says what it needs. */
static void cuda__no_room__says_what_a_batch_needs(void **state)
{
    struct mdl_backend *b;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    struct mdl_model m;
    struct mdl_graph g;
    struct ut_error e = {0};

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    if (mdl_model_open(GOLDEN_DIR "/iresnet_lase/weights.safetensors", &m,
                       &e) ||
        mdl_graph_optimise(&m.graph, ~0ull, &g, &e) ||
        mdl_backend_open("cuda", 0, &b, &e) || mdl_lane_new(b, &lane, &e))
        fail_msg("%s", e.msg);
    setenv("TSCAF_HOST_DEVICE_MIB", "1", 1);
    assert_int_equal(mdl_plan_new(lane, &g, MDL_PREC_F32, 256, &plan, &e),
                     UT_ENOMEM);
    if (!strstr(e.msg, "a plan for 256 faces needs "))
        fail_msg("%s", e.msg);
    unsetenv("TSCAF_HOST_DEVICE_MIB");
    assert_int_equal(mdl_plan_new(lane, &g, MDL_PREC_F32, 2, &plan, &e), UT_OK);
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_backend_close(b);
    mdl_graph_fini(&g);
    mdl_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuda__every_case__matches_golden),
        cmocka_unit_test(cuda__no_room__says_what_a_batch_needs),
    };

    if (!getenv("TSCAF_TEST_CUDA"))
        setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
