/* A candidate beside the model that answers now. */
#include "server/inference/gate.h"

#include <stdio.h>
#include <string.h>

#include "server/inference/engine.h"

static const char *const tasks[SRV_LEAVES] = {"fatigue", "recognition"};

static const Tscaf__V1__JobFigures *figures_of(const struct srv_gate *g,
                                               const char *task)
{
    for (size_t i = 0; i < g->n; i++)
        if (!strcmp(g->figures[i]->task, task))
            return g->figures[i];
    return NULL;
}

/* A branch that was not trained, and so not measured. */
static bool as_it_was(const struct srv_gate *g, const char *task, char *why,
                      size_t size)
{
    if (!g->frozen_root)
        snprintf(why, size,
                 "%s was not measured: it has no dataset, and the root under "
                 "it was trained (frozen_root leaves it as it is)",
                 task);
    else if (strcmp(g->base, g->active))
        snprintf(why, size,
                 "%s was not measured: it has no dataset, and comes from model "
                 "%s, not from %s, then in use",
                 task, g->base, g->active);
    else
        return true;
    return false;
}

static bool good_enough(const struct srv_gate *g, int task, char *why,
                        size_t size)
{
    const Tscaf__V1__JobFigures *f = figures_of(g, tasks[task]);
    bool both = g->answers & (1u << task);

    if (!(g->candidate & (1u << task))) {
        snprintf(why, size, "it does not answer %s, as model %s does",
                 tasks[task], g->active);
        return !both;
    }
    if (!f)
        return as_it_was(g, tasks[task], why, size);
    if (*f->error)
        snprintf(why, size, "%s was not measured: %s", f->task, f->error);
    else if (both && (double)f->auc < (double)f->active_auc - SRV_GATE_SLACK)
        snprintf(why, size,
                 "%s: held-out AUC %.4f is below the %.4f of model %s, then in "
                 "use",
                 f->task, (double)f->auc, (double)f->active_auc, g->active);
    else if ((double)f->auc < SRV_GATE_LEAST)
        snprintf(why, size, "%s: held-out AUC %.4f is below %.2f", f->task,
                 (double)f->auc, SRV_GATE_LEAST);
    else
        return true;
    return false;
}

bool srv_gate_pass(const struct srv_gate *g, char *why, size_t size)
{
    size_t n;

    for (int i = 0; i < SRV_LEAVES; i++)
        if (!good_enough(g, i, why, size))
            return false;
    n = (size_t)snprintf(why, size,
                         "held-out AUC is no worse than that of model %s, then "
                         "in use:",
                         g->active);
    for (size_t i = 0; i < g->n && n < size; i++) {
        const Tscaf__V1__JobFigures *f = g->figures[i];

        n += (size_t)snprintf(why + n, size - n, "%s %s %.4f (%.4f)",
                              i ? "," : "", f->task, (double)f->auc,
                              (double)f->active_auc);
    }
    return true;
}

enum ut_err srv_gate_admits(const Tscaf__V1__ModelInfo *m, const char *active,
                            struct ut_error *e)
{
    const char *version = m->model->version;

    if (m->state == TSCAF__V1__MODEL_STATE__MODEL_STATE_ACTIVE ||
        m->state == TSCAF__V1__MODEL_STATE__MODEL_STATE_PREVIOUS)
        return UT_OK;
    if (*m->compared_with && strcmp(m->compared_with, active))
        return ut_fail(e, UT_ESTATE,
                       "model %.16s was compared with %.16s, not with %.16s, "
                       "which answers now: its job compares it again, or "
                       "force=true uses it all the same",
                       version, m->compared_with, active);
    if (!m->passed)
        return ut_fail(e, UT_ESTATE,
                       "model %.16s did not pass: %.110s; force=true uses it "
                       "all the same",
                       version, m->reason);
    return UT_OK;
}
