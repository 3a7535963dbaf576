#ifndef MODEL_LEARNER_H
#define MODEL_LEARNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Weights that learn where plans run: a device keeps float32 masters, the
 * gradients that gather for each until an update, what the optimiser remembers
 * and running statistics; the host sees them when a checkpoint is written. For
 * implementers; callers use model/train/weights.h.
 *
 * A learner spans n devices (data parallel). Each has all the weights, runs
 * its part of a batch, and moves the weights as the others do. */

#define MDL_LEARNER_DEVICES 64 /* at most */

enum mdl_optimizer_kind {
    MDL_SGD,   /* momentum beta1 */
    MDL_ADAM,  /* Kingma & Ba 2015; weight decay joins the gradient */
    MDL_ADAMW, /* Loshchilov & Hutter 2019; weight decay apart      */
};

struct mdl_optimizer {
    enum mdl_optimizer_kind kind;
    float beta1, beta2, eps, weight_decay;
};

/* ArcFace with k sub-centres; its weight is [classes, k, dim]. */
struct mdl_arcface {
    int classes, k, dim;
    float scale, margin;
};

/* Distillation of embeddings; its weight is the projection [teacher_dim, dim],
 * used while training only. */
struct mdl_distill {
    int dim, teacher_dim;
    float cosine, similarity; /* weights */
};

/* A hint at an inner map; its weight is the projection [teacher_channels,
 * channels]. */
struct mdl_hint {
    const char *module; /* of the pupil, whose result is the map */
    int channels, places, teacher_channels;
    float weight;
};

/* The host's numbers, [n] each. x is what graphs' parameters are bound to: a
 * plan that refreshes takes the device's x in its place. */
struct mdl_tensor {
    float *x, *first, *second; /* NULL moments: zero so far */
    size_t n;
    bool statistics; /* running: it has no gradient, an optimiser leaves it */
};

enum mdl_learned { MDL_X, MDL_GRADIENT, MDL_FIRST, MDL_SECOND };

/* A plan's kept value, from its number `at` on, is the gradient of a tensor, or
 * more of it. */
struct mdl_gather {
    int tensor, value;
    size_t at;
    bool more; /* than what gathered since the last update */
};

/* running += momentum * (batch's - running); a value of BN_STATS is [2, n]:
 * means, and variances that unbias (n / (n - 1)) is to be taken times. */
struct mdl_running {
    int mean, var, value;
    float momentum, unbias;
};

/* What a loss that has a weight of its own adds to its gradient: share times
 * its derivative. */
struct mdl_own {
    int tensor;
    bool more; /* as in struct mdl_gather */
    float share;
};

/* A tensor's part in an update. */
struct mdl_move {
    bool moves; /* false: all of the rest is not looked at */
    bool decays;
    double rate;
    int64_t steps; /* this one included */
};

/* Errors of all: UT_EDEVICE, also once the weights went with a device's
 * context; UT_ENOMEM, where nothing was done. Thread: one at a time. */
struct mdl_learner_ops {
    /* Of a backend and a lane on each device; both outlive it, and so do the
     * addresses of the host's numbers, which it takes over. */
    enum ut_err (*open)(void *const *backends, void *const *lanes, int devices,
                        const struct mdl_tensor *tensors, int n, void **learner,
                        struct ut_error *e);
    void (*close)(void *learner);

    /* After the plan ran on that device: queued. */
    enum ut_err (*gather)(void *learner, int device, void *plan,
                          const struct mdl_gather *list, int n,
                          struct ut_error *e);
    enum ut_err (*run)(void *learner, int device, void *plan,
                       const struct mdl_running *list, int n,
                       struct ut_error *e);

    /* The losses of model/train/loss.h over the whole batch. Inputs and
     * dembedding, dmap (set) are the host's. Errors: also UT_EINVAL, for a
     * label past the classes; nothing was done. */
    enum ut_err (*arcface)(void *learner, const struct mdl_arcface *a,
                           const struct mdl_own *own, const float *embedding,
                           const int32_t *label, int n, double *loss,
                           float *dembedding, struct ut_error *e);
    enum ut_err (*distill)(void *learner, const struct mdl_distill *d,
                           const struct mdl_own *own, const float *embedding,
                           const float *teacher, int n, double *loss,
                           float *dembedding, struct ut_error *e);
    enum ut_err (*hint)(void *learner, const struct mdl_hint *k,
                        const struct mdl_own *own, const float *map,
                        const float *teacher, int n, double *loss, float *dmap,
                        struct ut_error *e);

    /* The devices meet: the gradients of tensors that `gathered` [n] become
     * their sums over the devices, running statistics their means. squares
     * [n]: of those gradients; not finite where one of them is not. */
    enum ut_err (*meet)(void *learner, const bool *gathered, double *squares,
                        struct ut_error *e);
    /* One step of the optimiser against factor times the gradients; moves [n].
     * Queued. */
    enum ut_err (*update)(void *learner, const struct mdl_optimizer *o,
                          const struct mdl_move *moves, float factor,
                          struct ut_error *e);
    /* Until all devices have done what is queued on them. */
    enum ut_err (*wait)(void *learner, struct ut_error *e);
    /* Of the first device, to the host. */
    enum ut_err (*get)(void *learner, int tensor, enum mdl_learned what,
                       float *to, struct ut_error *e);
};

struct mdl_learner {
    const struct mdl_learner_ops *ops; /* NULL: the host's, all is in memory */
    void *ctx;                         /* only ops look inside */
};

struct mdl_lane;
struct mdl_plan;

/* On the lanes' devices, one lane each; out->ops stays NULL where their backend
 * has no such thing. The learner goes by out->ops->close, before the lanes. */
UT_MUSTUSE enum ut_err mdl_learner_open(struct mdl_lane *const *lanes,
                                        int devices,
                                        const struct mdl_tensor *tensors, int n,
                                        struct mdl_learner *out,
                                        struct ut_error *e);
UT_MUSTUSE enum ut_err mdl_learner_gather(const struct mdl_learner *l,
                                          int device, struct mdl_plan *plan,
                                          const struct mdl_gather *list, int n,
                                          struct ut_error *e);
UT_MUSTUSE enum ut_err mdl_learner_run(const struct mdl_learner *l, int device,
                                       struct mdl_plan *plan,
                                       const struct mdl_running *list, int n,
                                       struct ut_error *e);

#endif
