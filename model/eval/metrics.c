/* Figures from scores. */
#include "model/eval/metrics.h"

#include <math.h>
#include <stdlib.h>

#define MAX_FOLDS 64

struct mdl_confusion mdl_confusion_at(const struct mdl_scored *s, int n,
                                      double threshold)
{
    struct mdl_confusion c = {0};

    for (int i = 0; i < n; i++) {
        bool said = s[i].score >= threshold;

        c.true_positive += said && s[i].positive;
        c.false_positive += said && !s[i].positive;
        c.false_negative += !said && s[i].positive;
        c.true_negative += !said && !s[i].positive;
    }
    return c;
}

double mdl_accuracy(const struct mdl_confusion *c)
{
    int n = c->true_positive + c->false_positive + c->true_negative +
            c->false_negative;

    return n ? (double)(c->true_positive + c->true_negative) / n : 0;
}

static int by_score(const void *a, const void *b)
{
    float x = ((const struct mdl_scored *)a)->score;
    float y = ((const struct mdl_scored *)b)->score;

    return (x < y) - (x > y);
}

void mdl_scored_sort(struct mdl_scored *s, int n)
{
    qsort(s, (size_t)n, sizeof(*s), by_score);
}

/* Calls for every threshold that the scores tell apart, from the highest: the
 * counts of what is at or over it. */
struct sweep {
    const struct mdl_scored *s;
    int n, at, positives, negatives; /* so far */
    int all_positives, all_negatives;
};

static struct sweep start(const struct mdl_scored *s, int n)
{
    struct sweep w = {.s = s, .n = n};

    for (int i = 0; i < n; i++) {
        w.all_positives += s[i].positive;
        w.all_negatives += !s[i].positive;
    }
    return w;
}

/* A score that is no number equals none: it is a threshold of its own. */
static bool next(struct sweep *w)
{
    float score;

    if (w->at == w->n)
        return false;
    score = w->s[w->at].score;
    do {
        w->positives += w->s[w->at].positive;
        w->negatives += !w->s[w->at].positive;
        w->at++;
    } while (w->at < w->n && w->s[w->at].score == score);
    return true;
}

double mdl_auc(const struct mdl_scored *s, int n)
{
    struct sweep w = start(s, n);
    int positives = 0, negatives = 0;
    double area = 0;

    if (!w.all_positives || !w.all_negatives)
        return 0.5;
    while (next(&w)) {
        area += (w.negatives - negatives) * (w.positives + positives) / 2.0;
        positives = w.positives;
        negatives = w.negatives;
    }
    return area / w.all_positives / w.all_negatives;
}

double mdl_eer(const struct mdl_scored *s, int n)
{
    struct sweep w = start(s, n);
    double best = 1, rate = 0.5;

    if (!w.all_positives || !w.all_negatives)
        return 0.5;
    do {
        double far = (double)w.negatives / w.all_negatives;
        double frr = 1 - (double)w.positives / w.all_positives;

        if (fabs(far - frr) < best) {
            best = fabs(far - frr);
            rate = (far + frr) / 2;
        }
    } while (next(&w));
    return rate;
}

double mdl_tar_at(const struct mdl_scored *s, int n, double far,
                  double *threshold)
{
    struct sweep w = start(s, n);
    double tar = 0, at = INFINITY;

    while (next(&w) && w.negatives <= far * w.all_negatives) {
        tar = w.all_positives ? (double)w.positives / w.all_positives : 0;
        at = s[w.at - 1].score;
    }
    if (threshold)
        *threshold = at;
    return tar;
}

/* Whether a curve's next point can be told from the last: 500 steps on each
 * linear axis, 100 a decade on a logarithmic one. 2 * 500 + 8 * 100 decades of
 * pairs stay below MDL_ROC_POINTS. */
static bool is_apart(const struct mdl_roc_point *a, double far, double tar)
{
    return tar - a->tar >= 1 / 500.0 || far - a->far >= 1 / 500.0 ||
           (far > 0 && a->far > 0 && log10(far / a->far) >= 0.01) ||
           (far > 0 && a->far <= 0);
}

int mdl_roc_of(const struct mdl_scored *s, int n,
               struct mdl_roc_point out[MDL_ROC_POINTS])
{
    struct sweep w = start(s, n);
    int points = 0;

    if (!w.all_positives || !w.all_negatives)
        return 0;
    out[points++] = (struct mdl_roc_point){0, 0, INFINITY};
    while (next(&w)) {
        double far = (double)w.negatives / w.all_negatives;
        double tar = (double)w.positives / w.all_positives;

        if ((w.at == n || is_apart(&out[points - 1], far, tar)) &&
            points < MDL_ROC_POINTS)
            out[points++] = (struct mdl_roc_point){far, tar, s[w.at - 1].score};
    }
    return points;
}

void mdl_interval(int of, int n, double *low, double *high)
{
    const double z = 1.959964;
    double p = n ? (double)of / n : 0, m = n ? n : 1, middle, half;

    middle = (p + z * z / (2 * m)) / (1 + z * z / m);
    half = z / (1 + z * z / m) * sqrt(p * (1 - p) / m + z * z / (4 * m * m));
    *low = n ? fmax(0, middle - half) : 0;
    *high = n ? fmin(1, middle + half) : 1;
}

/* The threshold with the highest accuracy outside one fold: half-way between
 * two scores of the others. */
static double best_without(const struct mdl_scored *s, int n, int fold)
{
    int right = 0, best = -1;
    double threshold = 0, above = n ? s[0].score + 1e-6 : 0;

    for (int i = 0; i < n; i++)
        right += s[i].fold != fold && !s[i].positive;
    /* right: with everything before i over the threshold */
    for (int i = 0; i <= n; i++) {
        bool end = i == n;

        if (!end && s[i].fold == fold)
            continue;
        if (right > best && (end || s[i].score < above)) {
            best = right;
            threshold = end ? above - 1e-6 : (above + s[i].score) / 2;
        }
        if (!end) {
            right += s[i].positive ? 1 : -1;
            above = s[i].score;
        }
    }
    return threshold;
}

enum ut_err mdl_folds_of(const struct mdl_scored *s, int n,
                         struct mdl_folds *out, struct ut_error *e)
{
    double accuracy[MAX_FOLDS], squares = 0;
    int last = -1;

    *out = (struct mdl_folds){0};
    for (int i = 0; i < n; i++)
        last = s[i].fold > last ? s[i].fold : last;
    if (last >= MAX_FOLDS)
        return ut_fail(e, UT_EINVAL, "fold %d is over %d, the last", last,
                       MAX_FOLDS - 1);
    for (int f = 0; f <= last; f++) {
        double threshold = best_without(s, n, f);
        int right = 0, count = 0;

        for (int i = 0; i < n; i++)
            if (s[i].fold == f) {
                count++;
                right += (s[i].score >= threshold) == s[i].positive;
            }
        if (!count) /* they may be numbered from 1 */
            continue;
        accuracy[out->n] = (double)right / count;
        out->mean += accuracy[out->n++];
        out->threshold += threshold;
    }
    if (out->n < 2)
        return ut_fail(e, UT_EINVAL, "%d folds with pairs are not from 2 to %d",
                       out->n, MAX_FOLDS);
    out->mean /= out->n;
    out->threshold /= out->n;
    for (int i = 0; i < out->n; i++)
        squares += (accuracy[i] - out->mean) * (accuracy[i] - out->mean);
    out->deviation = sqrt(squares / (out->n - 1));
    return UT_OK;
}
