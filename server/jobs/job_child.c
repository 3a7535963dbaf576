/* One training, its limits, its files. */
#include "server/jobs/job_child.h"

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
#include "api/tscaf.pb-c.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "model/train/session.h"
#include "server/inference/engine.h"
#include "server/inference/gate.h"
#include "server/inference/generations.h"
#include "server/jobs/job_figures.h"
#include "server/jobs/job_limits.h"
#include "server/jobs/job_losses.h"

#define TELL_US 300000 /* between two writes of the progress */

struct child {
    char dir[PATH_MAX], model[PATH_MAX], base[PATH_MAX];
    const char *active, *active_version; /* what answers now: file, "-" */
    Tscaf__V1__JobRecord *job;
    const char *data[MDL_TASKS];
    double held_out;
    uint64_t seed;
    int64_t told_us;
    struct srv_job_losses losses;
    struct srv_job_figures figures;
};

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

/* ---- files ---- */

static enum ut_err write_file(const struct child *c, const char *name,
                              const char *text, size_t len, struct ut_error *e)
{
    char path[PATH_MAX + 32];

    snprintf(path, sizeof(path), "%s/%s", c->dir, name);
    return ut_file_write(path, text, len, e);
}

static void drop(const struct child *c, const char *name)
{
    char path[PATH_MAX + 32];

    snprintf(path, sizeof(path), "%s/%s", c->dir, name);
    unlink(path);
}

static enum ut_err write_message(const struct child *c, const char *name,
                                 const ProtobufCMessage *m, struct ut_error *e)
{
    char *json;
    size_t len;
    enum ut_err rc = api_json_write(m, API_JSON_REST, &json, &len, e);

    if (rc)
        return rc;
    rc = write_file(c, name, json, len, e);
    free(json);
    return rc;
}

static enum ut_err read_message(const struct child *c, const char *name,
                                const ProtobufCMessageDescriptor *d,
                                ProtobufCMessage **out, struct ut_error *e)
{
    char path[PATH_MAX + 32];
    struct api_error err;
    struct ut_buf b;
    enum ut_err rc;

    *out = NULL;
    snprintf(path, sizeof(path), "%s/%s", c->dir, name);
    ut_buf_init(&b, 1 << 20);
    rc = ut_buf_add_file(&b, path, e);
    if (!rc && api_json_read(d, b.data, b.len, out, &err))
        rc = ut_fail(e, UT_EFORMAT, "%s: %.200s", name, err.message);
    ut_buf_fini(&b);
    return rc;
}

/* Of what was trained before, if this goes on from a checkpoint. */
static void read_losses(struct child *c)
{
    ProtobufCMessage *m;
    struct ut_error e;

    if (read_message(c, SRV_JOB_LOSSES_FILE, &tscaf__v1__job_losses__descriptor,
                     &m, &e))
        m = NULL;
    srv_job_losses_init(&c->losses, (Tscaf__V1__JobLosses *)m);
    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
}

static void tell_losses(struct child *c)
{
    static Tscaf__V1__JobLoss *list[SRV_JOB_LOSSES_MAX + 1];
    Tscaf__V1__JobLosses m;
    struct ut_error e;

    if (!c->losses.changed)
        return;
    srv_job_losses_tell(&c->losses, list, &m);
    if (write_message(c, SRV_JOB_LOSSES_FILE, &m.base, &e))
        fprintf(stderr, "%s\n", e.msg);
}

static enum ut_err read_job(struct child *c, struct ut_error *e)
{
    ProtobufCMessage *m;
    enum ut_err rc =
        read_message(c, "job.json", &tscaf__v1__job_record__descriptor, &m, e);

    if (rc)
        return rc;
    c->job = (Tscaf__V1__JobRecord *)m;
    return c->job->settings
               ? UT_OK
               : ut_fail(e, UT_EFORMAT, "job.json: has no settings");
}

/* ---- the lock ---- */

/* Held to the end of the process; the descriptor is meant to stay open.
 * UT_EBUSY: another process has it. */
static enum ut_err lock(const struct child *c, struct ut_error *e)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char path[PATH_MAX + 32];
    int fd;

    snprintf(path, sizeof(path), "%s/lock", c->dir);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 && fcntl(fd, F_SETLK, &l) == 0)
        return UT_OK;
    return ut_fail(
        e, fd >= 0 && (errno == EAGAIN || errno == EACCES) ? UT_EBUSY : UT_EIO,
        "%.150s: %s", path, strerror(errno));
}

/* ---- training ---- */

static void on_progress(void *arg, const struct mdl_progress *p)
{
    Tscaf__V1__JobProgress m = TSCAF__V1__JOB_PROGRESS__INIT;
    char text[MDL_WARNINGS][MDL_WARNING_LEN], *warnings[MDL_WARNINGS];
    struct child *c = arg;
    int64_t now = ut_clock_us();
    struct ut_error e;

    srv_job_losses_add(&c->losses, (uint32_t)p->step, (uint32_t)p->steps,
                       (float)p->loss[MDL_FATIGUE],
                       (float)p->loss[MDL_RECOGNITION]);
    if (now - c->told_us < TELL_US && p->step < p->steps)
        return;
    c->told_us = now;
    m.step = (uint32_t)p->step;
    m.steps = (uint32_t)p->steps;
    m.fatigue_loss = (float)p->loss[MDL_FATIGUE];
    m.recognition_loss = (float)p->loss[MDL_RECOGNITION];
    m.rate = (float)p->rate;
    m.gradient_norm = (float)p->gradient_norm;
    m.images_per_second = (float)p->images_per_second;
    m.seconds_left = (float)p->seconds_left;
    m.broken = (uint32_t)(p->queue[0].broken + p->queue[1].broken);
    m.warnings = warnings;
    m.n_warnings = (size_t)mdl_progress_warnings(p, text);
    for (size_t i = 0; i < m.n_warnings; i++)
        warnings[i] = text[i];
    if (write_message(c, "progress.json", &m.base, &e))
        fprintf(stderr, "%s\n", e.msg);
    tell_losses(c);
}

/* The network that the server makes without --model, as a file. */
static enum ut_err make_fresh(const struct child *c, char path[PATH_MAX],
                              struct ut_error *e)
{
    const struct mdl_st_pair meta[] = {{"name", "untrained"},
                                       {"trained", "false"}};
    struct mdl_model m;
    enum ut_err rc;

    snprintf(path, PATH_MAX, "%.4000s/base.safetensors", c->dir);
    if (!access(path, F_OK))
        return UT_OK;
    rc = srv_engine_fresh(&m, e);
    if (rc)
        return rc;
    rc = mdl_model_write(path, &m.spec, &m.graph, meta, 2, NULL, 0, e);
    mdl_model_close(&m);
    return rc;
}

static double or_else(double v, double standard)
{
    return v > 0 ? v : standard;
}

static void configure(struct child *c, int threads,
                      struct mdl_session_config *s)
{
    const Tscaf__V1__JobSettings *from = c->job->settings;
    bool one = !c->data[MDL_FATIGUE] || !c->data[MDL_RECOGNITION];

    *s = (struct mdl_session_config){
        .base = c->base,
        .out = c->model,
        .name = *c->job->name ? c->job->name : c->job->id,
        .data = {c->data[0], c->data[1]},
        .held_out = c->held_out,
        .rates = {1, 1},
        .trainer =
            {
                .precision = from->bfloat16 ? MDL_PREC_BF16 : MDL_PREC_F32,
                .threads = threads,
                .batch = (int)or_else(from->batch, 32),
                .optimizer = {MDL_ADAMW, 0.9f, 0.999f, 1e-8f, 0.01f},
                .momentum = 0.1f,
                .clip = 5,
                .frozen_root = from->frozen_root,
            },
        .recognition =
            {
                .arcface =
                    {
                        .k = (int)or_else(from->arcface_sub_centres, 3),
                        .scale =
                            (float)or_else((double)from->arcface_scale, 20),
                        .margin =
                            (float)or_else((double)from->arcface_margin, 0.5),
                    },
                .arcface_weight = 1,
            },
        .accumulate =
            !one &&
            from->mode == TSCAF__V1__TRAINING_MODE__TRAINING_MODE_ACCUMULATE,
        .weight = (float)or_else((double)from->weight, 0.5),
        .turn = (long)or_else(from->turn, 1),
        .rate = or_else((double)from->rate, 2e-3),
        .steps = (long)or_else(from->steps, 1000),
        .warm_up = (long)or_else(from->warm_up, 100),
        .save = (long)or_else(from->save, 100),
        .augmented = !from->no_augment,
        .resume = true,
        .seed = c->seed,
        .every = 1,
        .progress = on_progress,
        .arg = c,
        .stop = &stop,
    };
    mdl_onnx_input_parse("insightface", &s->teacher_input);
}

/* ---- the result ---- */

static enum ut_err add_card(struct child *c, const struct mdl_model *m,
                            struct ut_buf *b, struct ut_error *e)
{
    const Tscaf__V1__JobRecord *j = c->job;
    char *settings;
    size_t len;
    enum ut_err rc =
        api_json_write(&j->settings->base, API_JSON_REST, &settings, &len, e);

    if (rc)
        return rc;
    rc = ut_buf_addf(b, e,
                     "{\"version\":\"%s\",\"base_version\":\"%s\","
                     "\"compared_with\":\"%s\",\"job\":\"%s\",\"data\":{"
                     "\"fatigue\":\"%s\",\"recognition\":"
                     "\"%s\"},\"settings\":%s,\"held_out\":{",
                     m->version, j->base_version, c->active_version, j->id,
                     j->fatigue_dataset, j->recognition_dataset, settings);
    free(settings);
    for (size_t i = 0; i < c->figures.n && !rc; i++) {
        const Tscaf__V1__JobFigures *f = c->figures.list[i];
        char *json;

        rc = api_json_write(&f->base, API_JSON_REST, &json, &len, e);
        if (rc)
            return rc;
        rc = ut_buf_addf(b, e, "%s\"%s\":%s", i ? "," : "", f->task, json);
        free(json);
    }
    if (rc)
        return rc;
    return ut_buf_addf(b, e,
                       "},\"thresholds\":{\"fatigue\":%.4f,"
                       "\"recognition\":%.4f}}",
                       (double)srv_engine_threshold(m, MDL_HEAD_BINARY),
                       (double)srv_engine_threshold(m, MDL_HEAD_EMBEDDING));
}

static bool passes(const struct child *c, char *why, size_t size)
{
    const struct srv_gate g = {
        .active = c->active_version,
        .base = c->job->base_version,
        .frozen_root = c->job->settings->frozen_root,
        .answers = c->figures.tasks[SRV_TRIAL_ACTIVE],
        .candidate = c->figures.tasks[SRV_TRIAL_CANDIDATE],
        .figures = c->figures.list,
        .n = c->figures.n,
    };

    return srv_gate_pass(&g, why, size);
}

static enum ut_err write_result(struct child *c, struct ut_error *e)
{
    Tscaf__V1__JobResult r = TSCAF__V1__JOB_RESULT__INIT;
    Tscaf__V1__ModelInfo info;
    Tscaf__V1__ModelRef ref;
    char why[256];
    struct mdl_model m;
    struct ut_buf card;
    enum ut_err rc = mdl_model_open(c->model, &m, e);

    if (rc)
        return rc;
    ut_buf_init(&card, 1 << 20);
    rc = srv_candidate_info(&m, &info, &ref, e);
    if (!rc)
        rc = add_card(c, &m, &card, e);
    if (!rc) {
        info.passed = passes(c, why, sizeof(why));
        info.reason = why;
        info.compared_with = (char *)(uintptr_t)c->active_version;
        info.job_id = c->job->id;
        info.card = card.data;
        r.model = &info;
        r.n_figures = c->figures.n;
        r.figures = c->figures.list;
        rc = write_message(c, "result.json", &r.base, e);
    }
    ut_buf_fini(&card);
    free(info.spec);
    mdl_model_close(&m);
    return rc;
}

/* Beside the model that answers now, whether the base was that or another. */
static enum ut_err take_figures(struct child *c, int threads,
                                struct ut_error *e)
{
    struct srv_trial t = {
        .models = {c->base, c->model},
        .data = {c->data[0], c->data[1]},
        .held_out = c->held_out,
        .seed = c->seed,
        .threads = threads,
    };
    char fresh[PATH_MAX];
    enum ut_err rc = UT_OK;

    if (!strcmp(c->active, "-")) {
        rc = make_fresh(c, fresh, e);
        t.models[SRV_TRIAL_ACTIVE] = fresh;
    } else {
        t.models[SRV_TRIAL_ACTIVE] = c->active;
        t.active_version = c->active_version;
    }
    if (!strcmp(c->job->base_version, c->active_version))
        t.models[SRV_TRIAL_ACTIVE] = NULL;
    return rc ? rc : srv_job_figures_take(&t, &c->figures, e);
}

static enum ut_err work(struct child *c, int threads, bool *done,
                        struct ut_error *e)
{
    struct mdl_session_config s;
    struct stat st;
    enum ut_err rc = UT_OK;

    if (!strcmp(c->base, "-"))
        rc = make_fresh(c, c->base, e);
    if (rc)
        return rc;
    configure(c, threads, &s);
    /* Only the figures were missing. A link whose model was deleted since is no
     * reason to train another. */
    *done = !lstat(c->model, &st);
    if (!*done)
        rc = mdl_session_run(&s, done, e);
    tell_losses(c); /* of a job that is stopped, too */
    if (!rc && *done)
        rc = take_figures(c, threads, e);
    if (!rc && *done)
        rc = write_result(c, e);
    return rc;
}

/* ---- the end ---- */

/* Leaves why it failed to the server; names the limit that took the memory. */
static void tell_failure(const struct child *c, const struct ut_error *e,
                         long long memory)
{
    char why[sizeof(e->msg) + 96];
    struct ut_error ignored;

    snprintf(why, sizeof(why), "%s", e->msg);
    if (e->code == UT_ENOMEM && memory > 0)
        snprintf(why, sizeof(why), "%s: " SRV_JOB_MEMORY_LIMIT, e->msg, memory);
    fprintf(stderr, "%s\n", why);
    if (write_file(c, "error", why, strlen(why), &ignored))
        fprintf(stderr, "%s\n", ignored.msg);
}

int srv_job_child(char **argv)
{
    long long memory = atoll(argv[8]);
    struct sigaction action = {.sa_handler = on_signal};
    static struct child c;
    struct ut_error e;
    enum ut_err rc;
    bool done = false;

    close_range(3, ~0u, 0);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_DFL);
    snprintf(c.dir, sizeof(c.dir), "%s", argv[2]);
    snprintf(c.base, sizeof(c.base), "%s", argv[3]);
    snprintf(c.model, sizeof(c.model), "%.4000s/model.safetensors", argv[2]);
    for (int i = 0; i < MDL_TASKS; i++)
        c.data[i] = strcmp(argv[4 + i], "-") ? argv[4 + i] : NULL;
    c.active = argv[9];
    c.active_version = argv[10];
    rc = lock(&c, &e);
    if (rc) {
        fprintf(stderr, "%s\n", e.msg);
        if (rc == UT_EBUSY)
            return SRV_JOB_HELD;
        tell_failure(&c, &e, memory);
        return 1;
    }
    ut_file_sweep(c.dir); /* of a process that was killed; they may be large */
    drop(&c, "error");
    drop(&c, "result.json"); /* of a comparison with another model */
    srv_job_limit(atoi(argv[7]), memory);
    if (memory > 0)
        srv_job_watch_for_crash(c.dir, memory);
    rc = read_job(&c, &e);
    if (!rc) {
        c.held_out = or_else((double)c.job->settings->held_out, 0.2);
        c.seed = c.job->settings->seed ? c.job->settings->seed : 1;
        read_losses(&c);
        rc = work(&c, atoi(argv[6]), &done, &e);
    }
    if (rc) {
        tell_failure(&c, &e, memory);
        return 1;
    }
    return done ? 0 : SRV_JOB_STOPPED;
}
