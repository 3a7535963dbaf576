/* Devices' figures, for /metrics and /readyz. */
#include "server/inference/devices.h"

#include <inttypes.h>

#define N_SERIES 7

static const char *const series[N_SERIES][3] = {
    {"batches_total", "counter", "Batches that a device ran."},
    {"run_seconds_total", "counter",
     "Times of a device's batches, copies included."},
    {"kernel_seconds_total", "counter",
     "Times of a device's batches without copies."},
    {"busy_seconds_total", "counter",
     "Time with a batch or a search on a device: its rate is the "
     "utilisation."},
    {"memory_used_bytes", "gauge", "A device's memory in use, by anyone."},
    {"memory_bytes", "gauge", "A device's memory."},
    {"contexts_lost_total", "counter",
     "Errors of a device that stayed until all on it was made anew."},
};

static void values(const struct mdl_device_stats *s, double v[N_SERIES])
{
    v[0] = (double)s->batches;
    v[1] = (double)s->run_us / 1e6;
    v[2] = (double)s->kernel_us / 1e6;
    v[3] = (double)s->busy_us / 1e6;
    v[4] = (double)s->memory_used;
    v[5] = (double)s->memory_total;
    v[6] = (double)s->contexts_lost;
}

/* Of how many devices; 0 where the model runs on the processor. */
static int read_all(const struct srv_engine *en,
                    struct mdl_device_stats stats[SRV_MAX_DEVICES])
{
    int n = srv_engine_devices(en);

    for (int i = 0; i < n; i++)
        if (!mdl_backend_stats(srv_engine_device_at(en, i), &stats[i]))
            return 0;
    return n;
}

bool srv_devices_well(const struct srv_engine *en, struct ut_error *why)
{
    struct mdl_device_stats stats[SRV_MAX_DEVICES];
    int n = read_all(en, stats);

    for (int i = 0; i < n; i++)
        if (stats[i].failed >= SRV_DEVICE_FAILURES)
            return !ut_fail(why, UT_EDEVICE,
                            "on device %d the last %" PRIu64
                            " batches failed: %s",
                            i, stats[i].failed, stats[i].why);
    return true;
}

enum ut_err srv_devices_metrics(const struct srv_engine *en, struct ut_buf *out,
                                struct ut_error *e)
{
    struct mdl_device_stats stats[SRV_MAX_DEVICES];
    double v[SRV_MAX_DEVICES][N_SERIES];
    int n = read_all(en, stats);
    enum ut_err rc = UT_OK;

    for (int i = 0; i < n; i++)
        values(&stats[i], v[i]);
    for (int k = 0; k < N_SERIES && n && !rc; k++) {
        rc =
            ut_buf_addf(out, e,
                        "# HELP tscaf_device_%s %s\n"
                        "# TYPE tscaf_device_%s %s\n",
                        series[k][0], series[k][2], series[k][0], series[k][1]);
        for (int i = 0; i < n && !rc; i++)
            rc = ut_buf_addf(out, e, "tscaf_device_%s{device=\"%d\"} %.9g\n",
                             series[k][0], i, v[i][k]);
    }
    return rc;
}

enum ut_err srv_devices_json(const struct srv_engine *en, struct ut_buf *out,
                             struct ut_error *e)
{
    struct mdl_device_stats stats[SRV_MAX_DEVICES];
    int n = read_all(en, stats);
    enum ut_err rc = UT_OK;

    for (int i = 0; i < n && !rc; i++)
        rc = ut_buf_addf(out, e,
                         "%s{\"device\":%d,\"batches\":%" PRIu64
                         ",\"contexts_lost\":%" PRIu64 "}",
                         i ? "," : ",\"devices\":[", i, stats[i].batches,
                         stats[i].contexts_lost);
    return rc || !n ? rc : ut_buf_addf(out, e, "]");
}

enum ut_err srv_devices_gallery(struct srv_gallery *g, struct ut_buf *out,
                                struct ut_error *e)
{
    struct mdl_search_stats s;

    srv_gallery_stats(g, &s);
    return ut_buf_addf(
        out, e,
        "# HELP tscaf_gallery_queries_total Faces sought in the gallery; "
        "again: by the processor, after a device had not proved its answer.\n"
        "# TYPE tscaf_gallery_queries_total counter\n"
        "tscaf_gallery_queries_total{by=\"device\"} %" PRIu64 "\n"
        "tscaf_gallery_queries_total{by=\"processor\"} %" PRIu64 "\n"
        "tscaf_gallery_queries_total{by=\"again\"} %" PRIu64 "\n"
        "# HELP tscaf_gallery_device_bytes Memory of devices that the gallery "
        "has.\n"
        "# TYPE tscaf_gallery_device_bytes gauge\n"
        "tscaf_gallery_device_bytes %" PRIu64 "\n",
        s.by_device, s.by_processor, s.again, s.device_bytes);
}
