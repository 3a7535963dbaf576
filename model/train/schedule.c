/* Rates and settings. */
#include "model/train/schedule.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

double mdl_rate_at(double peak, long step, long steps, long warm_up)
{
    long rest = steps > warm_up ? steps - warm_up : 1;

    if (step < warm_up)
        return peak * (double)(step + 1) / (double)warm_up;
    return peak * 0.5 *
           (1 +
            cos(3.14159265358979 * (double)(step - warm_up) / (double)rest));
}

double mdl_stable_rate_at(double peak, long step, long steps, long warm_up,
                          long decay_steps)
{
    long left = steps - step;

    if (step < warm_up)
        return mdl_rate_at(peak, step, steps, warm_up);
    return left > decay_steps ? peak
                              : peak * (double)left / (double)(decay_steps + 1);
}

enum ut_err mdl_settings_agree(const char *path, const char *were,
                               const char *are, struct ut_error *e)
{
    size_t i = 0;

    if (!strcmp(were, are))
        return UT_OK;
    while (were[i] == are[i])
        i++;
    while (i && were[i - 1] != ';')
        i--;
    return ut_fail(e, UT_EINVAL,
                   "%.100s: was made with \"%.50s\", not \"%.50s\"", path,
                   were + i, are + i);
}
