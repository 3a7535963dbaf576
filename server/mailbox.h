#ifndef SERVER_MAILBOX_H
#define SERVER_MAILBOX_H

#include <uv.h>

#include "base/error.h"

/* How other threads hand work back to the loop: an intrusive list and one
 * uv_async. Posting never fails and never allocates. */

struct srv_mail {
    struct srv_mail *next;
    void (*fn)(struct srv_mail *m); /* runs on the loop */
};

struct srv_mailbox;

UT_MUSTUSE enum ut_err
srv_mailbox_new(uv_loop_t *loop, struct srv_mailbox **out, struct ut_error *e);
/* On the loop, once nobody posts any more; delivers what is left. */
void srv_mailbox_free(struct srv_mailbox *b);

/* m stays the caller's and must live until fn has run. Thread: any. */
void srv_mailbox_post(struct srv_mailbox *b, struct srv_mail *m);

#endif
