/* HTTP/2 frames in, frames out: limits, floods, ends. Real clients are in
 * tests/rpc. */
#include "tests/unit/h2_client.h"

static void unary__answer_then_trailers(void **state)
{
    struct bytes b = pair_bytes(), empty = {none, 4, false};
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

static void path__past_the_limit__431(void **state)
{
    static char path[SRV_HTTP_MAX_HEADER_BYTES + 1024];
    int32_t id;

    (void)state;
    memset(path, '/', sizeof(path) - 1);
    start_h2();
    id = request(path, "text/plain", NULL, NULL);
    assert_int_equal(finish_stream(id)->status, 431);
    leave();
}

/* A request that is none costs others on its connection nothing. */
static void header__malformed__its_stream_alone_ends(void **state)
{
    nghttp2_nv nv[] = {NV(":method", "GET"), NV(":scheme", "http"),
                       NV(":authority", "localhost")}; /* and no path */
    struct bytes b = {"\0\0\0\0\0", 5, false};
    int32_t held, bad;

    (void)state;
    the.http.header_timeout_ms = 200;
    start_h2();
    held = request(SEARCH, GRPC, NULL, &b);
    flush();
    UNTIL(atomic_load(&the.n_held) == 1);
    bad = nghttp2_submit_request(client.session, NULL, nv, 3, NULL, NULL);
    assert_int_equal(finish_stream(bad)->reset, NGHTTP2_PROTOCOL_ERROR);
    usleep(600000); /* past the time-out */
    assert_true(counted("tscaf_rejections_total{reason=\"slow\"} 0"));
    ask(do_release);
    assert_int_equal(finish_stream(held)->grpc, 0);
    leave();
}

/* An answer that is taken a byte now and then is not held for ever, nor what
 * asked for it. */
static void answer__taken_too_slowly__cut(void **state)
{
    struct heard *h;
    int32_t id;

    (void)state;
    the.http.request_timeout_ms = 400;
    client_holds_windows = true;
    start_h2();
    client_holds_windows = false;
    nghttp2_submit_settings(
        client.session, NGHTTP2_FLAG_NONE,
        &(nghttp2_settings_entry){NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1}, 1);
    settle();
    id = request("/plain", "text/plain", NULL, NULL);
    h = &client.of[id / 2];
    for (int i = 0; i < 5 && !h->closed; i++) {
        settle();
        usleep(300000);
        nghttp2_submit_window_update(client.session, NGHTTP2_FLAG_NONE, id, 1);
    }
    assert_int_equal(finish_stream(id)->reset, NGHTTP2_CANCEL);
    leave();
}

static void body__at_limit_and_past_it(void **state)
{
    static char big[BODY_LIMIT + 1];
    struct bytes b = {big, BODY_LIMIT, false};
    struct heard *h;

    (void)state;
    memset(big, 0, sizeof(big));
    start_h2();
    h = finish_stream(request(VERIFY, GRPC, NULL, &b));
    assert_int_equal(h->grpc, 3); /* it was read, and is no message */
    b = (struct bytes){big, BODY_LIMIT + 1, false};
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
        struct bytes b = {none, 4, false};
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
    struct bytes b = {"\0\0\0\0\0", 5, false};
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
    b = (struct bytes){"\0\0\0\0\0", 5, false};
    request(SEARCH, GRPC, NULL, &b);
    flush();
    UNTIL(atomic_load(&the.n_held) == 1);
    leave();
    UNTIL(__atomic_load_n(&the.held[0]->cancelled, __ATOMIC_RELAXED));
    ask(do_release);
}

static void stream__slow_reader__writes_refused_then_left(void **state)
{
    struct bytes b = {"\0\0\0\0\0", 5, false};

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
    struct bytes b = {"\0\0\0\0\0", 5, false};
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
    struct bytes b = {"\0\0\0\0\0", 5, false};
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

static void streams__at_limit_and_past_it(void **state)
{
    static struct bytes b[SRV_H2_MAX_STREAMS + 1];
    int32_t ids[SRV_H2_MAX_STREAMS + 1];

    (void)state;
    start_h2();
    for (int i = 0; i <= SRV_H2_MAX_STREAMS; i++) { /* before it was told */
        b[i] = (struct bytes){"\0\0\0\0\0", 5, false};
        ids[i] = request(SEARCH, GRPC, NULL, &b[i]);
    }
    assert_int_equal(finish_stream(ids[SRV_H2_MAX_STREAMS])->reset,
                     NGHTTP2_REFUSED_STREAM);
    UNTIL(atomic_load(&the.n_held) == SRV_H2_MAX_STREAMS);
    ask(do_release);
    for (int i = 0; i < SRV_H2_MAX_STREAMS; i++)
        assert_int_equal(finish_stream(ids[i])->grpc, 0);
    b[0] = (struct bytes){"\0\0\0\0\0", 5, false};
    ids[0] = request(SEARCH, GRPC, NULL, &b[0]); /* there is room again */
    flush();
    UNTIL(atomic_load(&the.n_held) == 1);
    ask(do_release);
    assert_int_equal(finish_stream(ids[0])->grpc, 0);
    leave();
}

static void idle__connection_rests__told_to_go_away(void **state)
{
    struct bytes b = {"\0\0\0\0\0", 5, false};
    int32_t id;

    (void)state;
    the.http.idle_timeout_ms = 200;
    start_h2();
    id = request(SEARCH, GRPC, NULL, &b);
    flush();
    UNTIL(atomic_load(&the.n_held) == 1);
    usleep(500 * 1000); /* it works, and so does not rest */
    settle();
    assert_false(client.goaway);
    ask(do_release);
    assert_int_equal(finish_stream(id)->grpc, 0);
    while (turn())
        ;
    assert_true(client.goaway);
    assert_int_equal(client.goaway_error, NGHTTP2_NO_ERROR);
    UNTIL(counted("tscaf_connections 0"));
    leave();
}

#define T(name) cmocka_unit_test_setup_teardown(name, prepare, finish)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(unary__answer_then_trailers),
        T(headers__at_limit_and_past_it),
        T(path__past_the_limit__431),
        T(header__malformed__its_stream_alone_ends),
        T(answer__taken_too_slowly__cut),
        T(body__at_limit_and_past_it),
        T(resets__many_at_once__told_to_go_away),
        T(pings__a_few_answered_a_flood_ends),
        T(call__client_resets__cancelled_and_answered_to_nobody),
        T(stream__slow_reader__writes_refused_then_left),
        T(stream__messages_then_end),
        T(drain__answers_what_was_asked),
        T(other_bytes__connection_ends),
        T(silent__cut),
        T(streams__at_limit_and_past_it),
        T(idle__connection_rests__told_to_go_away),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
