/* Pictures through a model: each lane's thread takes the next batch, decodes it
 * and runs it. Batch k is always the same pictures, whichever lane it meets. */
#include "model/eval/evaluator.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/vision/image.h"

#define BATCH 16

struct lane {
    struct mdl_lane *lane;
    struct mdl_plan *plan;
};

struct mdl_evaluator {
    const struct mdl_model *model;
    struct mdl_graph graph;
    struct mdl_backend *backend;
    struct lane lanes[MDL_EVALUATOR_LANES];
    int n_lanes;
};

void mdl_evaluator_free(struct mdl_evaluator *v)
{
    if (!v)
        return;
    for (int i = 0; i < v->n_lanes; i++) {
        mdl_plan_free(v->lanes[i].plan);
        mdl_lane_free(v->lanes[i].lane);
    }
    mdl_backend_close(v->backend);
    mdl_graph_fini(&v->graph);
    free(v);
}

static enum ut_err open_lanes(struct mdl_evaluator *v,
                              enum mdl_precision precision, int n,
                              struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    n = n > 0 ? n : mdl_backend_lanes(v->backend);
    for (int i = 0; i < n && i < MDL_EVALUATOR_LANES && !rc; i++) {
        rc = mdl_lane_new(v->backend, &v->lanes[i].lane, e);
        v->n_lanes += !rc;
        if (!rc)
            rc = mdl_plan_new(v->lanes[i].lane, &v->graph, precision, BATCH,
                              &v->lanes[i].plan, e);
    }
    return rc;
}

enum ut_err mdl_evaluator_new(const struct mdl_model *model,
                              const char *backend, enum mdl_precision precision,
                              int lanes, struct mdl_evaluator **out,
                              struct ut_error *e)
{
    struct mdl_evaluator *v = calloc(1, sizeof(*v));
    enum ut_err rc;

    *out = NULL;
    if (!v)
        return ut_fail(e, UT_ENOMEM, "no memory to evaluate");
    v->model = model;
    mdl_graph_init(&v->graph);
    rc = mdl_graph_optimise(&model->graph, ~0ull, &v->graph, e);
    if (!rc)
        rc = mdl_backend_open(backend, 0, &v->backend, e);
    if (!rc)
        rc = open_lanes(v, precision, lanes, e);
    if (rc) {
        mdl_evaluator_free(v);
        return rc;
    }
    *out = v;
    return UT_OK;
}

/* ---- one output of a dataset ---- */

struct run {
    struct mdl_evaluator *v;
    const struct mdl_dataset *d;
    int at, side; /* which output; the network's input */
    float *values;
    size_t size;
    pthread_mutex_t lock; /* of what follows */
    int next;             /* example that is taken next */
    int broken, first;    /* pictures, and the first of them */
    struct ut_error why;  /* of that one; or of a lane, which ends the run */
    bool failed;
};

/* The next batch's first example; d->n: there is none. */
static int take(struct run *r)
{
    int first;

    pthread_mutex_lock(&r->lock);
    first = r->failed ? r->d->n : r->next;
    if (first < r->d->n)
        r->next += BATCH;
    pthread_mutex_unlock(&r->lock);
    return first;
}

static void fail(struct run *r, const struct ut_error *why)
{
    pthread_mutex_lock(&r->lock);
    if (!r->failed)
        r->why = *why;
    r->failed = true;
    pthread_mutex_unlock(&r->lock);
}

static void tell_broken(struct run *r, int i, const struct ut_error *why)
{
    pthread_mutex_lock(&r->lock);
    if (!r->failed && (!r->broken++ || i < r->first)) {
        r->first = i;
        r->why = *why;
    }
    pthread_mutex_unlock(&r->lock);
}

/* [BATCH, side, side, 3]; what is broken stays as it was, since then nothing of
 * the run is used. */
static void decode(struct run *r, int first, int n, uint8_t *images)
{
    size_t size = (size_t)r->side * (size_t)r->side * 3;

    for (int i = 0; i < n; i++) {
        struct mdl_image im;
        struct ut_error e;

        if (mdl_dataset_picture(r->d, first + i, 2 * r->side, &im, &e)) {
            tell_broken(r, first + i, &e);
            continue;
        }
        mdl_image_resize(&im, r->side, r->side, images + (size_t)i * size);
        mdl_image_fini(&im);
    }
}

static void work(struct run *r, struct mdl_plan *plan)
{
    size_t size = (size_t)r->side * (size_t)r->side * 3;
    uint8_t *images = calloc(BATCH, size);
    float *out[MDL_MAX_OUTPUTS] = {0};
    struct ut_error e;
    int first;

    out[r->at] = malloc(BATCH * r->size * sizeof(float));
    if (!images || !out[r->at]) {
        ut_fail(&e, UT_ENOMEM, "no memory to evaluate");
        fail(r, &e);
    }
    while ((first = take(r)) < r->d->n) {
        int n = r->d->n - first < BATCH ? r->d->n - first : BATCH;

        decode(r, first, n, images);
        if (mdl_plan_run(plan, &(struct mdl_io){images, out}, &e))
            fail(r, &e);
        else
            memcpy(r->values + (size_t)first * r->size, out[r->at],
                   (size_t)n * r->size * sizeof(float));
    }
    free(out[r->at]);
    free(images);
}

struct worker {
    struct run *run;
    struct mdl_plan *plan;
    pthread_t thread;
};

static void *on_thread(void *arg)
{
    struct worker *w = arg;

    work(w->run, w->plan);
    return NULL;
}

/* On as many threads as there are lanes, batches and leave for. */
static enum ut_err run_all(struct run *r, struct ut_error *e)
{
    struct worker workers[MDL_EVALUATOR_LANES];
    int n = 0;

    pthread_mutex_init(&r->lock, NULL);
    for (int i = 1; i < r->v->n_lanes && i * BATCH < r->d->n; i++) {
        struct worker *w = &workers[n];

        *w = (struct worker){.run = r, .plan = r->v->lanes[i].plan};
        if (pthread_create(&w->thread, NULL, on_thread, w))
            break; /* fewer do it too */
        n++;
    }
    work(r, r->v->lanes[0].plan);
    for (int i = 0; i < n; i++)
        pthread_join(workers[i].thread, NULL);
    pthread_mutex_destroy(&r->lock);
    if (r->failed)
        return ut_fail(e, r->why.code, "%s", r->why.msg);
    if (r->broken)
        return ut_fail(e, UT_EFORMAT, "%d pictures cannot be read: %.150s",
                       r->broken, r->why.msg);
    return UT_OK;
}

/* No figure means anything with one that is no number. The file alone does not
 * name a record, so the picture's place does too. */
static enum ut_err check_finite(const struct run *r, const char *output,
                                struct ut_error *e)
{
    for (size_t i = 0; i < (size_t)r->d->n * r->size; i++)
        if (!isfinite(r->values[i]))
            return ut_fail(e, UT_ESTATE,
                           "%.100s, picture %zu of %d: the model's \"%.60s\" "
                           "is %g, which is not finite",
                           r->d->examples[i / r->size].path, i / r->size + 1,
                           r->d->n, output, (double)r->values[i]);
    return UT_OK;
}

enum ut_err mdl_evaluate(struct mdl_evaluator *v, const struct mdl_dataset *d,
                         const char *output, float **values, int *size,
                         struct ut_error *e)
{
    struct run r = {.v = v, .d = d, .side = v->model->spec.input};
    enum ut_err rc;

    *values = NULL;
    r.at = mdl_graph_find_output(&v->graph, output);
    if (r.at < 0)
        return ut_fail(e, UT_EINVAL, "the model has no output \"%s\"", output);
    r.size = mdl_shape_count(&v->graph.values[v->graph.outputs[r.at]].shape);
    r.values = calloc((size_t)d->n, r.size * sizeof(float));
    if (!r.values)
        return ut_fail(e, UT_ENOMEM, "no memory for %d outputs", d->n);
    rc = run_all(&r, e);
    if (!rc)
        rc = check_finite(&r, output, e);
    if (rc) {
        free(r.values);
        return rc;
    }
    *values = r.values;
    *size = (int)r.size;
    return UT_OK;
}
