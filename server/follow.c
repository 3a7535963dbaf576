/* Reading on in the log that other servers write to. */
#include "server/follow.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "server/app.h"
#include "server/auth.h"
#include "server/log.h"

#define TICK_MS 5000 /* a look without being told, and whether it lives */
#define RETRY_MS 500
#define LINES 500 /* read at once */

struct srv_follow {
    struct srv_app *app;

    /* The waiting thread's. */
    struct srv_store *store;
    pthread_t thread;
    int wake; /* eventfd */
    bool started;
    atomic_bool stopped, reading; /* reading: the store's thread was asked to */

    /* The store's thread's: the last line that was taken. */
    uint64_t seq;
    int64_t at_ms;
    char subject[64];
    char active[17]; /* "": no version was ever activated */
    bool anew;       /* all must be read again */
    bool keys;       /* they changed */

    /* The loop's. */
    struct ut_error down, failure; /* of the store, of taking up a model */

    /* From the others to the loop; under lock but for the letters. */
    pthread_mutex_t lock;
    struct ut_error news; /* what becomes of down */
    bool behind;          /* another model is active than answers here */
    bool telling;
    struct srv_mail told;
    bool asking; /* for a change of model */
    char version[17];
    bool asked_anew;
    struct srv_mail asked;
};

/* ---- telling the loop ---- */

static void on_told(struct srv_mail *m)
{
    struct srv_follow *f =
        (struct srv_follow *)(void *)((char *)m -
                                      offsetof(struct srv_follow, told));
    bool was = f->down.code, is;

    pthread_mutex_lock(&f->lock);
    f->telling = false;
    f->down = f->news;
    if (!f->behind)
        f->failure = (struct ut_error){0};
    pthread_mutex_unlock(&f->lock);
    is = f->down.code;
    if (is && !was)
        srv_log_line(f->app->log, SRV_LOG_ERROR, NULL, "%s", f->down.msg);
    if (was && !is)
        srv_log_line(f->app->log, SRV_LOG_INFO, NULL,
                     "the store is there again");
    srv_health_changed(f->app);
}

static void tell(struct srv_follow *f, const struct ut_error *e, bool behind)
{
    bool first;

    pthread_mutex_lock(&f->lock);
    f->news = *e;
    f->behind = behind;
    first = !f->telling;
    f->telling = true;
    pthread_mutex_unlock(&f->lock);
    if (first)
        srv_mailbox_post(f->app->mailbox, &f->told);
}

/* ---- keys ---- */

struct new_keys {
    struct srv_app *app;
    struct srv_key *list;
    size_t n;
    struct srv_mail mail;
};

static void on_keys(struct srv_mail *m)
{
    struct new_keys *k =
        (struct new_keys *)(void *)((char *)m -
                                    offsetof(struct new_keys, mail));
    struct ut_error e;

    if (srv_auth_replace(k->app->auth, k->list, k->n, &e))
        srv_log_line(k->app->log, SRV_LOG_ERROR, NULL, "API keys: %s", e.msg);
    for (size_t i = 0; i < k->n; i++)
        srv_key_fini(&k->list[i]);
    free(k->list);
    free(k);
}

static enum ut_err read_keys(struct srv_follow *f, struct ut_error *e)
{
    struct new_keys *k = calloc(1, sizeof(*k));
    enum ut_err rc;

    if (!k)
        return ut_fail(e, UT_ENOMEM, "no memory for the keys");
    k->app = f->app;
    k->mail.fn = on_keys;
    rc = srv_store_key_list(f->app->store, &k->list, &k->n, e);
    if (rc)
        free(k);
    else
        srv_mailbox_post(f->app->mailbox, &k->mail);
    f->keys = rc != UT_OK;
    return rc;
}

/* ---- the model ---- */

static const char *current(const struct srv_follow *f)
{
    return srv_generation_version(f->app->generations.current);
}

static bool is_behind(const struct srv_follow *f)
{
    return f->anew || (*f->active && strcmp(f->active, current(f)));
}

static void on_taken_up(void *arg, const char *version,
                        const struct ut_error *e)
{
    struct srv_follow *f = arg;
    bool news = e->code && strcmp(e->msg, f->failure.msg);

    (void)version;
    if (news)
        srv_log_line(f->app->log, SRV_LOG_ERROR, NULL,
                     "the active model cannot be used here: %s", e->msg);
    news = news || !e->code != !f->failure.code;
    f->failure = *e;
    if (news)
        srv_health_changed(f->app);
}

static void on_asked(struct srv_mail *m)
{
    struct srv_follow *f =
        (struct srv_follow *)(void *)((char *)m -
                                      offsetof(struct srv_follow, asked));
    struct ut_error e;

    if (!f->app->draining &&
        srv_change_over_follow(f->app, f->version, f->asked_anew, on_taken_up,
                               f, &e) &&
        e.code != UT_EBUSY) /* one is under way: later */
        on_taken_up(f, f->version, &e);
    pthread_mutex_lock(&f->lock);
    f->asking = false;
    pthread_mutex_unlock(&f->lock);
}

static void ask_for_model(struct srv_follow *f)
{
    bool first;

    pthread_mutex_lock(&f->lock);
    first = !f->asking;
    if (first) {
        f->asking = true;
        f->asked_anew = f->anew;
        snprintf(f->version, sizeof(f->version), "%s",
                 *f->active ? f->active : current(f));
    }
    pthread_mutex_unlock(&f->lock);
    if (first)
        srv_mailbox_post(f->app->mailbox, &f->asked);
}

/* ---- the log, on the store's thread ---- */

static void note(struct srv_follow *f, const struct srv_audit *line)
{
    f->seq = line->seq;
    f->at_ms = line->at_ms;
    snprintf(f->subject, sizeof(f->subject), "%s", line->subject);
}

static bool is_as_it_was(const struct srv_follow *f,
                         const struct srv_audit *line)
{
    return line->seq == f->seq && line->at_ms == f->at_ms &&
           !strncmp(line->subject, f->subject, sizeof(f->subject) - 1);
}

static enum ut_err rename_identity(struct srv_follow *f, const char *id,
                                   struct ut_error *e)
{
    struct srv_identity x;
    enum ut_err rc = srv_store_identity_get(f->app->store, id, &x, e);

    if (rc)
        return rc == UT_ENOTFOUND ? UT_OK : rc; /* deleted since */
    srv_generations_rename(f->app, id, x.name);
    srv_identity_fini(&x);
    return UT_OK;
}

/* The state that the store has now is what counts, so that a line that is taken
 * twice, or is our own, does no harm. */
static enum ut_err apply(struct srv_follow *f, const struct srv_audit *line,
                         struct ut_error *e)
{
    const char *what = line->action, *subject = line->subject;

    if (!strcmp(what, "face.enroll"))
        return srv_generations_add_face(f->app, subject, e);
    if (!strcmp(what, "identity.update"))
        return rename_identity(f, subject, e);
    if (!strcmp(what, "face.delete"))
        srv_generations_remove_face(f->app, subject);
    else if (!strcmp(what, "identity.delete"))
        srv_generations_remove_identity(f->app, subject);
    else if (!strncmp(what, "key.", 4))
        f->keys = true;
    else if (!strcmp(what, "model.activate"))
        snprintf(f->active, sizeof(f->active), "%s", subject);
    return UT_OK;
}

static void free_lines(struct srv_audit *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        srv_audit_fini(&list[i]);
    free(list);
}

enum ut_err srv_follow_mark(struct srv_follow *f, struct ut_error *e)
{
    struct srv_audit *line;
    size_t n;
    enum ut_err rc = srv_store_audit_list(f->app->store, 0, 1, &line, &n, e);

    if (!rc)
        rc = srv_model_active(f->app->store, f->active, e);
    if (!rc) {
        f->seq = 0;
        if (n)
            note(f, line);
    }
    free_lines(line, n);
    return rc;
}

void srv_follow_anew_done(struct srv_follow *f)
{
    f->anew = false;
}

/* The lines after ours are others' than those that we would have seen. */
static enum ut_err begin_anew(struct srv_follow *f, struct ut_error *e)
{
    srv_log_line(f->app->log, SRV_LOG_WARN, NULL,
                 "the store has lost what was written to it: line %llu of its "
                 "log is another; everything is read anew",
                 (unsigned long long)f->seq);
    f->anew = true;
    return srv_follow_mark(f, e);
}

static enum ut_err read_on(struct srv_follow *f, size_t *n, struct ut_error *e)
{
    struct srv_audit *list;
    size_t at = 0;
    enum ut_err rc =
        srv_store_audit_from(f->app->store, f->seq, LINES, &list, n, e);

    if (rc)
        return rc;
    if (f->seq && (!*n || !is_as_it_was(f, list))) {
        f->keys = true;
        free_lines(list, *n);
        *n = 0;
        return begin_anew(f, e);
    }
    for (at = f->seq != 0; at < *n && !rc; at++) {
        rc = apply(f, &list[at], e);
        if (!rc)
            note(f, &list[at]);
    }
    free_lines(list, *n);
    return rc;
}

enum ut_err srv_follow_now(struct srv_follow *f, struct ut_error *e)
{
    enum ut_err rc = UT_OK;
    size_t n = LINES;

    while (f && !rc && n == LINES)
        rc = read_on(f, &n, e);
    if (f && !rc && f->keys)
        rc = read_keys(f, e);
    if (f && !rc && is_behind(f))
        ask_for_model(f);
    return rc;
}

enum ut_err srv_follow_check(const struct srv_follow *f, struct ut_error *e)
{
    if (!f || !is_behind(f))
        return UT_OK;
    return ut_fail(
        e, UT_EBUSY,
        "model %s is active and being taken into use here: ask again",
        *f->active ? f->active : current(f));
}

static void read_run(void *arg, int worker)
{
    struct srv_follow *f = arg;
    struct ut_error e = {0};

    (void)worker;
    atomic_store(&f->reading, false); /* what is told from now on counts */
    e.code = srv_follow_now(f, &e);
    tell(f, &e, is_behind(f));
}

/* ---- waiting ---- */

static void *wait_run(void *arg)
{
    struct srv_follow *f = arg;

    while (!atomic_load(&f->stopped)) {
        struct ut_error e;

        if (srv_store_wait(f->store, f->wake, TICK_MS, &e)) {
            struct pollfd p = {.fd = f->wake, .events = POLLIN};

            tell(f, &e, true);
            poll(&p, 1, RETRY_MS);
        } else if (!atomic_load(&f->stopped) &&
                   !atomic_exchange(&f->reading, true) &&
                   srv_pool_push(f->app->store_pool, read_run, f, &e)) {
            atomic_store(&f->reading, false); /* at the next look */
        }
    }
    return NULL;
}

enum ut_err srv_follow_new(struct srv_app *app, struct srv_follow **out,
                           struct ut_error *e)
{
    struct srv_follow *f;
    enum ut_err rc;

    *out = NULL;
    if (!srv_store_shared(app->store))
        return UT_OK;
    f = calloc(1, sizeof(*f));
    if (!f)
        return ut_fail(e, UT_ENOMEM, "no memory to follow other servers");
    f->app = app;
    f->told.fn = on_told;
    f->asked.fn = on_asked;
    pthread_mutex_init(&f->lock, NULL);
    f->wake = eventfd(0, EFD_CLOEXEC);
    rc = f->wake < 0 ? ut_fail(e, UT_EIO, "eventfd: %m")
                     : srv_store_open(app->config->data, app->config->store,
                                      &f->store, e);
    if (!rc)
        rc = srv_follow_mark(f, e);
    if (rc)
        srv_follow_free(f);
    else
        *out = f;
    return rc;
}

enum ut_err srv_follow_start(struct srv_follow *f, struct ut_error *e)
{
    if (!f)
        return UT_OK;
    if (pthread_create(&f->thread, NULL, wait_run, f))
        return ut_fail(e, UT_ENOMEM, "no thread to follow other servers");
    pthread_setname_np(f->thread, "follow");
    f->started = true;
    return UT_OK;
}

void srv_follow_stop(struct srv_follow *f)
{
    if (!f || !f->started)
        return;
    atomic_store(&f->stopped, true);
    eventfd_write(f->wake, 1);
    pthread_join(f->thread, NULL);
    f->started = false;
}

void srv_follow_free(struct srv_follow *f)
{
    if (!f)
        return;
    srv_store_close(f->store);
    if (f->wake >= 0)
        close(f->wake);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

bool srv_follow_well(const struct srv_follow *f, struct ut_error *why)
{
    if (!f || (!f->down.code && !f->failure.code))
        return true;
    *why = f->down.code ? f->down : f->failure;
    return false;
}
