/* The Open Inference Protocol over HTTP, at /v2: its JSON and binary tensors,
 * and its one shape of errors. What they mean is the service's of
 * api/oip/inference.proto, which RPC clients call too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/escape.h"
#include "api/json.h"
#include "api/oip.h"
#include "server/calls/dispatch.h"

#define MAX_ANSWER (16u << 20)
#define JSON "application/json"
#define BINARY "application/octet-stream"
#define JSON_LENGTH "Inference-Header-Content-Length"

static bool is_infer(const struct srv_request *r)
{
    return r->route->request == &inference__model_infer_request__descriptor;
}

static enum ut_err oip_begin(struct srv_request *r, struct api_error *err)
{
    const char *type = r->x->content_type;

    if (!r->x->has_body)
        return UT_OK;
    if (strcmp(r->route->method, "POST")) {
        api_fail(err, API_INVALID_ARGUMENT, "%.20s %.100s takes no body",
                 r->x->method, r->x->path);
        return UT_EINVAL;
    }
    /* Triton's own clients name no type. */
    if (!type || srv_media_is(type, JSON) || srv_media_is(type, BINARY))
        return UT_OK;
    api_fail(err, API_INVALID_ARGUMENT,
             "Content-Type \"%.60s\" is not one of " JSON ", " BINARY, type);
    err->http_status = 415;
    return UT_EINVAL;
}

static bool on_query(void *arg, const char *name, const char *value)
{
    struct api_error *err = arg;

    (void)value;
    api_fail(err, API_INVALID_ARGUMENT, "no query parameter \"%.60s\" here",
             name);
    return false;
}

static enum ut_err bind_infer(struct srv_request *r, struct api_error *err)
{
    const char *text = srv_http_field(r->x, JSON_LENGTH);
    size_t json_len = API_OIP_ALL_JSON;

    if (text) {
        size_t n = strspn(text, "0123456789");

        if (!n || n > 18 || text[n]) {
            api_fail(err, API_INVALID_ARGUMENT,
                     JSON_LENGTH " \"%.40s\" is not a number of bytes", text);
            return UT_EINVAL;
        }
        json_len = strtoull(text, NULL, 10);
    }
    return api_oip_read(r->x->body ? r->x->body : "", r->x->body_len, json_len,
                        (Inference__ModelInferRequest **)(void *)&r->message,
                        err);
}

/* The path says which model; a body that says it again is not believed. */
static enum ut_err bind_path(struct srv_request *r, struct api_error *err)
{
    enum ut_err rc = UT_OK;

    for (int i = 0; i < r->params.n && !rc; i++)
        rc = api_json_set(r->message, r->params.at[i].name,
                          r->params.at[i].value, err);
    return rc;
}

/* Unloading is refused, whatever its parameters say. */
static bool reads_body(const struct srv_request *r)
{
    return r->route->request !=
           &inference__repository_model_unload_request__descriptor;
}

static enum ut_err oip_bind(struct srv_request *r, struct api_error *err)
{
    enum ut_err rc;

    err->code = 0;
    srv_http_query(r->x, on_query, err);
    if (err->code)
        return UT_EINVAL;
    rc = is_infer(r) ? bind_infer(r, err)
                     : api_json_read(r->route->request, r->x->body,
                                     reads_body(r) ? r->x->body_len : 0,
                                     &r->message, err);
    return rc ? rc : bind_path(r, err);
}

static void oip_unbind(struct srv_request *r)
{
    protobuf_c_message_free_unpacked(r->message, NULL);
}

static enum ut_err reply_infer(struct srv_request *r, const ProtobufCMessage *m,
                               struct srv_http_answer *a, struct ut_buf *b,
                               struct ut_error *e)
{
    enum ut_err rc;
    size_t len;

    rc = api_oip_write((const void *)r->message, (const void *)m, b, &len, e);
    if (rc || len == b->len)
        return rc;
    snprintf(r->field_value, sizeof(r->field_value), "%zu", len);
    a->type = BINARY;
    a->fields[a->n_fields++] =
        (struct srv_http_field){JSON_LENGTH, r->field_value};
    return UT_OK;
}

/* The protocol's JSON says a model's name where its message does not. */
static enum ut_err reply_ready(const struct srv_request *r, struct ut_buf *b,
                               struct ut_error *e)
{
    const Inference__ModelReadyRequest *q = (const void *)r->message;
    enum ut_err rc = ut_buf_addf(b, e, "{\"name\":");

    if (!rc)
        rc = api_escape(b, q->name, e);
    return rc ? rc : ut_buf_addf(b, e, ",\"ready\":true}");
}

/* The protocol's JSON is the list alone. */
static enum ut_err reply_index(const ProtobufCMessage *m, struct ut_buf *b,
                               struct ut_error *e)
{
    const Inference__RepositoryIndexResponse *r = (const void *)m;
    enum ut_err rc = ut_buf_add(b, "[", 1, e);

    for (size_t i = 0; i < r->n_models && !rc; i++) {
        if (i)
            rc = ut_buf_add(b, ",", 1, e);
        if (!rc)
            rc = api_json_add(&r->models[i]->base, API_JSON_REST, b, e);
    }
    return rc ? rc : ut_buf_add(b, "]", 1, e);
}

static enum ut_err oip_reply(struct srv_request *r, const ProtobufCMessage *m,
                             struct srv_http_answer *a, struct ut_error *e)
{
    struct ut_buf b;
    enum ut_err rc;

    a->type = JSON;
    ut_buf_init(&b, MAX_ANSWER);
    if (is_infer(r))
        rc = reply_infer(r, m, a, &b, e);
    else if (m->descriptor == &inference__model_ready_response__descriptor)
        rc = reply_ready(r, &b, e);
    else if (m->descriptor == &inference__repository_index_response__descriptor)
        rc = reply_index(m, &b, e);
    else
        rc = api_json_add(m, API_JSON_REST, &b, e);
    if (!rc)
        a->body = ut_buf_take(&b, &a->len);
    ut_buf_fini(&b);
    return rc;
}

static void oip_fail(struct srv_request *r, const struct api_error *err)
{
    struct srv_http_answer a = {.type = JSON};
    struct ut_error e;
    struct ut_buf b;

    a.status = err->http_status ? err->http_status : api_code_http(err->code);
    ut_buf_init(&b, 4096);
    if (!ut_buf_addf(&b, &e, "{\"error\":") &&
        !api_escape(&b, err->message, &e) && !ut_buf_addf(&b, &e, "}"))
        a.body = ut_buf_take(&b, &a.len);
    ut_buf_fini(&b);
    srv_http_fail_as(r->x, err, &a);
}

const struct srv_protocol srv_oip = {
    .begin = oip_begin,
    .bind = oip_bind,
    .unbind = oip_unbind,
    .reply = oip_reply,
    .fail = oip_fail,
    .binds_anywhere = true,
};
