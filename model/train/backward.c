/* Reverse-mode differentiation: the forward nodes once in order, then once
 * back, each adding what its result's gradient means for its inputs. */
#include "model/train/backward.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct builder {
    const struct mdl_graph *from;
    struct mdl_step *step;
    struct mdl_graph *g; /* the step's */
    const bool *trains;
    int *moved;    /* [from values]: the step's value */
    int *stats;    /* [from nodes]: of a BatchNorm in training, or -1 */
    bool *needs;   /* [from values]: a trained parameter lies above */
    int *gradient; /* [from values]: summed so far, or -1 */
    bool *used;    /* [from values]: leads to an end */
    int cap_gradients, cap_statistics;
};

static struct mdl_node node_of(const struct mdl_node *like, enum mdl_op op)
{
    struct mdl_node n = *like;

    n.op = op;
    for (int i = 0; i < MDL_NODE_INPUTS; i++)
        n.in[i] = -1;
    n.n_in = 0;
    return n;
}

static int add_input(struct mdl_node *n, int value)
{
    n->in[n->n_in] = value;
    return n->n_in++;
}

static int make(struct builder *b, const struct mdl_node *like, enum mdl_op op,
                int n, const int *in)
{
    struct mdl_node node = node_of(like, op);

    for (int i = 0; i < n; i++)
        add_input(&node, in[i]);
    return mdl_graph_append(b->g, &node);
}

#define MAKE(b, like, op, ...)                                                 \
    make(b, like, op, (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)),       \
         (int[]){__VA_ARGS__})

static int from_in(const struct mdl_node *n, int role)
{
    return role < n->n_in ? n->in[role] : -1;
}

static int in(const struct builder *b, const struct mdl_node *n, int role)
{
    int v = from_in(n, role);

    return v < 0 ? -1 : b->moved[v];
}

static bool grow(struct builder *b, void **array, int n, int *cap, size_t size)
{
    int want = *cap ? 2 * *cap : 64;
    void *more;

    if (n < *cap)
        return true;
    more = realloc(*array, (size_t)want * size);
    if (!more) {
        ut_fail(&b->g->error, UT_ENOMEM, "no memory for a training step");
        return false;
    }
    *array = more;
    *cap = want;
    return true;
}

/* ---- forward ---- */

/* A BatchNorm trains if it has a parameter that does. */
static bool bn_trains(const struct builder *b, const struct mdl_node *n)
{
    int gamma = from_in(n, MDL_BN_GAMMA), beta = from_in(n, MDL_BN_BETA);

    return (gamma >= 0 && b->trains[gamma]) || (beta >= 0 && b->trains[beta]);
}

static int forward_bn(struct builder *b, int at)
{
    const struct mdl_node *n = &b->from->nodes[at];
    const struct mdl_shape *x = &b->from->values[n->in[0]].shape;
    struct mdl_step *s = b->step;
    int stats = MAKE(b, n, MDL_OP_BN_STATS, in(b, n, 0));

    if (stats < 0 || !grow(b, (void **)&s->statistics, s->n_statistics,
                           &b->cap_statistics, sizeof(*s->statistics)))
        return -1;
    b->g->values[stats].keep = true;
    b->stats[at] = stats;
    s->statistics[s->n_statistics++] = (struct mdl_statistics){
        .mean = n->in[MDL_BN_MEAN],
        .var = n->in[MDL_BN_VAR],
        .stats = stats,
        .places = (int64_t)mdl_shape_count(x) / x->dim[0],
    };
    return MAKE(b, n, MDL_OP_BN_TRAIN, in(b, n, 0), in(b, n, MDL_BN_GAMMA),
                in(b, n, MDL_BN_BETA), stats);
}

static void forward_node(struct builder *b, int at)
{
    const struct mdl_node *n = &b->from->nodes[at];
    struct mdl_node copy = *n;

    b->stats[at] = -1;
    for (int i = 0; i < n->n_in; i++) {
        copy.in[i] = in(b, n, i);
        if (n->in[i] >= 0)
            b->needs[n->out] |= b->needs[n->in[i]] || b->trains[n->in[i]];
    }
    b->moved[n->out] = n->op == MDL_OP_BATCHNORM && bn_trains(b, n)
                           ? forward_bn(b, at)
                           : mdl_graph_append(b->g, &copy);
}

/* Values that are no results, as they are. */
static void move_given(struct builder *b)
{
    for (int v = 0; v < b->from->n_values; v++) {
        const struct mdl_value *value = &b->from->values[v];
        int to;

        b->moved[v] = b->gradient[v] = -1;
        if (value->kind == MDL_VALUE_RESULT)
            continue;
        if (value->kind == MDL_VALUE_INPUT)
            to = mdl_graph_input(b->g, (int)value->shape.dim[0],
                                 (int)value->shape.dim[1]);
        else
            to = mdl_graph_param(b->g, value->kind, value->shape, "%s",
                                 value->name);
        if (to >= 0)
            b->g->values[to].data = value->data;
        b->moved[v] = to;
    }
}

/* ---- backward ---- */

/* Adds a term to the gradient of value v of the forward graph. */
static void contribute(struct builder *b, int v, int term)
{
    if (v < 0 || !b->needs[v])
        return;
    if (b->gradient[v] >= 0)
        term = mdl_graph_add(b->g, (int[]){b->gradient[v], term}, 2);
    b->gradient[v] = term;
}

/* Notes where the gradient of a parameter lies. */
static void note(struct builder *b, int param, int grad, int at)
{
    struct mdl_step *s = b->step;

    if (param < 0 || !b->trains[param] || grad < 0 ||
        !grow(b, (void **)&s->gradients, s->n_gradients, &b->cap_gradients,
              sizeof(*s->gradients)))
        return;
    b->g->values[grad].keep = true;
    s->gradients[s->n_gradients++] = (struct mdl_gradient){param, grad, at};
}

static bool wanted(const struct builder *b, int v)
{
    return v >= 0 && b->needs[v];
}

static bool trained(const struct builder *b, int v)
{
    return v >= 0 && b->trains[v];
}

static void back_product(struct builder *b, const struct mdl_node *n, int dy)
{
    bool conv = n->op == MDL_OP_CONV;
    int x = from_in(n, MDL_IN_X), w = from_in(n, MDL_IN_W);
    int bias = from_in(n, MDL_IN_B);

    if (trained(b, w))
        note(b, w,
             MAKE(b, n, conv ? MDL_OP_CONV_DW : MDL_OP_LINEAR_DW,
                  in(b, n, MDL_IN_X), dy, in(b, n, MDL_IN_W)),
             0);
    if (trained(b, bias))
        note(b, bias, MAKE(b, n, MDL_OP_SUM, dy), 0);
    if (wanted(b, x))
        contribute(b, x,
                   MAKE(b, n, conv ? MDL_OP_CONV_DX : MDL_OP_LINEAR_DX, dy,
                        in(b, n, MDL_IN_W), in(b, n, MDL_IN_X)));
}

/* With frozen parameters it is y = k x + t, whose gradient is k dy: the same
 * BatchNorm without mean and beta; nets do not have that, so it is refused. */
static void back_batchnorm(struct builder *b, int at, int dy)
{
    const struct mdl_node *n = &b->from->nodes[at];
    int gamma = from_in(n, MDL_BN_GAMMA), beta = from_in(n, MDL_BN_BETA);
    int x = in(b, n, 0), stats = b->stats[at], dparam;

    if (stats < 0) {
        if (wanted(b, n->in[0]))
            ut_fail(&b->g->error, UT_EINVAL,
                    "a frozen BatchNorm lies behind trained parameters");
        return;
    }
    dparam = MAKE(b, n, MDL_OP_BN_DPARAM, x, stats, dy);
    if (dparam < 0)
        return;
    note(b, gamma, dparam, 0);
    note(b, beta, dparam, (int)b->g->values[dparam].shape.dim[1]);
    if (wanted(b, n->in[0]))
        contribute(b, n->in[0],
                   MAKE(b, n, MDL_OP_BN_DX, x, in(b, n, MDL_BN_GAMMA), stats,
                        dparam, dy));
}

static void back_act(struct builder *b, const struct mdl_node *n, int dy)
{
    int slope = from_in(n, 1);

    if (trained(b, slope))
        note(b, slope, MAKE(b, n, MDL_OP_ACT_DSLOPE, in(b, n, 0), dy), 0);
    if (wanted(b, n->in[0]))
        contribute(b, n->in[0],
                   MAKE(b, n, MDL_OP_ACT_DX, in(b, n, 0), in(b, n, 1), dy));
}

static void back_concat(struct builder *b, const struct mdl_node *n, int dy)
{
    int first = 0;

    for (int i = 0; i < n->n_in; i++) {
        struct mdl_node slice = node_of(n, MDL_OP_SLICE);

        add_input(&slice, dy);
        add_input(&slice, in(b, n, i));
        slice.first = first;
        first += (int)b->from->values[n->in[i]].shape.dim[0];
        if (wanted(b, n->in[i]))
            contribute(b, n->in[i], mdl_graph_append(b->g, &slice));
    }
}

static void back_scale(struct builder *b, const struct mdl_node *n, int dy)
{
    if (wanted(b, n->in[0]))
        contribute(b, n->in[0], MAKE(b, n, MDL_OP_SCALE, dy, in(b, n, 1)));
    if (wanted(b, n->in[1]))
        contribute(b, n->in[1],
                   MAKE(b, n, MDL_OP_SCALE_DS, in(b, n, 0), dy, in(b, n, 1)));
}

/* dx of one input x from (x or y, dy). */
static void back_simple(struct builder *b, const struct mdl_node *n, int dy)
{
    int x = in(b, n, 0), y = b->moved[n->out];

    if (!wanted(b, n->in[0]))
        return;
    if (n->op == MDL_OP_POOL)
        contribute(b, n->in[0], MAKE(b, n, MDL_OP_POOL_DX, dy, x));
    else if (n->op == MDL_OP_UPSAMPLE)
        contribute(b, n->in[0], MAKE(b, n, MDL_OP_UPSAMPLE_DX, dy, x));
    else if (n->op == MDL_OP_L2NORM)
        contribute(b, n->in[0], MAKE(b, n, MDL_OP_L2NORM_DX, x, dy));
    else
        contribute(b, n->in[0], MAKE(b, n, MDL_OP_SOFTMAX_DX, y, dy));
}

static void back_node(struct builder *b, int at)
{
    const struct mdl_node *n = &b->from->nodes[at];
    int dy = b->gradient[n->out];

    if (dy < 0 || b->g->error.code)
        return;
    switch (n->op) {
    case MDL_OP_CONV:
    case MDL_OP_LINEAR:
        back_product(b, n, dy);
        return;
    case MDL_OP_BATCHNORM:
        back_batchnorm(b, at, dy);
        return;
    case MDL_OP_ACT:
        back_act(b, n, dy);
        return;
    case MDL_OP_ADD:
        for (int i = 0; i < n->n_in; i++)
            contribute(b, n->in[i], dy);
        return;
    case MDL_OP_SCALE:
        back_scale(b, n, dy);
        return;
    case MDL_OP_CONCAT:
        back_concat(b, n, dy);
        return;
    case MDL_OP_POOL:
    case MDL_OP_L2NORM:
    case MDL_OP_UPSAMPLE:
    case MDL_OP_SOFTMAX:
        back_simple(b, n, dy);
        return;
    default:
        return; /* the picture needs no gradient */
    }
}

/* Marks what leads to the ends. */
static void mark_used(struct builder *b, const int *ends, int n)
{
    for (int i = 0; i < n; i++)
        b->used[ends[i]] = true;
    for (int i = b->from->n_nodes - 1; i >= 0; i--) {
        const struct mdl_node *node = &b->from->nodes[i];

        for (int k = 0; k < node->n_in && b->used[node->out]; k++)
            if (node->in[k] >= 0)
                b->used[node->in[k]] = true;
    }
}

/* An end from which nobody learns. */
static void refuse(struct builder *b, int end)
{
    const struct mdl_graph *from = b->from;
    int producer = from->values[end].producer;
    int module = producer < 0 ? -1 : from->nodes[producer].module;

    ut_fail(&b->g->error, UT_EINVAL, "nothing that trains leads to %s",
            module < 0 ? "the loss" : from->modules[module]);
}

static void build(struct builder *b, const int *ends, int n)
{
    const struct mdl_graph *from = b->from;
    struct mdl_step *s = b->step;

    for (int i = 0; i < from->n_modules; i++)
        mdl_graph_module(b->g, from->modules[i]);
    move_given(b);
    mark_used(b, ends, n);
    for (int i = 0; i < from->n_nodes && !b->g->error.code; i++)
        if (b->used[from->nodes[i].out])
            forward_node(b, i);
    if (b->g->error.code)
        return;
    s->n_ends = n;
    s->n_forward = b->g->n_nodes;
    for (int i = 0; i < n; i++) {
        if (!b->needs[ends[i]]) {
            refuse(b, ends[i]);
            return;
        }
        s->ends[i] = b->moved[ends[i]];
        b->g->values[s->ends[i]].keep = true;
        s->seeds[i] = mdl_graph_given(b->g, from->values[ends[i]].shape);
        contribute(b, ends[i], s->seeds[i]);
    }
    for (int i = from->n_nodes - 1; i >= 0; i--)
        if (b->used[from->nodes[i].out])
            back_node(b, i);
}

enum ut_err mdl_step_build(const struct mdl_graph *g, const int *ends, int n,
                           const bool *trains, struct mdl_step *out,
                           struct ut_error *e)
{
    size_t n_values = (size_t)g->n_values, n_nodes = (size_t)g->n_nodes;
    struct builder b = {
        .from = g, .step = out, .g = &out->graph, .trains = trains};
    enum ut_err rc = UT_OK;

    assert(n >= 1 && n <= MDL_STEP_ENDS);
    *out = (struct mdl_step){0};
    mdl_graph_init(&out->graph);
    b.moved = malloc(n_values * sizeof(*b.moved));
    b.gradient = malloc(n_values * sizeof(*b.gradient));
    b.stats = malloc(n_nodes * sizeof(*b.stats));
    b.needs = calloc(n_values, sizeof(*b.needs));
    b.used = calloc(n_values, sizeof(*b.used));
    if (!b.moved || !b.gradient || !b.stats || !b.needs || !b.used)
        rc = ut_fail(e, UT_ENOMEM, "no memory for a training step");
    else
        build(&b, ends, n);
    if (!rc && out->graph.error.code)
        rc = ut_fail(e, out->graph.error.code, "%s", out->graph.error.msg);
    free(b.moved);
    free(b.gradient);
    free(b.stats);
    free(b.needs);
    free(b.used);
    if (rc)
        mdl_step_fini(out);
    return rc;
}

void mdl_step_fini(struct mdl_step *s)
{
    mdl_graph_fini(&s->graph);
    free(s->gradients);
    free(s->statistics);
    s->gradients = NULL;
    s->statistics = NULL;
    s->n_gradients = s->n_statistics = 0;
}
