#ifndef SERVER_DETECT_H
#define SERVER_DETECT_H

#include "model/vision/face.h"

/* Finding faces for the decode pool. On the processor each of its threads runs
 * a finder of its own. A device works best on several frames at once: while its
 * lanes are busy, frames wait, and of those that wait, as many as are of one
 * size run as one batch. Nobody waits for a batch to fill. */

struct srv_detect;

/* threads: those that will ask. d and b outlive it. */
UT_MUSTUSE enum ut_err srv_detect_new(const struct mdl_detector *d,
                                      struct mdl_backend *b, int threads,
                                      struct srv_detect **out,
                                      struct ut_error *e);
void srv_detect_free(struct srv_detect *t); /* accepts NULL */

/* As mdl_finder_run at the detector's own size; an error of a batch is that of
 * each of its frames. Thread: thread's own, below threads. */
UT_MUSTUSE enum ut_err srv_detect_run(struct srv_detect *t, int thread,
                                      const struct mdl_image *im,
                                      float min_score, int max,
                                      struct mdl_face *faces, int *n,
                                      struct ut_error *e);

/* Batches so far, and frames in them. Thread: any. */
void srv_detect_stats(struct srv_detect *t, uint64_t *batches,
                      uint64_t *frames);

#endif
