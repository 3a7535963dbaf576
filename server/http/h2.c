/* HTTP/2's listener and its connections: nghttp2 makes frames of bytes, and
 * this file moves the bytes.
 *
 * Answers only mark their connection; a uv_prepare sends what they left before
 * the loop sleeps, however many they were. So a connection is only ever closed
 * from the loop's own callbacks, never below the library's or a handler's
 * feet. One write is under way at a time, and nothing is taken from the library
 * until it is done: what a client does not read stays in the streams' limits.
 *
 * The library knows no time, so a sweep ends what takes too long. */
#include "server/http/h2.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/http/h2_parts.h"

#define SWEEP_MS 100
#define CONNECTION_WINDOW (4 << 20) /* bytes unasked, on all streams */
#define MAX_FRAME (16 * 1024 + 64)
#define TOKEN 1000000

static void close_conn(struct h2_conn *c);

/* ---- Out ---- */

void h2_pump_later(struct h2_conn *c)
{
    c->pump = c->h->need_pump = true;
}

bool h2_take_token(struct h2_conn *c)
{
    int64_t now = ut_clock_us();

    c->tokens += (now - c->refill_us) * SRV_H2_PER_SECOND;
    c->refill_us = now;
    if (c->tokens > (int64_t)SRV_H2_BURST * TOKEN)
        c->tokens = (int64_t)SRV_H2_BURST * TOKEN;
    if (c->tokens >= TOKEN) {
        c->tokens -= TOKEN;
        return true;
    }
    srv_metrics_count(c->h->c.metrics, SRV_REJECT_HEADERS);
    nghttp2_session_terminate_session(c->session, NGHTTP2_ENHANCE_YOUR_CALM);
    return false;
}

static void pump(struct h2_conn *c);

static void on_written(uv_write_t *w, int status)
{
    struct h2_conn *c = w->data;

    c->writing = false;
    c->out.len = 0;
    if (c->closing)
        return;
    if (status)
        close_conn(c);
    else
        pump(c);
}

/* Whether both sides have said all that they will. */
static bool is_over(const struct h2_conn *c)
{
    return !nghttp2_session_want_read(c->session) &&
           !nghttp2_session_want_write(c->session);
}

static bool in_handshake(const struct h2_conn *c)
{
    return c->tls && !h2_tls_ready(c->tls);
}

/* Takes frames from the library until a write's worth is there. False if the
 * session is broken. */
static bool gather(struct h2_conn *c)
{
    struct ut_error e;
    const uint8_t *data;
    ssize_t n = 0;

    while (!in_handshake(c) && c->out.len < H2_WRITE_BYTES &&
           (n = nghttp2_session_mem_send(c->session, &data)) > 0)
        if (ut_buf_add(&c->out, data, (size_t)n, &e))
            return false;
    if (n < 0 || !c->tls)
        return n >= 0;
    if (!c->out.len && is_over(c))
        h2_tls_bye(c->tls);
    return h2_tls_out(c->tls, &c->out);
}

static void pump(struct h2_conn *c)
{
    uv_buf_t buf;

    c->pump = false;
    while (!c->writing && !c->closing) {
        int n;

        if (!gather(c)) {
            close_conn(c);
            return;
        }
        if (!c->out.len) {
            if (is_over(c))
                close_conn(c);
            return;
        }
        buf = uv_buf_init(c->out.data, (unsigned)c->out.len);
        n = uv_try_write((uv_stream_t *)&c->tcp, &buf, 1);
        if (n == (int)c->out.len) {
            c->out.len = 0;
            continue;
        }
        if (n > 0) {
            buf.base += n;
            buf.len -= (size_t)n;
        }
        c->write.data = c;
        c->writing = true;
        c->since_us = ut_clock_us();
        if ((n < 0 && n != UV_EAGAIN) ||
            uv_write(&c->write, (uv_stream_t *)&c->tcp, &buf, 1, on_written)) {
            c->writing = false;
            close_conn(c);
        }
    }
}

/* ---- In ---- */

static void on_alloc(uv_handle_t *t, size_t suggested, uv_buf_t *buf)
{
    struct h2_conn *c = t->data;

    (void)suggested;
    *buf = uv_buf_init(c->h->in, sizeof(c->h->in));
}

static ssize_t take(void *arg, const uint8_t *data, size_t len)
{
    struct h2_conn *c = arg;

    return nghttp2_session_mem_recv(c->session, data, len);
}

/* What came over TLS; negative where that was the end. */
static ssize_t take_sealed(struct h2_conn *c, const char *data, size_t len)
{
    bool shaking = in_handshake(c);
    struct ut_error e;
    uv_buf_t last;

    if (!h2_tls_in(c->tls, data, len, take, c, &e))
        return 0;
    srv_log_line(c->h->c.log, SRV_LOG_DEBUG, NULL, "HTTP/2: %s: %s", c->peer,
                 e.msg);
    if (shaking)
        srv_metrics_count(c->h->c.metrics, SRV_REJECT_TLS);
    if (!c->writing && h2_tls_out(c->tls, &c->out) && c->out.len) {
        /* An alert, which says why: if it goes at once, well. */
        last = uv_buf_init(c->out.data, (unsigned)c->out.len);
        uv_try_write((uv_stream_t *)&c->tcp, &last, 1);
    }
    return -1;
}

static void on_read(uv_stream_t *t, ssize_t n, const uv_buf_t *buf)
{
    struct h2_conn *c = t->data;

    if (n == 0)
        return;
    if (n > 0)
        n = c->tls ? take_sealed(c, buf->base, (size_t)n)
                   : take(c, (const uint8_t *)buf->base, (size_t)n);
    if (n < 0) /* its client left, or speaks no HTTP/2, or floods us */
        close_conn(c);
    else
        h2_pump_later(c);
}

/* ---- Connections ---- */

static void free_if_last(struct srv_h2 *h)
{
    if (!h->freed || h->handles || h->conns)
        return;
    nghttp2_session_callbacks_del(h->callbacks);
    nghttp2_option_del(h->options);
    h2_tls_free(h->tls);
    free(h);
}

static void on_conn_closed(uv_handle_t *t)
{
    struct h2_conn *c = t->data;
    struct srv_h2 *h = c->h;

    if (c->next)
        c->next->prev = c->prev;
    if (c->prev)
        c->prev->next = c->next;
    else
        h->conns = c->next;
    h->n_conns--;
    h->need_pump = true; /* it may have been the last one */
    srv_metrics_add(h->c.metrics, SRV_GAUGE_CONNECTIONS, -1);
    nghttp2_session_del(c->session);
    h2_tls_close(c->tls);
    ut_buf_fini(&c->out);
    free(c);
    free_if_last(h);
}

static void close_conn(struct h2_conn *c)
{
    if (c->closing)
        return;
    c->closing = true;
    h2_abandon(c);
    uv_close((uv_handle_t *)&c->tcp, on_conn_closed);
}

static bool start_session(struct h2_conn *c)
{
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, SRV_H2_MAX_STREAMS},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, SRV_H2_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, SRV_HTTP_MAX_HEADER_BYTES},
    };
    struct srv_h2 *h = c->h;

    if (h->tls && !(c->tls = h2_tls_open(h->tls)))
        return false;
    return nghttp2_session_server_new2(&c->session, h->callbacks, c,
                                       h->options) == 0 &&
           nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings,
                                   3) == 0 &&
           nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE,
                                                 0, CONNECTION_WINDOW) == 0;
}

static void find_peer(struct h2_conn *c)
{
    struct sockaddr_storage ss;
    int len = sizeof(ss);

    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&ss, &len) == 0)
        srv_http_peer((const struct sockaddr *)&ss, c->peer, &c->loopback);
}

static void on_connection(uv_stream_t *listener, int status);

static void on_turned_away(uv_handle_t *t)
{
    struct srv_h2 *h = t->data;

    h->handles--;
    h->turning_away = false;
    if (h->left_standing && !uv_is_closing((uv_handle_t *)&h->listener))
        on_connection((uv_stream_t *)&h->listener, 0);
    free_if_last(h);
}

/* Ends a connection that there is no memory for: libuv takes no others until
 * it has been accepted. */
static void turn_away(struct srv_h2 *h)
{
    h->left_standing = h->turning_away;
    if (h->turning_away)
        return;
    h->turning_away = true;
    h->handles++;
    uv_tcp_init(h->loop, &h->away);
    h->away.data = h;
    uv_accept((uv_stream_t *)&h->listener, (uv_stream_t *)&h->away);
    uv_close((uv_handle_t *)&h->away, on_turned_away);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct srv_h2 *h = listener->data;
    struct h2_conn *c;

    if (status)
        return;
    c = calloc(1, sizeof(*c));
    if (!c) {
        turn_away(h);
        return;
    }
    c->h = h;
    uv_tcp_init(h->loop, &c->tcp);
    c->tcp.data = c;
    ut_buf_init(&c->out, H2_WRITE_BYTES + MAX_FRAME);
    c->since_us = c->refill_us = ut_clock_us();
    c->tokens = (int64_t)SRV_H2_BURST * TOKEN;
    c->next = h->conns;
    if (h->conns)
        h->conns->prev = c;
    h->conns = c;
    h->n_conns++;
    srv_metrics_add(h->c.metrics, SRV_GAUGE_CONNECTIONS, 1);
    if (uv_accept(listener, (uv_stream_t *)&c->tcp) || !start_session(c) ||
        h->n_conns > h->c.max_connections + SRV_HTTP_SPARE_CONNECTIONS) {
        close_conn(c);
        return;
    }
    find_peer(c);
    uv_tcp_nodelay(&c->tcp, 1);
    if (h->n_conns > h->c.max_connections) {
        srv_metrics_count(h->c.metrics, SRV_REJECT_CONNECTIONS);
        nghttp2_session_terminate_session(c->session,
                                          NGHTTP2_ENHANCE_YOUR_CALM);
    }
    if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read))
        close_conn(c);
    else
        h2_pump_later(c);
}

/* ---- Time ---- */

static void sweep_stream(struct h2_stream *s, int64_t now)
{
    int64_t limit = s->h->c.request_timeout_ms * 1000;

    if (s->duplex)
        h2_duplex_sweep(s, now);
    if (now - s->since_us <= limit)
        return;
    if (s->phase == H2_BODY && !s->duplex && !s->x.status) {
        h2_refuse(s, SRV_REJECT_SLOW, API_DEADLINE_EXCEEDED, 408,
                  "the request came too slowly");
        s->discard = true;
    } else if (s->phase == H2_ANSWERING &&
               (s->over || s->unsent.len > s->unsent_at)) {
        srv_metrics_count(s->h->c.metrics, SRV_REJECT_SLOW);
        s->since_us = now; /* once */
        nghttp2_submit_rst_stream(s->conn->session, NGHTTP2_FLAG_NONE, s->id,
                                  NGHTTP2_CANCEL);
        h2_pump_later(s->conn);
    }
}

/* A client is told to go away in two steps, so that what it sent before it
 * heard of it is still answered. */
static void tell(struct h2_conn *c)
{
    if (c->told == 2)
        return;
    if (c->told++ == 0)
        nghttp2_submit_shutdown_notice(c->session);
    else
        nghttp2_submit_goaway(
            c->session, NGHTTP2_FLAG_NONE,
            nghttp2_session_get_last_proc_stream_id(c->session),
            NGHTTP2_NO_ERROR, NULL, 0);
    h2_pump_later(c);
}

static void sweep_conn(struct h2_conn *c, int64_t now)
{
    const struct srv_http_config *g = &c->h->c;
    int64_t rest = now - c->since_us;

    if ((c->writing && rest > g->request_timeout_ms * 1000) ||
        (!c->greeted && rest > g->header_timeout_ms * 1000) ||
        (c->header_us && now - c->header_us > g->header_timeout_ms * 1000)) {
        srv_metrics_count(g->metrics, SRV_REJECT_SLOW);
        close_conn(c);
        return;
    }
    if (c->h->draining && in_handshake(c)) { /* it has asked for nothing */
        close_conn(c);
        return;
    }
    for (struct h2_stream *s = c->streams, *next; s; s = next) {
        next = s->next;
        sweep_stream(s, now);
    }
    if (c->h->draining)
        tell(c);
    if (!c->n_streams && !c->writing && rest > g->idle_timeout_ms * 1000) {
        if (rest > (g->idle_timeout_ms + g->header_timeout_ms) * 1000)
            close_conn(c);
        nghttp2_session_terminate_session(c->session, NGHTTP2_NO_ERROR);
        h2_pump_later(c);
    }
}

static void on_sweep(uv_timer_t *t)
{
    struct srv_h2 *h = t->data;
    int64_t now = ut_clock_us();

    for (struct h2_conn *c = h->conns; c; c = c->next)
        if (!c->closing)
            sweep_conn(c, now);
}

/* Duplex streams' next messages. */
static void take_turns(struct h2_conn *c)
{
    c->turn = false;
    for (struct h2_stream *s = c->streams; s; s = s->next)
        if (s->turn)
            h2_turn(s);
}

static void on_prepare(uv_prepare_t *p)
{
    struct srv_h2 *h = p->data;

    if (!h->need_pump)
        return;
    do {
        h->need_pump = false;
        for (struct h2_conn *c = h->conns; c; c = c->next) {
            if (c->turn && !c->closing)
                take_turns(c);
            if (c->pump && !c->closing)
                pump(c);
        }
    } while (h->need_pump); /* what was sent may have made room for a turn */
    for (struct h2_stream *s = h->orphans, *next; s; s = next) {
        next = s->next;
        if (s->ended)
            h2_finish(s);
    }
    if (h->draining && !h->conns && !h->orphans && h->drained) {
        void (*drained)(void *arg) = h->drained;

        h->drained = NULL;
        drained(h->drained_arg);
    }
}

/* ---- The server ---- */

static enum ut_err start_handles(struct srv_h2 *h, int fd, struct ut_error *e)
{
    int rc;

    uv_tcp_init(h->loop, &h->listener);
    uv_timer_init(h->loop, &h->sweep);
    uv_prepare_init(h->loop, &h->prepare);
    h->listener.data = h->sweep.data = h->prepare.data = h;
    h->handles = 3;
    rc = uv_tcp_open(&h->listener, fd);
    if (rc)
        close(fd);
    else
        rc = uv_listen((uv_stream_t *)&h->listener, SOMAXCONN, on_connection);
    if (rc)
        return ut_fail(e, UT_EIO, "HTTP/2: %s", uv_strerror(rc));
    uv_timer_start(&h->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    uv_prepare_start(&h->prepare, on_prepare);
    return UT_OK;
}

enum ut_err srv_h2_new(uv_loop_t *loop, const struct srv_http_config *c,
                       struct srv_h2 **out, struct ut_error *e)
{
    struct srv_h2 *h = calloc(1, sizeof(*h));
    enum ut_err rc = UT_OK;
    int fd;

    *out = NULL;
    if (!h)
        return ut_fail(e, UT_ENOMEM, "no memory for HTTP/2");
    h->c = *c;
    h->bodies.metrics = c->metrics;
    h->bodies.limit = c->max_total_bytes;
    h->loop = loop;
    if (sodium_init() < 0) {
        rc = ut_fail(e, UT_EIO, "libsodium cannot get random numbers");
        goto out;
    }
    if (nghttp2_session_callbacks_new(&h->callbacks) ||
        nghttp2_option_new(&h->options)) {
        rc = ut_fail(e, UT_ENOMEM, "no memory for HTTP/2");
        goto out;
    }
    h2_request_callbacks(h->callbacks);
    /* h2_request.c gives windows back: at once, but for duplex streams. */
    nghttp2_option_set_no_auto_window_update(h->options, 1);
    if (c->tls_cert) {
        rc = h2_tls_new(c->tls_cert, c->tls_key, &h->tls, e);
        if (rc)
            goto out;
    }
    errno = 0;
    fd = srv_http_listen(c->host, c->port, &h->port);
    if (fd < 0)
        rc = ut_fail(e, UT_EIO, "cannot listen on %s port %d: %s", c->host,
                     c->port, errno ? strerror(errno) : "no such address");
    else
        rc = start_handles(h, fd, e);
    if (rc)
        goto out;
    *out = h;
    h = NULL;
out:
    srv_h2_free(h);
    return rc;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct srv_h2 *h = handle->data;

    h->handles--;
    free_if_last(h);
}

void srv_h2_free(struct srv_h2 *h)
{
    bool listens;

    if (!h)
        return;
    h->freed = true;
    for (struct h2_conn *c = h->conns; c; c = c->next)
        close_conn(c);
    if (!h->handles) {
        free_if_last(h);
        return;
    }
    listens = !uv_is_closing((uv_handle_t *)&h->listener);
    if (listens)
        uv_close((uv_handle_t *)&h->listener, on_handle_closed);
    uv_close((uv_handle_t *)&h->sweep, on_handle_closed);
    uv_close((uv_handle_t *)&h->prepare, on_handle_closed);
}

int srv_h2_port(const struct srv_h2 *h)
{
    return h->port;
}

size_t srv_h2_calls(const struct srv_h2 *h)
{
    return h->n_calls;
}

void srv_h2_drain(struct srv_h2 *h, void (*drained)(void *arg), void *arg)
{
    h->drained = drained;
    h->drained_arg = arg;
    h->need_pump = true;
    if (h->draining)
        return;
    h->draining = true;
    uv_close((uv_handle_t *)&h->listener, on_handle_closed);
    for (struct h2_conn *c = h->conns; c; c = c->next)
        if (!c->closing)
            tell(c);
}
