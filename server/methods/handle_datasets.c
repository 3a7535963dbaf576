/* Datasets: every call goes to their thread; a sample's picture goes the way
 * of a frame first. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/app.h"
#include "server/calls/answer.h"
#include "server/calls/store_call.h"
#include "server/methods/handlers.h"

#define MAX_NAME 200 /* characters */
#define DEFAULT_SAMPLES 12
#define MAX_SAMPLES 48

static void free_message(void *result)
{
    protobuf_c_message_free_unpacked(result, NULL);
}

static void reply_message(struct srv_store_call *w)
{
    w->call->reply(w->call, w->result);
}

/* Starts a call on the datasets' thread whose result is a message. */
static void start(struct srv_call *c,
                  enum ut_err (*work)(struct srv_store_call *w,
                                      struct ut_error *e))
{
    srv_store_call_start_on(c, c->app->dataset_pool, NULL, NULL, work,
                            reply_message);
}

/* ---- create, get, upload ---- */

static enum ut_err create(struct srv_store_call *w, struct ut_error *e)
{
    w->result_free = free_message;
    return srv_dataset_create(&w->call->app->datasets, w->call->actor,
                              (const void *)w->call->request,
                              (Tscaf__V1__DatasetRecord **)&w->result, e);
}

void srv_handle_create_dataset(struct srv_call *c)
{
    const Tscaf__V1__CreateDatasetRequest *r = (const void *)c->request;

    if (!*r->name || strlen(r->name) > MAX_NAME)
        srv_answer_invalid(c, "name", "OUT_OF_RANGE",
                           "wants 1 to %d characters", MAX_NAME);
    else if (r->kind == TSCAF__V1__DATASET_KIND__DATASET_KIND_UNSPECIFIED)
        srv_answer_invalid(c, "kind", "REQUIRED",
                           "wants fatigue or recognition");
    else
        start(c, create);
}

static enum ut_err get(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__DatasetRef *r = (const void *)w->call->request;

    w->result_free = free_message;
    return srv_dataset_get(&w->call->app->datasets, r->id,
                           (Tscaf__V1__DatasetRecord **)&w->result, e);
}

void srv_handle_get_dataset(struct srv_call *c)
{
    start(c, get);
}

static enum ut_err upload(struct srv_store_call *w, struct ut_error *e)
{
    w->result_free = free_message;
    return srv_dataset_upload(&w->call->app->datasets, w->call->actor,
                              (const void *)w->call->request,
                              (Tscaf__V1__DatasetRecord **)&w->result, e);
}

void srv_handle_upload_dataset(struct srv_call *c)
{
    const Tscaf__V1__UploadDatasetRequest *r = (const void *)c->request;

    if (!r->archive.len)
        srv_answer_invalid(c, "archive", "REQUIRED", "there is no archive");
    else
        start(c, upload);
}

/* ---- list, delete ---- */

static enum ut_err list(struct srv_store_call *w, struct ut_error *e)
{
    Tscaf__V1__ListDatasetsResponse *r = malloc(sizeof(*r));

    if (!r)
        return ut_fail(e, UT_ENOMEM, "no memory for a list");
    tscaf__v1__list_datasets_response__init(r);
    w->result = r;
    w->result_free = free_message;
    return srv_store_list(w->call->app->datasets.store, SRV_TABLE_DATASET,
                          &tscaf__v1__dataset_record__descriptor,
                          (ProtobufCMessage ***)&r->datasets, &r->n_datasets,
                          e);
}

void srv_handle_list_datasets(struct srv_call *c)
{
    start(c, list);
}

static enum ut_err delete_one(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__DatasetRef *r = (const void *)w->call->request;

    return srv_dataset_delete(&w->call->app->datasets, w->call->actor, r->id,
                              e);
}

void srv_handle_delete_dataset(struct srv_call *c)
{
    srv_store_call_start_on(c, c->app->dataset_pool, NULL, NULL, delete_one,
                            srv_store_call_reply_empty);
}

/* ---- samples ---- */

static enum ut_err list_samples(struct srv_store_call *w, struct ut_error *e)
{
    const Tscaf__V1__ListSamplesRequest *r = (const void *)w->call->request;

    w->result_free = free_message;
    return srv_dataset_samples(
        &w->call->app->datasets, r->id, r->limit ? r->limit : DEFAULT_SAMPLES,
        (Tscaf__V1__ListSamplesResponse **)&w->result, e);
}

void srv_handle_list_samples(struct srv_call *c)
{
    const Tscaf__V1__ListSamplesRequest *r = (const void *)c->request;

    if (r->limit > MAX_SAMPLES)
        srv_answer_invalid(c, "limit", "OUT_OF_RANGE", "%u is over %d",
                           r->limit, MAX_SAMPLES);
    else
        start(c, list_samples);
}

struct sample {
    struct srv_call *call;
    struct srv_faces_job job;
    struct srv_faces_frame frame;
    Tscaf__V1__DatasetRecord *dataset; /* owned */
    char id[SRV_ID_LEN];
    uint32_t label;
};

static void free_sample(void *result)
{
    struct sample *s = result;

    if (s->dataset)
        tscaf__v1__dataset_record__free_unpacked(s->dataset, NULL);
    srv_faces_job_fini(&s->job);
    free(s);
}

static enum ut_err add(struct srv_store_call *w, struct ut_error *e)
{
    struct sample *s = w->result;
    uint8_t *png;
    size_t len;
    enum ut_err rc =
        mdl_image_encode_png(s->frame.faces[0].crop, MDL_FACE_SIDE_PX,
                             MDL_FACE_SIDE_PX, &png, &len, e);

    if (rc)
        return rc;
    rc = srv_dataset_add_sample(&w->call->app->datasets, w->call->actor,
                                (const void *)w->call->request, png, len, s->id,
                                &s->label, &s->dataset, e);
    free(png);
    return rc;
}

static void reply_sample(struct srv_store_call *w)
{
    Tscaf__V1__SampleRecord r = TSCAF__V1__SAMPLE_RECORD__INIT;
    struct sample *s = w->result;

    r.id = s->id;
    r.label = s->label;
    r.dataset = s->dataset;
    w->call->reply(w->call, &r.base);
}

static void on_face(struct srv_faces_job *job, const struct api_error *err)
{
    struct sample *s = job->arg;
    struct srv_call *c = s->call;

    if (err) {
        c->fail(c, err);
    } else if (srv_answer_one_face(c, &s->frame, "image")) {
        srv_store_call_start_on(c, c->app->dataset_pool, s, free_sample, add,
                                reply_sample);
        return;
    }
    free_sample(s);
}

void srv_handle_add_sample(struct srv_call *c)
{
    const Tscaf__V1__AddSampleRequest *r = (const void *)c->request;
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a sample"};
    struct sample *s;

    if (!r->image || !r->image->data.len) {
        srv_answer_invalid(c, "image.data", "REQUIRED", "there is no picture");
        return;
    }
    if (!*r->label) {
        srv_answer_invalid(c, "label", "REQUIRED", "there is no label");
        return;
    }
    s = calloc(1, sizeof(*s));
    if (!s) {
        srv_answer_fail(c, &e);
        return;
    }
    s->call = c;
    s->frame.bytes = r->image->data.data;
    s->frame.len = r->image->data.len;
    s->job = (struct srv_faces_job){
        .app = c->app,
        .generation = srv_generation_take(c->app),
        .frames = &s->frame,
        .n_frames = 1,
        .input = srv_answer_input(r->input),
        .max_faces = 2,
        .min_score = 0.5f,
        .deadline_us = c->deadline_us,
        .cancelled = &c->cancelled,
        .field = "image",
        .done = on_face,
        .arg = s,
    };
    if (!srv_faces_start(&s->job, &e))
        return;
    free_sample(s);
    srv_answer_fail(c, &e);
}
