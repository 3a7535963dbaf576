/* Shapes of the operations of training; what they want is in graph.h. */
#include "model/graph.h"

static const struct mdl_shape *shape(const struct mdl_graph *g,
                                     const struct mdl_node *n, int role)
{
    return &g->values[n->in[role]].shape;
}

static bool same(const struct mdl_graph *g, const struct mdl_node *n, int a,
                 int b)
{
    return mdl_shape_equal(shape(g, n, a), shape(g, n, b));
}

/* Inputs that an operation must have, from the first on. */
static int n_wanted(const struct mdl_node *n)
{
    switch (n->op) {
    case MDL_OP_BN_STATS:
    case MDL_OP_SUM:
        return 1;
    case MDL_OP_BN_TRAIN:
        return 4;
    case MDL_OP_BN_DX:
        return 5;
    case MDL_OP_BN_DPARAM:
    case MDL_OP_CONV_DX:
    case MDL_OP_CONV_DW:
    case MDL_OP_LINEAR_DX:
    case MDL_OP_LINEAR_DW:
    case MDL_OP_ACT_DX:
    case MDL_OP_SCALE_DS:
        return 3;
    default:
        return 2;
    }
}

/* gamma and beta may be absent, slope too. */
static bool optional(const struct mdl_node *n, int role)
{
    return (n->op == MDL_OP_BN_TRAIN && (role == 1 || role == 2)) ||
           (n->op == MDL_OP_BN_DX && role == 1) ||
           (n->op == MDL_OP_ACT_DX && role == 1);
}

bool mdl_graph_infer_gradient(const struct mdl_graph *g,
                              const struct mdl_node *n, struct mdl_shape *out,
                              bool *whole, const char **why)
{
    const struct mdl_shape *x = shape(g, n, 0);

    *why = "an input is missing";
    for (int i = 0; i < n_wanted(n); i++)
        if (i >= n->n_in || (n->in[i] < 0 && !optional(n, i)))
            return false;
    *why = "two shapes do not fit";
    *out = *x;
    switch (n->op) {
    case MDL_OP_BN_STATS:
        *whole = true;
        *out = mdl_shape_of(2, 2, (int)x->dim[0]);
        return true;
    case MDL_OP_BN_TRAIN:
        return true;
    case MDL_OP_BN_DPARAM:
        *whole = true;
        *out = mdl_shape_of(2, 2, (int)x->dim[0]);
        return same(g, n, 0, 2);
    case MDL_OP_BN_DX:
        return same(g, n, 0, 4);
    case MDL_OP_CONV_DX:
    case MDL_OP_LINEAR_DX:
        *out = *shape(g, n, 2);
        return true;
    case MDL_OP_CONV_DW:
    case MDL_OP_LINEAR_DW:
        *whole = true;
        *out = *shape(g, n, 2);
        return true;
    case MDL_OP_SUM:
        *whole = true;
        *out = mdl_shape_of(1, (int)x->dim[0]);
        return true;
    case MDL_OP_ACT_DX:
        return same(g, n, 0, 2);
    case MDL_OP_ACT_DSLOPE:
        *whole = true;
        *out = mdl_shape_of(1, (int)x->dim[0]);
        return same(g, n, 0, 1);
    case MDL_OP_POOL_DX:
        *out = *shape(g, n, 1);
        return x->n_dims == 1 && out->n_dims == 3 && x->dim[0] == out->dim[0];
    case MDL_OP_SCALE_DS:
        *out = *shape(g, n, 2);
        return same(g, n, 0, 1);
    case MDL_OP_UPSAMPLE_DX:
        *out = *shape(g, n, 1);
        return x->n_dims == 3 && out->n_dims == 3;
    case MDL_OP_SLICE:
        *out = *shape(g, n, 1);
        return x->n_dims == 3 && out->n_dims == 3 && n->first >= 0 &&
               n->first + out->dim[0] <= x->dim[0];
    case MDL_OP_L2NORM_DX:
    case MDL_OP_SOFTMAX_DX:
        return same(g, n, 0, 1);
    default:
        *why = "is no operation";
        return false;
    }
}
