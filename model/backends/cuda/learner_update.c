/* An update: what several devices have becomes one, its norm is measured, and
 * the optimiser moves the weights. */
#include <math.h>
#include <string.h>

#include "model/backends/cuda/learner.h"

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
    gpu_l_zero(learner_stream(d), d->gradient + l->at[tensor],
               l->tensors[tensor].n);
    return gpu_launched("a gradient of zero", e);
}

/* With what lies before it, if that is the end of it. */
static void add_sum(struct learner *l, int tensor, bool mean, int *n)
{
    struct gpu_sum *s = &l->sums[*n - (*n > 0)];
    size_t size = learner_aligned(l->tensors[tensor].n);

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

/* ---- the norm ---- */

struct meeting {
    const bool *gathered;
    double *squares;
};

static void send_squares(struct learner_device *d, struct gpu_squares *l)
{
    if (l->n)
        gpu_l_square(learner_stream(d), l);
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

    for (int i = 0; i < l->n; part += learner_chunks(l, i++)) {
        if (!a->gathered[i])
            continue;
        if (out.n == GPU_LIST)
            send_squares(d, &out);
        out.of[out.n++] = (struct gpu_square){.at = l->at[i],
                                              .n = (uint32_t)l->tensors[i].n,
                                              .chunk = out.chunks,
                                              .part = part,
                                              .to = i};
        out.chunks += learner_chunks(l, i);
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
    if (!rc)
        rc = square(l, first, arg, e);
    if (rc && l->meeting) /* else devices that have met wait for ever */
        gpu_meeting_end(l->meeting);
    return rc;
}

enum ut_err cuda_learner_meet(void *learner, const bool *gathered,
                              double *squares, struct ut_error *e)
{
    struct meeting a = {gathered, squares};
    struct learner *l = learner;
    enum ut_err rc = cuda_learner_with(l, 0, meet_all, &a, e);

    for (int i = 1; i < l->devices; i++)
        cuda_mend(l->device[i].ctx, l->device[i].epoch, rc);
    return rc;
}

/* ---- the optimiser ---- */

struct update {
    const struct mdl_optimizer *o;
    const struct mdl_move *moves;
    float factor;
};

static void send_moves(struct learner_device *d, enum mdl_optimizer_kind kind,
                       struct gpu_moves *l)
{
    if (l->n && kind == MDL_SGD)
        gpu_l_sgd(learner_stream(d), l);
    else if (l->n)
        gpu_l_adam(learner_stream(d), l);
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

static enum ut_err want_second(struct learner *l, struct learner_device *d,
                               void *arg, struct ut_error *e)
{
    const struct update *a = arg;

    return a->o->kind == MDL_SGD || d->second
               ? UT_OK
               : cuda_learner_array(l, d, &d->second, e);
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
                            .second = d->second,
                            .gradient = d->gradient};

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

enum ut_err cuda_learner_update(void *learner, const struct mdl_optimizer *o,
                                const struct mdl_move *moves, float factor,
                                struct ut_error *e)
{
    struct learner *l = learner;
    struct update a = {o, moves, factor};
    enum ut_err rc = UT_OK;

    for (int i = 0; i < l->devices && !rc; i++) /* before anything moves */
        rc = cuda_learner_with(l, i, want_second, &a, e);
    for (int i = 0; i < l->devices && !rc; i++)
        rc = cuda_learner_with(l, i, update, &a, e);
    return rc;
}
