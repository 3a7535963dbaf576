/* What the store and the folder of a dataset hold, kept in step. */
#include "server/datasets/dataset_record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "model/vision/image.h"
#include "server/calls/message.h"

#define MAX_PICTURE (32u * 1024 * 1024)

/* ---- the folder ---- */

enum ut_err srv_dataset_no_file(const char *path, struct ut_error *e)
{
    return ut_fail(e, UT_EIO, "%.150s: %s", path, strerror(errno));
}

void srv_dataset_folder(const struct srv_datasets *d, const char *id,
                        char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s/datasets/%s", d->config->data, id);
}

enum ut_err srv_dataset_write(const char *folder, const char *name,
                              const void *data, size_t len, struct ut_error *e)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%.4000s/%s", folder, name);
    return ut_file_write(path, data, len, e);
}

enum ut_err srv_dataset_append(const char *folder, const char *name,
                               const char *lines, off_t *size,
                               struct ut_error *e)
{
    char path[PATH_MAX], last = '\n';
    enum ut_err rc = UT_OK;
    size_t len = strlen(lines);
    off_t end;
    int fd;

    snprintf(path, sizeof(path), "%.4000s/%s", folder, name);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return srv_dataset_no_file(path, e);
    end = lseek(fd, 0, SEEK_END);
    /* A line that a crash cut short was never acknowledged. */
    while (end > 0 && pread(fd, &last, 1, end - 1) == 1 && last != '\n')
        end--;
    errno = ENOSPC; /* of a write that is short */
    if (ftruncate(fd, end) || pwrite(fd, lines, len, end) != (ssize_t)len ||
        fsync(fd)) {
        rc = srv_dataset_no_file(path, e);
        (void)!ftruncate(fd, end); /* no half of a line is taken for one */
    }
    close(fd);
    if (size)
        *size = end + (off_t)len;
    return rc;
}

bool srv_dataset_decodes(const char *path, struct ut_error *e)
{
    struct mdl_image im = {0};
    struct ut_buf b;
    bool ok;

    ut_buf_init(&b, MAX_PICTURE);
    ok = !ut_buf_add_file(&b, path, e) &&
         !mdl_image_decode((const uint8_t *)b.data, b.len, 0, &im, e);
    mdl_image_fini(&im);
    ut_buf_fini(&b);
    return ok;
}

/* ---- the record ---- */

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

enum ut_err srv_dataset_get_own(struct srv_datasets *d, const char *id,
                                Tscaf__V1__DatasetRecord **out,
                                struct ut_error *e)
{
    enum ut_err rc = srv_dataset_get(d, id, out, e);
    Tscaf__V1__DatasetRecord *x = *out;

    /* A registered folder may be mounted everywhere. */
    if (rc || *x->path || !srv_store_shared(d->store) ||
        !strcmp(x->server, d->server))
        return rc;
    ut_fail(e, UT_ESTATE, "the pictures of dataset %.64s are on server %.64s",
            id, x->server);
    tscaf__v1__dataset_record__free_unpacked(x, NULL);
    *out = NULL;
    return e->code;
}

enum ut_err srv_dataset_put(struct srv_datasets *d, const char *actor,
                            const char *action, Tscaf__V1__DatasetRecord *x,
                            struct ut_error *e)
{
    const struct srv_record r = {SRV_TABLE_DATASET, x->id, &x->base};

    return srv_message_set_now(&x->updated_at)
               ? srv_store_put(d->store, actor, action, x->id, &r, 1, e)
               : ut_fail(e, UT_ENOMEM, "no memory for a dataset");
}

enum ut_err srv_dataset_tell(Tscaf__V1__DatasetRecord *x,
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

enum ut_err srv_dataset_count(Tscaf__V1__DatasetRecord *x,
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
