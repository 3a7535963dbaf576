#ifndef MODEL_TRAIN_OPTIMIZER_H
#define MODEL_TRAIN_OPTIMIZER_H

#include "model/learner.h"

/* Optimisers over plain float32 arrays. */

/* Threads worth their meeting for work on n numbers: one for small arrays, of
 * which a network has hundreds. */
int mdl_optimizer_team(size_t n, int threads);

/* "sgd", "adam", "adamw"; -1 for others. */
int mdl_optimizer_parse(const char *text);

/* What is remembered of one parameter; steps are counted for each by itself,
 * since branches take turns. */
struct mdl_moments {
    float *first, *second; /* owned; [n], NULL before the first step */
    int64_t steps;
};

/* Moves x [n] against factor times gradient [n], on so many threads. decay
 * false: no weight decay (biases, BatchNorms). Errors: UT_ENOMEM, nothing
 * moved. */
UT_MUSTUSE enum ut_err mdl_optimizer_step(const struct mdl_optimizer *o,
                                          struct mdl_moments *m, double rate,
                                          bool decay, float factor, int threads,
                                          float *x, const float *gradient,
                                          size_t n, struct ut_error *e);
void mdl_moments_fini(struct mdl_moments *m); /* zeroed memory is fine */

#endif
