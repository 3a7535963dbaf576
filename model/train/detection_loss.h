#ifndef MODEL_TRAIN_DETECTION_LOSS_H
#define MODEL_TRAIN_DETECTION_LOSS_H

#include "model/data/frames.h"

/* A detector's loss over a batch of views (Deng et al., RetinaFace, 2020; Liu
 * et al., SSD, 2016): anchors are matched to faces, then
 *
 *   class      cross-entropy of the matched and, of the others, of the worst
 *              `negatives` for each matched one of the batch
 *   box        smooth L1 of the deltas of the matched
 *   landmarks  smooth L1 of the deltas of the matched whose face shows them
 *
 * each summed and divided by how many anchors are matched. */

#define MDL_DETECTION_MAPS 3

struct mdl_detection_loss {
    int side; /* of the views */
    const struct mdl_prior *priors;
    int n_priors;
    float match;          /* IoU from which an anchor is a face's: 0.35 */
    float negatives;      /* 7 */
    float box, landmarks; /* weights beside the class's 1: 2, 1 */
};

/* The parts, unweighted. */
struct mdl_detection_parts {
    double class, box, landmarks;
    int matched;
};

/* What is one anchor's of a view: a face's number, or */
#define MDL_ANCHOR_NEGATIVE (-1)
#define MDL_ANCHOR_IGNORED (-2)

/* match [n_priors]. Every face that counts has at least one anchor, its best.
 * Thread: any. */
void mdl_detection_match(const struct mdl_detection_loss *c,
                         const struct mdl_view *view, int *match);

/* out: for map i at 3 i class logits [n, 2*2, h, w], box deltas [n, 2*4, ..],
 * landmark deltas [n, 2*10, ..]; seed: the loss's gradient by them, set.
 * Errors: UT_ENOMEM. Thread: any. */
UT_MUSTUSE enum ut_err
mdl_loss_detection(const struct mdl_detection_loss *c, float *const out[9],
                   const struct mdl_view *views, int n, double *loss,
                   struct mdl_detection_parts *parts, float *const seed[9],
                   struct ut_error *e);

#endif
