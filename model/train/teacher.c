/* A batch in equal parts over single-threaded lanes, as the server does it. */
#include "model/train/teacher.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/backend.h"

#define MAX_THREADS 64

struct part {
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    int first, n; /* of the batch */
    enum ut_err rc;
    struct ut_error error;
};

struct mdl_teacher {
    struct mdl_graph graph, fused;
    struct mdl_backend *backend;
    struct part parts[MAX_THREADS];
    int n_parts, side, dim;
    int hint;             /* output; -1: none */
    int channels, places; /* of the hint */
};

void mdl_teacher_close(struct mdl_teacher *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->n_parts; i++) {
        mdl_plan_free(t->parts[i].plan);
        mdl_lane_free(t->parts[i].lane);
    }
    mdl_backend_close(t->backend);
    mdl_graph_fini(&t->fused);
    mdl_graph_fini(&t->graph);
    free(t);
}

/* Makes the inner map an output. */
static enum ut_err find_hint(struct mdl_teacher *t,
                             const struct mdl_teacher_config *c,
                             struct ut_error *e)
{
    struct mdl_graph *g = &t->graph;
    const struct mdl_shape *s = NULL;
    int best = -1;

    t->hint = -1;
    if (!c->hint[0])
        return UT_OK;
    for (int v = 0; v < g->n_values; v++) {
        const struct mdl_shape *at = &g->values[v].shape;

        if (g->values[v].kind == MDL_VALUE_RESULT && at->n_dims == 3 &&
            g->nodes[g->values[v].producer].op != MDL_OP_IMAGE &&
            g->values[v].output < 0 && at->dim[1] == c->hint[0] &&
            at->dim[2] == c->hint[1] && (!s || at->dim[0] <= s->dim[0])) {
            best = v;
            s = at;
        }
    }
    if (best < 0)
        return ut_fail(e, UT_EINVAL, "%.150s: has no inner map of %dx%d",
                       c->path, c->hint[0], c->hint[1]);
    t->channels = (int)s->dim[0];
    t->places = (int)(s->dim[1] * s->dim[2]);
    t->hint = g->n_outputs;
    mdl_graph_output(g, best, "hint");
    return g->error.code ? ut_fail(e, g->error.code, "%s", g->error.msg)
                         : UT_OK;
}

static enum ut_err open_network(struct mdl_teacher *t,
                                const struct mdl_teacher_config *c,
                                struct ut_error *e)
{
    enum ut_err rc = mdl_onnx_read(c->path, &c->input, &t->graph, e);
    const struct mdl_shape *s;

    if (rc)
        return rc;
    s = &t->graph.values[t->graph.input].shape;
    if (s->dim[0] != c->side || s->dim[1] != c->side)
        return ut_fail(e, UT_EINVAL,
                       "%.150s: wants pictures of %lldx%lld, not %dx%d",
                       c->path, (long long)s->dim[1], (long long)s->dim[0],
                       c->side, c->side);
    t->side = c->side;
    t->dim = (int)mdl_shape_count(&t->graph.values[t->graph.outputs[0]].shape);
    rc = find_hint(t, c, e);
    return rc ? rc
              : mdl_graph_optimise(&t->graph,
                                   t->hint < 0 ? 1 : 1 | 1ull << t->hint,
                                   &t->fused, e);
}

static enum ut_err open_parts(struct mdl_teacher *t,
                              const struct mdl_teacher_config *c,
                              struct ut_error *e)
{
    int threads = c->threads < c->batch ? c->threads : c->batch;
    enum mdl_precision precision;
    enum ut_err rc = mdl_backend_open(c->backend, 0, &t->backend, e);

    if (rc)
        return rc;
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    precision = mdl_backend_supports(t->backend, MDL_PREC_BF16) ? MDL_PREC_BF16
                                                                : MDL_PREC_F32;
    for (int i = 0; i < threads && !rc; i++) {
        struct part *p = &t->parts[i];

        p->first = c->batch * i / threads;
        p->n = c->batch * (i + 1) / threads - p->first;
        t->n_parts++;
        rc = mdl_lane_new(t->backend, &p->lane, e);
        if (!rc)
            rc = mdl_plan_new(p->lane, &t->fused, precision, p->n, &p->plan, e);
    }
    return rc;
}

enum ut_err mdl_teacher_open(const struct mdl_teacher_config *c,
                             struct mdl_teacher **out, struct ut_error *e)
{
    struct mdl_teacher *t = calloc(1, sizeof(*t));
    enum ut_err rc;

    *out = NULL;
    if (!t)
        return ut_fail(e, UT_ENOMEM, "no memory for a teacher");
    mdl_graph_init(&t->graph);
    mdl_graph_init(&t->fused);
    rc = open_network(t, c, e);
    if (!rc)
        rc = open_parts(t, c, e);
    if (rc) {
        mdl_teacher_close(t);
        return rc;
    }
    *out = t;
    return UT_OK;
}

int mdl_teacher_dim(const struct mdl_teacher *t)
{
    return t->dim;
}

int mdl_teacher_hint_channels(const struct mdl_teacher *t)
{
    return t->channels;
}

static void embed(const struct mdl_teacher *t, struct part *p,
                  const uint8_t *images, float *rows, float *hint)
{
    size_t image = (size_t)t->side * (size_t)t->side * 3;
    float *out[MDL_MAX_OUTPUTS] = {rows + (size_t)p->first * (size_t)t->dim};
    struct mdl_io io = {images + (size_t)p->first * image, out};

    if (t->hint >= 0)
        out[t->hint] =
            hint + (size_t)p->first * (size_t)t->channels * (size_t)t->places;
    p->rc = mdl_plan_run(p->plan, &io, &p->error);
    for (int i = 0; i < p->n && !p->rc; i++) {
        float *row = out[0] + (size_t)i * (size_t)t->dim;
        double sum = 0;

        for (int k = 0; k < t->dim; k++)
            sum += (double)row[k] * row[k];
        for (int k = 0; k < t->dim; k++)
            row[k] /= (float)fmax(sqrt(sum), 1e-12);
    }
}

enum ut_err mdl_teacher_embed(struct mdl_teacher *t, const uint8_t *images,
                              float *rows, float *hint, struct ut_error *e)
{
#pragma omp parallel for num_threads(t->n_parts) schedule(static)
    for (int i = 0; i < t->n_parts; i++)
        embed(t, &t->parts[i], images, rows, hint);
    for (int i = 0; i < t->n_parts; i++)
        if (t->parts[i].rc) {
            *e = t->parts[i].error;
            return e->code;
        }
    return UT_OK;
}
