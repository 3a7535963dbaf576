/* The hint: three products over rows of places. */
#include "model/backends/cuda/loss_kernels.h"
#include "model/backends/cuda/losses.h"
#include "model/backends/cuda/train_kernels.h"

/* A map as it comes, and its gradient as it goes; in rows between the two. */
struct hint {
    size_t map, teacher, dmap, loss, end; /* on both sides */
    size_t x, wanted, said, dx, dw, room, engine;
    struct chosen by[PRODUCTS];
    int rows, parts;
};

static enum ut_err hint_memory(struct learner *l, const struct loss *a,
                               struct hint *w, struct ut_error *e)
{
    const struct mdl_hint *k = a->hint;
    size_t m = (size_t)w->rows, c = (size_t)k->channels;
    size_t t = (size_t)k->teacher_channels, size = 0;
    size_t here = gpu_loss_standard_room(w->rows, k->channels);
    size_t there = gpu_loss_standard_room(w->rows, k->teacher_channels);

    w->map = loss_take(&size, m * c * sizeof(float));
    w->teacher = loss_take(&size, m * t * sizeof(float));
    w->dmap = loss_take(&size, m * c * sizeof(float));
    w->loss = loss_take(&size, (size_t)w->parts * sizeof(double));
    w->end = size;
    w->x = loss_take(&size, m * c * sizeof(float));
    w->wanted = loss_take(&size, m * t * sizeof(float));
    w->said = loss_take(&size, m * t * sizeof(float));
    w->dx = loss_take(&size, m * c * sizeof(float));
    w->dw = loss_take(&size, t * c * sizeof(float));
    w->room = loss_take(&size, here > there ? here : there);
    w->engine = loss_take(&size, cuda_loss_room(w->by, PRODUCTS));
    return cuda_loss_memory(l->losses, "a hint", a->n, size, w->end, e);
}

static struct gpu_map rows_of(const struct loss *a, float *rows, int channels)
{
    return (struct gpu_map){rows, GPU_F32, a->n, a->hint->places, 1, channels};
}

/* Both maps in rows, standardised. */
static enum ut_err hint_maps(struct learner *l, const struct loss *a,
                             const struct hint *w, struct ut_error *e)
{
    const struct losses *s = l->losses;
    void *stream = loss_stream(l);
    int c = a->hint->channels, t = a->hint->teacher_channels;
    struct gpu_map x = rows_of(a, loss_floats(s, w->x), c);
    struct gpu_map wanted = rows_of(a, loss_floats(s, w->wanted), t);
    enum ut_err rc =
        cuda_loss_send(l, w->map, a->x, gpu_items(&x) * sizeof(float), e);

    if (!rc)
        rc = cuda_loss_send(l, w->teacher, a->teacher,
                            gpu_items(&wanted) * sizeof(float), e);
    if (rc)
        return rc;
    gpu_t_input(stream, loss_floats(s, w->map), &x);
    gpu_t_input(stream, loss_floats(s, w->teacher), &wanted);
    gpu_loss_standard(stream, w->rows, c, false, x.data, s->work + w->room);
    gpu_loss_standard(stream, w->rows, t, true, wanted.data, s->work + w->room);
    return gpu_launched("a hint's maps", e);
}

static enum ut_err hint_products(struct learner *l, const struct loss *a,
                                 const struct hint *w, struct ut_error *e)
{
    const struct losses *s = l->losses;
    void *stream = loss_stream(l);
    const float *weight = loss_weight(l, a->own), *x = loss_floats(s, w->x);
    float *said = loss_floats(s, w->said), *dx = loss_floats(s, w->dx);
    int c = a->hint->channels, t = a->hint->teacher_channels;
    struct gpu_map rows = rows_of(a, dx, c);
    void *engine = s->work + w->engine;
    long long n = (long long)w->rows * t;
    enum ut_err rc =
        cuda_loss_multiply(l, &w->by[FORWARD], x, weight, said, engine, e);

    if (rc)
        return rc;
    gpu_loss_off(stream, loss_floats(s, w->wanted), n,
                 1 / (double)n * a->hint->weight, said,
                 loss_doubles(s, w->loss));
    rc = gpu_launched("a hint", e);
    if (!rc)
        rc = cuda_loss_multiply(l, &w->by[DX], said, weight, dx, engine, e);
    if (!rc)
        rc = cuda_loss_multiply(l, &w->by[DW], x, said, loss_floats(s, w->dw),
                                engine, e);
    if (rc)
        return rc;
    /* dx has mean 0, as said and wanted have: x's takes nothing from it */
    gpu_k_output(stream, &rows, loss_floats(s, w->dmap));
    gpu_loss_share(stream, loss_floats(s, w->dw), (long long)t * c,
                   a->own->share, a->own->more, loss_gradient(l, a->own));
    return gpu_launched("a hint's gradients", e);
}

static enum ut_err hint(struct learner *l, const struct loss *a,
                        struct ut_error *e)
{
    const struct mdl_hint *k = a->hint;
    struct hint w = {.rows = a->n * k->places};
    double n = (double)w.rows * k->teacher_channels;
    size_t len = (size_t)w.rows * (size_t)k->channels * sizeof(float);
    enum ut_err rc = cuda_loss_choose_all(l, w.rows, k->channels,
                                          k->teacher_channels, w.by, e);

    w.parts = gpu_loss_off_parts((long long)w.rows * k->teacher_channels);
    if (!rc)
        rc = hint_memory(l, a, &w, e);
    if (!rc)
        rc = hint_maps(l, a, &w, e);
    if (!rc)
        rc = hint_products(l, a, &w, e);
    if (!rc)
        rc = cuda_loss_end(l, a, w.dmap, len, w.end, e);
    if (!rc)
        *a->loss = k->weight * cuda_loss_sum(l->losses, w.loss, w.parts) / n;
    return rc;
}

enum ut_err cuda_loss_hint(void *learner, const struct mdl_hint *k,
                           const struct mdl_own *own, const float *map,
                           const float *teacher, int n, double *loss,
                           float *dmap, struct ut_error *e)
{
    struct loss what = {.own = own,
                        .x = map,
                        .teacher = teacher,
                        .n = n,
                        .loss = loss,
                        .dx = dmap,
                        .hint = k};

    *loss = 0;
    return cuda_loss_with(learner, hint, &what, e);
}
