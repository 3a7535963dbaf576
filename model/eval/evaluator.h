#ifndef MODEL_EVAL_EVALUATOR_H
#define MODEL_EVAL_EVALUATOR_H

#include "model/backend.h"
#include "model/data/dataset.h"
#include "model/model.h"

/* A model over whole datasets, on several lanes at a time. Thread: one. */
struct mdl_evaluator;

#define MDL_EVALUATOR_LANES 64

/* model must outlive it. backend NULL: the best. lanes: at most so many batches
 * at a time, a thread each; 0: one a processor (two on a GPU). */
UT_MUSTUSE enum ut_err mdl_evaluator_new(const struct mdl_model *model,
                                         const char *backend,
                                         enum mdl_precision precision,
                                         int lanes, struct mdl_evaluator **out,
                                         struct ut_error *e);
void mdl_evaluator_free(struct mdl_evaluator *v); /* accepts NULL */

/* An output for every example, in the dataset's order: *values [n, *size], the
 * caller's to free. The same bits on any number of lanes. Errors: UT_EINVAL for
 * an unknown output, UT_EFORMAT for pictures that cannot be read, UT_ESTATE
 * naming output and picture for a number that is not finite. */
UT_MUSTUSE enum ut_err mdl_evaluate(struct mdl_evaluator *v,
                                    const struct mdl_dataset *d,
                                    const char *output, float **values,
                                    int *size, struct ut_error *e);

#endif
