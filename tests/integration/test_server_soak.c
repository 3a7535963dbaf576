/* Ten thousand mixed requests at concurrency 64: valid ones, broken pictures,
 * wrong JSON, clients that leave, clients that are slow. Everything is
 * answered or properly refused, and afterwards nothing is left behind. */
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/server.h"
#include "tests/support/unit.h"

#define CLIENTS 64
#define REQUESTS 10000
#define WARM_UP 2000
/* What allocators may still grow by after the warm-up: at most each client's
 * connection memory and picture twice over, rounded up generously; a leak of
 * 6 KiB a request would be as much. */
#define GROWTH_KIB (48 * 1024)

static struct {
    struct test_server s;
    char *png;
    size_t len;
    atomic_int next, last;
    atomic_int answers[600]; /* by status */
    atomic_int wrong, unanswered;
    char what[256]; /* the first wrong one, by whoever counted it */
} the;

static int dial(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET};
    struct timeval patience = {.tv_sec = 60};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    sa.sin_port = htons((uint16_t)the.s.port);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
        return fd;
    close(fd);
    return -1;
}

static bool put(int fd, const char *bytes, size_t len)
{
    while (len) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

/* Reads one answer with a Content-Length; its status, 0 if none came. *keep:
 * whether the connection goes on. */
static int take(int fd, bool *keep)
{
    char text[16384];
    size_t len = 0, want = 0;
    int status = 0;

    *keep = false;
    while (len < sizeof(text) - 1 && (!want || len < want)) {
        ssize_t n = recv(fd, text + len, want ? want - len : 1, 0);
        char *body, *field;

        if (n <= 0)
            return 0;
        len += (size_t)n;
        text[len] = '\0';
        if (!want && (body = strstr(text, "\r\n\r\n"))) {
            field = strcasestr(text, "\r\nContent-Length: ");
            want = (size_t)(body + 4 - text) +
                   (field ? strtoul(field + 18, NULL, 10) : 0);
        }
    }
    if (sscanf(text, "HTTP/1.1 %d", &status) != 1)
        return 0;
    *keep = !strcasestr(text, "\r\nConnection: close");
    return status;
}

/* A whole POST of body as type, in *out; its length. */
static size_t post(char *out, size_t size, const char *type, const char *body,
                   size_t len)
{
    size_t n = (size_t)snprintf(out, size,
                                "POST /v1/analyze?input=crop HTTP/1.1\r\n"
                                "Host: localhost\r\nContent-Type: %s\r\n"
                                "Content-Length: %zu\r\n\r\n",
                                type, len);

    memcpy(out + n, body, len);
    return n + len;
}

enum { VALID, BROKEN, JSON, LEAVE, LEAVE_EARLY, SLOW, READY };
static const int mix[10] = {VALID, VALID, VALID,       VALID, BROKEN,
                            JSON,  LEAVE, LEAVE_EARLY, SLOW,  READY};

static size_t make(int kind, char *out, size_t size)
{
    switch (kind) {
    case BROKEN:
        return post(out, size, "image/png", the.png, the.len / 2);
    case JSON:
        return post(out, size, "application/json", "{\"images\":[{]", 13);
    case READY:
        return (size_t)snprintf(out, size,
                                "GET /readyz HTTP/1.1\r\nHost: t\r\n\r\n");
    default:
        return post(out, size, "image/png", the.png, the.len);
    }
}

static bool send_slowly(int fd, const char *bytes, size_t len)
{
    for (int i = 0; i < 5; i++) {
        if (!put(fd, bytes + len * (size_t)i / 5,
                 len * (size_t)(i + 1) / 5 - len * (size_t)i / 5))
            return false;
        usleep(2000);
    }
    return true;
}

static void check(int kind, int status)
{
    int want = kind == BROKEN || kind == JSON ? 400 : 200;

    if (!status) {
        atomic_fetch_add(&the.unanswered, 1);
        return;
    }
    atomic_fetch_add(&the.answers[status < 600 ? status : 0], 1);
    /* A full queue and a passed deadline are proper refusals. */
    if (status != want && status != 503 && status != 504 &&
        atomic_fetch_add(&the.wrong, 1) == 0)
        snprintf(the.what, sizeof(the.what), "kind %d got %d", kind, status);
}

static void *client(void *arg)
{
    char *request = malloc(the.len + 1024);
    int fd = -1;

    (void)arg;
    for (;;) {
        int i = atomic_fetch_add(&the.next, 1), kind;
        bool keep = false;
        size_t len;

        if (i >= atomic_load(&the.last))
            break;
        kind = mix[i % 10];
        if (fd < 0)
            fd = dial();
        len = make(kind, request, the.len + 1024);
        if (kind == LEAVE_EARLY)
            len /= 2;
        if (kind == SLOW ? !send_slowly(fd, request, len)
                         : !put(fd, request, len)) {
            atomic_fetch_add(&the.unanswered, 1);
        } else if (kind != LEAVE && kind != LEAVE_EARLY) {
            check(kind, take(fd, &keep));
        }
        if (!keep) {
            close(fd);
            fd = -1;
        }
    }
    if (fd >= 0)
        close(fd);
    free(request);
    return NULL;
}

static void run_to(int last)
{
    pthread_t threads[CLIENTS];

    atomic_store(&the.last, last);
    for (int i = 0; i < CLIENTS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, client, NULL), 0);
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&the.next, last);
}

static long resident_kib(void)
{
    char path[64], line[256];
    long kib = -1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)the.s.pid);
    f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    fclose(f);
    return kib;
}

static void wait_metric(const char *line)
{
    struct test_answer a = {0};

    for (int tries = 0; !a.body || !strstr(a.body, line); tries++) {
        if (tries > 3000)
            fail_msg("never \"%s\" in: %s", line, a.body);
        usleep(10000);
        test_get(&the.s, "/metrics", &a);
    }
    test_answer_fini(&a);
}

static void soak__mixed_requests__answered_and_nothing_left(void **state)
{
    struct test_answer a = {0};
    long before, after;

    (void)state;
    /* AddressSanitizer keeps what was freed; not memory of ours. */
    setenv("ASAN_OPTIONS", "quarantine_size_mb=8", 0);
    the.png = test_face(3, 1, &the.len);
    test_server_start(&the.s, NULL);
    run_to(WARM_UP);
    before = resident_kib();
    run_to(REQUESTS);
    after = resident_kib();
    if (atomic_load(&the.wrong) || atomic_load(&the.unanswered))
        fail_msg("%d wrong (%s), %d unanswered", atomic_load(&the.wrong),
                 the.what, atomic_load(&the.unanswered));
    assert_true(atomic_load(&the.answers[200]) > 0);
    assert_int_equal(
        atomic_load(&the.answers[400]) + atomic_load(&the.answers[200]) +
            atomic_load(&the.answers[503]) + atomic_load(&the.answers[504]),
        REQUESTS * 8 / 10); /* two of ten left */
    printf("answers: %d x 200, %d x 400, %d x 503, %d x 504; memory %ld, then "
           "%ld KiB\n",
           atomic_load(&the.answers[200]), atomic_load(&the.answers[400]),
           atomic_load(&the.answers[503]), atomic_load(&the.answers[504]),
           before, after);
    assert_true(after - before < GROWTH_KIB);
    wait_metric("tscaf_calls_in_flight 1\n"); /* the one that asks */
    wait_metric("tscaf_body_bytes 0\n");
    wait_metric("tscaf_queue_faces 0\n");
    wait_metric("tscaf_connections 1\n");
    assert_int_equal(test_get(&the.s, "/readyz", &a), 200);
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&the.s), 0);
    free(the.png);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(soak__mixed_requests__answered_and_nothing_left),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
