/* Losses with weights of their own on a device, against the processor's: with
 * the processor in the GPU's place (tests/plugins/host), or on a GPU where
 * TSCAF_TEST_CUDA=1 asks for it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/plugin.h"
#include "model/train/loss.h"
#include "tests/support/unit.h"

#define BEFORE 70 /* numbers of the tensor before the loss's */
/* Cosines of float32 are 1e-7 apart, and logits 64 times that. */
#define BOUND 3e-5

static unsigned seed = 1;

static float noise(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8 & 0xffff) / 32768 - 1;
}

static float *numbers(size_t n)
{
    float *x = malloc(n * sizeof(*x));

    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = noise();
    return x;
}

static float *zeros(size_t n)
{
    float *x = calloc(n, sizeof(*x));

    assert_non_null(x);
    return x;
}

/* ---- a learner of one loss's weight ---- */

struct rig {
    void *handle, *ctx, *lane, *learner;
    const struct mdl_backend_ops *ops;
    const struct mdl_learner_ops *l;
    float before[BEFORE];
    float *weight, *gradient; /* [n]; what it should be */
    size_t n;
};

/* Takes weight over. */
static void rig_open(struct rig *r, float *weight, size_t n)
{
    struct mdl_tensor tensors[2] = {{.n = BEFORE}, {.x = weight, .n = n}};
    struct ut_error e;

    *r = (struct rig){.n = n, .weight = weight, .gradient = zeros(n)};
    tensors[0].x = r->before;
    if (mdl_plugin_open(&r->handle, &r->ops, &e))
        fail_msg("%s", e.msg);
    r->l = r->ops->learner;
    if (r->ops->open(0, &r->ctx, &e) ||
        r->ops->lane_new(r->ctx, &r->lane, &e) ||
        r->l->open(&r->ctx, &r->lane, 1, tensors, 2, &r->learner, &e))
        fail_msg("%s", e.msg);
}

static void rig_close(struct rig *r)
{
    r->l->close(r->learner);
    r->ops->lane_free(r->ctx, r->lane);
    r->ops->close(r->ctx);
    mdl_plugin_close(r->handle);
    free(r->weight);
    free(r->gradient);
}

/* Relative to the largest. */
static void compare(const float *got, const float *want, size_t n,
                    const char *what)
{
    float most = 0;

    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(want[i]));
    assert_close(got, want, n, BOUND * (double)most, 0, what);
}

static void compare_loss(double got, double want, const char *what)
{
    if (!(fabs(got - want) <= 1e-5 * fabs(want) + 1e-6))
        fail_msg("%s: a loss of %.9g, not %.9g", what, got, want);
}

static float *gradient(const struct rig *r)
{
    float *x = zeros(r->n);
    struct ut_error e;

    if (r->l->get(r->learner, 1, MDL_GRADIENT, x, &e))
        fail_msg("%s", e.msg);
    return x;
}

/* The loss's own gradient is dw, of which share was asked for. */
static void compare_gradient(struct rig *r, const struct mdl_own *own,
                             const float *dw, const char *what)
{
    float *got = gradient(r);

    for (size_t i = 0; i < r->n; i++)
        r->gradient[i] = (own->more ? r->gradient[i] : 0) + own->share * dw[i];
    compare(got, r->gradient, r->n, what);
    free(got);
}

/* Twice: set, then a quarter more. */
#define N_OWNS 2
static const struct mdl_own owns[N_OWNS] = {{1, false, 1}, {1, true, 0.25f}};

/* ---- ArcFace ---- */

enum labels { ALL, SOME, NONE };

struct arcface {
    struct mdl_arcface a;
    int n;
    enum labels labels;
    bool opposite; /* every third lies opposite to its class */
};

/* Sub-centres close to each other, so that one embedding is opposite to all. */
static void gather_centres(const struct arcface *c, float *weight)
{
    size_t of = (size_t)c->a.k * (size_t)c->a.dim;

    for (size_t i = 0; i < (size_t)c->a.classes * of; i++)
        weight[i] = weight[i / of * of + i % (size_t)c->a.dim] + noise() / 50;
}

static void oppose(const struct arcface *c, const float *weight, int label,
                   float *embedding)
{
    size_t dim = (size_t)c->a.dim;
    const float *own = weight + (size_t)label * (size_t)c->a.k * dim;
    double along = 0, x = 0, y = 0;

    for (size_t i = 0; i < dim; i++) {
        embedding[i] = -own[i] + noise() / 20;
        along += (double)embedding[i] * own[i];
        x += (double)embedding[i] * embedding[i];
        y += (double)own[i] * own[i];
    }
    /* past pi - margin */
    assert_true(along / sqrt(x * y) < -cos((double)c->a.margin));
}

static void make_labels(const struct arcface *c, int32_t *label)
{
    for (int i = 0; i < c->n; i++) {
        label[i] = (int32_t)((seed >> 7) % (unsigned)c->a.classes);
        if (c->labels == NONE || (c->labels == SOME && i % 2))
            label[i] = -1;
        noise();
    }
    if (c->labels == ALL)
        label[c->n - 1] = c->a.classes - 1;
}

static void arcface_once(const struct arcface *c, struct rig *r,
                         const struct mdl_own *own)
{
    size_t dim = (size_t)c->a.dim, count = (size_t)c->n * dim;
    float *x = numbers(count), *got = numbers(count), *want = zeros(count);
    int32_t *label = malloc((size_t)c->n * sizeof(*label));
    float *dw = zeros(r->n);
    double loss = -1, should;
    struct ut_error e;
    char what[96];

    snprintf(what, sizeof(what), "%d faces, %d classes of %d, labels %d, %g",
             c->n, c->a.classes, c->a.k, c->labels, (double)c->a.margin);
    assert_non_null(label);
    make_labels(c, label);
    for (int i = 0; i < c->n && c->opposite; i += 3)
        oppose(c, r->weight, label[i], x + (size_t)i * dim);
    if (mdl_loss_arcface(&c->a, x, r->weight, label, c->n, &should, want, dw,
                         &e) ||
        r->l->arcface(r->learner, &c->a, own, x, label, c->n, &loss, got, &e))
        fail_msg("%s: %s", what, e.msg);
    if (c->labels == NONE)
        assert_true(loss == 0);
    compare_loss(loss, should, what);
    compare(got, want, count, what);
    compare_gradient(r, own, dw, what);
    free(x);
    free(got);
    free(want);
    free(label);
    free(dw);
}

static void arcface_case(const struct arcface *c)
{
    size_t n = (size_t)c->a.classes * (size_t)c->a.k * (size_t)c->a.dim;
    float *weight = numbers(n);
    struct rig r;

    if (c->opposite)
        gather_centres(c, weight);
    rig_open(&r, weight, n);
    for (int i = 0; i < N_OWNS; i++)
        arcface_once(c, &r, &owns[i]);
    rig_close(&r);
}

static void arcface__every_shape__as_the_processor(void **state)
{
    static const int ns[] = {1, 5, 64}, classes[] = {1, 7, 1000, 2500};
    static const int ks[] = {1, 3};

    (void)state;
    for (int i = 0; i < 3 * 4 * 2 * 2 * 3; i++) {
        struct arcface c = {
            .a = {.classes = classes[i / 3 % 4],
                  .k = ks[i / 12 % 2],
                  .dim = 24,
                  .scale = 32,
                  .margin = i / 24 % 2 ? 0.5f : 0},
            .n = ns[i % 3],
            .labels = (enum labels)(i / 48),
        };

        arcface_case(&c);
    }
}

static void arcface__opposite_to_its_class__as_the_processor(void **state)
{
    static const int ks[] = {1, 3};

    (void)state;
    for (int i = 0; i < 2; i++)
        arcface_case(&(struct arcface){
            .a = {.classes = 7,
                  .k = ks[i],
                  .dim = 40,
                  .scale = 64,
                  .margin = 0.5f},
            .n = 64,
            .opposite = true,
        });
}

/* The device is not asked, and the learner goes on. */
static void arcface__label_past_the_classes__is_refused(void **state)
{
    const struct mdl_arcface a = {
        .classes = 7, .k = 1, .dim = 4, .scale = 16, .margin = 0.5f};
    int32_t label[3] = {0, 7, 6};
    float x[12] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0}, dx[12];
    struct ut_error e;
    struct rig r;
    double loss;

    (void)state;
    rig_open(&r, numbers(28), 28);
    assert_int_equal(
        r.l->arcface(r.learner, &a, &owns[0], x, label, 3, &loss, dx, &e),
        UT_EINVAL);
    assert_string_equal(e.msg, "label 7 is past 7 classes");
    label[1] = -1;
    assert_int_equal(
        r.l->arcface(r.learner, &a, &owns[0], x, label, 3, &loss, dx, &e),
        UT_OK);
    rig_close(&r);
}

/* ---- distillation ---- */

static void make_unit(float *x, size_t n)
{
    double squares = 0;

    for (size_t i = 0; i < n; i++)
        squares += (double)x[i] * x[i];
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(x[i] / sqrt(squares));
}

static void distill_once(const struct mdl_distill *d, int n, struct rig *r,
                         const struct mdl_own *own)
{
    size_t dim = (size_t)d->dim, of = (size_t)d->teacher_dim;
    size_t count = (size_t)n * dim;
    float *x = numbers(count), *teacher = numbers((size_t)n * of);
    float *got = numbers(count), *want = zeros(count), *dw = zeros(r->n);
    double loss = -1, should;
    struct ut_error e;
    char what[96];

    snprintf(what, sizeof(what), "%d faces, %d by %d, %g and %g", n, d->dim,
             d->teacher_dim, (double)d->cosine, (double)d->similarity);
    for (int i = 0; i < n; i++)
        make_unit(teacher + (size_t)i * of, of);
    if (mdl_loss_distill(d, x, r->weight, teacher, n, &should, want, dw, &e) ||
        r->l->distill(r->learner, d, own, x, teacher, n, &loss, got, &e))
        fail_msg("%s: %s", what, e.msg);
    compare_loss(loss, should, what);
    compare(got, want, count, what);
    compare_gradient(r, own, dw, what);
    free(x);
    free(teacher);
    free(got);
    free(want);
    free(dw);
}

static void distill__each_part_and_both__as_the_processor(void **state)
{
    static const float weights[][2] = {{1.5f, 0}, {0, 3}, {1.5f, 3}};
    static const int ns[] = {1, 5, 64}, dims[][2] = {{12, 7}, {32, 96}};

    (void)state;
    for (int i = 0; i < 3 * 3 * 2; i++) {
        struct mdl_distill d = {dims[i / 9][0], dims[i / 9][1],
                                weights[i % 3][0], weights[i % 3][1]};
        size_t n = (size_t)d.dim * (size_t)d.teacher_dim;
        struct rig r;

        rig_open(&r, numbers(n), n);
        for (int k = 0; k < N_OWNS; k++)
            distill_once(&d, ns[i / 3 % 3], &r, &owns[k]);
        rig_close(&r);
    }
}

/* ---- the hint ---- */

static void hint_once(const struct mdl_hint *k, int n, struct rig *r,
                      const struct mdl_own *own)
{
    size_t m = (size_t)n * (size_t)k->places;
    size_t count = m * (size_t)k->channels;
    size_t there = m * (size_t)k->teacher_channels;
    float *map = numbers(count), *teacher = numbers(there);
    float *got = numbers(count), *want = zeros(count), *dw = zeros(r->n);
    double loss = -1, should;
    struct ut_error e;
    char what[96];

    snprintf(what, sizeof(what), "%d maps of %d places, %d by %d", n, k->places,
             k->channels, k->teacher_channels);
    for (size_t i = 0; i < count; i++) /* not around 0 */
        map[i] += 3;
    for (size_t i = 0; i < there; i++)
        teacher[i] = 7 * teacher[i] - 2;
    if (mdl_loss_hint(k, map, r->weight, teacher, n, &should, want, dw, &e) ||
        r->l->hint(r->learner, k, own, map, teacher, n, &loss, got, &e))
        fail_msg("%s: %s", what, e.msg);
    compare_loss(loss, should, what);
    compare(got, want, count, what);
    compare_gradient(r, own, dw, what);
    free(map);
    free(teacher);
    free(got);
    free(want);
    free(dw);
}

static void hint__one_place_and_many__as_the_processor(void **state)
{
    static const int ns[] = {2, 5, 64}, places[] = {1, 49};
    static const int channels[][2] = {{12, 7}, {33, 40}};

    (void)state;
    for (int i = 0; i < 3 * 2 * 2; i++) {
        struct mdl_hint k = {.channels = channels[i / 6][0],
                             .places = places[i / 3 % 2],
                             .teacher_channels = channels[i / 6][1],
                             .weight = 2.5f};
        size_t n = (size_t)k.channels * (size_t)k.teacher_channels;
        struct rig r;

        rig_open(&r, numbers(n), n);
        for (int o = 0; o < N_OWNS; o++)
            hint_once(&k, ns[i % 3], &r, &owns[o]);
        rig_close(&r);
    }
}

/* ---- all of them, on one learner ---- */

/* ArcFace of CLASSES by 2 sub-centres; the projections take its weight's first
 * numbers. */
#define CLASSES 1500
#define N 48
#define DIM 20
#define PLACES 4

struct answers {
    double loss[3];
    float dx[3][N * DIM * PLACES], gradient[CLASSES * 2 * DIM];
};

static enum ut_err ask(struct rig *r, int n, struct answers *out,
                       struct ut_error *e)
{
    static const struct mdl_arcface a = {CLASSES, 2, DIM, 32, 0.4f};
    static const struct mdl_distill d = {DIM, 16, 1, 2};
    static const struct mdl_hint k = {NULL, DIM, PLACES, 24, 1};
    static const struct mdl_own own = {1, false, 1}, more = {1, true, 0.5f};
    static float x[N * DIM * PLACES], teacher[N * 24 * PLACES];
    const struct mdl_learner_ops *ops = r->l;
    int32_t label[N];
    enum ut_err rc;

    seed = 7;
    for (int i = 0; i < N * DIM * PLACES; i++)
        x[i] = noise();
    for (int i = 0; i < N * 24 * PLACES; i++)
        teacher[i] = noise();
    for (int i = 0; i < N; i++)
        label[i] = 31 * i;
    memset(out, 0, sizeof(*out));
    rc = ops->arcface(r->learner, &a, &own, x, label, n, &out->loss[0],
                      out->dx[0], e);
    if (!rc)
        rc = ops->distill(r->learner, &d, &more, x, teacher, n, &out->loss[1],
                          out->dx[1], e);
    if (!rc)
        rc = ops->hint(r->learner, &k, &more, x, teacher, n, &out->loss[2],
                       out->dx[2], e);
    return rc ? rc : ops->get(r->learner, 1, MDL_GRADIENT, out->gradient, e);
}

static void rig_for_all(struct rig *r)
{
    seed = 3;
    rig_open(r, numbers((size_t)CLASSES * 2 * DIM), (size_t)CLASSES * 2 * DIM);
}

/* Whatever else was asked meanwhile, and by another learner too. */
static void losses__asked_again__repeat_bit_for_bit(void **state)
{
    static struct answers first, again, other;
    struct ut_error e;
    struct rig r, s;

    (void)state;
    rig_for_all(&r);
    rig_for_all(&s);
    if (ask(&r, N, &first, &e) || ask(&r, 9, &other, &e) ||
        ask(&r, N, &again, &e))
        fail_msg("%s", e.msg);
    assert_memory_equal(&first, &again, sizeof(first));
    if (ask(&s, N, &again, &e))
        fail_msg("%s", e.msg);
    assert_memory_equal(&first, &again, sizeof(first));
    assert_memory_not_equal(&first, &other, sizeof(first));
    rig_close(&r);
    rig_close(&s);
}

/* An engine that is right computes a little otherwise. */
static void losses__by_engines__as_by_our_kernels(void **state)
{
    static struct answers ours, theirs;
    struct ut_error e;
    struct rig r;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    rig_for_all(&r);
    assert_int_equal(ask(&r, N, &ours, &e), UT_OK);
    rig_close(&r);
    setenv("TSCAF_HOST_ENGINES", "wf", 1);
    rig_for_all(&r);
    assert_int_equal(ask(&r, N, &theirs, &e), UT_OK);
    rig_close(&r);
    unsetenv("TSCAF_HOST_ENGINES");
    assert_memory_not_equal(&ours, &theirs, sizeof(ours));
    for (int i = 0; i < 3; i++) {
        compare_loss(theirs.loss[i], ours.loss[i], "by engines");
        compare(theirs.dx[i], ours.dx[i], N * DIM * PLACES, "by engines");
    }
    compare(theirs.gradient, ours.gradient, (size_t)CLASSES * 2 * DIM,
            "by engines");
}

static void losses__sizes_seen_before__allocate_nothing(void **state)
{
    static struct answers a;
    struct ut_error e;
    struct rig r;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    rig_for_all(&r);
    assert_int_equal(ask(&r, N, &a, &e), UT_OK);
    setenv("TSCAF_HOST_DEVICE_MIB", "0", 1);
    for (int n = N; n > 0; n -= 7)
        if (ask(&r, n, &a, &e))
            fail_msg("%d faces: %s", n, e.msg);
    unsetenv("TSCAF_HOST_DEVICE_MIB");
    rig_close(&r);
}

static void losses__no_room__say_what_they_need_and_go_on(void **state)
{
    static struct answers a;
    struct ut_error e;
    struct rig r;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    rig_for_all(&r);
    setenv("TSCAF_HOST_DEVICE_MIB", "0", 1);
    assert_int_equal(ask(&r, N, &a, &e), UT_ENOMEM);
    assert_string_equal(
        e.msg, "ArcFace of 48 faces needs 0 MiB: the GPU has no 0 MiB");
    unsetenv("TSCAF_HOST_DEVICE_MIB");
    assert_int_equal(ask(&r, N, &a, &e), UT_OK);
    rig_close(&r);
}

/* The first error is the context's; the weights are gone with it. */
static void losses__lost_context__says_that_the_weights_are_gone(void **state)
{
    static struct answers a;
    char path[512];
    struct ut_error e;
    struct rig r;
    FILE *f;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    snprintf(path, sizeof(path), "%s/lose", test_dir());
    setenv("TSCAF_HOST_LOSE", path, 1);
    rig_for_all(&r);
    assert_int_equal(ask(&r, N, &a, &e), UT_OK);
    f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(ask(&r, N, &a, &e), UT_EDEVICE);
    assert_int_equal(ask(&r, N, &a, &e), UT_EDEVICE);
    if (!strstr(e.msg, "the weights that learned on GPU 0 went with its "
                       "context"))
        fail_msg("%s", e.msg);
    rig_close(&r);
    rig_for_all(&r);
    assert_int_equal(ask(&r, N, &a, &e), UT_OK);
    rig_close(&r);
    unsetenv("TSCAF_HOST_LOSE");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arcface__every_shape__as_the_processor),
        cmocka_unit_test(arcface__opposite_to_its_class__as_the_processor),
        cmocka_unit_test(arcface__label_past_the_classes__is_refused),
        cmocka_unit_test(distill__each_part_and_both__as_the_processor),
        cmocka_unit_test(hint__one_place_and_many__as_the_processor),
        cmocka_unit_test(losses__asked_again__repeat_bit_for_bit),
        cmocka_unit_test(losses__by_engines__as_by_our_kernels),
        cmocka_unit_test(losses__sizes_seen_before__allocate_nothing),
        cmocka_unit_test(losses__no_room__say_what_they_need_and_go_on),
        cmocka_unit_test(losses__lost_context__says_that_the_weights_are_gone),
    };

    cmocka_set_test_filter(getenv("TEST_FILTER")); /* NULL: all */
    if (!getenv("TSCAF_TEST_CUDA")) {
        setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
        setenv("TSCAF_CUDA_CACHE", "/dev/null", 1);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
