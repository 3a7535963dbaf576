#ifndef MODEL_TRAIN_WEIGHTS_H
#define MODEL_TRAIN_WEIGHTS_H

#include "model/backend.h"
#include "model/safetensors.h"
#include "model/train/backward.h"
#include "model/train/optimizer.h"

/* Master weights in float32: copies of a graph's parameters and buffers, and
 * training's own beside them; the gradients that gather for each until an
 * update, and what the optimiser remembers. Not shared between threads. */

/* Something that an optimiser moves, or running statistics. */
struct mdl_weight {
    float *x;        /* owned; [n] */
    float *gradient; /* owned; [n]; NULL: a buffer */
    size_t n;
    bool gathered; /* since the last update */
    bool decays;
    float rate; /* times the update's */
    struct mdl_moments moments;
    struct mdl_shape shape;
    const char *name; /* outlives it */
};

struct mdl_weights {
    struct mdl_graph *graph;
    struct mdl_weight *list; /* owned; [graph values]; n 0: none */
    bool *trains;            /* owned; [graph values], true for parameters */
    struct mdl_weight **own; /* owned, they are not */
    int n_own;
    float *scratch; /* owned; room for the largest gradient of the graph */
};

/* Copies what g's values are bound to and points them at the copies. g
 * outlives it. Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_weights_take(struct mdl_graph *g,
                                        struct mdl_weights *out,
                                        struct ut_error *e);
/* g shows nothing afterwards. Zeroed memory is fine. */
void mdl_weights_fini(struct mdl_weights *w);

/* Weights of training alone, [shape], zeroed; *out is the caller's, and must
 * stay where it is. Its name is written to files. Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_weights_own(struct mdl_weights *w,
                                       struct mdl_weight *out, const char *name,
                                       struct mdl_shape shape,
                                       struct ut_error *e);
void mdl_weight_fini(struct mdl_weight *w); /* zeroed memory is fine */

/* Adds gradient [w->n] to what w gathered. */
void mdl_weight_gather(struct mdl_weight *w, const float *gradient);

/* After a plan of s ran: gathers its gradients, and moves running statistics
 * by running += momentum * (batch's - running), the variance unbiased. Errors:
 * the backend's. */
UT_MUSTUSE enum ut_err mdl_weights_learn(struct mdl_weights *w,
                                         const struct mdl_step *s,
                                         struct mdl_plan *plan, float momentum,
                                         struct ut_error *e);

/* One step of the optimiser over what gathered gradients, which are scaled
 * down to the norm clip (0: never); *norm (may be NULL) is theirs before.
 * Errors: UT_ESTATE naming a tensor that is not finite; then nothing moved. */
UT_MUSTUSE enum ut_err mdl_weights_update(struct mdl_weights *w,
                                          const struct mdl_optimizer *o,
                                          double rate, float clip, int threads,
                                          double *norm, struct ut_error *e);

/* The gradient gathered for a parameter, or NULL: for tests. */
const float *mdl_weights_gradient(const struct mdl_weights *w,
                                  const char *name);

/* Training's own tensors and, with state, what the optimiser remembers, for a
 * file beside the graph's. Views; list and what it needs are freed by
 * mdl_weights_tensors_fini. Errors: UT_ENOMEM. */
struct mdl_weights_tensors {
    struct mdl_st_tensor *list; /* owned */
    char (*names)[MDL_NAME_LEN + 40];
    int64_t *steps;
    size_t n;
};
UT_MUSTUSE enum ut_err mdl_weights_tensors(struct mdl_weights *w, bool state,
                                           struct mdl_weights_tensors *out,
                                           struct ut_error *e);
void mdl_weights_tensors_fini(struct mdl_weights_tensors *x);

/* Takes what the optimiser remembered from a file that holds those tensors.
 * Errors: UT_EFORMAT, UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_weights_restore(struct mdl_weights *w,
                                           const struct mdl_st *file,
                                           struct ut_error *e);

#endif
