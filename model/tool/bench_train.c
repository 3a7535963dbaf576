/* Training steps: forward, loss, backward and update of one leaf. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/tool/bench.h"
#include "model/tool/cmd.h"
#include "model/train/trainer.h"

#define CLASSES 1000
#define MAX_REPS 1000
#define MAX_KINDS 128

/* Time by kind of step. */
struct kinds {
    char name[MAX_KINDS][48];
    double us[MAX_KINDS];
    int n;
};

static void add_line(void *arg, const char *name, const char *detail, double us,
                     double macs)
{
    struct kinds *k = arg;
    int i = 0;

    (void)name;
    (void)macs;
    while (i < k->n && strcmp(k->name[i], detail))
        i++;
    if (i == MAX_KINDS)
        return;
    if (i == k->n)
        snprintf(k->name[k->n++], sizeof(k->name[0]), "%s", detail);
    k->us[i] += us;
}

static void print_kinds(struct mdl_trainer *t, int task)
{
    struct kinds *k = calloc(1, sizeof(*k));

    if (k)
        mdl_trainer_profile(t, task, add_line, k);
    for (int i = 0; k && i < k->n; i++)
        printf("%10.1f ms  %s\n", k->us[i] / 1e3, k->name[i]);
    free(k);
}

static enum ut_err measure(struct mdl_trainer *t, int task, int side, int batch,
                           int reps, double *ms, double *update_ms,
                           struct ut_error *e)
{
    size_t n = (size_t)batch, image = (size_t)side * (size_t)side * 3;
    uint8_t *images = malloc(n * image);
    int32_t *label = malloc(n * sizeof(*label));
    struct mdl_labels labels = {.label = label};
    enum ut_err rc = UT_OK;
    double loss;

    if (!images || !label)
        rc = ut_fail(e, UT_ENOMEM, "no memory for a batch");
    for (size_t i = 0; !rc && i < n * image; i++)
        images[i] = (uint8_t)(i * 2654435761u >> 9);
    for (int i = 0; !rc && i < batch; i++)
        label[i] = i % CLASSES;
    for (int r = -1; r < reps && !rc; r++) { /* the first only warms up */
        int64_t at = ut_clock_us(), middle;

        rc = mdl_trainer_batch(t, task, images, &labels, 1, &loss, e);
        if (!rc) /* a device is left with the gradients to gather */
            rc = mdl_trainer_wait(t, e);
        middle = ut_clock_us();
        if (!rc)
            rc = mdl_trainer_update(t, 1e-4, NULL, e);
        if (!rc) /* and here with the optimiser */
            rc = mdl_trainer_wait(t, e);
        if (r >= 0) {
            ms[r] = (double)(ut_clock_us() - at) / 1e3;
            update_ms[r] = (double)(ut_clock_us() - middle) / 1e3;
        }
    }
    free(images);
    free(label);
    return rc;
}

static enum ut_err run(const struct bench_train *b, const char *path,
                       enum mdl_precision precision, struct ut_error *e)
{
    struct mdl_trainer_config c = {
        .backend = b->backend,
        .precision = precision,
        .threads = b->threads,
        .batch = b->batch,
        .optimizer = {MDL_ADAMW, 0.9f, 0.999f, 1e-8f, 0.01f},
        .momentum = 0.1f,
        .clip = 5,
    };
    struct mdl_recognition r = {
        .arcface = {.classes = CLASSES, .k = 1, .scale = 20, .margin = 0.5f},
        .arcface_weight = 1,
    };
    static double ms[MAX_REPS], update_ms[MAX_REPS];
    struct mdl_trainer *t = NULL;
    struct mdl_model m = {0};
    int task;
    enum ut_err rc = bench_open(path, &m, e);

    if (!rc)
        rc = mdl_trainer_new(&m, &c, &t, e);
    if (!rc)
        rc = mdl_trainer_leaf(t, "recognition", &r, 1, &task, e);
    if (!rc)
        rc =
            measure(t, task, m.spec.input, b->batch, b->reps, ms, update_ms, e);
    if (!rc) {
        double step = bench_median(ms, b->reps);

        printf(b->json ? "{\"precision\":\"%s\",\"batch\":%d,\"ms_per_step\":"
                         "%.1f,\"update_ms\":%.1f,\"images_per_second\":%.1f}\n"
                       : "%s, batch %d: %.1f ms a step, of which the update "
                         "%.1f; %.1f images/s\n",
               mdl_precision_name(precision), b->batch, step,
               bench_median(update_ms, b->reps), b->batch * 1e3 / step);
        if (b->profile)
            print_kinds(t, task);
    }
    mdl_trainer_free(t);
    mdl_model_close(&m);
    return rc;
}

int bench_train(const struct bench_train *b, const char *path)
{
    enum ut_err rc = UT_OK;
    struct ut_error e;

    for (int i = 0; i < b->n_precisions && !rc; i++)
        rc = run(b, path, b->precisions[i], &e);
    return rc ? cmd_fail(&e) : 0;
}
