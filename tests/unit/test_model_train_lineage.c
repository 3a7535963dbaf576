/* What a trained model keeps of its base's metadata. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/train/lineage.h"
#include "tests/support/unit.h"

static const struct mdl_st_pair base_meta[] = {
    {"format", "tscaf/1"},
    {"spec", "{}"},
    {"name", "base"},
    {"licence", "MIT"},
    {"training.settings", "steps 1"},
    {"training.step", "7"},
    {"threshold.fatigue", "0.6"},
    {"calibration.fatigue", "rate 0.01"},
    {"held_out.fatigue", "{}"},
    {"threshold.recognition", "0.41"},
    {"calibration.recognition", "rate 0.001"},
};
static const struct mdl_st_pair own[] = {{"name", "new"},
                                         {"training.settings", "steps 2"}};

static struct mdl_st *open_base(void)
{
    char path[] = "/tmp/lineage-XXXXXX";
    struct mdl_st *st;
    struct ut_error e;
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    close(fd);
    if (mdl_st_write(path, NULL, 0, base_meta,
                     sizeof(base_meta) / sizeof(base_meta[0]), &e) ||
        mdl_st_open(path, &st, &e))
        fail_msg("%s", e.msg);
    unlink(path);
    return st;
}

/* Exactly these pairs ("key=value") are there. */
static void check(bool recognition_too, bool frozen_root,
                  const char *const *want)
{
    const char *trained[] = {"fatigue", recognition_too ? "recognition" : NULL};
    struct mdl_st *base = open_base();
    struct mdl_st_pair *meta;
    struct ut_error e;
    size_t n, n_want = 0;

    assert_int_equal(
        mdl_lineage_meta(base, own, 2, trained, 2, frozen_root, &meta, &n, &e),
        UT_OK);
    for (; want[n_want]; n_want++) {
        bool found = false;

        for (size_t i = 0; i < n; i++) {
            char pair[128];

            snprintf(pair, sizeof(pair), "%s=%s", meta[i].key, meta[i].value);
            found = found || !strcmp(pair, want[n_want]);
        }
        if (!found)
            fail_msg("no %s", want[n_want]);
    }
    assert_int_equal(n, n_want);
    assert_string_equal(meta[0].value, "new");
    free(meta);
    mdl_st_close(base);
}

static void lineage__root_trained__no_leafs_figures(void **state)
{
    (void)state;
    check(false, false,
          (const char *[]){"name=new", "training.settings=steps 2",
                           "licence=MIT", NULL});
}

static void lineage__root_frozen__the_other_leafs_figures(void **state)
{
    (void)state;
    check(false, true,
          (const char *[]){"name=new", "training.settings=steps 2",
                           "licence=MIT", "threshold.recognition=0.41",
                           "calibration.recognition=rate 0.001", NULL});
    check(true, true,
          (const char *[]){"name=new", "training.settings=steps 2",
                           "licence=MIT", NULL});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lineage__root_trained__no_leafs_figures),
        cmocka_unit_test(lineage__root_frozen__the_other_leafs_figures),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
