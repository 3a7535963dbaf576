#ifndef MODEL_EVAL_DETECTION_H
#define MODEL_EVAL_DETECTION_H

#include "model/data/frames.h"

/* A detector's figures over labelled frames, found as the server finds faces.
 */

#define MDL_DETECTION_IOU 0.5f /* from which a label is found */

struct mdl_detection_figures {
    int pictures, faces;
    int found;                /* faces, at min_score */
    int false_positive;       /* at min_score, in pictures with faces */
    double average_precision; /* at MDL_DETECTION_IOU, over all scores */
    /* Mean and median over found faces of the five landmarks' mean distance
     * from their labels, in distances between the labelled eyes. */
    double landmark_mean, landmark_median;
    int negatives;         /* pictures without a face */
    int negatives_alarmed; /* of those, with a face found at min_score */
};

/* Which pictures count; NULL, 0: all. Negatives always do. */
struct mdl_detection_choice {
    const char *prefix; /* of the file's name */
    int min_faces;
};

/* side_px and min_score, over 0, as of mdl_finder_run. Errors: those of
 * pictures and of finding; UT_EINVAL where no face is chosen; UT_ENOMEM. */
UT_MUSTUSE enum ut_err
mdl_detection_measure(struct mdl_finder *f, const struct mdl_frames *frames,
                      const struct mdl_detection_choice *choice, int side_px,
                      float min_score, struct mdl_detection_figures *out,
                      struct ut_error *e);

/* 95 % confidence interval of k in n (Wilson 1927); [0, 1] for n 0. */
void mdl_wilson(int k, int n, double *lo, double *hi);

#endif
