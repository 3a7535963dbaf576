/* Three models over what a job held out. */
#include "server/jobs/job_figures.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/eval/evaluate.h"
#include "server/inference/engine.h"

#define FALSE_MATCHES 1e-3 /* of a threshold that is not looked at here */

struct rival {
    struct mdl_model model;
    struct mdl_evaluator *evaluator;
    const char *leaves[MDL_TASKS]; /* "": it does not answer that */
};

struct score {
    double auc, eer;
    int pictures;
};

static enum ut_err open_rival(struct rival *r, const char *path, int threads,
                              struct ut_error *e)
{
    enum ut_err rc = mdl_model_open(path, &r->model, e);

    if (rc)
        return rc;
    r->leaves[MDL_FATIGUE] = srv_engine_leaf(&r->model, MDL_HEAD_BINARY);
    r->leaves[MDL_RECOGNITION] = srv_engine_leaf(&r->model, MDL_HEAD_EMBEDDING);
    return mdl_evaluator_new(&r->model, NULL, MDL_PREC_F32, threads,
                             &r->evaluator, e);
}

static enum ut_err open_all(const struct srv_trial *t,
                            struct rival rivals[SRV_TRIALS], struct ut_error *e)
{
    const struct rival *active = &rivals[SRV_TRIAL_ACTIVE];
    enum ut_err rc = UT_OK;

    for (int i = 0; i < SRV_TRIALS && !rc; i++)
        if (t->models[i])
            rc = open_rival(&rivals[i], t->models[i], t->threads, e);
    if (!rc && t->models[SRV_TRIAL_ACTIVE] && t->active_version &&
        strcmp(active->model.version, t->active_version))
        rc =
            ut_fail(e, UT_EFORMAT, "%.120s: is model %s, not %s, which answers",
                    t->models[SRV_TRIAL_ACTIVE], active->model.version,
                    t->active_version);
    return rc;
}

/* UT_EINVAL: too few pictures to say anything. UT_EFORMAT: some are broken. */
static enum ut_err measure(const struct rival *r, int task,
                           const struct mdl_dataset *held, struct score *out,
                           struct ut_error *e)
{
    struct mdl_identity_figures who;
    struct mdl_binary_figures f;
    char output[MDL_NAME_LEN + 16];
    float *p;
    int n;
    enum ut_err rc;

    if (task == MDL_RECOGNITION) {
        rc = mdl_evaluate_identities(r->evaluator, held, r->leaves[task],
                                     FALSE_MATCHES, &who, e);
        *out = (struct score){who.auc, who.eer, who.pictures};
        return rc;
    }
    snprintf(output, sizeof(output), "%s.probability", r->leaves[task]);
    rc = mdl_evaluate(r->evaluator, held, output, &p, &n, e);
    if (rc)
        return rc;
    rc = mdl_binary_figures_of(held, p, 0.5, &f, e);
    free(p);
    *out = (struct score){f.auc, f.eer, f.pictures};
    return rc;
}

/* Broken pictures are left out, as in training: they fail the first model's
 * run, so that all are measured by the same. */
static enum ut_err measure_readable(const struct rival *r, int task,
                                    struct mdl_dataset *held, struct score *out,
                                    struct ut_error *e)
{
    enum ut_err rc = measure(r, task, held, out, e);

    if (rc == UT_EFORMAT &&
        mdl_dataset_drop_broken(held, 2 * r->model.spec.input) && held->n)
        rc = measure(r, task, held, out, e);
    return rc;
}

/* The same split by the same seed as in training. */
static enum ut_err compare(const struct srv_trial *t, int task,
                           const struct rival rivals[SRV_TRIALS],
                           struct srv_job_figures *out, struct ut_error *e)
{
    Tscaf__V1__JobFigures *f = &out->of[out->n];
    struct score s[SRV_TRIALS] = {0};
    struct mdl_dataset set, held = {0};
    enum ut_err rc = mdl_dataset_open(t->data[task], &set, e);

    if (rc)
        return rc;
    rc = mdl_dataset_split(
        &set, task == MDL_FATIGUE ? MDL_SPLIT_GROUP : MDL_SPLIT_LABEL,
        t->held_out, t->seed, &held, e);
    tscaf__v1__job_figures__init(f);
    for (int i = 0; i < SRV_TRIALS && !rc; i++)
        if (rivals[i].evaluator && *rivals[i].leaves[task])
            rc = measure_readable(&rivals[i], task, &held, &s[i], e);
    if (!t->models[SRV_TRIAL_ACTIVE])
        s[SRV_TRIAL_ACTIVE] = s[SRV_TRIAL_BASE];
    if (rc == UT_EINVAL || rc == UT_EFORMAT) {
        snprintf(out->errors[task], sizeof(out->errors[task]), "%s", e->msg);
        f->error = out->errors[task];
        rc = UT_OK;
    }
    f->task = (char *)(uintptr_t)mdl_task_names[task];
    f->pictures = (uint32_t)s[SRV_TRIAL_CANDIDATE].pictures;
    f->auc = (float)s[SRV_TRIAL_CANDIDATE].auc;
    f->equal_error_rate = (float)s[SRV_TRIAL_CANDIDATE].eer;
    f->base_auc = (float)s[SRV_TRIAL_BASE].auc;
    f->base_equal_error_rate = (float)s[SRV_TRIAL_BASE].eer;
    f->active_auc = (float)s[SRV_TRIAL_ACTIVE].auc;
    f->active_equal_error_rate = (float)s[SRV_TRIAL_ACTIVE].eer;
    out->list[out->n++] = f;
    mdl_dataset_fini(&set);
    mdl_dataset_fini(&held);
    return rc;
}

enum ut_err srv_job_figures_take(const struct srv_trial *t,
                                 struct srv_job_figures *out,
                                 struct ut_error *e)
{
    struct rival rivals[SRV_TRIALS] = {0};
    enum ut_err rc = open_all(t, rivals, e);

    *out = (struct srv_job_figures){.n = 0};
    for (int i = 0; i < MDL_TASKS && !rc; i++) {
        for (int k = 0; k < SRV_TRIALS; k++) {
            const struct rival *r = &rivals[k];

            if (r->evaluator && *r->leaves[i])
                out->tasks[k] |= 1u << i;
        }
        if (t->data[i])
            rc = compare(t, i, rivals, out, e);
    }
    if (!t->models[SRV_TRIAL_ACTIVE])
        out->tasks[SRV_TRIAL_ACTIVE] = out->tasks[SRV_TRIAL_BASE];
    for (int i = 0; i < SRV_TRIALS; i++) {
        mdl_evaluator_free(rivals[i].evaluator);
        mdl_model_close(&rivals[i].model);
    }
    return rc;
}
