/* LASE-Net branches and the two heads.
 *
 *   a = sigmoid(conv1x1(relu(conv1x1(x))))      [1,H,W]   LANet
 *   s = sigmoid(fc(relu(fc(mean(x)))))          [C]       SENet
 *   y = x + a x + s x                           [C,H,W]
 *
 * Source: the paper's equations (1) to (4); tests/golden/reference.py. */
#include <stdio.h>

#include "model/nets/nets.h"

/* A convolution or linear with bias: PREFIX.PART.weight and .bias. */
static int biased(struct mdl_graph *g, enum mdl_op op, int x,
                  const char *prefix, const char *part, int out)
{
    const struct mdl_shape *in;
    int w, b;

    if (x < 0)
        return -1;
    in = &g->values[x].shape;
    w = mdl_graph_param(g, MDL_VALUE_PARAM,
                        op == MDL_OP_CONV
                            ? mdl_shape_of(4, out, (int)in->dim[0], 1, 1)
                            : mdl_shape_of(2, out, (int)mdl_shape_count(in)),
                        "%s.%s.weight", prefix, part);
    b = mdl_graph_param(g, MDL_VALUE_PARAM, mdl_shape_of(1, out), "%s.%s.bias",
                        prefix, part);
    return op == MDL_OP_CONV ? mdl_graph_conv(g, x, w, b, 1, 0, 1)
                             : mdl_graph_linear(g, x, w, b);
}

/* C / r, at least one. */
static int squeeze(const struct mdl_graph *g, int x, int r)
{
    int c = x < 0 ? 1 : (int)g->values[x].shape.dim[0] / r;

    return c < 1 ? 1 : c;
}

int mdl_net_branch(struct mdl_graph *g, int x, const struct mdl_spec_node *n)
{
    bool la = n->module == MDL_MODULE_LASE || n->module == MDL_MODULE_LA;
    bool se = n->module == MDL_MODULE_LASE || n->module == MDL_MODULE_SE;
    int sum[3] = {x}, n_sum = 1, a;

    mdl_graph_module(g, n->name);
    if (la) {
        a = biased(g, MDL_OP_CONV, x, n->name, "lase.la.conv1",
                   squeeze(g, x, n->la_r));
        a = mdl_graph_act(g, a, MDL_ACT_RELU, 0, -1);
        a = biased(g, MDL_OP_CONV, a, n->name, "lase.la.conv2", 1);
        a = mdl_graph_act(g, a, MDL_ACT_SIGMOID, 0, -1);
        mdl_graph_output(g, a, "%s.attention.la", n->name);
        sum[n_sum++] = mdl_graph_scale(g, x, a);
    }
    if (se) {
        a = biased(g, MDL_OP_LINEAR, mdl_graph_pool(g, x), n->name,
                   "lase.se.fc1", squeeze(g, x, n->se_r));
        a = mdl_graph_act(g, a, MDL_ACT_RELU, 0, -1);
        a = biased(g, MDL_OP_LINEAR, a, n->name, "lase.se.fc2",
                   squeeze(g, x, 1));
        a = mdl_graph_act(g, a, MDL_ACT_SIGMOID, 0, -1);
        mdl_graph_output(g, a, "%s.attention.se", n->name);
        sum[n_sum++] = mdl_graph_scale(g, x, a);
    }
    /* One term ("none") is an add too: its output has a name of its own. */
    x = mdl_graph_add(g, sum, n_sum);
    mdl_graph_output(g, x, "%s.lase", n->name);
    return x;
}

/* A graph's own last vector, which must have n numbers; it gets a name of its
 * own by an add of one term. */
static int own_head(struct mdl_graph *g, int x, const char *name, int n)
{
    if (g->values[x].shape.dim[0] != n) {
        ut_fail(&g->error, UT_EINVAL,
                "node \"%s\" ends in %lld numbers, but its head has %d", name,
                (long long)g->values[x].shape.dim[0], n);
        return -1;
    }
    return mdl_graph_add(g, &x, 1);
}

void mdl_net_head(struct mdl_graph *g, int x, const struct mdl_spec_node *n)
{
    bool vector = x >= 0 && g->values[x].shape.n_dims == 1;
    char name[MDL_NAME_LEN];

    if (n->head == MDL_HEAD_BINARY) {
        x = vector ? own_head(g, x, n->name, 1)
                   : biased(g, MDL_OP_LINEAR, mdl_graph_pool(g, x), n->name,
                            "head.fc", 1);
        mdl_graph_output(g, x, "%s.logit", n->name);
        x = mdl_graph_act(g, x, MDL_ACT_SIGMOID, 0, -1);
        mdl_graph_output(g, x, "%s.probability", n->name);
    } else if (n->head == MDL_HEAD_EMBEDDING) {
        if (vector) {
            x = own_head(g, x, n->name, n->dim);
        } else {
            x = biased(g, MDL_OP_LINEAR, x, n->name, "head.fc", n->dim);
            snprintf(name, sizeof(name), "%s.head.bn", n->name);
            x = mdl_net_batchnorm(g, x, name);
        }
        mdl_graph_output(g, x, "%s.embedding", n->name);
        x = mdl_graph_l2norm(g, x);
        mdl_graph_output(g, x, "%s.embedding.normalized", n->name);
    }
}
