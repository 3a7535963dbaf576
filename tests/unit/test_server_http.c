/* HTTP over real sockets: framing, limits, suspended calls, draining. */
#include <curl/curl.h>

#include "tests/unit/server_http.h"

#define HOLD "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n"

static size_t on_text(char *data, size_t size, size_t n, void *arg)
{
    char *text = arg;
    size_t len = strlen(text);

    assert_true(len + size * n < 4096);
    memcpy(text + len, data, size * n);
    text[len + size * n] = '\0';
    return size * n;
}

static CURL *client(const char *path, char *text)
{
    CURL *c = curl_easy_init();
    char url[128];

    snprintf(url, sizeof(url), "http://127.0.0.1:%d%s",
             srv_http_port(the.app.http), path);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_text);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, text);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, 60L);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    return c;
}

static long number(CURL *c, CURLINFO what)
{
    long n = -1;

    curl_easy_getinfo(c, what, &n);
    return n;
}

/* ---- Connections and bodies ---- */

static void keep_alive__three_requests__one_connection(void **state)
{
    char text[4096] = "";
    CURL *c;

    (void)state;
    start();
    c = client("/plain", text);
    for (int i = 0; i < 3; i++) {
        text[0] = '\0';
        assert_int_equal(curl_easy_perform(c), CURLE_OK);
        assert_int_equal(number(c, CURLINFO_RESPONSE_CODE), 200);
        assert_string_equal(text, "plain");
        assert_int_equal(number(c, CURLINFO_NUM_CONNECTS), i == 0);
    }
    curl_easy_cleanup(c);
}

static size_t give_json(char *out, size_t size, size_t n, void *arg)
{
    size_t *sent = arg, k = *sent < 5 ? 1 : 0;
    const char *const pieces[] = {"{", "\"name", "\":\"", "Ada", "\"}"};

    if (!k)
        return 0;
    assert_true(size * n > 16);
    strcpy(out, pieces[*sent]);
    return strlen(pieces[(*sent)++]);
}

static void chunked__pieces_of_json__put_together(void **state)
{
    struct curl_slist *fields =
        curl_slist_append(NULL, "Content-Type: application/json");
    char text[4096] = "";
    size_t sent = 0;
    CURL *c;

    (void)state;
    start();
    c = client("/echo/id_7", text);
    curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, "PATCH");
    curl_easy_setopt(c, CURLOPT_READFUNCTION, give_json);
    curl_easy_setopt(c, CURLOPT_READDATA, &sent);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, fields);
    assert_int_equal(curl_easy_perform(c), CURLE_OK);
    assert_int_equal(number(c, CURLINFO_RESPONSE_CODE), 201);
    has(text, "\"id\":\"id_7\"");
    has(text, "\"name\":\"Ada\"");
    curl_easy_cleanup(c);
    curl_slist_free_all(fields);
}

static void post_picture(int fd, size_t len)
{
    char head[256], *body = malloc(len);

    memset(body, 'x', len);
    snprintf(head, sizeof(head),
             "POST /pictures HTTP/1.1\r\n" HOST
             "Content-Type: image/jpeg\r\nContent-Length: %zu\r\n\r\n",
             len);
    assert_true(put(fd, head));
    put_n(fd, body, len); /* may fail: a refused one is not read */
    free(body);
}

static void body__at_the_limit_and_one_past__200_and_413(void **state)
{
    char want[64], *answer;
    int fd;

    (void)state;
    start();
    fd = dial();
    post_picture(fd, BODY_LIMIT);
    answer = take(fd, false);
    is_status(answer, 200);
    snprintf(want, sizeof(want), "\"width\":%d,\"height\":120", BODY_LIMIT);
    has(answer, want);
    /* One past: taken for nothing, so that its sender reads why. */
    post_picture(fd, BODY_LIMIT + 1);
    answer = take(fd, false);
    is_status(answer, 413);
    has(answer, "resource_exhausted");
    snprintf(want, sizeof(want), "%d bytes, the limit is %d", BODY_LIMIT + 1,
             BODY_LIMIT);
    has(answer, want);
    assert_true(counted("reason=\"body_too_large\"} 1"));
    post_picture(fd, BODY_LIMIT + SRV_HTTP_DRAIN_BYTES);
    is_status(take(fd, false), 413);
    post_picture(fd, 1);
    is_status(take(fd, false), 200);
    close(fd);
    /* Far past: the answer does not wait for the body. */
    fd = dial();
    snprintf(want, sizeof(want), "Content-Length: %d\r\n\r\n",
             BODY_LIMIT + SRV_HTTP_DRAIN_BYTES + 1);
    assert_true(put(fd, "POST /pictures HTTP/1.1\r\n" HOST
                        "Content-Type: image/jpeg\r\n"));
    assert_true(put(fd, want));
    is_status(take(fd, false), 413);
    assert_true(ended(fd));
    close(fd);
    assert_true(counted("reason=\"body_too_large\"} 3"));
}

/* A chunked picture of n chunks of 16 KiB. */
static bool post_chunks(int fd, int n)
{
    static char chunk[16 * 1024];
    bool sent;

    memset(chunk, 'y', sizeof(chunk));
    sent = put(fd, "POST /pictures HTTP/1.1\r\n" HOST "Content-Type: image/png"
                   "\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; sent && i < n; i++)
        sent = put(fd, "4000\r\n") && put_n(fd, chunk, sizeof(chunk)) &&
               put(fd, "\r\n");
    return sent && put(fd, "0\r\n\r\n");
}

static void chunked_body__at_one_past_and_far_past__200_413_cut(void **state)
{
    int n = BODY_LIMIT / (16 * 1024), fd;

    (void)state;
    start();
    fd = dial();
    assert_true(post_chunks(fd, n));
    is_status(take(fd, false), 200);
    assert_true(post_chunks(fd, n + 1)); /* drained: the connection lives */
    is_status(take(fd, false), 413);
    assert_true(put(fd, "GET /plain HTTP/1.1\r\n" HOST "\r\n"));
    is_status(take(fd, false), 200);
    post_chunks(fd, n + 1000);
    assert_true(ended(fd));
    close(fd);
}

static void bodies_in_memory__past_their_sum__503(void **state)
{
    char *answer;
    int first, second;

    (void)state;
    the.http.max_total_bytes = 300 * 1024;
    start();
    first = dial();
    assert_true(put(first, "POST /hold HTTP/1.1\r\n" HOST
                           "Content-Type: image/jpeg\r\n"
                           "Content-Length: 200000\r\n\r\n"));
    for (int i = 0; i < 2000; i++)
        assert_true(put_n(first,
                          "0123456789012345678901234567890123456789"
                          "0123456789012345678901234567890123456789"
                          "01234567890123456789",
                          100));
    UNTIL(atomic_load(&the.n_held) == 1);
    second = dial();
    post_picture(second, 200000);
    answer = take(second, false);
    is_status(answer, 503);
    has(answer, "Retry-After: 1");
    close(second);
    assert_true(counted("reason=\"bytes\"} 1"));
    ask(do_release);
    is_status(take(first, false), 200);
    close(first);
    UNTIL(counted("tscaf_body_bytes 0"));
    second = dial();
    post_picture(second, 200000);
    is_status(take(second, false), 200);
    close(second);
}

static void framing__ambiguous__400_and_closed(void **state)
{
    const char *const requests[] = {
        "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
        "2\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
        "2\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip\r\n\r\n{}",
        "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    };

    (void)state;
    start();
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        int fd = dial();
        char *answer;

        assert_true(put(fd, "POST /hold HTTP/1.1\r\n" HOST
                            "Content-Type: application/json\r\n"));
        assert_true(put(fd, requests[i]));
        answer = take(fd, false);
        is_status(answer, 400);
        has(answer, "invalid_argument");
        assert_true(ended(fd));
        close(fd);
    }
    assert_int_equal(atomic_load(&the.n_held), 0);
}

static void request_line_and_host__wrong__400_and_closed(void **state)
{
    const struct {
        const char *request;
        int status;
    } rows[] = {
        {"GET /plain HTTP/1.1\r\n\r\n", 400},
        {"GET /plain HTTP/1.1\r\n" HOST HOST "\r\n", 400},
        {"GET /pl ain HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET /plain%00 HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET /plain HTTP/1.0\r\n\r\n", 200}, /* which knows no Host */
    };

    (void)state;
    start();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int fd = dial();
        char *answer;

        assert_true(put(fd, rows[i].request));
        answer = take(fd, false);
        is_status(answer, rows[i].status);
        if (rows[i].status == 400)
            has(answer, "\"code\":\"invalid_argument\"");
        assert_true(ended(fd));
        close(fd);
    }
}

static void content_length__not_a_size__refused_in_our_shape(void **state)
{
    const struct {
        const char *length;
        int status;
    } rows[] = {
        {"x", 400},
        {"-1", 400},
        {"+1", 400},
        {"", 400},
        {"1 2", 400},
        {"0x10", 400},
        {"9223372036854775807", 413},
        {"18446744073709551615", 413},
        {"18446744073709551616", 413},
        {"99999999999999999999999999", 413},
    };

    (void)state;
    start();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int fd = dial();
        char text[256], *answer;

        snprintf(text, sizeof(text),
                 "POST /hold HTTP/1.1\r\n" HOST "Content-Length: %s\r\n\r\n",
                 rows[i].length);
        assert_true(put(fd, text));
        answer = take(fd, false);
        is_status(answer, rows[i].status);
        has(answer, "{\"code\":\"");
        assert_true(ended(fd));
        close(fd);
    }
    assert_int_equal(atomic_load(&the.n_held), 0);
}

/* What else the library refuses by itself, before it asks us: in words of its
 * own, but refused and closed. */
static void framing__the_librarys_own_refusals__closed(void **state)
{
    const struct {
        const char *request;
        int status;
    } rows[] = {
        {"POST /hold HTTP/1.1\r\n" HOST
         "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
         400},
        {"GET /plain HTTP/1.1\r\n" HOST "no colon\r\n\r\n", 400},
        {"GET /plain HTTP/3.0\r\n" HOST "\r\n", 505},
    };

    (void)state;
    start();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int fd = dial();

        assert_true(put(fd, rows[i].request));
        is_status(take(fd, false), rows[i].status);
        assert_true(ended(fd));
        close(fd);
    }
    assert_int_equal(atomic_load(&the.n_held), 0);
}

static void expect__continue_or_refusal__before_the_body(void **state)
{
    char *answer;
    int fd;

    (void)state;
    start();
    fd = dial();
    assert_true(put(fd, "PATCH /echo/a HTTP/1.1\r\n" HOST
                        "Expect: 100-continue\r\nContent-Length: 2\r\n"
                        "Content-Type: application/json\r\n\r\n"));
    is_status(take(fd, false), 100);
    assert_true(put(fd, "{}"));
    is_status(take(fd, false), 201);
    /* A refusal comes instead of 100, and ends the connection. */
    assert_true(put(fd, "PATCH /nowhere HTTP/1.1\r\n" HOST
                        "Expect: 100-continue\r\nContent-Length: 2\r\n"
                        "Content-Type: application/json\r\n\r\n"));
    answer = take(fd, false);
    is_status(answer, 404);
    has(answer, "Connection: close");
    assert_true(ended(fd));
    close(fd);
}

static void early_refusal__small_body__connection_lives(void **state)
{
    int fd;

    (void)state;
    start();
    fd = dial();
    for (int i = 0; i < 3; i++) {
        assert_true(put(fd, "POST /nowhere HTTP/1.1\r\n" HOST
                            "Content-Length: 5\r\n\r\nGET /"));
        is_status(take(fd, false), 404);
    }
    assert_true(put(fd, "GET /plain HTTP/1.1\r\n" HOST "\r\n"));
    is_status(take(fd, false), 200);
    close(fd);
}

static void head__of_get_routes__no_body(void **state)
{
    char *answer;
    int fd;

    (void)state;
    start();
    fd = dial();
    assert_true(put(fd, "HEAD /plain HTTP/1.1\r\n" HOST "\r\n"));
    answer = take(fd, true);
    is_status(answer, 200);
    has(answer, "Content-Length: 5");
    /* Had there been a body, it would be in front of this. */
    assert_true(put(fd, "HEAD /a/1/b/2/crop HTTP/1.1\r\n" HOST "\r\n"));
    answer = take(fd, true);
    is_status(answer, 200);
    has(answer, "image/png");
    assert_true(put(fd, "HEAD /pictures HTTP/1.1\r\n" HOST "\r\n"));
    is_status(take(fd, true), 405);
    close(fd);
}

static void header__past_its_limit__431(void **state)
{
    size_t len = 3 * SRV_HTTP_MAX_HEADER_BYTES;
    char *big = malloc(len + 1), *answer;

    (void)state;
    start();
    memset(big, 'h', len);
    for (size_t n = SRV_HTTP_MAX_HEADER_BYTES - 512;
         n <= SRV_HTTP_MAX_HEADER_BYTES; n += 512) {
        int fd = dial();

        assert_true(put(fd, "GET /plain HTTP/1.1\r\n" HOST "X-Big: "));
        assert_true(put_n(fd, big, n) && put(fd, "\r\n\r\n"));
        answer = take(fd, false);
        if (n < SRV_HTTP_MAX_HEADER_BYTES) {
            is_status(answer, 200);
        } else {
            is_status(answer, 431);
            has(answer, "resource_exhausted");
        }
        close(fd);
    }
    big[len] = '\0';
    free(big);
}

static void request_id__good_and_bad__echoed_or_made(void **state)
{
    const struct {
        const char *sent;
        bool kept;
    } rows[] = {
        {"abc-DEF_0.9", true},
        {"0123456789abcdef0123456789abcdef", true},
        {"0123456789abcdef0123456789abcdef0", false},
        {"bad id", false},
        {"\"quoted\"", false},
        {"", false},
    };

    (void)state;
    start();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char request[256], *answer, *id;

        snprintf(request, sizeof(request),
                 "POST /pictures HTTP/1.1\r\n" HOST
                 "X-Request-Id: %s\r\nContent-Length: 0\r\n\r\n",
                 rows[i].sent);
        answer = once(request);
        is_status(answer, 200);
        id = strstr(answer, "X-Request-Id: ");
        assert_non_null(id);
        id += 14;
        if (rows[i].kept)
            assert_memory_equal(id, rows[i].sent, strlen(rows[i].sent));
        else
            assert_int_equal(strspn(id, "0123456789abcdef"), 32);
        id[strcspn(id, "\r")] = '\0';
        snprintf(request, sizeof(request), "\"request_id\":\"%s\"", id);
        has(id + strlen(id) + 1, request);
    }
}

/* ---- Slow and absent clients ---- */

/* Sends text byte by byte until the server has had enough. */
static char *drip(const char *head, const char *text)
{
    int fd = dial();
    char *answer;

    assert_true(put(fd, head));
    for (int i = 0; i < 1000; i++) {
        char byte;

        if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 ||
            (errno != EAGAIN && errno != EINTR) ||
            !put_n(fd, text + i % (int)strlen(text), 1))
            break;
        usleep(20000);
    }
    answer = take(fd, false);
    close(fd);
    return answer;
}

static void slow_body__past_the_request_timeout__408(void **state)
{
    char *answer;

    (void)state;
    the.http.request_timeout_ms = 300;
    start();
    answer = drip("POST /hold HTTP/1.1\r\n" HOST
                  "Content-Type: image/jpeg\r\nContent-Length: 9999\r\n\r\n",
                  "x");
    is_status(answer, 408);
    has(answer, "\"code\":\"deadline_exceeded\"");
    assert_true(counted("reason=\"slow\"} 1"));
    assert_int_equal(atomic_load(&the.n_held), 0);
    /* In its protocol's shape. */
    answer = drip("POST /v2/models/x/infer HTTP/1.1\r\n" HOST
                  "Content-Length: 9999\r\n\r\n",
                  "{");
    is_status(answer, 408);
    has(answer, "\r\n\r\n{\"error\":\"the request came too slowly\"}");
}

/* It has its answer, which waits for the rest of the body. */
static void slow_body__of_a_refused_request__cut(void **state)
{
    static const char *const heads[] = {
        "POST /nowhere HTTP/1.1\r\n" HOST "Content-Length: 9999\r\n\r\n",
        "PUT /hold HTTP/1.1\r\n" HOST "Content-Length: 9999\r\n\r\n",
        "POST /tscaf.v1.DriverMonitor/Nothing HTTP/1.1\r\n" HOST
        "Content-Length: 9999\r\n\r\n",
        "POST /v2/nowhere HTTP/1.1\r\n" HOST "Content-Length: 9999\r\n\r\n",
        "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 99999999999\r\n\r\n",
    };

    (void)state;
    the.http.request_timeout_ms = 300;
    start();
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        drip(heads[i], "x");
    is_status(once("GET /plain HTTP/1.1\r\n" HOST "\r\n"), 200);
}

static void slow_header__past_the_header_timeout__408(void **state)
{
    (void)state;
    the.http.header_timeout_ms = 300;
    start();
    is_status(drip("GET /plain HTTP/1.1\r\n" HOST "X-Slow: ", "y"), 408);
}

static void slow_request_line__past_rest_and_header_timeouts__cut(void **state)
{
    (void)state;
    the.http.header_timeout_ms = 200;
    the.http.idle_timeout_ms = 1000;
    start();
    assert_string_equal(drip("GET /", "z"), "");
}

static void client_leaves__during_its_call__cancelled(void **state)
{
    int fd, other;

    (void)state;
    start();
    fd = dial();
    other = dial();
    assert_true(put(fd, HOLD) && put(other, HOLD));
    UNTIL(atomic_load(&the.n_held) == 2);
    assert_false(__atomic_load_n(&the.held[0]->cancelled, __ATOMIC_RELAXED));
    close(fd);
    UNTIL(__atomic_load_n(&the.held[0]->cancelled, __ATOMIC_RELAXED) ||
          __atomic_load_n(&the.held[1]->cancelled, __ATOMIC_RELAXED));
    ask(do_release);
    is_status(take(other, false), 200); /* the other was none the worse */
    close(other);
    UNTIL(counted("route=\"POST /hold\",status=\"499\"} 1"));
    UNTIL(counted("route=\"POST /hold\",status=\"200\"} 1"));
}

static void client_leaves__with_more_requests_sent__cancelled(void **state)
{
    int fd;

    (void)state;
    start();
    fd = dial();
    assert_true(put(fd, HOLD HOLD));
    UNTIL(atomic_load(&the.n_held) == 1);
    close(fd);
    UNTIL(__atomic_load_n(&the.held[0]->cancelled, __ATOMIC_RELAXED));
    ask(do_release);
    assert_string_equal(
        once("GET /plain HTTP/1.1\r\n" HOST "\r\n") ? "alive" : "", "alive");
}

static void client_leaves__in_its_body__forgotten(void **state)
{
    int fd;

    (void)state;
    start();
    fd = dial();
    assert_true(put(fd, "POST /hold HTTP/1.1\r\n" HOST
                        "Content-Type: image/jpeg\r\n"
                        "Content-Length: 9999\r\n\r\nxyz"));
    close(fd);
    UNTIL(counted("route=\"POST /hold\",status=\"499\"} 1"));
    UNTIL(counted("tscaf_body_bytes 0"));
    UNTIL(counted("tscaf_connections 0"));
}

/* ---- Many at once ---- */

static void held__64_calls_at_once__all_answered(void **state)
{
    int fds[64];

    (void)state;
    start();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 64; i++) {
            if (!round)
                fds[i] = dial();
            assert_true(put(fds[i], HOLD));
        }
        UNTIL(atomic_load(&the.n_held) == 64);
        assert_true(counted("tscaf_calls_in_flight 64"));
        ask(do_release);
        for (int i = 0; i < 64; i++)
            is_status(take(fds[i], false), 200);
    }
    for (int i = 0; i < 64; i++)
        close(fds[i]);
    assert_true(counted("tscaf_calls_in_flight 0"));
}

static void pipelined__behind_a_held_call__answered_in_order(void **state)
{
    int fd;

    (void)state;
    start();
    fd = dial();
    assert_true(put(fd, HOLD "GET /plain HTTP/1.1\r\n" HOST "\r\n" HOLD
                             "PATCH /echo/last HTTP/1.1\r\n" HOST
                             "Content-Length: 0\r\n\r\n"));
    UNTIL(atomic_load(&the.n_held) == 1);
    ask(do_release);
    has(take(fd, false), "request_id");
    has(take(fd, false), "plain");
    UNTIL(atomic_load(&the.n_held) == 1);
    ask(do_release);
    has(take(fd, false), "request_id");
    has(take(fd, false), "\"id\":\"last\"");
    close(fd);
}

static void connections__past_their_limit__503_then_room_again(void **state)
{
    char *answer;
    int a, b, c;

    (void)state;
    the.http.max_connections = 2;
    start();
    a = dial();
    b = dial();
    assert_true(put(a, HOLD) && put(b, HOLD));
    UNTIL(atomic_load(&the.n_held) == 2);
    c = dial();
    assert_true(put(c, "GET /plain HTTP/1.1\r\n" HOST "\r\n"));
    answer = take(c, false);
    is_status(answer, 503);
    has(answer, "Retry-After");
    assert_true(ended(c));
    close(c);
    assert_true(counted("reason=\"connections\"} 1"));
    ask(do_release);
    is_status(take(a, false), 200);
    is_status(take(b, false), 200);
    close(a);
    close(b);
    UNTIL(counted("tscaf_connections 0"));
    is_status(once("GET /plain HTTP/1.1\r\n" HOST "\r\n"), 200);
}

/* ---- Streams ---- */

#define STREAM "GET /stream HTTP/1.1\r\n" HOST "\r\n"
#define EVENT "data: {\"id\":\"0123456789abcdefghij\"}\n\n"

static int open_stream(void)
{
    int fd = dial();

    assert_true(put(fd, STREAM));
    UNTIL(atomic_load(&the_stream.there));
    return fd;
}

/* Reads until what is there. */
static void read_until(int fd, char *text, size_t size, const char *what)
{
    size_t len = strlen(text);

    while (!strstr(text, what)) {
        ssize_t n = recv(fd, text + len, size - 1 - len, 0);

        if (n <= 0)
            fail_msg("\"%s\" never came, but:\n%s", what, text);
        len += (size_t)n;
        text[len] = '\0';
    }
}

static void stream__messages_apart__events_as_they_are_sent(void **state)
{
    static char text[8192];
    int fd;

    (void)state;
    text[0] = '\0';
    start();
    fd = open_stream();
    for (int i = 0; i < 3; i++) {
        the_stream.n = 1;
        ask(do_send);
        assert_int_equal(atomic_load(&the_stream.sent), 1);
        read_until(fd, text, sizeof(text), EVENT);
        if (!i) {
            is_status(text, 200);
            has(text, "Content-Type: text/event-stream");
        }
        text[0] = '\0';
    }
    ask(do_end);
    read_until(fd, text, sizeof(text), "event: end\ndata: {}\n\n\r\n0\r\n\r\n");
    assert_false(atomic_load(&the_stream.left));
    text[0] = '\0'; /* and the connection lives on */
    assert_true(put(fd, "GET /plain HTTP/1.1\r\n" HOST "\r\n"));
    read_until(fd, text, sizeof(text), "plain");
    close(fd);
}

static void stream__fails__before_and_after_its_first_message(void **state)
{
    static char text[8192];
    int fd;

    (void)state;
    text[0] = '\0';
    start();
    fd = open_stream();
    ask(do_break);
    is_status(take(fd, false), 503);
    atomic_store(&the_stream.there, false);
    assert_true(put(fd, STREAM));
    UNTIL(atomic_load(&the_stream.there));
    the_stream.n = 1;
    ask(do_send);
    ask(do_break);
    read_until(fd, text, sizeof(text), "event: error\ndata: {\"code\":");
    read_until(fd, text, sizeof(text), "\r\n0\r\n\r\n");
    close(fd);
}

static void stream__client_leaves__told_once(void **state)
{
    int fd;

    (void)state;
    start();
    fd = open_stream();
    the_stream.n = 1;
    ask(do_send);
    close(fd);
    UNTIL(atomic_load(&the_stream.left));
    UNTIL(counted("tscaf_connections 0"));
    assert_null(the_stream.call);
}

/* Within one turn of the loop nothing leaves: the limit itself shows. */
static void stream__past_what_may_wait__refused_and_still_ended(void **state)
{
    static char text[2 * SRV_HTTP_MAX_UNSENT];
    const int fit = SRV_HTTP_MAX_UNSENT / (int)strlen(EVENT);
    int fd;

    (void)state;
    text[0] = '\0';
    start();
    fd = open_stream();
    the_stream.n = fit;
    ask(do_send);
    assert_int_equal(atomic_load(&the_stream.sent), fit);
    for (int i = 0; i < 2; i++) { /* it reads: there is room again */
        read_until(fd, text, sizeof(text), "\r\n\r\n");
        the_stream.n = 1 << 20;
        ask(do_send);
        assert_in_range(atomic_load(&the_stream.sent), 0, the_stream.n - 1);
    }
    ask(do_end);
    close(fd);
}

static void stream__reads_nothing_for_too_long__cut(void **state)
{
    char byte;
    int fd;

    (void)state;
    the.http.request_timeout_ms = 300;
    start();
    fd = open_stream();
    the_stream.n = 1 << 20;
    for (int tries = 0; tries < 1000 && !atomic_load(&the_stream.left);
         tries++) {
        ask(do_send);
        usleep(10000);
    }
    assert_true(atomic_load(&the_stream.left));
    while (recv(fd, &byte, 1, 0) > 0)
        ;
    close(fd);
}

static void drain__calls_in_flight__answered_then_closed(void **state)
{
    char *answer;
    int busy, idle;

    (void)state;
    start();
    idle = dial();
    assert_true(put(idle, "GET /plain HTTP/1.1\r\n" HOST "\r\n"));
    is_status(take(idle, false), 200);
    busy = dial();
    assert_true(put(busy, HOLD));
    UNTIL(atomic_load(&the.n_held) == 1);
    ask(do_drain);
    assert_int_equal(dial(), -1);
    assert_true(ended(idle));
    assert_false(atomic_load(&the.drained));
    ask(do_release);
    answer = take(busy, false);
    is_status(answer, 200);
    has(answer, "Connection: close");
    assert_true(ended(busy));
    UNTIL(atomic_load(&the.drained));
    close(busy);
    close(idle);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, prepare, finish)
    const struct CMUnitTest tests[] = {
        T(keep_alive__three_requests__one_connection),
        T(chunked__pieces_of_json__put_together),
        T(body__at_the_limit_and_one_past__200_and_413),
        T(chunked_body__at_one_past_and_far_past__200_413_cut),
        T(bodies_in_memory__past_their_sum__503),
        T(framing__ambiguous__400_and_closed),
        T(request_line_and_host__wrong__400_and_closed),
        T(content_length__not_a_size__refused_in_our_shape),
        T(framing__the_librarys_own_refusals__closed),
        T(expect__continue_or_refusal__before_the_body),
        T(early_refusal__small_body__connection_lives),
        T(head__of_get_routes__no_body),
        T(header__past_its_limit__431),
        T(request_id__good_and_bad__echoed_or_made),
        T(slow_body__past_the_request_timeout__408),
        T(slow_body__of_a_refused_request__cut),
        T(slow_header__past_the_header_timeout__408),
        T(slow_request_line__past_rest_and_header_timeouts__cut),
        T(client_leaves__during_its_call__cancelled),
        T(client_leaves__with_more_requests_sent__cancelled),
        T(client_leaves__in_its_body__forgotten),
        T(held__64_calls_at_once__all_answered),
        T(pipelined__behind_a_held_call__answered_in_order),
        T(connections__past_their_limit__503_then_room_again),
        T(stream__messages_apart__events_as_they_are_sent),
        T(stream__fails__before_and_after_its_first_message),
        T(stream__client_leaves__told_once),
        T(stream__past_what_may_wait__refused_and_still_ended),
        T(stream__reads_nothing_for_too_long__cut),
        T(drain__calls_in_flight__answered_then_closed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
