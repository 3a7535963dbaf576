/* From an exchange to a call and back. */
#include "server/calls/dispatch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/gzip.h"
#include "base/clock.h"
#include "server/app.h"
#include "server/local.h"

struct srv_dispatch {
    struct srv_app *app;
    const struct srv_route *routes;
    int n_routes;
    char (*text)[80];   /* owned; [n_routes]         */
    const char **names; /* owned; [n_routes] of text */
};

static void refuse(struct srv_request *r, enum srv_reject why,
                   struct api_error *err)
{
    if (err->code == API_UNAVAILABLE)
        err->retry_after_s = 1;
    srv_metrics_count(r->dispatch->app->metrics, why);
    r->protocol->fail(r, err);
}

bool srv_media_is(const char *content_type, const char *want)
{
    size_t n = strlen(want);

    return content_type && strncasecmp(content_type, want, n) == 0 &&
           content_type[n + strspn(content_type + n, " \t")] ==
               (strchr(content_type, ';') ? ';' : '\0');
}

void srv_expected(struct api_error *err, const char *field, const char *want)
{
    snprintf(err->field, sizeof(err->field), "%s", field);
    snprintf(err->reason, sizeof(err->reason), "EXPECTED");
    snprintf(err->value, sizeof(err->value), "%s", want);
}

/* ---- The end of a call ---- */

bool srv_takes_gzip(const char *list)
{
    for (const char *at = list; at && *at; at += *at == ',') {
        size_t len = strcspn(at += strspn(at, " \t"), ",; \t");
        bool ours = len == 4 && strncasecmp(at, "gzip", 4) == 0;
        const char *end = at + strcspn(at, ","), *q;

        q = ours ? memchr(at, ';', (size_t)(end - at)) : NULL;
        if (q)
            q += 1 + strspn(q + 1, " \t");
        if (ours)
            return !q || strncasecmp(q, "q=", 2) != 0 ||
                   strtod(q + 2, NULL) > 0;
        at = end;
    }
    return false;
}

/* Packs an answer for a client that takes it so; else leaves it alone. */
static void pack(struct srv_request *r, struct srv_http_answer *a)
{
    struct ut_error e;
    char *packed;
    size_t len;

    if (a->len < SRV_GZIP_LEAST || a->n_fields == SRV_HTTP_MAX_FIELDS ||
        (!srv_media_is(a->type, "application/json") &&
         !srv_media_is(a->type, "application/proto")) ||
        !srv_takes_gzip(srv_http_field(r->x, "Accept-Encoding")) ||
        api_gzip(a->body, a->len, &packed, &len, &e))
        return;
    free(a->body);
    a->body = packed;
    a->len = len;
    a->fields[a->n_fields++] =
        (struct srv_http_field){"Content-Encoding", "gzip"};
}

static void on_reply(struct srv_call *c, const ProtobufCMessage *response)
{
    struct srv_request *r = (struct srv_request *)c;
    struct srv_http_answer a = {.status = r->route->status};
    struct ut_error e;

    if (r->protocol->reply(r, response, &a, &e)) {
        struct api_error err;

        api_fail(&err, API_INTERNAL, "the answer: %s", e.msg);
        c->fail(c, &err);
        return;
    }
    pack(r, &a);
    srv_http_answer(r->x, &a);
}

/* ---- Streams ---- */

static void open_stream(struct srv_request *r)
{
    struct srv_http_answer a = {
        .status = r->protocol == &srv_rest ? r->route->status : 200};

    if (r->x->status)
        return;
    r->protocol->stream(r, &a);
    /* nginx, over HTTP/1.0, would keep messages until a buffer is full. */
    a.fields[a.n_fields++] = (struct srv_http_field){"X-Accel-Buffering", "no"};
    srv_http_stream(r->x, &a);
}

static bool on_send(struct srv_call *c, const ProtobufCMessage *message)
{
    struct srv_request *r = (struct srv_request *)c;
    struct ut_error e;
    struct ut_buf b;
    bool sent = false;

    if (r->x->cancelled)
        return false;
    ut_buf_init(&b, SRV_CALL_MAX_UNSENT);
    if (!r->protocol->piece(r, message, &b, &e)) {
        open_stream(r);
        sent = srv_http_write(r->x, b.data, b.len);
    }
    ut_buf_fini(&b);
    return sent;
}

/* Ends a stream by err, or well for NULL. */
static void end_stream(struct srv_request *r, const struct api_error *err)
{
    struct ut_error e;
    struct ut_buf b;

    ut_buf_init(&b, SRV_CALL_MAX_UNSENT);
    open_stream(r);
    if (!r->protocol->last(r, err, &b, &e) && b.len)
        srv_http_write(r->x, b.data, b.len);
    ut_buf_fini(&b);
    srv_http_end(r->x);
}

static void on_end(struct srv_call *c)
{
    end_stream((struct srv_request *)c, NULL);
}

/* A reply to one of many requests: goes on with the next. */
static void on_reply_to_one(struct srv_call *c,
                            const ProtobufCMessage *response)
{
    struct srv_request *r = (struct srv_request *)c;
    struct api_error err;
    struct ut_error e;
    struct ut_buf b;

    open_stream(r);
    ut_buf_init(&b, SRV_MAX_ANSWER);
    if (r->x->cancelled) {
        srv_http_end(r->x);
    } else if (r->protocol->piece(r, response, &b, &e)) {
        api_fail(&err, API_INTERNAL, "the answer: %s", e.msg);
        c->fail(c, &err);
    } else if (!srv_http_write(r->x, b.data, b.len)) {
        api_fail(&err, API_INTERNAL, "no memory for the answer");
        c->fail(c, &err);
    } else {
        srv_http_next(r->x);
    }
    ut_buf_fini(&b);
}

static void on_next(void *arg, struct srv_http_exchange *x)
{
    struct srv_request *r = x->user;

    (void)arg;
    r->protocol->unbind(r);
    r->message = NULL;
}

static void on_last(void *arg, struct srv_http_exchange *x)
{
    (void)arg;
    end_stream(x->user, NULL);
}

/* A message of a duplex exchange is a call with a deadline of its own, within
 * the stream's. */
static void restart(struct srv_request *r)
{
    int64_t ms = r->dispatch->app->config->default_deadline_ms;

    r->call.start_us = ut_clock_us();
    r->call.deadline_us = r->call.start_us + ms * 1000;
    if (r->x->until_us && r->x->until_us < r->call.deadline_us)
        r->call.deadline_us = r->x->until_us;
}

/* ---- Errors ---- */

static void on_fail(struct srv_call *c, const struct api_error *err)
{
    struct srv_request *r = (struct srv_request *)c;
    struct api_error shown = *err;

    if (err->code == API_INTERNAL || err->code == API_UNKNOWN ||
        err->code == API_DATA_LOSS) {
        /* What went wrong inside is the operator's to read. */
        srv_log_line(r->dispatch->app->log, SRV_LOG_ERROR, c->request_id, "%s",
                     err->message);
        api_fail(&shown, err->code,
                 "internal error; the server's log says more under request "
                 "id %s",
                 c->request_id);
    }
    if (r->x->status)
        end_stream(r, &shown);
    else
        r->protocol->fail(r, &shown);
}

/* ---- The header ---- */

bool srv_path_match(const char *pattern, const char *path, struct srv_params *p)
{
    p->n = 0;
    while (*pattern && *path) {
        size_t n, len;

        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        n = strcspn(pattern, "}");
        len = strcspn(path, "/");
        if (!len || len >= sizeof(p->at[0].value) || p->n == SRV_MAX_PARAMS)
            return false;
        snprintf(p->at[p->n].name, sizeof(p->at[0].name), "%.*s", (int)n - 1,
                 pattern + 1);
        snprintf(p->at[p->n].value, sizeof(p->at[0].value), "%.*s", (int)len,
                 path);
        p->n++;
        pattern += n + 1;
        path += len;
    }
    return !*pattern && !*path;
}

/* Whether a path is "/package.Service/Method". */
static bool is_rpc(const char *path)
{
    size_t len = *path ? strcspn(path + 1, "/") : 0;

    return *path == '/' && memchr(path + 1, '.', len) && path[1 + len] == '/' &&
           !strchr(path + 2 + len, '/');
}

static const struct srv_protocol *protocol_of(const char *path)
{
    if (is_rpc(path))
        return &srv_rpc;
    return strncmp(path, "/v2", 3) == 0 && (path[3] == '/' || !path[3])
               ? &srv_oip
               : &srv_rest;
}

/* Whether a route has the exchange's path, and its method; allow gets the
 * methods that it would have. */
static bool path_fits(struct srv_request *r, const struct srv_route *route,
                      bool *method, const char **allow)
{
    const char *said = r->x->method;
    bool get = strcmp(route->method, "GET") == 0;

    if (r->protocol == &srv_rpc) {
        get = get && !route->streams;
        *allow = get ? "GET, POST" : "POST";
        *method =
            strcmp(said, "POST") == 0 || (get && strcmp(said, "GET") == 0);
        return route->rpc && strcmp(route->rpc, r->x->path + 1) == 0;
    }
    get = get && !route->streams; /* whose HEAD nothing would end */
    *allow = get ? "GET, HEAD" : route->method;
    *method =
        strcmp(route->method, said) == 0 || (get && strcmp(said, "HEAD") == 0);
    return route->path && srv_path_match(route->path, r->x->path, &r->params);
}

/* Finds the route, or says 404, or 405 with what would be allowed. */
static bool find_route(struct srv_request *r)
{
    struct srv_dispatch *d = r->dispatch;
    struct api_error err;
    size_t len = 0;

    r->protocol = protocol_of(r->x->path);
    api_fail(&err, API_UNIMPLEMENTED, "%.20s is not a method of %.100s",
             r->x->method, r->x->path);
    for (int i = 0; i < d->n_routes; i++) {
        const char *allow;
        bool fits;

        if (!path_fits(r, &d->routes[i], &fits, &allow))
            continue;
        if (fits) {
            r->route = &d->routes[i];
            return true;
        }
        if (len < sizeof(err.allow) - 16)
            len += (size_t)snprintf(err.allow + len, sizeof(err.allow) - len,
                                    "%s%s", len ? ", " : "", allow);
    }
    if (len) {
        err.http_status = 405;
        srv_expected(&err, "", err.allow);
    } else if (r->protocol == &srv_rpc) {
        api_fail(&err, API_UNIMPLEMENTED, "there is no method %.150s",
                 r->x->path + 1);
        err.http_status = 404;
    } else {
        api_fail(&err, API_NOT_FOUND, "there is nothing at %.150s", r->x->path);
    }
    r->protocol->fail(r, &err);
    return false;
}

/* Whether the key that the exchange has lets it call its route. */
static enum ut_err check_key(struct srv_request *r, struct api_error *err)
{
    const char *bearer = srv_http_field(r->x, "Authorization");
    const char *secret = srv_http_field(r->x, "X-API-Key");
    enum srv_role role = SRV_ROLE_NONE;
    struct ut_error e;

    if (bearer && strncasecmp(bearer, "Bearer ", 7) == 0)
        secret = bearer + 7 + strspn(bearer + 7, " ");
    if (r->route->role == SRV_ROLE_NONE)
        return UT_OK;
    if (srv_auth_check(r->dispatch->app->auth, secret,
                       secret ? strlen(secret) : 0, srv_local(r->x), &role,
                       r->call.actor, &e)) {
        api_fail(err, API_UNAUTHENTICATED, "%s", e.msg);
    } else if (role < r->route->role) {
        static const char *const names[] = {"", "analyze", "enroll", "admin"};

        api_fail(err, API_PERMISSION_DENIED,
                 "this needs a key with the role %s; yours has %s",
                 names[r->route->role], names[role]);
    } else {
        return UT_OK;
    }
    srv_metrics_count(r->dispatch->app->metrics, SRV_REJECT_AUTH);
    return UT_EINVAL;
}

static bool on_allowed(struct srv_call *c, struct api_error *err)
{
    return !check_key((struct srv_request *)c, err);
}

/* The deadline: the client's Connect-Timeout-Ms, else the configured one. */
static bool set_deadline(struct srv_request *r, struct api_error *err)
{
    const char *text = srv_http_field(r->x, "Connect-Timeout-Ms");
    int64_t ms = r->dispatch->app->config->default_deadline_ms;

    if (text) {
        size_t len = strspn(text, "0123456789");

        if (!len || text[len] || len > SRV_MAX_TIMEOUT_DIGITS) {
            api_fail(err, API_INVALID_ARGUMENT,
                     "Connect-Timeout-Ms \"%.40s\" is not a number of at most "
                     "%d digits",
                     text, SRV_MAX_TIMEOUT_DIGITS);
            snprintf(err->field, sizeof(err->field), "Connect-Timeout-Ms");
            return false;
        }
        ms = strtoll(text, NULL, 10);
        r->timed = true;
    }
    r->call.deadline_us = r->x->start_us + ms * 1000;
    return true;
}

/* The body's encoding: none, or gzip. */
static bool check_encoding(struct srv_request *r, struct api_error *err)
{
    const char *encoding = srv_http_field(r->x, "Content-Encoding");

    if (!encoding || strcasecmp(encoding, "identity") == 0 ||
        strcasecmp(encoding, "gzip") == 0)
        return true;
    api_fail(err, API_UNIMPLEMENTED,
             "Content-Encoding \"%.40s\" is not one of gzip, identity",
             encoding);
    err->http_status = 415;
    srv_expected(err, "Content-Encoding", "gzip, identity");
    return false;
}

static void on_begin(void *arg, struct srv_http_exchange *x)
{
    struct srv_dispatch *d = arg;
    struct srv_request *r = calloc(1, sizeof(*r));
    struct api_error err;

    if (!r) {
        api_fail(&err, API_INTERNAL, "no memory for the request");
        srv_http_fail(x, &err);
        return;
    }
    x->user = r;
    r->dispatch = d;
    r->x = x;
    r->call.app = d->app;
    r->call.start_us = x->start_us;
    r->call.reply = on_reply;
    r->call.fail = on_fail;
    r->call.send = on_send;
    r->call.end = on_end;
    r->call.allowed = on_allowed;
    memcpy(r->call.request_id, x->request_id, sizeof(r->call.request_id));
    if (!find_route(r))
        return;
    if (check_key(r, &err) || !set_deadline(r, &err) ||
        r->protocol->begin(r, &err) || !check_encoding(r, &err)) {
        r->protocol->fail(r, &err);
    } else if (!r->route->plain && !r->route->early && !d->app->ready) {
        api_fail(&err, API_UNAVAILABLE, "the server is starting");
        refuse(r, SRV_REJECT_STARTING, &err);
    } else if (r->route->duplex) {
        r->call.reply = on_reply_to_one;
        if (r->timed)
            x->until_us = r->call.deadline_us;
        srv_http_duplex(x);
    }
}

static void on_refuse(void *arg, struct srv_http_exchange *x,
                      const struct api_error *err)
{
    struct srv_request r = {
        .dispatch = arg, .x = x, .protocol = protocol_of(x->path)};

    const struct srv_request *begun = x->user;

    if (x->status) /* in the midst of a duplex exchange */
        end_stream(x->user, err);
    else if (begun && begun->route && begun->route->streams &&
             begun->protocol == &srv_rpc)
        srv_rpc.fail(x->user, err); /* as its stream says it */
    else if (r.protocol == &srv_oip ||
             (r.protocol == &srv_rpc && srv_http_has_trailers(x)))
        r.protocol->fail(&r, err);
    else
        srv_http_fail(x, err);
}

/* ---- The body, and the end ---- */

/* Unpacks a body that came as gzip. */
static enum ut_err unpack(struct srv_request *r, struct api_error *err)
{
    const char *encoding = srv_http_field(r->x, "Content-Encoding");
    enum ut_err rc;
    char *body;
    size_t len;

    if (!r->x->body_len || !encoding || strcasecmp(encoding, "gzip") != 0)
        return UT_OK;
    rc = api_gunzip(r->x->body, r->x->body_len, srv_http_body_limit(r->x),
                    &body, &len, err);
    if (!rc)
        rc = srv_http_replace_body(r->x, body, len, err);
    return rc;
}

/* The message is there, or an error. */
static void go_on(struct srv_request *r, enum ut_err rc, struct api_error *err)
{
    if (rc) {
        on_fail(&r->call, err);
    } else if (r->route->plain) {
        r->route->plain(r->dispatch->app, r->x);
    } else {
        r->call.request = r->message;
        r->route->handler(&r->call);
    }
}

static void bind_job(void *arg, int worker)
{
    struct srv_request *r = arg;

    (void)worker;
    r->bind_rc = r->protocol->bind(r, &r->bind_error);
    srv_mailbox_post(r->dispatch->app->mailbox, &r->bound);
}

/* The exchange waits for its answer, so that r is still there. */
static void on_bound(struct srv_mail *m)
{
    struct srv_request *r =
        (struct srv_request *)(void *)((char *)m -
                                       offsetof(struct srv_request, bound));

    go_on(r, r->bind_rc, &r->bind_error);
}

/* Reads a body where it stops nobody. False: it is to be read here. */
static bool bind_elsewhere(struct srv_request *r)
{
    struct srv_pool *pool = r->dispatch->app->decode_pool;
    struct api_error err;
    struct ut_error e;

    if (!r->protocol->binds_anywhere || r->x->body_len < SRV_LARGE_BODY ||
        !pool)
        return false;
    r->bound.fn = on_bound;
    if (srv_pool_push(pool, bind_job, r, &e)) {
        api_fail(&err, API_UNAVAILABLE, "%s", e.msg);
        refuse(r, SRV_REJECT_QUEUE_FULL, &err);
    }
    return true;
}

static void on_handle(void *arg, struct srv_http_exchange *x)
{
    struct srv_request *r = x->user;
    struct api_error err;
    enum ut_err rc = UT_OK;

    (void)arg;
    if (r->route->duplex) {
        restart(r);
        rc = check_key(r, &err);
    }
    if (!rc)
        rc = unpack(r, &err);
    if (!rc && bind_elsewhere(r))
        return;
    if (!rc)
        rc = r->protocol->bind(r, &err);
    go_on(r, rc, &err);
}

static void on_left(void *arg, struct srv_http_exchange *x)
{
    struct srv_request *r = x->user;

    (void)arg;
    /* Executors read it while we write: see srv_item.cancelled. */
    __atomic_store_n(&r->call.cancelled, true, __ATOMIC_RELAXED);
    if (x->status && !r->route->duplex) /* it was streaming */
        r->call.left(&r->call);
}

static void on_done(void *arg, struct srv_http_exchange *x)
{
    struct srv_dispatch *d = arg;
    struct srv_request *r = x->user;
    /* nginx's 499: nobody was there to be answered. */
    int status = x->cancelled || !x->status ? 499 : x->status;
    int64_t us = ut_clock_us() - x->start_us;
    struct srv_log_request line = {
        .request_id = x->request_id,
        .method = x->method,
        .path = x->path,
        .peer = x->peer,
        .actor = r ? r->call.actor : "",
        .status = status,
        .bytes_in = x->taken + x->body_len,
        .bytes_out = x->sent,
        .us = us,
    };

    srv_metrics_request(d->app->metrics,
                        r && r->route ? (int)(r->route - d->routes) : -1,
                        status, (double)us / 1e6);
    srv_log_request(d->app->log, &line);
    if (r && r->message)
        r->protocol->unbind(r);
    free(r);
    x->user = NULL;
}

enum ut_err srv_dispatch_new(struct srv_app *app,
                             const struct srv_route *routes, int n_routes,
                             struct srv_dispatch **out, struct ut_error *e)
{
    struct srv_dispatch *d = calloc(1, sizeof(*d));

    *out = NULL;
    if (!d)
        return ut_fail(e, UT_ENOMEM, "no memory for the routes");
    d->app = app;
    d->routes = routes;
    d->n_routes = n_routes;
    d->text = calloc((size_t)n_routes, sizeof(*d->text));
    d->names = calloc((size_t)n_routes, sizeof(*d->names));
    if (!d->text || !d->names) {
        srv_dispatch_free(d);
        return ut_fail(e, UT_ENOMEM, "no memory for %d routes", n_routes);
    }
    for (int i = 0; i < n_routes; i++) {
        snprintf(d->text[i], sizeof(d->text[i]), "%s %s", routes[i].method,
                 routes[i].path ? routes[i].path : routes[i].rpc);
        d->names[i] = d->text[i];
    }
    *out = d;
    return UT_OK;
}

void srv_dispatch_free(struct srv_dispatch *d)
{
    if (!d)
        return;
    free(d->text);
    free(d->names);
    free(d);
}

struct srv_http_hooks srv_dispatch_hooks(struct srv_dispatch *d)
{
    return (struct srv_http_hooks){.begin = on_begin,
                                   .handle = on_handle,
                                   .next = on_next,
                                   .last = on_last,
                                   .refuse = on_refuse,
                                   .left = on_left,
                                   .done = on_done,
                                   .arg = d};
}

const char *const *srv_dispatch_names(const struct srv_dispatch *d)
{
    return d->names;
}
