/* Frames to faces: letterbox, network, priors, decoding, suppression.
 *
 *   [H,W,3] -> scaled [h,w,3] at the top left of black [h32,w32,3]
 *     -> probs.i, boxes.i, landmarks.i -> faces of a score -> best first,
 *        none overlapping a better one by MDL_DETECT_IOU -> full pixels */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/vision/face.h"

#define MAPS 3
#define OUTPUTS (3 * MAPS)
#define ANCHORS 2 /* per cell */

/* Per map: pixels per cell, and the anchors' sides. */
static const struct {
    int stride, side[ANCHORS];
} maps[MAPS] = {{8, {16, 32}}, {16, {64, 128}}, {32, {256, 512}}};

/* Deltas are in units of these shares of the anchor. */
#define VARIANCE_PLACE 0.1f
#define VARIANCE_SIZE 0.2f

/* A plan for one padded size, and its memory. */
struct slot {
    int h, w;               /* 0: empty */
    uint64_t used;          /* the finder's count at the last use */
    struct mdl_graph graph; /* as built; owns nothing the plan reads      */
    struct mdl_graph fast;  /* optimised; outlives the plan               */
    struct mdl_plan *plan;
    uint8_t *in;            /* owned; [h,w,3]                          */
    float *out[OUTPUTS];    /* views into memory, by output position   */
    float *memory;          /* owned                                   */
    struct mdl_face *found; /* owned; room for every anchor            */
};

struct mdl_finder {
    const struct mdl_detector *detector;
    struct mdl_lane *lane; /* owned */
    uint64_t count;
    struct slot slots[MDL_FINDER_PLANS];
};

static void slot_fini(struct slot *s)
{
    mdl_plan_free(s->plan);
    mdl_graph_fini(&s->fast);
    mdl_graph_fini(&s->graph);
    free(s->in);
    free(s->memory);
    free(s->found);
    *s = (struct slot){0};
}

static enum ut_err slot_memory(struct slot *s, struct ut_error *e)
{
    size_t n[OUTPUTS], total = 0, anchors = 0;
    float *at;

    for (int i = 0; i < OUTPUTS; i++) {
        n[i] = mdl_shape_count(&s->fast.values[s->fast.outputs[i]].shape);
        total += n[i];
    }
    for (int i = 0; i < MAPS; i++)
        anchors += (size_t)(s->h / maps[i].stride) *
                   (size_t)(s->w / maps[i].stride) * ANCHORS;
    s->in = malloc((size_t)s->h * (size_t)s->w * 3);
    s->memory = malloc(total * sizeof(*s->memory));
    s->found = malloc(anchors * sizeof(*s->found));
    if (!s->in || !s->memory || !s->found)
        return ut_fail(e, UT_ENOMEM, "no memory to detect in %dx%d", s->w,
                       s->h);
    at = s->memory;
    for (int i = 0; i < OUTPUTS; i++) {
        s->out[i] = at;
        at += n[i];
    }
    return UT_OK;
}

static enum ut_err slot_init(struct slot *s, const struct mdl_finder *f, int h,
                             int w, struct ut_error *e)
{
    enum ut_err rc;

    mdl_graph_init(&s->fast);
    s->h = h;
    s->w = w;
    rc = mdl_detector_graph(f->detector, h, w, &s->graph, e);
    if (!rc)
        rc = mdl_graph_optimise(&s->graph, ~(uint64_t)0, &s->fast, e);
    if (!rc)
        rc = mdl_plan_new(f->lane, &s->fast, MDL_PREC_F32, 1, &s->plan, e);
    if (!rc)
        rc = slot_memory(s, e);
    if (rc)
        slot_fini(s);
    return rc;
}

/* The slot of that size, made in place of the one longest unused. */
static enum ut_err find_slot(struct mdl_finder *f, int h, int w,
                             struct slot **out, struct ut_error *e)
{
    struct slot *s = &f->slots[0];
    enum ut_err rc = UT_OK;

    for (int i = 0; i < MDL_FINDER_PLANS; i++) {
        if (f->slots[i].h == h && f->slots[i].w == w) {
            s = &f->slots[i];
            goto out;
        }
        if (f->slots[i].used < s->used)
            s = &f->slots[i];
    }
    slot_fini(s);
    rc = slot_init(s, f, h, w, e);
out:
    s->used = ++f->count;
    *out = s;
    return rc;
}

/* Scales the frame into the slot's corner; the rest is black. */
static void letterbox(const struct mdl_image *im, int h, int w, struct slot *s)
{
    size_t row = (size_t)w * 3, padded = (size_t)s->w * 3;

    mdl_image_resize(im, w, h, s->in);
    for (int y = h; y-- > 0;) {
        uint8_t *to = s->in + (size_t)y * padded;

        memmove(to, s->in + (size_t)y * row, row);
        memset(to + row, 0, padded - row);
    }
    memset(s->in + (size_t)h * padded, 0, (size_t)(s->h - h) * padded);
}

static struct mdl_prior prior_at(int map, size_t anchor, size_t cell, int w)
{
    int stride = maps[map].stride;
    size_t mw = (size_t)(w / stride);

    return (struct mdl_prior){
        ((float)(cell % mw) + 0.5f) * (float)stride,
        ((float)(cell / mw) + 0.5f) * (float)stride,
        (float)maps[map].side[anchor],
    };
}

int mdl_detector_priors(int h, int w, struct mdl_prior *out)
{
    int n = 0;

    for (int m = 0; m < MAPS; m++) {
        size_t plane =
            (size_t)(w / maps[m].stride) * (size_t)(h / maps[m].stride);

        for (size_t at = 0; at < plane * ANCHORS; at++)
            out[n++] = prior_at(m, at / plane, at % plane, w);
    }
    return n;
}

/* An anchor's face in the network's pixels. p: its first box delta, l: its
 * first landmark delta; deltas lie a plane apart. */
static struct mdl_face decode(const float *p, const float *l, size_t plane,
                              const struct mdl_prior *at, float score)
{
    float side = at->side;
    float x = at->x + p[0] * VARIANCE_PLACE * side;
    float y = at->y + p[plane] * VARIANCE_PLACE * side;
    float w = side * expf(p[2 * plane] * VARIANCE_SIZE);
    float h = side * expf(p[3 * plane] * VARIANCE_SIZE);
    struct mdl_face f = {x - w / 2, y - h / 2, w, h, score, {{0}}};

    for (int i = 0; i < 5; i++) {
        f.landmark[i][0] =
            at->x + l[(2 * (size_t)i) * plane] * VARIANCE_PLACE * side;
        f.landmark[i][1] =
            at->y + l[(2 * (size_t)i + 1) * plane] * VARIANCE_PLACE * side;
    }
    return f;
}

void mdl_detector_encode(const struct mdl_face *f, const struct mdl_prior *p,
                         float box[4], float landmarks[10])
{
    float unit = VARIANCE_PLACE * p->side;

    box[0] = (f->x + f->w / 2 - p->x) / unit;
    box[1] = (f->y + f->h / 2 - p->y) / unit;
    box[2] = logf(f->w / p->side) / VARIANCE_SIZE;
    box[3] = logf(f->h / p->side) / VARIANCE_SIZE;
    for (int i = 0; i < 5; i++) {
        landmarks[2 * i] = (f->landmark[i][0] - p->x) / unit;
        landmarks[2 * i + 1] = (f->landmark[i][1] - p->y) / unit;
    }
}

int mdl_detector_decode(float *const out[9], int h, int w, float min_score,
                        struct mdl_face *faces)
{
    int n = 0;

    for (int m = 0; m < MAPS; m++) {
        const float *probs = out[3 * m], *boxes = out[3 * m + 1];
        const float *marks = out[3 * m + 2];
        size_t plane =
            (size_t)(w / maps[m].stride) * (size_t)(h / maps[m].stride);

        for (size_t at = 0; at < plane * ANCHORS; at++) {
            size_t a = at / plane, cell = at % plane;
            float score = probs[(2 * a + 1) * plane + cell];
            struct mdl_prior prior;

            if (!(score >= min_score))
                continue;
            prior = prior_at(m, a, cell, w);
            faces[n++] =
                decode(boxes + 4 * a * plane + cell,
                       marks + 10 * a * plane + cell, plane, &prior, score);
        }
    }
    return n;
}

static int on_compare(const void *a, const void *b)
{
    const struct mdl_face *x = a, *y = b;

    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    if (x->y != y->y) /* ties: by place, so that results repeat */
        return x->y < y->y ? -1 : 1;
    return (x->x > y->x) - (x->x < y->x);
}

float mdl_face_iou(const struct mdl_face *a, const struct mdl_face *b)
{
    float w = fminf(a->x + a->w, b->x + b->w) - fmaxf(a->x, b->x);
    float h = fminf(a->y + a->h, b->y + b->h) - fmaxf(a->y, b->y);
    float both = w > 0 && h > 0 ? w * h : 0;
    float all = a->w * a->h + b->w * b->h - both;

    return all > 0 ? both / all : 0;
}

int mdl_face_suppress(struct mdl_face *faces, int n, float iou, int max)
{
    int kept = 0;

    qsort(faces, (size_t)n, sizeof(*faces), on_compare);
    for (int i = 0; i < n && kept < max; i++) {
        bool free_place = true;

        for (int k = 0; k < kept && free_place; k++)
            free_place = mdl_face_iou(&faces[k], &faces[i]) <= iou;
        if (free_place)
            faces[kept++] = faces[i];
    }
    return kept;
}

enum ut_err mdl_finder_new(const struct mdl_detector *d, struct mdl_backend *b,
                           struct mdl_finder **out, struct ut_error *e)
{
    struct mdl_finder *f = calloc(1, sizeof(*f));
    enum ut_err rc;

    *out = NULL;
    if (!f)
        return ut_fail(e, UT_ENOMEM, "no memory for a finder");
    f->detector = d;
    rc = mdl_lane_new(b, &f->lane, e);
    if (rc) {
        free(f);
        return rc;
    }
    *out = f;
    return UT_OK;
}

void mdl_finder_free(struct mdl_finder *f)
{
    if (!f)
        return;
    for (int i = 0; i < MDL_FINDER_PLANS; i++)
        slot_fini(&f->slots[i]);
    mdl_lane_free(f->lane);
    free(f);
}

static int scaled(int side, double scale)
{
    int s = (int)lround(side * scale);

    return s < 1 ? 1 : s;
}

static int padded(int side)
{
    return (side + 31) / 32 * 32;
}

static void to_full(struct mdl_face *f, float sx, float sy)
{
    f->x *= sx;
    f->y *= sy;
    f->w *= sx;
    f->h *= sy;
    for (int i = 0; i < 5; i++) {
        f->landmark[i][0] *= sx;
        f->landmark[i][1] *= sy;
    }
}

enum ut_err mdl_finder_run(struct mdl_finder *f, const struct mdl_image *im,
                           int side_px, float min_score, int max,
                           struct mdl_face *faces, int *n, struct ut_error *e)
{
    int side = im->width > im->height ? im->width : im->height;
    struct slot *s;
    struct mdl_io io;
    enum ut_err rc;
    double scale;
    int h, w;

    assert(min_score > 0 && max >= 0);
    *n = 0;
    side_px = side_px ? side_px : mdl_detector_side(f->detector);
    if (side_px < 32 || side_px > MDL_DETECT_MAX_SIDE_PX)
        return ut_fail(e, UT_EINVAL,
                       "faces are sought at 32 to %d px a side, not %d",
                       MDL_DETECT_MAX_SIDE_PX, side_px);
    scale = fmin((double)side_px / side, MDL_DETECT_MAX_ENLARGE);
    w = scaled(im->width, scale);
    h = scaled(im->height, scale);
    rc = find_slot(f, padded(h), padded(w), &s, e);
    if (rc)
        return rc;
    letterbox(im, h, w, s);
    io = (struct mdl_io){s->in, s->out};
    rc = mdl_plan_run(s->plan, &io, e);
    if (rc)
        return rc;
    *n = mdl_detector_decode(s->out, s->h, s->w, min_score, s->found);
    *n = mdl_face_suppress(s->found, *n, MDL_DETECT_IOU, max);
    for (int i = 0; i < *n; i++) {
        faces[i] = s->found[i];
        to_full(&faces[i], (float)im->full_width / (float)w,
                (float)im->full_height / (float)h);
    }
    return UT_OK;
}
