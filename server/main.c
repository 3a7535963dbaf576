/* tscafd: makes the parts, serves, drains.
 *
 * The store is opened first, since its keys decide where we may listen. Then
 * we listen, so that /readyz can say "starting" while the store's thread
 * opens the model and fills the gallery, which takes seconds. On SIGTERM or
 * SIGINT no connection is taken any more, everything accepted is answered,
 * and the process ends; a second signal ends it at once. */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/processors.h"
#include "model/shipped.h"
#include "model/vision/face.h"
#include "server/add_model.h"
#include "server/app.h"
#include "server/auth.h"
#include "server/calls/dispatch.h"
#include "server/console.h"
#include "server/healthcheck.h"
#include "server/http/h2.h"
#include "server/http/http.h"
#include "server/inference/faces.h"
#include "server/jobs/job_child.h"
#include "server/log.h"
#include "server/metrics.h"

#define MAX_STORE_JOBS 4096
#define MAX_MODEL_JOBS 64
#define MAX_DATASET_JOBS 64
#define MAX_EXPLAIN_JOBS 16

extern char **environ;

struct server {
    struct srv_app app;
    struct srv_config config;
    struct srv_dispatch *dispatch;
    struct srv_console *console;
    uv_signal_t term, intr;
    uv_timer_t limit; /* of draining */
    struct srv_mail started;
    struct ut_error start_error;
    size_t n_unusable; /* faces of a wrong size in the store */
    int n_listeners;   /* that are not drained */
    int n_signals, exit_code;
};

static int complain(const struct ut_error *e)
{
    fprintf(stderr, "tscafd: %s\n", e->msg);
    return e->code == UT_EINVAL ? 2 : 1;
}

/* ---- Starting, on the store's thread ---- */

/* The one that was given, the one that ships, or none. */
static enum ut_err open_detector(struct server *s, struct ut_error *e)
{
    const char *given = s->config.detector;
    char shipped[4096];

    if (given && !strcmp(given, "none"))
        return UT_OK;
    if (!given && !mdl_shipped(MDL_SHIPPED_DETECTOR, shipped, sizeof(shipped)))
        return UT_OK; /* told when started: only crops can be analysed */
    return mdl_detector_open(given ? given : shipped, &s->app.detector, e);
}

static enum ut_err open_models(struct server *s, struct ut_error *e)
{
    struct srv_app *app = &s->app;
    enum ut_err rc = srv_generations_open(app, &s->n_unusable, e);

    if (!rc)
        rc = mdl_backend_open(s->config.backend, 0, &app->device, e);
    if (!rc)
        rc = open_detector(s, e);
    if (!rc) /* the datasets' thread has a handle of its own */
        rc = srv_store_open(s->config.data, s->config.store,
                            &app->datasets.store, e);
    return rc;
}

static void start_job(void *arg, int worker)
{
    struct server *s = arg;
    struct srv_mailbox *mailbox = s->app.mailbox;

    (void)worker;
    s->start_error.code = open_models(s, &s->start_error);
    srv_mailbox_post(mailbox, &s->started);
}

/* ---- Stopping, on the loop ---- */

/* Every connection of a listener is closed and every call ended. */
static void on_drained(void *arg)
{
    struct server *s = arg;
    struct srv_app *app = &s->app;

    if (--s->n_listeners)
        return;
    app->ready = false;
    srv_log_line(app->log, SRV_LOG_INFO, NULL, "stopped");
    srv_http_free(app->http);
    srv_h2_free(app->h2);
    srv_jobs_stop(app->jobs);
    srv_follow_stop(app->follow);
    srv_pool_free(app->model_pool);
    app->model_pool = NULL;
    srv_pool_free(app->decode_pool);
    srv_pool_free(app->explain_pool);
    srv_pool_free(app->dataset_pool);
    srv_pool_free(app->store_pool);
    srv_generations_free(app);
    srv_faces_free(app->faces);
    srv_mailbox_free(app->mailbox);
    uv_close((uv_handle_t *)&s->term, NULL);
    uv_close((uv_handle_t *)&s->intr, NULL);
    uv_close((uv_handle_t *)&s->limit, NULL);
    srv_health_stop(app);
}

static void on_limit(uv_timer_t *t)
{
    struct server *s = t->data;

    srv_log_line(s->app.log, SRV_LOG_WARN, NULL,
                 "%zu calls were not answered within --drain-timeout-ms %lld",
                 srv_http_calls(s->app.http) +
                     (s->app.h2 ? srv_h2_calls(s->app.h2) : 0),
                 (long long)s->config.drain_timeout_ms);
    /* What is still at work holds our memory; what was acknowledged is in the
     * store. */
    _exit(s->exit_code);
}

static void drain(struct server *s)
{
    __atomic_store_n(&s->app.draining, true, __ATOMIC_RELAXED);
    srv_health_changed(&s->app);
    srv_jobs_drain(s->app.jobs);
    uv_timer_start(&s->limit, on_limit, (uint64_t)s->config.drain_timeout_ms,
                   0);
    s->n_listeners = s->app.h2 ? 2 : 1;
    srv_http_drain(s->app.http, on_drained, s);
    if (s->app.h2)
        srv_h2_drain(s->app.h2, on_drained, s);
}

static void on_signal(uv_signal_t *sig, int signum)
{
    struct server *s = sig->data;

    if (s->n_signals++)
        _exit(128 + signum);
    srv_log_line(s->app.log, SRV_LOG_INFO, NULL, "%s: draining",
                 strsignal(signum));
    if (!s->app.draining)
        drain(s);
}

/* ---- Started, on the loop ---- */

static enum ut_err start_work(struct server *s, struct ut_error *e)
{
    struct srv_app *app = &s->app;
    enum ut_err rc = srv_generations_start(app, e);

    if (!rc)
        rc = srv_pool_new("decode", s->config.decode_threads,
                          (size_t)s->config.max_queue, &app->decode_pool, e);
    if (!rc)
        rc =
            srv_pool_new("explain", 1, MAX_EXPLAIN_JOBS, &app->explain_pool, e);
    if (!rc)
        rc = srv_pool_new("models", 1, MAX_MODEL_JOBS, &app->model_pool, e);
    if (!rc)
        rc = srv_pool_new("datasets", 1, MAX_DATASET_JOBS, &app->dataset_pool,
                          e);
    if (!rc)
        rc = srv_faces_new(app, &app->faces, e);
    if (!rc)
        rc = srv_jobs_new(app, &app->jobs, e);
    return rc ? rc : srv_follow_start(app->follow, e);
}

static void on_started(struct srv_mail *m)
{
    struct server *s =
        (struct server *)(void *)((char *)m - offsetof(struct server, started));
    struct srv_app *app = &s->app;
    struct ut_error *e = &s->start_error;
    const struct srv_generation *g = app->generations.current;
    const struct mdl_model *model;
    char report[512];

    if (app->draining)
        return; /* nobody waits for it any more */
    if (!e->code)
        e->code = start_work(s, e);
    if (e->code) {
        srv_log_line(app->log, SRV_LOG_ERROR, NULL, "cannot start: %s", e->msg);
        s->exit_code = 1;
        drain(s);
        return;
    }
    model = srv_engine_model(g->engine);
    if (!model->trained)
        srv_log_line(app->log, SRV_LOG_WARN, NULL,
                     "model %s was never trained (trained: false): its answers "
                     "mean nothing",
                     model->name);
    if (!app->detector)
        srv_log_line(app->log, SRV_LOG_WARN, NULL,
                     "no face detector (--detector): only crops can be "
                     "analysed");
    if (s->n_unusable)
        srv_log_line(app->log, SRV_LOG_WARN, NULL,
                     "%zu stored faces have no embedding by this model: "
                     "activate it to embed them",
                     s->n_unusable);
    if (*mdl_backend_note(app->device))
        srv_log_line(app->log, SRV_LOG_INFO, NULL, "cuda is not used: %s",
                     mdl_backend_note(app->device));
    for (int i = 0; i < srv_engine_devices(g->engine); i++) {
        mdl_backend_report(srv_engine_device_at(g->engine, i), report,
                           sizeof(report));
        if (*report)
            srv_log_line(app->log, SRV_LOG_INFO, NULL, "device %d: %s", i,
                         report);
    }
    app->ready = true;
    srv_health_changed(app);
    srv_log_line(app->log, SRV_LOG_INFO, NULL,
                 "ready: model %s %s, backend %s, %s, %d lanes, %zu faces in "
                 "the gallery",
                 model->name, model->version, srv_engine_backend(g->engine),
                 mdl_precision_name(srv_engine_precision(g->engine)),
                 srv_engine_lanes(g->engine), srv_gallery_faces(g->gallery));
}

/* ---- Making the parts ---- */

static enum ut_err open_store(struct server *s, struct ut_error *e)
{
    struct srv_app *app = &s->app;
    /* Claimed first: opening brings the schema up to date, which is not to
     * happen below a server that runs. */
    enum ut_err rc = srv_data_folder_claim(s->config.data, &app->folder, e);
    const char *far = NULL;

    app->datasets.server = app->folder.name;
    if (!rc)
        rc = srv_store_open(s->config.data, s->config.store, &app->store, e);
    if (!rc)
        rc = srv_follow_new(app, &app->follow, e);
    if (!rc)
        rc = srv_auth_new(&app->auth, e);
    if (!rc)
        rc = srv_auth_load(app->auth, app->store, e);
    if (!rc && !srv_config_loopback(s->config.host))
        far = "listen";
    if (!rc && s->config.grpc && !srv_config_loopback(s->config.grpc_host))
        far = "grpc";
    if (far && !srv_auth_keys(app->auth))
        rc = ut_fail(e, UT_ESTATE,
                     "--%s %s reaches beyond this machine and there is no "
                     "API key yet: make one by tscafd %s%s --create-key "
                     "admin:NAME",
                     far, *far == 'g' ? s->config.grpc : s->config.listen,
                     s->config.store ? "with this --store" : "--data ",
                     s->config.store ? "" : s->config.data);
    return rc;
}

static enum ut_err listen_http(struct server *s, struct ut_error *e)
{
    struct srv_app *app = &s->app;
    struct srv_http_config http = {
        .host = s->config.host,
        .port = s->config.port,
        .max_connections = s->config.max_connections,
        .max_body_bytes = s->config.max_body_bytes,
        .max_total_bytes = s->config.max_queue_bytes,
        .header_timeout_ms = s->config.header_timeout_ms,
        .idle_timeout_ms = s->config.idle_timeout_ms,
        .request_timeout_ms = s->config.request_timeout_ms,
        .log = app->log,
    };
    enum ut_err rc =
        srv_dispatch_new(app, srv_routes, srv_n_routes, &s->dispatch, e);

    if (!rc)
        rc = srv_metrics_new(srv_dispatch_names(s->dispatch), srv_n_routes,
                             &app->metrics, e);
    if (rc)
        return rc;
    http.hooks = srv_dispatch_hooks(s->dispatch);
    rc = srv_console_new(&http.hooks, app->log, app->metrics, &s->console, e);
    if (rc)
        return rc;
    http.hooks = srv_console_hooks(s->console);
    http.metrics = app->metrics;
    rc = srv_http_new(&app->loop, &http, &app->http, e);
    if (rc || !s->config.grpc)
        return rc;
    http.host = s->config.grpc_host;
    http.port = s->config.grpc_port;
    http.tls_cert = s->config.grpc_cert;
    http.tls_key = s->config.grpc_key;
    http.hooks = srv_dispatch_hooks(s->dispatch);
    return srv_h2_new(&app->loop, &http, &app->h2, e);
}

static void watch_signals(struct server *s)
{
    uv_signal_init(&s->app.loop, &s->term);
    uv_signal_init(&s->app.loop, &s->intr);
    uv_timer_init(&s->app.loop, &s->limit);
    s->term.data = s->intr.data = s->limit.data = s;
    uv_signal_start(&s->term, on_signal, SIGTERM);
    uv_signal_start(&s->intr, on_signal, SIGINT);
}

static void unmake(struct server *s)
{
    struct srv_app *app = &s->app;

    srv_jobs_free(app->jobs);
    mdl_detector_close(app->detector);
    mdl_backend_close(app->device);
    srv_datasets_fini(&app->datasets);
    srv_store_close(app->datasets.store);
    pthread_mutex_destroy(&app->generations.lock);
    pthread_mutex_destroy(&app->generations.next_lock);
    srv_auth_free(app->auth);
    srv_follow_free(app->follow);
    srv_data_folder_release(&app->folder);
    srv_store_close(app->store);
    srv_metrics_free(app->metrics);
    srv_console_free(s->console);
    srv_dispatch_free(s->dispatch);
    srv_log_free(app->log);
    srv_config_fini(&s->config);
}

static int serve(struct server *s)
{
    struct srv_app *app = &s->app;
    struct ut_error e;
    enum ut_err rc;

    uv_loop_init(&app->loop);
    rc = srv_mailbox_new(&app->loop, &app->mailbox, &e);
    if (!rc)
        rc = open_store(s, &e);
    if (!rc)
        rc = srv_pool_new("store", 1, MAX_STORE_JOBS, &app->store_pool, &e);
    if (!rc)
        rc = listen_http(s, &e);
    if (rc) { /* before anything runs: the process's end tidies up */
        complain(&e);
        return 1;
    }
    watch_signals(s);
    srv_health_start(app);
    srv_log_line(app->log, SRV_LOG_INFO, NULL,
                 "tscafd " SRV_VERSION " listens on %s port %d", s->config.host,
                 srv_http_port(app->http));
    if (app->follow)
        srv_log_line(app->log, SRV_LOG_INFO, NULL,
                     "server %s, one of those on its database",
                     app->folder.name);
    if (app->h2)
        srv_log_line(app->log, SRV_LOG_INFO, NULL,
                     "HTTP/2 and gRPC: %s port %d%s", s->config.grpc_host,
                     srv_h2_port(app->h2), s->config.grpc_cert ? ", TLS" : "");
    if (!srv_auth_keys(app->auth))
        srv_log_line(app->log, SRV_LOG_WARN, NULL,
                     "no API key exists yet: whoever asks from this machine "
                     "may do everything; make one (POST /v1/keys, tscaf keys "
                     "create) before a proxy or a tunnel leads here");
    s->started.fn = on_started;
    rc = srv_pool_push(app->store_pool, start_job, s, &e);
    if (rc)
        return complain(&e);
    uv_run(&app->loop, UV_RUN_DEFAULT);
    uv_loop_close(&app->loop);
    unmake(s);
    return s->exit_code;
}

/* ---- The command line ---- */

/* "ROLE:NAME": the first key has to come from somewhere. */
static int create_key(const struct srv_config *c)
{
    char secret[SRV_AUTH_SECRET_LEN], role[16];
    const char *name = strchr(c->create_key, ':');
    struct srv_store *store = NULL;
    struct srv_key key = {0}, *keys = NULL;
    struct ut_error e, why;
    enum ut_err rc = UT_OK;
    size_t n = 0;

    snprintf(role, sizeof(role), "%.*s", (int)(name ? name - c->create_key : 0),
             c->create_key);
    key.role = (int)srv_auth_role(role);
    if (!key.role)
        rc = ut_fail(&e, UT_EINVAL,
                     "--create-key: \"%.90s\" is not analyze:NAME, "
                     "enroll:NAME or admin:NAME",
                     c->create_key);
    else if (srv_auth_name(name + 1, &why))
        rc = ut_fail(&e, UT_EINVAL, "--create-key: %.150s", why.msg);
    if (!rc) {
        key.name = strdup(name + 1);
        rc = key.name ? srv_store_open(c->data, c->store, &store, &e)
                      : ut_fail(&e, UT_ENOMEM, "no memory for a key");
    }
    if (!rc)
        rc = srv_store_begin(store, &e);
    if (!rc) {
        rc = c->if_none ? srv_store_key_list(store, &keys, &n, &e) : UT_OK;
        for (size_t i = 0; i < n; i++)
            srv_key_fini(&keys[i]);
        free(keys);
        srv_auth_secret(secret, key.hash);
        if (!rc && !n)
            rc = srv_store_key_create(store, "local", &key, &e);
        rc = srv_store_end(store, rc, &e);
    }
    if (!rc && !n)
        printf("%s\n", secret);
    srv_key_fini(&key);
    srv_store_close(store);
    return rc ? complain(&e) : 0;
}

static int add_model(const struct srv_config *c)
{
    char version[17];
    struct ut_error e;

    if (srv_add_model(c, version, &e))
        return complain(&e);
    printf("%s\n", version);
    return 0;
}

/* From SQLite in --data to PostgreSQL at --store, while no server runs. */
static int copy_store(const struct srv_config *c)
{
    struct srv_store *from = NULL, *to = NULL;
    struct srv_data_folder folder;
    char path[PATH_MAX], said[400];
    struct ut_error e;
    enum ut_err rc;

    snprintf(path, sizeof(path), "%.4000s/" SRV_STORE_FILE, c->data);
    if (access(path, R_OK))
        rc = ut_fail(&e, UT_ENOTFOUND, "--copy-store: %s: %m", path);
    else
        rc = srv_data_folder_claim(c->data, &folder, &e);
    if (rc)
        return complain(&e);
    rc = srv_store_open(c->data, NULL, &from, &e);
    if (!rc)
        rc = srv_store_open(c->data, c->store, &to, &e);
    if (!rc)
        rc = srv_store_copy(from, to, said, sizeof(said), &e);
    if (!rc)
        printf("copied from %s: %s\n", path, said);
    srv_store_close(from);
    srv_store_close(to);
    srv_data_folder_release(&folder);
    return rc ? complain(&e) : 0;
}

static void raise_limits(void)
{
    struct rlimit files;

    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* The network that was given, the one that ships, or NULL: an untrained one. */
static void choose_model(struct srv_config *c)
{
    char shipped[4096];

    if (c->model && !strcmp(c->model, "none")) {
        free(c->model);
        c->model = NULL;
    } else if (!c->model &&
               mdl_shipped(MDL_SHIPPED_MODEL, shipped, sizeof(shipped))) {
        c->model = strdup(shipped);
    }
}

int main(int argc, char **argv)
{
    static struct server server;
    struct srv_config *c = &server.config;
    struct ut_error e;
    int code;

    umask(077); /* faces, keys: what it writes is its user's alone */
    if (argc == SRV_JOB_ARGS && !strcmp(argv[1], "--job"))
        return srv_job_child(argv); /* this program, as a job's process */
    if (srv_config_read(argc, argv, environ, c, &e))
        return complain(&e);
    if (c->help || c->version) {
        if (c->help)
            srv_config_help(stdout);
        else
            printf("tscafd " SRV_VERSION "\n");
        srv_config_fini(c);
        return 0;
    }
    if (c->healthcheck) {
        code = srv_healthcheck(c->host, c->port, &e) ? complain(&e) : 0;
        srv_config_fini(c);
        return code;
    }
    if (c->create_key) {
        code = create_key(c);
        srv_config_fini(c);
        return code;
    }
    if (c->add_model) {
        code = add_model(c);
        srv_config_fini(c);
        return code;
    }
    if (c->copy_store) {
        code = copy_store(c);
        srv_config_fini(c);
        return code;
    }
    choose_model(c);
    if (!c->decode_threads)
        c->decode_threads = ut_processors();
    raise_limits();
    server.app.config = c;
    server.app.datasets.config = c;
    pthread_mutex_init(&server.app.generations.lock, NULL);
    pthread_mutex_init(&server.app.generations.next_lock, NULL);
    if (srv_log_new(STDERR_FILENO, c->log_level, &server.app.log, &e))
        return complain(&e);
    return serve(&server);
}
