/* Threads around a ring of jobs. The ring is as long as the queue may get,
 * so that pushing never allocates. */
#include "server/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

struct job {
    srv_pool_fn fn;
    void *arg;
};

struct worker {
    struct srv_pool *pool;
    pthread_t thread;
    int idx;
};

struct srv_pool {
    char name[13];
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct job *ring; /* owned; [max_queued]              */
    size_t max_queued;
    size_t first;           /* under lock: the oldest job       */
    atomic_size_t queued;   /* written under lock               */
    bool ending;            /* under lock                       */
    int n_threads;          /* running                          */
    struct worker *workers; /* owned; [n_threads]             */
};

static void *run(void *arg)
{
    struct worker *w = arg;
    struct srv_pool *p = w->pool;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct job job;

        while (!atomic_load(&p->queued) && !p->ending)
            pthread_cond_wait(&p->work, &p->lock);
        if (!atomic_load(&p->queued))
            break;
        job = p->ring[p->first];
        p->first = (p->first + 1) % p->max_queued;
        atomic_fetch_sub(&p->queued, 1);
        pthread_mutex_unlock(&p->lock);
        job.fn(job.arg, w->idx);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

enum ut_err srv_pool_new(const char *name, int n_threads, size_t max_queued,
                         struct srv_pool **out, struct ut_error *e)
{
    struct srv_pool *p = NULL;
    enum ut_err rc = UT_OK;

    *out = NULL;
    if (n_threads < 1 || max_queued < 1)
        return ut_fail(e, UT_EINVAL, "pool %s: %d threads, %zu jobs", name,
                       n_threads, max_queued);
    p = calloc(1, sizeof(*p));
    if (!p)
        return ut_fail(e, UT_ENOMEM, "pool %s: no memory", name);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    snprintf(p->name, sizeof(p->name), "%s", name);
    p->max_queued = max_queued;
    p->ring = calloc(max_queued, sizeof(*p->ring));
    p->workers = calloc((size_t)n_threads, sizeof(*p->workers));
    if (!p->ring || !p->workers) {
        rc = ut_fail(e, UT_ENOMEM, "pool %s: no memory for %zu jobs", name,
                     max_queued);
        goto out;
    }
    for (int i = 0; i < n_threads; i++) {
        struct worker *w = &p->workers[i];
        char thread_name[16];

        *w = (struct worker){.pool = p, .idx = i};
        if (pthread_create(&w->thread, NULL, run, w)) {
            rc = ut_fail(e, UT_EBUSY, "pool %s: thread %d of %d cannot start",
                         name, i + 1, n_threads);
            goto out;
        }
        p->n_threads++;
        snprintf(thread_name, sizeof(thread_name), "%s-%d", p->name, i);
        pthread_setname_np(w->thread, thread_name);
    }
    *out = p;
    p = NULL;
out:
    srv_pool_free(p);
    return rc;
}

void srv_pool_free(struct srv_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->ending = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_threads; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p->ring);
    free(p);
}

enum ut_err srv_pool_push(struct srv_pool *p, srv_pool_fn fn, void *arg,
                          struct ut_error *e)
{
    size_t queued;

    pthread_mutex_lock(&p->lock);
    queued = atomic_load(&p->queued);
    if (queued == p->max_queued) {
        pthread_mutex_unlock(&p->lock);
        return ut_fail(e, UT_EBUSY, "%s: %zu jobs wait, which is the limit",
                       p->name, queued);
    }
    p->ring[(p->first + queued) % p->max_queued] =
        (struct job){.fn = fn, .arg = arg};
    atomic_fetch_add(&p->queued, 1);
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
    return UT_OK;
}

size_t srv_pool_queued(const struct srv_pool *p)
{
    return atomic_load(&p->queued);
}
