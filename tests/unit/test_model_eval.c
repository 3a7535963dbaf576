/* Curves, intervals, files of pairs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/eval/pairs.h"
#include "tests/support/unit.h"

/* ---- curves ---- */

static void roc__known_scores__known_points(void **state)
{
    struct mdl_scored s[] = {{0.9f, true, 0},
                             {0.8f, false, 0},
                             {0.7f, true, 0},
                             {0.7f, false, 0},
                             {0.1f, false, 0}};
    static struct mdl_roc_point p[MDL_ROC_POINTS];
    const double want[][2] = {
        {0, 0}, {0, 0.5}, {1 / 3.0, 0.5}, {2 / 3.0, 1}, {1, 1}};

    (void)state;
    mdl_scored_sort(s, 5);
    assert_int_equal(mdl_roc_of(s, 5, p), 5);
    for (int i = 0; i < 5; i++) {
        assert_true(fabs(p[i].far - want[i][0]) < 1e-12);
        assert_true(fabs(p[i].tar - want[i][1]) < 1e-12);
    }
    assert_true(isinf(p[0].threshold));
    assert_true(p[1].threshold == (double)0.9f);
    /* One class alone has no curve. */
    assert_int_equal(mdl_roc_of(s, 1, p), 0);
}

/* Of a network that is broken: each is a threshold of its own. */
static void curves__scores_that_are_no_number__end(void **state)
{
    const struct mdl_scored s[] = {
        {NAN, false, 0}, {0.3f, true, 0}, {NAN, true, 0}, {0.1f, false, 0}};
    static struct mdl_roc_point p[MDL_ROC_POINTS];
    double at;

    (void)state;
    assert_true(mdl_auc(s, 4) == 0.5);
    assert_true(mdl_eer(s, 4) == 0.5);
    assert_true(mdl_tar_at(s, 4, 0.5, &at) == 1 && isnan(at));
    assert_int_equal(mdl_roc_of(s, 4, p), 5);
}

/* Folds from 0, from 1, and with a gap: the same figures. */
static void folds__any_numbers__the_same_figures(void **state)
{
    static const int numbers[][2] = {{0, 1}, {1, 2}, {7, 63}};
    static const struct mdl_scored pairs[] = {
        {0.9f, true, 0},  {0.8f, true, 1},  {0.7f, false, 0}, {0.6f, true, 1},
        {0.5f, false, 1}, {0.4f, false, 1}, {0.3f, true, 0},  {0.1f, false, 0}};
    struct mdl_folds want = {0}, got;
    struct ut_error e;

    (void)state;
    for (int k = 0; k < 3; k++) {
        struct mdl_scored s[8];

        memcpy(s, pairs, sizeof(s));
        for (int i = 0; i < 8; i++)
            s[i].fold = numbers[k][pairs[i].fold];
        if (mdl_folds_of(s, 8, &got, &e))
            fail_msg("%s", e.msg);
        if (!k)
            want = got;
        assert_int_equal(got.n, 2);
        assert_true(got.mean == want.mean && got.mean >= 0.5);
        assert_true(got.deviation == want.deviation);
        assert_true(got.threshold == want.threshold);
        for (int i = 0; i < 8; i++)
            s[i].fold = 3;
        assert_int_equal(mdl_folds_of(s, 8, &got, &e), UT_EINVAL);
        assert_non_null(strstr(e.msg, "1 folds with pairs"));
        s[0].fold = 64;
        assert_int_equal(mdl_folds_of(s, 8, &got, &e), UT_EINVAL);
        assert_non_null(strstr(e.msg, "fold 64"));
    }
}

/* A long curve is thinned, and its area stays. */
static void roc__many_scores__thinned_to_the_same_area(void **state)
{
    enum { MANY = 400000 };
    struct mdl_scored *s = malloc(MANY * sizeof(*s));
    struct mdl_roc_point *p = malloc(MDL_ROC_POINTS * sizeof(*p));
    double area = 0, auc;
    unsigned seed = 7;
    int n, small = 0;

    (void)state;
    assert_non_null(s);
    assert_non_null(p);
    for (int i = 0; i < MANY; i++) {
        seed = seed * 1664525u + 1013904223u;
        s[i] = (struct mdl_scored){
            (float)(seed >> 8) / (1 << 24) + (i % 4 ? 0 : 0.3f), i % 4 == 0, 0};
    }
    mdl_scored_sort(s, MANY);
    auc = mdl_auc(s, MANY);
    n = mdl_roc_of(s, MANY, p);
    assert_in_range(n, 100, MDL_ROC_POINTS - 1);
    for (int i = 1; i < n; i++) {
        assert_true(p[i].far >= p[i - 1].far && p[i].tar >= p[i - 1].tar);
        area += (p[i].far - p[i - 1].far) * (p[i].tar + p[i - 1].tar) / 2;
        small += p[i].far > 0 && p[i].far < 1e-3;
    }
    if (fabs(area - auc) > 2e-3)
        fail_msg("area %g, AUC %g", area, auc);
    assert_true(p[n - 1].far == 1 && p[n - 1].tar == 1);
    assert_true(small >= 50); /* the logarithmic axis' left has points too */
    free(s);
    free(p);
}

static void interval__shares__wilsons(void **state)
{
    double low, high;

    (void)state;
    /* Wilson's score interval by hand: 8 of 10. */
    mdl_interval(8, 10, &low, &high);
    assert_true(fabs(low - 0.4902) < 1e-4 && fabs(high - 0.9433) < 1e-4);
    mdl_interval(0, 10, &low, &high);
    assert_true(low == 0 && fabs(high - 0.2775) < 1e-4);
    mdl_interval(0, 0, &low, &high);
    assert_true(low == 0 && high == 1);
}

static void binary__groups__each_its_own(void **state)
{
    struct mdl_example x[] = {{.label = 1, .group = 0},
                              {.label = 0, .group = 0},
                              {.label = 1, .group = 1},
                              {.label = 1, .group = -1}};
    struct mdl_dataset d = {.examples = x, .n = 4, .groups = 2};
    const float p[] = {0.9f, 0.6f, 0.2f, 0.8f};
    struct mdl_binary_figures f;
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_binary_figures_of_group(&d, p, 0, 0.5, &f, &e), UT_OK);
    assert_int_equal(f.pictures, 2);
    assert_int_equal(f.confusion.false_positive, 1);
    assert_true(f.accuracy == 0.5 && f.auc == 1);
    assert_int_equal(mdl_binary_figures_of_group(&d, p, 1, 0.5, &f, &e), UT_OK);
    assert_int_equal(f.confusion.false_negative, 1);
    assert_true(f.accuracy == 0 && f.recall == 0);
    assert_int_equal(mdl_binary_figures_of(&d, p, 0.5, &f, &e), UT_OK);
    assert_int_equal(f.pictures, 4);
    assert_true(f.accuracy == 0.5);
}

/* ---- pairs ---- */

static const char *write_text(const char *name, const char *text)
{
    static char path[256];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", test_dir(), name);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
    return path;
}

static int set_up(void **state)
{
    char path[256];

    (void)state;
    snprintf(path, sizeof(path), "%s/Ada_L", test_dir());
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/Bo", test_dir());
    assert_int_equal(mkdir(path, 0700), 0);
    write_text("Ada_L/Ada_L_0001.jpg", "");
    write_text("Ada_L/0002.jpg", "");
    write_text("Bo/Bo_0001.png", "");
    write_text("Bo/0012.jpg", "");
    return 0;
}

static void is_picture(const struct mdl_pairs *p, int at, const char *end)
{
    const char *path = p->pictures.examples[at].path;

    if (strlen(path) < strlen(end) ||
        strcmp(path + strlen(path) - strlen(end), end))
        fail_msg("%s is not %s", path, end);
}

static void pairs__lfw__folds_and_files(void **state)
{
    const char *path = write_text("pairs.txt", "2\t1\n"
                                               "Ada_L\t1\t2\n"
                                               "Ada_L\t1\tBo\t12\n"
                                               "Bo\t1\t12\r\n"
                                               "Bo\t1\tAda_L\t2\n");
    struct mdl_pairs p;
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_pairs_open(path, NULL, &p, &e), UT_OK);
    assert_int_equal(p.n, 4);
    assert_int_equal(p.pictures.n, 4); /* each once */
    assert_true(p.list[0].same && !p.list[1].same && p.list[2].same);
    assert_int_equal(p.list[1].fold, 0);
    assert_int_equal(p.list[2].fold, 1);
    is_picture(&p, p.list[0].a, "/Ada_L/Ada_L_0001.jpg");
    is_picture(&p, p.list[0].b, "/Ada_L/0002.jpg");
    is_picture(&p, p.list[1].b, "/Bo/0012.jpg");
    is_picture(&p, p.list[3].a, "/Bo/Bo_0001.png");
    mdl_pairs_fini(&p);
    /* The pictures elsewhere: named if they are not there. */
    assert_int_equal(mdl_pairs_open(path, "/nowhere", &p, &e), UT_ENOTFOUND);
    assert_non_null(strstr(e.msg, "/nowhere/Ada_L/Ada_L_0001.jpg"));
}

static void pairs__manifest__paths_with_spaces(void **state)
{
    const char *path = write_text("pairs.tsv", "fold\tsame\ta\tb\n"
                                               "0\t1\ta b.jpg\tc.jpg\n"
                                               "\n"
                                               "3\t0\tc.jpg\ta b.jpg\n");
    struct mdl_pairs p;
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_pairs_open(path, "/x", &p, &e), UT_OK);
    assert_int_equal(p.n, 2);
    assert_int_equal(p.pictures.n, 2);
    assert_string_equal(p.pictures.examples[p.list[0].a].path, "/x/a b.jpg");
    assert_int_equal(p.list[1].a, p.list[0].b);
    assert_int_equal(p.list[1].fold, 3);
    mdl_pairs_fini(&p);
}

static void pairs__mistakes__line_named(void **state)
{
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"", "has 0 pairs"},
        {"hello\n", ":1: is neither"},
        {"0\t300\n", ":1: is neither"},
        {"10\t99999999\n", ":1: is neither"},
        {"fold\tsame\ta\tb\n", "has 0 pairs"},
        {"fold\tsame\ta\tb\n0\t2\ta\tb\n", ":2: is no fold"},
        {"fold\tsame\ta\tb\n-1\t1\ta\tb\n", ":2: is no fold"},
        {"fold\tsame\ta\tb\n0\t1\ta\tb\tc\n", ":2: is no fold"},
        {"fold\tsame\ta\tb\n0\t1\ta\n", ":2: is no fold"},
        {"1\t1\nAda_L\t1\t2\n", "has 1 pairs, not 2"},
        {"1\t1\nAda_L\t1\tBo\t1\n", ":2: is no name and two"},
        {"1\t1\nAda_L\t1\t2\nBo\t1\t12\n", ":3: is not two names"},
        {"1\t1\nAda_L\t1\t7\nAda_L\t1\tBo\t1\n", "/Ada_L/Ada_L_0007.jpg"},
        {"1\t1\nAda_L\t1\t2\nAda_L\t1\tBo\t1\nAda_L\t1\t2\n", ":4: is one pair "
                                                              "more"},
    };
    struct mdl_pairs p;
    struct ut_error e;

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        e.msg[0] = '\0';
        assert_int_not_equal(
            mdl_pairs_open(write_text("bad", rows[i].text), NULL, &p, &e),
            UT_OK);
        if (!strstr(e.msg, rows[i].says))
            fail_msg("row %zu: %s", i, e.msg);
        assert_null(p.list);
        assert_null(p.pictures.examples);
    }
    assert_int_equal(mdl_pairs_open("/nowhere", NULL, &p, &e), UT_ENOTFOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roc__known_scores__known_points),
        cmocka_unit_test(curves__scores_that_are_no_number__end),
        cmocka_unit_test(folds__any_numbers__the_same_figures),
        cmocka_unit_test(roc__many_scores__thinned_to_the_same_area),
        cmocka_unit_test(interval__shares__wilsons),
        cmocka_unit_test(binary__groups__each_its_own),
        cmocka_unit_test(pairs__lfw__folds_and_files),
        cmocka_unit_test(pairs__manifest__paths_with_spaces),
        cmocka_unit_test(pairs__mistakes__line_named),
    };

    return cmocka_run_group_tests(tests, set_up, NULL);
}
