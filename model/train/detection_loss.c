/* Anchors matched to faces, hard negatives mined, three losses. */
#include "model/train/detection_loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct mdl_face square(const struct mdl_prior *p)
{
    return (struct mdl_face){.x = p->x - p->side / 2,
                             .y = p->y - p->side / 2,
                             .w = p->side,
                             .h = p->side};
}

/* An anchor of a size like the face's that mostly lies in it, or it in the
 * anchor. */
static bool is_about(const struct mdl_face *anchor, const struct mdl_face *f)
{
    float w =
        fminf(anchor->x + anchor->w, f->x + f->w) - fmaxf(anchor->x, f->x);
    float h =
        fminf(anchor->y + anchor->h, f->y + f->h) - fmaxf(anchor->y, f->y);
    float less = fminf(anchor->w * anchor->h, f->w * f->h);

    return w > 0 && h > 0 && w * h > 0.5f * less &&
           anchor->w < 4 * fmaxf(f->w, f->h);
}

void mdl_detection_match(const struct mdl_detection_loss *c,
                         const struct mdl_view *view, int *match)
{
    float best_of_face[MDL_VIEW_FACES] = {0};
    int anchor_of_face[MDL_VIEW_FACES];

    for (int i = 0; i < view->n; i++)
        anchor_of_face[i] = -1;
    for (int a = 0; a < c->n_priors; a++) {
        struct mdl_face anchor = square(&c->priors[a]);
        float best = c->match;

        match[a] = MDL_ANCHOR_NEGATIVE;
        for (int i = 0; i < view->n; i++) {
            const struct mdl_view_face *f = &view->faces[i];
            float iou;

            if (f->ignored) {
                if (match[a] == MDL_ANCHOR_NEGATIVE &&
                    is_about(&anchor, &f->face))
                    match[a] = MDL_ANCHOR_IGNORED;
                continue;
            }
            iou = mdl_face_iou(&anchor, &f->face);
            if (iou >= best) {
                best = iou;
                match[a] = i;
            }
            if (iou > best_of_face[i]) {
                best_of_face[i] = iou;
                anchor_of_face[i] = a;
            }
        }
    }
    for (int i = 0; i < view->n; i++)
        if (anchor_of_face[i] >= 0)
            match[anchor_of_face[i]] = i;
}

/* An anchor's place in the outputs. */
struct place {
    int map;
    size_t plane;                /* of the map */
    size_t class, box, landmark; /* of the first channel, in its output */
};

static struct place place_of(const struct mdl_detection_loss *c, int image,
                             int a)
{
    struct place p = {.map = 0};
    size_t at = (size_t)a, anchor, cell, n = (size_t)image;

    for (;; p.map++) {
        size_t side = (size_t)(c->side / (8 << p.map));

        p.plane = side * side;
        if (at < 2 * p.plane)
            break;
        at -= 2 * p.plane;
    }
    anchor = at / p.plane;
    cell = at % p.plane;
    p.class = (n * 4 + 2 * anchor) * p.plane + cell;
    p.box = (n * 8 + 4 * anchor) * p.plane + cell;
    p.landmark = (n * 20 + 10 * anchor) * p.plane + cell;
    return p;
}

/* log(1 + exp(x)) */
static double softplus(double x)
{
    return x > 30 ? x : log1p(exp(x));
}

/* Cross-entropy of one anchor; logits and gradients lie a plane apart. */
static double class_loss(const float *z, size_t plane, bool face, float weight,
                         float *dz)
{
    double margin = (double)z[plane] - (double)z[0];
    double p = 1 / (1 + exp(-margin)), d = weight * (p - face);

    dz[plane] = (float)d;
    dz[0] = (float)-d;
    return softplus(face ? -margin : margin);
}

static double smooth_l1(const float *got, const float *want, int n,
                        size_t plane, float weight, float *d)
{
    double sum = 0;

    for (int i = 0; i < n; i++) {
        double off = (double)got[(size_t)i * plane] - (double)want[i];

        sum += fabs(off) < 1 ? 0.5 * off * off : fabs(off) - 0.5;
        d[(size_t)i * plane] = weight * (float)fmin(fmax(off, -1), 1);
    }
    return sum;
}

/* The kth largest (from 0) of x [n], which is reordered (Hoare's find). */
static float kth_largest(float *x, size_t n, size_t k)
{
    ptrdiff_t lo = 0, hi = (ptrdiff_t)n - 1, at = (ptrdiff_t)k;

    while (lo < hi) {
        ptrdiff_t i = lo, j = hi;
        float pivot = x[lo + (hi - lo) / 2];

        while (i <= j) {
            float swap;

            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i > j)
                break;
            swap = x[i];
            x[i++] = x[j];
            x[j--] = swap;
        }
        if (at <= j)
            hi = j;
        else if (at >= i)
            lo = i;
        else
            break;
    }
    return x[k];
}

/* A batch at work. */
struct work {
    const struct mdl_detection_loss *c;
    float *const *out;
    float *const *seed;
    const struct mdl_view *views;
    int n;
    int *match;   /* owned; [n, n_priors] */
    float *worst; /* owned; the negatives' margins */
    size_t n_negative;
    int matched, marked;
};

static float margin(const struct work *w, const struct place *p)
{
    const float *z = w->out[3 * p->map] + p->class;

    return z[p->plane] - z[0];
}

static void match_all(struct work *w)
{
    int priors = w->c->n_priors;

    for (int i = 0; i < w->n; i++) {
        int *match = w->match + (size_t)i * (size_t)priors;

        mdl_detection_match(w->c, &w->views[i], match);
        for (int a = 0; a < priors; a++) {
            struct place p;

            if (match[a] >= 0) {
                w->matched++;
                w->marked += w->views[i].faces[match[a]].marked;
            }
            if (match[a] != MDL_ANCHOR_NEGATIVE)
                continue;
            p = place_of(w->c, i, a);
            w->worst[w->n_negative++] = margin(w, &p);
        }
    }
}

/* The margin from which a negative is among the worst. */
static float hard_from(struct work *w)
{
    int matched = w->matched > w->n ? w->matched : w->n;
    size_t k = (size_t)(w->c->negatives * (float)matched);

    return k && k < w->n_negative ? kth_largest(w->worst, w->n_negative, k - 1)
                                  : -INFINITY;
}

static void add_anchor(const struct work *w, int image, int a, float hard,
                       struct mdl_detection_parts *parts)
{
    int match = w->match[(size_t)image * (size_t)w->c->n_priors + (size_t)a];
    float each = 1 / (float)(w->matched ? w->matched : 1);
    struct place p = place_of(w->c, image, a);
    const struct mdl_view_face *f;
    float box[4], marks[10];
    int m = 3 * p.map;

    if (match == MDL_ANCHOR_IGNORED ||
        (match == MDL_ANCHOR_NEGATIVE && !(margin(w, &p) >= hard)))
        return;
    parts->class += class_loss(w->out[m] + p.class, p.plane, match >= 0, each,
                               w->seed[m] + p.class);
    if (match < 0)
        return;
    f = &w->views[image].faces[match];
    mdl_detector_encode(&f->face, &w->c->priors[a], box, marks);
    parts->box += smooth_l1(w->out[m + 1] + p.box, box, 4, p.plane,
                            w->c->box * each, w->seed[m + 1] + p.box);
    if (f->marked)
        parts->landmarks += smooth_l1(
            w->out[m + 2] + p.landmark, marks, 10, p.plane,
            w->c->landmarks / (float)w->marked, w->seed[m + 2] + p.landmark);
}

static void clear(const struct work *w)
{
    static const size_t channels[3] = {4, 8, 20};

    for (int m = 0; m < MDL_DETECTION_MAPS; m++) {
        size_t side = (size_t)(w->c->side / (8 << m));

        for (int k = 0; k < 3; k++)
            memset(w->seed[3 * m + k], 0,
                   (size_t)w->n * channels[k] * side * side * sizeof(float));
    }
}

enum ut_err mdl_loss_detection(const struct mdl_detection_loss *c,
                               float *const out[9],
                               const struct mdl_view *views, int n,
                               double *loss, struct mdl_detection_parts *parts,
                               float *const seed[9], struct ut_error *e)
{
    size_t all = (size_t)n * (size_t)c->n_priors;
    struct work w = {.c = c, .out = out, .seed = seed, .views = views, .n = n};
    enum ut_err rc = UT_OK;
    float hard;

    *parts = (struct mdl_detection_parts){0};
    w.match = malloc(all * sizeof(*w.match));
    w.worst = malloc(all * sizeof(*w.worst));
    if (!w.match || !w.worst) {
        rc = ut_fail(e, UT_ENOMEM, "no memory for a detector's loss");
        goto out;
    }
    clear(&w);
    match_all(&w);
    hard = hard_from(&w);
    for (int i = 0; i < n; i++)
        for (int a = 0; a < c->n_priors; a++)
            add_anchor(&w, i, a, hard, parts);
    parts->matched = w.matched;
    parts->class /= w.matched ? w.matched : 1;
    parts->box /= w.matched ? w.matched : 1;
    parts->landmarks /= w.marked ? w.marked : 1;
    *loss = parts->class + (double)c->box * parts->box +
            (double)c->landmarks * parts->landmarks;
out:
    free(w.match);
    free(w.worst);
    return rc;
}
