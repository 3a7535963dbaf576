#ifndef MODEL_BACKENDS_CUDA_LEARNER_H
#define MODEL_BACKENDS_CUDA_LEARNER_H

#include "model/backends/cuda/learner_kernels.h"
#include "model/backends/cuda/meeting.h"
#include "model/backends/cuda/plan.h"
#include "model/learner.h"

/* What the files of a learner share: learner.c makes it and reads it,
 * learner_plans.c is between it and plans, learner_update.c moves the weights,
 * losses.c computes the losses that have weights of their own. Inside this
 * folder only. */

/* All tensors lie one after another in each array, float32, row-major as on
 * the host; each begins at a multiple of 64 numbers. */
struct learner_device {
    struct learner *of;
    struct learner_device *next; /* of the ctx's */
    struct ctx *ctx;
    struct lane *lane;
    unsigned epoch; /* of the device, when they were made */
    /* owned; on the device; second is NULL until an optimiser needs it */
    float *x, *gradient, *first, *second;
    /* owned; [n]: a plan left a gradient, or moved it, since the last update */
    bool *has;
};

struct losses;

struct learner {
    struct mdl_tensor *tensors; /* owned; the host's numbers are not */
    size_t *at;                 /* owned; where each begins */
    size_t size;                /* numbers of an array */
    int *by_x;                  /* owned; the tensors in the order of their x */
    int n, devices;
    /* owned; of the first device: the squares of each chunk and of each tensor,
     * and these on the host, pinned */
    double *parts, *squares, *host;
    /* with several devices */
    struct gpu_meeting *meeting; /* owned */
    struct gpu_sum *sums;        /* owned; [n]: of one meeting */
    float *gradients[MDL_LEARNER_DEVICES], *masters[MDL_LEARNER_DEVICES];
    struct learner_device device[MDL_LEARNER_DEVICES];
    struct losses *losses; /* owned; losses.c's, on the first device; NULL:
                              none was asked for */
};

static inline void *learner_stream(const struct learner_device *d)
{
    return gpu_native(d->lane->stream);
}

static inline uint32_t learner_chunks(const struct learner *l, int tensor)
{
    return (uint32_t)GPU_CHUNKS(l->tensors[tensor].n);
}

/* What n numbers take of an array. */
static inline size_t learner_aligned(size_t n)
{
    return (n + 63) / 64 * 64;
}

typedef enum ut_err learner_work(struct learner *l, struct learner_device *d,
                                 void *arg, struct ut_error *e);

/* learner.c. UT_EDEVICE: what it had there went with the device's context. */
enum ut_err cuda_learner_gone(const struct learner_device *d,
                              struct ut_error *e);
/* Does it entered, with the learner on the device. */
enum ut_err cuda_learner_with(struct learner *l, int device,
                              learner_work *do_it, void *arg,
                              struct ut_error *e);
/* Zeros for all tensors; *out is the caller's, by gpu_free. Entered. */
enum ut_err cuda_learner_array(const struct learner *l,
                               struct learner_device *d, float **out,
                               struct ut_error *e);

/* learner_plans.c, as in struct mdl_learner_ops. */
enum ut_err cuda_learner_gather(void *learner, int device, void *plan,
                                const struct mdl_gather *list, int n,
                                struct ut_error *e);
enum ut_err cuda_learner_run(void *learner, int device, void *plan,
                             const struct mdl_running *list, int n,
                             struct ut_error *e);

/* learner_update.c, as in struct mdl_learner_ops. */
enum ut_err cuda_learner_meet(void *learner, const bool *gathered,
                              double *squares, struct ut_error *e);
enum ut_err cuda_learner_update(void *learner, const struct mdl_optimizer *o,
                                const struct mdl_move *moves, float factor,
                                struct ut_error *e);

/* losses.c, as in struct mdl_learner_ops. The gradient of the tensor is made
 * or added to on the first device; on the others learner_update.c makes it
 * zero. */
enum ut_err cuda_loss_arcface(void *learner, const struct mdl_arcface *a,
                              const struct mdl_own *own, const float *embedding,
                              const int32_t *label, int n, double *loss,
                              float *dembedding, struct ut_error *e);
enum ut_err cuda_loss_distill(void *learner, const struct mdl_distill *d,
                              const struct mdl_own *own, const float *embedding,
                              const float *teacher, int n, double *loss,
                              float *dembedding, struct ut_error *e);
enum ut_err cuda_loss_hint(void *learner, const struct mdl_hint *k,
                           const struct mdl_own *own, const float *map,
                           const float *teacher, int n, double *loss,
                           float *dmap, struct ut_error *e);
/* lost: what was on the device is gone. Accepts a learner without losses. */
void cuda_losses_free(struct learner *l, bool lost);

#endif
