/* Archives from strangers: what is taken, what is left out, what is refused. */
#include "server/datasets/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/support/unit.h"

static char *bytes;
static size_t len;

struct entry {
    const char *name, *link;
    size_t size; /* of 'x' */
    mode_t type;
};

/* An archive in memory. */
static void pack(const struct entry *list, int n, bool zip, bool gzip)
{
    struct archive *a = archive_write_new();
    char *x = malloc(64u << 20);

    memset(x, 'x', 64u << 20);
    free(bytes);
    bytes = malloc(80u << 20);
    if (zip)
        archive_write_set_format_zip(a);
    else
        archive_write_set_format_pax_restricted(a);
    if (gzip)
        archive_write_add_filter_gzip(a);
    assert_int_equal(archive_write_open_memory(a, bytes, 80u << 20, &len),
                     ARCHIVE_OK);
    for (int i = 0; i < n; i++) {
        struct archive_entry *e = archive_entry_new();

        archive_entry_set_pathname(e, list[i].name);
        archive_entry_set_filetype(e, list[i].type ? list[i].type : AE_IFREG);
        archive_entry_set_perm(e, 0644);
        archive_entry_set_size(e, (int64_t)list[i].size);
        if (list[i].link && list[i].type == AE_IFLNK)
            archive_entry_set_symlink(e, list[i].link);
        else if (list[i].link)
            archive_entry_set_hardlink(e, list[i].link);
        assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
        if (list[i].size)
            archive_write_data(a, x, list[i].size);
        archive_entry_free(e);
    }
    archive_write_close(a);
    archive_write_free(a);
    free(x);
}

/* A folder within another, so that what escapes by one step is seen. */
static char outer[64], inner[80];

static enum ut_err unpack(int64_t limit, int64_t *n, struct srv_problems *p,
                          struct ut_error *e)
{
    snprintf(outer, sizeof(outer), "/tmp/tscaf-archive-XXXXXX");
    assert_non_null(mkdtemp(outer));
    snprintf(inner, sizeof(inner), "%s/in", outer);
    mkdir(inner, 0700);
    memset(p, 0, sizeof(*p));
    return srv_archive_unpack(bytes, len, inner, limit, n, p, e);
}

static bool there(const char *name)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", inner, name);
    return !access(path, F_OK);
}

static void names__below_and_beyond__told_apart(void **state)
{
    static const char *const good[] = {"a.png", "a/b c.jpg", "1/2/3/4/5/6/7/8"};
    static const char *const bad[] = {
        "",        "/a",    "../a", "a/../b", "a//b", "a/",
        ".hidden", "a/./b", "a\\b", "a\nb",   "a/..", "1/2/3/4/5/6/7/8/9"};
    char name[SRV_ARCHIVE_MAX_NAME + 2];

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        if (!srv_archive_name_ok(good[i]))
            fail_msg("%s", good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (srv_archive_name_ok(bad[i]))
            fail_msg("%s", bad[i]);
    memset(name, 'a', sizeof(name));
    name[SRV_ARCHIVE_MAX_NAME + 1] = '\0';
    assert_false(srv_archive_name_ok(name));
    name[SRV_ARCHIVE_MAX_NAME] = '\0';
    assert_true(srv_archive_name_ok(name));
}

static void unpack__hostile_entries__left_out_and_told(void **state)
{
    static const struct entry list[] = {
        {"ok/a.png", NULL, 10, 0},
        {"../escape.png", NULL, 10, 0},
        {"/tmp/tscaf-absolute.png", NULL, 10, 0},
        {"link.png", "/etc/passwd", 0, AE_IFLNK},
        {"hard.png", "ok/a.png", 0, 0},
        {"pipe.png", NULL, 0, AE_IFIFO},
        {"ok/run.sh", NULL, 10, 0},
        {"./ok/b.jpg", NULL, 20, 0},
        {"ok/a.png", NULL, 10, 0}, /* twice */
    };
    struct srv_problems p;
    struct ut_error e;
    int64_t n;

    (void)state;
    pack(list, 9, false, true);
    if (unpack(1 << 20, &n, &p, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(n, 30);
    assert_int_equal(p.n, 7);
    assert_true(there("ok/a.png") && there("ok/b.jpg"));
    assert_false(there("../escape.png") || there("link.png") ||
                 there("hard.png") || there("pipe.png") || there("ok/run.sh"));
    assert_int_not_equal(access("/tmp/tscaf-absolute.png", F_OK), 0);
    ut_remove_tree(outer);
}

static void unpack__zip__taken(void **state)
{
    static const struct entry list[] = {{"a/1.png", NULL, 1000, 0},
                                        {"b/2.png", NULL, 1000, 0}};
    struct srv_problems p;
    struct ut_error e;
    int64_t n;

    (void)state;
    pack(list, 2, true, false);
    assert_int_equal(unpack(1 << 20, &n, &p, &e), UT_OK);
    assert_int_equal(n, 2000);
    assert_true(there("a/1.png") && there("b/2.png"));
    ut_remove_tree(outer);
}

static void unpack__at_the_limit_and_one_past__taken_and_refused(void **state)
{
    static const struct entry list[] = {{"a/1.png", NULL, 5000, 0}};
    struct srv_problems p;
    struct ut_error e;
    int64_t n;

    (void)state;
    pack(list, 1, false, false);
    assert_int_equal(unpack(5000, &n, &p, &e), UT_OK);
    ut_remove_tree(outer);
    assert_int_equal(unpack(4999, &n, &p, &e), UT_EBUSY);
    assert_non_null(strstr(e.msg, "4999"));
    ut_remove_tree(outer);
}

/* One name again and again: each counts, and all but the first are told. */
static void
unpack__files_at_the_limit_and_one_past__taken_and_refused(void **state)
{
    struct entry *list = calloc(SRV_ARCHIVE_MAX_FILES + 1, sizeof(*list));
    struct srv_problems p;
    struct ut_error e;
    int64_t n;

    (void)state;
    for (int i = 0; i <= SRV_ARCHIVE_MAX_FILES; i++)
        list[i].name = "a/1.png";
    pack(list, SRV_ARCHIVE_MAX_FILES, false, true);
    if (unpack(1 << 20, &n, &p, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(p.n, SRV_ARCHIVE_MAX_FILES - 1);
    assert_true(there("a/1.png"));
    ut_remove_tree(outer);
    pack(list, SRV_ARCHIVE_MAX_FILES + 1, false, true);
    assert_int_equal(unpack(1 << 20, &n, &p, &e), UT_EBUSY);
    assert_string_equal(e.msg, "archive: over 200000 files, the limit");
    ut_remove_tree(outer);
    free(list);
}

/* 48 MiB of one letter pack to some 50 KB. */
static void unpack__bomb__refused(void **state)
{
    static const struct entry taken[] = {{"a/1.png", NULL, 48u << 20, 0}};
    static const struct entry passed_over[] = {{"a/1.sh", NULL, 48u << 20, 0}};
    struct srv_problems p;
    struct ut_error e;
    int64_t n;

    (void)state;
    for (int zip = 0; zip < 2; zip++) {
        pack(taken, 1, zip, !zip);
        assert_true(len < 200000);
        assert_int_equal(unpack(1ll << 40, &n, &p, &e), UT_EBUSY);
        assert_true(n < 48 << 20);
        ut_remove_tree(outer);
        pack(passed_over, 1, zip, !zip);
        assert_int_equal(unpack(1ll << 40, &n, &p, &e), UT_EBUSY);
        ut_remove_tree(outer);
    }
}

static void unpack__no_archive__said(void **state)
{
    struct srv_problems p;
    struct ut_error e;
    int64_t n;

    (void)state;
    free(bytes);
    bytes = strdup("this is no archive at all, whatever it was called");
    len = strlen(bytes);
    assert_int_equal(unpack(1 << 20, &n, &p, &e), UT_EFORMAT);
    ut_remove_tree(outer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names__below_and_beyond__told_apart),
        cmocka_unit_test(unpack__hostile_entries__left_out_and_told),
        cmocka_unit_test(unpack__zip__taken),
        cmocka_unit_test(unpack__at_the_limit_and_one_past__taken_and_refused),
        cmocka_unit_test(
            unpack__files_at_the_limit_and_one_past__taken_and_refused),
        cmocka_unit_test(unpack__bomb__refused),
        cmocka_unit_test(unpack__no_archive__said),
    };
    int code = cmocka_run_group_tests(tests, NULL, NULL);

    free(bytes);
    return code;
}
