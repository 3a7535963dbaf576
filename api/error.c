/* Error codes, their names and statuses, and their JSON. */
#include "api/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/escape.h"
#include "api/json.h"
#include "api/tscaf.pb-c.h"
#include "base/buf.h"

static const struct {
    const char *name;
    int http;
} codes[] = {
    [API_CANCELED] = {"canceled", 499},
    [API_UNKNOWN] = {"unknown", 500},
    [API_INVALID_ARGUMENT] = {"invalid_argument", 400},
    [API_DEADLINE_EXCEEDED] = {"deadline_exceeded", 504},
    [API_NOT_FOUND] = {"not_found", 404},
    [API_ALREADY_EXISTS] = {"already_exists", 409},
    [API_PERMISSION_DENIED] = {"permission_denied", 403},
    [API_RESOURCE_EXHAUSTED] = {"resource_exhausted", 429},
    [API_FAILED_PRECONDITION] = {"failed_precondition", 400},
    [API_ABORTED] = {"aborted", 409},
    [API_OUT_OF_RANGE] = {"out_of_range", 400},
    [API_UNIMPLEMENTED] = {"unimplemented", 501},
    [API_INTERNAL] = {"internal", 500},
    [API_UNAVAILABLE] = {"unavailable", 503},
    [API_DATA_LOSS] = {"data_loss", 500},
    [API_UNAUTHENTICATED] = {"unauthenticated", 401},
};

const char *api_code_name(enum api_code code)
{
    return codes[code].name;
}

int api_code_http(enum api_code code)
{
    return codes[code].http;
}

void api_fail(struct api_error *err, enum api_code code, const char *fmt, ...)
{
    va_list args;

    *err = (struct api_error){.code = code};
    va_start(args, fmt);
    vsnprintf(err->message, sizeof(err->message), fmt, args);
    va_end(args);
}

void api_fail_from(struct api_error *err, const struct ut_error *e)
{
    enum api_code code = API_INTERNAL;

    switch (e->code) {
    case UT_OK:
    case UT_ENOMEM:
    case UT_EIO:
        break;
    case UT_EINVAL:
    case UT_EFORMAT:
        code = API_INVALID_ARGUMENT;
        break;
    case UT_EBUSY:
    case UT_EDEVICE: /* it failed this batch: the next may do */
        code = API_UNAVAILABLE;
        break;
    case UT_ENOTFOUND:
        code = API_NOT_FOUND;
        break;
    case UT_EEXISTS:
        code = API_ALREADY_EXISTS;
        break;
    case UT_ESTATE:
        code = API_FAILED_PRECONDITION;
        break;
    }
    api_fail(err, code, "%s", e->msg);
    if (code == API_UNAVAILABLE)
        err->retry_after_s = 1;
}

bool api_error_has_detail(const struct api_error *err)
{
    return *err->field || *err->reason || *err->value || *err->identity_id;
}

enum ut_err api_error_detail(struct ut_buf *b, const struct api_error *err,
                             struct ut_error *e)
{
    enum ut_err rc = ut_buf_addf(b, e, "{\"field\":");

    if (!rc)
        rc = api_escape(b, err->field, e);
    if (!rc)
        rc = ut_buf_addf(b, e, ",\"reason\":");
    if (!rc)
        rc = api_escape(b, err->reason, e);
    if (!rc)
        rc = ut_buf_addf(b, e, ",\"value\":");
    if (!rc)
        rc = api_escape(b, err->value, e);
    if (!rc && *err->identity_id)
        rc = ut_buf_addf(b, e, ",\"identity_id\":\"%s\",\"similarity\":%.4f",
                         err->identity_id, (double)err->similarity);
    return rc ? rc : ut_buf_addf(b, e, "}");
}

enum ut_err api_error_json(const struct api_error *err, char **json,
                           struct ut_error *e)
{
    struct ut_buf b;
    enum ut_err rc;
    size_t len;

    ut_buf_init(&b, 1 << 16);
    rc = ut_buf_addf(&b, e,
                     "{\"code\":\"%s\",\"message\":", api_code_name(err->code));
    if (!rc)
        rc = api_escape(&b, err->message, e);
    if (!rc)
        rc = ut_buf_addf(&b, e, ",\"details\":[");
    if (!rc && api_error_has_detail(err))
        rc = api_error_detail(&b, err, e);
    if (!rc)
        rc = ut_buf_addf(&b, e, "]}");
    *json = rc ? NULL : ut_buf_take(&b, &len);
    ut_buf_fini(&b);
    return rc;
}

bool api_error_read(const char *json, size_t len, struct api_error *err)
{
    struct api_error bad;
    ProtobufCMessage *m;
    const Tscaf__V1__Error *from;
    enum api_code code;

    if (api_json_read_answer(&tscaf__v1__error__descriptor, json, len, &m,
                             &bad))
        return false;
    from = (const Tscaf__V1__Error *)m;
    for (code = API_CANCELED; code <= API_UNAUTHENTICATED; code++)
        if (!strcmp(codes[code].name, from->code))
            break;
    if (code <= API_UNAUTHENTICATED) {
        api_fail(err, code, "%s", from->message);
        if (from->n_details) {
            const Tscaf__V1__ErrorDetail *d = from->details[0];

            snprintf(err->field, sizeof(err->field), "%s", d->field);
            snprintf(err->reason, sizeof(err->reason), "%s", d->reason);
            snprintf(err->value, sizeof(err->value), "%s", d->value);
            snprintf(err->identity_id, sizeof(err->identity_id), "%s",
                     d->identity_id);
            err->similarity = d->similarity;
        }
    }
    protobuf_c_message_free_unpacked(m, NULL);
    return code <= API_UNAUTHENTICATED;
}
