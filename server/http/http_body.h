#ifndef SERVER_HTTP_BODY_H
#define SERVER_HTTP_BODY_H

#include "server/http/http.h"

/* The bodies of requests that a listener holds: each grows as it comes, and
 * all of them stay within a limit. Thread: the loop. */

struct srv_http_bodies {
    struct srv_metrics *metrics; /* SRV_GAUGE_BODY_BYTES */
    int64_t bytes, limit;
};

/* One exchange's; zeroed: none. The exchange sees it as body, body_len. */
struct srv_http_body {
    char *data; /* owned; [cap] */
    size_t cap;
};

/* Room for need bytes, what it held before them. False if there is none. */
UT_MUSTUSE bool srv_http_body_room(struct srv_http_bodies *all,
                                   struct srv_http_body *b, size_t need);
void srv_http_body_free(struct srv_http_bodies *all, struct srv_http_body *b);
/* Keeps n bytes more of x's body. False if there is no room. */
UT_MUSTUSE bool srv_http_body_keep(struct srv_http_bodies *all,
                                   struct srv_http_body *b,
                                   struct srv_http_exchange *x,
                                   const void *data, size_t n);
void srv_http_body_drop(struct srv_http_bodies *all, struct srv_http_body *b,
                        struct srv_http_exchange *x);
/* Another body [len] in its place, which is taken over, or freed if there is
 * no room (UT_EBUSY, err says it). */
UT_MUSTUSE enum ut_err srv_http_body_replace(struct srv_http_bodies *all,
                                             struct srv_http_body *b,
                                             struct srv_http_exchange *x,
                                             char *data, size_t len,
                                             struct api_error *err);

#endif
