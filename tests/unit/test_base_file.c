/* Files that are there whole or not at all. */
#include "base/file.h"

#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
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

/* Files of writes that did not end. */
static int cut_off(void)
{
    char pattern[64];
    glob_t found;
    int n;

    snprintf(pattern, sizeof(pattern), "%s/*.tmp-*", test_dir());
    n = glob(pattern, 0, NULL, &found) ? 0 : (int)found.gl_pathc;
    globfree(&found);
    return n;
}

static void write__new_and_again__replaced_whole(void **state)
{
    char path[64];
    struct ut_error e;

    (void)state;
    snprintf(path, sizeof(path), "%s/a", test_dir());
    assert_int_equal(ut_file_write(path, "a longer text", 13, &e), UT_OK);
    check(path, "a longer text");
    assert_int_equal(ut_file_write(path, "short", 5, &e), UT_OK);
    check(path, "short");
    assert_int_equal(ut_file_write(path, "", 0, &e), UT_OK);
    check(path, "");
    assert_int_equal(cut_off(), 0);
}

static void write__no_folder__named(void **state)
{
    struct ut_error e;

    (void)state;
    assert_int_equal(ut_file_write("/nowhere/x", "a", 1, &e), UT_EIO);
    assert_non_null(strstr(e.msg, "/nowhere/x"));
}

static void move__to_another_volume__there_whole_and_gone_here(void **state)
{
    char from[64], to[64] = "/dev/shm/tscaf-move-XXXXXX", none[64];
    struct stat here, there;
    struct ut_error e;

    (void)state;
    assert_non_null(mkdtemp(to));
    assert_int_equal(stat(test_dir(), &here), 0);
    assert_int_equal(stat(to, &there), 0);
    assert_true(here.st_dev != there.st_dev);
    strcat(to, "/b");
    snprintf(from, sizeof(from), "%s/m", test_dir());
    for (int i = 0; i < 2; i++) { /* the second is empty */
        assert_int_equal(ut_file_write(from, "moved", i ? 0 : 5, &e), UT_OK);
        assert_int_equal(ut_file_move(from, to, &e), UT_OK);
        check(to, i ? "" : "moved");
        assert_int_not_equal(access(from, F_OK), 0);
    }
    /* Within one, by its name alone; what is not there stays so. */
    snprintf(none, sizeof(none), "%s/none", test_dir());
    assert_int_equal(ut_file_write(from, "a", 1, &e), UT_OK);
    assert_int_equal(ut_file_move(from, none, &e), UT_OK);
    check(none, "a");
    assert_int_equal(ut_file_move(from, none, &e), UT_EIO);
    assert_non_null(strstr(e.msg, from));
    assert_int_equal(ut_file_move(from, to, &e), UT_EIO);
    check(to, "");
    *strrchr(to, '/') = '\0';
    ut_remove_tree(to);
}

/* A limit on a file's size stands for a full disk. */
static void write__disk_full__what_was_there_stays(void **state)
{
    struct rlimit old, small;
    char path[64];
    static char large[8192];
    struct ut_error e;
    enum ut_err rc;

    (void)state;
    snprintf(path, sizeof(path), "%s/b", test_dir());
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
    assert_int_equal(cut_off(), 0);
}

static void sweep__write_cut_off__gone_and_nothing_else(void **state)
{
    char path[64], cut[80];
    struct ut_error e;

    (void)state;
    snprintf(path, sizeof(path), "%s/c", test_dir());
    snprintf(cut, sizeof(cut), "%s.tmp-00c0ffee", path);
    assert_int_equal(ut_file_write(path, "whole", 5, &e), UT_OK);
    fclose(fopen(cut, "w"));
    assert_int_equal(cut_off(), 1);
    ut_file_sweep(test_dir());
    assert_int_equal(cut_off(), 0);
    check(path, "whole");
    ut_file_sweep("/nowhere");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write__new_and_again__replaced_whole),
        cmocka_unit_test(write__no_folder__named),
        cmocka_unit_test(move__to_another_volume__there_whole_and_gone_here),
        cmocka_unit_test(write__disk_full__what_was_there_stays),
        cmocka_unit_test(sweep__write_cut_off__gone_and_nothing_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
