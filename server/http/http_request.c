/* Requests: the header's checks, the body within its limits. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/http/http_parts.h"

const char *http_field(const struct srv_http_exchange *x, const char *name)
{
    const struct exchange *ex = (const struct exchange *)x;

    return MHD_lookup_connection_value(ex->mhd, MHD_HEADER_KIND, name);
}

struct query {
    bool (*fn)(void *arg, const char *name, const char *value);
    void *arg;
};

static enum MHD_Result on_query(void *arg, enum MHD_ValueKind kind,
                                const char *name, const char *value)
{
    struct query *q = arg;

    (void)kind;
    return q->fn(q->arg, name, value ? value : "") ? MHD_YES : MHD_NO;
}

void http_query(const struct srv_http_exchange *x,
                bool (*fn)(void *arg, const char *name, const char *value),
                void *arg)
{
    const struct exchange *ex = (const struct exchange *)x;
    struct query q = {fn, arg};

    MHD_get_connection_values(ex->mhd, MHD_GET_ARGUMENT_KIND, on_query, &q);
}

/* How a body is framed, as the fields say. */
struct framing {
    int lengths, encodings, hosts;
    const char *length, *encoding;
};

static enum MHD_Result on_field(void *arg, enum MHD_ValueKind kind,
                                const char *name, const char *value)
{
    struct framing *f = arg;

    (void)kind;
    if (strcasecmp(name, "Content-Length") == 0) {
        f->lengths++;
        f->length = value;
    } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
        f->encodings++;
        f->encoding = value;
    } else if (strcasecmp(name, "Host") == 0) {
        f->hosts++;
    }
    return MHD_YES;
}

int64_t http_parse_length(const char *text)
{
    int64_t n = 0;

    if (!*text || text[strspn(text, "0123456789")])
        return -1;
    for (; *text; text++) {
        if (n > (INT64_MAX - 9) / 10)
            return INT64_MAX;
        n = n * 10 + (*text - '0');
    }
    return n;
}

/* So much of a refused body is read for nothing: a client that still sends
 * when its connection is closed never sees why. */
static int64_t drain_limit(const struct srv_http *h)
{
    return h->c.max_body_bytes + SRV_HTTP_DRAIN_BYTES;
}

/* Refuses what two readers could understand differently, and what is over a
 * limit. */
static void check_header(struct exchange *x)
{
    struct srv_http *h = x->conn->h;
    const union MHD_ConnectionInfo *info;
    struct framing f = {0};
    int64_t len = 0, drained = drain_limit(h);

    MHD_get_connection_values(x->mhd, MHD_HEADER_KIND, on_field, &f);
    x->chunked = f.encodings > 0;
    info = MHD_get_connection_info(x->mhd,
                                   MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (f.lengths == 1 && !f.encodings)
        len =
            http_parse_length(f.length); /* the library has refused a bad one */
    x->x.has_body = x->chunked || len > 0;
    if (x->conn->spare)
        http_refuse(x, SRV_REJECT_CONNECTIONS, API_UNAVAILABLE, 0, false,
                    "%d connections are open, which is the limit",
                    h->c.max_connections);
    else if (info && info->header_size > SRV_HTTP_MAX_HEADER_BYTES)
        http_refuse(x, SRV_REJECT_HEADERS, API_RESOURCE_EXHAUSTED, 431, false,
                    "the header has %zu bytes, the limit is %d",
                    info->header_size, SRV_HTTP_MAX_HEADER_BYTES);
    else if (f.lengths > 1 || f.encodings > 1 || (f.lengths && f.encodings))
        http_refuse(
            x, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400, false,
            "a body has one Content-Length or one Transfer-Encoding, not "
            "both and not two");
    else if (f.encodings && strcasecmp(f.encoding, "chunked") != 0)
        http_refuse(x, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400, false,
                    "the only Transfer-Encoding understood is chunked");
    else if (x->bad_uri)
        http_refuse(x, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400, false,
                    "the path or query has a NUL or a space in it");
    else if (f.hosts > 1 || (!f.hosts && !x->x.http10))
        http_refuse(x, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400, false,
                    "a request has one Host field, this one has %d", f.hosts);
    else if (len > h->c.max_body_bytes)
        http_refuse(x, SRV_REJECT_BODY, API_RESOURCE_EXHAUSTED, 413,
                    len <= drained,
                    "the body has %lld bytes, the limit is %lld",
                    (long long)len, (long long)h->c.max_body_bytes);
    else if (h->bodies.bytes + len > h->bodies.limit)
        http_refuse(
            x, SRV_REJECT_BYTES, API_UNAVAILABLE, 0, true,
            "requests of %lld bytes are being worked on, the limit is %lld",
            (long long)h->bodies.bytes, (long long)h->bodies.limit);
    if (!x->x.status)
        h->c.hooks.begin(h->c.hooks.arg, &x->x);
    if (x->x.status && !x->close && x->x.has_body &&
        (srv_http_field(&x->x, "Expect") || len > drained)) {
        x->close = true; /* quicker than to take the body */
        if (x->response)
            MHD_add_response_header(x->response, "Connection", "close");
    }
}

static enum MHD_Result on_header(struct exchange *x, const char *method,
                                 const char *path)
{
    x->x.method = method;
    x->x.path = path;
    x->x.content_type = srv_http_field(&x->x, "Content-Type");
    srv_http_pick_id(&x->x);
    enter(x->conn, BODY);
    check_header(x);
    if (x->x.status && (x->close || !x->x.has_body))
        return http_send(x);
    /* Queued after a body has begun, an answer would end the connection. */
    x->discard = x->x.status != 0;
    return MHD_YES;
}

void http_drop_body(struct exchange *x)
{
    srv_http_body_drop(&x->conn->h->bodies, &x->body, &x->x);
}

size_t http_body_limit(const struct srv_http_exchange *x)
{
    const struct exchange *ex = (const struct exchange *)x;

    return (size_t)ex->conn->h->c.max_body_bytes;
}

enum ut_err http_replace_body(struct srv_http_exchange *pub, char *body,
                              size_t len, struct api_error *err)
{
    struct exchange *x = (struct exchange *)pub;

    return srv_http_body_replace(&x->conn->h->bodies, &x->body, pub, body, len,
                                 err);
}

static enum MHD_Result on_data(struct exchange *x, const char *data, size_t n)
{
    struct srv_http *h = x->conn->h;
    size_t limit = (size_t)h->c.max_body_bytes;

    x->received += n;
    if (x->discard)
        /* A chunked body may be of any length: enough is enough. */
        return (int64_t)x->received <= drain_limit(h) ? MHD_YES : MHD_NO;
    if (x->received > limit)
        http_refuse(x, SRV_REJECT_BODY, API_RESOURCE_EXHAUSTED, 413, true,
                    "the body has over %zu bytes, the limit", limit);
    else if (!srv_http_body_keep(&h->bodies, &x->body, &x->x, data, n))
        http_refuse(x, SRV_REJECT_BYTES, API_UNAVAILABLE, 0, true,
                    "request bodies hold %lld bytes, the limit is %lld",
                    (long long)h->bodies.bytes, (long long)h->bodies.limit);
    if (x->x.status) {
        x->discard = true;
        http_drop_body(x);
    }
    return MHD_YES;
}

static enum MHD_Result on_body_end(struct exchange *x)
{
    enter(x->conn, WORKING);
    if (!x->x.status && x->duplex) {
        x->x.body_len = 0; /* the first message's, in http_turn */
        http_turn(x);
    } else if (!x->x.status) {
        http_hand_over(x);
    }
    if (x->x.status)
        return http_send(x);
    http_suspend(x);
    return MHD_YES;
}

/* The library's one callback: with the header, with pieces of the body, at
 * its end, and once more after a suspended connection was resumed. */
enum MHD_Result http_on_request(void *arg, struct MHD_Connection *mhd,
                                const char *url, const char *method,
                                const char *version, const char *data,
                                size_t *len, void **context)
{
    struct exchange *x = *context;
    size_t n = *len;

    (void)arg;
    (void)mhd;
    if (!x)
        return MHD_NO; /* there was no memory for it */
    *len = 0;
    if (x->conn->phase == HEADER) {
        x->x.http10 = strcmp(version, "HTTP/1.0") == 0;
        return on_header(x, method, url);
    }
    if (x->conn->phase == WORKING)
        return http_send(x);
    return n ? on_data(x, data, n) : on_body_end(x);
}
