#include "server/devices.h"

#include <inttypes.h>

static double value(const struct mdl_device_stats *s, int series)
{
    switch (series) {
    case 0:
        return (double)s->batches;
    case 1:
        return (double)s->run_us / 1e6;
    case 2:
        return (double)s->busy_us / 1e6;
    case 3:
        return (double)s->memory_used;
    case 4:
        return (double)s->memory_total;
    default:
        return (double)s->contexts_lost;
    }
}

enum ut_err srv_devices_metrics(const struct srv_engine *en, struct ut_buf *out,
                                struct ut_error *e)
{
    static const char *const series[][3] = {
        {"batches_total", "counter", "Batches that a device ran."},
        {"run_seconds_total", "counter",
         "Times of a device's batches, copies included."},
        {"busy_seconds_total", "counter",
         "Time with a batch on a device: its rate is the utilisation."},
        {"memory_used_bytes", "gauge", "A device's memory in use, by anyone."},
        {"memory_bytes", "gauge", "A device's memory."},
        {"contexts_lost_total", "counter",
         "Errors of a device that stayed until all on it was made anew."},
    };
    struct mdl_device_stats stats[SRV_MAX_DEVICES];
    int n = srv_engine_devices(en);
    enum ut_err rc = UT_OK;

    for (int i = 0; i < n; i++)
        if (!mdl_backend_stats(srv_engine_device_at(en, i), &stats[i]))
            return UT_OK;
    for (int k = 0; k < 6 && !rc; k++) {
        rc =
            ut_buf_addf(out, e,
                        "# HELP tscaf_device_%s %s\n"
                        "# TYPE tscaf_device_%s %s\n",
                        series[k][0], series[k][2], series[k][0], series[k][1]);
        for (int i = 0; i < n && !rc; i++)
            rc = ut_buf_addf(out, e, "tscaf_device_%s{device=\"%d\"} %.9g\n",
                             series[k][0], i, value(&stats[i], k));
    }
    return rc;
}

enum ut_err srv_devices_json(const struct srv_engine *en, struct ut_buf *out,
                             struct ut_error *e)
{
    struct mdl_device_stats s;
    enum ut_err rc = UT_OK;

    for (int i = 0; i < srv_engine_devices(en) && !rc; i++)
        if (mdl_backend_stats(srv_engine_device_at(en, i), &s))
            rc = ut_buf_addf(out, e,
                             "%s{\"device\":%d,\"batches\":%" PRIu64
                             ",\"contexts_lost\":%" PRIu64 "}",
                             i ? "," : ",\"devices\":[", i, s.batches,
                             s.contexts_lost);
        else
            return UT_OK;
    return rc ? rc : ut_buf_addf(out, e, "]");
}
