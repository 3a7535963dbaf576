/* Master weights, gradients, and the steps that make them. */
#include "model/train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/train/backward.h"

#define MAX_LEAVES 8

/* Something that an optimiser moves. */
struct weights {
    float *x, *gradient; /* owned; [n] */
    size_t n;
    bool gathered; /* since the last update */
    bool decays;
    float rate; /* times the update's */
    struct mdl_moments moments;
    const char *name;
};

struct leaf {
    char name[MDL_NAME_LEN];
    struct mdl_step step;
    struct mdl_plan *plan;
    float *out, *seed; /* owned; [batch, shape of the output] */
    bool binary;
    struct mdl_recognition r;
    struct weights centres, projection; /* n 0: there is none */
    char centres_name[MDL_NAME_LEN + 24], projection_name[MDL_NAME_LEN + 24];
    float *scratch; /* owned; the larger of their gradients */
    bool stale;     /* the plan has not seen the weights' last move */
};

struct mdl_trainer {
    struct mdl_model *model;
    struct mdl_trainer_config config;
    struct mdl_backend *backend;
    struct mdl_lane *lane;
    struct weights *weights; /* owned; [graph values] */
    bool *trains;            /* owned; [graph values] */
    struct leaf leaves[MAX_LEAVES];
    int n_leaves;
    float *scratch; /* owned; the largest gradient */
};

static void weights_fini(struct weights *w)
{
    free(w->x);
    free(w->gradient);
    mdl_moments_fini(&w->moments);
}

static void leaf_fini(struct leaf *l)
{
    mdl_plan_free(l->plan);
    mdl_step_fini(&l->step);
    weights_fini(&l->centres);
    weights_fini(&l->projection);
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
    for (int v = 0; t->weights && v < t->model->graph.n_values; v++) {
        if (t->weights[v].x)
            t->model->graph.values[v].data = NULL;
        weights_fini(&t->weights[v]);
    }
    free(t->weights);
    free(t->trains);
    free(t->scratch);
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

/* Copies every parameter and buffer; parameters get room for gradients. */
static enum ut_err take_weights(struct mdl_trainer *t, struct ut_error *e)
{
    struct mdl_graph *g = &t->model->graph;
    size_t most = 0;

    t->weights = calloc((size_t)g->n_values, sizeof(*t->weights));
    t->trains = calloc((size_t)g->n_values, sizeof(*t->trains));
    if (!t->weights || !t->trains)
        return ut_fail(e, UT_ENOMEM, "no memory for a trainer");
    for (int v = 0; v < g->n_values; v++) {
        struct mdl_value *value = &g->values[v];
        struct weights *w = &t->weights[v];
        bool param = value->kind == MDL_VALUE_PARAM;
        size_t n = mdl_shape_count(&value->shape);

        if (!param && value->kind != MDL_VALUE_BUFFER)
            continue;
        w->n = n;
        w->name = value->name;
        w->decays = value->shape.n_dims > 1;
        w->rate = 1;
        w->x = malloc(n * sizeof(*w->x));
        w->gradient = param ? calloc(n, sizeof(*w->gradient)) : NULL;
        if (!w->x || (param && !w->gradient))
            return ut_fail(e, UT_ENOMEM, "no memory for %s", value->name);
        memcpy(w->x, value->data, n * sizeof(*w->x));
        value->data = w->x;
        t->trains[v] = param && !(t->config.frozen_root &&
                                  is_of_root(&t->model->spec, value->name));
        most = n > most ? n : most;
    }
    t->scratch = malloc(most * sizeof(*t->scratch));
    return t->scratch ? UT_OK
                      : ut_fail(e, UT_ENOMEM, "no memory for a gradient");
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

/* Weights [n] of training alone, by name from the model's file, or drawn. */
static enum ut_err make_own(struct mdl_trainer *t, struct weights *w,
                            const char *name, size_t n, float size,
                            uint64_t seed, struct ut_error *e)
{
    const struct mdl_st_tensor *given =
        t->model->file ? mdl_st_find(t->model->file, name) : NULL;

    w->n = n;
    w->name = name;
    w->decays = true;
    w->rate = 1;
    w->x = malloc(n * sizeof(*w->x));
    w->gradient = calloc(n, sizeof(*w->gradient));
    if (!w->x || !w->gradient)
        return ut_fail(e, UT_ENOMEM, "no memory for %s", name);
    if (given && mdl_shape_count(&given->shape) == n)
        return mdl_st_floats(given, w->x, e);
    for (size_t i = 0; i < n; i++)
        w->x[i] = size * noise(seed, i);
    return UT_OK;
}

static enum ut_err make_recognition(struct mdl_trainer *t, struct leaf *l,
                                    struct ut_error *e)
{
    struct mdl_recognition *r = &l->r;
    int dim = (int)l->step.graph.values[l->step.output].shape.dim[0];
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
        rc = make_own(t, &l->centres, l->centres_name, centres, 0.1f, r->seed,
                      e);
    if (!rc && projection)
        rc = make_own(t, &l->projection, l->projection_name, projection,
                      sqrtf(3 / (float)dim), r->seed + 1, e);
    return rc;
}

static void set_rate(struct mdl_trainer *t, struct leaf *l, float rate)
{
    size_t n = strlen(l->name);

    for (int v = 0; v < t->model->graph.n_values; v++)
        if (t->weights[v].n && !strncmp(t->weights[v].name, l->name, n) &&
            t->weights[v].name[n] == '.')
            t->weights[v].rate = rate;
    l->centres.rate = l->projection.rate = rate;
}

enum ut_err mdl_trainer_leaf(struct mdl_trainer *t, const char *leaf,
                             const struct mdl_recognition *r, float rate,
                             int *task, struct ut_error *e)
{
    struct leaf *l = &t->leaves[t->n_leaves];
    char output[MDL_NAME_LEN + 16];
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
    rc = mdl_step_build(&t->model->graph, output, t->trains, &l->step, e);
    if (rc)
        return rc;
    t->n_leaves++;
    rc = mdl_plan_new(t->lane, &l->step.graph, t->config.precision,
                      t->config.batch, &l->plan, e);
    if (rc)
        return rc;
    n = (size_t)t->config.batch *
        mdl_shape_count(&l->step.graph.values[l->step.output].shape);
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

static void gather(struct weights *w, const float *gradient)
{
    if (!w->gathered)
        memcpy(w->gradient, gradient, w->n * sizeof(*gradient));
    for (size_t i = 0; w->gathered && i < w->n; i++)
        w->gradient[i] += gradient[i];
    w->gathered = true;
}

static enum ut_err gather_all(struct mdl_trainer *t, struct leaf *l,
                              struct ut_error *e)
{
    const struct mdl_step *s = &l->step;
    enum ut_err rc = UT_OK;
    int last = -1;

    for (int i = 0; i < s->n_gradients && !rc; i++) {
        const struct mdl_gradient *g = &s->gradients[i];
        struct weights *w = &t->weights[g->param];
        size_t size = mdl_shape_count(&s->graph.values[g->grad].shape);
        bool straight = size == w->n && !w->gathered;

        if (g->grad != last) /* gamma's and beta's lie together */
            rc = mdl_plan_get(l->plan, g->grad,
                              straight ? w->gradient : t->scratch, e);
        last = g->grad;
        if (!rc && !straight)
            gather(w, t->scratch + g->at);
        w->gathered = true;
    }
    return rc;
}

/* running += momentum * (batch's - running); the variance unbiased. */
static enum ut_err move_statistics(struct mdl_trainer *t, struct leaf *l,
                                   struct ut_error *e)
{
    float m = t->config.momentum;
    enum ut_err rc = UT_OK;

    for (int i = 0; i < l->step.n_statistics && !rc; i++) {
        const struct mdl_statistics *s = &l->step.statistics[i];
        struct weights *mean = &t->weights[s->mean];
        struct weights *var = &t->weights[s->var];
        double n = (double)s->places * t->config.batch;
        float unbias = n > 1 ? (float)(n / (n - 1)) : 1;

        rc = mdl_plan_get(l->plan, s->stats, t->scratch, e);
        for (size_t c = 0; c < mean->n && !rc; c++) {
            mean->x[c] += m * (t->scratch[c] - mean->x[c]);
            var->x[c] += m * (t->scratch[mean->n + c] * unbias - var->x[c]);
        }
    }
    return rc;
}

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
        gather(&l->centres, l->scratch);
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
        gather(&l->projection, l->scratch);
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
        rc = mdl_plan_get(l->plan, s->output, l->out, e);
    if (!rc)
        rc = loss_of(t, l, labels, weight, loss, e);
    if (!rc)
        rc = mdl_plan_set(l->plan, s->seed, l->seed, e);
    if (!rc)
        rc = mdl_plan_run_nodes(l->plan, images, s->n_forward, s->graph.n_nodes,
                                e);
    if (!rc)
        rc = gather_all(t, l, e);
    if (!rc)
        rc = move_statistics(t, l, e);
    return rc;
}

/* ---- updates ---- */

/* Calls visit for everything that gathered a gradient. */
static enum ut_err each(struct mdl_trainer *t,
                        enum ut_err (*visit)(struct mdl_trainer *t,
                                             struct weights *w, void *arg,
                                             struct ut_error *e),
                        void *arg, struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (int v = 0; v < t->model->graph.n_values && !rc; v++)
        if (t->weights[v].gathered)
            rc = visit(t, &t->weights[v], arg, e);
    for (int i = 0; i < t->n_leaves && !rc; i++) {
        struct leaf *l = &t->leaves[i];

        if (l->centres.gathered)
            rc = visit(t, &l->centres, arg, e);
        if (!rc && l->projection.gathered)
            rc = visit(t, &l->projection, arg, e);
    }
    return rc;
}

static enum ut_err add_squares(struct mdl_trainer *t, struct weights *w,
                               void *arg, struct ut_error *e)
{
    const float *g = w->gradient;
    double sum = 0;

#pragma omp parallel for simd num_threads(t->config.threads) schedule(static)  \
    reduction(+ : sum)
    for (size_t i = 0; i < w->n; i++)
        sum += (double)g[i] * g[i];
    *(double *)arg += sum;
    return isfinite(sum) ? UT_OK
                         : ut_fail(e, UT_ESTATE,
                                   "the gradient of %s is not finite", w->name);
}

struct move {
    double rate;
    float factor; /* of the gradients: clipping */
};

static enum ut_err move(struct mdl_trainer *t, struct weights *w, void *arg,
                        struct ut_error *e)
{
    const struct move *m = arg;
    enum ut_err rc = mdl_optimizer_step(
        &t->config.optimizer, &w->moments, m->rate * w->rate, w->decays,
        m->factor, t->config.threads, w->x, w->gradient, w->n, e);

    w->gathered = false;
    return rc;
}

enum ut_err mdl_trainer_update(struct mdl_trainer *t, double rate, double *norm,
                               struct ut_error *e)
{
    struct move m = {rate, 1};
    double squares = 0;
    enum ut_err rc = each(t, add_squares, &squares, e);

    if (norm)
        *norm = sqrt(squares);
    if (rc)
        return rc;
    if (t->config.clip > 0 && sqrt(squares) > t->config.clip)
        m.factor = (float)(t->config.clip / sqrt(squares));
    rc = each(t, move, &m, e);
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
    for (int v = 0; v < t->model->graph.n_values; v++)
        if (t->weights[v].gathered && !strcmp(t->weights[v].name, name))
            return t->weights[v].gradient;
    return NULL;
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

/* The next of everything that an optimiser moves, from *at = 0 on, or NULL. */
static struct weights *next(struct mdl_trainer *t, int *at)
{
    int n = t->model->graph.n_values;

    while (*at < n + 2 * t->n_leaves) {
        int i = (*at)++;
        struct leaf *l = &t->leaves[i < n ? 0 : (i - n) / 2];
        struct weights *w = i < n              ? &t->weights[i]
                            : (i - n) % 2 == 0 ? &l->centres
                                               : &l->projection;

        if (w->gradient)
            return w;
    }
    return NULL;
}

static int count(struct mdl_trainer *t)
{
    int n = 0;

    for (int at = 0; next(t, &at);)
        n++;
    return n;
}

/* Tensors under construction. */
struct tensors {
    struct mdl_st_tensor *list; /* owned */
    char (*names)[MDL_NAME_LEN + 40];
    int64_t *steps;
    size_t n;
};

static void tensors_fini(struct tensors *x)
{
    free(x->list);
    free(x->names);
    free(x->steps);
}

static void add_floats(struct tensors *x, const char *name, struct mdl_shape s,
                       const float *data)
{
    x->list[x->n++] = (struct mdl_st_tensor){
        name, MDL_F32, s, data, mdl_shape_count(&s) * sizeof(float)};
}

/* ArcFace's sub-centres, projections. */
static void add_own(const struct mdl_trainer *t, struct tensors *x)
{
    for (int i = 0; i < t->n_leaves; i++) {
        const struct leaf *l = &t->leaves[i];
        const struct mdl_recognition *r = &l->r;

        if (l->centres.n)
            add_floats(x, l->centres_name,
                       mdl_shape_of(3, r->arcface.classes, r->arcface.k,
                                    r->arcface.dim),
                       l->centres.x);
        if (l->projection.n)
            add_floats(x, l->projection_name,
                       mdl_shape_of(2, r->distill.teacher_dim, r->distill.dim),
                       l->projection.x);
    }
}

/* "optimizer.first:NAME" */
static const char *moment_name(char name[MDL_NAME_LEN + 40], const char *which,
                               const struct weights *w)
{
    snprintf(name, MDL_NAME_LEN + 40, "optimizer.%s:%s", which, w->name);
    return name;
}

static void add_state(struct mdl_trainer *t, struct tensors *x)
{
    struct weights *w;
    int named = 0, k = 0;

    for (int at = 0; (w = next(t, &at));) {
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

enum ut_err mdl_trainer_write(struct mdl_trainer *t, const char *path,
                              const struct mdl_st_pair *meta, size_t n_meta,
                              bool state, struct ut_error *e)
{
    size_t n = (size_t)count(t);
    struct tensors x = {
        .list = calloc(2 * n + 2 * MAX_LEAVES + 1, sizeof(*x.list)),
        .names = calloc(2 * n + 1, sizeof(*x.names)),
        .steps = calloc(n + 1, sizeof(*x.steps)),
    };
    enum ut_err rc;

    if (!x.list || !x.names || !x.steps) {
        rc = ut_fail(e, UT_ENOMEM, "no memory to write %.150s", path);
    } else {
        add_own(t, &x);
        if (state)
            add_state(t, &x);
        rc = mdl_model_write(path, &t->model->spec, &t->model->graph, meta,
                             n_meta, x.list, x.n, e);
    }
    tensors_fini(&x);
    return rc;
}

/* A moment [w->n] from the file, or NULL where it has none. */
static enum ut_err restore(const struct mdl_st *file, const char *which,
                           const struct weights *w, float **out,
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

enum ut_err mdl_trainer_restore(struct mdl_trainer *t, struct ut_error *e)
{
    const struct mdl_st *file = t->model->file;
    const struct mdl_st_tensor *steps = mdl_st_find(file, "optimizer.steps");
    struct weights *w;
    enum ut_err rc = UT_OK;
    int k = 0;

    if (!steps || steps->dtype != MDL_I64 ||
        steps->len != (size_t)count(t) * sizeof(int64_t))
        return ut_fail(e, UT_EFORMAT, "the file is no checkpoint of this");
    for (int at = 0; !rc && (w = next(t, &at));) {
        memcpy(&w->moments.steps,
               (const char *)steps->data + (size_t)k++ * sizeof(int64_t),
               sizeof(int64_t));
        rc = restore(file, "first", w, &w->moments.first, e);
        if (!rc)
            rc = restore(file, "second", w, &w->moments.second, e);
    }
    return rc;
}
