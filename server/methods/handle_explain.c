/* Explain: where in a face a branch's answer comes from.
 *
 *   faces.c (no tasks): the picture's faces, aligned
 *   explain pool, one thread behind a bounded queue: the branch's plan for one
 *   face, Grad-CAM, PNG. The plan is made at the first use and lives with its
 *   generation.
 *   loop: the answer
 */
#include <stddef.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "model/eval/explain.h"
#include "server/app.h"
#include "server/calls/answer.h"
#include "server/late.h"
#include "server/methods/handlers.h"
#include "server/metrics.h"

#define MIN_SCORE 0.5f
#define NICENESS 10 /* executors go first */

struct work {
    struct srv_call *call;
    const Tscaf__V1__ExplainRequest *request;
    struct srv_faces_job job;
    struct srv_faces_frame frame;
    bool recognition;
    /* Of the explain thread. */
    struct srv_mail mail;
    struct api_error err;
    bool failed;
    uint8_t *png; /* owned */
    size_t len;
};

static void work_free(struct work *w)
{
    srv_faces_job_fini(&w->job);
    free(w->png);
    free(w);
}

static bool wants_attention(const struct work *w)
{
    return w->request->map == TSCAF__V1__EXPLAIN_MAP__EXPLAIN_MAP_ATTENTION;
}

/* ---- The explain thread ---- */

static enum ut_err explainer_of(struct work *w, struct mdl_explainer **out,
                                struct ut_error *e)
{
    struct srv_generation *g = w->job.generation;
    const struct mdl_model *m = srv_engine_model(g->engine);
    struct mdl_explainer **kept = &g->explainers[w->recognition];
    enum ut_err rc = UT_OK;

    if (!*kept)
        rc = mdl_explainer_new(m,
                               srv_engine_leaf(m, w->recognition
                                                      ? MDL_HEAD_EMBEDDING
                                                      : MDL_HEAD_BINARY),
                               srv_engine_device(g->engine),
                               srv_engine_precision(g->engine), kept, e);
    *out = *kept;
    return rc;
}

/* The map over the face, or in grey alone, into rgb. */
static void draw(const struct work *w, const float *map, uint8_t *rgb)
{
    const size_t n = (size_t)MDL_FACE_SIDE_PX * MDL_FACE_SIDE_PX;

    if (!w->request->bare) {
        mdl_explain_draw(w->frame.faces[w->request->face].crop, map,
                         MDL_FACE_SIDE_PX, rgb);
        return;
    }
    for (size_t i = 0; i < 3 * n; i++)
        rgb[i] = (uint8_t)(255 * map[i / 3] + 0.5f);
}

static enum ut_err explain(struct work *w, struct ut_error *e)
{
    const size_t n = (size_t)MDL_FACE_SIDE_PX * MDL_FACE_SIDE_PX;
    const struct mdl_question q = {.against = w->request->against};
    struct mdl_explanation x = {0};
    struct mdl_explainer *explainer;
    float *map = NULL;
    uint8_t *rgb = NULL;
    enum ut_err rc = explainer_of(w, &explainer, e);

    if (!rc && wants_attention(w) && !mdl_explainer_attends(explainer))
        rc = ut_fail(e, UT_ESTATE,
                     "map: the model's %s branch has no spatial attention",
                     w->recognition ? "recognition" : "fatigue");
    if (!rc) {
        map = calloc(n, sizeof(*map));
        rgb = malloc(3 * n);
        if (!map || !rgb)
            rc = ut_fail(e, UT_ENOMEM, "no memory for a map");
    }
    if (!rc) {
        *(wants_attention(w) ? &x.attention : &x.cam) = map;
        rc = mdl_explainer_run(explainer, w->frame.faces[w->request->face].crop,
                               &q, &x, e);
    }
    if (!rc) {
        draw(w, map, rgb);
        rc = mdl_image_encode_png(rgb, MDL_FACE_SIDE_PX, MDL_FACE_SIDE_PX,
                                  &w->png, &w->len, e);
    }
    free(map);
    free(rgb);
    return rc;
}

static void run(void *arg, int worker)
{
    struct work *w = arg;
    struct srv_app *app = w->job.app;
    struct ut_error e;

    (void)worker;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICENESS);
    w->failed = srv_is_late(app->metrics, w->job.deadline_us, w->job.cancelled,
                            &w->err);
    if (!w->failed && explain(w, &e)) {
        w->failed = true;
        api_fail_from(&w->err, &e);
    }
    srv_mailbox_post(app->mailbox, &w->mail);
}

/* ---- The loop ---- */

static void deliver(struct srv_mail *m)
{
    struct work *w = (struct work *)((char *)m - offsetof(struct work, mail));
    Tscaf__V1__Explanation r = TSCAF__V1__EXPLANATION__INIT;

    if (w->failed) {
        w->call->fail(w->call, &w->err);
    } else {
        r.png.data = w->png;
        r.png.len = w->len;
        w->call->reply(w->call, &r.base);
    }
    work_free(w);
}

/* Whether the face that is asked for is there, or fails the call. */
static bool has_face(struct work *w)
{
    uint32_t n = (uint32_t)w->frame.n_faces;

    if (!n)
        return srv_answer_one_face(w->call, &w->frame, "image");
    if (w->request->face < n)
        return true;
    srv_answer_invalid(w->call, "face", "OUT_OF_RANGE",
                       "%u, but %u face%s found (the first is 0)",
                       w->request->face, n, n > 1 ? "s were" : " was");
    return false;
}

static void on_faces(struct srv_faces_job *job, const struct api_error *err)
{
    struct work *w = job->arg;
    struct ut_error e;

    if (err) {
        w->call->fail(w->call, err);
    } else if (has_face(w)) {
        w->mail.fn = deliver;
        if (!srv_pool_push(job->app->explain_pool, run, w, &e))
            return;
        srv_metrics_count(job->app->metrics, SRV_REJECT_QUEUE_FULL);
        srv_answer_fail(w->call, &e);
    }
    work_free(w);
}

/* Whether the model has the branch, or fails the call. */
static bool has_branch(struct work *w)
{
    const struct srv_engine *engine = w->job.generation->engine;
    struct api_error err;

    if (srv_engine_tasks(engine) &
        (w->recognition ? SRV_TASK_RECOGNITION : SRV_TASK_FATIGUE))
        return true;
    api_fail(&err, API_FAILED_PRECONDITION, "model %s cannot do %s",
             srv_engine_model(engine)->name,
             w->recognition ? "recognition" : "fatigue");
    w->call->fail(w->call, &err);
    return false;
}

static void start(struct srv_call *c, const Tscaf__V1__ExplainRequest *r)
{
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a request"};
    struct work *w = calloc(1, sizeof(*w));

    if (!w) {
        srv_answer_fail(c, &e);
        return;
    }
    w->call = c;
    w->request = r;
    w->recognition = r->task == TSCAF__V1__TASK__TASK_RECOGNITION;
    w->frame.bytes = r->image->data.data;
    w->frame.len = r->image->data.len;
    w->job = (struct srv_faces_job){
        .app = c->app,
        .generation = srv_generation_take(c->app),
        .frames = &w->frame,
        .n_frames = 1,
        .input = srv_answer_input(r->input),
        .max_faces = (int)r->face + 1,
        .min_score = r->min_score > 0 ? r->min_score : MIN_SCORE,
        .deadline_us = c->deadline_us,
        .cancelled = &c->cancelled,
        .field = "image",
        .done = on_faces,
        .arg = w,
    };
    if (has_branch(w)) {
        if (!srv_faces_start(&w->job, &e))
            return;
        srv_answer_fail(c, &e);
    }
    work_free(w);
}

void srv_handle_explain(struct srv_call *c)
{
    const Tscaf__V1__ExplainRequest *r = (const void *)c->request;

    if (!r->image || !r->image->data.len)
        srv_answer_invalid(c, "image.data", "REQUIRED", "there is no picture");
    else if (r->face >= SRV_MAX_FACES)
        srv_answer_invalid(c, "face", "OUT_OF_RANGE",
                           "%u is over the limit of %d", r->face,
                           SRV_MAX_FACES - 1);
    else if (!(r->min_score >= 0 && r->min_score <= 1))
        srv_answer_invalid(c, "min_score", "OUT_OF_RANGE",
                           "%g is not from 0 to 1", (double)r->min_score);
    else
        start(c, r);
}
