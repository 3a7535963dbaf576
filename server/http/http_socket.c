/* Sockets, for http.c. */
#include "server/http/http_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int srv_http_listen(const char *host, int port, int *bound)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    char service[8];
    int fd = -1, one = 1;

    snprintf(service, sizeof(service), "%d", port);
    if (getaddrinfo(host, service, &hints, &found))
        return -1;
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd =
            socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, SOMAXCONN)) {
            int saved = errno;

            close(fd);
            fd = -1;
            errno = saved;
        }
    }
    freeaddrinfo(found);
    if (fd >= 0 && getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
        *bound = ntohs(ss.ss_family == AF_INET6
                           ? ((struct sockaddr_in6 *)(void *)&ss)->sin6_port
                           : ((struct sockaddr_in *)(void *)&ss)->sin_port);
    return fd;
}

void srv_http_peer(const struct sockaddr *sa, char peer[SRV_HTTP_PEER_LEN],
                   bool *loopback)
{
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;

    *peer = '\0';
    *loopback = false;
    if (sa->sa_family == AF_INET) {
        memcpy(&in4, sa, sizeof(in4));
        inet_ntop(AF_INET, &in4.sin_addr, peer, SRV_HTTP_PEER_LEN);
        *loopback = ntohl(in4.sin_addr.s_addr) >> 24 == 127;
    } else if (sa->sa_family == AF_INET6) {
        memcpy(&in6, sa, sizeof(in6));
        inet_ntop(AF_INET6, &in6.sin6_addr, peer, SRV_HTTP_PEER_LEN);
        *loopback = IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr) ||
                    (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr) &&
                     in6.sin6_addr.s6_addr[12] == 127);
    }
}
