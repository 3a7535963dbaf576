/* Writing safetensors: header by jansson, data as it is, then fsync and
 * rename, so that a reader sees the old file or the new one. */
#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/utf8.h"

#define ALIGN 64 /* bytes: a cache line, enough for every vector load */

static size_t aligned(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* The header's JSON text, malloc'ed, or NULL without memory. */
static char *header_text(const struct mdl_st_tensor *tensors, size_t n_tensors,
                         const struct mdl_st_pair *meta, size_t n_meta)
{
    json_t *head = json_object(), *pairs = json_object();
    bool ok = head && pairs;
    size_t at = 0;
    char *text;

    for (size_t i = 0; ok && i < n_meta; i++)
        ok = !json_object_set_new(pairs, meta[i].key,
                                  json_string(meta[i].value));
    if (ok && n_meta)
        ok = !json_object_set(head, "__metadata__", pairs);
    for (size_t i = 0; ok && i < n_tensors; i++) {
        const struct mdl_st_tensor *t = &tensors[i];
        json_t *shape = json_array();

        for (int d = 0; ok && d < t->shape.n_dims; d++)
            ok = !json_array_append_new(shape, json_integer(t->shape.dim[d]));
        ok = ok && !json_object_set_new(
                       head, t->name,
                       json_pack("{s:s, s:O, s:[I,I]}", "dtype",
                                 mdl_dtype_name(t->dtype), "shape", shape,
                                 "data_offsets", (json_int_t)at,
                                 (json_int_t)(at + t->len)));
        json_decref(shape);
        at += t->len;
    }
    text = ok ? json_dumps(head, JSON_COMPACT) : NULL;
    json_decref(head);
    json_decref(pairs);
    return text;
}

static bool write_all(int fd, const void *data, size_t len)
{
    const char *p = data;

    while (len) {
        ssize_t n = write(fd, p, len > 1 << 30 ? 1 << 30 : len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static enum ut_err check(const char *path, const struct mdl_st_tensor *tensors,
                         size_t n, const struct mdl_st_pair *meta,
                         size_t n_meta, struct ut_error *e)
{
    for (size_t i = 0; i < n_meta; i++)
        if (!ut_utf8_ok(meta[i].key) || !ut_utf8_ok(meta[i].value))
            return ut_fail(e, UT_EINVAL,
                           "%.120s: metadata \"%.60s\" is not UTF-8", path,
                           meta[i].key);
    for (size_t i = 0; i < n; i++) {
        const struct mdl_st_tensor *t = &tensors[i];

        if (!ut_utf8_ok(t->name))
            return ut_fail(e, UT_EINVAL,
                           "%.120s: tensor \"%.60s\"'s name is not UTF-8", path,
                           t->name);
        if (t->len != mdl_shape_count(&t->shape) * mdl_dtype_size(t->dtype))
            return ut_fail(e, UT_EINVAL,
                           "%s: tensor \"%s\" has %zu bytes against its shape",
                           path, t->name, t->len);
        if (!strcmp(t->name, "__metadata__"))
            return ut_fail(e, UT_EINVAL, "%s: a tensor may not be called %s",
                           path, t->name);
        for (size_t k = 0; k < i; k++)
            if (!strcmp(t->name, tensors[k].name))
                return ut_fail(e, UT_EINVAL,
                               "%s: two tensors are called "
                               "\"%s\"",
                               path, t->name);
    }
    return UT_OK;
}

static bool sync_folder(const char *path)
{
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_CLOEXEC) : -1;
    bool ok = fd >= 0 && !fsync(fd);

    if (fd >= 0)
        close(fd);
    free(copy);
    return ok;
}

enum ut_err mdl_st_write(const char *path, const struct mdl_st_tensor *tensors,
                         size_t n_tensors, const struct mdl_st_pair *meta,
                         size_t n_meta, struct ut_error *e)
{
    enum ut_err rc = check(path, tensors, n_tensors, meta, n_meta, e);
    char *temp = NULL, *head = NULL;
    uint8_t size[8];
    size_t padded;
    int fd = -1;

    if (rc)
        return rc;
    head = header_text(tensors, n_tensors, meta, n_meta);
    if (!head || asprintf(&temp, "%s.tmp-%ld", path, (long)getpid()) < 0) {
        rc = ut_fail(e, UT_ENOMEM, "%s: no memory for the header", path);
        temp = NULL;
        goto out;
    }
    padded = aligned(strlen(head) + 8) - 8;
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)((uint64_t)padded >> 8 * i);
    fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        rc = ut_fail(e, UT_EIO, "%s: cannot be created: %m", temp);
        goto out;
    }
    if (!write_all(fd, size, 8) || !write_all(fd, head, strlen(head)))
        goto io;
    for (size_t i = strlen(head); i < padded; i++)
        if (!write_all(fd, " ", 1))
            goto io;
    for (size_t i = 0; i < n_tensors; i++)
        if (!write_all(fd, tensors[i].data, tensors[i].len))
            goto io;
    if (fsync(fd) || rename(temp, path) || !sync_folder(path))
        goto io;
    goto out;
io:
    rc = ut_fail(e, UT_EIO, "%s: cannot be written: %m", path);
    unlink(temp);
out:
    if (fd >= 0)
        close(fd);
    free(temp);
    free(head);
    return rc;
}
