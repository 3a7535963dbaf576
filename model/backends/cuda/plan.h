#ifndef MODEL_BACKENDS_CUDA_PLAN_H
#define MODEL_BACKENDS_CUDA_PLAN_H

#include <pthread.h>

#include "model/backend.h"
#include "model/backends/cuda/choice.h"
#include "model/backends/cuda/gpu.h"

/* What the files of this folder share. Inside this folder only. */

/* A parameter as steps read it, on the device; plans of one graph share it. */
enum layout {
    LAYOUT_VECTOR,    /* float32, as it is            */
    LAYOUT_CONV,      /* [o][kernel][kernel][c]       */
    LAYOUT_DEPTHWISE, /* [kernel][kernel][c]          */
    LAYOUT_ROWS,      /* [o][h][w][c], from [o][c][h][w] */
};

struct weights {
    struct weights *next;
    const float *from; /* the parameter; lives as long as the plans */
    struct mdl_shape shape;
    enum layout layout;
    enum gpu_type type;
    struct gpu_map x; /* ROWS: the map that they meet */
    void *data;       /* owned */
    int refs;
    bool lost;      /* data went with its context */
    unsigned round; /* of the ctx's refreshes, the last that it saw */
};

struct ctx {
    int device;
    bool bfloat16;  /* and TF32: from compute capability 8.0 on */
    unsigned epoch; /* of the device, when the ctx was made or renewed */
    /* meter.c's; busy guards them */
    pthread_mutex_t busy;
    int running;      /* plans and searches */
    int64_t since_us; /* when the first of them began */
    uint64_t batches, run_us, kernel_us, busy_us;
    uint64_t memory_used, memory_total; /* as last seen */
    uint64_t failed;                    /* batches in a row, the last ones */
    char why[160];        /* the last of them did; or there is no new context */
    pthread_mutex_t lock; /* guards weights, learners */
    struct weights *weights;
    struct learner_device *learners; /* the latest first; under lock */
    unsigned rounds;                 /* refreshes so far; under lock */
    /* tune.c's; choosing guards them */
    pthread_mutex_t choosing;
    struct gpu_stream *stream; /* owned; for trials                     */
    void *handles[2];          /* owned; of the vendors, on stream      */
    struct made *made;         /* owned; what was decided, and engines  */
    struct choices choices;    /* owned; what the file remembers        */
    char cache[4096];          /* the file, "": none                    */
    int refused;               /* engines that did not hold             */
    char refusal[224];         /* the last of them                      */
    char remark[256];          /* about the file                        */
};

/* One stream, and memory that the lane's plans share: it grows with them. */
struct lane {
    struct gpu_stream *stream;
    void *handles[2];           /* owned; of the vendors */
    char *work;                 /* owned; on the device */
    char *host;                 /* owned; pinned: the input, then the outputs */
    struct gpu_mark *from, *to; /* owned; around a batch's kernels */
    size_t work_size, host_size;
    unsigned generation;     /* counts the growths */
    unsigned epoch;          /* as the ctx's */
    const struct plan *user; /* whose numbers lie in work */
};

struct step {
    const struct mdl_node *node; /* the last that it stands for */
    uint64_t needs;
    int in[MDL_NODE_INPUTS]; /* values; -1: absent */
    int n_in, out;
    bool attends; /* y = x (base + place + channel), in[0..2] */
    float base;
    struct weights *w, *bias, *slope, *shift; /* BN_*: gamma is the slope */
    struct gpu_product product;               /* of a CONV or LINEAR */
    enum choice_way way;
    struct gpu_engine *engine; /* the ctx's; NULL: our kernel */
    float *affine;             /* owned; BATCHNORM's [2][c]: scale, offset */
    size_t room;               /* bytes that our kernel needs beside */
};

struct recording {
    uint64_t wanted; /* a set of outputs; of a plan that trains: its nodes */
    struct gpu_graph *graph; /* owned; NULL: not yet, or it cannot be */
    bool tried;
};

struct plan {
    struct ctx *ctx;
    struct lane *lane;
    const struct mdl_graph *g;
    enum gpu_type type; /* of maps; vectors are float32 */
    bool tf32;          /* as of gpu_product */
    int batch;
    struct step *steps;
    int n_steps;
    struct gpu_map *maps; /* [n_values]                              */
    size_t *offset;       /* [n_values + outputs]; in lane->work     */
    size_t host_out[MDL_MAX_OUTPUTS]; /* in lane->host                     */
    size_t room; /* where engines' memory begins, in lane->work */
    size_t work_size, host_size;
    unsigned generation; /* of the lane, when it was bound */
    unsigned epoch;      /* as the ctx's */
    bool built;
    bool trains; /* each node is a step, run by mdl_plan_run_nodes */
    int ran;     /* nodes whose results lie in the lane's memory */
    struct recording recorded[3];
    int n_recorded;
};

/* Bytes of a batch's pictures, and of an output's row-major numbers. */
static inline size_t cuda_in_len(const struct plan *p)
{
    return (size_t)p->batch * mdl_shape_count(&p->g->values[p->g->input].shape);
}

static inline size_t cuda_out_len(const struct plan *p, int i)
{
    return (size_t)p->batch * sizeof(float) *
           mdl_shape_count(&p->g->values[p->g->outputs[i]].shape);
}

/* cuda.c. Between the two no context is made anew: the device's epoch. */
unsigned cuda_enter(const struct ctx *c);
unsigned cuda_epoch(const struct ctx *c); /* of another device. Entered. */
void cuda_leave(void);
/* A lane, at work and after the loss of its context. Entered. */
enum ut_err cuda_lane_open(struct ctx *c, struct lane *l, struct ut_error *e);
void cuda_lane_close(struct ctx *c, struct lane *l);
/* The ctx and the lane are of the device's present context. */
enum ut_err cuda_renew(struct ctx *c, struct lane *l, struct ut_error *e);
/* The plan on the device, its values in its lane's memory. Entered. */
enum ut_err cuda_ready(struct plan *p, struct ut_error *e);
/* An error of that epoch: if it would stay, the device gets a new context. Not
 * entered. */
void cuda_mend(struct ctx *c, unsigned epoch, enum ut_err rc);

/* meter.c. Something begins (+1) or ends (-1) on the device; a batch ended. */
void cuda_busy(struct ctx *c, int change);
void cuda_ran(struct ctx *c, int64_t run_us, int64_t kernel_us);
/* So many batches failed, 0: what follows one that did. */
void cuda_failed(struct ctx *c, uint64_t batches, const char *why);
void cuda_read(struct ctx *c, struct mdl_device_stats *out);
void cuda_saw_memory(struct ctx *c, struct mdl_device_stats *out);

/* build.c. The steps of p->g; UT_EINVAL names an operation that there is not
 * here. */
enum ut_err cuda_build(struct plan *p, struct ut_error *e);
/* lost: what was on the device is gone. */
void cuda_unbuild(struct plan *p, bool lost);
/* The affine map of a BATCHNORM, to s->affine. */
enum ut_err cuda_build_affine(struct plan *p, struct step *s,
                              struct ut_error *e);
/* How the weights of a CONV or LINEAR, or of their gradients, lie, where it
 * takes x to y. */
enum layout cuda_layout(const struct mdl_node *n, const struct gpu_map *x,
                        const struct gpu_map *y);
/* memory.c. Shapes, before the steps; places, after them. */
void cuda_shape(struct plan *p);
/* An input of mdl_graph_given. */
bool cuda_is_given(const struct plan *p, int v);
enum ut_err cuda_place(struct plan *p, struct ut_error *e);
/* At least want bytes at *at, on the device or, pinned, on the host; where
 * there are fewer it moves, and what lay there is gone. */
enum ut_err cuda_grow(char **at, size_t *size, size_t want, bool pinned,
                      struct ut_error *e);
/* weights.c */
enum ut_err cuda_weights_get(struct plan *p, int value, enum layout layout,
                             enum gpu_type type, const struct gpu_map *x,
                             struct weights **out, struct ut_error *e);
void cuda_weights_put(struct ctx *c, struct weights *w);
void cuda_weights_lose(struct ctx *c);
/* Anew from the parameters, which have changed: all that p's steps read. Those
 * that a learner holds are laid out on the device, queued; the others come from
 * the host by way of so many bytes in the lane's room for each. */
size_t cuda_weights_room(const struct weights *w); /* NULL: 0 */
enum ut_err cuda_weights_refresh(struct plan *p, struct ut_error *e);
/* compute.c. Which of the handles a product's engines want; what an engine or
 * our kernel needs beside, in bytes; the product itself. */
int cuda_vendor_of(const struct gpu_product *p);
size_t cuda_room(const struct gpu_product *p, const struct gpu_engine *engine);
size_t cuda_own_room(const struct gpu_product *p);
enum ut_err cuda_compute(struct gpu_stream *s, void *const handles[2],
                         const struct gpu_product *p, enum choice_way way,
                         struct gpu_engine *engine,
                         const struct gpu_operands *a, struct ut_error *e);
/* stream.c. The vendors, and their handles on a stream. */
extern const struct gpu_vendor *const cuda_vendors[2];
enum ut_err cuda_handles_open(struct gpu_stream *s, void *handles[2],
                              struct ut_error *e);
void cuda_handles_close(void *handles[2], bool lost);
/* What queue queues on s, recorded; NULL: it cannot be. */
typedef enum ut_err cuda_queueing(void *arg, struct ut_error *e);
struct gpu_graph *cuda_record(struct gpu_stream *s, cuda_queueing *queue,
                              void *arg);
/* tune.c. The engine that computes a step. Thread: any. */
void cuda_chip(struct ctx *c); /* names it, libraries included */
/* *engine is the ctx's; NULL with CHOICE_OWN. */
enum ut_err cuda_choose(struct ctx *c, const struct gpu_product *p,
                        enum choice_way *way, struct gpu_engine **engine,
                        struct ut_error *e);
void cuda_remember(struct ctx *c); /* writes the file, if there is news */
/* Engines, after all plans; lost: with the context. */
void cuda_forget(struct ctx *c, bool lost);
void cuda_report(struct ctx *c, char *text, size_t len);
/* What it had on the device is gone; its choices stay. */
enum ut_err cuda_lose(struct ctx *c, struct ut_error *e);
/* run.c: queues the steps that the outputs wanted need, copies included; one
 * step. */
enum ut_err cuda_queue(struct plan *p, uint64_t wanted, struct ut_error *e);
enum ut_err cuda_queue_step(struct plan *p, const struct step *s,
                            struct ut_error *e);

/* gradient.c: the operations of training. */
enum ut_err cuda_build_gradient(struct plan *p, struct step *s,
                                struct ut_error *e);
enum ut_err cuda_queue_gradient(struct plan *p, const struct step *s,
                                struct ut_error *e);

/* train.c: as in struct mdl_backend_ops. */
enum ut_err cuda_run_nodes(void *ctx, void *plan, const void *in, int first,
                           int last, struct ut_error *e);
enum ut_err cuda_set(void *ctx, void *plan, int value, const float *from,
                     struct ut_error *e);
enum ut_err cuda_get(void *ctx, void *plan, int value, float *to,
                     struct ut_error *e);
enum ut_err cuda_refresh(void *ctx, void *plan, struct ut_error *e);

/* learner.c; learner_plans.c. */
extern const struct mdl_learner_ops cuda_learner;
/* Where a learner has the parameter: row-major float32 on the device, NULL:
 * nowhere. *apart: its updates are queued on another lane than p's; they are
 * done. UT_EDEVICE: they went with the context. Entered; p's ctx is locked. */
enum ut_err cuda_learned(const struct plan *p, const float *param,
                         const float **x, bool *apart, struct ut_error *e);

/* search.c */
extern const struct mdl_index_ops cuda_index;

#endif
