/* What plans leave to a learner, and what they take from it. */
#include "model/backends/cuda/learner.h"

enum ut_err cuda_learned(const struct plan *p, const float *param,
                         const float **x, bool *apart, struct ut_error *e)
{
    *x = NULL;
    for (struct learner_device *d = p->ctx->learners; d && !*x; d = d->next) {
        const struct learner *l = d->of;
        int from = 0, to = l->n;

        while (to - from > 1) {
            int mid = (from + to) / 2;

            if ((uintptr_t)l->tensors[l->by_x[mid]].x <= (uintptr_t)param)
                from = mid;
            else
                to = mid;
        }
        if (from == to || l->tensors[l->by_x[from]].x != param)
            continue;
        if (d->epoch != cuda_epoch(d->ctx))
            return cuda_learner_gone(d, e);
        *x = d->x + l->at[l->by_x[from]];
        if (d->lane != p->lane) {
            enum ut_err rc = gpu_wait(d->lane->stream, e);

            *apart = true;
            if (rc)
                return rc;
        }
    }
    return UT_OK;
}

struct from_plan {
    struct plan *plan;
    const void *list;
    int n;
};

/* The plan's value, which it left where it ran: at least `least` numbers of
 * float32. */
static enum ut_err value_of(const struct learner_device *d,
                            const struct plan *p, int value, size_t least,
                            const struct gpu_map **out, struct ut_error *e)
{
    const struct gpu_map *m = &p->maps[value];

    *out = m;
    if (p->lane != d->lane)
        return ut_fail(e, UT_EDEVICE,
                       "a gradient is not on the learner's lane on GPU %d",
                       d->ctx->device);
    if (p->g->values[value].producer >= p->ran)
        return ut_fail(e, UT_EDEVICE,
                       "a gradient is not on the GPU: it went with its "
                       "context");
    if (m->type != GPU_F32 || gpu_items(m) < least || gpu_items(m) > UINT32_MAX)
        return ut_fail(e, UT_EDEVICE,
                       "value %d of a plan, %zu numbers, is no gradient of %zu",
                       value, gpu_items(m), least);
    return UT_OK;
}

static bool gathers(const struct gpu_gathers *l, const float *to)
{
    for (int i = 0; i < l->n; i++)
        if (l->of[i].to == to)
            return true;
    return false;
}

static void send_gathers(struct learner_device *d, struct gpu_gathers *l)
{
    if (l->n)
        gpu_l_gather(learner_stream(d), l);
    l->n = 0;
    l->chunks = 0;
}

static enum ut_err gather(struct learner *l, struct learner_device *d,
                          void *arg, struct ut_error *e)
{
    const struct from_plan *a = arg;
    const struct mdl_gather *g = a->list;
    struct gpu_gathers out = {0};
    enum ut_err rc = cuda_ready(a->plan, e);

    for (int i = 0; i < a->n && !rc; i++, g++) {
        uint32_t n = (uint32_t)l->tensors[g->tensor].n;
        float *to = d->gradient + l->at[g->tensor];
        const struct gpu_map *m;

        rc = value_of(d, a->plan, g->value, g->at + n, &m, e);
        if (rc)
            break; /* those before it have gathered */
        if (out.n == GPU_LIST || gathers(&out, to))
            send_gathers(d, &out);
        out.of[out.n++] =
            (struct gpu_gather){.from = m->data,
                                .to = to,
                                .n = n,
                                .chunk = out.chunks,
                                .at = (uint32_t)g->at,
                                .channels = (uint32_t)m->c,
                                .places = (uint32_t)(m->h * m->w),
                                .more = g->more && d->has[g->tensor]};
        out.chunks += GPU_CHUNKS(n);
        d->has[g->tensor] = true;
    }
    send_gathers(d, &out);
    return rc ? rc : gpu_launched("gradients", e);
}

enum ut_err cuda_learner_gather(void *learner, int device, void *plan,
                                const struct mdl_gather *list, int n,
                                struct ut_error *e)
{
    struct from_plan a = {plan, list, n};

    return cuda_learner_with(learner, device, gather, &a, e);
}

static void send_runs(struct learner_device *d, struct gpu_runs *l)
{
    if (l->n)
        gpu_l_run(learner_stream(d), l);
    l->n = 0;
    l->chunks = 0;
}

static bool runs(const struct gpu_runs *l, const float *mean)
{
    for (int i = 0; i < l->n; i++)
        if (l->of[i].mean == mean)
            return true;
    return false;
}

static enum ut_err run(struct learner *l, struct learner_device *d, void *arg,
                       struct ut_error *e)
{
    const struct from_plan *a = arg;
    const struct mdl_running *r = a->list;
    struct gpu_runs out = {0};
    enum ut_err rc = cuda_ready(a->plan, e);

    for (int i = 0; i < a->n && !rc; i++, r++) {
        uint32_t n = (uint32_t)l->tensors[r->mean].n;
        float *mean = d->x + l->at[r->mean];
        const struct gpu_map *m;

        rc = value_of(d, a->plan, r->value, (size_t)2 * n, &m, e);
        if (rc)
            break;
        if (out.n == GPU_LIST || runs(&out, mean))
            send_runs(d, &out);
        out.of[out.n++] = (struct gpu_run){.stats = m->data,
                                           .mean = mean,
                                           .var = d->x + l->at[r->var],
                                           .n = n,
                                           .chunk = out.chunks,
                                           .momentum = r->momentum,
                                           .unbias = r->unbias};
        out.chunks += GPU_CHUNKS(n);
        d->has[r->mean] = d->has[r->var] = true;
    }
    send_runs(d, &out);
    return rc ? rc : gpu_launched("running statistics", e);
}

enum ut_err cuda_learner_run(void *learner, int device, void *plan,
                             const struct mdl_running *list, int n,
                             struct ut_error *e)
{
    struct from_plan a = {plan, list, n};

    return cuda_learner_with(learner, device, run, &a, e);
}
