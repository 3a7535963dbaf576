/* Cutting a recogniser's graph in two and writing both parts as a spec. */
#include "model/graft.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The nodes that the first output needs, in order: *nodes, the caller's. */
static enum ut_err needed(const struct mdl_graph *g, int **nodes, int *n,
                          struct ut_error *e)
{
    uint64_t *needs = malloc(((size_t)g->n_nodes + 1) * sizeof(*needs));

    *n = 0;
    *nodes = malloc(((size_t)g->n_nodes + 1) * sizeof(**nodes));
    if (!needs || !*nodes) {
        free(needs);
        free(*nodes);
        *nodes = NULL;
        return ut_fail(e, UT_ENOMEM, "no memory to graft");
    }
    mdl_graph_needs(g, needs);
    for (int i = 0; i < g->n_nodes; i++)
        if (needs[i] & 1)
            (*nodes)[(*n)++] = i;
    free(needs);
    return UT_OK;
}

/* ---- the cut ---- */

static bool is_map(const struct mdl_graph *g, int v)
{
    const struct mdl_shape *s = &g->values[v].shape;

    return s->n_dims == 3 && s->dim[1] > 1 && s->dim[2] > 1;
}

/* The earliest node, by place in nodes, whose result the nodes from `at` on
 * use; the picture's is 0. place: of each value's producer in nodes. */
static int earliest_use(const struct mdl_graph *g, const int *nodes, int at,
                        const int *place)
{
    const struct mdl_node *n = &g->nodes[nodes[at]];
    int first = at;

    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] >= 0 && g->values[n->in[k]].producer >= 0 &&
            place[n->in[k]] < first)
            first = place[n->in[k]];
    return first;
}

static enum ut_err no_cut(const struct mdl_graph *g, const char *name, int last,
                          struct ut_error *e)
{
    if (last < 0)
        return ut_fail(e, UT_EINVAL,
                       "no feature map that all else comes from: nothing to "
                       "cut at");
    return ut_fail(e, UT_EINVAL,
                   "\"%.80s\" is no feature map that all else comes from; the "
                   "last such is \"%.80s\"",
                   name, g->values[last].name);
}

enum ut_err mdl_graft_cut(const struct mdl_graph *g, const char *name, int *cut,
                          struct ut_error *e)
{
    int *place = calloc((size_t)g->n_values + 1, sizeof(*place));
    int *nodes = NULL, n, reach, last = -1, found = -1;
    enum ut_err rc = needed(g, &nodes, &n, e);

    if (!rc && !place)
        rc = ut_fail(e, UT_ENOMEM, "no memory to graft");
    for (int i = 0; i < n && !rc; i++)
        place[g->nodes[nodes[i]].out] = i;
    /* Backwards: nothing after node i reaches past it if reach >= i. */
    reach = n - 1;
    for (int i = n - 1; i >= 0 && !rc; i--) {
        int v = g->nodes[nodes[i]].out;

        if (i < n - 1 && reach >= i && is_map(g, v) &&
            g->nodes[nodes[i]].op != MDL_OP_IMAGE) {
            last = last < 0 ? v : last;
            if (found < 0 && (!name || !strcmp(name, g->values[v].name)))
                found = v;
        }
        if (earliest_use(g, nodes, i, place) < reach)
            reach = earliest_use(g, nodes, i, place);
    }
    free(nodes);
    free(place);
    if (!rc && found < 0)
        rc = no_cut(g, name, last, e);
    if (!rc)
        *cut = found;
    return rc;
}

/* ---- the spec ---- */

struct graft {
    const struct mdl_graph *g;
    struct mdl_spec *spec;
    struct mdl_spec_node *node; /* being written */
    int *number;                /* [values of g]: within the node, or -1 */
    struct ut_error *e;
};

/* Operation n of g as the node's next. */
static enum ut_err add_op(struct graft *f, const struct mdl_node *n)
{
    bool many =
        n->op == MDL_OP_ADD || n->op == MDL_OP_SCALE || n->op == MDL_OP_CONCAT;
    struct mdl_spec_op op = {.op = n->op, .n_of = many ? n->n_in : 1};
    const struct mdl_shape *w;

    if (n->op < MDL_OP_CONV || n->op > MDL_OP_CONCAT ||
        n->op == MDL_OP_L2NORM || n->op == MDL_OP_UPSAMPLE)
        return ut_fail(f->e, UT_EINVAL, "a %s cannot be grafted",
                       mdl_op_name(n->op));
    if (f->spec->n_ops == MDL_SPEC_MAX_OPS)
        return ut_fail(f->e, UT_EINVAL, "over %d operations", MDL_SPEC_MAX_OPS);
    for (int k = 0; k < op.n_of; k++)
        op.of[k] = (uint16_t)f->number[n->in[k]];
    if (n->op == MDL_OP_CONV || n->op == MDL_OP_LINEAR) {
        w = &f->g->values[n->in[MDL_IN_W]].shape;
        op.out = (int)w->dim[0];
        op.kernel = n->op == MDL_OP_CONV ? n->kernel : 1;
        op.stride = n->op == MDL_OP_CONV ? n->stride : 1;
        op.pad = n->op == MDL_OP_CONV ? n->pad : 0;
        op.groups = n->op == MDL_OP_CONV ? n->groups : 1;
        op.bias = n->in[MDL_IN_B] >= 0;
    }
    if (n->op == MDL_OP_BATCHNORM) {
        op.number = n->eps;
        if (n->in[MDL_BN_GAMMA] < 0 || n->in[MDL_BN_BETA] < 0)
            return ut_fail(f->e, UT_EINVAL,
                           "a batch_norm without scale or shift cannot be "
                           "grafted");
    }
    if (n->op == MDL_OP_ACT) {
        op.act = n->act;
        op.number = n->act == MDL_ACT_LEAKY ? n->alpha : 0;
    }
    f->spec->ops[f->spec->n_ops++] = op;
    f->number[n->out] = ++f->node->n_ops;
    return UT_OK;
}

static struct mdl_spec_node *add_node(struct mdl_spec *s, const char *name,
                                      int parent, enum mdl_module module)
{
    struct mdl_spec_node *n = &s->nodes[s->n_nodes++];

    *n = (struct mdl_spec_node){
        .parent = parent,
        .module = module,
        .width = 1,
        .la_r = 2,
        .se_r = 16,
        .dim = 512,
        .image = mdl_spec_image_default,
        .first_op = s->n_ops,
    };
    snprintf(n->name, sizeof(n->name), "%s", name);
    return n;
}

/* A [D,1,1] is a map to a spec: its mean over the one place is the vector. */
static enum ut_err end_in_vector(struct graft *f, int v)
{
    const struct mdl_shape *s = &f->g->values[v].shape;
    struct mdl_spec_op pool = {.op = MDL_OP_POOL, .n_of = 1};
    char text[80];

    f->node->dim = (int)s->dim[0];
    if (s->n_dims == 1)
        return UT_OK;
    if (s->n_dims != 3 || s->dim[1] != 1 || s->dim[2] != 1)
        return ut_fail(f->e, UT_EINVAL,
                       "its first output is %s, not one embedding",
                       mdl_shape_text(s, text));
    if (f->spec->n_ops == MDL_SPEC_MAX_OPS)
        return ut_fail(f->e, UT_EINVAL, "over %d operations", MDL_SPEC_MAX_OPS);
    pool.of[0] = (uint16_t)f->number[v];
    f->spec->ops[f->spec->n_ops++] = pool;
    f->node->n_ops++;
    return UT_OK;
}

/* Root, then recognition, then fatigue: in this order the model's graph has
 * the nodes of g one by one. */
static enum ut_err write_spec(struct graft *f, const int *nodes, int n, int cut)
{
    const struct mdl_graph *g = f->g;
    const struct mdl_node *image = &g->nodes[nodes[0]];
    const struct mdl_shape *side = &g->values[g->input].shape;
    enum ut_err rc = UT_OK;

    if (side->dim[0] != side->dim[1] || image->op != MDL_OP_IMAGE)
        return ut_fail(f->e, UT_EINVAL,
                       "its pictures are %lldx%lld: not square",
                       (long long)side->dim[1], (long long)side->dim[0]);
    f->spec->input = (int)side->dim[0];
    f->node = add_node(f->spec, "root", -1, MDL_MODULE_GRAPH);
    memcpy(f->node->image.mean, image->mean, sizeof(image->mean));
    memcpy(f->node->image.scale, image->scale, sizeof(image->scale));
    f->node->image.bgr = image->bgr;
    f->number[image->out] = 0;
    for (int i = 1; i < n && !rc; i++) {
        rc = add_op(f, &g->nodes[nodes[i]]);
        if (rc || g->nodes[nodes[i]].out != cut)
            continue;
        f->node = add_node(f->spec, "recognition", 0, MDL_MODULE_GRAPH);
        f->node->head = MDL_HEAD_EMBEDDING;
        f->number[cut] = 0;
    }
    if (!rc)
        rc = end_in_vector(f, g->outputs[0]);
    if (!rc)
        add_node(f->spec, "fatigue", 0, MDL_MODULE_LASE)->head =
            MDL_HEAD_BINARY;
    return rc;
}

/* Through text and back: what a file could not say is refused now. */
static enum ut_err check_spec(struct mdl_spec *spec, struct ut_error *e)
{
    char *json = NULL;
    enum ut_err rc = mdl_spec_write(spec, &json, e);

    if (!rc)
        rc = mdl_spec_parse(json, strlen(json), spec, e);
    free(json);
    return rc;
}

/* The model's node k is g's nodes[k]: its parameters are the same ones. */
static void bind(const struct mdl_graph *g, const int *nodes, int n,
                 struct mdl_graph *to)
{
    for (int i = 1; i < n; i++) {
        const struct mdl_node *a = &g->nodes[nodes[i]], *b = &to->nodes[i];

        for (int k = 0; k < a->n_in; k++)
            if (a->in[k] >= 0 && g->values[a->in[k]].kind == MDL_VALUE_PARAM)
                to->values[b->in[k]].data = g->values[a->in[k]].data;
    }
}

enum ut_err mdl_graft(const struct mdl_graph *g, int cut, uint64_t seed,
                      struct mdl_model *out, struct ut_error *e)
{
    struct graft f = {.g = g, .e = e};
    int *nodes = NULL, n = 0;
    enum ut_err rc = needed(g, &nodes, &n, e);

    memset(out, 0, sizeof(*out));
    f.spec = calloc(1, sizeof(*f.spec));
    f.number = calloc((size_t)g->n_values + 1, sizeof(*f.number));
    if (!rc && (!f.spec || !f.number))
        rc = ut_fail(e, UT_ENOMEM, "no memory to graft");
    if (!rc)
        rc = write_spec(&f, nodes, n, cut);
    if (!rc)
        rc = check_spec(f.spec, e);
    if (!rc)
        rc = mdl_model_fresh(f.spec, seed, out, e);
    if (!rc)
        bind(g, nodes, n, &out->graph);
    free(f.spec);
    free(f.number);
    free(nodes);
    return rc;
}

/* ---- InsightFace ---- */

static const struct mdl_st_tensor *find(const struct mdl_st *st, int stage,
                                        int block)
{
    char name[64];

    snprintf(name, sizeof(name), "layer%d.%d.conv1.weight", stage, block);
    return mdl_st_find(st, name);
}

/* A dimension, or 0 where it is none of any network's. */
static int size_of(const struct mdl_st_tensor *t, int i)
{
    int64_t n = i < t->shape.n_dims ? t->shape.dim[i] : 0;

    return n > INT32_MAX ? 0 : (int)n;
}

enum ut_err mdl_graft_insightface(const struct mdl_st *weights,
                                  struct mdl_spec *out, struct ut_error *e)
{
    const struct mdl_st_tensor *fc = mdl_st_find(weights, "fc.weight"), *t;
    struct mdl_spec_node *root, *leaf;
    int width = 0, side;
    char text[80];

    memset(out, 0, sizeof(*out));
    root = add_node(out, "root", -1, MDL_MODULE_IRESNET);
    while (root->n_stages < MDL_SPEC_MAX_STAGES &&
           (t = find(weights, root->n_stages + 1, 0))) {
        int s = root->n_stages++;

        root->widths[s] = width = size_of(t, 0);
        while (find(weights, s + 1, root->layers[s]))
            root->layers[s]++;
    }
    if (!width || !fc)
        return ut_fail(e, UT_EFORMAT,
                       "there is no tensor \"%s\" of InsightFace's IResNet",
                       width ? "fc.weight" : "layer1.0.conv1.weight");
    /* fc sees the last map whole; every stage halves the picture. */
    side = (int)sqrt((double)size_of(fc, 1) / width);
    if (fc->shape.n_dims != 2 || !side || side * side * width != size_of(fc, 1))
        return ut_fail(e, UT_EFORMAT,
                       "the tensor \"fc.weight\" is %s, not of a square map "
                       "of %d channels",
                       mdl_shape_text(&fc->shape, text), width);
    out->input = side << root->n_stages;
    leaf = add_node(out, "fatigue", 0, MDL_MODULE_LASE);
    leaf->head = MDL_HEAD_BINARY;
    leaf = add_node(out, "recognition", 0, MDL_MODULE_NONE);
    leaf->head = MDL_HEAD_EMBEDDING;
    leaf->dim = size_of(fc, 0);
    return check_spec(out, e);
}
