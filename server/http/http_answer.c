/* Answers: whole, or in pieces; and the wait for them, suspended.
 *
 * A suspended connection neither times out nor sees its client leave, so it
 * is watched by a uv_poll of its own. */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "server/http/http_parts.h"

void http_unref(struct exchange *x)
{
    if (--x->refs)
        return;
    ut_buf_fini(&x->unsent);
    free(x);
}

static void on_watch_closed(uv_handle_t *w)
{
    http_unref(w->data);
}

void http_watch_stop(struct exchange *x)
{
    if (!uv_is_closing((uv_handle_t *)&x->watch))
        uv_close((uv_handle_t *)&x->watch, on_watch_closed);
}

void http_hand_over(struct exchange *x)
{
    struct srv_http *h = x->conn->h;

    x->handed = true;
    h->n_calls++;
    srv_metrics_add(h->c.metrics, SRV_GAUGE_CALLS, 1);
    h->c.hooks.handle(h->c.hooks.arg, &x->x);
}

/* The answer is there: the call is the handlers' no more. */
void http_hand_back(struct exchange *x)
{
    struct srv_http *h = x->conn->h;

    if (!x->handed)
        return;
    x->handed = false;
    h->n_calls--;
    srv_metrics_add(h->c.metrics, SRV_GAUGE_CALLS, -1);
}

void http_resume(struct exchange *x)
{
    if (!x->suspended)
        return;
    x->suspended = false;
    if (x->watch.data)
        uv_poll_stop(&x->watch);
    MHD_resume_connection(x->mhd);
    x->conn->h->need_run = true;
}

/* A stream's handler has nothing at work that could still answer, but for a
 * message of a duplex one. */
static bool can_end(const struct exchange *x)
{
    return x->streams && !(x->duplex && x->handed);
}

void http_client_left(struct exchange *x)
{
    const struct srv_http_hooks *hooks = &x->conn->h->c.hooks;

    x->x.cancelled = true;
    if (x->over)
        return;
    if (can_end(x)) {
        x->over = true;
        http_hand_back(x);
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
    http_client_left(x);
    if (can_end(x))
        http_resume(x); /* for the library to find it over */
}

void http_suspend(struct exchange *x)
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

enum MHD_Result http_send(struct exchange *x)
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

static void answer(struct srv_http_exchange *pub, struct srv_http_answer *a)
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
    http_hand_back(x);
    http_resume(x);
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
    if (!n && x->duplex && !x->over && !x->handed) {
        http_turn(x);
        n = x->unsent.len - x->unsent_at;
    }
    if (!n && x->over)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (!n) {
        http_suspend(x);
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

static void start_stream(struct srv_http_exchange *pub,
                         struct srv_http_answer *a)
{
    struct exchange *x = (struct exchange *)pub;

    assert(!pub->status && !a->body);
    pub->status = a->status;
    x->streams = true;
    ut_buf_init(&x->unsent,
                x->duplex ? SRV_HTTP_MAX_ANSWER : SRV_HTTP_MAX_UNSENT);
    x->response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 * 1024,
                                                    on_more, x, NULL);
    if (x->response)
        add_fields(x, a);
    http_resume(x);
}

static bool write_stream(struct srv_http_exchange *pub, const void *data,
                         size_t len)
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
    http_resume(x);
    return true;
}

static void end_stream(struct srv_http_exchange *pub)
{
    struct exchange *x = (struct exchange *)pub;

    assert(x->streams);
    x->over = true;
    http_hand_back(x);
    http_resume(x);
}

const struct srv_http_transport http_transport = {
    .field = http_field,
    .query = http_query,
    .body_limit = http_body_limit,
    .replace_body = http_replace_body,
    .answer = answer,
    .stream = start_stream,
    .write = write_stream,
    .end = end_stream,
    .duplex = http_duplex,
    .next = http_next,
};

/* ---- By hand ---- */

static void put_answer(struct srv_http_exchange *pub, struct srv_http_answer *a)
{
    const struct exchange *x = (const struct exchange *)pub;
    char head[256];
    int n = snprintf(head, sizeof(head),
                     "HTTP/1.1 %d %s\r\nConnection: close\r\n"
                     "Content-Type: %s\r\nContent-Length: %zu\r\n\r\n",
                     a->status, MHD_get_reason_phrase_for((unsigned)a->status),
                     a->type, a->len);
    int fd = x->conn->fd, flags = MSG_DONTWAIT | MSG_NOSIGNAL;

    /* As much as the socket takes: it is shut down next. */
    (void)!send(fd, head, (size_t)n, flags | MSG_MORE);
    (void)!send(fd, a->body, a->len, flags);
    free(a->body);
    a->body = NULL;
}

static const struct srv_http_transport by_hand = {
    .field = http_field, .query = http_query, .answer = put_answer};

void http_answer_by_hand(struct exchange *x, enum api_code code, int status,
                         const char *message)
{
    const struct srv_http_hooks *hooks = &x->conn->h->c.hooks;
    struct api_error err;

    api_fail(&err, code, "%s", message);
    err.http_status = status;
    x->x.via = &by_hand;
    if (hooks->refuse && *x->x.path) /* else nothing says in which shape */
        hooks->refuse(hooks->arg, &x->x, &err);
    else
        srv_http_fail(&x->x, &err);
    x->x.via = &http_transport;
}

void http_refuse(struct exchange *x, enum srv_reject why, enum api_code code,
                 int status, bool keep, const char *fmt, ...)
{
    const struct srv_http_config *c = &x->conn->h->c;
    va_list args;

    x->close = x->close || !keep;
    va_start(args, fmt);
    srv_http_refuse(c, &x->x, why, code, status, fmt, args);
    va_end(args);
}
