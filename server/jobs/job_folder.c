/* The files of a job. */
#include "server/jobs/job_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/json.h"
#include "base/file.h"
#include "server/datasets/datasets.h"
#include "server/inference/generations.h"

#define MAX_FILE (1 << 20)

void srv_job_path(const char *data, const char *id, const char *name,
                  char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%.3800s/jobs/%.64s%s%s", data, id,
             *name ? "/" : "", name);
}

/* ---- the order ---- */

enum ut_err srv_job_folder_make(const char *data, const Tscaf__V1__JobRecord *x,
                                const char *const order[SRV_JOB_ORDER],
                                struct ut_error *e)
{
    char path[PATH_MAX], text[SRV_JOB_ORDER * PATH_MAX], *json;
    size_t len;
    int n;
    enum ut_err rc;

    srv_job_path(data, x->id, "", path);
    if (mkdir(path, 0700))
        return ut_fail(e, UT_EIO, "%.150s: %s", path, strerror(errno));
    n = snprintf(text, sizeof(text), "%s\n%s\n%s\n", order[0], order[1],
                 order[2]);
    srv_job_path(data, x->id, "order", path);
    rc = ut_file_write(path, text, (size_t)n, e);
    if (!rc)
        rc = api_json_write(&x->base, API_JSON_REST, &json, &len, e);
    if (rc)
        return rc;
    srv_job_path(data, x->id, "job.json", path);
    rc = ut_file_write(path, json, len, e);
    free(json);
    return rc;
}

enum ut_err srv_job_order_read(const char *data, const char *id,
                               struct ut_buf *b, char *order[SRV_JOB_ORDER],
                               struct ut_error *e)
{
    char path[PATH_MAX], *rest;
    enum ut_err rc;

    srv_job_path(data, id, "order", path);
    ut_buf_init(b, MAX_FILE);
    rc = ut_buf_add_file(b, path, e);
    rest = b->data;
    for (int i = 0; i < SRV_JOB_ORDER && !rc; i++) {
        order[i] = rest ? strsep(&rest, "\n") : NULL;
        if (!order[i] || !*order[i])
            rc = ut_fail(e, UT_EFORMAT, "%.150s: is cut short", path);
    }
    return rc;
}

/* ---- what its process leaves ---- */

bool srv_job_has(const char *data, const char *id, const char *name)
{
    char path[PATH_MAX];

    srv_job_path(data, id, name, path);
    return !access(path, F_OK);
}

ProtobufCMessage *srv_job_read(const char *data, const char *id,
                               const char *name,
                               const ProtobufCMessageDescriptor *d)
{
    char path[PATH_MAX];
    ProtobufCMessage *m = NULL;
    struct api_error err;
    struct ut_error e;
    struct ut_buf b;

    srv_job_path(data, id, name, path);
    ut_buf_init(&b, MAX_FILE);
    if (ut_buf_add_file(&b, path, &e) ||
        api_json_read(d, b.data, b.len, &m, &err))
        m = NULL;
    ut_buf_fini(&b);
    return m;
}

pid_t srv_job_holder(const char *data, const char *id)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char path[PATH_MAX];
    int fd;

    srv_job_path(data, id, "lock", path);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return 0;
    if (fcntl(fd, F_GETLK, &l) || l.l_type == F_UNLCK)
        l.l_pid = 0;
    close(fd);
    return l.l_pid;
}

/* ---- a model to be compared ---- */

/* By a link: it is the same, and no copy of it. DATA/models may be a volume of
 * its own, which only a link by name reaches. */
static int link_model(const char *model, const char *path)
{
    char *target;
    int bad = link(model, path);

    if (!bad || errno != EXDEV || !(target = realpath(model, NULL)))
        return bad;
    bad = symlink(target, path);
    free(target);
    return bad;
}

enum ut_err srv_job_take_model(const char *data, const char *id,
                               const char *version, struct ut_error *e)
{
    char model[PATH_MAX], path[PATH_MAX];

    srv_job_path(data, id, "result.json", path);
    unlink(path);
    srv_job_path(data, id, "model.safetensors", path);
    srv_model_path(data, version, model);
    if (unlink(path) && errno != ENOENT)
        return ut_fail(e, UT_EIO, "%.150s: %s", path, strerror(errno));
    if (!link_model(model, path))
        return UT_OK;
    return errno == ENOENT
               ? ut_fail(e, UT_ESTATE, "model %.16s is not there any more",
                         version)
               : ut_fail(e, UT_EIO, "%.150s: %s", path, strerror(errno));
}

/* ---- removing ---- */

void srv_job_drop_work(const char *data, const char *id)
{
    static const char *const names[] = {"model.safetensors",
                                        "model.safetensors.checkpoint",
                                        "base.safetensors"};
    char path[PATH_MAX];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        srv_job_path(data, id, names[i], path);
        unlink(path);
    }
}

void srv_job_folder_remove(const char *data, const char *id)
{
    char path[PATH_MAX], *order[SRV_JOB_ORDER];
    struct ut_error e;
    struct ut_buf b;

    if (!srv_job_order_read(data, id, &b, order, &e))
        for (int i = SRV_JOB_DATA; i < SRV_JOB_ORDER; i++)
            srv_dataset_thaw(order[i], id);
    ut_buf_fini(&b);
    srv_job_path(data, id, "", path);
    ut_remove_tree(path);
}
