/* Faces, models and faults as messages. */
#include "server/calls/answer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/app.h"

#define AMBIGUOUS 0.02f /* two identities nearer than this are one verdict */

float srv_answer_fatigue_threshold(const struct srv_engine *en, float asked)
{
    return asked > 0
               ? asked
               : srv_engine_threshold(srv_engine_model(en), MDL_HEAD_BINARY);
}

float srv_answer_identity_threshold(const struct srv_engine *en, float asked)
{
    return asked > 0
               ? asked
               : srv_engine_threshold(srv_engine_model(en), MDL_HEAD_EMBEDDING);
}

enum srv_input srv_answer_input(Tscaf__V1__InputKind asked)
{
    return asked == TSCAF__V1__INPUT_KIND__INPUT_KIND_CROP ? SRV_INPUT_CROP
                                                           : SRV_INPUT_FRAME;
}

void srv_answer_model(const struct srv_engine *en, Tscaf__V1__ModelRef *out)
{
    const struct mdl_model *m = srv_engine_model(en);

    tscaf__v1__model_ref__init(out);
    out->name = (char *)(uintptr_t)m->name;
    out->version = (char *)(uintptr_t)m->version;
    out->trained = m->trained;
}

size_t srv_answer_quality(unsigned bits, char **list)
{
    size_t n = 0;

    for (int i = 0; i < 5; i++)
        if (bits >> i & 1)
            list[n++] =
                (char *)(uintptr_t)mdl_quality_name((enum mdl_quality)(1 << i));
    return n;
}

static Tscaf__V1__Verdict verdict_of(const struct srv_item *it, float threshold)
{
    if (!it->n_matches || it->matches[0].similarity < threshold)
        return TSCAF__V1__VERDICT__VERDICT_UNKNOWN;
    if (it->n_matches > 1 && it->matches[1].similarity >= threshold &&
        it->matches[0].similarity - it->matches[1].similarity < AMBIGUOUS)
        return TSCAF__V1__VERDICT__VERDICT_AMBIGUOUS;
    return TSCAF__V1__VERDICT__VERDICT_MATCH;
}

static enum ut_err fill_identity(const struct srv_faces_face *x,
                                 const struct srv_answer_options *o,
                                 struct srv_answer_face *a, struct ut_error *e)
{
    int n = x->item.n_matches < o->top_k ? x->item.n_matches : o->top_k;

    tscaf__v1__identity__init(&a->identity);
    a->identity.threshold = o->identity_threshold;
    a->identity.verdict = verdict_of(&x->item, o->identity_threshold);
    a->face.identity = &a->identity;
    if (!n)
        return UT_OK;
    a->matches = calloc((size_t)n, sizeof(*a->matches));
    a->match_list = calloc((size_t)n, sizeof(*a->match_list));
    if (!a->matches || !a->match_list)
        return ut_fail(e, UT_ENOMEM, "no memory for %d matches", n);
    for (int i = 0; i < n; i++) {
        struct srv_match *m = &x->item.matches[i];

        tscaf__v1__match__init(&a->matches[i]);
        a->matches[i].identity_id = m->identity_id;
        a->matches[i].name = m->name;
        a->matches[i].similarity = m->similarity;
        a->match_list[i] = &a->matches[i];
    }
    a->identity.n_matches = (size_t)n;
    a->identity.matches = a->match_list;
    return UT_OK;
}

static void fill_place(const struct srv_faces_face *x, bool landmarks,
                       struct srv_answer_face *a)
{
    tscaf__v1__box__init(&a->box);
    a->box.x = x->face.x;
    a->box.y = x->face.y;
    a->box.width = x->face.w;
    a->box.height = x->face.h;
    a->face.box = &a->box;
    a->face.detection_score = x->face.score;
    /* A given crop was not searched: it has neither score nor landmarks. */
    if (!landmarks || x->face.score <= 0)
        return;
    for (int i = 0; i < 5; i++) {
        tscaf__v1__point__init(&a->points[i]);
        a->points[i].x = x->face.landmark[i][0];
        a->points[i].y = x->face.landmark[i][1];
        a->point_list[i] = &a->points[i];
    }
    a->face.n_landmarks = 5;
    a->face.landmarks = a->point_list;
}

/* The maps that were asked for. */
static void fill_attention(const struct srv_engine *en,
                           const struct srv_faces_face *x,
                           struct srv_answer_face *a)
{
    static const Tscaf__V1__Task task_of[SRV_LEAVES] = {
        TSCAF__V1__TASK__TASK_FATIGUE, TSCAF__V1__TASK__TASK_RECOGNITION};

    for (int i = 0; i < SRV_LEAVES; i++) {
        Tscaf__V1__Attention *to = &a->attention[a->face.n_attention];
        int width, height;

        if (!x->item.scores.attention[i])
            continue;
        tscaf__v1__attention__init(to);
        to->task = task_of[i];
        to->n_values = srv_engine_attention(en, i, &width, &height);
        to->values = x->item.scores.attention[i];
        to->width = (uint32_t)width;
        to->height = (uint32_t)height;
        a->attention_list[a->face.n_attention++] = to;
    }
    a->face.attention = a->attention_list;
}

enum ut_err srv_answer_face(const struct srv_engine *en,
                            const struct srv_faces_face *x,
                            const struct srv_answer_options *o,
                            struct srv_answer_face *a, struct ut_error *e)
{
    size_t png_len;

    memset(a, 0, sizeof(*a));
    tscaf__v1__face__init(&a->face);
    fill_place(x, o->landmarks, a);
    fill_attention(en, x, a);
    a->face.n_quality_reasons = srv_answer_quality(x->quality, a->reasons);
    a->face.quality_reasons = a->reasons;
    if (o->tasks & SRV_TASK_FATIGUE) {
        tscaf__v1__fatigue__init(&a->fatigue);
        a->fatigue.probability = x->item.scores.probability;
        a->fatigue.threshold = o->fatigue_threshold;
        a->fatigue.drowsy = a->fatigue.probability >= o->fatigue_threshold;
        a->face.fatigue = &a->fatigue;
    }
    if (o->embedding) {
        a->face.n_embedding = (size_t)srv_engine_dim(en);
        a->face.embedding = x->item.scores.embedding;
    }
    if (o->crop) {
        enum ut_err rc = mdl_image_encode_png(
            x->crop, MDL_FACE_SIDE_PX, MDL_FACE_SIDE_PX, &a->crop, &png_len, e);
        if (rc)
            return rc;
        a->face.crop.data = a->crop;
        a->face.crop.len = png_len;
    }
    return o->tasks & SRV_TASK_RECOGNITION ? fill_identity(x, o, a, e) : UT_OK;
}

void srv_answer_face_fini(struct srv_answer_face *a)
{
    free(a->matches);
    free(a->match_list);
    free(a->crop);
}

bool srv_answer_one_face(struct srv_call *c, const struct srv_faces_frame *f,
                         const char *field)
{
    struct api_error err;

    if (f->n_faces == 1)
        return true;
    api_fail(&err, API_INVALID_ARGUMENT, "%s: %s", field,
             f->n_faces ? "there are several faces in it, not one"
                        : "there is no face in it");
    err.http_status = 422;
    snprintf(err.field, sizeof(err.field), "%s", field);
    snprintf(err.reason, sizeof(err.reason), "%s",
             f->n_faces ? "SEVERAL_FACES" : "NO_FACE");
    c->fail(c, &err);
    return false;
}

void srv_answer_fail(struct srv_call *c, const struct ut_error *e)
{
    struct api_error err;

    api_fail_from(&err, e);
    c->fail(c, &err);
}

void srv_answer_invalid(struct srv_call *c, const char *field,
                        const char *reason, const char *fmt, ...)
{
    struct api_error err;
    char text[200];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    api_fail(&err, API_INVALID_ARGUMENT, "%s: %s", field, text);
    snprintf(err.field, sizeof(err.field), "%s", field);
    snprintf(err.reason, sizeof(err.reason), "%s", reason);
    c->fail(c, &err);
}
