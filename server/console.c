/* Static files, from the program's own memory. */
#include "server/console.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define HTML "text/html; charset=utf-8"
#define CSS "text/css; charset=utf-8"
#define JS "text/javascript; charset=utf-8"
#define SVG "image/svg+xml"

/* symbol, path, file in client/console/, media type */
#define FILES(X)                                                               \
    X(index, "/", "index.html", HTML)                                          \
    X(style, "/console/style.css", "style.css", CSS)                           \
    X(icon, "/console/icon.svg", "icon.svg", SVG)                              \
    X(app, "/console/app.js", "app.js", JS)                                    \
    X(api, "/console/api.js", "api.js", JS)                                    \
    X(dom, "/console/dom.js", "dom.js", JS)                                    \
    X(charts, "/console/charts.js", "charts.js", JS)                           \
    X(pictures, "/console/pictures.js", "pictures.js", JS)                     \
    X(metrics, "/console/metrics.js", "metrics.js", JS)                        \
    X(compare, "/console/compare.js", "compare.js", JS)                        \
    X(live, "/console/live.js", "live.js", JS)                                 \
    X(drivers, "/console/drivers.js", "drivers.js", JS)                        \
    X(training, "/console/training.js", "training.js", JS)                     \
    X(system, "/console/system.js", "system.js", JS)

/* The assembler takes the files in, so that no other tool has to. */
#define EMBED(symbol, path, name, type)                                        \
    __asm__(".pushsection .rodata\n"                                           \
            "srv_console_" #symbol ": .incbin \"client/console/" name "\"\n"   \
            "srv_console_" #symbol "_end: .byte 0\n"                           \
            ".popsection\n");                                                  \
    extern const char srv_console_##symbol[], srv_console_##symbol##_end[];
FILES(EMBED)

#define ENTRY(symbol, path, name, type)                                        \
    {path, type, srv_console_##symbol, srv_console_##symbol##_end},
static const struct {
    const char *path, *type, *data, *end;
} files[] = {FILES(ENTRY)};
#define N_FILES ((int)(sizeof(files) / sizeof(files[0])))

/* Only what came from here runs, is shown, or is asked; pictures and clips are
 * also the page's own (blob:). */
#define POLICY                                                                 \
    "default-src 'none'; script-src 'self'; style-src 'self'; "                \
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; " \
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "            \
    "require-trusted-types-for 'script'; trusted-types 'none'"

#define ETAG_BYTES 16
#define ETAG_LEN (2 * ETAG_BYTES + 3) /* quoted, with its NUL */

struct srv_console {
    struct srv_http_hooks behind;
    struct srv_log *log;
    struct srv_metrics *metrics;
    char etags[N_FILES][ETAG_LEN];
};

static int find(const struct srv_http_exchange *x)
{
    for (int i = 0; i < N_FILES; i++)
        if (strcmp(files[i].path, x->path) == 0)
            return i;
    return -1;
}

/* If-None-Match: a list of tags, perhaps weak, or "*". */
static bool has_it(const struct srv_http_exchange *x, const char *etag)
{
    const char *tags = srv_http_field(x, "If-None-Match");

    return tags && (strcmp(tags, "*") == 0 || strstr(tags, etag));
}

static void refuse_other_requests(struct srv_http_exchange *x)
{
    struct api_error err;

    if (strcmp(x->method, "GET") != 0 && strcmp(x->method, "HEAD") != 0) {
        api_fail(&err, API_UNIMPLEMENTED, "%.20s is not a method of %.100s",
                 x->method, x->path);
        err.http_status = 405;
        snprintf(err.allow, sizeof(err.allow), "GET, HEAD");
        srv_http_fail(x, &err);
    } else if (x->has_body) {
        api_fail(&err, API_INVALID_ARGUMENT, "%.20s %.100s takes no body",
                 x->method, x->path);
        srv_http_fail(x, &err);
    }
}

static void send_file(struct srv_console *c, struct srv_http_exchange *x, int i)
{
    struct srv_http_answer a = {
        .status = 200,
        .type = files[i].type,
        .len = (size_t)(files[i].end - files[i].data),
        .fields = {{"ETag", c->etags[i]},
                   {"Cache-Control", "no-cache"}, /* ask each time: 304 */
                   {"Content-Security-Policy", POLICY},
                   {"Permissions-Policy", "camera=(self), microphone=()"},
                   {"Referrer-Policy", "no-referrer"},
                   {"Cross-Origin-Opener-Policy", "same-origin"}},
        .n_fields = 6,
    };
    struct api_error err;

    if (has_it(x, c->etags[i])) {
        a.status = 304;
        a.type = NULL;
        a.len = 0;
    } else {
        a.body = malloc(a.len + 1);
        if (!a.body) {
            api_fail(&err, API_INTERNAL, "no memory for %s", files[i].path);
            srv_http_fail(x, &err);
            return;
        }
        memcpy(a.body, files[i].data, a.len);
    }
    srv_http_answer(x, &a);
}

/* ---- The hooks ---- */

static void on_begin(void *arg, struct srv_http_exchange *x)
{
    struct srv_console *c = arg;

    if (find(x) < 0)
        c->behind.begin(c->behind.arg, x);
    else
        refuse_other_requests(x);
}

/* Not from on_begin: an answer before the request's end closes its
 * connection, and a page has many files. */
static void on_handle(void *arg, struct srv_http_exchange *x)
{
    struct srv_console *c = arg;
    int i = find(x);

    if (i < 0)
        c->behind.handle(c->behind.arg, x);
    else
        send_file(c, x, i);
}

static void on_left(void *arg, struct srv_http_exchange *x)
{
    struct srv_console *c = arg;

    c->behind.left(c->behind.arg, x);
}

static void on_done(void *arg, struct srv_http_exchange *x)
{
    struct srv_console *c = arg;
    const struct srv_log_request line = {
        .request_id = x->request_id,
        .method = x->method,
        .path = x->path,
        .peer = x->peer,
        .actor = "",
        .status = x->status,
        .bytes_in = x->body_len,
        .bytes_out = x->sent,
        .us = ut_clock_us() - x->start_us,
    };

    if (find(x) < 0) {
        c->behind.done(c->behind.arg, x);
        return;
    }
    srv_metrics_request(c->metrics, -1, x->status, (double)line.us / 1e6);
    srv_log_request(c->log, &line);
}

static void on_refuse(void *arg, struct srv_http_exchange *x,
                      const struct api_error *err)
{
    struct srv_console *c = arg;

    c->behind.refuse(c->behind.arg, x, err);
}

/* Of duplex exchanges, which are none of ours. */
static void on_next(void *arg, struct srv_http_exchange *x)
{
    struct srv_console *c = arg;

    c->behind.next(c->behind.arg, x);
}

static void on_last(void *arg, struct srv_http_exchange *x)
{
    struct srv_console *c = arg;

    c->behind.last(c->behind.arg, x);
}

enum ut_err srv_console_new(const struct srv_http_hooks *behind,
                            struct srv_log *log, struct srv_metrics *metrics,
                            struct srv_console **out, struct ut_error *e)
{
    struct srv_console *c = calloc(1, sizeof(*c));
    unsigned char hash[ETAG_BYTES];
    char hex[2 * ETAG_BYTES + 1];

    *out = NULL;
    if (!c)
        return ut_fail(e, UT_ENOMEM, "no memory for the console");
    c->behind = *behind;
    c->log = log;
    c->metrics = metrics;
    for (int i = 0; i < N_FILES; i++) {
        crypto_generichash(
            hash, sizeof(hash), (const unsigned char *)files[i].data,
            (unsigned long long)(files[i].end - files[i].data), NULL, 0);
        sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
        snprintf(c->etags[i], ETAG_LEN, "\"%s\"", hex);
    }
    *out = c;
    return UT_OK;
}

void srv_console_free(struct srv_console *c)
{
    free(c);
}

struct srv_http_hooks srv_console_hooks(struct srv_console *c)
{
    return (struct srv_http_hooks){.begin = on_begin,
                                   .handle = on_handle,
                                   .next = on_next,
                                   .last = on_last,
                                   .refuse = on_refuse,
                                   .left = on_left,
                                   .done = on_done,
                                   .arg = c};
}
