/* What a network has to move through memory. */
#include "model/tool/bench.h"

/* Whether a step of the device's makes the value only in passing: a map times
 * its attention, which is added to that map at once. */
static bool in_passing(const struct mdl_graph *g, int v)
{
    const struct mdl_value *x = &g->values[v];

    if (x->producer < 0 || x->output >= 0 ||
        g->nodes[x->producer].op != MDL_OP_SCALE || mdl_graph_n_uses(g, v) != 1)
        return false;
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i].n_in; k++)
            if (g->nodes[i].in[k] == v)
                return g->nodes[i].op == MDL_OP_ADD;
    return false;
}

static double bytes_of(const struct mdl_graph *g, int v, bool half, int batch)
{
    const struct mdl_value *x = &g->values[v];
    double n = (double)mdl_shape_count(&x->shape);

    if (v == g->input)
        return n * batch;
    if (x->kind != MDL_VALUE_RESULT)
        return n * (half && x->shape.n_dims > 1 ? 2 : 4);
    if (in_passing(g, v))
        return 0;
    return n * batch * (half && x->shape.n_dims == 3 ? 2 : 4);
}

double bench_bytes(const struct mdl_graph *g, enum mdl_precision precision,
                   int batch)
{
    bool half = precision == MDL_PREC_F16 || precision == MDL_PREC_BF16;
    double sum = 0;

    for (int i = 0; i < g->n_nodes; i++) {
        const struct mdl_node *n = &g->nodes[i];

        if (in_passing(g, n->out))
            continue;
        sum += bytes_of(g, n->out, half, batch);
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] >= 0)
                sum += bytes_of(g, n->in[k], half, batch);
    }
    return sum;
}
