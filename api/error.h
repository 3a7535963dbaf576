#ifndef API_ERROR_H
#define API_ERROR_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/error.h"

/* Connect's error codes, their names and their HTTP statuses.
 * Source: https://connectrpc.com/docs/protocol#error-codes */

enum api_code {
    API_CANCELED = 1,
    API_UNKNOWN,
    API_INVALID_ARGUMENT,
    API_DEADLINE_EXCEEDED,
    API_NOT_FOUND,
    API_ALREADY_EXISTS,
    API_PERMISSION_DENIED,
    API_RESOURCE_EXHAUSTED,
    API_FAILED_PRECONDITION,
    API_ABORTED,
    API_OUT_OF_RANGE,
    API_UNIMPLEMENTED,
    API_INTERNAL,
    API_UNAVAILABLE,
    API_DATA_LOSS,
    API_UNAUTHENTICATED,
};

/* One error as a client sees it; flat, so that it can be copied. */
struct api_error {
    enum api_code code;
    int http_status;      /* 0: the code's own; 405, 413, 415, 422 where HTTP
                             is more exact */
    char message[256];    /* one line: the thing, the value, the limit */
    char field[128];      /* "" or the field that is wrong */
    char reason[64];      /* "" or a machine word ("SEVERAL_FACES") */
    char value[160];      /* "" or what was expected */
    char identity_id[32]; /* already_exists: whose face it is */
    float similarity;
    int retry_after_s; /* unavailable: > 0 sends Retry-After */
    char allow[64];    /* 405: the Allow header */
};

/* "invalid_argument"... */
const char *api_code_name(enum api_code code);

/* The code's HTTP status: 400, 404, 503... */
int api_code_http(enum api_code code);

/* Fills *err, details empty. */
void api_fail(struct api_error *err, enum api_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The wire code of an internal one: UT_EINVAL -> invalid_argument ... */
void api_fail_from(struct api_error *err, const struct ut_error *e);

/* Writes {"code","message","details"}; *json malloc'ed. */
UT_MUSTUSE enum ut_err api_error_json(const struct api_error *err, char **json,
                                      struct ut_error *e);

/* Appends its one detail as an object; whether it has one. */
UT_MUSTUSE enum ut_err api_error_detail(struct ut_buf *b,
                                        const struct api_error *err,
                                        struct ut_error *e);
bool api_error_has_detail(const struct api_error *err);

/* Reads what api_error_json wrote: *err gets its code, message and first
 * detail. False, *err untouched, if the text is no such error. */
UT_MUSTUSE bool api_error_read(const char *json, size_t len,
                               struct api_error *err);

#endif
