#ifndef SERVER_HTTP_SOCKET_H
#define SERVER_HTTP_SOCKET_H

#include <netinet/in.h>
#include <stdbool.h>

/* Sockets, for http.c. */

#define SRV_HTTP_PEER_LEN INET6_ADDRSTRLEN

/* A listening, non-blocking socket on the first address of host that can be
 * bound, or -1 (errno says why; 0: there is no such host). *bound is its
 * port. Thread: any. */
int srv_http_listen(const char *host, int port, int *bound);

/* An address as text, and whether it is this machine. Thread: any. */
void srv_http_peer(const struct sockaddr *sa, char peer[SRV_HTTP_PEER_LEN],
                   bool *loopback);

#endif
