#ifndef SERVER_H2_PARTS_H
#define SERVER_H2_PARTS_H

#include <nghttp2/nghttp2.h>

#include "base/buf.h"
#include "base/clock.h"
#include "server/http/h2.h"
#include "server/http/h2_tls.h"
#include "server/http/http_body.h"
#include "server/http/http_exchange.h"
#include "server/http/http_socket.h"

/* What h2.c (connections), h2_request.c, h2_duplex.c and h2_answer.c share.
 * Nobody else includes it. Thread: the loop. */

#define H2_MAX_FIELDS 100
#define H2_WRITE_BYTES (64 * 1024) /* of a connection, on their way */

enum h2_phase { H2_HEADER, H2_BODY, H2_WORKING, H2_ANSWERING };

struct h2_field {
    size_t name, value; /* in text */
};

/* A stream: one exchange. It outlives its connection while a handler has
 * it. */
struct h2_stream {
    struct srv_http_exchange x; /* first: the hooks' view */
    struct h2_stream *next, *prev;
    struct srv_h2 *h;
    struct h2_conn *conn; /* NULL: closed */
    int32_t id;
    enum h2_phase phase;
    int64_t since_us; /* when the phase began, or something went out */

    struct ut_buf text; /* fields' names and values, each with its NUL */
    struct h2_field fields[H2_MAX_FIELDS];
    int n_fields;
    size_t header_bytes; /* as SETTINGS_MAX_HEADER_LIST_SIZE counts */
    char *query;         /* owned, or NULL */
    char *path;          /* owned, decoded */
    char peer[SRV_HTTP_PEER_LEN];

    struct srv_http_body body;
    size_t received;
    bool begun, handed, discard;

    bool duplex, half_closed;   /* the latter: its client has sent all */
    bool turn;                  /* its next message's */
    struct srv_http_body inbox; /* what came while a message is at work */
    size_t inbox_at, inbox_len;
    size_t held; /* bytes of the window that were not given back */

    struct ut_buf unsent; /* of the answer */
    size_t unsent_at;     /* what is before it has gone */
    bool streams, over;   /* over: nothing more will be written */
    bool waits;           /* the library has nothing to send of it */
    bool ended;           /* an orphan's handler has answered */
};

struct h2_conn {
    struct h2_conn *next, *prev;
    struct srv_h2 *h;
    uv_tcp_t tcp;
    uv_write_t write;
    nghttp2_session *session;
    struct h2_tls_conn *tls; /* NULL: without it */
    struct h2_stream *streams;
    int n_streams;
    struct ut_buf out; /* being written */
    int64_t since_us;  /* at rest since; or its write is under way since */
    int64_t header_us; /* a header began and has not ended; 0: none */
    int64_t refill_us; /* of tokens */
    int64_t tokens;    /* idle frames that it may send, by the million */
    bool writing, greeted, closing, pump, turn;
    int told; /* to go away: steps */
    bool loopback;
    char peer[SRV_HTTP_PEER_LEN];
};

struct srv_h2 {
    struct srv_http_config c;
    struct h2_tls *tls; /* NULL: without it */
    uv_loop_t *loop;
    uv_tcp_t listener;
    uv_timer_t sweep;
    uv_prepare_t prepare; /* sends what answers have left */
    uv_tcp_t away;        /* a connection without memory, being closed */
    bool turning_away, left_standing; /* it is; another waits for its turn */
    int handles;                      /* of those four, still open */
    bool need_pump, draining, freed;
    struct h2_conn *conns;
    int n_conns, port;
    size_t n_calls;
    struct h2_stream *orphans; /* handlers still have them */
    struct srv_http_bodies bodies;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *options;
    char in[H2_WRITE_BYTES]; /* what was read: consumed at once */
    void (*drained)(void *arg);
    void *drained_arg;
};

/* h2.c: c has something to send. */
void h2_pump_later(struct h2_conn *c);
/* Takes a token for a frame that asks for nothing but work; false if there is
 * none left, and c was told to go away. */
bool h2_take_token(struct h2_conn *c);

/* h2_request.c: what the library tells of frames that came. */
void h2_request_callbacks(nghttp2_session_callbacks *callbacks);
/* The connection is gone: ends its streams. */
void h2_abandon(struct h2_conn *c);
/* It is over for everybody. */
void h2_finish(struct h2_stream *s);
void h2_drop_body(struct h2_stream *s);
/* The body is in: it is the hooks'. */
void h2_hand_over(struct h2_stream *s);
const char *h2_field(const struct srv_http_exchange *x, const char *name);
void h2_query(const struct srv_http_exchange *x,
              bool (*fn)(void *arg, const char *name, const char *value),
              void *arg);
size_t h2_body_limit(const struct srv_http_exchange *x);
enum ut_err h2_replace_body(struct srv_http_exchange *x, char *body, size_t len,
                            struct api_error *err);
void h2_refuse(struct h2_stream *s, enum srv_reject why, enum api_code code,
               int status, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* h2_duplex.c */
void h2_duplex(struct srv_http_exchange *x);
void h2_next(struct srv_http_exchange *x);
void h2_duplex_data(struct h2_stream *s, const char *data, size_t n);
void h2_duplex_end(struct h2_stream *s); /* the client's */
/* Its next message may be due: h2.c takes the turn before the loop sleeps. */
void h2_turn_later(struct h2_stream *s);
void h2_turn(struct h2_stream *s);
void h2_duplex_sweep(struct h2_stream *s, int64_t now);

/* h2_answer.c */
extern const struct srv_http_transport h2_transport;
void h2_hand_back(struct h2_stream *s);

static inline void h2_enter(struct h2_stream *s, enum h2_phase phase)
{
    s->phase = phase;
    s->since_us = ut_clock_us();
}

#endif
