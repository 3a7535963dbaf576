/* The wire format is a list of (field number << 3 | wire type, value), values
 * being varints, 4 or 8 bytes, or a length and so many bytes.
 * Source: https://protobuf.dev/programming-guides/encoding/ */
#include "api/proto.h"

#include <stdio.h>
#include <string.h>

#include "api/escape.h"
#include "api/json_common.h"
#include "base/utf8.h"

enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

struct check {
    struct api_error *err;
    char path[128];
    size_t fields; /* seen so far */
};

static enum ut_err bad(struct check *c, const char *reason, const char *why)
{
    api_fail(c->err, API_INVALID_ARGUMENT, "%s%s%s", c->path,
             *c->path ? ": " : "", why);
    snprintf(c->err->field, sizeof(c->err->field), "%s", c->path);
    snprintf(c->err->reason, sizeof(c->err->reason), "%s", reason);
    return UT_EFORMAT;
}

static enum ut_err cut_off(struct check *c)
{
    return bad(c, "BAD_PROTOBUF", "not protobuf of this type");
}

static bool get_varint(const uint8_t **p, const uint8_t *end, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 70 && *p < end; shift += 7) {
        uint8_t byte = *(*p)++;

        *out |= (uint64_t)(byte & 0x7f) << shift % 64;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static bool is_text(const uint8_t *s, size_t len)
{
    while (len) {
        char next[5] = {0}; /* what is cut off ends in NUL */
        int n;

        memcpy(next, s, len < 4 ? len : 4);
        n = ut_utf8_len(next);
        if (!n || !next[0])
            return false;
        s += n;
        len -= (size_t)n;
    }
    return true;
}

static enum ut_err check_enum(struct check *c,
                              const ProtobufCFieldDescriptor *f, uint64_t v)
{
    char known[100], want[120];

    if (protobuf_c_enum_descriptor_get_value(f->descriptor, (int)v))
        return UT_OK;
    api_enum_known(f->descriptor, known, sizeof(known));
    snprintf(want, sizeof(want), "%d is none of %s", (int)v, known);
    return bad(c, "UNKNOWN_VALUE", want);
}

static enum ut_err check_message(struct check *c,
                                 const ProtobufCMessageDescriptor *d,
                                 const uint8_t *p, const uint8_t *end,
                                 int depth);

/* A value of len bytes at p. */
static enum ut_err check_bytes(struct check *c,
                               const ProtobufCFieldDescriptor *f,
                               const uint8_t *p, size_t len, int depth)
{
    const uint8_t *end = p + len;
    enum ut_err rc = UT_OK;
    uint64_t v;

    if (f->type == PROTOBUF_C_TYPE_MESSAGE)
        return check_message(c, f->descriptor, p, end, depth + 1);
    if (f->type == PROTOBUF_C_TYPE_STRING && !is_text(p, len))
        return bad(c, "BAD_TEXT", "is not UTF-8 without NUL");
    while (f->type == PROTOBUF_C_TYPE_ENUM && p < end && !rc)
        rc = get_varint(&p, end, &v) ? check_enum(c, f, v) : cut_off(c);
    return rc;
}

/* One value; f is NULL for an unknown field. */
static enum ut_err check_value(struct check *c,
                               const ProtobufCFieldDescriptor *f, unsigned wire,
                               const uint8_t **p, const uint8_t *end, int depth)
{
    uint64_t v = wire == FIXED64 ? 8 : 4; /* bytes */
    enum ut_err rc = UT_OK;

    if ((wire == VARINT || wire == BYTES) && !get_varint(p, end, &v))
        return cut_off(c);
    if (wire == VARINT)
        return f && f->type == PROTOBUF_C_TYPE_ENUM ? check_enum(c, f, v)
                                                    : UT_OK;
    if ((wire != BYTES && wire != FIXED64 && wire != FIXED32) ||
        v > (uint64_t)(end - *p))
        return cut_off(c);
    if (f && wire == BYTES)
        rc = check_bytes(c, f, *p, (size_t)v, depth);
    *p += v;
    return rc;
}

static enum ut_err check_message(struct check *c,
                                 const ProtobufCMessageDescriptor *d,
                                 const uint8_t *p, const uint8_t *end,
                                 int depth)
{
    size_t at = strlen(c->path);

    if (depth > API_PROTO_MAX_DEPTH)
        return bad(c, "TOO_DEEP", "is nested too deeply");
    while (p < end) {
        const ProtobufCFieldDescriptor *f;
        enum ut_err rc;
        uint64_t key;

        if (!get_varint(&p, end, &key) || key >> 3 == 0 || key >> 32)
            return cut_off(c);
        if (++c->fields > API_PROTO_MAX_FIELDS) {
            (void)bad(c, "OUT_OF_RANGE", "the message has too many fields");
            return UT_EBUSY;
        }
        f = protobuf_c_message_descriptor_get_field(d, (unsigned)(key >> 3));
        if (f)
            snprintf(c->path + at, sizeof(c->path) - at, "%s%s", at ? "." : "",
                     f->name);
        rc = check_value(c, f, key & 7, &p, end, depth);
        if (rc)
            return rc;
        c->path[at] = '\0';
    }
    return UT_OK;
}

enum ut_err api_proto_read(const ProtobufCMessageDescriptor *d,
                           const void *data, size_t len, ProtobufCMessage **out,
                           struct api_error *err)
{
    struct check c = {.err = err};
    const uint8_t *p = data;
    enum ut_err rc = UT_OK;

    *out = NULL;
    if (len)
        rc = check_message(&c, d, p, p + len, 1);
    if (rc)
        return rc;
    *out = protobuf_c_message_unpack(d, NULL, len, data);
    /* What it refuses beyond our check: a known field of another wire type.
     * No memory looks the same. */
    return *out ? UT_OK : cut_off(&c);
}

/* ---- Writing ---- */

struct sink {
    ProtobufCBuffer base; /* first */
    struct ut_buf *b;
    struct ut_error *e;
    enum ut_err rc;
};

static void on_append(ProtobufCBuffer *base, size_t len, const uint8_t *data)
{
    struct sink *s = (struct sink *)base;

    if (!s->rc)
        s->rc = ut_buf_add(s->b, data, len, s->e);
}

enum ut_err api_proto_write(const ProtobufCMessage *msg, struct ut_buf *b,
                            struct ut_error *e)
{
    struct sink s = {.base = {.append = on_append}, .b = b, .e = e};

    protobuf_c_message_pack_to_buffer(msg, &s.base);
    return s.rc;
}
