/* Answers over HTTP/2: whole, or in pieces, and the trailers behind them. What
 * is not yet sent waits in s->unsent until the client's windows let it go. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/http/h2_parts.h"

#define MAX_ANSWER_FIELDS (SRV_HTTP_MAX_FIELDS + 16)
void h2_hand_back(struct h2_stream *s)
{
    if (!s->handed)
        return;
    s->handed = false;
    s->h->n_calls--;
    srv_metrics_add(s->h->c.metrics, SRV_GAUGE_CALLS, -1);
}

/* ---- Fields ---- */

struct fields {
    nghttp2_nv at[MAX_ANSWER_FIELDS];
    size_t n;
};

/* name in lower case, as HTTP/2 wants it, and value live until the submit
 * returns: the library copies. */
static void add(struct fields *f, const char *name, size_t name_len,
                const char *value, size_t value_len)
{
    if (f->n == MAX_ANSWER_FIELDS)
        return;
    f->at[f->n++] = (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
                                 .namelen = name_len,
                                 .value = (uint8_t *)(uintptr_t)value,
                                 .valuelen = value_len};
}

static void add_text(struct fields *f, const char *name, const char *value)
{
    add(f, name, strlen(name), value, strlen(value));
}

/* The lines of trailers, each "name: value\r\n". */
static void add_trailers(struct fields *f, const char *text)
{
    while (text && *text) {
        const char *colon = strstr(text, ": "), *end = strstr(text, "\r\n");

        if (!colon || !end || colon > end)
            return;
        add(f, text, (size_t)(colon - text), colon + 2,
            (size_t)(end - colon - 2));
        text = end + 2;
    }
}

static bool has_field(const struct srv_http_answer *a, const char *name)
{
    for (int i = 0; i < a->n_fields; i++)
        if (strcasecmp(a->fields[i].name, name) == 0)
            return true;
    return false;
}

/* ---- The body ---- */

/* The library can send more of an answer's body. */
static ssize_t on_more(nghttp2_session *session, int32_t id, uint8_t *out,
                       size_t max, uint32_t *flags, nghttp2_data_source *source,
                       void *user)
{
    struct h2_stream *s = source->ptr;
    size_t n = s->unsent.len - s->unsent_at;

    (void)user;
    if (!n && !s->over) {
        s->waits = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    n = n < max ? n : max;
    if (n)
        memcpy(out, s->unsent.data + s->unsent_at, n);
    s->unsent_at += n;
    s->x.sent += n;
    if (s->streams) /* a whole answer has one time-out */
        s->since_us = ut_clock_us();
    if (s->unsent_at == s->unsent.len) {
        s->unsent.len = s->unsent_at = 0;
        if (s->over)
            *flags |= NGHTTP2_DATA_FLAG_EOF;
        else if (s->duplex && s->phase == H2_ANSWERING)
            h2_turn_later(s);
    }
    if ((*flags & NGHTTP2_DATA_FLAG_EOF) && s->x.trailers) {
        struct fields f = {.n = 0};

        add_trailers(&f, s->x.trailers);
        if (nghttp2_submit_trailer(session, id, f.at, f.n) == 0)
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    }
    return (ssize_t)n;
}

/* Gives the library a header, and where its body comes from. */
static void submit(struct h2_stream *s, const struct srv_http_answer *a)
{
    nghttp2_data_provider body = {.source.ptr = s, .read_callback = on_more};
    bool empty = s->over && !s->unsent.len;
    struct fields f = {.n = 0};
    char status[16], names[SRV_HTTP_MAX_FIELDS][48];

    snprintf(status, sizeof(status), "%d", a->status);
    add_text(&f, ":status", status);
    add_text(&f, "x-request-id", s->x.request_id);
    add_text(&f, "x-content-type-options", "nosniff");
    if (!has_field(a, "Cache-Control"))
        add_text(&f, "cache-control", "no-store");
    if (a->type)
        add_text(&f, "content-type", a->type);
    for (int i = 0; i < a->n_fields; i++) {
        size_t len = 0;

        for (const char *p = a->fields[i].name; *p && len < 47; p++)
            names[i][len++] = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
        names[i][len] = '\0';
        add_text(&f, names[i], a->fields[i].value);
    }
    if (empty) /* gRPC's Trailers-Only */
        add_trailers(&f, s->x.trailers);
    h2_enter(s, H2_ANSWERING);
    if (nghttp2_submit_response(s->conn->session, s->id, f.at, f.n,
                                empty ? NULL : &body))
        nghttp2_submit_rst_stream(s->conn->session, NGHTTP2_FLAG_NONE, s->id,
                                  NGHTTP2_INTERNAL_ERROR);
    h2_pump_later(s->conn);
}

/* Nobody waits for it. Its handler may still look at the call: h2.c frees it
 * later. */
static void end_orphan(struct h2_stream *s)
{
    s->ended = s->h->need_pump = true;
}

static void answer(struct srv_http_exchange *x, struct srv_http_answer *a)
{
    struct h2_stream *s = (struct h2_stream *)x;

    assert(!x->status);
    x->status = a->status;
    s->over = true;
    ut_buf_init(&s->unsent, SRV_HTTP_MAX_ANSWER);
    if (strcmp(x->method, "HEAD") == 0)
        free(a->body);
    else if (a->body)
        s->unsent = (struct ut_buf){.data = a->body,
                                    .len = a->len,
                                    .cap = a->len,
                                    .limit = SRV_HTTP_MAX_ANSWER};
    a->body = NULL;
    h2_hand_back(s);
    if (s->conn)
        submit(s, a);
    else
        end_orphan(s);
}

static void start_stream(struct srv_http_exchange *x, struct srv_http_answer *a)
{
    struct h2_stream *s = (struct h2_stream *)x;

    assert(!x->status && !a->body);
    x->status = a->status;
    s->streams = true;
    ut_buf_init(&s->unsent,
                s->duplex ? SRV_HTTP_MAX_ANSWER : SRV_HTTP_MAX_UNSENT);
    if (s->conn)
        submit(s, a);
}

/* The library is to ask again. */
static void wake(struct h2_stream *s)
{
    if (s->waits) {
        s->waits = false;
        nghttp2_session_resume_data(s->conn->session, s->id);
    }
    h2_pump_later(s->conn);
}

static bool write_stream(struct srv_http_exchange *x, const void *data,
                         size_t len)
{
    struct h2_stream *s = (struct h2_stream *)x;
    struct ut_buf *b = &s->unsent;
    struct ut_error e;

    assert(s->streams);
    if (s->over || x->cancelled)
        return false;
    if (s->unsent_at) {
        memmove(b->data, b->data + s->unsent_at, b->len - s->unsent_at);
        b->len -= s->unsent_at;
        s->unsent_at = 0;
    }
    if (!b->len) /* it is from now on that the client must read */
        s->since_us = ut_clock_us();
    if (ut_buf_add(b, data, len, &e))
        return false;
    wake(s);
    return true;
}

static void end_stream(struct srv_http_exchange *x)
{
    struct h2_stream *s = (struct h2_stream *)x;

    assert(s->streams);
    h2_hand_back(s);
    if (s->over)
        return;
    s->over = true;
    if (s->duplex)
        h2_enter(s, H2_ANSWERING);
    if (s->conn)
        wake(s);
    else
        end_orphan(s);
}

const struct srv_http_transport h2_transport = {
    .field = h2_field,
    .query = h2_query,
    .body_limit = h2_body_limit,
    .replace_body = h2_replace_body,
    .answer = answer,
    .stream = start_stream,
    .write = write_stream,
    .end = end_stream,
    .duplex = h2_duplex,
    .next = h2_next,
    .trailers = true,
};
