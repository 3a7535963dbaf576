/* Messages to JSON, by their descriptors, straight into a buffer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "api/escape.h"
#include "api/json.h"
#include "api/json_common.h"

#define MAX_JSON (256u << 20) /* bytes of one answer */

static enum ut_err put_message(struct ut_buf *b, const ProtobufCMessage *m,
                               int flags, struct ut_error *e);

/* The shortest text that reads back as the same float (9 digits) or double
 * (17). */
static enum ut_err put_number(struct ut_buf *b, double v, int digits,
                              struct ut_error *e)
{
    char text[32];

    if (!isfinite(v))
        return ut_fail(e, UT_EINVAL, "JSON cannot say %f", v);
    for (int n = digits - 3; n <= digits; n++) {
        snprintf(text, sizeof(text), "%.*g", n, v);
        if (digits == 9 ? strtof(text, NULL) == (float)v
                        : strtod(text, NULL) == v)
            break;
    }
    return ut_buf_add(b, text, strlen(text), e);
}

static enum ut_err put_enum(struct ut_buf *b, const ProtobufCEnumDescriptor *d,
                            int v, int flags, struct ut_error *e)
{
    const ProtobufCEnumValue *value =
        protobuf_c_enum_descriptor_get_value(d, v);
    char name[API_ENUM_NAME_LEN];

    if (!value)
        return ut_buf_addf(b, e, "%d", v);
    if (!(flags & API_JSON_REST))
        return ut_buf_addf(b, e, "\"%s\"", value->name);
    api_enum_short_name(d, value, name);
    return ut_buf_addf(b, e, "\"%s\"", name);
}

static enum ut_err put_bytes(struct ut_buf *b, const ProtobufCBinaryData *v,
                             struct ut_error *e)
{
    size_t len = api_base64_len(v->len);
    char *text = malloc(len + 3);
    enum ut_err rc;

    if (!text)
        return ut_fail(e, UT_ENOMEM, "no memory for %zu bytes of base64", len);
    text[0] = text[len + 1] = '"';
    api_base64_encode(v->data, v->len, text + 1);
    rc = ut_buf_add(b, text, len + 2, e);
    free(text);
    return rc;
}

/* The value of field f at p. */
static enum ut_err put_value(struct ut_buf *b,
                             const ProtobufCFieldDescriptor *f, const void *p,
                             int flags, struct ut_error *e)
{
    const char *quote = flags & API_JSON_REST ? "" : "\"";

    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return ut_buf_addf(b, e, "%d", *(const int32_t *)p);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return ut_buf_addf(b, e, "%u", *(const uint32_t *)p);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return ut_buf_addf(b, e, "%s%lld%s", quote,
                           (long long)*(const int64_t *)p, quote);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return ut_buf_addf(b, e, "%s%llu%s", quote,
                           (unsigned long long)*(const uint64_t *)p, quote);
    case PROTOBUF_C_TYPE_FLOAT:
        return put_number(b, *(const float *)p, 9, e);
    case PROTOBUF_C_TYPE_DOUBLE:
        return put_number(b, *(const double *)p, 17, e);
    case PROTOBUF_C_TYPE_BOOL:
        return ut_buf_addf(b, e,
                           *(const protobuf_c_boolean *)p ? "true" : "false");
    case PROTOBUF_C_TYPE_ENUM:
        return put_enum(b, f->descriptor, *(const int *)p, flags, e);
    case PROTOBUF_C_TYPE_STRING:
        return api_escape(b, *(char *const *)p ? *(char *const *)p : "", e);
    case PROTOBUF_C_TYPE_BYTES:
        return put_bytes(b, p, e);
    case PROTOBUF_C_TYPE_MESSAGE:
        return put_message(b, *(ProtobufCMessage *const *)p, flags, e);
    }
    return ut_fail(e, UT_EINVAL, "field %s has an unknown type", f->name);
}

static enum ut_err put_list(struct ut_buf *b, const ProtobufCFieldDescriptor *f,
                            const ProtobufCMessage *m, int flags,
                            struct ut_error *e)
{
    size_t n = *(const size_t *)((const char *)m + f->quantifier_offset);
    const char *items = *(char *const *)((const char *)m + f->offset);
    bool map = api_is_map(f);
    enum ut_err rc = ut_buf_add(b, map ? "{" : "[", 1, e);

    for (size_t i = 0; i < n && !rc; i++) {
        const char *p = items + i * api_value_size(f->type);

        if (i)
            rc = ut_buf_add(b, ",", 1, e);
        if (rc)
            break;
        if (map) {
            const ProtobufCMessage *pair = *(ProtobufCMessage *const *)p;
            const ProtobufCFieldDescriptor *k = &pair->descriptor->fields[0];
            const ProtobufCFieldDescriptor *v = &pair->descriptor->fields[1];

            rc = put_value(b, k, (const char *)pair + k->offset, flags, e);
            if (!rc)
                rc = ut_buf_add(b, ":", 1, e);
            if (!rc)
                rc = put_value(b, v, (const char *)pair + v->offset, flags, e);
        } else {
            rc = put_value(b, f, p, flags, e);
        }
    }
    return rc ? rc : ut_buf_add(b, map ? "}" : "]", 1, e);
}

/* Absent messages, unset members of a oneof and empty bytes are left out. */
static bool is_absent(const ProtobufCFieldDescriptor *f,
                      const ProtobufCMessage *m)
{
    const char *p = (const char *)m + f->offset;

    if (f->label == PROTOBUF_C_LABEL_REPEATED)
        return false;
    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
        return *(const uint32_t *)((const char *)m + f->quantifier_offset) !=
               f->id;
    if (f->type == PROTOBUF_C_TYPE_MESSAGE)
        return !*(ProtobufCMessage *const *)p;
    return f->type == PROTOBUF_C_TYPE_BYTES &&
           !((const ProtobufCBinaryData *)p)->len;
}

static enum ut_err put_message(struct ut_buf *b, const ProtobufCMessage *m,
                               int flags, struct ut_error *e)
{
    enum ut_err rc = ut_buf_add(b, "{", 1, e);
    bool first = true;

    for (unsigned i = 0; i < m->descriptor->n_fields && !rc; i++) {
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];

        if (is_absent(f, m))
            continue;
        rc = ut_buf_addf(b, e, "%s\"%s\":", first ? "" : ",", f->name);
        first = false;
        if (rc)
            break;
        rc = f->label == PROTOBUF_C_LABEL_REPEATED
                 ? put_list(b, f, m, flags, e)
                 : put_value(b, f, (const char *)m + f->offset, flags, e);
    }
    return rc ? rc : ut_buf_add(b, "}", 1, e);
}

enum ut_err api_json_add(const ProtobufCMessage *msg, int flags,
                         struct ut_buf *b, struct ut_error *e)
{
    return put_message(b, msg, flags, e);
}

enum ut_err api_json_write(const ProtobufCMessage *msg, int flags, char **json,
                           size_t *len, struct ut_error *e)
{
    struct ut_buf b;
    enum ut_err rc;

    ut_buf_init(&b, MAX_JSON);
    rc = put_message(&b, msg, flags, e);
    *json = rc ? NULL : ut_buf_take(&b, len);
    ut_buf_fini(&b);
    return rc;
}
