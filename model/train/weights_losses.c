/* Losses that have weights of their own, computed where those are. */
#include "model/train/loss.h"
#include "model/train/weights_parts.h"

static struct mdl_own own_of(const struct mdl_weight *w, float share)
{
    return (struct mdl_own){w->tensor, w->gathered, share};
}

/* What the loss left: in the scratch, or beside w on the device. */
static void gather(struct mdl_weights *all, struct mdl_weight *w, float share)
{
    if (all->learner.ops) {
        w->gathered = true;
        return;
    }
    for (size_t i = 0; i < w->n; i++)
        all->scratch[i] *= share;
    weights_gather(w, all->scratch);
}

enum ut_err mdl_weights_arcface(struct mdl_weights *all, struct mdl_weight *w,
                                const struct mdl_arcface *a,
                                const float *embedding, const int32_t *label,
                                int n, float share, double *loss,
                                float *dembedding, struct ut_error *e)
{
    const struct mdl_learner *l = &all->learner;
    struct mdl_own own = own_of(w, share);
    enum ut_err rc;

    if (l->ops)
        rc = l->ops->arcface(l->ctx, a, &own, embedding, label, n, loss,
                             dembedding, e);
    else
        rc = mdl_loss_arcface(a, embedding, w->x, label, n, loss, dembedding,
                              all->scratch, e);
    if (!rc)
        gather(all, w, share);
    return rc;
}

enum ut_err mdl_weights_distill(struct mdl_weights *all, struct mdl_weight *w,
                                const struct mdl_distill *d,
                                const float *embedding, const float *teacher,
                                int n, float share, double *loss,
                                float *dembedding, struct ut_error *e)
{
    const struct mdl_learner *l = &all->learner;
    struct mdl_own own = own_of(w, share);
    enum ut_err rc;

    if (l->ops)
        rc = l->ops->distill(l->ctx, d, &own, embedding, teacher, n, loss,
                             dembedding, e);
    else
        rc = mdl_loss_distill(d, embedding, w->x, teacher, n, loss, dembedding,
                              all->scratch, e);
    if (!rc)
        gather(all, w, share);
    return rc;
}

enum ut_err mdl_weights_hint(struct mdl_weights *all, struct mdl_weight *w,
                             const struct mdl_hint *h, const float *map,
                             const float *teacher, int n, float share,
                             double *loss, float *dmap, struct ut_error *e)
{
    const struct mdl_learner *l = &all->learner;
    struct mdl_own own = own_of(w, share);
    enum ut_err rc;

    if (l->ops)
        rc = l->ops->hint(l->ctx, h, &own, map, teacher, n, loss, dmap, e);
    else
        rc = mdl_loss_hint(h, map, w->x, teacher, n, loss, dmap, all->scratch,
                           e);
    if (!rc)
        gather(all, w, share);
    return rc;
}
