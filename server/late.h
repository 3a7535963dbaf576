#ifndef SERVER_LATE_H
#define SERVER_LATE_H

#include <stdbool.h>
#include <stdint.h>

#include "api/error.h"

/* Work that waited in a queue for longer than somebody waits for it. */

struct srv_metrics;

/* Whether it comes too late: the client left, or its deadline passed. Then err
 * says so, and it is counted. Thread: any. */
bool srv_is_late(struct srv_metrics *m, int64_t deadline_us,
                 const bool *cancelled, struct api_error *err);
/* Only what is said of it. Thread: any. */
void srv_say_late(struct api_error *err, bool left);

#endif
