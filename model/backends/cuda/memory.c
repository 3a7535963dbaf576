/* Where the values of a plan lie: planned once, in the memory of the lane. */
#include <stdlib.h>

#include "model/backends/cuda/plan.h"

struct life {
    int first, last; /* steps; first < 0: no life */
    size_t size;
};

bool cuda_is_given(const struct plan *p, int v)
{
    return p->g->values[v].kind == MDL_VALUE_INPUT && v != p->g->input;
}

void cuda_shape(struct plan *p)
{
    for (int v = 0; v < p->g->n_values; v++) {
        const struct mdl_shape *s = &p->g->values[v].shape;
        struct gpu_map *m = &p->maps[v];

        if (p->g->values[v].kind != MDL_VALUE_RESULT && !cuda_is_given(p, v))
            continue;
        if (p->g->values[v].whole) { /* its operation may say more */
            *m = (struct gpu_map){NULL, GPU_F32, 1,
                                  1,    1,       (int)mdl_shape_count(s)};
            continue;
        }
        m->batch = p->batch;
        m->c = (int)s->dim[0];
        m->h = s->n_dims == 3 ? (int)s->dim[1] : 1;
        m->w = s->n_dims == 3 ? (int)s->dim[2] : 1;
        m->type = s->n_dims == 3 ? p->type : GPU_F32;
    }
}

static size_t size_of(const struct gpu_map *m)
{
    return gpu_items(m) * (m->type == GPU_F32 ? 4 : 2);
}

/* Values; then the row-major copies of the outputs. */
static void find_lives(const struct plan *p, struct life *lives, int n)
{
    const struct mdl_graph *g = p->g;

    for (int i = 0; i < n; i++)
        lives[i].first = -1;
    lives[g->input] = (struct life){.size = cuda_in_len(p)};
    for (int v = 0; v < g->n_values; v++)
        if (cuda_is_given(p, v))
            lives[v] = (struct life){.size = size_of(&p->maps[v])};
    for (int i = 0; i < p->n_steps; i++) {
        const struct step *s = &p->steps[i];

        lives[s->out] =
            (struct life){.first = i,
                          .last = g->values[s->out].keep ? p->n_steps : i,
                          .size = size_of(&p->maps[s->out])};
        for (int k = 0; k < s->n_in; k++)
            if (s->in[k] >= 0 && lives[s->in[k]].last < i)
                lives[s->in[k]].last = i;
    }
    for (int i = 0; i < g->n_outputs; i++)
        if (g->outputs[i] >= 0) {
            lives[g->outputs[i]].last = p->n_steps;
            lives[g->n_values + i] = (struct life){.first = p->n_steps,
                                                   .last = p->n_steps,
                                                   .size = cuda_out_len(p, i)};
        }
}

/* Gives every value the lowest place that is free for its whole life. */
static void place(struct plan *p, const struct life *lives, int n, int i)
{
    bool moved = true;
    size_t at = 0;

    while (moved) {
        moved = false;
        for (int k = 0; k < n; k++) {
            if (k == i || lives[k].first < 0 || p->offset[k] == SIZE_MAX ||
                lives[k].last < lives[i].first ||
                lives[k].first > lives[i].last ||
                at >= p->offset[k] + lives[k].size ||
                p->offset[k] >= at + lives[i].size)
                continue;
            at = gpu_aligned(p->offset[k] + lives[k].size);
            moved = true;
        }
    }
    p->offset[i] = at;
    if (gpu_aligned(at + lives[i].size) > p->work_size)
        p->work_size = gpu_aligned(at + lives[i].size);
}

/* Memory beside the values that one step at a time may have. */
static void want_room(struct plan *p, size_t len)
{
    if (p->room + gpu_aligned(len) > p->work_size)
        p->work_size = p->room + gpu_aligned(len);
}

enum ut_err cuda_place(struct plan *p, struct ut_error *e)
{
    const struct mdl_graph *g = p->g;
    int n = g->n_values + g->n_outputs;
    struct life *lives = calloc((size_t)n, sizeof(*lives));

    if (!lives)
        return ut_fail(e, UT_ENOMEM, "no memory for a plan");
    find_lives(p, lives, n);
    for (int i = 0; i < n; i++)
        p->offset[i] = SIZE_MAX;
    for (int step = 0; step <= p->n_steps; step++)
        for (int i = 0; i < n; i++)
            if (lives[i].first == step)
                place(p, lives, n, i);
    p->room = p->work_size;
    for (int i = 0; i < p->n_steps; i++) {
        const struct gpu_engine *engine = p->steps[i].engine;

        if (engine)
            want_room(p, cuda_room(&p->steps[i].product, engine));
        want_room(p, p->steps[i].room);
        if (p->trains)
            want_room(p, cuda_weights_room(p->steps[i].w));
    }
    for (int v = 0; v < g->n_values; v++) /* row-major, on its way */
        if (g->values[v].keep || cuda_is_given(p, v))
            want_room(p, gpu_items(&p->maps[v]) * sizeof(float));
    p->host_size = gpu_aligned(lives[g->input].size);
    for (int i = 0; i < g->n_outputs; i++)
        if (g->outputs[i] >= 0) {
            p->host_out[i] = p->host_size;
            p->host_size += gpu_aligned(lives[g->n_values + i].size);
        }
    free(lives);
    return UT_OK;
}

enum ut_err cuda_grow(char **at, size_t *size, size_t want, bool pinned,
                      struct ut_error *e)
{
    void *more = NULL;
    enum ut_err rc;

    if (want <= *size)
        return UT_OK;
    (pinned ? gpu_unpin : gpu_free)(*at);
    *at = NULL;
    *size = 0;
    rc = (pinned ? gpu_pin : gpu_alloc)(want, &more, e);
    if (rc)
        return rc;
    *at = more;
    *size = want;
    return UT_OK;
}
