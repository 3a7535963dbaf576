#ifndef CLIENT_WATCH_H
#define CLIENT_WATCH_H

#include <curl/curl.h>
#include <stdint.h>

#include "base/error.h"

/* What a curl multi handle waits for, as one descriptor: an epoll set of its
 * sockets and a timer, readable when there is something to do. So any loop can
 * drive a client, and a client needs none. Thread: the client's. */

struct cl_watch {
    CURLM *multi;       /* borrowed */
    int epoll, timer;   /* descriptors; -1: none */
    int64_t curl_at_us; /* when curl wants to be called; INT64_MAX: never */
    int64_t own_at_us;  /* when the owner wants to: cl_watch_at */
};

/* Takes over multi's socket and timer callbacks. Errors: UT_EIO without
 * descriptors. Then, too, *w is for cl_watch_fini. */
UT_MUSTUSE enum ut_err cl_watch_init(struct cl_watch *w, CURLM *multi,
                                     struct ut_error *e);
/* After multi's own end; zero descriptors are never closed. */
void cl_watch_fini(struct cl_watch *w);

/* Wakes at this time of ut_clock_us at the latest; INT64_MAX: at no time. */
void cl_watch_at(struct cl_watch *w, int64_t at_us);

/* Waits up to timeout_ms (-1: without end) and lets curl do what is due.
 * Errors: UT_EIO. */
UT_MUSTUSE enum ut_err cl_watch_step(struct cl_watch *w, int timeout_ms,
                                     struct ut_error *e);

#endif
