#ifndef MODEL_SPEC_H
#define MODEL_SPEC_H

#include "model/graph.h"

/* The tree specification: which networks a model file holds.
 *
 *   {"input":112, "trees":[{"name":"root","module":"iresnet",
 *     "layers":[3,4,14,3],"widths":[64,128,256,512],"children":[
 *       {"name":"fatigue","module":"lase","la_r":2,"se_r":16,
 *        "head":"binary"}, ...]}]}
 *
 * A node without children is a leaf and has a head. A child sees its
 * parent's output; nodes may nest to any depth up to the limit. Several
 * trees in one file are the parallel style. Tensor names are prefixed by the
 * node's own name, so names are unique in a file.
 *
 * A node of module "graph" lists its operations, and may be a root or a
 * branch: a network that no module here describes, as grafted from ONNX
 * (model/graft.h). Source: docs/MODEL.md "The tree". */

#define MDL_SPEC_MAX_NODES 64
#define MDL_SPEC_MAX_DEPTH 8
#define MDL_SPEC_MAX_STAGES 8
#define MDL_SPEC_MAX_OPS 1024 /* of all graphs in a file */
#define MDL_SPEC_NAME_LEN 48

enum mdl_module {
    MDL_MODULE_IRESNET, /* roots                               */
    MDL_MODULE_MOBILENETV2,
    MDL_MODULE_LASE, /* branches: x + LANet(x) + SENet(x)   */
    MDL_MODULE_LA,
    MDL_MODULE_SE,
    MDL_MODULE_NONE,
    MDL_MODULE_GRAPH, /* anywhere: operations as listed      */
};

enum mdl_head {
    MDL_HEAD_NONE,
    MDL_HEAD_BINARY,    /* global average pool, C -> 1 logit        */
    MDL_HEAD_EMBEDDING, /* flatten, -> dim, BatchNorm1d             */
};

/* One operation of a graph. Values are numbered within the node: 0 is what the
 * node is given, i + 1 what operation i makes; the last is the node's own. Its
 * tensors are NODE.i.weight, .bias, .running_mean, .running_var, and
 * NODE.i.prelu.weight. */
struct mdl_spec_op {
    enum mdl_op op;   /* CONV, LINEAR, BATCHNORM, ACT, POOL, ADD, SCALE,
                         CONCAT                                          */
    enum mdl_act act; /* ACT                                             */
    int n_of;
    uint16_t of[MDL_NODE_INPUTS];    /* values; the one before by default   */
    int out;                         /* CONV, LINEAR: channels made         */
    int kernel, stride, pad, groups; /* CONV                             */
    bool bias;                       /* CONV, LINEAR                     */
    float number; /* BATCHNORM: eps; ACT leaky: alpha; else 0            */
};

/* How a tree's root is shown the picture: the fields of MDL_OP_IMAGE. */
struct mdl_spec_image {
    float mean[3], scale[3];
    bool bgr;
};

struct mdl_spec_node {
    char name[MDL_SPEC_NAME_LEN]; /* [a-z0-9_]+, unique in the file   */
    int parent;                   /* index in nodes, -1 for a root    */
    enum mdl_module module;
    int n_stages; /* iresnet                          */
    int layers[MDL_SPEC_MAX_STAGES];
    int widths[MDL_SPEC_MAX_STAGES];
    double width;   /* mobilenetv2's multiplier         */
    int la_r, se_r; /* lase, la, se: 2 and 16 by default */
    enum mdl_head head;
    int dim;                     /* embedding head: 512 by default   */
    struct mdl_spec_image image; /* roots: (v - 127.5) / 127.5       */
    int first_op, n_ops;         /* graph: in the spec's ops         */
};

struct mdl_spec {
    int input;   /* height and width of the image, pixels */
    int n_nodes; /* parents stand before their children   */
    struct mdl_spec_node nodes[MDL_SPEC_MAX_NODES];
    int n_ops;
    struct mdl_spec_op ops[MDL_SPEC_MAX_OPS];
};

/* Reads JSON text. "module" may also be "iresnet18", 34, 50 or 100, which
 * stand for their layers and widths. Errors: UT_EFORMAT naming the node and
 * member, unknown members and those of other modules included. Thread: any. */
UT_MUSTUSE enum ut_err mdl_spec_parse(const char *json, size_t len,
                                      struct mdl_spec *out, struct ut_error *e);

/* Writes it as compact JSON; the caller frees *json. Errors: UT_EINVAL naming
 * the node that has a number which is not finite; UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_spec_write(const struct mdl_spec *spec, char **json,
                                      struct ut_error *e);

/* The picture as InsightFace's networks see it, which is the default. */
extern const struct mdl_spec_image mdl_spec_image_default;
bool mdl_spec_image_equal(const struct mdl_spec_image *a,
                          const struct mdl_spec_image *b);

/* The index of the node of that name, or -1. */
int mdl_spec_find(const struct mdl_spec *spec, const char *name);

const char *mdl_module_name(enum mdl_module m);

#endif
