/* Analyze, Embed, Verify and Search. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/app.h"
#include "server/calls/answer.h"
#include "server/methods/handlers.h"

#define DEFAULT_MAX_FACES 10
#define DEFAULT_TOP_K 5
#define DEFAULT_MIN_SCORE 0.5f

/* One call's work; freed when its answer has gone out. */
struct work {
    struct srv_call *call;
    struct srv_faces_job job;
    struct srv_answer_options options;
    struct srv_faces_frame frames[SRV_MAX_IMAGES];
};

static void work_free(struct work *w)
{
    srv_faces_job_fini(&w->job);
    free(w);
}

/* Work with the call's deadline and image n of images; NULL after c->fail. */
static struct work *work_new(struct srv_call *c, Tscaf__V1__Image **images,
                             size_t n, const char *field,
                             Tscaf__V1__InputKind input)
{
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a request"};
    struct work *w;
    char name[64];

    for (size_t i = 0; i < n; i++)
        if (!images[i] || !images[i]->data.len) {
            snprintf(name, sizeof(name), n > 1 ? "%s[%zu].data" : "%s.data",
                     field, i);
            srv_answer_invalid(c, name, "REQUIRED", "there is no picture");
            return NULL;
        }
    w = calloc(1, sizeof(*w));
    if (!w) {
        srv_answer_fail(c, &e);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        w->frames[i].bytes = images[i]->data.data;
        w->frames[i].len = images[i]->data.len;
    }
    w->call = c;
    w->job = (struct srv_faces_job){
        .app = c->app,
        .generation = srv_generation_take(c->app),
        .frames = w->frames,
        .n_frames = (int)n,
        .input = srv_answer_input(input),
        .max_faces = DEFAULT_MAX_FACES,
        .min_score = DEFAULT_MIN_SCORE,
        .deadline_us = c->deadline_us,
        .cancelled = &c->cancelled,
        .field = field,
        .arg = w,
    };
    return w;
}

static void work_start(struct work *w)
{
    struct srv_call *c = w->call;
    struct ut_error e;

    if (!srv_faces_start(&w->job, &e))
        return;
    work_free(w);
    srv_answer_fail(c, &e);
}

static bool in_unit(struct srv_call *c, const char *field, float v)
{
    if (v >= 0 && v <= 1)
        return true;
    srv_answer_invalid(c, field, "OUT_OF_RANGE", "%g is not from 0 to 1",
                       (double)v);
    return false;
}

static bool at_most(struct srv_call *c, const char *field, uint32_t v,
                    uint32_t limit)
{
    if (v <= limit)
        return true;
    srv_answer_invalid(c, field, "OUT_OF_RANGE", "%u is over the limit of %u",
                       v, limit);
    return false;
}

static bool image_count(struct srv_call *c, size_t n)
{
    if (n && n <= SRV_MAX_IMAGES)
        return true;
    srv_answer_invalid(c, "images", "OUT_OF_RANGE",
                       "%zu images are not from 1 to %d", n, SRV_MAX_IMAGES);
    return false;
}

/* ---- Analyze ---- */

/* The request's tasks as bits; 0 after c->fail. */
static unsigned tasks_of(struct work *w, const Tscaf__V1__AnalyzeRequest *r)
{
    const struct srv_engine *engine = w->job.generation->engine;
    struct srv_call *c = w->call;
    unsigned able = srv_engine_tasks(engine), tasks = 0;
    struct api_error err;

    if (!r->n_tasks)
        return able;
    for (size_t i = 0; i < r->n_tasks; i++) {
        if (r->tasks[i] == TSCAF__V1__TASK__TASK_FATIGUE) {
            tasks |= SRV_TASK_FATIGUE;
        } else if (r->tasks[i] == TSCAF__V1__TASK__TASK_RECOGNITION) {
            tasks |= SRV_TASK_RECOGNITION;
        } else {
            srv_answer_invalid(c, "tasks", "UNKNOWN_VALUE",
                               "wants fatigue or recognition");
            return 0;
        }
    }
    if (!(tasks & ~able))
        return tasks;
    api_fail(&err, API_FAILED_PRECONDITION, "model %s cannot do %s",
             srv_engine_model(engine)->name,
             tasks & ~able & SRV_TASK_FATIGUE ? "fatigue" : "recognition");
    c->fail(c, &err);
    return 0;
}

static bool analyze_valid(struct srv_call *c,
                          const Tscaf__V1__AnalyzeRequest *r)
{
    if (!image_count(c, r->n_images))
        return false;
    for (size_t i = 0; i < r->n_return_; i++)
        if (r->return_[i] == TSCAF__V1__RETURN_PART__RETURN_PART_UNSPECIFIED) {
            srv_answer_invalid(c, "return", "UNKNOWN_VALUE",
                               "wants landmarks, embedding, crop or attention");
            return false;
        }
    return at_most(c, "max_faces", r->max_faces, SRV_MAX_FACES) &&
           at_most(c, "top_k", r->top_k, SRV_TOP_K_MAX) &&
           in_unit(c, "fatigue_threshold", r->fatigue_threshold) &&
           in_unit(c, "identity_threshold", r->identity_threshold) &&
           in_unit(c, "min_score", r->min_score);
}

static void fill_timing(const struct work *w, Tscaf__V1__Timing *t)
{
    int64_t queue = 0, compute = 0, match = 0;

    for (int i = 0; i < w->job.n_frames; i++)
        for (int k = 0; k < w->frames[i].n_faces; k++) {
            const struct srv_item *it = &w->frames[i].faces[k].item;

            queue = it->queue_us > queue ? it->queue_us : queue;
            compute = it->compute_us > compute ? it->compute_us : compute;
            match = it->match_us > match ? it->match_us : match;
        }
    tscaf__v1__timing__init(t);
    t->decode = (float)w->job.decode_us / 1000;
    t->detect = (float)w->job.detect_us / 1000;
    t->queue = (float)queue / 1000;
    t->compute = (float)compute / 1000;
    t->match = (float)match / 1000;
    t->total = (float)(ut_clock_us() - w->call->start_us) / 1000;
}

/* All messages of one answer, in four arrays. */
struct answer {
    Tscaf__V1__Frame *frames, **frame_list;
    struct srv_answer_face *faces;
    Tscaf__V1__Face **face_list;
    int n_faces;
};

static enum ut_err fill_frames(const struct work *w, struct answer *a,
                               struct ut_error *e)
{
    size_t total = 1, n = (size_t)w->job.n_frames;

    for (size_t i = 0; i < n; i++)
        total += (size_t)w->frames[i].n_faces;
    a->frames = calloc(n, sizeof(*a->frames));
    a->frame_list = calloc(n, sizeof(*a->frame_list));
    a->faces = calloc(total, sizeof(*a->faces));
    a->face_list = calloc(total, sizeof(*a->face_list));
    if (!a->frames || !a->frame_list || !a->faces || !a->face_list)
        return ut_fail(e, UT_ENOMEM, "no memory for the answer");
    for (size_t i = 0; i < n; i++) {
        Tscaf__V1__Frame *f = &a->frames[i];

        tscaf__v1__frame__init(f);
        f->width = (uint32_t)w->frames[i].width;
        f->height = (uint32_t)w->frames[i].height;
        f->n_faces = (size_t)w->frames[i].n_faces;
        f->faces = a->face_list + a->n_faces;
        a->frame_list[i] = f;
        for (size_t k = 0; k < f->n_faces; k++) {
            struct srv_answer_face *x = &a->faces[a->n_faces];
            enum ut_err rc;

            a->face_list[a->n_faces++] = &x->face;
            rc = srv_answer_face(w->job.generation->engine,
                                 &w->frames[i].faces[k], &w->options, x, e);
            if (rc)
                return rc;
        }
    }
    return UT_OK;
}

static uint32_t largest_batch(const struct work *w)
{
    int largest = 0;

    for (int i = 0; i < w->job.n_frames; i++)
        for (int k = 0; k < w->frames[i].n_faces; k++)
            if (w->frames[i].faces[k].item.batch_size > largest)
                largest = w->frames[i].faces[k].item.batch_size;
    return (uint32_t)largest;
}

static void answer_fini(struct answer *a)
{
    for (int i = 0; i < a->n_faces; i++)
        srv_answer_face_fini(&a->faces[i]);
    free(a->frames);
    free(a->frame_list);
    free(a->faces);
    free(a->face_list);
}

static void on_analyzed(struct srv_faces_job *job, const struct api_error *err)
{
    struct work *w = job->arg;
    struct srv_call *c = w->call;
    Tscaf__V1__AnalyzeResponse r = TSCAF__V1__ANALYZE_RESPONSE__INIT;
    Tscaf__V1__ModelRef model;
    Tscaf__V1__Timing timing;
    struct answer a = {0};
    struct ut_error e;

    if (err) {
        c->fail(c, err);
    } else if (fill_frames(w, &a, &e)) {
        srv_answer_fail(c, &e);
    } else {
        srv_answer_model(job->generation->engine, &model);
        fill_timing(w, &timing);
        r.request_id = c->request_id;
        r.model = &model;
        r.n_frames = (size_t)job->n_frames;
        r.frames = a.frame_list;
        r.timing_ms = &timing;
        r.batch_size = largest_batch(w);
        c->reply(c, &r.base);
    }
    answer_fini(&a);
    work_free(w);
}

void srv_handle_analyze(struct srv_call *c)
{
    const Tscaf__V1__AnalyzeRequest *r =
        (const Tscaf__V1__AnalyzeRequest *)c->request;
    struct work *w;
    unsigned tasks;

    if (!analyze_valid(c, r))
        return;
    w = work_new(c, r->images, r->n_images, "images", r->input);
    if (!w)
        return;
    tasks = tasks_of(w, r);
    if (!tasks) {
        work_free(w);
        return;
    }
    w->options.tasks = w->job.tasks = tasks;
    w->options.fatigue_threshold = srv_answer_fatigue_threshold(
        w->job.generation->engine, r->fatigue_threshold);
    w->options.identity_threshold = srv_answer_identity_threshold(
        w->job.generation->engine, r->identity_threshold);
    w->options.top_k = r->top_k ? (int)r->top_k : 1;
    for (size_t i = 0; i < r->n_return_; i++) {
        w->options.landmarks |=
            r->return_[i] == TSCAF__V1__RETURN_PART__RETURN_PART_LANDMARKS;
        w->options.embedding |=
            tasks & SRV_TASK_RECOGNITION &&
            r->return_[i] == TSCAF__V1__RETURN_PART__RETURN_PART_EMBEDDING;
        w->options.crop |=
            r->return_[i] == TSCAF__V1__RETURN_PART__RETURN_PART_CROP;
        if (r->return_[i] == TSCAF__V1__RETURN_PART__RETURN_PART_ATTENTION)
            w->job.tasks |= SRV_TASK_ATTENTION;
    }
    if (r->max_faces)
        w->job.max_faces = (int)r->max_faces;
    if (r->min_score > 0)
        w->job.min_score = r->min_score;
    /* The verdict looks at the second identity too. */
    w->job.top_k = w->options.top_k < 2 ? 2 : w->options.top_k;
    w->job.bulk = r->priority == TSCAF__V1__PRIORITY__PRIORITY_BULK;
    w->job.done = on_analyzed;
    work_start(w);
}

/* ---- Embed ---- */

/* Or fails the call, and w is gone. */
static bool can_recognise(struct work *w)
{
    const struct srv_engine *engine = w->job.generation->engine;
    struct srv_call *c = w->call;
    struct api_error err;

    if (srv_engine_tasks(engine) & SRV_TASK_RECOGNITION)
        return true;
    api_fail(&err, API_FAILED_PRECONDITION, "model %s cannot do recognition",
             srv_engine_model(engine)->name);
    work_free(w);
    c->fail(c, &err);
    return false;
}

static void on_embedded(struct srv_faces_job *job, const struct api_error *err)
{
    struct work *w = job->arg;
    struct srv_call *c = w->call;
    Tscaf__V1__EmbedResponse r = TSCAF__V1__EMBED_RESPONSE__INIT;
    Tscaf__V1__ModelRef model;
    struct answer a = {0};
    struct ut_error e;

    if (err) {
        c->fail(c, err);
    } else if (fill_frames(w, &a, &e)) {
        srv_answer_fail(c, &e);
    } else {
        srv_answer_model(job->generation->engine, &model);
        r.request_id = c->request_id;
        r.model = &model;
        r.n_frames = (size_t)job->n_frames;
        r.frames = a.frame_list;
        c->reply(c, &r.base);
    }
    answer_fini(&a);
    work_free(w);
}

void srv_handle_embed(struct srv_call *c)
{
    const Tscaf__V1__EmbedRequest *r =
        (const Tscaf__V1__EmbedRequest *)c->request;
    struct work *w;

    if (!image_count(c, r->n_images) ||
        !at_most(c, "max_faces", r->max_faces, SRV_MAX_FACES) ||
        !in_unit(c, "min_score", r->min_score))
        return;
    w = work_new(c, r->images, r->n_images, "images", r->input);
    if (!w || !can_recognise(w))
        return;
    w->options.embedding = true; /* and no task's answer */
    w->job.tasks = SRV_TASK_RECOGNITION;
    if (r->max_faces)
        w->job.max_faces = (int)r->max_faces;
    if (r->min_score > 0)
        w->job.min_score = r->min_score;
    w->job.bulk = r->priority == TSCAF__V1__PRIORITY__PRIORITY_BULK;
    w->job.done = on_embedded;
    work_start(w);
}

/* ---- Verify ---- */

static bool similarity_of(struct work *w, float *out)
{
    const Tscaf__V1__VerifyRequest *r =
        (const Tscaf__V1__VerifyRequest *)w->call->request;
    const float *a = w->frames[0].faces[0].item.scores.embedding;
    struct api_error err;

    if (w->job.n_frames == 2) {
        const float *b = w->frames[1].faces[0].item.scores.embedding;
        double sum = 0;

        for (int i = 0; i < srv_engine_dim(w->job.generation->engine); i++)
            sum += (double)a[i] * b[i];
        *out = (float)sum;
        return true;
    }
    *out = srv_gallery_compare(w->job.generation->gallery, r->identity_id, a);
    if (*out > -2)
        return true;
    api_fail(&err, API_NOT_FOUND,
             "identity_id: \"%.64s\" is not enrolled with a face",
             r->identity_id);
    snprintf(err.field, sizeof(err.field), "identity_id");
    w->call->fail(w->call, &err);
    return false;
}

static void on_verified(struct srv_faces_job *job, const struct api_error *err)
{
    struct work *w = job->arg;
    struct srv_call *c = w->call;
    Tscaf__V1__VerifyResponse r = TSCAF__V1__VERIFY_RESPONSE__INIT;
    Tscaf__V1__ModelRef model;

    if (err)
        c->fail(c, err);
    else if (srv_answer_one_face(c, &w->frames[0], "image") &&
             (job->n_frames == 1 ||
              srv_answer_one_face(c, &w->frames[1], "other")) &&
             similarity_of(w, &r.similarity)) {
        srv_answer_model(job->generation->engine, &model);
        r.request_id = c->request_id;
        r.model = &model;
        r.threshold = w->options.identity_threshold;
        r.same = r.similarity >= r.threshold;
        c->reply(c, &r.base);
    }
    work_free(w);
}

void srv_handle_verify(struct srv_call *c)
{
    const Tscaf__V1__VerifyRequest *r =
        (const Tscaf__V1__VerifyRequest *)c->request;
    Tscaf__V1__Image *images[2] = {r->image, r->other};
    struct work *w;

    if (!in_unit(c, "identity_threshold", r->identity_threshold))
        return;
    if (!r->other == !r->identity_id[0]) {
        srv_answer_invalid(c, "other", "EXPECTED",
                           "give either another picture or identity_id");
        return;
    }
    w = work_new(c, images, r->other ? 2 : 1, "image", r->input);
    if (!w || !can_recognise(w))
        return;
    w->job.tasks = SRV_TASK_RECOGNITION;
    w->options.identity_threshold = srv_answer_identity_threshold(
        w->job.generation->engine, r->identity_threshold);
    w->job.done = on_verified;
    work_start(w);
}

/* ---- Search ---- */

static void on_searched(struct srv_faces_job *job, const struct api_error *err)
{
    struct work *w = job->arg;
    struct srv_call *c = w->call;
    Tscaf__V1__SearchResponse r = TSCAF__V1__SEARCH_RESPONSE__INIT;
    Tscaf__V1__ModelRef model;
    struct srv_answer_face face = {0};
    struct ut_error e;

    if (err) {
        c->fail(c, err);
    } else if (srv_answer_one_face(c, &w->frames[0], "image")) {
        if (srv_answer_face(job->generation->engine, &w->frames[0].faces[0],
                            &w->options, &face, &e)) {
            srv_answer_fail(c, &e);
        } else {
            srv_answer_model(job->generation->engine, &model);
            r.request_id = c->request_id;
            r.model = &model;
            r.face = &face.face;
            c->reply(c, &r.base);
        }
    }
    srv_answer_face_fini(&face);
    work_free(w);
}

void srv_handle_search(struct srv_call *c)
{
    const Tscaf__V1__SearchRequest *r =
        (const Tscaf__V1__SearchRequest *)c->request;
    Tscaf__V1__Image *images[1] = {r->image};
    struct work *w;

    if (!at_most(c, "top_k", r->top_k, SRV_TOP_K_MAX) ||
        !in_unit(c, "identity_threshold", r->identity_threshold))
        return;
    w = work_new(c, images, 1, "image", r->input);
    if (!w || !can_recognise(w))
        return;
    w->options.tasks = w->job.tasks = SRV_TASK_RECOGNITION;
    w->options.top_k = r->top_k ? (int)r->top_k : DEFAULT_TOP_K;
    w->options.identity_threshold = srv_answer_identity_threshold(
        w->job.generation->engine, r->identity_threshold);
    w->job.top_k = w->options.top_k < 2 ? 2 : w->options.top_k;
    w->job.max_faces = 1; /* the largest */
    w->job.done = on_searched;
    work_start(w);
}
