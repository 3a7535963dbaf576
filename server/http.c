/* libmicrohttpd in external epoll mode, turned by the loop.
 *
 * Two rules keep it from stalling: MHD_run after every
 * MHD_resume_connection, and after every MHD_run a timer from
 * MHD_get_timeout, zero included. Answers therefore only mark the daemon, and
 * a uv_prepare runs it once before the loop sleeps, however many they were.
 *
 * A suspended connection neither times out nor sees its client leave, so it
 * is watched by a uv_poll of its own; and the library's timeouts know only
 * silence, so a sweep cuts connections whose request or answer takes too long
 * in all. */
#include "server/http.h"

#include <assert.h>
#include <errno.h>
#include <microhttpd.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "server/http_socket.h"

#define SWEEP_MS 100
#define LOOK_SWEEPS 10 /* between two looks for lost ends */
#define FIRST_BODY_BYTES (16 * 1024)
/* The library's memory for a request's header, its read buffer and the
 * answer's header; past it the library itself answers 431. */
#define CONNECTION_MEMORY (64 * 1024)

enum phase {
    RESTING,   /* between requests, or in a request line */
    HEADER,    /* in a header */
    BODY,      /* in a body */
    WORKING,   /* suspended, or about to be */
    ANSWERING, /* the answer is on its way */
    STREAMING, /* in pieces */
};

struct conn;

struct exchange {
    struct srv_http_exchange x; /* first: the hooks' view */
    struct conn *conn;
    struct MHD_Connection *mhd;
    struct MHD_Response *response; /* owned; set by the answer */
    char *body;                    /* owned; [cap] */
    size_t cap;
    size_t received;      /* also what was not kept */
    struct ut_buf unsent; /* of a stream */
    size_t unsent_at;     /* what is before it has gone */
    bool streams, over;   /* over: nothing more will be written */
    bool chunked, bad_uri, needs_host, discard, close, suspended;
    bool handed;     /* to handle(), and not answered yet */
    uv_poll_t watch; /* while suspended */
    int refs;        /* the library's, the watch's */
};

struct conn {
    struct conn *next, *prev;
    struct srv_http *h;
    struct exchange *x; /* NULL while RESTING */
    int fd;             /* the library's */
    enum phase phase;
    int64_t since_us; /* when the phase began */
    bool spare;       /* past the limit: only told so */
    bool cut, loopback;
    char peer[SRV_HTTP_PEER_LEN];
};

struct srv_http {
    struct srv_http_config c;
    uv_loop_t *loop;
    struct MHD_Daemon *daemon;
    uv_poll_t poll;       /* the library's epoll */
    uv_timer_t timer;     /* the library's timeout */
    uv_timer_t sweep;     /* ours */
    uv_prepare_t prepare; /* runs the library when marked */
    int handles;          /* of those four, still open */
    bool need_run, draining;
    struct conn *conns;
    int n_conns, port;
    unsigned n_sweeps;
    size_t n_calls;
    int64_t body_bytes;
    void (*drained)(void *arg);
    void *drained_arg;
};

static void enter(struct conn *c, enum phase phase)
{
    c->phase = phase;
    c->since_us = ut_clock_us();
}

/* ---- Running the library ---- */

static void on_timer(uv_timer_t *t);

static void run(struct srv_http *h)
{
    MHD_UNSIGNED_LONG_LONG ms;

    h->need_run = false;
    MHD_run(h->daemon);
    if (MHD_get_timeout(h->daemon, &ms) == MHD_YES)
        uv_timer_start(&h->timer, on_timer, ms, 0);
    else
        uv_timer_stop(&h->timer);
    if (h->draining && !h->conns && h->drained) {
        void (*drained)(void *arg) = h->drained;

        h->drained = NULL;
        drained(h->drained_arg);
    }
}

static void on_timer(uv_timer_t *t)
{
    run(t->data);
}

static void on_epoll(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    run(p->data);
}

static void on_prepare(uv_prepare_t *p)
{
    struct srv_http *h = p->data;

    if (h->need_run)
        run(h);
}

/* ---- Exchanges ---- */

static void unref(struct exchange *x)
{
    if (--x->refs)
        return;
    ut_buf_fini(&x->unsent);
    free(x);
}

static void on_watch_closed(uv_handle_t *w)
{
    unref(w->data);
}

static void watch_stop(struct exchange *x)
{
    if (!uv_is_closing((uv_handle_t *)&x->watch))
        uv_close((uv_handle_t *)&x->watch, on_watch_closed);
}

/* The answer is there: the call is the handlers' no more. */
static void hand_back(struct exchange *x)
{
    struct srv_http *h = x->conn->h;

    if (!x->handed)
        return;
    x->handed = false;
    h->n_calls--;
    srv_metrics_set(h->c.metrics, SRV_GAUGE_CALLS, (int64_t)h->n_calls);
}

static void resume(struct exchange *x)
{
    if (!x->suspended)
        return;
    x->suspended = false;
    if (x->watch.data)
        uv_poll_stop(&x->watch);
    MHD_resume_connection(x->mhd);
    x->conn->h->need_run = true;
}

static void client_left(struct exchange *x)
{
    const struct srv_http_hooks *hooks = &x->conn->h->c.hooks;

    x->x.cancelled = true;
    if (x->over)
        return;
    if (x->streams) {
        x->over = true;
        hand_back(x);
    }
    hooks->left(hooks->arg, &x->x);
}

/* Something came on a suspended connection: more requests, or its end. */
static void on_watch(uv_poll_t *w, int status, int events)
{
    struct exchange *x = w->data;
    char byte;
    ssize_t n = recv(x->conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR) && status == 0 &&
        !(events & UV_DISCONNECT))
        return;
    if (n > 0 && status == 0 && !(events & UV_DISCONNECT)) {
        /* The next request, which waits in the socket: reading would only
         * wake us again and again, so from here on only the end is news. */
        uv_poll_start(w, UV_DISCONNECT, on_watch);
        return;
    }
    uv_poll_stop(w);
    client_left(x);
    if (x->streams)
        resume(x); /* for the library to find it over */
}

static void suspend(struct exchange *x)
{
    struct srv_http *h = x->conn->h;

    MHD_suspend_connection(x->mhd);
    x->suspended = true;
    if (!x->watch.data && uv_poll_init(h->loop, &x->watch, x->conn->fd) == 0) {
        x->watch.data = x;
        x->refs++;
    } /* else unwatched: only its deadline ends it */
    if (x->watch.data)
        uv_poll_start(&x->watch, UV_READABLE | UV_DISCONNECT, on_watch);
}

static enum MHD_Result send_answer(struct exchange *x)
{
    enum MHD_Result rc;

    enter(x->conn, ANSWERING);
    if (!x->response)
        return MHD_NO; /* there was no memory for it */
    if (x->streams)
        x->conn->phase = STREAMING;
    rc = MHD_queue_response(x->mhd, (unsigned)x->x.status, x->response);
    MHD_destroy_response(x->response);
    x->response = NULL;
    return rc;
}

static bool has_field(const struct srv_http_answer *a, const char *name)
{
    for (int i = 0; i < a->n_fields; i++)
        if (strcasecmp(a->fields[i].name, name) == 0)
            return true;
    return false;
}

static void add_fields(struct exchange *x, const struct srv_http_answer *a)
{
    MHD_add_response_header(x->response, "X-Request-Id", x->x.request_id);
    MHD_add_response_header(x->response, "X-Content-Type-Options", "nosniff");
    if (!has_field(a, "Cache-Control"))
        MHD_add_response_header(x->response, "Cache-Control", "no-store");
    if (a->type)
        MHD_add_response_header(x->response, "Content-Type", a->type);
    for (int i = 0; i < a->n_fields; i++)
        MHD_add_response_header(x->response, a->fields[i].name,
                                a->fields[i].value);
    if (a->close || x->close || x->conn->h->draining)
        MHD_add_response_header(x->response, "Connection", "close");
}

void srv_http_answer(struct srv_http_exchange *pub, struct srv_http_answer *a)
{
    struct exchange *x = (struct exchange *)pub;

    assert(!pub->status);
    pub->status = a->status;
    pub->sent = a->len;
    x->response = MHD_create_response_from_buffer(
        a->len, a->body,
        a->body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!x->response)
        free(a->body);
    else
        add_fields(x, a);
    a->body = NULL;
    hand_back(x);
    resume(x);
}

/* ---- Streams ---- */

/* The library wants more of a stream; with nothing to give it must sleep. */
static ssize_t on_more(void *arg, uint64_t at, char *out, size_t max)
{
    struct exchange *x = arg;
    size_t n = x->unsent.len - x->unsent_at;

    (void)at;
    if (x->x.cancelled)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (!n && x->over)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (!n) {
        suspend(x);
        return 0;
    }
    n = n < max ? n : max;
    memcpy(out, x->unsent.data + x->unsent_at, n);
    x->unsent_at += n;
    if (x->unsent_at == x->unsent.len)
        x->unsent.len = x->unsent_at = 0;
    x->x.sent += n;
    enter(x->conn, STREAMING);
    return (ssize_t)n;
}

void srv_http_stream(struct srv_http_exchange *pub, struct srv_http_answer *a)
{
    struct exchange *x = (struct exchange *)pub;

    assert(!pub->status && !a->body);
    pub->status = a->status;
    x->streams = true;
    ut_buf_init(&x->unsent, SRV_HTTP_MAX_UNSENT);
    x->response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 * 1024,
                                                    on_more, x, NULL);
    if (x->response)
        add_fields(x, a);
    resume(x);
}

bool srv_http_write(struct srv_http_exchange *pub, const void *data, size_t len)
{
    struct exchange *x = (struct exchange *)pub;
    struct ut_buf *b = &x->unsent;
    struct ut_error e;

    assert(x->streams);
    if (x->over || x->x.cancelled)
        return false;
    if (x->unsent_at) {
        memmove(b->data, b->data + x->unsent_at, b->len - x->unsent_at);
        b->len -= x->unsent_at;
        x->unsent_at = 0;
    }
    if (!b->len) /* it is from now on that the client must read */
        x->conn->since_us = ut_clock_us();
    if (ut_buf_add(b, data, len, &e))
        return false;
    resume(x);
    return true;
}

void srv_http_end(struct srv_http_exchange *pub)
{
    struct exchange *x = (struct exchange *)pub;

    assert(x->streams);
    x->over = true;
    hand_back(x);
    resume(x);
}

void srv_http_fail_as(struct srv_http_exchange *x, const struct api_error *err,
                      struct srv_http_answer *a)
{
    char retry[16];

    if (err->retry_after_s > 0) {
        snprintf(retry, sizeof(retry), "%d", err->retry_after_s);
        a->fields[a->n_fields++] =
            (struct srv_http_field){"Retry-After", retry};
    }
    if (*err->allow)
        a->fields[a->n_fields++] = (struct srv_http_field){"Allow", err->allow};
    if (a->status == 401)
        a->fields[a->n_fields++] =
            (struct srv_http_field){"WWW-Authenticate", "Bearer"};
    srv_http_answer(x, a);
}

void srv_http_fail(struct srv_http_exchange *x, const struct api_error *err)
{
    struct srv_http_answer a = {.type = "application/json"};
    struct ut_error e;

    a.status = err->http_status ? err->http_status : api_code_http(err->code);
    if (api_error_json(err, &a.body, &e)) {
        a.status = 500;
        a.body = strdup("{\"code\":\"internal\",\"message\":\"no memory\","
                        "\"details\":[]}");
    }
    a.len = a.body ? strlen(a.body) : 0;
    srv_http_fail_as(x, err, &a);
}

/* An answer of our own, which ends the connection unless keep. */
static void refuse(struct exchange *x, enum srv_reject why, enum api_code code,
                   int status, bool keep, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));

static void refuse(struct exchange *x, enum srv_reject why, enum api_code code,
                   int status, bool keep, const char *fmt, ...)
{
    struct api_error err;
    char text[200];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    api_fail(&err, code, "%s", text);
    err.http_status = status;
    if (code == API_UNAVAILABLE)
        err.retry_after_s = 1;
    x->close = x->close || !keep;
    srv_metrics_count(x->conn->h->c.metrics, why);
    srv_http_fail(&x->x, &err);
}

/* ---- Reading a request ---- */

const char *srv_http_field(const struct srv_http_exchange *x, const char *name)
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

void srv_http_query(const struct srv_http_exchange *x,
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

/* A Content-Length: -1 if it is none, INT64_MAX if it is more than counts. */
static int64_t parse_length(const char *text)
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

/* The client's id if it is one that can be logged and echoed, else ours. */
static void pick_request_id(struct exchange *x)
{
    const char *id = srv_http_field(&x->x, "X-Request-Id");
    unsigned char random[16];
    size_t len = id ? strlen(id) : 0;

    if (len > 0 && len < SRV_HTTP_REQUEST_ID_LEN &&
        strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                   "0123456789-_.") == len) {
        memcpy(x->x.request_id, id, len + 1);
        return;
    }
    randombytes_buf(random, sizeof(random));
    sodium_bin2hex(x->x.request_id, sizeof(x->x.request_id), random,
                   sizeof(random));
}

/* Refuses what two readers could understand differently, and what is over a
 * limit. */
static void check_header(struct exchange *x)
{
    struct srv_http *h = x->conn->h;
    const union MHD_ConnectionInfo *info;
    struct framing f = {0};
    int64_t len = 0;

    MHD_get_connection_values(x->mhd, MHD_HEADER_KIND, on_field, &f);
    x->chunked = f.encodings > 0;
    info = MHD_get_connection_info(x->mhd,
                                   MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (f.lengths == 1 && !f.encodings)
        len = parse_length(f.length); /* the library has refused a bad one */
    x->x.has_body = x->chunked || len > 0;
    if (x->conn->spare)
        refuse(x, SRV_REJECT_CONNECTIONS, API_UNAVAILABLE, 0, false,
               "%d connections are open, which is the limit",
               h->c.max_connections);
    else if (info && info->header_size > SRV_HTTP_MAX_HEADER_BYTES)
        refuse(x, SRV_REJECT_HEADERS, API_RESOURCE_EXHAUSTED, 431, false,
               "the header has %zu bytes, the limit is %d", info->header_size,
               SRV_HTTP_MAX_HEADER_BYTES);
    else if (f.lengths > 1 || f.encodings > 1 || (f.lengths && f.encodings))
        refuse(x, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400, false,
               "a body has one Content-Length or one Transfer-Encoding, not "
               "both and not two");
    else if (f.encodings && strcasecmp(f.encoding, "chunked") != 0)
        refuse(x, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400, false,
               "the only Transfer-Encoding understood is chunked");
    else if (x->bad_uri)
        refuse(x, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400, false,
               "the path or query has a NUL or a space in it");
    else if (f.hosts > 1 || (!f.hosts && x->needs_host))
        refuse(x, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400, false,
               "a request has one Host field, this one has %d", f.hosts);
    else if (len > h->c.max_body_bytes)
        refuse(x, SRV_REJECT_BODY, API_RESOURCE_EXHAUSTED, 413, false,
               "the body has %lld bytes, the limit is %lld", (long long)len,
               (long long)h->c.max_body_bytes);
    else if (h->body_bytes + len > h->c.max_total_bytes)
        refuse(x, SRV_REJECT_BYTES, API_UNAVAILABLE, 0,
               len <= SRV_HTTP_DRAIN_BYTES,
               "requests of %lld bytes are being worked on, the limit is %lld",
               (long long)h->body_bytes, (long long)h->c.max_total_bytes);
    if (!x->x.status)
        h->c.hooks.begin(h->c.hooks.arg, &x->x);
    if (x->x.status && !x->close && x->x.has_body &&
        (srv_http_field(&x->x, "Expect") || len > SRV_HTTP_DRAIN_BYTES)) {
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
    pick_request_id(x);
    enter(x->conn, BODY);
    check_header(x);
    if (x->x.status && (x->close || !x->x.has_body))
        return send_answer(x);
    /* Queued after a body has begun, an answer would end the connection. */
    x->discard = x->x.status != 0;
    return MHD_YES;
}

/* Keeps more of the body. False if there is no room. */
static bool keep(struct exchange *x, const char *data, size_t n)
{
    struct srv_http *h = x->conn->h;

    if (x->x.body_len + n > x->cap) {
        size_t cap = x->cap ? x->cap : FIRST_BODY_BYTES;
        char *body;

        while (cap < x->x.body_len + n)
            cap *= 2;
        if (h->body_bytes + (int64_t)(cap - x->cap) > h->c.max_total_bytes)
            return false;
        body = realloc(x->body, cap);
        if (!body)
            return false;
        h->body_bytes += (int64_t)(cap - x->cap);
        srv_metrics_set(h->c.metrics, SRV_GAUGE_BODY_BYTES, h->body_bytes);
        x->body = body;
        x->cap = cap;
    }
    memcpy(x->body + x->x.body_len, data, n);
    x->x.body_len += n;
    x->x.body = x->body;
    return true;
}

static void drop_body(struct exchange *x)
{
    struct srv_http *h = x->conn->h;

    h->body_bytes -= (int64_t)x->cap;
    srv_metrics_set(h->c.metrics, SRV_GAUGE_BODY_BYTES, h->body_bytes);
    free(x->body);
    x->body = NULL;
    x->x.body = NULL;
    x->x.body_len = x->cap = 0;
}

size_t srv_http_body_limit(const struct srv_http_exchange *x)
{
    return (size_t)x->http->c.max_body_bytes;
}

enum ut_err srv_http_replace_body(struct srv_http_exchange *pub, char *body,
                                  size_t len, struct api_error *err)
{
    struct exchange *x = (struct exchange *)pub;
    struct srv_http *h = pub->http;

    drop_body(x);
    if (h->body_bytes + (int64_t)len > h->c.max_total_bytes) {
        free(body);
        srv_metrics_count(h->c.metrics, SRV_REJECT_BYTES);
        api_fail(err, API_UNAVAILABLE,
                 "request bodies hold %lld bytes, the limit is %lld",
                 (long long)h->body_bytes, (long long)h->c.max_total_bytes);
        err->retry_after_s = 1;
        return UT_EBUSY;
    }
    x->body = body;
    pub->body = body;
    pub->body_len = x->cap = len;
    h->body_bytes += (int64_t)len;
    srv_metrics_set(h->c.metrics, SRV_GAUGE_BODY_BYTES, h->body_bytes);
    return UT_OK;
}

static enum MHD_Result on_data(struct exchange *x, const char *data, size_t n)
{
    struct srv_http *h = x->conn->h;
    size_t limit = (size_t)h->c.max_body_bytes;

    x->received += n;
    if (x->discard)
        /* A chunked body may be of any length: enough is enough. */
        return x->received <= limit + SRV_HTTP_DRAIN_BYTES ? MHD_YES : MHD_NO;
    if (x->received > limit)
        refuse(x, SRV_REJECT_BODY, API_RESOURCE_EXHAUSTED, 413, true,
               "the body has over %zu bytes, the limit", limit);
    else if (!keep(x, data, n))
        refuse(x, SRV_REJECT_BYTES, API_UNAVAILABLE, 0, true,
               "request bodies hold %lld bytes, the limit is %lld",
               (long long)h->body_bytes, (long long)h->c.max_total_bytes);
    if (x->x.status) {
        x->discard = true;
        drop_body(x);
    }
    return MHD_YES;
}

static enum MHD_Result on_body_end(struct exchange *x)
{
    struct srv_http *h = x->conn->h;

    enter(x->conn, WORKING);
    if (!x->x.status) {
        x->handed = true;
        h->n_calls++;
        srv_metrics_set(h->c.metrics, SRV_GAUGE_CALLS, (int64_t)h->n_calls);
        h->c.hooks.handle(h->c.hooks.arg, &x->x);
    }
    if (x->x.status)
        return send_answer(x);
    suspend(x);
    return MHD_YES;
}

/* The library's one callback: with the header, with pieces of the body, at
 * its end, and once more after a suspended connection was resumed. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *mhd,
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
        x->needs_host = strcmp(version, "HTTP/1.0") != 0;
        return on_header(x, method, url);
    }
    if (x->conn->phase == WORKING)
        return send_answer(x);
    return n ? on_data(x, data, n) : on_body_end(x);
}

/* ---- Connections ---- */

static struct conn *conn_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    return info ? info->socket_context : NULL;
}

/* A request line is in; what this returns is the exchange's context. */
static void *on_uri(void *arg, const char *uri, struct MHD_Connection *mhd)
{
    struct conn *c = conn_of(mhd);
    struct exchange *x = c ? calloc(1, sizeof(*x)) : NULL;

    if (!x)
        return NULL;
    x->x.http = arg;
    x->x.peer = c->peer;
    x->x.loopback = c->loopback;
    x->x.start_us = ut_clock_us();
    x->x.method = x->x.path = "";
    x->bad_uri = strstr(uri, "%00") || strchr(uri, ' ');
    x->conn = c;
    x->mhd = mhd;
    x->refs = 1;
    c->x = x;
    enter(c, HEADER);
    return x;
}

static void on_completed(void *arg, struct MHD_Connection *mhd, void **context,
                         enum MHD_RequestTerminationCode why)
{
    struct srv_http *h = arg;
    struct exchange *x = *context;

    (void)mhd;
    if (!x)
        return;
    *context = NULL;
    if (x->streams && !x->over)
        client_left(x);
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        x->x.cancelled = true;
    if (x->watch.data)
        watch_stop(x); /* before the library closes the socket */
    h->c.hooks.done(h->c.hooks.arg, &x->x);
    drop_body(x);
    if (x->response)
        MHD_destroy_response(x->response);
    x->conn->x = NULL;
    enter(x->conn, RESTING);
    unref(x);
}

static void conn_open(struct srv_http *h, struct MHD_Connection *mhd,
                      void **context)
{
    const union MHD_ConnectionInfo *info;
    struct conn *c = calloc(1, sizeof(*c));

    *context = c;
    if (!c)
        return; /* its first request will be cut */
    c->h = h;
    info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    c->fd = info ? info->connect_fd : -1;
    info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info)
        srv_http_peer(info->client_addr, c->peer, &c->loopback);
    enter(c, RESTING);
    c->next = h->conns;
    if (h->conns)
        h->conns->prev = c;
    h->conns = c;
    c->spare = ++h->n_conns > h->c.max_connections;
    srv_metrics_set(h->c.metrics, SRV_GAUGE_CONNECTIONS, h->n_conns);
}

static void conn_close(struct srv_http *h, struct conn *c)
{
    if (c->next)
        c->next->prev = c->prev;
    if (c->prev)
        c->prev->next = c->next;
    else
        h->conns = c->next;
    h->n_conns--;
    srv_metrics_set(h->c.metrics, SRV_GAUGE_CONNECTIONS, h->n_conns);
    free(c);
}

static void on_connection(void *arg, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        conn_open(arg, mhd, context);
    else if (*context)
        conn_close(arg, *context);
}

/* Ends a connection whose request is not complete. The answer is put on the
 * socket by hand, since the library takes none from us yet. */
static void cut(struct conn *c, enum srv_reject why, const char *status,
                const char *code, const char *message)
{
    char body[256], text[512];
    int len = snprintf(body, sizeof(body),
                       "{\"code\":\"%s\",\"message\":\"%s\",\"details\":[]}",
                       code, message);
    int n = snprintf(text, sizeof(text),
                     "HTTP/1.1 %s\r\nConnection: close\r\n"
                     "Content-Type: application/json\r\n"
                     "Content-Length: %d\r\n\r\n%s",
                     status, len, body);

    if (c->phase == HEADER || c->phase == BODY)
        (void)!send(c->fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    srv_metrics_count(c->h->c.metrics, why);
    c->cut = true;
    shutdown(c->fd, SHUT_RDWR);
}

/* The library refuses a bad Content-Length before it asks us, in a page of its
 * own and with its header twice (0.9.75). It logs before it answers: then ours
 * goes out instead. */
static void cut_bad_lengths(struct srv_http *h)
{
    for (struct conn *c = h->conns; c; c = c->next) {
        const char *field;
        int64_t len;

        if (c->phase != HEADER || c->cut)
            continue;
        field = MHD_lookup_connection_value(c->x->mhd, MHD_HEADER_KIND,
                                            "Content-Length");
        len = field ? parse_length(field) : 0;
        if (len < 0)
            cut(c, SRV_REJECT_HEADERS, "400 Bad Request", "invalid_argument",
                "Content-Length is not a number of bytes");
        else if (len == INT64_MAX)
            cut(c, SRV_REJECT_BODY, "413 Content Too Large",
                "resource_exhausted", "Content-Length is over the limit");
    }
}

/* What the socket says of a connection that has nothing to be read: -1 it is
 * open, 0 its client left, 1 there is something. */
static int peek(const struct conn *c)
{
    char byte;
    ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

    return n > 0 ? 1 : n == 0 || (errno != EAGAIN && errno != EINTR) ? 0 : -1;
}

static void sweep_one(struct conn *c, int64_t now, bool look)
{
    const struct srv_http_config *g = &c->h->c;
    int64_t ms = c->phase == RESTING ? g->idle_timeout_ms + g->header_timeout_ms
                 : c->phase == HEADER ? g->header_timeout_ms
                                      : g->request_timeout_ms;
    bool rest = c->h->draining && c->phase == RESTING;

    if (c->cut || c->phase == WORKING ||
        (c->phase == STREAMING && c->x && !c->x->unsent.len))
        return;
    /* The library loses an end that comes together with data (its epoll is
     * edge-triggered, and a short read clears the edge). */
    if ((rest && peek(c) < 0) ||
        (look && c->phase < ANSWERING && peek(c) == 0)) {
        c->cut = true;
        shutdown(c->fd, SHUT_RDWR); /* a new edge */
    } else if (now - c->since_us > ms * 1000) {
        cut(c, SRV_REJECT_SLOW, "408 Request Timeout", "deadline_exceeded",
            "the request came too slowly");
    }
}

static void on_sweep(uv_timer_t *t)
{
    struct srv_http *h = t->data;
    int64_t now = ut_clock_us();
    bool look = h->n_sweeps++ % LOOK_SWEEPS == 0;

    for (struct conn *c = h->conns; c; c = c->next)
        sweep_one(c, now, look);
    if (h->draining)
        run(h);
}

/* ---- The server ---- */

static void on_library_log(void *arg, const char *fmt, va_list args)
{
    struct srv_http *h = arg;
    char text[512];

    vsnprintf(text, sizeof(text), fmt, args);
    text[strcspn(text, "\n")] = '\0';
    srv_log_line(h->c.log, SRV_LOG_DEBUG, NULL, "http: %s", text);
    cut_bad_lengths(h);
}

static enum ut_err start_handles(struct srv_http *h, struct ut_error *e)
{
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    int rc;

    rc = info ? uv_poll_init(h->loop, &h->poll, info->epoll_fd) : UV_EBADF;
    if (rc)
        return ut_fail(e, UT_EIO, "http: %s", uv_strerror(rc));
    uv_timer_init(h->loop, &h->timer);
    uv_timer_init(h->loop, &h->sweep);
    uv_prepare_init(h->loop, &h->prepare);
    h->poll.data = h->timer.data = h->sweep.data = h->prepare.data = h;
    h->handles = 4;
    uv_poll_start(&h->poll, UV_READABLE, on_epoll);
    uv_timer_start(&h->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    uv_prepare_start(&h->prepare, on_prepare);
    return UT_OK;
}

enum ut_err srv_http_new(uv_loop_t *loop, const struct srv_http_config *c,
                         struct srv_http **out, struct ut_error *e)
{
    struct srv_http *h = calloc(1, sizeof(*h));
    enum ut_err rc = UT_OK;
    int fd;

    *out = NULL;
    if (!h)
        return ut_fail(e, UT_ENOMEM, "no memory for the HTTP server");
    if (sodium_init() < 0) {
        free(h);
        return ut_fail(e, UT_EIO, "libsodium cannot get random numbers");
    }
    h->c = *c;
    h->loop = loop;
    errno = 0;
    fd = srv_http_listen(c->host, c->port, &h->port);
    if (fd < 0) {
        rc = ut_fail(e, UT_EIO, "cannot listen on %s port %d: %s", c->host,
                     c->port, errno ? strerror(errno) : "no such address");
        goto out;
    }
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL,
        NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, h,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_STRICT_FOR_CLIENT, 0,
        MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)(c->max_connections + SRV_HTTP_SPARE_CONNECTIONS),
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)((c->idle_timeout_ms + 999) / 1000),
        MHD_OPTION_URI_LOG_CALLBACK, on_uri, h, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, h, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
        MHD_OPTION_END);
    if (!h->daemon) {
        /* fd is left open: some failures have closed it already. */
        rc = ut_fail(e, UT_EIO, "the HTTP library does not start");
        goto out;
    }
    rc = start_handles(h, e);
    if (rc)
        goto out;
    *out = h;
    h = NULL;
out:
    srv_http_free(h);
    return rc;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct srv_http *h = handle->data;

    if (--h->handles == 0)
        free(h);
}

void srv_http_free(struct srv_http *h)
{
    if (!h)
        return;
    if (h->handles) /* before the epoll descriptor goes */
        uv_poll_stop(&h->poll);
    for (struct conn *c = h->conns; c; c = c->next)
        if (c->x)
            resume(c->x); /* the library wants none suspended */
    if (h->daemon)
        MHD_stop_daemon(h->daemon);
    if (!h->handles) {
        free(h);
        return;
    }
    uv_close((uv_handle_t *)&h->poll, on_handle_closed);
    uv_close((uv_handle_t *)&h->timer, on_handle_closed);
    uv_close((uv_handle_t *)&h->sweep, on_handle_closed);
    uv_close((uv_handle_t *)&h->prepare, on_handle_closed);
}

int srv_http_port(const struct srv_http *h)
{
    return h->port;
}

size_t srv_http_calls(const struct srv_http *h)
{
    return h->n_calls;
}

void srv_http_drain(struct srv_http *h, void (*drained)(void *arg), void *arg)
{
    MHD_socket fd;

    h->drained = drained;
    h->drained_arg = arg;
    if (h->draining)
        return;
    MHD_run(h->daemon); /* takes what the kernel has accepted for us */
    h->draining = true;
    fd = MHD_quiesce_daemon(h->daemon);
    if (fd != MHD_INVALID_SOCKET)
        close(fd);
    h->need_run = true;
}
