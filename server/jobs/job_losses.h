#ifndef SERVER_JOB_LOSSES_H
#define SERVER_JOB_LOSSES_H

#include <stdbool.h>
#include <stdint.h>

#include "api/tscaf.pb-c.h"
#include "base/error.h"

/* How a job's losses went, for a curve: few enough points to be kept, evenly
 * spread however long it trains. When they are as many as there may be, every
 * second one goes and the others come half as often. The job's process keeps
 * them in its folder, so that they outlive it and the server. Thread: one. */

#define SRV_JOB_LOSSES_MAX 512 /* points; even */
#define SRV_JOB_LOSSES_FILE "losses.json"

struct srv_job_losses {
    Tscaf__V1__JobLoss points[SRV_JOB_LOSSES_MAX + 1]; /* and the last */
    size_t n;
    uint32_t stride; /* updates from one to the next */
    bool changed;    /* since it was last told as a message */
};

/* Those of a file, or none where that is not what it should be. */
void srv_job_losses_init(struct srv_job_losses *l,
                         const Tscaf__V1__JobLosses *from);

/* The losses after update step, from 1 on, of steps; it is kept if its turn has
 * come. A step that was there already is where a resumed job went on from: what
 * came after is gone. */
void srv_job_losses_add(struct srv_job_losses *l, uint32_t step, uint32_t steps,
                        float fatigue, float recognition);

/* As a message that points into l; list [SRV_JOB_LOSSES_MAX + 1]. */
void srv_job_losses_tell(struct srv_job_losses *l, Tscaf__V1__JobLoss **list,
                         Tscaf__V1__JobLosses *out);

#endif
