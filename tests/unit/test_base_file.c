/* Files that are there whole or not at all. */
#include "base/file.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/support/unit.h"

static void check(const char *path, const char *want)
{
    char got[64] = "";
    FILE *f = fopen(path, "r");

    assert_non_null(f);
    (void)!fread(got, 1, sizeof(got) - 1, f);
    fclose(f);
    assert_string_equal(got, want);
}

static void write__new_and_again__replaced_whole(void **state)
{
    char path[64], fresh[72];
    struct ut_error e;

    (void)state;
    snprintf(path, sizeof(path), "%s/a", test_dir());
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    assert_int_equal(ut_file_write(path, "a longer text", 13, &e), UT_OK);
    check(path, "a longer text");
    assert_int_equal(ut_file_write(path, "short", 5, &e), UT_OK);
    check(path, "short");
    assert_int_equal(ut_file_write(path, "", 0, &e), UT_OK);
    check(path, "");
    assert_int_not_equal(access(fresh, F_OK), 0);
}

static void write__no_folder__named(void **state)
{
    struct ut_error e;

    (void)state;
    assert_int_equal(ut_file_write("/nowhere/x", "a", 1, &e), UT_EIO);
    assert_non_null(strstr(e.msg, "/nowhere/x"));
}

/* A limit on a file's size stands for a full disk. */
static void write__disk_full__what_was_there_stays(void **state)
{
    struct rlimit old, small;
    char path[64], fresh[72];
    static char large[8192];
    struct ut_error e;
    enum ut_err rc;

    (void)state;
    snprintf(path, sizeof(path), "%s/b", test_dir());
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    assert_int_equal(ut_file_write(path, "before", 6, &e), UT_OK);
    getrlimit(RLIMIT_FSIZE, &old);
    small = (struct rlimit){1000, old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    rc = ut_file_write(path, large, sizeof(large), &e);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(rc, UT_EIO);
    assert_non_null(strstr(e.msg, path));
    assert_non_null(strstr(e.msg, "File too large"));
    check(path, "before");
    assert_int_not_equal(access(fresh, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write__new_and_again__replaced_whole),
        cmocka_unit_test(write__no_folder__named),
        cmocka_unit_test(write__disk_full__what_was_there_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
