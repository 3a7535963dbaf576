/* A server that answers as it is told. */
#include "tests/support/script.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/unit.h"

/* Reads a request whole: to close with some of it unread would reset the
 * connection, and the answer with it. False if none came. */
static bool read_request(struct script *s, int fd)
{
    char text[4096] = "", *end, *at;
    size_t len = 0, left;
    ssize_t n;

    while (!(end = strstr(text, "\r\n\r\n"))) {
        n = read(fd, text + len, sizeof(text) - 1 - len);
        if (n <= 0)
            return false;
        len += (size_t)n;
        text[len] = '\0';
    }
    at = strstr(text, "Connect-Timeout-Ms: ");
    s->timeout_ms = at ? atoi(strchr(at, ' ')) : 0;
    at = strstr(text, "Content-Length: ");
    left = at && at < end ? strtoul(strchr(at, ' '), NULL, 10) : 0;
    len -= (size_t)(end + 4 - text);
    for (left -= len < left ? len : left; left; left -= (size_t)n) {
        n = read(fd, text, left < sizeof(text) ? left : sizeof(text));
        if (n <= 0)
            return false;
    }
    return true;
}

static void *play(void *arg)
{
    struct script *s = arg;
    int fd;

    while ((fd = accept(s->listener, NULL, NULL)) >= 0) {
        bool more = true;

        while (more && read_request(s, fd)) {
            const char *answer = s->answers[s->asked];

            if (s->before)
                s->before(s->asked);
            s->asked += s->answers[s->asked + 1] != NULL;
            (void)!send(fd, answer, strlen(answer), MSG_NOSIGNAL);
            more = *answer && !strstr(answer, "Connection: close");
        }
        close(fd);
    }
    return NULL;
}

void script_start(struct script *s, const char *const *answers,
                  void (*before)(int n))
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);

    *s = (struct script){.answers = answers,
                         .before = before,
                         .listener = socket(AF_INET, SOCK_STREAM, 0)};
    assert_int_equal(bind(s->listener, (void *)&a, sizeof(a)), 0);
    assert_int_equal(listen(s->listener, 8), 0);
    assert_int_equal(getsockname(s->listener, (void *)&a, &len), 0);
    s->port = ntohs(a.sin_port);
    assert_int_equal(pthread_create(&s->thread, NULL, play, s), 0);
}

void script_end(struct script *s)
{
    shutdown(s->listener, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->listener);
}
