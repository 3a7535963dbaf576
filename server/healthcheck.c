/* One request over a plain socket. */
#include "server/healthcheck.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define PATIENCE_S 3

static int dial(const char *host, int port)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    struct addrinfo *list = NULL;
    char service[16];
    int fd = -1;

    if (strcmp(host, "0.0.0.0") == 0)
        host = "127.0.0.1";
    else if (strcmp(host, "::") == 0)
        host = "::1";
    snprintf(service, sizeof(service), "%d", port);
    errno = EADDRNOTAVAIL;
    if (getaddrinfo(host, service, &hints, &list))
        return -1;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
        if (connect(fd, a->ai_addr, a->ai_addrlen)) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    return fd;
}

enum ut_err srv_healthcheck(const char *host, int port, struct ut_error *e)
{
    static const char request[] = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n"
                                  "Connection: close\r\n\r\n";
    static const char good[] = "HTTP/1.1 200 ";
    char answer[64] = "";
    size_t len = 0;
    ssize_t n = 0;
    int fd = dial(host, port);

    if (fd < 0)
        return ut_fail(e, UT_EIO, "nobody listens on %s port %d: %s", host,
                       port, strerror(errno));
    if (send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) > 0)
        while (len < sizeof(answer) - 1 &&
               (n = recv(fd, answer + len, sizeof(answer) - 1 - len, 0)) > 0)
            len += (size_t)n;
    close(fd);
    answer[len] = '\0';
    answer[strcspn(answer, "\r\n")] = '\0';
    if (!len)
        return ut_fail(e, UT_EIO, "%s port %d does not answer", host, port);
    if (strncmp(answer, good, sizeof(good) - 1) != 0)
        return ut_fail(e, UT_ESTATE, "%s port %d is not ready: %s", host, port,
                       answer);
    return UT_OK;
}
