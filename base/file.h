#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stddef.h>

#include "base/error.h"

/* Makes or replaces a file, whole: written beside it as PATH.new, synced, then
 * renamed. Errors: UT_EIO naming the path; then what was there stays. */
UT_MUSTUSE enum ut_err ut_file_write(const char *path, const void *data,
                                     size_t len, struct ut_error *e);

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
