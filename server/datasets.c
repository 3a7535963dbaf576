/* Datasets on disk and in the store. */
#include "server/datasets.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "model/data/dataset.h"
#include "model/vision/image.h"
#include "server/archive.h"
#include "server/dataset_classes.h"
#include "server/message.h"

#define MAX_LOOKED_AT 2000 /* pictures of a registered folder */
#define HEAD "file\tlabel\tgroup\n"

/* ---- files ---- */

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

void srv_remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static enum ut_err no_file(const char *path, struct ut_error *e)
{
    return ut_fail(e, UT_EIO, "%.150s: %s", path, strerror(errno));
}

static void folder_of(const struct srv_datasets *d, const char *id, char *out)
{
    snprintf(out, PATH_MAX, "%s/datasets/%s", d->config->data, id);
}

static enum ut_err write_whole(const char *folder, const char *name,
                               const void *data, size_t len, struct ut_error *e)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%.4000s/%s", folder, name);
    return ut_file_write(path, data, len, e);
}

/* ---- counts ---- */

static enum ut_err set_text(char **field, const char *text, struct ut_error *e)
{
    return srv_message_set(field, text)
               ? UT_OK
               : ut_fail(e, UT_ENOMEM, "no memory for a dataset");
}

static enum ut_err set_time(char **field, struct ut_error *e)
{
    return srv_message_set_now(field)
               ? UT_OK
               : ut_fail(e, UT_ENOMEM, "no memory for a dataset");
}

/* Adds what was left out to the record, which keeps the last ones. */
static enum ut_err tell(Tscaf__V1__DatasetRecord *x,
                        const struct srv_problems *p, struct ut_error *e)
{
    uint32_t kept = p->n < SRV_PROBLEMS_KEPT ? p->n : SRV_PROBLEMS_KEPT;
    size_t room = SRV_PROBLEMS_KEPT - kept;
    size_t old = x->n_problems < room ? x->n_problems : room;
    char **list = calloc(old + kept + 1, sizeof(char *));

    if (!list)
        return ut_fail(e, UT_ENOMEM, "no memory for a dataset");
    for (size_t i = 0; i < x->n_problems; i++)
        if (i + old < x->n_problems)
            free(x->problems[i]);
        else
            list[i + old - x->n_problems] = x->problems[i];
    free(x->problems);
    x->problems = list;
    x->n_problems = old;
    x->problem_count += p->n;
    for (uint32_t i = p->n - kept; i < p->n; i++) {
        list[x->n_problems] = strdup(p->text[i % SRV_PROBLEMS_KEPT]);
        if (!list[x->n_problems])
            return ut_fail(e, UT_ENOMEM, "no memory for a dataset");
        x->n_problems++;
    }
    return UT_OK;
}

static int by_label(const void *a, const void *b)
{
    int32_t p = *(const int32_t *)a, q = *(const int32_t *)b;

    return (p > q) - (p < q);
}

/* Pictures, classes and groups, as training will see them. */
static enum ut_err count(Tscaf__V1__DatasetRecord *x,
                         const struct mdl_dataset *set, struct ut_error *e)
{
    int32_t *labels = malloc(((size_t)set->n + 1) * sizeof(*labels));

    if (!labels)
        return ut_fail(e, UT_ENOMEM, "no memory for labels");
    for (int i = 0; i < set->n; i++)
        labels[i] = set->examples[i].label;
    qsort(labels, (size_t)set->n, sizeof(*labels), by_label);
    x->pictures = (uint32_t)set->n;
    x->groups = (uint32_t)set->groups;
    x->classes = 0;
    for (int i = 0; i < set->n; i++)
        x->classes += labels[i] >= 0 && (!i || labels[i] != labels[i - 1]);
    free(labels);
    return UT_OK;
}

static bool decodes(const char *path, struct ut_error *e)
{
    struct mdl_image im = {0};
    struct ut_buf b;
    bool ok;

    ut_buf_init(&b, 32 * 1024 * 1024);
    ok = !ut_buf_add_file(&b, path, e) &&
         !mdl_image_decode((const uint8_t *)b.data, b.len, 0, &im, e);
    mdl_image_fini(&im);
    ut_buf_fini(&b);
    return ok;
}

/* ---- records ---- */

enum ut_err srv_dataset_get(struct srv_datasets *d, const char *id,
                            Tscaf__V1__DatasetRecord **out, struct ut_error *e)
{
    ProtobufCMessage *m;
    enum ut_err rc =
        srv_store_get(d->store, SRV_TABLE_DATASET, id,
                      &tscaf__v1__dataset_record__descriptor, &m, e);

    *out = (Tscaf__V1__DatasetRecord *)m;
    return rc;
}

static enum ut_err put(struct srv_datasets *d, const char *actor,
                       const char *action, Tscaf__V1__DatasetRecord *x,
                       struct ut_error *e)
{
    const struct srv_record r = {SRV_TABLE_DATASET, x->id, &x->base};
    enum ut_err rc = set_time(&x->updated_at, e);

    return rc ? rc : srv_store_put(d->store, actor, action, x->id, &r, 1, e);
}

/* ---- create ---- */

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
        return no_file(d->config->dataset_root, e);
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
        if (!decodes(set.examples[i].path, &why))
            srv_problem(&problems, "%.60s: %.90s", set.examples[i].path,
                        why.msg);
    rc = count(x, &set, e);
    if (!rc && x->kind == TSCAF__V1__DATASET_KIND__DATASET_KIND_FATIGUE &&
        set.classes > 2)
        srv_problem(&problems,
                    "labels go to %d; those over 1 are taken for drowsy",
                    set.classes - 1);
    mdl_dataset_fini(&set);
    return rc ? rc : tell(x, &problems, e);
}

static enum ut_err make_folder(struct srv_datasets *d, const char *id,
                               struct ut_error *e)
{
    char folder[PATH_MAX], path[PATH_MAX];
    static const char *const parts[] = {"", "/parts", "/samples"};

    snprintf(path, sizeof(path), "%s/datasets", d->config->data);
    if (mkdir(path, 0700) && errno != EEXIST)
        return no_file(path, e);
    folder_of(d, id, folder);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%.4000s%s", folder, parts[i]);
        if (mkdir(path, 0700))
            return no_file(path, e);
    }
    return write_whole(folder, "manifest.tsv", HEAD, strlen(HEAD), e);
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
        rc = set_text(&x->name, r->name, e);
    if (!rc)
        rc = set_time(&x->created_at, e);
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
        rc = put(d, actor, "dataset.create", x, e);
    if (!rc)
        *out = x;
    else
        tscaf__v1__dataset_record__free_unpacked(x, NULL);
    return rc;
}

/* ---- upload ---- */

struct upload {
    struct srv_datasets *d;
    Tscaf__V1__DatasetRecord *x;
    char folder[PATH_MAX], part[PATH_MAX];
    const char *name; /* of part, within folder */
    struct srv_classes classes;
    struct ut_buf manifest;
    struct srv_problems problems;
};

static enum ut_err own(const Tscaf__V1__DatasetRecord *x, struct ut_error *e)
{
    return *x->path ? ut_fail(e, UT_ESTATE,
                              "dataset %s is a registered folder: pictures are "
                              "added there",
                              x->id)
                    : UT_OK;
}

/* A new folder below parts. */
static enum ut_err make_part(struct upload *u, struct ut_error *e)
{
    for (int i = 0; i < 100000; i++) {
        snprintf(u->part, sizeof(u->part), "%.4000s/parts/%05d", u->folder, i);
        if (!mkdir(u->part, 0700)) {
            u->name = strrchr(u->part, '/') - 5;
            return UT_OK;
        }
        if (errno != EEXIST)
            return no_file(u->part, e);
    }
    return ut_fail(e, UT_EBUSY, "dataset %s: 100000 archives, the limit",
                   u->x->id);
}

/* The archive's own name for the picture's class: its folder's, or the number
 * that its manifest says. */
static void class_of(const struct mdl_example *x, bool by_folder, char *out,
                     size_t size)
{
    const char *file = strrchr(x->path, '/'), *dir;

    if (!by_folder) {
        snprintf(out, size, "%d", x->label);
        return;
    }
    for (dir = file; dir > x->path && dir[-1] != '/';)
        dir--;
    snprintf(out, size, "%.*s", (int)(file - dir), dir);
}

static enum ut_err add_example(struct upload *u, const struct mdl_dataset *set,
                               const struct mdl_example *x, bool by_folder,
                               struct ut_error *e)
{
    const char *name = x->path + strlen(u->part) + 1;
    const char *group = x->group >= 0 ? set->group[x->group] : "";
    char class[SRV_ARCHIVE_MAX_NAME + 1];
    struct ut_error why;
    struct stat st;
    int label = -1;
    enum ut_err rc;

    if (!srv_archive_name_ok(name) || lstat(x->path, &st) ||
        !S_ISREG(st.st_mode)) {
        srv_problem(&u->problems, "%.120s: is not in the archive", name);
        return UT_OK;
    }
    if (!decodes(x->path, &why)) {
        srv_problem(&u->problems, "%.60s: %.90s", name, why.msg);
        unlink(x->path);
        return UT_OK;
    }
    if (x->label >= 0) {
        class_of(x, by_folder, class, sizeof(class));
        rc = srv_classes_label(&u->classes, class, &label, &why);
        if (rc == UT_EINVAL) {
            srv_problem(&u->problems, "%.60s: %.90s", name, why.msg);
            return UT_OK;
        }
        if (rc)
            return ut_fail(e, rc, "%s", why.msg);
    }
    if (*group && !srv_classes_name_ok(group)) {
        srv_problem(&u->problems, "%.100s: its group is no plain text", name);
        group = "";
    }
    return ut_buf_addf(&u->manifest, e, "%s/%s\t%d\t%s\n", u->name, name, label,
                       group);
}

/* Takes the unpacked part into the manifest. */
static enum ut_err take_part(struct upload *u, struct ut_error *e)
{
    char path[PATH_MAX];
    struct mdl_dataset set;
    bool by_folder;
    enum ut_err rc;
    size_t before;

    snprintf(path, sizeof(path), "%.4000s/manifest.tsv", u->part);
    by_folder = access(path, F_OK) != 0;
    rc = mdl_dataset_open(by_folder ? u->part : path, &set, e);
    if (rc == UT_EFORMAT && by_folder)
        return ut_fail(e, UT_EFORMAT,
                       "archive: has neither a folder for each class with "
                       "pictures in it nor a manifest.tsv (%u files left out)",
                       u->problems.n);
    if (rc)
        return rc == UT_ENOMEM ? rc : (e->code = UT_EFORMAT);
    before = u->manifest.len;
    for (int i = 0; i < set.n && !rc; i++)
        rc = add_example(u, &set, &set.examples[i], by_folder, e);
    mdl_dataset_fini(&set);
    if (!rc && u->manifest.len == before)
        rc =
            ut_fail(e, UT_EFORMAT, "archive: no picture could be taken; %.150s",
                    u->problems.n ? u->problems.text[0] : "it has none");
    return rc;
}

/* The old manifest, up to its last whole line. */
static enum ut_err read_manifest(struct upload *u, struct ut_error *e)
{
    char path[PATH_MAX];
    enum ut_err rc;

    ut_buf_init(&u->manifest, SRV_MANIFEST_MAX_BYTES);
    snprintf(path, sizeof(path), "%.4000s/manifest.tsv", u->folder);
    rc = ut_buf_add_file(&u->manifest, path, e);
    while (!rc && u->manifest.len &&
           u->manifest.data[u->manifest.len - 1] != '\n')
        u->manifest.len--;
    return rc;
}

static enum ut_err recount(struct upload *u, struct ut_error *e)
{
    char path[PATH_MAX];
    struct mdl_dataset set;
    enum ut_err rc;

    snprintf(path, sizeof(path), "%.4000s/manifest.tsv", u->folder);
    rc = mdl_dataset_open(path, &set, e);
    if (rc)
        return rc;
    rc = count(u->x, &set, e);
    mdl_dataset_fini(&set);
    return rc;
}

static enum ut_err take_archive(struct upload *u,
                                const Tscaf__V1__UploadDatasetRequest *r,
                                int64_t *bytes, struct ut_error *e)
{
    enum ut_err rc = srv_classes_read(&u->classes, u->folder, u->x->kind, e);
    int64_t room = u->d->config->dataset_max_bytes - (int64_t)u->x->bytes;

    if (!rc)
        rc = read_manifest(u, e);
    if (!rc)
        rc = srv_archive_unpack(r->archive.data, r->archive.len, u->part,
                                room > 0 ? room : 0, bytes, &u->problems, e);
    if (!rc)
        rc = take_part(u, e);
    /* Classes first: a manifest never names one that is not there. */
    if (!rc)
        rc = srv_classes_write(&u->classes, u->folder, e);
    if (!rc)
        rc = write_whole(u->folder, "manifest.tsv", u->manifest.data,
                         u->manifest.len, e);
    return rc;
}

enum ut_err srv_dataset_upload(struct srv_datasets *d, const char *actor,
                               const Tscaf__V1__UploadDatasetRequest *r,
                               Tscaf__V1__DatasetRecord **out,
                               struct ut_error *e)
{
    struct upload *u = calloc(1, sizeof(*u));
    int64_t bytes = 0;
    enum ut_err rc;

    *out = NULL;
    if (!u)
        return ut_fail(e, UT_ENOMEM, "no memory for an archive");
    u->d = d;
    rc = srv_dataset_get(d, r->id, &u->x, e);
    if (!rc)
        rc = own(u->x, e);
    if (!rc) {
        folder_of(d, r->id, u->folder);
        rc = make_part(u, e);
    }
    if (!rc) {
        rc = take_archive(u, r, &bytes, e);
        if (rc)
            srv_remove_tree(u->part);
    }
    if (!rc)
        rc = recount(u, e);
    if (!rc)
        rc = tell(u->x, &u->problems, e);
    if (!rc) {
        u->x->bytes += (uint64_t)bytes;
        rc = put(d, actor, "dataset.upload", u->x, e);
    }
    if (!rc) {
        *out = u->x;
        u->x = NULL;
    }
    if (u->x)
        tscaf__v1__dataset_record__free_unpacked(u->x, NULL);
    srv_classes_fini(&u->classes);
    ut_buf_fini(&u->manifest);
    free(u);
    return rc;
}

/* ---- samples ---- */

static enum ut_err append(const char *folder, const char *line,
                          struct ut_error *e)
{
    char path[PATH_MAX], last = '\n';
    enum ut_err rc = UT_OK;
    off_t end;
    int fd;

    snprintf(path, sizeof(path), "%.4000s/manifest.tsv", folder);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return no_file(path, e);
    end = lseek(fd, 0, SEEK_END);
    /* A line that a crash cut short was never acknowledged. */
    while (end > 0 && pread(fd, &last, 1, end - 1) == 1 && last != '\n')
        end--;
    if (ftruncate(fd, end) || pwrite(fd, line, strlen(line), end) < 0 ||
        fsync(fd))
        rc = no_file(path, e);
    close(fd);
    return rc;
}

enum ut_err srv_dataset_add_sample(struct srv_datasets *d, const char *actor,
                                   const Tscaf__V1__AddSampleRequest *r,
                                   const uint8_t *png, size_t len,
                                   char id[SRV_ID_LEN], uint32_t *label,
                                   Tscaf__V1__DatasetRecord **out,
                                   struct ut_error *e)
{
    struct upload *u = calloc(1, sizeof(*u));
    char name[80], line[320];
    int n = 0;
    enum ut_err rc;

    *out = NULL;
    if (!u)
        return ut_fail(e, UT_ENOMEM, "no memory for a sample");
    u->d = d;
    rc = srv_dataset_get(d, r->id, &u->x, e);
    if (!rc)
        rc = own(u->x, e);
    folder_of(d, r->id, u->folder);
    if (!rc)
        rc = srv_classes_read(&u->classes, u->folder, u->x->kind, e);
    if (!rc)
        rc = srv_classes_label(&u->classes, r->label, &n, e);
    if (!rc && *r->group && !srv_classes_name_ok(r->group))
        rc = ut_fail(e, UT_EINVAL, "group: is not 1 to %d printable bytes",
                     SRV_CLASS_MAX_NAME);
    if (!rc && (int64_t)(u->x->bytes + len) > d->config->dataset_max_bytes)
        rc = ut_fail(e, UT_EBUSY, "dataset %s: over %lld bytes, the limit",
                     r->id, (long long)d->config->dataset_max_bytes);
    if (!rc) {
        srv_store_new_id("sample_", id);
        snprintf(name, sizeof(name), "samples/%s.png", id);
        snprintf(line, sizeof(line), "%s\t%d\t%s\n", name, n, r->group);
        rc = write_whole(u->folder, name, png, len, e);
    }
    if (!rc)
        rc = srv_classes_write(&u->classes, u->folder, e);
    if (!rc)
        rc = append(u->folder, line, e);
    if (!rc)
        rc = recount(u, e);
    if (!rc) {
        *label = (uint32_t)n;
        u->x->bytes += len;
        rc = put(d, actor, "dataset.sample", u->x, e);
    }
    if (!rc) {
        *out = u->x;
        u->x = NULL;
    }
    if (u->x)
        tscaf__v1__dataset_record__free_unpacked(u->x, NULL);
    srv_classes_fini(&u->classes);
    free(u);
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

enum ut_err srv_dataset_delete(struct srv_datasets *d, const char *actor,
                               const char *id, struct ut_error *e)
{
    const struct srv_record gone = {SRV_TABLE_DATASET, id, NULL};
    char folder[PATH_MAX];
    ProtobufCMessage **jobs;
    size_t n;
    enum ut_err rc =
        srv_store_list(d->store, SRV_TABLE_JOB,
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
    if (!rc)
        rc = srv_store_put(d->store, actor, "dataset.delete", id, &gone, 1, e);
    if (rc)
        return rc;
    folder_of(d, id, folder);
    srv_remove_tree(folder);
    return UT_OK;
}

enum ut_err srv_dataset_freeze(struct srv_datasets *d, const char *id,
                               Tscaf__V1__DatasetKind kind, const char *job,
                               char *path, size_t size, struct ut_error *e)
{
    Tscaf__V1__DatasetRecord *x;
    char folder[PATH_MAX], from[PATH_MAX], name[64];
    struct ut_buf b;
    enum ut_err rc = srv_dataset_get(d, id, &x, e);

    if (rc)
        return rc;
    if (x->kind != kind) {
        rc = ut_fail(e, UT_EINVAL, "dataset %.64s is of the other kind", id);
    } else if (!x->pictures) {
        rc = ut_fail(e, UT_ESTATE, "dataset %.64s has no pictures", id);
    } else if (*x->path) {
        snprintf(path, size, "%s", x->path);
    } else {
        folder_of(d, id, folder);
        snprintf(from, sizeof(from), "%.4000s/manifest.tsv", folder);
        snprintf(name, sizeof(name), "%s.tsv", job);
        snprintf(path, size, "%.4000s/%s", folder, name);
        ut_buf_init(&b, SRV_MANIFEST_MAX_BYTES);
        rc = ut_buf_add_file(&b, from, e);
        if (!rc)
            rc = write_whole(folder, name, b.data, b.len, e);
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
