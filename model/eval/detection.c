/* Labelled frames through a finder: what is found, what is not there. */
#include "model/eval/detection.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_SCORE 0.02f /* the precision curve's end, or min_score below */

/* A detection, or a found face's landmark error. */
struct shot {
    float score;
    bool hit;
};

struct measure {
    struct mdl_finder *finder;
    int side_px;
    float min_score;
    struct mdl_detection_figures *out;
    struct shot *shots; /* owned */
    int n_shots, cap_shots;
    float *errors; /* owned; [found] */
};

static const char *name_of(const struct mdl_frame *f)
{
    const char *slash = strrchr(f->path, '/');

    return slash ? slash + 1 : f->path;
}

static bool is_chosen(const struct mdl_detection_choice *c,
                      const struct mdl_frame *f)
{
    return !f->n ||
           (f->n >= c->min_faces &&
            (!c->prefix || !strncmp(name_of(f), c->prefix, strlen(c->prefix))));
}

static float landmark_error(const struct mdl_face *found,
                            const struct mdl_face *label)
{
    const float(*l)[2] = label->landmark;
    float eyes = hypotf(l[1][0] - l[0][0], l[1][1] - l[0][1]), sum = 0;

    for (int i = 0; i < 5; i++)
        sum += hypotf(found->landmark[i][0] - l[i][0],
                      found->landmark[i][1] - l[i][1]);
    return sum / 5 / (eyes > 1 ? eyes : 1);
}

static enum ut_err add_shot(struct measure *m, float score, bool hit,
                            struct ut_error *e)
{
    if (m->n_shots == m->cap_shots) {
        int cap = m->cap_shots ? 2 * m->cap_shots : 1024;
        struct shot *more = realloc(m->shots, (size_t)cap * sizeof(*more));

        if (!more)
            return ut_fail(e, UT_ENOMEM, "no memory for detections");
        m->shots = more;
        m->cap_shots = cap;
    }
    m->shots[m->n_shots++] = (struct shot){score, hit};
    return UT_OK;
}

/* The label that is nearest to a detection and not yet found, or -1. */
static int label_of(const struct mdl_face *found, const struct mdl_face *labels,
                    const bool *taken, int n)
{
    float best = MDL_DETECTION_IOU;
    int at = -1;

    for (int i = 0; i < n; i++) {
        float iou = taken[i] ? 0 : mdl_face_iou(found, &labels[i]);

        if (iou >= best) {
            best = iou;
            at = i;
        }
    }
    return at;
}

/* Best first, each detection takes the label it fits best. */
static enum ut_err compare(struct measure *m, const struct mdl_face *found,
                           int n_found, const struct mdl_face *labels, int n,
                           struct ut_error *e)
{
    bool *taken = calloc((size_t)n + 1, sizeof(*taken));
    enum ut_err rc = UT_OK;

    if (!taken)
        return ut_fail(e, UT_ENOMEM, "no memory for labels");
    for (int i = 0; i < n_found && !rc; i++) {
        int at = label_of(&found[i], labels, taken, n);

        rc = add_shot(m, found[i].score, at >= 0, e);
        if (at >= 0)
            taken[at] = true;
        if (found[i].score < m->min_score)
            continue;
        if (at >= 0)
            m->errors[m->out->found++] = landmark_error(&found[i], &labels[at]);
        else
            m->out->false_positive += n > 0;
    }
    free(taken);
    return rc;
}

static enum ut_err one_frame(struct measure *m, const struct mdl_frame *f,
                             const struct mdl_face *labels, struct ut_error *e)
{
    struct mdl_face found[MDL_FACE_MAX];
    struct mdl_image im;
    int n = 0;
    enum ut_err rc = mdl_image_open(f->path, 0, &im, e);

    if (rc)
        return rc;
    rc = mdl_finder_run(m->finder, &im, m->side_px,
                        fminf(LEAST_SCORE, m->min_score), MDL_FACE_MAX, found,
                        &n, e);
    mdl_image_fini(&im);
    if (rc)
        return rc;
    m->out->pictures += f->n > 0;
    m->out->faces += f->n;
    m->out->negatives += f->n == 0;
    m->out->negatives_alarmed +=
        f->n == 0 && n && found[0].score >= m->min_score;
    return compare(m, found, n, labels, f->n, e);
}

static int by_score(const void *a, const void *b)
{
    const struct shot *x = a, *y = b;

    return (y->score > x->score) - (y->score < x->score);
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Area under the precision's upper hull over recall (Everingham et al. 2010,
 * all points). */
static double average_precision(struct measure *m)
{
    double area = 0, best = 0;
    int hits = 0;

    qsort(m->shots, (size_t)m->n_shots, sizeof(*m->shots), by_score);
    for (int i = 0; i < m->n_shots; i++)
        hits += m->shots[i].hit;
    for (int i = m->n_shots - 1; i >= 0; i--) {
        if (!m->shots[i].hit)
            continue;
        best = fmax(best, (double)hits / (i + 1));
        area += best;
        hits--;
    }
    return m->out->faces ? area / m->out->faces : 0;
}

static void sum_up(struct measure *m)
{
    struct mdl_detection_figures *f = m->out;
    double sum = 0;

    f->average_precision = average_precision(m);
    for (int i = 0; i < f->found; i++)
        sum += (double)m->errors[i];
    qsort(m->errors, (size_t)f->found, sizeof(*m->errors), by_size);
    f->landmark_mean = f->found ? sum / f->found : 0;
    f->landmark_median = f->found ? (double)m->errors[f->found / 2] : 0;
}

enum ut_err mdl_detection_measure(struct mdl_finder *f,
                                  const struct mdl_frames *frames,
                                  const struct mdl_detection_choice *choice,
                                  int side_px, float min_score,
                                  struct mdl_detection_figures *out,
                                  struct ut_error *e)
{
    struct measure m = {
        .finder = f, .side_px = side_px, .min_score = min_score, .out = out};
    enum ut_err rc = UT_OK;

    *out = (struct mdl_detection_figures){0};
    m.errors = malloc((size_t)(frames->n_faces + 1) * sizeof(*m.errors));
    if (!m.errors)
        rc = ut_fail(e, UT_ENOMEM, "no memory for landmarks");
    for (int i = 0; i < frames->n && !rc; i++) {
        const struct mdl_frame *frame = &frames->frames[i];

        if (is_chosen(choice, frame))
            rc = one_frame(&m, frame, frames->faces + frame->first, e);
    }
    if (!rc && !out->faces)
        rc = ut_fail(e, UT_EINVAL, "no picture with a face is chosen");
    if (!rc)
        sum_up(&m);
    free(m.shots);
    free(m.errors);
    return rc;
}

void mdl_wilson(int k, int n, double *lo, double *hi)
{
    const double z = 1.959964;
    double p = n ? (double)k / n : 0, zz = n ? z * z / n : 0;
    double middle = (p + zz / 2) / (1 + zz);
    double half = n ? z * sqrt(p * (1 - p) / n + zz / n / 4) / (1 + zz) : 0;

    *lo = n ? fmax(0, middle - half) : 0;
    *hi = n ? fmin(1, middle + half) : 1;
}
