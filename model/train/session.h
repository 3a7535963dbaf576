#ifndef MODEL_TRAIN_SESSION_H
#define MODEL_TRAIN_SESSION_H

#include <signal.h>

#include "model/data/queue.h"
#include "model/train/teacher.h"
#include "model/train/trainer.h"

/* A whole training: two dataset queues (or one) into the leaves of a tree,
 * checkpoints, resuming, held-out figures at the end. */

enum { MDL_FATIGUE, MDL_RECOGNITION, MDL_TASKS };
/* "fatigue", "recognition": the leaves. */
extern const char *const mdl_task_names[MDL_TASKS];

/* After warm_up steps of linear growth. */
enum mdl_schedule {
    MDL_COSINE, /* to 0 over all the steps that are left */
    /* As it is, then linearly to 0 over the last decay_steps: an end that a
     * resumed run may set anew, as long as its decay has not begun. */
    MDL_STABLE,
};

struct mdl_progress {
    long step, steps;
    double loss[MDL_TASKS]; /* moving means */
    double rate, gradient_norm, images_per_second, seconds_left;
    bool trained[MDL_TASKS]; /* which there are data for */
    struct mdl_queue_state queue[MDL_TASKS];
    int64_t epochs[MDL_TASKS]; /* begun of each dataset: a short one shows */
};

/* What is wrong with the data, in words: a queue that training waits for, a
 * dataset much shorter than the other, pictures that cannot be read. Returns
 * how many of text are filled. */
#define MDL_WARNINGS (3 * MDL_TASKS)
#define MDL_WARNING_LEN 300
int mdl_progress_warnings(const struct mdl_progress *p,
                          char text[MDL_WARNINGS][MDL_WARNING_LEN]);

struct mdl_session_config {
    const char *base; /* model file to start from */
    const char *out;  /* model file to make; out.checkpoint meanwhile */
    const char *name; /* of the model */
    const char *data[MDL_TASKS]; /* manifests or folders; NULL: not trained */
    double held_out;             /* share of each that is kept for figures */
    float rates[MDL_TASKS];      /* of the branches, times rate */
    struct mdl_trainer_config trainer;
    struct mdl_recognition recognition;
    const char *teacher; /* NULL, FILE.onnx, or a safetensors' "embedding" */
    struct mdl_onnx_input teacher_input;
    float mix; /* chance of two pictures in one; needs a running teacher */
    bool accumulate;
    float weight; /* of fatigue, accumulating */
    long turn;    /* recognition batches for each of fatigue, alternating */
    double rate;  /* the peak */
    enum mdl_schedule schedule;
    long steps, warm_up, decay_steps, save;
    bool augmented, resume;
    uint64_t seed;
    long every; /* steps between calls of progress */
    void (*progress)(void *arg, const struct mdl_progress *p);
    void *arg;
    const volatile sig_atomic_t *stop; /* not 0: write a checkpoint, return */
};

/* Runs it to the end, or to *stop; *done tells which. Resumed, the weights are
 * those of a run that never stopped: bit for bit on one backend with the same
 * threads. Errors: what is wrong with the settings (UT_EINVAL), a file, a
 * dataset, or, with the step named, a number that is not finite (UT_ESTATE).
 * The last checkpoint stays good whatever happens. */
UT_MUSTUSE enum ut_err mdl_session_run(const struct mdl_session_config *c,
                                       bool *done, struct ut_error *e);

#endif
