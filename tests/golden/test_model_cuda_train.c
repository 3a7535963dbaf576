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
        cmocka_unit_test(cuda__no_room__says_what_a_step_needs),
    };

    cmocka_set_test_filter(getenv("TEST_FILTER")); /* NULL: all */
    if (!getenv("TSCAF_TEST_CUDA")) {
        setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
        setenv("TSCAF_CUDA_CACHE", "/dev/null", 1);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
