/* Duplex exchanges over HTTP/2: a request's messages, handed over one at a time
 * as they come, into one answer.
 *
 * While a message is at work, or its answer has not gone yet, the stream's
 * window is not given back: what its client sends on fills the inbox, at most
 * the window, and then the client waits. The connection's window is given back
 * at once, so that other streams go on. */
#include <string.h>

#include "api/frame.h"
#include "server/http/h2_parts.h"

void h2_duplex(struct srv_http_exchange *x)
{
    ((struct h2_stream *)x)->duplex = true;
}

/* ---- In ---- */

/* How much more there has to be, of its head first, for the message to be
 * whole. */
static size_t missing(const struct h2_stream *s)
{
    size_t want = s->x.body_len < API_FRAME_HEAD ? API_FRAME_HEAD
                                                 : api_frame_size(s->x.body);

    return want - s->x.body_len;
}

/* Adds to the message that comes. False: it was refused. */
static bool keep(struct h2_stream *s, const char *data, size_t n)
{
    long long limit = s->h->c.max_body_bytes;
    size_t size;

    if (!s->x.body_len) /* it is from now on that it must come */
        h2_enter(s, H2_BODY);
    if (!srv_http_body_keep(&s->h->bodies, &s->body, &s->x, data, n)) {
        h2_refuse(s, SRV_REJECT_BYTES, API_UNAVAILABLE, 0,
                  "request bodies hold %lld bytes, the limit is %lld",
                  (long long)s->h->bodies.bytes, (long long)s->h->bodies.limit);
        return false;
    }
    if (s->x.body_len < API_FRAME_HEAD)
        return true;
    size = api_frame_size(s->x.body);
    if ((long long)size <= limit)
        return true;
    h2_refuse(s, SRV_REJECT_BODY, API_RESOURCE_EXHAUSTED, 413,
              "the message has %zu bytes, the limit is %lld", size, limit);
    return false;
}

/* Takes bytes until a message is at work; how many. All, where the stream has
 * ended. */
static size_t feed(struct h2_stream *s, const char *data, size_t n)
{
    size_t at = 0;

    while (at < n && s->phase == H2_BODY) {
        size_t take = missing(s);

        take = take < n - at ? take : n - at;
        if (!keep(s, data + at, take))
            return n;
        at += take;
        if (s->x.body_len >= API_FRAME_HEAD && !missing(s))
            h2_hand_over(s);
    }
    return s->over ? n : at;
}

/* Where no message is at work: the client may go on, or has ended. */
static void settle(struct h2_stream *s)
{
    if (s->over || s->phase != H2_BODY)
        return;
    if (!s->half_closed)
        nghttp2_session_consume_stream(s->conn->session, s->id, s->held);
    s->held = 0;
    h2_pump_later(s->conn);
    if (s->half_closed && s->x.body_len)
        h2_refuse(s, SRV_REJECT_HEADERS, API_INVALID_ARGUMENT, 400,
                  "the last message was cut off");
    else if (s->half_closed)
        s->h->c.hooks.last(s->h->c.hooks.arg, &s->x);
}

void h2_duplex_data(struct h2_stream *s, const char *data, size_t n)
{
    size_t used;

    nghttp2_session_consume_connection(s->conn->session, n);
    s->held += n;
    used = feed(s, data, n);
    if (used < n) {
        if (!srv_http_body_room(&s->h->bodies, &s->inbox,
                                s->inbox_len + n - used)) {
            /* A handler is at work, so that there is no saying why. */
            srv_metrics_count(s->h->c.metrics, SRV_REJECT_BYTES);
            s->discard = true;
            nghttp2_submit_rst_stream(s->conn->session, NGHTTP2_FLAG_NONE,
                                      s->id, NGHTTP2_ENHANCE_YOUR_CALM);
            return;
        }
        memcpy(s->inbox.data + s->inbox_len, data + used, n - used);
        s->inbox_len += n - used;
    }
    settle(s);
}

void h2_duplex_end(struct h2_stream *s)
{
    s->half_closed = true;
    settle(s);
}

/* ---- From one message to the next ---- */

void h2_turn_later(struct h2_stream *s)
{
    s->turn = true;
    if (!s->conn)
        return;
    s->conn->turn = true;
    h2_pump_later(s->conn);
}

/* The handler may still look at the message, so it goes later. */
void h2_next(struct srv_http_exchange *x)
{
    struct h2_stream *s = (struct h2_stream *)x;

    h2_hand_back(s);
    h2_enter(s, H2_ANSWERING);
    h2_turn_later(s);
}

void h2_turn(struct h2_stream *s)
{
    s->turn = false;
    if (s->over || s->discard || s->unsent.len > s->unsent_at)
        return;
    s->h->c.hooks.next(s->h->c.hooks.arg, &s->x);
    s->x.taken += s->x.body_len;
    h2_drop_body(s);
    h2_enter(s, H2_BODY);
    if (s->inbox_len)
        s->inbox_at +=
            feed(s, s->inbox.data + s->inbox_at, s->inbox_len - s->inbox_at);
    if (s->inbox_len && s->inbox_at == s->inbox_len) {
        srv_http_body_free(&s->h->bodies, &s->inbox);
        s->inbox_at = s->inbox_len = 0;
    }
    settle(s);
}

/* ---- Time ---- */

/* While a message is at work, its handler minds the time. */
void h2_duplex_sweep(struct h2_stream *s, int64_t now)
{
    const struct srv_http_config *g = &s->h->c;
    int64_t ms = s->x.body_len ? g->request_timeout_ms : g->idle_timeout_ms;

    if (s->over || s->phase != H2_BODY)
        return;
    if (s->x.until_us && now > s->x.until_us)
        h2_refuse(s, SRV_REJECT_EXPIRED, API_DEADLINE_EXCEEDED, 0,
                  "the stream's deadline has passed");
    else if (now - s->since_us > ms * 1000)
        h2_refuse(s, SRV_REJECT_SLOW, API_DEADLINE_EXCEEDED, 408,
                  "no whole message came for %lld ms", (long long)ms);
    else if (s->h->draining)
        h2_refuse(s, SRV_REJECT_STARTING, API_UNAVAILABLE, 0,
                  "the server is draining");
}
