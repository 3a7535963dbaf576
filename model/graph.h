#ifndef MODEL_GRAPH_H
#define MODEL_GRAPH_H

#include <stdbool.h>

#include "model/tensor.h"

/* The network as a list of operations on values.
 *
 * A graph is built once, in execution order, by model/nets; passes rewrite
 * it; a backend compiles it for a batch size. Shapes of batched values leave
 * the batch out: [C, H, W] means [N, C, H, W] once compiled.
 *
 * Values and nodes are indices, so that a graph can be copied flat. All
 * memory belongs to the graph; parameters are views of somebody's weights
 * unless a pass made them. Not shared between threads while it is built;
 * read-only afterwards. */

#define MDL_NAME_LEN 96
#define MDL_NODE_INPUTS 8
#define MDL_MAX_OUTPUTS 64

/* Numbers of one value for one image, and of a parameter or a result that is
 * whole. 64 channels of a spec's largest picture fit the first; VGG's largest
 * layer, [4096, 25088], the second. */
#define MDL_MAX_VALUE (1 << 26)
#define MDL_MAX_WHOLE (1 << 28)

enum mdl_op {
    MDL_OP_IMAGE,     /* u8 [H,W,3] RGB -> f32 [3,H,W]; see struct mdl_node */
    MDL_OP_CONV,      /* x [C,H,W], w [O,C/g,K,K], bias [O]?, residual?      */
    MDL_OP_LINEAR,    /* x flattened [K], w [O,K], bias [O]? -> [O]          */
    MDL_OP_BATCHNORM, /* x [C,..], gamma?, beta?, mean, var [C]              */
    MDL_OP_ACT,       /* x, slope [C]? (PReLU)                               */
    MDL_OP_POOL,      /* x [C,H,W] -> [C]: mean over H and W                 */
    MDL_OP_ADD,       /* one or more terms of one shape                      */
    MDL_OP_SCALE,     /* x [C,H,W] times s: [C] per channel, or [1,H,W] per
                         place                                               */
    MDL_OP_L2NORM,    /* x [D] / max(|x|, 1e-12)                             */
    MDL_OP_UPSAMPLE,  /* x [C,h,w] -> [C,H,W], nearest                       */
    MDL_OP_CONCAT,    /* along C                                             */
    MDL_OP_SOFTMAX,   /* x [P*2,H,W]: over each pair of channels             */

    /* Training (model/train/backward.h builds these). dX is the loss's gradient
     * by X; "whole" results are one for the batch, not one an image; inputs in
     * brackets give only their shape. */
    MDL_OP_BN_STATS,    /* x -> [2,C] whole: mean, variance of the batch     */
    MDL_OP_BN_TRAIN,    /* x, gamma, beta, stats -> y                        */
    MDL_OP_BN_DPARAM,   /* x, stats, dy -> [2,C] whole: dgamma, dbeta        */
    MDL_OP_BN_DX,       /* x, gamma, stats, dparam, dy -> dx                 */
    MDL_OP_CONV_DX,     /* dy, w, (x) -> dx                                  */
    MDL_OP_CONV_DW,     /* x, dy, (w) -> dw whole                            */
    MDL_OP_SUM,         /* dy [C,..] -> [C] whole: over batch and places     */
    MDL_OP_LINEAR_DX,   /* dy, w, (x) -> dx                                  */
    MDL_OP_LINEAR_DW,   /* x, dy, (w) -> dw whole                            */
    MDL_OP_ACT_DX,      /* x, slope?, dy -> dx                               */
    MDL_OP_ACT_DSLOPE,  /* x, dy -> [C] whole                                */
    MDL_OP_POOL_DX,     /* dy [C], (x) -> dx                                 */
    MDL_OP_SCALE_DS,    /* x, dy, (s) -> ds                                  */
    MDL_OP_L2NORM_DX,   /* x, dy -> dx                                       */
    MDL_OP_UPSAMPLE_DX, /* dy, (x) -> dx                                     */
    MDL_OP_SLICE,       /* dy [C,H,W], (part) -> [c,H,W] from channel first  */
    MDL_OP_SOFTMAX_DX,  /* y, dy -> dx                                       */
    MDL_OP_LAST = MDL_OP_SOFTMAX_DX,
};

enum mdl_act {
    MDL_ACT_NONE,
    MDL_ACT_RELU,
    MDL_ACT_RELU6,
    MDL_ACT_LEAKY, /* x < 0: alpha * x     */
    MDL_ACT_PRELU, /* x < 0: slope[c] * x  */
    MDL_ACT_SIGMOID,
    MDL_ACT_LAST = MDL_ACT_SIGMOID,
};

enum mdl_value_kind {
    MDL_VALUE_INPUT,  /* given to run()                                   */
    MDL_VALUE_PARAM,  /* weights, trained by the optimiser                */
    MDL_VALUE_BUFFER, /* running statistics: in the file, not optimised   */
    MDL_VALUE_RESULT, /* made by a node                                   */
};

struct mdl_value {
    char name[MDL_NAME_LEN]; /* the file's for parameters; else the output's
                                public name, or "" */
    enum mdl_value_kind kind;
    enum mdl_dtype dtype;   /* U8 for image inputs, else F32 */
    struct mdl_shape shape; /* without the batch, unless PARAM or BUFFER */
    const float *data;      /* PARAM, BUFFER once bound; else NULL */
    int producer;           /* node, or -1 */
    int output;             /* position among the outputs, or -1 */
    bool whole;             /* RESULT: one for the batch, not one an image */
    bool keep;              /* RESULT: asked for by mdl_plan_get */
};

/* Roles of in[] by operation; an absent input is -1. */
enum { MDL_IN_X = 0, MDL_IN_W = 1, MDL_IN_B = 2 };
enum { MDL_IN_SLOPE = 3, MDL_IN_RESIDUAL = 4, MDL_IN_SHIFT = 5 }; /* CONV */
enum { MDL_BN_GAMMA = 1, MDL_BN_BETA = 2, MDL_BN_MEAN = 3, MDL_BN_VAR = 4 };

struct mdl_node {
    enum mdl_op op;
    int in[MDL_NODE_INPUTS]; /* values */
    int n_in;                /* ADD, CONCAT: how many; else highest role + 1 */
    int out;                 /* value  */
    int module;              /* whose it is: index in graph.modules          */

    /* CONV */
    int kernel, stride, pad, groups; /* UPSAMPLE: kernel = H, stride = W */
    /* CONV and LINEAR after fusion, and ACT:
     * out = act(conv(x) + bias) + shift[c] + residual. */
    enum mdl_act act;
    float alpha; /* LEAKY */

    float eps; /* BATCHNORM, BN_* */
    int first; /* SLICE */

    /* IMAGE: out[c] = (in[bgr ? 2 - c : c] - mean[c]) * scale[c] */
    float mean[3], scale[3];
    bool bgr;
};

struct mdl_graph {
    struct mdl_value *values; /* owned */
    int n_values, cap_values;
    struct mdl_node *nodes; /* owned; every input precedes its use */
    int n_nodes, cap_nodes;
    int outputs[MDL_MAX_OUTPUTS]; /* values; results are asked for by position
                                   */
    int n_outputs;
    int input; /* value */

    char (*modules)[MDL_NAME_LEN]; /* owned; names for mdl_node.module */
    int n_modules, cap_modules;

    void **owned; /* parameter memory that passes made */
    int n_owned, cap_owned;

    int *named; /* owned; a hash table of the parameters by name: values, -1 */
    int cap_named, n_named; /* values up to n_named were looked at */

    /* The first error of the builder functions below; they do nothing after
     * it, so that a network is written without a check per line. */
    struct ut_error error;
};

void mdl_graph_init(struct mdl_graph *g);
void mdl_graph_fini(struct mdl_graph *g);

/* ---- Building. Each returns the value made, or -1 after an error, which
 * g->error holds; shapes are inferred and checked, sizes too. ---- */

/* Starts the module that the nodes from here belong to. */
void mdl_graph_module(struct mdl_graph *g, const char *name);

/* u8 [h, w, 3] RGB, rows packed. */
int mdl_graph_input(struct mdl_graph *g, int h, int w);

/* A named parameter or buffer, unbound; one of that name that exists already
 * is returned as it is. */
int mdl_graph_param(struct mdl_graph *g, enum mdl_value_kind kind,
                    struct mdl_shape shape, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* A parameter over the malloc'ed *data, [shape], which the graph takes. */
int mdl_graph_param_owned(struct mdl_graph *g, struct mdl_shape shape,
                          float **data, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

int mdl_graph_image(struct mdl_graph *g, int x, const float mean[3],
                    const float scale[3], bool bgr);
/* b may be -1. */
int mdl_graph_conv(struct mdl_graph *g, int x, int w, int b, int stride,
                   int pad, int groups);
int mdl_graph_linear(struct mdl_graph *g, int x, int w, int b);
int mdl_graph_batchnorm(struct mdl_graph *g, int x, int gamma, int beta,
                        int mean, int var, float eps);
/* slope: MDL_ACT_PRELU's [C], else -1. */
int mdl_graph_act(struct mdl_graph *g, int x, enum mdl_act act, float alpha,
                  int slope);
int mdl_graph_pool(struct mdl_graph *g, int x);
int mdl_graph_add(struct mdl_graph *g, const int *x, int n);
int mdl_graph_scale(struct mdl_graph *g, int x, int s);
int mdl_graph_l2norm(struct mdl_graph *g, int x);
int mdl_graph_upsample(struct mdl_graph *g, int x, int h, int w);
int mdl_graph_concat(struct mdl_graph *g, const int *x, int n);
int mdl_graph_softmax(struct mdl_graph *g, int x);

/* A float32 value that the caller sets by mdl_plan_set before a run. */
int mdl_graph_given(struct mdl_graph *g, struct mdl_shape shape);

/* Makes v an output under a public name ("fatigue.logit"). */
void mdl_graph_output(struct mdl_graph *g, int v, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The position of the output of that name, or -1. */
int mdl_graph_find_output(const struct mdl_graph *g, const char *name);

/* ---- Reading ---- */

/* The result of a module's last node ("root.stage5"), or -1. */
int mdl_graph_find_module(const struct mdl_graph *g, const char *name);

/* "convolution"... */
const char *mdl_op_name(enum mdl_op op);

/* Nodes that use value v as any input. */
int mdl_graph_n_uses(const struct mdl_graph *g, int v);

/* Multiply-adds of one node for one image: convolutions and linears count,
 * the rest is 0, as in the paper. */
int64_t mdl_node_macs(const struct mdl_graph *g, const struct mdl_node *n);

/* For every node, a bit set of the outputs that need it: needs[n_nodes].
 * A plan skips the nodes whose outputs nobody asked for. */
void mdl_graph_needs(const struct mdl_graph *g, uint64_t *needs);

/* ---- Rewriting (model/passes.c) ---- */

/* Copies g flat; owned memory stays g's. */
UT_MUSTUSE enum ut_err mdl_graph_copy(const struct mdl_graph *g,
                                      struct mdl_graph *out,
                                      struct ut_error *e);

/* The shape of a training operation's result, and whether it is whole; false
 * after an error, which why says. Inside model/ only. */
bool mdl_graph_infer_gradient(const struct mdl_graph *g,
                              const struct mdl_node *n, struct mdl_shape *out,
                              bool *whole, const char **why);

/* Appends a raw node whose inputs and attributes are set, for passes and
 * backends' tests; infers its shape. Returns its value or -1. */
int mdl_graph_append(struct mdl_graph *g, const struct mdl_node *n);

/* Copies g for inference into *out: keeps the outputs in the bit set keep
 * (their positions are kept; the dropped ones become value -1), removes what
 * nothing needs, folds every BatchNorm into a neighbouring convolution or
 * linear where that is exact (docs/MODEL.md "Folding"), and fuses bias,
 * activation and residual into the convolution before them. Parameters must
 * be bound. The copy owns its folded parameters and borrows the others.
 * Errors: UT_ENOMEM, UT_EINVAL for an unbound parameter. */
UT_MUSTUSE enum ut_err mdl_graph_optimise(const struct mdl_graph *g,
                                          uint64_t keep, struct mdl_graph *out,
                                          struct ut_error *e);

#endif
