/* Which engine computes, how far it may be off, and what is remembered. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/backends/cuda/choice.h"
#include "model/graph.h"
#include "tests/support/unit.h"

static char folder[] = "/tmp/tscaf-test-XXXXXX";

static struct gpu_product product(enum gpu_type type, int c, int kernel)
{
    return (struct gpu_product){.window = {kernel, 1, kernel / 2, 1},
                                .x = {NULL, type, 8, 14, 14, c},
                                .y = {NULL, type, 8, 14, 14, 64},
                                .ep = {.act = MDL_ACT_PRELU, .alpha = 0}};
}

static void best__rows(void **state)
{
    static const struct {
        const char *what;
        double us[4];
        float deviation[4];
        enum ut_err rc[4];
        int want;
    } rows[] = {
        {"the fastest", {9, 5, 3, 4}, {0, 0.5f, 0.5f, 0}, {0}, 2},
        {"ours", {2, 5, 3, 4}, {0, 0, 0, 0}, {0}, 0},
        {"ours, where it is as fast", {3, 3, 3, 4}, {0, 0, 0, 0}, {0}, 0},
        {"one at its bound", {9, 5, 6, 7}, {0, 1, 0, 0}, {0}, 1},
        {"none past its bound", {9, 5, 6, 7}, {0, 1.0001f, 0, 0}, {0}, 2},
        {"none that errs", {9, 1, 6, 7}, {0, 0, 0, 0}, {0, UT_EDEVICE, 0}, 2},
        {"no NaN", {9, 1, 6, 7}, {0, NAN, INFINITY, 1}, {0}, 3},
        {"ours, if all are bad", {9, 1, 1, 1}, {0, 2, NAN, 2}, {0}, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct trial trials[4] = {0};

        for (int k = 0; k < 4; k++)
            trials[k] = (struct trial){.choice = {.us = rows[i].us[k]},
                                       .rc = rows[i].rc[k],
                                       .deviation = rows[i].deviation[k]};
        if (choice_best(trials, 4) != rows[i].want)
            fail_msg("%s: %d", rows[i].what, choice_best(trials, 4));
    }
}

static float value(uint32_t *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    return (float)(*seed >> 8) * 0x1p-23f - 1;
}

/* Cuts the last bits; TF32 has not 13 of them. */
static float cut_bits(float x, int n)
{
    uint32_t bits;

    memcpy(&bits, &x, 4);
    bits &= ~0u << n;
    memcpy(&x, &bits, 4);
    return x;
}

/* The worst of many sums of k products, in bounds: added up backwards and in
 * eight parts (what an honest engine may do), and with inputs that lack n
 * bits. */
static void deviations(int k, bool as_tf32, int n, double *honest, double *cut)
{
    struct gpu_product p = product(GPU_F32, k, 1);
    struct choice_bound b;
    uint32_t seed = 1;

    p.tf32 = as_tf32;
    b = choice_bound(&p);
    *honest = *cut = 0;
    for (int y = 0; y < 300; y++) {
        float want = 0, back = 0, parts[8] = {0}, low = 0, *x, *w;

        x = malloc(2 * (size_t)k * sizeof(*x));
        assert_non_null(x);
        w = x + k;
        for (int i = 0; i < k; i++) {
            x[i] = value(&seed);
            w[i] = value(&seed);
            want += x[i] * w[i];
            low += cut_bits(x[i], n) * cut_bits(w[i], n);
            parts[i % 8] += x[i] * w[i];
        }
        for (int i = 0; i < 8; i++)
            back += parts[i];
        *honest = fmax(*honest, fabsf(back - want) /
                                    (b.absolute + b.relative * fabsf(want)));
        *cut = fmax(*cut, fabsf(low - want) /
                              (b.absolute + b.relative * fabsf(want)));
        free(x);
    }
}

/* The float32 bound lets other orders pass and catches TF32, at the sizes of
 * the networks' sums. */
static void bound__float32__orders_pass_tf32_does_not(void **state)
{
    static const int sizes[] = {27, 64, 576, 4608, 25088};
    double honest, cut;

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        deviations(sizes[i], false, 13, &honest, &cut);
        if (!(honest <= 1) || !(cut > 1))
            fail_msg("%d products: %g and %g bounds", sizes[i], honest, cut);
    }
}

/* TF32's bound lets it pass, and catches what has three bits less, as bfloat16
 * has. */
static void bound__tf32__passes_bfloat16_does_not(void **state)
{
    static const int sizes[] = {27, 64, 576, 4608};
    double honest, cut;

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        deviations(sizes[i], true, 13, &honest, &cut);
        if (!(honest <= 1) || !(cut <= 1))
            fail_msg("%d products: %g and %g bounds", sizes[i], honest, cut);
        deviations(sizes[i], true, 16, &honest, &cut);
        if (!(cut > 1))
            fail_msg("%d products in bfloat16: %g bounds", sizes[i], cut);
    }
}

static void bound__grows_with_what_rounds(void **state)
{
    struct gpu_product p = product(GPU_F16, 64, 3), bare = p;
    struct choice_bound half = choice_bound(&p), more;

    (void)state;
    /* K = 576: 576 2^-23 2 sqrt(576), and two roundings of y. */
    assert_true(fabsf(half.absolute - 576 * 48 * 0x1p-23f) < 1e-7f);
    assert_true(half.relative == 0x1p-10f);
    bare.bare = true;
    more = choice_bound(&bare);
    assert_true(fabsf(more.absolute - half.absolute - 48 * 0x1p-11f) < 1e-6f);
    p.x.type = p.y.type = GPU_BF16;
    assert_true(choice_bound(&p).relative == 0x1p-7f);
    p = (struct gpu_product){.rows = true,
                             .x = {NULL, GPU_F16, 8, 7, 7, 512},
                             .y = {NULL, GPU_F32, 8, 1, 1, 512}};
    assert_true(choice_bound(&p).relative == 0x1p-23f);
    assert_true(choice_bound(&p).absolute > 0.9f); /* K = 25088 */
}

/* How many products add up, in each pass; and that the bound of a batch's dw
 * catches an engine that leaves nothing: a sum is 0.33 sqrt(K). */
static void bound__gradients__by_their_sums(void **state)
{
    struct gpu_product p = product(GPU_BF16, 32, 3);
    struct choice_bound b;

    (void)state;
    p.pass = GPU_DX; /* 9 * 64 */
    assert_true(gpu_pieces(&p).terms == 576);
    assert_true(fabsf(choice_bound(&p).absolute - 576 * 48 * 0x1p-23f) < 1e-7f);
    p.pass = GPU_DW; /* 8 * 14 * 14 = 1568, and below what rounding costs */
    assert_true(gpu_pieces(&p).terms == 1568);
    assert_true(gpu_pieces(&p).y.n == (size_t)64 * 9 * 32);
    b = choice_bound(&p);
    assert_true(fabsf(b.absolute - 1568 * 0x1p-22f * sqrtf(1568)) < 1e-6f);
    assert_true(b.relative == 0x1p-7f);
    p.x.batch = p.y.batch = 8192; /* K = 1605632 */
    b = choice_bound(&p);
    assert_true(fabsf(b.absolute - 0x1p-7f * sqrtf(1605632)) < 1e-2f);
    assert_true(b.absolute + b.relative * 422 < 0.05f * 422);
    p.x.type = p.y.type = GPU_F32;
    b = choice_bound(&p);
    assert_true(fabsf(b.absolute - 10 * 1605632 * 0x1p-24f) < 1e-3f);
    assert_true(b.relative == 0x1p-23f);
    p = (struct gpu_product){.pass = GPU_DX,
                             .rows = true,
                             .x = {NULL, GPU_BF16, 8, 7, 7, 512},
                             .y = {NULL, GPU_F32, 8, 1, 1, 512}};
    assert_true(gpu_pieces(&p).terms == 512);
    assert_true(gpu_pieces(&p).x.type == GPU_F32);
    /* dy was rounded too */
    assert_true(choice_bound(&p).absolute > 0x1p-7f * sqrtf(512));
    p.pass = GPU_DW;
    assert_true(gpu_pieces(&p).terms == 8);
    assert_true(choice_bound(&p).relative == 0x1p-23f);
}

static void key__each_difference__another(void **state)
{
    struct gpu_product all[15];
    char keys[15][CHOICE_KEY_LEN];
    static const float there = 0;

    (void)state;
    for (int i = 0; i < 15; i++)
        all[i] = product(i > 10 ? GPU_F32 : GPU_F16, 64, 3);
    all[1].x.batch = 16;
    all[2].x.type = all[2].y.type = GPU_BF16;
    all[3].window.stride = 2;
    all[4].y.c = 128;
    all[5].ep.bias = &there;
    all[6].ep.shift = &there;
    all[7].ep.residual = &there;
    all[8].ep.act = MDL_ACT_RELU;
    all[9].steep = true;
    all[10].rows = true;
    all[12].tf32 = true;
    all[13].pass = GPU_DX;
    all[14].pass = GPU_DW;
    for (int i = 0; i < 15; i++) {
        choice_key(&all[i], keys[i]);
        assert_null(strpbrk(keys[i], " \n"));
        for (int k = 0; k < i; k++)
            assert_string_not_equal(keys[i], keys[k]);
    }
    /* The longest there can be is whole. */
    all[0] =
        (struct gpu_product){.pass = GPU_DW,
                             .steep = true,
                             .window = {99, 99, 99, 9999},
                             .x = {NULL, GPU_BF16, 4096, 9999, 9999, 99999},
                             .y = {NULL, GPU_BF16, 4096, 9999, 9999, 99999},
                             .ep = {&there, &there, &there, &there, &there,
                                    MDL_ACT_PRELU, 0.12345f}};
    choice_key(&all[0], keys[0]);
    assert_non_null(strstr(keys[0], ",residual,steep"));
}

static void fill(struct choices *c, int n)
{
    *c = (struct choices){.chip = "NVIDIA X (9.0), driver for CUDA 13.0"};
    for (int i = 0; i < n; i++) {
        struct choice one = {.way = CHOICE_WHOLE, .at = i % GPU_ENGINES};

        snprintf(one.key, sizeof(one.key), "conv,%d", i);
        one.id = -i;
        one.us = i + 0.5;
        choices_set(c, &one);
    }
}

static void path_of(const char *name, char path[64])
{
    snprintf(path, 64, "%s/%s", folder, name);
}

static void file__written_and_read__the_same(void **state)
{
    struct choices c, back = {0};
    const struct choice *one;
    struct ut_error e;
    char path[64];

    (void)state;
    path_of("deep/er/file", path);
    fill(&c, 100);
    one = choices_find(&c, "conv,42");
    choices_set(&c, &(struct choice){.key = "conv,42", .us = 1}); /* replaces */
    assert_int_equal(c.n, 100);
    assert_int_equal(choices_write(&c, path, &e), UT_OK);
    assert_false(c.changed);
    memcpy(back.chip, c.chip, sizeof(c.chip));
    choices_read(&back, path, &e);
    assert_string_equal(e.msg, "");
    assert_int_equal(back.n, 100);
    one = choices_find(&back, "conv,99");
    assert_non_null(one);
    assert_int_equal(one->way, CHOICE_WHOLE);
    assert_int_equal(one->at, 99 % GPU_ENGINES);
    assert_int_equal(one->id, -99);
    assert_true(one->us == 99.5);
    assert_int_equal(choices_find(&back, "conv,42")->way, CHOICE_OWN);
    assert_null(choices_find(&back, "conv,100"));
    choices_free(&c);
    choices_free(&back);
}

static void file__written_by_two__has_both(void **state)
{
    struct choices a, b, back = {0};
    struct ut_error e;
    char path[64];

    (void)state;
    path_of("two", path);
    fill(&a, 2);
    fill(&b, 0);
    choices_set(&b, &(struct choice){.key = "conv,1", .us = 7});
    choices_set(&b, &(struct choice){.key = "rows,1", .us = 8});
    assert_int_equal(choices_write(&a, path, &e), UT_OK);
    assert_int_equal(choices_write(&b, path, &e), UT_OK);
    memcpy(back.chip, a.chip, sizeof(a.chip));
    choices_read(&back, path, &e);
    assert_int_equal(back.n, 3);
    assert_true(choices_find(&back, "conv,1")->us == 7);
    choices_free(&a);
    choices_free(&b);
    choices_free(&back);
}

/* As the lanes of several chips do at a start. */
static void *on_writer(void *arg)
{
    int id = *(int *)arg;
    struct choices c = {.chip = "X"};
    struct choice one = {.us = 1};
    char path[64];
    struct ut_error e;
    long bad = 0;

    path_of("shared", path);
    for (int i = 0; i < 50; i++) {
        snprintf(one.key, sizeof(one.key), "conv,%d,%d", id, i);
        choices_set(&c, &one);
        bad += choices_write(&c, path, &e) != UT_OK;
    }
    choices_free(&c);
    return (void *)bad;
}

static void file__written_by_threads__has_all(void **state)
{
    struct choices back = {.chip = "X"};
    int ids[] = {0, 1, 2, 3};
    pthread_t threads[4];
    char path[64];
    struct ut_error e;

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, on_writer, &ids[i]),
                         0);
    for (int i = 0; i < 4; i++) {
        void *bad;

        pthread_join(threads[i], &bad);
        assert_null(bad);
    }
    path_of("shared", path);
    choices_read(&back, path, &e);
    assert_string_equal(e.msg, "");
    assert_int_equal(back.n, 200);
    choices_free(&back);
}

/* A file that is not wholly right is not used at all. */
static void file__damaged_or_foreign__none(void **state)
{
#define CHIP "tscaf-cuda 1 X\n"
    static const char *const files[] = {
        "",
        "GIF89a",
        "tscaf-cuda 2 X\nend 0\n",
        "tscaf-cuda 1 Y\nend 0\n",
        CHIP,
        CHIP "a 1 0 7 2.5\n",
        CHIP "a 1 0 7 2.5\nend 2\n",
        CHIP "a 1 0 7 2.5\nend 1\nmore\n",
        CHIP "a 1 0 7\nend 1\n",
        CHIP "a 1 0 7 2.5 6\nend 1\n",
        CHIP "a 3 0 7 2.5\nend 1\n",
        CHIP "a -1 0 7 2.5\nend 1\n",
        CHIP "a 1 8 7 2.5\nend 1\n",
        CHIP "a 1 -1 7 2.5\nend 1\n",
        CHIP "a 1 0 7 nan\nend 1\n",
        CHIP "a 1 0 7 -2\nend 1\n",
        CHIP "a 1 0 x 2\nend 1\n",
    };
    char path[64];

    (void)state;
    path_of("damaged", path);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        struct choices c = {.chip = "X"};
        FILE *f = fopen(path, "w");
        struct ut_error e;

        assert_non_null(f);
        fputs(files[i], f);
        fclose(f);
        choices_read(&c, path, &e);
        if (c.n || !strstr(e.msg, "engines are measured again"))
            fail_msg("file %zu: %d choices, \"%s\"", i, c.n, e.msg);
        choices_free(&c);
    }
}

static void file__limit__at_it_and_past(void **state)
{
    char path[64];

    (void)state;
    path_of("limit", path);
    for (int over = 0; over < 2; over++) {
        struct choices c = {.chip = "X"};
        FILE *f = fopen(path, "w");
        struct ut_error e;

        assert_non_null(f);
        fputs(CHIP, f);
        for (int i = 0; i < CHOICE_MAX + over; i++)
            fprintf(f, "conv,%d 0 0 0 1\n", i);
        fprintf(f, "end %d\n", CHOICE_MAX + over);
        fclose(f);
        choices_read(&c, path, &e);
        assert_int_equal(c.n, over ? 0 : CHOICE_MAX);
        assert_int_equal(strstr(e.msg, "too many") != NULL, over);
        choices_free(&c);
    }
}

static void file__nowhere_to_write__error_old_file_whole(void **state)
{
    struct choices c;
    struct ut_error e = {0};
    char path[64];

    (void)state;
    fill(&c, 1);
    assert_int_equal(choices_write(&c, "/dev/null/x/y", &e), UT_EIO);
    assert_non_null(strstr(e.msg, "cannot be written"));
    assert_true(c.changed);
    path_of("absent", path);
    choices_read(&c, path, &e);
    assert_string_equal(e.msg, ""); /* no file is no news */
    choices_free(&c);
}

static void path__by_environment__chip_in_the_name(void **state)
{
    char a[256], b[256];

    (void)state;
    setenv("TSCAF_CUDA_CACHE", "/c", 1);
    choices_path("X", a, sizeof(a));
    choices_path("Y", b, sizeof(b));
    assert_true(!strncmp(a, "/c/cuda-", 8) && strcmp(a, b));
    unsetenv("TSCAF_CUDA_CACHE");
    setenv("XDG_CACHE_HOME", "/x", 1);
    choices_path("X", b, sizeof(b));
    assert_true(!strncmp(b, "/x/tscaf/cuda-", 14));
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", "/h", 1);
    choices_path("X", b, sizeof(b));
    assert_true(!strncmp(b, "/h/.cache/tscaf/cuda-", 21));
    unsetenv("HOME");
    choices_path("X", b, sizeof(b));
    assert_string_equal(b, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(best__rows),
        cmocka_unit_test(bound__float32__orders_pass_tf32_does_not),
        cmocka_unit_test(bound__tf32__passes_bfloat16_does_not),
        cmocka_unit_test(bound__grows_with_what_rounds),
        cmocka_unit_test(bound__gradients__by_their_sums),
        cmocka_unit_test(key__each_difference__another),
        cmocka_unit_test(file__written_and_read__the_same),
        cmocka_unit_test(file__written_by_two__has_both),
        cmocka_unit_test(file__written_by_threads__has_all),
        cmocka_unit_test(file__damaged_or_foreign__none),
        cmocka_unit_test(file__limit__at_it_and_past),
        cmocka_unit_test(file__nowhere_to_write__error_old_file_whole),
        cmocka_unit_test(path__by_environment__chip_in_the_name),
    };
    char command[64];
    int bad;

    if (!mkdtemp(folder))
        return 1;
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command) || bad;
}
