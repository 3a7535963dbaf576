/* Building and reading graphs: every builder function makes one node, checks
 * its inputs and infers its shape in infer(). */
#include "model/graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mdl_graph_init(struct mdl_graph *g)
{
    *g = (struct mdl_graph){.input = -1};
}

void mdl_graph_fini(struct mdl_graph *g)
{
    for (int i = 0; i < g->n_owned; i++)
        free(g->owned[i]);
    free(g->owned);
    free(g->named);
    free(g->values);
    free(g->nodes);
    free(g->modules);
    mdl_graph_init(g);
}

/* Makes room for one more element of size bytes. */
static bool grow(struct mdl_graph *g, void **array, int n, int *cap,
                 size_t size)
{
    int want = *cap ? *cap * 2 : 64;
    void *bigger;

    if (n < *cap)
        return true;
    bigger = realloc(*array, (size_t)want * size);
    if (!bigger) {
        ut_fail(&g->error, UT_ENOMEM, "no memory for the graph");
        return false;
    }
    *array = bigger;
    *cap = want;
    return true;
}

/* most: the numbers it may have. Anybody's file says how many: from here on
 * they fit an int, and no dimension is 0. */
static int new_value(struct mdl_graph *g, enum mdl_value_kind kind,
                     const struct mdl_shape *shape, int most)
{
    struct ut_error why;
    size_t bytes;
    char text[80];

    if (g->error.code)
        return -1;
    if (mdl_shape_bytes(shape, MDL_F32, (size_t)most * sizeof(float), &bytes,
                        &why) ||
        !bytes) {
        ut_fail(&g->error, UT_EINVAL, "%s is not 1 to %d numbers",
                mdl_shape_text(shape, text), most);
        return -1;
    }
    if (!grow(g, (void **)&g->values, g->n_values, &g->cap_values,
              sizeof(*g->values)))
        return -1;
    g->values[g->n_values] = (struct mdl_value){
        .kind = kind,
        .shape = *shape,
        .producer = -1,
        .output = -1,
    };
    return g->n_values++;
}

void mdl_graph_module(struct mdl_graph *g, const char *name)
{
    if (g->error.code || !grow(g, (void **)&g->modules, g->n_modules,
                               &g->cap_modules, sizeof(*g->modules)))
        return;
    snprintf(g->modules[g->n_modules++], MDL_NAME_LEN, "%s", name);
}

int mdl_graph_input(struct mdl_graph *g, int h, int w)
{
    struct mdl_shape shape = mdl_shape_of(3, h, w, 3);

    g->input = new_value(g, MDL_VALUE_INPUT, &shape, MDL_MAX_VALUE);
    if (g->input >= 0)
        g->values[g->input].dtype = MDL_U8;
    return g->input;
}

/* Where in the table a parameter of that name is, or would be. */
static int *slot_of(struct mdl_graph *g, const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    int at;

    for (const char *c = name; *c; c++)
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    at = (int)(hash % (uint32_t)g->cap_named);
    while (g->named[at] >= 0 && strcmp(g->values[g->named[at]].name, name))
        at = (at + 1) % g->cap_named;
    return &g->named[at];
}

/* The parameter or buffer of that name, or -1. A hostile file's graph may have
 * very many: no search through all. */
static int find_param(struct mdl_graph *g, const char *name)
{
    if (g->cap_named <= 2 * g->n_values) {
        free(g->named);
        g->cap_named = 4 * g->n_values + 64;
        g->named = malloc((size_t)g->cap_named * sizeof(*g->named));
        g->n_named = 0;
        if (!g->named) {
            g->cap_named = 0;
            ut_fail(&g->error, UT_ENOMEM, "no memory for the graph");
            return -1;
        }
        for (int i = 0; i < g->cap_named; i++)
            g->named[i] = -1;
    }
    for (; g->n_named < g->n_values; g->n_named++) {
        const struct mdl_value *v = &g->values[g->n_named];

        if (v->kind == MDL_VALUE_PARAM || v->kind == MDL_VALUE_BUFFER)
            *slot_of(g, v->name) = g->n_named;
    }
    return *slot_of(g, name);
}

int mdl_graph_param(struct mdl_graph *g, enum mdl_value_kind kind,
                    struct mdl_shape shape, const char *fmt, ...)
{
    char name[MDL_NAME_LEN], a[80], b[80];
    va_list args;
    int v;

    va_start(args, fmt);
    vsnprintf(name, sizeof(name), fmt, args);
    va_end(args);
    v = g->error.code ? -1 : find_param(g, name);
    if (v >= 0) {
        if (g->values[v].kind == kind &&
            mdl_shape_equal(&g->values[v].shape, &shape))
            return v;
        ut_fail(&g->error, UT_EINVAL, "%s is both %s and %s", name,
                mdl_shape_text(&g->values[v].shape, a),
                mdl_shape_text(&shape, b));
        return -1;
    }
    v = new_value(g, kind, &shape, MDL_MAX_WHOLE);
    if (v >= 0)
        memcpy(g->values[v].name, name, sizeof(name));
    return v;
}

int mdl_graph_param_owned(struct mdl_graph *g, struct mdl_shape shape,
                          float **data, const char *fmt, ...)
{
    va_list args;
    int v;

    if (g->error.code || !grow(g, (void **)&g->owned, g->n_owned, &g->cap_owned,
                               sizeof(*g->owned)))
        return -1;
    v = new_value(g, MDL_VALUE_PARAM, &shape, MDL_MAX_WHOLE);
    if (v < 0)
        return -1;
    va_start(args, fmt);
    vsnprintf(g->values[v].name, MDL_NAME_LEN, fmt, args);
    va_end(args);
    g->values[v].data = *data;
    g->owned[g->n_owned++] = *data;
    *data = NULL;
    return v;
}

static const char *const op_names[MDL_OP_LAST + 1] = {
    [MDL_OP_IMAGE] = "image",
    [MDL_OP_CONV] = "convolution",
    [MDL_OP_LINEAR] = "linear",
    [MDL_OP_BATCHNORM] = "batch_norm",
    [MDL_OP_ACT] = "activation",
    [MDL_OP_POOL] = "pool",
    [MDL_OP_ADD] = "add",
    [MDL_OP_SCALE] = "scale",
    [MDL_OP_L2NORM] = "l2_norm",
    [MDL_OP_UPSAMPLE] = "upsample",
    [MDL_OP_CONCAT] = "concat",
    [MDL_OP_SOFTMAX] = "softmax",
    [MDL_OP_BN_STATS] = "batch_norm_statistics",
    [MDL_OP_BN_TRAIN] = "batch_norm_training",
    [MDL_OP_BN_DPARAM] = "batch_norm_parameter_gradient",
    [MDL_OP_BN_DX] = "batch_norm_gradient",
    [MDL_OP_CONV_DX] = "convolution_gradient",
    [MDL_OP_CONV_DW] = "convolution_weight_gradient",
    [MDL_OP_SUM] = "sum",
    [MDL_OP_LINEAR_DX] = "linear_gradient",
    [MDL_OP_LINEAR_DW] = "linear_weight_gradient",
    [MDL_OP_ACT_DX] = "activation_gradient",
    [MDL_OP_ACT_DSLOPE] = "slope_gradient",
    [MDL_OP_POOL_DX] = "pool_gradient",
    [MDL_OP_SCALE_DS] = "factor_gradient",
    [MDL_OP_L2NORM_DX] = "l2_norm_gradient",
    [MDL_OP_UPSAMPLE_DX] = "upsample_gradient",
    [MDL_OP_SLICE] = "slice",
    [MDL_OP_SOFTMAX_DX] = "softmax_gradient",
};

const char *mdl_op_name(enum mdl_op op)
{
    return op_names[op];
}

static bool bad(struct mdl_graph *g, const struct mdl_node *n, const char *why)
{
    char text[80] = "nothing";

    if (n->in[0] >= 0)
        mdl_shape_text(&g->values[n->in[0]].shape, text);
    ut_fail(&g->error, UT_EINVAL, "%s on %s: %s", op_names[n->op], text, why);
    return false;
}

/* Whether input role is absent (and may be) or a vector of c. */
static bool is_vector(const struct mdl_graph *g, const struct mdl_node *n,
                      int role, int64_t c)
{
    const struct mdl_value *v;

    if (n->in[role] < 0)
        return true;
    v = &g->values[n->in[role]];
    return v->shape.n_dims == 1 && v->shape.dim[0] == c;
}

static bool infer_conv(struct mdl_graph *g, struct mdl_node *n,
                       struct mdl_shape *out)
{
    const struct mdl_shape *x = &g->values[n->in[MDL_IN_X]].shape;
    const struct mdl_shape *w = &g->values[n->in[MDL_IN_W]].shape;
    int64_t h, width;

    if (x->n_dims != 3 || w->n_dims != 4 || n->groups < 1 || n->stride < 1)
        return bad(g, n, "wants [C,H,W] and weights [O,C/g,K,K]");
    n->kernel = (int)w->dim[2];
    if (x->dim[0] % n->groups || w->dim[0] % n->groups ||
        w->dim[1] != x->dim[0] / n->groups || w->dim[2] != w->dim[3])
        return bad(g, n, "the channels do not fit the weights");
    h = (x->dim[1] + 2 * n->pad - n->kernel) / n->stride + 1;
    width = (x->dim[2] + 2 * n->pad - n->kernel) / n->stride + 1;
    if (x->dim[1] + 2 * n->pad < n->kernel ||
        x->dim[2] + 2 * n->pad < n->kernel)
        return bad(g, n, "the image is smaller than the kernel");
    *out = mdl_shape_of(3, (int)w->dim[0], (int)h, (int)width);
    if (!is_vector(g, n, MDL_IN_B, w->dim[0]) ||
        !is_vector(g, n, MDL_IN_SLOPE, w->dim[0]) ||
        !is_vector(g, n, MDL_IN_SHIFT, w->dim[0]))
        return bad(g, n, "a bias, slope or shift is no vector of the outputs");
    if (n->in[MDL_IN_RESIDUAL] >= 0 &&
        !mdl_shape_equal(&g->values[n->in[MDL_IN_RESIDUAL]].shape, out))
        return bad(g, n, "the residual has another shape");
    return true;
}

static bool infer_linear(struct mdl_graph *g, struct mdl_node *n,
                         struct mdl_shape *out)
{
    const struct mdl_shape *x = &g->values[n->in[MDL_IN_X]].shape;
    const struct mdl_shape *w = &g->values[n->in[MDL_IN_W]].shape;

    if (w->n_dims != 2 || (size_t)w->dim[1] != mdl_shape_count(x))
        return bad(g, n, "the weights do not fit the flattened input");
    *out = mdl_shape_of(1, (int)w->dim[0]);
    if (!is_vector(g, n, MDL_IN_B, w->dim[0]) ||
        !is_vector(g, n, MDL_IN_SLOPE, w->dim[0]))
        return bad(g, n, "the bias or slope is no vector of the outputs");
    return true;
}

static bool infer_many(struct mdl_graph *g, struct mdl_node *n,
                       struct mdl_shape *out)
{
    for (int i = 1; i < n->n_in; i++) {
        const struct mdl_shape *s = &g->values[n->in[i]].shape;

        if (n->op == MDL_OP_ADD && !mdl_shape_equal(s, out))
            return bad(g, n, "another term has another shape");
        if (n->op == MDL_OP_CONCAT) {
            if (s->n_dims != 3 || s->dim[1] != out->dim[1] ||
                s->dim[2] != out->dim[2])
                return bad(g, n, "another part has another size");
            out->dim[0] += s->dim[0];
        }
    }
    return true;
}

static bool infer_scale(struct mdl_graph *g, struct mdl_node *n,
                        const struct mdl_shape *x)
{
    const struct mdl_shape *s = &g->values[n->in[1]].shape;

    if (s->n_dims == 1 && s->dim[0] == x->dim[0])
        return true;
    if (s->n_dims == 3 && x->n_dims == 3 && s->dim[0] == 1 &&
        s->dim[1] == x->dim[1] && s->dim[2] == x->dim[2])
        return true;
    return bad(g, n, "the factor is neither [C] nor [1,H,W]");
}

/* The shape of n's result into *out. */
static bool infer(struct mdl_graph *g, struct mdl_node *n,
                  struct mdl_shape *out, bool *whole)
{
    const struct mdl_shape *x = &g->values[n->in[0]].shape;
    const char *why;

    *out = *x;
    switch (n->op) {
    case MDL_OP_IMAGE:
        *out = mdl_shape_of(3, 3, (int)x->dim[0], (int)x->dim[1]);
        return x->dim[2] == 3 || bad(g, n, "wants [H,W,3]");
    case MDL_OP_CONV:
        return infer_conv(g, n, out);
    case MDL_OP_LINEAR:
        return infer_linear(g, n, out);
    case MDL_OP_BATCHNORM:
        for (int i = 1; i <= MDL_BN_VAR; i++)
            if (!is_vector(g, n, i, x->dim[0]))
                return bad(g, n, "a statistic is no vector of the channels");
        return true;
    case MDL_OP_ACT:
        return is_vector(g, n, 1, x->dim[0]) ||
               bad(g, n, "the slope is no vector of the channels");
    case MDL_OP_POOL:
        *out = mdl_shape_of(1, (int)x->dim[0]);
        return x->n_dims == 3 || bad(g, n, "wants [C,H,W]");
    case MDL_OP_ADD:
    case MDL_OP_CONCAT:
        return infer_many(g, n, out);
    case MDL_OP_SCALE:
        return infer_scale(g, n, x);
    case MDL_OP_L2NORM:
        return x->n_dims == 1 || bad(g, n, "wants [D]");
    case MDL_OP_UPSAMPLE:
        /* kernel and stride carry the target size. */
        *out = mdl_shape_of(3, (int)x->dim[0], n->kernel, n->stride);
        return (x->n_dims == 3 && n->kernel >= x->dim[1] &&
                n->stride >= x->dim[2]) ||
               bad(g, n, "the target is smaller");
    case MDL_OP_SOFTMAX:
        return (x->n_dims == 3 && x->dim[0] % 2 == 0) ||
               bad(g, n, "wants pairs of channels");
    default:
        return mdl_graph_infer_gradient(g, n, out, whole, &why) ||
               bad(g, n, why);
    }
}

int mdl_graph_append(struct mdl_graph *g, const struct mdl_node *n)
{
    struct mdl_node node = *n;
    struct mdl_shape shape;
    bool whole = false;
    int v;

    if (g->error.code)
        return -1;
    if (node.n_in < 1 || node.in[0] < 0) {
        bad(g, &node, "there is no input");
        return -1;
    }
    if (!infer(g, &node, &shape, &whole) ||
        !grow(g, (void **)&g->nodes, g->n_nodes, &g->cap_nodes,
              sizeof(*g->nodes)))
        return -1;
    v = new_value(g, MDL_VALUE_RESULT, &shape,
                  whole ? MDL_MAX_WHOLE : MDL_MAX_VALUE);
    if (v < 0)
        return -1;
    node.out = v;
    g->values[v].producer = g->n_nodes;
    g->values[v].whole = whole;
    g->nodes[g->n_nodes++] = node;
    return v;
}

/* A node with its inputs absent and its module set. */
static struct mdl_node blank(const struct mdl_graph *g, enum mdl_op op, int x,
                             int n_in)
{
    struct mdl_node n = {.op = op, .n_in = n_in, .module = g->n_modules - 1};

    for (int i = 0; i < MDL_NODE_INPUTS; i++)
        n.in[i] = -1;
    n.in[0] = x;
    return n;
}

int mdl_graph_image(struct mdl_graph *g, int x, const float mean[3],
                    const float scale[3], bool bgr)
{
    struct mdl_node n = blank(g, MDL_OP_IMAGE, x, 1);

    memcpy(n.mean, mean, sizeof(n.mean));
    memcpy(n.scale, scale, sizeof(n.scale));
    n.bgr = bgr;
    return mdl_graph_append(g, &n);
}

int mdl_graph_conv(struct mdl_graph *g, int x, int w, int b, int stride,
                   int pad, int groups)
{
    struct mdl_node n = blank(g, MDL_OP_CONV, x, MDL_NODE_INPUTS);

    n.in[MDL_IN_W] = w;
    n.in[MDL_IN_B] = b;
    n.stride = stride;
    n.pad = pad;
    n.groups = groups;
    return mdl_graph_append(g, &n);
}

int mdl_graph_linear(struct mdl_graph *g, int x, int w, int b)
{
    struct mdl_node n = blank(g, MDL_OP_LINEAR, x, MDL_NODE_INPUTS);

    n.in[MDL_IN_W] = w;
    n.in[MDL_IN_B] = b;
    return mdl_graph_append(g, &n);
}

int mdl_graph_batchnorm(struct mdl_graph *g, int x, int gamma, int beta,
                        int mean, int var, float eps)
{
    struct mdl_node n = blank(g, MDL_OP_BATCHNORM, x, MDL_BN_VAR + 1);

    n.in[MDL_BN_GAMMA] = gamma;
    n.in[MDL_BN_BETA] = beta;
    n.in[MDL_BN_MEAN] = mean;
    n.in[MDL_BN_VAR] = var;
    n.eps = eps;
    return mdl_graph_append(g, &n);
}

int mdl_graph_act(struct mdl_graph *g, int x, enum mdl_act act, float alpha,
                  int slope)
{
    struct mdl_node n = blank(g, MDL_OP_ACT, x, 2);

    n.in[1] = slope;
    n.act = act;
    n.alpha = alpha;
    return mdl_graph_append(g, &n);
}

int mdl_graph_pool(struct mdl_graph *g, int x)
{
    struct mdl_node n = blank(g, MDL_OP_POOL, x, 1);

    return mdl_graph_append(g, &n);
}

/* ADD or CONCAT of up to MDL_NODE_INPUTS values. */
static int many(struct mdl_graph *g, enum mdl_op op, const int *x, int count)
{
    struct mdl_node n = blank(g, op, x[0], count);

    if (count > MDL_NODE_INPUTS) {
        bad(g, &n, "too many inputs");
        return -1;
    }
    for (int i = 0; i < count; i++)
        if ((n.in[i] = x[i]) < 0 && !g->error.code)
            bad(g, &n, "an input is missing");
    return mdl_graph_append(g, &n);
}

int mdl_graph_add(struct mdl_graph *g, const int *x, int n)
{
    return many(g, MDL_OP_ADD, x, n);
}

int mdl_graph_concat(struct mdl_graph *g, const int *x, int n)
{
    return many(g, MDL_OP_CONCAT, x, n);
}

int mdl_graph_scale(struct mdl_graph *g, int x, int s)
{
    int in[2] = {x, s};

    return many(g, MDL_OP_SCALE, in, 2);
}

int mdl_graph_l2norm(struct mdl_graph *g, int x)
{
    struct mdl_node n = blank(g, MDL_OP_L2NORM, x, 1);

    return mdl_graph_append(g, &n);
}

int mdl_graph_upsample(struct mdl_graph *g, int x, int h, int w)
{
    struct mdl_node n = blank(g, MDL_OP_UPSAMPLE, x, 1);

    n.kernel = h;
    n.stride = w;
    return mdl_graph_append(g, &n);
}

int mdl_graph_softmax(struct mdl_graph *g, int x)
{
    struct mdl_node n = blank(g, MDL_OP_SOFTMAX, x, 1);

    return mdl_graph_append(g, &n);
}

int mdl_graph_given(struct mdl_graph *g, struct mdl_shape shape)
{
    return new_value(g, MDL_VALUE_INPUT, &shape, MDL_MAX_VALUE);
}

void mdl_graph_output(struct mdl_graph *g, int v, const char *fmt, ...)
{
    va_list args;

    if (g->error.code || v < 0)
        return;
    if (g->n_outputs == MDL_MAX_OUTPUTS) {
        ut_fail(&g->error, UT_EINVAL, "over %d outputs", MDL_MAX_OUTPUTS);
        return;
    }
    va_start(args, fmt);
    vsnprintf(g->values[v].name, MDL_NAME_LEN, fmt, args);
    va_end(args);
    g->values[v].output = g->n_outputs;
    g->outputs[g->n_outputs++] = v;
}

int mdl_graph_find_output(const struct mdl_graph *g, const char *name)
{
    for (int i = 0; i < g->n_outputs; i++)
        if (g->outputs[i] >= 0 && !strcmp(g->values[g->outputs[i]].name, name))
            return i;
    return -1;
}

int mdl_graph_find_module(const struct mdl_graph *g, const char *name)
{
    for (int i = g->n_nodes - 1; i >= 0; i--)
        if (g->nodes[i].module >= 0 &&
            !strcmp(g->modules[g->nodes[i].module], name))
            return g->nodes[i].out;
    return -1;
}

int mdl_graph_n_uses(const struct mdl_graph *g, int v)
{
    int uses = 0;

    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i].n_in; k++)
            uses += g->nodes[i].in[k] == v;
    return uses;
}

int64_t mdl_node_macs(const struct mdl_graph *g, const struct mdl_node *n)
{
    const struct mdl_shape *out = &g->values[n->out].shape;
    const struct mdl_shape *w;

    if (n->op != MDL_OP_CONV && n->op != MDL_OP_LINEAR)
        return 0;
    w = &g->values[n->in[MDL_IN_W]].shape;
    return (int64_t)(mdl_shape_count(w) / (size_t)w->dim[0] *
                     mdl_shape_count(out));
}

void mdl_graph_needs(const struct mdl_graph *g, uint64_t *needs)
{
    memset(needs, 0, (size_t)g->n_nodes * sizeof(*needs));
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        const struct mdl_node *n = &g->nodes[i];

        if (g->values[n->out].output >= 0)
            needs[i] |= 1ull << g->values[n->out].output;
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] >= 0 && g->values[n->in[k]].producer >= 0)
                needs[g->values[n->in[k]].producer] |= needs[i];
    }
}

static bool copy_array(void **to, const void *from, int n, size_t size)
{
    *to = NULL;
    if (!n)
        return true;
    *to = malloc((size_t)n * size);
    if (*to)
        memcpy(*to, from, (size_t)n * size);
    return *to != NULL;
}

enum ut_err mdl_graph_copy(const struct mdl_graph *g, struct mdl_graph *out,
                           struct ut_error *e)
{
    bool ok;

    *out = *g;
    out->owned = NULL;
    out->n_owned = out->cap_owned = 0;
    out->named = NULL;
    out->cap_named = out->n_named = 0;
    out->cap_values = g->n_values;
    out->cap_nodes = g->n_nodes;
    out->cap_modules = g->n_modules;
    ok = copy_array((void **)&out->values, g->values, g->n_values,
                    sizeof(*g->values));
    ok &= copy_array((void **)&out->nodes, g->nodes, g->n_nodes,
                     sizeof(*g->nodes));
    ok &= copy_array((void **)&out->modules, g->modules, g->n_modules,
                     sizeof(*g->modules));
    if (ok)
        return UT_OK;
    mdl_graph_fini(out);
    return ut_fail(e, UT_ENOMEM, "no memory for a copy of the graph");
}
