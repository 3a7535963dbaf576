#ifndef MODEL_EVAL_EVALUATE_H
#define MODEL_EVAL_EVALUATE_H

#include "model/eval/evaluator.h"
#include "model/eval/metrics.h"

/* Figures of a model's leaves. Thread: one. */

/* Drowsy or alert, from a binary leaf's probability. */
struct mdl_binary_figures {
    int pictures;
    double threshold, accuracy, precision, recall, auc, eer;
    struct mdl_confusion confusion;
};
/* From probabilities [d->n]; labels over 0 are positive. Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_binary_figures_of(const struct mdl_dataset *d,
                                             const float *probability,
                                             double threshold,
                                             struct mdl_binary_figures *out,
                                             struct ut_error *e);

/* The same of one group's pictures alone. */
UT_MUSTUSE enum ut_err mdl_binary_figures_of_group(
    const struct mdl_dataset *d, const float *probability, int group,
    double threshold, struct mdl_binary_figures *out, struct ut_error *e);

/* Who is it, from labelled pictures of people that were not trained on: every
 * pair of pictures, at most MDL_IDENTITY_PICTURES of them. 1:N enrols the first
 * picture of every other identity; the rest are probes. */
#define MDL_IDENTITY_PICTURES 4000

struct mdl_identity_figures {
    int pictures, identities;
    int64_t genuine, impostor; /* pairs */
    double auc, eer, tar[3];   /* at FAR 1e-2, 1e-3, 1e-4 */
    double rank1;              /* probes whose nearest template is theirs */
    double tpir;               /* rank 1 and over the threshold at which a
                                  hundredth of the strangers pass: FPIR 1e-2 */
    double threshold;          /* whose false match rate is the asked one */
    /* 1:N at that threshold, among so many enrolled: strangers that are taken
     * for somebody, and enrolled people that are named rightly. */
    int enrolled, probes, strangers;
    double fpir_there, tpir_there;
};
UT_MUSTUSE enum ut_err
mdl_evaluate_identities(struct mdl_evaluator *v, const struct mdl_dataset *d,
                        const char *leaf, double false_match_rate,
                        struct mdl_identity_figures *out, struct ut_error *e);

/* The pairs of the same pictures, sorted: *scores [*n], the caller's. */
UT_MUSTUSE enum ut_err mdl_identity_scores(struct mdl_evaluator *v,
                                           const struct mdl_dataset *d,
                                           const char *leaf,
                                           struct mdl_scored **scores, int *n,
                                           struct ut_error *e);

#endif
