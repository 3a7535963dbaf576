/* Distillation: the projection's products, and those of all pairs. */
#include "model/backends/cuda/loss_kernels.h"
#include "model/backends/cuda/losses.h"

enum { HERE, THERE, DUNIT, SIMILARITIES };

struct distill {
    size_t x, teacher, dx, cosine_loss, similarity_loss,
        end; /* on both sides */
    size_t said, dw, unit, norm, here, there, dunit, engine;
    struct chosen by[PRODUCTS], pairs[SIMILARITIES];
};

static enum ut_err distill_memory(struct learner *l, const struct loss *a,
                                  struct distill *w, struct ut_error *e)
{
    size_t n = (size_t)a->n, dim = (size_t)a->distill->dim;
    size_t of = (size_t)a->distill->teacher_dim, size = 0;
    size_t room = cuda_loss_room(w->by, PRODUCTS);
    size_t other = cuda_loss_room(w->pairs, SIMILARITIES);

    w->x = loss_take(&size, n * dim * sizeof(float));
    w->teacher = loss_take(&size, n * of * sizeof(float));
    w->dx = loss_take(&size, n * dim * sizeof(float));
    w->cosine_loss = loss_take(&size, n * sizeof(double));
    w->similarity_loss = loss_take(&size, n * sizeof(double));
    w->end = size;
    w->said = loss_take(&size, n * of * sizeof(float));
    w->dw = loss_take(&size, of * dim * sizeof(float));
    w->unit = loss_take(&size, n * dim * sizeof(float));
    w->norm = loss_take(&size, n * sizeof(float));
    w->here = loss_take(&size, n * n * sizeof(float));
    w->there = loss_take(&size, n * n * sizeof(float));
    w->dunit = loss_take(&size, n * dim * sizeof(float));
    w->engine = loss_take(&size, room > other ? room : other);
    return cuda_loss_memory(l->losses, "distillation", a->n, size, w->end, e);
}

static enum ut_err distill_choose(struct learner *l, const struct loss *a,
                                  struct distill *w, struct ut_error *e)
{
    int n = a->n, dim = a->distill->dim, of = a->distill->teacher_dim;
    enum ut_err rc = cuda_loss_choose_all(l, n, dim, of, w->by, e);

    if (!rc)
        rc = cuda_loss_choose(l, GPU_FORWARD, n, dim, n, &w->pairs[HERE], e);
    if (!rc)
        rc = cuda_loss_choose(l, GPU_FORWARD, n, of, n, &w->pairs[THERE], e);
    return rc ? rc
              : cuda_loss_choose(l, GPU_DX, n, dim, n, &w->pairs[DUNIT], e);
}

/* Sets dx. */
static enum ut_err cosine_part(struct learner *l, const struct loss *a,
                               const struct distill *w, struct ut_error *e)
{
    const struct losses *s = l->losses;
    void *stream = loss_stream(l), *engine = s->work + w->engine;
    const float *x = loss_floats(s, w->x), *weight = loss_weight(l, a->own);
    float *said = loss_floats(s, w->said), *dw = loss_floats(s, w->dw);
    int dim = a->distill->dim, of = a->distill->teacher_dim;
    enum ut_err rc =
        cuda_loss_multiply(l, &w->by[FORWARD], x, weight, said, engine, e);

    if (rc)
        return rc;
    gpu_loss_cosine(stream, loss_floats(s, w->teacher), a->n, of,
                    a->distill->cosine, said, loss_doubles(s, w->cosine_loss));
    rc = gpu_launched("distillation", e);
    if (!rc)
        rc = cuda_loss_multiply(l, &w->by[DX], said, weight,
                                loss_floats(s, w->dx), engine, e);
    if (!rc)
        rc = cuda_loss_multiply(l, &w->by[DW], x, said, dw, engine, e);
    if (rc)
        return rc;
    gpu_loss_share(stream, dw, (long long)of * dim, a->own->share, a->own->more,
                   loss_gradient(l, a->own));
    return gpu_launched("distillation", e);
}

/* Adds to dx. */
static enum ut_err similarity_part(struct learner *l, const struct loss *a,
                                   const struct distill *w, struct ut_error *e)
{
    const struct losses *s = l->losses;
    void *stream = loss_stream(l);
    float *unit = loss_floats(s, w->unit), *dunit = loss_floats(s, w->dunit);
    float *here = loss_floats(s, w->here), *there = loss_floats(s, w->there);
    const float *teacher = loss_floats(s, w->teacher);
    void *engine = s->work + w->engine;
    enum ut_err rc;

    gpu_loss_unit(stream, loss_floats(s, w->x), a->n, a->distill->dim, unit,
                  loss_floats(s, w->norm));
    rc = gpu_launched("similarities", e);
    if (!rc)
        rc =
            cuda_loss_multiply(l, &w->pairs[HERE], unit, unit, here, engine, e);
    if (!rc)
        rc = cuda_loss_multiply(l, &w->pairs[THERE], teacher, teacher, there,
                                engine, e);
    if (rc)
        return rc;
    gpu_loss_similarity(stream, there, a->n, a->distill->similarity, here,
                        loss_doubles(s, w->similarity_loss));
    rc = gpu_launched("similarities", e);
    if (!rc)
        rc = cuda_loss_multiply(l, &w->pairs[DUNIT], here, unit, dunit, engine,
                                e);
    if (rc)
        return rc;
    gpu_loss_through_unit(stream, loss_floats(s, w->x), loss_floats(s, w->norm),
                          dunit, a->n, a->distill->dim, 1, true,
                          loss_floats(s, w->dx));
    return gpu_launched("similarities", e);
}

static enum ut_err distill(struct learner *l, const struct loss *a,
                           struct ut_error *e)
{
    const struct mdl_distill *d = a->distill;
    size_t n = (size_t)a->n, len = n * (size_t)d->dim * sizeof(float);
    struct distill w = {0};
    enum ut_err rc = distill_choose(l, a, &w, e);

    if (!rc)
        rc = distill_memory(l, a, &w, e);
    if (!rc)
        rc = cuda_loss_send(l, w.x, a->x, len, e);
    if (!rc)
        rc = cuda_loss_send(l, w.teacher, a->teacher,
                            n * (size_t)d->teacher_dim * sizeof(float), e);
    if (!rc)
        rc = cosine_part(l, a, &w, e);
    if (!rc)
        rc = similarity_part(l, a, &w, e);
    if (!rc)
        rc = cuda_loss_end(l, a, w.dx, len, w.end, e);
    if (rc)
        return rc;
    *a->loss =
        d->cosine * (cuda_loss_sum(l->losses, w.cosine_loss, a->n) / a->n) +
        d->similarity * cuda_loss_sum(l->losses, w.similarity_loss, a->n);
    return UT_OK;
}

enum ut_err cuda_loss_distill(void *learner, const struct mdl_distill *d,
                              const struct mdl_own *own, const float *embedding,
                              const float *teacher, int n, double *loss,
                              float *dembedding, struct ut_error *e)
{
    struct loss what = {.own = own,
                        .x = embedding,
                        .teacher = teacher,
                        .n = n,
                        .loss = loss,
                        .dx = dembedding,
                        .distill = d};

    *loss = 0;
    return cuda_loss_with(learner, distill, &what, e);
}
