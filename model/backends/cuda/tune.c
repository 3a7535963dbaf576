/* Who computes a product: our own kernel, or an engine of cuDNN or cuBLASLt
 * that has just been seen to compute the same, faster.
 *
 * Nothing is believed. Every engine, a remembered one too, first runs on random
 * numbers beside our kernel; one that errs, is further off than choice_bound,
 * or cannot be recorded where ours can is refused, and ours stays. A remembered
 * one was timed and recorded when it was chosen. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/cuda/plan.h"

#define TRIES 4       /* of each kind: an engine may take a second to compile */
#define REPEATS 8     /* recorded together, for the clock's sake */
#define LONG_US 20000 /* a run that needs no repeating */

/* Which product was decided how; plans of one size share it. */
struct made {
    struct made *next;
    struct choice choice;
    struct gpu_engine *engine; /* owned; NULL: our kernel */
};

/* A product's trials, and device memory for them. */
struct bench {
    struct trial trials[1 + 2 * TRIES]; /* the first is our kernel's */
    struct gpu_engine *engines[1 + 2 * TRIES];
    int n;
    struct gpu_operands a; /* y: what is tried */
    void *want;            /* our kernel's y   */
    float *worst;
    void *all[12];
    int n_all;
    bool recorded; /* our kernel could be */
    bool cramped;  /* a trial failed for a reason that may pass: too little
                      memory, a recording that came to nothing */
};

void cuda_chip(struct ctx *c)
{
    size_t len = sizeof(c->choices.chip);
    size_t n;

    gpu_describe(c->device, c->choices.chip, len);
    for (int i = 0; i < 2; i++) {
        n = strlen(c->choices.chip);
        snprintf(c->choices.chip + n, len - n, ", %s %lld",
                 cuda_vendors[i]->name,
                 (long long)cuda_vendors[i]->version(c->handles[i]));
    }
}

/* ---- Trials ---- */

/* The next piece, of random numbers. */
static enum ut_err piece(struct ctx *c, struct bench *b, enum gpu_type type,
                         size_t n, void **out, struct ut_error *e)
{
    enum ut_err rc = gpu_alloc(n * (type == GPU_F32 ? 4 : 2), out, e);

    if (rc)
        return rc;
    gpu_k_random(gpu_native(c->stream), type, (uint32_t)b->n_all, *out,
                 (long long)n);
    b->all[b->n_all++] = *out;
    return gpu_launched("random numbers", e);
}

static enum ut_err vector(struct ctx *c, struct bench *b, const float *have,
                          size_t n, const float **out, struct ut_error *e)
{
    void *data = NULL;
    enum ut_err rc = have ? piece(c, b, GPU_F32, n, &data, e) : UT_OK;

    *out = data;
    return rc;
}

static enum ut_err bench_new(struct ctx *c, const struct gpu_product *p,
                             struct bench *b, struct ut_error *e)
{
    const struct gpu_pieces all = gpu_pieces(p);
    size_t o = (size_t)p->y.c, room = cuda_own_room(p);
    struct gpu_epilogue *ep = &b->a.ep;
    void *x = NULL, *w = NULL, *residual = NULL, *worst = NULL;
    enum ut_err rc = piece(c, b, all.x.type, all.x.n, &x, e);

    *ep = p->ep;
    if (!rc)
        rc = piece(c, b, all.w.type, all.w.n, &w, e);
    if (!rc)
        rc = vector(c, b, p->ep.bias, o, &ep->bias, e);
    if (!rc)
        rc = vector(c, b, p->ep.slope, o, &ep->slope, e);
    if (!rc)
        rc = vector(c, b, p->ep.shift, o, &ep->shift, e);
    if (!rc && p->ep.residual)
        rc = piece(c, b, all.y.type, all.y.n, &residual, e);
    if (!rc)
        rc = piece(c, b, all.y.type, all.y.n, &b->a.y, e);
    if (!rc)
        rc = piece(c, b, all.y.type, all.y.n, &b->want, e);
    if (!rc && room)
        rc = piece(c, b, GPU_F32, room / sizeof(float), &b->a.room, e);
    if (!rc)
        rc = piece(c, b, GPU_F32, 1, &worst, e);
    b->a.x = x;
    b->a.w = w;
    ep->residual = residual;
    b->worst = worst;
    return rc;
}

static void bench_free(struct bench *b)
{
    while (b->n_all)
        gpu_free(b->all[--b->n_all]);
}

/* A product that is computed several times. */
struct repeated {
    struct ctx *c;
    const struct gpu_product *p;
    enum choice_way way;
    struct gpu_engine *engine;
    const struct gpu_operands *a;
    int times;
};

static enum ut_err repeat(void *arg, struct ut_error *e)
{
    const struct repeated *r = arg;
    enum ut_err rc = UT_OK;

    for (int i = 0; i < r->times && !rc; i++)
        rc = cuda_compute(r->c->stream, r->c->handles, r->p, r->way, r->engine,
                          r->a, e);
    return rc;
}

/* The time of one run: as it is queued or, of a short one, as several recorded
 * together have it. *recorded: it can be. */
static enum ut_err stopwatch(struct ctx *c, const struct gpu_product *p,
                             enum choice_way way, struct gpu_engine *engine,
                             const struct gpu_operands *a, bool *recorded,
                             double *us, struct ut_error *e)
{
    struct repeated r = {c, p, way, engine, a, 1};
    int64_t from = gpu_clock_us(), took;
    enum ut_err rc = repeat(&r, e);
    struct gpu_graph *graph;

    if (!rc)
        rc = gpu_wait(c->stream, e);
    took = gpu_clock_us() - from;
    *us = (double)took;
    if (rc)
        return rc;
    if (took < LONG_US)
        r.times = REPEATS;
    graph = cuda_record(c->stream, repeat, &r);
    *recorded = graph != NULL;
    for (int i = 0; i < 2 && graph && r.times > 1 && !rc; i++) {
        from = gpu_clock_us();
        rc = gpu_replay(c->stream, graph, e);
        if (!rc)
            rc = gpu_wait(c->stream, e);
        took = gpu_clock_us() - from;
        *us = fmin(*us, (double)took / r.times);
    }
    if (graph)
        gpu_graph_free(graph);
    return rc;
}

/* Once, and only where an engine is on offer: our kernel, for the others to be
 * held against. */
static enum ut_err measure_own(struct ctx *c, const struct gpu_product *p,
                               struct bench *b, bool timed, struct ut_error *e)
{
    struct gpu_operands a;
    enum ut_err rc;

    if (b->n_all)
        return UT_OK;
    rc = bench_new(c, p, b, e);
    a = b->a;
    a.y = b->want;
    if (!rc)
        rc = cuda_compute(c->stream, c->handles, p, CHOICE_OWN, NULL, &a, e);
    if (!rc)
        rc = gpu_wait(c->stream, e);
    return rc || !timed ? rc
                        : stopwatch(c, p, CHOICE_OWN, NULL, &a, &b->recorded,
                                    &b->trials[0].choice.us, e);
}

/* Runs an engine beside ours: t->rc, deviation and, timed, us. */
static enum ut_err try_engine(struct ctx *c, const struct gpu_product *p,
                              struct bench *b, struct gpu_engine *engine,
                              struct trial *t, bool timed, struct ut_error *e)
{
    const struct gpu_piece y = gpu_pieces(p).y;
    struct gpu_product as = *p;
    struct choice_bound bound;
    void *room = NULL;
    float worst = 0;
    bool recorded = true;
    enum ut_err rc = gpu_alloc(cuda_room(p, engine), &room, e);

    as.bare = t->choice.way == CHOICE_BARE;
    bound = choice_bound(&as);
    b->a.room = room;
    if (!rc)
        rc = gpu_upload(b->worst, &worst, sizeof(worst), e);
    if (!rc) /* an engine that writes nothing leaves random numbers */
        gpu_k_random(gpu_native(c->stream), y.type, 99, b->a.y, (long long)y.n);
    if (!rc)
        rc = cuda_compute(c->stream, c->handles, p, t->choice.way, engine,
                          &b->a, e);
    if (!rc)
        gpu_k_deviation(gpu_native(c->stream), y.type, b->a.y, b->want,
                        (long long)y.n, bound.absolute, bound.relative,
                        b->worst);
    if (!rc)
        rc = gpu_wait(c->stream, e);
    if (!rc)
        rc = gpu_download(&t->deviation, b->worst, sizeof(t->deviation), e);
    if (!rc && !(t->deviation <= 1))
        rc = ut_fail(e, UT_EDEVICE, "%s: %g times the bound apart from ours",
                     engine->vendor->name, (double)t->deviation);
    if (!rc && timed)
        rc = stopwatch(c, p, t->choice.way, engine, &b->a, &recorded,
                       &t->choice.us, e);
    if (!rc && b->recorded && !recorded) {
        b->cramped = true;
        rc = ut_fail(e, UT_EDEVICE, "%s: cannot be recorded",
                     engine->vendor->name);
    }
    gpu_free(room);
    t->rc = rc;
    return rc;
}

static void refuse(struct ctx *c, const struct choice *choice,
                   const struct ut_error *why)
{
    c->refused++;
    snprintf(c->refusal, sizeof(c->refusal), "%.60s: %.150s", choice->key,
             why->msg);
}

/* Offers of one way: those that hold go into the bench's trials and engines. */
static enum ut_err try_way(struct ctx *c, const struct gpu_product *p,
                           struct bench *b, enum choice_way way,
                           const struct choice *only, struct ut_error *e)
{
    const struct gpu_vendor *v = cuda_vendors[cuda_vendor_of(p)];
    void *handle = c->handles[cuda_vendor_of(p)];
    struct gpu_product as = *p;
    struct gpu_offers offers;
    struct ut_error why;
    enum ut_err rc, bad;

    as.bare = way == CHOICE_BARE;
    bad = v->find(handle, &as, &offers, &why);
    if (bad) {
        b->cramped |= bad == UT_ENOMEM;
        return UT_OK;
    }
    rc = offers.n ? measure_own(c, p, b, !only, e) : UT_OK;
    for (int i = 0; i < offers.n && i < TRIES && !rc; i++) {
        struct trial *t = &b->trials[b->n];
        struct gpu_engine **engine = &b->engines[b->n];

        if (only && (i != only->at || offers.id[i] != only->id))
            continue;
        *t = (struct trial){.choice = b->trials[0].choice};
        t->choice.way = way;
        t->choice.at = i;
        t->choice.id = offers.id[i];
        bad = v->make(handle, &as, &offers, i, engine, &why);
        if (!bad) {
            bad = try_engine(c, p, b, *engine, t, !only, &why);
            if (!bad) {
                b->n++;
                continue;
            }
            v->unmake(handle, *engine);
        }
        b->cramped |= bad == UT_ENOMEM;
        refuse(c, &t->choice, &why);
    }
    v->drop(handle, &offers);
    return rc;
}

/* Decides for a product that no plan had before. */
static enum ut_err decide(struct ctx *c, const struct gpu_product *p,
                          struct made *m, struct ut_error *e)
{
    const struct choice *known = choices_find(&c->choices, m->choice.key);
    struct bench b = {.n = 1};
    enum ut_err rc = UT_OK;
    int best;

    if (known && known->way == CHOICE_OWN)
        return UT_OK;
    b.trials[0].choice = m->choice;
    if (known)
        rc = try_way(c, p, &b, known->way, known, e);
    if (!rc && b.n == 1) {
        bench_free(&b); /* ours is to be timed too */
        rc = try_way(c, p, &b, CHOICE_WHOLE, NULL, e);
        if (!rc && p->pass == GPU_FORWARD)
            rc = try_way(c, p, &b, CHOICE_BARE, NULL, e);
        known = NULL;
    }
    bench_free(&b);
    if (rc == UT_ENOMEM) { /* too large to be tried: ours needs least */
        refuse(c, &b.trials[0].choice, e);
        return UT_OK;
    }
    if (rc)
        return rc;
    /* A remembered one that still computes right was measured once. */
    best = known && b.n == 2 ? 1 : choice_best(b.trials, b.n);
    m->choice = b.trials[best].choice;
    m->engine = b.engines[best];
    for (int i = 1; i < b.n; i++)
        if (i != best)
            b.engines[i]->vendor->unmake(c->handles[cuda_vendor_of(p)],
                                         b.engines[i]);
    if (!known && !b.cramped) /* else another start may choose otherwise */
        choices_set(&c->choices, &m->choice);
    return UT_OK;
}

enum ut_err cuda_choose(struct ctx *c, const struct gpu_product *p,
                        enum choice_way *way, struct gpu_engine **engine,
                        struct ut_error *e)
{
    struct choice choice = {.way = CHOICE_OWN};
    struct made *m;
    enum ut_err rc = UT_OK;

    *way = CHOICE_OWN;
    *engine = NULL;
    if (!p->rows && (p->window.groups > 1 || p->y.c == 1))
        return UT_OK; /* depthwise, or one sum a place: our kernel's */
    choice_key(p, choice.key);
    pthread_mutex_lock(&c->choosing);
    for (m = c->made; m; m = m->next)
        if (!strcmp(m->choice.key, choice.key))
            break;
    if (!m) {
        m = calloc(1, sizeof(*m));
        if (m) {
            m->choice = choice;
            rc = decide(c, p, m, e);
        } else {
            rc = ut_fail(e, UT_ENOMEM, "no memory for a choice");
        }
        if (rc) {
            free(m);
            m = NULL;
        } else {
            m->next = c->made;
            c->made = m;
        }
    }
    if (m) {
        *way = m->choice.way;
        *engine = m->engine;
    }
    pthread_mutex_unlock(&c->choosing);
    return rc;
}

void cuda_remember(struct ctx *c)
{
    struct ut_error e;

    pthread_mutex_lock(&c->choosing);
    if (choices_write(&c->choices, c->cache, &e)) {
        snprintf(c->remark, sizeof(c->remark), "%s", e.msg);
        *c->cache = '\0'; /* said once */
    }
    pthread_mutex_unlock(&c->choosing);
}

void cuda_forget(struct ctx *c, bool lost)
{
    while (c->made) {
        struct made *m = c->made;
        struct gpu_engine *engine = m->engine;

        c->made = m->next;
        if (engine)
            engine->vendor->unmake(
                lost ? NULL : c->handles[engine->vendor == &gpu_cublaslt],
                engine);
        free(m);
    }
}

enum ut_err cuda_lose(struct ctx *c, struct ut_error *e)
{
    enum ut_err rc;

    cuda_weights_lose(c);
    cuda_forget(c, true);
    cuda_handles_close(c->handles, true);
    rc = gpu_stream_renew(c->stream, e);
    return rc ? rc : cuda_handles_open(c->stream, c->handles, e);
}

void cuda_report(struct ctx *c, char *text, size_t len)
{
    int engines = 0, n = 0;

    pthread_mutex_lock(&c->choosing);
    for (const struct made *m = c->made; m; m = m->next, n++)
        engines += m->engine != NULL;
    n = snprintf(text, len, "%s: %d of %d kinds of product by its engines",
                 c->choices.chip, engines, n);
    if (c->refused && n > 0 && (size_t)n < len)
        n += snprintf(text + n, len - (size_t)n, "; %d refused, the last: %s",
                      c->refused, c->refusal);
    if (*c->remark && n > 0 && (size_t)n < len)
        snprintf(text + n, len - (size_t)n, "; %s", c->remark);
    pthread_mutex_unlock(&c->choosing);
}
