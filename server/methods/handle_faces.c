/* Enrolled faces: add, list, remove, crop.
 *
 * Enrolment goes the way of a frame first, then to the store's thread, where
 * the gallery is searched once more and the face is stored and indexed: two
 * enrolments of one face cannot both pass, as that thread is one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/app.h"
#include "server/calls/answer.h"
#include "server/calls/store_call.h"
#include "server/methods/handlers.h"

/* ---- enrolment ---- */

struct enrolment {
    struct srv_call *call;
    struct srv_faces_job job;
    struct srv_faces_frame frame;
    struct srv_face face;      /* embedding and crop borrowed until fini */
    struct srv_match conflict; /* identity_id "" if there is none */
    bool stale;                /* computed by a model that was replaced */
};

static void free_enrolment(void *result)
{
    struct enrolment *w = result;

    w->face.embedding = NULL; /* the job's */
    srv_face_fini(&w->face);
    srv_faces_job_fini(&w->job);
    free(w);
}

/* The nearest other identity at or over the threshold, into w->conflict. */
static enum ut_err find_conflict(struct enrolment *w, struct ut_error *e)
{
    struct srv_generation *g = w->job.generation;
    const float *query = w->face.embedding;
    struct srv_match list[2], *matches = list;
    struct srv_gallery_scratch *scratch;
    enum ut_err rc = srv_gallery_scratch_new(g->gallery, &scratch, e);
    int top_k = 2, n = 0;

    if (rc)
        return rc;
    srv_gallery_search(g->gallery, scratch, &query, 1, &matches, &top_k, &n);
    srv_gallery_scratch_free(scratch);
    for (int i = 0; i < n && !w->conflict.identity_id[0]; i++)
        if (list[i].similarity >= srv_answer_identity_threshold(g->engine, 0) &&
            strcmp(list[i].identity_id, w->face.identity_id))
            w->conflict = list[i];
    return UT_OK;
}

/* While no other server can enrol, once what the others did is known here. */
static enum ut_err add_unless_known(struct srv_store_call *s,
                                    struct srv_identity *owner,
                                    struct ut_error *e)
{
    struct enrolment *w = s->result;
    const Tscaf__V1__EnrollFaceRequest *r = (const void *)s->call->request;
    struct srv_app *app = s->call->app;
    size_t n, limit = (size_t)app->config->gallery_max_faces;
    enum ut_err rc = srv_follow_now(app->follow, e);

    if (!rc)
        rc = srv_store_identity_get(app->store, r->identity_id, owner, e);
    if (!rc)
        rc = srv_follow_check(app->follow, e);
    if (rc)
        return rc;
    w->stale = !srv_generation_is_current(w->job.generation);
    if (w->stale)
        return UT_OK;
    if (!r->force)
        rc = find_conflict(w, e);
    n = srv_gallery_faces(w->job.generation->gallery);
    if (!rc && n >= limit)
        rc = ut_fail(e, UT_EBUSY, "%zu faces are enrolled, the limit", n);
    if (rc || w->conflict.identity_id[0])
        return rc;
    return srv_store_face_add(app->store, s->call->actor, &w->face, e);
}

static enum ut_err enroll(struct srv_store_call *s, struct ut_error *e)
{
    struct enrolment *w = s->result;
    struct srv_store *store = s->call->app->store;
    struct srv_identity owner = {0};
    enum ut_err rc = srv_store_begin(store, e);

    if (rc)
        return rc;
    rc = srv_store_end(store, add_unless_known(s, &owner, e), e);
    if (!rc && !w->stale && !w->conflict.identity_id[0])
        rc = srv_gallery_add(w->job.generation->gallery, owner.id, owner.name,
                             w->face.id, w->face.embedding, e);
    srv_identity_fini(&owner);
    return rc;
}

static void fill_face(const struct srv_face *x, Tscaf__V1__FaceRecord *msg,
                      Tscaf__V1__Box *box, char **reasons,
                      char created[SRV_LOG_TIME_LEN])
{
    tscaf__v1__face_record__init(msg);
    tscaf__v1__box__init(box);
    msg->id = (char *)(uintptr_t)x->id;
    msg->identity_id = (char *)(uintptr_t)x->identity_id;
    msg->model_version = (char *)(uintptr_t)x->model_version;
    box->x = x->box[0];
    box->y = x->box[1];
    box->width = x->box[2];
    box->height = x->box[3];
    msg->box = box;
    msg->n_quality_reasons = srv_answer_quality(x->quality, reasons);
    msg->quality_reasons = reasons;
    msg->has_crop = x->has_crop;
    srv_log_time(x->created_ms, created);
    msg->created_at = created;
}

static void start_enrolment(struct srv_call *c);

static void reply_enrolled(struct srv_store_call *s)
{
    struct enrolment *w = s->result;
    Tscaf__V1__FaceRecord msg;
    Tscaf__V1__Box box;
    struct api_error err;
    char *reasons[8], created[SRV_LOG_TIME_LEN];

    if (w->stale) {
        start_enrolment(s->call); /* again, by the new one */
        return;
    }
    if (!w->conflict.identity_id[0]) {
        fill_face(&w->face, &msg, &box, reasons, created);
        s->call->reply(s->call, &msg.base);
        return;
    }
    api_fail(&err, API_ALREADY_EXISTS,
             "the face belongs to identity %s already, similarity %.3f; "
             "force=true enrols it all the same",
             w->conflict.identity_id, (double)w->conflict.similarity);
    snprintf(err.reason, sizeof(err.reason), "FACE_EXISTS");
    memcpy(err.identity_id, w->conflict.identity_id, SRV_ID_LEN);
    err.similarity = w->conflict.similarity;
    s->call->fail(s->call, &err);
}

/* Refuses a poor face with its reasons, or returns true. */
static bool good_enough(struct srv_call *c, unsigned quality)
{
    struct api_error err;
    char *reasons[8];
    size_t n = srv_answer_quality(quality, reasons), at = 0;

    if (!n)
        return true;
    api_fail(&err, API_INVALID_ARGUMENT,
             "the face is too poor to enrol; force=true enrols it all the "
             "same");
    err.http_status = 422;
    snprintf(err.field, sizeof(err.field), "image");
    snprintf(err.reason, sizeof(err.reason), "%s", reasons[0]);
    for (size_t i = 0; i < n && at < sizeof(err.value); i++)
        at += (size_t)snprintf(err.value + at, sizeof(err.value) - at, "%s%s",
                               i ? "," : "", reasons[i]);
    c->fail(c, &err);
    return false;
}

static enum ut_err fill_enrolment(struct enrolment *w, struct ut_error *e)
{
    const Tscaf__V1__EnrollFaceRequest *r = (const void *)w->call->request;
    const struct srv_faces_face *x = &w->frame.faces[0];
    struct srv_app *app = w->call->app;
    const float box[4] = {x->face.x, x->face.y, x->face.w, x->face.h};

    snprintf(w->face.identity_id, sizeof(w->face.identity_id), "%s",
             r->identity_id);
    snprintf(w->face.model_version, sizeof(w->face.model_version), "%s",
             srv_generation_version(w->job.generation));
    memcpy(w->face.box, box, sizeof(box));
    w->face.quality = x->quality;
    w->face.embedding = x->item.scores.embedding;
    w->face.dim = srv_engine_dim(w->job.generation->engine);
    w->face.has_crop = app->config->store_crops;
    if (!app->config->store_crops)
        return UT_OK;
    return mdl_image_encode_png(x->crop, MDL_FACE_SIDE_PX, MDL_FACE_SIDE_PX,
                                &w->face.crop, &w->face.crop_len, e);
}

static void on_embedded(struct srv_faces_job *job, const struct api_error *err)
{
    struct enrolment *w = job->arg;
    struct srv_call *c = w->call;
    const Tscaf__V1__EnrollFaceRequest *r = (const void *)c->request;
    struct ut_error e;

    if (err) {
        c->fail(c, err);
    } else if (srv_answer_one_face(c, &w->frame, "image") &&
               (r->force || good_enough(c, w->frame.faces[0].quality))) {
        if (!fill_enrolment(w, &e)) {
            srv_store_call_start_with(c, w, free_enrolment, enroll,
                                      reply_enrolled);
            return;
        }
        srv_answer_fail(c, &e);
    }
    free_enrolment(w);
}

static void start_enrolment(struct srv_call *c)
{
    const Tscaf__V1__EnrollFaceRequest *r = (const void *)c->request;
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a face"};
    struct enrolment *w;

    w = calloc(1, sizeof(*w));
    if (!w) {
        srv_answer_fail(c, &e);
        return;
    }
    w->call = c;
    w->frame.bytes = r->image->data.data;
    w->frame.len = r->image->data.len;
    w->job = (struct srv_faces_job){
        .app = c->app,
        .generation = srv_generation_take(c->app),
        .frames = &w->frame,
        .n_frames = 1,
        .input = srv_answer_input(r->input),
        .tasks = SRV_TASK_RECOGNITION,
        .max_faces = 2, /* enough to see that there are several */
        .min_score = 0.5f,
        .deadline_us = c->deadline_us,
        .cancelled = &c->cancelled,
        .field = "image",
        .done = on_embedded,
        .arg = w,
    };
    if (!srv_faces_start(&w->job, &e))
        return;
    free_enrolment(w);
    srv_answer_fail(c, &e);
}

void srv_handle_enroll_face(struct srv_call *c)
{
    const Tscaf__V1__EnrollFaceRequest *r = (const void *)c->request;

    if (!r->image || !r->image->data.len)
        srv_answer_invalid(c, "image.data", "REQUIRED", "there is no picture");
    else
        start_enrolment(c);
}

/* ---- list, crop, delete ---- */

struct face_list {
    struct srv_face *faces; /* owned */
    size_t n;
};

static void free_list(void *result)
{
    struct face_list *l = result;

    for (size_t i = 0; i < l->n; i++)
        srv_face_fini(&l->faces[i]);
    free(l->faces);
    free(l);
}

static enum ut_err list(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__ListFacesRequest *r = (const void *)w->call->request;
    struct srv_store *store = w->call->app->store;
    struct face_list *l = calloc(1, sizeof(*l));
    struct srv_identity owner;
    enum ut_err rc;

    if (!l)
        return ut_fail(e, UT_ENOMEM, "no memory for a list");
    w->result = l;
    w->result_free = free_list;
    rc = srv_store_identity_get(store, r->identity_id, &owner, e);
    if (rc)
        return rc;
    srv_identity_fini(&owner);
    return srv_store_face_list(store, r->identity_id, &l->faces, &l->n, e);
}

struct face_record {
    Tscaf__V1__FaceRecord msg;
    Tscaf__V1__Box box;
    char *reasons[8], created[SRV_LOG_TIME_LEN];
};

void srv_answer_faces(struct srv_call *c, const struct srv_face *faces,
                      size_t n)
{
    Tscaf__V1__ListFacesResponse r = TSCAF__V1__LIST_FACES_RESPONSE__INIT;
    struct face_record *records = calloc(n + 1, sizeof(*records));
    Tscaf__V1__FaceRecord **msgs = calloc(n + 1, sizeof(*msgs));
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a list"};

    if (!records || !msgs) {
        srv_answer_fail(c, &e);
    } else {
        for (size_t i = 0; i < n; i++) {
            fill_face(&faces[i], &records[i].msg, &records[i].box,
                      records[i].reasons, records[i].created);
            msgs[i] = &records[i].msg;
        }
        r.n_faces = n;
        r.faces = msgs;
        c->reply(c, &r.base);
    }
    free(records);
    free(msgs);
}

static void reply_list(struct srv_store_call *w)
{
    const struct face_list *l = w->result;

    srv_answer_faces(w->call, l->faces, l->n);
}

void srv_handle_list_faces(struct srv_call *c)
{
    srv_store_call_start(c, list, reply_list);
}

static enum ut_err read_crop(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__FaceRef *r = (const void *)w->call->request;
    ProtobufCBinaryData *png = calloc(1, sizeof(*png));

    if (!png)
        return ut_fail(e, UT_ENOMEM, "no memory for a crop");
    w->result = png;
    w->result_free = free;
    return srv_store_face_crop(w->call->app->store, r->identity_id, r->face_id,
                               &png->data, &png->len, e);
}

static void reply_crop(struct srv_store_call *w)
{
    Tscaf__V1__FaceCrop r = TSCAF__V1__FACE_CROP__INIT;

    r.png = *(ProtobufCBinaryData *)w->result;
    w->call->reply(w->call, &r.base);
    free(r.png.data);
}

void srv_handle_get_face_crop(struct srv_call *c)
{
    srv_store_call_start(c, read_crop, reply_crop);
}

static enum ut_err delete_face(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__FaceRef *r = (const void *)w->call->request;
    enum ut_err rc = srv_store_face_delete(w->call->app->store, w->call->actor,
                                           r->identity_id, r->face_id, e);

    if (!rc)
        srv_generations_remove_face(w->call->app, r->face_id);
    return rc;
}

void srv_handle_delete_face(struct srv_call *c)
{
    srv_store_call_start(c, delete_face, srv_store_call_reply_empty);
}
