/* libmicrohttpd in external epoll mode, turned by the loop.
 *
 * Two rules keep it from stalling: MHD_run after every
 * MHD_resume_connection, and after every MHD_run a timer from
 * MHD_get_timeout, zero included. Answers therefore only mark the daemon, and
 * a uv_prepare runs it once before the loop sleeps, however many they were.
 *
 * The library's timeouts know only silence, so a sweep cuts connections whose
 * request or answer takes too long in all. */
#include <errno.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/http/http_parts.h"

#define SWEEP_MS 100
#define LOOK_SWEEPS 10 /* between two looks for lost ends */
/* The library's memory for a request's header, its read buffer and the
 * answer's header; past it the library itself answers 431. */
#define CONNECTION_MEMORY (64 * 1024)

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

    (void)arg;
    if (!x)
        return NULL;
    x->x.via = &http_transport;
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
        http_client_left(x);
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        x->x.cancelled = true;
    if (x->watch.data)
        http_watch_stop(x); /* before the library closes the socket */
    h->c.hooks.done(h->c.hooks.arg, &x->x);
    free(x->x.trailers);
    http_drop_body(x);
    if (x->response)
        MHD_destroy_response(x->response);
    x->conn->x = NULL;
    enter(x->conn, RESTING);
    http_unref(x);
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
    srv_metrics_add(h->c.metrics, SRV_GAUGE_CONNECTIONS, 1);
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
    srv_metrics_add(h->c.metrics, SRV_GAUGE_CONNECTIONS, -1);
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

/* Ends a connection whose request is not complete. The answer, if there was
 * none, is put on the socket by hand, since the library takes none from us
 * yet. */
static void cut(struct conn *c, enum srv_reject why, enum api_code code,
                int status, const char *message)
{
    srv_metrics_count(c->h->c.metrics, why);
    if ((c->phase == HEADER || c->phase == BODY) && !c->x->x.status)
        http_answer_by_hand(c->x, code, status, message);
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
        len = field ? http_parse_length(field) : 0;
        if (len < 0)
            cut(c, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400,
                "Content-Length is not a number of bytes");
        else if (len == INT64_MAX)
            cut(c, SRV_REJECT_BODY, API_RESOURCE_EXHAUSTED, 413,
                "Content-Length is over the limit");
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
        cut(c, SRV_REJECT_SLOW, API_DEADLINE_EXCEEDED, 408,
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
    h->bodies.metrics = c->metrics;
    h->bodies.limit = c->max_total_bytes;
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
        NULL, http_on_request, h, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, h,
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
            http_resume(c->x); /* the library wants none suspended */
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
