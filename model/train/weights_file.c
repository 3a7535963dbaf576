/* Training's own tensors and the optimiser's state, to and from a file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/train/weights.h"

/* Those that have a gradient. */
static struct mdl_weight *next(const struct mdl_weights *w, int *at)
{
    struct mdl_weight *x;

    do
        x = mdl_weights_next(w, at);
    while (x && !x->gradient);
    return x;
}

static int count(const struct mdl_weights *w)
{
    int n = 0;

    for (int at = 0; next(w, &at);)
        n++;
    return n;
}

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
    enum ut_err rc = mdl_weights_read(w, state, e);

    *out = (struct mdl_weights_tensors){0};
    if (rc)
        return rc;
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
                                enum mdl_optimizer_kind kind,
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
        if (!rc && kind != MDL_SGD && !w->moments.first != !w->moments.second)
            rc = ut_fail(e, UT_EFORMAT,
                         "the file has one of the two moments of %.120s",
                         w->name);
    }
    return rc;
}
