/* REST: path, query and body into the fields of one message, by its
 * descriptor, and answers as JSON. No route has code of its own. */
#include "server/calls/dispatch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/json.h"
#include "api/multipart.h"
#include "api/tscaf.pb-c.h"

#define JSON "application/json"
#define FORM "multipart/form-data"
#define IMAGES "image/jpeg, image/png, " FORM ", " JSON
#define ARCHIVES                                                               \
    "application/x-tar, application/zip, application/gzip, "                   \
    "application/octet-stream, " JSON

static const ProtobufCFieldDescriptor *
field(const ProtobufCMessageDescriptor *d, const char *name)
{
    return protobuf_c_message_descriptor_get_field_by_name(d, name);
}

static bool is_image(const ProtobufCFieldDescriptor *f)
{
    return f && f->type == PROTOBUF_C_TYPE_MESSAGE &&
           f->descriptor == &tscaf__v1__image__descriptor;
}

/* Where a picture without a name goes; NULL: nowhere. */
static const ProtobufCFieldDescriptor *
main_image(const ProtobufCMessageDescriptor *d)
{
    const ProtobufCFieldDescriptor *f = field(d, "images");

    if (!is_image(f))
        f = field(d, "image");
    return is_image(f) ? f : NULL;
}

/* The field that a body goes to as it is; NULL: none. */
static const ProtobufCFieldDescriptor *
archive_of(const ProtobufCMessageDescriptor *d)
{
    const ProtobufCFieldDescriptor *f = field(d, "archive");

    return f && f->type == PROTOBUF_C_TYPE_BYTES ? f : NULL;
}

/* The media types that a route's body may have, for people; NULL: none. */
static const char *media_of(const struct srv_route *route)
{
    if (strcmp(route->method, "POST") != 0 &&
        strcmp(route->method, "PATCH") != 0)
        return NULL;
    return main_image(route->request)   ? IMAGES
           : archive_of(route->request) ? ARCHIVES
                                        : JSON;
}

static bool takes(const char *media, const char *content_type)
{
    if (!media || !content_type)
        return false;
    if (srv_media_is(content_type, JSON))
        return true;
    if (!strcmp(media, ARCHIVES))
        return srv_media_is(content_type, "application/x-tar") ||
               srv_media_is(content_type, "application/zip") ||
               srv_media_is(content_type, "application/gzip") ||
               srv_media_is(content_type, "application/octet-stream");
    return strcmp(media, JSON) != 0 &&
           (srv_media_is(content_type, "image/jpeg") ||
            srv_media_is(content_type, "image/png") ||
            srv_media_is(content_type, FORM));
}

static enum ut_err rest_begin(struct srv_request *r, struct api_error *err)
{
    const struct srv_http_exchange *x = r->x;
    const char *media = media_of(r->route);

    if (!x->has_body || takes(media, x->content_type))
        return UT_OK;
    if (!media) {
        api_fail(err, API_INVALID_ARGUMENT, "%.20s %.100s takes no body",
                 x->method, x->path);
        return UT_EINVAL;
    }
    api_fail(err, API_INVALID_ARGUMENT,
             "Content-Type \"%.60s\" is not one of %s",
             x->content_type ? x->content_type : "", media);
    err->http_status = 415;
    srv_expected(err, "Content-Type", media);
    return UT_EINVAL;
}

static enum ut_err no_memory(struct api_error *err)
{
    api_fail(err, API_INTERNAL, "no memory for the request");
    return UT_ENOMEM;
}

static enum ut_err wrong(struct api_error *err, const char *name)
{
    snprintf(err->field, sizeof(err->field), "%s", name);
    return UT_EINVAL;
}

/* ---- Pictures ---- */

static void *at(const ProtobufCMessage *msg, unsigned offset)
{
    return (char *)(uintptr_t)msg + offset;
}

/* Puts a view of the body into an image field. */
static enum ut_err add_image(ProtobufCMessage *msg,
                             const ProtobufCFieldDescriptor *f,
                             const char *data, size_t len,
                             struct api_error *err)
{
    Tscaf__V1__Image *image;

    if (f->label != PROTOBUF_C_LABEL_REPEATED && *(void **)at(msg, f->offset)) {
        api_fail(err, API_INVALID_ARGUMENT, "%s: one picture, not several",
                 f->name);
        return wrong(err, f->name);
    }
    image = malloc(sizeof(*image));
    if (!image)
        return no_memory(err);
    tscaf__v1__image__init(image);
    image->data.data = (uint8_t *)(uintptr_t)data;
    image->data.len = len;
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t *n = at(msg, f->quantifier_offset);
        void ***list = at(msg, f->offset);
        void **more = realloc(*list, (*n + 1) * sizeof(*more));

        if (!more) {
            free(image);
            return no_memory(err);
        }
        more[(*n)++] = image;
        *list = more;
    } else {
        *(void **)at(msg, f->offset) = image;
    }
    return UT_OK;
}

static void return_view(const struct srv_http_exchange *x,
                        Tscaf__V1__Image *image)
{
    const char *data = image ? (const char *)image->data.data : NULL;

    if (data && data >= x->body && data <= x->body + x->body_len)
        image->data = (ProtobufCBinaryData){0};
}

/* Frees a message, in which images may be views of the body. */
static void drop(const struct srv_http_exchange *x, ProtobufCMessage *msg)
{
    if (!msg)
        return;
    if (x->body && archive_of(msg->descriptor)) {
        ProtobufCBinaryData *b = at(msg, archive_of(msg->descriptor)->offset);

        if ((const char *)b->data == x->body)
            *b = (ProtobufCBinaryData){0};
    }
    for (unsigned i = 0; x->body && i < msg->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &msg->descriptor->fields[i];

        if (!is_image(f))
            continue;
        if (f->label != PROTOBUF_C_LABEL_REPEATED) {
            return_view(x, *(void **)at(msg, f->offset));
            continue;
        }
        for (size_t k = 0; k < *(size_t *)at(msg, f->quantifier_offset); k++)
            return_view(x, (*(Tscaf__V1__Image ***)at(msg, f->offset))[k]);
    }
    protobuf_c_message_free_unpacked(msg, NULL);
}

/* ---- Multipart ---- */

/* A view as a C string, cut to fit. */
static const char *text_of(char *out, size_t size, const char *s, size_t len)
{
    snprintf(out, size, "%.*s", (int)(len < size ? len : size - 1), s);
    return out;
}

/* A picture's part: to the image field of its name, or where pictures go
 * when there is but one such field. */
static enum ut_err add_file(ProtobufCMessage *msg, const char *name,
                            const struct api_part *part, struct api_error *err)
{
    const ProtobufCFieldDescriptor *f = field(msg->descriptor, name);

    if (!is_image(f) && !is_image(field(msg->descriptor, "other")))
        f = main_image(msg->descriptor);
    if (!is_image(f)) {
        api_fail(err, API_INVALID_ARGUMENT,
                 "no picture is called \"%.60s\"; known: image, other", name);
        return wrong(err, name);
    }
    return add_image(msg, f, part->data, part->data_len, err);
}

static enum ut_err add_text(ProtobufCMessage *msg, const char *name,
                            const struct api_part *part, struct api_error *err)
{
    char *text = malloc(part->data_len + 1);
    enum ut_err rc;

    if (!text)
        return no_memory(err);
    memcpy(text, part->data, part->data_len);
    text[part->data_len] = '\0';
    if (memchr(text, '\0', part->data_len)) {
        api_fail(err, API_INVALID_ARGUMENT, "%.60s: has a NUL in it", name);
        rc = wrong(err, name);
    } else {
        rc = api_json_set(msg, name, text, err);
    }
    free(text);
    return rc;
}

static enum ut_err bind_multipart(const struct srv_http_exchange *x,
                                  ProtobufCMessage *msg, struct api_error *err)
{
    struct api_part parts[API_MULTIPART_MAX_PARTS];
    enum ut_err rc;
    int n = 0;

    rc = api_multipart_parse(x->content_type, x->body ? x->body : "",
                             x->body_len, parts, &n, err);
    for (int i = 0; !rc && i < n; i++) {
        char name[64];

        text_of(name, sizeof(name), parts[i].name, parts[i].name_len);
        if (parts[i].filename || is_image(field(msg->descriptor, name)))
            rc = add_file(msg, name, &parts[i], err);
        else
            rc = add_text(msg, name, &parts[i], err);
    }
    return rc;
}

/* ---- Query and path ---- */

struct query {
    ProtobufCMessage *msg;
    const struct srv_params *params;
    struct api_error *err;
    enum ut_err rc;
};

static bool in_path(const struct srv_params *p, const char *name)
{
    for (int i = 0; i < p->n; i++)
        if (strcmp(p->at[i].name, name) == 0)
            return true;
    return false;
}

static bool in_query(const ProtobufCFieldDescriptor *f,
                     const struct srv_params *p)
{
    return f && f->type != PROTOBUF_C_TYPE_MESSAGE &&
           f->type != PROTOBUF_C_TYPE_BYTES && !in_path(p, f->name);
}

static bool on_query(void *arg, const char *name, const char *value)
{
    struct query *q = arg;
    const ProtobufCMessageDescriptor *d = q->msg->descriptor;
    size_t len = 0;

    if (in_query(field(d, name), q->params)) {
        q->rc = api_json_set(q->msg, name, value, q->err);
        return !q->rc;
    }
    api_fail(q->err, API_INVALID_ARGUMENT, "no query parameter \"%.60s\" here",
             name);
    snprintf(q->err->reason, sizeof(q->err->reason), "EXPECTED");
    for (unsigned i = 0; i < d->n_fields; i++)
        if (in_query(&d->fields[i], q->params) && len < sizeof(q->err->value))
            len += (size_t)snprintf(q->err->value + len,
                                    sizeof(q->err->value) - len, "%s%s",
                                    len ? ", " : "", d->fields[i].name);
    if (!len)
        snprintf(q->err->value, sizeof(q->err->value), "no query at all");
    q->rc = wrong(q->err, name);
    return false;
}

/* A body may repeat what the path says, but not contradict it. */
static enum ut_err bind_path(ProtobufCMessage *msg, const struct srv_params *p,
                             struct api_error *err)
{
    enum ut_err rc = UT_OK;

    for (int i = 0; !rc && i < p->n; i++) {
        const char *name = p->at[i].name, *value = p->at[i].value;
        const ProtobufCFieldDescriptor *f = field(msg->descriptor, name);
        const char *said = f && f->type == PROTOBUF_C_TYPE_STRING
                               ? *(char **)at(msg, f->offset)
                               : NULL;

        if (said && *said && strcmp(said, value) != 0) {
            api_fail(err, API_INVALID_ARGUMENT,
                     "%s is \"%.60s\" in the body and \"%.60s\" in the path",
                     name, said, value);
            return wrong(err, name);
        }
        rc = api_json_set(msg, name, value, err);
    }
    return rc;
}

static enum ut_err bind_body(const struct srv_route *route,
                             const struct srv_http_exchange *x,
                             ProtobufCMessage **msg, struct api_error *err)
{
    bool json =
        !x->body_len || !x->content_type || srv_media_is(x->content_type, JSON);
    enum ut_err rc = api_json_read(route->request, json ? x->body : NULL,
                                   json ? x->body_len : 0, msg, err);

    if (rc || json)
        return rc;
    if (archive_of(route->request)) {
        ProtobufCBinaryData *b = at(*msg, archive_of(route->request)->offset);

        b->data = (uint8_t *)(uintptr_t)x->body; /* a view */
        b->len = x->body_len;
        return UT_OK;
    }
    if (srv_media_is(x->content_type, FORM))
        return bind_multipart(x, *msg, err);
    return add_image(*msg, main_image(route->request), x->body, x->body_len,
                     err);
}

static enum ut_err rest_bind(struct srv_request *r, struct api_error *err)
{
    struct query q = {.params = &r->params, .err = err};
    enum ut_err rc;

    rc = bind_body(r->route, r->x, &q.msg, err);
    if (!rc)
        rc = bind_path(q.msg, &r->params, err);
    if (!rc) {
        srv_http_query(r->x, on_query, &q);
        rc = q.rc;
    }
    if (rc)
        drop(r->x, q.msg);
    else
        r->message = q.msg;
    return rc;
}

static void rest_unbind(struct srv_request *r)
{
    drop(r->x, r->message);
}

/* ---- Answers ---- */

/* A message whose only field is bytes (a PNG) goes as those. */
static enum ut_err rest_reply(struct srv_request *r, const ProtobufCMessage *m,
                              struct srv_http_answer *a, struct ut_error *e)
{
    const ProtobufCMessageDescriptor *d = m->descriptor;
    const ProtobufCBinaryData *png;

    (void)r;
    if (!d->n_fields)
        return UT_OK;
    if (d->n_fields > 1 || d->fields[0].type != PROTOBUF_C_TYPE_BYTES ||
        d->fields[0].label == PROTOBUF_C_LABEL_REPEATED) {
        a->type = JSON;
        return api_json_write(m, API_JSON_REST, &a->body, &a->len, e);
    }
    png = (const void *)((const char *)m + d->fields[0].offset);
    a->type = "image/png";
    a->len = png->len;
    a->body = malloc(a->len + 1);
    if (!a->body)
        return ut_fail(e, UT_ENOMEM, "no memory for a picture");
    if (a->len)
        memcpy(a->body, png->data, a->len);
    return UT_OK;
}

/* ---- Streams, as Server-Sent Events ---- */
/* Source: https://html.spec.whatwg.org/multipage/server-sent-events.html */

static void rest_stream(const struct srv_request *r, struct srv_http_answer *a)
{
    (void)r;
    a->type = "text/event-stream";
}

static enum ut_err rest_piece(struct srv_request *r, const ProtobufCMessage *m,
                              struct ut_buf *b, struct ut_error *e)
{
    enum ut_err rc;
    size_t len;
    char *json;

    (void)r;
    rc = api_json_write(m, API_JSON_REST, &json, &len, e);
    if (!rc)
        rc = ut_buf_addf(b, e, "data: %s\n\n", json);
    free(json);
    return rc;
}

/* A browser's EventSource would connect again after a bare end. */
static enum ut_err rest_last(struct srv_request *r, const struct api_error *err,
                             struct ut_buf *b, struct ut_error *e)
{
    enum ut_err rc;
    char *json;

    (void)r;
    if (!err)
        return ut_buf_addf(b, e, "event: end\ndata: {}\n\n");
    rc = api_error_json(err, &json, e);
    if (!rc)
        rc = ut_buf_addf(b, e, "event: error\ndata: %s\n\n", json);
    free(json);
    return rc;
}

static void rest_fail(struct srv_request *r, const struct api_error *err)
{
    srv_http_fail(r->x, err);
}

const struct srv_protocol srv_rest = {
    .begin = rest_begin,
    .bind = rest_bind,
    .unbind = rest_unbind,
    .reply = rest_reply,
    .stream = rest_stream,
    .piece = rest_piece,
    .last = rest_last,
    .fail = rest_fail,
};
