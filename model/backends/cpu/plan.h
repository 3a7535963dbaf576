#ifndef MODEL_BACKENDS_CPU_PLAN_H
#define MODEL_BACKENDS_CPU_PLAN_H

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>

#include "model/backend.h"
#include "model/backends/cpu/train_kernels.h"
#include "model/backends/cpu/winograd.h"

/* What the files of this folder share: plans over oneDNN's primitives and our
 * own kernels. Inside this folder only. */

#define ALIGN 64
#define MAX_ARGS 8

/* Weights as a step reads them, shared by the plans that use them; gone with
 * the last. */
enum layout {
    WEIGHTS_DNNL,
    WEIGHTS_WINO,
    WEIGHTS_WINO_BACK, /* for the gradient by the input */
    WEIGHTS_FC,
};

struct weights {
    struct weights *next;
    const float *from; /* the parameter; lives as long as the plans */
    enum layout layout;
    struct mdl_map x;            /* the map that it meets; only its shape */
    int outputs;                 /* channels of the result */
    dnnl_memory_desc_t md, user; /* DNNL: its own and the parameter's */
    const struct mdl_wino_kernel *wino;
    dnnl_memory_t memory; /* oneDNN's, or NULL */
    void *packed;         /* ours, or NULL */
    int refs;
};

struct ctx {
    dnnl_engine_t engine;
    const struct mdl_kernels *kernels; /* for how maps lie */
    const struct mdl_train_kernels *training;
    pthread_mutex_t lock; /* guards weights */
    struct weights *weights;
};

struct lane {
    dnnl_stream_t stream;
    int threads;     /* of OpenMP, for plans that train; 1 for others */
    char *workspace; /* owned */
    size_t size;
};

/* A oneDNN memory whose place is in the workspace. */
struct placed {
    dnnl_memory_t memory;
    int value; /* -1: the scratchpad */
};

struct step {
    const struct mdl_node *node;
    uint64_t needs;
    dnnl_primitive_t primitive; /* or NULL: our kernel */
    dnnl_exec_arg_t args[MAX_ARGS];
    int n_args;
    struct placed placed[4];
    int n_placed;
    dnnl_memory_t bias; /* owned */
    struct weights *weights;
    struct mdl_wino *wino; /* owned; ours instead of a primitive */
    bool epilogue;         /* after the primitive: act, shift, residual */
    enum mdl_act act;
    float *slope, *shift, *scale, *offset, *padded_bias; /* owned; padded */
    double us;                                           /* of the last run */
    char detail[48];
};

struct plan {
    bool trains; /* it has operations of training */
    struct ctx *ctx;
    struct lane *lane;
    const struct mdl_graph *g;
    int batch;
    bool bf16;
    struct step *steps;
    int n_steps;
    size_t *offset; /* [n_values]; place in the workspace */
    size_t scratch, scratch_size;
    char *base;                /* the workspace that the memories point into */
    struct mdl_map *maps;      /* [n_values] */
    dnnl_memory_desc_t *whole; /* [n_values]; of whole values, ndims 0 before */
};

enum ut_err cpu_check(dnnl_status_t s, const char *what, struct ut_error *e);

/* Descriptors: of value v as it lies in memory; of a plain row-major array. */
dnnl_memory_desc_t cpu_desc(const struct plan *p, int v);
dnnl_memory_desc_t cpu_plain(int n, const dnnl_dims_t dims, dnnl_data_type_t t);

/* The parameter in a role, or NULL. */
const float *cpu_param(const struct plan *p, const struct mdl_node *n,
                       int role);

/* weights.c. Copies from one layout to another. */
enum ut_err cpu_copy(struct plan *p, const dnnl_memory_desc_t *from_md,
                     const void *from, const dnnl_memory_desc_t *to_md,
                     void *to, struct ut_error *e);
/* The shared weights of node n: for oneDNN, for our Winograd (forward or for
 * the gradient by the input), for fc.h. */
enum ut_err cpu_weights_dnnl(struct plan *p, const struct mdl_node *n,
                             const dnnl_memory_desc_t *user,
                             const dnnl_memory_desc_t *md, struct weights **out,
                             struct ut_error *e);
enum ut_err cpu_weights_wino(struct plan *p, const struct mdl_node *n,
                             const struct mdl_wino_kernel *kernel,
                             struct weights **out, struct ut_error *e);
enum ut_err cpu_weights_fc(struct plan *p, const struct mdl_node *n,
                           struct weights **out, struct ut_error *e);
void cpu_weights_put(struct ctx *c, struct weights *w);
/* Made, or made anew, of the parameter, for every plan that shares them. */
enum ut_err cpu_weights_refresh(struct plan *p, struct weights *w,
                                struct ut_error *e);

/* build.c. What s->node needs to run. */
enum ut_err cpu_build(struct plan *p, struct step *s, struct ut_error *e);
bool cpu_is_plain_3x3(const struct mdl_node *n);
/* n zeros, and up to whole blocks of any size; n floats with such zeros after
 * them, or NULL of NULL. */
enum ut_err cpu_zeros(int64_t n, float **out, struct ut_error *e);
enum ut_err cpu_pad(const float *from, int64_t n, float **out,
                    struct ut_error *e);
/* An argument of a step's primitive; one in the workspace, whose place is set
 * when the plan is bound (value -1: the scratchpad). */
void cpu_arg(struct step *s, int which, dnnl_memory_t m);
enum ut_err cpu_place(struct plan *p, struct step *s, int which, int value,
                      const dnnl_memory_desc_t *md, struct ut_error *e);
/* The scratchpad that a primitive wants, as an argument. */
enum ut_err cpu_scratchpad(struct plan *p, struct step *s,
                           dnnl_primitive_desc_t pd, struct ut_error *e);

/* wino_step.c. A convolution or its gradient by our Winograd; without s->wino
 * after it, it is oneDNN's. */
enum ut_err cpu_build_wino(struct plan *p, struct step *s, struct ut_error *e);
/* residual: of the convolution, or NULL. */
void cpu_run_wino(struct plan *p, struct step *s,
                  const struct mdl_map *residual);

/* memory.c. Shapes of the values, before the steps are built; their places,
 * after; and everything pointed into the lane's workspace, where it moved. */
void cpu_map_values(struct plan *p);
enum ut_err cpu_plan_memory(struct plan *p, struct ut_error *e);
void cpu_bind(struct plan *p);

/* gradient.c: prepares and runs what a plan that trains has beside the
 * forward operations; false from run if n is none of these. */
enum ut_err cpu_build_gradient(struct plan *p, struct step *s,
                               struct ut_error *e);
bool cpu_run_gradient(struct plan *p, struct step *s);

#endif
