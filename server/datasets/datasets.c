/* Datasets as records: made, frozen for a job, deleted. */
#include "server/datasets/datasets.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "server/calls/message.h"
#include "server/datasets/dataset_classes.h"
#include "server/datasets/dataset_index.h"
#include "server/datasets/dataset_record.h"

#define MAX_LOOKED_AT 2000 /* pictures of a registered folder */

/* ---- create ---- */

static enum ut_err set_text(char **field, const char *text, struct ut_error *e)
{
    return srv_message_set(field, text)
               ? UT_OK
               : ut_fail(e, UT_ENOMEM, "no memory for a dataset");
}

/* The real path of what is registered, which must lie below the root. */
static enum ut_err registered(const struct srv_datasets *d, const char *path,
                              char real[PATH_MAX], struct ut_error *e)
{
    char joined[PATH_MAX], root[PATH_MAX];
    size_t n;

    if (!d->config->dataset_root)
        return ut_fail(e, UT_ESTATE,
                       "path: this server registers no folders: it was started "
                       "without --dataset-root");
    if (!realpath(d->config->dataset_root, root))
        return srv_dataset_no_file(d->config->dataset_root, e);
    snprintf(joined, sizeof(joined), "%.2000s/%.2000s", root, path);
    if (!realpath(*path == '/' ? path : joined, real))
        return ut_fail(e, UT_EINVAL, "path: %.150s: %s", path, strerror(errno));
    n = strlen(root);
    if (strncmp(real, root, n) || (real[n] && real[n] != '/'))
        return ut_fail(e, UT_EINVAL,
                       "path: \"%.100s\" is not below --dataset-root", path);
    return UT_OK;
}

/* Counts what is registered, and looks at a sample of it. */
static enum ut_err look(Tscaf__V1__DatasetRecord *x, struct ut_error *e)
{
    struct srv_problems problems = {0};
    struct mdl_dataset set;
    struct ut_error why;
    enum ut_err rc = mdl_dataset_open(x->path, &set, e);
    int step;

    if (rc)
        return rc == UT_ENOMEM ? rc : (e->code = UT_EINVAL);
    step = set.n / MAX_LOOKED_AT + 1;
    for (int i = 0; i < set.n; i += step)
        if (!srv_dataset_decodes(set.examples[i].path, &why))
            srv_problem(&problems, "%.60s: %.90s", set.examples[i].path,
                        why.msg);
    rc = srv_dataset_count(x, &set, e);
    if (!rc && x->kind == TSCAF__V1__DATASET_KIND__DATASET_KIND_FATIGUE &&
        mdl_dataset_check_binary(&set, &why))
        srv_problem(&problems, "%s", why.msg);
    mdl_dataset_fini(&set);
    return rc ? rc : srv_dataset_tell(x, &problems, e);
}

static enum ut_err make_folder(struct srv_datasets *d, const char *id,
                               struct ut_error *e)
{
    char folder[PATH_MAX], path[PATH_MAX];
    static const char *const parts[] = {"", "/parts", "/samples"};

    snprintf(path, sizeof(path), "%s/datasets", d->config->data);
    if (mkdir(path, 0700) && errno != EEXIST)
        return srv_dataset_no_file(path, e);
    srv_dataset_folder(d, id, folder);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%.4000s%s", folder, parts[i]);
        if (mkdir(path, 0700))
            return srv_dataset_no_file(path, e);
    }
    return srv_dataset_write(folder, "manifest.tsv", SRV_MANIFEST_HEAD,
                             strlen(SRV_MANIFEST_HEAD), e);
}

enum ut_err srv_dataset_create(struct srv_datasets *d, const char *actor,
                               const Tscaf__V1__CreateDatasetRequest *r,
                               Tscaf__V1__DatasetRecord **out,
                               struct ut_error *e)
{
    Tscaf__V1__DatasetRecord *x = malloc(sizeof(*x));
    char id[SRV_ID_LEN], real[PATH_MAX];
    enum ut_err rc;

    *out = NULL;
    if (!x)
        return ut_fail(e, UT_ENOMEM, "no memory for a dataset");
    tscaf__v1__dataset_record__init(x);
    srv_store_new_id("ds_", id);
    x->kind = r->kind;
    rc = set_text(&x->id, id, e);
    if (!rc)
        rc = set_text(&x->server, d->server, e);
    if (!rc)
        rc = set_text(&x->name, r->name, e);
    if (!rc && !srv_message_set_now(&x->created_at))
        rc = ut_fail(e, UT_ENOMEM, "no memory for a dataset");
    if (!rc && *r->path) {
        rc = registered(d, r->path, real, e);
        if (!rc)
            rc = set_text(&x->path, real, e);
        if (!rc)
            rc = look(x, e);
    } else if (!rc) {
        rc = make_folder(d, id, e);
    }
    if (!rc)
        rc = srv_dataset_put(d, actor, "dataset.create", x, e);
    if (!rc)
        *out = x;
    else
        tscaf__v1__dataset_record__free_unpacked(x, NULL);
    return rc;
}

/* ---- delete, freeze ---- */

static bool uses(const Tscaf__V1__JobRecord *job, const char *id)
{
    bool ended = job->state == TSCAF__V1__JOB_STATE__JOB_STATE_SUCCEEDED ||
                 job->state == TSCAF__V1__JOB_STATE__JOB_STATE_FAILED ||
                 job->state == TSCAF__V1__JOB_STATE__JOB_STATE_CANCELLED;

    return !ended && (!strcmp(job->fatigue_dataset, id) ||
                      !strcmp(job->recognition_dataset, id));
}

#define GONE "gone-" /* before the ID of one that is being deleted */

static void gone_folder(const struct srv_datasets *d, const char *id,
                        char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%.4000s/datasets/" GONE "%s", d->config->data,
             id);
}

void srv_datasets_sweep(struct srv_datasets *d)
{
    char path[PATH_MAX], gone[PATH_MAX], folder[PATH_MAX];
    struct dirent *entry;
    DIR *dir;

    snprintf(path, sizeof(path), "%s/datasets", d->config->data);
    dir = opendir(path);
    while (dir && (entry = readdir(dir))) {
        const char *id = entry->d_name + strlen(GONE);
        Tscaf__V1__DatasetRecord *x;
        struct ut_error e;
        enum ut_err rc;

        if (strncmp(entry->d_name, GONE, strlen(GONE)))
            continue;
        gone_folder(d, id, gone);
        srv_dataset_folder(d, id, folder);
        rc = srv_dataset_get(d, id, &x, &e);
        if (rc == UT_ENOTFOUND)
            ut_remove_tree(gone);
        if (rc)
            continue;
        (void)!rename(gone, folder); /* its record was never deleted */
        tscaf__v1__dataset_record__free_unpacked(x, NULL);
    }
    if (dir)
        closedir(dir);
}

enum ut_err srv_dataset_delete(struct srv_datasets *d, const char *actor,
                               const char *id, struct ut_error *e)
{
    const struct srv_record gone = {SRV_TABLE_DATASET, id, NULL};
    Tscaf__V1__DatasetRecord *x;
    char folder[PATH_MAX], away[PATH_MAX];
    ProtobufCMessage **jobs;
    size_t n;
    enum ut_err rc = srv_dataset_get_own(d, id, &x, e);

    if (rc)
        return rc;
    tscaf__v1__dataset_record__free_unpacked(x, NULL);
    rc = srv_store_list(d->store, SRV_TABLE_JOB,
                        &tscaf__v1__job_record__descriptor, &jobs, &n, e);
    if (rc)
        return rc;
    for (size_t i = 0; i < n && !rc; i++) {
        const Tscaf__V1__JobRecord *job = (const void *)jobs[i];

        if (uses(job, id))
            rc = ut_fail(e, UT_ESTATE,
                         "dataset %.64s is in use by %s, which has not ended",
                         id, job->id);
    }
    srv_messages_free(jobs, n);
    if (rc)
        return rc;
    srv_dataset_index_drop(d, id);
    srv_dataset_folder(d, id, folder);
    gone_folder(d, id, away);
    /* Under a name by which the next start knows it, if this one is killed. */
    (void)!rename(folder, away);
    rc = srv_store_put(d->store, actor, "dataset.delete", id, &gone, 1, e);
    if (rc)
        (void)!rename(away, folder);
    else
        ut_remove_tree(away);
    return rc;
}

enum ut_err srv_dataset_freeze(struct srv_datasets *d, const char *id,
                               Tscaf__V1__DatasetKind kind, const char *job,
                               char *path, size_t size, struct ut_error *e)
{
    Tscaf__V1__DatasetRecord *x;
    char folder[PATH_MAX], from[PATH_MAX], name[64];
    struct ut_buf b;
    enum ut_err rc = srv_dataset_get_own(d, id, &x, e);

    if (rc)
        return rc;
    if (x->kind != kind) {
        rc = ut_fail(e, UT_EINVAL, "dataset %.64s is of the other kind", id);
    } else if (!x->pictures) {
        rc = ut_fail(e, UT_ESTATE, "dataset %.64s has no pictures", id);
    } else if (*x->path) {
        snprintf(path, size, "%s", x->path);
    } else {
        srv_dataset_folder(d, id, folder);
        snprintf(from, sizeof(from), "%.4000s/manifest.tsv", folder);
        snprintf(name, sizeof(name), "%s.tsv", job);
        snprintf(path, size, "%.4000s/%s", folder, name);
        ut_buf_init(&b, SRV_MANIFEST_MAX_BYTES);
        rc = ut_buf_add_file(&b, from, e);
        if (!rc)
            rc = srv_dataset_write(folder, name, b.data, b.len, e);
        ut_buf_fini(&b);
    }
    tscaf__v1__dataset_record__free_unpacked(x, NULL);
    return rc;
}

void srv_dataset_thaw(const char *path, const char *job)
{
    const char *file = strrchr(path, '/');
    size_t n = strlen(job);

    if (file && !strncmp(file + 1, job, n) && !strcmp(file + 1 + n, ".tsv"))
        unlink(path);
}
