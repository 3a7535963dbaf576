/* The figures that a model file tells of itself. */
#include "model/train/held_out.h"

#include <stdio.h>
#include <stdlib.h>

#include "model/eval/evaluate.h"
#include "model/model.h"

#define CALIBRATION_RATE 1e-3 /* false matches */

static enum ut_err measure_binary(struct mdl_evaluator *v,
                                  const struct mdl_dataset *d, char *text,
                                  size_t size, char threshold[32],
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
    snprintf(threshold, 32, "0.5");
    snprintf(text, size,
             "{\"pictures\":%d,\"accuracy\":%.4f,\"precision\":%.4f,"
             "\"recall\":%.4f,\"auc\":%.4f,\"equal_error_rate\":%.4f}",
             f.pictures, f.accuracy, f.precision, f.recall, f.auc, f.eer);
    return UT_OK;
}

static enum ut_err measure_identities(struct mdl_evaluator *v,
                                      const struct mdl_dataset *d, char *text,
                                      size_t size, char threshold[32],
                                      struct ut_error *e)
{
    struct mdl_identity_figures f;
    enum ut_err rc = mdl_evaluate_identities(
        v, d, mdl_task_names[MDL_RECOGNITION], CALIBRATION_RATE, &f, e);

    if (rc)
        return rc;
    snprintf(threshold, 32, "%.4f", f.threshold);
    snprintf(text, size,
             "{\"pictures\":%d,\"identities\":%d,\"auc\":%.4f,"
             "\"equal_error_rate\":%.4f,\"tar_at_far_1e-3\":%.4f,"
             "\"rank1\":%.4f,\"false_match_rate\":%g}",
             f.pictures, f.identities, f.auc, f.eer, f.tar[1], f.rank1,
             CALIBRATION_RATE);
    return UT_OK;
}

enum ut_err mdl_held_out_measure(const char *model, const char *backend,
                                 int threads,
                                 const struct mdl_dataset held[MDL_TASKS],
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
        rc = (i == MDL_FATIGUE ? measure_binary : measure_identities)(
            v, &held[i], f->text[i], sizeof(f->text[i]), f->threshold[i], e);
        if (!rc)
            f->pairs[f->n++] =
                (struct mdl_st_pair){keys[i][1], f->threshold[i]};
        if (rc != UT_EINVAL)
            continue;
        /* Too few pictures to say anything: no reason to lose the weights. */
        snprintf(f->text[i], sizeof(f->text[i]), "%.300s", e->msg);
        rc = UT_OK;
    }
    mdl_evaluator_free(v);
    mdl_model_close(&m);
    return rc;
}
