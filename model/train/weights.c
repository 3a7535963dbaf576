/* Master weights: taken from a graph, moved by gradients, written, restored. */
#include "model/train/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mdl_weight_fini(struct mdl_weight *w)
{
    free(w->x);
    free(w->gradient);
    mdl_moments_fini(&w->moments);
}

void mdl_weights_fini(struct mdl_weights *w)
{
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
    out->scratch = malloc(2 * most * sizeof(*out->scratch));
    return out->scratch ? UT_OK
                        : ut_fail(e, UT_ENOMEM, "no memory for a gradient");
}

enum ut_err mdl_weights_own(struct mdl_weights *w, struct mdl_weight *out,
                            const char *name, struct mdl_shape shape,
                            struct ut_error *e)
{
    struct mdl_weight **more =
        realloc(w->own, (size_t)(w->n_own + 1) * sizeof(struct mdl_weight *));

    if (!more)
        return ut_fail(e, UT_ENOMEM, "no memory for %s", name);
    w->own = more;
    w->own[w->n_own++] = out;
    return make(out, name, shape, true, e);
}

/* The next of everything that has a gradient, from *at = 0 on, or NULL. */
static struct mdl_weight *next(const struct mdl_weights *w, int *at)
{
    int n = w->graph->n_values;

    while (*at < n + w->n_own) {
        int i = (*at)++;
        struct mdl_weight *x = i < n ? &w->list[i] : w->own[i - n];

        if (x->gradient)
            return x;
    }
    return NULL;
}

static int count(const struct mdl_weights *w)
{
    int n = 0;

    for (int at = 0; next(w, &at);)
        n++;
    return n;
}

/* ---- learning ---- */

void mdl_weight_gather(struct mdl_weight *w, const float *gradient)
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
            mdl_weight_gather(w, all->scratch + g->at);
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
        double n = (double)s->places * mdl_plan_batch(plan);
        float unbias = n > 1 ? (float)(n / (n - 1)) : 1;

        rc = mdl_plan_get(plan, s->stats, w->scratch, e);
        for (size_t c = 0; c < mean->n && !rc; c++) {
            mean->x[c] += m * (w->scratch[c] - mean->x[c]);
            var->x[c] += m * (w->scratch[mean->n + c] * unbias - var->x[c]);
        }
    }
    return rc;
}

enum ut_err mdl_weights_learn(struct mdl_weights *w, const struct mdl_step *s,
                              struct mdl_plan *plan, float momentum,
                              struct ut_error *e)
{
    enum ut_err rc = gather(w, s, plan, e);

    return rc ? rc : move_statistics(w, s, plan, momentum, e);
}

/* ---- updates ---- */

static enum ut_err add_squares(const struct mdl_weight *w, int threads,
                               double *squares, struct ut_error *e)
{
    const float *g = w->gradient;
    int team = mdl_optimizer_team(w->n, threads);
    double sum = 0;

#pragma omp parallel for simd num_threads(team) schedule(static)               \
    reduction(+ : sum)
    for (size_t i = 0; i < w->n; i++)
        sum += (double)g[i] * g[i];
    *squares += sum;
    return isfinite(sum) ? UT_OK
                         : ut_fail(e, UT_ESTATE,
                                   "the gradient of %s is not finite", w->name);
}

enum ut_err mdl_weights_update(struct mdl_weights *w,
                               const struct mdl_optimizer *o, double rate,
                               float clip, int threads, double *norm,
                               struct ut_error *e)
{
    enum ut_err rc = UT_OK;
    struct mdl_weight *x;
    double squares = 0;
    float factor = 1;

    for (int at = 0; !rc && (x = next(w, &at));)
        if (x->gathered)
            rc = add_squares(x, threads, &squares, e);
    if (norm)
        *norm = sqrt(squares);
    if (clip > 0 && sqrt(squares) > clip)
        factor = (float)(clip / sqrt(squares));
    for (int at = 0; !rc && (x = next(w, &at));) {
        if (!x->gathered)
            continue;
        rc = mdl_optimizer_step(o, &x->moments, rate * x->rate, x->decays,
                                factor, threads, x->x, x->gradient, x->n, e);
        x->gathered = false;
    }
    return rc;
}

const float *mdl_weights_gradient(const struct mdl_weights *w, const char *name)
{
    const struct mdl_weight *x;

    for (int at = 0; (x = next(w, &at));)
        if (x->gathered && !strcmp(x->name, name))
            return x->gradient;
    return NULL;
}

/* ---- writing, restoring ---- */

void mdl_weights_tensors_fini(struct mdl_weights_tensors *x)
{
    free(x->list);
    free(x->names);
    free(x->steps);
    *x = (struct mdl_weights_tensors){0};
}

static void add_floats(struct mdl_weights_tensors *x, const char *name,
                       struct mdl_shape s, const float *data)
{
    x->list[x->n++] = (struct mdl_st_tensor){
        name, MDL_F32, s, data, mdl_shape_count(&s) * sizeof(float)};
}

/* "optimizer.first:NAME" */
static const char *moment_name(char name[MDL_NAME_LEN + 40], const char *which,
                               const struct mdl_weight *w)
{
    snprintf(name, MDL_NAME_LEN + 40, "optimizer.%s:%s", which, w->name);
    return name;
}

static void add_state(const struct mdl_weights *weights,
                      struct mdl_weights_tensors *x)
{
    const struct mdl_weight *w;
    int named = 0, k = 0;

    for (int at = 0; (w = next(weights, &at));) {
        x->steps[k++] = w->moments.steps;
        if (w->moments.first)
            add_floats(x, moment_name(x->names[named++], "first", w),
                       mdl_shape_of(1, (int)w->n), w->moments.first);
        if (w->moments.second)
            add_floats(x, moment_name(x->names[named++], "second", w),
                       mdl_shape_of(1, (int)w->n), w->moments.second);
    }
    x->list[x->n++] =
        (struct mdl_st_tensor){"optimizer.steps", MDL_I64, mdl_shape_of(1, k),
                               x->steps, (size_t)k * sizeof(*x->steps)};
}

enum ut_err mdl_weights_tensors(struct mdl_weights *w, bool state,
                                struct mdl_weights_tensors *out,
                                struct ut_error *e)
{
    size_t n = (size_t)count(w);

    *out = (struct mdl_weights_tensors){
        .list = calloc(2 * n + (size_t)w->n_own + 1, sizeof(*out->list)),
        .names = calloc(2 * n + 1, sizeof(*out->names)),
        .steps = calloc(n + 1, sizeof(*out->steps)),
    };
    if (!out->list || !out->names || !out->steps) {
        mdl_weights_tensors_fini(out);
        return ut_fail(e, UT_ENOMEM, "no memory for a list of tensors");
    }
    for (int i = 0; i < w->n_own; i++)
        add_floats(out, w->own[i]->name, w->own[i]->shape, w->own[i]->x);
    if (state)
        add_state(w, out);
    return UT_OK;
}

/* A moment [w->n] from the file, or NULL where it has none. */
static enum ut_err restore(const struct mdl_st *file, const char *which,
                           const struct mdl_weight *w, float **out,
                           struct ut_error *e)
{
    char name[MDL_NAME_LEN + 40];
    const struct mdl_st_tensor *x =
        mdl_st_find(file, moment_name(name, which, w));

    if (!x)
        return UT_OK;
    if (mdl_shape_count(&x->shape) != w->n)
        return ut_fail(e, UT_EFORMAT, "%.120s has %zu numbers, not %zu", name,
                       mdl_shape_count(&x->shape), w->n);
    *out = malloc(w->n * sizeof(**out));
    return *out ? mdl_st_floats(x, *out, e)
                : ut_fail(e, UT_ENOMEM, "no memory for %.120s", name);
}

enum ut_err mdl_weights_restore(struct mdl_weights *all,
                                const struct mdl_st *file, struct ut_error *e)
{
    const struct mdl_st_tensor *steps = mdl_st_find(file, "optimizer.steps");
    struct mdl_weight *w;
    enum ut_err rc = UT_OK;
    int k = 0;

    if (!steps || steps->dtype != MDL_I64 ||
        steps->len != (size_t)count(all) * sizeof(int64_t))
        return ut_fail(e, UT_EFORMAT, "the file is no checkpoint of this");
    for (int at = 0; !rc && (w = next(all, &at));) {
        memcpy(&w->moments.steps,
               (const char *)steps->data + (size_t)k++ * sizeof(int64_t),
               sizeof(int64_t));
        rc = restore(file, "first", w, &w->moments.first, e);
        if (!rc)
            rc = restore(file, "second", w, &w->moments.second, e);
    }
    return rc;
}
