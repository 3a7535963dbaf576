/* Where the values of a plan lie: planned once, in the workspace of the lane.
 */
#include <stdlib.h>

#include "model/backends/cpu/plan.h"

/* A picture that only convolutions read, for which oneDNN has kernels of its
 * own. */
static bool is_plain(const struct plan *p, int v)
{
    const struct mdl_graph *g = p->g;
    const struct mdl_value *value = &g->values[v];

    if (value->producer < 0 || g->nodes[value->producer].op != MDL_OP_IMAGE ||
        value->output >= 0 || value->keep)
        return false;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct mdl_node *n = &g->nodes[i];
        bool reads = n->op == MDL_OP_CONV || n->op == MDL_OP_CONV_DW;

        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] == v && !(reads && k == MDL_IN_X))
                return false;
    }
    return true;
}

static void describe(struct plan *p, int v)
{
    const struct mdl_shape *s = &p->g->values[v].shape;
    struct mdl_map *m = &p->maps[v];

    if (p->g->values[v].whole)
        return; /* only its data */
    m->batch = p->batch;
    m->channels = (int)s->dim[0];
    m->vector = s->n_dims == 1;
    m->height = m->vector ? 1 : (int)s->dim[1];
    m->width = m->vector ? 1 : (int)s->dim[2];
    m->lanes = is_plain(p, v) ? 1 : p->ctx->kernels->lanes;
    m->bf16 = p->bf16 && !m->vector;
}

static size_t bytes_of(const struct plan *p, int v)
{
    const struct mdl_value *value = &p->g->values[v];
    dnnl_memory_desc_t d;
    size_t size;

    if (!value->whole) {
        d = cpu_desc(p, v);
        size = dnnl_memory_desc_get_size(&d);
    } else if (p->whole[v].ndims) {
        size = dnnl_memory_desc_get_size(&p->whole[v]);
    } else {
        size = mdl_shape_count(&value->shape) * sizeof(float);
    }
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

/* A value that a plan gives a place: a result, or an input that is set. */
static bool is_placed(const struct mdl_value *v)
{
    return v->kind == MDL_VALUE_RESULT ||
           (v->kind == MDL_VALUE_INPUT && v->dtype == MDL_F32);
}

/* When a value lives: steps [first, last]. */
struct life {
    int value, first, last;
    size_t size;
};

static int by_first(const void *a, const void *b)
{
    return ((const struct life *)a)->first - ((const struct life *)b)->first;
}

/* From its step to the last that uses it, or to the end if it is asked for. An
 * input that nobody uses is set all the same. */
static int find_lives(const struct plan *p, struct life *lives)
{
    const struct mdl_graph *g = p->g;
    int n = 0;

    for (int v = 0; v < g->n_values; v++) {
        const struct mdl_value *value = &g->values[v];
        bool stays = value->output >= 0 || value->keep;

        if (!is_placed(value))
            continue;
        lives[n++] = (struct life){
            .value = v,
            .first = value->producer < 0 ? 0 : value->producer,
            .last = stays ? g->n_nodes : value->producer,
            .size = bytes_of(p, v),
        };
    }
    for (int k = 0; k < n; k++)
        for (int i = lives[k].first; i < g->n_nodes; i++)
            for (int j = 0; j < g->nodes[i].n_in; j++)
                if (g->nodes[i].in[j] == lives[k].value && i > lives[k].last)
                    lives[k].last = i;
    for (int k = 0; k < n; k++)
        if (lives[k].last < 0)
            lives[k].last = g->n_nodes;
    qsort(lives, (size_t)n, sizeof(*lives), by_first);
    return n;
}

/* Gives every value the lowest place that is free for its whole life. */
static enum ut_err place_values(struct plan *p, struct ut_error *e)
{
    struct life *lives = malloc((size_t)p->g->n_values * sizeof(*lives));
    int n;

    if (!lives)
        return ut_fail(e, UT_ENOMEM, "no memory for a plan");
    n = find_lives(p, lives);
    for (int i = 0; i < n; i++) {
        const struct life *l = &lives[i];
        bool moved = true;
        size_t at = 0;

        while (moved) {
            moved = false;
            for (int k = 0; k < i; k++) {
                size_t from = p->offset[lives[k].value];

                if (lives[k].last >= l->first && at < from + lives[k].size &&
                    from < at + l->size) {
                    at = from + lives[k].size;
                    moved = true;
                }
            }
        }
        p->offset[l->value] = at;
        if (at + l->size > p->scratch)
            p->scratch = at + l->size;
    }
    free(lives);
    return UT_OK;
}

/* Where there is no room, the lane's other plans keep what they have. */
static enum ut_err grow_workspace(struct plan *p, struct ut_error *e)
{
    size_t size = (p->scratch + p->scratch_size + 4095) / 4096 * 4096;
    struct lane *l = p->lane;
    char *larger;

    if (size <= l->size)
        return UT_OK;
    larger = aligned_alloc(4096, size);
    if (!larger)
        return ut_fail(e, UT_ENOMEM, "no memory for a workspace of %zu bytes",
                       size);
    free(l->workspace);
    l->workspace = larger;
    l->size = size;
    return UT_OK;
}

void cpu_map_values(struct plan *p)
{
    for (int v = 0; v < p->g->n_values; v++)
        if (is_placed(&p->g->values[v]))
            describe(p, v);
}

enum ut_err cpu_plan_memory(struct plan *p, struct ut_error *e)
{
    enum ut_err rc = place_values(p, e);

    return rc ? rc : grow_workspace(p, e);
}

void cpu_bind(struct plan *p)
{
    if (p->base == p->lane->workspace)
        return;
    p->base = p->lane->workspace;
    for (int v = 0; v < p->g->n_values; v++)
        if (is_placed(&p->g->values[v]))
            p->maps[v].data = p->base + p->offset[v];
    for (int i = 0; i < p->n_steps; i++)
        for (int k = 0; k < p->steps[i].n_placed; k++) {
            const struct placed *x = &p->steps[i].placed[k];

            dnnl_memory_set_data_handle(
                x->memory,
                p->base + (x->value < 0 ? p->scratch : p->offset[x->value]));
        }
}
