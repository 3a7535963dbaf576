#ifndef MODEL_TRAIN_SCHEDULE_H
#define MODEL_TRAIN_SCHEDULE_H

#include "base/error.h"

/* What trainings share: the rate of a step, and whether a checkpoint is of the
 * same training. Thread: any. */

/* Linear warm-up, then a cosine to 0 (Loshchilov & Hutter 2017). */
double mdl_rate_at(double peak, long step, long steps, long warm_up);

/* The same warm-up, then the peak until a straight line to 0 over the last
 * decay_steps. */
double mdl_stable_rate_at(double peak, long step, long steps, long warm_up,
                          long decay_steps);

/* Settings are texts of parts between ';'. Errors: UT_EINVAL naming the file
 * and the first part that differs. */
UT_MUSTUSE enum ut_err mdl_settings_agree(const char *path, const char *were,
                                          const char *are, struct ut_error *e);

#endif
