/* When to try again. */
#include "client/retry.h"

int64_t cl_retry_wait_ms(int tries, int retry_after_s, uint32_t random)
{
    int64_t most = CL_FIRST_WAIT_MS, asked = (int64_t)retry_after_s * 1000;

    while (tries-- > 0 && most < CL_MOST_WAIT_MS)
        most *= 2;
    if (most > CL_MOST_WAIT_MS)
        most = CL_MOST_WAIT_MS;
    if (asked < 0)
        asked = 0;
    if (asked > CL_MOST_WAIT_MS)
        asked = CL_MOST_WAIT_MS;
    return asked + most / 2 + random % (most / 2 + 1);
}
