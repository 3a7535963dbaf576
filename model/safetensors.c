/* Reading safetensors. Nothing in the file is trusted: every number is
 * checked before it is used, and the message names the tensor. Writing is in
 * safetensors_write.c. */
#include "model/safetensors.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct mdl_st {
    const uint8_t *bytes; /* the whole file          */
    size_t len;
    bool mapped;                   /* unmap at close          */
    json_t *header;                /* owns all names and metadata */
    json_t *meta;                  /* in header, or NULL      */
    struct mdl_st_tensor *tensors; /* owned; in header order */
    size_t n_tensors;
};

static bool dtype_parse(const char *text, enum mdl_dtype *t)
{
    for (int i = MDL_F32; i <= MDL_U8; i++)
        if (!strcmp(text, mdl_dtype_name((enum mdl_dtype)i))) {
            *t = (enum mdl_dtype)i;
            return true;
        }
    return false;
}

/* One member of the header into *t; data is what follows the header. */
static enum ut_err read_tensor(const char *file, const char *name,
                               const json_t *j, const uint8_t *data,
                               size_t data_len, struct mdl_st_tensor *t,
                               struct ut_error *e)
{
    const json_t *dtype = json_object_get(j, "dtype");
    const json_t *shape = json_object_get(j, "shape");
    const json_t *offsets = json_object_get(j, "data_offsets");
    json_int_t begin, end;
    struct ut_error why;
    size_t bytes;

    t->name = name;
    if (!json_is_object(j) || json_object_size(j) != 3 ||
        !json_is_string(dtype) || !json_is_array(shape) ||
        !json_is_array(offsets) || json_array_size(offsets) != 2)
        return ut_fail(e, UT_EFORMAT,
                       "%s: tensor \"%s\" lacks dtype, shape or data_offsets "
                       "or has more",
                       file, name);
    if (!dtype_parse(json_string_value(dtype), &t->dtype))
        return ut_fail(e, UT_EFORMAT,
                       "%s: tensor \"%s\" has dtype \"%s\", "
                       "which is not supported",
                       file, name, json_string_value(dtype));
    if (json_array_size(shape) > MDL_MAX_DIMS)
        return ut_fail(e, UT_EFORMAT,
                       "%s: tensor \"%s\" has %zu dimensions, over %d", file,
                       name, json_array_size(shape), MDL_MAX_DIMS);
    t->shape.n_dims = (int)json_array_size(shape);
    for (int i = 0; i < t->shape.n_dims; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);

        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return ut_fail(e, UT_EFORMAT,
                           "%s: tensor \"%s\": dimension %d is not a whole "
                           "number from 0",
                           file, name, i);
        t->shape.dim[i] = json_integer_value(d);
    }
    if (mdl_shape_bytes(&t->shape, t->dtype, data_len, &bytes, &why))
        return ut_fail(e, UT_EFORMAT, "%s: tensor \"%s\": %s", file, name,
                       why.msg);
    if (!json_is_integer(json_array_get(offsets, 0)) ||
        !json_is_integer(json_array_get(offsets, 1)))
        return ut_fail(e, UT_EFORMAT,
                       "%s: tensor \"%s\": data_offsets are not integers", file,
                       name);
    begin = json_integer_value(json_array_get(offsets, 0));
    end = json_integer_value(json_array_get(offsets, 1));
    if (begin < 0 || end < begin || (uint64_t)end > data_len)
        return ut_fail(e, UT_EFORMAT,
                       "%s: tensor \"%s\": bytes %lld to %lld are outside the "
                       "file's %zu",
                       file, name, (long long)begin, (long long)end, data_len);
    if ((size_t)(end - begin) != bytes)
        return ut_fail(e, UT_EFORMAT,
                       "%s: tensor \"%s\" has %lld bytes where its shape "
                       "needs %zu",
                       file, name, (long long)(end - begin), bytes);
    t->data = data + begin;
    t->len = bytes;
    return UT_OK;
}

static int by_place(const void *a, const void *b)
{
    const struct mdl_st_tensor *x = *(const struct mdl_st_tensor *const *)a;
    const struct mdl_st_tensor *y = *(const struct mdl_st_tensor *const *)b;

    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x->len < y->len ? -1 : x->len > y->len;
}

static enum ut_err check_overlaps(const char *file, const struct mdl_st *st,
                                  struct ut_error *e)
{
    const struct mdl_st_tensor **order;
    enum ut_err rc = UT_OK;

    if (!st->n_tensors)
        return UT_OK;
    order = malloc(st->n_tensors * sizeof(*order));
    if (!order)
        return ut_fail(e, UT_ENOMEM, "%s: no memory for the header", file);
    for (size_t i = 0; i < st->n_tensors; i++)
        order[i] = &st->tensors[i];
    qsort(order, st->n_tensors, sizeof(*order), by_place);
    for (size_t i = 1; i < st->n_tensors && !rc; i++)
        if ((const uint8_t *)order[i - 1]->data + order[i - 1]->len >
            (const uint8_t *)order[i]->data)
            rc = ut_fail(e, UT_EFORMAT, "%s: tensors \"%s\" and \"%s\" overlap",
                         file, order[i - 1]->name, order[i]->name);
    free(order);
    return rc;
}

static enum ut_err read_meta(const char *file, struct mdl_st *st,
                             struct ut_error *e)
{
    const char *key;
    json_t *value;

    st->meta = json_object_get(st->header, "__metadata__");
    if (!st->meta)
        return UT_OK;
    if (!json_is_object(st->meta))
        return ut_fail(e, UT_EFORMAT, "%s: __metadata__ is not an object",
                       file);
    json_object_foreach(
        st->meta, key,
        value) if (!json_is_string(value)) return ut_fail(e, UT_EFORMAT,
                                                          "%s: metadata \"%s\" "
                                                          "is not a text",
                                                          file, key);
    return UT_OK;
}

static enum ut_err read_header(const char *file, struct mdl_st *st,
                               struct ut_error *e)
{
    const uint8_t *data;
    json_error_t why;
    uint64_t head = 0;
    const char *name;
    json_t *value;
    enum ut_err rc;
    size_t n;

    if (st->len < 8)
        return ut_fail(e, UT_EFORMAT, "%s: %zu bytes are no safetensors file",
                       file, st->len);
    for (int i = 7; i >= 0; i--)
        head = head << 8 | st->bytes[i];
    if (head > MDL_ST_MAX_HEADER || head > st->len - 8)
        return ut_fail(e, UT_EFORMAT,
                       "%s: a header of %llu bytes is over the file's %zu or "
                       "the limit of %u",
                       file, (unsigned long long)head, st->len - 8,
                       MDL_ST_MAX_HEADER);
    st->header = json_loadb((const char *)st->bytes + 8, (size_t)head,
                            JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(st->header))
        return ut_fail(e, UT_EFORMAT, "%s: the header is no JSON object: %s",
                       file, st->header ? "wrong type" : why.text);
    rc = read_meta(file, st, e);
    if (rc)
        return rc;
    n = json_object_size(st->header) - (st->meta ? 1 : 0);
    if (n > MDL_ST_MAX_TENSORS)
        return ut_fail(e, UT_EFORMAT,
                       "%s: %zu tensors are over the limit of %d", file, n,
                       MDL_ST_MAX_TENSORS);
    st->tensors = calloc(n + 1, sizeof(*st->tensors));
    if (!st->tensors)
        return ut_fail(e, UT_ENOMEM, "%s: no memory for the header", file);
    data = st->bytes + 8 + head;
    json_object_foreach(st->header, name, value)
    {
        if (value == st->meta)
            continue;
        rc = read_tensor(file, name, value, data, st->len - 8 - (size_t)head,
                         &st->tensors[st->n_tensors], e);
        if (rc)
            return rc;
        st->n_tensors++;
    }
    return check_overlaps(file, st, e);
}

enum ut_err mdl_st_open_memory(const char *name, const void *data, size_t len,
                               struct mdl_st **out, struct ut_error *e)
{
    struct mdl_st *st = calloc(1, sizeof(*st));
    enum ut_err rc;

    *out = NULL;
    if (!st)
        return ut_fail(e, UT_ENOMEM, "%s: no memory for the handle", name);
    st->bytes = data;
    st->len = len;
    rc = read_header(name, st, e);
    if (!rc) {
        *out = st;
        st = NULL;
    }
    mdl_st_close(st);
    return rc;
}

enum ut_err mdl_st_open(const char *path, struct mdl_st **out,
                        struct ut_error *e)
{
    void *map = MAP_FAILED;
    struct stat info;
    enum ut_err rc;
    int fd;

    *out = NULL;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ut_fail(e, UT_EIO, "%s: cannot be opened: %m", path);
    if (fstat(fd, &info) || !S_ISREG(info.st_mode)) {
        rc = ut_fail(e, UT_EIO, "%s: is not a regular file", path);
    } else if (info.st_size < 8) {
        rc = ut_fail(e, UT_EFORMAT, "%s: %lld bytes are no safetensors file",
                     path, (long long)info.st_size);
    } else {
        map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED)
            rc = ut_fail(e, UT_EIO, "%s: cannot be mapped: %m", path);
        else
            rc = mdl_st_open_memory(path, map, (size_t)info.st_size, out, e);
    }
    close(fd);
    if (!rc)
        (*out)->mapped = true;
    else if (map != MAP_FAILED)
        munmap(map, (size_t)info.st_size);
    return rc;
}

void mdl_st_close(struct mdl_st *st)
{
    if (!st)
        return;
    json_decref(st->header);
    free(st->tensors);
    if (st->mapped)
        munmap((void *)(uintptr_t)st->bytes, st->len);
    free(st);
}

size_t mdl_st_count(const struct mdl_st *st)
{
    return st->n_tensors;
}

const struct mdl_st_tensor *mdl_st_at(const struct mdl_st *st, size_t idx)
{
    return &st->tensors[idx];
}

const struct mdl_st_tensor *mdl_st_find(const struct mdl_st *st,
                                        const char *name)
{
    for (size_t i = 0; i < st->n_tensors; i++)
        if (!strcmp(st->tensors[i].name, name))
            return &st->tensors[i];
    return NULL;
}

const char *mdl_st_meta(const struct mdl_st *st, const char *key)
{
    return json_string_value(json_object_get(st->meta, key));
}

bool mdl_st_meta_at(const struct mdl_st *st, size_t idx, const char **key,
                    const char **value)
{
    json_t *v;

    json_object_foreach(st->meta, *key, v) if (idx-- == 0)
    {
        *value = json_string_value(v);
        return true;
    }
    return false;
}

const void *mdl_st_bytes(const struct mdl_st *st, size_t *len)
{
    *len = st->len;
    return st->bytes;
}

enum ut_err mdl_st_floats(const struct mdl_st_tensor *t, float *out,
                          struct ut_error *e)
{
    size_t n = mdl_shape_count(&t->shape);
    uint16_t half[1024];

    if (t->dtype == MDL_F32) {
        memcpy(out, t->data, t->len);
        return UT_OK;
    }
    if (t->dtype != MDL_F16 && t->dtype != MDL_BF16)
        return ut_fail(e, UT_EFORMAT, "tensor \"%s\" is %s, not a float",
                       t->name, mdl_dtype_name(t->dtype));
    /* Through a small aligned buffer, as the file need not be aligned. */
    for (size_t at = 0, part; at < n; at += part) {
        part = n - at < 1024 ? n - at : 1024;
        memcpy(half, (const uint8_t *)t->data + at * 2, part * 2);
        if (t->dtype == MDL_F16)
            mdl_f16_to_f32(half, out + at, part);
        else
            mdl_bf16_to_f32(half, out + at, part);
    }
    return UT_OK;
}
