/* ONNX by hand: the few messages of onnx.proto that a graph needs. */
#include "model/onnx/onnx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"

#define MAX_BYTES ((size_t)INT32_MAX)
#define INPUT "images"

/* Field numbers and types of onnx.proto3. */
enum { VARINT = 0, BYTES = 2, FIXED32 = 5 };
enum { TYPE_FLOAT = 1, TYPE_UINT8 = 2, TYPE_INT64 = 7 };

struct writer {
    const struct mdl_graph *g;
    struct ut_buf graph; /* GraphProto */
    struct ut_buf node;  /* NodeProto under construction */
    int n_extra;         /* names made here */
    enum ut_err rc;
    struct ut_error *e;
};

/* ---- protobuf ---- */

static void raw(struct writer *w, struct ut_buf *b, const void *data,
                size_t len)
{
    if (!w->rc)
        w->rc = ut_buf_add(b, data, len, w->e);
}

static void varint(struct writer *w, struct ut_buf *b, uint64_t v)
{
    do {
        uint8_t byte = (uint8_t)((v & 127) | (v > 127 ? 128 : 0));

        raw(w, b, &byte, 1);
        v >>= 7;
    } while (v);
}

static void integer(struct writer *w, struct ut_buf *b, int field, uint64_t v)
{
    varint(w, b, (uint64_t)field << 3 | VARINT);
    varint(w, b, v);
}

static void bytes(struct writer *w, struct ut_buf *b, int field,
                  const void *data, size_t len)
{
    varint(w, b, (uint64_t)field << 3 | BYTES);
    varint(w, b, len);
    raw(w, b, data, len);
}

static void text(struct writer *w, struct ut_buf *b, int field, const char *s)
{
    bytes(w, b, field, s, strlen(s));
}

/* Moves a finished message into its parent. */
static void message(struct writer *w, struct ut_buf *b, int field,
                    struct ut_buf *child)
{
    bytes(w, b, field, child->data ? child->data : "", child->len);
    ut_buf_fini(child);
}

/* ---- tensors and types ---- */

static void tensor(struct writer *w, const char *name, int type, int n_dims,
                   const int64_t *dims, const void *data, size_t len)
{
    struct ut_buf t;

    ut_buf_init(&t, MAX_BYTES);
    for (int i = 0; i < n_dims; i++)
        integer(w, &t, 1, (uint64_t)dims[i]);
    integer(w, &t, 2, (uint64_t)type);
    text(w, &t, 8, name);
    bytes(w, &t, 9, data, len);
    message(w, &w->graph, 5, &t);
}

static void value_info(struct writer *w, int field, const char *name, int type,
                       const struct mdl_shape *s)
{
    struct ut_buf info, typed, tens, shape, dim;

    ut_buf_init(&info, MAX_BYTES);
    ut_buf_init(&typed, MAX_BYTES);
    ut_buf_init(&tens, MAX_BYTES);
    ut_buf_init(&shape, MAX_BYTES);
    for (int i = -1; i < s->n_dims; i++) {
        ut_buf_init(&dim, MAX_BYTES);
        if (i < 0)
            text(w, &dim, 2, "N");
        else
            integer(w, &dim, 1, (uint64_t)s->dim[i]);
        message(w, &shape, 1, &dim);
    }
    integer(w, &tens, 1, (uint64_t)type);
    message(w, &tens, 2, &shape);
    message(w, &typed, 1, &tens);
    text(w, &info, 1, name);
    message(w, &info, 2, &typed);
    message(w, &w->graph, field, &info);
}

/* ---- nodes: inputs, then outputs, then attributes, then end() ---- */

struct name {
    char text[MDL_NAME_LEN + 16];
};

/* Names made here are of a kind that no node of a spec has: "v.12". */
static struct name name_of(const struct writer *w, int v)
{
    const struct mdl_value *value = &w->g->values[v];
    struct name n;

    if (v == w->g->input)
        snprintf(n.text, sizeof(n.text), INPUT);
    else if (value->name[0])
        snprintf(n.text, sizeof(n.text), "%s", value->name);
    else
        snprintf(n.text, sizeof(n.text), "v.%d", v);
    return n;
}

static struct name fresh(struct writer *w)
{
    struct name n;

    snprintf(n.text, sizeof(n.text), "x.%d", w->n_extra++);
    return n;
}

static void begin(struct writer *w, const char *op)
{
    ut_buf_init(&w->node, MAX_BYTES);
    text(w, &w->node, 4, op);
}

static void in(struct writer *w, struct name n)
{
    text(w, &w->node, 1, n.text);
}

static void attribute_int(struct writer *w, const char *name, int64_t v)
{
    struct ut_buf a;

    ut_buf_init(&a, MAX_BYTES);
    text(w, &a, 1, name);
    integer(w, &a, 3, (uint64_t)v);
    integer(w, &a, 20, 2);
    message(w, &w->node, 5, &a);
}

static void attribute_float(struct writer *w, const char *name, float v)
{
    struct ut_buf a;

    ut_buf_init(&a, MAX_BYTES);
    text(w, &a, 1, name);
    varint(w, &a, 2 << 3 | FIXED32);
    raw(w, &a, &v, sizeof(v));
    integer(w, &a, 20, 1);
    message(w, &w->node, 5, &a);
}

static void attribute_text(struct writer *w, const char *name, const char *v)
{
    struct ut_buf a;

    ut_buf_init(&a, MAX_BYTES);
    text(w, &a, 1, name);
    text(w, &a, 4, v);
    integer(w, &a, 20, 3);
    message(w, &w->node, 5, &a);
}

static void attribute_ints(struct writer *w, const char *name, int n,
                           const int64_t *v)
{
    struct ut_buf a;

    ut_buf_init(&a, MAX_BYTES);
    text(w, &a, 1, name);
    for (int i = 0; i < n; i++)
        integer(w, &a, 8, (uint64_t)v[i]);
    integer(w, &a, 20, 7);
    message(w, &w->node, 5, &a);
}

static void end(struct writer *w, struct name out)
{
    text(w, &w->node, 2, out.text);
    message(w, &w->graph, 1, &w->node);
}

/* A constant of this node's own. */
static struct name floats(struct writer *w, int n_dims, const int64_t *dims,
                          const float *data)
{
    struct name n = fresh(w);
    size_t len = sizeof(*data);

    for (int i = 0; i < n_dims; i++)
        len *= (size_t)dims[i];
    tensor(w, n.text, TYPE_FLOAT, n_dims, dims, data, len);
    return n;
}

static struct name ints(struct writer *w, int n, const int64_t *v)
{
    const int64_t dims[] = {n};
    struct name made = fresh(w);

    tensor(w, made.text, TYPE_INT64, 1, dims, v, (size_t)n * sizeof(*v));
    return made;
}

static struct name one_in(struct writer *w, const char *op, struct name x)
{
    struct name y = fresh(w);

    begin(w, op);
    in(w, x);
    end(w, y);
    return y;
}

static void two_in(struct writer *w, const char *op, struct name a,
                   struct name b, struct name out)
{
    begin(w, op);
    in(w, a);
    in(w, b);
    end(w, out);
}

/* ---- operations ---- */

static bool is_map(const struct writer *w, int v)
{
    return w->g->values[v].shape.n_dims == 3;
}

/* A parameter [C] as it broadcasts over value v. */
static struct name by_channel(struct writer *w, int param, int v)
{
    const struct mdl_value *p = &w->g->values[param];
    const int64_t dims[] = {p->shape.dim[0], 1, 1};

    return floats(w, is_map(w, v) ? 3 : 1, dims, p->data);
}

static void write_image(struct writer *w, const struct mdl_node *n,
                        struct name out)
{
    static const int64_t order[] = {0, 3, 1, 2}, dims[] = {3, 1, 1},
                         reverse[] = {2, 1, 0};
    struct name x = fresh(w), y, z = fresh(w);

    begin(w, "Transpose");
    in(w, name_of(w, n->in[0]));
    attribute_ints(w, "perm", 4, order);
    end(w, x);
    y = fresh(w);
    begin(w, "Cast");
    in(w, x);
    attribute_int(w, "to", TYPE_FLOAT);
    end(w, y);
    if (n->bgr) {
        x = y;
        y = fresh(w);
        begin(w, "Gather");
        in(w, x);
        in(w, ints(w, 3, reverse));
        attribute_int(w, "axis", 1);
        end(w, y);
    }
    two_in(w, "Sub", y, floats(w, 3, dims, n->mean), z);
    two_in(w, "Mul", z, floats(w, 3, dims, n->scale), out);
}

static struct name write_act(struct writer *w, enum mdl_act act, float alpha,
                             int slope, int like, struct name x,
                             struct name out)
{
    static const float six = 6, zero = 0;

    begin(w, act == MDL_ACT_RELU      ? "Relu"
             : act == MDL_ACT_RELU6   ? "Clip"
             : act == MDL_ACT_LEAKY   ? "LeakyRelu"
             : act == MDL_ACT_PRELU   ? "PRelu"
             : act == MDL_ACT_SIGMOID ? "Sigmoid"
                                      : "Identity");
    in(w, x);
    if (act == MDL_ACT_RELU6) {
        in(w, floats(w, 0, NULL, &zero));
        in(w, floats(w, 0, NULL, &six));
    }
    if (act == MDL_ACT_PRELU)
        in(w, by_channel(w, slope, like));
    if (act == MDL_ACT_LEAKY)
        attribute_float(w, "alpha", alpha);
    end(w, out);
    return out;
}

static int role(const struct mdl_node *n, int which)
{
    return which < n->n_in ? n->in[which] : -1;
}

/* A fused convolution is written as its parts, the last of which makes out. */
static void write_product(struct writer *w, const struct mdl_node *n,
                          struct name out)
{
    const int64_t k[] = {n->kernel, n->kernel}, s[] = {n->stride, n->stride};
    const int64_t p[] = {n->pad, n->pad, n->pad, n->pad};
    int bias = role(n, MDL_IN_B), shift = role(n, MDL_IN_SHIFT);
    int residual = role(n, MDL_IN_RESIDUAL);
    bool adds = shift >= 0 || residual >= 0;
    struct name x = name_of(w, n->in[MDL_IN_X]), y, z;

    if (n->op == MDL_OP_LINEAR) {
        x = one_in(w, "Flatten", x);
        begin(w, "Gemm");
        attribute_int(w, "transB", 1);
    } else {
        begin(w, "Conv");
        attribute_ints(w, "kernel_shape", 2, k);
        attribute_ints(w, "strides", 2, s);
        attribute_ints(w, "pads", 4, p);
        attribute_int(w, "group", n->groups);
    }
    in(w, x);
    in(w, name_of(w, n->in[MDL_IN_W]));
    if (bias >= 0)
        in(w, name_of(w, bias));
    y = n->act != MDL_ACT_NONE || adds ? fresh(w) : out;
    end(w, y);
    if (n->act != MDL_ACT_NONE)
        y = write_act(w, n->act, n->alpha, role(n, MDL_IN_SLOPE), n->out, y,
                      adds ? fresh(w) : out);
    if (shift >= 0) {
        z = residual >= 0 ? fresh(w) : out;
        two_in(w, "Add", y, by_channel(w, shift, n->out), z);
        y = z;
    }
    if (residual >= 0)
        two_in(w, "Add", y, name_of(w, residual), out);
}

static void write_batchnorm(struct writer *w, const struct mdl_node *n,
                            struct name out)
{
    const struct mdl_value *mean = &w->g->values[n->in[MDL_BN_MEAN]];
    const int64_t dims[] = {mean->shape.dim[0]};
    float *ones = malloc((size_t)dims[0] * sizeof(*ones));
    float *zeros = calloc((size_t)dims[0], sizeof(*zeros));
    struct name gamma = {""}, beta = {""};

    if (!ones || !zeros) {
        w->rc = ut_fail(w->e, UT_ENOMEM, "no memory");
    } else {
        for (int64_t i = 0; i < dims[0]; i++)
            ones[i] = 1;
        gamma = n->in[MDL_BN_GAMMA] >= 0 ? name_of(w, n->in[MDL_BN_GAMMA])
                                         : floats(w, 1, dims, ones);
        beta = n->in[MDL_BN_BETA] >= 0 ? name_of(w, n->in[MDL_BN_BETA])
                                       : floats(w, 1, dims, zeros);
    }
    free(ones);
    free(zeros);
    begin(w, "BatchNormalization");
    in(w, name_of(w, n->in[MDL_IN_X]));
    in(w, gamma);
    in(w, beta);
    in(w, name_of(w, n->in[MDL_BN_MEAN]));
    in(w, name_of(w, n->in[MDL_BN_VAR]));
    attribute_float(w, "epsilon", n->eps);
    end(w, out);
}

static void write_scale(struct writer *w, const struct mdl_node *n,
                        struct name out)
{
    struct name s = name_of(w, n->in[1]), map;
    const int64_t shape[] = {0, -1, 1, 1};

    if (is_map(w, n->in[0]) && !is_map(w, n->in[1])) {
        map = fresh(w);
        two_in(w, "Reshape", s, ints(w, 4, shape), map);
        s = map;
    }
    two_in(w, "Mul", name_of(w, n->in[0]), s, out);
}

static void write_l2norm(struct writer *w, const struct mdl_node *n,
                         struct name out)
{
    static const int64_t axis[] = {1};
    static const float least = 1e-12f;
    struct name x = name_of(w, n->in[0]), norm = fresh(w), safe = fresh(w);

    begin(w, "ReduceL2");
    in(w, x);
    attribute_ints(w, "axes", 1, axis);
    end(w, norm);
    two_in(w, "Max", norm, floats(w, 0, NULL, &least), safe);
    two_in(w, "Div", x, safe, out);
}

static void write_upsample(struct writer *w, const struct mdl_node *n,
                           struct name out)
{
    const struct mdl_shape *from = &w->g->values[n->in[0]].shape;
    const struct mdl_shape *to = &w->g->values[n->out].shape;
    const float scales[] = {1, 1, (float)to->dim[1] / (float)from->dim[1],
                            (float)to->dim[2] / (float)from->dim[2]};
    const int64_t dims[] = {4};
    const struct name none = {""};

    begin(w, "Resize");
    in(w, name_of(w, n->in[0]));
    in(w, none);
    in(w, floats(w, 1, dims, scales));
    attribute_text(w, "mode", "nearest");
    attribute_text(w, "coordinate_transformation_mode", "asymmetric");
    attribute_text(w, "nearest_mode", "floor");
    end(w, out);
}

static void write_softmax(struct writer *w, const struct mdl_node *n,
                          struct name out)
{
    const struct mdl_shape *s = &w->g->values[n->out].shape;
    const int64_t pairs[] = {0, s->dim[0] / 2, 2, s->dim[1], s->dim[2]};
    const int64_t flat[] = {0, s->dim[0], s->dim[1], s->dim[2]};
    struct name x = fresh(w), y = fresh(w);

    two_in(w, "Reshape", name_of(w, n->in[0]), ints(w, 5, pairs), x);
    begin(w, "Softmax");
    in(w, x);
    attribute_int(w, "axis", 2);
    end(w, y);
    two_in(w, "Reshape", y, ints(w, 4, flat), out);
}

static void write_sum(struct writer *w, const struct mdl_node *n,
                      struct name out)
{
    begin(w, n->op == MDL_OP_ADD ? "Sum" : "Concat");
    for (int i = 0; i < n->n_in; i++)
        in(w, name_of(w, n->in[i]));
    if (n->op == MDL_OP_CONCAT)
        attribute_int(w, "axis", 1);
    end(w, out);
}

static void write_node(struct writer *w, const struct mdl_node *n)
{
    struct name out = name_of(w, n->out), mean;

    switch (n->op) {
    case MDL_OP_IMAGE:
        write_image(w, n, out);
        break;
    case MDL_OP_CONV:
    case MDL_OP_LINEAR:
        write_product(w, n, out);
        break;
    case MDL_OP_BATCHNORM:
        write_batchnorm(w, n, out);
        break;
    case MDL_OP_ACT:
        write_act(w, n->act, n->alpha, role(n, 1), n->in[0],
                  name_of(w, n->in[0]), out);
        break;
    case MDL_OP_POOL:
        mean = one_in(w, "GlobalAveragePool", name_of(w, n->in[0]));
        begin(w, "Flatten");
        in(w, mean);
        end(w, out);
        break;
    case MDL_OP_ADD:
    case MDL_OP_CONCAT:
        write_sum(w, n, out);
        break;
    case MDL_OP_SCALE:
        write_scale(w, n, out);
        break;
    case MDL_OP_L2NORM:
        write_l2norm(w, n, out);
        break;
    case MDL_OP_UPSAMPLE:
        write_upsample(w, n, out);
        break;
    case MDL_OP_SOFTMAX:
        write_softmax(w, n, out);
        break;
    default:
        w->rc = ut_fail(w->e, UT_EINVAL, "%s belongs to training",
                        mdl_op_name(n->op));
    }
}

/* Whether by_channel writes this input of n. */
static bool is_by_channel(const struct mdl_node *n, int k)
{
    return n->op == MDL_OP_ACT ? k == 1
                               : n->op == MDL_OP_CONV &&
                                     (k == MDL_IN_SLOPE || k == MDL_IN_SHIFT);
}

/* The parameters of the nodes that are written, once each. */
static void write_params(struct writer *w, const uint64_t *needs, uint64_t keep)
{
    const struct mdl_graph *g = w->g;
    bool *used = calloc((size_t)g->n_values, sizeof(*used));

    if (!used) {
        w->rc = ut_fail(w->e, UT_ENOMEM, "no memory");
        return;
    }
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; needs[i] & keep && k < g->nodes[i].n_in; k++)
            if (g->nodes[i].in[k] >= 0 && !is_by_channel(&g->nodes[i], k))
                used[g->nodes[i].in[k]] = true;
    for (int v = 0; v < g->n_values && !w->rc; v++) {
        const struct mdl_value *p = &g->values[v];

        if (!used[v] ||
            (p->kind != MDL_VALUE_PARAM && p->kind != MDL_VALUE_BUFFER))
            continue;
        if (!p->data)
            w->rc = ut_fail(w->e, UT_EINVAL, "%s is not bound", p->name);
        else
            tensor(w, name_of(w, v).text, TYPE_FLOAT, p->shape.n_dims,
                   p->shape.dim, p->data,
                   mdl_shape_count(&p->shape) * sizeof(float));
    }
    free(used);
}

static void write_graph(struct writer *w, uint64_t keep)
{
    const struct mdl_graph *g = w->g;
    uint64_t *needs = calloc((size_t)g->n_nodes + 1, sizeof(*needs));

    if (!needs) {
        w->rc = ut_fail(w->e, UT_ENOMEM, "no memory");
        return;
    }
    if (mdl_graph_find_output(g, INPUT) >= 0)
        w->rc = ut_fail(w->e, UT_EINVAL,
                        "an output is called \"" INPUT "\", as the input is");
    mdl_graph_needs(g, needs);
    text(w, &w->graph, 2, "tscaf");
    write_params(w, needs, keep);
    value_info(w, 11, INPUT, TYPE_UINT8, &g->values[g->input].shape);
    for (int i = 0; i < g->n_outputs; i++)
        if (keep >> i & 1 && g->outputs[i] >= 0)
            value_info(w, 12, name_of(w, g->outputs[i]).text, TYPE_FLOAT,
                       &g->values[g->outputs[i]].shape);
    for (int i = 0; i < g->n_nodes && !w->rc; i++)
        if (needs[i] & keep)
            write_node(w, &g->nodes[i]);
    free(needs);
}

enum ut_err mdl_onnx_write(const char *path, const struct mdl_graph *g,
                           uint64_t keep, struct ut_error *e)
{
    struct writer w = {.g = g, .e = e};
    struct ut_buf model, opset;

    ut_buf_init(&w.graph, MAX_BYTES);
    ut_buf_init(&model, MAX_BYTES);
    ut_buf_init(&opset, MAX_BYTES);
    write_graph(&w, keep);
    integer(&w, &model, 1, 8);
    text(&w, &model, 2, "tscaf");
    integer(&w, &opset, 2, 17);
    message(&w, &model, 8, &opset);
    varint(&w, &model, 7 << 3 | BYTES); /* the graph follows, not copied */
    varint(&w, &model, w.graph.len);
    if (!w.rc) {
        const struct ut_file_part parts[] = {{model.data, model.len},
                                             {w.graph.data, w.graph.len}};

        w.rc = ut_file_write_parts(path, 0644, parts, 2, e);
    }
    ut_buf_fini(&w.node);
    ut_buf_fini(&w.graph);
    ut_buf_fini(&model);
    return w.rc;
}
