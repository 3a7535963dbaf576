/* One server has a folder at a time, under a name that stays. */
#include "server/data_folder.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/unit.h"

static void claim__twice__refused_until_released(void **state)
{
    struct srv_data_folder first = {0}, second = {0};
    struct ut_error e;
    char name[SRV_SERVER_NAME_LEN];

    (void)state;
    assert_int_equal(srv_data_folder_claim(test_dir(), &first, &e), UT_OK);
    assert_true(strlen(first.name) > 7);
    assert_null(strchr(first.name, '\n'));
    assert_int_equal(srv_data_folder_claim(test_dir(), &second, &e), UT_ESTATE);
    assert_non_null(strstr(e.msg, test_dir()));
    assert_non_null(strstr(e.msg, "another server"));
    strcpy(name, first.name);
    srv_data_folder_release(&first);
    assert_int_equal(srv_data_folder_claim(test_dir(), &second, &e), UT_OK);
    assert_string_equal(second.name, name);
    srv_data_folder_release(&second);
}

static void claim__missing__made(void **state)
{
    struct srv_data_folder d = {0};
    char made[128];
    struct stat st;
    struct ut_error e;

    (void)state;
    snprintf(made, sizeof(made), "%s/made", test_dir());
    assert_int_equal(srv_data_folder_claim(made, &d, &e), UT_OK);
    assert_int_equal(stat(made, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    srv_data_folder_release(&d);
}

static void claim__two_folders__two_names(void **state)
{
    struct srv_data_folder first = {0}, second = {0};
    char other[128];
    struct ut_error e;

    (void)state;
    snprintf(other, sizeof(other), "%s/other", test_dir());
    assert_int_equal(mkdir(other, 0700), 0);
    assert_int_equal(srv_data_folder_claim(test_dir(), &first, &e), UT_OK);
    assert_int_equal(srv_data_folder_claim(other, &second, &e), UT_OK);
    assert_string_not_equal(first.name, second.name);
    srv_data_folder_release(&first);
    srv_data_folder_release(&second);
}

static void claim__cannot_be_made__named(void **state)
{
    struct srv_data_folder d = {0};
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_data_folder_claim("/dev/null/x", &d, &e), UT_EIO);
    assert_non_null(strstr(e.msg, "/dev/null/x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(claim__twice__refused_until_released),
        cmocka_unit_test(claim__missing__made),
        cmocka_unit_test(claim__two_folders__two_names),
        cmocka_unit_test(claim__cannot_be_made__named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
