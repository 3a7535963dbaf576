/* ArcFace: three products, and each row of cosines to its gradients between
 * them. */
#include <math.h>

#include "model/backends/cuda/loss_kernels.h"
#include "model/backends/cuda/losses.h"

/* Places. The gradient by unit sub-centres takes the sub-centres' own. */
struct arcface {
    size_t label, x, dx, loss, end; /* on both sides */
    size_t unit, norm, centre, centre_norm, cosine, room, engine;
};

static enum ut_err arcface_memory(struct learner *l, const struct loss *a,
                                  const struct gpu_arcface *k,
                                  const struct chosen of[PRODUCTS],
                                  struct arcface *w, struct ut_error *e)
{
    size_t n = (size_t)a->n, dim = (size_t)a->arcface->dim, size = 0;
    size_t rows = (size_t)k->classes * (size_t)k->k;

    w->label = loss_take(&size, n * sizeof(int32_t));
    w->x = loss_take(&size, n * dim * sizeof(float));
    w->dx = loss_take(&size, n * dim * sizeof(float));
    w->loss = loss_take(&size, n * sizeof(double));
    w->end = size;
    w->unit = loss_take(&size, n * dim * sizeof(float));
    w->norm = loss_take(&size, n * sizeof(float));
    w->centre = loss_take(&size, rows * dim * sizeof(float));
    w->centre_norm = loss_take(&size, rows * sizeof(float));
    w->cosine = loss_take(&size, n * rows * sizeof(float));
    w->room = loss_take(&size, gpu_loss_arcface_room(k, a->n));
    w->engine = loss_take(&size, cuda_loss_room(of, PRODUCTS));
    return cuda_loss_memory(l->losses, "ArcFace", a->n, size, w->end, e);
}

/* Cosines, and their gradients in their place. */
static enum ut_err arcface_forward(struct learner *l, const struct loss *a,
                                   const struct gpu_arcface *k, int labelled,
                                   const struct chosen of[PRODUCTS],
                                   const struct arcface *w, struct ut_error *e)
{
    const struct losses *s = l->losses;
    void *stream = loss_stream(l);
    size_t n = (size_t)a->n;
    int dim = a->arcface->dim;
    enum ut_err rc =
        cuda_loss_send(l, w->label, a->label, n * sizeof(*a->label), e);

    if (!rc)
        rc = cuda_loss_send(l, w->x, a->x, n * (size_t)dim * sizeof(float), e);
    if (rc)
        return rc;
    gpu_loss_unit(stream, loss_floats(s, w->x), a->n, dim,
                  loss_floats(s, w->unit), loss_floats(s, w->norm));
    gpu_loss_unit(stream, loss_weight(l, a->own), k->classes * k->k, dim,
                  loss_floats(s, w->centre), loss_floats(s, w->centre_norm));
    rc = gpu_launched("ArcFace's lengths", e);
    if (!rc)
        rc = cuda_loss_multiply(
            l, &of[FORWARD], loss_floats(s, w->unit), loss_floats(s, w->centre),
            loss_floats(s, w->cosine), s->work + w->engine, e);
    if (rc)
        return rc;
    gpu_loss_arcface(stream, k, (const int32_t *)(void *)(s->work + w->label),
                     a->n, labelled, loss_floats(s, w->cosine),
                     loss_doubles(s, w->loss), s->work + w->room);
    return gpu_launched("ArcFace", e);
}

static enum ut_err arcface_backward(struct learner *l, const struct loss *a,
                                    const struct gpu_arcface *k,
                                    const struct chosen of[PRODUCTS],
                                    const struct arcface *w, struct ut_error *e)
{
    const struct losses *s = l->losses;
    void *stream = loss_stream(l);
    float *dx = loss_floats(s, w->dx), *centre = loss_floats(s, w->centre);
    int dim = a->arcface->dim;
    enum ut_err rc = cuda_loss_multiply(l, &of[DX], loss_floats(s, w->cosine),
                                        centre, dx, s->work + w->engine, e);

    if (!rc)
        rc = cuda_loss_multiply(l, &of[DW], loss_floats(s, w->unit),
                                loss_floats(s, w->cosine), centre,
                                s->work + w->engine, e);
    if (rc)
        return rc;
    gpu_loss_through_unit(stream, loss_floats(s, w->x), loss_floats(s, w->norm),
                          dx, a->n, dim, 1, false, dx);
    gpu_loss_through_unit(stream, loss_weight(l, a->own),
                          loss_floats(s, w->centre_norm), centre,
                          k->classes * k->k, dim, a->own->share, a->own->more,
                          loss_gradient(l, a->own));
    return gpu_launched("ArcFace's gradients", e);
}

static enum ut_err arcface(struct learner *l, const struct loss *a,
                           struct ut_error *e)
{
    const struct mdl_arcface *of = a->arcface;
    const double pi = 3.14159265358979323846, margin = of->margin;
    struct gpu_arcface k = {.classes = of->classes,
                            .k = of->k,
                            .scale = of->scale,
                            .cosine = cos(margin),
                            .sine = sin(margin),
                            .past = cos(pi - margin),
                            .less = margin * sin(margin)};
    size_t len = (size_t)a->n * (size_t)of->dim * sizeof(float);
    struct chosen products[PRODUCTS];
    struct arcface w = {0};
    int labelled = 0;
    enum ut_err rc = cuda_loss_choose_all(l, a->n, of->dim, of->classes * of->k,
                                          products, e);

    for (int i = 0; i < a->n; i++)
        labelled += a->label[i] >= 0;
    if (!rc)
        rc = arcface_memory(l, a, &k, products, &w, e);
    if (!rc)
        rc = arcface_forward(l, a, &k, labelled, products, &w, e);
    if (!rc)
        rc = arcface_backward(l, a, &k, products, &w, e);
    if (!rc)
        rc = cuda_loss_end(l, a, w.dx, len, w.end, e);
    if (!rc && labelled)
        *a->loss = cuda_loss_sum(l->losses, w.loss, a->n) / labelled;
    return rc;
}

enum ut_err cuda_loss_arcface(void *learner, const struct mdl_arcface *a,
                              const struct mdl_own *own, const float *embedding,
                              const int32_t *label, int n, double *loss,
                              float *dembedding, struct ut_error *e)
{
    struct loss what = {.own = own,
                        .x = embedding,
                        .label = label,
                        .n = n,
                        .loss = loss,
                        .dx = dembedding,
                        .arcface = a};

    *loss = 0;
    for (int i = 0; i < n; i++)
        if (label[i] >= a->classes)
            return ut_fail(e, UT_EINVAL, "label %d is past %d classes",
                           label[i], a->classes);
    return cuda_loss_with(learner, arcface, &what, e);
}
