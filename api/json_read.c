/* JSON to messages, by their descriptors. jansson parses; what it parsed is
 * then laid into a message that protobuf_c_message_free_unpacked can free. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "api/escape.h"
#include "api/json.h"
#include "api/json_common.h"
#include "base/utf8.h"

struct reader {
    struct api_error *err;
    char path[128];
    bool skip_unknown; /* members and enum values of a newer server */
};

static enum ut_err bad(struct reader *r, const char *reason, const char *want)
{
    api_fail(r->err, API_INVALID_ARGUMENT, "%s: %s", r->path, want);
    snprintf(r->err->field, sizeof(r->err->field), "%s", r->path);
    snprintf(r->err->reason, sizeof(r->err->reason), "%s", reason);
    return UT_EINVAL;
}

static enum ut_err no_memory(struct reader *r)
{
    api_fail(r->err, API_INTERNAL, "%s: no memory", r->path);
    return UT_ENOMEM;
}

static enum ut_err get_message(struct reader *r, const json_t *j,
                               ProtobufCMessage *m, int depth);

static ProtobufCMessage *new_message(const ProtobufCMessageDescriptor *d)
{
    ProtobufCMessage *m = malloc(d->sizeof_message);

    if (m)
        protobuf_c_message_init(d, m);
    return m;
}

static enum ut_err get_integer(struct reader *r, const json_t *j, int64_t low,
                               uint64_t high, int64_t *out)
{
    json_int_t v = json_integer_value(j);
    char want[80];
    char *end;

    snprintf(want, sizeof(want), "wants a whole number from %lld to %llu",
             (long long)low, (unsigned long long)high);
    if (json_is_string(j) && json_string_length(j)) {
        /* Canonical protobuf JSON writes 64-bit numbers as texts. */
        errno = 0;
        v = strtoll(json_string_value(j), &end, 10);
        if (end != json_string_value(j) + json_string_length(j))
            return bad(r, "WRONG_TYPE", want);
        if (errno == ERANGE)
            return bad(r, "OUT_OF_RANGE", want);
    } else if (json_is_real(j) &&
               json_real_value(j) == floor(json_real_value(j)) &&
               fabs(json_real_value(j)) < 9e15) {
        v = (json_int_t)json_real_value(j);
    } else if (!json_is_integer(j)) {
        return bad(r, "WRONG_TYPE", want);
    }
    if (v < low || (v > 0 && (uint64_t)v > high))
        return bad(r, "OUT_OF_RANGE", want);
    *out = v;
    return UT_OK;
}

static enum ut_err get_enum(struct reader *r, const json_t *j,
                            const ProtobufCEnumDescriptor *d, int *out)
{
    const ProtobufCEnumValue *v = NULL;
    char known[100], want[120];

    if (json_is_string(j))
        v = api_enum_find(d, json_string_value(j));
    else if (json_is_integer(j) && json_integer_value(j) > -(1 << 30) &&
             json_integer_value(j) < 1 << 30)
        v = protobuf_c_enum_descriptor_get_value(d, (int)json_integer_value(j));
    if (!v && r->skip_unknown)
        return UT_OK;
    if (!v) {
        api_enum_known(d, known, sizeof(known));
        snprintf(want, sizeof(want), "wants one of %s", known);
        return bad(r, "UNKNOWN_VALUE", want);
    }
    *out = v->value;
    return UT_OK;
}

static enum ut_err get_bytes(struct reader *r, const json_t *j,
                             ProtobufCBinaryData *out)
{
    size_t len = json_string_length(j);
    uint8_t *data;
    ptrdiff_t n;

    if (!json_is_string(j))
        return bad(r, "WRONG_TYPE", "wants base64 in a text");
    data = malloc(len / 4 * 3 + 3);
    if (!data)
        return no_memory(r);
    n = api_base64_decode(json_string_value(j), len, data);
    if (n < 0) {
        free(data);
        return bad(r, "BAD_BASE64", "is not base64");
    }
    out->data = data;
    out->len = (size_t)n;
    return UT_OK;
}

static enum ut_err get_string(struct reader *r, const json_t *j, char **out)
{
    if (!json_is_string(j))
        return bad(r, "WRONG_TYPE", "wants a text");
    if (strlen(json_string_value(j)) != json_string_length(j))
        return bad(r, "BAD_TEXT", "holds a NUL");
    *out = strdup(json_string_value(j));
    return *out ? UT_OK : no_memory(r);
}

static enum ut_err get_number(struct reader *r, const json_t *j, double max,
                              double *out)
{
    if (!json_is_number(j))
        return bad(r, "WRONG_TYPE", "wants a number");
    *out = json_number_value(j);
    return fabs(*out) <= max ? UT_OK
                             : bad(r, "OUT_OF_RANGE", "is out of range");
}

static enum ut_err get_value(struct reader *r, const json_t *j,
                             const ProtobufCFieldDescriptor *f, void *p,
                             int depth)
{
    int64_t v = 0;
    double d = 0;
    enum ut_err rc;

    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        rc = get_integer(r, j, INT32_MIN, INT32_MAX, &v);
        *(int32_t *)p = (int32_t)v;
        return rc;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        rc = get_integer(r, j, 0, UINT32_MAX, &v);
        *(uint32_t *)p = (uint32_t)v;
        return rc;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return get_integer(r, j, INT64_MIN, INT64_MAX, p);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        rc = get_integer(r, j, 0, INT64_MAX, &v);
        *(uint64_t *)p = (uint64_t)v;
        return rc;
    case PROTOBUF_C_TYPE_FLOAT:
        rc = get_number(r, j, 3.4028234e38, &d);
        *(float *)p = (float)d;
        return rc;
    case PROTOBUF_C_TYPE_DOUBLE:
        return get_number(r, j, INFINITY, p);
    case PROTOBUF_C_TYPE_BOOL:
        if (!json_is_boolean(j))
            return bad(r, "WRONG_TYPE", "wants true or false");
        *(protobuf_c_boolean *)p = json_is_true(j);
        return UT_OK;
    case PROTOBUF_C_TYPE_ENUM:
        return get_enum(r, j, f->descriptor, p);
    case PROTOBUF_C_TYPE_STRING:
        return get_string(r, j, p);
    case PROTOBUF_C_TYPE_BYTES:
        return get_bytes(r, j, p);
    case PROTOBUF_C_TYPE_MESSAGE: {
        ProtobufCMessage *m = new_message(f->descriptor);

        if (!m)
            return no_memory(r);
        *(ProtobufCMessage **)p = m;
        return get_message(r, j, m, depth + 1);
    }
    }
    return bad(r, "WRONG_TYPE", "cannot be set");
}

/* Room for n values; the count rises as they are read, so that the message
 * can be freed at any moment. */
static char *new_list(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
                      size_t n)
{
    char *items = calloc(n ? n : 1, api_value_size(f->type));

    *(char **)((char *)m + f->offset) = items;
    return items;
}

static enum ut_err get_map(struct reader *r, const json_t *j,
                           ProtobufCMessage *m,
                           const ProtobufCFieldDescriptor *f, int depth)
{
    const ProtobufCMessageDescriptor *d = f->descriptor;
    size_t *n = (size_t *)((char *)m + f->quantifier_offset);
    ProtobufCMessage **items;
    const char *key;
    json_t *value;

    if (!json_is_object(j))
        return bad(r, "WRONG_TYPE", "wants an object");
    items = (ProtobufCMessage **)(void *)new_list(m, f, json_object_size(j));
    if (!items)
        return no_memory(r);
    json_object_foreach((json_t *)(uintptr_t)j, key, value)
    {
        ProtobufCMessage *pair = new_message(d);
        size_t at = strlen(r->path);
        enum ut_err rc;

        if (!pair)
            return no_memory(r);
        items[(*n)++] = pair;
        *(char **)((char *)pair + d->fields[0].offset) = strdup(key);
        if (!*(char **)((char *)pair + d->fields[0].offset))
            return no_memory(r);
        snprintf(r->path + at, sizeof(r->path) - at, ".%s", key);
        rc = get_value(r, value, &d->fields[1],
                       (char *)pair + d->fields[1].offset, depth);
        if (rc)
            return rc;
        r->path[at] = '\0';
    }
    return UT_OK;
}

static enum ut_err get_list(struct reader *r, const json_t *j,
                            ProtobufCMessage *m,
                            const ProtobufCFieldDescriptor *f, int depth)
{
    size_t *n = (size_t *)((char *)m + f->quantifier_offset);
    size_t at = strlen(r->path);
    char *items;

    if (api_is_map(f))
        return get_map(r, j, m, f, depth);
    if (!json_is_array(j))
        return bad(r, "WRONG_TYPE", "wants a list");
    items = new_list(m, f, json_array_size(j));
    if (!items)
        return no_memory(r);
    for (size_t i = 0; i < json_array_size(j); i++) {
        enum ut_err rc;

        snprintf(r->path + at, sizeof(r->path) - at, "[%zu]", i);
        ++*n;
        rc = get_value(r, json_array_get(j, i), f,
                       items + i * api_value_size(f->type), depth);
        if (rc) {
            /* A half-made text or message is NULL, which must not stay. */
            if ((f->type == PROTOBUF_C_TYPE_STRING ||
                 f->type == PROTOBUF_C_TYPE_MESSAGE) &&
                !*(void **)(void *)(items + i * 8))
                --*n;
            return rc;
        }
        r->path[at] = '\0';
    }
    return UT_OK;
}

/* More than any message of ours has. */
#define MAX_FIELDS 64

/* What is read is laid over nothing: not over the same field by its other
 * name, nor over another of its oneof. */
static enum ut_err claim(struct reader *r, ProtobufCMessage *m,
                         const ProtobufCFieldDescriptor *f,
                         bool seen[MAX_FIELDS])
{
    size_t at = (size_t)(f - m->descriptor->fields);
    uint32_t *of = (uint32_t *)(void *)((char *)m + f->quantifier_offset);

    if (at >= MAX_FIELDS)
        return bad(r, "UNKNOWN_FIELD", "cannot be set");
    if (seen[at])
        return bad(r, "REPEATED", "is given twice");
    seen[at] = true;
    if (!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
        return UT_OK;
    if (*of)
        return bad(r, "REPEATED", "another of its kind is given");
    *of = f->id;
    return UT_OK;
}

static enum ut_err get_message(struct reader *r, const json_t *j,
                               ProtobufCMessage *m, int depth)
{
    size_t at = strlen(r->path);
    bool seen[MAX_FIELDS] = {false};
    const char *key;
    json_t *value;

    if (!json_is_object(j))
        return bad(r, "WRONG_TYPE", "wants an object");
    if (depth > API_JSON_MAX_DEPTH)
        return bad(r, "TOO_DEEP", "is nested too deeply");
    json_object_foreach((json_t *)(uintptr_t)j, key, value)
    {
        const ProtobufCFieldDescriptor *f = api_field_find(m->descriptor, key);
        enum ut_err rc;

        if (!f && r->skip_unknown)
            continue;
        snprintf(r->path + at, sizeof(r->path) - at, "%s%.80s", at ? "." : "",
                 key);
        if (!f)
            return bad(r, "UNKNOWN_FIELD", "there is no such field");
        if (json_is_null(value)) {
            r->path[at] = '\0';
            continue;
        }
        rc = claim(r, m, f, seen);
        if (!rc)
            rc = f->label == PROTOBUF_C_LABEL_REPEATED
                     ? get_list(r, value, m, f, depth)
                     : get_value(r, value, f, (char *)m + f->offset, depth);
        if (rc)
            return rc;
        r->path[at] = '\0';
    }
    return UT_OK;
}

static enum ut_err read_text(struct reader *r,
                             const ProtobufCMessageDescriptor *d,
                             const char *json, size_t len,
                             ProtobufCMessage **out)
{
    struct api_error *err = r->err;
    ProtobufCMessage *m = new_message(d);
    json_error_t why;
    json_t *j = NULL;
    enum ut_err rc = UT_OK;

    *out = NULL;
    if (!m)
        return no_memory(r);
    if (len) {
        j = json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL,
                       &why);
        if (!j && (json_error_code(&why) == json_error_out_of_memory ||
                   !*why.text)) { /* it often says nothing then */
            rc = no_memory(r);
        } else if (!j) {
            api_fail(err, API_INVALID_ARGUMENT,
                     "the body is not JSON: %s at line %d, column %d", why.text,
                     why.line, why.column);
            snprintf(err->reason, sizeof(err->reason), "BAD_JSON");
            rc = UT_EINVAL;
        } else if (!json_is_object(j)) {
            api_fail(err, API_INVALID_ARGUMENT, "the body is no JSON object");
            snprintf(err->reason, sizeof(err->reason), "WRONG_TYPE");
            rc = UT_EINVAL;
        } else {
            rc = get_message(r, j, m, 1);
        }
        json_decref(j);
    }
    if (rc)
        protobuf_c_message_free_unpacked(m, NULL);
    else
        *out = m;
    return rc;
}

enum ut_err api_json_read(const ProtobufCMessageDescriptor *d, const char *json,
                          size_t len, ProtobufCMessage **out,
                          struct api_error *err)
{
    struct reader r = {.err = err};

    return read_text(&r, d, json, len, out);
}

enum ut_err api_json_read_answer(const ProtobufCMessageDescriptor *d,
                                 const char *json, size_t len,
                                 ProtobufCMessage **out, struct api_error *err)
{
    struct reader r = {.err = err, .skip_unknown = true};

    return read_text(&r, d, json, len, out);
}

/* One text of a query as the JSON that it stands for; NULL: no memory. */
static json_t *scalar_of(const ProtobufCFieldDescriptor *f, const char *text,
                         size_t len)
{
    char copy[64], *end;
    double number;

    if (f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_ENUM)
        return json_stringn(text, len);
    if (len == 0 || len >= sizeof(copy))
        return json_null();
    memcpy(copy, text, len);
    copy[len] = '\0';
    if (f->type == PROTOBUF_C_TYPE_BOOL) {
        if (!strcmp(copy, "true") || !strcmp(copy, "1"))
            return json_true();
        if (!strcmp(copy, "false") || !strcmp(copy, "0"))
            return json_false();
        return json_string(copy);
    }
    number = strtod(copy, &end);
    if (*end || !isfinite(number))
        return json_array(); /* of no number's type: the error names it */
    return json_real(number);
}

enum ut_err api_json_set(ProtobufCMessage *msg, const char *name,
                         const char *text, struct api_error *err)
{
    const ProtobufCFieldDescriptor *f = api_field_find(msg->descriptor, name);
    struct reader r = {.err = err};
    enum ut_err rc = UT_OK;
    json_t *j;

    snprintf(r.path, sizeof(r.path), "%.80s", name);
    if (!f || f->type == PROTOBUF_C_TYPE_MESSAGE ||
        f->type == PROTOBUF_C_TYPE_BYTES)
        return bad(&r, "UNKNOWN_FIELD", "there is no such parameter");
    if (!ut_utf8_ok(text))
        return bad(&r, "BAD_TEXT", "is not UTF-8");
    if (f->label != PROTOBUF_C_LABEL_REPEATED) {
        char **place = (char **)((char *)msg + f->offset);

        if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
            uint32_t *of = (uint32_t *)((char *)msg + f->quantifier_offset);

            if (*of && *of != f->id)
                return bad(&r, "REPEATED", "another of its kind is given");
            *of = f->id;
        }
        j = scalar_of(f, text, strlen(text));
        if (!j)
            return no_memory(&r);
        if (f->type == PROTOBUF_C_TYPE_STRING) {
            char *old = *place;

            rc = get_value(&r, j, f, place, 1);
            if (rc)
                *place = old;
            else if (old != f->default_value &&
                     old != &protobuf_c_empty_string[0])
                free(old);
        } else {
            rc = get_value(&r, j, f, place, 1);
        }
        json_decref(j);
        return rc;
    }
    j = json_array();
    for (const char *p = text;; p++) {
        size_t len = strcspn(p, ",");

        json_array_append_new(j, scalar_of(f, p, len));
        p += len;
        if (!*p)
            break;
    }
    if (*(size_t *)((char *)msg + f->quantifier_offset))
        rc = bad(&r, "REPEATED", "is given twice: separate values by commas");
    else
        rc = get_list(&r, j, msg, f, 1);
    json_decref(j);
    return rc;
}
