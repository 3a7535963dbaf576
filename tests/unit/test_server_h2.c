/* HTTP/2 frames in, frames out: limits, floods, ends. Real clients are in
 * tests/rpc. The client here is nghttp2's, over a blocking socket. */
#include <nghttp2/nghttp2.h>

#include "server/h2.h"
#include "tests/unit/server_http.h"

#define CLIENT_STREAMS 256

/* What a client has heard. */
static struct client {
    int fd;
    nghttp2_session *session;
    bool gone, goaway; /* its connection ended; it was told so */
    uint32_t goaway_error;
    int n_pongs;
    struct heard {
        int status, grpc;
        uint32_t reset;
        bool closed;
        size_t len;
        char body[512];
    } of[CLIENT_STREAMS]; /* by stream id / 2 */
} client;

static int on_frame(nghttp2_session *s, const nghttp2_frame *f, void *user)
{
    (void)s;
    (void)user;
    if (f->hd.type == NGHTTP2_GOAWAY) {
        client.goaway = true;
        client.goaway_error = f->goaway.error_code;
    } else if (f->hd.type == NGHTTP2_PING) {
        client.n_pongs++;
    }
    return 0;
}

static int on_header(nghttp2_session *s, const nghttp2_frame *f,
                     const uint8_t *name, size_t name_len, const uint8_t *value,
                     size_t value_len, uint8_t flags, void *user)
{
    struct heard *h = &client.of[f->hd.stream_id / 2 % CLIENT_STREAMS];

    (void)s;
    (void)name_len;
    (void)value_len;
    (void)flags;
    (void)user;
    if (strcmp((const char *)name, ":status") == 0)
        h->status = atoi((const char *)value);
    if (strcmp((const char *)name, "grpc-status") == 0)
        h->grpc = atoi((const char *)value);
    return 0;
}

static int on_data(nghttp2_session *s, uint8_t flags, int32_t id,
                   const uint8_t *data, size_t len, void *user)
{
    struct heard *h = &client.of[id / 2 % CLIENT_STREAMS];

    (void)s;
    (void)flags;
    (void)user;
    for (size_t i = 0; i < len && h->len + i < sizeof(h->body) - 1; i++)
        h->body[h->len + i] = (char)data[i];
    h->len += len;
    return 0;
}

static int on_close(nghttp2_session *s, int32_t id, uint32_t error, void *user)
{
    struct heard *h = &client.of[id / 2 % CLIENT_STREAMS];

    (void)s;
    (void)user;
    h->closed = true;
    h->reset = error;
    return 0;
}

static void connect_client(void)
{
    nghttp2_session_callbacks *cb;

    memset(&client, 0, sizeof(client));
    for (int i = 0; i < CLIENT_STREAMS; i++)
        client.of[i].grpc = -1;
    client.fd = dial_port(srv_h2_port(the.app.h2));
    assert_true(client.fd >= 0);
    nghttp2_session_callbacks_new(&cb);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
    assert_int_equal(nghttp2_session_client_new(&client.session, cb, NULL), 0);
    nghttp2_session_callbacks_del(cb);
    nghttp2_submit_settings(client.session, NGHTTP2_FLAG_NONE, NULL, 0);
}

static void leave(void)
{
    nghttp2_session_del(client.session);
    close(client.fd);
}

/* Sends what there is to send. */
static void flush(void)
{
    const uint8_t *data;
    ssize_t n;

    while ((n = nghttp2_session_mem_send(client.session, &data)) > 0)
        if (!put_n(client.fd, (const char *)data, (size_t)n))
            return;
}

/* Sends and reads once; false when the connection has ended. */
static bool turn(void)
{
    uint8_t bytes[16 * 1024];
    ssize_t n;

    flush();
    n = recv(client.fd, bytes, sizeof(bytes), 0);
    client.gone = n <= 0;
    if (n > 0)
        nghttp2_session_mem_recv(client.session, bytes, (size_t)n);
    return n > 0;
}

static struct heard *finish_stream(int32_t id)
{
    struct heard *h = &client.of[id / 2];

    while (!h->closed && turn())
        ;
    assert_true(h->closed);
    return h;
}

struct bytes {
    const char *data;
    size_t len;
};

static ssize_t on_body(nghttp2_session *s, int32_t id, uint8_t *out, size_t max,
                       uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct bytes *b = source->ptr;
    size_t n = b->len < max ? b->len : max;

    (void)s;
    (void)id;
    (void)user;
    memcpy(out, b->data, n);
    b->data += n;
    b->len -= n;
    if (!b->len)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

#define NV(n, v)                                                               \
    {                                                                          \
        (uint8_t *)(uintptr_t)(n), (uint8_t *)(uintptr_t)(v), strlen(n),       \
            strlen(v), NGHTTP2_NV_FLAG_NONE                                    \
    }

/* Asks; extra, if any, is one more field's value. *b lives until it is sent. */
static int32_t request(const char *path, const char *type, const char *extra,
                       struct bytes *b)
{
    nghttp2_data_provider body = {.source.ptr = b, .read_callback = on_body};
    nghttp2_nv nv[] = {
        NV(":method", b ? "POST" : "GET"), NV(":scheme", "http"),
        NV(":authority", "localhost"),     NV(":path", path),
        NV("content-type", type),          NV("x-extra", extra ? extra : ""),
    };

    return nghttp2_submit_request(client.session, NULL, nv, extra ? 6 : 5,
                                  b ? &body : NULL, NULL);
}

#define GRPC "application/grpc"
#define VERIFY "/tscaf.v1.DriverMonitor/Verify"
#define SEARCH "/tscaf.v1.DriverMonitor/Search"
#define WATCH "/tscaf.v1.Training/WatchJob"
/* VerifyRequest with pictures of 3 and 5 bytes, for which on_pair is "same",
 * in a frame */
static const char pair[] =
    "\0\0\0\0\x10\x0a\x05\x0a\x03yyy\x12\x07\x0a\x05zzzzz";
static const char none[] = "\0\0\0\0";

static struct bytes pair_bytes(void)
{
    return (struct bytes){pair, sizeof(pair) - 1};
}

static void start_h2(void)
{
    the.with_h2 = true;
    start();
    connect_client();
}

static void unary__answer_then_trailers(void **state)
{
    struct bytes b = pair_bytes(), empty = {none, 4};
    struct heard *h;

    (void)state;
    start_h2();
    h = finish_stream(request(VERIFY, GRPC, NULL, &b));
    assert_int_equal(h->status, 200);
    assert_int_equal(h->grpc, 0);
    assert_memory_equal(h->body + 5, "\x18\x01", 2); /* same: true */
    /* A frame that is cut off. */
    h = finish_stream(request(VERIFY, GRPC, NULL, &empty));
    assert_int_equal(h->status, 200);
    assert_int_equal(h->grpc, 3);
    assert_int_equal(h->len, 0);
    b = pair_bytes();
    h = finish_stream(request("/tscaf.v1.No/Such", GRPC, NULL, &b));
    assert_int_equal(h->grpc, 12);
    /* What else dispatch knows is here too. */
    h = finish_stream(request("/plain", "text/plain", NULL, NULL));
    assert_int_equal(h->status, 200);
    assert_string_equal(h->body, "plain");
    leave();
}

static void headers__at_limit_and_past_it(void **state)
{
    static char extra[SRV_HTTP_MAX_HEADER_BYTES];
    /* Names, values and 32 for each of six fields. */
    size_t others = 7 + 3 + 7 + 4 + 10 + 9 + 5 + 6 + 12 + 10 + 7 + 6 * 32;
    struct heard *h;

    (void)state;
    memset(extra, 'x', sizeof(extra));
    extra[SRV_HTTP_MAX_HEADER_BYTES - others] = '\0';
    start_h2();
    h = finish_stream(request("/plain", "text/plain", extra, NULL));
    assert_int_equal(h->status, 200);
    extra[SRV_HTTP_MAX_HEADER_BYTES - others] = 'x';
    extra[SRV_HTTP_MAX_HEADER_BYTES - others + 1] = '\0';
    h = finish_stream(request("/plain", "text/plain", extra, NULL));
    assert_int_equal(h->status, 431);
    leave();
}

static void body__at_limit_and_past_it(void **state)
{
    static char big[BODY_LIMIT + 1];
    struct bytes b = {big, BODY_LIMIT};
    struct heard *h;

    (void)state;
    memset(big, 0, sizeof(big));
    start_h2();
    h = finish_stream(request(VERIFY, GRPC, NULL, &b));
    assert_int_equal(h->grpc, 3); /* it was read, and is no message */
    b = (struct bytes){big, BODY_LIMIT + 1};
    h = finish_stream(request(VERIFY, GRPC, NULL, &b));
    assert_int_equal(h->grpc, 8);
    assert_true(counted("tscaf_rejections_total{reason=\"body_too_large\"} 1"));
    leave();
}

/* GOAWAY is lost where the client's bytes meet a closed socket. */
static void told_to_calm_down(void)
{
    while (turn())
        ;
    UNTIL(!counted("tscaf_rejections_total{reason=\"headers\"} 0"));
    if (client.goaway)
        assert_int_equal(client.goaway_error, NGHTTP2_ENHANCE_YOUR_CALM);
}

static void resets__many_at_once__told_to_go_away(void **state)
{
    (void)state;
    start_h2();
    for (int i = 0; i < 2 * SRV_H2_BURST + 100; i++) {
        struct bytes b = {none, 4};
        int32_t id = request(SEARCH, GRPC, NULL, &b);

        flush();
        nghttp2_submit_rst_stream(client.session, NGHTTP2_FLAG_NONE, id,
                                  NGHTTP2_CANCEL);
        flush();
        if (client.gone)
            break;
    }
    told_to_calm_down();
    leave();
}

static void pings__a_few_answered_a_flood_ends(void **state)
{
    (void)state;
    start_h2();
    for (int i = 0; i < 100; i++)
        nghttp2_submit_ping(client.session, NGHTTP2_FLAG_NONE, NULL);
    while (client.n_pongs < 100 && turn())
        ;
    assert_false(client.goaway);
    for (int i = 0; i < 2 * SRV_H2_BURST; i++) {
        nghttp2_submit_ping(client.session, NGHTTP2_FLAG_NONE, NULL);
        flush();
    }
    told_to_calm_down();
    leave();
}

static void call__client_resets__cancelled_and_answered_to_nobody(void **state)
{
    struct bytes b = {"\0\0\0\0\0", 5};
    int32_t id;

    (void)state;
    start_h2();
    id = request(SEARCH, GRPC, NULL, &b);
    flush();
    UNTIL(atomic_load(&the.n_held) == 1);
    nghttp2_submit_rst_stream(client.session, NGHTTP2_FLAG_NONE, id,
                              NGHTTP2_CANCEL);
    flush();
    UNTIL(__atomic_load_n(&the.held[0]->cancelled, __ATOMIC_RELAXED));
    ask(do_release);
    /* And with its connection. */
    b = (struct bytes){"\0\0\0\0\0", 5};
    request(SEARCH, GRPC, NULL, &b);
    flush();
    UNTIL(atomic_load(&the.n_held) == 1);
    leave();
    UNTIL(__atomic_load_n(&the.held[0]->cancelled, __ATOMIC_RELAXED));
    ask(do_release);
}

static void stream__slow_reader__writes_refused_then_left(void **state)
{
    struct bytes b = {"\0\0\0\0\0", 5};

    (void)state;
    start_h2();
    request(WATCH, GRPC, NULL, &b);
    flush();
    UNTIL(atomic_load(&the_stream.there));
    the_stream.n = 100000; /* the client gives no more windows */
    ask(do_send);
    assert_in_range(atomic_load(&the_stream.sent), 100, 99999);
    leave();
    UNTIL(atomic_load(&the_stream.left));
}

static void stream__messages_then_end(void **state)
{
    struct bytes b = {"\0\0\0\0\0", 5};
    struct heard *h;
    int32_t id;

    (void)state;
    start_h2();
    id = request(WATCH, GRPC, NULL, &b);
    flush();
    UNTIL(atomic_load(&the_stream.there));
    the_stream.n = 3;
    ask(do_send);
    ask(do_end);
    h = finish_stream(id);
    assert_int_equal(h->len, 3 * (5 + 22));
    assert_int_equal(h->grpc, 0);
    leave();
}

static void drain__answers_what_was_asked(void **state)
{
    struct bytes b = {"\0\0\0\0\0", 5};
    int32_t id;

    (void)state;
    start_h2();
    id = request(SEARCH, GRPC, NULL, &b);
    flush();
    UNTIL(atomic_load(&the.n_held) == 1);
    ask(do_drain_h2);
    while (!client.goaway && turn())
        ;
    assert_false(atomic_load(&the.drained));
    ask(do_release);
    assert_int_equal(finish_stream(id)->grpc, 0);
    while (turn())
        ;
    UNTIL(atomic_load(&the.drained));
    leave();
}

static void other_bytes__connection_ends(void **state)
{
    static const char *const rows[] = {
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnothing like a frame at all, no, none",
    };
    char byte[4096];

    (void)state;
    start_h2();
    for (size_t i = 0; i < 2; i++) {
        int fd = dial_port(srv_h2_port(the.app.h2));

        put_n(fd, rows[i], strlen(rows[i]));
        while (recv(fd, byte, sizeof(byte), 0) > 0)
            ;
        close(fd);
    }
    leave();
}

static void silent__cut(void **state)
{
    char byte[4096];
    int fd;

    (void)state;
    the.http.header_timeout_ms = 200;
    start_h2();
    fd = dial_port(srv_h2_port(the.app.h2));
    while (recv(fd, byte, sizeof(byte), 0) > 0)
        ;
    UNTIL(!counted("tscaf_rejections_total{reason=\"slow\"} 0"));
    close(fd);
    leave();
}

#define T(name) cmocka_unit_test_setup_teardown(name, prepare, finish)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(unary__answer_then_trailers),
        T(headers__at_limit_and_past_it),
        T(body__at_limit_and_past_it),
        T(resets__many_at_once__told_to_go_away),
        T(pings__a_few_answered_a_flood_ends),
        T(call__client_resets__cancelled_and_answered_to_nobody),
        T(stream__slow_reader__writes_refused_then_left),
        T(stream__messages_then_end),
        T(drain__answers_what_was_asked),
        T(other_bytes__connection_ends),
        T(silent__cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
