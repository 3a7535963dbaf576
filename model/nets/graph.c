/* A network as its spec lists it. */
#include <stdio.h>

#include "model/nets/nets.h"

static int tensor(struct mdl_graph *g, enum mdl_value_kind kind,
                  struct mdl_shape shape, const char *node, int at,
                  const char *part)
{
    return mdl_graph_param(g, kind, shape, "%s.%d.%s", node, at, part);
}

static int product(struct mdl_graph *g, int x, const struct mdl_spec_op *op,
                   const char *node, int at)
{
    const struct mdl_shape in = g->values[x].shape;
    bool conv = op->op == MDL_OP_CONV;
    int w = tensor(g, MDL_VALUE_PARAM,
                   conv ? mdl_shape_of(4, op->out, (int)in.dim[0] / op->groups,
                                       op->kernel, op->kernel)
                        : mdl_shape_of(2, op->out, (int)mdl_shape_count(&in)),
                   node, at, "weight");
    int b = op->bias ? tensor(g, MDL_VALUE_PARAM, mdl_shape_of(1, op->out),
                              node, at, "bias")
                     : -1;

    return conv ? mdl_graph_conv(g, x, w, b, op->stride, op->pad, op->groups)
                : mdl_graph_linear(g, x, w, b);
}

static int act(struct mdl_graph *g, int x, const struct mdl_spec_op *op,
               const char *node, int at)
{
    struct mdl_shape c = mdl_shape_of(1, (int)g->values[x].shape.dim[0]);
    int slope = op->act == MDL_ACT_PRELU
                    ? tensor(g, MDL_VALUE_PARAM, c, node, at, "prelu.weight")
                    : -1;

    return mdl_graph_act(g, x, op->act, op->number, slope);
}

static int batchnorm(struct mdl_graph *g, int x, const struct mdl_spec_op *op,
                     const char *node, int at)
{
    struct mdl_shape c = mdl_shape_of(1, (int)g->values[x].shape.dim[0]);

    return mdl_graph_batchnorm(
        g, x, tensor(g, MDL_VALUE_PARAM, c, node, at, "weight"),
        tensor(g, MDL_VALUE_PARAM, c, node, at, "bias"),
        tensor(g, MDL_VALUE_BUFFER, c, node, at, "running_mean"),
        tensor(g, MDL_VALUE_BUFFER, c, node, at, "running_var"), op->number);
}

static int operation(struct mdl_graph *g, const int *values,
                     const struct mdl_spec_op *op, const char *node, int at)
{
    int of[MDL_NODE_INPUTS];

    for (int i = 0; i < op->n_of; i++)
        of[i] = values[op->of[i]];
    switch (op->op) {
    case MDL_OP_CONV:
    case MDL_OP_LINEAR:
        return product(g, of[0], op, node, at);
    case MDL_OP_BATCHNORM:
        return batchnorm(g, of[0], op, node, at);
    case MDL_OP_ACT:
        return act(g, of[0], op, node, at);
    case MDL_OP_POOL:
        return mdl_graph_pool(g, of[0]);
    case MDL_OP_ADD:
        return mdl_graph_add(g, of, op->n_of);
    case MDL_OP_SCALE:
        return mdl_graph_scale(g, of[0], of[1]);
    default:
        return mdl_graph_concat(g, of, op->n_of);
    }
}

/* Puts the node and the operation before the error's text. */
static void locate(struct mdl_graph *g, const char *node, int at)
{
    char why[sizeof(g->error.msg)];

    snprintf(why, sizeof(why), "%s", g->error.msg);
    ut_fail(&g->error, g->error.code, "node \"%s\", operation %d: %.180s", node,
            at, why);
}

/* A module for each size of maps: "root.56x56". */
static void begin_module(struct mdl_graph *g, const char *node, int x,
                         int64_t *rows)
{
    const struct mdl_shape *s = &g->values[x].shape;
    char name[MDL_NAME_LEN];

    if (s->n_dims != 3 || s->dim[1] >= *rows)
        return;
    *rows = s->dim[1];
    snprintf(name, sizeof(name), "%s.%lldx%lld", node, (long long)s->dim[1],
             (long long)s->dim[2]);
    mdl_graph_module(g, name);
    if (g->values[x].producer >= 0)
        g->nodes[g->values[x].producer].module = g->n_modules - 1;
}

int mdl_net_graph(struct mdl_graph *g, int x, const struct mdl_spec *spec,
                  const struct mdl_spec_node *n)
{
    int values[MDL_SPEC_MAX_OPS + 1] = {x};
    int64_t rows = INT64_MAX;

    if (x < 0)
        return -1;
    mdl_graph_module(g, n->name);
    for (int i = 0; i < n->n_ops; i++) {
        const struct mdl_spec_op *op = &spec->ops[n->first_op + i];

        x = values[i + 1] = operation(g, values, op, n->name, i);
        if (g->error.code) {
            locate(g, n->name, i);
            return -1;
        }
        begin_module(g, n->name, x, &rows);
    }
    return x;
}
