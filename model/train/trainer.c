/* Master weights, gradients, and the steps that make them. */
#include "model/train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/train/weights.h"

#define MAX_LEAVES 8

struct leaf {
    char name[MDL_NAME_LEN];
    struct mdl_step step;
    struct mdl_plan *plan;
    float *out, *seed; /* owned; [batch, shape of the output] */
    bool binary;
    struct mdl_recognition r;
    struct mdl_weight centres, projection; /* n 0: there is none */
    char centres_name[MDL_NAME_LEN + 24], projection_name[MDL_NAME_LEN + 24];
    float *scratch; /* owned; the larger of their gradients */
    bool stale;     /* the plan has not seen the weights' last move */
};

struct mdl_trainer {
    struct mdl_model *model;
    struct mdl_trainer_config config;
    struct mdl_backend *backend;
    struct mdl_lane *lane;
    struct mdl_weights weights;
    struct leaf leaves[MAX_LEAVES];
    int n_leaves;
};

static void leaf_fini(struct leaf *l)
{
    mdl_plan_free(l->plan);
    mdl_step_fini(&l->step);
    mdl_weight_fini(&l->centres);
    mdl_weight_fini(&l->projection);
    free(l->out);
    free(l->seed);
    free(l->scratch);
}

void mdl_trainer_free(struct mdl_trainer *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->n_leaves; i++)
        leaf_fini(&t->leaves[i]);
    mdl_lane_free(t->lane);
    mdl_backend_close(t->backend);
    mdl_weights_fini(&t->weights);
    free(t);
}

static bool is_of_root(const struct mdl_spec *s, const char *name)
{
    for (int i = 0; i < s->n_nodes; i++) {
        size_t n = strlen(s->nodes[i].name);

        if (s->nodes[i].parent < 0 && !strncmp(name, s->nodes[i].name, n) &&
            name[n] == '.')
            return true;
    }
    return false;
}

static enum ut_err take_weights(struct mdl_trainer *t, struct ut_error *e)
{
    struct mdl_graph *g = &t->model->graph;
    enum ut_err rc = mdl_weights_take(g, &t->weights, e);

    for (int v = 0; v < g->n_values && !rc; v++)
        if (t->config.frozen_root &&
            is_of_root(&t->model->spec, g->values[v].name))
            t->weights.trains[v] = false;
    return rc;
}

enum ut_err mdl_trainer_new(struct mdl_model *model,
                            const struct mdl_trainer_config *c,
                            struct mdl_trainer **out, struct ut_error *e)
{
    struct mdl_trainer *t = calloc(1, sizeof(*t));
    enum ut_err rc;

    *out = NULL;
    if (!t)
        return ut_fail(e, UT_ENOMEM, "no memory for a trainer");
    t->model = model;
    t->config = *c;
    rc = mdl_backend_open(c->backend, 0, &t->backend, e);
    if (!rc && !mdl_backend_trains(t->backend))
        rc = ut_fail(e, UT_EINVAL, "backend \"%s\" cannot train",
                     mdl_backend_name(t->backend));
    if (!rc)
        rc = mdl_lane_new(t->backend, &t->lane, e);
    if (!rc) {
        mdl_lane_threads(t->lane, c->threads);
        rc = take_weights(t, e);
    }
    if (rc) {
        mdl_trainer_free(t);
        return rc;
    }
    *out = t;
    return UT_OK;
}

/* ---- leaves ---- */

/* Uniform in [-1, 1): a function of seed and i alone. */
static float noise(uint64_t seed, uint64_t i)
{
    uint64_t z = seed * 0x9e3779b97f4a7c15u + i + 1;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (float)((double)(z >> 11) * 0x1p-52 - 1);
}

/* Weights of training alone, by name from the model's file, or drawn. */
static enum ut_err make_own(struct mdl_trainer *t, struct mdl_weight *w,
                            const char *name, struct mdl_shape shape,
                            float size, uint64_t seed, struct ut_error *e)
{
    const struct mdl_st_tensor *given =
        t->model->file ? mdl_st_find(t->model->file, name) : NULL;
    enum ut_err rc = mdl_weights_own(&t->weights, w, name, shape, e);

    if (rc)
        return rc;
    if (given && mdl_shape_count(&given->shape) == w->n)
        return mdl_st_floats(given, w->x, e);
    for (size_t i = 0; i < w->n; i++)
        w->x[i] = size * noise(seed, i);
    return UT_OK;
}

static enum ut_err make_recognition(struct mdl_trainer *t, struct leaf *l,
                                    struct ut_error *e)
{
    struct mdl_recognition *r = &l->r;
    int dim = (int)l->step.graph.values[l->step.ends[0]].shape.dim[0];
    size_t centres, projection;
    enum ut_err rc = UT_OK;

    r->arcface.dim = r->distill.dim = dim;
    centres = (size_t)r->arcface.classes * (size_t)r->arcface.k * (size_t)dim;
    projection = (size_t)r->distill.teacher_dim * (size_t)dim;
    if (!centres && !projection)
        return ut_fail(e, UT_EINVAL, "%s has nothing to learn from", l->name);
    l->scratch = malloc((centres > projection ? centres : projection) *
                        sizeof(*l->scratch));
    if (!l->scratch)
        return ut_fail(e, UT_ENOMEM, "no memory for leaf %s", l->name);
    if (centres)
        rc = make_own(t, &l->centres, l->centres_name,
                      mdl_shape_of(3, r->arcface.classes, r->arcface.k, dim),
                      0.1f, r->seed, e);
    if (!rc && projection)
        rc = make_own(t, &l->projection, l->projection_name,
                      mdl_shape_of(2, r->distill.teacher_dim, dim),
                      sqrtf(3 / (float)dim), r->seed + 1, e);
    return rc;
}

static void set_rate(struct mdl_trainer *t, struct leaf *l, float rate)
{
    size_t n = strlen(l->name);

    for (int v = 0; v < t->model->graph.n_values; v++) {
        struct mdl_weight *w = &t->weights.list[v];

        if (w->n && !strncmp(w->name, l->name, n) && w->name[n] == '.')
            w->rate = rate;
    }
    l->centres.rate = l->projection.rate = rate;
}

enum ut_err mdl_trainer_leaf(struct mdl_trainer *t, const char *leaf,
                             const struct mdl_recognition *r, float rate,
                             int *task, struct ut_error *e)
{
    struct leaf *l = &t->leaves[t->n_leaves];
    char output[MDL_NAME_LEN + 16];
    int at;
    size_t n;
    enum ut_err rc;

    if (t->n_leaves == MAX_LEAVES)
        return ut_fail(e, UT_EBUSY, "over %d leaves", MAX_LEAVES);
    snprintf(l->name, sizeof(l->name), "%s", leaf);
    snprintf(l->centres_name, sizeof(l->centres_name), "%s.arcface.weight",
             leaf);
    snprintf(l->projection_name, sizeof(l->projection_name),
             "%s.projection.weight", leaf);
    snprintf(output, sizeof(output), "%s.%s", leaf, r ? "embedding" : "logit");
    l->binary = !r;
    *task = t->n_leaves;
    at = mdl_graph_find_output(&t->model->graph, output);
    if (at < 0)
        return ut_fail(e, UT_EINVAL, "there is no output \"%s\"", output);
    rc = mdl_step_build(&t->model->graph, &t->model->graph.outputs[at], 1,
                        t->weights.trains, &l->step, e);
    if (rc)
        return rc;
    t->n_leaves++;
    rc = mdl_plan_new(t->lane, &l->step.graph, t->config.precision,
                      t->config.batch, &l->plan, e);
    if (rc)
        return rc;
    n = (size_t)t->config.batch *
        mdl_shape_count(&l->step.graph.values[l->step.ends[0]].shape);
    l->out = malloc(n * sizeof(*l->out));
    l->seed = malloc(n * sizeof(*l->seed));
    if (!l->out || !l->seed)
        return ut_fail(e, UT_ENOMEM, "no memory for leaf %s", leaf);
    if (r) {
        l->r = *r;
        rc = make_recognition(t, l, e);
    }
    set_rate(t, l, rate);
    return rc;
}

/* ---- batches ---- */

static void times(float *x, size_t n, float factor)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= factor;
}

/* ArcFace's and the teacher's parts; l->seed is their gradient's sum. */
static enum ut_err recognition_loss(struct mdl_trainer *t, struct leaf *l,
                                    const struct mdl_labels *labels,
                                    float weight, double *loss,
                                    struct ut_error *e)
{
    const struct mdl_recognition *r = &l->r;
    int n = t->config.batch;
    size_t count = (size_t)n * (size_t)r->arcface.dim;
    double part = 0;
    enum ut_err rc = UT_OK;

    memset(l->seed, 0, count * sizeof(*l->seed));
    if (l->centres.n) {
        rc = mdl_loss_arcface(&r->arcface, l->out, l->centres.x, labels->label,
                              n, &part, l->seed, l->scratch, e);
        if (rc)
            return rc;
        times(l->seed, count, r->arcface_weight);
        times(l->scratch, l->centres.n, r->arcface_weight * weight);
        mdl_weight_gather(&l->centres, l->scratch);
        *loss += r->arcface_weight * part;
    }
    if (l->projection.n) {
        memset(l->scratch, 0, l->projection.n * sizeof(*l->scratch));
        rc =
            mdl_loss_distill(&r->distill, l->out, l->projection.x,
                             labels->teacher, n, &part, l->seed, l->scratch, e);
        if (rc)
            return rc;
        times(l->scratch, l->projection.n, weight);
        mdl_weight_gather(&l->projection, l->scratch);
        *loss += part;
    }
    times(l->seed, count, weight);
    return UT_OK;
}

static enum ut_err loss_of(struct mdl_trainer *t, struct leaf *l,
                           const struct mdl_labels *labels, float weight,
                           double *loss, struct ut_error *e)
{
    int n = t->config.batch;
    enum ut_err rc = UT_OK;

    *loss = 0;
    if (l->binary) {
        *loss = mdl_loss_bce(l->out, labels->target, n, l->seed);
        times(l->seed, (size_t)n, weight);
    } else {
        rc = recognition_loss(t, l, labels, weight, loss, e);
    }
    if (!rc && !isfinite(*loss))
        rc = ut_fail(e, UT_ESTATE, "the loss of %s is not finite", l->name);
    return rc;
}

enum ut_err mdl_trainer_batch(struct mdl_trainer *t, int task,
                              const uint8_t *images,
                              const struct mdl_labels *labels, float weight,
                              double *loss, struct ut_error *e)
{
    struct leaf *l = &t->leaves[task];
    const struct mdl_step *s = &l->step;
    enum ut_err rc;

    rc = l->stale ? mdl_plan_refresh(l->plan, e) : UT_OK;
    l->stale = false;
    if (!rc)
        rc = mdl_plan_run_nodes(l->plan, images, 0, s->n_forward, e);
    if (!rc)
        rc = mdl_plan_get(l->plan, s->ends[0], l->out, e);
    if (!rc)
        rc = loss_of(t, l, labels, weight, loss, e);
    if (!rc)
        rc = mdl_plan_set(l->plan, s->seeds[0], l->seed, e);
    if (!rc)
        rc = mdl_plan_run_nodes(l->plan, images, s->n_forward, s->graph.n_nodes,
                                e);
    if (!rc)
        rc = mdl_weights_learn(&t->weights, s, l->plan, t->config.momentum, e);
    return rc;
}

/* ---- updates ---- */

enum ut_err mdl_trainer_update(struct mdl_trainer *t, double rate, double *norm,
                               struct ut_error *e)
{
    const struct mdl_trainer_config *c = &t->config;
    enum ut_err rc = mdl_weights_update(&t->weights, &c->optimizer, rate,
                                        c->clip, c->threads, norm, e);

    for (int i = 0; i < t->n_leaves; i++)
        t->leaves[i].stale = true;
    return rc;
}

/* ---- reading ---- */

void mdl_trainer_profile(struct mdl_trainer *t, int task,
                         void (*line)(void *arg, const char *name,
                                      const char *detail, double us,
                                      double macs),
                         void *arg)
{
    mdl_plan_profile(t->leaves[task].plan, line, arg);
}

const float *mdl_trainer_gradient(const struct mdl_trainer *t, const char *name)
{
    return mdl_weights_gradient(&t->weights, name);
}

const float *mdl_trainer_centres(const struct mdl_trainer *t, int task)
{
    return t->leaves[task].centres.x;
}

const float *mdl_trainer_centres_gradient(const struct mdl_trainer *t, int task)
{
    return t->leaves[task].centres.gradient;
}

/* ---- writing, restoring ---- */

enum ut_err mdl_trainer_write(struct mdl_trainer *t, const char *path,
                              const struct mdl_st_pair *meta, size_t n_meta,
                              bool state, struct ut_error *e)
{
    struct mdl_weights_tensors x;
    enum ut_err rc = mdl_weights_tensors(&t->weights, state, &x, e);

    if (rc)
        return rc;
    rc = mdl_model_write(path, &t->model->spec, &t->model->graph, meta, n_meta,
                         x.list, x.n, e);
    mdl_weights_tensors_fini(&x);
    return rc;
}

enum ut_err mdl_trainer_restore(struct mdl_trainer *t, struct ut_error *e)
{
    return mdl_weights_restore(&t->weights, t->model->file, e);
}
