#ifndef SERVER_LOCAL_H
#define SERVER_LOCAL_H

#include <stdbool.h>

#include "server/http/http.h"

/* Whether a request is of somebody at this machine, who may do everything
 * until the first key exists (server/auth.h): from a loopback address, for a
 * loopback name, through no proxy that can be told, and from no other site's
 * page. A peer's address alone shows none of that: proxies and browsers run
 * here too. Thread: the loop. */
bool srv_local(const struct srv_http_exchange *x);

#endif
