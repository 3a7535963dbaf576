/* Weights that learn on the device: masters, gradients and moments lie there,
 * and only numbers of a few bytes come and go. A step's gradients are gathered
 * from the plan's memory and plans take their weights from the masters
 * (learner_plans.c, weights.c), an update moves those (learner_update.c); all
 * is queued on the lane's stream, in whose order it happens. Here a learner is
 * made, closed, and read by the host. */
#include "model/backends/cuda/learner.h"

#include <stdlib.h>
#include <string.h>

enum ut_err cuda_learner_gone(const struct learner_device *d,
                              struct ut_error *e)
{
    return ut_fail(e, UT_EDEVICE,
                   "the weights that learned on GPU %d went with its context: "
                   "training goes on from its checkpoint",
                   d->ctx->device);
}

enum ut_err cuda_learner_with(struct learner *l, int device,
                              learner_work *do_it, void *arg,
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

enum ut_err cuda_learner_array(const struct learner *l,
                               struct learner_device *d, float **out,
                               struct ut_error *e)
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
    gpu_l_zero(learner_stream(d), at, l->size);
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
        chunks += learner_chunks(l, i);
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
        rc = cuda_learner_array(l, d, &d->x, e);
    if (!rc)
        rc = cuda_learner_array(l, d, &d->gradient, e);
    if (!rc)
        rc = cuda_learner_array(l, d, &d->first, e);
    if (!rc && second)
        rc = cuda_learner_array(l, d, &d->second, e);
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

/* Statistics lie behind what has gradients: so each are in one piece where
 * devices meet. */
static void place(struct learner *l, bool statistics)
{
    for (int i = 0; i < l->n; i++)
        if (l->tensors[i].statistics == statistics) {
            l->at[i] = l->size;
            l->size += learner_aligned(l->tensors[i].n);
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

    return cuda_learner_with(learner, 0, get, &a, e);
}

static enum ut_err wait_one(struct learner *l, struct learner_device *d,
                            void *arg, struct ut_error *e)
{
    (void)l;
    (void)arg;
    return gpu_wait(d->lane->stream, e);
}

static enum ut_err wait_all(void *learner, struct ut_error *e)
{
    struct learner *l = learner;
    enum ut_err rc = UT_OK;

    for (int i = 0; i < l->devices && !rc; i++)
        rc = cuda_learner_with(l, i, wait_one, NULL, e);
    return rc;
}

const struct mdl_learner_ops cuda_learner = {
    .open = open_learner,
    .close = close_learner,
    .gather = cuda_learner_gather,
    .run = cuda_learner_run,
    .arcface = cuda_loss_arcface,
    .distill = cuda_loss_distill,
    .hint = cuda_loss_hint,
    .meet = cuda_learner_meet,
    .update = cuda_learner_update,
    .wait = wait_all,
    .get = get_one,
};
