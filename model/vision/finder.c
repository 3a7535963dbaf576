/* Frames to faces, those of one size together: letterbox, network, decoding,
 * suppression.
 *
 *   n x [H,W,3] -> scaled [h,w,3], each at the top left of black [h32,w32,3]
 *     -> probs.i, boxes.i, landmarks.i -> faces of a score -> best first,
 *        none overlapping a better one by MDL_DETECT_IOU -> full pixels */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/vision/face.h"

#define OUTPUTS 9
#define N_BATCHES 4 /* plans of 1, 2, 4 and 8 frames */

/* A padded size: its plans, made as they are wanted, and their memory. */
struct slot {
    int h, w;               /* 0: empty */
    uint64_t used;          /* the finder's count at the last use */
    struct mdl_graph graph; /* as built; owns nothing the plans read      */
    struct mdl_graph fast;  /* optimised; outlives the plans              */
    struct mdl_plan *plans[N_BATCHES];
    int most;               /* frames at once that the device has room for */
    int room;               /* frames that the memory is for               */
    uint8_t *in;            /* owned; [room,h,w,3]                         */
    float *memory;          /* owned; the outputs, [room, shape] each      */
    size_t count[OUTPUTS];  /* numbers of one frame's                      */
    struct mdl_face *found; /* owned; room for every anchor of one frame   */
};

struct mdl_finder {
    const struct mdl_detector *detector;
    struct mdl_lane *lane; /* owned */
    uint64_t count;
    struct slot slots[MDL_FINDER_PLANS];
};

static void slot_fini(struct slot *s)
{
    for (int i = 0; i < N_BATCHES; i++)
        mdl_plan_free(s->plans[i]);
    mdl_graph_fini(&s->fast);
    mdl_graph_fini(&s->graph);
    free(s->in);
    free(s->memory);
    free(s->found);
    *s = (struct slot){0};
}

static enum ut_err slot_init(struct slot *s, const struct mdl_finder *f, int h,
                             int w, struct ut_error *e)
{
    size_t anchors = (size_t)h * (size_t)w * 21 / 512;
    enum ut_err rc;

    mdl_graph_init(&s->fast);
    s->h = h;
    s->w = w;
    s->most = MDL_FINDER_BATCH;
    rc = mdl_detector_graph(f->detector, h, w, &s->graph, e);
    if (!rc)
        rc = mdl_graph_optimise(&s->graph, ~(uint64_t)0, &s->fast, e);
    for (int i = 0; i < OUTPUTS && !rc; i++)
        s->count[i] =
            mdl_shape_count(&s->fast.values[s->fast.outputs[i]].shape);
    if (!rc) {
        s->found = malloc(anchors * sizeof(*s->found));
        if (!s->found)
            rc = ut_fail(e, UT_ENOMEM, "no memory to detect in %dx%d", w, h);
    }
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

/* Memory for so many frames. */
static enum ut_err make_room(struct slot *s, int frames, struct ut_error *e)
{
    size_t n = (size_t)frames, total = 0;

    if (frames <= s->room)
        return UT_OK;
    for (int i = 0; i < OUTPUTS; i++)
        total += n * s->count[i];
    free(s->in);
    free(s->memory);
    s->room = 0;
    s->in = malloc(n * (size_t)s->h * (size_t)s->w * 3);
    s->memory = malloc(total * sizeof(*s->memory));
    if (!s->in || !s->memory)
        return ut_fail(e, UT_ENOMEM, "no memory to detect in %d of %dx%d",
                       frames, s->w, s->h);
    s->room = frames;
    return UT_OK;
}

/* The plan that takes the most of n frames, and how many. */
static enum ut_err find_plan(const struct mdl_finder *f, struct slot *s, int n,
                             struct mdl_plan **out, int *batch,
                             struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (int i = N_BATCHES - 1; i >= 0; i--) {
        *batch = 1 << i;
        if (*batch > n || *batch > s->most)
            continue;
        if (!s->plans[i])
            rc = mdl_plan_new(f->lane, &s->fast, MDL_PREC_F32, *batch,
                              &s->plans[i], e);
        *out = s->plans[i];
        if (rc != UT_ENOMEM || !i)
            break;
        s->most = *batch / 2; /* fewer at once are slower, and found */
        rc = UT_OK;
    }
    return rc ? rc : make_room(s, *batch, e);
}

/* Scales the frame into the corner of in [s->h, s->w, 3]; the rest is black. */
static void letterbox(const struct mdl_image *im, int h, int w,
                      const struct slot *s, uint8_t *in)
{
    size_t row = (size_t)w * 3, padded = (size_t)s->w * 3;

    mdl_image_resize(im, w, h, in);
    for (int y = h; y-- > 0;) {
        uint8_t *to = in + (size_t)y * padded;

        memmove(to, in + (size_t)y * row, row);
        memset(to + row, 0, padded - row);
    }
    memset(in + (size_t)h * padded, 0, (size_t)(s->h - h) * padded);
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

static int padded(int side)
{
    return (side + 31) / 32 * 32;
}

static int scaled(int side, double scale)
{
    int s = (int)lround(side * scale);

    return s < 1 ? 1 : s;
}

/* The network's pixels of a frame. */
static void size_of(const struct mdl_detector *d, const struct mdl_image *im,
                    int side_px, int *h, int *w)
{
    int side = im->width > im->height ? im->width : im->height;
    double scale =
        fmin((double)(side_px ? side_px : mdl_detector_side(d)) / side,
             MDL_DETECT_MAX_ENLARGE);

    *w = scaled(im->width, scale);
    *h = scaled(im->height, scale);
}

bool mdl_finder_alike(const struct mdl_detector *d, const struct mdl_image *a,
                      const struct mdl_image *b, int side_px)
{
    int ah, aw, bh, bw;

    size_of(d, a, side_px, &ah, &aw);
    size_of(d, b, side_px, &bh, &bw);
    return padded(ah) == padded(bh) && padded(aw) == padded(bw);
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

/* Frame i's outputs of a batch as faces. */
static void take(const struct mdl_finder *f, struct slot *s, int side_px,
                 float *const batch[OUTPUTS], int i, struct mdl_find *t)
{
    float *out[OUTPUTS];
    int h, w;

    for (int k = 0; k < OUTPUTS; k++)
        out[k] = batch[k] + (size_t)i * s->count[k];
    size_of(f->detector, t->im, side_px, &h, &w);
    t->n = mdl_detector_decode(out, s->h, s->w, t->min_score, s->found);
    t->n = mdl_face_suppress(s->found, t->n, MDL_DETECT_IOU, t->max);
    for (int k = 0; k < t->n; k++) {
        t->faces[k] = s->found[k];
        to_full(&t->faces[k], (float)t->im->full_width / (float)w,
                (float)t->im->full_height / (float)h);
    }
}

/* As many of n frames as one plan takes; *done: how many. */
static enum ut_err run_batch(struct mdl_finder *f, struct slot *s, int side_px,
                             struct mdl_find *list, int n, int *done,
                             struct ut_error *e)
{
    size_t frame = (size_t)s->h * (size_t)s->w * 3;
    struct mdl_plan *plan = NULL;
    float *out[OUTPUTS], *at;
    struct mdl_io io = {NULL, out};
    enum ut_err rc = find_plan(f, s, n, &plan, done, e);
    int h, w;

    if (rc)
        return rc;
    at = s->memory;
    for (int i = 0; i < OUTPUTS; i++) {
        out[i] = at;
        at += (size_t)*done * s->count[i];
    }
    for (int i = 0; i < *done; i++) {
        size_of(f->detector, list[i].im, side_px, &h, &w);
        letterbox(list[i].im, h, w, s, s->in + (size_t)i * frame);
    }
    io.in = s->in;
    rc = mdl_plan_run(plan, &io, e);
    for (int i = 0; i < *done && !rc; i++)
        take(f, s, side_px, out, i, &list[i]);
    return rc;
}

enum ut_err mdl_finder_run_many(struct mdl_finder *f, int side_px,
                                struct mdl_find *list, int n,
                                struct ut_error *e)
{
    enum ut_err rc = UT_OK;
    struct slot *s;
    int h, w, done = 0;

    assert(n > 0);
    side_px = side_px ? side_px : mdl_detector_side(f->detector);
    if (side_px < 32 || side_px > MDL_DETECT_MAX_SIDE_PX)
        return ut_fail(e, UT_EINVAL,
                       "faces are sought at 32 to %d px a side, not %d",
                       MDL_DETECT_MAX_SIDE_PX, side_px);
    for (int i = 0; i < n; i++) {
        assert(list[i].min_score > 0 && list[i].max >= 0);
        list[i].n = 0;
        if (!mdl_finder_alike(f->detector, list[0].im, list[i].im, side_px))
            return ut_fail(e, UT_EINVAL,
                           "a frame of %dx%d is not of the first one's size, "
                           "%dx%d, to the network",
                           list[i].im->width, list[i].im->height,
                           list[0].im->width, list[0].im->height);
    }
    size_of(f->detector, list[0].im, side_px, &h, &w);
    rc = find_slot(f, padded(h), padded(w), &s, e);
    for (int first = 0; first < n && !rc; first += done)
        rc = run_batch(f, s, side_px, list + first, n - first, &done, e);
    for (int i = 0; i < n && rc; i++)
        list[i].n = 0;
    return rc;
}

enum ut_err mdl_finder_run(struct mdl_finder *f, const struct mdl_image *im,
                           int side_px, float min_score, int max,
                           struct mdl_face *faces, int *n, struct ut_error *e)
{
    struct mdl_find one = {im, min_score, max, faces, 0};
    enum ut_err rc = mdl_finder_run_many(f, side_px, &one, 1, e);

    *n = one.n;
    return rc;
}
