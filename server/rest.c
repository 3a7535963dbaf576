/* From an exchange to a call and back. */
#include "server/rest.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/json.h"
#include "api/tscaf.pb-c.h"
#include "base/buf.h"
#include "base/clock.h"
#include "server/app.h"

struct srv_rest {
    struct srv_app *app;
    const struct srv_route *routes;
    int n_routes;
    char (*text)[80];   /* owned; [n_routes]         */
    const char **names; /* owned; [n_routes] of text */
};

/* One exchange, whether it becomes a call or not. */
struct rest_call {
    struct srv_call call;
    struct srv_rest *rest;
    struct srv_http_exchange *x;
    const struct srv_route *route; /* NULL: none fits */
    struct srv_rest_params params;
    ProtobufCMessage *request; /* owned */
};

static void fail(struct rest_call *rc, enum srv_reject why, enum api_code code,
                 const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static void fail(struct rest_call *rc, enum srv_reject why, enum api_code code,
                 const char *fmt, ...)
{
    struct api_error err;
    char text[200];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    api_fail(&err, code, "%s", text);
    if (code == API_UNAVAILABLE)
        err.retry_after_s = 1;
    srv_metrics_count(rc->rest->app->metrics, why);
    srv_http_fail(rc->x, &err);
}

/* ---- The end of a call ---- */

static void on_reply(struct srv_call *c, const ProtobufCMessage *response)
{
    struct rest_call *rc = (struct rest_call *)c;
    struct srv_http_answer a = {.status = rc->route->status};
    enum ut_err err = UT_OK;
    struct ut_error e;

    if (response->descriptor == &tscaf__v1__face_crop__descriptor) {
        const Tscaf__V1__FaceCrop *crop = (const void *)response;

        a.type = "image/png";
        a.len = crop->png.len;
        a.body = malloc(a.len + 1);
        if (!a.body)
            err = ut_fail(&e, UT_ENOMEM, "no memory for a crop");
        else if (a.len)
            memcpy(a.body, crop->png.data, a.len);
    } else if (response->descriptor->n_fields) {
        a.type = "application/json";
        err = api_json_write(response, API_JSON_REST, &a.body, &a.len, &e);
    }
    if (err) {
        struct api_error ae;

        api_fail(&ae, API_INTERNAL, "the answer: %s", e.msg);
        c->fail(c, &ae);
        return;
    }
    srv_http_answer(rc->x, &a);
}

static void end_by_error(struct rest_call *rc, const struct api_error *err);

static void on_fail(struct srv_call *c, const struct api_error *err)
{
    struct rest_call *rc = (struct rest_call *)c;
    struct api_error shown = *err;

    if (err->code == API_INTERNAL || err->code == API_UNKNOWN ||
        err->code == API_DATA_LOSS) {
        /* What went wrong inside is the operator's to read. */
        srv_log_line(rc->rest->app->log, SRV_LOG_ERROR, c->request_id, "%s",
                     err->message);
        api_fail(&shown, err->code,
                 "internal error; the server's log says more under request "
                 "id %s",
                 c->request_id);
    }
    if (rc->x->status)
        end_by_error(rc, &shown);
    else
        srv_http_fail(rc->x, &shown);
}

/* ---- A stream, as Server-Sent Events ---- */
/* Source: https://html.spec.whatwg.org/multipage/server-sent-events.html */

static bool write_event(struct rest_call *rc, const char *name,
                        const char *json)
{
    struct ut_buf b;
    struct ut_error e;
    bool sent;

    ut_buf_init(&b, SRV_CALL_MAX_UNSENT);
    sent = !ut_buf_addf(&b, &e, "%s%s%sdata: %s\n\n", name ? "event: " : "",
                        name ? name : "", name ? "\n" : "", json) &&
           srv_http_write(rc->x, b.data, b.len);
    ut_buf_fini(&b);
    return sent;
}

static bool on_send(struct srv_call *c, const ProtobufCMessage *message)
{
    struct rest_call *rc = (struct rest_call *)c;
    struct srv_http_answer a = {.status = rc->route->status,
                                .type = "text/event-stream"};
    struct ut_error e;
    size_t len;
    char *json;
    bool sent;

    if (rc->x->cancelled ||
        api_json_write(message, API_JSON_REST, &json, &len, &e))
        return false;
    if (!rc->x->status)
        srv_http_stream(rc->x, &a);
    sent = write_event(rc, NULL, json);
    free(json);
    return sent;
}

/* A browser's EventSource would connect again after a bare end. */
static void on_end(struct srv_call *c)
{
    struct rest_call *rc = (struct rest_call *)c;
    struct srv_http_answer a = {.status = rc->route->status,
                                .type = "text/event-stream"};

    if (!rc->x->status)
        srv_http_stream(rc->x, &a);
    write_event(rc, "end", "{}");
    srv_http_end(rc->x);
}

static void end_by_error(struct rest_call *rc, const struct api_error *err)
{
    struct ut_error e;
    char *json;

    if (!api_error_json(err, &json, &e)) {
        write_event(rc, "error", json);
        free(json);
    }
    srv_http_end(rc->x);
}

/* ---- The header ---- */

static bool method_fits(const struct srv_route *r, const char *method)
{
    return strcmp(r->method, method) == 0 ||
           (strcmp(r->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

/* Finds the route, or says 404, or 405 with what would be allowed. */
static bool find_route(struct rest_call *rc)
{
    struct srv_rest *r = rc->rest;
    struct api_error err;
    struct srv_rest_params p;
    size_t len = 0;

    api_fail(&err, API_UNIMPLEMENTED, "%.20s is not a method of %.100s",
             rc->x->method, rc->x->path);
    for (int i = 0; i < r->n_routes; i++) {
        const struct srv_route *route = &r->routes[i];

        if (!srv_rest_match(route->path, rc->x->path, &p))
            continue;
        if (method_fits(route, rc->x->method)) {
            rc->route = route;
            rc->params = p;
            return true;
        }
        if (len < sizeof(err.allow) - 16)
            len += (size_t)snprintf(err.allow + len, sizeof(err.allow) - len,
                                    "%s%s%s", len ? ", " : "", route->method,
                                    strcmp(route->method, "GET") == 0 ? ", HEAD"
                                                                      : "");
    }
    if (len) {
        err.http_status = 405;
        snprintf(err.reason, sizeof(err.reason), "EXPECTED");
        snprintf(err.value, sizeof(err.value), "%s", err.allow);
    } else {
        api_fail(&err, API_NOT_FOUND, "there is nothing at %.150s",
                 rc->x->path);
    }
    srv_http_fail(rc->x, &err);
    return false;
}

static bool check_key(struct rest_call *rc)
{
    const char *bearer = srv_http_field(rc->x, "Authorization");
    const char *secret = srv_http_field(rc->x, "X-API-Key");
    enum srv_role role = SRV_ROLE_NONE;
    struct ut_error e;

    if (bearer && strncasecmp(bearer, "Bearer ", 7) == 0)
        secret = bearer + 7 + strspn(bearer + 7, " ");
    if (rc->route->role == SRV_ROLE_NONE)
        return true;
    if (srv_auth_check(rc->rest->app->auth, secret, secret ? strlen(secret) : 0,
                       rc->x->loopback, &role, rc->call.actor, &e)) {
        fail(rc, SRV_REJECT_AUTH, API_UNAUTHENTICATED, "%s", e.msg);
        return false;
    }
    if (role < rc->route->role) {
        static const char *const names[] = {"", "analyze", "enroll", "admin"};

        fail(rc, SRV_REJECT_AUTH, API_PERMISSION_DENIED,
             "this needs a key with the role %s; yours has %s",
             names[rc->route->role], names[role]);
        return false;
    }
    return true;
}

static bool check_media(struct rest_call *rc)
{
    const char *media = srv_rest_media(rc->route);
    struct api_error err;

    if (!rc->x->has_body || srv_rest_takes(rc->route, rc->x->content_type))
        return true;
    if (!media) {
        api_fail(&err, API_INVALID_ARGUMENT, "%.20s %.100s takes no body",
                 rc->x->method, rc->x->path);
    } else {
        api_fail(&err, API_INVALID_ARGUMENT,
                 "Content-Type \"%.60s\" is not one of %s",
                 rc->x->content_type ? rc->x->content_type : "", media);
        err.http_status = 415;
        snprintf(err.field, sizeof(err.field), "Content-Type");
        snprintf(err.reason, sizeof(err.reason), "EXPECTED");
        snprintf(err.value, sizeof(err.value), "%s", media);
    }
    srv_http_fail(rc->x, &err);
    return false;
}

/* The deadline: the client's Connect-Timeout-Ms, else the configured one. */
static bool set_deadline(struct rest_call *rc)
{
    const char *text = srv_http_field(rc->x, "Connect-Timeout-Ms");
    int64_t ms = rc->rest->app->config->default_deadline_ms;
    struct api_error err;

    if (text) {
        size_t len = strspn(text, "0123456789");

        if (!len || text[len] || len > SRV_REST_MAX_TIMEOUT_DIGITS) {
            api_fail(&err, API_INVALID_ARGUMENT,
                     "Connect-Timeout-Ms \"%.40s\" is not a number of at most "
                     "%d digits",
                     text, SRV_REST_MAX_TIMEOUT_DIGITS);
            snprintf(err.field, sizeof(err.field), "Connect-Timeout-Ms");
            srv_http_fail(rc->x, &err);
            return false;
        }
        ms = strtoll(text, NULL, 10);
    }
    rc->call.deadline_us = rc->x->start_us + ms * 1000;
    return true;
}

static void on_begin(void *arg, struct srv_http_exchange *x)
{
    struct srv_rest *r = arg;
    struct rest_call *rc = calloc(1, sizeof(*rc));
    struct api_error err;

    if (!rc) {
        api_fail(&err, API_INTERNAL, "no memory for the request");
        srv_http_fail(x, &err);
        return;
    }
    x->user = rc;
    rc->rest = r;
    rc->x = x;
    rc->call.app = r->app;
    rc->call.start_us = x->start_us;
    rc->call.reply = on_reply;
    rc->call.fail = on_fail;
    rc->call.send = on_send;
    rc->call.end = on_end;
    memcpy(rc->call.request_id, x->request_id, sizeof(rc->call.request_id));
    if (!find_route(rc) || !check_key(rc) || !check_media(rc) ||
        !set_deadline(rc))
        return;
    if (!rc->route->plain && !r->app->ready)
        fail(rc, SRV_REJECT_STARTING, API_UNAVAILABLE,
             "the server is starting");
}

/* ---- The body, and the end ---- */

static void on_handle(void *arg, struct srv_http_exchange *x)
{
    struct srv_rest *r = arg;
    struct rest_call *rc = x->user;
    struct api_error err;

    if (srv_rest_bind(rc->route, x, &rc->params, &rc->request, &err)) {
        on_fail(&rc->call, &err);
        return;
    }
    if (rc->route->plain) {
        rc->route->plain(r->app, x);
        return;
    }
    rc->call.request = rc->request;
    rc->route->handler(&rc->call);
}

static void on_left(void *arg, struct srv_http_exchange *x)
{
    struct rest_call *rc = x->user;

    (void)arg;
    /* Executors read it while we write: see srv_item.cancelled. */
    __atomic_store_n(&rc->call.cancelled, true, __ATOMIC_RELAXED);
    if (x->status) /* it was streaming */
        rc->call.left(&rc->call);
}

static void on_done(void *arg, struct srv_http_exchange *x)
{
    struct srv_rest *r = arg;
    struct rest_call *rc = x->user;
    /* nginx's 499: nobody was there to be answered. */
    int status = x->cancelled || !x->status ? 499 : x->status;
    int64_t us = ut_clock_us() - x->start_us;
    struct srv_log_request line = {
        .request_id = x->request_id,
        .method = x->method,
        .path = x->path,
        .peer = x->peer,
        .actor = rc ? rc->call.actor : "",
        .status = status,
        .bytes_in = x->body_len,
        .bytes_out = x->sent,
        .us = us,
    };

    srv_metrics_request(r->app->metrics,
                        rc && rc->route ? (int)(rc->route - r->routes) : -1,
                        status, (double)us / 1e6);
    srv_log_request(r->app->log, &line);
    if (rc)
        srv_rest_unbind(x, rc->request);
    free(rc);
    x->user = NULL;
}

enum ut_err srv_rest_new(struct srv_app *app, const struct srv_route *routes,
                         int n_routes, struct srv_rest **out,
                         struct ut_error *e)
{
    struct srv_rest *r = calloc(1, sizeof(*r));

    *out = NULL;
    if (!r)
        return ut_fail(e, UT_ENOMEM, "no memory for the routes");
    r->app = app;
    r->routes = routes;
    r->n_routes = n_routes;
    r->text = calloc((size_t)n_routes, sizeof(*r->text));
    r->names = calloc((size_t)n_routes, sizeof(*r->names));
    if (!r->text || !r->names) {
        srv_rest_free(r);
        return ut_fail(e, UT_ENOMEM, "no memory for %d routes", n_routes);
    }
    for (int i = 0; i < n_routes; i++) {
        snprintf(r->text[i], sizeof(r->text[i]), "%s %s", routes[i].method,
                 routes[i].path);
        r->names[i] = r->text[i];
    }
    *out = r;
    return UT_OK;
}

void srv_rest_free(struct srv_rest *r)
{
    if (!r)
        return;
    free(r->text);
    free(r->names);
    free(r);
}

struct srv_http_hooks srv_rest_hooks(struct srv_rest *r)
{
    return (struct srv_http_hooks){.begin = on_begin,
                                   .handle = on_handle,
                                   .left = on_left,
                                   .done = on_done,
                                   .arg = r};
}

const char *const *srv_rest_names(const struct srv_rest *r)
{
    return r->names;
}
