/* Error records: a code and one line of text. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

enum ut_err ut_fail(struct ut_error *e, enum ut_err code, const char *fmt, ...)
{
    va_list args;

    if (!e)
        return code;
    e->code = code;
    va_start(args, fmt);
    vsnprintf(e->msg, sizeof(e->msg), fmt, args);
    va_end(args);
    return code;
}

const char *ut_err_name(enum ut_err code)
{
    switch (code) {
    case UT_OK:
        return "ok";
    case UT_EINVAL:
        return "invalid argument";
    case UT_EFORMAT:
        return "format";
    case UT_ENOMEM:
        return "no memory";
    case UT_EIO:
        return "input or output";
    case UT_EBUSY:
        return "busy";
    case UT_EDEVICE:
        return "device";
    case UT_ENOTFOUND:
        return "not found";
    case UT_EEXISTS:
        return "exists already";
    case UT_ESTATE:
        return "wrong state";
    }
    return "unknown";
}
