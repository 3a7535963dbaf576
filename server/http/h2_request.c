/* Requests over HTTP/2: the header's checks, the body within its limits. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/http/h2_parts.h"

#define FIELD_OVERHEAD 32 /* bytes, as RFC 9113 counts a field */

static const struct srv_http_hooks *hooks(const struct h2_stream *s)
{
    return &s->h->c.hooks;
}

/* ---- Fields and the query ---- */

const char *h2_field(const struct srv_http_exchange *x, const char *name)
{
    const struct h2_stream *s = (const struct h2_stream *)x;

    if (strcasecmp(name, "Host") == 0)
        name = ":authority";
    for (int i = 0; i < s->n_fields; i++)
        if (strcasecmp(s->text.data + s->fields[i].name, name) == 0)
            return s->text.data + s->fields[i].value;
    return NULL;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Undoes %XX, and + where it is a space, in place. False for a %00. */
static bool decode(char *text, bool plus)
{
    char *out = text;

    for (; *text; text++) {
        int high = *text == '%' ? hex(text[1]) : -1;
        int low = high >= 0 ? hex(text[2]) : -1;

        if (low >= 0) {
            *out = (char)(high * 16 + low);
            if (!*out)
                return false;
            text += 2;
        } else {
            *out = plus && *text == '+' ? ' ' : *text;
        }
        out++;
    }
    *out = '\0';
    return true;
}

void h2_query(const struct srv_http_exchange *x,
              bool (*fn)(void *arg, const char *name, const char *value),
              void *arg)
{
    const struct h2_stream *s = (const struct h2_stream *)x;
    char *copy = s->query ? strdup(s->query) : NULL, *rest = copy, *pair;

    while (rest && (pair = strsep(&rest, "&"))) {
        char *value = strchr(pair, '=');

        if (!*pair)
            continue;
        if (value)
            *value++ = '\0';
        if (!decode(pair, true) || (value && !decode(value, true)) ||
            !fn(arg, pair, value ? value : ""))
            break;
    }
    free(copy);
}

/* ---- Ends ---- */

void h2_refuse(struct h2_stream *s, enum srv_reject why, enum api_code code,
               int status, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    srv_http_refuse(&s->h->c, &s->x, why, code, status, fmt, args);
    va_end(args);
}

void h2_drop_body(struct h2_stream *s)
{
    srv_http_body_drop(&s->h->bodies, &s->body, &s->x);
}

static void link_to(struct h2_stream **list, struct h2_stream *s)
{
    s->prev = NULL;
    s->next = *list;
    if (*list)
        (*list)->prev = s;
    *list = s;
}

static void unlink_from(struct h2_stream **list, struct h2_stream *s)
{
    if (s->next)
        s->next->prev = s->prev;
    if (s->prev)
        s->prev->next = s->next;
    else
        *list = s->next;
}

void h2_finish(struct h2_stream *s)
{
    struct srv_h2 *h = s->h;

    unlink_from(s->conn ? &s->conn->streams : &h->orphans, s);
    if (s->conn && --s->conn->n_streams == 0)
        s->conn->since_us = ut_clock_us();
    if (s->begun)
        hooks(s)->done(hooks(s)->arg, &s->x);
    h2_drop_body(s);
    srv_http_body_free(&h->bodies, &s->inbox);
    ut_buf_fini(&s->unsent);
    ut_buf_fini(&s->text);
    free(s->x.trailers);
    free(s->path);
    free(s->query);
    free(s);
    h->need_pump = true; /* it may have been the last one */
}

/* The stream is closed; a handler may still have its exchange. */
static void detach(struct h2_stream *s, bool well)
{
    struct h2_conn *c = s->conn;

    if (well) {
        h2_finish(s);
        return;
    }
    unlink_from(&c->streams, s);
    if (--c->n_streams == 0)
        c->since_us = ut_clock_us();
    s->conn = NULL;
    link_to(&s->h->orphans, s);
    s->x.cancelled = true;
    if (s->handed && (s->duplex || !s->x.status)) {
        hooks(s)->left(hooks(s)->arg, &s->x); /* it answers all the same */
        return;
    }
    if (s->streams && !s->over) {
        s->over = true;
        h2_hand_back(s);
        hooks(s)->left(hooks(s)->arg, &s->x);
    }
    h2_finish(s);
}

void h2_abandon(struct h2_conn *c)
{
    while (c->streams)
        detach(c->streams, false);
}

/* ---- The header ---- */

static int on_begin_headers(nghttp2_session *session,
                            const nghttp2_frame *frame, void *user)
{
    struct h2_conn *c = user;
    struct h2_stream *s;

    c->header_us = ut_clock_us();
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    s = calloc(1, sizeof(*s));
    if (!s)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    s->x.via = &h2_transport;
    s->x.method = s->x.path = "";
    memcpy(s->peer, c->peer, sizeof(s->peer));
    s->x.peer = s->peer;
    s->x.loopback = c->loopback;
    s->x.start_us = ut_clock_us();
    s->h = c->h;
    s->conn = c;
    s->id = frame->hd.stream_id;
    ut_buf_init(&s->text, 2 * (size_t)SRV_HTTP_MAX_HEADER_BYTES);
    h2_enter(s, H2_HEADER);
    link_to(&c->streams, s);
    c->n_streams++;
    nghttp2_session_set_stream_user_data(session, s->id, s);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame,
                     const uint8_t *name, size_t name_len, const uint8_t *value,
                     size_t value_len, uint8_t flags, void *user)
{
    struct h2_stream *s =
        nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    struct h2_field *f;
    struct ut_error e;

    (void)flags;
    (void)user;
    if (!s || s->phase != H2_HEADER)
        return 0; /* of a trailer: not ours to read */
    s->header_bytes += name_len + value_len + FIELD_OVERHEAD;
    if (s->header_bytes > SRV_HTTP_MAX_HEADER_BYTES)
        return 0;
    if (s->n_fields == H2_MAX_FIELDS) {
        s->header_bytes = SRV_HTTP_MAX_HEADER_BYTES + 1;
        return 0;
    }
    f = &s->fields[s->n_fields];
    f->name = s->text.len;
    f->value = f->name + name_len + 1;
    if (ut_buf_add(&s->text, name, name_len, &e) ||
        ut_buf_add(&s->text, "", 1, &e) ||
        ut_buf_add(&s->text, value, value_len, &e) ||
        ut_buf_add(&s->text, "", 1, &e))
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    s->n_fields++;
    return 0;
}

/* :path to path and query. False: no memory. *bad: it is no path. */
static bool split_path(struct h2_stream *s, bool *bad)
{
    const char *path = h2_field(&s->x, ":path");
    size_t len = path ? strcspn(path, "?") : 0;

    *bad = !path;
    if (!path)
        return true;
    s->path = strndup(path, len);
    if (path[len])
        s->query = strdup(path + len + 1);
    if (!s->path || (path[len] && !s->query))
        return false;
    *bad = !decode(s->path, false) || strchr(path, ' ');
    s->x.path = s->path;
    return true;
}

/* A Content-Length, which the library has checked; 0 without one. */
static int64_t content_length(const struct h2_stream *s)
{
    const char *text = h2_field(&s->x, "content-length");

    return text ? strtoll(text, NULL, 10) : 0;
}

static void on_header_end(struct h2_stream *s, bool has_body)
{
    struct srv_h2 *h = s->h;
    const char *method = h2_field(&s->x, ":method");
    bool bad, memory = split_path(s, &bad);
    int64_t len = content_length(s);

    s->x.method = method ? method : "";
    s->x.content_type = h2_field(&s->x, "content-type");
    s->x.has_body = has_body;
    srv_http_pick_id(&s->x);
    s->begun = true;
    h2_enter(s, H2_BODY);
    if (!memory)
        h2_refuse(s, SRV_REJECT_BYTES, API_UNAVAILABLE, 0,
                  "no memory for the request");
    else if (s->header_bytes > SRV_HTTP_MAX_HEADER_BYTES)
        h2_refuse(s, SRV_REJECT_HEADERS, API_RESOURCE_EXHAUSTED, 431,
                  "the header is over the limit of %d bytes and %d fields",
                  SRV_HTTP_MAX_HEADER_BYTES, H2_MAX_FIELDS);
    else if (bad)
        h2_refuse(s, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400,
                  "the path or query has a NUL or a space in it");
    else if (len > h->c.max_body_bytes)
        h2_refuse(s, SRV_REJECT_BODY, API_RESOURCE_EXHAUSTED, 413,
                  "the body has %lld bytes, the limit is %lld", (long long)len,
                  (long long)h->c.max_body_bytes);
    else
        hooks(s)->begin(hooks(s)->arg, &s->x);
    s->discard = s->x.status != 0;
}

/* ---- The body ---- */

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id,
                   const uint8_t *data, size_t n, void *user)
{
    struct h2_stream *s = nghttp2_session_get_stream_user_data(session, id);
    const struct srv_http_config *g;

    (void)flags;
    (void)user;
    if (s && s->duplex && !s->discard && !s->over) {
        h2_duplex_data(s, (const char *)data, n);
        return 0;
    }
    nghttp2_session_consume(session, id, n);
    if (!s || s->discard || s->duplex)
        return 0;
    g = &s->h->c;
    s->received += n;
    if ((int64_t)s->received > g->max_body_bytes)
        h2_refuse(s, SRV_REJECT_BODY, API_RESOURCE_EXHAUSTED, 413,
                  "the body has over %lld bytes, the limit",
                  (long long)g->max_body_bytes);
    else if (!srv_http_body_keep(&s->h->bodies, &s->body, &s->x, data, n))
        h2_refuse(s, SRV_REJECT_BYTES, API_UNAVAILABLE, 0,
                  "request bodies hold %lld bytes, the limit is %lld",
                  (long long)s->h->bodies.bytes, (long long)s->h->bodies.limit);
    if (s->x.status) {
        s->discard = true;
        h2_drop_body(s);
    }
    return 0;
}

void h2_hand_over(struct h2_stream *s)
{
    struct srv_h2 *h = s->h;

    h2_enter(s, H2_WORKING);
    s->handed = true;
    h->n_calls++;
    srv_metrics_add(h->c.metrics, SRV_GAUGE_CALLS, 1);
    hooks(s)->handle(hooks(s)->arg, &s->x);
}

size_t h2_body_limit(const struct srv_http_exchange *x)
{
    const struct h2_stream *s = (const struct h2_stream *)x;

    return (size_t)s->h->c.max_body_bytes;
}

enum ut_err h2_replace_body(struct srv_http_exchange *x, char *body, size_t len,
                            struct api_error *err)
{
    struct h2_stream *s = (struct h2_stream *)x;

    return srv_http_body_replace(&s->h->bodies, &s->body, x, body, len, err);
}

/* ---- Frames ---- */

/* Whether a frame asks for work and brings nothing. */
static bool is_idle(const nghttp2_frame *f)
{
    switch (f->hd.type) {
    case NGHTTP2_PING:
    case NGHTTP2_SETTINGS:
    case NGHTTP2_PRIORITY:
    case NGHTTP2_RST_STREAM:
        return true;
    case NGHTTP2_DATA:
        return !f->hd.length && !(f->hd.flags & NGHTTP2_FLAG_END_STREAM);
    default:
        return false;
    }
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *f,
                    void *user)
{
    struct h2_conn *c = user;
    struct h2_stream *s =
        nghttp2_session_get_stream_user_data(session, f->hd.stream_id);
    bool last = f->hd.flags & NGHTTP2_FLAG_END_STREAM;

    c->greeted = true;
    if (is_idle(f) && !h2_take_token(c))
        return 0;
    if (f->hd.type == NGHTTP2_HEADERS)
        c->header_us = 0;
    if (!s || (f->hd.type != NGHTTP2_HEADERS && f->hd.type != NGHTTP2_DATA))
        return 0;
    if (s->phase == H2_HEADER)
        on_header_end(s, !last);
    if (last && s->duplex)
        h2_duplex_end(s);
    else if (last && !s->x.status)
        h2_hand_over(s);
    return 0;
}

/* What broke a rule resets its stream: as good as a reset of the client's. */
static int on_invalid(nghttp2_session *session, const nghttp2_frame *f,
                      int error, void *user)
{
    struct h2_conn *c = user;

    (void)session;
    (void)error;
    if (f->hd.type == NGHTTP2_HEADERS)
        c->header_us = 0; /* on_frame will not hear of its end */
    h2_take_token(c);
    return 0;
}

/* An answer that ended before its request has: no more of it is wanted. */
static int on_sent(nghttp2_session *session, const nghttp2_frame *f, void *user)
{
    (void)user;
    if ((f->hd.type == NGHTTP2_DATA || f->hd.type == NGHTTP2_HEADERS) &&
        (f->hd.flags & NGHTTP2_FLAG_END_STREAM) &&
        nghttp2_session_get_stream_remote_close(session, f->hd.stream_id) == 0)
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, f->hd.stream_id,
                                  NGHTTP2_NO_ERROR);
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t error,
                    void *user)
{
    struct h2_stream *s = nghttp2_session_get_stream_user_data(session, id);

    (void)user;
    if (s) {
        nghttp2_session_set_stream_user_data(session, id, NULL);
        detach(s, s->x.status && s->over && s->unsent_at == s->unsent.len &&
                      error == NGHTTP2_NO_ERROR);
    }
    return 0;
}

void h2_request_callbacks(nghttp2_session_callbacks *cb)
{
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb,
                                                            on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb,
                                                                 on_invalid);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
}
