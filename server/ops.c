/* Health, readiness and metrics: answered at once, from memory. */
#include "server/ops.h"

#include <stdlib.h>
#include <string.h>

#include "server/inference/devices.h"

#define MAX_METRICS_BYTES (1024 * 1024)
#define MAX_READY_BYTES 4096

static void say(struct srv_http_exchange *x, const char *json)
{
    struct srv_http_answer a = {.status = 200, .type = "application/json"};
    struct api_error err;

    a.body = strdup(json);
    if (!a.body) {
        api_fail(&err, API_INTERNAL, "no memory");
        srv_http_fail(x, &err);
        return;
    }
    a.len = strlen(json);
    srv_http_answer(x, &a);
}

static void say_ready(struct srv_app *app, struct srv_http_exchange *x)
{
    struct srv_generation *g =
        app->generations.current ? srv_generation_take(app) : NULL;
    struct ut_error e;
    struct ut_buf b;

    ut_buf_init(&b, MAX_READY_BYTES);
    if (!ut_buf_addf(&b, &e, "{\"status\":\"ready\"") &&
        !(g && srv_devices_json(g->engine, &b, &e)) &&
        !ut_buf_addf(&b, &e, "}")) {
        say(x, (const char *)b.data);
    } else {
        struct api_error err;

        api_fail_from(&err, &e);
        srv_http_fail(x, &err);
    }
    ut_buf_fini(&b);
    if (g)
        srv_generation_drop(g);
}

void srv_ops_health(struct srv_app *app, struct srv_http_exchange *x)
{
    (void)app;
    say(x, "{\"status\":\"ok\"}");
}

void srv_ops_live(struct srv_app *app, struct srv_http_exchange *x)
{
    (void)app;
    say(x, "{\"live\":true}");
}

void srv_ops_ready(struct srv_app *app, struct srv_http_exchange *x)
{
    struct api_error err;
    struct ut_error why;

    if (srv_health_ready(app, &why)) {
        say_ready(app, x);
        return;
    }
    api_fail(&err, API_UNAVAILABLE, "%s", why.msg);
    err.retry_after_s = 1;
    srv_http_fail(x, &err);
}

void srv_ops_metrics(struct srv_app *app, struct srv_http_exchange *x)
{
    struct srv_metrics *m = app->metrics;
    struct srv_http_answer a = {.status = 200,
                                .type = "text/plain; version=0.0.4"};
    struct srv_generation *g = NULL;
    struct ut_error e;
    struct ut_buf b;
    enum ut_err rc;

    srv_metrics_set(m, SRV_GAUGE_READY, srv_health_ready(app, &e));
    if (app->ready) {
        g = srv_generation_take(app);
        srv_metrics_set(m, SRV_GAUGE_QUEUE,
                        (int64_t)srv_batcher_queued(g->batcher));
        srv_metrics_set(m, SRV_GAUGE_DECODE,
                        (int64_t)srv_pool_queued(app->decode_pool));
        srv_metrics_set(m, SRV_GAUGE_GALLERY,
                        (int64_t)srv_gallery_faces(g->gallery));
    }
    ut_buf_init(&b, MAX_METRICS_BYTES);
    rc = srv_metrics_write(m, &b, &e);
    if (!rc && app->jobs)
        rc = srv_jobs_metrics(app->jobs, &b, &e);
    if (!rc && g)
        rc = srv_devices_metrics(g->engine, &b, &e);
    if (!rc && g)
        rc = srv_devices_gallery(g->gallery, &b, &e);
    if (g)
        srv_generation_drop(g);
    if (rc) {
        struct api_error err;

        api_fail_from(&err, &e);
        ut_buf_fini(&b);
        srv_http_fail(x, &err);
        return;
    }
    a.body = ut_buf_take(&b, &a.len);
    srv_http_answer(x, &a);
}
