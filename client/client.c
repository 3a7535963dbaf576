/* libtscaf over libcurl's multi interface. */
#include "client/client.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "base/clock.h"
#include "client/retry.h"
#include "client/watch.h"

#define MAX_URL 2048
#define GRACE_MS 2000 /* the server answers its own deadline first */
#define MAX_IDLE_S 30 /* tscafd rests connections for 60, our nginx for 50 */

struct call {
    struct cl_client *client;
    CURL *easy;
    struct curl_slist *headers; /* owned */
    struct curl_slist timeout;  /* one more in front of them, of each try */
    char timeout_text[48];
    struct ut_buf body;
    cl_done *done;
    void *ctx;
    int64_t started_us, retry_at_us; /* retry_at_us > 0: waits for its retry */
    int tries, retry_after_s, timeout_ms, deadline_ms;
    bool repeatable; /* GET or HEAD: sent twice, it does no more */
    int sent;        /* times that a try went out, or would have */
    char error[CURL_ERROR_SIZE];
    struct call *next;
};

struct cl_client {
    CURLM *multi;
    struct cl_watch watch;
    struct call *calls; /* all that are on their way */
    int busy, timeout_ms, deadline_ms, retries;
    char *url, *key, *cacert;
};

static void call_free(struct call *c)
{
    if (!c)
        return;
    if (c->easy)
        curl_easy_cleanup(c->easy);
    curl_slist_free_all(c->headers);
    ut_buf_fini(&c->body);
    free(c);
}

/* Takes *at out of its client's list and frees it. */
static void drop(struct call **at)
{
    struct call *c = *at;

    *at = c->next;
    c->client->busy--;
    curl_multi_remove_handle(c->client->multi, c->easy);
    call_free(c);
}

int cl_cancel(struct cl_client *c, const void *ctx)
{
    struct call **at = &c->calls;
    int n = 0;

    while (*at) {
        if ((*at)->ctx == ctx) {
            drop(at);
            n++;
        } else {
            at = &(*at)->next;
        }
    }
    return n;
}

void cl_close(struct cl_client *c)
{
    if (!c)
        return;
    while (c->calls)
        drop(&c->calls);
    if (c->multi)
        curl_multi_cleanup(c->multi);
    cl_watch_fini(&c->watch);
    free(c->url);
    free(c->key);
    free(c->cacert);
    free(c);
}

enum ut_err cl_open(const struct cl_options *o, struct cl_client **out,
                    struct ut_error *e)
{
    size_t len = strlen(o->url);
    struct cl_client *c;

    *out = NULL;
    if ((strncmp(o->url, "http://", 7) && strncmp(o->url, "https://", 8)) ||
        len > 512 || strpbrk(o->url, "?#") || strpbrk(o->url, " \t\r\n"))
        return ut_fail(e, UT_EINVAL,
                       "the URL \"%.100s\" is not like http://HOST:PORT",
                       o->url);
    if (curl_global_init(CURL_GLOBAL_DEFAULT))
        return ut_fail(e, UT_ENOMEM, "libcurl cannot be initialised");
    c = calloc(1, sizeof(*c));
    if (!c)
        return ut_fail(e, UT_ENOMEM, "no memory");
    while (len && o->url[len - 1] == '/')
        len--;
    c->url = strndup(o->url, len);
    c->key = o->key ? strdup(o->key) : NULL;
    c->cacert = o->cacert ? strdup(o->cacert) : NULL;
    c->timeout_ms = o->timeout_ms;
    c->deadline_ms = o->deadline_ms;
    c->retries = o->retries;
    c->multi = curl_multi_init();
    if (!c->multi || !c->url || (o->key && !c->key) ||
        (o->cacert && !c->cacert)) {
        cl_close(c);
        return ut_fail(e, UT_ENOMEM, "no memory");
    }
    if (cl_watch_init(&c->watch, c->multi, e)) {
        cl_close(c);
        return UT_EIO;
    }
    *out = c;
    return UT_OK;
}

/* ---- one request ---- */

static size_t on_body(char *data, size_t size, size_t n, void *ctx)
{
    struct call *c = ctx;

    return ut_buf_add(&c->body, data, size * n, NULL) ? 0 : size * n;
}

static size_t on_header(char *data, size_t size, size_t n, void *ctx)
{
    static const char name[] = "retry-after:";
    struct call *c = ctx;

    /* libcurl's header lines end with a newline, so atoi stops there. */
    if (size * n > sizeof(name) && !strncasecmp(data, name, sizeof(name) - 1))
        c->retry_after_s = atoi(data + sizeof(name) - 1);
    return size * n;
}

static bool add_header(struct call *c, const char *name, const char *value)
{
    char line[512];
    struct curl_slist *more;

    if (snprintf(line, sizeof(line), "%s: %s", name, value) >=
        (int)sizeof(line))
        return false;
    more = curl_slist_append(c->headers, line);
    if (more)
        c->headers = more;
    return more != NULL;
}

/* Before a request goes out, which is more than once in a try if a kept
 * connection dies with no byte of the answer: libcurl takes a new one then,
 * and sends again what may have been done already. */
static int on_send(void *ctx, char *to, char *from, int to_port, int from_port)
{
    struct call *c = ctx;

    (void)to;
    (void)from;
    (void)to_port;
    (void)from_port;
    return ++c->sent > 1 && !c->repeatable ? CURL_PREREQFUNC_ABORT
                                           : CURL_PREREQFUNC_OK;
}

/* What is left of the deadline, or more than any try's timeout. */
static int64_t left_ms(const struct call *c)
{
    int64_t spent = (ut_clock_us() - c->started_us) / 1000;

    return c->deadline_ms ? c->deadline_ms - spent : INT64_MAX;
}

/* Begins a try. */
static CURLMcode try_now(struct call *c)
{
    int64_t left = left_ms(c);

    c->timeout_ms =
        left < c->client->timeout_ms ? (int)left : c->client->timeout_ms;
    if (c->timeout_ms < 1)
        c->timeout_ms = 1;
    snprintf(c->timeout_text, sizeof(c->timeout_text), "Connect-Timeout-Ms: %d",
             c->timeout_ms);
    c->timeout.data = c->timeout_text;
    c->timeout.next = c->headers;
    c->sent = 0;
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, &c->timeout);
    curl_easy_setopt(c->easy, CURLOPT_TIMEOUT_MS,
                     (long)c->timeout_ms + GRACE_MS);
    return curl_multi_add_handle(c->client->multi, c->easy);
}

static bool set_up(struct call *c, const struct cl_request *r)
{
    struct cl_client *client = c->client;
    char url[MAX_URL], bearer[400];
    CURL *h = c->easy;

    if (snprintf(url, sizeof(url), "%s%s", client->url, r->path) >= MAX_URL)
        return false;
    if (client->key) {
        if (snprintf(bearer, sizeof(bearer), "Bearer %s", client->key) >=
                (int)sizeof(bearer) ||
            !add_header(c, "Authorization", bearer))
            return false;
    }
    if (r->type) {
        /* No "Expect: 100-continue": it costs a round trip per picture. */
        if (!add_header(c, "Content-Type", r->type) ||
            !add_header(c, "Expect", ""))
            return false;
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->len);
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, r->body);
    }
    c->repeatable = !strcmp(r->method, "GET") || !strcmp(r->method, "HEAD");
    curl_easy_setopt(h, CURLOPT_PREREQFUNCTION, on_send);
    curl_easy_setopt(h, CURLOPT_PREREQDATA, c);
    curl_easy_setopt(h, CURLOPT_MAXAGE_CONN, (long)MAX_IDLE_S);
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, r->method);
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_USERAGENT, "tscaf");
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, c->error);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, c);
    curl_easy_setopt(h, CURLOPT_PRIVATE, c);
    if (client->cacert)
        curl_easy_setopt(h, CURLOPT_CAINFO, client->cacert);
    return true;
}

enum ut_err cl_start(struct cl_client *client, const struct cl_request *r,
                     cl_done *done, void *ctx, struct ut_error *e)
{
    struct call *c = calloc(1, sizeof(*c));

    if (!c)
        return ut_fail(e, UT_ENOMEM, "no memory");
    c->client = client;
    c->done = done;
    c->ctx = ctx;
    c->deadline_ms = r->deadline_ms ? r->deadline_ms : client->deadline_ms;
    c->started_us = ut_clock_us();
    ut_buf_init(&c->body, CL_MAX_ANSWER_BYTES);
    c->easy = curl_easy_init();
    if (!c->easy || !set_up(c, r) || try_now(c)) {
        call_free(c);
        return ut_fail(e, UT_ENOMEM, "%s %.100s: cannot be sent", r->method,
                       r->path);
    }
    c->next = client->calls;
    client->calls = c;
    client->busy++;
    return UT_OK;
}

int cl_busy(const struct cl_client *c)
{
    return c->busy;
}

/* ---- answers ---- */

static void explain(struct call *c, CURLcode code, struct cl_answer *a)
{
    const char *why = c->error[0] ? c->error : curl_easy_strerror(code);

    if (code == CURLE_OPERATION_TIMEDOUT)
        api_fail(&a->err, API_DEADLINE_EXCEEDED, "%s: no answer in %d ms",
                 c->client->url, c->timeout_ms);
    else if (code == CURLE_WRITE_ERROR && c->body.len)
        api_fail(&a->err, API_RESOURCE_EXHAUSTED,
                 "%s: the answer is over %u bytes", c->client->url,
                 CL_MAX_ANSWER_BYTES);
    else if (code == CURLE_ABORTED_BY_CALLBACK)
        api_fail(&a->err, API_UNAVAILABLE,
                 "%s: the connection closed without an answer; the request "
                 "may or may not have been done",
                 c->client->url);
    else
        api_fail(&a->err, API_UNAVAILABLE, "%s: %s", c->client->url, why);
}

static bool waits_for_retry(struct call *c, long status)
{
    uint32_t random = 0;
    int64_t wait_ms;

    if (status != 503 || c->tries >= c->client->retries)
        return false;
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
        random = (uint32_t)ut_clock_us();
    wait_ms = cl_retry_wait_ms(c->tries, c->retry_after_s, random);
    if (wait_ms >= left_ms(c))
        return false;
    c->tries++;
    c->retry_at_us = ut_clock_us() + wait_ms * 1000;
    c->retry_after_s = 0;
    ut_buf_fini(&c->body);
    return true;
}

/* What a status says where no tscafd speaks: a proxy, perhaps.
 * Source: https://connectrpc.com/docs/protocol#http-to-error-code */
static enum api_code code_of(long status)
{
    switch (status) {
    case 401:
        return API_UNAUTHENTICATED;
    case 403:
        return API_PERMISSION_DENIED;
    case 429:
    case 502:
    case 503:
    case 504:
        return API_UNAVAILABLE;
    default:
        return API_UNKNOWN;
    }
}

static void finish(struct cl_client *client, struct call *c, CURLcode code)
{
    struct cl_answer a = {0};
    struct call **at = &client->calls;
    static char none[] = "";
    char *body = NULL; /* owned, unless the callback takes it */
    long status = 0;

    curl_multi_remove_handle(client->multi, c->easy);
    if (!code)
        curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    if (waits_for_retry(c, status))
        return;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    client->busy--;

    a.status = (int)status;
    a.ok = status >= 200 && status < 300;
    a.us = ut_clock_us() - c->started_us;
    if (code)
        explain(c, code, &a);
    else
        body = ut_buf_take(&c->body, &a.len);
    a.body = body ? body : none;
    if (status && !a.ok && !api_error_read(a.body, a.len, &a.err))
        api_fail(&a.err, code_of(status),
                 "%s: status %ld without tscaf's error", client->url, status);
    c->done(c->ctx, &a);
    if (a.body)
        free(body);
    call_free(c);
}

/* Sends one of those again that have waited long enough; false if there is
 * none. *next_us: when the first of the others may go. */
static bool send_one(struct cl_client *client, int64_t *next_us)
{
    int64_t now = ut_clock_us();

    *next_us = INT64_MAX;
    for (struct call *c = client->calls; c; c = c->next) {
        if (!c->retry_at_us)
            continue;
        if (c->retry_at_us <= now) {
            c->retry_at_us = 0;
            c->error[0] = '\0';
            if (try_now(c))
                finish(client, c,
                       CURLE_OUT_OF_MEMORY); /* and others, perhaps */
            return true;
        }
        if (c->retry_at_us < *next_us)
            *next_us = c->retry_at_us;
    }
    return false;
}

/* Sends again what is due, and asks to be woken for the rest. */
static void send_retries(struct cl_client *client)
{
    int64_t next_us;

    while (send_one(client, &next_us))
        ;
    cl_watch_at(&client->watch, next_us);
}

/* Calls back for what has ended. */
static void collect(struct cl_client *client)
{
    struct call *c;
    CURLMsg *m;
    int left;

    while ((m = curl_multi_info_read(client->multi, &left))) {
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &c);
        finish(client, c, m->data.result);
    }
}

enum ut_err cl_wait(struct cl_client *c, int timeout_ms, struct ut_error *e)
{
    enum ut_err rc = cl_watch_step(&c->watch, timeout_ms, e);

    collect(c);
    send_retries(c);
    return rc;
}

int cl_fd(const struct cl_client *c)
{
    return c->watch.epoll;
}

struct single {
    struct cl_answer *out;
    bool ended;
};

static void keep(void *ctx, struct cl_answer *a)
{
    struct single *s = ctx;

    *s->out = *a;
    /* Nothing was read: the caller still gets memory of its own. */
    if (!a->len)
        s->out->body = calloc(1, 1);
    else
        a->body = NULL;
    s->ended = true;
}

enum ut_err cl_call(struct cl_client *c, const struct cl_request *r,
                    struct cl_answer *a, struct ut_error *e)
{
    struct single s = {.out = a};
    enum ut_err rc = cl_start(c, r, keep, &s, e);

    memset(a, 0, sizeof(*a));
    while (!rc && !s.ended)
        rc = cl_wait(c, 1000, e);
    cl_cancel(c, &s);
    if (!rc && !a->body)
        rc = ut_fail(e, UT_ENOMEM, "no memory");
    return rc;
}

/* ---- paths ---- */

static enum ut_err encode(struct ut_buf *path, const char *text,
                          struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (; !rc && *text; text++) {
        unsigned char ch = (unsigned char)*text;
        bool plain = (ch >= '0' && ch <= '9') || (ch >= 'A' && ch <= 'Z') ||
                     (ch >= 'a' && ch <= 'z') || strchr("-._~,", ch);

        rc = plain ? ut_buf_add(path, text, 1, e)
                   : ut_buf_addf(path, e, "%%%02X", ch);
    }
    return rc;
}

enum ut_err cl_path_query(struct ut_buf *path, const char *name,
                          const char *value, struct ut_error *e)
{
    bool first = !path->len || !memchr(path->data, '?', path->len);
    enum ut_err rc = ut_buf_addf(path, e, "%c%s=", first ? '?' : '&', name);

    return rc ? rc : encode(path, value, e);
}

enum ut_err cl_path_segment(struct ut_buf *path, const char *segment,
                            struct ut_error *e)
{
    enum ut_err rc = ut_buf_add(path, "/", 1, e);

    return rc ? rc : encode(path, segment, e);
}
