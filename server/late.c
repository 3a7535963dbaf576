/* Too late to be done. */
#include "server/late.h"

#include "base/clock.h"
#include "server/metrics.h"

void srv_say_late(struct api_error *err, bool left)
{
    if (left)
        api_fail(err, API_CANCELED, "the client left");
    else
        api_fail(err, API_DEADLINE_EXCEEDED,
                 "the deadline passed while the request was queued");
}

bool srv_is_late(struct srv_metrics *m, int64_t deadline_us,
                 const bool *cancelled, struct api_error *err)
{
    bool left = __atomic_load_n(cancelled, __ATOMIC_RELAXED);

    if (!left && ut_clock_us() < deadline_us)
        return false;
    srv_metrics_count(m, left ? SRV_REJECT_CANCELLED : SRV_REJECT_EXPIRED);
    srv_say_late(err, left);
    return true;
}
