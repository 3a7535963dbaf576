/* The CUDA backend's training against the golden numbers: with the processor in
 * the GPU's place (tests/plugins/host), or on a GPU where TSCAF_TEST_CUDA=1
 * asks for it. */
#include <stdlib.h>

#include "tests/golden/train.h"

static void cuda__one_step__gradients_and_statistics(void **state)
{
    (void)state;
    steps("cuda", MDL_PREC_F32, 1e-3);
}

static void cuda__four_steps__both_modes(void **state)
{
    (void)state;
    runs("cuda");
}

static void cuda__bfloat16__gradients_of_iresnets(void **state)
{
    (void)state;
    gradients_bfloat16("cuda");
}

static void cuda__bfloat16__four_steps_move_float32_weights(void **state)
{
    (void)state;
    runs_bfloat16("cuda");
}

/* The gradients of a step with these engines on offer: *n numbers. */
static float *gradients_by(const char *engines, enum mdl_precision precision,
                           size_t *n)
{
    struct mdl_st *want = golden_open("iresnet_lase", "step_recognition");
    struct run r = {0};
    float *all = NULL;

    setenv("TSCAF_HOST_ENGINES", engines, 1);
    start(&r, "iresnet_lase", "cuda", precision);
    batch(&r, 0, LEAF_RECOGNITION, 1);
    *n = 0;
    for (size_t i = 0; i < mdl_st_count(want); i++) {
        const struct mdl_st_tensor *t = mdl_st_at(want, i);
        size_t count = mdl_shape_count(&t->shape);
        const float *got;

        if (strncmp(t->name, "grad.", 5))
            continue;
        got = mdl_trainer_gradient(r.trainer, t->name + 5);
        assert_non_null(got);
        all = realloc(all, (*n + count) * sizeof(*all));
        assert_non_null(all);
        memcpy(all + *n, got, count * sizeof(*all));
        *n += count;
    }
    stop(&r);
    mdl_st_close(want);
    unsetenv("TSCAF_HOST_ENGINES");
    return all;
}

/* Engines that err, cannot be made, leave NaN or are wrong compute nothing; one
 * that is right does, a little otherwise: in bfloat16 by roundings that fall
 * the other way, as the forward bound and its two halves have it. */
static void cuda__engines_of_every_kind__only_right_ones_compute(void **state)
{
    static const enum mdl_precision precisions[] = {MDL_PREC_F32,
                                                    MDL_PREC_BF16};
    static const double bounds[] = {1e-3, 0.15};

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    unsetenv("TSCAF_HOST_RECORDS"); /* each would be timed sixteen times */
    for (int i = 0; i < 2; i++) {
        size_t n, same;
        float *ours = gradients_by("", precisions[i], &n);
        float *wrong = gradients_by("wnme", precisions[i], &same);
        float *right = gradients_by("wfe", precisions[i], &same);
        double off = 0, norm = 0;

        assert_memory_equal(ours, wrong, n * sizeof(*ours));
        for (size_t k = 0; k < n; k++) {
            off += ((double)right[k] - ours[k]) * ((double)right[k] - ours[k]);
            norm += (double)ours[k] * ours[k];
        }
        if (!(sqrt(off) <= bounds[i] * sqrt(norm) && off > 0))
            fail_msg("gradients by engines: relative error %g",
                     sqrt(off / norm));
        free(ours);
        free(wrong);
        free(right);
    }
}

/* A step that the device's memory has no room for says what it needs. */
static void cuda__no_room__says_what_a_step_needs(void **state)
{
    struct mdl_trainer_config c = {
        .backend = "cuda", .threads = 1, .batch = 64, .momentum = 0.1f};
    struct mdl_trainer *t;
    struct mdl_model m;
    struct ut_error e;
    int task;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    setenv("TSCAF_HOST_DEVICE_MIB", "16", 1);
    if (mdl_model_open(GOLDEN_DIR "/iresnet_lase/weights.safetensors", &m,
                       &e) ||
        mdl_trainer_new(&m, &c, &t, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(mdl_trainer_leaf(t, "fatigue", NULL, 1, &task, &e),
                     UT_ENOMEM);
    if (!strstr(e.msg, "a plan for 64 faces needs ") ||
        !strstr(e.msg, "the GPU has no "))
        fail_msg("%s", e.msg);
    unsetenv("TSCAF_HOST_DEVICE_MIB");
    mdl_trainer_free(t);
    mdl_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuda__one_step__gradients_and_statistics),
        cmocka_unit_test(cuda__four_steps__both_modes),
        cmocka_unit_test(cuda__bfloat16__gradients_of_iresnets),
        cmocka_unit_test(cuda__bfloat16__four_steps_move_float32_weights),
        cmocka_unit_test(cuda__engines_of_every_kind__only_right_ones_compute),
        cmocka_unit_test(cuda__no_room__says_what_a_step_needs),
    };

    cmocka_set_test_filter(getenv("TEST_FILTER")); /* NULL: all */
    if (!getenv("TSCAF_TEST_CUDA")) {
        setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
        setenv("TSCAF_CUDA_CACHE", "/dev/null", 1);
        setenv("TSCAF_HOST_RECORDS", "1", 1);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
