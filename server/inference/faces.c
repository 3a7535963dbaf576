/* The way from encoded pictures to scored faces.
 *
 *   loop: start, one pool task per frame
 *   decode pool: decode, find, align, judge
 *   the frame that ends last: all faces to the batcher at once
 *   executor that ends last: post to the mailbox
 *   loop: done()
 */
#include "server/inference/faces.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/app.h"
#include "server/inference/detect.h"
#include "server/late.h"
#include "server/metrics.h"

#define CROP_LEN ((size_t)MDL_FACE_SIDE_PX * MDL_FACE_SIDE_PX * 3)
/* Frames are decoded at twice the side that detection usually sees, so that
 * crops keep their detail. */
#define DECODE_SIDE_PX (2 * MDL_DETECT_SIDE_PX)

struct srv_faces {
    struct srv_app *app;
    struct srv_detect *detect; /* owned; NULL without a detector */
    int64_t bytes;             /* of pictures under way; the loop's */
};

struct frame_task {
    struct srv_faces_job *job;
    int idx;
};

enum ut_err srv_faces_new(struct srv_app *app, struct srv_faces **out,
                          struct ut_error *e)
{
    struct srv_faces *f = calloc(1, sizeof(*f));
    enum ut_err rc;

    *out = NULL;
    if (!f)
        return ut_fail(e, UT_ENOMEM, "no memory for the face pipeline");
    f->app = app;
    rc = app->detector
             ? srv_detect_new(app->detector, app->device,
                              app->config->decode_threads, &f->detect, e)
             : UT_OK;
    if (rc)
        free(f);
    else
        *out = f;
    return rc;
}

void srv_faces_free(struct srv_faces *f)
{
    if (!f)
        return;
    srv_detect_free(f->detect);
    free(f);
}

void srv_faces_job_fini(struct srv_faces_job *job)
{
    srv_generation_drop(job->generation);
    job->generation = NULL;
    for (int i = 0; i < job->n_frames; i++) {
        struct srv_faces_frame *frame = &job->frames[i];

        for (int k = 0; k < frame->n_faces; k++) {
            free(frame->faces[k].crop);
            free(frame->faces[k].item.scores.embedding);
            for (int l = 0; l < SRV_LEAVES; l++)
                free(frame->faces[k].item.scores.attention[l]);
            free(frame->faces[k].item.matches);
        }
        free(frame->faces);
        frame->faces = NULL;
        frame->n_faces = 0;
    }
}

/* Keeps the first error; several frames may fail at once. */
static void set_error(struct srv_faces_job *job, const struct api_error *err)
{
    int none = 0;

    if (__atomic_compare_exchange_n(&job->failed, &none, 1, false,
                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        job->err = *err;
}

size_t srv_input_len(enum srv_input input)
{
    return input == SRV_INPUT_U8    ? CROP_LEN
           : input == SRV_INPUT_F32 ? CROP_LEN * sizeof(float)
                                    : 0;
}

static void fail_frame(struct srv_faces_job *job, int idx,
                       const struct ut_error *e)
{
    struct api_error err;

    api_fail_from(&err, e);
    if (err.code == API_INVALID_ARGUMENT) {
        if (srv_input_len(job->input))
            snprintf(err.field, sizeof(err.field), "%s[%d]", job->field, idx);
        else if (job->n_frames == 1 && !strcmp(job->field, "image"))
            snprintf(err.field, sizeof(err.field), "image.data");
        else
            snprintf(err.field, sizeof(err.field), "%s[%d].data", job->field,
                     idx);
        snprintf(err.reason, sizeof(err.reason), "BAD_IMAGE");
    }
    set_error(job, &err);
}

static void deliver(struct srv_mail *m)
{
    struct srv_faces_job *job =
        (struct srv_faces_job *)((char *)m -
                                 offsetof(struct srv_faces_job, mail));

    for (int i = 0; i < job->n_frames; i++)
        job->app->faces->bytes -= (int64_t)job->frames[i].len;
    srv_metrics_set(job->app->metrics, SRV_GAUGE_DECODE,
                    (int64_t)srv_pool_queued(job->app->decode_pool));
    job->done(job, job->failed ? &job->err : NULL);
}

static bool last_of(struct srv_faces_job *job)
{
    return __atomic_sub_fetch(&job->pending, 1, __ATOMIC_ACQ_REL) == 0;
}

/* An executor is through with one face. */
static void on_item(struct srv_item *it)
{
    struct srv_faces_job *job = it->owner;
    struct api_error err;

    if (it->expired || it->dropped) {
        srv_say_late(&err, it->dropped);
        set_error(job, &err);
    } else if (it->rc) {
        api_fail(&err, API_UNAVAILABLE, "the device failed this batch");
        err.retry_after_s = 1;
        set_error(job, &err);
    }
    if (last_of(job))
        srv_mailbox_post(job->app->mailbox, &job->mail);
}

/* All frames are through: their faces go to the batcher together. */
static void push_faces(struct srv_faces_job *job)
{
    struct srv_item *items[SRV_MAX_IMAGES * SRV_MAX_FACES];
    struct api_error err;
    struct ut_error e;
    enum ut_err rc;
    int n = 0;

    for (int i = 0; i < job->n_frames && !job->failed; i++)
        for (int k = 0; k < job->frames[i].n_faces; k++)
            items[n++] = &job->frames[i].faces[k].item;
    if (n && job->tasks) {
        job->pending = n;
        rc = srv_batcher_push(job->generation->batcher, items, n, &e);
        if (!rc)
            return;
        if (rc == UT_EBUSY)
            srv_metrics_count(job->app->metrics, SRV_REJECT_QUEUE_FULL);
        api_fail_from(&err, &e);
        set_error(job, &err);
    }
    srv_mailbox_post(job->app->mailbox, &job->mail);
}

/* Room for what the executors will write of one face. */
static enum ut_err prepare(struct srv_faces_job *job, struct srv_faces_face *x,
                           struct ut_error *e)
{
    int dim = srv_engine_dim(job->generation->engine);

    x->crop = malloc(CROP_LEN);
    if (!x->crop)
        return ut_fail(e, UT_ENOMEM, "no memory for a face");
    x->item = (struct srv_item){
        .tasks = job->tasks,
        .bulk = job->bulk,
        .deadline_us = job->deadline_us,
        .cancelled = job->cancelled,
        .crop = x->crop,
        .top_k = job->tasks & SRV_TASK_RECOGNITION ? job->top_k : 0,
        .done = on_item,
        .owner = job,
    };
    if (job->tasks & SRV_TASK_RECOGNITION) {
        x->item.scores.embedding = malloc((size_t)dim * sizeof(float));
        if (!x->item.scores.embedding)
            return ut_fail(e, UT_ENOMEM, "no memory for an embedding");
    }
    for (int k = 0; k < SRV_LEAVES && job->tasks & SRV_TASK_ATTENTION; k++) {
        int width, height;
        size_t n =
            srv_engine_attention(job->generation->engine, k, &width, &height);

        if (!n || !(job->tasks >> k & 1))
            continue;
        x->item.scores.attention[k] = malloc(n * sizeof(float));
        if (!x->item.scores.attention[k])
            return ut_fail(e, UT_ENOMEM, "no memory for an attention map");
    }
    if (x->item.top_k) {
        x->item.matches =
            calloc((size_t)x->item.top_k, sizeof(*x->item.matches));
        if (!x->item.matches)
            return ut_fail(e, UT_ENOMEM, "no memory for %d matches",
                           x->item.top_k);
    }
    return UT_OK;
}

static int by_area(const void *a, const void *b)
{
    const struct mdl_face *x = a, *y = b;
    float p = x->w * x->h, q = y->w * y->h;

    return p > q ? -1 : p < q;
}

/* The one face of a frame that is a face already. */
static enum ut_err new_crop(struct srv_faces_job *job,
                            struct srv_faces_frame *frame, struct ut_error *e)
{
    frame->faces = calloc(1, sizeof(*frame->faces));
    if (!frame->faces)
        return ut_fail(e, UT_ENOMEM, "no memory for a face");
    frame->n_faces = 1;
    return prepare(job, frame->faces, e);
}

static enum ut_err take_crop(struct srv_faces_job *job,
                             struct srv_faces_frame *frame,
                             const struct mdl_image *im, struct ut_error *e)
{
    enum ut_err rc = new_crop(job, frame, e);
    struct srv_faces_face *x = frame->faces;

    if (!rc)
        rc = mdl_face_crop(im, x->crop, e);
    if (rc)
        return rc;
    x->face.w = (float)im->full_width;
    x->face.h = (float)im->full_height;
    x->quality = mdl_face_quality(x->crop, NULL);
    return UT_OK;
}

/* [3,112,112] to [112,112,3]. */
static enum ut_err pixels_of(const uint8_t *planes, uint8_t *crop,
                             struct ut_error *e)
{
    const size_t n = CROP_LEN / 3;

    for (size_t i = 0; i < CROP_LEN; i++) {
        float v;

        memcpy(&v, planes + i * sizeof(v), sizeof(v));
        if (!(v >= -1 && v <= 1))
            return ut_fail(e, UT_EINVAL,
                           "element %zu is %g, not from -1 to 1: pixels go in "
                           "as (value - 127.5) / 127.5",
                           i, (double)v);
        crop[i % n * 3 + i / n] = (uint8_t)lrintf(v * 127.5f + 127.5f);
    }
    return UT_OK;
}

static enum ut_err take_tensor(struct srv_faces_job *job,
                               struct srv_faces_frame *frame,
                               struct ut_error *e)
{
    size_t len = srv_input_len(job->input);
    enum ut_err rc;

    if (frame->len != len)
        return ut_fail(e, UT_EINVAL, "%zu bytes are not a face of %zu",
                       frame->len, len);
    rc = new_crop(job, frame, e);
    if (rc)
        return rc;
    if (job->input == SRV_INPUT_F32)
        return pixels_of(frame->bytes, frame->faces->crop, e);
    memcpy(frame->faces->crop, frame->bytes, CROP_LEN);
    return UT_OK;
}

static enum ut_err find_faces(struct srv_faces_job *job,
                              struct srv_faces_frame *frame,
                              const struct mdl_image *im, int worker,
                              struct ut_error *e)
{
    struct mdl_face found[MDL_FACE_MAX];
    int n = 0;
    enum ut_err rc = srv_detect_run(job->app->faces->detect, worker, im,
                                    job->min_score, MDL_FACE_MAX, found, &n, e);

    if (rc || !n)
        return rc;
    qsort(found, (size_t)n, sizeof(found[0]), by_area);
    if (n > job->max_faces)
        n = job->max_faces;
    frame->faces = calloc((size_t)n, sizeof(*frame->faces));
    if (!frame->faces)
        return ut_fail(e, UT_ENOMEM, "no memory for %d faces", n);
    for (int i = 0; i < n && !rc; i++) {
        struct srv_faces_face *x = &frame->faces[frame->n_faces++];

        x->face = found[i];
        rc = prepare(job, x, e);
        if (!rc)
            rc = mdl_face_align(im, &x->face, x->crop, e);
        if (!rc)
            x->quality = mdl_face_quality(x->crop, &x->face);
    }
    return rc;
}

/* Decodes a picture and finds its faces. */
static enum ut_err take_picture(struct srv_faces_job *job,
                                struct srv_faces_frame *frame, int worker,
                                struct ut_error *e)
{
    struct srv_metrics *metrics = job->app->metrics;
    int64_t start = ut_clock_us(), decoded, end;
    struct mdl_image im = {0};
    enum ut_err rc = mdl_image_decode(
        frame->bytes, frame->len,
        job->input == SRV_INPUT_CROP ? 0 : DECODE_SIDE_PX, &im, e);

    decoded = ut_clock_us();
    if (!rc) {
        frame->width = im.full_width;
        frame->height = im.full_height;
        rc = job->input == SRV_INPUT_CROP
                 ? take_crop(job, frame, &im, e)
                 : find_faces(job, frame, &im, worker, e);
    }
    mdl_image_fini(&im);
    end = ut_clock_us();
    __atomic_add_fetch(&job->decode_us, decoded - start, __ATOMIC_RELAXED);
    __atomic_add_fetch(&job->detect_us, end - decoded, __ATOMIC_RELAXED);
    srv_metrics_observe(metrics, SRV_METRIC_DECODE,
                        (double)(decoded - start) / 1e6);
    srv_metrics_observe(metrics, SRV_METRIC_DETECT,
                        (double)(end - decoded) / 1e6);
    return rc;
}

static void on_frame(void *arg, int worker)
{
    struct frame_task *t = arg;
    struct srv_faces_job *job = t->job;
    struct srv_faces_frame *frame = &job->frames[t->idx];
    struct api_error err;
    struct ut_error e;
    enum ut_err rc;

    /* A client that left, a job that failed already or is too late costs no
     * decoding. */
    if (srv_is_late(job->app->metrics, job->deadline_us, job->cancelled,
                    &err)) {
        set_error(job, &err);
    } else if (!__atomic_load_n(&job->failed, __ATOMIC_RELAXED)) {
        rc = srv_input_len(job->input) ? take_tensor(job, frame, &e)
                                       : take_picture(job, frame, worker, &e);
        if (rc)
            fail_frame(job, t->idx, &e);
    }
    free(t);
    if (last_of(job))
        push_faces(job);
}

enum ut_err srv_faces_start(struct srv_faces_job *job, struct ut_error *e)
{
    struct srv_faces *f = job->app->faces;
    int64_t bytes = 0;
    int started = 0;

    if (job->input == SRV_INPUT_FRAME && !job->app->detector)
        return ut_fail(e, UT_ESTATE,
                       "this server has no face detector: send aligned faces "
                       "with input=crop, or start it with the detector that "
                       "ships or another (--detector FILE)");
    if (job->n_frames > job->app->config->max_queue)
        return ut_fail(e, UT_EINVAL,
                       "%d pictures in one request are more than the queue "
                       "takes, %lld (--max-queue)",
                       job->n_frames, (long long)job->app->config->max_queue);
    for (int i = 0; i < job->n_frames; i++)
        bytes += (int64_t)job->frames[i].len;
    if (f->bytes + bytes > job->app->config->max_queue_bytes) {
        srv_metrics_count(job->app->metrics, SRV_REJECT_BYTES);
        return ut_fail(e, UT_EBUSY,
                       "pictures of %lld bytes are under way; %lld more are "
                       "over the limit of %lld",
                       (long long)f->bytes, (long long)bytes,
                       (long long)job->app->config->max_queue_bytes);
    }
    f->bytes += bytes;
    job->mail.fn = deliver;
    job->failed = 0;
    job->pending = job->n_frames;
    for (int i = 0; i < job->n_frames; i++) {
        struct frame_task *t = malloc(sizeof(*t));
        enum ut_err rc;

        if (t)
            *t = (struct frame_task){job, i};
        rc = t ? srv_pool_push(job->app->decode_pool, on_frame, t, e)
               : ut_fail(e, UT_ENOMEM, "no memory for a frame");
        if (!rc) {
            started++;
            continue;
        }
        free(t);
        srv_metrics_count(job->app->metrics, SRV_REJECT_QUEUE_FULL);
        if (!started) {
            f->bytes -= bytes;
            return rc;
        }
        /* Frames under way must end before the job does. */
        fail_frame(job, i, e);
        if (__atomic_sub_fetch(&job->pending, job->n_frames - i,
                               __ATOMIC_ACQ_REL) == 0)
            srv_mailbox_post(job->app->mailbox, &job->mail);
        break;
    }
    return UT_OK;
}
