#ifndef CLIENT_TOOL_JOURNAL_H
#define CLIENT_TOOL_JOURNAL_H

#include <stdio.h>

#include "base/error.h"

/* What tscaf enroll enrolled, in a file that outlives it: a line for each
 * picture, face_id<TAB>identity_id<TAB>path. A path with a newline cannot be in
 * it. */

/* This picture is that face. */
struct journal_entry {
    char face[64], identity[64];
    char *path;
    int line;
};

struct journal {
    const char *name; /* of the file; borrowed */
    FILE *file;
    struct journal_entry *entries; /* owned; sorted by path */
    int n;                         /* of them: those that were there */
};

/* Opens the file, or makes it, and reads it; a line that a crash cut short
 * counts for nothing. Errors: UT_EIO naming it; then too it is to be closed. */
UT_MUSTUSE enum ut_err journal_open(struct journal *j, const char *name,
                                    struct ut_error *e);
/* The last line of a picture, if there was one when it was opened. */
const struct journal_entry *journal_find(const struct journal *j,
                                         const char *path);
/* Writes a line, on its way to the file when this returns. Errors: UT_EIO. */
UT_MUSTUSE enum ut_err journal_add(struct journal *j, const char *face,
                                   const char *identity, const char *path,
                                   struct ut_error *e);
void journal_close(struct journal *j); /* zeroed memory is fine */

#endif
