#ifndef MODEL_TRAIN_LOSS_H
#define MODEL_TRAIN_LOSS_H

#include "model/learner.h"

/* Losses over a batch, and their gradients. All are means over the batch.
 * Thread: any. */

/* Binary cross-entropy of logits [n] against target [n], 0 to 1.
 * dlogit [n]. Returns the loss. */
double mdl_loss_bce(const float *logit, const float *target, int n,
                    float *dlogit);

/* ArcFace with k sub-centres (the paper's eq. 6; Deng et al. 2019 and 2020):
 * cosines to the nearest sub-centre of each class, the true one's angle
 * widened by margin, times scale, cross-entropy. Past theta = pi - margin the
 * target is cos(theta) - margin sin(margin).
 *   embedding [n, dim]; weight [classes, k, dim]; label [n], -1: no label
 *   dembedding [n, dim], dweight as weight: set
 * The mean is over the labelled; 0 if there are none. Errors: UT_ENOMEM,
 * UT_EINVAL for a label past the classes. */
UT_MUSTUSE enum ut_err
mdl_loss_arcface(const struct mdl_arcface *a, const float *embedding,
                 const float *weight, const int32_t *label, int n, double *loss,
                 float *dembedding, float *dweight, struct ut_error *e);

/* Distillation from a teacher's unit embeddings:
 *   cosine       mean of 1 - <p / |p|, teacher>, p = projection embedding
 *   similarity   mean over pairs of (cosine here - cosine there)^2
 * The loss is their weighted sum. embedding [n, dim]; teacher [n, teacher_dim];
 * projection [teacher_dim, dim], used while training only.
 * dembedding and dprojection are set. Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_loss_distill(const struct mdl_distill *d,
                                        const float *embedding,
                                        const float *projection,
                                        const float *teacher, int n,
                                        double *loss, float *dembedding,
                                        float *dprojection, struct ut_error *e);

/* A hint (FitNets, Romero et al. 2015): how much of a teacher's inner map is
 * not explained by a linear map of the pupil's at the same place,
 *   weight * mean (projection (x - mean x) - (t - mean t) / deviation t)^2
 * over the batch, places and channels; means and deviations of each channel
 * over batch and places.
 *   map [n, channels, places]; projection [teacher_channels, channels]
 *   teacher [n, teacher_channels, places]
 *   dmap, dprojection: set
 * Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_loss_hint(const struct mdl_hint *h, const float *map,
                                     const float *projection,
                                     const float *teacher, int n, double *loss,
                                     float *dmap, float *dprojection,
                                     struct ut_error *e);

#endif
