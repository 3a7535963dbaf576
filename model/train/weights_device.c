/* Weights that learn where plans run: what they ask of the learner there. */
#include <stdlib.h>

#include "model/train/weights_parts.h"

struct mdl_placed {
    int n;
    bool moments;           /* the optimiser has second ones */
    bool *gathered;         /* [n] */
    double *squares;        /* [n] */
    struct mdl_move *moves; /* [n] */
    /* What operations left, of which several may share a parameter: these grow
     * to the largest step's. */
    struct mdl_gather *gathers;
    struct mdl_running *runs;
    int n_gathers, n_runs;
};

void weights_device_fini(struct mdl_weights *w)
{
    if (w->learner.ctx)
        w->learner.ops->close(w->learner.ctx);
    w->learner = (struct mdl_learner){0};
    if (w->placed) {
        free(w->placed->gathered);
        free(w->placed->squares);
        free(w->placed->moves);
        free(w->placed->gathers);
        free(w->placed->runs);
    }
    free(w->placed);
    w->placed = NULL;
}

static bool allocate(struct mdl_placed *p)
{
    size_t n = (size_t)p->n;

    p->gathered = calloc(n, sizeof(*p->gathered));
    p->squares = calloc(n, sizeof(*p->squares));
    p->moves = calloc(n, sizeof(*p->moves));
    return p->gathered && p->squares && p->moves;
}

static enum ut_err want_lists(struct mdl_placed *p, const struct mdl_step *s,
                              struct ut_error *e)
{
    size_t gathers = (size_t)s->n_gradients, runs = (size_t)s->n_statistics;
    void *more;

    if (s->n_gradients > p->n_gathers) {
        more = realloc(p->gathers, gathers * sizeof(*p->gathers));
        if (!more)
            return ut_fail(e, UT_ENOMEM, "no memory for a list of gradients");
        p->gathers = more;
        p->n_gathers = s->n_gradients;
    }
    if (s->n_statistics > p->n_runs) {
        more = realloc(p->runs, runs * sizeof(*p->runs));
        if (!more)
            return ut_fail(e, UT_ENOMEM, "no memory for a list of statistics");
        p->runs = more;
        p->n_runs = s->n_statistics;
    }
    return UT_OK;
}

enum ut_err mdl_weights_place(struct mdl_weights *w,
                              struct mdl_lane *const *lanes, int n,
                              struct ut_error *e)
{
    size_t most = (size_t)(w->graph->n_values + w->n_own);
    struct mdl_tensor *tensors = calloc(most, sizeof(*tensors));
    struct mdl_placed *p = calloc(1, sizeof(*p));
    enum ut_err rc = UT_OK;
    struct mdl_weight *x;

    w->placed = p;
    for (int at = 0; tensors && p && (x = mdl_weights_next(w, &at));) {
        x->tensor = p->n++;
        tensors[x->tensor] = (struct mdl_tensor){.x = x->x,
                                                 .first = x->moments.first,
                                                 .second = x->moments.second,
                                                 .n = x->n,
                                                 .statistics = !x->gradient};
    }
    if (!tensors || !p || !allocate(p))
        rc = ut_fail(e, UT_ENOMEM, "no memory for a list of weights");
    if (!rc)
        rc = mdl_learner_open(lanes, n, tensors, p->n, &w->learner, e);
    free(tensors);
    if (!w->learner.ops) /* an error, or they learn here */
        weights_device_fini(w);
    return rc;
}

static enum ut_err get(const struct mdl_weights *w, const struct mdl_weight *x,
                       enum mdl_learned what, float **to, struct ut_error *e)
{
    if (!*to)
        *to = malloc(x->n * sizeof(**to));
    return *to ? w->learner.ops->get(w->learner.ctx, x->tensor, what, *to, e)
               : ut_fail(e, UT_ENOMEM, "no memory for %s", x->name);
}

enum ut_err mdl_weights_read(struct mdl_weights *w, bool state,
                             struct ut_error *e)
{
    struct mdl_weight *x;
    enum ut_err rc = UT_OK;

    for (int at = 0; w->learner.ops && !rc && (x = mdl_weights_next(w, &at));) {
        bool moved = state && x->moments.steps;

        rc = get(w, x, MDL_X, &x->x, e);
        if (!rc && moved)
            rc = get(w, x, MDL_FIRST, &x->moments.first, e);
        if (!rc && moved && w->placed->moments)
            rc = get(w, x, MDL_SECOND, &x->moments.second, e);
    }
    return rc;
}

enum ut_err mdl_weights_wait(const struct mdl_weights *w, struct ut_error *e)
{
    return w->learner.ops ? w->learner.ops->wait(w->learner.ctx, e) : UT_OK;
}

const float *mdl_weights_gradient(const struct mdl_weights *all,
                                  struct mdl_weight *x)
{
    struct ut_error ignored;

    if (!x->gathered)
        return NULL;
    return all->learner.ops && get(all, x, MDL_GRADIENT, &x->gradient, &ignored)
               ? NULL
               : x->gradient;
}

enum ut_err weights_device_learn(struct mdl_weights *w,
                                 const struct mdl_step *s,
                                 struct mdl_plan *const *plans, int n,
                                 float momentum, struct ut_error *e)
{
    struct mdl_placed *p = w->placed;
    enum ut_err rc = want_lists(p, s, e);

    if (rc)
        return rc;
    for (int i = 0; i < s->n_gradients; i++) {
        const struct mdl_gradient *g = &s->gradients[i];
        struct mdl_weight *x = &w->list[g->param];

        p->gathers[i] =
            (struct mdl_gather){x->tensor, g->grad, (size_t)g->at, x->gathered};
        x->gathered = true;
    }
    for (int i = 0; i < s->n_statistics; i++) {
        const struct mdl_statistics *t = &s->statistics[i];

        p->runs[i] = (struct mdl_running){
            w->list[t->mean].tensor, w->list[t->var].tensor, t->stats, momentum,
            weights_unbias(t->places * mdl_plan_batch(plans[0]))};
    }
    for (int i = 0; i < n && !rc; i++) {
        rc = mdl_learner_gather(&w->learner, i, plans[i], p->gathers,
                                s->n_gradients, e);
        if (!rc)
            rc = mdl_learner_run(&w->learner, i, plans[i], p->runs,
                                 s->n_statistics, e);
    }
    return rc;
}

enum ut_err weights_device_squares(struct mdl_weights *w, struct ut_error *e)
{
    struct mdl_placed *p = w->placed;
    struct mdl_weight *x;
    enum ut_err rc;

    for (int at = 0; (x = mdl_weights_next(w, &at));)
        p->gathered[x->tensor] = x->gathered;
    rc = w->learner.ops->meet(w->learner.ctx, p->gathered, p->squares, e);
    for (int at = 0; !rc && (x = mdl_weights_next(w, &at));)
        x->squares = p->squares[x->tensor];
    return rc;
}

enum ut_err weights_device_move(struct mdl_weights *w,
                                const struct mdl_optimizer *o, double rate,
                                float factor, struct ut_error *e)
{
    struct mdl_placed *p = w->placed;
    struct mdl_weight *x;
    enum ut_err rc;

    for (int at = 0; (x = mdl_weights_next(w, &at));)
        p->moves[x->tensor] = (struct mdl_move){.moves = x->gathered,
                                                .decays = x->decays,
                                                .rate = rate * x->rate,
                                                .steps = x->moments.steps + 1};
    rc = w->learner.ops->update(w->learner.ctx, o, p->moves, factor, e);
    if (rc)
        return rc;
    p->moments = o->kind != MDL_SGD;
    for (int at = 0; (x = mdl_weights_next(w, &at));)
        x->moments.steps += x->gathered;
    return UT_OK;
}
