/* The queue of jobs: what state each is in, and what comes next. */
#include "server/jobs/jobs_parts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "server/app.h"
#include "server/calls/answer.h"
#include "server/calls/message.h"
#include "server/calls/streams.h"
#include "server/jobs/job_child.h"
#include "server/jobs/job_folder.h"
#include "server/jobs/job_process.h"
#include "server/jobs/job_store.h"
#include "server/log.h"

#define LOOK_MS 250      /* between two looks at what processes say */
#define AGAIN_US 1000000 /* from a store that refused to the next try */

const char *srv_job_state_name(Tscaf__V1__JobState state)
{
    static const char *const names[] = {"unspecified", "queued",    "running",
                                        "paused",      "succeeded", "failed",
                                        "cancelled"};

    return names[state];
}

struct job *srv_job_of(const struct srv_jobs *j, const char *id,
                       struct ut_error *e)
{
    for (size_t i = 0; i < j->n; i++)
        if (!strcmp(j->records[i]->id, id))
            return j->list[i];
    ut_fail(e, UT_ENOTFOUND, "there is no job \"%.64s\"", id);
    return NULL;
}

bool srv_job_has_ended(const struct job *x)
{
    return x->record->state >= STATE(SUCCEEDED);
}

bool srv_job_is_done(const struct job *x)
{
    return x->finishing || x->again_us;
}

const char *srv_job_data(const struct job *x)
{
    return x->jobs->app->config->data;
}

/* ---- telling ---- */

static void tell(struct job *x)
{
    srv_streams_send(&x->streams, &x->record->base);
    if (srv_job_has_ended(x))
        srv_streams_end(&x->streams);
}

bool srv_job_describe(Tscaf__V1__JobRecord *r, Tscaf__V1__JobState state,
                      const char *reason)
{
    r->state = state;
    return srv_message_set(&r->reason, reason) &&
           (state >= STATE(SUCCEEDED) ? srv_message_set_now(&r->ended_at)
                                      : srv_message_set(&r->ended_at, ""));
}

void srv_job_announce(struct job *x)
{
    const char *reason = x->record->reason;

    srv_log_line(x->jobs->app->log, SRV_LOG_INFO, NULL, "%s: %s%s%s",
                 x->record->id, srv_job_state_name(x->record->state),
                 *reason ? ": " : "", reason);
    tell(x);
}

/* The timer saves it again. */
static void on_refused(void *arg, const char *id)
{
    struct ut_error e;
    struct job *x = srv_job_of(arg, id, &e);

    if (x)
        x->save_us = ut_clock_us() + AGAIN_US;
}

static void save(struct job *x)
{
    x->save_us = 0;
    srv_job_save(x->jobs->app, x->record, on_refused, x->jobs);
}

/* By what its process did; calls ask first: srv_jobs_settle. */
static void change(struct job *x, Tscaf__V1__JobState state, const char *reason)
{
    srv_job_describe(x->record, state, reason);
    srv_job_announce(x);
    save(x);
}

/* One that made its model before has it still: only its comparison with another
 * failed. */
static void fail(struct job *x, const char *why)
{
    char text[400];

    if (!*x->record->model_version) {
        change(x, STATE(FAILED), why);
        return;
    }
    srv_job_drop_work(srv_job_data(x), x->record->id);
    snprintf(text, sizeof(text), "the comparison failed: %s", why);
    change(x, STATE(SUCCEEDED), text);
}

static void look_at_progress(struct job *x)
{
    char path[PATH_MAX];
    struct stat st;
    ProtobufCMessage *m;

    srv_job_path(srv_job_data(x), x->record->id, "progress.json", path);
    if (stat(path, &st) || (st.st_mtim.tv_sec == x->told.tv_sec &&
                            st.st_mtim.tv_nsec == x->told.tv_nsec))
        return;
    x->told = st.st_mtim;
    m = srv_job_read(srv_job_data(x), x->record->id, "progress.json",
                     &tscaf__v1__job_progress__descriptor);
    if (!m)
        return;
    if (x->record->progress)
        tscaf__v1__job_progress__free_unpacked(x->record->progress, NULL);
    x->record->progress = (Tscaf__V1__JobProgress *)m;
    if (!srv_job_has_ended(x))
        tell(x);
}

/* ---- the end of a process ---- */

/* What may pass is no reason to train again: the result stays, and is tried
 * again by the timer. */
static void not_stored(struct job *x, const struct ut_error *e)
{
    char text[300];

    if (e->code != UT_EIO && e->code != UT_EBUSY && e->code != UT_ENOMEM) {
        fail(x, e->msg);
        return;
    }
    x->again_us = ut_clock_us() + AGAIN_US;
    snprintf(text, sizeof(text), "its result is not stored yet: %s", e->msg);
    if (!strcmp(x->record->reason, text))
        return;
    srv_log_line(x->jobs->app->log, SRV_LOG_ERROR, NULL, "%s: %s",
                 x->record->id, text);
    srv_message_set(&x->record->reason, text);
    tell(x);
}

static void on_stored(void *arg, Tscaf__V1__JobRecord *record,
                      const struct ut_error *e)
{
    struct job *x = arg;
    struct srv_jobs *j = x->jobs;

    x->finishing = false;
    if (record) {
        x->save_us = 0;
        for (size_t i = 0; i < j->n; i++)
            if (j->list[i] == x)
                j->records[i] = record;
        tscaf__v1__job_record__free_unpacked(x->record, NULL);
        x->record = record;
        srv_log_line(j->app->log, SRV_LOG_INFO, NULL, "%s: succeeded: model %s",
                     record->id, record->model_version);
        tell(x);
    } else if (!j->stopped) {
        not_stored(x, e);
    }
    if (!j->stopped)
        srv_jobs_pump(j);
}

static void finish(struct job *x)
{
    struct ut_error e;

    x->again_us = 0;
    x->finishing =
        !srv_job_store_result(x->jobs->app, x->record, on_stored, x, &e);
    if (!x->finishing)
        not_stored(x, &e);
}

/* Why a process ended without a result, as it says itself or as it shows. */
static void why_it_ended(const struct job *x, int signum, char *why,
                         size_t size)
{
    char path[PATH_MAX];
    struct ut_error e;
    struct ut_buf b;

    srv_job_path(srv_job_data(x), x->record->id, "error", path);
    ut_buf_init(&b, size - 1);
    if (!ut_buf_add_file(&b, path, &e) && b.len)
        snprintf(why, size, "%s", b.data);
    else if (signum)
        snprintf(why, size,
                 "its process was killed by signal %d%s; resume goes on from "
                 "the checkpoint",
                 signum,
                 signum == SIGKILL
                     ? " (by the kernel, short of memory, or by hand)"
                     : "");
    else
        snprintf(why, size,
                 "its process ended without a result; resume goes on from the "
                 "checkpoint");
    ut_buf_fini(&b);
}

/* Whether another model answers than the one that its result was compared with:
 * then the gate's verdict says nothing, and the figures are taken again. Not of
 * a model that went into the repository before its record did, when a server
 * ended in between: there is nothing left in the job to measure. */
static bool is_stale(const struct job *x)
{
    struct srv_generation *g = srv_generation_take(x->jobs->app);
    Tscaf__V1__JobResult *r = (Tscaf__V1__JobResult *)srv_job_read(
        srv_job_data(x), x->record->id, "result.json",
        &tscaf__v1__job_result__descriptor);
    bool is =
        r && r->model &&
        srv_job_has(srv_job_data(x), x->record->id, "model.safetensors") &&
        strcmp(r->model->compared_with, srv_generation_version(g)) != 0;

    if (r)
        tscaf__v1__job_result__free_unpacked(r, NULL);
    srv_generation_drop(g);
    return is;
}

void srv_job_ended(struct job *x, int status, int signum)
{
    const char *id = x->record->id;
    bool result = srv_job_has(srv_job_data(x), id, "result.json");
    char why[300];

    look_at_progress(x);
    if (x->record->state == STATE(CANCELLED) ||
        x->record->state == STATE(SUCCEEDED)) {
        srv_job_drop_work(srv_job_data(x), id);
    } else if (result && !is_stale(x)) {
        finish(x);
    } else if (x->record->state != STATE(RUNNING)) {
        return; /* paused, or resumed meanwhile: as it is wanted */
    } else if (result) {
        change(x, STATE(QUEUED),
               "another model answers since: it is compared with that");
    } else if ((status == SRV_JOB_STOPPED || status == SRV_JOB_HELD) &&
               !signum) {
        change(x, STATE(QUEUED), "its process was stopped from outside");
    } else {
        why_it_ended(x, signum, why, sizeof(why));
        fail(x, why);
    }
}

static void on_process_end(void *arg, int status, int signum);

/* Watches a process that is at the job already, if there is one. */
static bool adopt(struct job *x)
{
    const struct srv_app *app = x->jobs->app;
    const char *id = x->record->id;

    x->process = srv_job_process_find(app->config, id, on_process_end, x);
    if (!x->process)
        return false;
    srv_log_line(app->log, SRV_LOG_INFO, NULL,
                 "%s: its process %d was found again", id,
                 srv_job_process_pid(x->process));
    if (x->record->state != STATE(RUNNING))
        srv_job_process_stop(x->process); /* it may not know yet */
    return true;
}

static void on_process_end(void *arg, int status, int signum)
{
    struct job *x = arg;

    x->process = NULL;
    /* That of a server which was killed may come to its lock late, when another
     * has been started in its place already. */
    if (status == SRV_JOB_HELD && !signum && adopt(x))
        return;
    if (x->asked) { /* what is wanted is known when that is stored */
        x->gone = true;
        x->status = status;
        x->signum = signum;
        return;
    }
    srv_job_ended(x, status, signum);
    if (status != SRV_JOB_HELD) /* else on_timer's turn: not again at once */
        srv_jobs_pump(x->jobs);
}

/* ---- the start of a process ---- */

void srv_jobs_pump(struct srv_jobs *j)
{
    struct srv_app *app = j->app;
    int running = 0;

    for (size_t i = 0; i < j->n; i++)
        running += j->list[i]->process || j->list[i]->finishing;
    for (size_t i = 0; i < j->n && running < app->config->max_jobs; i++) {
        struct job *x = j->list[i];
        struct srv_generation *active;
        struct ut_error e;
        enum ut_err rc;

        if (x->record->state != STATE(QUEUED) || x->process ||
            srv_job_is_done(x) || x->asked)
            continue;
        active = srv_generation_take(app);
        rc = srv_job_process_start(&app->loop, app->config, x->record->id,
                                   active, on_process_end, x, &x->process, &e);
        srv_generation_drop(active);
        if (rc) {
            fail(x, e.msg);
            continue;
        }
        if (!*x->record->started_at)
            srv_message_set_now(&x->record->started_at);
        change(x, STATE(RUNNING), "");
        running++;
    }
}

/* ---- what clients ask ---- */

void srv_jobs_watch(struct srv_jobs *j, const char *id, struct srv_call *c)
{
    struct ut_error e;
    struct job *x = srv_job_of(j, id, &e);

    if (!x) {
        srv_answer_fail(c, &e);
        return;
    }
    srv_streams_add(&x->streams, c, SRV_JOBS_MAX_WATCHERS, &x->record->base);
    if (srv_job_has_ended(x) || j->app->draining)
        srv_streams_end(&x->streams);
}

void srv_jobs_drain(struct srv_jobs *j)
{
    for (size_t i = 0; j && i < j->n; i++)
        srv_streams_end(&j->list[i]->streams);
}

size_t srv_jobs_count(const struct srv_jobs *j)
{
    return j->n;
}

Tscaf__V1__JobRecord **srv_jobs_list(const struct srv_jobs *j)
{
    return j->records;
}

Tscaf__V1__JobRecord *srv_jobs_find(const struct srv_jobs *j, const char *id)
{
    struct ut_error e;
    struct job *x = srv_job_of(j, id, &e);

    return x ? x->record : NULL;
}

/* ---- beginning and end ---- */

static struct job *append(struct srv_jobs *j, Tscaf__V1__JobRecord *record)
{
    struct job *x = calloc(1, sizeof(*x));

    if (!x || j->n == SRV_JOBS_MAX) {
        free(x);
        tscaf__v1__job_record__free_unpacked(record, NULL);
        return NULL; /* stored: the next start takes it up */
    }
    x->jobs = j;
    x->record = record;
    j->list[j->n] = x;
    j->records[j->n++] = record;
    return x;
}

void srv_jobs_add(struct srv_jobs *j, Tscaf__V1__JobRecord *record)
{
    if (append(j, record))
        srv_jobs_pump(j);
}

/* A job as another server, or this one before, left it. */
static void find_again(struct job *x)
{
    const char *id = x->record->id;

    if (adopt(x))
        return;
    if (srv_job_has(srv_job_data(x), id, "result.json") &&
        !srv_job_has_ended(x)) {
        srv_job_ended(x, 0, 0);
    } else if (x->record->state == STATE(RUNNING)) {
        if (srv_job_has(srv_job_data(x), id, "error"))
            srv_job_ended(x, 1, 0);
        else
            change(x, STATE(QUEUED),
                   "its process ended with the server; goes on from the "
                   "checkpoint");
    }
}

static void on_timer(uv_timer_t *t)
{
    struct srv_jobs *j = t->data;

    for (size_t i = 0; i < j->n; i++) {
        struct job *x = j->list[i];

        srv_streams_beat(&x->streams, &x->record->base);
        if (x->again_us && ut_clock_us() > x->again_us && !x->asked)
            finish(x);
        /* Not over what is on its way to the store. */
        if (x->save_us && ut_clock_us() > x->save_us && !x->asked &&
            !x->finishing)
            save(x);
        if (!x->process)
            continue;
        look_at_progress(x);
        srv_job_process_look(x->process);
    }
    srv_jobs_pump(j);
}

static void free_all(struct srv_jobs *j)
{
    for (size_t i = 0; i < j->n; i++) {
        tscaf__v1__job_record__free_unpacked(j->list[i]->record, NULL);
        free(j->list[i]);
    }
    free(j->list);
    free(j->records);
    free(j);
}

/* Of several servers on one store, who made a job runs it. */
static bool is_ours(const struct srv_app *app, const Tscaf__V1__JobRecord *x)
{
    return !srv_store_shared(app->store) ||
           !strcmp(x->server, app->folder.name);
}

enum ut_err srv_jobs_new(struct srv_app *app, struct srv_jobs **out,
                         struct ut_error *e)
{
    static const char *const folders[] = {"jobs", "models"};
    struct srv_jobs *j = calloc(1, sizeof(*j));
    ProtobufCMessage **stored;
    char path[PATH_MAX];
    size_t n;
    enum ut_err rc;

    *out = NULL;
    if (!j)
        return ut_fail(e, UT_ENOMEM, "no memory for jobs");
    j->app = app;
    j->list = calloc(SRV_JOBS_MAX, sizeof(struct job *));
    j->records = calloc(SRV_JOBS_MAX, sizeof(Tscaf__V1__JobRecord *));
    rc = j->list && j->records ? UT_OK
                               : ut_fail(e, UT_ENOMEM, "no memory for jobs");
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/%s", app->config->data, folders[i]);
        mkdir(path, 0700);
    }
    if (!rc)
        rc = srv_store_list(app->store, SRV_TABLE_JOB,
                            &tscaf__v1__job_record__descriptor, &stored, &n, e);
    if (rc) {
        free_all(j);
        return rc;
    }
    for (size_t i = 0; i < n; i++) {
        Tscaf__V1__JobRecord *record = (Tscaf__V1__JobRecord *)stored[i];
        struct job *x = NULL;

        if (is_ours(app, record))
            x = append(j, record);
        else
            tscaf__v1__job_record__free_unpacked(record, NULL);
        if (x)
            find_again(x);
    }
    free(stored);
    uv_timer_init(&app->loop, &j->timer);
    j->timer.data = j;
    uv_timer_start(&j->timer, on_timer, LOOK_MS, LOOK_MS);
    *out = j;
    srv_jobs_pump(j);
    return UT_OK;
}

void srv_jobs_stop(struct srv_jobs *j)
{
    if (!j)
        return;
    j->stopped = true;
    for (size_t i = 0; i < j->n; i++) {
        srv_job_process_forget(j->list[i]->process);
        j->list[i]->process = NULL;
    }
    uv_close((uv_handle_t *)&j->timer, NULL);
}

void srv_jobs_free(struct srv_jobs *j)
{
    if (j)
        free_all(j);
}
