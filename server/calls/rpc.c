/* Connect and gRPC-Web, and gRPC where the listener has trailers (HTTP/2): POST
 * /package.Service/Method with a message as protobuf or JSON, alone or in
 * frames; and Connect's GET for what has no side effects.
 * Sources: https://connectrpc.com/docs/protocol,
 * https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md and
 * PROTOCOL-HTTP2.md */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/base64.h"
#include "api/error_rpc.h"
#include "api/frame.h"
#include "api/gzip.h"
#include "api/json.h"
#include "api/proto.h"
#include "server/calls/dispatch.h"

/* How a media type carries a message. */
struct form {
    const char *type;
    bool json;
    bool stream; /* frames, the last one with Connect's JSON */
    bool grpc;   /* frames, the last one with trailers */
    bool text;   /* and all of it in base64 */
    bool http2;  /* frames, and then real trailers */
};

static const struct form forms[] = {
    {.type = "application/proto"},
    {.type = "application/json", .json = true},
    {.type = "application/connect+proto", .stream = true},
    {.type = "application/connect+json", .stream = true, .json = true},
    {.type = "application/grpc-web+proto", .grpc = true},
    {.type = "application/grpc-web", .grpc = true},
    {.type = "application/grpc-web-text+proto", .grpc = true, .text = true},
    {.type = "application/grpc-web-text", .grpc = true, .text = true},
    {.type = "application/grpc+proto", .grpc = true, .http2 = true},
    {.type = "application/grpc", .grpc = true, .http2 = true},
};
#define GRPC_FORMS "application/grpc-web+proto, application/grpc-web-text+proto"
#define FORMS "application/proto, application/json, " GRPC_FORMS
#define STREAM_FORMS                                                           \
    "application/connect+proto, application/connect+json, " GRPC_FORMS

/* ---- Connect's GET: all of it is in the query ---- */

struct query {
    char *message; /* owned */
    bool json, known, base64, gzip, bad, memory;
};

static bool on_query(void *arg, const char *name, const char *value)
{
    struct query *q = arg;

    if (strcmp(name, "message") == 0) {
        q->bad = q->bad || q->message;
        if (!q->message) {
            q->message = strdup(value);
            q->memory = !q->message;
        }
    } else if (strcmp(name, "encoding") == 0) {
        q->json = strcmp(value, "json") == 0;
        q->known = q->json || strcmp(value, "proto") == 0;
    } else if (strcmp(name, "base64") == 0) {
        q->base64 = strcmp(value, "1") == 0;
        q->bad = q->bad || (!q->base64 && strcmp(value, "0") != 0);
    } else if (strcmp(name, "compression") == 0) {
        q->gzip = strcmp(value, "gzip") == 0;
        q->bad = q->bad || (!q->gzip && strcmp(value, "identity") != 0);
    } else if (strcmp(name, "connect") == 0) {
        q->bad = q->bad || strcmp(value, "v1") != 0;
    } else {
        q->bad = true;
    }
    return !q->bad && !q->memory;
}

static bool is_get(const struct srv_request *r)
{
    return strcmp(r->x->method, "GET") == 0;
}

static const struct form *form_of(const struct srv_request *r)
{
    bool streams = r->route && r->route->streams;
    struct query q = {0};

    if (is_get(r)) {
        srv_http_query(r->x, on_query, &q);
        free(q.message);
        return q.known ? &forms[q.json] : NULL;
    }
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        const struct form *f = &forms[i];

        if (srv_media_is(r->x->content_type, f->type))
            return (f->grpc || f->stream == streams) &&
                           (!f->http2 || srv_http_has_trailers(r->x))
                       ? f
                       : NULL;
    }
    return NULL;
}

/* ---- In ---- */

static enum ut_err fail(struct api_error *err, const char *field,
                        const char *want)
{
    api_fail(err, API_INVALID_ARGUMENT, "%s is not %s", field, want);
    srv_expected(err, field, want);
    return UT_EINVAL;
}

static enum ut_err bad_form(const struct srv_request *r, struct api_error *err)
{
    const char *want = r->route->streams ? STREAM_FORMS : FORMS;

    if (is_get(r))
        return fail(err, "encoding", "proto or json");
    api_fail(err, API_INVALID_ARGUMENT,
             "Content-Type \"%.40s\" is not one of %s",
             r->x->content_type ? r->x->content_type : "", want);
    err->http_status = 415;
    srv_expected(err, "Content-Type", want);
    return UT_EINVAL;
}

/* The encoding of messages in frames. */
static const char *frame_encoding(const struct srv_request *r,
                                  const struct form *form)
{
    return srv_http_field(r->x, form->grpc ? "Grpc-Encoding"
                                           : "Connect-Content-Encoding");
}

static enum ut_err rpc_begin(struct srv_request *r, struct api_error *err)
{
    const char *version = srv_http_field(r->x, "Connect-Protocol-Version");
    const char *timeout = srv_http_field(r->x, "Grpc-Timeout");
    const char *whole = srv_http_field(r->x, "Content-Encoding");
    const struct form *form = form_of(r);
    const char *encoding;

    if (!form)
        return bad_form(r, err);
    if (r->route->duplex && !form->http2 && !form->stream) {
        api_fail(err, API_UNIMPLEMENTED,
                 "%s takes a stream: it is served as gRPC (application/grpc, "
                 "over HTTP/2: --grpc) and as Connect "
                 "(application/connect+proto, application/connect+json)",
                 r->route->rpc);
        return UT_EINVAL;
    }
    if (r->route->duplex && whole && strcasecmp(whole, "identity") != 0)
        return fail(err, "the Content-Encoding of a stream", "identity");
    if (is_get(r) && r->x->has_body)
        return fail(err, "the body of GET", "empty");
    if (!form->grpc && version && strcmp(version, "1") != 0)
        return fail(err, "Connect-Protocol-Version", "1");
    encoding =
        form->grpc || form->stream ? frame_encoding(r, form) : "identity";
    if (encoding && strcmp(encoding, "gzip") != 0 &&
        strcmp(encoding, "identity") != 0) {
        (void)fail(err, "the encoding of frames", "gzip or identity");
        err->code = API_UNIMPLEMENTED;
        return UT_EINVAL;
    }
    if (form->grpc && timeout) {
        int64_t us = api_grpc_timeout_us(timeout);

        if (us < 0)
            return fail(err, "Grpc-Timeout",
                        "at most eight digits and a unit (H M S m u n)");
        r->call.deadline_us = r->x->start_us + us;
        r->timed = true;
    }
    return UT_OK;
}

static enum ut_err read_message(struct srv_request *r, bool json,
                                const char *data, size_t len,
                                struct api_error *err)
{
    return json
               ? api_json_read(r->route->request, data, len, &r->message, err)
               : api_proto_read(r->route->request, data, len, &r->message, err);
}

/* Reads a message that may be packed. */
static enum ut_err read_packed(struct srv_request *r, bool gzip, bool json,
                               const char *data, size_t len,
                               struct api_error *err)
{
    enum ut_err rc;
    char *plain;

    if (!gzip)
        return read_message(r, json, data, len, err);
    rc = api_gunzip(data, len, srv_http_body_limit(r->x), &plain, &len, err);
    if (rc)
        return rc;
    rc = read_message(r, json, plain, len, err);
    free(plain);
    return rc;
}

static enum ut_err bind_get(struct srv_request *r, struct api_error *err)
{
    struct query q = {0};
    enum ut_err rc = UT_OK;
    ptrdiff_t len;

    srv_http_query(r->x, on_query, &q);
    if (q.memory) {
        api_fail(err, API_INTERNAL, "no memory for the message");
        return UT_ENOMEM;
    }
    if (q.bad || !q.message) {
        rc = fail(err, "the query",
                  "message, encoding, base64 (0, 1), compression (gzip, "
                  "identity) and connect (v1)");
    } else {
        len = (ptrdiff_t)strlen(q.message);
        if (q.base64)
            /* In its own place: three bytes never pass the four read. */
            len =
                api_base64_decode(q.message, (size_t)len, (uint8_t *)q.message);
        if (len < 0)
            rc = fail(err, "message", "base64");
        else
            rc = read_packed(r, q.gzip, q.json, q.message, (size_t)len, err);
    }
    free(q.message);
    return rc;
}

/* The one message of a body in frames. */
static enum ut_err read_frame(struct srv_request *r, const struct form *form,
                              const char *body, size_t len,
                              struct api_error *err)
{
    const char *encoding = frame_encoding(r, form);
    const char *end = body + len, *data;
    unsigned flags;
    enum ut_err rc;

    rc = api_frame_next(&body, end, &flags, &data, &len, err);
    if (rc)
        return rc;
    if (body != end || (flags & ~(unsigned)API_FRAME_GZIP) ||
        (flags && (!encoding || strcmp(encoding, "gzip") != 0)))
        return fail(err, "the body",
                    "one frame, packed only where the header says gzip");
    return read_packed(r, flags & API_FRAME_GZIP, form->json, data, len, err);
}

static enum ut_err rpc_bind(struct srv_request *r, struct api_error *err)
{
    const struct form *form = form_of(r);
    const char *body = r->x->body ? r->x->body : "";
    size_t len = r->x->body_len;
    enum ut_err rc;
    char *bytes;

    if (is_get(r))
        return bind_get(r, err);
    if (!form->grpc && !form->stream)
        return read_message(r, form->json, body, len, err);
    if (!form->text)
        return read_frame(r, form, body, len, err);
    rc = api_frame_untext(body, len, &bytes, &len, err);
    if (!rc) {
        rc = read_frame(r, form, bytes, len, err);
        free(bytes);
    }
    return rc;
}

static void rpc_unbind(struct srv_request *r)
{
    protobuf_c_message_free_unpacked(r->message, NULL);
}

/* ---- Out ---- */

static enum ut_err to_text(struct ut_buf *b, struct ut_error *e)
{
    size_t len = api_base64_len(b->len);
    char *text = malloc(len + 1);
    enum ut_err rc;

    if (!text)
        return ut_fail(e, UT_ENOMEM, "no memory for %zu bytes of base64", len);
    api_base64_encode((const uint8_t *)b->data, b->len, text);
    ut_buf_fini(b);
    rc = ut_buf_add(b, text, len, e);
    free(text);
    return rc;
}

/* Whether the client takes frames that are packed; those worth it are. */
static bool takes_packed(const struct srv_request *r, const struct form *form)
{
    return (form->grpc || form->stream) &&
           srv_takes_gzip(
               srv_http_field(r->x, form->grpc ? "Grpc-Accept-Encoding"
                                               : "Connect-Accept-Encoding"));
}

/* Says of an answer in frames that some may be packed. */
static void add_encoding(const struct srv_request *r, const struct form *form,
                         struct srv_http_answer *a)
{
    if (takes_packed(r, form))
        a->fields[a->n_fields++] = (struct srv_http_field){
            form->grpc ? "Grpc-Encoding" : "Connect-Content-Encoding", "gzip"};
}

/* A frame with a message; packed where that makes it smaller. */
static enum ut_err add_frame(const struct srv_request *r,
                             const struct form *form, const ProtobufCMessage *m,
                             struct ut_buf *b, struct ut_error *e)
{
    struct ut_buf plain;
    char *packed = NULL;
    enum ut_err rc;
    size_t len;

    ut_buf_init(&plain, SRV_MAX_ANSWER);
    rc = form->json ? api_json_add(m, 0, &plain, e)
                    : api_proto_write(m, &plain, e);
    if (!rc && plain.len >= SRV_GZIP_LEAST && takes_packed(r, form))
        rc = api_gzip(plain.data, plain.len, &packed, &len, e);
    if (!rc && packed && len < plain.len)
        rc = api_frame_add(b, API_FRAME_GZIP, packed, len, e);
    else if (!rc)
        rc = api_frame_add(b, 0, plain.data, plain.len, e);
    free(packed);
    ut_buf_fini(&plain);
    return rc;
}

/* What ends an answer, by err, or well for NULL: a frame, or trailers. */
static enum ut_err add_end(struct srv_request *r, const struct form *form,
                           const struct api_error *err, struct ut_buf *b,
                           struct ut_error *e)
{
    struct ut_buf text;
    enum ut_err rc;
    size_t len;

    ut_buf_init(&text, b->limit);
    if (form->grpc) {
        rc = api_grpc_trailers(&text, err, e);
    } else {
        rc = ut_buf_addf(&text, e, err ? "{\"error\":" : "{");
        if (!rc && err)
            rc = api_error_connect(&text, err, e);
        if (!rc)
            rc = ut_buf_addf(&text, e, "}");
    }
    if (!rc && form->http2)
        srv_http_trailers(r->x, ut_buf_take(&text, &len));
    else if (!rc)
        rc = api_frame_add(b, form->grpc ? API_FRAME_TRAILERS : API_FRAME_END,
                           text.data, text.len, e);
    ut_buf_fini(&text);
    return rc;
}

static void rpc_stream(const struct srv_request *r, struct srv_http_answer *a)
{
    const struct form *form = form_of(r);

    a->type = form->type;
    add_encoding(r, form, a);
}

static enum ut_err rpc_piece(struct srv_request *r, const ProtobufCMessage *m,
                             struct ut_buf *b, struct ut_error *e)
{
    const struct form *form = form_of(r);
    enum ut_err rc = add_frame(r, form, m, b, e);

    return rc || !form->text ? rc : to_text(b, e);
}

static enum ut_err rpc_last(struct srv_request *r, const struct api_error *err,
                            struct ut_buf *b, struct ut_error *e)
{
    const struct form *form = form_of(r);
    enum ut_err rc = add_end(r, form, err, b, e);

    return rc || !form->text ? rc : to_text(b, e);
}

static enum ut_err rpc_reply(struct srv_request *r, const ProtobufCMessage *m,
                             struct srv_http_answer *a, struct ut_error *e)
{
    const struct form *form = form_of(r);
    struct ut_buf b;
    enum ut_err rc;

    a->status = 200;
    a->type = form->type;
    ut_buf_init(&b, SRV_MAX_ANSWER);
    if (form->grpc) {
        add_encoding(r, form, a);
        rc = add_frame(r, form, m, &b, e);
        if (!rc)
            rc = add_end(r, form, NULL, &b, e);
    } else {
        rc = form->json ? api_json_add(m, 0, &b, e) : api_proto_write(m, &b, e);
    }
    if (!rc && form->text)
        rc = to_text(&b, e);
    if (!rc)
        a->body = ut_buf_take(&b, &a->len);
    ut_buf_fini(&b);
    return rc;
}

static void rpc_fail(struct srv_request *r, const struct api_error *err)
{
    const struct form *form = form_of(r);
    struct srv_http_answer a = {0};
    struct ut_error e;
    struct ut_buf b;
    enum ut_err rc;

    ut_buf_init(&b, 1 << 16);
    if (form && (form->grpc || form->stream)) {
        a.status = 200;
        a.type = form->type;
        rc = rpc_last(r, err, &b, &e);
    } else {
        /* The code's own status, but for what HTTP itself says. */
        a.status = err->http_status == 404 || err->http_status == 405 ||
                           err->http_status == 415
                       ? err->http_status
                       : api_code_http(err->code);
        a.type = "application/json";
        if (a.status == 415 && strcmp(err->field, "Content-Type") == 0)
            a.fields[a.n_fields++] =
                (struct srv_http_field){"Accept-Post", err->value};
        rc = api_error_connect(&b, err, &e);
    }
    if (!rc)
        a.body = ut_buf_take(&b, &a.len);
    ut_buf_fini(&b);
    srv_http_fail_as(r->x, err, &a);
}

const struct srv_protocol srv_rpc = {
    .begin = rpc_begin,
    .bind = rpc_bind,
    .unbind = rpc_unbind,
    .reply = rpc_reply,
    .stream = rpc_stream,
    .piece = rpc_piece,
    .last = rpc_last,
    .fail = rpc_fail,
};
