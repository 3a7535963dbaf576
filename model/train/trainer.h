#ifndef MODEL_TRAIN_TRAINER_H
#define MODEL_TRAIN_TRAINER_H

#include "model/backend.h"
#include "model/model.h"
#include "model/train/loss.h"
#include "model/train/optimizer.h"

/* Trains one model's leaves: float32 master weights, a step's plan for each
 * leaf, gradients that add up until an update. The paper's two modes are two
 * ways to call it:
 *   alternating updation   batch(fatigue) update  batch(recognition) update
 *   gradient accumulation  batch(fatigue, w) batch(recognition, 1 - w) update
 * A leaf that had no batch since the last update stays as it is, its
 * BatchNorms too. Not shared between threads. */

struct mdl_trainer_config {
    const char *backend; /* NULL: the best */
    enum mdl_precision precision;
    int threads;
    /* Equal parts that a batch is trained in, each on its share of the threads,
     * or on a GPU of its own: their BatchNorms see the part alone, as in
     * distributed training, and threads that are held up don't hold up each
     * other at every operation. 0 and 1: the batch in one. */
    int lanes;
    int batch;
    struct mdl_optimizer optimizer;
    float momentum;   /* of BatchNorms' running statistics: 0.1 */
    float clip;       /* the gradient's norm; 0: none */
    bool frozen_root; /* only branches train */
};

struct mdl_trainer;

/* model must outlive it; its weights are copied, its graph then shows the
 * trainer's. Errors: UT_EINVAL, UT_ENOMEM, those of the backend. */
UT_MUSTUSE enum ut_err mdl_trainer_new(struct mdl_model *model,
                                       const struct mdl_trainer_config *c,
                                       struct mdl_trainer **out,
                                       struct ut_error *e);
/* The model's graph shows nothing afterwards. Accepts NULL. */
void mdl_trainer_free(struct mdl_trainer *t);

/* What an embedding leaf learns from; weights of 0 leave a part out. dim is set
 * and the hint's channels and places are set from the leaf. What only training
 * uses ("LEAF.arcface.weight", "LEAF.projection.weight", "LEAF.hint.weight")
 * comes from the model's file if it is there and fits, else from seed. */
struct mdl_recognition {
    struct mdl_arcface arcface; /* classes 0: none */
    float arcface_weight;
    struct mdl_distill distill; /* teacher_dim 0: none */
    struct mdl_hint hint;       /* module NULL: none */
    uint64_t seed;
};

/* A leaf to train, by name, before the first batch; *task counts from 0. r is
 * for an embedding leaf and NULL for a binary one. rate: of this branch, times
 * the update's. Errors: UT_EINVAL, UT_EBUSY (too many leaves, or too late),
 * UT_ENOMEM, those of the backend. */
UT_MUSTUSE enum ut_err mdl_trainer_leaf(struct mdl_trainer *t, const char *leaf,
                                        const struct mdl_recognition *r,
                                        float rate, int *task,
                                        struct ut_error *e);

/* What a batch says of its images; only what the leaf learns from. */
struct mdl_labels {
    const float *target;  /* [batch], 0 to 1: a binary leaf          */
    const int32_t *label; /* [batch], -1: none: ArcFace              */
    const float *teacher; /* [batch, teacher_dim], unit: distillation */
    const float *hint;    /* [batch, teacher_channels, places]: a hint */
};

/* Forward, loss, backward over images [batch, H, W, 3]; the gradients, times
 * weight, are added up and running statistics move. Errors: UT_EINVAL for a
 * label past the classes, UT_ESTATE where the loss is not finite, UT_ENOMEM,
 * those of the backend; the first batch also finds room for weights on their
 * devices. */
UT_MUSTUSE enum ut_err mdl_trainer_batch(struct mdl_trainer *t, int task,
                                         const uint8_t *images,
                                         const struct mdl_labels *labels,
                                         float weight, double *loss,
                                         struct ut_error *e);

/* One optimiser step over what gathered gradients; *norm (may be NULL) is their
 * norm before clipping. Errors: UT_ESTATE naming a tensor that is not finite;
 * then nothing has moved. */
UT_MUSTUSE enum ut_err mdl_trainer_update(struct mdl_trainer *t, double rate,
                                          double *norm, struct ut_error *e);

/* Until all of that is done, wherever the weights learn: to measure it. Errors:
 * UT_EDEVICE. */
UT_MUSTUSE enum ut_err mdl_trainer_wait(struct mdl_trainer *t,
                                        struct ut_error *e);

/* Writes the model with its weights as they are now, training's own tensors
 * included; state: also what the optimiser remembers. Pairs as in
 * mdl_model_write. By a temporary file and a rename. */
UT_MUSTUSE enum ut_err mdl_trainer_write(struct mdl_trainer *t,
                                         const char *path,
                                         const struct mdl_st_pair *meta,
                                         size_t n_meta, bool state,
                                         struct ut_error *e);

/* Takes what the optimiser remembered from the model's own file, which
 * mdl_trainer_write made with its state. After the last leaf, before the first
 * batch. Errors: UT_EFORMAT, UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_trainer_restore(struct mdl_trainer *t,
                                           struct ut_error *e);

/* Each step of a leaf's last batch, as mdl_plan_profile. */
void mdl_trainer_profile(struct mdl_trainer *t, int task,
                         void (*line)(void *arg, const char *name,
                                      const char *detail, double us,
                                      double macs),
                         void *arg);

/* The model's graph, and mdl_trainer_centres, show the weights as they are now,
 * wherever they learn. Errors: UT_EDEVICE. */
UT_MUSTUSE enum ut_err mdl_trainer_read(struct mdl_trainer *t,
                                        struct ut_error *e);

/* The gradient gathered for a parameter or for a leaf's own weights, or NULL:
 * for tests. */
const float *mdl_trainer_gradient(const struct mdl_trainer *t,
                                  const char *name);

/* A leaf's sub-centres [classes, k, dim]. */
const float *mdl_trainer_centres(const struct mdl_trainer *t, int task);

#endif
