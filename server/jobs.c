/* The queue of jobs and the processes that work on it. */
#include "server/jobs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/json.h"
#include "base/clock.h"
#include "server/answer.h"
#include "server/app.h"
#include "server/generations.h"

#define LOOK_MS 250           /* between two looks at what processes say */
#define PATIENCE_US 60000000  /* from SIGTERM to SIGKILL */
#define HEARTBEAT_US 15000000 /* of a stream without news */
#define MAX_FILE (1 << 20)

#define STATE(x) TSCAF__V1__JOB_STATE__JOB_STATE_##x

struct watcher {
    struct watcher *next;
    struct job *job;
    struct srv_call *call;
    int64_t sent_us;
};

struct job {
    struct srv_jobs *jobs;
    Tscaf__V1__JobRecord *record; /* owned */
    bool alive;                   /* its process is */
    bool ours;                    /* a child of this server: it tells its end */
    bool finishing;               /* its result is being stored */
    pid_t pid;
    uv_process_t process;
    int status, signum;   /* of its end */
    int refs;             /* the list's, the process handle's, the store's */
    int64_t kill_us;      /* when SIGKILL is due; 0: not */
    struct timespec told; /* of progress.json, as it was read last */
    struct watcher *watchers;
};

struct srv_jobs {
    struct srv_app *app;
    struct job **list;              /* owned, oldest first */
    Tscaf__V1__JobRecord **records; /* of list, the same order */
    size_t n;
    uv_timer_t timer;
    bool stopped;
};

const char *srv_job_state_name(Tscaf__V1__JobState state)
{
    static const char *const names[] = {"unspecified", "queued",    "running",
                                        "paused",      "succeeded", "failed",
                                        "cancelled"};

    return names[state];
}

static bool has_ended(const Tscaf__V1__JobRecord *r)
{
    return r->state >= STATE(SUCCEEDED);
}

static void unref(struct job *x)
{
    if (--x->refs)
        return;
    tscaf__v1__job_record__free_unpacked(x->record, NULL);
    free(x);
}

/* ---- records ---- */

static void set_text(char **field, const char *text)
{
    char *copy = strdup(text);

    if (!copy)
        return; /* the old text is no harm */
    if (*field != protobuf_c_empty_string)
        free(*field);
    *field = copy;
}

static void set_time(char **field)
{
    char text[SRV_LOG_TIME_LEN];

    srv_log_time(ut_clock_unix_ms(), text);
    set_text(field, text);
}

static ProtobufCMessage *copy_of(const ProtobufCMessage *m)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = malloc(len + 1);
    ProtobufCMessage *copy = NULL;

    if (bytes) {
        protobuf_c_message_pack(m, bytes);
        copy = protobuf_c_message_unpack(m->descriptor, NULL, len, bytes);
        free(bytes);
    }
    return copy;
}

struct saving {
    struct srv_app *app;
    Tscaf__V1__JobRecord *record; /* owned */
};

static void save_run(void *arg, int worker)
{
    struct saving *s = arg;
    const struct srv_record r = {SRV_TABLE_JOB, s->record->id,
                                 &s->record->base};
    struct ut_error e;

    (void)worker;
    if (srv_store_put(s->app->store, NULL, NULL, NULL, &r, 1, &e))
        srv_log_line(s->app->log, SRV_LOG_ERROR, NULL, "%s: %s", s->record->id,
                     e.msg);
    tscaf__v1__job_record__free_unpacked(s->record, NULL);
    free(s);
}

/* In the background: what is lost in a crash is found out again from the
 * job's files. */
static void save(struct job *x)
{
    struct srv_app *app = x->jobs->app;
    struct saving *s = calloc(1, sizeof(*s));
    struct ut_error e = {.msg = "no memory"};

    if (s) {
        s->app = app;
        s->record = (Tscaf__V1__JobRecord *)copy_of(&x->record->base);
        if (s->record && !srv_pool_push(app->store_pool, save_run, s, &e))
            return;
        if (s->record)
            tscaf__v1__job_record__free_unpacked(s->record, NULL);
        free(s);
    }
    srv_log_line(app->log, SRV_LOG_ERROR, NULL, "%s is not stored: %s",
                 x->record->id, e.msg);
}

/* ---- streams ---- */

static void on_left(struct srv_call *c)
{
    struct watcher *w = c->user, **p = &w->job->watchers;

    while (*p != w)
        p = &(*p)->next;
    *p = w->next;
    free(w);
}

/* Ends the streams of a job that has ended or is forgotten. */
static void end_streams(struct job *x)
{
    while (x->watchers) {
        struct watcher *w = x->watchers;

        x->watchers = w->next;
        w->call->end(w->call);
        free(w);
    }
}

/* A client that reads too slowly misses what is in between: the next message
 * says all again. */
static void tell(struct job *x)
{
    for (struct watcher *w = x->watchers; w; w = w->next) {
        w->call->send(w->call, &x->record->base);
        w->sent_us = ut_clock_us();
    }
    if (has_ended(x->record))
        end_streams(x);
}

static void change(struct job *x, Tscaf__V1__JobState state, const char *reason)
{
    srv_log_line(x->jobs->app->log, SRV_LOG_INFO, NULL, "%s: %s%s%s",
                 x->record->id, srv_job_state_name(state), *reason ? ": " : "",
                 reason);
    x->record->state = state;
    set_text(&x->record->reason, reason);
    if (has_ended(x->record))
        set_time(&x->record->ended_at);
    save(x);
    tell(x);
}

void srv_jobs_watch(struct srv_jobs *j, const char *id, struct srv_call *c)
{
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a stream"};
    struct job *x = NULL;
    struct watcher *w;
    int n = 0;

    for (size_t i = 0; i < j->n; i++)
        if (!strcmp(j->records[i]->id, id))
            x = j->list[i];
    if (!x) {
        ut_fail(&e, UT_ENOTFOUND, "there is no job \"%.64s\"", id);
        srv_answer_fail(c, &e);
        return;
    }
    for (w = x->watchers; w; w = w->next)
        n++;
    if (n >= SRV_JOBS_MAX_WATCHERS) {
        ut_fail(&e, UT_EBUSY, "%d streams of %s are open, the limit", n, id);
        srv_answer_fail(c, &e);
        return;
    }
    w = calloc(1, sizeof(*w));
    if (!w) {
        srv_answer_fail(c, &e);
        return;
    }
    w->job = x;
    w->call = c;
    w->sent_us = ut_clock_us();
    c->user = w;
    c->left = on_left;
    w->next = x->watchers;
    x->watchers = w;
    if (!c->send(c, &x->record->base) || has_ended(x->record)) {
        x->watchers = w->next;
        free(w);
        c->end(c);
    }
}

void srv_jobs_drain(struct srv_jobs *j)
{
    for (size_t i = 0; j && i < j->n; i++)
        end_streams(j->list[i]);
}

/* ---- files of a job ---- */

static void path_of(const struct job *x, const char *name, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s/jobs/%s/%s", x->jobs->app->config->data,
             x->record->id, name);
}

static bool has_file(const struct job *x, const char *name)
{
    char path[PATH_MAX];

    path_of(x, name, path);
    return !access(path, F_OK);
}

/* A message from a file, or NULL. */
static ProtobufCMessage *read_message(const struct job *x, const char *name,
                                      const ProtobufCMessageDescriptor *d)
{
    char path[PATH_MAX];
    ProtobufCMessage *m = NULL;
    struct api_error err;
    struct ut_error e;
    struct ut_buf b;

    path_of(x, name, path);
    ut_buf_init(&b, MAX_FILE);
    if (ut_buf_add_file(&b, path, &e) ||
        api_json_read(d, b.data, b.len, &m, &err))
        m = NULL;
    ut_buf_fini(&b);
    return m;
}

/* The process that holds the job's lock; 0: none. */
static pid_t holder(const struct job *x)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char path[PATH_MAX];
    int fd;

    path_of(x, "lock", path);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return 0;
    if (fcntl(fd, F_GETLK, &l) || l.l_type == F_UNLCK)
        l.l_pid = 0;
    close(fd);
    return l.l_pid;
}

static void look_at_progress(struct job *x)
{
    char path[PATH_MAX];
    struct stat st;
    ProtobufCMessage *m;

    path_of(x, "progress.json", path);
    if (stat(path, &st) || (st.st_mtim.tv_sec == x->told.tv_sec &&
                            st.st_mtim.tv_nsec == x->told.tv_nsec))
        return;
    x->told = st.st_mtim;
    m = read_message(x, "progress.json", &tscaf__v1__job_progress__descriptor);
    if (!m)
        return;
    if (x->record->progress)
        tscaf__v1__job_progress__free_unpacked(x->record->progress, NULL);
    x->record->progress = (Tscaf__V1__JobProgress *)m;
    if (!has_ended(x->record))
        tell(x);
}

/* ---- the end of a process ---- */

static void pump(struct srv_jobs *j);

/* A good result on its way into the store. */
struct finish {
    struct job *job;
    Tscaf__V1__JobResult *result; /* owned */
    Tscaf__V1__JobRecord *record; /* owned; as it will be */
    struct ut_error e;
    struct srv_mail mail;
};

static void on_finished(struct srv_mail *m)
{
    struct finish *f =
        (struct finish *)(void *)((char *)m - offsetof(struct finish, mail));
    struct job *x = f->job;
    struct srv_jobs *j = x->jobs;

    x->finishing = false;
    if (j->stopped) {
        /* The store knows; nobody else asks any more. */
    } else if (f->e.code) {
        change(x, STATE(FAILED), f->e.msg);
    } else {
        for (size_t i = 0; i < j->n; i++)
            if (j->list[i] == x)
                j->records[i] = f->record;
        tscaf__v1__job_record__free_unpacked(x->record, NULL);
        x->record = f->record;
        f->record = NULL;
        srv_log_line(j->app->log, SRV_LOG_INFO, NULL, "%s: succeeded: model %s",
                     x->record->id, x->record->model_version);
        tell(x);
    }
    if (f->record)
        tscaf__v1__job_record__free_unpacked(f->record, NULL);
    tscaf__v1__job_result__free_unpacked(f->result, NULL);
    free(f);
    unref(x);
    if (!j->stopped)
        pump(j);
}

/* The store's thread: the file into the repository, then the two records
 * together. Done again after a crash in between, it comes to the same. */
static void finish_run(void *arg, int worker)
{
    struct finish *f = arg;
    struct srv_app *app = f->job->jobs->app;
    const char *version = f->record->model_version;
    const struct srv_record put[] = {
        {SRV_TABLE_MODEL, version, &f->result->model->base},
        {SRV_TABLE_JOB, f->record->id, &f->record->base},
    };
    char from[PATH_MAX], to[PATH_MAX];

    (void)worker;
    path_of(f->job, "model.safetensors", from);
    srv_model_path(app->config->data, version, to);
    if (rename(from, to) && access(to, F_OK))
        ut_fail(&f->e, UT_EIO, "%.150s: %s", to, strerror(errno));
    else
        f->e.code = srv_store_put(app->store, "job", "model.create", version,
                                  put, 2, &f->e);
    srv_mailbox_post(app->mailbox, &f->mail);
}

/* Takes over the result's figures. False without memory. */
static bool fill_finish(struct finish *f, struct job *x)
{
    f->job = x;
    f->mail.fn = on_finished;
    f->result = (Tscaf__V1__JobResult *)read_message(
        x, "result.json", &tscaf__v1__job_result__descriptor);
    f->record = (Tscaf__V1__JobRecord *)copy_of(&x->record->base);
    if (!f->result || !f->result->model || !f->result->model->model ||
        !f->record)
        return false;
    f->record->state = STATE(SUCCEEDED);
    set_text(&f->record->reason, f->result->model->reason);
    set_text(&f->record->model_version, f->result->model->model->version);
    set_time(&f->record->ended_at);
    set_time(&f->result->model->created_at);
    f->record->n_figures = f->result->n_figures;
    f->record->figures = f->result->figures;
    f->result->n_figures = 0;
    f->result->figures = NULL;
    return true;
}

static void finish(struct job *x)
{
    struct finish *f = calloc(1, sizeof(*f));
    struct ut_error e = {.msg = "its result cannot be read"};

    if (f && fill_finish(f, x)) {
        x->finishing = true;
        x->refs++;
        if (!srv_pool_push(x->jobs->app->store_pool, finish_run, f, &e))
            return;
        x->finishing = false;
        x->refs--;
    }
    if (f && f->result)
        tscaf__v1__job_result__free_unpacked(f->result, NULL);
    if (f && f->record)
        tscaf__v1__job_record__free_unpacked(f->record, NULL);
    free(f);
    change(x, STATE(FAILED), e.msg);
}

static void drop_work(const struct job *x)
{
    static const char *const names[] = {"model.safetensors",
                                        "model.safetensors.checkpoint",
                                        "base.safetensors"};
    char path[PATH_MAX];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        path_of(x, names[i], path);
        unlink(path);
    }
}

/* What a process left tells how it ended; signal 0 where that is not known. */
static void ended(struct job *x, int status, int signum)
{
    char path[PATH_MAX], why[300] = "";
    struct ut_error e;
    struct ut_buf b;

    x->alive = x->ours = false;
    x->kill_us = 0;
    look_at_progress(x);
    if (x->record->state == STATE(CANCELLED)) {
        drop_work(x);
        return;
    }
    if (has_file(x, "result.json")) {
        finish(x);
        return;
    }
    if (x->record->state != STATE(RUNNING))
        return; /* paused, or resumed meanwhile: as it is wanted */
    path_of(x, "error", path);
    ut_buf_init(&b, sizeof(why) - 1);
    if (!ut_buf_add_file(&b, path, &e) && b.len)
        snprintf(why, sizeof(why), "%s", b.data);
    else if (signum)
        snprintf(why, sizeof(why),
                 "its process was killed by signal %d%s; resume goes on from "
                 "the checkpoint",
                 signum, signum == SIGKILL ? " (out of memory?)" : "");
    ut_buf_fini(&b);
    if (*why)
        change(x, STATE(FAILED), why);
    else if (status == 3)
        change(x, STATE(QUEUED), "its process was stopped from outside");
    else
        change(x, STATE(FAILED),
               "its process ended without a result; resume goes on from the "
               "checkpoint");
}

static void on_process_closed(uv_handle_t *h)
{
    unref(h->data);
}

/* Only now can the handle be used for another process of the job. */
static void on_end_closed(uv_handle_t *h)
{
    struct job *x = h->data;
    struct srv_jobs *j = x->jobs;

    if (!j->stopped)
        ended(x, x->status, x->signum);
    unref(x);
    if (!j->stopped)
        pump(j);
}

static void on_process_end(uv_process_t *p, int64_t status, int signum)
{
    struct job *x = p->data;

    x->status = (int)status;
    x->signum = signum;
    uv_close((uv_handle_t *)p, on_end_closed);
}

/* ---- the start of a process ---- */

static enum ut_err read_order(const struct job *x, struct ut_buf *b,
                              char *lines[3], struct ut_error *e)
{
    char path[PATH_MAX], *rest;
    enum ut_err rc;

    path_of(x, "order", path);
    ut_buf_init(b, MAX_FILE);
    rc = ut_buf_add_file(b, path, e);
    rest = b->data;
    for (int i = 0; i < 3 && !rc; i++) {
        lines[i] = rest ? strsep(&rest, "\n") : NULL;
        if (!lines[i] || !*lines[i])
            rc = ut_fail(e, UT_EFORMAT, "%.150s: is cut short", path);
    }
    return rc;
}

static enum ut_err spawn(struct job *x, struct ut_error *e)
{
    const struct srv_config *c = x->jobs->app->config;
    char dir[PATH_MAX], path[PATH_MAX], threads[16], niceness[16], memory[32];
    char *args[] = {(char *)"tscafd-job",
                    (char *)"--job",
                    dir,
                    NULL,
                    NULL,
                    NULL,
                    threads,
                    niceness,
                    memory,
                    NULL};
    uv_stdio_container_t io[3] = {{.flags = UV_IGNORE}};
    uv_process_options_t o = {
        .exit_cb = on_process_end,
        .file = "/proc/self/exe", /* there even after an upgrade */
        .args = args,
        .flags = UV_PROCESS_DETACHED,
        .stdio_count = 3,
        .stdio = io,
    };
    struct ut_buf order;
    enum ut_err rc = read_order(x, &order, &args[3], e);
    int fd, code;

    path_of(x, "", dir);
    dir[strlen(dir) - 1] = '\0';
    snprintf(threads, sizeof(threads), "%d", c->job_threads);
    snprintf(niceness, sizeof(niceness), "%d", c->job_nice);
    snprintf(memory, sizeof(memory), "%lld", (long long)c->job_memory);
    path_of(x, "log", path);
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (!rc && fd < 0)
        rc = ut_fail(e, UT_EIO, "%.150s: %s", path, strerror(errno));
    if (!rc) {
        io[1].flags = io[2].flags = UV_INHERIT_FD;
        io[1].data.fd = io[2].data.fd = fd;
        x->process.data = x;
        x->refs++;
        code = uv_spawn(&x->jobs->app->loop, &x->process, &o);
        if (code) {
            uv_close((uv_handle_t *)&x->process, on_process_closed);
            rc = ut_fail(e, UT_EIO, "its process cannot be started: %s",
                         uv_strerror(code));
        }
    }
    if (fd >= 0)
        close(fd);
    ut_buf_fini(&order);
    if (rc)
        return rc;
    x->pid = x->process.pid;
    x->alive = x->ours = true;
    return UT_OK;
}

/* Starts what waits while there is room. */
static void pump(struct srv_jobs *j)
{
    int running = 0;

    for (size_t i = 0; i < j->n; i++)
        running += j->list[i]->alive || j->list[i]->finishing;
    for (size_t i = 0; i < j->n && running < j->app->config->max_jobs; i++) {
        struct job *x = j->list[i];
        struct ut_error e;

        if (x->record->state != STATE(QUEUED) || x->alive || x->finishing)
            continue;
        if (spawn(x, &e)) {
            change(x, STATE(FAILED), e.msg);
            continue;
        }
        if (!*x->record->started_at)
            set_time(&x->record->started_at);
        change(x, STATE(RUNNING), "");
        running++;
    }
}

/* ---- what clients ask ---- */

static struct job *find(const struct srv_jobs *j, const char *id,
                        struct ut_error *e)
{
    for (size_t i = 0; i < j->n; i++)
        if (!strcmp(j->records[i]->id, id))
            return j->list[i];
    ut_fail(e, UT_ENOTFOUND, "there is no job \"%.64s\"", id);
    return NULL;
}

static enum ut_err refuse(const struct job *x, const char *what,
                          struct ut_error *e)
{
    return ut_fail(e, UT_ESTATE, "%s is %s: it cannot be %s", x->record->id,
                   srv_job_state_name(x->record->state), what);
}

static void stop_process(struct job *x)
{
    if (!x->alive)
        return;
    kill(x->pid, SIGTERM);
    x->kill_us = ut_clock_us() + PATIENCE_US;
}

enum ut_err srv_jobs_cancel(struct srv_jobs *j, const char *id,
                            struct ut_error *e)
{
    struct job *x = find(j, id, e);

    if (!x)
        return e->code;
    if (has_ended(x->record) || x->finishing)
        return refuse(x, "cancelled", e);
    stop_process(x);
    if (!x->alive)
        drop_work(x);
    change(x, STATE(CANCELLED), "on request");
    pump(j);
    return UT_OK;
}

enum ut_err srv_jobs_pause(struct srv_jobs *j, const char *id,
                           struct ut_error *e)
{
    struct job *x = find(j, id, e);

    if (!x)
        return e->code;
    if ((x->record->state != STATE(RUNNING) &&
         x->record->state != STATE(QUEUED)) ||
        x->finishing)
        return refuse(x, "paused", e);
    stop_process(x);
    change(x, STATE(PAUSED), "on request");
    pump(j);
    return UT_OK;
}

enum ut_err srv_jobs_resume(struct srv_jobs *j, const char *id,
                            struct ut_error *e)
{
    struct job *x = find(j, id, e);

    if (!x)
        return e->code;
    if (x->record->state != STATE(PAUSED) && x->record->state != STATE(FAILED))
        return refuse(x, "resumed", e);
    set_text(&x->record->ended_at, "");
    change(x, STATE(QUEUED), "");
    pump(j);
    return UT_OK;
}

enum ut_err srv_jobs_remove(struct srv_jobs *j, const char *id,
                            struct ut_error *e)
{
    struct job *x = find(j, id, e);

    if (!x)
        return e->code;
    if (!has_ended(x->record) || x->alive)
        return has_ended(x->record)
                   ? ut_fail(e, UT_ESTATE, "%s: its process has not ended yet",
                             id)
                   : refuse(x, "deleted before it has ended", e);
    end_streams(x);
    for (size_t i = 0; i < j->n; i++) {
        if (j->list[i] != x)
            continue;
        memmove(&j->list[i], &j->list[i + 1],
                (j->n - i - 1) * sizeof(struct job *));
        memmove(&j->records[i], &j->records[i + 1],
                (j->n - i - 1) * sizeof(Tscaf__V1__JobRecord *));
        j->n--;
        break;
    }
    unref(x);
    return UT_OK;
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
    struct job *x = find(j, id, &e);

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
    x->refs = 1;
    j->list[j->n] = x;
    j->records[j->n++] = record;
    return x;
}

void srv_jobs_add(struct srv_jobs *j, Tscaf__V1__JobRecord *record)
{
    if (append(j, record))
        pump(j);
}

/* A job as another server, or this one before, left it. */
static void find_again(struct job *x)
{
    x->pid = holder(x);
    if (x->pid) {
        x->alive = true;
        srv_log_line(x->jobs->app->log, SRV_LOG_INFO, NULL,
                     "%s: its process %d was found again", x->record->id,
                     (int)x->pid);
        if (x->record->state != STATE(RUNNING))
            stop_process(x); /* paused or cancelled: it may not know yet */
    } else if (has_file(x, "result.json") && !has_ended(x->record)) {
        finish(x);
    } else if (x->record->state == STATE(RUNNING)) {
        if (has_file(x, "error"))
            ended(x, 1, 0);
        else
            change(x, STATE(QUEUED),
                   "its process ended with the server; goes on from the "
                   "checkpoint");
    }
}

static void on_timer(uv_timer_t *t)
{
    struct srv_jobs *j = t->data;
    int64_t now = ut_clock_us();
    bool over = false;

    for (size_t i = 0; i < j->n; i++) {
        struct job *x = j->list[i];

        for (struct watcher *w = x->watchers; w; w = w->next)
            if (now - w->sent_us > HEARTBEAT_US) {
                w->call->send(w->call, &x->record->base);
                w->sent_us = now;
            }
        if (!x->alive)
            continue;
        look_at_progress(x);
        if (x->kill_us && now > x->kill_us) {
            kill(x->pid, SIGKILL);
            x->kill_us = 0;
        }
        if (!x->ours && holder(x) != x->pid) {
            ended(x, has_file(x, "error") ? 1 : 3, 0);
            over = true;
        }
    }
    if (over)
        pump(j);
}

enum ut_err srv_jobs_new(struct srv_app *app, struct srv_jobs **out,
                         struct ut_error *e)
{
    struct srv_jobs *j = calloc(1, sizeof(*j));
    ProtobufCMessage **stored;
    char path[PATH_MAX];
    size_t n;
    enum ut_err rc;

    *out = NULL;
    if (j) {
        j->list = calloc(SRV_JOBS_MAX, sizeof(struct job *));
        j->records = calloc(SRV_JOBS_MAX, sizeof(Tscaf__V1__JobRecord *));
    }
    if (!j || !j->list || !j->records) {
        if (j) {
            free(j->list);
            free(j->records);
        }
        free(j);
        return ut_fail(e, UT_ENOMEM, "no memory for jobs");
    }
    j->app = app;
    snprintf(path, sizeof(path), "%s/jobs", app->config->data);
    mkdir(path, 0700);
    snprintf(path, sizeof(path), "%s/models", app->config->data);
    mkdir(path, 0700);
    rc = srv_store_list(app->store, SRV_TABLE_JOB,
                        &tscaf__v1__job_record__descriptor, &stored, &n, e);
    if (rc) {
        free(j->list);
        free(j->records);
        free(j);
        return rc;
    }
    for (size_t i = 0; i < n; i++) {
        struct job *x = append(j, (Tscaf__V1__JobRecord *)stored[i]);

        if (x)
            find_again(x);
    }
    free(stored);
    uv_timer_init(&app->loop, &j->timer);
    j->timer.data = j;
    uv_timer_start(&j->timer, on_timer, LOOK_MS, LOOK_MS);
    *out = j;
    pump(j);
    return UT_OK;
}

void srv_jobs_stop(struct srv_jobs *j)
{
    if (!j)
        return;
    j->stopped = true;
    for (size_t i = 0; i < j->n; i++)
        if (j->list[i]->ours &&
            !uv_is_closing((uv_handle_t *)&j->list[i]->process))
            uv_close((uv_handle_t *)&j->list[i]->process, on_process_closed);
    uv_close((uv_handle_t *)&j->timer, NULL);
}

void srv_jobs_free(struct srv_jobs *j)
{
    if (!j)
        return;
    for (size_t i = 0; i < j->n; i++)
        unref(j->list[i]);
    free(j->list);
    free(j->records);
    free(j);
}

/* ---- series ---- */

enum ut_err srv_jobs_metrics(const struct srv_jobs *j, struct ut_buf *out,
                             struct ut_error *e)
{
    int n[7] = {0};
    enum ut_err rc = ut_buf_addf(out, e,
                                 "# HELP tscaf_jobs Training jobs, by state.\n"
                                 "# TYPE tscaf_jobs gauge\n");

    for (size_t i = 0; i < j->n; i++)
        n[j->records[i]->state]++;
    for (int s = 1; s < 7 && !rc; s++)
        rc = ut_buf_addf(out, e, "tscaf_jobs{state=\"%s\"} %d\n",
                         srv_job_state_name((Tscaf__V1__JobState)s), n[s]);
    for (int k = 0; k < 5 && !rc; k++) {
        static const char *const names[][2] = {
            {"step", "Updates that a running job has done."},
            {"steps", "Updates that a running job will do."},
            {"images_per_second", "Pictures that a running job trains on."},
            {"fatigue_loss", "Moving mean of a running job's loss."},
            {"recognition_loss", "Moving mean of a running job's loss."},
        };

        rc = ut_buf_addf(out, e,
                         "# HELP tscaf_job_%s %s\n# TYPE tscaf_job_%s gauge\n",
                         names[k][0], names[k][1], names[k][0]);
        for (size_t i = 0; i < j->n && !rc; i++) {
            const Tscaf__V1__JobProgress *p = j->records[i]->progress;
            double v[5];

            if (j->records[i]->state != STATE(RUNNING) || !p)
                continue;
            v[0] = p->step;
            v[1] = p->steps;
            v[2] = (double)p->images_per_second;
            v[3] = (double)p->fatigue_loss;
            v[4] = (double)p->recognition_loss;
            rc = ut_buf_addf(out, e, "tscaf_job_%s{job=\"%s\"} %g\n",
                             names[k][0], j->records[i]->id, v[k]);
        }
    }
    return rc;
}
