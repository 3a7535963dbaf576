/* The way to the CUDA backend, and every way back to the CPU. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model/backend.h"
#include "tests/support/unit.h"

static const struct {
    const char *file, *why; /* a part of the reason */
} cases[] = {
    {PLUGINS "none.so", "there is no plug-in " PLUGINS "none.so"},
    {"Makefile", "does not load"},
    {PLUGINS "stranger.so", "is no plug-in of tscaf"},
    {PLUGINS "other_version.so", "another version of tscaf (interface 2"},
    {PLUGINS "other_layout.so", "another version of tscaf (layout "},
    {PLUGINS "declines.so", "device 0 is not there"},
};

#define N_CASES (sizeof(cases) / sizeof(cases[0]))

static void auto__plugin_unusable__cpu_with_the_reason(void **state)
{
    static const char *const names[] = {NULL, "auto"};
    struct mdl_backend *b;
    struct ut_error e;

    (void)state;
    for (size_t i = 0; i < N_CASES; i++)
        for (int k = 0; k < 2; k++) {
            setenv("TSCAF_CUDA_PLUGIN", cases[i].file, 1);
            if (mdl_backend_open(names[k], 0, &b, &e))
                fail_msg("%s: %s", cases[i].file, e.msg);
            assert_string_equal(mdl_backend_name(b), "cpu");
            if (!strstr(mdl_backend_note(b), cases[i].why))
                fail_msg("%s: the note is \"%s\"", cases[i].file,
                         mdl_backend_note(b));
            mdl_backend_close(b);
        }
}

static void cuda__plugin_unusable__error_with_the_reason(void **state)
{
    struct mdl_backend *b;
    struct ut_error e;

    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        setenv("TSCAF_CUDA_PLUGIN", cases[i].file, 1);
        assert_int_equal(mdl_backend_open("cuda", 0, &b, &e), UT_EDEVICE);
        assert_null(b);
        if (strncmp(e.msg, "backend \"cuda\": ", 16) ||
            !strstr(e.msg, cases[i].why))
            fail_msg("%s: the error is \"%s\"", cases[i].file, e.msg);
    }
}

static void others__named__do_not_look_for_the_plugin(void **state)
{
    static const char *const names[] = {"cpu", "ref"};
    struct mdl_backend *b;
    struct ut_error e;

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mdl_backend_open(names[i], 0, &b, &e), UT_OK);
        assert_string_equal(mdl_backend_name(b), names[i]);
        assert_string_equal(mdl_backend_note(b), "");
        mdl_backend_close(b);
    }
    assert_int_equal(mdl_backend_open("gpu", 0, &b, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "known are auto, cpu, ref, cuda"));
}

/* The real plug-in, where it was built: on a machine without an NVIDIA driver
 * it loads and says so. */
static void plugin__no_driver__says_so(void **state)
{
    struct mdl_backend *b;
    struct ut_error e = {0};

    (void)state;
    if (access(CUDA_PLUGIN, R_OK)) {
        printf("SKIPPED plugin__no_driver: make cuda was not run\n");
        return;
    }
    if (!access("/proc/driver/nvidia/version", R_OK)) {
        printf("SKIPPED plugin__no_driver: there is a driver\n");
        return;
    }
    setenv("TSCAF_CUDA_PLUGIN", CUDA_PLUGIN, 1);
    assert_int_equal(mdl_backend_open("cuda", 0, &b, &e), UT_EDEVICE);
    if (!strstr(e.msg, "no NVIDIA driver"))
        fail_msg("the error is \"%s\"", e.msg);
    assert_int_equal(mdl_backend_open("auto", 0, &b, &e), UT_OK);
    assert_string_equal(mdl_backend_name(b), "cpu");
    mdl_backend_close(b);
}

/* What the real plug-in says with a driver of this version, in a process that
 * has no other: "" if it opens. */
static void reason(const char *version, char *text, size_t len)
{
    int ends[2];
    ssize_t n;

    assert_int_equal(pipe(ends), 0);
    if (!fork()) {
        struct ut_error e = {0};
        struct mdl_backend *b;

        setenv("TSCAF_CUDA_PLUGIN", CUDA_PLUGIN, 1);
        setenv("TSCAF_TEST_DRIVER", version, 1);
        /* By its soname the runtime finds it loaded. */
        if (!dlopen(PLUGINS "driver.so", RTLD_NOW | RTLD_GLOBAL))
            ut_fail(&e, UT_EIO, "%s", dlerror());
        else if (!mdl_backend_open("cuda", 0, &b, &e))
            e.msg[0] = '\0';
        n = write(ends[1], e.msg, strlen(e.msg) + 1);
        _exit(n < 0);
    }
    close(ends[1]);
    n = read(ends[0], text, len);
    close(ends[0]);
    wait(NULL);
    assert_true(n > 0 && !text[n - 1]);
}

static void plugin__old_driver_or_no_gpu__says_so(void **state)
{
    char text[300];

    (void)state;
    if (access(CUDA_PLUGIN, R_OK)) {
        printf("SKIPPED plugin__old_driver_or_no_gpu: make cuda was not run\n");
        return;
    }
    reason("11040", text, sizeof(text));
    if (!strstr(text, "the NVIDIA driver is for CUDA 11.4, the plug-in for "))
        fail_msg("the error is \"%s\"", text);
    reason("99000", text, sizeof(text));
    if (!strstr(text, "no NVIDIA GPU: "))
        fail_msg("the error is \"%s\"", text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto__plugin_unusable__cpu_with_the_reason),
        cmocka_unit_test(cuda__plugin_unusable__error_with_the_reason),
        cmocka_unit_test(others__named__do_not_look_for_the_plugin),
        /* First: a process asks for the driver once. */
        cmocka_unit_test(plugin__old_driver_or_no_gpu__says_so),
        cmocka_unit_test(plugin__no_driver__says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
