/* Frames of RPC, and gRPC's statuses as text. */
#include "api/frame.h"

#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "api/error_rpc.h"

static enum ut_err bad(struct api_error *err, const char *why)
{
    api_fail(err, API_INVALID_ARGUMENT, "%s", why);
    strcpy(err->reason, "BAD_FRAME");
    return UT_EFORMAT;
}

size_t api_frame_size(const char head[API_FRAME_HEAD])
{
    const uint8_t *p = (const uint8_t *)head;

    return API_FRAME_HEAD +
           ((size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4]);
}

enum ut_err api_frame_next(const char **at, const char *end, unsigned *flags,
                           const char **data, size_t *len,
                           struct api_error *err)
{
    if (end - *at < API_FRAME_HEAD)
        return bad(err, "a frame begins with five bytes");
    *flags = (uint8_t) * *at;
    *len = api_frame_size(*at) - API_FRAME_HEAD;
    if (*len > (size_t)(end - *at - API_FRAME_HEAD))
        return bad(err, "a frame says that it is longer than the body");
    *data = *at + API_FRAME_HEAD;
    *at = *data + *len;
    return UT_OK;
}

enum ut_err api_frame_add(struct ut_buf *b, unsigned flags, const void *data,
                          size_t len, struct ut_error *e)
{
    uint8_t head[API_FRAME_HEAD] = {(uint8_t)flags, (uint8_t)(len >> 24),
                                    (uint8_t)(len >> 16), (uint8_t)(len >> 8),
                                    (uint8_t)len};
    enum ut_err rc;

    if (len > UINT32_MAX)
        return ut_fail(e, UT_EINVAL, "%zu bytes do not fit into a frame", len);
    rc = ut_buf_add(b, head, sizeof(head), e);
    return rc ? rc : ut_buf_add(b, data, len, e);
}

enum ut_err api_frame_untext(const char *text, size_t len, char **out,
                             size_t *out_len, struct api_error *err)
{
    const char *end = text + len;
    uint8_t *bytes = malloc(len / 4 * 3 + 4);
    size_t n = 0;

    *out = NULL;
    if (!bytes) {
        api_fail(err, API_INTERNAL, "no memory for the body");
        return UT_ENOMEM;
    }
    while (text < end) {
        const char *pad = memchr(text, '=', (size_t)(end - text));
        const char *next = pad ? pad : end;
        ptrdiff_t got;

        while (next < end && *next == '=')
            next++;
        got = api_base64_decode(text, (size_t)(next - text), bytes + n);
        if (got < 0) {
            free(bytes);
            return bad(err, "the body is not base64");
        }
        n += (size_t)got;
        text = next;
    }
    *out = (char *)bytes;
    *out_len = n;
    return UT_OK;
}

int64_t api_grpc_timeout_us(const char *text)
{
    static const struct {
        char unit;
        int64_t us;
    } units[] = {{'H', 3600000000}, {'M', 60000000}, {'S', 1000000},
                 {'m', 1000},       {'u', 1},        {'n', 0}};
    size_t len = strspn(text, "0123456789");

    if (!len || len > 8 || !text[len] || text[len + 1])
        return -1;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (units[i].unit == text[len])
            return units[i].us ? atoll(text) * units[i].us : atoll(text) / 1000;
    return -1;
}

/* A message's text: ASCII as it is, all else as %XX. */
static enum ut_err add_percent(struct ut_buf *b, const char *text,
                               struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (; *text && !rc; text++)
        rc = *text >= 0x20 && *text < 0x7f && *text != '%'
                 ? ut_buf_add(b, text, 1, e)
                 : ut_buf_addf(b, e, "%%%02X", (unsigned)(uint8_t)*text);
    return rc;
}

enum ut_err api_grpc_trailers(struct ut_buf *b, const struct api_error *err,
                              struct ut_error *e)
{
    enum ut_err rc =
        ut_buf_addf(b, e, "grpc-status: %d\r\n", err ? (int)err->code : 0);

    if (!err || rc)
        return rc;
    rc = ut_buf_addf(b, e, "grpc-message: ");
    if (!rc)
        rc = add_percent(b, err->message, e);
    if (!rc)
        rc = ut_buf_addf(b, e, "\r\ngrpc-status-details-bin: ");
    if (!rc)
        rc = api_error_status(b, err, e);
    return rc ? rc : ut_buf_add(b, "\r\n", 2, e);
}
