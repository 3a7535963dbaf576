/* Counters in fixed tables of atomics. Histograms keep one count per bucket
 * (not cumulative: one addition an observation) and sum up when read. Sums
 * are whole microseconds, so that they too are one atomic addition. */
#include "server/metrics.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define N_BOUNDS 15
#define N_BATCH_BOUNDS 6

/* Seconds. A face takes from 0.3 ms to 100 ms, a request up to a minute. */
static const double bounds[N_BOUNDS] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025,
                                        0.005,  0.01,    0.025,  0.05,  0.1,
                                        0.25,   0.5,     1,      2.5,   10};
static const int batch_bounds[N_BATCH_BOUNDS] = {1, 2, 4, 8, 16, 32};

/* Every status that we send; the last stands for all others. */
static const int statuses[] = {200, 201, 202, 204, 304, 400, 401, 403,
                               404, 405, 408, 409, 411, 413, 415, 422,
                               429, 431, 499, 500, 501, 503, 504, 0};
#define N_STATUSES (sizeof(statuses) / sizeof(statuses[0]))

static const char *const metric_names[SRV_N_METRICS] = {
    [SRV_METRIC_QUEUE] = "queue",   [SRV_METRIC_DECODE] = "decode",
    [SRV_METRIC_DETECT] = "detect", [SRV_METRIC_COMPUTE] = "compute",
    [SRV_METRIC_MATCH] = "match",
};
static const char *const metric_help[SRV_N_METRICS] = {
    [SRV_METRIC_QUEUE] = "Time a face waited for an executor.",
    [SRV_METRIC_DECODE] = "Time to decode a picture.",
    [SRV_METRIC_DETECT] = "Time to find and align the faces of a picture.",
    [SRV_METRIC_COMPUTE] = "Time of a batch in the network.",
    [SRV_METRIC_MATCH] = "Time to search the gallery for a batch.",
};
static const char *const reject_names[SRV_N_REJECTS] = {
    [SRV_REJECT_QUEUE_FULL] = "queue_full",
    [SRV_REJECT_BYTES] = "bytes",
    [SRV_REJECT_EXPIRED] = "expired",
    [SRV_REJECT_CANCELLED] = "cancelled",
    [SRV_REJECT_CONNECTIONS] = "connections",
    [SRV_REJECT_BODY] = "body_too_large",
    [SRV_REJECT_HEADERS] = "headers",
    [SRV_REJECT_SLOW] = "slow",
    [SRV_REJECT_AUTH] = "auth",
    [SRV_REJECT_TLS] = "tls",
    [SRV_REJECT_STARTING] = "starting",
};
static const struct {
    const char *name, *help;
} gauges[SRV_N_GAUGES] = {
    [SRV_GAUGE_QUEUE] = {"queue_faces", "Faces waiting for an executor."},
    [SRV_GAUGE_DECODE] = {"decode_queue_jobs",
                          "Pictures waiting for a decoder."},
    [SRV_GAUGE_GALLERY] = {"gallery_faces", "Faces enrolled and searchable."},
    [SRV_GAUGE_CONNECTIONS] = {"connections", "Open connections."},
    [SRV_GAUGE_CALLS] = {"calls_in_flight", "Calls being worked on."},
    [SRV_GAUGE_BODY_BYTES] = {"body_bytes",
                              "Bytes of request bodies in memory."},
    [SRV_GAUGE_READY] = {"ready", "1 when the server answers calls."},
};

struct histogram {
    atomic_uint_fast64_t count[N_BOUNDS + 1];
    atomic_uint_fast64_t sum_us;
};

struct route {
    const char *name;
    atomic_uint_fast64_t status[N_STATUSES];
    struct histogram seconds;
};

struct srv_metrics {
    struct histogram stages[SRV_N_METRICS];
    atomic_uint_fast64_t batch_count[N_BATCH_BOUNDS + 1];
    atomic_uint_fast64_t batch_faces;
    atomic_uint_fast64_t rejects[SRV_N_REJECTS];
    atomic_int_fast64_t gauges[SRV_N_GAUGES];
    int n_routes; /* without "other", which is routes[n_routes] */
    struct route routes[SRV_METRICS_MAX_ROUTES + 1];
};

static void add(atomic_uint_fast64_t *n, uint64_t by)
{
    atomic_fetch_add_explicit(n, by, memory_order_relaxed);
}

static uint64_t get(atomic_uint_fast64_t *n)
{
    return atomic_load_explicit(n, memory_order_relaxed);
}

static void observe(struct histogram *h, double seconds)
{
    int i = 0;

    if (!(seconds > 0))
        seconds = 0;
    while (i < N_BOUNDS && seconds > bounds[i])
        i++;
    add(&h->count[i], 1);
    add(&h->sum_us, (uint64_t)(seconds * 1e6 + 0.5));
}

enum ut_err srv_metrics_new(const char *const *routes, int n_routes,
                            struct srv_metrics **out, struct ut_error *e)
{
    struct srv_metrics *m;

    *out = NULL;
    if (n_routes < 0 || n_routes > SRV_METRICS_MAX_ROUTES)
        return ut_fail(e, UT_EINVAL, "%d routes, the limit is %d", n_routes,
                       SRV_METRICS_MAX_ROUTES);
    m = calloc(1, sizeof(*m));
    if (!m)
        return ut_fail(e, UT_ENOMEM, "no memory for metrics");
    m->n_routes = n_routes;
    for (int i = 0; i < n_routes; i++)
        m->routes[i].name = routes[i];
    m->routes[n_routes].name = "other";
    *out = m;
    return UT_OK;
}

void srv_metrics_free(struct srv_metrics *m)
{
    free(m);
}

void srv_metrics_observe(struct srv_metrics *m, enum srv_metric what,
                         double seconds)
{
    if (m)
        observe(&m->stages[what], seconds);
}

void srv_metrics_batch(struct srv_metrics *m, int n)
{
    int i = 0;

    if (!m || n < 1)
        return;
    while (i < N_BATCH_BOUNDS && n > batch_bounds[i])
        i++;
    add(&m->batch_count[i], 1);
    add(&m->batch_faces, (uint64_t)n);
}

void srv_metrics_count(struct srv_metrics *m, enum srv_reject why)
{
    if (m)
        add(&m->rejects[why], 1);
}

void srv_metrics_set(struct srv_metrics *m, enum srv_gauge what, int64_t value)
{
    if (m)
        atomic_store_explicit(&m->gauges[what], value, memory_order_relaxed);
}

void srv_metrics_add(struct srv_metrics *m, enum srv_gauge what, int64_t n)
{
    if (m)
        atomic_fetch_add_explicit(&m->gauges[what], n, memory_order_relaxed);
}

void srv_metrics_request(struct srv_metrics *m, int route, int status,
                         double seconds)
{
    struct route *r;
    size_t i = 0;

    if (!m)
        return;
    if (route < 0 || route > m->n_routes)
        route = m->n_routes;
    r = &m->routes[route];
    while (i < N_STATUSES - 1 && statuses[i] != status)
        i++;
    add(&r->status[i], 1);
    observe(&r->seconds, seconds);
}

/* ---- Prometheus's text ---- */

static enum ut_err head(struct ut_buf *out, const char *name, const char *type,
                        const char *help, struct ut_error *e)
{
    return ut_buf_addf(out, e, "# HELP tscaf_%s %s\n# TYPE tscaf_%s %s\n", name,
                       help, name, type);
}

/* label is "" or "route=\"...\",". */
static enum ut_err write_histogram(struct histogram *h, const char *name,
                                   const char *label, struct ut_buf *out,
                                   struct ut_error *e)
{
    uint64_t total = 0;
    size_t bare = 0;
    enum ut_err rc;

    while (label[bare] && label[bare] != ',')
        bare++;
    for (int i = 0; i <= N_BOUNDS; i++) {
        total += get(&h->count[i]);
        rc =
            i < N_BOUNDS
                ? ut_buf_addf(out, e, "tscaf_%s_bucket{%sle=\"%g\"} %llu\n",
                              name, label, bounds[i], (unsigned long long)total)
                : ut_buf_addf(out, e, "tscaf_%s_bucket{%sle=\"+Inf\"} %llu\n",
                              name, label, (unsigned long long)total);
        if (rc)
            return rc;
    }
    return ut_buf_addf(out, e,
                       "tscaf_%s_sum{%.*s} %.6f\ntscaf_%s_count{%.*s} %llu\n",
                       name, (int)bare, label, (double)get(&h->sum_us) / 1e6,
                       name, (int)bare, label, (unsigned long long)total);
}

static enum ut_err write_batches(struct srv_metrics *m, struct ut_buf *out,
                                 struct ut_error *e)
{
    uint64_t total = 0;
    enum ut_err rc =
        head(out, "batch_faces", "histogram", "Faces per batch.", e);

    for (int i = 0; !rc && i <= N_BATCH_BOUNDS; i++) {
        total += get(&m->batch_count[i]);
        rc = i < N_BATCH_BOUNDS
                 ? ut_buf_addf(out, e,
                               "tscaf_batch_faces_bucket{le=\"%d\"} %llu\n",
                               batch_bounds[i], (unsigned long long)total)
                 : ut_buf_addf(out, e,
                               "tscaf_batch_faces_bucket{le=\"+Inf\"} %llu\n",
                               (unsigned long long)total);
    }
    if (rc)
        return rc;
    return ut_buf_addf(
        out, e, "tscaf_batch_faces_sum %llu\ntscaf_batch_faces_count %llu\n",
        (unsigned long long)get(&m->batch_faces), (unsigned long long)total);
}

static enum ut_err write_requests(struct srv_metrics *m, struct ut_buf *out,
                                  struct ut_error *e)
{
    enum ut_err rc = head(out, "requests_total", "counter",
                          "Requests answered, by route and status.", e);

    for (int r = 0; !rc && r <= m->n_routes; r++)
        for (size_t i = 0; !rc && i < N_STATUSES; i++) {
            uint64_t n = get(&m->routes[r].status[i]);

            if (n) /* the full product would be a thousand zeros */
                rc = ut_buf_addf(
                    out, e,
                    "tscaf_requests_total{route=\"%s\",status=\"%d\"} %llu\n",
                    m->routes[r].name, statuses[i], (unsigned long long)n);
        }
    if (!rc)
        rc = head(out, "request_seconds", "histogram",
                  "From a request's first byte to its answer.", e);
    for (int r = 0; !rc && r <= m->n_routes; r++) {
        char label[128];

        snprintf(label, sizeof(label), "route=\"%s\",", m->routes[r].name);
        rc = write_histogram(&m->routes[r].seconds, "request_seconds", label,
                             out, e);
    }
    return rc;
}

enum ut_err srv_metrics_write(struct srv_metrics *m, struct ut_buf *out,
                              struct ut_error *e)
{
    enum ut_err rc = write_requests(m, out, e);

    for (int i = 0; !rc && i < SRV_N_METRICS; i++) {
        char name[32];

        snprintf(name, sizeof(name), "%s_seconds", metric_names[i]);
        rc = head(out, name, "histogram", metric_help[i], e);
        if (!rc)
            rc = write_histogram(&m->stages[i], name, "", out, e);
    }
    if (!rc)
        rc = write_batches(m, out, e);
    if (!rc)
        rc = head(out, "rejections_total", "counter",
                  "Requests or faces that were not served, by reason.", e);
    for (int i = 0; !rc && i < SRV_N_REJECTS; i++)
        rc = ut_buf_addf(out, e, "tscaf_rejections_total{reason=\"%s\"} %llu\n",
                         reject_names[i],
                         (unsigned long long)get(&m->rejects[i]));
    for (int i = 0; !rc && i < SRV_N_GAUGES; i++) {
        rc = head(out, gauges[i].name, "gauge", gauges[i].help, e);
        if (!rc)
            rc = ut_buf_addf(out, e, "tscaf_%s %lld\n", gauges[i].name,
                             (long long)atomic_load_explicit(
                                 &m->gauges[i], memory_order_relaxed));
    }
    return rc;
}
