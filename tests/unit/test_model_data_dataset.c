/* Manifests and their splits: groups stay together and keep their names. */
#include "model/data/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/unit.h"

#define N_GROUPS 10

/* Three pictures each of ten groups, labels 0 and 1 in turn. */
static void open_grouped(struct mdl_dataset *d)
{
    char path[] = "/tmp/tscaf-manifest-XXXXXX";
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    struct ut_error e;
    enum ut_err rc;

    assert_non_null(f);
    fprintf(f, "file\tlabel\tgroup\n");
    for (int i = 0; i < 3 * N_GROUPS; i++)
        fprintf(f, "%d.png\t%d\tdriver %d\n", i, i % 2, i / 3);
    fclose(f);
    rc = mdl_dataset_open(path, d, &e);
    unlink(path);
    if (rc)
        fail_msg("%s", e.msg);
    assert_int_equal(d->groups, N_GROUPS);
}

static void count_groups(const struct mdl_dataset *d, int count[N_GROUPS])
{
    char name[32];

    memset(count, 0, N_GROUPS * sizeof(int));
    assert_int_equal(d->groups, N_GROUPS);
    for (int i = 0; i < d->n; i++) {
        const struct mdl_example *x = &d->examples[i];

        snprintf(name, sizeof(name), "driver %d", x->line / 3);
        assert_string_equal(d->group[x->group], name);
        count[x->group]++;
    }
}

static void split__by_group__whole_and_named_on_both_sides(void **state)
{
    struct mdl_dataset d, held;
    int kept[N_GROUPS], out[N_GROUPS];
    struct ut_error e;

    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++) {
        open_grouped(&d);
        assert_int_equal(
            mdl_dataset_split(&d, MDL_SPLIT_GROUP, 0.2, seed, &held, &e),
            UT_OK);
        assert_int_equal(held.n, 6);
        assert_int_equal(held.classes, 2);
        count_groups(&d, kept);
        count_groups(&held, out);
        for (int i = 0; i < N_GROUPS; i++) {
            assert_int_equal(kept[i] + out[i], 3);
            assert_true(!kept[i] || !out[i]);
        }
        mdl_dataset_fini(&held);
        mdl_dataset_fini(&d);
    }
}

/* A few pictures of one driver, many of another: it is the few that are held
 * out, whichever is drawn first. */
static void split__uneven_groups__not_nearly_everything(void **state)
{
    struct mdl_example x[100];
    struct ut_error e;

    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct mdl_dataset d = {.examples = x, .n = 100}, held;

        for (int i = 0; i < 100; i++)
            x[i] = (struct mdl_example){.group = i >= 5, .line = i};
        if (mdl_dataset_split(&d, MDL_SPLIT_GROUP, 0.1, seed, &held, &e))
            fail_msg("seed %d: %s", (int)seed, e.msg);
        assert_int_equal(held.n, 5);
        assert_int_equal(d.n, 95);
        mdl_dataset_fini(&held);
        /* All are larger than twice the share: still one, and not both. */
        d.n = 100;
        for (int i = 0; i < 100; i++)
            x[i] = (struct mdl_example){.group = i >= 30, .line = i};
        assert_int_equal(
            mdl_dataset_split(&d, MDL_SPLIT_GROUP, 0.1, seed, &held, &e),
            UT_OK);
        assert_int_equal(held.n, 30);
        mdl_dataset_fini(&held);
    }
}

/* Nearly all of them, each alone: one is left. */
static void split__nearly_all__one_left(void **state)
{
    struct mdl_example x[10];
    struct mdl_dataset d = {.examples = x, .n = 10}, held;
    struct ut_error e;

    (void)state;
    for (int i = 0; i < 10; i++)
        x[i] = (struct mdl_example){.group = -1, .line = i};
    assert_int_equal(mdl_dataset_split(&d, MDL_SPLIT_GROUP, 0.99, 1, &held, &e),
                     UT_OK);
    assert_int_equal(held.n, 9);
    assert_int_equal(d.n, 1);
    mdl_dataset_fini(&held);
}

static void split__one_group__refused(void **state)
{
    struct mdl_dataset d, held;
    struct ut_error e;

    (void)state;
    open_grouped(&d);
    for (int i = 0; i < d.n; i++)
        d.examples[i].group = 0;
    assert_int_equal(mdl_dataset_split(&d, MDL_SPLIT_GROUP, 0.2, 1, &held, &e),
                     UT_EINVAL);
    assert_non_null(strstr(e.msg, "one group"));
    mdl_dataset_fini(&held);
    mdl_dataset_fini(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split__by_group__whole_and_named_on_both_sides),
        cmocka_unit_test(split__uneven_groups__not_nearly_everything),
        cmocka_unit_test(split__nearly_all__one_left),
        cmocka_unit_test(split__one_group__refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
