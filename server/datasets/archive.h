#ifndef SERVER_ARCHIVE_H
#define SERVER_ARCHIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Archives from strangers: pictures and manifests out of a tar or zip into a
 * folder. Only plain files are taken, under names that stay below the folder;
 * everything else is left out and told. Thread: any. */

#define SRV_ARCHIVE_MAX_FILES 200000
#define SRV_ARCHIVE_MAX_DEPTH 8        /* folders of a name */
#define SRV_ARCHIVE_MAX_NAME 200       /* bytes of a name */
#define SRV_ARCHIVE_MAX_RATIO 100      /* unpacked to packed, past: */
#define SRV_ARCHIVE_FREE (1024 * 1024) /* bytes without a ratio */
#define SRV_PROBLEMS_KEPT 20

/* What was left out: a count, and the last few with their reasons. */
struct srv_problems {
    uint32_t n;
    char text[SRV_PROBLEMS_KEPT][160];
};
void srv_problem(struct srv_problems *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Whether a name stays below its folder: relative, no "..", no empty or hidden
 * part, printable, within the limits above. */
bool srv_archive_name_ok(const char *name);

/* Unpacks into folder, which exists and is empty, at most max_bytes; *bytes is
 * what was written. Errors: UT_EFORMAT for what is no archive, UT_EBUSY for one
 * past a limit, UT_EIO; then the folder holds a part of it. */
UT_MUSTUSE enum ut_err srv_archive_unpack(const void *data, size_t len,
                                          const char *folder, int64_t max_bytes,
                                          int64_t *bytes,
                                          struct srv_problems *problems,
                                          struct ut_error *e);

#endif
