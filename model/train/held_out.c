/* The figures that a model file tells of itself. */
#include "model/train/held_out.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/eval/evaluate.h"
#include "model/model.h"

#define CALIBRATION_RATE 1e-3 /* false matches */

static enum ut_err measure_binary(struct mdl_evaluator *v,
                                  const struct mdl_dataset *d, char *text,
                                  size_t size,
                                  char threshold[MDL_THRESHOLD_LEN],
                                  struct ut_error *e)
{
    struct mdl_binary_figures f;
    float *p;
    int n;
    enum ut_err rc = mdl_evaluate(v, d, "fatigue.probability", &p, &n, e);

    if (rc)
        return rc;
    rc = mdl_binary_figures_of(d, p, 0.5, &f, e);
    free(p);
    if (rc)
        return rc;
    mdl_model_threshold_text(0.5f, threshold);
    snprintf(text, size,
             "{\"pictures\":%d,\"accuracy\":%.4f,\"precision\":%.4f,"
             "\"recall\":%.4f,\"auc\":%.4f,\"equal_error_rate\":%.4f}",
             f.pictures, f.accuracy, f.precision, f.recall, f.auc, f.eer);
    return UT_OK;
}

static enum ut_err measure_identities(struct mdl_evaluator *v,
                                      const struct mdl_dataset *d, char *text,
                                      size_t size,
                                      char threshold[MDL_THRESHOLD_LEN],
                                      struct ut_error *e)
{
    struct mdl_identity_figures f;
    enum ut_err rc = mdl_evaluate_identities(
        v, d, mdl_task_names[MDL_RECOGNITION], CALIBRATION_RATE, &f, e);

    if (rc)
        return rc;
    if (isfinite(f.threshold)) /* else no score is that rare: there is none */
        mdl_model_threshold_text((float)f.threshold, threshold);
    snprintf(text, size,
             "{\"pictures\":%d,\"identities\":%d,\"auc\":%.4f,"
             "\"equal_error_rate\":%.4f,\"tar_at_far_1e-3\":%.4f,"
             "\"rank1\":%.4f,\"false_match_rate\":%g}",
             f.pictures, f.identities, f.auc, f.eer, f.tar[1], f.rank1,
             CALIBRATION_RATE);
    return UT_OK;
}

static enum ut_err measure(struct mdl_evaluator *v, int task,
                           const struct mdl_dataset *d, struct mdl_held_out *f,
                           struct ut_error *e)
{
    return (task == MDL_FATIGUE ? measure_binary : measure_identities)(
        v, d, f->text[task], sizeof(f->text[task]), f->threshold[task], e);
}

/* Broken pictures are left out, as in training, and counted. */
static enum ut_err measure_readable(struct mdl_evaluator *v, int side, int task,
                                    struct mdl_dataset *d,
                                    struct mdl_held_out *f, struct ut_error *e)
{
    enum ut_err rc = measure(v, task, d, f, e);
    char *text = f->text[task];
    int broken = 0;

    if (rc == UT_EFORMAT)
        broken = mdl_dataset_drop_broken(d, 2 * side);
    if (broken && d->n)
        rc = measure(v, task, d, f, e);
    if (broken && !rc)
        snprintf(text + strlen(text) - 1, sizeof(f->text[task]) - strlen(text),
                 ",\"broken\":%d}", broken);
    return rc;
}

enum ut_err mdl_held_out_measure(const char *model, const char *backend,
                                 int threads,
                                 struct mdl_dataset held[MDL_TASKS],
                                 struct mdl_held_out *f, struct ut_error *e)
{
    static const char *const keys[MDL_TASKS][2] = {
        {"held_out.fatigue", "threshold.fatigue"},
        {"held_out.recognition", "threshold.recognition"},
    };
    struct mdl_evaluator *v;
    struct mdl_model m;
    enum ut_err rc = mdl_model_open(model, &m, e);

    f->n = 0;
    if (rc)
        return rc;
    rc = mdl_evaluator_new(&m, backend, MDL_PREC_F32, threads, &v, e);
    for (int i = 0; i < MDL_TASKS && !rc; i++) {
        if (!held[i].n)
            continue;
        f->pairs[f->n++] = (struct mdl_st_pair){keys[i][0], f->text[i]};
        f->threshold[i][0] = '\0';
        rc = measure_readable(v, m.spec.input, i, &held[i], f, e);
        if (!rc && *f->threshold[i])
            f->pairs[f->n++] =
                (struct mdl_st_pair){keys[i][1], f->threshold[i]};
        if (rc != UT_EINVAL && rc != UT_EFORMAT)
            continue;
        /* Too few pictures to say anything, or none that can be read: no reason
         * to lose the weights. */
        snprintf(f->text[i], sizeof(f->text[i]), "%.300s", e->msg);
        rc = UT_OK;
    }
    mdl_evaluator_free(v);
    mdl_model_close(&m);
    return rc;
}
