#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <stdbool.h>
#include <uv.h>

#include "api/error.h"
#include "server/log.h"
#include "server/metrics.h"

/* HTTP on the loop, knowing nothing of routes: it reads requests within limits
 * and sends answers. This is HTTP/1.1, of which http*.c alone know the library;
 * server/http/h2.h is HTTP/2. Both give the same exchanges.
 *
 * A request that breaks a limit or HTTP's framing is answered here, and its
 * connection closed. Thread: the loop, everything. */

#define SRV_HTTP_MAX_HEADER_BYTES (16 * 1024) /* request line and fields */
#define SRV_HTTP_DRAIN_BYTES                                                   \
    (64 * 1024)                         /* of a refused body past its limit,   \
                                           read so that the answer is too */
#define SRV_HTTP_SPARE_CONNECTIONS 64   /* past the limit, to say 503 on */
#define SRV_HTTP_MAX_FIELDS 8           /* of an answer, beyond the usual */
#define SRV_HTTP_MAX_UNSENT (64 * 1024) /* bytes of a stream that wait */
#define SRV_HTTP_REQUEST_ID_LEN 33

struct srv_http;
struct srv_http_transport;

/* One request and its answer. The strings live until done(). */
struct srv_http_exchange {
    const struct srv_http_transport *via; /* the listener's */
    const char *method, *path;            /* path: decoded, without the query */
    const char *content_type;             /* NULL: none was sent */
    const char *body;                     /* complete in handle() */
    size_t body_len;
    bool has_body; /* one was announced, even of no bytes (chunked) */
    char request_id[SRV_HTTP_REQUEST_ID_LEN]; /* the client's or ours */
    const char *peer;                         /* its address */
    bool loopback;                            /* it is on this machine */
    bool http10;                              /* asked over HTTP/1.0 */
    int64_t start_us;
    int64_t until_us; /* a duplex exchange ends then; 0: when its ends want */
    size_t taken;     /* bytes of its messages before this one */
    bool cancelled;   /* the client left */
    int status;       /* answered so; 0: cut off before */
    size_t sent;      /* bytes of the answer's body */
    char *trailers;   /* owned; "name: value\r\n"... after the body, or NULL */
    void *user;       /* the hooks' own; NULL at first */
};

struct srv_http_field {
    const char *name, *value;
};

struct srv_http_answer {
    int status;
    const char *type; /* Content-Type; NULL when there is no body */
    char *body;       /* taken, freed by free(); may be NULL */
    size_t len;
    struct srv_http_field fields[SRV_HTTP_MAX_FIELDS]; /* a Cache-Control
                                                          replaces no-store */
    int n_fields;
    bool close; /* end the connection after it */
};

/* What is served. Hooks answer by srv_http_answer or srv_http_fail. */
struct srv_http_hooks {
    /* The header is in. May answer at once; then the body is not kept. */
    void (*begin)(void *arg, struct srv_http_exchange *x);
    /* The body too. Must be answered exactly once, now or later. */
    void (*handle)(void *arg, struct srv_http_exchange *x);
    /* Of a duplex exchange: the message in handle() was answered, and goes
     * when this returns; and: no message is left, and none will come. */
    void (*next)(void *arg, struct srv_http_exchange *x);
    void (*last)(void *arg, struct srv_http_exchange *x);
    /* Answers what broke a limit or HTTP's framing, begun or not, or in the
     * midst of a duplex exchange, in the shape that its path has for errors.
     * NULL: by srv_http_fail. */
    void (*refuse)(void *arg, struct srv_http_exchange *x,
                   const struct api_error *err);
    /* The client left while its answer was being made: answer all the same
     * (it goes nowhere). While it streams: that was the end of it. */
    void (*left)(void *arg, struct srv_http_exchange *x);
    /* It is over: x->user can go. Called for every exchange, once. */
    void (*done)(void *arg, struct srv_http_exchange *x);
    void *arg;
};

struct srv_http_config {
    const char *host;               /* borrowed for srv_http_new */
    int port;                       /* 0: any free one */
    const char *tls_cert, *tls_key; /* HTTP/2's, PEM files, borrowed for
                                       srv_h2_new; NULL: without TLS */
    int max_connections;
    int64_t max_body_bytes, max_total_bytes; /* of one body, of all */
    int64_t header_timeout_ms, idle_timeout_ms, request_timeout_ms;
    struct srv_http_hooks hooks;
    struct srv_log *log;         /* may be NULL */
    struct srv_metrics *metrics; /* may be NULL */
};

/* Listens. Errors: UT_EIO naming the address, UT_ENOMEM. */
UT_MUSTUSE enum ut_err srv_http_new(uv_loop_t *loop,
                                    const struct srv_http_config *c,
                                    struct srv_http **out, struct ut_error *e);

/* Once every call has ended. Cuts what connections are left; the loop must
 * run on until its handles have closed. Accepts NULL. */
void srv_http_free(struct srv_http *h);

int srv_http_port(const struct srv_http *h);
size_t srv_http_calls(const struct srv_http *h); /* handed to handle() */

/* Takes no more connections, ends those at rest, answers the others' requests
 * and closes them; then calls drained (once, on the loop). */
void srv_http_drain(struct srv_http *h, void (*drained)(void *arg), void *arg);

/* What a listener does for its exchanges: http.c is HTTP/1.1, h2.c HTTP/2.
 * The functions below call these. */
struct srv_http_transport {
    const char *(*field)(const struct srv_http_exchange *x, const char *name);
    void (*query)(const struct srv_http_exchange *x,
                  bool (*fn)(void *arg, const char *name, const char *value),
                  void *arg);
    size_t (*body_limit)(const struct srv_http_exchange *x);
    enum ut_err (*replace_body)(struct srv_http_exchange *x, char *body,
                                size_t len, struct api_error *err);
    void (*answer)(struct srv_http_exchange *x, struct srv_http_answer *a);
    void (*stream)(struct srv_http_exchange *x, struct srv_http_answer *a);
    bool (*write)(struct srv_http_exchange *x, const void *data, size_t len);
    void (*end)(struct srv_http_exchange *x);
    void (*duplex)(struct srv_http_exchange *x);
    void (*next)(struct srv_http_exchange *x);
    bool trailers; /* an answer can have them */
};

/* Answers x. *a is consumed. */
void srv_http_answer(struct srv_http_exchange *x, struct srv_http_answer *a);
/* Answers x with the one error shape. */
void srv_http_fail(struct srv_http_exchange *x, const struct api_error *err);
/* The same with a status, type and body of the caller's: adds the fields that
 * go with err (Retry-After...). */
void srv_http_fail_as(struct srv_http_exchange *x, const struct api_error *err,
                      struct srv_http_answer *a);

/* Answers x in pieces: a without a body, then any number of writes, then the
 * end, unless left() says that there is nobody any more. A write is false, and
 * nothing of it goes out, when SRV_HTTP_MAX_UNSENT bytes would wait, or when
 * there is no memory or no client. One that reads nothing for
 * request_timeout_ms while something waits is cut. */
void srv_http_stream(struct srv_http_exchange *x, struct srv_http_answer *a);
bool srv_http_write(struct srv_http_exchange *x, const void *data, size_t len);
void srv_http_end(struct srv_http_exchange *x);

/* In begin(): x is duplex. Its body is messages, each with gRPC's head
 * (api/frame.h); handle() gets one at a time, as soon as it is there, as x's
 * body. Each is answered by srv_http_write into one stream, which takes more
 * than SRV_HTTP_MAX_UNSENT here, and then srv_http_next asks for the one after
 * it: it is handed over once the client has taken the answer. Until then what
 * comes waits, at most SRV_H2_WINDOW bytes, and then the client waits. Over
 * HTTP/1.1 all messages, within the limit of one body, come before the first
 * is handed over.
 * srv_http_end ends it, and so does the first thing that goes wrong. */
void srv_http_duplex(struct srv_http_exchange *x);
void srv_http_next(struct srv_http_exchange *x);

/* Whether an answer can have trailers, and those it ends with: "name:
 * value\r\n"..., malloc'ed and taken. Before srv_http_answer or
 * srv_http_end. */
bool srv_http_has_trailers(const struct srv_http_exchange *x);
void srv_http_trailers(struct srv_http_exchange *x, char *text);

/* A request's field, or NULL; names are compared without case. */
const char *srv_http_field(const struct srv_http_exchange *x, const char *name);
/* The most bytes that a body may have. */
size_t srv_http_body_limit(const struct srv_http_exchange *x);
/* Puts body, malloc'ed and taken, in the place of x's: the same, unpacked.
 * Errors: UT_EBUSY, over max_total_bytes. */
UT_MUSTUSE enum ut_err srv_http_replace_body(struct srv_http_exchange *x,
                                             char *body, size_t len,
                                             struct api_error *err);
/* Every name=value of the query, decoded, in order, until fn says false.
 * value is "" where there was none. */
void srv_http_query(const struct srv_http_exchange *x,
                    bool (*fn)(void *arg, const char *name, const char *value),
                    void *arg);

#endif
