/* What stands in for NCCL where the processor stands in for the GPUs: devices
 * really add up, in their order. */
#include <stdlib.h>
#include <string.h>

#include "model/backends/cuda/meeting.h"
#include "model/learner.h"

struct gpu_meeting {
    int n;
    bool open; /* devices met, and nobody waited for them or ended it: on GPUs
                  they would wait for ever */
    bool over;
    struct gpu_stream *streams[MDL_LEARNER_DEVICES];
};

/* $TSCAF_HOST_NO_NCCL: there is none. */
enum ut_err gpu_meeting_open(const int *devices,
                             struct gpu_stream *const *streams, int n,
                             struct gpu_meeting **out, struct ut_error *e)
{
    struct gpu_meeting *m;

    (void)devices;
    if (getenv("TSCAF_HOST_NO_NCCL"))
        return ut_fail(e, UT_EDEVICE, "NCCL does not load: libnccl.so.2");
    m = calloc(1, sizeof(*m));
    if (!m)
        return ut_fail(e, UT_ENOMEM, "no memory for a meeting");
    m->n = n;
    memcpy(m->streams, streams, (size_t)n * sizeof(struct gpu_stream *));
    *out = m;
    return UT_OK;
}

void gpu_meeting_close(struct gpu_meeting *m, bool lost)
{
    (void)lost;
    if (m && m->open)
        abort();
    free(m);
}

void gpu_meeting_end(struct gpu_meeting *m)
{
    m->open = false;
    m->over = true;
}

enum ut_err gpu_meet(struct gpu_meeting *m, const struct gpu_sum *sums, int n,
                     struct ut_error *e)
{
    if (m->over)
        return ut_fail(e, UT_EDEVICE, "NCCL: an error ended it");
    m->open = true;
    for (; n > 0; n--, sums++)
        for (size_t k = sums->at; k < sums->at + sums->n; k++) {
            float sum = sums->arrays[0][k];

            for (int i = 1; i < m->n; i++)
                sum += sums->arrays[i][k];
            if (sums->mean)
                sum /= (float)m->n;
            for (int i = 0; i < m->n; i++)
                sums->arrays[i][k] = sum;
        }
    return UT_OK;
}

enum ut_err gpu_meeting_wait(struct gpu_meeting *m, struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (int i = 0; i < m->n && !rc; i++)
        rc = gpu_wait(m->streams[i], e);
    m->open = false;
    m->over = rc;
    return rc;
}
