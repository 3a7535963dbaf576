#ifndef SERVER_DISPATCH_H
#define SERVER_DISPATCH_H

#include "base/buf.h"
#include "server/auth.h"
#include "server/calls/call.h"
#include "server/http/http.h"
#include "server/mailbox.h"

/* Exchanges to calls and back: which method, who may, until when. What is a
 * protocol's own, bytes to messages and back, is behind srv_protocol.
 * Thread: the loop. */

#define SRV_MAX_PARAMS 2            /* {names} in a path */
#define SRV_MAX_TIMEOUT_DIGITS 10   /* of Connect-Timeout-Ms */
#define SRV_MAX_ANSWER (256u << 20) /* bytes of an answer of RPC */
#define SRV_LARGE_BODY (256u << 10) /* bytes of one not read on the loop */
#define SRV_GZIP_LEAST 4096         /* bytes of an answer worth to be packed */

struct srv_app;
struct srv_protocol;

struct srv_route {
    const char *method;
    const char *path;   /* "/v1/identities/{id}": {fields} of the request */
    enum srv_role role; /* the least one; SRV_ROLE_NONE: open to all */
    const ProtobufCMessageDescriptor *request; /* never NULL */
    /* A call: the message for a handler. */
    srv_handler_fn handler;
    int status;      /* of its answer over REST */
    const char *rpc; /* "tscaf.v1.Models/ListModels"; NULL: REST only. One
                        whose method is GET has no side effects. */
    bool streams;    /* the answer is a stream: the handler sends; it may
                        reply to none */
    bool duplex;     /* and so is the request: the handler is called for each
                        message, and replies; by gRPC and Connect */
    bool early;      /* called before the server is ready, too */
    /* Or something that is no call: answers x itself, also before the server
     * is ready. */
    void (*plain)(struct srv_app *app, struct srv_http_exchange *x);
};

/* The server's routes (routes.c). */
extern const struct srv_route srv_routes[];
extern const int srv_n_routes;

/* What the {names} of a route's path stand for. */
struct srv_params {
    int n;
    struct {
        char name[32], value[204];
    } at[SRV_MAX_PARAMS];
};

/* One exchange, whether it becomes a call or not. */
struct srv_request {
    struct srv_call call; /* first: handlers see only this */
    struct srv_dispatch *dispatch;
    struct srv_http_exchange *x;
    const struct srv_protocol *protocol;
    const struct srv_route *route; /* NULL: none fits */
    struct srv_params params;      /* REST's */
    ProtobufCMessage *message;     /* owned: call.request */
    bool timed;                    /* call.deadline_us is the client's */
    struct srv_mail bound;         /* message was made elsewhere, or error */
    enum ut_err bind_rc;
    struct api_error bind_error;
    char field_value[24]; /* the protocol's: of a field it answers */
};

struct srv_protocol {
    /* The header is in: may refuse media types and versions, and may set
     * call.deadline_us and timed. */
    enum ut_err (*begin)(struct srv_request *r, struct api_error *err);
    /* The body is in: makes r->message. Thread: any where binds_anywhere, for
     * bodies of SRV_LARGE_BODY or more; the loop else. */
    enum ut_err (*bind)(struct srv_request *r, struct api_error *err);
    /* Frees r->message; x's body is still there. */
    void (*unbind)(struct srv_request *r);
    /* Makes the answer's type, body and fields; status is set to the
     * route's. */
    enum ut_err (*reply)(struct srv_request *r, const ProtobufCMessage *m,
                         struct srv_http_answer *a, struct ut_error *e);
    /* A stream: its media type and fields, what one message is in it, and its
     * end: well (NULL), or by err. Appends to b. */
    void (*stream)(const struct srv_request *r, struct srv_http_answer *a);
    enum ut_err (*piece)(struct srv_request *r, const ProtobufCMessage *m,
                         struct ut_buf *b, struct ut_error *e);
    enum ut_err (*last)(struct srv_request *r, const struct api_error *err,
                        struct ut_buf *b, struct ut_error *e);
    /* Answers x, which has no answer yet. */
    void (*fail)(struct srv_request *r, const struct api_error *err);
    bool binds_anywhere; /* numbers as text are slow to read */
};

extern const struct srv_protocol srv_rest; /* rest.c: JSON, pictures, forms */
extern const struct srv_protocol srv_rpc;  /* rpc.c: Connect, gRPC-Web */
extern const struct srv_protocol srv_oip;  /* oip.c: Open Inference, /v2 */

struct srv_dispatch;

/* Uses app's config, log, metrics, auth and ready. routes outlive it. */
UT_MUSTUSE enum ut_err srv_dispatch_new(struct srv_app *app,
                                        const struct srv_route *routes,
                                        int n_routes, struct srv_dispatch **out,
                                        struct ut_error *e);
void srv_dispatch_free(struct srv_dispatch *d); /* accepts NULL */

/* For struct srv_http_config. */
struct srv_http_hooks srv_dispatch_hooks(struct srv_dispatch *d);

/* "POST /v1/analyze"..., for metrics; [n_routes], live as long as d. */
const char *const *srv_dispatch_names(const struct srv_dispatch *d);

/* Whether path fits pattern; p holds what its {names} stand for. */
bool srv_path_match(const char *pattern, const char *path,
                    struct srv_params *p);

/* Whether a media type, parameters aside, is want; NULL is none. */
bool srv_media_is(const char *content_type, const char *want);

/* Whether a list such as Accept-Encoding has gzip, and not at q=0; NULL has
 * not. */
bool srv_takes_gzip(const char *list);

/* Marks err as naming a header field that has to be one of want. */
void srv_expected(struct api_error *err, const char *field, const char *want);

#endif
