/* What losses with weights of their own share, on a learner's first device. */
#include "model/backends/cuda/losses.h"

#include <stdlib.h>
#include <string.h>

/* ---- products ---- */

static bool is_for(const struct chosen *c, enum gpu_pass pass, int n, int k,
                   int o)
{
    const struct gpu_product *p = &c->product;

    return p->pass == pass && p->x.batch == n && p->x.c == k && p->y.c == o;
}

static enum ut_err want_choices(struct losses *s, struct ut_error *e)
{
    int room = s->room ? 2 * s->room : 16;
    struct chosen *more;

    if (s->n_chosen < s->room)
        return UT_OK;
    more = realloc(s->chosen, (size_t)room * sizeof(*more));
    if (!more)
        return ut_fail(e, UT_ENOMEM, "no memory for a loss's products");
    s->chosen = more;
    s->room = room;
    return UT_OK;
}

static struct gpu_map rows(int n, int c)
{
    return (struct gpu_map){NULL, GPU_F32, n, 1, 1, c};
}

enum ut_err cuda_loss_choose(struct learner *l, enum gpu_pass pass, int n,
                             int k, int o, struct chosen *out,
                             struct ut_error *e)
{
    struct losses *s = l->losses;
    enum ut_err rc;

    for (int i = 0; i < s->n_chosen; i++)
        if (is_for(&s->chosen[i], pass, n, k, o)) {
            *out = s->chosen[i];
            return UT_OK;
        }
    *out = (struct chosen){
        .product = {
            .pass = pass, .rows = true, .x = rows(n, k), .y = rows(n, o)}};
    rc = want_choices(s, e);
    if (!rc)
        rc = cuda_choose(l->device[0].ctx, &out->product, &out->way,
                         &out->engine, e);
    if (rc)
        return rc;
    s->news = true;
    s->chosen[s->n_chosen++] = *out;
    return UT_OK;
}

enum ut_err cuda_loss_choose_all(struct learner *l, int n, int k, int o,
                                 struct chosen of[PRODUCTS], struct ut_error *e)
{
    enum ut_err rc = cuda_loss_choose(l, GPU_FORWARD, n, k, o, &of[FORWARD], e);

    if (!rc)
        rc = cuda_loss_choose(l, GPU_DX, n, k, o, &of[DX], e);
    return rc ? rc : cuda_loss_choose(l, GPU_DW, n, k, o, &of[DW], e);
}

size_t cuda_loss_room(const struct chosen *of, int n)
{
    size_t most = 0;

    for (int i = 0; i < n; i++) {
        const struct chosen *c = &of[i];
        size_t room = c->engine ? cuda_room(&c->product, c->engine)
                                : cuda_own_room(&c->product);

        most = room > most ? room : most;
    }
    return most;
}

enum ut_err cuda_loss_multiply(struct learner *l, const struct chosen *c,
                               const float *x, const float *w, float *y,
                               void *room, struct ut_error *e)
{
    struct lane *lane = l->device[0].lane;
    struct gpu_operands a = {.x = x, .w = w, .y = y, .room = room};

    return cuda_compute(lane->stream, lane->handles, &c->product, c->way,
                        c->engine, &a, e);
}

/* ---- memory ---- */

enum ut_err cuda_loss_memory(struct losses *s, const char *what, int n,
                             size_t work, size_t host, struct ut_error *e)
{
    struct ut_error why = {0};
    enum ut_err rc = cuda_grow(&s->work, &s->work_size, work, false, &why);

    if (!rc)
        rc = cuda_grow(&s->host, &s->host_size, host, true, &why);
    return rc ? ut_fail(e, rc, "%s of %d faces needs %zu MiB: %.180s", what, n,
                        work >> 20, why.msg)
              : UT_OK;
}

enum ut_err cuda_loss_send(struct learner *l, size_t at, const void *from,
                           size_t len, struct ut_error *e)
{
    struct losses *s = l->losses;

    memcpy(s->host + at, from, len);
    return gpu_copy_in(l->device[0].lane->stream, s->work + at, s->host + at,
                       len, e);
}

enum ut_err cuda_loss_end(struct learner *l, const struct loss *a, size_t at,
                          size_t len, size_t end, struct ut_error *e)
{
    struct gpu_stream *stream = l->device[0].lane->stream;
    struct losses *s = l->losses;
    enum ut_err rc =
        gpu_copy_out(stream, s->host + at, s->work + at, end - at, e);

    if (!rc)
        rc = gpu_wait(stream, e);
    if (!rc)
        memcpy(a->dx, s->host + at, len);
    return rc;
}

double cuda_loss_sum(const struct losses *s, size_t at, int n)
{
    const double *x = (const double *)(const void *)(s->host + at);
    double sum = 0;

    for (int i = 0; i < n; i++)
        sum += x[i];
    return sum;
}

/* ---- a call ---- */

static enum ut_err ready(struct learner *l, unsigned epoch, struct ut_error *e)
{
    struct learner_device *d = &l->device[0];
    enum ut_err rc;

    if (d->epoch != epoch)
        return cuda_learner_gone(d, e);
    rc = gpu_enter(d->lane->stream, e);
    if (!rc)
        rc = cuda_renew(d->ctx, d->lane, e);
    if (!rc && !l->losses) {
        l->losses = calloc(1, sizeof(*l->losses));
        if (!l->losses)
            rc = ut_fail(e, UT_ENOMEM, "no memory for losses");
    }
    return rc;
}

enum ut_err cuda_loss_with(struct learner *l, loss_work *do_it,
                           const struct loss *a, struct ut_error *e)
{
    struct learner_device *d = &l->device[0];
    unsigned epoch = cuda_enter(d->ctx);
    enum ut_err rc = ready(l, epoch, e);
    struct ut_error ignored;

    if (!rc) {
        rc = do_it(l, a, e);
        if (rc)
            gpu_wait(d->lane->stream, &ignored); /* for what was queued */
    }
    cuda_leave();
    if (l->losses && l->losses->news) {
        l->losses->news = false;
        cuda_remember(d->ctx);
    }
    cuda_mend(d->ctx, epoch, rc);
    return rc;
}

void cuda_losses_free(struct learner *l, bool lost)
{
    struct losses *s = l->losses;

    if (!s)
        return;
    if (!lost) {
        gpu_free(s->work);
        gpu_unpin(s->host);
    }
    free(s->chosen);
    free(s);
    l->losses = NULL;
}
