/* From the network's outputs to faces: priors, decoding, suppression. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/vision/face.h"

#define MAPS 3
#define ANCHORS 2 /* per cell */

/* Per map: pixels per cell, and the anchors' sides. */
static const struct {
    int stride, side[ANCHORS];
} maps[MAPS] = {{8, {16, 32}}, {16, {64, 128}}, {32, {256, 512}}};

/* Deltas are in units of these shares of the anchor. */
#define VARIANCE_PLACE 0.1f
#define VARIANCE_SIZE 0.2f

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
