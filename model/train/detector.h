#ifndef MODEL_TRAIN_DETECTOR_H
#define MODEL_TRAIN_DETECTOR_H

#include <signal.h>

#include "model/train/detection_loss.h"
#include "model/train/trainer.h"

/* Trains the face detector from labelled frames: views from a queue, the
 * detection loss, checkpoints, resuming. */

struct mdl_detector_progress {
    long step, steps;
    double loss;                      /* moving means, of the parts too */
    struct mdl_detection_parts parts; /* matched: of the last batch */
    double rate, gradient_norm, images_per_second, seconds_left;
    struct mdl_queue_state queue;
    int64_t epochs; /* begun */
};

struct mdl_detector_config {
    const char *base; /* weights to start from; NULL: fresh, from seed */
    const char *out;  /* file to make; out.checkpoint meanwhile */
    const char *name;
    const char *faces, *negatives;     /* lists; negatives may be NULL */
    struct mdl_trainer_config trainer; /* frozen_root is not looked at */
    struct mdl_view_config view;
    struct mdl_detection_loss loss; /* side and priors are set */
    double rate;                    /* the peak */
    long steps, warm_up, save;
    int frame_side; /* written as the file's "side"; 0: none */
    bool half, resume;
    uint64_t seed;
    long every; /* steps between calls of progress */
    void (*progress)(void *arg, const struct mdl_detector_progress *p);
    void *arg;
    const volatile sig_atomic_t *stop; /* not 0: write a checkpoint, return */
};

/* Runs it to the end, or to *stop; *done tells which. Resumed, the weights are
 * those of a run that never stopped. Errors as of mdl_session_run. */
UT_MUSTUSE enum ut_err mdl_detector_train(const struct mdl_detector_config *c,
                                          bool *done, struct ut_error *e);

#endif
