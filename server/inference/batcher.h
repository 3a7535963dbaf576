#ifndef SERVER_BATCHER_H
#define SERVER_BATCHER_H

#include <stdbool.h>

#include "server/inference/engine.h"
#include "server/inference/gallery.h"

/* The queue between requests and executors.
 *
 * One executor thread per lane, pinned to its core on the CPU. An idle
 * executor starts at once with what waits (work-conserving), live before
 * bulk, oldest first, one set of tasks per batch; it waits up to delay_us for
 * a fuller batch only when told to. Expired and cancelled items leave before
 * they cost compute; an expired one at its deadline, however busy the
 * executors are. */

struct srv_item {
    struct srv_item *next; /* the batcher's                              */
    unsigned tasks;        /* SRV_TASK_ bits                             */
    bool bulk;
    int64_t deadline_us;   /* ut_clock_us() time                         */
    const bool *cancelled; /* set atomically by the loop (client left);
                              NULL: never                                */
    const uint8_t *crop;   /* u8 [112,112,3], lives until done           */
    int top_k;             /* gallery matches wanted; 0: do not search   */

    struct srv_scores scores;  /* out; embedding set by the caller */
    struct srv_match *matches; /* out [top_k]; the caller's memory */
    int n_matches;             /* out */
    int batch_size;            /* out */
    int64_t queue_us, compute_us, match_us; /* out */
    enum ut_err rc;        /* out: UT_OK, UT_EDEVICE; UT_EBUSY with
                              expired set */
    bool expired, dropped; /* out: past its deadline; cancelled */

    /* Called on a thread of the batcher's, the item is the caller's again. Must
     * be quick: post to a mailbox. */
    void (*done)(struct srv_item *it);
    void *owner; /* the caller's */
};

struct srv_batcher_config {
    size_t max_items; /* queued faces; over it UT_EBUSY */
    int64_t delay_us; /* 0: start at once               */
};

/* What was computed since the batcher began. Times are sums. */
struct srv_batcher_stats {
    uint64_t faces, batches;
    uint64_t queue_us, compute_us; /* of those faces */
    uint64_t failed, failed_us;    /* faces: expired, their client gone, their
                                      batch failed; in the queue */
    uint64_t last_ms;              /* the last batch, since 1970; 0: none */
    struct {
        uint64_t batches, compute_us;
    } of_size[SRV_MAX_BATCH + 1];
};

struct srv_batcher;
struct srv_log;
struct srv_metrics;

/* Why a batch failed goes to the log. */
UT_MUSTUSE enum ut_err
srv_batcher_new(struct srv_engine *en, struct srv_gallery *gallery,
                struct srv_metrics *metrics, struct srv_log *log,
                const struct srv_batcher_config *c, struct srv_batcher **out,
                struct ut_error *e);

/* Runs what is queued, then ends the executors. Accepts NULL. */
void srv_batcher_free(struct srv_batcher *b);

/* Queues n items together or none of them. Errors, naming the limit: UT_EBUSY,
 * which is for the caller to count; UT_EINVAL if n alone is over it. Thread:
 * any. */
UT_MUSTUSE enum ut_err srv_batcher_push(struct srv_batcher *b,
                                        struct srv_item **items, int n,
                                        struct ut_error *e);

/* Thread: any. */
size_t srv_batcher_queued(const struct srv_batcher *b);
void srv_batcher_stats(struct srv_batcher *b, struct srv_batcher_stats *out);

#endif
