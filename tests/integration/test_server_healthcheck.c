/* tscafd --healthcheck: what a container's engine is told. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/server.h"
#include "tests/support/unit.h"

static int check(struct test_server *s, const char *host, int port, char *out,
                 size_t size)
{
    char listen[64];

    snprintf(listen, sizeof(listen), "%s:%d", host, port);
    out[0] = '\0';
    return test_server_run(
        s, (const char *const[]){"--healthcheck", "--listen", listen, NULL},
        out, size);
}

static void ready__asked_by_any_of_its_addresses__exit_0(void **state)
{
    struct test_server s;
    char out[512];

    (void)state;
    test_server_start(&s, NULL);
    assert_int_equal(check(&s, "127.0.0.1", s.port, out, sizeof(out)), 0);
    assert_string_equal(out, "");
    assert_int_equal(check(&s, "localhost", s.port, out, sizeof(out)), 0);
    assert_int_equal(check(&s, "0.0.0.0", s.port, out, sizeof(out)), 0);
    assert_int_equal(test_server_stop(&s), 0);
}

static void nobody_there__asked__exit_1_and_the_address(void **state)
{
    struct test_server s = {0};
    char out[512];

    (void)state; /* port 1: no test's server is given it meanwhile */
    assert_int_equal(check(&s, "127.0.0.1", 1, out, sizeof(out)), 1);
    if (!strstr(out, "127.0.0.1 port 1"))
        fail_msg("no address in: %s", out);
    test_server_remove(&s);
}

/* One that answers every request with these bytes, in a process of its own. */
static pid_t answer_with(const char *bytes, int *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    pid_t pid;

    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    *port = ntohs(at.sin_port);
    pid = fork();
    if (!pid) {
        char request[512];
        int c = accept(fd, NULL, NULL);

        if (read(c, request, sizeof(request)) > 0)
            (void)!write(c, bytes, strlen(bytes));
        _exit(0);
    }
    close(fd);
    return pid;
}

static void not_ready__asked__exit_1_and_the_status(void **state)
{
    static const struct {
        const char *answer, *word;
    } rows[] = {
        {"HTTP/1.1 503 Service Unavailable\r\n\r\n", "not ready: HTTP/1.1 503"},
        {"HTTP/1.1 2000 \r\n", "not ready"},
        {"", "does not answer"},
    };
    struct test_server s = {0};
    char out[512];

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        int port;
        pid_t pid = answer_with(rows[i].answer, &port);

        assert_int_equal(check(&s, "127.0.0.1", port, out, sizeof(out)), 1);
        if (!strstr(out, rows[i].word))
            fail_msg("\"%s\" is not in: %s", rows[i].word, out);
        waitpid(pid, NULL, 0);
    }
    test_server_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ready__asked_by_any_of_its_addresses__exit_0),
        cmocka_unit_test(nobody_there__asked__exit_1_and_the_address),
        cmocka_unit_test(not_ready__asked__exit_1_and_the_status),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
