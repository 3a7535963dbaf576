/* The buffer's promises: its limit, its NUL, its texts. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "tests/support/unit.h"

static void add__at_the_limit_and_one_past__only_the_last_refused(void **state)
{
    struct ut_buf b;
    struct ut_error e;

    (void)state;
    ut_buf_init(&b, 5);
    assert_int_equal(ut_buf_add(&b, "abc", 3, &e), UT_OK);
    assert_int_equal(ut_buf_add(&b, "de", 2, &e), UT_OK);
    assert_int_equal(ut_buf_add(&b, "f", 1, &e), UT_EBUSY);
    assert_non_null(strstr(e.msg, "limit of 5"));
    assert_string_equal(b.data, "abcde");
    ut_buf_fini(&b);
    assert_int_equal(ut_buf_add(&b, "xyz", 3, &e), UT_OK);
    assert_string_equal(b.data, "xyz");
    ut_buf_fini(&b);
}

static void addf__text_larger_than_the_buffer__grows(void **state)
{
    struct ut_buf b;
    struct ut_error e;
    size_t len;
    char *text;

    (void)state;
    ut_buf_init(&b, 4000);
    for (int i = 0; i < 300; i++)
        assert_int_equal(ut_buf_addf(&b, &e, "%d,", i), UT_OK);
    assert_int_equal(ut_buf_addf(&b, &e, "%4000d", 1), UT_EBUSY);
    text = ut_buf_take(&b, &len);
    assert_int_equal(strlen(text), len);
    assert_null(b.data);
    assert_non_null(strstr(text, ",299,"));
    free(text);
}

static void add__no_memory__unchanged(void **state)
{
    struct ut_buf b;
    struct ut_error e;

    (void)state;
    ut_buf_init(&b, 1000);
    assert_int_equal(ut_buf_add(&b, "abc", 3, &e), UT_OK);
    fault_arm(0);
    assert_int_equal(ut_buf_addf(&b, &e, "%500d", 1), UT_ENOMEM);
    assert_true(fault_disarm());
    assert_string_equal(b.data, "abc");
    ut_buf_fini(&b);
}

static void fail__long_text__cut(void **state)
{
    char text[1000];
    struct ut_error e;

    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(ut_fail(&e, UT_EIO, "%s", text), UT_EIO);
    assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
    assert_int_equal(ut_fail(NULL, UT_EIO, "nobody reads"), UT_EIO);
    for (int i = UT_OK; i <= UT_ESTATE; i++)
        assert_string_not_equal(ut_err_name((enum ut_err)i), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(add__at_the_limit_and_one_past__only_the_last_refused),
        cmocka_unit_test(addf__text_larger_than_the_buffer__grows),
        cmocka_unit_test(add__no_memory__unchanged),
        cmocka_unit_test(fail__long_text__cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
