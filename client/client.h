#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "api/error.h"
#include "base/buf.h"

/* libtscaf: requests to a tscafd over HTTP, many at once on one thread.
 *
 * cl_start puts a request on its way; cl_wait moves all of them and calls back
 * for those that ended; cl_call is both for one. In a program with a loop of
 * its own (libuv, epoll, curl_multi_poll, ...) the loop watches cl_fd and calls
 * cl_wait without waiting; libtscaf has no thread, no sleep and no state
 * outside its clients. A client belongs to one thread. */

#define CL_MAX_ANSWER_BYTES (256u << 20)

struct cl_options {
    const char *url;    /* "http://127.0.0.1:8080" */
    const char *key;    /* API key, or NULL */
    const char *cacert; /* PEM file for https, or NULL: the system's */
    int timeout_ms;     /* per try; also the server's deadline; > 0 */
    int deadline_ms;    /* for a request with its retries; 0: none. A retry that
                           would begin after it is not waited for. */
    int retries;        /* of a request answered 503, which nothing was done
                           for, and of no other: after what Retry-After says
                           and a random wait that doubles from 100 ms to a
                           minute; 0: none. Within a try, GET and HEAD alone
                           may be sent again, if a connection that was kept
                           turns out to be closed. */
};

/* Everything is borrowed until the request's callback has returned, except
 * path, which is copied. */
struct cl_request {
    const char *method;
    const char *path; /* with its query: "/v1/analyze?input=crop" */
    const char *type; /* media type of body; NULL: no body */
    const void *body;
    size_t len;
    int deadline_ms; /* this request's own, retries included; 0: the client's */
};

/* err is meaningful where ok is false; it is UNAVAILABLE or DEADLINE_EXCEEDED
 * with status 0 where no answer came: then a request other than GET and HEAD
 * may or may not have been done. */
struct cl_answer {
    bool ok;    /* 2xx */
    int status; /* HTTP's; 0: none came */
    char *body; /* NUL-ended; where len > 0 a callback may take it, by
                  setting NULL */
    size_t len;
    int64_t us; /* from cl_start to the end, retries included */
    struct api_error err;
};

/* May start and cancel requests; must not wait on or close the client. */
typedef void cl_done(void *ctx, struct cl_answer *a);

struct cl_client;

/* Connects to nothing yet. Errors: UT_EINVAL for a URL that is none, UT_EIO
 * without descriptors, UT_ENOMEM. */
UT_MUSTUSE enum ut_err cl_open(const struct cl_options *o,
                               struct cl_client **out, struct ut_error *e);
/* Requests on their way are dropped without their callback. */
void cl_close(struct cl_client *c);

/* done(ctx, answer) is called from a later cl_wait, once. Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err cl_start(struct cl_client *c, const struct cl_request *r,
                                cl_done *done, void *ctx, struct ut_error *e);
/* Requests on their way. */
int cl_busy(const struct cl_client *c);
/* Waits up to timeout_ms (0: not at all) for something to happen; calls back.
 * Also sends what waited for its retry. Errors: UT_EIO. */
UT_MUSTUSE enum ut_err cl_wait(struct cl_client *c, int timeout_ms,
                               struct ut_error *e);
/* For a loop of the caller's: readable, until cl_wait was called, whenever
 * something happened or is due, deadlines and retries included. It stays the
 * same until cl_close, which closes it: take it out of the loop first. */
int cl_fd(const struct cl_client *c);
/* Drops the requests that were started with ctx, without their callback; how
 * many. Then nothing of theirs is borrowed any more. */
int cl_cancel(struct cl_client *c, const void *ctx);

/* Starts r and waits for it; a->body is the caller's to free. Other requests
 * on their way move on meanwhile. */
UT_MUSTUSE enum ut_err cl_call(struct cl_client *c, const struct cl_request *r,
                               struct cl_answer *a, struct ut_error *e);

/* A path under construction: appends "?name=value" or "&name=value",
 * percent-encoded; cl_path_segment appends "/segment". */
UT_MUSTUSE enum ut_err cl_path_query(struct ut_buf *path, const char *name,
                                     const char *value, struct ut_error *e);
UT_MUSTUSE enum ut_err cl_path_segment(struct ut_buf *path, const char *segment,
                                       struct ut_error *e);

#endif
