/* Master weights: taken from a graph, moved by gradients, here or on devices.
 */
#include "model/train/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/train/weights_parts.h"

void mdl_weight_fini(struct mdl_weight *w)
{
    free(w->x);
    free(w->gradient);
    mdl_moments_fini(&w->moments);
}

void mdl_weights_fini(struct mdl_weights *w)
{
    weights_device_fini(w);
    for (int v = 0; w->list && v < w->graph->n_values; v++) {
        if (w->list[v].x)
            w->graph->values[v].data = NULL;
        mdl_weight_fini(&w->list[v]);
    }
    free(w->list);
    free(w->trains);
    free(w->own);
    free(w->scratch);
    *w = (struct mdl_weights){0};
}

static enum ut_err make(struct mdl_weight *w, const char *name,
                        struct mdl_shape shape, bool trains, struct ut_error *e)
{
    *w = (struct mdl_weight){.n = mdl_shape_count(&shape),
                             .decays = shape.n_dims > 1,
                             .rate = 1,
                             .shape = shape,
                             .name = name};
    w->x = calloc(w->n, sizeof(*w->x));
    w->gradient = trains ? calloc(w->n, sizeof(*w->gradient)) : NULL;
    return w->x && (!trains || w->gradient)
               ? UT_OK
               : ut_fail(e, UT_ENOMEM, "no memory for %s", name);
}

static enum ut_err want_scratch(struct mdl_weights *w, size_t n,
                                struct ut_error *e)
{
    float *more;

    if (n <= w->n_scratch)
        return UT_OK;
    more = realloc(w->scratch, n * sizeof(*more));
    if (!more)
        return ut_fail(e, UT_ENOMEM, "no memory for a gradient");
    w->scratch = more;
    w->n_scratch = n;
    return UT_OK;
}

enum ut_err mdl_weights_take(struct mdl_graph *g, struct mdl_weights *out,
                             struct ut_error *e)
{
    size_t most = 0;

    *out = (struct mdl_weights){.graph = g};
    out->list = calloc((size_t)g->n_values, sizeof(*out->list));
    out->trains = calloc((size_t)g->n_values, sizeof(*out->trains));
    if (!out->list || !out->trains)
        return ut_fail(e, UT_ENOMEM, "no memory for a trainer");
    for (int v = 0; v < g->n_values; v++) {
        struct mdl_value *value = &g->values[v];
        struct mdl_weight *w = &out->list[v];
        bool param = value->kind == MDL_VALUE_PARAM;
        enum ut_err rc;

        if (!param && value->kind != MDL_VALUE_BUFFER)
            continue;
        rc = make(w, value->name, value->shape, param, e);
        if (rc)
            return rc;
        memcpy(w->x, value->data, w->n * sizeof(*w->x));
        value->data = w->x;
        out->trains[v] = param;
        most = w->n > most ? w->n : most;
    }
    /* gamma's and beta's gradients lie together, and so do statistics */
    return want_scratch(out, 2 * most, e);
}

enum ut_err mdl_weights_own(struct mdl_weights *w, struct mdl_weight *out,
                            const char *name, struct mdl_shape shape,
                            struct ut_error *e)
{
    struct mdl_weight **more =
        realloc(w->own, (size_t)(w->n_own + 1) * sizeof(struct mdl_weight *));
    enum ut_err rc;

    if (!more)
        return ut_fail(e, UT_ENOMEM, "no memory for %s", name);
    w->own = more;
    w->own[w->n_own++] = out;
    rc = make(out, name, shape, true, e);
    return rc ? rc : want_scratch(w, out->n, e);
}

struct mdl_weight *mdl_weights_next(const struct mdl_weights *w, int *at)
{
    int n = w->graph->n_values;

    while (*at < n + w->n_own) {
        int i = (*at)++;
        struct mdl_weight *x = i < n ? &w->list[i] : w->own[i - n];

        if (x->n)
            return x;
    }
    return NULL;
}

/* ---- learning ---- */

void weights_gather(struct mdl_weight *w, const float *gradient)
{
    if (!w->gathered)
        memcpy(w->gradient, gradient, w->n * sizeof(*gradient));
    for (size_t i = 0; w->gathered && i < w->n; i++)
        w->gradient[i] += gradient[i];
    w->gathered = true;
}

static enum ut_err gather(struct mdl_weights *all, const struct mdl_step *s,
                          struct mdl_plan *plan, struct ut_error *e)
{
    enum ut_err rc = UT_OK;
    int last = -1;

    for (int i = 0; i < s->n_gradients && !rc; i++) {
        const struct mdl_gradient *g = &s->gradients[i];
        struct mdl_weight *w = &all->list[g->param];
        size_t size = mdl_shape_count(&s->graph.values[g->grad].shape);
        bool straight = size == w->n && !w->gathered;

        if (g->grad != last) /* gamma's and beta's lie together */
            rc = mdl_plan_get(plan, g->grad,
                              straight ? w->gradient : all->scratch, e);
        last = g->grad;
        if (!rc && !straight)
            weights_gather(w, all->scratch + g->at);
        w->gathered = true;
    }
    return rc;
}

static enum ut_err move_statistics(struct mdl_weights *w,
                                   const struct mdl_step *step,
                                   struct mdl_plan *plan, float m,
                                   struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (int i = 0; i < step->n_statistics && !rc; i++) {
        const struct mdl_statistics *s = &step->statistics[i];
        struct mdl_weight *mean = &w->list[s->mean], *var = &w->list[s->var];
        float unbias = weights_unbias(s->places * mdl_plan_batch(plan));

        rc = mdl_plan_get(plan, s->stats, w->scratch, e);
        for (size_t c = 0; c < mean->n && !rc; c++) {
            mean->x[c] += m * (w->scratch[c] - mean->x[c]);
            var->x[c] += m * (w->scratch[mean->n + c] * unbias - var->x[c]);
        }
    }
    return rc;
}

/* Towards the batch's statistics in part i of n, one after another: so much
 * that in the end they moved by momentum towards the mean of the parts'. */
static float towards(float momentum, int i, int n)
{
    return momentum / ((float)n - momentum * (float)(n - 1 - i));
}

enum ut_err mdl_weights_learn(struct mdl_weights *w, const struct mdl_step *s,
                              struct mdl_plan *const *plans, int n,
                              float momentum, struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    if (w->learner.ops)
        return weights_device_learn(w, s, plans, n, momentum, e);
    for (int i = 0; i < n && !rc; i++) {
        rc = gather(w, s, plans[i], e);
        if (!rc)
            rc = move_statistics(w, s, plans[i], towards(momentum, i, n), e);
    }
    return rc;
}

/* ---- updates ---- */

static double squares_of(const struct mdl_weight *w, int threads)
{
    const float *g = w->gradient;
    int team = mdl_optimizer_team(w->n, threads);
    double sum = 0;

#pragma omp parallel for simd num_threads(team) schedule(static)               \
    reduction(+ : sum)
    for (size_t i = 0; i < w->n; i++)
        sum += (double)g[i] * g[i];
    return sum;
}

/* The squares of all that gathered, together. */
static enum ut_err measure(struct mdl_weights *w, int threads, double *squares,
                           struct ut_error *e)
{
    enum ut_err rc = w->learner.ops ? weights_device_squares(w, e) : UT_OK;
    struct mdl_weight *x;

    *squares = 0;
    for (int at = 0; !rc && (x = mdl_weights_next(w, &at));) {
        if (!x->gathered)
            continue;
        if (!w->learner.ops)
            x->squares = squares_of(x, threads);
        if (!isfinite(x->squares))
            rc = ut_fail(e, UT_ESTATE, "the gradient of %s is not finite",
                         x->name);
        *squares += x->squares;
    }
    return rc;
}

static enum ut_err move_here(struct mdl_weights *w,
                             const struct mdl_optimizer *o, double rate,
                             float factor, int threads, struct ut_error *e)
{
    enum ut_err rc = UT_OK;
    struct mdl_weight *x;

    for (int at = 0; !rc && (x = mdl_weights_next(w, &at));)
        if (x->gathered)
            rc =
                mdl_optimizer_step(o, &x->moments, rate * x->rate, x->decays,
                                   factor, threads, x->x, x->gradient, x->n, e);
    return rc;
}

enum ut_err mdl_weights_update(struct mdl_weights *w,
                               const struct mdl_optimizer *o, double rate,
                               float clip, int threads, double *norm,
                               struct ut_error *e)
{
    struct mdl_weight *x;
    double squares;
    float factor = 1;
    enum ut_err rc = measure(w, threads, &squares, e);

    if (norm)
        *norm = sqrt(squares);
    if (clip > 0 && sqrt(squares) > clip)
        factor = (float)(clip / sqrt(squares));
    if (!rc)
        rc = w->learner.ops ? weights_device_move(w, o, rate, factor, e)
                            : move_here(w, o, rate, factor, threads, e);
    for (int at = 0; !rc && (x = mdl_weights_next(w, &at));)
        x->gathered = false;
    return rc;
}
