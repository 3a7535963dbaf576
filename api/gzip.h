#ifndef API_GZIP_H
#define API_GZIP_H

#include <stddef.h>

#include "api/error.h"

/* gzip (RFC 1952) in memory. Thread: any. */

/* Packs; quickly rather than tightly. *out is malloc'ed. */
UT_MUSTUSE enum ut_err api_gzip(const char *data, size_t len, char **out,
                                size_t *out_len, struct ut_error *e);

/* Unpacks one gzip stream of at most limit bytes; *out is malloc'ed, with a
 * NUL behind it. Errors: UT_EFORMAT, UT_EBUSY for more than limit
 * (resource_exhausted), UT_ENOMEM. Never holds more than twice the limit. */
UT_MUSTUSE enum ut_err api_gunzip(const char *data, size_t len, size_t limit,
                                  char **out, size_t *out_len,
                                  struct api_error *err);

#endif
