#ifndef MODEL_TRAIN_HELD_OUT_H
#define MODEL_TRAIN_HELD_OUT_H

#include "model/model.h"
#include "model/train/session.h"

/* Figures over the pictures that a training held out, as metadata of the model
 * ("held_out.fatigue": JSON), thresholds with them ("threshold.fatigue"). */
struct mdl_held_out {
    char text[MDL_TASKS][400], threshold[MDL_TASKS][MDL_THRESHOLD_LEN];
    struct mdl_st_pair pairs[2 * MDL_TASKS]; /* into the above; [n] */
    size_t n;
};

/* Measures the model in that file; a task without pictures is left out, one
 * with too few says so and has no threshold, nor has one whose false matches
 * are not rare enough for any. Broken pictures are taken out of held; the
 * figures count them. backend NULL: the best. Errors: those of the model and
 * the backend, UT_ESTATE for answers that are not finite. Thread: any. */
UT_MUSTUSE enum ut_err mdl_held_out_measure(const char *model,
                                            const char *backend, int threads,
                                            struct mdl_dataset held[MDL_TASKS],
                                            struct mdl_held_out *f,
                                            struct ut_error *e);

#endif
