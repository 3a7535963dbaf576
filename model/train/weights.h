#ifndef MODEL_TRAIN_WEIGHTS_H
#define MODEL_TRAIN_WEIGHTS_H

#include "model/backend.h"
#include "model/safetensors.h"
#include "model/train/backward.h"
#include "model/train/optimizer.h"

/* Master weights in float32: copies of a graph's parameters and buffers, and
 * training's own beside them; the gradients that gather for each until an
 * update, and what the optimiser remembers. All of it is here, or on devices
 * that weights are placed on. Not shared between threads. */

/* Something that an optimiser moves, or running statistics. */
struct mdl_weight {
    float *x;        /* owned; [n] */
    float *gradient; /* owned; [n]; NULL: a buffer */
    size_t n;
    bool gathered; /* since the last update */
    bool decays;
    float rate;     /* times the update's */
    double squares; /* of the gradient, within an update */
    struct mdl_moments moments;
    struct mdl_shape shape;
    const char *name; /* outlives it */
    int tensor;       /* of the learner, once placed */
};

struct mdl_weights {
    struct mdl_graph *graph;
    struct mdl_weight *list; /* owned; [graph values]; n 0: none */
    bool *trains;            /* owned; [graph values], true for parameters */
    struct mdl_weight **own; /* owned, they are not */
    int n_own;
    float *scratch; /* owned; a gradient, before it is gathered */
    size_t n_scratch;
    struct mdl_learner learner; /* owned; ops NULL: they learn here */
    struct mdl_placed *placed;  /* owned; weights_device.c's */
};

/* Copies what g's values are bound to and points them at the copies. g
 * outlives it. Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_weights_take(struct mdl_graph *g,
                                        struct mdl_weights *out,
                                        struct ut_error *e);
/* g shows nothing afterwards. Before the lanes. Zeroed memory is fine. */
void mdl_weights_fini(struct mdl_weights *w);

/* Weights of training alone, [shape], zeroed; *out is the caller's, and must
 * stay where it is. Its name is written to files. Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_weights_own(struct mdl_weights *w,
                                       struct mdl_weight *out, const char *name,
                                       struct mdl_shape shape,
                                       struct ut_error *e);
void mdl_weight_fini(struct mdl_weight *w); /* zeroed memory is fine */

/* The next of all of them, from *at = 0 on, or NULL. */
struct mdl_weight *mdl_weights_next(const struct mdl_weights *w, int *at);

/* After the last of them is there and restored, before the first batch: where
 * the lanes' backend can, they learn on the devices of these lanes, in the
 * order of the plans of mdl_weights_learn. The numbers here then stay as they
 * are until mdl_weights_read. Errors: UT_ENOMEM, UT_EDEVICE; then nothing is
 * placed. */
UT_MUSTUSE enum ut_err mdl_weights_place(struct mdl_weights *w,
                                         struct mdl_lane *const *lanes, int n,
                                         struct ut_error *e);
/* Brings x, and with state what the optimiser remembers, back from the
 * devices, if there are any. Errors: UT_EDEVICE, UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_weights_read(struct mdl_weights *w, bool state,
                                        struct ut_error *e);

/* Until the devices, if there are any, have done all that is queued on them.
 * Errors: UT_EDEVICE. */
UT_MUSTUSE enum ut_err mdl_weights_wait(const struct mdl_weights *w,
                                        struct ut_error *e);

/* After plans of s ran, each on its part of a batch: gathers their gradients,
 * and moves running statistics by running += momentum * (batch's - running),
 * the variance unbiased, where the batch's are the mean of the parts'. Errors:
 * the backend's; what gathered is then unknown, and the training over. */
UT_MUSTUSE enum ut_err mdl_weights_learn(struct mdl_weights *w,
                                         const struct mdl_step *s,
                                         struct mdl_plan *const *plans, int n,
                                         float momentum, struct ut_error *e);

/* The losses of loss.h with a weight w of all's own, whose gradient gathers
 * share times its derivative. Errors: theirs, and the backend's; what had
 * gathered is then as it was, unless the device is lost. */
UT_MUSTUSE enum ut_err
mdl_weights_arcface(struct mdl_weights *all, struct mdl_weight *w,
                    const struct mdl_arcface *a, const float *embedding,
                    const int32_t *label, int n, float share, double *loss,
                    float *dembedding, struct ut_error *e);
UT_MUSTUSE enum ut_err
mdl_weights_distill(struct mdl_weights *all, struct mdl_weight *w,
                    const struct mdl_distill *d, const float *embedding,
                    const float *teacher, int n, float share, double *loss,
                    float *dembedding, struct ut_error *e);
UT_MUSTUSE enum ut_err mdl_weights_hint(struct mdl_weights *all,
                                        struct mdl_weight *w,
                                        const struct mdl_hint *h,
                                        const float *map, const float *teacher,
                                        int n, float share, double *loss,
                                        float *dmap, struct ut_error *e);

/* One step of the optimiser over what gathered gradients, which are scaled
 * down to the norm clip (0: never); *norm (may be NULL) is theirs before.
 * Errors: UT_ESTATE naming a tensor that is not finite, UT_ENOMEM, the
 * backend's; then nothing moved, unless a device is lost or memory of the
 * host's ran out. */
UT_MUSTUSE enum ut_err mdl_weights_update(struct mdl_weights *w,
                                          const struct mdl_optimizer *o,
                                          double rate, float clip, int threads,
                                          double *norm, struct ut_error *e);

/* The gradient gathered for x, brought here; NULL: none gathered, or it cannot
 * be had. For tests. */
const float *mdl_weights_gradient(const struct mdl_weights *all,
                                  struct mdl_weight *x);

/* Training's own tensors and, with state, what the optimiser remembers, for a
 * file beside the graph's; all is read from the devices first. Views; list and
 * what it needs are freed by mdl_weights_tensors_fini. Errors: UT_ENOMEM,
 * UT_EDEVICE. */
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

/* Takes what an optimiser of that kind remembered from a file that holds those
 * tensors. Errors: UT_EFORMAT, UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_weights_restore(struct mdl_weights *w,
                                           enum mdl_optimizer_kind kind,
                                           const struct mdl_st *file,
                                           struct ut_error *e);

#endif
