#ifndef SERVER_HEALTH_H
#define SERVER_HEALTH_H

#include <uv.h>

#include "base/error.h"
#include "server/calls/streams.h"

/* Who watches the server's health (grpc.health.v1.Health/Watch), and what it
 * is, for /readyz and for them. Thread: the loop.
 * Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md */

#define SRV_HEALTH_MAX_WATCHERS 256 /* of known services, of unknown ones */

struct srv_app;

struct srv_health {
    struct srv_streams known;   /* watch one of our services, or all of it */
    struct srv_streams unknown; /* watch what is not here */
    uv_timer_t beat;
};

/* Whether app answers calls: it is neither starting nor draining, knows what
 * other servers wrote (follow.h), and batches run on all its devices
 * (inference/devices.h). Else why. */
bool srv_health_ready(struct srv_app *app, struct ut_error *why);

void srv_health_start(struct srv_app *app);
/* ready or draining has changed. One that drains hears it and is let go. */
void srv_health_changed(struct srv_app *app);
/* The loop must run on until its handle has closed. */
void srv_health_stop(struct srv_app *app);

#endif
