/* Losses by finite differences; optimisers, metrics, datasets, queues. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/data/queue.h"
#include "model/eval/metrics.h"
#include "model/train/loss.h"
#include "model/train/optimizer.h"
#include "model/vision/face.h"
#include "tests/support/unit.h"

static unsigned seed = 1;

static float noise(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8 & 0xffff) / 32768 - 1;
}

/* ---- losses ---- */

#define N 5
#define DIM 12
#define TEACHER 7

struct problem {
    float embedding[N * DIM], weight[6 * 2 * DIM], teacher[N * TEACHER];
    int32_t label[N];
    bool distil;
};

static double loss_of(const struct problem *p, float *de, float *dw)
{
    const struct mdl_arcface a = {6, 2, DIM, 16, 0.4f};
    const struct mdl_distill d = {DIM, TEACHER, 1.5f, 3};
    struct ut_error e;
    double loss;

    assert_int_equal(p->distil
                         ? mdl_loss_distill(&d, p->embedding, p->weight,
                                            p->teacher, N, &loss, de, dw, &e)
                         : mdl_loss_arcface(&a, p->embedding, p->weight,
                                            p->label, N, &loss, de, dw, &e),
                     UT_OK);
    return loss;
}

static void check_elements(struct problem *p, float *x, size_t n,
                           const float *got)
{
    float de[N * DIM], dw[12 * DIM];

    for (size_t i = 0; i < n; i += 3) {
        float old = x[i];
        double up, down;

        x[i] = old + 1e-3f;
        up = loss_of(p, de, dw);
        x[i] = old - 1e-3f;
        down = loss_of(p, de, dw);
        x[i] = old;
        if (!(fabs((up - down) / 2e-3 - got[i]) < 3e-3 + 0.02 * fabs(got[i])))
            fail_msg("element %zu: %g, by differences %g", i, got[i],
                     (up - down) / 2e-3);
    }
}

static void losses__recognition__by_differences(void **state)
{
    static struct problem p;
    float de[N * DIM], dw[12 * DIM];

    (void)state;
    for (int distil = 0; distil < 2; distil++) {
        p.distil = distil;
        for (size_t i = 0; i < N * DIM; i++)
            p.embedding[i] = noise();
        for (size_t i = 0; i < 12 * DIM; i++)
            p.weight[i] = noise();
        for (size_t i = 0; i < N; i++) {
            double norm = 0;

            p.label[i] = (int32_t)i - 1; /* the first has none */
            for (size_t k = 0; k < TEACHER; k++) {
                p.teacher[i * TEACHER + k] = noise();
                norm += (double)p.teacher[i * TEACHER + k] *
                        p.teacher[i * TEACHER + k];
            }
            for (size_t k = 0; k < TEACHER; k++)
                p.teacher[i * TEACHER + k] /= (float)sqrt(norm);
        }
        loss_of(&p, de, dw);
        check_elements(&p, p.embedding, N * DIM, de);
        check_elements(&p, p.weight, distil ? TEACHER * DIM : 12 * DIM, dw);
    }
}

static void losses__hint__by_differences(void **state)
{
    const struct mdl_hint h = {NULL, 4, 6, 3, 1.5f};
    float map[2 * 4 * 6], w[3 * 4], teacher[2 * 3 * 6], dmap[2 * 4 * 6],
        dw[3 * 4], other[2 * 4 * 6], dother[3 * 4];
    struct ut_error e;
    double loss;

    (void)state;
    for (size_t i = 0; i < 48; i++)
        map[i] = 3 + noise();
    for (size_t i = 0; i < 12; i++)
        w[i] = noise();
    for (size_t i = 0; i < 36; i++)
        teacher[i] = 5 + 10 * noise();
    assert_int_equal(mdl_loss_hint(&h, map, w, teacher, 2, &loss, dmap, dw, &e),
                     UT_OK);
    for (size_t i = 0; i < 48 + 12; i++) {
        float *x = i < 48 ? &map[i] : &w[i - 48], old = *x;
        double got = i < 48 ? dmap[i] : dw[i - 48], up, down;

        *x = old + 1e-3f;
        assert_int_equal(
            mdl_loss_hint(&h, map, w, teacher, 2, &up, other, dother, &e),
            UT_OK);
        *x = old - 1e-3f;
        assert_int_equal(
            mdl_loss_hint(&h, map, w, teacher, 2, &down, other, dother, &e),
            UT_OK);
        *x = old;
        if (!(fabs((up - down) / 2e-3 - got) < 2e-3 + 0.02 * fabs(got)))
            fail_msg("element %zu: %g, by differences %g", i, got,
                     (up - down) / 2e-3);
    }
    /* Nothing said explains nothing: all of the teacher's variance is left. */
    memset(w, 0, sizeof(w));
    assert_int_equal(mdl_loss_hint(&h, map, w, teacher, 2, &loss, dmap, dw, &e),
                     UT_OK);
    assert_true(fabs(loss - 1.5) < 1e-5);
}

static void losses__labels__none_and_past_the_end(void **state)
{
    const struct mdl_arcface a = {6, 2, DIM, 16, 0.4f};
    float e1[N * DIM], w[12 * DIM], de[N * DIM], dw[12 * DIM];
    int32_t label[N] = {-1, -1, -1, -1, -1};
    struct ut_error e;
    double loss;

    (void)state;
    for (size_t i = 0; i < N * DIM; i++)
        e1[i] = noise();
    for (size_t i = 0; i < 12 * DIM; i++)
        w[i] = noise();
    assert_int_equal(mdl_loss_arcface(&a, e1, w, label, N, &loss, de, dw, &e),
                     UT_OK);
    assert_true(loss == 0 && de[3] == 0 && dw[3] == 0);
    label[2] = 6;
    assert_int_equal(mdl_loss_arcface(&a, e1, w, label, N, &loss, de, dw, &e),
                     UT_EINVAL);
    assert_non_null(strstr(e.msg, "label 6"));
}

static void losses__bce__also_far_out(void **state)
{
    const float logit[] = {0, 2, -80, 80}, target[] = {1, 0, 0, 0};
    float d[4];
    double loss = mdl_loss_bce(logit, target, 4, d);

    (void)state;
    assert_true(fabs(loss - (log(2) + log(1 + exp(2)) + 0 + 80) / 4) < 1e-6);
    assert_true(fabsf(d[0] + 0.125f) < 1e-6f);
    assert_true(fabsf(d[3] - 0.25f) < 1e-6f);
}

/* ---- optimisers ---- */

static void optimisers__each__find_the_minimum(void **state)
{
    (void)state;
    for (int kind = MDL_SGD; kind <= MDL_ADAMW; kind++) {
        struct mdl_optimizer o = {(enum mdl_optimizer_kind)kind, 0.9f, 0.999f,
                                  1e-8f, 0};
        struct mdl_moments m = {0};
        float x[2] = {3, -4};
        struct ut_error e;

        for (int i = 0; i < 400; i++) {
            float g[2] = {x[0] - 1, x[1] + 2};

            assert_int_equal(
                mdl_optimizer_step(&o, &m, 0.03, true, 1, 2, x, g, 2, &e),
                UT_OK);
        }
        assert_true(fabsf(x[0] - 1) < 0.05f && fabsf(x[1] + 2) < 0.05f);
        assert_int_equal(m.steps, 400);
        mdl_moments_fini(&m);
    }
    assert_int_equal(mdl_optimizer_parse("adamw"), MDL_ADAMW);
    assert_int_equal(mdl_optimizer_parse("lion"), -1);
}

static void optimisers__weight_decay__only_where_asked(void **state)
{
    struct mdl_optimizer o = {MDL_ADAMW, 0.9f, 0.999f, 1e-8f, 0.5f};
    struct mdl_moments a = {0}, b = {0};
    float x = 1, y = 1, none = 0;
    struct ut_error e;

    (void)state;
    assert_int_equal(
        mdl_optimizer_step(&o, &a, 0.1, true, 1, 1, &x, &none, 1, &e), UT_OK);
    assert_int_equal(
        mdl_optimizer_step(&o, &b, 0.1, false, 1, 1, &y, &none, 1, &e), UT_OK);
    assert_true(fabsf(x - 0.95f) < 1e-6f && y == 1);
    mdl_moments_fini(&a);
    mdl_moments_fini(&b);
}

/* ---- metrics ---- */

static void metrics__known_scores__known_figures(void **state)
{
    struct mdl_scored s[] = {{0.1f, false, 0}, {0.9f, true, 0},
                             {0.8f, false, 0}, {0.7f, true, 0},
                             {0.4f, true, 0},  {0.2f, false, 0}};
    struct mdl_confusion c = mdl_confusion_at(s, 6, 0.5);
    double threshold;

    (void)state;
    assert_int_equal(c.true_positive, 2);
    assert_int_equal(c.false_positive, 1);
    assert_int_equal(c.true_negative, 2);
    assert_int_equal(c.false_negative, 1);
    assert_true(fabs(mdl_accuracy(&c) - 4 / 6.0) < 1e-9);
    mdl_scored_sort(s, 6);
    /* Of nine pairs the 0.8 beats two positives. */
    assert_true(fabs(mdl_auc(s, 6) - 7 / 9.0) < 1e-9);
    assert_true(fabs(mdl_eer(s, 6) - 1 / 3.0) < 1e-9);
    assert_true(fabs(mdl_tar_at(s, 6, 0, &threshold) - 1 / 3.0) < 1e-9);
    assert_true(fabs(threshold - 0.9) < 1e-6);
    assert_true(mdl_tar_at(s, 6, 0.34, NULL) == 1);
}

static void metrics__folds__threshold_from_the_others(void **state)
{
    struct mdl_scored s[40];
    struct mdl_folds f;
    struct ut_error e;

    (void)state;
    /* Ten folds that 0.5 parts perfectly, but for one pair of fold 3. */
    for (int i = 0; i < 40; i++)
        s[i] = (struct mdl_scored){i % 2 ? 0.7f + (float)i / 1000
                                         : 0.3f - (float)i / 1000,
                                   i % 2, i / 4};
    s[13].score = 0.1f;
    mdl_scored_sort(s, 40);
    assert_int_equal(mdl_folds_of(s, 40, &f, &e), UT_OK);
    assert_int_equal(f.n, 10);
    assert_true(fabs(f.mean - 0.975) < 1e-9);
    assert_true(f.threshold > 0.3 && f.threshold < 0.71);
    assert_true(fabs(f.deviation -
                     sqrt((9 * 0.025 * 0.025 + 0.225 * 0.225) / 9)) < 1e-9);
    for (int i = 0; i < 40; i++)
        s[i].fold = 0;
    assert_int_equal(mdl_folds_of(s, 40, &f, &e), UT_EINVAL);
}

/* ---- datasets and queues ---- */

static void write_text(const char *name, const char *text)
{
    char path[256];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", test_dir(), name);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* 12 drawn faces, the light telling which: picture i is i * 20 bright. */
static int set_up(void **state)
{
    static uint8_t rgb[112 * 112 * 3];
    char path[256];

    (void)state;
    for (int i = 0; i < 12; i++) {
        uint8_t *bytes;
        struct ut_error e;
        size_t len;
        FILE *f;

        memset(rgb, i * 20, sizeof(rgb));
        assert_int_equal(mdl_image_encode_png(rgb, 112, 112, &bytes, &len, &e),
                         UT_OK);
        snprintf(path, sizeof(path), "%s/%02d.png", test_dir(), i);
        f = fopen(path, "wb");
        assert_int_equal(fwrite(bytes, 1, len, f), len);
        fclose(f);
        free(bytes);
    }
    return 0;
}

static void open_text(const char *text, struct mdl_dataset *d)
{
    char path[256];
    struct ut_error e;

    write_text("m.tsv", text);
    snprintf(path, sizeof(path), "%s/m.tsv", test_dir());
    if (mdl_dataset_open(path, d, &e))
        fail_msg("%s", e.msg);
}

static void refused(const char *text, const char *says)
{
    struct mdl_dataset d;
    char path[256];
    struct ut_error e;

    write_text("bad.tsv", text);
    snprintf(path, sizeof(path), "%s/bad.tsv", test_dir());
    assert_int_equal(mdl_dataset_open(path, &d, &e), UT_EFORMAT);
    if (!strstr(e.msg, says))
        fail_msg("no \"%s\" in: %s", says, e.msg);
}

static void dataset__manifests__read_or_named(void **state)
{
    struct mdl_dataset d;
    struct ut_error e;

    (void)state;
    open_text(
        "file\tlabel\tgroup\n00.png\t1\ta\n01.png\t-1\tb\n\n02.png\t4\ta\n",
        &d);
    assert_int_equal(d.n, 3);
    assert_int_equal(d.classes, 5);
    assert_int_equal(d.groups, 2);
    assert_int_equal(d.examples[0].group, d.examples[2].group);
    assert_int_equal(d.examples[1].label, -1);
    assert_non_null(strstr(d.examples[2].path, "/02.png"));
    mdl_dataset_fini(&d);
    refused("", "has no pictures");
    refused("a\tb\n", ":1:");
    refused("file\tlabel\nx.png\n", ":2:");
    refused("file\tlabel\nx.png\tyes\n", "\"yes\"");
    refused("file\tlabel\nx.png\t-2\n", "\"-2\"");
    assert_int_equal(mdl_dataset_open("/nowhere", &d, &e), UT_ENOTFOUND);
}

static struct mdl_queue *open_queue(const struct mdl_dataset *d, int threads,
                                    bool augmented)
{
    struct mdl_queue_config c = {.batch = 4,
                                 .side = 32,
                                 .threads = threads,
                                 .seed = 7,
                                 .augmented = augmented,
                                 .augment = mdl_augment_default};
    struct mdl_queue *q;
    struct ut_error e;

    assert_int_equal(mdl_queue_new(d, &c, &q, &e), UT_OK);
    return q;
}

static void queue__epochs__each_picture_once_in_a_seeded_order(void **state)
{
    struct mdl_dataset d;
    int order[2][36];
    struct ut_error e;

    (void)state;
    open_text("file\tlabel\n00.png\t0\n01.png\t1\n02.png\t2\n03.png\t3\n"
              "04.png\t4\n05.png\t5\n06.png\t6\n07.png\t7\n08.png\t8\n"
              "09.png\t9\n10.png\t10\n11.png\t11\n",
              &d);
    for (int threads = 1; threads <= 2; threads++) {
        struct mdl_queue *q = open_queue(&d, 2 * threads - 1, false);
        const struct mdl_batch *b = NULL;

        for (int i = 0; i < 36; i += 4) {
            assert_int_equal(mdl_queue_next(q, &b, &e), UT_OK);
            for (int k = 0; k < 4; k++) {
                order[threads - 1][i + k] = b->row[k];
                assert_int_equal(b->label[k], b->row[k]);
                assert_in_range(b->images[k * 32 * 32 * 3 + 100] + 1,
                                b->row[k] * 20, b->row[k] * 20 + 2);
            }
        }
        mdl_queue_free(q);
    }
    assert_memory_equal(order[0], order[1], sizeof(order[0]));
    for (int epoch = 0; epoch < 3; epoch++)
        for (int row = 0; row < 12; row++) {
            int seen = 0;

            for (int i = 0; i < 12; i++)
                seen += order[0][epoch * 12 + i] == row;
            assert_int_equal(seen, 1);
        }
    assert_memory_not_equal(order[0], order[0] + 12, 12 * sizeof(int));
    mdl_dataset_fini(&d);
}

static void queue__broken_pictures__replaced_and_counted(void **state)
{
    struct mdl_queue_state s;
    struct mdl_dataset d;
    const struct mdl_batch *b = NULL;
    struct mdl_queue *q;
    struct ut_error e;

    (void)state;
    open_text("file\tlabel\n00.png\t0\nm.tsv\t1\nnone.png\t2\n03.png\t3\n", &d);
    q = open_queue(&d, 1, true);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mdl_queue_next(q, &b, &e), UT_OK);
        for (int k = 0; k < 4; k++)
            assert_true(b->label[k] == 0 || b->label[k] == 3);
    }
    mdl_queue_state(q, &s);
    assert_true(s.broken >= 6);
    assert_true(strstr(s.last, "none.png") || strstr(s.last, "m.tsv"));
    mdl_queue_free(q);
    mdl_dataset_fini(&d);

    open_text("file\tlabel\nnone.png\t0\n", &d);
    q = open_queue(&d, 1, false);
    b = NULL;
    assert_int_equal(mdl_queue_next(q, &b, &e), UT_EFORMAT);
    assert_non_null(strstr(e.msg, "none.png"));
    mdl_queue_free(q);
    mdl_dataset_fini(&d);
}

static void augment__seed__same_picture_same_view(void **state)
{
    static uint8_t face[112 * 112 * 3], a[sizeof(face)], b[sizeof(face)];
    struct mdl_sample_face s = {.identity = 3, .eyes = 1, .light = 1};
    uint64_t one = 5, two = 5;
    double off = 0;

    (void)state;
    mdl_sample_face_draw(&s, face);
    mdl_augment(&mdl_augment_default, face, 112, &one, a);
    mdl_augment(&mdl_augment_default, face, 112, &two, b);
    assert_memory_equal(a, b, sizeof(a));
    mdl_augment(&mdl_augment_default, face, 112, &two, b);
    assert_memory_not_equal(a, b, sizeof(a));
    /* Each kind of change is seen. */
    for (size_t k = 0; k < sizeof(struct mdl_augment) / sizeof(float); k++) {
        struct mdl_augment only = {0};
        float most = 0;

        ((float *)&only)[k] = 1;
        for (int i = 0; i < 8; i++) {
            mdl_augment(&only, face, 112, &one, a);
            for (size_t j = 0; j < sizeof(a); j++)
                most = fmaxf(most, (float)abs(a[j] - face[j]));
        }
        if (!(most > 2))
            fail_msg("change %zu changed nothing", k);
    }
    /* Nothing asked for, nothing changed. */
    mdl_augment(&(struct mdl_augment){0}, face, 112, &one, a);
    for (size_t i = 0; i < sizeof(a); i++)
        off += abs(a[i] - face[i]);
    assert_true(off / sizeof(a) < 0.01);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses__recognition__by_differences),
        cmocka_unit_test(losses__hint__by_differences),
        cmocka_unit_test(losses__labels__none_and_past_the_end),
        cmocka_unit_test(losses__bce__also_far_out),
        cmocka_unit_test(optimisers__each__find_the_minimum),
        cmocka_unit_test(optimisers__weight_decay__only_where_asked),
        cmocka_unit_test(metrics__known_scores__known_figures),
        cmocka_unit_test(metrics__folds__threshold_from_the_others),
        cmocka_unit_test(dataset__manifests__read_or_named),
        cmocka_unit_test(queue__epochs__each_picture_once_in_a_seeded_order),
        cmocka_unit_test(queue__broken_pictures__replaced_and_counted),
        cmocka_unit_test(augment__seed__same_picture_same_view),
    };

    return cmocka_run_group_tests(tests, set_up, NULL);
}
