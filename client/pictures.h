#ifndef CLIENT_PICTURES_H
#define CLIENT_PICTURES_H

#include <stddef.h>

#include "base/error.h"

/* Picture files as the client sends them: bytes and a media type. */

#define CL_MAX_PICTURE_BYTES (64u << 20)
#define CL_MAX_PICTURES 10000000
#define CL_MAX_FOLDER_DEPTH 16

struct cl_pictures {
    char **paths; /* owned, sorted within each argument */
    int n, cap;
};

/* Adds path: a file is taken as it is, a folder gives every .jpg, .jpeg and
 * .png below it (hidden ones left out), sorted by name. Errors: UT_ENOTFOUND,
 * UT_EIO, UT_EBUSY over a limit, UT_ENOMEM. */
UT_MUSTUSE enum ut_err cl_pictures_add(struct cl_pictures *p, const char *path,
                                       struct ut_error *e);
void cl_pictures_fini(struct cl_pictures *p);

/* Reads a file; *type is a static string by its first bytes. Errors:
 * UT_ENOTFOUND, UT_EIO, UT_EFORMAT if it is neither JPEG nor PNG, UT_EBUSY if
 * it is too large, UT_ENOMEM. */
UT_MUSTUSE enum ut_err cl_picture_read(const char *path, char **bytes,
                                       size_t *len, const char **type,
                                       struct ut_error *e);

#endif
