/* Models: the versions known, which one answers, change over, rollback. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/oip/inference.pb-c.h"
#include "server/app.h"
#include "server/calls/answer.h"
#include "server/calls/message.h"
#include "server/calls/store_call.h"
#include "server/inference/gate.h"
#include "server/methods/handlers.h"

#define MAX_UNMATCHABLE 1000
#define STATE(x) TSCAF__V1__MODEL_STATE__MODEL_STATE_##x

/* ---- the list ---- */

struct models {
    ProtobufCMessage **stored; /* owned */
    size_t n_stored;
    struct srv_generation *g; /* held: the one that answers */
    Tscaf__V1__ModelInfo active;
    Tscaf__V1__ModelRef ref;
    Tscaf__V1__ModelInfo **list; /* owned array: active first */
    size_t n;
};

static void free_models(void *result)
{
    struct models *m = result;

    srv_messages_free(m->stored, m->n_stored);
    srv_generation_drop(m->g);
    free(m->active.spec);
    free(m->list);
    free(m);
}

/* The one that answers, as its engine says, with what its record says more. */
static enum ut_err fill_active(struct models *m, struct ut_error *e)
{
    enum ut_err rc = srv_generation_info(m->g, &m->active, &m->ref, e);

    for (size_t i = 0; i < m->n_stored && !rc; i++) {
        const Tscaf__V1__ModelInfo *x = (const void *)m->stored[i];

        if (!x->model || strcmp(x->model->version, m->ref.version))
            continue;
        m->active.reason = x->reason;
        m->active.passed = x->passed;
        m->active.job_id = x->job_id;
        m->active.card = x->card;
        m->active.created_at = x->created_at;
    }
    return rc;
}

/* What the gate said stays first: a failed activation does not undo it. */
static bool add_reason(Tscaf__V1__ModelInfo *x, const char *news)
{
    char both[640];

    snprintf(both, sizeof(both), "%.320s%s%s", x->reason,
             *x->reason ? "; " : "", news);
    return srv_message_set(&x->reason, both);
}

/* How an activation of a version goes, or went, if it was the last. */
static enum ut_err add_activation(struct srv_app *app, Tscaf__V1__ModelInfo *x,
                                  struct ut_error *e)
{
    const char *version = x->model->version;
    char text[300];

    if (srv_change_over_state(app, version, text, sizeof(text)))
        x->state = STATE(ACTIVATING);
    else if (!srv_change_over_failed(app, version, text, sizeof(text)))
        return UT_OK;
    return add_reason(x, text)
               ? UT_OK
               : ut_fail(e, UT_ENOMEM, "no memory for a model's reason");
}

/* A verdict beside a model that answers no more is none: see gate.h. */
static enum ut_err age_verdict(Tscaf__V1__ModelInfo *x, const char *active,
                               struct ut_error *e)
{
    struct ut_error why;
    char text[100];

    if (!x->passed || !srv_gate_admits(x, active, &why))
        return UT_OK;
    x->passed = false;
    snprintf(text, sizeof(text),
             "model %.16s answers now, with which it was not compared", active);
    return add_reason(x, text)
               ? UT_OK
               : ut_fail(e, UT_ENOMEM, "no memory for a model's reason");
}

static enum ut_err read_models(struct srv_app *app, struct models *m,
                               struct ut_error *e)
{
    enum ut_err rc = srv_store_list(app->store, SRV_TABLE_MODEL,
                                    &tscaf__v1__model_info__descriptor,
                                    &m->stored, &m->n_stored, e);

    tscaf__v1__model_info__init(&m->active);
    m->active.spec = NULL;
    m->g = srv_generation_take(app);
    if (!rc)
        rc = fill_active(m, e);
    m->list = calloc(m->n_stored + 1, sizeof(Tscaf__V1__ModelInfo *));
    if (!rc && !m->list)
        rc = ut_fail(e, UT_ENOMEM, "no memory for models");
    if (rc)
        return rc;
    m->list[m->n++] = &m->active;
    for (size_t i = 0; i < m->n_stored && !rc; i++) {
        Tscaf__V1__ModelInfo *x = (Tscaf__V1__ModelInfo *)(void *)m->stored[i];

        if (!x->model || !strcmp(x->model->version, m->ref.version))
            continue;
        m->list[m->n++] = x;
        rc = age_verdict(x, m->ref.version, e);
        if (!rc)
            rc = add_activation(app, x, e);
    }
    return rc;
}

static enum ut_err list(struct srv_store_call *w, struct ut_error *e)
{
    struct models *m = calloc(1, sizeof(*m));

    if (!m)
        return ut_fail(e, UT_ENOMEM, "no memory for models");
    w->result = m;
    w->result_free = free_models;
    return read_models(w->call->app, m, e);
}

static void reply_list(struct srv_store_call *w)
{
    Tscaf__V1__ListModelsResponse r = TSCAF__V1__LIST_MODELS_RESPONSE__INIT;
    const struct models *m = w->result;

    r.n_models = m->n;
    r.models = m->list;
    w->call->reply(w->call, &r.base);
}

void srv_handle_list_models(struct srv_call *c)
{
    srv_store_call_start(c, list, reply_list);
}

/* The same for the Open Inference Protocol. */
static void reply_index(struct srv_store_call *w)
{
    typedef Inference__RepositoryIndexResponse__ModelIndex model_index;
    const Inference__RepositoryIndexRequest *q = (const void *)w->call->request;
    Inference__RepositoryIndexResponse r =
        INFERENCE__REPOSITORY_INDEX_RESPONSE__INIT;
    const struct models *m = w->result;
    model_index *entries = calloc(m->n, sizeof(*entries));
    model_index **pointers = calloc(m->n, sizeof(model_index *));
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for an index"};

    r.models = pointers;
    for (size_t i = 0; entries && pointers && i < m->n; i++) {
        const Tscaf__V1__ModelInfo *x = m->list[i];
        model_index *one = &entries[i];

        if (i && q->ready)
            break;
        inference__repository_index_response__model_index__init(one);
        one->name = x->model->name;
        one->version = x->model->version;
        one->state = !i                              ? "READY"
                     : x->state == STATE(ACTIVATING) ? "LOADING"
                                                     : "UNAVAILABLE";
        if (i)
            one->reason = *x->reason ? x->reason
                          : x->state == STATE(PREVIOUS)
                              ? "rollback returns to it"
                              : "it is not active";
        r.models[r.n_models++] = one;
    }
    if (entries && pointers)
        w->call->reply(w->call, &r.base);
    else
        srv_answer_fail(w->call, &e);
    free(entries);
    free(pointers);
}

void srv_handle_repository_index(struct srv_call *c)
{
    srv_store_call_start(c, list, reply_index);
}

/* ---- one ---- */

static void reply_version(struct srv_call *c, const struct models *m,
                          const char *version)
{
    struct ut_error e;

    for (size_t i = 0; i < m->n; i++)
        if (!strcmp(m->list[i]->model->version, version)) {
            c->reply(c, &m->list[i]->base);
            return;
        }
    ut_fail(&e, UT_ENOTFOUND, "there is no model \"%.64s\"", version);
    srv_answer_fail(c, &e);
}

static void reply_one(struct srv_store_call *w)
{
    const Tscaf__V1__ModelVersionRef *r = (const void *)w->call->request;

    reply_version(w->call, w->result, r->version);
}

void srv_handle_get_model(struct srv_call *c)
{
    srv_store_call_start(c, list, reply_one);
}

/* ---- activate, rollback ---- */

static void reply_asked(struct srv_store_call *w)
{
    const Tscaf__V1__ActivateModelRequest *r = (const void *)w->call->request;

    reply_version(w->call, w->result, r->version);
}

/* Nobody waits: GetModel tells how it went, and the log. */
static void on_activated(void *arg, const char *version,
                         const struct ut_error *e)
{
    (void)arg;
    (void)version;
    (void)e;
}

/* Checks what can be said at once, so that 202 is worth something. */
static void start_activation(struct srv_store_call *w)
{
    const Tscaf__V1__ActivateModelRequest *r = (const void *)w->call->request;
    const struct models *m = w->result;
    struct srv_call *c = w->call;
    struct ut_error e;

    for (size_t i = 0; i < m->n; i++) {
        const Tscaf__V1__ModelInfo *x = m->list[i];

        if (strcmp(x->model->version, r->version))
            continue;
        if (!r->force && srv_gate_admits(x, m->ref.version, &e)) {
            srv_answer_fail(c, &e);
        } else if (srv_change_over(c->app, c->actor, r->version, r->force,
                                   false, on_activated, NULL, &e)) {
            srv_answer_fail(c, &e);
        } else {
            c->deadline_us = INT64_MAX; /* it is under way: that is told */
            srv_store_call_start(c, list, reply_asked);
        }
        return;
    }
    reply_version(c, m, r->version);
}

void srv_handle_activate_model(struct srv_call *c)
{
    srv_store_call_start(c, list, start_activation);
}

static void reply_active(struct srv_store_call *w)
{
    const struct models *m = w->result;

    w->call->reply(w->call, &m->list[0]->base);
}

static void on_rolled_back(void *arg, const char *version,
                           const struct ut_error *e)
{
    struct srv_call *c = arg;

    (void)version;
    if (e->code) {
        srv_answer_fail(c, e);
        return;
    }
    c->deadline_us = INT64_MAX; /* it is done: that is told */
    srv_store_call_start(c, list, reply_active);
}

void srv_handle_rollback_model(struct srv_call *c)
{
    struct ut_error e;

    if (srv_change_over(c->app, c->actor, "", true, true, on_rolled_back, c,
                        &e))
        srv_answer_fail(c, &e);
}

/* ---- faces to enrol again, delete ---- */

struct faces {
    struct srv_face *list; /* owned */
    size_t n;
};

static void free_faces(void *result)
{
    struct faces *f = result;

    for (size_t i = 0; i < f->n; i++)
        srv_face_fini(&f->list[i]);
    free(f->list);
    free(f);
}

static enum ut_err list_unmatchable(struct srv_store_call *w,
                                    struct ut_error *e)
{
    const Tscaf__V1__ModelVersionRef *r = (const void *)w->call->request;
    struct faces *f = calloc(1, sizeof(*f));

    if (!f)
        return ut_fail(e, UT_ENOMEM, "no memory for a list");
    w->result = f;
    w->result_free = free_faces;
    return srv_store_unmatchable(w->call->app->store, r->version,
                                 MAX_UNMATCHABLE, &f->list, &f->n, e);
}

static void reply_unmatchable(struct srv_store_call *w)
{
    const struct faces *f = w->result;

    srv_answer_faces(w->call, f->list, f->n);
}

void srv_handle_list_reenrolment(struct srv_call *c)
{
    srv_store_call_start(c, list_unmatchable, reply_unmatchable);
}

/* On another server it may be active though it does not answer here. */
static bool in_use(const Tscaf__V1__ModelInfo *x)
{
    return x->state == STATE(ACTIVE) || x->state == STATE(PREVIOUS);
}

/* One that may go on opens the model it starts from at its end, too. */
static bool may_go_on(const Tscaf__V1__JobRecord *x)
{
    return x->state != TSCAF__V1__JOB_STATE__JOB_STATE_SUCCEEDED &&
           x->state != TSCAF__V1__JOB_STATE__JOB_STATE_CANCELLED;
}

static enum ut_err check_jobs(struct srv_store *store, const char *version,
                              struct ut_error *e)
{
    ProtobufCMessage **jobs;
    size_t n;
    enum ut_err rc = srv_store_list(
        store, SRV_TABLE_JOB, &tscaf__v1__job_record__descriptor, &jobs, &n, e);

    if (rc)
        return rc;
    for (size_t i = 0; i < n && !rc; i++) {
        const Tscaf__V1__JobRecord *x = (const void *)jobs[i];

        if (!strcmp(x->base_version, version) && may_go_on(x))
            rc = ut_fail(e, UT_ESTATE,
                         "model %.16s is the base of %.64s, which is %s",
                         version, x->id, srv_job_state_name(x->state));
    }
    srv_messages_free(jobs, n);
    return rc;
}

static enum ut_err delete_record(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__ModelVersionRef *r = (const void *)w->call->request;
    const struct srv_record gone = {SRV_TABLE_MODEL, r->version, NULL};
    struct srv_app *app = w->call->app;
    char text[80];
    struct models *m;
    enum ut_err rc = list(w, e);

    if (rc)
        return rc;
    m = w->result;
    for (size_t i = 0; i < m->n; i++)
        if (!strcmp(m->list[i]->model->version, r->version) &&
            (!i || in_use(m->list[i]) ||
             srv_change_over_state(app, r->version, text, sizeof(text))))
            return ut_fail(e, UT_ESTATE,
                           "model %s is in use, or is what rollback returns to",
                           r->version);
    rc = check_jobs(app->store, r->version, e);
    return rc ? rc
              : srv_store_put(app->store, w->call->actor, "model.delete",
                              r->version, &gone, 1, e);
}

/* Looked at and deleted as one change: no other server takes it into use, and
 * no job is made of it, in between. */
static enum ut_err delete_model(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__ModelVersionRef *r = (const void *)w->call->request;
    struct srv_app *app = w->call->app;
    char path[PATH_MAX];
    enum ut_err rc = srv_store_begin(app->store, e);

    if (rc)
        return rc;
    rc = srv_store_end(app->store, delete_record(w, e), e);
    if (rc)
        return rc;
    srv_model_path(app->config->data, r->version, path);
    unlink(path);
    return UT_OK;
}

void srv_handle_delete_model(struct srv_call *c)
{
    srv_store_call_start(c, delete_model, srv_store_call_reply_empty);
}
