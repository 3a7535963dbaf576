/* From one version of the model to another, under load.
 *
 *   models' thread   opens the version, embeds what has a crop and no
 *                    embedding by it, a few faces at a time, in the background
 *   store's thread   once nothing is missing: fills its gallery, writes which
 *                    version is active in one transaction, exchanges the two
 *   loop             tells whoever asked
 *
 * Enrolments are changes on the store's thread too, so that none falls between;
 * one that was computed by the old model when its turn comes is computed again
 * (handle_faces.c). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/app.h"
#include "server/inference/gate.h"
#include "server/inference/generations.h"
#include "server/inference/reembed.h"

#define STATE(x) TSCAF__V1__MODEL_STATE__MODEL_STATE_##x

struct change {
    struct srv_app *app;
    char version[17], actor[32];
    bool force, rollback;
    bool follow, anew; /* what another server changed over to */
    srv_change_over_fn done;
    void *arg;
    struct srv_store *store;     /* the models' thread's own */
    struct srv_generation *next; /* held */
    struct srv_generation *gone; /* was the previous one */
    struct srv_reembed *embed;   /* NULL: nothing is to be embedded */
    bool again;                  /* more faces came meanwhile */
    struct ut_error e;
    uv_sem_t stored;
    struct srv_mail mail;
};

/* ---- the change, on the store's thread ---- */

/* A link to the file of --model, by which its version can be found again. */
static enum ut_err link_initial(const struct change *c, const char *version,
                                struct ut_error *e)
{
    const struct srv_config *config = c->app->config;
    char link[PATH_MAX], *target;
    enum ut_err rc = UT_OK;

    if (!config->model || strcmp(version, c->app->generations.initial))
        return UT_OK;
    srv_model_path(config->data, version, link);
    target = realpath(config->model, NULL);
    if (!target || (symlink(target, link) && errno != EEXIST))
        rc = ut_fail(e, UT_EIO, "%.150s: %s", link, strerror(errno));
    free(target);
    return rc;
}

/* The records as they are after the change; n of put are filled. */
static void set_states(const struct change *c, const char *current,
                       ProtobufCMessage **list, size_t n,
                       struct srv_record *put)
{
    for (size_t i = 0; i < n; i++) {
        Tscaf__V1__ModelInfo *m = (Tscaf__V1__ModelInfo *)(void *)list[i];
        const char *version = m->model ? m->model->version : "";

        if (!strcmp(version, c->version))
            m->state = STATE(ACTIVE);
        else if (!strcmp(version, current))
            m->state = STATE(PREVIOUS);
        else if (m->state == STATE(PREVIOUS) || m->state == STATE(ACTIVE))
            m->state = STATE(CANDIDATE);
        put[i] = (struct srv_record){SRV_TABLE_MODEL, version, list[i]};
    }
}

/* The record of the one in use, if the repository has none yet. */
static enum ut_err keep_current(struct change *c, struct srv_generation *g,
                                Tscaf__V1__ModelInfo *info,
                                Tscaf__V1__ModelRef *ref, struct ut_error *e)
{
    enum ut_err rc = srv_generation_info(g, info, ref, e);

    return rc ? rc : link_initial(c, ref->version, e);
}

static enum ut_err store_change(struct change *c, struct srv_generation *old,
                                struct ut_error *e)
{
    const char *current = srv_generation_version(old);
    Tscaf__V1__ModelInfo info = TSCAF__V1__MODEL_INFO__INIT;
    Tscaf__V1__ModelRef ref;
    ProtobufCMessage **list;
    struct srv_record *put;
    char created[SRV_LOG_TIME_LEN];
    bool known = false, there = false;
    size_t n;
    enum ut_err rc =
        srv_store_list(c->app->store, SRV_TABLE_MODEL,
                       &tscaf__v1__model_info__descriptor, &list, &n, e);

    if (rc)
        return rc;
    put = calloc(n + 1, sizeof(*put));
    if (!put) {
        srv_messages_free(list, n);
        return ut_fail(e, UT_ENOMEM, "no memory for models");
    }
    set_states(c, current, list, n, put);
    for (size_t i = 0; i < n; i++) {
        known = known || !strcmp(put[i].id, current);
        there = there || !strcmp(put[i].id, c->version);
    }
    info.spec = NULL;
    if (!there) { /* by another server */
        rc = ut_fail(e, UT_ENOTFOUND, "model %s was deleted", c->version);
    } else if (!known) {
        rc = keep_current(c, old, &info, &ref, e);
        srv_log_time(ut_clock_unix_ms(), created);
        info.created_at = created;
        info.state = STATE(PREVIOUS);
        put[n] = (struct srv_record){SRV_TABLE_MODEL, current, &info.base};
    }
    if (!rc)
        rc = srv_store_change_over(c->app->store, c->actor, c->version, current,
                                   put, (int)n + !known, e);
    free(info.spec);
    free(put);
    srv_messages_free(list, n);
    return rc;
}

/* Whether a face has come that is not embedded yet. */
static enum ut_err look_for_more(struct change *c, struct ut_error *e)
{
    struct srv_crop one;
    int n;
    enum ut_err rc;

    if (!c->embed) /* no face ever will be */
        return UT_OK;
    rc = srv_store_crops(c->app->store, c->version, srv_reembed_after(c->embed),
                         1, &one, &n, e);
    if (!rc && n)
        free(one.png);
    c->again = !rc && n;
    return rc;
}

/* From now on what is changed is changed in it too; NULL: no more. */
static void announce(struct srv_generations *all, struct srv_generation *next)
{
    pthread_mutex_lock(&all->next_lock);
    all->next = next;
    pthread_mutex_unlock(&all->next_lock);
}

static void exchange(struct change *c, struct srv_generation *old)
{
    struct srv_generations *all = &c->app->generations;

    /* Where a device has no room for both galleries, the old one goes first. */
    if (!srv_gallery_settle(c->next->gallery)) {
        srv_gallery_park(old->gallery);
        srv_gallery_settle(c->next->gallery);
    }
    announce(all, NULL);
    pthread_mutex_lock(&all->lock);
    if (!all->previous) /* else it is the next, and held already */
        __atomic_add_fetch(&c->next->refs, 1, __ATOMIC_RELAXED);
    all->current = c->next;
    /* Read anew: its gallery is no longer what the store says. */
    all->previous = c->anew ? NULL : old;
    pthread_mutex_unlock(&all->lock);
    if (c->anew)
        srv_generation_drop(old);
}

static enum ut_err prepare(struct change *c, struct ut_error *e)
{
    enum ut_err rc;

    announce(&c->app->generations, c->next);
    rc = srv_generation_fill(c->next, e);
    if (!rc && !c->next->batcher)
        rc = srv_generation_execute(c->next, e);
    return rc;
}

/* The change was made by another server: here it only comes into use. */
static enum ut_err follow_now(struct change *c, struct ut_error *e)
{
    struct srv_generation *old = c->app->generations.current;
    enum ut_err rc = c->anew ? srv_follow_mark(c->app->follow, e) : UT_OK;

    if (!rc)
        rc = prepare(c, e);
    if (!rc)
        rc = link_initial(c, srv_generation_version(old), e);
    if (rc || c->next == old)
        return rc;
    exchange(c, old);
    if (c->anew)
        srv_follow_anew_done(c->app->follow);
    return UT_OK;
}

static enum ut_err change_now(struct change *c, struct ut_error *e)
{
    struct srv_store *store = c->app->store;
    struct srv_generation *old = c->app->generations.current;
    enum ut_err rc = look_for_more(c, e);

    if (rc || c->again)
        return rc;
    rc = prepare(c, e);
    if (rc || c->next == old)
        return rc;
    /* What others write meanwhile comes before or after, not between. */
    rc = srv_store_begin(store, e);
    if (rc)
        return rc;
    rc = srv_follow_now(c->app->follow, e);
    if (!rc)
        rc = srv_follow_check(c->app->follow, e);
    if (!rc)
        rc = look_for_more(c, e);
    if (!rc && !c->again)
        rc = store_change(c, old, e);
    rc = srv_store_end(store, rc, e);
    if (!rc && !c->again)
        exchange(c, old);
    return rc;
}

static void change_run(void *arg, int worker)
{
    struct change *c = arg;

    (void)worker;
    c->e.code = c->follow ? follow_now(c, &c->e) : change_now(c, &c->e);
    uv_sem_post(&c->stored);
}

/* Only here, since galleries are changed here. */
static void part_run(void *arg, int worker)
{
    struct change *c = arg;
    struct srv_generations *all = &c->app->generations;

    (void)worker;
    pthread_mutex_lock(&all->lock);
    c->gone = all->previous;
    all->previous = NULL;
    pthread_mutex_unlock(&all->lock);
    uv_sem_post(&c->stored);
}

/* ---- the models' thread ---- */

/* There is memory for two, and the previous one is not the next. */
static enum ut_err make_room(struct change *c, struct ut_error *e)
{
    enum ut_err rc = srv_pool_push(c->app->store_pool, part_run, c, e);

    if (rc)
        return rc;
    uv_sem_wait(&c->stored);
    srv_generation_drop_now(c->gone);
    return UT_OK;
}

/* The version that rollback means, and whether the asked one may be used. */
static enum ut_err choose(struct change *c, struct ut_error *e)
{
    const struct srv_generation *current = c->app->generations.current;
    ProtobufCMessage **list;
    bool found = false;
    size_t n;
    enum ut_err rc =
        srv_store_list(c->store, SRV_TABLE_MODEL,
                       &tscaf__v1__model_info__descriptor, &list, &n, e);

    if (rc)
        return rc;
    for (size_t i = 0; i < n; i++) {
        const Tscaf__V1__ModelInfo *m = (const void *)list[i];

        if (!m->model)
            continue;
        if (c->rollback ? m->state == STATE(PREVIOUS)
                        : !strcmp(m->model->version, c->version)) {
            snprintf(c->version, sizeof(c->version), "%s", m->model->version);
            found = true;
            if (!c->force)
                rc = srv_gate_admits(m, srv_generation_version(current), e);
        }
    }
    srv_messages_free(list, n);
    if (rc || found)
        return rc;
    if (c->rollback)
        return ut_fail(e, UT_ESTATE, "there is no model to roll back to");
    return !strcmp(c->version, srv_generation_version(current))
               ? UT_OK
               : ut_fail(e, UT_ENOTFOUND, "there is no model \"%.17s\"",
                         c->version);
}

/* The generation of the version, held: one that is open, or a new one. */
static enum ut_err open_next(struct change *c, struct ut_error *e)
{
    struct srv_generations *all = &c->app->generations;
    struct srv_generation *open[2];
    char path[PATH_MAX];
    const char *file;
    enum ut_err rc;

    pthread_mutex_lock(&all->lock);
    open[0] = all->current;
    open[1] = all->previous;
    for (int i = 0; i < 2; i++)
        if (open[i] && !c->anew &&
            !strcmp(srv_generation_version(open[i]), c->version))
            c->next = open[i];
    if (c->next)
        __atomic_add_fetch(&c->next->refs, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&all->lock);
    if (c->next)
        return UT_OK;
    rc = srv_model_find(c->app, c->version, path, &file, e);
    if (!rc && open[1])
        rc = make_room(c, e);
    if (!rc)
        rc = srv_generation_new(c->app, file, &c->next, e);
    if (!rc && strcmp(srv_generation_version(c->next), c->version))
        rc = ut_fail(e, UT_EFORMAT, "%.150s: is model %s, not %s", path,
                     srv_generation_version(c->next), c->version);
    return rc;
}

static enum ut_err count_missing(struct change *c, struct ut_error *e)
{
    struct srv_generations *all = &c->app->generations;
    int64_t total = SRV_NOT_COUNTED;
    enum ut_err rc = srv_store_crops_count(c->store, c->version, &total, e);

    pthread_mutex_lock(&all->lock);
    snprintf(all->version, sizeof(all->version), "%s", c->version);
    all->total = total;
    pthread_mutex_unlock(&all->lock);
    return rc;
}

static enum ut_err work(struct change *c, struct ut_error *e)
{
    enum ut_err rc = c->follow ? UT_OK : choose(c, e);

    if (!rc)
        rc = count_missing(c, e);
    if (!rc)
        rc = open_next(c, e);
    if (!rc && !c->follow &&
        srv_engine_tasks(c->next->engine) & SRV_TASK_RECOGNITION)
        rc = srv_reembed_new(c->next, c->store, &c->embed, e);
    if (rc)
        return rc;
    do {
        c->again = false;
        if (c->embed)
            rc = srv_reembed_missing(c->embed, e);
        if (!rc)
            rc = srv_pool_push(c->app->store_pool, change_run, c, e);
        if (rc)
            return rc;
        uv_sem_wait(&c->stored);
        *e = c->e;
        rc = c->e.code;
    } while (!rc && c->again);
    return rc;
}

static void on_done(struct srv_mail *m)
{
    struct change *c =
        (struct change *)(void *)((char *)m - offsetof(struct change, mail));

    if (c->e.code && !c->follow) /* who follows tells it once */
        srv_log_line(c->app->log, SRV_LOG_ERROR, NULL, "change over to %s: %s",
                     c->version, c->e.msg);
    if (!c->e.code)
        srv_log_line(c->app->log, SRV_LOG_INFO, NULL,
                     "changed over to model %s", c->version);
    c->done(c->arg, c->version, &c->e);
    uv_sem_destroy(&c->stored);
    free(c);
}

static void run(void *arg, int worker)
{
    struct change *c = arg;
    struct srv_generations *all = &c->app->generations;
    struct srv_mailbox *mailbox = c->app->mailbox;
    struct ut_error e;

    (void)worker;
    e.code = srv_store_open(c->app->config->data, c->app->config->store,
                            &c->store, &e);
    if (!e.code)
        e.code = work(c, &e);
    srv_reembed_free(c->embed);
    srv_store_close(c->store);
    announce(all, NULL);
    srv_generation_drop(c->next);
    c->e = e;
    pthread_mutex_lock(&all->lock);
    all->changing = false;
    all->failure = e;
    pthread_mutex_unlock(&all->lock);
    srv_mailbox_post(mailbox, &c->mail);
}

/* ---- the loop ---- */

/* Takes c, which has what it is to do. */
static enum ut_err start(struct srv_app *app, struct change *c,
                         const char *version, struct ut_error *e)
{
    struct srv_generations *all = &app->generations;
    bool busy;
    enum ut_err rc;

    c->app = app;
    snprintf(c->version, sizeof(c->version), "%s", version);
    c->mail.fn = on_done;
    uv_sem_init(&c->stored, 0);
    pthread_mutex_lock(&all->lock);
    busy = all->changing;
    if (!busy) {
        all->changing = true;
        snprintf(all->version, sizeof(all->version), "%s", version);
        all->done = 0;
        all->total = SRV_NOT_COUNTED;
    }
    pthread_mutex_unlock(&all->lock);
    rc = busy ? ut_fail(e, UT_EBUSY, "a change over to model %s is under way",
                        all->version)
              : srv_pool_push(app->model_pool, run, c, e);
    if (rc) {
        if (!busy) {
            pthread_mutex_lock(&all->lock);
            all->changing = false;
            pthread_mutex_unlock(&all->lock);
        }
        uv_sem_destroy(&c->stored);
        free(c);
    }
    return rc;
}

enum ut_err srv_change_over(struct srv_app *app, const char *actor,
                            const char *version, bool force, bool rollback,
                            srv_change_over_fn done, void *arg,
                            struct ut_error *e)
{
    struct change *c = calloc(1, sizeof(*c));

    if (!c)
        return ut_fail(e, UT_ENOMEM, "no memory for a change over");
    snprintf(c->actor, sizeof(c->actor), "%s", actor);
    c->force = force;
    c->rollback = rollback;
    c->done = done;
    c->arg = arg;
    return start(app, c, version, e);
}

enum ut_err srv_change_over_follow(struct srv_app *app, const char *version,
                                   bool anew, srv_change_over_fn done,
                                   void *arg, struct ut_error *e)
{
    struct change *c = calloc(1, sizeof(*c));

    if (!c)
        return ut_fail(e, UT_ENOMEM, "no memory for a change over");
    c->follow = true;
    c->anew = anew;
    c->done = done;
    c->arg = arg;
    return start(app, c, version, e);
}

bool srv_change_over_state(struct srv_app *app, const char *version, char *text,
                           size_t size)
{
    struct srv_generations *all = &app->generations;
    bool is;

    pthread_mutex_lock(&all->lock);
    is = all->changing && !strcmp(all->version, version);
    if (is && all->total == SRV_NOT_COUNTED)
        snprintf(text, size, "the faces to embed are being counted");
    else if (is)
        snprintf(text, size, "%lld of %lld faces are embedded",
                 (long long)all->done, (long long)all->total);
    pthread_mutex_unlock(&all->lock);
    return is;
}

bool srv_change_over_failed(struct srv_app *app, const char *version,
                            char *text, size_t size)
{
    struct srv_generations *all = &app->generations;
    bool is;

    pthread_mutex_lock(&all->lock);
    is = !all->changing && all->failure.code && !strcmp(all->version, version);
    if (is)
        snprintf(text, size, "its activation failed: %s", all->failure.msg);
    pthread_mutex_unlock(&all->lock);
    return is;
}
