/* What a device did, for /metrics. */
#include <stdio.h>

#include "model/backends/cuda/plan.h"

void cuda_busy(struct ctx *c, int change)
{
    int64_t now = gpu_clock_us();

    pthread_mutex_lock(&c->busy);
    if (change > 0 && !c->running)
        c->since_us = now;
    c->running += change;
    if (!c->running)
        c->busy_us += (uint64_t)(now - c->since_us);
    pthread_mutex_unlock(&c->busy);
}

void cuda_ran(struct ctx *c, int64_t run_us, int64_t kernel_us)
{
    pthread_mutex_lock(&c->busy);
    c->batches++;
    c->failed = 0;
    c->run_us += (uint64_t)run_us;
    c->kernel_us += (uint64_t)kernel_us;
    pthread_mutex_unlock(&c->busy);
}

void cuda_failed(struct ctx *c, uint64_t batches, const char *why)
{
    pthread_mutex_lock(&c->busy);
    c->failed += batches;
    snprintf(c->why, sizeof(c->why), "%s", why);
    pthread_mutex_unlock(&c->busy);
}

void cuda_read(struct ctx *c, struct mdl_device_stats *out)
{
    pthread_mutex_lock(&c->busy);
    *out = (struct mdl_device_stats){.batches = c->batches,
                                     .run_us = c->run_us,
                                     .kernel_us = c->kernel_us,
                                     .busy_us = c->busy_us,
                                     .memory_used = c->memory_used,
                                     .memory_total = c->memory_total,
                                     .failed = c->failed};
    if (c->failed)
        snprintf(out->why, sizeof(out->why), "%s", c->why);
    if (c->running)
        out->busy_us += (uint64_t)(gpu_clock_us() - c->since_us);
    pthread_mutex_unlock(&c->busy);
}

void cuda_saw_memory(struct ctx *c, struct mdl_device_stats *out)
{
    pthread_mutex_lock(&c->busy);
    c->memory_used = out->memory_used;
    c->memory_total = out->memory_total;
    pthread_mutex_unlock(&c->busy);
}
