/* Stored crops through another model's network. */
#include "server/inference/reembed.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "model/vision/face.h"
#include "model/vision/image.h"
#include "server/app.h"

#define BATCH 32
#define CROP_LEN ((size_t)MDL_FACE_SIDE_PX * MDL_FACE_SIDE_PX * 3)
#define RETRY_US 10000
#define ITEM_PATIENCE_US 600000000

struct srv_reembed {
    struct srv_generation *g;
    struct srv_store *store;
    int64_t after; /* the last face that was looked at */

    /* Of the faces at hand. */
    uint8_t *crops;    /* owned; [BATCH, CROP_LEN] */
    float *embeddings; /* owned; [BATCH, dim] */
    int n, pending;    /* pending: atomic */
    uv_sem_t done;
    struct srv_item items[BATCH];
};

static void on_item(struct srv_item *it)
{
    struct srv_reembed *r = it->owner;

    if (!__atomic_sub_fetch(&r->pending, 1, __ATOMIC_ACQ_REL))
        uv_sem_post(&r->done);
}

static bool is_draining(const struct srv_reembed *r)
{
    return __atomic_load_n(&r->g->app->draining, __ATOMIC_RELAXED);
}

/* Through the executors, behind everything that lives. */
static enum ut_err embed_in_use(struct srv_reembed *r, int dim,
                                struct ut_error *e)
{
    struct srv_item *list[BATCH];
    enum ut_err rc;

    for (int i = 0; i < r->n; i++) {
        r->items[i] = (struct srv_item){
            .tasks = SRV_TASK_RECOGNITION,
            .bulk = true,
            .deadline_us = ut_clock_us() + ITEM_PATIENCE_US,
            .crop = r->crops + (size_t)i * CROP_LEN,
            .scores = {.embedding = r->embeddings + (size_t)i * (size_t)dim},
            .done = on_item,
            .owner = r,
        };
        list[i] = &r->items[i];
    }
    r->pending = r->n;
    while ((rc = srv_batcher_push(r->g->batcher, list, r->n, e)) == UT_EBUSY &&
           !is_draining(r))
        usleep(RETRY_US);
    if (rc)
        return rc;
    uv_sem_wait(&r->done);
    for (int i = 0; i < r->n; i++)
        if (r->items[i].rc)
            return ut_fail(e, r->items[i].rc, "a face could not be embedded");
    return UT_OK;
}

/* On the first lane of an engine that nobody else uses yet. */
static enum ut_err embed_alone(struct srv_reembed *r, int dim,
                               struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (int at = 0, n; at < r->n && !rc; at += n) {
        const uint8_t *crops[BATCH];
        struct srv_scores scores[BATCH], *list[BATCH];

        n = srv_engine_batch(r->g->engine, r->n - at);
        for (int i = 0; i < n; i++) {
            crops[i] = r->crops + (size_t)(at + i) * CROP_LEN;
            scores[i].embedding =
                r->embeddings + (size_t)(at + i) * (size_t)dim;
            list[i] = &scores[i];
        }
        rc = srv_engine_run(r->g->engine, 0, crops, n, SRV_TASK_RECOGNITION,
                            list, e);
    }
    return rc;
}

/* Decodes faces' crops; those that cannot be are passed over. faces[] keeps
 * the rest. */
static void decode(struct srv_reembed *r, struct srv_crop *faces, int n)
{
    r->n = 0;
    for (int i = 0; i < n; i++) {
        struct mdl_image im = {0};
        struct ut_error e;

        if (mdl_image_decode(faces[i].png, faces[i].len, 0, &im, &e) ||
            mdl_face_crop(&im, r->crops + (size_t)r->n * CROP_LEN, &e))
            srv_log_line(r->g->app->log, SRV_LOG_WARN, NULL, "%s: %s",
                         faces[i].face_id, e.msg);
        else
            memcpy(faces[r->n++].face_id, faces[i].face_id, SRV_ID_LEN);
        mdl_image_fini(&im);
        free(faces[i].png);
    }
}

static void progress(struct srv_reembed *r, int n)
{
    struct srv_generations *all = &r->g->app->generations;

    pthread_mutex_lock(&all->lock);
    all->done += n;
    if (all->total < all->done)
        all->total = all->done; /* enrolled since the count */
    pthread_mutex_unlock(&all->lock);
}

/* A niceness is a thread's own on Linux. Taking it back needs the privilege
 * for it; without, later change overs wait for an idle processor too. */
static void be_nice(int niceness)
{
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), niceness);
}

enum ut_err srv_reembed_missing(struct srv_reembed *r, struct ut_error *e)
{
    const char *version = srv_generation_version(r->g);
    int dim = srv_engine_dim(r->g->engine), n;
    /* More than the queue takes would never be taken. */
    int64_t room = r->g->app->config->max_queue;
    int most = room < BATCH ? (int)room : BATCH;
    enum ut_err rc;

    do {
        struct srv_crop faces[BATCH];

        if (is_draining(r))
            return ut_fail(e, UT_EBUSY, "the server is draining");
        rc = srv_store_crops(r->store, version, r->after, most, faces, &n, e);
        if (rc || !n)
            return rc;
        r->after = faces[n - 1].seq;
        decode(r, faces, n);
        be_nice(19); /* serving goes first */
        if (r->n)
            rc = r->g->batcher ? embed_in_use(r, dim, e)
                               : embed_alone(r, dim, e);
        be_nice(0);
        if (!rc && r->n)
            rc = srv_store_embed(r->store, version, faces, r->embeddings, r->n,
                                 dim, e);
        progress(r, n);
    } while (!rc);
    return rc;
}

int64_t srv_reembed_after(const struct srv_reembed *r)
{
    return r->after;
}

enum ut_err srv_reembed_new(struct srv_generation *g, struct srv_store *store,
                            struct srv_reembed **out, struct ut_error *e)
{
    struct srv_reembed *r = calloc(1, sizeof(*r));

    *out = NULL;
    if (!r)
        return ut_fail(e, UT_ENOMEM, "no memory to embed");
    r->g = g;
    r->store = store;
    uv_sem_init(&r->done, 0);
    r->crops = malloc(BATCH * CROP_LEN);
    r->embeddings =
        malloc(BATCH * sizeof(float) * (size_t)srv_engine_dim(g->engine));
    if (!r->crops || !r->embeddings) {
        srv_reembed_free(r);
        return ut_fail(e, UT_ENOMEM, "no memory to embed");
    }
    *out = r;
    return UT_OK;
}

void srv_reembed_free(struct srv_reembed *r)
{
    if (!r)
        return;
    uv_sem_destroy(&r->done);
    free(r->crops);
    free(r->embeddings);
    free(r);
}
