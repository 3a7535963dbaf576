/* Batching: two intrusive queues under one lock, an executor per lane, and a
 * thread that ends what expires while the executors are busy. */
#include "server/inference/batcher.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/log.h"
#include "server/metrics.h"

struct queue {
    struct srv_item *head, **tail;
};

struct executor {
    struct srv_batcher *batcher;
    int lane;
    pthread_t thread;
    struct srv_gallery_scratch *scratch;
};

struct srv_batcher {
    struct srv_engine *engine;
    struct srv_gallery *gallery; /* may be NULL */
    struct srv_metrics *metrics; /* may be NULL */
    struct srv_log *log;         /* may be NULL */
    struct srv_batcher_config config;
    pthread_mutex_t lock;
    pthread_cond_t work, deadline;
    struct queue live, bulk; /* guarded by lock, as the next five */
    size_t n_queued;
    int64_t next_deadline_us; /* the watch sleeps until it */
    int n_idle;
    bool stopping;
    struct srv_batcher_stats stats;
    struct executor *executors;
    int n_executors;
    pthread_t watch;
    bool watched; /* it was started */
};

static void queue_put(struct queue *q, struct srv_item *it)
{
    it->next = NULL;
    *q->tail = it;
    q->tail = &it->next;
}

/* Ends an item that will not be computed. */
static void drop(struct srv_batcher *b, struct srv_item *it, int64_t now)
{
    it->rc = UT_EBUSY;
    it->dropped =
        it->cancelled && __atomic_load_n(it->cancelled, __ATOMIC_RELAXED);
    it->expired = !it->dropped && now >= it->deadline_us;
    it->queue_us = now - it->queue_us;
    pthread_mutex_lock(&b->lock);
    b->stats.failed++;
    b->stats.failed_us += (uint64_t)it->queue_us;
    pthread_mutex_unlock(&b->lock);
    srv_metrics_count(b->metrics,
                      it->dropped ? SRV_REJECT_CANCELLED : SRV_REJECT_EXPIRED);
    it->done(it);
}

static bool is_stale(const struct srv_item *it, int64_t now)
{
    return now >= it->deadline_us ||
           (it->cancelled && __atomic_load_n(it->cancelled, __ATOMIC_RELAXED));
}

/* Takes stale items out of q into *stale. */
static void sweep(struct srv_batcher *b, struct queue *q, int64_t now,
                  struct srv_item **stale)
{
    struct srv_item **p = &q->head;

    while (*p) {
        struct srv_item *it = *p;

        if (!is_stale(it, now)) {
            p = &it->next;
            continue;
        }
        *p = it->next;
        it->next = *stale;
        *stale = it;
        b->n_queued--;
    }
    q->tail = p;
}

static void drop_all(struct srv_batcher *b, struct srv_item *stale)
{
    while (stale) {
        struct srv_item *next = stale->next; /* its owner's once dropped */

        drop(b, stale, ut_clock_us());
        stale = next;
    }
}

/* Up to max items of the first one's tasks, oldest first. */
static int take(struct srv_batcher *b, struct queue *q, int max,
                struct srv_item **batch)
{
    struct srv_item **p = &q->head;
    unsigned tasks = q->head->tasks;
    int n = 0;

    while (*p && n < max) {
        struct srv_item *it = *p;

        if (it->tasks != tasks) {
            p = &it->next;
            continue;
        }
        *p = it->next;
        batch[n++] = it;
        b->n_queued--;
    }
    while (*p)
        p = &(*p)->next;
    q->tail = p;
    return n;
}

static int count_same(const struct queue *q)
{
    int n = 0;

    for (const struct srv_item *it = q->head; it; it = it->next)
        n += it->tasks == q->head->tasks;
    return n;
}

static void wait_until(pthread_cond_t *cond, pthread_mutex_t *lock,
                       int64_t until_us)
{
    struct timespec t = {until_us / 1000000, until_us % 1000000 * 1000};

    pthread_cond_timedwait(cond, lock, &t);
}

/* Sleeps until there is work; the batch to run, or 0 to end. Called and
 * returns with the lock held; *stale gets what must be dropped. */
static int next_batch(struct srv_batcher *b, struct srv_item **batch,
                      struct srv_item **stale)
{
    struct queue *q;
    int64_t now;
    int others, share;

    for (;;) {
        now = ut_clock_us();
        sweep(b, &b->live, now, stale);
        sweep(b, &b->bulk, now, stale);
        if (*stale)
            return 0;
        q = b->live.head ? &b->live : &b->bulk;
        if (q->head && b->config.delay_us && !b->stopping &&
            count_same(q) < srv_engine_max_batch(b->engine) &&
            now < q->head->queue_us + b->config.delay_us) {
            int64_t until = q->head->queue_us + b->config.delay_us;

            wait_until(&b->work, &b->lock, until);
            continue;
        }
        if (q->head)
            break;
        if (b->stopping)
            return -1;
        b->n_idle++;
        pthread_cond_wait(&b->work, &b->lock);
        b->n_idle--;
    }
    /* Leave the other idle executors their share, unless it is full batches
     * that were waited for. */
    others = b->config.delay_us ? 0 : b->n_idle;
    share = (count_same(q) + others) / (others + 1);
    return take(b, q, srv_engine_batch(b->engine, share), batch);
}

static void search(struct executor *x, struct srv_item **batch, int n)
{
    const float *queries[SRV_MAX_BATCH];
    struct srv_match *matches[SRV_MAX_BATCH];
    int top_k[SRV_MAX_BATCH], counts[SRV_MAX_BATCH], who[SRV_MAX_BATCH];
    int64_t start = ut_clock_us();
    int m = 0;

    for (int i = 0; i < n; i++) {
        batch[i]->n_matches = 0;
        if (!batch[i]->top_k || !x->batcher->gallery)
            continue;
        queries[m] = batch[i]->scores.embedding;
        matches[m] = batch[i]->matches;
        top_k[m] = batch[i]->top_k;
        who[m++] = i;
    }
    if (!m)
        return;
    srv_gallery_search(x->batcher->gallery, x->scratch, queries, m, matches,
                       top_k, counts);
    start = ut_clock_us() - start;
    srv_metrics_observe(x->batcher->metrics, SRV_METRIC_MATCH,
                        (double)start / 1e6);
    for (int i = 0; i < m; i++) {
        batch[who[i]]->n_matches = counts[i];
        batch[who[i]]->match_us = start;
    }
}

/* A batch came to its end. */
static void count(struct srv_batcher *b, struct srv_item **batch, int n,
                  int64_t took_us, enum ut_err rc)
{
    uint64_t queued = 0, took = (uint64_t)took_us;
    struct srv_batcher_stats *s = &b->stats;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < n; i++)
        queued += (uint64_t)batch[i]->queue_us;
    pthread_mutex_lock(&b->lock);
    if (rc) {
        s->failed += (uint64_t)n;
        s->failed_us += queued;
    } else {
        s->faces += (uint64_t)n;
        s->batches++;
        s->queue_us += queued;
        s->compute_us += took * (uint64_t)n;
        s->of_size[n].batches++;
        s->of_size[n].compute_us += took;
        s->last_ms =
            (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    }
    pthread_mutex_unlock(&b->lock);
}

static void run(struct executor *x, struct srv_item **batch, int n)
{
    struct srv_batcher *b = x->batcher;
    const uint8_t *crops[SRV_MAX_BATCH];
    struct srv_scores *scores[SRV_MAX_BATCH];
    int64_t start = ut_clock_us(), took;
    struct ut_error e;
    enum ut_err rc;

    for (int i = 0; i < n; i++) {
        crops[i] = batch[i]->crop;
        scores[i] = &batch[i]->scores;
        batch[i]->queue_us = start - batch[i]->queue_us;
        srv_metrics_observe(b->metrics, SRV_METRIC_QUEUE,
                            (double)batch[i]->queue_us / 1e6);
    }
    rc = srv_engine_run(b->engine, x->lane, crops, n, batch[0]->tasks, scores,
                        &e);
    took = ut_clock_us() - start;
    srv_metrics_observe(b->metrics, SRV_METRIC_COMPUTE, (double)took / 1e6);
    srv_metrics_batch(b->metrics, n);
    count(b, batch, n, took, rc);
    if (rc)
        srv_log_line(b->log, SRV_LOG_WARN, NULL,
                     "a batch of %d on lane %d failed: %s", n, x->lane, e.msg);
    else
        search(x, batch, n);
    for (int i = 0; i < n; i++) {
        batch[i]->rc = rc;
        batch[i]->compute_us = took;
        batch[i]->batch_size = n;
        batch[i]->done(batch[i]);
    }
}

/* One executor per core, so that its plans' memory stays in its caches. Not
 * where there are fewer than cores (a container's quota): others may have been
 * pinned to the same ones. */
static void pin(int lane, int n_lanes)
{
    cpu_set_t allowed, one;
    int at = 0;

    if (sched_getaffinity(0, sizeof(allowed), &allowed) ||
        n_lanes < CPU_COUNT(&allowed))
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && at++ == lane % CPU_COUNT(&allowed)) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
            return;
        }
}

static void *execute(void *arg)
{
    struct executor *x = arg;
    struct srv_batcher *b = x->batcher;
    struct srv_item *batch[SRV_MAX_BATCH];

    if (strcmp(srv_engine_backend(b->engine), "cuda"))
        pin(x->lane, srv_engine_lanes(b->engine));
    pthread_mutex_lock(&b->lock);
    for (;;) {
        struct srv_item *stale = NULL;
        int n = next_batch(b, batch, &stale);

        if (n < 0)
            break;
        pthread_mutex_unlock(&b->lock);
        drop_all(b, stale);
        if (n)
            run(x, batch, n);
        pthread_mutex_lock(&b->lock);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

static int64_t earliest(const struct queue *q)
{
    int64_t us = INT64_MAX;

    for (const struct srv_item *it = q->head; it; it = it->next)
        us = it->deadline_us < us ? it->deadline_us : us;
    return us;
}

/* Ends what expires while every executor is busy. */
static void *watch(void *arg)
{
    struct srv_batcher *b = arg;

    pthread_mutex_lock(&b->lock);
    while (!b->stopping) {
        struct srv_item *stale = NULL;
        int64_t now = ut_clock_us(), live, bulk;

        sweep(b, &b->live, now, &stale);
        sweep(b, &b->bulk, now, &stale);
        if (stale) {
            pthread_mutex_unlock(&b->lock);
            drop_all(b, stale);
            pthread_mutex_lock(&b->lock);
            continue;
        }
        live = earliest(&b->live);
        bulk = earliest(&b->bulk);
        b->next_deadline_us = live < bulk ? live : bulk;
        if (b->next_deadline_us == INT64_MAX)
            pthread_cond_wait(&b->deadline, &b->lock);
        else
            wait_until(&b->deadline, &b->lock, b->next_deadline_us);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

static enum ut_err start(struct srv_batcher *b, struct ut_error *e)
{
    for (int i = 0; i < srv_engine_lanes(b->engine); i++) {
        struct executor *x = &b->executors[i];
        enum ut_err rc;

        x->batcher = b;
        x->lane = i;
        rc = b->gallery ? srv_gallery_scratch_new(b->gallery, &x->scratch, e)
                        : UT_OK;
        if (rc)
            return rc;
        if (pthread_create(&x->thread, NULL, execute, x)) {
            srv_gallery_scratch_free(x->scratch);
            return ut_fail(e, UT_ENOMEM, "executor %d cannot be started", i);
        }
        b->n_executors++;
    }
    if (pthread_create(&b->watch, NULL, watch, b))
        return ut_fail(e, UT_ENOMEM, "the watch over deadlines cannot start");
    b->watched = true;
    return UT_OK;
}

enum ut_err srv_batcher_new(struct srv_engine *en, struct srv_gallery *gallery,
                            struct srv_metrics *metrics, struct srv_log *log,
                            const struct srv_batcher_config *c,
                            struct srv_batcher **out, struct ut_error *e)
{
    struct srv_batcher *b = calloc(1, sizeof(*b));
    pthread_condattr_t attr;
    enum ut_err rc;

    *out = NULL;
    if (!b)
        return ut_fail(e, UT_ENOMEM, "no memory for the batcher");
    b->engine = en;
    b->gallery = gallery;
    b->metrics = metrics;
    b->log = log;
    b->config = *c;
    b->live.tail = &b->live.head;
    b->bulk.tail = &b->bulk.head;
    b->next_deadline_us = INT64_MAX;
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&b->work, &attr);
    pthread_cond_init(&b->deadline, &attr);
    pthread_condattr_destroy(&attr);
    b->executors = calloc((size_t)srv_engine_lanes(en), sizeof(*b->executors));
    rc = b->executors ? start(b, e)
                      : ut_fail(e, UT_ENOMEM, "no memory for the executors");
    if (rc)
        srv_batcher_free(b);
    else
        *out = b;
    return rc;
}

void srv_batcher_free(struct srv_batcher *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    b->stopping = true;
    pthread_cond_broadcast(&b->work);
    pthread_cond_signal(&b->deadline);
    pthread_mutex_unlock(&b->lock);
    if (b->watched)
        pthread_join(b->watch, NULL);
    for (int i = 0; i < b->n_executors; i++) {
        pthread_join(b->executors[i].thread, NULL);
        srv_gallery_scratch_free(b->executors[i].scratch);
    }
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->work);
    pthread_cond_destroy(&b->deadline);
    free(b->executors);
    free(b);
}

enum ut_err srv_batcher_push(struct srv_batcher *b, struct srv_item **items,
                             int n, struct ut_error *e)
{
    int64_t now = ut_clock_us();
    enum ut_err rc = UT_OK;
    bool sooner = false;

    if ((size_t)n > b->config.max_items)
        return ut_fail(e, UT_EINVAL,
                       "%d faces in one request are more than the queue takes, "
                       "%zu (--max-queue)",
                       n, b->config.max_items);
    pthread_mutex_lock(&b->lock);
    if (b->n_queued + (size_t)n > b->config.max_items) {
        rc = ut_fail(e, UT_EBUSY,
                     "%zu faces are queued; %d more are over the "
                     "limit of %zu",
                     b->n_queued, n, b->config.max_items);
    } else {
        for (int i = 0; i < n; i++) {
            items[i]->queue_us = now; /* when it came, until it leaves */
            items[i]->expired = items[i]->dropped = false;
            queue_put(items[i]->bulk ? &b->bulk : &b->live, items[i]);
            sooner |= items[i]->deadline_us < b->next_deadline_us;
        }
        b->n_queued += (size_t)n;
        pthread_cond_broadcast(&b->work);
        if (sooner)
            pthread_cond_signal(&b->deadline);
    }
    srv_metrics_set(b->metrics, SRV_GAUGE_QUEUE, (int64_t)b->n_queued);
    pthread_mutex_unlock(&b->lock);
    return rc;
}

void srv_batcher_stats(struct srv_batcher *b, struct srv_batcher_stats *out)
{
    pthread_mutex_lock(&b->lock);
    *out = b->stats;
    pthread_mutex_unlock(&b->lock);
}

size_t srv_batcher_queued(const struct srv_batcher *b)
{
    struct srv_batcher *w = (struct srv_batcher *)(uintptr_t)b;
    size_t n;

    pthread_mutex_lock(&w->lock);
    n = w->n_queued;
    pthread_mutex_unlock(&w->lock);
    return n;
}
