/* From an optimised graph to steps. An add of one map and of that map scaled,
 * y = x + a x + s x, is one step, and so is the mean over y where nothing else
 * wants it: the whole LASE block reads x once. */
#include <math.h>
#include <stdlib.h>

#include "model/backends/cuda/plan.h"

/* Whether v is used once and no output. */
static bool inner(const struct mdl_graph *g, int v)
{
    return g->values[v].output < 0 && mdl_graph_n_uses(g, v) == 1;
}

/* The map of node n if it is a SCALE that only one node wants, else -1. */
static int scaled(const struct mdl_graph *g, int v)
{
    const struct mdl_node *n;

    if (g->values[v].producer < 0 || !inner(g, v))
        return -1;
    n = &g->nodes[g->values[v].producer];
    return n->op == MDL_OP_SCALE && g->values[n->out].shape.n_dims == 3
               ? n->in[0]
               : -1;
}

/* Takes a factor; false if there is one of its kind already. */
static bool take_factor(const struct mdl_graph *g, struct step *s, int factor)
{
    int role = g->values[factor].shape.n_dims == 3 ? 1 : 2;

    if (s->in[role] >= 0)
        return false;
    s->in[role] = factor;
    return true;
}

/* The step of an add of x and x scaled; false if n is no such. */
static bool attends(const struct mdl_graph *g, const struct mdl_node *n,
                    struct step *s)
{
    int x = -1, terms = 0;

    for (int k = 0; k < n->n_in && x < 0; k++)
        x = scaled(g, n->in[k]);
    s->in[0] = x;
    s->in[1] = s->in[2] = -1;
    for (int k = 0; k < n->n_in && x >= 0; k++) {
        if (n->in[k] == x)
            terms++;
        else if (scaled(g, n->in[k]) != x ||
                 !take_factor(g, s,
                              g->nodes[g->values[n->in[k]].producer].in[1]))
            return false;
    }
    s->attends = x >= 0;
    s->base = (float)terms;
    s->n_in = 3;
    return s->attends;
}

/* The nodes that a later step does too: dead[n_nodes]. */
static void fuse(const struct plan *p, bool *dead)
{
    const struct mdl_graph *g = p->g;

    for (int i = 0; i < g->n_nodes; i++) {
        const struct mdl_node *n = &g->nodes[i];
        struct step s = {0};

        if (n->op != MDL_OP_ADD || !attends(g, n, &s))
            continue;
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] != s.in[0])
                dead[g->values[n->in[k]].producer] = true;
        for (int k = i + 1; k < g->n_nodes && inner(g, n->out); k++)
            if (g->nodes[k].op == MDL_OP_POOL && g->nodes[k].in[0] == n->out)
                dead[i] = true;
    }
}

static enum ut_err vector(struct plan *p, const struct mdl_node *n, int role,
                          struct weights **out, struct ut_error *e)
{
    return role >= n->n_in || n->in[role] < 0
               ? UT_OK
               : cuda_weights_get(p, n->in[role], LAYOUT_VECTOR, GPU_F32, NULL,
                                  out, e);
}

static bool steep(const struct plan *p, const struct mdl_node *n)
{
    const struct mdl_value *slope =
        n->act == MDL_ACT_PRELU ? &p->g->values[n->in[MDL_IN_SLOPE]] : NULL;

    for (size_t i = 0; slope && i < mdl_shape_count(&slope->shape); i++)
        if (!(slope->data[i] <= 1))
            return true;
    return false;
}

/* What the step computes, as engines are asked for it. */
static void describe(const struct plan *p, struct step *s)
{
    const struct mdl_node *n = s->node;
    static const float there = 0; /* that a part is there is all that counts */

    s->product = (struct gpu_product){
        .rows = n->op == MDL_OP_LINEAR,
        .tf32 = p->tf32,
        .window = {n->kernel, n->stride, n->pad, n->groups},
        .steep = steep(p, n),
        .x = p->maps[s->in[0]],
        .y = p->maps[s->out],
        .ep = {.bias = s->bias ? &there : NULL,
               .slope = s->slope ? &there : NULL,
               .shift = s->shift ? &there : NULL,
               .residual = s->in[1] >= 0 ? &there : NULL,
               .act = (int)n->act,
               .alpha = n->alpha}};
}

enum layout cuda_layout(const struct mdl_node *n, const struct gpu_map *x,
                        const struct gpu_map *y)
{
    if (n->op == MDL_OP_LINEAR || n->op == MDL_OP_LINEAR_DX ||
        n->op == MDL_OP_LINEAR_DW)
        return LAYOUT_ROWS;
    return n->groups > 1 && n->groups == x->c && y->c == x->c ? LAYOUT_DEPTHWISE
                                                              : LAYOUT_CONV;
}

static enum ut_err build_product(struct plan *p, struct step *s,
                                 struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    const struct gpu_map *x = &p->maps[n->in[MDL_IN_X]];
    enum ut_err rc = cuda_weights_get(p, n->in[MDL_IN_W],
                                      cuda_layout(n, x, &p->maps[n->out]),
                                      x->type, x, &s->w, e);

    s->n_in = 2;
    s->in[0] = n->in[MDL_IN_X];
    s->in[1] = n->op == MDL_OP_CONV && n->n_in > MDL_IN_RESIDUAL
                   ? n->in[MDL_IN_RESIDUAL]
                   : -1;
    if (!rc)
        rc = vector(p, n, MDL_IN_B, &s->bias, e);
    if (!rc)
        rc = vector(p, n, MDL_IN_SLOPE, &s->slope, e);
    if (!rc && n->op == MDL_OP_CONV)
        rc = vector(p, n, MDL_IN_SHIFT, &s->shift, e);
    if (rc)
        return rc;
    describe(p, s);
    return cuda_choose(p->ctx, &s->product, &s->way, &s->engine, e);
}

enum ut_err cuda_build_affine(struct plan *p, struct step *s,
                              struct ut_error *e)
{
    const struct mdl_node *n = s->node;
    const struct mdl_value *values = p->g->values;
    size_t c = (size_t)p->maps[n->out].c;
    float *f = malloc(2 * c * sizeof(*f));
    void *data = s->affine;
    enum ut_err rc = UT_OK;

    if (!f)
        return ut_fail(e, UT_ENOMEM, "no memory for a BatchNorm");
    for (size_t i = 0; i < c; i++) {
        double k =
            (n->in[MDL_BN_GAMMA] < 0 ? 1
                                     : values[n->in[MDL_BN_GAMMA]].data[i]) /
            sqrt((double)values[n->in[MDL_BN_VAR]].data[i] + n->eps);

        f[i] = (float)k;
        f[c + i] = (float)((n->in[MDL_BN_BETA] < 0
                                ? 0
                                : values[n->in[MDL_BN_BETA]].data[i]) -
                           values[n->in[MDL_BN_MEAN]].data[i] * k);
    }
    if (!data)
        rc = gpu_alloc(2 * c * sizeof(*f), &data, e);
    s->affine = data;
    if (!rc)
        rc = gpu_upload(data, f, 2 * c * sizeof(*f), e);
    free(f);
    return rc;
}

static enum ut_err build_step(struct plan *p, struct step *s,
                              struct ut_error *e)
{
    const struct mdl_graph *g = p->g;
    const struct mdl_node *n = s->node;
    int made = g->values[n->in[0]].producer;

    s->out = n->out;
    s->n_in = 1;
    s->in[0] = n->in[0];
    switch (n->op) {
    case MDL_OP_CONV:
    case MDL_OP_LINEAR:
        return build_product(p, s, e);
    case MDL_OP_BATCHNORM:
        return cuda_build_affine(p, s, e);
    case MDL_OP_ACT:
        return vector(p, n, 1, &s->slope, e);
    case MDL_OP_ADD:
    case MDL_OP_CONCAT:
        if (n->op == MDL_OP_ADD && !p->trains && attends(g, n, s))
            return UT_OK;
        s->n_in = n->n_in;
        for (int k = 0; k < n->n_in; k++)
            s->in[k] = n->in[k];
        return UT_OK;
    case MDL_OP_SCALE:
        s->in[1] = s->in[2] = -1;
        s->n_in = 3;
        s->attends = take_factor(g, s, n->in[1]);
        return UT_OK;
    case MDL_OP_POOL:
        s->attends = true;
        s->base = 1;
        s->in[1] = s->in[2] = -1;
        s->n_in = 3;
        if (!p->trains && made >= 0 && g->nodes[made].op == MDL_OP_ADD &&
            inner(g, n->in[0]))
            if (!attends(g, &g->nodes[made], s)) {
                s->attends = true;
                s->base = 1;
                s->in[0] = n->in[0];
                s->in[1] = s->in[2] = -1;
                s->n_in = 3;
            }
        return UT_OK;
    case MDL_OP_IMAGE:
    case MDL_OP_L2NORM:
    case MDL_OP_UPSAMPLE:
    case MDL_OP_SOFTMAX:
        return UT_OK;
    default:
        return cuda_build_gradient(p, s, e);
    }
}

enum ut_err cuda_build(struct plan *p, struct ut_error *e)
{
    const struct mdl_graph *g = p->g;
    size_t n = (size_t)g->n_nodes + 1;
    uint64_t *needs = calloc(n, sizeof(*needs));
    bool *dead = calloc(n, sizeof(*dead));
    enum ut_err rc = UT_OK;

    p->steps = calloc(n, sizeof(*p->steps));
    if (!needs || !dead || !p->steps)
        rc = ut_fail(e, UT_ENOMEM, "no memory for a plan");
    for (int v = 0; v < g->n_values && !rc; v++)
        if (g->values[v].kind == MDL_VALUE_INPUT && v != g->input && !p->trains)
            rc = ut_fail(e, UT_EINVAL, "the CUDA backend takes pictures only");
    if (!rc) {
        mdl_graph_needs(g, needs);
        if (!p->trains)
            fuse(p, dead);
    }
    for (int i = 0; i < g->n_nodes && !rc; i++) {
        struct step *s = &p->steps[p->n_steps];

        if (dead[i])
            continue;
        s->node = &g->nodes[i];
        s->needs = needs[i];
        p->n_steps++;
        rc = build_step(p, s, e);
    }
    free(needs);
    free(dead);
    return rc;
}

void cuda_unbuild(struct plan *p, bool lost)
{
    for (int i = 0; i < p->n_steps; i++) {
        struct step *s = &p->steps[i];

        cuda_weights_put(p->ctx, s->w);
        cuda_weights_put(p->ctx, s->bias);
        cuda_weights_put(p->ctx, s->slope);
        cuda_weights_put(p->ctx, s->shift);
        if (!lost)
            gpu_free(s->affine);
    }
    free(p->steps);
    p->steps = NULL;
    p->n_steps = 0;
}
