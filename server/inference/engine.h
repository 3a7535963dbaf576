#ifndef SERVER_ENGINE_H
#define SERVER_ENGINE_H

#include "model/backend.h"
#include "model/model.h"

/* The model as the server runs it: opened, optimised, and compiled for every
 * batch size on every lane before the first request. */

#define SRV_MAX_BATCH 32
#define SRV_EMBEDDING_MAX 2048
#define SRV_MAX_DEVICES 16

/* Bits. Attention: also the maps of the other two. */
enum { SRV_TASK_FATIGUE = 1, SRV_TASK_RECOGNITION = 2, SRV_TASK_ATTENTION = 4 };

#define SRV_LEAVES 2 /* leaf i does task 1 << i */

/* What the network said of one crop. */
struct srv_scores {
    float probability; /* fatigue */
    float *embedding;  /* [dim], L2-normalised; the caller's memory */
    /* [srv_engine_attention()], 0..1; the caller's, where tasks ask for it */
    float *attention[SRV_LEAVES];
};

struct srv_engine;

struct srv_engine_config {
    const char *model_path; /* NULL: made fresh from the embedded spec,
                               trained: false */
    const char *backend;    /* NULL: the best here */
    enum mdl_precision precision;
    int max_batch; /* a power of two up to SRV_MAX_BATCH */
    int n_lanes;   /* on all devices; 0: one per core (CPU), two per GPU */
};

/* Opens and compiles, on every device that can be used; seconds for a large
 * model. A device whose memory is too small for max_batch gets smaller
 * batches, and so do the others then (srv_engine_remark). Thread: any. */
UT_MUSTUSE enum ut_err srv_engine_new(const struct srv_engine_config *c,
                                      struct srv_engine **out,
                                      struct ut_error *e);
void srv_engine_free(struct srv_engine *en);

/* The network that is made when there is no file, and its version. */
UT_MUSTUSE enum ut_err srv_engine_fresh(struct mdl_model *out,
                                        struct ut_error *e);
UT_MUSTUSE enum ut_err srv_engine_fresh_version(char version[17],
                                                struct ut_error *e);
/* A graph's weights, and multiply-adds for one face. */
void srv_engine_sizes(const struct mdl_graph *g, uint64_t *parameters,
                      uint64_t *multiply_adds);

/* The name of the first leaf with that head, or "". */
const char *srv_engine_leaf(const struct mdl_model *m, enum mdl_head head);
/* That leaf's calibrated threshold, or the default of its head. */
float srv_engine_threshold(const struct mdl_model *m, enum mdl_head head);

const struct mdl_model *srv_engine_model(const struct srv_engine *en);
const char *srv_engine_backend(const struct srv_engine *en);
enum mdl_precision srv_engine_precision(const struct srv_engine *en);
/* The first device; another. */
struct mdl_backend *srv_engine_device(const struct srv_engine *en);
int srv_engine_devices(const struct srv_engine *en);
struct mdl_backend *srv_engine_device_at(const struct srv_engine *en, int i);
int srv_engine_max_batch(const struct srv_engine *en);
/* What was not as asked for, a line each: batches that memory is too small
 * for, devices that cannot be used. i counts up from 0; NULL: no more. */
const char *srv_engine_remark(const struct srv_engine *en, int i);
int srv_engine_lanes(const struct srv_engine *en);
int srv_engine_dim(const struct srv_engine *en); /* 0: no recognition */
unsigned srv_engine_tasks(const struct srv_engine *en);

/* Numbers of a leaf's spatial attention, height x width; 0: it has none. */
size_t srv_engine_attention(const struct srv_engine *en, int leaf, int *width,
                            int *height);

/* Largest plan not above n. */
int srv_engine_batch(const struct srv_engine *en, int n);

/* Runs n crops (n a plan size) of u8 [112,112,3] on a lane; computes only
 * the tasks asked. Allocates nothing. Thread: one per lane. */
UT_MUSTUSE enum ut_err srv_engine_run(struct srv_engine *en, int lane,
                                      const uint8_t *const *crops, int n,
                                      unsigned tasks,
                                      struct srv_scores *const *scores,
                                      struct ut_error *e);

#endif
