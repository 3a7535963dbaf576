/* Messages of a duplex stream: how they come, wait, and end. Real clients are
 * in tests/rpc. */
#include "tests/unit/h2_client.h"

/* Answered at once, and when a test lets go. */
#define PICTURES "/tscaf.v1.DriverMonitor/AnalyzeStream"
#define HELD "/tscaf.v1.DriverMonitor/SearchStream"

/* An AnalyzeRequest with a picture of 3 bytes, an empty SearchRequest. */
static const char picture[] = "\0\0\0\0\7\x0a\5\x0a\3yyy";
static const char search[] = "\0\0\0\0";
#define PICTURE_LEN (sizeof(picture) - 1)
#define SEARCH_LEN sizeof(search)

/* Opens a stream that waits for its first message. */
static int32_t open_stream(const char *path, struct bytes *b)
{
    int32_t id;

    *b = (struct bytes){NULL, 0, true};
    id = request(path, GRPC, NULL, b);
    flush();
    return id;
}

/* How many frames answer a stream so far, each of the same length. */
static size_t answers(int32_t id)
{
    const struct heard *h = &client.of[id / 2];
    size_t one = h->len >= 5 ? 5 + (unsigned char)h->body[4] : 1;

    assert_int_equal(h->len % one, 0);
    return h->len / one;
}

static void wait_for(int32_t id, size_t n)
{
    while (answers(id) < n && turn())
        ;
    assert_int_equal(answers(id), n);
}

static void message__byte_by_byte__answered_when_whole(void **state)
{
    struct bytes b;
    int32_t id;

    (void)state;
    start_h2();
    id = open_stream(PICTURES, &b);
    for (size_t n = 1; n <= 2; n++) {
        for (size_t i = 0; i < PICTURE_LEN; i++) {
            assert_int_equal(answers(id), n - 1);
            more(id, &b, picture + i, 1, true);
        }
        wait_for(id, n);
    }
    more(id, &b, NULL, 0, false);
    assert_int_equal(finish_stream(id)->grpc, 0);
    leave();
}

static void messages__two_and_a_half_at_once__answered_in_turn(void **state)
{
    char bytes[3 * PICTURE_LEN];
    size_t half = 2 * PICTURE_LEN + 4;
    struct bytes b;
    int32_t id;

    (void)state;
    for (int i = 0; i < 3; i++)
        memcpy(bytes + (size_t)i * PICTURE_LEN, picture, PICTURE_LEN);
    start_h2();
    id = open_stream(PICTURES, &b);
    more(id, &b, bytes, half, true);
    wait_for(id, 2);
    more(id, &b, bytes + half, sizeof(bytes) - half, false);
    assert_int_equal(finish_stream(id)->grpc, 0);
    assert_int_equal(answers(id), 3);
    leave();
}

static void message__while_one_is_at_work__waits_for_it(void **state)
{
    char bytes[2 * SEARCH_LEN] = "";
    struct bytes b;
    int32_t id;

    (void)state;
    start_h2();
    id = open_stream(HELD, &b);
    more(id, &b, bytes, sizeof(bytes), false); /* and the end behind it */
    UNTIL(atomic_load(&the.n_held) == 1);
    settle();
    assert_int_equal(atomic_load(&the.n_held), 1);
    ask(do_release);
    UNTIL(atomic_load(&the.n_held) == 1);
    assert_false(client.of[id / 2].closed);
    ask(do_release);
    assert_int_equal(finish_stream(id)->grpc, 0);
    assert_int_equal(answers(id), 2);
    leave();
}

static void inbox__at_limit_of_all_bodies_and_past_it(void **state)
{
    static char bytes[16 * 1024 + 1];
    struct bytes b;
    int32_t id;

    (void)state;
    /* The message at work has 16 KiB, and what waits may have as much. */
    the.http.max_total_bytes = 32 * 1024;
    start_h2();
    id = open_stream(HELD, &b);
    more(id, &b, search, SEARCH_LEN, true);
    UNTIL(atomic_load(&the.n_held) == 1);
    more(id, &b, bytes, sizeof(bytes) - 1, true);
    settle();
    assert_false(client.of[id / 2].closed);
    more(id, &b, bytes, 1, true);
    assert_int_equal(finish_stream(id)->reset, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_true(counted("tscaf_rejections_total{reason=\"bytes\"} 1"));
    ask(do_release); /* to nobody */
    UNTIL(counted("tscaf_body_bytes 0"));
    leave();
}

static void ends__each_with_its_words(void **state)
{
    const struct {
        const char *bytes;
        size_t len;
        int grpc;
        const char *why;
    } rows[] = {
        {NULL, 0, 0, ""},
        {picture, PICTURE_LEN, 0, ""},
        {picture, PICTURE_LEN - 1, 3, "cut off"},
        {picture, 1, 3, "cut off"},
        /* 256 KiB with its head, and one byte more. */
        {"\0\0\3\xff\xfb", 5, 3, "cut off"},
        {"\0\0\3\xff\xfc", 5, 8, "262145 bytes, the limit is 262144"},
        {"\0\xff\xff\xff\xff", 5, 8, "4294967300 bytes"},
        {"\0\0\0\0\1\xff", 6, 3, ""}, /* no message */
    };

    (void)state;
    start_h2();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct bytes b;
        int32_t id = open_stream(PICTURES, &b);
        struct heard *h;

        more(id, &b, rows[i].bytes, rows[i].len, false);
        h = finish_stream(id);
        if (h->grpc != rows[i].grpc || !strstr(h->why, rows[i].why))
            fail_msg("row %zu: %d, %s", i, h->grpc, h->why);
    }
    leave();
}

static void message__broken__ends_what_was_answered(void **state)
{
    char bytes[PICTURE_LEN + 6] = "";
    struct bytes b;
    int32_t id;

    (void)state;
    memcpy(bytes, picture, PICTURE_LEN);
    memcpy(bytes + PICTURE_LEN, "\0\0\0\0\1\xff", 6);
    start_h2();
    id = open_stream(PICTURES, &b);
    more(id, &b, bytes, sizeof(bytes), true);
    assert_int_equal(finish_stream(id)->grpc, 3);
    assert_int_equal(answers(id), 1);
    leave();
}

static void client__leaves_while_one_is_at_work__cancelled(void **state)
{
    struct bytes b;
    int32_t id;

    (void)state;
    start_h2();
    id = open_stream(HELD, &b);
    more(id, &b, search, SEARCH_LEN, true);
    UNTIL(atomic_load(&the.n_held) == 1);
    nghttp2_submit_rst_stream(client.session, NGHTTP2_FLAG_NONE, id,
                              NGHTTP2_CANCEL);
    flush();
    UNTIL(__atomic_load_n(&the.held[0]->cancelled, __ATOMIC_RELAXED));
    ask(do_release);
    id = open_stream(PICTURES, &b); /* the connection goes on */
    more(id, &b, picture, PICTURE_LEN, false);
    assert_int_equal(finish_stream(id)->grpc, 0);
    /* One at rest, and its connection with it. */
    open_stream(PICTURES, &b);
    settle();
    leave();
    UNTIL(counted("tscaf_connections 0"));
}

/* What ends a stream that waits for a message, or for the rest of one. */
static struct heard *rests(const char *timeout, size_t n)
{
    static struct bytes b;
    int32_t id;

    b = (struct bytes){picture, n, true};
    id = request_with(PICTURES, GRPC, "grpc-timeout", timeout, &b);
    return finish_stream(id);
}

static void rests__past_its_deadline__ended(void **state)
{
    struct heard *h;

    (void)state;
    start_h2();
    h = rests("200m", 0);
    assert_int_equal(h->grpc, 4);
    has(h->why, "deadline");
    h = rests("200m", PICTURE_LEN); /* after an answer */
    assert_int_equal(h->grpc, 4);
    assert_true(h->len > 0);
    leave();
}

static void rests__too_long__ended(void **state)
{
    struct heard *h;

    (void)state;
    the.http.idle_timeout_ms = 300;
    the.http.request_timeout_ms = 600;
    start_h2();
    h = rests(NULL, 0);
    assert_int_equal(h->grpc, 4);
    has(h->why, "for 300 ms");
    h = rests(NULL, 3);
    assert_int_equal(h->grpc, 4);
    has(h->why, "for 600 ms");
    leave();
}

static void drain__rests_or_works__ended_or_answered(void **state)
{
    struct bytes b, w;
    int32_t resting, working;
    struct heard *h;

    (void)state;
    start_h2();
    resting = open_stream(PICTURES, &b);
    working = open_stream(HELD, &w);
    more(working, &w, search, SEARCH_LEN, false);
    UNTIL(atomic_load(&the.n_held) == 1);
    ask(do_drain_h2);
    h = finish_stream(resting);
    assert_int_equal(h->grpc, 14);
    has(h->why, "draining");
    assert_false(atomic_load(&the.drained));
    ask(do_release);
    assert_int_equal(finish_stream(working)->grpc, 0);
    UNTIL(atomic_load(&the.drained));
    leave();
}

#define T(name) cmocka_unit_test_setup_teardown(name, prepare, finish)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(message__byte_by_byte__answered_when_whole),
        T(messages__two_and_a_half_at_once__answered_in_turn),
        T(message__while_one_is_at_work__waits_for_it),
        T(inbox__at_limit_of_all_bodies_and_past_it),
        T(ends__each_with_its_words),
        T(message__broken__ends_what_was_answered),
        T(client__leaves_while_one_is_at_work__cancelled),
        T(rests__past_its_deadline__ended),
        T(rests__too_long__ended),
        T(drain__rests_or_works__ended_or_answered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
