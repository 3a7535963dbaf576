/* Starting, stopping and losing sight of a job's process. */
#include "server/jobs/job_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/inference/generations.h"
#include "server/jobs/job_child.h"
#include "server/jobs/job_folder.h"
#include "server/store/store.h"

#define PATIENCE_US 60000000 /* from SIGTERM to SIGKILL */

struct srv_job_process {
    const char *data; /* DATA */
    char id[SRV_ID_LEN];
    pid_t pid;
    bool ours;       /* a child: handle tells its end; else its lock */
    int64_t kill_us; /* when SIGKILL is due; 0: not */
    uv_process_t handle;
    int status, signum;
    srv_job_end_fn end; /* NULL: nobody asks any more */
    void *arg;
};

static struct srv_job_process *make(const struct srv_config *c, const char *id,
                                    srv_job_end_fn end, void *arg)
{
    struct srv_job_process *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->data = c->data;
    snprintf(p->id, sizeof(p->id), "%s", id);
    p->end = end;
    p->arg = arg;
    return p;
}

static void tell_end(struct srv_job_process *p)
{
    srv_job_end_fn end = p->end;
    int status = p->status, signum = p->signum;
    void *arg = p->arg;

    free(p);
    if (end)
        end(arg, status, signum);
}

static void on_closed(uv_handle_t *h)
{
    tell_end(h->data);
}

static void on_exit_of(uv_process_t *h, int64_t status, int signum)
{
    struct srv_job_process *p = h->data;

    p->status = (int)status;
    p->signum = signum;
    uv_close((uv_handle_t *)h, on_closed);
}

/* ---- start ---- */

static enum ut_err spawn(struct srv_job_process *p, uv_loop_t *loop,
                         const struct srv_config *c,
                         const struct srv_generation *active, int log,
                         char *order[SRV_JOB_ORDER], struct ut_error *e)
{
    char dir[PATH_MAX], threads[16], niceness[16], memory[32];
    char *args[] = {(char *)"tscafd-job",
                    (char *)"--job",
                    dir,
                    order[0],
                    order[1],
                    order[2],
                    threads,
                    niceness,
                    memory,
                    active->path ? active->path : (char *)"-",
                    (char *)(uintptr_t)srv_generation_version(active),
                    NULL};
    uv_stdio_container_t io[3] = {
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = log},
        {.flags = UV_INHERIT_FD, .data.fd = log},
    };
    uv_process_options_t o = {
        .exit_cb = on_exit_of,
        .file = "/proc/self/exe", /* there even after an upgrade */
        .args = args,
        .flags = UV_PROCESS_DETACHED,
        .stdio_count = 3,
        .stdio = io,
    };
    int code;

    srv_job_path(p->data, p->id, "", dir);
    snprintf(threads, sizeof(threads), "%d", c->job_threads);
    snprintf(niceness, sizeof(niceness), "%d", c->job_nice);
    snprintf(memory, sizeof(memory), "%lld", (long long)c->job_memory);
    p->handle.data = p;
    code = uv_spawn(loop, &p->handle, &o);
    if (code) {
        p->end = NULL;
        uv_close((uv_handle_t *)&p->handle, on_closed);
        return ut_fail(e, UT_EIO, "its process cannot be started: %s",
                       uv_strerror(code));
    }
    p->pid = p->handle.pid;
    p->ours = true;
    return UT_OK;
}

enum ut_err srv_job_process_start(uv_loop_t *loop, const struct srv_config *c,
                                  const char *id,
                                  const struct srv_generation *active,
                                  srv_job_end_fn end, void *arg,
                                  struct srv_job_process **out,
                                  struct ut_error *e)
{
    char path[PATH_MAX], *order[SRV_JOB_ORDER];
    struct srv_job_process *p;
    struct ut_buf text;
    enum ut_err rc = srv_job_order_read(c->data, id, &text, order, e);
    int log = -1;

    *out = NULL;
    srv_job_path(c->data, id, "log", path);
    if (!rc) {
        log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log < 0)
            rc = ut_fail(e, UT_EIO, "%.150s: %s", path, strerror(errno));
    }
    p = rc ? NULL : make(c, id, end, arg);
    if (!rc && !p)
        rc = ut_fail(e, UT_ENOMEM, "no memory for a process");
    if (!rc)
        rc = spawn(p, loop, c, active, log, order, e);
    if (!rc)
        *out = p;
    if (log >= 0)
        close(log);
    ut_buf_fini(&text);
    return rc;
}

struct srv_job_process *srv_job_process_find(const struct srv_config *c,
                                             const char *id, srv_job_end_fn end,
                                             void *arg)
{
    pid_t pid = srv_job_holder(c->data, id);
    struct srv_job_process *p = pid ? make(c, id, end, arg) : NULL;

    if (p)
        p->pid = pid;
    return p;
}

int srv_job_process_pid(const struct srv_job_process *p)
{
    return (int)p->pid;
}

/* ---- end ---- */

void srv_job_process_stop(struct srv_job_process *p)
{
    kill(p->pid, SIGTERM);
    p->kill_us = ut_clock_us() + PATIENCE_US;
}

void srv_job_process_look(struct srv_job_process *p)
{
    if (!p->ours && srv_job_holder(p->data, p->id) != p->pid) {
        p->status = srv_job_has(p->data, p->id, "error") ? 1 : SRV_JOB_STOPPED;
        tell_end(p);
    } else if (p->kill_us && ut_clock_us() > p->kill_us) {
        kill(p->pid, SIGKILL);
        p->kill_us = 0;
    }
}

void srv_job_process_forget(struct srv_job_process *p)
{
    if (!p)
        return;
    p->end = NULL;
    if (!p->ours)
        free(p);
    else if (!uv_is_closing((uv_handle_t *)&p->handle))
        uv_close((uv_handle_t *)&p->handle, on_closed);
}
