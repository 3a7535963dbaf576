/* What a training's progress says of its data. */
#include <stdio.h>

#include "model/train/session.h"

#define MUCH_SHORTER 10 /* times that one is gone through more often */

/* The first batch is always waited for. */
static bool ran_dry(const struct mdl_progress *p, int task, char *text,
                    size_t size)
{
    long long dry = p->queue[task].dry;

    snprintf(text, size,
             "training waited %lld times for pictures of %s: reading them is "
             "slower than training",
             dry, mdl_task_names[task]);
    return dry > 1 + p->step / 10;
}

static bool much_shorter(const struct mdl_progress *p, int task, char *text,
                         size_t size)
{
    long long times = p->epochs[task], other = p->epochs[!task] + 1;

    snprintf(text, size,
             "the %s data were gone through %lld times, the other %lld: it is "
             "much shorter",
             mdl_task_names[task], times, other);
    return p->trained[task] && p->trained[!task] &&
           times > MUCH_SHORTER * other;
}

static bool broken(const struct mdl_progress *p, int task, char *text,
                   size_t size)
{
    const struct mdl_queue_state *q = &p->queue[task];

    snprintf(text, size, "%lld pictures of %s could not be read, the last: %s",
             (long long)q->broken, mdl_task_names[task], q->last);
    return q->broken;
}

int mdl_progress_warnings(const struct mdl_progress *p,
                          char text[MDL_WARNINGS][MDL_WARNING_LEN])
{
    int n = 0;

    for (int i = 0; i < MDL_TASKS; i++) {
        n += ran_dry(p, i, text[n], MDL_WARNING_LEN);
        n += much_shorter(p, i, text[n], MDL_WARNING_LEN);
        n += broken(p, i, text[n], MDL_WARNING_LEN);
    }
    return n;
}
