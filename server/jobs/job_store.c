/* Records and results of jobs, on their way into the store. */
#include "server/jobs/job_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "server/calls/message.h"
#include "server/inference/generations.h"
#include "server/jobs/job_folder.h"
#include "server/log.h"

/* ---- a record ---- */

struct saving {
    struct srv_app *app;
    Tscaf__V1__JobRecord *record; /* owned */
    srv_job_refused_fn refused;
    void *arg;
    bool failed;
    struct srv_mail mail;
};

static void on_saved(struct srv_mail *m)
{
    struct saving *s =
        (struct saving *)(void *)((char *)m - offsetof(struct saving, mail));

    if (s->failed)
        s->refused(s->arg, s->record->id);
    tscaf__v1__job_record__free_unpacked(s->record, NULL);
    free(s);
}

static void save_run(void *arg, int worker)
{
    struct saving *s = arg;
    struct srv_mailbox *mailbox = s->app->mailbox;
    const struct srv_record r = {SRV_TABLE_JOB, s->record->id,
                                 &s->record->base};
    struct ut_error e;

    (void)worker;
    s->failed = srv_store_put(s->app->store, NULL, NULL, NULL, &r, 1, &e);
    if (s->failed)
        srv_log_line(s->app->log, SRV_LOG_ERROR, NULL, "%s: %s", s->record->id,
                     e.msg);
    srv_mailbox_post(mailbox, &s->mail);
}

void srv_job_save(struct srv_app *app, const Tscaf__V1__JobRecord *x,
                  srv_job_refused_fn refused, void *arg)
{
    struct saving *s = calloc(1, sizeof(*s));
    struct ut_error e = {.msg = "no memory"};

    if (s) {
        s->app = app;
        s->refused = refused;
        s->arg = arg;
        s->mail.fn = on_saved;
        s->record = (Tscaf__V1__JobRecord *)srv_message_copy(&x->base);
        if (s->record && !srv_pool_push(app->store_pool, save_run, s, &e))
            return;
        if (s->record)
            tscaf__v1__job_record__free_unpacked(s->record, NULL);
        free(s);
    }
    srv_log_line(app->log, SRV_LOG_ERROR, NULL, "%s is not stored: %s", x->id,
                 e.msg);
    refused(arg, x->id);
}

/* ---- a result ---- */

struct storing {
    struct srv_app *app;
    Tscaf__V1__JobResult *result; /* owned */
    Tscaf__V1__JobRecord *record; /* owned; as it will be */
    bool again;                   /* its model is there: it was compared anew */
    srv_job_stored_fn done;
    void *arg;
    struct ut_error e;
    struct srv_mail mail;
};

static void free_storing(struct storing *s)
{
    if (s->result)
        tscaf__v1__job_result__free_unpacked(s->result, NULL);
    if (s->record)
        tscaf__v1__job_record__free_unpacked(s->record, NULL);
    free(s);
}

static void on_stored(struct srv_mail *m)
{
    struct storing *s =
        (struct storing *)(void *)((char *)m - offsetof(struct storing, mail));
    Tscaf__V1__JobRecord *x = NULL;

    if (!s->e.code) {
        x = s->record;
        s->record = NULL;
    }
    s->done(s->arg, x, &s->e);
    free_storing(s);
}

static enum ut_err put(struct storing *s, const char *action,
                       Tscaf__V1__ModelInfo *m)
{
    const char *version = s->record->model_version;
    const struct srv_record list[] = {
        {SRV_TABLE_MODEL, version, &m->base},
        {SRV_TABLE_JOB, s->record->id, &s->record->base},
    };

    return srv_store_put(s->app->store, "job", action, version, list, 2, &s->e);
}

static void swap(char **a, char **b)
{
    char *was = *a;

    *a = *b;
    *b = was;
}

/* Of a model that is there already only the verdict changes: it may be in use
 * by now, or come into use meanwhile, by another server too. Beside itself it
 * has none. */
static enum ut_err change_verdict(struct storing *s)
{
    const char *version = s->record->model_version;
    Tscaf__V1__ModelInfo *news = s->result->model, *m;
    ProtobufCMessage *stored;
    enum ut_err rc =
        srv_store_get(s->app->store, SRV_TABLE_MODEL, version,
                      &tscaf__v1__model_info__descriptor, &stored, &s->e);

    if (rc)
        return rc;
    m = (Tscaf__V1__ModelInfo *)stored;
    if (strcmp(news->compared_with, version)) {
        m->passed = news->passed;
        swap(&m->reason, &news->reason);
        swap(&m->compared_with, &news->compared_with);
        swap(&m->card, &news->card);
    }
    rc = put(s, "model.compare", m);
    tscaf__v1__model_info__free_unpacked(m, NULL);
    return rc;
}

/* The same data and settings make the same model, bit for bit: what another job
 * has made is no new one. */
static enum ut_err put_both(struct storing *s)
{
    struct srv_store *store = s->app->store;
    enum ut_err rc = srv_store_begin(store, &s->e);

    if (rc)
        return rc;
    rc = change_verdict(s);
    if (rc == UT_ENOTFOUND && !s->again)
        rc = put(s, "model.create", s->result->model);
    return srv_store_end(store, rc, &s->e);
}

/* The file into the repository, then the two records together. Done again
 * after a crash or an error in between, it comes to the same. */
static enum ut_err store_new(struct storing *s, const char *from)
{
    char to[PATH_MAX];

    srv_model_path(s->app->config->data, s->record->model_version, to);
    /* DATA/models may be a volume that several servers share. */
    if (ut_file_move(from, to, &s->e) && access(to, F_OK))
        return access(from, F_OK)
                   ? ut_fail(&s->e, UT_ENOTFOUND, "%.150s: is gone", from)
                   : s->e.code;
    return put_both(s);
}

static enum ut_err store_verdict(struct storing *s, const char *from)
{
    enum ut_err rc = put_both(s);

    if (!rc)
        unlink(from); /* the link that its process had */
    return rc;
}

/* The store's thread. */
static void store_run(void *arg, int worker)
{
    struct storing *s = arg;
    struct srv_mailbox *mailbox = s->app->mailbox;
    char from[PATH_MAX];

    (void)worker;
    srv_job_path(s->app->config->data, s->record->id, "model.safetensors",
                 from);
    s->e.code = (s->again ? store_verdict : store_new)(s, from);
    srv_mailbox_post(mailbox, &s->mail);
}

/* The record with the result's figures, which it takes over. */
static bool fill(struct storing *s, const Tscaf__V1__JobRecord *x)
{
    Tscaf__V1__ModelInfo *m;

    s->result = (Tscaf__V1__JobResult *)srv_job_read(
        s->app->config->data, x->id, "result.json",
        &tscaf__v1__job_result__descriptor);
    s->record = (Tscaf__V1__JobRecord *)srv_message_copy(&x->base);
    m = s->result ? s->result->model : NULL;
    if (!s->record || !m || !m->model)
        return false;
    s->again = *x->model_version;
    s->record->state = TSCAF__V1__JOB_STATE__JOB_STATE_SUCCEEDED;
    for (size_t i = 0; i < s->record->n_figures; i++)
        tscaf__v1__job_figures__free_unpacked(s->record->figures[i], NULL);
    free(s->record->figures);
    s->record->n_figures = s->result->n_figures;
    s->record->figures = s->result->figures;
    s->result->n_figures = 0;
    s->result->figures = NULL;
    return srv_message_set(&s->record->reason, m->reason) &&
           srv_message_set(&s->record->model_version, m->model->version) &&
           srv_message_set_now(&s->record->ended_at) &&
           srv_message_set_now(&m->created_at);
}

enum ut_err srv_job_store_result(struct srv_app *app,
                                 const Tscaf__V1__JobRecord *x,
                                 srv_job_stored_fn done, void *arg,
                                 struct ut_error *e)
{
    struct storing *s = calloc(1, sizeof(*s));
    enum ut_err rc;

    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for a result");
    s->app = app;
    s->done = done;
    s->arg = arg;
    s->mail.fn = on_stored;
    rc = fill(s, x) ? srv_pool_push(app->store_pool, store_run, s, e)
                    : ut_fail(e, UT_EFORMAT, "its result cannot be read");
    if (rc)
        free_storing(s);
    return rc;
}
