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

static bool next(struct sweep *w)
{
    float score;

    if (w->at == w->n)
        return false;
    for (score = w->s[w->at].score; w->at < w->n && w->s[w->at].score == score;
         w->at++) {
        w->positives += w->s[w->at].positive;
        w->negatives += !w->s[w->at].positive;
    }
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
    int folds = 0;

    *out = (struct mdl_folds){0};
    for (int i = 0; i < n; i++)
        folds = s[i].fold >= folds ? s[i].fold + 1 : folds;
    if (folds < 2 || folds > MAX_FOLDS)
        return ut_fail(e, UT_EINVAL, "%d folds are not from 2 to %d", folds,
                       MAX_FOLDS);
    for (int f = 0; f < folds; f++) {
        double threshold = best_without(s, n, f);
        int right = 0, count = 0;

        for (int i = 0; i < n; i++)
            if (s[i].fold == f) {
                count++;
                right += (s[i].score >= threshold) == s[i].positive;
            }
        accuracy[f] = count ? (double)right / count : 0;
        out->mean += accuracy[f] / folds;
        out->threshold += threshold / folds;
    }
    for (int f = 0; f < folds; f++)
        squares += (accuracy[f] - out->mean) * (accuracy[f] - out->mean);
    out->deviation = sqrt(squares / (folds - 1));
    out->n = folds;
    return UT_OK;
}
