#ifndef SERVER_OPS_H
#define SERVER_OPS_H

#include "server/app.h"
#include "server/http/http.h"

/* What orchestrators and Prometheus ask. Thread: the loop. */

/* 200 as long as the loop turns. */
void srv_ops_health(struct srv_app *app, struct srv_http_exchange *x);
/* The same as the Open Inference Protocol says it. */
void srv_ops_live(struct srv_app *app, struct srv_http_exchange *x);
/* 200, or 503 while starting or draining. */
void srv_ops_ready(struct srv_app *app, struct srv_http_exchange *x);
void srv_ops_metrics(struct srv_app *app, struct srv_http_exchange *x);

#endif
