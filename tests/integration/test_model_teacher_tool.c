/* tscaf-model train --teacher FILE.onnx: the teacher is shown what the pupil is
 * shown. Its network is one whose answer this test works out itself, so that
 * the first step's loss says which pictures it was asked about. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/data/queue.h"
#include "model/onnx/onnx.h"
#include "model/train/teacher.h"
#include "model/train/trainer.h"
#include "tests/support/server.h"
#include "tests/support/shell.h"
#include "tests/support/unit.h"

#define SIDE 112
#define PATCH 16 /* the teacher's one convolution: side and stride */
#define GRID (SIDE / PATCH)
#define MAPS 6
#define DIM 8
#define BATCH 4
#define SEED 3

static const char *dir; /* the work folder */
static float filter[MAPS][3][PATCH][PATCH], matrix[DIM][MAPS][GRID][GRID];

static unsigned seed = 1;

static float noise(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8 & 0xffff) / 32768 - 1;
}

static float *copy(const void *from, size_t size)
{
    float *to = malloc(size);

    assert_non_null(to);
    return memcpy(to, from, size);
}

/* linear(relu(conv((picture - 127.5) / 127.5))) as DIR/name. */
static void write_teacher(const char *name, int side)
{
    const float mean[3] = {127.5f, 127.5f, 127.5f};
    const float scale[3] = {1 / 127.5f, 1 / 127.5f, 1 / 127.5f};
    float *w = copy(filter, sizeof(filter)), *m = copy(matrix, sizeof(matrix));
    int grid = side / PATCH, x, conv, linear;
    struct mdl_graph g;
    struct ut_error e;
    char path[128];

    mdl_graph_init(&g);
    mdl_graph_module(&g, "teacher");
    x = mdl_graph_image(&g, mdl_graph_input(&g, side, side), mean, scale,
                        false);
    conv = mdl_graph_param_owned(&g, mdl_shape_of(4, MAPS, 3, PATCH, PATCH), &w,
                                 "filter");
    linear = mdl_graph_param_owned(&g, mdl_shape_of(2, DIM, MAPS * grid * grid),
                                   &m, "matrix");
    x = mdl_graph_conv(&g, x, conv, -1, PATCH, 0, 1);
    x = mdl_graph_act(&g, x, MDL_ACT_RELU, 0, -1);
    mdl_graph_output(&g, mdl_graph_linear(&g, x, linear, -1), "embedding");
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (g.error.code || mdl_onnx_write(path, &g, 1, &e))
        fail_msg("%s", g.error.code ? g.error.msg : e.msg);
    mdl_graph_fini(&g);
}

/* What the teacher answers, by hand; of length 1. */
static void answer(const uint8_t *picture, float out[DIM])
{
    double sums[DIM] = {0}, norm = 0;

    for (int m = 0; m < MAPS; m++)
        for (int gy = 0; gy < GRID; gy++)
            for (int gx = 0; gx < GRID; gx++) {
                double v = 0;

                for (int i = 0; i < PATCH * PATCH * 3; i++) {
                    int c = i % 3, px = i / 3 % PATCH, py = i / 3 / PATCH;
                    int at = (gy * PATCH + py) * SIDE + gx * PATCH + px;

                    v += (picture[3 * at + c] / 127.5 - 1) *
                         filter[m][c][py][px];
                }
                for (int d = 0; d < DIM; d++)
                    sums[d] += fmax(v, 0) * matrix[d][m][gy][gx];
            }
    for (int d = 0; d < DIM; d++)
        norm += sums[d] * sums[d];
    for (int d = 0; d < DIM; d++)
        out[d] = (float)(sums[d] / sqrt(norm));
}

static int set_up(void **state)
{
    char text[4096];

    (void)state;
    dir = shell_init();
    for (size_t i = 0; i < sizeof(filter) / sizeof(float); i++)
        (&filter[0][0][0][0])[i] = noise();
    for (size_t i = 0; i < sizeof(matrix) / sizeof(float); i++)
        (&matrix[0][0][0][0])[i] = noise();
    write_teacher("teacher.onnx", SIDE);
    write_teacher("small.onnx", SIDE / 2);
    if (shell("for i in 0 1 2; do mkdir -p people/$i; for n in 1 2 3 4; do "
              "tscaf-model sample --identity $i --noise $n --light 0.$((n + "
              "4)) people/$i/$n.png; done; done",
              text, sizeof(text)))
        fail_msg("%s", text);
    snprintf(text, sizeof(text), "cp %s %s/base.safetensors", test_model(),
             dir);
    return system(text);
}

static int tear_down(void **state)
{
    (void)state;
    shell_fini();
    return 0;
}

/* The first batch that the tool trains on with these settings. */
static void first_batch(const struct mdl_dataset *d, bool augmented, float mix,
                        uint8_t *images, int32_t row[BATCH])
{
    const struct mdl_queue_config c = {
        .batch = BATCH,
        .side = SIDE,
        .threads = 1,
        .seed = 2 * SEED + 1, /* the recognition queue's */
        .augmented = augmented,
        .augment = mdl_augment_default,
        .mix = mix,
    };
    const struct mdl_batch *b = NULL;
    struct mdl_queue *q;
    struct ut_error e;

    if (mdl_queue_new(d, &c, &q, &e) || mdl_queue_next(q, &b, &e))
        fail_msg("%s", e.msg);
    memcpy(images, b->images, BATCH * SIDE * SIDE * 3);
    memcpy(row, b->row, BATCH * sizeof(*row));
    mdl_queue_free(q);
}

/* The untrained pupil's loss on images, its teacher having seen others. */
static double loss_of(const uint8_t *images, const uint8_t *shown)
{
    const struct mdl_trainer_config c = {
        .backend = "ref",
        .threads = 1,
        .batch = BATCH,
        .momentum = 0.1f,
        .optimizer = {.kind = MDL_SGD},
    };
    const struct mdl_recognition r = {
        .distill = {.teacher_dim = DIM, .cosine = 1, .similarity = 20},
        .seed = SEED,
    };
    float rows[BATCH][DIM];
    struct mdl_trainer *t;
    struct mdl_model m;
    struct ut_error e;
    char path[128];
    double loss;
    int task;

    for (int i = 0; i < BATCH; i++)
        answer(shown + (size_t)i * SIDE * SIDE * 3, rows[i]);
    snprintf(path, sizeof(path), "%s/base.safetensors", dir);
    if (mdl_model_open(path, &m, &e) || mdl_trainer_new(&m, &c, &t, &e) ||
        mdl_trainer_leaf(t, "recognition", &r, 1, &task, &e) ||
        mdl_trainer_batch(t, task, images,
                          &(struct mdl_labels){.teacher = rows[0]}, 1, &loss,
                          &e))
        fail_msg("%s", e.msg);
    mdl_trainer_free(t);
    mdl_model_close(&m);
    return loss;
}

#define TRAIN                                                                  \
    "tscaf-model train --model base.safetensors --out out --recognition "      \
    "people --held-out 0 --arcface 0 --batch 4 --threads 1 --seed 3 "          \
    "--backend ref --steps 1 --json "

static void teacher__every_view__is_what_the_pupil_sees(void **state)
{
    static const struct {
        const char *flags;
        bool augmented;
        float mix;
    } cases[] = {
        {"--no-augment --mix 0", false, 0},
        {"--mix 0", true, 0},
        {"--no-augment --mix 1", false, 1},
        {"--mix 1", true, 1},
    };
    static uint8_t clean[BATCH * SIDE * SIDE * 3], view[sizeof(clean)];
    int32_t clean_row[BATCH], row[BATCH];
    struct mdl_dataset d;
    struct ut_error e;
    char text[512];

    (void)state;
    snprintf(text, sizeof(text), "%s/people", dir);
    assert_int_equal(mdl_dataset_open(text, &d, &e), UT_OK);
    first_batch(&d, false, 0, clean, clean_row);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        double told, seen, other;

        snprintf(text, sizeof(text), TRAIN "--teacher teacher.onnx %s",
                 cases[i].flags);
        told = shell_number(text, "recognition_loss");
        first_batch(&d, cases[i].augmented, cases[i].mix, view, row);
        assert_memory_equal(row, clean_row, sizeof(row));
        seen = loss_of(view, view);
        other = loss_of(view, clean);
        /* Four decimals are printed; the rest is float32 over 4,000 terms. */
        if (!(fabs(told - seen) < 2e-4))
            fail_msg("%s: loss %g, on the very view %g", cases[i].flags, told,
                     seen);
        /* A teacher of the clean picture would be told from it. */
        if (i && !(fabs(told - other) > 5e-3))
            fail_msg("%s: loss %g, on clean pictures %g", cases[i].flags, told,
                     other);
    }
    mdl_dataset_fini(&d);
}

static void hint__of_a_list__the_first_that_there_is(void **state)
{
    const char *key = "recognition_loss";
    double none = shell_number(TRAIN "--teacher teacher.onnx", key);
    double one =
        shell_number(TRAIN "--teacher teacher.onnx --hint root.stage5", key);
    double list = shell_number(
        TRAIN "--teacher teacher.onnx --hint root.stage9,root.stage5,root.stem",
        key);

    (void)state;
    if (!(one > none + 1e-3 && list == one))
        fail_msg("without a hint %g, with one %g, of a list %g", none, one,
                 list);
}

/* OUT is a folder, so that the run ends at its checkpoint. */
static void teacher__resumed_with_another_input__refused(void **state)
{
    (void)state;
    shell_says(1, "mkdir kept; " TRAIN "--teacher teacher.onnx --out kept",
               "kept: cannot be written");
    shell_says(1,
               TRAIN "--teacher teacher.onnx --teacher-input bytes --out kept "
                     "--resume",
               "kept.checkpoint: was made with \" mix 0;");
    shell_says(1,
               TRAIN "--teacher teacher.onnx --teacher-input insightface --out "
                     "kept --resume",
               "kept: cannot be written");
    /* One that somebody changed is no reason to crash. */
    shell_says(1,
               "LC_ALL=C sed -i 's/optimizer.second:/optimizer.sxcond:/' "
               "kept.checkpoint; " TRAIN "--teacher teacher.onnx --out kept "
               "--resume",
               "the file has one of the two moments of ");
    shell_says(1,
               "rm kept.checkpoint; " TRAIN "--teacher-input imagenet "
               "--teacher teacher.onnx --out kept",
               "kept: cannot be written");
    shell_says(1, TRAIN "--teacher teacher.onnx --out kept --resume",
               "made with \" teacher input 123.675 116.28 103.53 / 58.395");
    shell_says(0, "rm -r kept kept.checkpoint; echo gone", "gone");
}

static void teacher__mistakes__named(void **state)
{
    (void)state;
    shell_says(1, TRAIN "--teacher nowhere.onnx", "nowhere.onnx");
    shell_says(1, "echo junk > junk.onnx; " TRAIN "--teacher junk.onnx",
               "junk.onnx: is no ONNX file");
    /* Names of the same length: the file stays whole. */
    shell_says(1,
               "sed 's/Relu/Tanh/' teacher.onnx > odd.onnx; " TRAIN
               "--teacher odd.onnx",
               "Tanh: this operator is not supported");
    shell_says(1, TRAIN "--teacher small.onnx",
               "small.onnx: wants pictures of 56x56, not 112x112");
    shell_says(1, TRAIN "--teacher teacher.onnx --hint root.stage7",
               "teacher.onnx: has no inner map of 4x4");
    shell_says(1, TRAIN "--teacher teacher.onnx --hint root.stage8",
               "there is no module \"root.stage8\" to hint at");
    shell_says(1, TRAIN "--teacher teacher.onnx --hint root.stage8,root.stage7",
               "teacher.onnx: has no inner map of 4x4");
    shell_says(1, TRAIN "--teacher teacher.onnx --hint root.stage8,,root.stage",
               "there is no module \"root.stage8,,root.stage\" to hint at");
    shell_says(1, TRAIN "--teacher base.safetensors --mix 0.5",
               "mixed pictures need a teacher that is run");
    shell_says(1, TRAIN "--teacher base.safetensors --hint root.stage5",
               "a hint needs a teacher that is run");
    shell_says(2, TRAIN "--teacher teacher.onnx --teacher-input tiff",
               "--teacher-input cannot be \"tiff\"");
    shell_says(2, TRAIN "--teacher teacher.onnx --mix 1.1",
               "--mix cannot be \"1.1\"");
    /* Nothing was made by any of them. */
    shell_says(2, "ls out out.checkpoint", "No such file");
}

/* The picture has the size wanted, but it is no inner map. */
static void teacher__hint_of_the_pictures_size__refused(void **state)
{
    struct mdl_teacher_config c = {
        .side = SIDE, .batch = 1, .threads = 1, .hint = {SIDE, SIDE}};
    struct mdl_teacher *t;
    struct ut_error e;
    char path[128];

    (void)state;
    snprintf(path, sizeof(path), "%s/teacher.onnx", dir);
    c.path = path;
    assert_true(mdl_onnx_input_parse("bytes", &c.input));
    assert_int_equal(mdl_teacher_open(&c, &t, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "has no inner map of 112x112"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hint__of_a_list__the_first_that_there_is),
        cmocka_unit_test(teacher__resumed_with_another_input__refused),
        cmocka_unit_test(teacher__mistakes__named),
        cmocka_unit_test(teacher__hint_of_the_pictures_size__refused),
        cmocka_unit_test(teacher__every_view__is_what_the_pupil_sees),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
