/* The Open Inference Protocol's methods: the network as a function from
 * aligned faces to tensors, through the same batcher as every other face. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/oip/inference.pb-c.h"
#include "server/app.h"
#include "server/calls/answer.h"
#include "server/methods/handlers.h"

#define SIDE MDL_FACE_SIDE_PX
#define MAX_OUTPUTS 2

typedef Inference__ModelInferResponse__InferOutputTensor output_tensor;
typedef Inference__ModelMetadataResponse__TensorMetadata tensor_metadata;

/* The outputs, in the order of metadata. */
static const struct output {
    char *name;
    unsigned task;
} outputs[MAX_OUTPUTS] = {
    {"fatigue_probability", SRV_TASK_FATIGUE},
    {"embedding", SRV_TASK_RECOGNITION},
};

static size_t width_of(const struct output *o, const struct srv_engine *en)
{
    return o->task == SRV_TASK_FATIGUE ? 1 : (size_t)srv_engine_dim(en);
}

/* Whether g is that model ("": whichever it is); else fails c. */
static bool is_model(struct srv_call *c, const struct srv_generation *g,
                     const char *name, const char *version)
{
    const struct mdl_model *m = srv_engine_model(g->engine);
    struct api_error err;

    if (strcmp(name, m->name))
        api_fail(&err, API_NOT_FOUND,
                 "there is no model \"%.60s\"; \"%.60s\" answers", name,
                 m->name);
    else if (*version && strcmp(version, m->version))
        api_fail(
            &err, API_NOT_FOUND,
            "version \"%.40s\" of model \"%.60s\" does not answer; %s does",
            version, name, m->version);
    else
        return true;
    c->fail(c, &err);
    return false;
}

/* ---- health, metadata ---- */

void srv_handle_server_live(struct srv_call *c)
{
    Inference__ServerLiveResponse r = INFERENCE__SERVER_LIVE_RESPONSE__INIT;

    r.live = true;
    c->reply(c, &r.base);
}

void srv_handle_server_ready(struct srv_call *c)
{
    Inference__ServerReadyResponse r = INFERENCE__SERVER_READY_RESPONSE__INIT;
    struct api_error err;

    if (c->app->draining) {
        api_fail(&err, API_UNAVAILABLE, "the server is draining");
        err.retry_after_s = 1;
        c->fail(c, &err);
        return;
    }
    r.ready = true;
    c->reply(c, &r.base);
}

void srv_handle_server_metadata(struct srv_call *c)
{
    Inference__ServerMetadataResponse r =
        INFERENCE__SERVER_METADATA_RESPONSE__INIT;
    char *extensions[] = {"binary_tensor_data", "statistics",
                          "model_repository"};

    r.name = "tscaf";
    r.version = SRV_VERSION;
    r.n_extensions = sizeof(extensions) / sizeof(extensions[0]);
    r.extensions = extensions;
    c->reply(c, &r.base);
}

void srv_handle_model_ready(struct srv_call *c)
{
    const Inference__ModelReadyRequest *q = (const void *)c->request;
    Inference__ModelReadyResponse r = INFERENCE__MODEL_READY_RESPONSE__INIT;
    struct srv_generation *g = srv_generation_take(c->app);

    r.ready = true;
    if (is_model(c, g, q->name, q->version))
        c->reply(c, &r.base);
    srv_generation_drop(g);
}

void srv_handle_model_metadata(struct srv_call *c)
{
    const Inference__ModelMetadataRequest *q = (const void *)c->request;
    Inference__ModelMetadataResponse r =
        INFERENCE__MODEL_METADATA_RESPONSE__INIT;
    struct srv_generation *g = srv_generation_take(c->app);
    const struct mdl_model *m = srv_engine_model(g->engine);
    int64_t in_shape[] = {-1, SIDE, SIDE, 3}, shapes[MAX_OUTPUTS][2];
    char *version = (char *)(uintptr_t)m->version, platform[40];
    tensor_metadata in, out[MAX_OUTPUTS], *in_list[] = {&in};
    tensor_metadata *out_list[MAX_OUTPUTS];

    inference__model_metadata_response__tensor_metadata__init(&in);
    in.name = "images";
    in.datatype = "UINT8";
    in.n_shape = 4;
    in.shape = in_shape;
    for (int i = 0; i < MAX_OUTPUTS; i++) {
        if (!(srv_engine_tasks(g->engine) & outputs[i].task))
            continue;
        out_list[r.n_outputs] = &out[i];
        inference__model_metadata_response__tensor_metadata__init(&out[i]);
        shapes[i][0] = -1;
        shapes[i][1] = (int64_t)width_of(&outputs[i], g->engine);
        out[i].name = outputs[i].name;
        out[i].datatype = "FP32";
        out[i].n_shape = 2;
        out[i].shape = shapes[i];
        r.n_outputs++;
    }
    snprintf(platform, sizeof(platform), "tscaf_%s",
             srv_engine_backend(g->engine));
    r.name = (char *)(uintptr_t)m->name;
    r.n_versions = 1;
    r.versions = &version;
    r.platform = platform;
    r.n_inputs = 1;
    r.inputs = in_list;
    r.outputs = out_list;
    if (is_model(c, g, q->name, q->version))
        c->reply(c, &r.base);
    srv_generation_drop(g);
}

/* ---- statistics ---- */

static Inference__StatisticDuration duration(uint64_t n, uint64_t us)
{
    Inference__StatisticDuration d = INFERENCE__STATISTIC_DURATION__INIT;

    d.count = n;
    d.ns = us * 1000;
    return d;
}

void srv_handle_model_statistics(struct srv_call *c)
{
    const Inference__ModelStatisticsRequest *q = (const void *)c->request;
    Inference__ModelStatisticsResponse r =
        INFERENCE__MODEL_STATISTICS_RESPONSE__INIT;
    Inference__ModelStatistics s = INFERENCE__MODEL_STATISTICS__INIT;
    Inference__ModelStatistics *list[] = {&s};
    Inference__InferStatistics all = INFERENCE__INFER_STATISTICS__INIT;
    Inference__InferBatchStatistics sizes[SRV_MAX_BATCH];
    Inference__InferBatchStatistics *size_list[SRV_MAX_BATCH];
    Inference__StatisticDuration success, fail, queue, compute, none,
        by_size[SRV_MAX_BATCH];
    struct srv_generation *g = srv_generation_take(c->app);
    const struct mdl_model *m = srv_engine_model(g->engine);
    struct srv_batcher_stats b;

    srv_batcher_stats(g->batcher, &b);
    none = duration(0, 0);
    success = duration(b.faces, b.queue_us + b.compute_us);
    fail = duration(b.failed, b.failed_us);
    queue = duration(b.faces, b.queue_us);
    compute = duration(b.faces, b.compute_us);
    all.success = &success;
    all.fail = &fail;
    all.queue = &queue;
    all.compute_infer = &compute;
    all.compute_input = all.compute_output = &none;
    for (int i = 1; i <= SRV_MAX_BATCH; i++) {
        size_t at = s.n_batch_stats;

        if (!b.of_size[i].batches)
            continue;
        by_size[at] = duration(b.of_size[i].batches, b.of_size[i].compute_us);
        inference__infer_batch_statistics__init(&sizes[at]);
        sizes[at].batch_size = (uint64_t)i;
        sizes[at].compute_infer = &by_size[at];
        sizes[at].compute_input = sizes[at].compute_output = &none;
        size_list[at] = &sizes[at];
        s.n_batch_stats++;
    }
    s.name = (char *)(uintptr_t)m->name;
    s.version = (char *)(uintptr_t)m->version;
    s.last_inference = b.last_ms;
    s.inference_count = b.faces;
    s.execution_count = b.batches;
    s.inference_stats = &all;
    s.batch_stats = size_list;
    r.n_model_stats = 1;
    r.model_stats = list;
    if (is_model(c, g, *q->name ? q->name : m->name, q->version))
        c->reply(c, &r.base);
    srv_generation_drop(g);
}

/* ---- repository ---- */

/* Clients load before they ask: the model that answers is loaded. */
void srv_handle_repository_model_load(struct srv_call *c)
{
    const Inference__RepositoryModelLoadRequest *q = (const void *)c->request;
    Inference__RepositoryModelLoadResponse r =
        INFERENCE__REPOSITORY_MODEL_LOAD_RESPONSE__INIT;
    struct srv_generation *g = srv_generation_take(c->app);

    if (is_model(c, g, q->model_name, ""))
        c->reply(c, &r.base);
    srv_generation_drop(g);
}

void srv_handle_repository_model_unload(struct srv_call *c)
{
    struct api_error err;

    api_fail(&err, API_UNIMPLEMENTED,
             "exactly one model answers, with its gallery: POST "
             "/v1/models/{version}/activate puts another in its place");
    c->fail(c, &err);
}

/* ---- infer ---- */

/* One call's work; freed when its answer has gone out. */
struct work {
    struct srv_call *call;
    struct srv_faces_job job;
    struct srv_faces_frame frames[SRV_MAX_IMAGES];
    const struct output *wanted[MAX_OUTPUTS];
    size_t n_wanted;
    uint8_t *bytes; /* owned: of an input that came as a list */
};

static void work_free(struct work *w)
{
    srv_faces_job_fini(&w->job);
    free(w->bytes);
    free(w);
}

/* Which outputs, and thereby which tasks; else fails the call. */
static bool choose_outputs(struct work *w,
                           const Inference__ModelInferRequest *q)
{
    unsigned able = srv_engine_tasks(w->job.generation->engine);
    size_t n = q->n_outputs ? q->n_outputs : MAX_OUTPUTS;

    for (size_t i = 0; i < n; i++) {
        const struct output *o = NULL;

        for (int k = 0; k < MAX_OUTPUTS; k++)
            if (q->n_outputs ? !strcmp(q->outputs[i]->name, outputs[k].name)
                             : (size_t)k == i)
                o = &outputs[k];
        if (!q->n_outputs && !(able & o->task))
            continue;
        if (!o || !(able & o->task)) {
            srv_answer_invalid(w->call, "outputs", "UNKNOWN_VALUE",
                               "the model has no output \"%.60s\"",
                               q->outputs[i]->name);
            return false;
        }
        if (w->job.tasks & o->task) {
            srv_answer_invalid(w->call, "outputs", "UNKNOWN_VALUE",
                               "\"%s\" is asked for twice", o->name);
            return false;
        }
        w->job.tasks |= o->task;
        w->wanted[w->n_wanted++] = o;
    }
    return true;
}

static bool shape_is(const Inference__ModelInferRequest__InferInputTensor *in,
                     int64_t b, int64_t c, int64_t d)
{
    return in->n_shape == 4 && in->shape[1] == b && in->shape[2] == c &&
           in->shape[3] == d;
}

/* The elements of the input as bytes, from whichever place has them; else
 * fails the call. */
static bool elements(struct work *w, const Inference__ModelInferRequest *q,
                     ProtobufCBinaryData *out)
{
    const Inference__InferTensorContents *list = q->inputs[0]->contents;
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a tensor"};

    *out = (ProtobufCBinaryData){0};
    if (q->n_raw_input_contents > 1 || (q->n_raw_input_contents && list)) {
        srv_answer_invalid(w->call, "raw_input_contents", "EXPECTED",
                           "wants the elements of the one input, once");
        return false;
    }
    if (q->n_raw_input_contents) {
        *out = q->raw_input_contents[0];
    } else if (list && w->job.input == SRV_INPUT_F32) {
        out->data = (uint8_t *)list->fp32_contents;
        out->len = list->n_fp32_contents * sizeof(float);
    } else if (list) {
        w->bytes = malloc(list->n_uint_contents + 1);
        if (!w->bytes) {
            srv_answer_fail(w->call, &e);
            return false;
        }
        for (size_t i = 0; i < list->n_uint_contents; i++) {
            if (list->uint_contents[i] > UINT8_MAX) {
                srv_answer_invalid(w->call, "inputs[0].contents",
                                   "OUT_OF_RANGE", "element %zu is %u", i,
                                   list->uint_contents[i]);
                return false;
            }
            w->bytes[i] = (uint8_t)list->uint_contents[i];
        }
        out->data = w->bytes;
        out->len = list->n_uint_contents;
    }
    return true;
}

/* The faces of the request; else fails the call. */
static bool take_input(struct work *w, const Inference__ModelInferRequest *q)
{
    const Inference__ModelInferRequest__InferInputTensor *in;
    struct srv_call *c = w->call;
    ProtobufCBinaryData raw;
    size_t len, n;

    if (q->n_inputs != 1 || strcmp(q->inputs[0]->name, "images")) {
        srv_answer_invalid(c, "inputs", "EXPECTED",
                           "the model takes one input, \"images\"");
        return false;
    }
    in = q->inputs[0];
    if (!strcmp(in->datatype, "UINT8") && shape_is(in, SIDE, SIDE, 3)) {
        w->job.input = SRV_INPUT_U8;
    } else if (!strcmp(in->datatype, "FP32") && shape_is(in, 3, SIDE, SIDE)) {
        w->job.input = SRV_INPUT_F32;
    } else {
        srv_answer_invalid(c, "inputs[0].shape", "EXPECTED",
                           "wants UINT8 [N,112,112,3] or FP32 [N,3,112,112]");
        return false;
    }
    if (in->shape[0] < 1 || in->shape[0] > SRV_MAX_IMAGES) {
        srv_answer_invalid(c, "inputs[0].shape", "OUT_OF_RANGE",
                           "%lld faces are not from 1 to %d",
                           (long long)in->shape[0], SRV_MAX_IMAGES);
        return false;
    }
    n = (size_t)in->shape[0];
    len = srv_input_len(w->job.input);
    if (!elements(w, q, &raw))
        return false;
    if (raw.len != n * len) {
        srv_answer_invalid(c, "inputs[0]", "EXPECTED",
                           "its shape needs %zu bytes, not %zu", n * len,
                           raw.len);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        w->frames[i].bytes = raw.data + i * len;
        w->frames[i].len = len;
    }
    w->job.n_frames = (int)n;
    return true;
}

/* Output o of every face into one tensor. */
static enum ut_err fill_output(const struct work *w, const struct output *o,
                               output_tensor *t, ProtobufCBinaryData *raw,
                               struct ut_error *e)
{
    size_t width = width_of(o, w->job.generation->engine);
    size_t n = (size_t)w->job.n_frames;

    raw->len = n * width * sizeof(float);
    raw->data = malloc(raw->len);
    if (!raw->data)
        return ut_fail(e, UT_ENOMEM, "no memory for %s", o->name);
    for (size_t i = 0; i < n; i++) {
        const struct srv_scores *s;

        if (w->frames[i].n_faces != 1)
            return ut_fail(e, UT_ESTATE, "face %zu was not computed", i);
        s = &w->frames[i].faces[0].item.scores;
        memcpy(raw->data + i * width * sizeof(float),
               o->task == SRV_TASK_FATIGUE ? &s->probability : s->embedding,
               width * sizeof(float));
    }
    t->name = o->name;
    t->datatype = "FP32";
    t->n_shape = 2;
    t->shape[0] = (int64_t)n;
    t->shape[1] = (int64_t)width;
    return UT_OK;
}

static void reply_outputs(struct work *w)
{
    const Inference__ModelInferRequest *q = (const void *)w->call->request;
    const struct mdl_model *m = srv_engine_model(w->job.generation->engine);
    Inference__ModelInferResponse r = INFERENCE__MODEL_INFER_RESPONSE__INIT;
    output_tensor tensors[MAX_OUTPUTS], *list[MAX_OUTPUTS];
    ProtobufCBinaryData raw[MAX_OUTPUTS] = {{0}};
    int64_t shapes[MAX_OUTPUTS][2];
    struct ut_error e;
    enum ut_err rc = UT_OK;

    for (size_t i = 0; i < w->n_wanted && !rc; i++) {
        inference__model_infer_response__infer_output_tensor__init(&tensors[i]);
        tensors[i].shape = shapes[i];
        list[i] = &tensors[i];
        rc = fill_output(w, w->wanted[i], &tensors[i], &raw[i], &e);
    }
    r.model_name = (char *)(uintptr_t)m->name;
    r.model_version = (char *)(uintptr_t)m->version;
    r.id = q->id;
    r.n_outputs = r.n_raw_output_contents = w->n_wanted;
    r.outputs = list;
    r.raw_output_contents = raw;
    if (rc)
        srv_answer_fail(w->call, &e);
    else
        w->call->reply(w->call, &r.base);
    for (size_t i = 0; i < MAX_OUTPUTS; i++)
        free(raw[i].data);
}

static void on_inferred(struct srv_faces_job *job, const struct api_error *err)
{
    struct work *w = job->arg;

    if (err)
        w->call->fail(w->call, err);
    else
        reply_outputs(w);
    work_free(w);
}

void srv_handle_model_infer(struct srv_call *c)
{
    const Inference__ModelInferRequest *q = (const void *)c->request;
    struct ut_error e = {.code = UT_ENOMEM, .msg = "no memory for a request"};
    struct work *w = calloc(1, sizeof(*w));

    if (!w) {
        srv_answer_fail(c, &e);
        return;
    }
    w->call = c;
    w->job = (struct srv_faces_job){
        .app = c->app,
        .generation = srv_generation_take(c->app),
        .frames = w->frames,
        .deadline_us = c->deadline_us,
        .cancelled = &c->cancelled,
        .field = "images",
        .done = on_inferred,
        .arg = w,
    };
    if (!is_model(c, w->job.generation, q->model_name, q->model_version) ||
        !choose_outputs(w, q) || !take_input(w, q)) {
        work_free(w);
    } else if (srv_faces_start(&w->job, &e)) {
        work_free(w);
        srv_answer_fail(c, &e);
    }
}
