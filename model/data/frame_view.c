/* Random views of whole pictures for a detector to learn from.
 *
 *   a picture -> scaled so that one of its faces, or all of it, has a size
 *   that is drawn (Tang et al., PyramidBox, 2018: data-anchor-sampling)
 *     -> turned, mirrored, laid into the view or a quarter of it
 *     -> night, infrared, blur, noise over all */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/data/frames.h"

const struct mdl_view_config mdl_view_default = {
    .side = 320,
    .mosaic = 0.4f,
    .whole = 0.3f,
    .tilt = 0.35f,
    .turn = 15,
    .flip = 0.5f,
    .ground = 0.6f,
    .min_face = 12,
    .max_ignored = 7,
    .look =
        {
            .light = 0.3f,
            .night = 0.12f,
            .grey = 0.2f,
            .blur = 0.15f,
            .noise = 6,
        },
};

#define MAX_ENLARGE 2.2 /* detection itself enlarges by 2 at most */
#define MIN_SCALE 0.05

struct rect {
    int x, y, w, h;
};

/* view = a (x, y) + t, with a turn and maybe a mirror in it. */
struct placing {
    double a[4], tx, ty, scale;
    bool mirrored;
};

static double between(uint64_t *seed, double lo, double hi)
{
    return lo + (hi - lo) * mdl_uniform(seed);
}

static double log_between(uint64_t *seed, double lo, double hi)
{
    return exp(between(seed, log(lo), log(hi > lo ? hi : lo)));
}

static double limit(double v, double lo, double hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* The view's pixels per pixel of the picture; *target is the face that decides,
 * or NULL. */
static double draw_scale(const struct mdl_view_config *c,
                         const struct mdl_face *faces, int n,
                         const struct mdl_image *im, const struct rect *r,
                         uint64_t *seed, const struct mdl_face **target)
{
    double fit = fmin((double)r->w / im->width, (double)r->h / im->height);
    double room = r->w < r->h ? r->w : r->h, size;

    *target = NULL;
    if (mdl_uniform(seed) < c->whole)
        return limit(fit * between(seed, 0.6, 1.1), MIN_SCALE, MAX_ENLARGE);
    if (!n)
        return limit(fit * log_between(seed, 0.7, 3), MIN_SCALE, MAX_ENLARGE);
    *target = &faces[(int)(mdl_uniform(seed) * n)];
    size = log_between(seed, c->min_face, 0.95 * room);
    return limit(size / fmax((*target)->w, (*target)->h), MIN_SCALE,
                 MAX_ENLARGE);
}

/* Where a picture's side of `size` begins in `room`: all of the room is
 * covered or all of the side is in it; centre: the place of what should be
 * visible, from the side's begin, or < 0. */
static double draw_begin(double size, double room, double centre,
                         uint64_t *seed)
{
    double free = room - size, at = mdl_uniform(seed);

    if (centre >= 0)
        return limit(at * room - centre, fmin(free, 0), fmax(free, 0));
    return at * free;
}

static struct placing draw_placing(const struct mdl_view_config *c,
                                   const struct mdl_face *faces, int n,
                                   const struct mdl_image *im,
                                   const struct rect *r, uint64_t *seed)
{
    const struct mdl_face *f;
    struct placing p = {.scale = draw_scale(c, faces, n, im, r, seed, &f)};
    double w = im->width * p.scale, h = im->height * p.scale, s, k, x, y;
    double turn = mdl_uniform(seed) < c->tilt
                      ? between(seed, -c->turn, c->turn) * M_PI / 180
                      : 0;
    double cx = f ? f->x + f->w / 2 : im->width / 2.0;
    double cy = f ? f->y + f->h / 2 : im->height / 2.0;

    p.mirrored = mdl_uniform(seed) < c->flip;
    /* The middle's place, first without the turn, which is about it. */
    x = p.mirrored ? im->width - cx : cx;
    x = r->x + x * p.scale + draw_begin(w, r->w, f ? x * p.scale : -1, seed);
    y = r->y + cy * p.scale + draw_begin(h, r->h, f ? cy * p.scale : -1, seed);
    k = cos(turn) * p.scale;
    s = sin(turn) * p.scale;
    p.a[0] = p.mirrored ? -k : k;
    p.a[1] = -s;
    p.a[2] = p.mirrored ? -s : s;
    p.a[3] = k;
    p.tx = x - p.a[0] * cx - p.a[1] * cy;
    p.ty = y - p.a[2] * cx - p.a[3] * cy;
    return p;
}

static void move(const struct placing *p, double x, double y, float out[2])
{
    out[0] = (float)(p->a[0] * x + p->a[1] * y + p->tx);
    out[1] = (float)(p->a[2] * x + p->a[3] * y + p->ty);
}

/* ---- pixels ---- */

/* im to the rectangle by p, bilinear; what lies outside im stays. */
static void warp(const struct mdl_image *im, const struct placing *p,
                 const struct rect *r, int side, uint8_t *out)
{
    double det = p->a[0] * p->a[3] - p->a[1] * p->a[2];
    double b[4] = {p->a[3] / det, -p->a[1] / det, -p->a[2] / det,
                   p->a[0] / det};

    for (int y = r->y; y < r->y + r->h; y++)
        for (int x = r->x; x < r->x + r->w; x++) {
            double dx = x + 0.5 - p->tx, dy = y + 0.5 - p->ty;
            double u = b[0] * dx + b[1] * dy - 0.5;
            double v = b[2] * dx + b[3] * dy - 0.5;
            uint8_t *to = out + 3 * ((size_t)y * (size_t)side + (size_t)x);
            const uint8_t *at;
            size_t right, down;
            float fx, fy;
            int x0, y0;

            if (u <= -0.5 || v <= -0.5 || u >= im->width - 0.5 ||
                v >= im->height - 0.5)
                continue;
            u = limit(u, 0, im->width - 1);
            v = limit(v, 0, im->height - 1);
            x0 = (int)u;
            y0 = (int)v;
            fx = (float)(u - x0);
            fy = (float)(v - y0);
            right = x0 + 1 < im->width ? 3 : 0;
            down = y0 + 1 < im->height ? 3 * (size_t)im->width : 0;
            at = im->rgb + 3 * ((size_t)y0 * (size_t)im->width + (size_t)x0);
            for (int c = 0; c < 3; c++) {
                float top = at[c] * (1 - fx) + at[right + (size_t)c] * fx;
                float low = at[down + (size_t)c] * (1 - fx) +
                            at[down + right + (size_t)c] * fx;

                to[c] = (uint8_t)(top * (1 - fy) + low * fy + 0.5f);
            }
        }
}

/* As warp; shrunk by area first, which keeps small faces whole. */
static enum ut_err draw(const struct mdl_image *im, const struct placing *p,
                        const struct rect *r, int side, uint8_t *out,
                        struct ut_error *e)
{
    struct mdl_image small = {
        .width = (int)lround(im->width * p->scale),
        .height = (int)lround(im->height * p->scale),
    };
    struct placing rest = *p;
    double sx, sy;

    if (p->scale >= 1 || small.width < 1 || small.height < 1) {
        warp(im, p, r, side, out);
        return UT_OK;
    }
    small.rgb = malloc((size_t)small.width * (size_t)small.height * 3);
    if (!small.rgb)
        return ut_fail(e, UT_ENOMEM, "no memory for a view");
    mdl_image_resize(im, small.width, small.height, small.rgb);
    sx = (double)im->width / small.width;
    sy = (double)im->height / small.height;
    rest.a[0] *= sx;
    rest.a[2] *= sx;
    rest.a[1] *= sy;
    rest.a[3] *= sy;
    warp(&small, &rest, r, side, out);
    free(small.rgb);
    return UT_OK;
}

static void fill(const struct rect *r, int side, uint64_t *seed, uint8_t *out)
{
    uint8_t colour[3] = {0};

    /* Black is what frames are padded with; other colours now and then. */
    if (mdl_uniform(seed) < 0.3)
        for (int c = 0; c < 3; c++)
            colour[c] = (uint8_t)(255 * mdl_uniform(seed));
    for (int y = r->y; y < r->y + r->h; y++)
        for (int x = r->x; x < r->x + r->w; x++)
            memcpy(out + 3 * ((size_t)y * (size_t)side + (size_t)x), colour, 3);
}

static bool covers(const struct placing *p, const struct mdl_image *im,
                   const struct rect *r)
{
    return im->width * p->scale >= r->w && im->height * p->scale >= r->h;
}

/* A picture without a face all over the rectangle, if one is drawn. */
static enum ut_err lay_ground(const struct mdl_views *v, const struct rect *r,
                              uint64_t *seed, uint8_t *image,
                              struct ut_error *e)
{
    struct placing p = {.a = {0}};
    const struct mdl_frame *f;
    struct mdl_image im;
    enum ut_err rc;
    int tries = 0;

    do
        f = &v->frames->frames[(int)(mdl_uniform(seed) * v->frames->n)];
    while (f->n && ++tries < 16);
    if (f->n)
        return UT_OK;
    rc = mdl_image_open(f->path, 0, &im, e);
    if (rc)
        return rc;
    p.scale = fmax((double)r->w / im.width, (double)r->h / im.height) *
              between(seed, 1, 1.6);
    p.a[0] = p.a[3] = p.scale;
    p.tx = r->x + draw_begin(im.width * p.scale, r->w, -1, seed);
    p.ty = r->y + draw_begin(im.height * p.scale, r->h, -1, seed);
    rc = draw(&im, &p, r, v->config.side, image, e);
    mdl_image_fini(&im);
    return rc;
}

/* ---- faces ---- */

static struct mdl_face moved(const struct mdl_face *f, const struct placing *p)
{
    static const int mirror[5] = {1, 0, 2, 4, 3};
    struct mdl_face to = {.w = f->w * (float)p->scale,
                          .h = f->h * (float)p->scale,
                          .score = f->score};
    float centre[2];

    /* A turn of a few degrees leaves the box's size. */
    move(p, f->x + f->w / 2, f->y + f->h / 2, centre);
    to.x = centre[0] - to.w / 2;
    to.y = centre[1] - to.h / 2;
    for (int i = 0; i < 5; i++)
        move(p, f->landmark[i][0], f->landmark[i][1],
             to.landmark[p->mirrored ? mirror[i] : i]);
    return to;
}

static void add_face(const struct mdl_view_config *c, const struct mdl_face *f,
                     const struct rect *r, struct mdl_view *out)
{
    float x0 = fmaxf(f->x, (float)r->x), y0 = fmaxf(f->y, (float)r->y);
    float x1 = fminf(f->x + f->w, (float)(r->x + r->w));
    float y1 = fminf(f->y + f->h, (float)(r->y + r->h));
    struct mdl_view_face *to = &out->faces[out->n];
    float seen;

    if (x1 - x0 < 2 || y1 - y0 < 2 || out->n == MDL_VIEW_FACES)
        return;
    seen = (x1 - x0) * (y1 - y0) / (f->w * f->h);
    if (seen < 0.15f)
        return;
    *to = (struct mdl_view_face){.face = *f, .marked = true};
    to->face.x = x0;
    to->face.y = y0;
    to->face.w = x1 - x0;
    to->face.h = y1 - y0;
    to->ignored = seen < 0.5f || fmaxf(to->face.w, to->face.h) < c->max_ignored;
    for (int i = 0; i < 5; i++)
        to->marked &= f->landmark[i][0] > (float)r->x &&
                      f->landmark[i][1] > (float)r->y &&
                      f->landmark[i][0] < (float)(r->x + r->w) &&
                      f->landmark[i][1] < (float)(r->y + r->h);
    out->n++;
}

/* One picture into one rectangle. */
static enum ut_err lay(const struct mdl_views *v, int i, const struct rect *r,
                       uint64_t *seed, uint8_t *image, struct mdl_view *out,
                       struct ut_error *e)
{
    const struct mdl_view_config *c = &v->config;
    const struct mdl_frame *frame = &v->frames->frames[i];
    const struct mdl_face *faces = v->frames->faces + frame->first;
    struct mdl_image im;
    struct placing p;
    enum ut_err rc = mdl_image_open(frame->path, 0, &im, e);

    if (rc)
        return rc;
    p = draw_placing(c, faces, frame->n, &im, r, seed);
    fill(r, c->side, seed, image);
    if (!covers(&p, &im, r) && mdl_uniform(seed) < c->ground)
        rc = lay_ground(v, r, seed, image, e);
    if (!rc)
        rc = draw(&im, &p, r, c->side, image, e);
    mdl_image_fini(&im);
    for (int k = 0; k < frame->n; k++) {
        struct mdl_face f = moved(&faces[k], &p);

        add_face(c, &f, r, out);
    }
    return rc;
}

static enum ut_err make(const void *arg, int i, uint64_t *seed,
                        uint8_t *scratch, uint8_t *image, void *note,
                        struct ut_error *e)
{
    const struct mdl_views *v = arg;
    struct mdl_view *out = note;
    int side = v->config.side, x = side, y = side;
    enum ut_err rc = UT_OK;

    (void)scratch;
    out->n = 0;
    if (mdl_uniform(seed) < v->config.mosaic) {
        x = (int)(side * between(seed, 0.3, 0.7));
        y = (int)(side * between(seed, 0.3, 0.7));
    }
    for (int k = 0; k < 4 && !rc; k++) {
        struct rect r = {k % 2 ? x : 0, k / 2 ? y : 0, k % 2 ? side - x : x,
                         k / 2 ? side - y : y};

        if (r.w && r.h)
            rc = lay(v, i, &r, seed, image, out, e);
        i = (int)(mdl_uniform(seed) * v->frames->n);
    }
    if (!rc)
        mdl_augment_look(&v->config.look, side, seed, image);
    return rc;
}

struct mdl_source mdl_views_source(const struct mdl_views *v)
{
    return (struct mdl_source){
        .arg = v,
        .n = v->frames->n,
        .note = sizeof(struct mdl_view),
        .make = make,
    };
}
