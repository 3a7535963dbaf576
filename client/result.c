/* Typed results: structs of this library over the parsed message, which each
 * result keeps because its strings are in it. */
#include "client/result.h"

#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/tscaf.pb-c.h"

#define MAX_PATH 2048

/* Reads what a was sent as. */
static enum ut_err message_of(const struct cl_answer *a,
                              const ProtobufCMessageDescriptor *d,
                              ProtobufCMessage **m, struct api_error *err)
{
    enum ut_err rc;

    *m = NULL;
    if (!a->ok) {
        *err = a->err;
        return UT_EIO;
    }
    rc = api_json_read_answer(d, a->body, a->len, m, err);
    return rc && rc != UT_ENOMEM ? UT_EFORMAT : rc;
}

static enum ut_err no_memory(struct api_error *err)
{
    api_fail(err, API_RESOURCE_EXHAUSTED, "no memory");
    return UT_ENOMEM;
}

static void message_free(ProtobufCMessage *m)
{
    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
}

/* Memory for what m says; without it m is freed. */
static void *result_of(ProtobufCMessage *m, size_t size, struct api_error *err)
{
    void *x = calloc(1, size);

    if (!x) {
        message_free(m);
        (void)no_memory(err);
    }
    return x;
}

/* ---- Analyze ---- */

/* Of an analysis; the three arrays are filled from the front. */
struct analysis {
    struct cl_analysis pub; /* first: the caller's pointer; owner: message */
    struct cl_frame *frames;
    struct cl_face *faces;
    struct cl_match *matches;
};

static bool allocate(struct analysis *x, const Tscaf__V1__AnalyzeResponse *r)
{
    size_t faces = 0, matches = 0;

    for (size_t i = 0; i < r->n_frames; i++) {
        const Tscaf__V1__Frame *f = r->frames[i];

        faces += f->n_faces;
        for (size_t k = 0; k < f->n_faces; k++)
            if (f->faces[k]->identity)
                matches += f->faces[k]->identity->n_matches;
    }
    x->frames = calloc(r->n_frames + 1, sizeof(*x->frames));
    x->faces = calloc(faces + 1, sizeof(*x->faces));
    x->matches = calloc(matches + 1, sizeof(*x->matches));
    return x->frames && x->faces && x->matches;
}

static struct cl_box box_of(const Tscaf__V1__Box *b)
{
    return b ? (struct cl_box){b->x, b->y, b->width, b->height}
             : (struct cl_box){0};
}

/* Fills f, and out with its matches; how many. */
static size_t fill_face(struct cl_face *f, const Tscaf__V1__Face *from,
                        struct cl_match *out)
{
    const Tscaf__V1__Identity *id = from->identity;

    f->box = box_of(from->box);
    f->detection_score = from->detection_score;
    f->has_landmarks = from->n_landmarks == CL_LANDMARKS;
    for (int i = 0; f->has_landmarks && i < CL_LANDMARKS; i++)
        f->landmarks[i] =
            (struct cl_point){from->landmarks[i]->x, from->landmarks[i]->y};
    f->has_fatigue = from->fatigue != NULL;
    if (from->fatigue)
        f->fatigue = (struct cl_fatigue){from->fatigue->probability,
                                         from->fatigue->threshold,
                                         from->fatigue->drowsy};
    f->n_quality_reasons = from->n_quality_reasons;
    f->quality_reasons = (const char *const *)from->quality_reasons;
    f->n_embedding = from->n_embedding;
    f->embedding = from->embedding;
    f->has_identity = id != NULL;
    if (!id)
        return 0;
    /* The values are the wire's. */
    if ((unsigned)id->verdict <= CL_VERDICT_AMBIGUOUS)
        f->identity.verdict = (enum cl_verdict)id->verdict;
    f->identity.threshold = id->threshold;
    f->identity.n_matches = id->n_matches;
    f->identity.matches = out;
    for (size_t i = 0; i < id->n_matches; i++)
        out[i] =
            (struct cl_match){id->matches[i]->identity_id, id->matches[i]->name,
                              id->matches[i]->similarity};
    return id->n_matches;
}

static void fill(struct analysis *x, const Tscaf__V1__AnalyzeResponse *r)
{
    struct cl_match *match = x->matches;
    struct cl_face *face = x->faces;

    x->pub = (struct cl_analysis){
        .request_id = r->request_id,
        .model = r->model ? r->model->name : "",
        .model_version = r->model ? r->model->version : "",
        .trained = r->model && r->model->trained,
        .total_ms = r->timing_ms ? r->timing_ms->total : 0,
        .n_frames = r->n_frames,
        .frames = x->frames,
        .owner = x->pub.owner,
    };
    for (size_t i = 0; i < r->n_frames; i++) {
        const Tscaf__V1__Frame *f = r->frames[i];

        x->frames[i] = (struct cl_frame){f->width, f->height, f->n_faces, face};
        for (size_t k = 0; k < f->n_faces; k++)
            match += fill_face(face++, f->faces[k], match);
    }
}

void cl_analysis_free(struct cl_analysis *a)
{
    struct analysis *x = (struct analysis *)a;

    if (!x)
        return;
    message_free(a->owner);
    free(x->frames);
    free(x->faces);
    free(x->matches);
    free(x);
}

enum ut_err cl_analysis_read(const struct cl_answer *a,
                             struct cl_analysis **out, struct api_error *err)
{
    const ProtobufCMessageDescriptor *d =
        &tscaf__v1__analyze_response__descriptor;
    struct analysis *x;
    ProtobufCMessage *m;
    enum ut_err rc = message_of(a, d, &m, err);

    *out = NULL;
    if (rc)
        return rc;
    x = result_of(m, sizeof(*x), err);
    if (!x)
        return UT_ENOMEM;
    x->pub.owner = m;
    if (!allocate(x, (const Tscaf__V1__AnalyzeResponse *)m)) {
        cl_analysis_free(&x->pub);
        return no_memory(err);
    }
    fill(x, (const Tscaf__V1__AnalyzeResponse *)m);
    *out = &x->pub;
    return UT_OK;
}

/* A POST of image to path and tail; the caller frees path in any case. */
static enum ut_err post_of(const struct cl_image *image, struct ut_buf *path,
                           const char *tail, struct cl_request *r,
                           struct ut_error *e)
{
    enum ut_err rc =
        ut_buf_addf(path, e, "%s%s%s", tail, image->query ? "?" : "",
                    image->query ? image->query : "");

    *r = (struct cl_request){.method = "POST",
                             .path = path->data,
                             .type = image->type,
                             .body = image->bytes,
                             .len = image->len};
    return rc;
}

/* Asks and reads the answer as a message. */
static enum ut_err ask(struct cl_client *c, const struct cl_request *r,
                       const ProtobufCMessageDescriptor *d,
                       ProtobufCMessage **m, struct api_error *err)
{
    struct cl_answer a;
    struct ut_error e;
    enum ut_err rc = cl_call(c, r, &a, &e);

    *m = NULL;
    if (rc) {
        api_fail_from(err, &e);
        return rc;
    }
    rc = message_of(&a, d, m, err);
    free(a.body);
    return rc;
}

enum ut_err cl_analyze_start(struct cl_client *c, const struct cl_image *image,
                             cl_done *done, void *ctx, struct ut_error *e)
{
    struct cl_request r;
    struct ut_buf path;
    enum ut_err rc;

    ut_buf_init(&path, MAX_PATH);
    rc = post_of(image, &path, "/v1/analyze", &r, e);
    if (!rc)
        rc = cl_start(c, &r, done, ctx, e);
    ut_buf_fini(&path);
    return rc;
}

enum ut_err cl_analyze(struct cl_client *c, const struct cl_image *image,
                       struct cl_analysis **out, struct api_error *err)
{
    struct cl_request r;
    struct cl_answer a = {0};
    struct ut_error e;
    struct ut_buf path;
    enum ut_err rc;

    *out = NULL;
    ut_buf_init(&path, MAX_PATH);
    rc = post_of(image, &path, "/v1/analyze", &r, &e);
    if (!rc)
        rc = cl_call(c, &r, &a, &e);
    if (rc)
        api_fail_from(err, &e);
    else
        rc = cl_analysis_read(&a, out, err);
    free(a.body);
    ut_buf_fini(&path);
    return rc;
}

/* ---- Enrolment ---- */

void cl_identity_free(struct cl_identity *i)
{
    if (i)
        message_free(i->owner);
    free(i);
}

enum ut_err cl_identity_create(struct cl_client *c, const char *name,
                               const char *external_id,
                               struct cl_identity **out, struct api_error *err)
{
    Tscaf__V1__CreateIdentityRequest send =
        TSCAF__V1__CREATE_IDENTITY_REQUEST__INIT;
    struct cl_request r = {
        .method = "POST", .path = "/v1/identities", .type = "application/json"};
    const Tscaf__V1__IdentityRecord *from;
    struct cl_identity *x;
    ProtobufCMessage *m;
    struct ut_error e;
    char *json;
    enum ut_err rc;

    *out = NULL;
    send.name = (char *)name;
    if (external_id)
        send.external_id = (char *)external_id;
    rc = api_json_write(&send.base, API_JSON_REST, &json, &r.len, &e);
    if (rc) {
        api_fail_from(err, &e);
        return rc;
    }
    r.body = json;
    rc = ask(c, &r, &tscaf__v1__identity_record__descriptor, &m, err);
    free(json);
    if (rc)
        return rc;
    x = result_of(m, sizeof(*x), err);
    if (!x)
        return UT_ENOMEM;
    from = (const Tscaf__V1__IdentityRecord *)m;
    *x = (struct cl_identity){from->id,          from->name,
                              from->external_id, from->created_at,
                              from->face_count,  m};
    *out = x;
    return UT_OK;
}

void cl_enrolled_free(struct cl_enrolled *r)
{
    if (r)
        message_free(r->owner);
    free(r);
}

enum ut_err cl_enroll(struct cl_client *c, const char *identity_id,
                      const struct cl_image *image, struct cl_enrolled **out,
                      struct api_error *err)
{
    const Tscaf__V1__FaceRecord *from;
    struct cl_request r;
    struct cl_enrolled *x;
    ProtobufCMessage *m;
    struct ut_error e;
    struct ut_buf path;
    enum ut_err rc;

    *out = NULL;
    ut_buf_init(&path, MAX_PATH);
    rc = ut_buf_addf(&path, &e, "/v1/identities");
    if (!rc)
        rc = cl_path_segment(&path, identity_id, &e);
    if (!rc)
        rc = post_of(image, &path, "/faces", &r, &e);
    if (rc)
        api_fail_from(err, &e);
    else
        rc = ask(c, &r, &tscaf__v1__face_record__descriptor, &m, err);
    ut_buf_fini(&path);
    if (rc)
        return rc;
    x = result_of(m, sizeof(*x), err);
    if (!x)
        return UT_ENOMEM;
    from = (const Tscaf__V1__FaceRecord *)m;
    *x = (struct cl_enrolled){
        from->id,         from->identity_id, from->model_version,
        from->created_at, box_of(from->box), m};
    *out = x;
    return UT_OK;
}

/* ---- Training jobs ---- */

void cl_job_free(struct cl_job *j)
{
    if (j)
        message_free(j->owner);
    free(j);
}

enum ut_err cl_job_get(struct cl_client *c, const char *id, struct cl_job **out,
                       struct api_error *err)
{
    struct cl_request r = {.method = "GET"};
    const Tscaf__V1__JobRecord *from;
    struct cl_job *x;
    ProtobufCMessage *m;
    struct ut_error e;
    struct ut_buf path;
    enum ut_err rc;

    *out = NULL;
    ut_buf_init(&path, MAX_PATH);
    rc = ut_buf_addf(&path, &e, "/v1/jobs");
    if (!rc)
        rc = cl_path_segment(&path, id, &e);
    r.path = path.data;
    if (rc)
        api_fail_from(err, &e);
    else
        rc = ask(c, &r, &tscaf__v1__job_record__descriptor, &m, err);
    ut_buf_fini(&path);
    if (rc)
        return rc;
    x = result_of(m, sizeof(*x), err);
    if (!x)
        return UT_ENOMEM;
    from = (const Tscaf__V1__JobRecord *)m;
    *x = (struct cl_job){
        .id = from->id,
        .name = from->name,
        .reason = from->reason,
        .model_version = from->model_version,
        .step = from->progress ? from->progress->step : 0,
        .steps = from->progress ? from->progress->steps : 0,
        .owner = m,
    };
    /* The values are the wire's. */
    if ((unsigned)from->state <= CL_JOB_CANCELLED)
        x->state = (enum cl_job_state)from->state;
    *out = x;
    return UT_OK;
}
