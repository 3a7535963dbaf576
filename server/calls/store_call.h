#ifndef SERVER_STORE_CALL_H
#define SERVER_STORE_CALL_H

#include "server/calls/call.h"
#include "server/mailbox.h"

/* A call that the store answers: work() runs on the store's thread, then
 * reply() on the loop; a failed work() is answered as its error says. What
 * comes to the thread too late is not done: its client may have asked again. */

struct srv_store_call {
    struct srv_call *call;
    void *result; /* work()'s, freed by result_free after the reply */
    void (*result_free)(void *result);

    /* Private. */
    enum ut_err (*work)(struct srv_store_call *w, struct ut_error *e);
    void (*reply)(struct srv_store_call *w);
    int64_t deadline_us;
    struct api_error err; /* code 0: none */
    struct srv_mail mail;
};

/* Starts it; every failure is answered. Thread: the loop. */
void srv_store_call_start(struct srv_call *c,
                          enum ut_err (*work)(struct srv_store_call *w,
                                              struct ut_error *e),
                          void (*reply)(struct srv_store_call *w));

/* The same with a result that is there already; it is freed in any case. */
void srv_store_call_start_with(struct srv_call *c, void *result,
                               void (*result_free)(void *result),
                               enum ut_err (*work)(struct srv_store_call *w,
                                                   struct ut_error *e),
                               void (*reply)(struct srv_store_call *w));

/* The same on another pool's thread. It may be busy for longer than deadlines
 * last: too late there is only who left. */
struct srv_pool;
void srv_store_call_start_on(struct srv_call *c, struct srv_pool *pool,
                             void *result, void (*result_free)(void *result),
                             enum ut_err (*work)(struct srv_store_call *w,
                                                 struct ut_error *e),
                             void (*reply)(struct srv_store_call *w));

/* A reply() that says Empty. */
void srv_store_call_reply_empty(struct srv_store_call *w);

#endif
