#ifndef SERVER_POOL_H
#define SERVER_POOL_H

#include <stddef.h>

#include "base/error.h"

/* A few threads behind one bounded queue. The decode pool and the store's
 * thread are pools. */

struct srv_pool;

/* Runs on a pool's thread; worker is 0..n_threads-1. */
typedef void (*srv_pool_fn)(void *arg, int worker);

/* name appears in thread names, at most 12 characters. Thread: any. */
UT_MUSTUSE enum ut_err srv_pool_new(const char *name, int n_threads,
                                    size_t max_queued, struct srv_pool **out,
                                    struct ut_error *e);

/* Runs what is queued, then ends the threads. Accepts NULL. */
void srv_pool_free(struct srv_pool *p);

/* Errors: UT_EBUSY when max_queued jobs wait. Thread: any. */
UT_MUSTUSE enum ut_err srv_pool_push(struct srv_pool *p, srv_pool_fn fn,
                                     void *arg, struct ut_error *e);

size_t srv_pool_queued(const struct srv_pool *p);

#endif
