/* The way of a call to the store's thread and back. */
#include "server/calls/store_call.h"

#include <stddef.h>
#include <stdlib.h>

#include "server/app.h"
#include "server/calls/answer.h"
#include "server/late.h"

static void finish(struct srv_mail *m)
{
    struct srv_store_call *w =
        (struct srv_store_call *)((char *)m -
                                  offsetof(struct srv_store_call, mail));

    if (w->err.code)
        w->call->fail(w->call, &w->err);
    else
        w->reply(w);
    if (w->result)
        w->result_free(w->result);
    free(w);
}

static void run(void *arg, int worker)
{
    struct srv_store_call *w = arg;
    struct srv_app *app = w->call->app;
    struct ut_error e;

    (void)worker;
    if (!srv_is_late(app->metrics, w->deadline_us, &w->call->cancelled,
                     &w->err)) {
        e.code = w->work(w, &e);
        if (e.code)
            api_fail_from(&w->err, &e);
    }
    srv_mailbox_post(app->mailbox, &w->mail);
}

void srv_store_call_start_on(struct srv_call *c, struct srv_pool *pool,
                             void *result, void (*result_free)(void *result),
                             enum ut_err (*work)(struct srv_store_call *w,
                                                 struct ut_error *e),
                             void (*reply)(struct srv_store_call *w))
{
    struct srv_store_call *w = malloc(sizeof(*w));
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a call"};

    if (w) {
        *w = (struct srv_store_call){.call = c,
                                     .deadline_us = pool == c->app->store_pool
                                                        ? c->deadline_us
                                                        : INT64_MAX,
                                     .result = result,
                                     .result_free = result_free,
                                     .work = work,
                                     .reply = reply,
                                     .mail = {.fn = finish}};
        if (!srv_pool_push(pool, run, w, &e))
            return;
    }
    if (result)
        result_free(result);
    free(w);
    srv_answer_fail(c, &e);
}

void srv_store_call_start_with(struct srv_call *c, void *result,
                               void (*result_free)(void *result),
                               enum ut_err (*work)(struct srv_store_call *w,
                                                   struct ut_error *e),
                               void (*reply)(struct srv_store_call *w))
{
    srv_store_call_start_on(c, c->app->store_pool, result, result_free, work,
                            reply);
}

void srv_store_call_start(struct srv_call *c,
                          enum ut_err (*work)(struct srv_store_call *w,
                                              struct ut_error *e),
                          void (*reply)(struct srv_store_call *w))
{
    srv_store_call_start_with(c, NULL, NULL, work, reply);
}

void srv_store_call_reply_empty(struct srv_store_call *w)
{
    Tscaf__V1__Empty empty = TSCAF__V1__EMPTY__INIT;

    w->call->reply(w->call, &empty.base);
}
