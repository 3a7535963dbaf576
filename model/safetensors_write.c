/* Writing safetensors: header by jansson, data as it is. */
#include "model/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/utf8.h"

#define ALIGN 64 /* bytes: a cache line, enough for every vector load */

static size_t aligned(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* The header as JSON, or NULL without memory. */
static json_t *header_json(const struct mdl_st_tensor *tensors,
                           size_t n_tensors, const struct mdl_st_pair *meta,
                           size_t n_meta)
{
    json_t *head = json_object(), *pairs = json_object();
    bool ok = head && pairs;
    size_t at = 0;

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
    json_decref(pairs);
    if (ok)
        return head;
    json_decref(head);
    return NULL;
}

static enum ut_err check(const char *path, const struct mdl_st_tensor *tensors,
                         size_t n, const struct mdl_st_pair *meta,
                         size_t n_meta, struct ut_error *e)
{
    if (n > MDL_ST_MAX_TENSORS)
        return ut_fail(e, UT_EINVAL,
                       "%.120s: %zu tensors are over the limit of %d", path, n,
                       MDL_ST_MAX_TENSORS);
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

enum ut_err mdl_st_write(const char *path, const struct mdl_st_tensor *tensors,
                         size_t n_tensors, const struct mdl_st_pair *meta,
                         size_t n_meta, struct ut_error *e)
{
    enum ut_err rc = check(path, tensors, n_tensors, meta, n_meta, e);
    struct ut_file_part *parts;
    size_t text, len;
    json_t *json;
    char *head;

    if (rc)
        return rc;
    json = header_json(tensors, n_tensors, meta, n_meta);
    /* Not by json_dumps, which leaves out what it has no memory for. */
    text = json ? json_dumpb(json, NULL, 0, JSON_COMPACT) : 0;
    len = aligned(8 + text);
    head = malloc(len);
    parts = malloc((n_tensors + 1) * sizeof(*parts));
    if (!text || !head || !parts ||
        json_dumpb(json, head + 8, text, JSON_COMPACT) != text) {
        rc = ut_fail(e, UT_ENOMEM, "%s: no memory for the header", path);
    } else if (len - 8 > MDL_ST_MAX_HEADER) {
        rc = ut_fail(e, UT_EINVAL,
                     "%.120s: a header of %zu bytes is over the limit of %u",
                     path, len - 8, MDL_ST_MAX_HEADER);
    } else {
        for (int i = 0; i < 8; i++)
            head[i] = (char)((len - 8) >> 8 * i);
        memset(head + 8 + text, ' ', len - 8 - text);
        parts[0] = (struct ut_file_part){head, len};
        for (size_t i = 0; i < n_tensors; i++)
            parts[i + 1] =
                (struct ut_file_part){tensors[i].data, tensors[i].len};
        rc = ut_file_write_parts(path, 0644, parts, n_tensors + 1, e);
    }
    json_decref(json);
    free(head);
    free(parts);
    return rc;
}
