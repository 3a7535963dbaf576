/* Rewriting a graph for inference.
 *
 *   1. keep the outputs asked for, drop what nothing needs
 *   2. conv - BN, linear - BN    -> scaled weights and a bias
 *   3. conv - activation         -> the convolution's epilogue
 *   4. conv + x                  -> the convolution's residual
 *   5. x - BN - padded conv      -> the stream x is stored as x + c, c = t / s
 *
 * On 5: BN(x) = s x + t with zero padding after it. Stored as x' = x + t / s,
 * BN(x) is s x', which is 0 where x' is 0: padding x' with zeros is exact.
 * What makes x adds c to its bias; every other user of x takes it off again.
 * See docs/MODEL.md "Folding". */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/graph.h"

/* A stream is shifted by t / s = beta / gamma standard deviations of x less
 * its mean. Past this many a bfloat16 stream would lose more than three bits
 * to the shift, and the BatchNorm stays a step of its own. */
#define MAX_SHIFT_SIGMA 8.0

static void kill(struct mdl_node *n)
{
    n->out = -1;
    n->n_in = 0;
}

/* The one node that uses v, or -1: v is an output, or none or several do. */
static int only_user(const struct mdl_graph *g, int v)
{
    int user = -1;

    if (g->values[v].output >= 0)
        return -1;
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i].n_in; k++)
            if (g->nodes[i].in[k] == v) {
                if (user >= 0)
                    return -1;
                user = i;
            }
    return user;
}

/* Node i takes over the value that node from makes; from dies. */
static void take_over(struct mdl_graph *g, int i, int from)
{
    g->nodes[i].out = g->nodes[from].out;
    g->values[g->nodes[i].out].producer = i;
    kill(&g->nodes[from]);
}

/* Removes dead nodes and those that no output needs. */
static enum ut_err prune(struct mdl_graph *g, struct ut_error *e)
{
    uint64_t *needs;
    int kept = 0;

    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].out >= 0)
            g->nodes[kept++] = g->nodes[i];
    g->n_nodes = kept;
    for (int i = 0; i < kept; i++)
        g->values[g->nodes[i].out].producer = i;
    needs = malloc(((size_t)kept + 1) * sizeof(*needs));
    if (!needs)
        return ut_fail(e, UT_ENOMEM, "no memory for the graph's passes");
    mdl_graph_needs(g, needs);
    kept = 0;
    for (int i = 0; i < g->n_nodes; i++)
        if (needs[i])
            g->nodes[kept++] = g->nodes[i];
    free(needs);
    g->n_nodes = kept;
    for (int i = 0; i < kept; i++)
        g->values[g->nodes[i].out].producer = i;
    return UT_OK;
}

static void drop_outputs(struct mdl_graph *g, uint64_t keep)
{
    for (int i = 0; i < g->n_outputs; i++)
        if (!(keep >> i & 1)) {
            g->values[g->outputs[i]].output = -1;
            g->outputs[i] = -1;
        }
}

/* An add of one term is its term. */
static void drop_copies(struct mdl_graph *g)
{
    for (int i = 0; i < g->n_nodes; i++) {
        struct mdl_node *n = &g->nodes[i];

        if (n->op != MDL_OP_ADD || n->n_in != 1 ||
            g->values[n->out].output >= 0)
            continue;
        for (int k = i + 1; k < g->n_nodes; k++)
            for (int r = 0; r < g->nodes[k].n_in; r++)
                if (g->nodes[k].in[r] == n->out)
                    g->nodes[k].in[r] = n->in[0];
        kill(n);
    }
}

static float param(const struct mdl_graph *g, int v, size_t at, float absent)
{
    return v < 0 ? absent : g->values[v].data[at];
}

/* BN as y = s x + t, for channel c. */
static void affine(const struct mdl_graph *g, const struct mdl_node *bn,
                   size_t c, double *s, double *t)
{
    *s = param(g, bn->in[MDL_BN_GAMMA], c, 1) /
         sqrt((double)param(g, bn->in[MDL_BN_VAR], c, 1) + bn->eps);
    *t = param(g, bn->in[MDL_BN_BETA], c, 0) -
         param(g, bn->in[MDL_BN_MEAN], c, 0) * *s;
}

/* A copy of parameter v (zeros of n if absent) that may be changed; it takes
 * v's place in *slot. NULL after an error in g->error. */
static float *own(struct mdl_graph *g, int *slot, int64_t n)
{
    struct mdl_shape shape = mdl_shape_of(1, (int)n);
    char name[MDL_NAME_LEN];
    float *data, *copy;

    snprintf(name, sizeof(name), "folded.%d", g->n_values);
    if (*slot >= 0) {
        shape = g->values[*slot].shape;
        memcpy(name, g->values[*slot].name, sizeof(name));
        for (int i = 0; i < g->n_owned; i++)
            if (g->owned[i] == g->values[*slot].data)
                return g->owned[i];
    }
    data = copy = calloc(mdl_shape_count(&shape), sizeof(*data));
    if (!data) {
        ut_fail(&g->error, UT_ENOMEM, "no memory to fold %s", name);
        return NULL;
    }
    if (*slot >= 0)
        memcpy(data, g->values[*slot].data,
               mdl_shape_count(&shape) * sizeof(*data));
    *slot = mdl_graph_param_owned(g, shape, &data, "%s", name);
    free(data);
    return *slot < 0 ? NULL : copy;
}

/* conv - BN and linear - BN. */
static void fold_after(struct mdl_graph *g)
{
    for (int i = 0; i < g->n_nodes; i++) {
        struct mdl_node *n = &g->nodes[i], *bn;
        int user = n->out < 0 ? -1 : only_user(g, n->out);
        float *w, *b;
        size_t outs, per;

        if ((n->op != MDL_OP_CONV && n->op != MDL_OP_LINEAR) || user < 0 ||
            g->nodes[user].op != MDL_OP_BATCHNORM)
            continue;
        bn = &g->nodes[user];
        outs = (size_t)g->values[n->in[MDL_IN_W]].shape.dim[0];
        per = mdl_shape_count(&g->values[n->in[MDL_IN_W]].shape) / outs;
        w = own(g, &n->in[MDL_IN_W], 0);
        b = own(g, &n->in[MDL_IN_B], (int64_t)outs);
        if (!w || !b)
            return;
        for (size_t o = 0; o < outs; o++) {
            double s, t;

            affine(g, bn, o, &s, &t);
            for (size_t k = 0; k < per; k++)
                w[o * per + k] = (float)(w[o * per + k] * s);
            b[o] = (float)(b[o] * s + t);
        }
        take_over(g, i, user);
    }
}

static void fuse_activations(struct mdl_graph *g)
{
    for (int i = 0; i < g->n_nodes; i++) {
        struct mdl_node *n = &g->nodes[i];
        int user = n->out < 0 ? -1 : only_user(g, n->out);

        if ((n->op != MDL_OP_CONV && n->op != MDL_OP_LINEAR) || user < 0 ||
            g->nodes[user].op != MDL_OP_ACT)
            continue;
        n->act = g->nodes[user].act;
        n->alpha = g->nodes[user].alpha;
        n->in[MDL_IN_SLOPE] = g->nodes[user].in[1];
        take_over(g, i, user);
    }
}

static void fuse_residuals(struct mdl_graph *g)
{
    for (int i = 0; i < g->n_nodes; i++) {
        struct mdl_node *n = &g->nodes[i], *conv;
        int last, other;

        if (n->out < 0 || n->op != MDL_OP_ADD || n->n_in != 2)
            continue;
        /* The term made last takes the other, which is there by then. */
        last =
            g->values[n->in[0]].producer > g->values[n->in[1]].producer ? 0 : 1;
        other = n->in[1 - last];
        if (g->values[n->in[last]].producer < 0 || other == n->in[last] ||
            only_user(g, n->in[last]) != i)
            continue;
        conv = &g->nodes[g->values[n->in[last]].producer];
        if (conv->op != MDL_OP_CONV || conv->in[MDL_IN_RESIDUAL] >= 0)
            continue;
        conv->in[MDL_IN_RESIDUAL] = other;
        take_over(g, g->values[n->in[last]].producer, i);
    }
}

/* Adds sign * c to all that conv n puts out. */
static bool add_shift(struct mdl_graph *g, struct mdl_node *n, const double *c,
                      double sign)
{
    size_t outs = (size_t)g->values[n->out].shape.dim[0];
    float *b =
        own(g, n->act == MDL_ACT_NONE ? &n->in[MDL_IN_B] : &n->in[MDL_IN_SHIFT],
            (int64_t)outs);

    for (size_t o = 0; b && o < outs; o++)
        b[o] = (float)(b[o] + sign * c[o]);
    return b != NULL;
}

/* Takes W c off the bias of an unpadded conv whose input grew by c. */
static bool unshift_input(struct mdl_graph *g, struct mdl_node *n,
                          const double *c)
{
    const struct mdl_shape w = g->values[n->in[MDL_IN_W]].shape;
    size_t outs = (size_t)w.dim[0], ins = (size_t)w.dim[1];
    size_t per = (size_t)(w.dim[2] * w.dim[3]);
    size_t group = outs / (size_t)n->groups;
    const float *weights = g->values[n->in[MDL_IN_W]].data;
    float *b = own(g, &n->in[MDL_IN_B], (int64_t)outs);

    for (size_t o = 0; b && o < outs; o++) {
        double sum = 0;

        for (size_t i = 0; i < ins; i++)
            for (size_t k = 0; k < per; k++)
                sum +=
                    weights[(o * ins + i) * per + k] * c[o / group * ins + i];
        b[o] = (float)(b[o] - sum);
    }
    return b != NULL;
}

/* Whether BN node bn can go into its convolutions by shifting its input. */
static bool can_shift(const struct mdl_graph *g, int at)
{
    const struct mdl_node *bn = &g->nodes[at];
    int x = bn->in[0];
    size_t channels = (size_t)g->values[x].shape.dim[0];

    if (g->values[x].output >= 0 || g->values[bn->out].output >= 0 ||
        g->values[x].producer < 0 ||
        g->nodes[g->values[x].producer].op != MDL_OP_CONV)
        return false;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct mdl_node *n = &g->nodes[i];

        for (int k = 0; k < n->n_in; k++) {
            if (n->in[k] == bn->out &&
                (n->op != MDL_OP_CONV || k != MDL_IN_X || n->groups != 1))
                return false;
            if (n->in[k] == x && i != at &&
                (n->op != MDL_OP_CONV ||
                 (k != MDL_IN_RESIDUAL && (k != MDL_IN_X || n->pad))))
                return false;
        }
    }
    for (size_t c = 0; c < channels; c++)
        if (fabs(param(g, bn->in[MDL_BN_BETA], c, 0)) >
            MAX_SHIFT_SIGMA * fabs(param(g, bn->in[MDL_BN_GAMMA], c, 1)))
            return false;
    return true;
}

/* Scales the input channels of conv n by BN bn's s. */
static bool scale_input(struct mdl_graph *g, struct mdl_node *n,
                        const double *s)
{
    const struct mdl_shape shape = g->values[n->in[MDL_IN_W]].shape;
    size_t per = (size_t)(shape.dim[2] * shape.dim[3]);
    float *w = own(g, &n->in[MDL_IN_W], 0);

    for (size_t k = 0; w && k < mdl_shape_count(&shape); k++)
        w[k] = (float)(w[k] * s[k / per % (size_t)shape.dim[1]]);
    return w != NULL;
}

static bool shift_stream(struct mdl_graph *g, int at, double *s, double *c)
{
    struct mdl_node *bn = &g->nodes[at];
    int x = bn->in[0], y = bn->out;
    size_t channels = (size_t)g->values[x].shape.dim[0];

    for (size_t i = 0; i < channels; i++) {
        double t;

        affine(g, bn, i, &s[i], &t);
        c[i] = s[i] != 0 ? t / s[i] : 0;
    }
    if (!add_shift(g, &g->nodes[g->values[x].producer], c, 1))
        return false;
    kill(bn);
    for (int i = 0; i < g->n_nodes; i++) {
        struct mdl_node *n = &g->nodes[i];

        if (n->op != MDL_OP_CONV || n->out < 0)
            continue;
        if (n->in[MDL_IN_RESIDUAL] == x && !add_shift(g, n, c, -1))
            return false;
        if (n->in[MDL_IN_X] == x && !unshift_input(g, n, c))
            return false;
        if (n->in[MDL_IN_X] == y) {
            if (!scale_input(g, n, s))
                return false;
            n->in[MDL_IN_X] = x;
        }
    }
    return true;
}

static void fold_before(struct mdl_graph *g)
{
    for (int i = 0; i < g->n_nodes; i++) {
        size_t channels;
        double *s;

        if (g->nodes[i].out < 0 || g->nodes[i].op != MDL_OP_BATCHNORM ||
            !can_shift(g, i))
            continue;
        channels = (size_t)g->values[g->nodes[i].in[0]].shape.dim[0];
        s = malloc(2 * channels * sizeof(*s));
        if (!s || !shift_stream(g, i, s, s + channels))
            ut_fail(&g->error, UT_ENOMEM, "no memory to fold a BatchNorm");
        free(s);
        if (g->error.code)
            return;
    }
}

enum ut_err mdl_graph_optimise(const struct mdl_graph *g, uint64_t keep,
                               struct mdl_graph *out, struct ut_error *e)
{
    enum ut_err rc;

    for (int i = 0; i < g->n_values; i++)
        if ((g->values[i].kind == MDL_VALUE_PARAM ||
             g->values[i].kind == MDL_VALUE_BUFFER) &&
            !g->values[i].data)
            return ut_fail(e, UT_EINVAL, "parameter %s has no values",
                           g->values[i].name);
    rc = mdl_graph_copy(g, out, e);
    if (rc)
        return rc;
    drop_outputs(out, keep);
    drop_copies(out);
    rc = prune(out, e);
    if (!rc) {
        fold_after(out);
        fuse_activations(out);
        fuse_residuals(out);
        rc = prune(out, e);
    }
    if (!rc) {
        fold_before(out);
        rc = prune(out, e);
    }
    if (!rc && out->error.code)
        rc = ut_fail(e, out->error.code, "%s", out->error.msg);
    if (rc)
        mdl_graph_fini(out);
    return rc;
}
