/* The only list of backends, and the wrappers by which they are called. */
#include "model/backend.h"

#include <stdlib.h>
#include <string.h>

#include "model/backends/cpu/cpu.h"
#include "model/backends/ref/ref.h"

static const struct mdl_backend_ops *const backends[] = {
    &mdl_cpu_ops,
    &mdl_ref_ops, /* plain C, always there: what the others must match */
};

#define N_BACKENDS (sizeof(backends) / sizeof(backends[0]))

struct mdl_backend {
    const struct mdl_backend_ops *ops;
    void *ctx; /* owned; only ops look inside */
};

struct mdl_lane {
    struct mdl_backend *backend;
    void *ctx; /* owned */
};

struct mdl_plan {
    struct mdl_lane *lane;
    void *ctx; /* owned */
    int batch;
};

static const struct {
    const char *name, *alias;
} precisions[] = {
    [MDL_PREC_F32] = {"float32", "f32"},
    [MDL_PREC_BF16] = {"bfloat16", "bf16"},
    [MDL_PREC_INT8] = {"int8", "s8"},
};

int mdl_precision_parse(const char *text)
{
    for (int i = MDL_PREC_F32; i <= MDL_PREC_INT8; i++)
        if (!strcmp(text, precisions[i].name) ||
            !strcmp(text, precisions[i].alias))
            return i;
    return -1;
}

const char *mdl_precision_name(enum mdl_precision p)
{
    return precisions[p].name;
}

static const struct mdl_backend_ops *choose(const char *name)
{
    const struct mdl_backend_ops *best = NULL;

    for (size_t i = 0; i < N_BACKENDS; i++) {
        if (name && strcmp(name, backends[i]->name))
            continue;
        if (!best || backends[i]->score() > best->score())
            best = backends[i];
    }
    return best;
}

enum ut_err mdl_backend_open(const char *name, int device,
                             struct mdl_backend **out, struct ut_error *e)
{
    const struct mdl_backend_ops *ops = choose(name);
    struct mdl_backend *b;
    char known[64] = "";
    enum ut_err rc;

    *out = NULL;
    if (!ops) {
        for (size_t i = 0; i < N_BACKENDS; i++) {
            strncat(known, i ? ", " : "", sizeof(known) - strlen(known) - 1);
            strncat(known, backends[i]->name,
                    sizeof(known) - strlen(known) - 1);
        }
        return ut_fail(e, UT_EINVAL,
                       "there is no backend \"%s\"; known are "
                       "%s",
                       name, known);
    }
    if (ops->score() <= 0)
        return ut_fail(e, UT_EDEVICE,
                       "backend \"%s\" cannot be used on this machine",
                       ops->name);
    b = calloc(1, sizeof(*b));
    if (!b)
        return ut_fail(e, UT_ENOMEM, "no memory for backend \"%s\"", ops->name);
    b->ops = ops;
    rc = ops->open(device, &b->ctx, e);
    if (rc) {
        free(b);
        return rc;
    }
    *out = b;
    return UT_OK;
}

void mdl_backend_close(struct mdl_backend *b)
{
    if (!b)
        return;
    b->ops->close(b->ctx);
    free(b);
}

const char *mdl_backend_name(const struct mdl_backend *b)
{
    return b->ops->name;
}

bool mdl_backend_supports(const struct mdl_backend *b, enum mdl_precision p)
{
    return b->ops->supports(b->ctx, p);
}

enum ut_err mdl_lane_new(struct mdl_backend *b, struct mdl_lane **out,
                         struct ut_error *e)
{
    struct mdl_lane *lane = calloc(1, sizeof(*lane));
    enum ut_err rc;

    *out = NULL;
    if (!lane)
        return ut_fail(e, UT_ENOMEM, "no memory for a lane");
    lane->backend = b;
    rc = b->ops->lane_new(b->ctx, &lane->ctx, e);
    if (rc) {
        free(lane);
        return rc;
    }
    *out = lane;
    return UT_OK;
}

void mdl_lane_free(struct mdl_lane *lane)
{
    if (!lane)
        return;
    lane->backend->ops->lane_free(lane->backend->ctx, lane->ctx);
    free(lane);
}

enum ut_err mdl_plan_new(struct mdl_lane *lane, const struct mdl_graph *g,
                         enum mdl_precision precision, int batch,
                         struct mdl_plan **out, struct ut_error *e)
{
    struct mdl_backend *b = lane->backend;
    struct mdl_plan *p;
    enum ut_err rc;

    *out = NULL;
    if (batch < 1)
        return ut_fail(e, UT_EINVAL, "a batch of %d is below 1", batch);
    if (!b->ops->supports(b->ctx, precision))
        return ut_fail(e, UT_EINVAL, "backend \"%s\" cannot compute in %s",
                       b->ops->name, mdl_precision_name(precision));
    p = calloc(1, sizeof(*p));
    if (!p)
        return ut_fail(e, UT_ENOMEM, "no memory for a plan");
    p->lane = lane;
    p->batch = batch;
    rc = b->ops->compile(b->ctx, lane->ctx, g, precision, batch, &p->ctx, e);
    if (rc) {
        free(p);
        return rc;
    }
    *out = p;
    return UT_OK;
}

void mdl_plan_free(struct mdl_plan *p)
{
    if (!p)
        return;
    p->lane->backend->ops->plan_free(p->lane->backend->ctx, p->ctx);
    free(p);
}

int mdl_plan_batch(const struct mdl_plan *p)
{
    return p->batch;
}

enum ut_err mdl_plan_run(struct mdl_plan *p, const struct mdl_io *io,
                         struct ut_error *e)
{
    return p->lane->backend->ops->run(p->lane->backend->ctx, p->ctx, io, e);
}

bool mdl_backend_trains(const struct mdl_backend *b)
{
    return b->ops->run_nodes != NULL;
}

void mdl_lane_threads(struct mdl_lane *lane, int n)
{
    lane->backend->ops->lane_threads(lane->backend->ctx, lane->ctx, n);
}

enum ut_err mdl_plan_run_nodes(struct mdl_plan *p, const void *in, int first,
                               int last, struct ut_error *e)
{
    struct mdl_backend *b = p->lane->backend;

    return b->ops->run_nodes(b->ctx, p->ctx, in, first, last, e);
}

enum ut_err mdl_plan_set(struct mdl_plan *p, int value, const float *from,
                         struct ut_error *e)
{
    struct mdl_backend *b = p->lane->backend;

    return b->ops->set(b->ctx, p->ctx, value, from, e);
}

enum ut_err mdl_plan_get(struct mdl_plan *p, int value, float *to,
                         struct ut_error *e)
{
    struct mdl_backend *b = p->lane->backend;

    return b->ops->get(b->ctx, p->ctx, value, to, e);
}

enum ut_err mdl_plan_refresh(struct mdl_plan *p, struct ut_error *e)
{
    struct mdl_backend *b = p->lane->backend;

    return b->ops->refresh(b->ctx, p->ctx, e);
}

void mdl_plan_profile(struct mdl_plan *p,
                      void (*line)(void *arg, const char *name,
                                   const char *detail, double us, double macs),
                      void *arg)
{
    if (p->lane->backend->ops->profile)
        p->lane->backend->ops->profile(p->ctx, line, arg);
}
