/* What comes into a dataset: archives, and samples one by one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "server/datasets/dataset_classes.h"
#include "server/datasets/dataset_index.h"
#include "server/datasets/dataset_record.h"

/* ---- upload ---- */

struct upload {
    struct srv_datasets *d;
    Tscaf__V1__DatasetRecord *x;
    char folder[PATH_MAX], part[PATH_MAX];
    const char *name; /* of part, within folder */
    struct srv_classes classes;
    struct ut_buf manifest;
    size_t known; /* bytes of it that were there before */
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
            return srv_dataset_no_file(u->part, e);
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
    if (!srv_dataset_decodes(x->path, &why)) {
        srv_problem(&u->problems, "%.60s: %.90s", name, why.msg);
        unlink(x->path);
        return UT_OK;
    }
    if (x->label >= 0 || u->classes.fixed) { /* fatigue's have to have one */
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
    u->known = u->manifest.len;
    return rc;
}

/* Takes back what came, so that an archive that is sent again is there once. */
static void take_back(struct upload *u)
{
    struct ut_error e;

    if (srv_dataset_write(u->folder, "manifest.tsv", u->manifest.data, u->known,
                          &e) == UT_OK)
        ut_remove_tree(u->part);
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
    rc = srv_dataset_count(u->x, &set, e);
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
        rc = srv_dataset_write(u->folder, "manifest.tsv", u->manifest.data,
                               u->manifest.len, e);
    return rc;
}

/* The record becomes the caller's where all went well. */
static void finish(struct upload *u, enum ut_err rc,
                   Tscaf__V1__DatasetRecord **out)
{
    if (!rc)
        *out = u->x;
    else if (u->x)
        tscaf__v1__dataset_record__free_unpacked(u->x, NULL);
    srv_classes_fini(&u->classes);
    ut_buf_fini(&u->manifest);
    free(u);
}

enum ut_err srv_dataset_upload(struct srv_datasets *d, const char *actor,
                               const Tscaf__V1__UploadDatasetRequest *r,
                               Tscaf__V1__DatasetRecord **out,
                               struct ut_error *e)
{
    struct upload *u = calloc(1, sizeof(*u));
    bool taken = false;
    int64_t bytes = 0;
    enum ut_err rc;

    *out = NULL;
    if (!u)
        return ut_fail(e, UT_ENOMEM, "no memory for an archive");
    u->d = d;
    rc = srv_dataset_get_own(d, r->id, &u->x, e);
    if (!rc)
        rc = own(u->x, e);
    if (!rc) {
        srv_dataset_folder(d, r->id, u->folder);
        rc = make_part(u, e);
    }
    if (!rc) {
        rc = take_archive(u, r, &bytes, e);
        taken = !rc;
        if (rc)
            ut_remove_tree(u->part);
    }
    if (!rc)
        rc = recount(u, e);
    if (!rc)
        rc = srv_dataset_tell(u->x, &u->problems, e);
    if (!rc) {
        u->x->bytes += (uint64_t)bytes;
        rc = srv_dataset_put(d, actor, "dataset.upload", u->x, e);
    }
    if (rc && taken)
        take_back(u);
    srv_dataset_index_drop(d, r->id); /* of the manifest before */
    finish(u, rc, out);
    return rc;
}

/* ---- samples ---- */

/* What a sample may not be. */
static enum ut_err check_sample(const struct srv_datasets *d,
                                const Tscaf__V1__DatasetRecord *x,
                                const Tscaf__V1__AddSampleRequest *r,
                                size_t len, struct ut_error *e)
{
    enum ut_err rc = own(x, e);

    if (!rc && *r->group && !srv_classes_name_ok(r->group))
        rc = ut_fail(e, UT_EINVAL, "group: is not 1 to %d printable bytes",
                     SRV_CLASS_MAX_NAME);
    if (!rc && (int64_t)(x->bytes + len) > d->config->dataset_max_bytes)
        rc = ut_fail(e, UT_EBUSY, "dataset %s: over %lld bytes, the limit",
                     r->id, (long long)d->config->dataset_max_bytes);
    return rc;
}

/* Takes back the line of a sample that the record does not count. */
static void take_back_sample(struct srv_datasets *d, const char *dataset,
                             const char *id, off_t size)
{
    char folder[PATH_MAX], path[PATH_MAX];

    srv_dataset_folder(d, dataset, folder);
    snprintf(path, sizeof(path), "%.4000s/manifest.tsv", folder);
    if (truncate(path, size))
        return;
    snprintf(path, sizeof(path), "%.4000s/samples/%s.png", folder, id);
    unlink(path);
}

/* The picture, then its class if that is new, then its line. */
static enum ut_err write_sample(struct srv_datasets *d,
                                const Tscaf__V1__AddSampleRequest *r,
                                const uint8_t *png, size_t len, const char *id,
                                struct srv_dataset_index *i, int *label,
                                struct ut_error *e)
{
    char folder[PATH_MAX], name[80], line[320];
    int classes = i->classes.n;
    enum ut_err rc = srv_classes_label(&i->classes, r->label, label, e);

    if (rc)
        return rc;
    snprintf(name, sizeof(name), "samples/%s.png", id);
    snprintf(line, sizeof(line), "%s\t%d\t%s\n", name, *label, r->group);
    srv_dataset_folder(d, r->id, folder);
    if (i->size + (off_t)strlen(line) > SRV_MANIFEST_MAX_BYTES)
        return ut_fail(e, UT_EBUSY,
                       "dataset %s: its manifest is over %u bytes, the limit",
                       r->id, SRV_MANIFEST_MAX_BYTES);
    rc = srv_dataset_write(folder, name, png, len, e);
    if (!rc)
        rc = srv_classes_append(&i->classes, folder, classes, e);
    if (!rc)
        rc = srv_dataset_append(folder, "manifest.tsv", line, &i->size, e);
    return rc ? rc : srv_dataset_index_add(i, *label, r->group, e);
}

enum ut_err srv_dataset_add_sample(struct srv_datasets *d, const char *actor,
                                   const Tscaf__V1__AddSampleRequest *r,
                                   const uint8_t *png, size_t len,
                                   char id[SRV_ID_LEN], uint32_t *label,
                                   Tscaf__V1__DatasetRecord **out,
                                   struct ut_error *e)
{
    Tscaf__V1__DatasetRecord *x;
    struct srv_dataset_index *i = NULL;
    off_t known = -1; /* bytes of the manifest before */
    int n = 0;
    enum ut_err rc = srv_dataset_get_own(d, r->id, &x, e);

    *out = NULL;
    if (rc)
        return rc;
    rc = check_sample(d, x, r, len, e);
    if (!rc)
        rc = srv_dataset_index(d, x, &i, e);
    if (!rc) {
        srv_store_new_id("sample_", id);
        known = i->size;
        rc = write_sample(d, r, png, len, id, i, &n, e);
    }
    if (!rc) {
        *label = (uint32_t)n;
        x->pictures = i->pictures;
        x->classes = i->n_classes;
        x->groups = i->n_groups;
        x->bytes += len;
        rc = srv_dataset_put(d, actor, "dataset.sample", x, e);
    }
    if (!rc) {
        *out = x;
        return UT_OK;
    }
    if (known >= 0)
        take_back_sample(d, r->id, id, known);
    srv_dataset_index_drop(d, r->id); /* it may count what is not there */
    tscaf__v1__dataset_record__free_unpacked(x, NULL);
    return rc;
}
