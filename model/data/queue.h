#ifndef MODEL_DATA_QUEUE_H
#define MODEL_DATA_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

#include "model/data/augment.h"
#include "model/data/dataset.h"

/* A bounded queue of batches, filled by threads of its own. The order is a
 * shuffle of each epoch, a function of the seed alone, however many threads
 * there are. A broken picture is replaced by the next one, counted and told. */

#define MDL_QUEUE_BATCHES 4

struct mdl_batch {
    uint8_t *images; /* owned by the queue; [n, side, side, 3] */
    void *notes;     /* owned by the queue; [n]: what the source says of each */
    int32_t *label;  /* notes of mdl_queue_new's; [n]; -1: none */
    int32_t *row;    /* [n]: the example's position in its dataset */
};

/* Where pictures come from. */
struct mdl_source {
    const void *arg;
    int n;          /* pictures of an epoch */
    size_t note;    /* bytes of what is said of a picture */
    size_t scratch; /* bytes that make() may use */
    /* Picture i in a view that *seed decides, [side, side, 3]. Errors: what is
     * wrong with the picture. Thread: any. */
    enum ut_err (*make)(const void *arg, int i, uint64_t *seed,
                        uint8_t *scratch, uint8_t *image, void *note,
                        struct ut_error *e);
};

struct mdl_queue_config {
    int batch, side, threads;
    uint64_t seed;
    int64_t first; /* batch to begin with: where another queue stopped */
    bool augmented;
    struct mdl_augment augment;
    float mix; /* chance of another picture in it, which costs the label */
};

struct mdl_queue;

/* Of batch, side, threads, seed and first of c; what s->arg points to must
 * outlive it. Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_queue_open(const struct mdl_source *s,
                                      const struct mdl_queue_config *c,
                                      struct mdl_queue **out,
                                      struct ut_error *e);

/* Aligned faces: decoded, resized to the network's side, augmented. d must
 * outlive it. Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_queue_new(const struct mdl_dataset *d,
                                     const struct mdl_queue_config *c,
                                     struct mdl_queue **out,
                                     struct ut_error *e);
void mdl_queue_free(struct mdl_queue *q); /* accepts NULL */

/* The next batch; *out is NULL at first, then the one before, which goes back
 * to the queue. Errors: UT_EFORMAT
 * when no picture of a whole epoch can be read. Thread: one. */
UT_MUSTUSE enum ut_err mdl_queue_next(struct mdl_queue *q,
                                      const struct mdl_batch **out,
                                      struct ut_error *e);

struct mdl_queue_state {
    int waiting;    /* batches that are ready */
    int64_t dry;    /* calls that had to wait */
    int64_t broken; /* pictures that could not be read */
    char last[200]; /* what was wrong with the last one */
};
void mdl_queue_state(struct mdl_queue *q, struct mdl_queue_state *out);

#endif
