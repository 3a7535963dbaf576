/* Jobs: made on the datasets' thread, which freezes their data; what changes
 * them is stored, then done; all else is in memory, on the loop. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/app.h"
#include "server/calls/answer.h"
#include "server/calls/message.h"
#include "server/calls/store_call.h"
#include "server/inference/generations.h"
#include "server/jobs/job_folder.h"
#include "server/jobs/job_losses.h"
#include "server/methods/handlers.h"

#define MAX_STEPS 10000000
#define MAX_BATCH 1024

/* ---- create ---- */

static bool in_range(struct srv_call *c, const char *field, double v,
                     double least, double most)
{
    if (v == 0 || (v >= least && v <= most))
        return true;
    srv_answer_invalid(c, field, "OUT_OF_RANGE", "%g is not from %g to %g", v,
                       least, most);
    return false;
}

static bool settings_valid(struct srv_call *c, const Tscaf__V1__JobSettings *s)
{
    return !s ||
           (in_range(c, "settings.steps", s->steps, 1, MAX_STEPS) &&
            in_range(c, "settings.batch", s->batch, 2, MAX_BATCH) &&
            in_range(c, "settings.rate", (double)s->rate, 1e-9, 10) &&
            in_range(c, "settings.warm_up", s->warm_up, 1, MAX_STEPS) &&
            in_range(c, "settings.weight", (double)s->weight, 0, 1) &&
            in_range(c, "settings.turn", s->turn, 1, 1000) &&
            in_range(c, "settings.held_out", (double)s->held_out, 0.01, 0.9) &&
            in_range(c, "settings.save", s->save, 1, MAX_STEPS) &&
            in_range(c, "settings.arcface_scale", (double)s->arcface_scale, 1,
                     1000) &&
            in_range(c, "settings.arcface_margin", (double)s->arcface_margin,
                     0.001, 1.5) &&
            in_range(c, "settings.arcface_sub_centres", s->arcface_sub_centres,
                     1, 16));
}

/* The record of a request, as one message that owns all it says. */
static enum ut_err new_record(const Tscaf__V1__CreateJobRequest *r,
                              const char *base, const char *server,
                              Tscaf__V1__JobRecord **out, struct ut_error *e)
{
    Tscaf__V1__JobSettings settings = TSCAF__V1__JOB_SETTINGS__INIT;
    Tscaf__V1__JobRecord x = TSCAF__V1__JOB_RECORD__INIT;
    char id[SRV_ID_LEN], created[SRV_LOG_TIME_LEN];

    srv_store_new_id("job_", id);
    srv_log_time(ut_clock_unix_ms(), created);
    x.id = id;
    x.server = (char *)(uintptr_t)server;
    x.name = r->name;
    x.state = TSCAF__V1__JOB_STATE__JOB_STATE_QUEUED;
    x.base_version = (char *)(uintptr_t)base;
    x.fatigue_dataset = r->fatigue_dataset;
    x.recognition_dataset = r->recognition_dataset;
    if (r->settings)
        settings = *r->settings;
    if (!settings.mode)
        settings.mode = TSCAF__V1__TRAINING_MODE__TRAINING_MODE_ALTERNATE;
    x.settings = &settings;
    x.created_at = created;
    *out = (Tscaf__V1__JobRecord *)srv_message_copy(&x.base);
    return *out ? UT_OK : ut_fail(e, UT_ENOMEM, "no memory for a job");
}

static void free_message(void *result)
{
    protobuf_c_message_free_unpacked(result, NULL);
}

/* As one change with a look at what it starts from: that may have been deleted
 * while the data was frozen. */
static enum ut_err put_new(struct srv_store_call *w,
                           const Tscaf__V1__JobRecord *x, struct ut_error *e)
{
    struct srv_app *app = w->call->app;
    struct srv_store *store = app->datasets.store;
    const struct srv_record put = {SRV_TABLE_JOB, x->id, &x->base};
    enum ut_err rc = srv_store_begin(store, e);

    if (rc)
        return rc;
    rc = srv_generations_have(app, x->base_version, store, e);
    if (!rc)
        rc = srv_store_put(store, w->call->actor, "job.create", x->id, &put, 1,
                           e);
    return srv_store_end(store, rc, e);
}

/* The datasets' thread. */
static enum ut_err create(struct srv_store_call *w, struct ut_error *e)
{
    static const Tscaf__V1__DatasetKind kinds[] = {
        TSCAF__V1__DATASET_KIND__DATASET_KIND_FATIGUE,
        TSCAF__V1__DATASET_KIND__DATASET_KIND_RECOGNITION};
    const Tscaf__V1__CreateJobRequest *r = (const void *)w->call->request;
    const char *ids[] = {r->fatigue_dataset, r->recognition_dataset};
    struct srv_app *app = w->call->app;
    char base[PATH_MAX], version[17], data[2][PATH_MAX] = {"-", "-"};
    const char *const order[SRV_JOB_ORDER] = {base, data[0], data[1]};
    Tscaf__V1__JobRecord *x;
    enum ut_err rc = srv_generations_base(app, r->base_version, version, base,
                                          app->datasets.store, e);

    if (rc)
        return rc;
    rc = new_record(r, version, app->folder.name, &x, e);
    if (rc)
        return rc;
    w->result = x;
    w->result_free = free_message;
    for (int i = 0; i < 2 && !rc; i++)
        if (*ids[i])
            rc = srv_dataset_freeze(&app->datasets, ids[i], kinds[i], x->id,
                                    data[i], sizeof(data[i]), e);
    if (!rc)
        rc = srv_job_folder_make(app->config->data, x, order, e);
    if (!rc)
        rc = put_new(w, x, e);
    if (rc) { /* nothing of it stays */
        for (int i = 0; i < 2; i++)
            srv_dataset_thaw(data[i], x->id);
        srv_job_folder_remove(app->config->data, x->id);
    }
    return rc;
}

static void reply_created(struct srv_store_call *w)
{
    Tscaf__V1__JobRecord *x = w->result;

    w->call->reply(w->call, &x->base);
    w->result = NULL;
    srv_jobs_add(w->call->app->jobs, x);
}

void srv_handle_create_job(struct srv_call *c)
{
    const Tscaf__V1__CreateJobRequest *r = (const void *)c->request;
    struct ut_error e;

    if (!*r->fatigue_dataset && !*r->recognition_dataset) {
        srv_answer_invalid(c, "fatigue_dataset", "REQUIRED",
                           "there is no dataset of either kind");
    } else if (strlen(r->name) > 60) {
        srv_answer_invalid(c, "name", "OUT_OF_RANGE",
                           "is longer than 60 characters");
    } else if (srv_jobs_count(c->app->jobs) >= SRV_JOBS_MAX) {
        ut_fail(&e, UT_EBUSY, "%d jobs are kept, the limit: delete some",
                SRV_JOBS_MAX);
        srv_answer_fail(c, &e);
    } else if (settings_valid(c, r->settings)) {
        srv_store_call_start_on(c, c->app->dataset_pool, NULL, NULL, create,
                                reply_created);
    }
}

/* ---- list, get, watch ---- */

/* Other servers' jobs are as they were last stored. */
struct stored_jobs {
    ProtobufCMessage **list; /* owned */
    size_t n;
};

static void free_stored(void *result)
{
    struct stored_jobs *s = result;

    srv_messages_free(s->list, s->n);
    free(s);
}

static enum ut_err list_stored(struct srv_store_call *w, struct ut_error *e)
{
    struct stored_jobs *s = calloc(1, sizeof(*s));

    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for jobs");
    w->result = s;
    w->result_free = free_stored;
    return srv_store_list(w->call->app->store, SRV_TABLE_JOB,
                          &tscaf__v1__job_record__descriptor, &s->list, &s->n,
                          e);
}

static void reply_stored(struct srv_store_call *w)
{
    Tscaf__V1__ListJobsResponse r = TSCAF__V1__LIST_JOBS_RESPONSE__INIT;
    const struct stored_jobs *s = w->result;
    Tscaf__V1__JobRecord **list = calloc(s->n + 1, sizeof(*list));
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for jobs"};

    for (size_t i = 0; list && i < s->n; i++) {
        Tscaf__V1__JobRecord *stored =
            (Tscaf__V1__JobRecord *)(void *)s->list[i];
        Tscaf__V1__JobRecord *own =
            srv_jobs_find(w->call->app->jobs, stored->id);

        list[i] = own ? own : stored;
    }
    r.n_jobs = s->n;
    r.jobs = list;
    if (list)
        w->call->reply(w->call, &r.base);
    else
        srv_answer_fail(w->call, &e);
    free(list);
}

static enum ut_err get_stored(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__JobRef *r = (const void *)w->call->request;
    ProtobufCMessage *m;
    enum ut_err rc = srv_store_get(w->call->app->store, SRV_TABLE_JOB, r->id,
                                   &tscaf__v1__job_record__descriptor, &m, e);

    w->result = m;
    w->result_free = free_message;
    return rc;
}

static void reply_record(struct srv_store_call *w)
{
    const Tscaf__V1__JobRecord *x = w->result;

    w->call->reply(w->call, &x->base);
}

static void reply_elsewhere(struct srv_store_call *w)
{
    const Tscaf__V1__JobRecord *x = w->result;
    struct ut_error e;

    ut_fail(&e, UT_ESTATE, "job %.64s is on server %.64s", x->id, x->server);
    srv_answer_fail(w->call, &e);
}

/* Whether the job is not this server's; then that is answered. */
static bool is_elsewhere(struct srv_call *c)
{
    const Tscaf__V1__JobRef *r = (const void *)c->request;

    if (!srv_store_shared(c->app->store) || srv_jobs_find(c->app->jobs, r->id))
        return false;
    srv_store_call_start(c, get_stored, reply_elsewhere);
    return true;
}

void srv_handle_list_jobs(struct srv_call *c)
{
    Tscaf__V1__ListJobsResponse r = TSCAF__V1__LIST_JOBS_RESPONSE__INIT;

    if (srv_store_shared(c->app->store)) {
        srv_store_call_start(c, list_stored, reply_stored);
        return;
    }

    r.n_jobs = srv_jobs_count(c->app->jobs);
    r.jobs = srv_jobs_list(c->app->jobs);
    c->reply(c, &r.base);
}

void srv_handle_get_job(struct srv_call *c)
{
    const Tscaf__V1__JobRef *r = (const void *)c->request;
    const Tscaf__V1__JobRecord *x = srv_jobs_find(c->app->jobs, r->id);
    struct ut_error e;

    if (x) {
        c->reply(c, &x->base);
        return;
    }
    if (srv_store_shared(c->app->store)) {
        srv_store_call_start(c, get_stored, reply_record);
        return;
    }
    ut_fail(&e, UT_ENOTFOUND, "there is no job \"%.64s\"", r->id);
    srv_answer_fail(c, &e);
}

void srv_handle_watch_job(struct srv_call *c)
{
    const Tscaf__V1__JobRef *r = (const void *)c->request;

    if (!is_elsewhere(c))
        srv_jobs_watch(c->app->jobs, r->id, c);
}

/* ---- losses ---- */

/* A file, so not on the loop. */
static enum ut_err read_losses(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__JobRef *r = (const void *)w->call->request;

    (void)e;
    w->result =
        srv_job_read(w->call->app->config->data, r->id, SRV_JOB_LOSSES_FILE,
                     &tscaf__v1__job_losses__descriptor);
    w->result_free = free_message;
    return UT_OK;
}

/* One that has not begun has none yet. */
static void reply_losses(struct srv_store_call *w)
{
    Tscaf__V1__JobLosses none = TSCAF__V1__JOB_LOSSES__INIT;

    w->call->reply(w->call, w->result ? w->result : &none.base);
}

void srv_handle_get_job_losses(struct srv_call *c)
{
    const Tscaf__V1__JobRef *r = (const void *)c->request;
    struct ut_error e;

    if (is_elsewhere(c))
        return;
    if (srv_jobs_find(c->app->jobs, r->id)) {
        srv_store_call_start(c, read_losses, reply_losses);
        return;
    }
    ut_fail(&e, UT_ENOTFOUND, "there is no job \"%.64s\"", r->id);
    srv_answer_fail(c, &e);
}

/* ---- cancel, pause, resume, compare, delete ---- */

struct asked {
    struct srv_jobs *jobs;
    Tscaf__V1__JobRecord *record; /* owned; as it will be */
    bool stored;
};

static void free_asked(void *result)
{
    struct asked *a = result;

    if (!a->stored)
        srv_jobs_settle(a->jobs, a->record, false);
    tscaf__v1__job_record__free_unpacked(a->record, NULL);
    free(a);
}

/* Answered when it is stored, and who asked for it; then it happens. */
static void
ask(struct srv_call *c,
    enum ut_err (*how)(struct srv_jobs *j, const char *id,
                       Tscaf__V1__JobRecord **out, struct ut_error *e),
    enum ut_err (*store)(struct srv_store_call *w, struct ut_error *e),
    void (*reply)(struct srv_store_call *w))
{
    const Tscaf__V1__JobRef *r = (const void *)c->request;
    struct asked *a;
    struct ut_error e;
    enum ut_err rc;

    if (is_elsewhere(c))
        return;
    a = calloc(1, sizeof(*a));
    rc = a ? how(c->app->jobs, r->id, &a->record, &e)
           : ut_fail(&e, UT_ENOMEM, "no memory for a job");
    if (rc) {
        free(a);
        srv_answer_fail(c, &e);
        return;
    }
    a->jobs = c->app->jobs;
    srv_store_call_start_with(c, a, free_asked, store, reply);
}

static void settle(struct asked *a)
{
    a->stored = true;
    srv_jobs_settle(a->jobs, a->record, true);
}

static void reply_changed(struct srv_store_call *w)
{
    struct asked *a = w->result;

    settle(a);
    w->call->reply(w->call, &a->record->base);
}

static enum ut_err put(struct srv_store_call *w, const char *action,
                       struct ut_error *e)
{
    const struct asked *a = w->result;
    const char *id = a->record->id;
    const struct srv_record r = {SRV_TABLE_JOB, id, &a->record->base};

    return srv_store_put(w->call->app->store, w->call->actor, action, id, &r, 1,
                         e);
}

static enum ut_err put_cancelled(struct srv_store_call *w, struct ut_error *e)
{
    return put(w, "job.cancel", e);
}

static enum ut_err put_paused(struct srv_store_call *w, struct ut_error *e)
{
    return put(w, "job.pause", e);
}

static enum ut_err put_resumed(struct srv_store_call *w, struct ut_error *e)
{
    return put(w, "job.resume", e);
}

static enum ut_err put_compared(struct srv_store_call *w, struct ut_error *e)
{
    return put(w, "job.compare", e);
}

void srv_handle_cancel_job(struct srv_call *c)
{
    ask(c, srv_jobs_cancel, put_cancelled, reply_changed);
}

void srv_handle_pause_job(struct srv_call *c)
{
    ask(c, srv_jobs_pause, put_paused, reply_changed);
}

void srv_handle_resume_job(struct srv_call *c)
{
    ask(c, srv_jobs_resume, put_resumed, reply_changed);
}

void srv_handle_compare_job(struct srv_call *c)
{
    ask(c, srv_jobs_compare, put_compared, reply_changed);
}

/* The store's thread, so that it comes after what was stored before. */
static enum ut_err delete_job(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__JobRef *r = (const void *)w->call->request;
    const struct srv_record gone = {SRV_TABLE_JOB, r->id, NULL};
    struct srv_app *app = w->call->app;
    enum ut_err rc = srv_store_put(app->store, w->call->actor, "job.delete",
                                   r->id, &gone, 1, e);

    if (!rc)
        srv_job_folder_remove(app->config->data, r->id);
    return rc;
}

static void reply_deleted(struct srv_store_call *w)
{
    settle(w->result);
    srv_store_call_reply_empty(w);
}

void srv_handle_delete_job(struct srv_call *c)
{
    ask(c, srv_jobs_remove, delete_job, reply_deleted);
}
