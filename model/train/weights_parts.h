#ifndef MODEL_TRAIN_WEIGHTS_PARTS_H
#define MODEL_TRAIN_WEIGHTS_PARTS_H

#include "model/train/weights.h"

/* What the files of weights.h share; for weights*.c only. */

/* Adds gradient [w->n] to what w gathered. */
void weights_gather(struct mdl_weight *w, const float *gradient);

/* Weights that are placed on devices: as the functions of weights.h, which
 * calls these where w->learner.ops is not NULL. */

UT_MUSTUSE enum ut_err weights_device_learn(struct mdl_weights *w,
                                            const struct mdl_step *s,
                                            struct mdl_plan *const *plans,
                                            int n, float momentum,
                                            struct ut_error *e);
/* Sets the squares of all that gathered. */
UT_MUSTUSE enum ut_err weights_device_squares(struct mdl_weights *w,
                                              struct ut_error *e);
/* Moves what gathered, and counts its steps. */
UT_MUSTUSE enum ut_err weights_device_move(struct mdl_weights *w,
                                           const struct mdl_optimizer *o,
                                           double rate, float factor,
                                           struct ut_error *e);
void weights_device_fini(struct mdl_weights *w);

/* What makes a variance of n numbers unbiased. */
static inline float weights_unbias(int64_t n)
{
    return n > 1 ? (float)((double)n / (double)(n - 1)) : 1;
}

#endif
