/* Master weights, gradients, and the steps that make them. */
#include "model/train/trainer.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/train/weights.h"

#define MAX_LEAVES 8
#define MAX_LANES MDL_LEARNER_DEVICES

struct leaf {
    char name[MDL_NAME_LEN];
    struct mdl_step step;
    struct mdl_plan *plans[MAX_LANES]; /* each for its part of a batch */
    /* Of the output and, with a hint, of the place inside; owned; [batch,
     * shape] */
    float *out[MDL_STEP_ENDS], *seed[MDL_STEP_ENDS];
    float *part; /* one loss's share of seed[0]; owned; [batch, dim] */
    bool binary;
    struct mdl_recognition r;
    struct mdl_weight centres, projection, hint; /* n 0: there is none */
    char centres_name[MDL_NAME_LEN + 24], projection_name[MDL_NAME_LEN + 24],
        hint_name[MDL_NAME_LEN + 24];
    bool stale; /* the plans have not seen the weights' last move */
};

struct mdl_trainer {
    struct mdl_model *model;
    struct mdl_trainer_config config;
    struct mdl_backend *backends[MAX_LANES]; /* one for each device */
    struct mdl_lane *lanes[MAX_LANES];
    int n_lanes;
    bool begun; /* its first batch: weights are where they learn */
    struct mdl_weights weights;
    struct leaf leaves[MAX_LEAVES];
    int n_leaves;
};

static void leaf_fini(struct leaf *l)
{
    for (int i = 0; i < MAX_LANES; i++)
        mdl_plan_free(l->plans[i]);
    mdl_step_fini(&l->step);
    mdl_weight_fini(&l->centres);
    mdl_weight_fini(&l->projection);
    mdl_weight_fini(&l->hint);
    for (int i = 0; i < MDL_STEP_ENDS; i++) {
        free(l->out[i]);
        free(l->seed[i]);
    }
    free(l->part);
}

void mdl_trainer_free(struct mdl_trainer *t)
{
    if (!t)
        return;
    mdl_weights_fini(&t->weights);
    for (int i = 0; i < t->n_leaves; i++)
        leaf_fini(&t->leaves[i]);
    for (int i = 0; i < t->n_lanes; i++)
        mdl_lane_free(t->lanes[i]);
    for (int i = 0; i < MAX_LANES; i++)
        mdl_backend_close(t->backends[i]);
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

/* What the lanes divide: threads, or devices where weights learn on them. */
static enum ut_err check_lanes(const struct mdl_trainer *t, int n,
                               struct ut_error *e)
{
    bool devices = mdl_backend_learns(t->backends[0]);
    int most =
        devices ? mdl_backend_devices(t->backends[0]) : t->config.threads;

    if (most > MAX_LANES)
        most = MAX_LANES;
    return n <= most && t->config.batch % n == 0
               ? UT_OK
               : ut_fail(e, UT_EINVAL,
                         "%d lanes: they must divide the batch of %d, and be "
                         "at most %d, one for each %s",
                         n, t->config.batch, most,
                         devices ? "device" : "thread");
}

static enum ut_err open_lanes(struct mdl_trainer *t, struct ut_error *e)
{
    int n = t->config.lanes > 1 ? t->config.lanes : 1;
    enum ut_err rc = mdl_backend_open(t->config.backend, 0, &t->backends[0], e);
    bool devices = !rc && mdl_backend_learns(t->backends[0]);

    if (!rc)
        rc = check_lanes(t, n, e);
    for (int i = 0; i < n && !rc; i++) {
        if (devices && i)
            rc = mdl_backend_open(mdl_backend_name(t->backends[0]), i,
                                  &t->backends[i], e);
        if (!rc)
            rc = mdl_lane_new(t->backends[devices ? i : 0], &t->lanes[i], e);
        if (rc)
            break;
        t->n_lanes++;
        mdl_lane_threads(t->lanes[i], t->config.threads / n);
    }
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
    rc = open_lanes(t, e);
    if (!rc)
        rc = take_weights(t, e);
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
    size_t centres, projection, hint;
    enum ut_err rc = UT_OK;

    r->arcface.dim = r->distill.dim = dim;
    centres = (size_t)r->arcface.classes * (size_t)r->arcface.k * (size_t)dim;
    projection = (size_t)r->distill.teacher_dim * (size_t)dim;
    if (!centres && !projection)
        return ut_fail(e, UT_EINVAL, "%s has nothing to learn from", l->name);
    hint = r->hint.module
               ? (size_t)r->hint.teacher_channels * (size_t)r->hint.channels
               : 0;
    l->part = malloc((size_t)t->config.batch * (size_t)dim * sizeof(*l->part));
    if (!l->part)
        return ut_fail(e, UT_ENOMEM, "no memory for leaf %s", l->name);
    if (centres)
        rc = make_own(t, &l->centres, l->centres_name,
                      mdl_shape_of(3, r->arcface.classes, r->arcface.k, dim),
                      0.1f, r->seed, e);
    if (!rc && projection)
        rc = make_own(t, &l->projection, l->projection_name,
                      mdl_shape_of(2, r->distill.teacher_dim, dim),
                      sqrtf(3 / (float)dim), r->seed + 1, e);
    if (!rc && hint)
        rc = make_own(
            t, &l->hint, l->hint_name,
            mdl_shape_of(2, r->hint.teacher_channels, r->hint.channels),
            sqrtf(3 / (float)r->hint.channels), r->seed + 2, e);
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
    l->centres.rate = l->projection.rate = l->hint.rate = rate;
}

/* Finds where the hint is given; *inner is -1 if there is none. */
static enum ut_err find_hint(struct mdl_trainer *t, struct mdl_recognition *r,
                             int *inner, struct ut_error *e)
{
    const struct mdl_graph *g = &t->model->graph;
    const struct mdl_shape *s;

    *inner = -1;
    if (!r->hint.module)
        return UT_OK;
    *inner = mdl_graph_find_module(g, r->hint.module);
    if (*inner < 0)
        return ut_fail(e, UT_EINVAL, "there is no module \"%.80s\" to hint at",
                       r->hint.module);
    s = &g->values[*inner].shape;
    if (s->n_dims != 3)
        return ut_fail(e, UT_EINVAL, "module \"%.80s\" makes no map",
                       r->hint.module);
    r->hint.channels = (int)s->dim[0];
    r->hint.places = (int)(s->dim[1] * s->dim[2]);
    return UT_OK;
}

/* The leaf's plans and what goes in and out of them. */
static enum ut_err open_plans(struct mdl_trainer *t, struct leaf *l,
                              struct ut_error *e)
{
    const struct mdl_step *s = &l->step;
    enum ut_err rc = UT_OK;

    for (int i = 0; i < t->n_lanes && !rc; i++)
        rc = mdl_plan_new(t->lanes[i], &s->graph, t->config.precision,
                          t->config.batch / t->n_lanes, &l->plans[i], e);
    for (int i = 0; i < s->n_ends && !rc; i++) {
        size_t n = (size_t)t->config.batch *
                   mdl_shape_count(&s->graph.values[s->ends[i]].shape);

        l->out[i] = malloc(n * sizeof(*l->out[i]));
        l->seed[i] = malloc(n * sizeof(*l->seed[i]));
        if (!l->out[i] || !l->seed[i])
            rc = ut_fail(e, UT_ENOMEM, "no memory for leaf %s", l->name);
    }
    return rc;
}

/* The values of the model's graph that the leaf's loss is computed from. */
static enum ut_err find_ends(struct mdl_trainer *t, struct leaf *l,
                             int ends[MDL_STEP_ENDS], int *n,
                             struct ut_error *e)
{
    const struct mdl_graph *g = &t->model->graph;
    char output[MDL_NAME_LEN + 16];
    int at, inner;
    enum ut_err rc;

    snprintf(output, sizeof(output), "%s.%s", l->name,
             l->binary ? "logit" : "embedding");
    at = mdl_graph_find_output(g, output);
    if (at < 0)
        return ut_fail(e, UT_EINVAL, "there is no output \"%s\"", output);
    ends[0] = g->outputs[at];
    *n = 1;
    rc = find_hint(t, &l->r, &inner, e);
    if (!rc && inner >= 0)
        ends[(*n)++] = inner;
    return rc;
}

enum ut_err mdl_trainer_leaf(struct mdl_trainer *t, const char *leaf,
                             const struct mdl_recognition *r, float rate,
                             int *task, struct ut_error *e)
{
    struct leaf *l = &t->leaves[t->n_leaves];
    int ends[MDL_STEP_ENDS], n = 0;
    enum ut_err rc;

    if (t->n_leaves == MAX_LEAVES)
        return ut_fail(e, UT_EBUSY, "over %d leaves", MAX_LEAVES);
    if (t->begun)
        return ut_fail(e, UT_EBUSY, "leaf %s comes after the first batch",
                       leaf);
    snprintf(l->name, sizeof(l->name), "%s", leaf);
    snprintf(l->centres_name, sizeof(l->centres_name), "%s.arcface.weight",
             leaf);
    snprintf(l->projection_name, sizeof(l->projection_name),
             "%s.projection.weight", leaf);
    snprintf(l->hint_name, sizeof(l->hint_name), "%s.hint.weight", leaf);
    l->binary = !r;
    if (r)
        l->r = *r;
    *task = t->n_leaves;
    rc = find_ends(t, l, ends, &n, e);
    if (!rc)
        rc = mdl_step_build(&t->model->graph, ends, n, t->weights.trains,
                            &l->step, e);
    if (rc)
        return rc;
    t->n_leaves++;
    rc = open_plans(t, l, e);
    if (!rc && r)
        rc = make_recognition(t, l, e);
    set_rate(t, l, rate);
    return rc;
}

/* ---- batches ---- */

static void times(float *x, size_t n, float factor)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= factor;
}

/* The sum of ArcFace's, the teacher's and the hint's parts; l->seed is their
 * gradient's. */
static enum ut_err recognition_loss(struct mdl_trainer *t, struct leaf *l,
                                    const struct mdl_labels *labels,
                                    float weight, double *loss,
                                    struct ut_error *e)
{
    const struct mdl_recognition *r = &l->r;
    int n = t->config.batch;
    size_t count = (size_t)n * (size_t)r->arcface.dim;
    float *seed = l->seed[0];
    double part = 0;
    enum ut_err rc = UT_OK;

    memset(seed, 0, count * sizeof(*seed));
    if (l->centres.n) {
        rc = mdl_weights_arcface(&t->weights, &l->centres, &r->arcface,
                                 l->out[0], labels->label, n,
                                 r->arcface_weight * weight, &part, seed, e);
        times(seed, count, r->arcface_weight);
        *loss += r->arcface_weight * part;
    }
    if (!rc && l->projection.n) {
        rc = mdl_weights_distill(&t->weights, &l->projection, &r->distill,
                                 l->out[0], labels->teacher, n, weight, &part,
                                 l->part, e);
        for (size_t i = 0; i < count && !rc; i++)
            seed[i] += l->part[i];
        *loss += part;
    }
    if (!rc && l->hint.n) {
        rc = mdl_weights_hint(&t->weights, &l->hint, &r->hint, l->out[1],
                              labels->hint, n, weight, &part, l->seed[1], e);
        times(l->seed[1],
              (size_t)n * (size_t)r->hint.channels * (size_t)r->hint.places,
              weight);
        *loss += part;
    }
    times(seed, count, weight);
    return rc;
}

static enum ut_err loss_of(struct mdl_trainer *t, struct leaf *l,
                           const struct mdl_labels *labels, float weight,
                           double *loss, struct ut_error *e)
{
    int n = t->config.batch;
    enum ut_err rc = UT_OK;

    *loss = 0;
    if (l->binary) {
        *loss = mdl_loss_bce(l->out[0], labels->target, n, l->seed[0]);
        times(l->seed[0], (size_t)n, weight);
    } else {
        rc = recognition_loss(t, l, labels, weight, loss, e);
    }
    if (!rc && !isfinite(*loss))
        rc = ut_fail(e, UT_ESTATE, "the loss of %s is not finite", l->name);
    return rc;
}

/* Where a lane's part of the batch lies in an end's numbers. */
static size_t part_of(const struct mdl_trainer *t, const struct leaf *l,
                      int lane, int end)
{
    const struct mdl_step *s = &l->step;

    return (size_t)lane * (size_t)(t->config.batch / t->n_lanes) *
           mdl_shape_count(&s->graph.values[s->ends[end]].shape);
}

/* The weights as they are, for the leaf's plans. Lanes of one device share its
 * copies: the first one makes them, with everybody's threads. */
static enum ut_err refresh(struct mdl_trainer *t, struct leaf *l,
                           struct ut_error *e)
{
    int devices = t->backends[1] ? t->n_lanes : 1;
    enum ut_err rc = UT_OK;

    mdl_lane_threads(t->lanes[0], t->config.threads / devices);
    for (int i = 0; i < devices && !rc; i++)
        rc = mdl_plan_refresh(l->plans[i], e);
    mdl_lane_threads(t->lanes[0], t->config.threads / t->n_lanes);
    l->stale = rc != UT_OK;
    return rc;
}

/* Forward over a part of the batch. */
static enum ut_err forward(struct mdl_trainer *t, struct leaf *l, int lane,
                           const uint8_t *images, struct ut_error *e)
{
    const struct mdl_step *s = &l->step;
    struct mdl_plan *p = l->plans[lane];
    enum ut_err rc = mdl_plan_run_nodes(p, images, 0, s->n_forward, e);

    for (int i = 0; i < s->n_ends && !rc; i++)
        rc = mdl_plan_get(p, s->ends[i], l->out[i] + part_of(t, l, lane, i), e);
    return rc;
}

static enum ut_err backward(struct mdl_trainer *t, struct leaf *l, int lane,
                            const uint8_t *images, struct ut_error *e)
{
    const struct mdl_step *s = &l->step;
    struct mdl_plan *p = l->plans[lane];
    enum ut_err rc = UT_OK;

    for (int i = 0; i < s->n_ends && !rc; i++)
        rc = mdl_plan_set(p, s->seeds[i], l->seed[i] + part_of(t, l, lane, i),
                          e);
    return rc ? rc
              : mdl_plan_run_nodes(p, images, s->n_forward, s->graph.n_nodes,
                                   e);
}

typedef enum ut_err pass(struct mdl_trainer *t, struct leaf *l, int lane,
                         const uint8_t *images, struct ut_error *e);

struct part {
    struct mdl_trainer *trainer;
    struct leaf *leaf;
    pass *run;
    int lane;
    const uint8_t *images;
    pthread_t thread;
    bool started;
    enum ut_err rc;
    struct ut_error error;
};

static void *run_part(void *arg)
{
    struct part *p = arg;

    p->rc = p->run(p->trainer, p->leaf, p->lane, p->images, &p->error);
    return NULL;
}

/* A pass over every part of the batch at once. Not by OpenMP: within its
 * regions a lane has one thread, and oneDNN leaves out what it had divided for
 * more. */
static enum ut_err in_lanes(struct mdl_trainer *t, struct leaf *l, pass *run,
                            const uint8_t *images, struct ut_error *e)
{
    size_t side = (size_t)t->model->spec.input;
    size_t size = (size_t)(t->config.batch / t->n_lanes) * side * side * 3;
    struct part parts[MAX_LANES];
    enum ut_err rc = UT_OK;

    for (int i = 0; i < t->n_lanes; i++) {
        struct part *p = &parts[i];

        *p = (struct part){.trainer = t,
                           .leaf = l,
                           .run = run,
                           .lane = i,
                           .images = images + (size_t)i * size};
        p->started =
            t->n_lanes > 1 && !pthread_create(&p->thread, NULL, run_part, p);
    }
    for (int i = 0; i < t->n_lanes; i++) {
        struct part *p = &parts[i];

        if (p->started)
            pthread_join(p->thread, NULL);
        else
            run_part(p);
        if (p->rc && !rc) {
            rc = p->rc;
            *e = p->error;
        }
    }
    return rc;
}

enum ut_err mdl_trainer_batch(struct mdl_trainer *t, int task,
                              const uint8_t *images,
                              const struct mdl_labels *labels, float weight,
                              double *loss, struct ut_error *e)
{
    struct leaf *l = &t->leaves[task];
    enum ut_err rc = UT_OK;

    if (!t->begun)
        rc = mdl_weights_place(&t->weights, t->lanes, t->n_lanes, e);
    if (rc)
        return rc;
    t->begun = true;
    rc = l->stale ? refresh(t, l, e) : UT_OK;
    if (!rc)
        rc = in_lanes(t, l, forward, images, e);
    if (rc)
        return rc;
    rc = loss_of(t, l, labels, weight, loss, e);
    if (!rc)
        rc = in_lanes(t, l, backward, images, e);
    return rc ? rc
              : mdl_weights_learn(&t->weights, &l->step, l->plans, t->n_lanes,
                                  t->config.momentum, e);
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

enum ut_err mdl_trainer_wait(struct mdl_trainer *t, struct ut_error *e)
{
    return mdl_weights_wait(&t->weights, e);
}

/* ---- reading ---- */

void mdl_trainer_profile(struct mdl_trainer *t, int task,
                         void (*line)(void *arg, const char *name,
                                      const char *detail, double us,
                                      double macs),
                         void *arg)
{
    mdl_plan_profile(t->leaves[task].plans[0], line, arg);
}

enum ut_err mdl_trainer_read(struct mdl_trainer *t, struct ut_error *e)
{
    return mdl_weights_read(&t->weights, false, e);
}

const float *mdl_trainer_gradient(const struct mdl_trainer *t, const char *name)
{
    struct mdl_weight *w;

    for (int at = 0; (w = mdl_weights_next(&t->weights, &at));)
        if (!strcmp(w->name, name))
            return mdl_weights_gradient(&t->weights, w);
    return NULL;
}

const float *mdl_trainer_centres(const struct mdl_trainer *t, int task)
{
    return t->leaves[task].centres.x;
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
    return mdl_weights_restore(&t->weights, t->config.optimizer.kind,
                               t->model->file, e);
}
