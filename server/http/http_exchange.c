/* What exchanges are to those who answer them, whichever listener they came
 * from, and what both listeners do alike. */
#include "server/http/http_exchange.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- By the listener ---- */

const char *srv_http_field(const struct srv_http_exchange *x, const char *name)
{
    return x->via->field(x, name);
}

void srv_http_query(const struct srv_http_exchange *x,
                    bool (*fn)(void *arg, const char *name, const char *value),
                    void *arg)
{
    x->via->query(x, fn, arg);
}

size_t srv_http_body_limit(const struct srv_http_exchange *x)
{
    return x->via->body_limit(x);
}

enum ut_err srv_http_replace_body(struct srv_http_exchange *x, char *body,
                                  size_t len, struct api_error *err)
{
    return x->via->replace_body(x, body, len, err);
}

void srv_http_answer(struct srv_http_exchange *x, struct srv_http_answer *a)
{
    x->via->answer(x, a);
}

void srv_http_stream(struct srv_http_exchange *x, struct srv_http_answer *a)
{
    x->via->stream(x, a);
}

bool srv_http_write(struct srv_http_exchange *x, const void *data, size_t len)
{
    return x->via->write(x, data, len);
}

void srv_http_end(struct srv_http_exchange *x)
{
    x->via->end(x);
}

void srv_http_duplex(struct srv_http_exchange *x)
{
    x->via->duplex(x);
}

void srv_http_next(struct srv_http_exchange *x)
{
    x->via->next(x);
}

bool srv_http_has_trailers(const struct srv_http_exchange *x)
{
    return x->via->trailers;
}

void srv_http_trailers(struct srv_http_exchange *x, char *text)
{
    free(x->trailers);
    x->trailers = text;
}

/* ---- Errors ---- */

void srv_http_fail_as(struct srv_http_exchange *x, const struct api_error *err,
                      struct srv_http_answer *a)
{
    char retry[16];

    if (err->retry_after_s > 0) {
        snprintf(retry, sizeof(retry), "%d", err->retry_after_s);
        a->fields[a->n_fields++] =
            (struct srv_http_field){"Retry-After", retry};
    }
    if (*err->allow)
        a->fields[a->n_fields++] = (struct srv_http_field){"Allow", err->allow};
    if (a->status == 401)
        a->fields[a->n_fields++] =
            (struct srv_http_field){"WWW-Authenticate", "Bearer"};
    srv_http_answer(x, a);
}

void srv_http_fail(struct srv_http_exchange *x, const struct api_error *err)
{
    struct srv_http_answer a = {.type = "application/json"};
    struct ut_error e;

    a.status = err->http_status ? err->http_status : api_code_http(err->code);
    if (api_error_json(err, &a.body, &e)) {
        a.status = 500;
        a.body = strdup("{\"code\":\"internal\",\"message\":\"no memory\","
                        "\"details\":[]}");
    }
    a.len = a.body ? strlen(a.body) : 0;
    srv_http_fail_as(x, err, &a);
}

void srv_http_refuse(const struct srv_http_config *c,
                     struct srv_http_exchange *x, enum srv_reject why,
                     enum api_code code, int status, const char *fmt,
                     va_list args)
{
    struct api_error err;
    char text[200];

    vsnprintf(text, sizeof(text), fmt, args);
    api_fail(&err, code, "%s", text);
    err.http_status = status;
    if (code == API_UNAVAILABLE)
        err.retry_after_s = 1;
    srv_metrics_count(c->metrics, why);
    if (c->hooks.refuse)
        c->hooks.refuse(c->hooks.arg, x, &err);
    else
        srv_http_fail(x, &err);
}

/* ---- Ids ---- */

void srv_http_pick_id(struct srv_http_exchange *x)
{
    const char *id = srv_http_field(x, "X-Request-Id");
    unsigned char random[16];
    size_t len = id ? strlen(id) : 0;

    if (len > 0 && len < SRV_HTTP_REQUEST_ID_LEN &&
        strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                   "0123456789-_.") == len) {
        memcpy(x->request_id, id, len + 1);
        return;
    }
    randombytes_buf(random, sizeof(random));
    sodium_bin2hex(x->request_id, sizeof(x->request_id), random,
                   sizeof(random));
}
