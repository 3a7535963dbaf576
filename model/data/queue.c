/* The queue: threads take batch numbers, fill their slots, and hand them over
 * in order. */
#include "model/data/queue.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "model/vision/image.h"

#define MAX_THREADS 16

struct slot {
    struct mdl_batch batch;
    int64_t number; /* of the batch that lies here; -1: none */
};

struct mdl_queue {
    const struct mdl_dataset *d;
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
    uint64_t n = (uint64_t)q->d->n, epoch = (uint64_t)p / n;
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

/* Decodes example i into [side, side, 3]. */
static bool load(const struct mdl_queue *q, int i, uint8_t *out,
                 struct ut_error *e)
{
    const char *path = q->d->examples[i].path;
    int side = q->config.side;
    struct mdl_image im;
    struct ut_buf file;
    struct ut_error why;
    bool ok = false;

    ut_buf_init(&file, MDL_IMAGE_MAX_BYTES);
    if (!ut_buf_add_file(&file, path, e)) {
        ok = !mdl_image_decode((const uint8_t *)file.data, file.len, 2 * side,
                               &im, &why);
        if (!ok)
            ut_fail(e, UT_EFORMAT, "%.90s: %.120s", path, why.msg);
    }
    if (ok) {
        mdl_image_resize(&im, side, side, out);
        mdl_image_fini(&im);
    }
    ut_buf_fini(&file);
    return ok;
}

static void note_broken(struct mdl_queue *q, const struct ut_error *e)
{
    pthread_mutex_lock(&q->lock);
    q->state.broken++;
    snprintf(q->state.last, sizeof(q->state.last), "%.199s", e->msg);
    pthread_mutex_unlock(&q->lock);
}

/* Example i, augmented; a broken one is stepped over. Its number, or -1. */
static int view(struct mdl_queue *q, int i, uint64_t *seed, uint8_t *scratch,
                uint8_t *out)
{
    struct ut_error e;

    for (int tries = 0; tries < q->d->n; tries++, i = (i + 1) % q->d->n) {
        if (!load(q, i, q->config.augmented ? scratch : out, &e)) {
            note_broken(q, &e);
            continue;
        }
        if (q->config.augmented)
            mdl_augment(&q->config.augment, scratch, q->config.side, seed, out);
        return i;
    }
    return -1;
}

/* One picture of a batch. scratch: room for two. */
static bool fill_one(struct mdl_queue *q, int64_t p, uint8_t *scratch,
                     struct mdl_batch *b, int at)
{
    size_t size = (size_t)q->config.side * (size_t)q->config.side * 3;
    uint8_t *out = b->images + (size_t)at * size, *other = scratch + size;
    uint64_t seed = q->config.seed ^ (uint64_t)p * 0x2545f4914f6cdd1du;
    int i = view(q, position(q, p), &seed, scratch, out);

    if (i < 0)
        return false;
    b->row[at] = i;
    b->label[at] = q->d->examples[i].label;
    if (mdl_uniform(&seed) < q->config.mix) {
        int with = (int)(mdl_uniform(&seed) * q->d->n);

        if (view(q, with, &seed, scratch, other) < 0)
            return false;
        mdl_mix(other, q->config.side, &seed, out);
        b->label[at] = -1;
    }
    return true;
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
    uint8_t *scratch =
        malloc(2 * (size_t)q->config.side * (size_t)q->config.side * 3);
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

enum ut_err mdl_queue_new(const struct mdl_dataset *d,
                          const struct mdl_queue_config *c,
                          struct mdl_queue **out, struct ut_error *e)
{
    struct mdl_queue *q = calloc(1, sizeof(*q));
    size_t image = (size_t)c->side * (size_t)c->side * 3, n = (size_t)c->batch;

    *out = NULL;
    if (!q)
        return ut_fail(e, UT_ENOMEM, "no memory for a queue");
    q->d = d;
    q->config = *c;
    q->next_in = q->next_out = c->first;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->changed, NULL);
    for (int i = 0; i < MDL_QUEUE_BATCHES; i++) {
        struct mdl_batch *b = &q->slots[i].batch;

        q->slots[i].number = -1;
        b->images = malloc(n * image);
        b->label = malloc(n * sizeof(*b->label));
        b->row = malloc(n * sizeof(*b->row));
        if (!b->images || !b->label || !b->row) {
            mdl_queue_free(q);
            return ut_fail(e, UT_ENOMEM, "no memory for a queue's batches");
        }
    }
    for (int i = 0; i < c->threads && i < MAX_THREADS; i++) {
        if (pthread_create(&q->threads[i], NULL, work, q)) {
            mdl_queue_free(q);
            return ut_fail(e, UT_ENOMEM, "a queue's thread cannot be started");
        }
        q->n_threads++;
    }
    *out = q;
    return UT_OK;
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
        free(q->slots[i].batch.label);
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
