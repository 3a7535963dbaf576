/* gRPC's health checking protocol, on what /readyz says. Every service is as
 * well as the server is. */
#include <string.h>

#include "api/health/health.pb-c.h"
#include "server/app.h"
#include "server/calls/dispatch.h"
#include "server/inference/devices.h"
#include "server/methods/handlers.h"

#define BEAT_MS 5000

typedef Grpc__Health__V1__HealthCheckResponse response;
#define STATUS(s) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##s

static response serving(struct srv_app *app)
{
    response r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    struct ut_error why;

    r.status =
        srv_health_ready(app, &why) ? STATUS(SERVING) : STATUS(NOT_SERVING);
    return r;
}

/* Whether a service is one of ours; "" is all of them. */
static bool is_known(const char *service)
{
    size_t len = strlen(service);

    if (!len)
        return true;
    for (int i = 0; i < srv_n_routes; i++) {
        const char *rpc = srv_routes[i].rpc;

        if (rpc && strncmp(rpc, service, len) == 0 && rpc[len] == '/')
            return true;
    }
    return false;
}

static const char *service_of(const struct srv_call *c)
{
    const Grpc__Health__V1__HealthCheckRequest *q = (const void *)c->request;

    return q->service;
}

void srv_handle_health_check(struct srv_call *c)
{
    response r = serving(c->app);
    struct api_error err;

    if (is_known(service_of(c))) {
        c->reply(c, &r.base);
        return;
    }
    api_fail(&err, API_NOT_FOUND, "there is no service \"%.100s\"",
             service_of(c));
    c->fail(c, &err);
}

/* A server that drains waits for nobody who only watches. */
static void let_go(struct srv_app *app)
{
    if (!app->draining)
        return;
    srv_streams_end(&app->health.known);
    srv_streams_end(&app->health.unknown);
}

void srv_handle_health_watch(struct srv_call *c)
{
    struct srv_health *h = &c->app->health;
    bool known = is_known(service_of(c));
    response r = serving(c->app);

    if (!known)
        r.status = STATUS(SERVICE_UNKNOWN);
    srv_streams_add(known ? &h->known : &h->unknown, c, SRV_HEALTH_MAX_WATCHERS,
                    &r.base);
    let_go(c->app);
}

/* ---- Those who watch ---- */

bool srv_health_ready(struct srv_app *app, struct ut_error *why)
{
    struct srv_generation *g = NULL;
    bool well;

    if (!app->ready || app->draining)
        return !ut_fail(why, UT_ESTATE, "the server is %s",
                        app->draining ? "draining" : "starting");
    if (!srv_follow_well(app->follow, why))
        return false;
    if (app->generations.current) /* always, but where tests have no model */
        g = srv_generation_take(app);
    well = !g || srv_devices_well(g->engine, why);
    srv_generation_drop(g);
    return well;
}

static void on_beat(uv_timer_t *t)
{
    struct srv_app *app = t->data;
    response now = serving(app), unknown = now;

    unknown.status = STATUS(SERVICE_UNKNOWN);
    srv_streams_beat(&app->health.known, &now.base);
    srv_streams_beat(&app->health.unknown, &unknown.base);
}

void srv_health_start(struct srv_app *app)
{
    uv_timer_init(&app->loop, &app->health.beat);
    app->health.beat.data = app;
    uv_timer_start(&app->health.beat, on_beat, BEAT_MS, BEAT_MS);
}

void srv_health_changed(struct srv_app *app)
{
    response now = serving(app);

    srv_streams_send(&app->health.known, &now.base);
    let_go(app);
}

void srv_health_stop(struct srv_app *app)
{
    uv_close((uv_handle_t *)&app->health.beat, NULL);
}
