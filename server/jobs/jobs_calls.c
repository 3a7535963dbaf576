/* What clients ask of a job: the record as it will be, and, once the store has
 * taken that, what it means. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/calls/message.h"
#include "server/inference/generations.h"
#include "server/jobs/job_folder.h"
#include "server/jobs/jobs_parts.h"

/* ---- what they ask ---- */

static enum ut_err refuse(const struct job *x, const char *what,
                          struct ut_error *e)
{
    return ut_fail(e, UT_ESTATE, "%s is %s%s: it cannot be %s", x->record->id,
                   srv_job_state_name(x->record->state),
                   srv_job_is_done(x) ? ", and its result is being stored" : "",
                   what);
}

/* Finds one of which no other change is on its way. */
static enum ut_err find_free(const struct srv_jobs *j, const char *id,
                             struct job **out, struct ut_error *e)
{
    *out = srv_job_of(j, id, e);
    if (!*out)
        return e->code;
    return (*out)->asked ? ut_fail(e, UT_EBUSY,
                                   "%.64s: another change of it is being "
                                   "stored",
                                   id)
                         : UT_OK;
}

static enum ut_err ask(struct job *x, Tscaf__V1__JobState state,
                       const char *reason, Tscaf__V1__JobRecord **out,
                       struct ut_error *e)
{
    *out = (Tscaf__V1__JobRecord *)srv_message_copy(&x->record->base);
    if (!*out || !srv_job_describe(*out, state, reason)) {
        if (*out)
            tscaf__v1__job_record__free_unpacked(*out, NULL);
        *out = NULL;
        return ut_fail(e, UT_ENOMEM, "no memory for a job");
    }
    x->asked = true;
    return UT_OK;
}

enum ut_err srv_jobs_cancel(struct srv_jobs *j, const char *id,
                            Tscaf__V1__JobRecord **out, struct ut_error *e)
{
    struct job *x;
    enum ut_err rc = find_free(j, id, &x, e);

    if (rc)
        return rc;
    if (srv_job_has_ended(x) || x->finishing)
        return refuse(x, "cancelled", e);
    if (*x->record->model_version) /* that stays */
        return ask(x, STATE(SUCCEEDED),
                   "the comparison was cancelled on request", out, e);
    return ask(x, STATE(CANCELLED), "on request", out, e);
}

enum ut_err srv_jobs_pause(struct srv_jobs *j, const char *id,
                           Tscaf__V1__JobRecord **out, struct ut_error *e)
{
    struct job *x;
    enum ut_err rc = find_free(j, id, &x, e);

    if (rc)
        return rc;
    if ((x->record->state != STATE(RUNNING) &&
         x->record->state != STATE(QUEUED)) ||
        srv_job_is_done(x))
        return refuse(x, "paused", e);
    return ask(x, STATE(PAUSED), "on request", out, e);
}

enum ut_err srv_jobs_resume(struct srv_jobs *j, const char *id,
                            Tscaf__V1__JobRecord **out, struct ut_error *e)
{
    struct job *x;
    enum ut_err rc = find_free(j, id, &x, e);

    if (rc)
        return rc;
    if ((x->record->state != STATE(PAUSED) &&
         x->record->state != STATE(FAILED)) ||
        srv_job_is_done(x))
        return refuse(x, "resumed", e);
    return ask(x, STATE(QUEUED), "", out, e);
}

/* The version that answers now, into [17]. */
static void answering(const struct srv_jobs *j, char version[17])
{
    struct srv_generation *g = srv_generation_take(j->app);

    snprintf(version, 17, "%s", srv_generation_version(g));
    srv_generation_drop(g);
}

enum ut_err srv_jobs_compare(struct srv_jobs *j, const char *id,
                             Tscaf__V1__JobRecord **out, struct ut_error *e)
{
    struct job *x;
    char active[17], text[80];
    enum ut_err rc = find_free(j, id, &x, e);

    if (rc)
        return rc;
    if (x->record->state != STATE(SUCCEEDED))
        return refuse(x, "compared", e);
    if (x->process || x->finishing)
        return ut_fail(e, UT_ESTATE, "%s: its process has not ended yet", id);
    answering(j, active);
    if (!strcmp(active, x->record->model_version))
        return ut_fail(e, UT_ESTATE,
                       "model %s answers now: there is nothing to "
                       "compare it with",
                       active);
    rc = srv_job_take_model(srv_job_data(x), id, x->record->model_version, e);
    if (rc)
        return rc;
    snprintf(text, sizeof(text), "to be compared with model %s", active);
    return ask(x, STATE(QUEUED), text, out, e);
}

enum ut_err srv_jobs_remove(struct srv_jobs *j, const char *id,
                            Tscaf__V1__JobRecord **out, struct ut_error *e)
{
    struct job *x;
    enum ut_err rc = find_free(j, id, &x, e);

    if (rc)
        return rc;
    if (!srv_job_has_ended(x))
        return refuse(x, "deleted before it has ended", e);
    if (x->process || x->finishing)
        return ut_fail(e, UT_ESTATE, "%s: its process has not ended yet", id);
    rc = ask(x, x->record->state, x->record->reason, out, e);
    x->removing = !rc;
    return rc;
}

/* ---- what the store says to that ---- */

static void forget(struct job *x)
{
    struct srv_jobs *j = x->jobs;
    size_t at = 0, after;

    srv_streams_end(&x->streams);
    while (j->list[at] != x)
        at++;
    after = --j->n - at;
    memmove(&j->list[at], &j->list[at + 1], after * sizeof(struct job *));
    memmove(&j->records[at], &j->records[at + 1],
            after * sizeof(Tscaf__V1__JobRecord *));
    tscaf__v1__job_record__free_unpacked(x->record, NULL);
    free(x);
}

static void apply(struct job *x, const Tscaf__V1__JobRecord *as)
{
    x->save_us = x->again_us = 0;
    x->record->state = as->state;
    srv_message_set(&x->record->reason, as->reason);
    srv_message_set(&x->record->ended_at, as->ended_at);
    if (x->process && as->state != STATE(QUEUED))
        srv_job_process_stop(x->process);
    else if (!x->process && srv_job_has_ended(x))
        srv_job_drop_work(srv_job_data(x), as->id);
    srv_job_announce(x);
}

void srv_jobs_settle(struct srv_jobs *j, const Tscaf__V1__JobRecord *as,
                     bool stored)
{
    struct ut_error e;
    struct job *x = srv_job_of(j, as->id, &e);

    if (!x || j->stopped)
        return;
    x->asked = false;
    if (stored && x->removing) {
        forget(x);
        return;
    }
    x->removing = false;
    if (stored)
        apply(x, as);
    else if (x->record->state == STATE(SUCCEEDED))
        srv_job_drop_work(srv_job_data(x),
                          as->id); /* the model to be compared */
    if (x->gone) {
        x->gone = false;
        srv_job_ended(x, x->status, x->signum);
    }
    srv_jobs_pump(j);
}
