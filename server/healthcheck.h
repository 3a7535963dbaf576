#ifndef SERVER_HEALTHCHECK_H
#define SERVER_HEALTHCHECK_H

#include "base/error.h"

/* What a container's engine asks, by a program that the image has anyway.
 *
 * GET /readyz of the server at host and port; an address that stands for all
 * of this machine's is asked on loopback. Waits at most 3 s. Errors: UT_EIO
 * (nobody answers), UT_ESTATE (it answers, but not with 200). */
UT_MUSTUSE enum ut_err srv_healthcheck(const char *host, int port,
                                       struct ut_error *e);

#endif
