#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include <stdint.h>

#include "base/buf.h"

/* What the server counts, as Prometheus reads it. Recording is a few relaxed
 * atomic additions: no lock, no memory, any thread. A NULL m is ignored
 * everywhere, so that parts can be tested without. */

#define SRV_METRICS_MAX_ROUTES 96

/* Stages of a call; histograms in seconds. */
enum srv_metric {
    SRV_METRIC_QUEUE,   /* waiting for an executor, per face */
    SRV_METRIC_DECODE,  /* pictures to pixels, per picture   */
    SRV_METRIC_DETECT,  /* finding and aligning, per picture */
    SRV_METRIC_COMPUTE, /* the network, per batch            */
    SRV_METRIC_MATCH,   /* searching the gallery, per batch  */
    SRV_N_METRICS
};

/* Why a request was not served. */
enum srv_reject {
    SRV_REJECT_QUEUE_FULL,  /* --max-queue, or a pool's queue     */
    SRV_REJECT_BYTES,       /* --max-queue-bytes                  */
    SRV_REJECT_EXPIRED,     /* past its deadline before compute   */
    SRV_REJECT_CANCELLED,   /* its client left before compute     */
    SRV_REJECT_CONNECTIONS, /* --max-connections                  */
    SRV_REJECT_BODY,        /* --max-body-bytes                   */
    SRV_REJECT_HEADERS,     /* header limits and malformed frames */
    SRV_REJECT_SLOW,        /* a request that came too slowly     */
    SRV_REJECT_AUTH,        /* no key, a wrong one, a small role  */
    SRV_REJECT_TLS,         /* a handshake that failed            */
    SRV_REJECT_STARTING,    /* not ready yet, or a stream's end   */
    SRV_N_REJECTS
};

enum srv_gauge {
    SRV_GAUGE_QUEUE,       /* faces waiting                 */
    SRV_GAUGE_DECODE,      /* decode jobs waiting           */
    SRV_GAUGE_GALLERY,     /* faces enrolled                */
    SRV_GAUGE_CONNECTIONS, /* open                          */
    SRV_GAUGE_CALLS,       /* being worked on               */
    SRV_GAUGE_BODY_BYTES,  /* request bodies held in memory */
    SRV_GAUGE_READY,       /* 1 or 0                        */
    SRV_N_GAUGES
};

struct srv_metrics;

/* routes [n_routes] are label values; they outlive m. At most
 * SRV_METRICS_MAX_ROUTES. Errors: UT_EINVAL, UT_ENOMEM. */
UT_MUSTUSE enum ut_err srv_metrics_new(const char *const *routes, int n_routes,
                                       struct srv_metrics **out,
                                       struct ut_error *e);
void srv_metrics_free(struct srv_metrics *m); /* accepts NULL */

void srv_metrics_observe(struct srv_metrics *m, enum srv_metric what,
                         double seconds);
/* One batch of n faces was run. */
void srv_metrics_batch(struct srv_metrics *m, int n);
void srv_metrics_count(struct srv_metrics *m, enum srv_reject why);
void srv_metrics_set(struct srv_metrics *m, enum srv_gauge what, int64_t value);
/* Of what more than one part counts. */
void srv_metrics_add(struct srv_metrics *m, enum srv_gauge what, int64_t n);
/* A request was answered. route: index into routes; others are counted under
 * "other". */
void srv_metrics_request(struct srv_metrics *m, int route, int status,
                         double seconds);

/* Appends all of it in Prometheus's text format 0.0.4. Errors: those of
 * ut_buf_addf. */
UT_MUSTUSE enum ut_err srv_metrics_write(struct srv_metrics *m,
                                         struct ut_buf *out,
                                         struct ut_error *e);

#endif
