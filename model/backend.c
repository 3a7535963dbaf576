/* The only list of backends, and the wrappers by which they are called. CUDA's
 * is a plug-in; the others are built in. */
#include "model/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/processors.h"
#include "model/backends/cpu/cpu.h"
#include "model/backends/plugin.h"
#include "model/backends/ref/ref.h"

static const struct mdl_backend_ops *const backends[] = {
    &mdl_cpu_ops,
    &mdl_ref_ops, /* plain C, always there: what the others must match */
};

#define N_BACKENDS (sizeof(backends) / sizeof(backends[0]))
#define PLUGIN "cuda"

struct mdl_backend {
    const struct mdl_backend_ops *ops;
    void *ctx;      /* owned; only ops look inside */
    void *plugin;   /* owned; NULL: built in */
    char note[256]; /* why a better one is not used, or "" */
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
    [MDL_PREC_F16] = {"float16", "f16"},
    [MDL_PREC_TF32] = {"tf32", "tf32"},
};

int mdl_precision_parse(const char *text)
{
    for (int i = MDL_PREC_F32; i <= MDL_PREC_TF32; i++)
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

static enum ut_err unknown(const char *name, struct ut_error *e)
{
    char known[64] = "auto";

    for (size_t i = 0; i < N_BACKENDS; i++)
        snprintf(known + strlen(known), sizeof(known) - strlen(known), ", %s",
                 backends[i]->name);
    return ut_fail(e, UT_EINVAL,
                   "there is no backend \"%s\"; known are %s, " PLUGIN, name,
                   known);
}

/* ops, or those of the plug-in where ops is NULL. */
static enum ut_err open_one(const struct mdl_backend_ops *ops, int device,
                            struct mdl_backend **out, struct ut_error *e)
{
    struct mdl_backend *b = calloc(1, sizeof(*b));
    enum ut_err rc = UT_OK;

    *out = NULL;
    if (!b)
        return ut_fail(e, UT_ENOMEM, "no memory for a backend");
    b->ops = ops;
    if (!ops)
        rc = mdl_plugin_open(&b->plugin, &b->ops, e);
    if (!rc)
        rc = b->ops->open(device, &b->ctx, e);
    if (rc) {
        mdl_plugin_close(b->plugin);
        free(b);
        return rc;
    }
    *out = b;
    return UT_OK;
}

enum ut_err mdl_backend_open(const char *name, int device,
                             struct mdl_backend **out, struct ut_error *e)
{
    bool any = !name || !strcmp(name, "auto");
    const struct mdl_backend_ops *ops = choose(any ? NULL : name);
    struct ut_error why = {0};
    enum ut_err rc;

    *out = NULL;
    if (any) {
        if (!open_one(NULL, device, out, &why))
            return UT_OK;
        rc = open_one(ops, device, out, e);
        if (!rc)
            snprintf((*out)->note, sizeof((*out)->note), "%s", why.msg);
        return rc;
    }
    if (!strcmp(name, PLUGIN)) {
        rc = open_one(NULL, device, out, &why);
        return rc ? ut_fail(e, rc, "backend \"" PLUGIN "\": %s", why.msg) : rc;
    }
    return ops ? open_one(ops, device, out, e) : unknown(name, e);
}

void mdl_backend_close(struct mdl_backend *b)
{
    if (!b)
        return;
    b->ops->close(b->ctx);
    mdl_plugin_close(b->plugin);
    free(b);
}

const char *mdl_backend_note(const struct mdl_backend *b)
{
    return b->note;
}

int mdl_backend_devices(const struct mdl_backend *b)
{
    int n = b->ops->devices ? b->ops->devices() : 1;

    return n < 1 ? 1 : n;
}

int mdl_backend_lanes(const struct mdl_backend *b)
{
    return b->ops->devices ? 2 : ut_processors();
}

bool mdl_backend_stats(const struct mdl_backend *b,
                       struct mdl_device_stats *out)
{
    if (b->ops->stats)
        b->ops->stats(b->ctx, out);
    return b->ops->stats != NULL;
}

void mdl_backend_report(const struct mdl_backend *b, char *text, size_t len)
{
    *text = '\0';
    if (b->ops->report)
        b->ops->report(b->ctx, text, len);
}

enum ut_err mdl_index_open(struct mdl_backend *b, int dim,
                           struct mdl_index *out, struct ut_error *e)
{
    *out = (struct mdl_index){b->ops->index, NULL};
    return out->ops ? out->ops->open(b->ctx, dim, &out->ctx, e) : UT_OK;
}

bool mdl_backend_learns(const struct mdl_backend *b)
{
    return b->ops->learner != NULL;
}

enum ut_err mdl_learner_open(struct mdl_lane *const *lanes, int devices,
                             const struct mdl_tensor *tensors, int n,
                             struct mdl_learner *out, struct ut_error *e)
{
    const struct mdl_learner_ops *ops = lanes[0]->backend->ops->learner;
    void *opened[MDL_LEARNER_DEVICES], *ctx[MDL_LEARNER_DEVICES];
    enum ut_err rc;

    *out = (struct mdl_learner){0};
    if (!ops)
        return UT_OK;
    if (devices > MDL_LEARNER_DEVICES)
        return ut_fail(e, UT_EINVAL, "%d devices are past the limit of %d",
                       devices, MDL_LEARNER_DEVICES);
    for (int i = 0; i < devices; i++) {
        opened[i] = lanes[i]->backend->ctx;
        ctx[i] = lanes[i]->ctx;
    }
    rc = ops->open(opened, ctx, devices, tensors, n, &out->ctx, e);
    if (!rc)
        out->ops = ops;
    return rc;
}

enum ut_err mdl_learner_gather(const struct mdl_learner *l, int device,
                               struct mdl_plan *plan,
                               const struct mdl_gather *list, int n,
                               struct ut_error *e)
{
    return l->ops->gather(l->ctx, device, plan->ctx, list, n, e);
}

enum ut_err mdl_learner_run(const struct mdl_learner *l, int device,
                            struct mdl_plan *plan,
                            const struct mdl_running *list, int n,
                            struct ut_error *e)
{
    return l->ops->run(l->ctx, device, plan->ctx, list, n, e);
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
