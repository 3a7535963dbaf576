#ifndef SERVER_HTTP_PARTS_H
#define SERVER_HTTP_PARTS_H

#include <microhttpd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "server/http/http_body.h"
#include "server/http/http_exchange.h"
#include "server/http/http_socket.h"

/* What http.c (the library and its connections), http_request.c and
 * http_answer.c share. Nobody else includes it. Thread: the loop. */

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
    struct srv_http_body body;
    size_t received;      /* also what was not kept */
    struct ut_buf unsent; /* of a stream */
    size_t unsent_at;     /* what is before it has gone */
    bool streams, over;   /* over: nothing more will be written */
    bool chunked, bad_uri, discard, close, suspended;
    bool handed;     /* to handle(), and not answered yet */
    bool duplex;     /* its body is messages */
    bool answered;   /* the message that is its body, of a duplex one */
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
    struct srv_http_bodies bodies;
    void (*drained)(void *arg);
    void *drained_arg;
};

static inline void enter(struct conn *c, enum phase phase)
{
    c->phase = phase;
    c->since_us = ut_clock_us();
}

/* http_request.c: the library's one callback, and what a body held. */
enum MHD_Result http_on_request(void *arg, struct MHD_Connection *mhd,
                                const char *url, const char *method,
                                const char *version, const char *data,
                                size_t *len, void **context);
void http_drop_body(struct exchange *x);
/* A Content-Length: -1 if it is none, INT64_MAX if it is more than counts. */
int64_t http_parse_length(const char *text);

/* An exchange's, behind the transport. */
const char *http_field(const struct srv_http_exchange *x, const char *name);
void http_query(const struct srv_http_exchange *x,
                bool (*fn)(void *arg, const char *name, const char *value),
                void *arg);
size_t http_body_limit(const struct srv_http_exchange *x);
enum ut_err http_replace_body(struct srv_http_exchange *pub, char *body,
                              size_t len, struct api_error *err);

extern const struct srv_http_transport http_transport; /* http_answer.c */

/* http_answer.c: waits for an answer; goes on; hands it to the library. */
void http_suspend(struct exchange *x);
void http_resume(struct exchange *x); /* if it is suspended */
enum MHD_Result http_send(struct exchange *x);
void http_unref(struct exchange *x);
void http_hand_over(struct exchange *x); /* to handle() */
void http_hand_back(struct exchange *x); /* if it was handed over */
/* http_duplex.c: hands the next message over, or says that there is none.
 * Where none is at work and nothing is unsent. */
void http_duplex(struct srv_http_exchange *x);
void http_next(struct srv_http_exchange *x);
void http_turn(struct exchange *x);
/* Says why a request is cut off that the library still reads. */
void http_answer_by_hand(struct exchange *x, enum api_code code, int status,
                         const char *message);
/* The watch over a suspended connection, and what it tells. */
void http_watch_stop(struct exchange *x);
void http_client_left(struct exchange *x);
/* An answer of our own, which ends the connection unless keep. */
void http_refuse(struct exchange *x, enum srv_reject why, enum api_code code,
                 int status, bool keep, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));

#endif
