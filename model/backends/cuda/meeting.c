/* How long devices may take to meet. */
#include "model/backends/cuda/meeting.h"

#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "model/learner.h"

#define LOOK_NS 20000 /* how often one looks whether a meeting is over */

static enum ut_err late(const int *devices, const bool *busy, int n,
                        int64_t limit_ms, struct ut_error *e)
{
    char names[128] = "";
    size_t len = 0;

    for (int i = 0; i < n; i++)
        if (busy[i] && len < sizeof(names))
            len += (size_t)snprintf(names + len, sizeof(names) - len, "%s%d",
                                    len ? ", " : "", devices[i]);
    return ut_fail(e, UT_EDEVICE,
                   "CUDA: GPU %s: the sums over the GPUs have not ended after "
                   "%g s (NCCL_DEBUG=INFO tells how the GPUs reach each other)",
                   names, (double)limit_ms / 1e3);
}

enum ut_err gpu_watch(const int *devices, int n, gpu_look *look, void *arg,
                      int64_t limit_ms, struct ut_error *e)
{
    const struct timespec nap = {.tv_nsec = LOOK_NS};
    int64_t until = ut_clock_us() + limit_ms * 1000;

    for (;;) {
        bool busy[MDL_LEARNER_DEVICES] = {0}, any = false;
        bool over = ut_clock_us() >= until; /* before the last look */

        for (int i = 0; i < n; i++) {
            enum ut_err rc = look(arg, i, &busy[i], e);

            if (rc)
                return rc;
            any |= busy[i];
        }
        if (!any)
            return UT_OK;
        if (over)
            return late(devices, busy, n, limit_ms, e);
        nanosleep(&nap, NULL);
    }
}
