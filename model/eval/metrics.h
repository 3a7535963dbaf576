#ifndef MODEL_EVAL_METRICS_H
#define MODEL_EVAL_METRICS_H

#include <stdbool.h>

#include "base/error.h"

/* The field's figures from scores. Thread: any. */

/* A score and the truth. */
struct mdl_scored {
    float score;
    bool positive;
    int fold; /* of a 10-fold protocol; else 0 */
};

/* Scores at or over threshold count as positive. */
struct mdl_confusion {
    int true_positive, false_positive, true_negative, false_negative;
};
struct mdl_confusion mdl_confusion_at(const struct mdl_scored *s, int n,
                                      double threshold);
double mdl_accuracy(const struct mdl_confusion *c);

/* Sorts s, highest score first. The functions below want that. */
void mdl_scored_sort(struct mdl_scored *s, int n);

/* Area under the ROC: the chance that a positive scores over a negative, ties
 * half. 0.5 if either is missing. */
double mdl_auc(const struct mdl_scored *s, int n);
/* Where false positive and false negative rate meet. */
double mdl_eer(const struct mdl_scored *s, int n);
/* True positive rate at the loosest threshold with a false positive rate of at
 * most far; *threshold is that (may be NULL). */
double mdl_tar_at(const struct mdl_scored *s, int n, double far,
                  double *threshold);

/* A curve from (0, 0) to (1, 1), thinned to what can be seen on linear and
 * logarithmic axes. Returns how many points, at most MDL_ROC_POINTS; 0 if
 * positives or negatives are missing. */
#define MDL_ROC_POINTS 2048

struct mdl_roc_point {
    double far, tar;  /* rates of false and of true positives */
    double threshold; /* INFINITY at (0, 0) */
};
int mdl_roc_of(const struct mdl_scored *s, int n,
               struct mdl_roc_point out[MDL_ROC_POINTS]);

/* Wilson's 95 % interval of a share of `of` out of n independent ones. */
void mdl_interval(int of, int n, double *low, double *high);

/* LFW's protocol: for each fold the threshold that is best on the others, and
 * its accuracy here. Mean and standard deviation over the folds that have
 * pairs, however they are numbered below 64, and the mean threshold. Errors:
 * UT_EINVAL unless there are two such. */
struct mdl_folds {
    double mean, deviation, threshold;
    int n;
};
UT_MUSTUSE enum ut_err mdl_folds_of(const struct mdl_scored *s, int n,
                                    struct mdl_folds *out, struct ut_error *e);

#endif
