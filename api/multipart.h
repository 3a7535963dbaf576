#ifndef API_MULTIPART_H
#define API_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

#include "api/error.h"

/* multipart/form-data over a whole body, without copying (RFC 7578). */

#define API_MULTIPART_MAX_PARTS 64

struct api_part {
    const char *name; /* view, not NUL-ended */
    size_t name_len;
    const char *filename; /* view or NULL */
    size_t filename_len;
    const char *type; /* view or NULL: Content-Type */
    size_t type_len;
    const char *data; /* view */
    size_t data_len;
};

/* content_type: the header's value, boundary included. Views end with body.
 * parts [API_MULTIPART_MAX_PARTS]. */
UT_MUSTUSE enum ut_err api_multipart_parse(const char *content_type,
                                           const char *body, size_t len,
                                           struct api_part *parts, int *n,
                                           struct api_error *err);

#endif
