/* Who comes to an idle lane first leads: takes the frames of its size that
 * wait, runs them, and tells the others. */
#include "server/inference/detect.h"

#include <pthread.h>
#include <stdlib.h>

/* A frame; on its thread's stack. */
struct waiting {
    struct waiting *next; /* in order of coming */
    struct mdl_find find;
    bool done;
    enum ut_err rc;
    struct ut_error error;
};

struct srv_detect {
    const struct mdl_detector *detector;
    struct mdl_backend *backend;
    bool batches; /* a device's: lanes are shared */
    int n_finders;
    struct mdl_finder **finders; /* owned; made when first wanted */
    pthread_mutex_t lock;        /* guards what follows */
    pthread_cond_t changed;
    bool *busy; /* owned; [n_finders] */
    struct waiting *first, **last;
    uint64_t n_batches, n_frames;
};

enum ut_err srv_detect_new(const struct mdl_detector *d, struct mdl_backend *b,
                           int threads, struct srv_detect **out,
                           struct ut_error *e)
{
    struct srv_detect *t = calloc(1, sizeof(*t));
    struct mdl_device_stats stats;

    *out = NULL;
    if (!t)
        return ut_fail(e, UT_ENOMEM, "no memory for finding faces");
    t->detector = d;
    t->backend = b;
    t->batches = b && mdl_backend_stats(b, &stats);
    t->n_finders = t->batches ? mdl_backend_lanes(b) : threads;
    t->finders = calloc((size_t)t->n_finders, sizeof(struct mdl_finder *));
    t->busy = calloc((size_t)t->n_finders, sizeof(*t->busy));
    t->last = &t->first;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
    if (!t->finders || !t->busy) {
        srv_detect_free(t);
        return ut_fail(e, UT_ENOMEM, "no memory for %d finders", threads);
    }
    *out = t;
    return UT_OK;
}

void srv_detect_free(struct srv_detect *t)
{
    if (!t)
        return;
    for (int i = 0; t->finders && i < t->n_finders; i++)
        mdl_finder_free(t->finders[i]);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->changed);
    free(t->finders);
    free(t->busy);
    free(t);
}

static enum ut_err finder_of(struct srv_detect *t, int i,
                             struct mdl_finder **out, struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    if (!t->finders[i])
        rc = mdl_finder_new(t->detector, t->backend, &t->finders[i], e);
    *out = t->finders[i];
    return rc;
}

/* Under the lock: an idle finder, -1 if there is none. */
static int idle(const struct srv_detect *t)
{
    for (int i = 0; i < t->n_finders; i++)
        if (!t->busy[i])
            return i;
    return -1;
}

/* Under the lock: takes the first frame that waits, and others of its size. */
static int take(struct srv_detect *t, struct waiting *batch[MDL_FINDER_BATCH])
{
    struct waiting **at = &t->first;
    int n = 0;

    while (*at && n < MDL_FINDER_BATCH) {
        struct waiting *w = *at;

        if (n &&
            !mdl_finder_alike(t->detector, batch[0]->find.im, w->find.im, 0)) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        batch[n++] = w;
    }
    for (t->last = &t->first; *t->last;)
        t->last = &(*t->last)->next;
    return n;
}

/* Under the lock, which it gives up to run: what waits first, by finder i. */
static void lead(struct srv_detect *t, int i)
{
    struct waiting *batch[MDL_FINDER_BATCH];
    struct mdl_find list[MDL_FINDER_BATCH];
    struct mdl_finder *finder;
    struct ut_error e;
    int n = take(t, batch);
    enum ut_err rc;

    t->busy[i] = true;
    t->n_batches++;
    t->n_frames += (uint64_t)n;
    if (t->first) /* another size, and maybe another lane for it */
        pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    for (int k = 0; k < n; k++)
        list[k] = batch[k]->find;
    rc = finder_of(t, i, &finder, &e);
    if (!rc)
        rc = mdl_finder_run_many(finder, 0, list, n, &e);
    pthread_mutex_lock(&t->lock);
    for (int k = 0; k < n; k++) {
        batch[k]->find.n = list[k].n;
        batch[k]->rc = rc;
        if (rc)
            batch[k]->error = e;
        batch[k]->done = true;
    }
    t->busy[i] = false;
    pthread_cond_broadcast(&t->changed);
}

static enum ut_err run_shared(struct srv_detect *t, struct waiting *me,
                              struct ut_error *e)
{
    pthread_mutex_lock(&t->lock);
    *t->last = me;
    t->last = &me->next;
    while (!me->done) {
        int i = t->first == me ? idle(t) : -1;

        if (i >= 0)
            lead(t, i);
        else
            pthread_cond_wait(&t->changed, &t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    return me->rc ? ut_fail(e, me->rc, "%s", me->error.msg) : UT_OK;
}

enum ut_err srv_detect_run(struct srv_detect *t, int thread,
                           const struct mdl_image *im, float min_score, int max,
                           struct mdl_face *faces, int *n, struct ut_error *e)
{
    struct waiting me = {.find = {im, min_score, max, faces, 0}};
    struct mdl_finder *finder;
    enum ut_err rc;

    *n = 0;
    if (t->batches) {
        rc = run_shared(t, &me, e);
        *n = me.find.n;
        return rc;
    }
    rc = finder_of(t, thread, &finder, e);
    return rc ? rc : mdl_finder_run(finder, im, 0, min_score, max, faces, n, e);
}

void srv_detect_stats(struct srv_detect *t, uint64_t *batches, uint64_t *frames)
{
    pthread_mutex_lock(&t->lock);
    *batches = t->n_batches;
    *frames = t->n_frames;
    pthread_mutex_unlock(&t->lock);
}
