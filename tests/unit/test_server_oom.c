/* Memory that runs out: while the parts are made, and at every allocation
 * that a request causes on the loop. */
#include "tests/unit/server_http.h"

static enum ut_err add_key(void *arg, struct ut_error *e)
{
    struct srv_key key = {.role = SRV_ROLE_ADMIN};
    struct srv_auth *a = NULL;
    enum ut_err rc = srv_auth_new(&a, e);

    (void)arg;
    snprintf(key.id, sizeof(key.id), "key_1");
    if (!rc)
        rc = srv_auth_add(a, &key, e);
    srv_auth_free(a);
    return rc;
}

/* Everything between a loop and two listeners. */
static enum ut_err make_http(void *arg, struct ut_error *e)
{
    struct srv_http_config c = the.http;
    struct srv_mailbox *mailbox = NULL;
    struct srv_metrics *metrics = NULL;
    struct srv_http *http = NULL;
    struct srv_h2 *h2 = NULL;
    struct srv_dispatch *dispatch = NULL;
    struct srv_app app = {.config = &the.config};
    uv_loop_t loop;
    enum ut_err rc;

    (void)arg;
    uv_loop_init(&loop);
    rc = srv_mailbox_new(&loop, &mailbox, e);
    if (!rc)
        rc = srv_dispatch_new(&app, routes, sizeof(routes) / sizeof(routes[0]),
                              &dispatch, e);
    if (!rc)
        rc = srv_metrics_new(srv_dispatch_names(dispatch),
                             sizeof(routes) / sizeof(routes[0]), &metrics, e);
    if (!rc) {
        c.hooks = srv_dispatch_hooks(dispatch);
        rc = srv_http_new(&loop, &c, &http, e);
    }
    if (!rc)
        rc = srv_h2_new(&loop, &c, &h2, e);
    srv_http_free(http);
    srv_h2_free(h2);
    if (mailbox)
        srv_mailbox_free(mailbox);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    srv_dispatch_free(dispatch);
    srv_metrics_free(metrics);
    return rc;
}

static enum ut_err write_metrics(void *arg, struct ut_error *e)
{
    struct ut_buf b;
    enum ut_err rc;

    (void)arg;
    ut_buf_init(&b, 1 << 20);
    rc = srv_metrics_write(the.app.metrics, &b, e);
    ut_buf_fini(&b);
    return rc;
}

static void parts__any_allocation_fails__clean_error(void **state)
{
    (void)state;
    start(); /* finish() ends it */
    assert_true(each_allocation_fails(add_key, NULL) > 1);
    assert_true(each_allocation_fails(make_http, NULL) > 4);
    assert_true(each_allocation_fails(write_metrics, NULL) > 1);
}

/* ---- The loop's thread ---- */

static long nth;
static bool reached;

static void do_arm(void)
{
    fault_arm(nth);
}

static void do_disarm(void)
{
    reached = fault_disarm();
}

/* Every allocation of this request fails once; after each the server answers
 * the same request again as if nothing had been. There are over min of them. */
static void starve(const char *request, int good, long min)
{
    for (nth = 0;; nth++) {
        char *answer;

        ask(do_arm);
        answer = once(request);
        ask(do_disarm);
        if (!reached) {
            is_status(answer, good);
            if (nth <= min)
                fail_msg("only %ld allocations: %s", nth, request);
            return;
        }
        /* No memory even for the error: the connection just ends. */
        if (*answer && strncmp(answer, "HTTP/1.1 50", 11) != 0)
            fail_msg("allocation %ld failed: %s", nth, answer);
        is_status(once(request), good);
    }
}

static const char *with_body(char text[512], const char *line, const char *type,
                             const char *body)
{
    snprintf(text, 512,
             "%s HTTP/1.1\r\n" HOST "Content-Type: %s\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             line, type, strlen(body), body);
    return text;
}

static void request__any_allocation_fails__5xx_and_no_harm(void **state)
{
    char text[512];

    (void)state;
    start();
    starve(with_body(text, "PATCH /echo/one", "application/json",
                     "{\"name\":\"\\u00e9\",\"metadata\":{\"a\":\"b\"}}"),
           201, 5);
    starve(with_body(text, "POST /pictures?top_k=7",
                     "multipart/form-data; boundary=b",
                     "--b\r\nContent-Disposition: form-data; name=\"images\"; "
                     "filename=\"a.png\"\r\n\r\nabc\r\n--b--\r\n"),
           200, 3);
    starve("GET /plain HTTP/1.1\r\n" HOST "\r\n", 200, 1);
    starve("GET /nothing HTTP/1.1\r\n" HOST "\r\n", 404, 1);
}

/* ---- HTTP/2 ---- */

/* A gRPC request: settings, header, and a message in one frame. The server's
 * frames are read for their types alone: a reply is DATA, then HEADERS that end
 * the stream (the trailers); an error is HEADERS that end it, without DATA, or
 * not of status 200. */
#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
#define VERIFY_PATH "/tscaf.v1.DriverMonitor/Verify" /* of 0x1e bytes */
static const char grpc_request[] =
    PREFACE "\0\0\x40\x01\x04\0\0\0\x01"
            "\x83\x86\x01\x09localhost\x04\x1e" VERIFY_PATH "\x0f\x10\x10"
            "application/grpc"
            "\0\0\x15\0\x01\0\0\0\x01"
            "\0\0\0\0\x10\x0a\x05\x0a\x03yyy\x12\x07\x0a\x05zzzzz";

enum ending { REPLY, ERROR, CUT };

static bool take_n(int fd, void *bytes, size_t len)
{
    return !len || recv(fd, bytes, len, MSG_WAITALL) == (ssize_t)len;
}

static enum ending ask_grpc(void)
{
    int fd = dial_port(srv_h2_port(the.app.h2));
    enum ending how = CUT;
    uint8_t head[9], bytes[16 * 1024];
    bool replied = false, good = false;

    assert_true(fd >= 0);
    put_n(fd, grpc_request, sizeof(grpc_request) - 1);
    while (how == CUT && take_n(fd, head, sizeof(head))) {
        size_t len = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
        bool last = head[4] & 1; /* END_STREAM */

        if (len > sizeof(bytes) || !take_n(fd, bytes, len) || head[3] == 3 ||
            head[3] == 7) /* RST_STREAM, GOAWAY */
            break;
        if (head[3] == 1 && !last)
            good = bytes[0] == 0x88; /* HPACK's ":status: 200" */
        if (head[3] == 0 && last && good)
            fail_msg("a reply without trailers");
        if (head[3] == 0)
            replied = true;
        if (head[3] <= 1 && last)
            how = replied && good ? REPLY : ERROR;
    }
    close(fd);
    return how;
}

static void grpc__any_allocation_fails__error_and_no_harm(void **state)
{
    int errors = 0;

    (void)state;
    the.with_h2 = true;
    start();
    for (nth = 0, reached = true; reached; nth++) {
        enum ending how;

        ask(do_arm);
        how = ask_grpc();
        ask(do_disarm);
        if (!reached)
            assert_int_equal(how, REPLY);
        else if (how == ERROR)
            errors++;
        else if (how == REPLY)
            fail_msg("allocation %ld failed and nothing was said", nth);
        assert_int_equal(ask_grpc(), REPLY);
    }
    assert_true(nth > 8);
    assert_true(errors > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            parts__any_allocation_fails__clean_error, prepare, finish),
        cmocka_unit_test_setup_teardown(
            request__any_allocation_fails__5xx_and_no_harm, prepare, finish),
        cmocka_unit_test_setup_teardown(
            grpc__any_allocation_fails__error_and_no_harm, prepare, finish),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
