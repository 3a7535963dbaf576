/* The queue: threads take batch numbers, fill their slots, and hand them over
 * in order. */
#include "model/data/queue.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/vision/image.h"

#define MAX_THREADS 16

struct slot {
    struct mdl_batch batch;
    int64_t number; /* of the batch that lies here; -1: none */
};

/* Aligned faces of a dataset as a source. */
struct faces {
    const struct mdl_dataset *d;
    struct mdl_queue_config config;
};

struct mdl_queue {
    struct faces faces;
    struct mdl_source source;
    struct mdl_queue_config config;
    struct slot slots[MDL_QUEUE_BATCHES];
    pthread_t threads[MAX_THREADS];
    int n_threads;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t next_in, next_out; /* batch numbers */
    bool stopping, failed;
    struct mdl_queue_state state;
};

/* Position p of the endless order: a Feistel network makes a permutation of
 * each epoch without a table of it. */
static int position(const struct mdl_queue *q, int64_t p)
{
    uint64_t n = (uint64_t)q->source.n, epoch = (uint64_t)p / n;
    uint64_t x = (uint64_t)p % n;
    int half = 1;

    while (1ull << 2 * half < n)
        half++;
    do {
        uint64_t left = x >> half, right = x & ((1ull << half) - 1);

        for (uint64_t round = 0; round < 4; round++) {
            uint64_t key = q->config.seed * 0x9e3779b97f4a7c15u +
                           epoch * 0xbf58476d1ce4e5b9u + round;
            uint64_t f = (right + key) * 0x94d049bb133111ebu;
            uint64_t swap = left ^ ((f ^ f >> 29) & ((1ull << half) - 1));

            left = right;
            right = swap;
        }
        x = left << half | right;
    } while (x >= n); /* walks the cycle back into the range */
    return (int)x;
}

static void note_broken(struct mdl_queue *q, const struct ut_error *e)
{
    pthread_mutex_lock(&q->lock);
    q->state.broken++;
    snprintf(q->state.last, sizeof(q->state.last), "%.199s", e->msg);
    pthread_mutex_unlock(&q->lock);
}

/* One picture of a batch; a broken one is stepped over. */
static bool fill_one(struct mdl_queue *q, int64_t p, uint8_t *scratch,
                     struct mdl_batch *b, int at)
{
    const struct mdl_source *s = &q->source;
    size_t size = (size_t)q->config.side * (size_t)q->config.side * 3;
    uint64_t seed = q->config.seed ^ (uint64_t)p * 0x2545f4914f6cdd1du;
    int i = position(q, p);
    struct ut_error e;

    for (int tries = 0; tries < s->n; tries++, i = (i + 1) % s->n) {
        b->row[at] = i;
        if (!s->make(s->arg, i, &seed, scratch, b->images + (size_t)at * size,
                     (char *)b->notes + (size_t)at * s->note, &e))
            return true;
        note_broken(q, &e);
    }
    return false;
}

static bool fill(struct mdl_queue *q, int64_t number, uint8_t *scratch,
                 struct mdl_batch *b)
{
    for (int i = 0; i < q->config.batch; i++)
        if (!fill_one(q, number * q->config.batch + i, scratch, b, i))
            return false;
    return true;
}

static void *work(void *arg)
{
    struct mdl_queue *q = arg;
    uint8_t *scratch = malloc(q->source.scratch + 1);
    bool ok = scratch != NULL;

    pthread_mutex_lock(&q->lock);
    while (ok && !q->stopping) {
        int64_t number = q->next_in;
        struct slot *s = &q->slots[number % MDL_QUEUE_BATCHES];

        if (number >= q->next_out + MDL_QUEUE_BATCHES) {
            pthread_cond_wait(&q->changed, &q->lock);
            continue;
        }
        q->next_in++;
        pthread_mutex_unlock(&q->lock);
        ok = fill(q, number, scratch, &s->batch);
        pthread_mutex_lock(&q->lock);
        if (ok) {
            s->number = number;
            q->state.waiting++;
        }
        pthread_cond_broadcast(&q->changed);
    }
    if (!ok)
        q->failed = true;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
    free(scratch);
    return NULL;
}

static enum ut_err make_batches(struct mdl_queue *q, struct ut_error *e)
{
    size_t side = (size_t)q->config.side, n = (size_t)q->config.batch;

    for (int i = 0; i < MDL_QUEUE_BATCHES; i++) {
        struct mdl_batch *b = &q->slots[i].batch;

        b->images = malloc(n * side * side * 3);
        b->notes = malloc(n * q->source.note);
        b->row = malloc(n * sizeof(*b->row));
        if (!b->images || !b->notes || !b->row)
            return ut_fail(e, UT_ENOMEM, "no memory for a queue's batches");
        b->label = q->faces.d ? b->notes : NULL;
    }
    return UT_OK;
}

/* Takes q. */
static enum ut_err start(struct mdl_queue *q, struct mdl_queue **out,
                         struct ut_error *e)
{
    enum ut_err rc = make_batches(q, e);

    for (int i = 0; !rc && i < q->config.threads && i < MAX_THREADS; i++) {
        if (pthread_create(&q->threads[i], NULL, work, q))
            rc = ut_fail(e, UT_ENOMEM, "a queue's thread cannot be started");
        else
            q->n_threads++;
    }
    if (rc)
        mdl_queue_free(q);
    else
        *out = q;
    return rc;
}

static struct mdl_queue *make(const struct mdl_queue_config *c)
{
    struct mdl_queue *q = calloc(1, sizeof(*q));

    if (!q)
        return NULL;
    q->config = *c;
    q->next_in = q->next_out = c->first;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->changed, NULL);
    for (int i = 0; i < MDL_QUEUE_BATCHES; i++)
        q->slots[i].number = -1;
    return q;
}

enum ut_err mdl_queue_open(const struct mdl_source *s,
                           const struct mdl_queue_config *c,
                           struct mdl_queue **out, struct ut_error *e)
{
    struct mdl_queue *q = make(c);

    *out = NULL;
    if (!q)
        return ut_fail(e, UT_ENOMEM, "no memory for a queue");
    q->source = *s;
    return start(q, out, e);
}

void mdl_queue_free(struct mdl_queue *q)
{
    if (!q)
        return;
    pthread_mutex_lock(&q->lock);
    q->stopping = true;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
    for (int i = 0; i < q->n_threads; i++)
        pthread_join(q->threads[i], NULL);
    for (int i = 0; i < MDL_QUEUE_BATCHES; i++) {
        free(q->slots[i].batch.images);
        free(q->slots[i].batch.notes);
        free(q->slots[i].batch.row);
    }
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->changed);
    free(q);
}

enum ut_err mdl_queue_next(struct mdl_queue *q, const struct mdl_batch **out,
                           struct ut_error *e)
{
    struct slot *s;
    enum ut_err rc = UT_OK;

    pthread_mutex_lock(&q->lock);
    /* The batch that was handed out is free from here on. */
    s = &q->slots[q->next_out % MDL_QUEUE_BATCHES];
    if (s->number == q->next_out && *out == &s->batch) {
        s->number = -1;
        q->next_out++;
        pthread_cond_broadcast(&q->changed);
        s = &q->slots[q->next_out % MDL_QUEUE_BATCHES];
    }
    if (s->number != q->next_out)
        q->state.dry++;
    while (s->number != q->next_out && !q->failed)
        pthread_cond_wait(&q->changed, &q->lock);
    if (s->number == q->next_out) {
        q->state.waiting--;
        *out = &s->batch;
    } else {
        rc = ut_fail(e, UT_EFORMAT, "no picture can be read: %.150s",
                     q->state.last);
    }
    pthread_mutex_unlock(&q->lock);
    return rc;
}

void mdl_queue_state(struct mdl_queue *q, struct mdl_queue_state *out)
{
    pthread_mutex_lock(&q->lock);
    *out = q->state;
    pthread_mutex_unlock(&q->lock);
}

/* ---- aligned faces ---- */

/* Decodes example i into [side, side, 3]. */
static enum ut_err load(const struct faces *f, int i, uint8_t *out,
                        struct ut_error *e)
{
    int side = f->config.side;
    struct mdl_image im;
    enum ut_err rc = mdl_dataset_picture(f->d, i, 2 * side, &im, e);

    if (rc)
        return rc;
    mdl_image_resize(&im, side, side, out);
    mdl_image_fini(&im);
    return UT_OK;
}

/* Example i, augmented. */
static enum ut_err view(const struct faces *f, int i, uint64_t *seed,
                        uint8_t *scratch, uint8_t *out, struct ut_error *e)
{
    enum ut_err rc = load(f, i, f->config.augmented ? scratch : out, e);

    if (!rc && f->config.augmented)
        mdl_augment(&f->config.augment, scratch, f->config.side, seed, out);
    return rc;
}

static enum ut_err make_face(const void *arg, int i, uint64_t *seed,
                             uint8_t *scratch, uint8_t *image, void *note,
                             struct ut_error *e)
{
    const struct faces *f = arg;
    int side = f->config.side;
    uint8_t *other = scratch + (size_t)side * (size_t)side * 3;
    int32_t *label = note;
    enum ut_err rc = view(f, i, seed, scratch, image, e);

    *label = f->d->examples[i].label;
    if (rc || mdl_uniform(seed) >= f->config.mix)
        return rc;
    rc = view(f, (int)(mdl_uniform(seed) * f->d->n), seed, scratch, other, e);
    if (!rc)
        mdl_mix(other, side, seed, image);
    *label = -1;
    return rc;
}

enum ut_err mdl_queue_new(const struct mdl_dataset *d,
                          const struct mdl_queue_config *c,
                          struct mdl_queue **out, struct ut_error *e)
{
    struct mdl_queue *q = make(c);

    *out = NULL;
    if (!q)
        return ut_fail(e, UT_ENOMEM, "no memory for a queue");
    q->faces = (struct faces){d, *c};
    q->source = (struct mdl_source){
        .arg = &q->faces,
        .n = d->n,
        .note = sizeof(int32_t),
        .scratch = 2 * (size_t)c->side * (size_t)c->side * 3,
        .make = make_face,
    };
    return start(q, out, e);
}
