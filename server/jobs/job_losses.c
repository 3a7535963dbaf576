/* A thinned history. */
#include "server/jobs/job_losses.h"

static void forget_from(struct srv_job_losses *l, uint32_t step)
{
    while (l->n && l->points[l->n - 1].step >= step)
        l->n--;
}

/* Every second one: those whose turn comes also with twice the stride. */
static void thin(struct srv_job_losses *l)
{
    size_t n = 0;

    l->stride *= 2;
    for (size_t i = 0; i < l->n; i++)
        if ((l->points[i].step - 1) % l->stride == 0)
            l->points[n++] = l->points[i];
    l->n = n;
}

static void put(struct srv_job_losses *l, uint32_t step, float fatigue,
                float recognition)
{
    Tscaf__V1__JobLoss *p;

    if (l->n > SRV_JOB_LOSSES_MAX) /* a file's, which were not as ours are */
        l->n = SRV_JOB_LOSSES_MAX;
    p = &l->points[l->n++];
    tscaf__v1__job_loss__init(p);
    p->step = step;
    p->fatigue_loss = fatigue;
    p->recognition_loss = recognition;
    l->changed = true;
}

void srv_job_losses_add(struct srv_job_losses *l, uint32_t step, uint32_t steps,
                        float fatigue, float recognition)
{
    bool turn;

    forget_from(l, step);
    turn = (step - 1) % l->stride == 0;
    if (turn && l->n >= SRV_JOB_LOSSES_MAX) {
        thin(l);
        turn = (step - 1) % l->stride == 0;
    }
    if (turn || step == steps)
        put(l, step, fatigue, recognition);
}

void srv_job_losses_init(struct srv_job_losses *l,
                         const Tscaf__V1__JobLosses *from)
{
    size_t n = from ? from->n_losses : 0;

    *l = (struct srv_job_losses){.stride = 1};
    if (n > 1 && from->losses[1]->step > from->losses[0]->step)
        l->stride = from->losses[1]->step - from->losses[0]->step;
    if (n > SRV_JOB_LOSSES_MAX + 1)
        n = 0;
    for (size_t i = 0; i < n; i++) {
        const Tscaf__V1__JobLoss *p = from->losses[i];

        if (!p->step || (i && p->step <= l->points[l->n - 1].step))
            break; /* not of ours */
        put(l, p->step, p->fatigue_loss, p->recognition_loss);
    }
    l->changed = false;
}

void srv_job_losses_tell(struct srv_job_losses *l, Tscaf__V1__JobLoss **list,
                         Tscaf__V1__JobLosses *out)
{
    tscaf__v1__job_losses__init(out);
    for (size_t i = 0; i < l->n; i++)
        list[i] = &l->points[i];
    out->losses = list;
    out->n_losses = l->n;
    l->changed = false;
}
