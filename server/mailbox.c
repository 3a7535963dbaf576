/* A list of letters and one uv_async that says "look". uv_async_send
 * coalesces, so each wake-up empties the list. */
#include "server/mailbox.h"

#include <pthread.h>
#include <stdlib.h>

struct srv_mailbox {
    uv_async_t async;
    pthread_mutex_t lock;
    struct srv_mail *head, *tail; /* under lock */
};

static void deliver(struct srv_mailbox *b)
{
    struct srv_mail *m;

    pthread_mutex_lock(&b->lock);
    m = b->head;
    b->head = b->tail = NULL;
    pthread_mutex_unlock(&b->lock);
    while (m) {
        struct srv_mail *next = m->next; /* fn may free m */

        m->fn(m);
        m = next;
    }
}

static void on_wake(uv_async_t *async)
{
    deliver(async->data);
}

enum ut_err srv_mailbox_new(uv_loop_t *loop, struct srv_mailbox **out,
                            struct ut_error *e)
{
    struct srv_mailbox *b = calloc(1, sizeof(*b));
    int rc;

    *out = NULL;
    if (!b)
        return ut_fail(e, UT_ENOMEM, "no memory for a mailbox");
    rc = uv_async_init(loop, &b->async, on_wake);
    if (rc) {
        free(b);
        return ut_fail(e, UT_EIO, "mailbox: %s", uv_strerror(rc));
    }
    b->async.data = b;
    pthread_mutex_init(&b->lock, NULL);
    *out = b;
    return UT_OK;
}

static void on_closed(uv_handle_t *h)
{
    struct srv_mailbox *b = h->data;

    pthread_mutex_destroy(&b->lock);
    free(b);
}

void srv_mailbox_free(struct srv_mailbox *b)
{
    if (!b)
        return;
    deliver(b);
    uv_close((uv_handle_t *)&b->async, on_closed);
}

void srv_mailbox_post(struct srv_mailbox *b, struct srv_mail *m)
{
    /* Woken under the lock: once a letter has been delivered, its sender no
     * longer touches the mailbox, which may then be freed. */
    pthread_mutex_lock(&b->lock);
    m->next = NULL;
    if (b->tail)
        b->tail->next = m;
    else
        b->head = m;
    b->tail = m;
    uv_async_send(&b->async);
    pthread_mutex_unlock(&b->lock);
}
