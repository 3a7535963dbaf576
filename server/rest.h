#ifndef SERVER_REST_H
#define SERVER_REST_H

#include "server/auth.h"
#include "server/call.h"
#include "server/http.h"

/* REST over HTTP: finds the method's route, who may call it, makes its
 * message of path, query and body, and turns its reply into an answer.
 * Thread: the loop. */

#define SRV_REST_MAX_PARAMS 2          /* {names} in a path */
#define SRV_REST_MAX_TIMEOUT_DIGITS 10 /* of Connect-Timeout-Ms */

struct srv_app;

struct srv_route {
    const char *method;
    const char *path;   /* "/v1/identities/{id}": {fields} of the request */
    enum srv_role role; /* the least one; SRV_ROLE_NONE: open to all */
    const ProtobufCMessageDescriptor *request; /* never NULL */
    /* A call: the message for a handler. */
    srv_handler_fn handler;
    int status; /* of its answer */
    /* Or something that is no call: answers x itself, also before the server
     * is ready. */
    void (*plain)(struct srv_app *app, struct srv_http_exchange *x);
};

/* The server's routes (routes.c). */
extern const struct srv_route srv_routes[];
extern const int srv_n_routes;

struct srv_rest;

/* Uses app's config, log, metrics, auth and ready. routes outlive it. */
UT_MUSTUSE enum ut_err srv_rest_new(struct srv_app *app,
                                    const struct srv_route *routes,
                                    int n_routes, struct srv_rest **out,
                                    struct ut_error *e);
void srv_rest_free(struct srv_rest *r); /* accepts NULL */

/* For struct srv_http_config. */
struct srv_http_hooks srv_rest_hooks(struct srv_rest *r);

/* "POST /v1/analyze"..., for metrics; [n_routes], live as long as r. */
const char *const *srv_rest_names(const struct srv_rest *r);

/* ---- rest_bind.c: requests to messages ---- */

struct srv_rest_params {
    int n;
    struct {
        char name[32], value[204];
    } at[SRV_REST_MAX_PARAMS];
};

/* Whether path fits pattern; p holds what its {names} stand for. */
bool srv_rest_match(const char *pattern, const char *path,
                    struct srv_rest_params *p);

/* The media types that a route's body may have, comma-separated, for people;
 * NULL if it takes none. */
const char *srv_rest_media(const struct srv_route *route);
/* Whether content_type (may be NULL) is one of them. */
bool srv_rest_takes(const struct srv_route *route, const char *content_type);

/* The request's message. Images in it may be views of x's body: free it by
 * srv_rest_unbind, while x lives. */
UT_MUSTUSE enum ut_err srv_rest_bind(const struct srv_route *route,
                                     const struct srv_http_exchange *x,
                                     const struct srv_rest_params *p,
                                     ProtobufCMessage **out,
                                     struct api_error *err);
void srv_rest_unbind(const struct srv_http_exchange *x, ProtobufCMessage *msg);

#endif
