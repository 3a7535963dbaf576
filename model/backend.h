#ifndef MODEL_BACKEND_H
#define MODEL_BACKEND_H

#include "model/graph.h"
#include "model/index.h"
#include "model/learner.h"

/* Where graphs run. A backend is a table of functions and an opaque state;
 * nobody outside model/backends sees a vendor's header.
 *
 *   backend   one device, open for the process; owns reordered weights,
 *             which all plans of one graph share
 *   lane      one thread's way through the device: its workspace or stream;
 *             on the CPU one lane per core, each single-threaded
 *   plan      a graph compiled for one batch size on one lane; running it
 *             allocates nothing
 */

enum mdl_precision {
    MDL_PREC_F32,
    MDL_PREC_BF16,
    MDL_PREC_F16,
    MDL_PREC_TF32, /* float32, whose products may round their factors to 11
                      bits; by its name only */
};

/* "float32", "bfloat16", "float16", "tf32" (also "f32", "bf16",
 * "f16"); -1 for others. */
int mdl_precision_parse(const char *text);
const char *mdl_precision_name(enum mdl_precision p);

/* One batch's work. Host memory throughout. */
struct mdl_io {
    const void *in;    /* [batch, shape of the graph's input]           */
    float *const *out; /* [n_outputs]; each [batch, shape], row-major
                          (N,C,H,W), or NULL where it is not wanted: what
                          only it needs is then not computed             */
};

/* A device that is not the processor, since the backend was opened. */
struct mdl_device_stats {
    uint64_t batches;       /* run without an error             */
    uint64_t run_us;        /* their times, copies included     */
    uint64_t kernel_us;     /* their times without copies; what
                               another lane computed meanwhile
                               is in them too                   */
    uint64_t busy_us;       /* with one or a search on its way  */
    uint64_t memory_used;   /* bytes, by anyone                 */
    uint64_t memory_total;  /* bytes                            */
    uint64_t contexts_lost; /* errors that stayed until all that
                               was on the device was made anew  */
    uint64_t failed;        /* batches in a row, the last ones  */
    char why[160];          /* the last of them failed; or why
                               there is no new context          */
};

/* For implementers; callers use the functions below. */
struct mdl_backend_ops {
    const char *name; /* "ref", "cpu", "cuda": as in --backend NAME */

    /* How well this machine suits: 0 not at all, more is better. Before
     * open(); leaves nothing behind. */
    int (*score)(void);

    enum ut_err (*open)(int device, void **ctx, struct ut_error *e);
    void (*close)(void *ctx);

    enum ut_err (*lane_new)(void *ctx, void **lane, struct ut_error *e);
    void (*lane_free)(void *ctx, void *lane);

    /* g is optimised, outlives the plan, and stays unchanged. */
    enum ut_err (*compile)(void *ctx, void *lane, const struct mdl_graph *g,
                           enum mdl_precision precision, int batch, void **plan,
                           struct ut_error *e);
    void (*plan_free)(void *ctx, void *plan);

    enum ut_err (*run)(void *ctx, void *plan, const struct mdl_io *io,
                       struct ut_error *e);
    bool (*supports)(void *ctx, enum mdl_precision precision);

    /* Training: as the functions of mdl_plan_*. */
    void (*lane_threads)(void *ctx, void *lane, int n);
    enum ut_err (*run_nodes)(void *ctx, void *plan, const void *in, int first,
                             int last, struct ut_error *e);
    enum ut_err (*set)(void *ctx, void *plan, int value, const float *from,
                       struct ut_error *e);
    enum ut_err (*get)(void *ctx, void *plan, int value, float *to,
                       struct ut_error *e);
    enum ut_err (*refresh)(void *ctx, void *plan, struct ut_error *e);

    /* Optional: how many devices there are (NULL: one); a device's figures. */
    int (*devices)(void);
    void (*stats)(void *ctx, struct mdl_device_stats *out);

    /* Optional (NULL: none): rows on the device, and their search. */
    const struct mdl_index_ops *index;

    /* Optional (NULL: the host's memory): weights that learn on the device. */
    const struct mdl_learner_ops *learner;

    /* Optional: one line on the device and how plans compute on it. */
    void (*report)(void *ctx, char *text, size_t len);

    /* Optional (NULL: none): one line per step with its time in us over the
     * last run, for `tscaf-model bench --profile`. */
    void (*profile)(void *plan,
                    void (*line)(void *arg, const char *name,
                                 const char *detail, double us, double macs),
                    void *arg);
};

struct mdl_backend;
struct mdl_lane;
struct mdl_plan;

/* name NULL or "auto": CUDA where it can be used, else the built-in backend
 * with the highest score, and mdl_backend_note says why not CUDA. Errors:
 * UT_EINVAL for an unknown name (the message lists the known ones), UT_EDEVICE
 * for one that cannot be used here. Thread: any. */
UT_MUSTUSE enum ut_err mdl_backend_open(const char *name, int device,
                                        struct mdl_backend **out,
                                        struct ut_error *e);
/* Why "auto" did not take CUDA: one line, or "". */
const char *mdl_backend_note(const struct mdl_backend *b);
/* How many devices such a backend has, at least 1; each is opened by its
 * number. */
int mdl_backend_devices(const struct mdl_backend *b);
/* Whether weights learn on its devices (mdl_learner_open): each lane of a
 * training is then on a device of its own. */
bool mdl_backend_learns(const struct mdl_backend *b);
/* Lanes that keep one device busy: one for each processor; two on a GPU, where
 * one copies while the other computes. */
int mdl_backend_lanes(const struct mdl_backend *b);
/* false: the device is the processor, there are no figures. Thread: any. */
bool mdl_backend_stats(const struct mdl_backend *b,
                       struct mdl_device_stats *out);
/* One line on the device and how the plans made so far compute on it, for a
 * log; "" where there is nothing to say. Thread: any. */
void mdl_backend_report(const struct mdl_backend *b, char *text, size_t len);
/* After all its lanes and plans. Accepts NULL. */
void mdl_backend_close(struct mdl_backend *b);
const char *mdl_backend_name(const struct mdl_backend *b);
bool mdl_backend_supports(const struct mdl_backend *b, enum mdl_precision p);

/* Thread: lanes may be made from any thread; a lane and its plans belong to
 * one thread at a time. */
UT_MUSTUSE enum ut_err mdl_lane_new(struct mdl_backend *b,
                                    struct mdl_lane **out, struct ut_error *e);
void mdl_lane_free(struct mdl_lane *lane);

/* Compiles an optimised graph, which must outlive the plan.
 * Errors: UT_EINVAL (batch below 1), UT_ENOMEM, UT_EDEVICE. */
UT_MUSTUSE enum ut_err mdl_plan_new(struct mdl_lane *lane,
                                    const struct mdl_graph *g,
                                    enum mdl_precision precision, int batch,
                                    struct mdl_plan **out, struct ut_error *e);
void mdl_plan_free(struct mdl_plan *p);
int mdl_plan_batch(const struct mdl_plan *p);

/* Runs one batch of exactly the plan's size. Errors: UT_EDEVICE. */
UT_MUSTUSE enum ut_err mdl_plan_run(struct mdl_plan *p, const struct mdl_io *io,
                                    struct ut_error *e);

/* ---- Training: one plan, run in parts (model/train) ---- */

/* Threads that this lane's plans which train may use from their next run on; 1
 * at first. How some of them divide their work was settled when they were made.
 * A GPU has its own. */
void mdl_lane_threads(struct mdl_lane *lane, int n);
/* Runs the graph's nodes [first, last), of a graph with operations of training,
 * on the batch `in`. What earlier nodes left stays until another plan of the
 * lane is made or runs. Errors: UT_EDEVICE, also where it is gone with the
 * device's context. */
UT_MUSTUSE enum ut_err mdl_plan_run_nodes(struct mdl_plan *p, const void *in,
                                          int first, int last,
                                          struct ut_error *e);
/* Row-major float32, [batch, shape] or [shape] of a whole value: into an input
 * of mdl_graph_given; out of a value marked keep. */
UT_MUSTUSE enum ut_err mdl_plan_set(struct mdl_plan *p, int value,
                                    const float *from, struct ut_error *e);
UT_MUSTUSE enum ut_err mdl_plan_get(struct mdl_plan *p, int value, float *to,
                                    struct ut_error *e);
/* The parameters' numbers have changed in place: for this plan, and others of
 * the same graph, batch and precision in lanes of the same device, none of
 * which runs. */
UT_MUSTUSE enum ut_err mdl_plan_refresh(struct mdl_plan *p, struct ut_error *e);

void mdl_plan_profile(struct mdl_plan *p,
                      void (*line)(void *arg, const char *name,
                                   const char *detail, double us, double macs),
                      void *arg);

#endif
