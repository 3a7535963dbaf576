#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stddef.h>

#include "base/error.h"

struct ut_file_part {
    const void *data;
    size_t len;
};

/* Makes or replaces a file of n parts, whole: written beside it as PATH.tmp-X,
 * synced, then renamed, and its folder synced. mode: its permissions, before
 * the umask. Errors: UT_EIO naming the path; then what was there stays, unless
 * only the folder could not be synced. */
UT_MUSTUSE enum ut_err ut_file_write_parts(const char *path, unsigned mode,
                                           const struct ut_file_part *parts,
                                           size_t n, struct ut_error *e);

/* The same of one part, for the owner alone (0600). */
UT_MUSTUSE enum ut_err ut_file_write(const char *path, const void *data,
                                     size_t len, struct ut_error *e);

/* Removes from a folder in which nobody writes what writes that were cut off
 * left: *.tmp-*. */
void ut_file_sweep(const char *folder);

/* As ut_file_write. */
UT_MUSTUSE enum ut_err ut_file_copy(const char *from, const char *to,
                                    struct ut_error *e);

/* Renames, or copies and removes where the two are on different volumes: the
 * new one is there whole or not at all. Errors: UT_EIO; then the old one
 * stays. */
UT_MUSTUSE enum ut_err ut_file_move(const char *from, const char *to,
                                    struct ut_error *e);

/* Removes a folder and all in it; what is not there is fine. */
void ut_remove_tree(const char *path);

#endif
