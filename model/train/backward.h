#ifndef MODEL_TRAIN_BACKWARD_H
#define MODEL_TRAIN_BACKWARD_H

#include "model/graph.h"

/* The graph of one training step, derived from the forward graph: BatchNorms
 * normalise by the batch's own statistics, and behind the values that the loss
 * is computed from, the ends, every gradient is computed, from theirs, which
 * the caller gives. */

#define MDL_STEP_ENDS 16

/* Where a parameter's gradient lies: value grad of the step's graph, from
 * element `at` on (gamma and beta share one). */
struct mdl_gradient {
    int param; /* value of the graph it was derived from */
    int grad, at;
};

/* A BatchNorm whose running statistics move: stats [2, C] of this batch. */
struct mdl_statistics {
    int mean, var;  /* buffers of the graph it was derived from */
    int stats;      /* value of the step's graph */
    int64_t places; /* values of a channel in one image */
};

struct mdl_step {
    struct mdl_graph graph;   /* borrows the parameters */
    int ends[MDL_STEP_ENDS];  /* values that the loss is computed from */
    int seeds[MDL_STEP_ENDS]; /* the loss's gradients by them, to be set */
    int n_ends;
    int n_forward;                  /* nodes up to the ends */
    struct mdl_gradient *gradients; /* owned */
    int n_gradients;
    struct mdl_statistics *statistics; /* owned */
    int n_statistics;
};

/* ends: values of g, which is as trained, not optimised; n from 1 to
 * MDL_STEP_ENDS. trains: for each value of g, whether it is a parameter that is
 * trained; what lies above the first of them gets no gradient. Buffers of
 * BatchNorms whose gamma and beta are frozen stay too, and those BatchNorms use
 * them. Errors: UT_EINVAL where nothing that trains leads to one of them,
 * UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_step_build(const struct mdl_graph *g,
                                      const int *ends, int n,
                                      const bool *trains, struct mdl_step *out,
                                      struct ut_error *e);
void mdl_step_fini(struct mdl_step *s); /* zeroed memory is fine */

#endif
