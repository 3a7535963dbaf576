/* Many requests, few runs; deadlines; clients that leave. A batch is held back
 * for a fuller one (--batch-delay-us), so that what happens is no race. */
#include "tests/support/unit.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/server.h"

#define N_CALLERS 32

struct caller {
    pthread_t thread;
    const struct test_server *s;
    const char *png;
    size_t len;
    const char *const *headers;
    struct test_answer a;
};

static void *call(void *arg)
{
    struct caller *c = arg;
    struct test_request r = {.path = "/v1/analyze?input=crop",
                             .type = "image/png",
                             .body = c->png,
                             .len = c->len,
                             .headers = c->headers};

    test_send(c->s, &r, &c->a);
    return NULL;
}

/* A metric's value; the first line that starts with name. */
static double metric(const struct test_server *s, const char *name)
{
    struct test_answer a = {0};
    const char *at;
    char line[128];
    double v;

    assert_int_equal(test_get(s, "/metrics", &a), 200);
    snprintf(line, sizeof(line), "\n%s ", name);
    at = strstr(a.body, line);
    if (!at)
        fail_msg("no %s in:\n%s", name, a.body);
    v = strtod(at + strlen(line), NULL);
    test_answer_fini(&a);
    return v;
}

static void analyze__many_at_once__few_runs(void **state)
{
    static struct caller callers[N_CALLERS];
    const char *const flags[] = {"--batch-delay-us", "1000000", "--max-batch",
                                 "8", NULL};
    struct test_server s;
    double runs;
    size_t len;
    char *png = test_face(1, 1, &len);

    (void)state;
    test_server_start(&s, flags);
    for (int i = 0; i < N_CALLERS; i++) {
        callers[i] = (struct caller){.s = &s, .png = png, .len = len};
        assert_int_equal(
            pthread_create(&callers[i].thread, NULL, call, &callers[i]), 0);
    }
    for (int i = 0; i < N_CALLERS; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].a.status, 200);
        test_answer_fini(&callers[i].a);
    }
    assert_true(metric(&s, "tscaf_batch_faces_sum") == N_CALLERS);
    runs = metric(&s, "tscaf_batch_faces_count");
    /* 4 if all come in time; a slow machine may need some more. */
    if (runs < 4 || runs > N_CALLERS / 2)
        fail_msg("%d faces took %.0f runs", N_CALLERS, runs);
    assert_int_equal(test_server_stop(&s), 0);
    free(png);
}

static void analyze__deadline_in_the_queue__504_never_computed(void **state)
{
    const char *const flags[] = {"--batch-delay-us", "1000000", "--max-batch",
                                 "8", NULL};
    const char *const headers[] = {"Connect-Timeout-Ms: 50", NULL};
    struct test_server s;
    struct caller c = {.s = &s, .headers = headers};

    (void)state;
    c.png = test_face(1, 1, &c.len);
    test_server_start(&s, flags);
    call(&c);
    assert_int_equal(c.a.status, 504);
    assert_non_null(strstr(c.a.body, "\"code\":\"deadline_exceeded\""));
    assert_true(metric(&s, "tscaf_batch_faces_sum") == 0);
    assert_true(metric(&s, "tscaf_rejections_total{reason=\"expired\"}") == 1);

    c.headers = NULL;
    call(&c);
    assert_int_equal(c.a.status, 200);
    test_answer_fini(&c.a);
    assert_int_equal(test_server_stop(&s), 0);
    free((char *)c.png);
}

/* Sends a whole request and leaves without waiting for the answer. */
static void send_and_leave(const struct test_server *s, const char *png,
                           size_t len)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)s->port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char head[256];
    int n =
        snprintf(head, sizeof(head),
                 "POST /v1/analyze?input=crop HTTP/1.1\r\nHost: localhost\r\n"
                 "Content-Type: image/png\r\nContent-Length: %zu\r\n\r\n",
                 len);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    assert_int_equal(write(fd, head, (size_t)n), n);
    assert_int_equal(write(fd, png, len), len);
    /* Its face must be in the queue before it leaves. */
    for (int i = 0; metric(s, "tscaf_queue_faces") < 1 && i < 500; i++)
        usleep(1000);
    close(fd);
}

static void analyze__client_left__never_computed(void **state)
{
    const char *const flags[] = {"--batch-delay-us", "1000000", "--max-batch",
                                 "8", NULL};
    struct test_server s;
    size_t len;
    char *png = test_face(1, 1, &len);

    (void)state;
    test_server_start(&s, flags);
    send_and_leave(&s, png, len);
    for (int i = 0; i < 5000; i++) {
        if (metric(&s, "tscaf_rejections_total{reason=\"cancelled\"}") == 1)
            break;
        usleep(1000);
    }
    assert_true(metric(&s, "tscaf_rejections_total{reason=\"cancelled\"}") ==
                1);
    for (int i = 0; metric(&s, "tscaf_queue_faces") > 0 && i < 5000; i++)
        usleep(1000);
    assert_true(metric(&s, "tscaf_batch_faces_sum") == 0);
    assert_int_equal(test_server_stop(&s), 0);
    free(png);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(analyze__many_at_once__few_runs),
        cmocka_unit_test(analyze__deadline_in_the_queue__504_never_computed),
        cmocka_unit_test(analyze__client_left__never_computed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
