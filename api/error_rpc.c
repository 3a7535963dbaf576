/* Connect's error JSON and gRPC's status message. */
#include "api/error_rpc.h"

#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "api/escape.h"
#include "api/proto.h"
#include "api/tscaf.pb-c.h"

#define DETAIL "tscaf.v1.ErrorDetail"
#define MAX_STATUS 2048 /* bytes; an api_error is smaller */

static enum ut_err add_base64(struct ut_buf *b, const void *data, size_t len,
                              struct ut_error *e)
{
    char text[MAX_STATUS * 4 / 3 + 8];
    size_t n = api_base64_len(len);

    if (n > sizeof(text))
        return ut_fail(e, UT_EINVAL, "%zu bytes of an error's detail", len);
    api_base64_encode(data, len, text);
    while (n && text[n - 1] == '=') /* both want it unpadded */
        n--;
    return ut_buf_add(b, text, n, e);
}

static enum ut_err add_detail(struct ut_buf *b, const struct api_error *err,
                              struct ut_error *e)
{
    Tscaf__V1__ErrorDetail d = TSCAF__V1__ERROR_DETAIL__INIT;

    d.field = (char *)(uintptr_t)err->field;
    d.reason = (char *)(uintptr_t)err->reason;
    d.value = (char *)(uintptr_t)err->value;
    d.identity_id = (char *)(uintptr_t)err->identity_id;
    d.similarity = err->similarity;
    return api_proto_write(&d.base, b, e);
}

static enum ut_err add_connect_detail(struct ut_buf *b,
                                      const struct api_error *err,
                                      struct ut_error *e)
{
    struct ut_buf packed;
    enum ut_err rc;

    ut_buf_init(&packed, MAX_STATUS);
    rc = add_detail(&packed, err, e);
    if (!rc)
        rc = ut_buf_addf(b, e, "{\"type\":\"" DETAIL "\",\"value\":\"");
    if (!rc)
        rc = add_base64(b, packed.data, packed.len, e);
    if (!rc)
        rc = ut_buf_addf(b, e, "\",\"debug\":");
    if (!rc)
        rc = api_error_detail(b, err, e);
    if (!rc)
        rc = ut_buf_addf(b, e, "}");
    ut_buf_fini(&packed);
    return rc;
}

enum ut_err api_error_connect(struct ut_buf *b, const struct api_error *err,
                              struct ut_error *e)
{
    enum ut_err rc = ut_buf_addf(
        b, e, "{\"code\":\"%s\",\"message\":", api_code_name(err->code));

    if (!rc)
        rc = api_escape(b, err->message, e);
    if (!rc)
        rc = ut_buf_addf(b, e, ",\"details\":[");
    if (!rc && api_error_has_detail(err))
        rc = add_connect_detail(b, err, e);
    return rc ? rc : ut_buf_addf(b, e, "]}");
}

/* ---- google.rpc.Status: code = 1, message = 2, details = 3 of
 * google.protobuf.Any: type_url = 1, value = 2 ---- */

/* Appends field number's bytes; fewer than 16384 of them. */
static enum ut_err add_field(struct ut_buf *b, int number, const void *data,
                             size_t len, struct ut_error *e)
{
    uint8_t head[3] = {(uint8_t)(number << 3 | 2), (uint8_t)len, 0};
    enum ut_err rc;

    if (len >= 0x80) {
        head[1] = (uint8_t)(len | 0x80);
        head[2] = (uint8_t)(len >> 7);
    }
    rc = ut_buf_add(b, head, len >= 0x80 ? 3 : 2, e);
    return rc ? rc : ut_buf_add(b, data, len, e);
}

static enum ut_err add_any(struct ut_buf *b, const struct api_error *err,
                           struct ut_error *e)
{
    static const char type[] = "type.googleapis.com/" DETAIL;
    struct ut_buf detail, any;
    enum ut_err rc;

    ut_buf_init(&detail, MAX_STATUS);
    ut_buf_init(&any, MAX_STATUS);
    rc = add_detail(&detail, err, e);
    if (!rc)
        rc = add_field(&any, 1, type, sizeof(type) - 1, e);
    if (!rc)
        rc = add_field(&any, 2, detail.data, detail.len, e);
    if (!rc)
        rc = add_field(b, 3, any.data, any.len, e);
    ut_buf_fini(&detail);
    ut_buf_fini(&any);
    return rc;
}

enum ut_err api_error_status(struct ut_buf *b, const struct api_error *err,
                             struct ut_error *e)
{
    const uint8_t code[2] = {1 << 3, (uint8_t)err->code};
    struct ut_buf status;
    enum ut_err rc;

    ut_buf_init(&status, MAX_STATUS);
    rc = ut_buf_add(&status, code, sizeof(code), e);
    if (!rc)
        rc = add_field(&status, 2, err->message, strlen(err->message), e);
    if (!rc && api_error_has_detail(err))
        rc = add_any(&status, err, e);
    if (!rc)
        rc = add_base64(b, status.data, status.len, e);
    ut_buf_fini(&status);
    return rc;
}
