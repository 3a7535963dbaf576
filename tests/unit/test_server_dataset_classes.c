/* Names of classes and their labels: kept in their order, limits told. */
#include "server/datasets/dataset_classes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/unit.h"

#define FATIGUE TSCAF__V1__DATASET_KIND__DATASET_KIND_FATIGUE
#define RECOGNITION TSCAF__V1__DATASET_KIND__DATASET_KIND_RECOGNITION

static int label(struct srv_classes *c, const char *name)
{
    struct ut_error e;
    int n = -1;

    if (srv_classes_label(c, name, &n, &e))
        fail_msg("%s", e.msg);
    return n;
}

static void label__written_and_read_again__the_same(void **state)
{
    struct srv_classes c;
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_classes_read(&c, test_dir(), RECOGNITION, &e), UT_OK);
    assert_int_equal(label(&c, "Ada"), 0);
    assert_int_equal(label(&c, "J\xc3\xb6rg M"), 1);
    assert_int_equal(label(&c, "Ada"), 0);
    assert_int_equal(srv_classes_write(&c, test_dir(), &e), UT_OK);
    srv_classes_fini(&c);
    assert_int_equal(srv_classes_read(&c, test_dir(), RECOGNITION, &e), UT_OK);
    assert_int_equal(c.n, 2);
    assert_int_equal(label(&c, "J\xc3\xb6rg M"), 1);
    assert_int_equal(label(&c, "new"), 2);
    srv_classes_fini(&c);
}

static void label__fatigue__alert_or_drowsy_only(void **state)
{
    struct srv_classes c;
    struct ut_error e;
    int n;

    (void)state;
    assert_int_equal(srv_classes_read(&c, "/nowhere", FATIGUE, &e), UT_OK);
    assert_int_equal(label(&c, "alert"), 0);
    assert_int_equal(label(&c, "drowsy"), 1);
    assert_int_equal(label(&c, "1"), 1);
    assert_int_equal(srv_classes_label(&c, "asleep", &n, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "asleep"));
    srv_classes_fini(&c);
}

static void name__at_the_limit_and_one_past__taken_and_refused(void **state)
{
    struct srv_classes c = {0};
    char name[SRV_CLASS_MAX_NAME + 2];
    struct ut_error e;
    int n;

    (void)state;
    memset(name, 'a', sizeof(name));
    name[SRV_CLASS_MAX_NAME + 1] = '\0';
    assert_int_equal(srv_classes_label(&c, name, &n, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "100"));
    name[SRV_CLASS_MAX_NAME] = '\0';
    assert_int_equal(label(&c, name), 0);
    assert_false(srv_classes_name_ok(""));
    assert_false(srv_classes_name_ok("a\tb"));
    assert_false(srv_classes_name_ok("a\nb"));
    srv_classes_fini(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(label__written_and_read_again__the_same),
        cmocka_unit_test(label__fatigue__alert_or_drowsy_only),
        cmocka_unit_test(name__at_the_limit_and_one_past__taken_and_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
