/* Weights that learn on the device: masters, gradients and moments lie there,
 * and only numbers of a few bytes come and go. A step's gradients are gathered
 * from the plan's memory, an update moves the masters, and plans take their
 * weights from them (weights.c); all is queued on the lane's stream, in whose
 * order it happens. */
#include "model/backends/cuda/learner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/cuda/learner_kernels.h"

#define ALIGNED ((size_t)64) /* numbers */

static uint32_t chunks_of(const struct learner *l, int tensor)
{
    return (uint32_t)GPU_CHUNKS(l->tensors[tensor].n);
}

static void *stream_of(const struct learner_device *d)
{
    return gpu_native(d->lane->stream);
}

enum ut_err cuda_learner_gone(const struct learner_device *d,
                              struct ut_error *e)
{
    return ut_fail(e, UT_EDEVICE,
                   "the weights that learned on GPU %d went with its context: "
                   "training goes on from its checkpoint",
                   d->ctx->device);
}

typedef enum ut_err work(struct learner *l, struct learner_device *d, void *arg,
                         struct ut_error *e);

/* Does it with the learner on the device. */
static enum ut_err with(struct learner *l, int device, work *do_it, void *arg,
                        struct ut_error *e)
{
    struct learner_device *d = &l->device[device];
    unsigned epoch = cuda_enter(d->ctx);
    enum ut_err rc = epoch == d->epoch ? gpu_enter(d->lane->stream, e)
                                       : cuda_learner_gone(d, e);

    if (!rc)
        rc = do_it(l, d, arg, e);
    cuda_leave();
    cuda_mend(d->ctx, epoch, rc);
    return rc;
}

/* ---- being made ---- */

static enum ut_err array(const struct learner *l, struct learner_device *d,
                         float **out, struct ut_error *e)
{
    struct ut_error why = {0};
    void *at = NULL;
    enum ut_err rc = gpu_alloc(l->size * sizeof(float), &at, &why);

    if (rc)
        return ut_fail(e, rc,
                       "%d tensors of %zu MiB that are to learn on GPU %d: "
                       "%.180s",
                       l->n, l->size * sizeof(float) >> 20, d->ctx->device,
                       why.msg);
    *out = at;
    gpu_l_zero(stream_of(d), at, l->size);
    return gpu_launched("zeros", e);
}

static enum ut_err upload(const struct learner *l, struct learner_device *d,
                          struct ut_error *e)
{
    enum ut_err rc = gpu_wait(d->lane->stream, e);

    for (int i = 0; i < l->n && !rc; i++) {
        const struct mdl_tensor *t = &l->tensors[i];
        size_t len = t->n * sizeof(float);

        rc = gpu_upload(d->x + l->at[i], t->x, len, e);
        if (!rc && t->first)
            rc = gpu_upload(d->first + l->at[i], t->first, len, e);
        if (!rc && t->second)
            rc = gpu_upload(d->second + l->at[i], t->second, len, e);
    }
    return rc;
}

/* What the first device has beside the arrays. */
static enum ut_err make_sums(struct learner *l, struct ut_error *e)
{
    size_t chunks = 0, n = (size_t)l->n * sizeof(double);
    void *parts = NULL, *squares = NULL, *host = NULL;
    enum ut_err rc;

    for (int i = 0; i < l->n; i++)
        chunks += chunks_of(l, i);
    rc = gpu_alloc(chunks * sizeof(double), &parts, e);
    if (!rc)
        rc = gpu_alloc(n, &squares, e);
    if (!rc)
        rc = gpu_pin(n, &host, e);
    l->parts = parts;
    l->squares = squares;
    l->host = rc ? NULL : host;
    return rc;
}

static enum ut_err make(struct learner *l, struct learner_device *d,
                        struct ut_error *e)
{
    bool second = false;
    enum ut_err rc = cuda_renew(d->ctx, d->lane, e);

    for (int i = 0; i < l->n; i++)
        second |= l->tensors[i].second != NULL;
    if (!rc)
        rc = gpu_enter(d->lane->stream, e);
    if (!rc)
        rc = array(l, d, &d->x, e);
    if (!rc)
        rc = array(l, d, &d->gradient, e);
    if (!rc)
        rc = array(l, d, &d->first, e);
    if (!rc && second)
        rc = array(l, d, &d->second, e);
    if (!rc && d == l->device)
        rc = make_sums(l, e);
    return rc ? rc : upload(l, d, e);
}

static enum ut_err open_device(struct learner *l, struct learner_device *d,
                               struct ut_error *e)
{
    struct ctx *c = d->ctx;
    enum ut_err rc;

    d->of = l;
    d->has = calloc((size_t)l->n, sizeof(*d->has));
    if (!d->has)
        return ut_fail(e, UT_ENOMEM, "no memory for a learner");
    d->epoch = cuda_enter(c);
    rc = make(l, d, e);
    if (!rc) {
        pthread_mutex_lock(&c->lock);
        d->next = c->learners;
        c->learners = d;
        pthread_mutex_unlock(&c->lock);
    }
    cuda_leave();
    cuda_mend(c, d->epoch, rc);
    return rc;
}

static void close_device(struct learner *l, struct learner_device *d)
{
    struct learner_device **at = &d->ctx->learners;
    bool first = d == l->device;
    struct ut_error ignored;
    bool lost;

    if (!d->of) /* was not opened */
        return;
    pthread_mutex_lock(&d->ctx->lock);
    while (*at && *at != d)
        at = &(*at)->next;
    if (*at)
        *at = d->next;
    pthread_mutex_unlock(&d->ctx->lock);
    lost = cuda_enter(d->ctx) != d->epoch ||
           gpu_enter(d->lane->stream, &ignored) ||
           gpu_wait(d->lane->stream, &ignored);
    if (!lost) {
        gpu_free(d->x);
        gpu_free(d->gradient);
        gpu_free(d->first);
        gpu_free(d->second);
    }
    if (!lost && first) {
        gpu_free(l->parts);
        gpu_free(l->squares);
        gpu_unpin(l->host);
    }
    if (first)
        cuda_losses_free(l, lost);
    cuda_leave();
    free(d->has);
}

/* Whether what it had on one of its devices is gone. Entered. */
static bool is_lost(const struct learner *l)
{
    for (int i = 0; i < l->devices; i++)
        if (cuda_epoch(l->device[i].ctx) != l->device[i].epoch)
            return true;
    return false;
}

static void close_learner(void *learner)
{
    struct learner *l = learner;

    if (l->meeting) {
        (void)cuda_enter(l->device[0].ctx);
        gpu_meeting_close(l->meeting, is_lost(l));
        cuda_leave();
    }
    for (int i = 0; i < l->devices; i++)
        close_device(l, &l->device[i]);
    free(l->sums);
    free(l->tensors);
    free(l->at);
    free(l->by_x);
    free(l);
}

static int by_address(const void *a, const void *b, void *tensors)
{
    const struct mdl_tensor *t = tensors;
    uintptr_t p = (uintptr_t)t[*(const int *)a].x,
              q = (uintptr_t)t[*(const int *)b].x;

    return (p > q) - (p < q);
}

static size_t aligned(size_t n)
{
    return (n + ALIGNED - 1) / ALIGNED * ALIGNED;
}

/* Statistics lie behind what has gradients: so each are in one piece where
 * devices meet. */
static void place(struct learner *l, bool statistics)
{
    for (int i = 0; i < l->n; i++)
        if (l->tensors[i].statistics == statistics) {
            l->at[i] = l->size;
            l->size += aligned(l->tensors[i].n);
        }
}

static enum ut_err lay_out(struct learner *l, const struct mdl_tensor *tensors,
                           struct ut_error *e)
{
    size_t n = (size_t)l->n;

    l->tensors = calloc(n, sizeof(*l->tensors));
    l->at = calloc(n, sizeof(*l->at));
    l->by_x = calloc(n, sizeof(*l->by_x));
    if (!l->tensors || !l->at || !l->by_x)
        return ut_fail(e, UT_ENOMEM, "no memory for a learner");
    for (int i = 0; i < l->n; i++) {
        if (tensors[i].n > UINT32_MAX)
            return ut_fail(e, UT_ENOMEM,
                           "a tensor of %zu numbers is past the limit of %u",
                           tensors[i].n, UINT32_MAX);
        l->tensors[i] = tensors[i];
        l->by_x[i] = i;
    }
    place(l, false);
    place(l, true);
    qsort_r(l->by_x, n, sizeof(*l->by_x), by_address, l->tensors);
    return UT_OK;
}

static enum ut_err open_meeting(struct learner *l, struct ut_error *e)
{
    struct gpu_stream *streams[MDL_LEARNER_DEVICES];
    int devices[MDL_LEARNER_DEVICES];
    enum ut_err rc = UT_OK;

    for (int i = 0; i < l->devices; i++) {
        l->gradients[i] = l->device[i].gradient;
        l->masters[i] = l->device[i].x;
        streams[i] = l->device[i].lane->stream;
        devices[i] = l->device[i].ctx->device;
        for (int k = 0; k < i; k++)
            if (devices[k] == devices[i])
                return ut_fail(e, UT_EDEVICE, "GPU %d would meet itself",
                               devices[i]);
    }
    l->sums = calloc((size_t)l->n, sizeof(*l->sums));
    if (!l->sums)
        return ut_fail(e, UT_ENOMEM, "no memory for a learner");
    (void)cuda_enter(l->device[0].ctx);
    rc = gpu_meeting_open(devices, streams, l->devices, &l->meeting, e);
    cuda_leave();
    return rc;
}

static enum ut_err open_learner(void *const *backends, void *const *lanes,
                                int devices, const struct mdl_tensor *tensors,
                                int n, void **out, struct ut_error *e)
{
    struct learner *l = calloc(1, sizeof(*l));
    enum ut_err rc;

    if (!l)
        return ut_fail(e, UT_ENOMEM, "no memory for a learner");
    l->n = n;
    l->devices = devices;
    for (int i = 0; i < devices; i++) {
        l->device[i].ctx = backends[i];
        l->device[i].lane = lanes[i];
    }
    rc = lay_out(l, tensors, e);
    for (int i = 0; i < devices && !rc; i++)
        rc = open_device(l, &l->device[i], e);
    if (!rc && devices > 1)
        rc = open_meeting(l, e);
    if (rc)
        close_learner(l);
    else
        *out = l;
    return rc;
}

/* ---- plans ---- */

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
        gpu_l_gather(stream_of(d), l);
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
            return rc;
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

static enum ut_err gather_all(void *learner, int device, void *plan,
                              const struct mdl_gather *list, int n,
                              struct ut_error *e)
{
    struct from_plan a = {plan, list, n};

    return with(learner, device, gather, &a, e);
}

static void send_runs(struct learner_device *d, struct gpu_runs *l)
{
    if (l->n)
        gpu_l_run(stream_of(d), l);
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
            return rc;
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

static enum ut_err run_all(void *learner, int device, void *plan,
                           const struct mdl_running *list, int n,
                           struct ut_error *e)
{
    struct from_plan a = {plan, list, n};

    return with(learner, device, run, &a, e);
}

/* ---- an update ---- */

struct meeting {
    const bool *gathered;
    double *squares;
};

static void send_squares(struct learner_device *d, struct gpu_squares *l)
{
    if (l->n)
        gpu_l_square(stream_of(d), l);
    l->n = 0;
    l->chunks = 0;
}

static enum ut_err square(struct learner *l, struct learner_device *d,
                          void *arg, struct ut_error *e)
{
    const struct meeting *a = arg;
    struct gpu_squares out = {
        .x = d->gradient, .parts = l->parts, .squares = l->squares};
    uint32_t part = 0;
    enum ut_err rc;

    for (int i = 0; i < l->n; part += chunks_of(l, i++)) {
        if (!a->gathered[i])
            continue;
        if (out.n == GPU_LIST)
            send_squares(d, &out);
        out.of[out.n++] = (struct gpu_square){.at = l->at[i],
                                              .n = (uint32_t)l->tensors[i].n,
                                              .chunk = out.chunks,
                                              .part = part,
                                              .to = i};
        out.chunks += chunks_of(l, i);
    }
    send_squares(d, &out);
    rc = gpu_launched("the norm of the gradients", e);
    if (!rc)
        rc = gpu_copy_out(d->lane->stream, l->host, l->squares,
                          (size_t)l->n * sizeof(double), e);
    if (!rc)
        rc = l->meeting ? gpu_meeting_wait(l->meeting, e)
                        : gpu_wait(d->lane->stream, e);
    for (int i = 0; i < l->n && !rc; i++)
        a->squares[i] = a->gathered[i] ? l->host[i] : 0;
    return rc;
}

/* ---- several devices ---- */

static bool any_has(const struct learner *l, int tensor)
{
    for (int i = 0; i < l->devices; i++)
        if (l->device[i].has[tensor])
            return true;
    return false;
}

/* A device whose plans left no gradient of a tensor has a gradient of zero. One
 * that no plan has left is a loss's, which the first device computes. */
static enum ut_err complete(struct learner *l, int device, int tensor,
                            struct ut_error *e)
{
    struct learner_device *d = &l->device[device];
    enum ut_err rc;

    if (any_has(l, tensor) ? d->has[tensor] : !device)
        return UT_OK;
    rc = gpu_enter(d->lane->stream, e);
    if (rc)
        return rc;
    gpu_l_zero(stream_of(d), d->gradient + l->at[tensor], l->tensors[tensor].n);
    return gpu_launched("a gradient of zero", e);
}

/* With what lies before it, if that is the end of it. */
static void add_sum(struct learner *l, int tensor, bool mean, int *n)
{
    struct gpu_sum *s = &l->sums[*n - (*n > 0)];
    size_t size = aligned(l->tensors[tensor].n);

    if (*n && s->mean == mean && s->at + s->n == l->at[tensor])
        s->n += size;
    else
        l->sums[(*n)++] = (struct gpu_sum){mean ? l->masters : l->gradients,
                                           l->at[tensor], size, mean};
}

static enum ut_err sum(struct learner *l, const bool *gathered,
                       struct ut_error *e)
{
    enum ut_err rc = UT_OK;
    int n = 0;

    for (int i = 0; i < l->n && !rc; i++) {
        if (l->tensors[i].statistics || !gathered[i])
            continue;
        for (int d = 0; d < l->devices && !rc; d++)
            rc = complete(l, d, i, e);
        add_sum(l, i, false, &n);
    }
    for (int i = 0; i < l->n; i++)
        if (l->tensors[i].statistics && any_has(l, i))
            add_sum(l, i, true, &n);
    return rc ? rc : gpu_meet(l->meeting, l->sums, n, e);
}

static enum ut_err meet_all(struct learner *l, struct learner_device *first,
                            void *arg, struct ut_error *e)
{
    const struct meeting *a = arg;
    enum ut_err rc = UT_OK;

    for (int i = 1; i < l->devices; i++)
        if (cuda_epoch(l->device[i].ctx) != l->device[i].epoch)
            return cuda_learner_gone(&l->device[i], e);
    if (l->devices > 1)
        rc = sum(l, a->gathered, e);
    if (!rc)
        rc = gpu_enter(first->lane->stream, e);
    return rc ? rc : square(l, first, arg, e);
}

static enum ut_err meet(void *learner, const bool *gathered, double *squares,
                        struct ut_error *e)
{
    struct meeting a = {gathered, squares};
    struct learner *l = learner;
    enum ut_err rc = with(l, 0, meet_all, &a, e);

    for (int i = 1; i < l->devices; i++)
        cuda_mend(l->device[i].ctx, l->device[i].epoch, rc);
    return rc;
}

struct update {
    const struct mdl_optimizer *o;
    const struct mdl_move *moves;
    float factor;
};

static void send_moves(struct learner_device *d, enum mdl_optimizer_kind kind,
                       struct gpu_moves *l)
{
    if (l->n && kind == MDL_SGD)
        gpu_l_sgd(stream_of(d), l);
    else if (l->n)
        gpu_l_adam(stream_of(d), l);
    l->n = 0;
    l->chunks = 0;
}

/* As model/train/optimizer.c has it, in the same types. */
static struct gpu_move move_of(const struct mdl_optimizer *o,
                               const struct mdl_move *m)
{
    float rate = (float)m->rate, decay = m->decays ? o->weight_decay : 0;
    double steps = (double)m->steps;

    if (o->kind == MDL_SGD)
        return (struct gpu_move){.joined = decay,
                                 .keep = m->steps == 1 ? 0 : o->beta1,
                                 .step = rate};
    return (struct gpu_move){.joined = o->kind == MDL_ADAMW ? 0 : decay,
                             .keep =
                                 o->kind == MDL_ADAMW ? 1 - rate * decay : 1,
                             .step = (float)(rate / (1 - pow(o->beta1, steps))),
                             .fix = (float)sqrt(1 - pow(o->beta2, steps))};
}

static enum ut_err update(struct learner *l, struct learner_device *d,
                          void *arg, struct ut_error *e)
{
    const struct update *a = arg;
    struct gpu_moves out = {.factor = a->factor,
                            .beta1 = a->o->beta1,
                            .beta2 = a->o->beta2,
                            .eps = a->o->eps,
                            .x = d->x,
                            .first = d->first,
                            .gradient = d->gradient};

    if (a->o->kind != MDL_SGD && !d->second) {
        enum ut_err rc = array(l, d, &d->second, e);

        if (rc)
            return rc;
    }
    out.second = d->second;
    for (int i = 0; i < l->n; i++) {
        struct gpu_move m;

        if (!a->moves[i].moves)
            continue;
        if (out.n == GPU_LIST)
            send_moves(d, a->o->kind, &out);
        m = move_of(a->o, &a->moves[i]);
        m.at = l->at[i];
        m.n = (uint32_t)l->tensors[i].n;
        m.chunk = out.chunks;
        out.of[out.n++] = m;
        out.chunks += GPU_CHUNKS(m.n);
    }
    send_moves(d, a->o->kind, &out);
    memset(d->has, 0, (size_t)l->n * sizeof(*d->has));
    return gpu_launched("an update", e);
}

static enum ut_err update_all(void *learner, const struct mdl_optimizer *o,
                              const struct mdl_move *moves, float factor,
                              struct ut_error *e)
{
    struct learner *l = learner;
    struct update a = {o, moves, factor};
    enum ut_err rc = UT_OK;

    for (int i = 0; i < l->devices && !rc; i++)
        rc = with(l, i, update, &a, e);
    return rc;
}

/* ---- what the host sees ---- */

struct request {
    int tensor;
    enum mdl_learned what;
    float *to;
};

static enum ut_err get(struct learner *l, struct learner_device *d, void *arg,
                       struct ut_error *e)
{
    const struct request *a = arg;
    const float *const arrays[] = {[MDL_X] = d->x,
                                   [MDL_GRADIENT] = d->gradient,
                                   [MDL_FIRST] = d->first,
                                   [MDL_SECOND] = d->second};
    const float *from = arrays[a->what];
    size_t len = l->tensors[a->tensor].n * sizeof(float);
    enum ut_err rc = gpu_wait(d->lane->stream, e);

    if (!rc && !from)
        memset(a->to, 0, len);
    else if (!rc)
        rc = gpu_download(a->to, from + l->at[a->tensor], len, e);
    return rc;
}

static enum ut_err get_one(void *learner, int tensor, enum mdl_learned what,
                           float *to, struct ut_error *e)
{
    struct request a = {tensor, what, to};

    return with(learner, 0, get, &a, e);
}

const struct mdl_learner_ops cuda_learner = {
    .open = open_learner,
    .close = close_learner,
    .gather = gather_all,
    .run = run_all,
    .arcface = cuda_loss_arcface,
    .distill = cuda_loss_distill,
    .hint = cuda_loss_hint,
    .meet = meet,
    .update = update_all,
    .get = get_one,
};
