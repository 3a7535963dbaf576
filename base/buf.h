#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>

#include "base/error.h"

/* A growing byte buffer with a limit. Zeroed memory with a limit set is a
 * valid empty buffer. Not shared between threads. */
struct ut_buf {
    char *data;   /* owned; one NUL follows the len bytes when not NULL */
    size_t len;   /* bytes in use                                       */
    size_t cap;   /* bytes allocated                                    */
    size_t limit; /* len never exceeds it                               */
};

/* Makes *b empty, to hold at most limit bytes. Allocates nothing. */
void ut_buf_init(struct ut_buf *b, size_t limit);

/* Frees what *b holds and leaves it empty. */
void ut_buf_fini(struct ut_buf *b);

/* Appends len bytes, or formatted text. Errors: UT_EBUSY past the limit,
 * UT_ENOMEM; then *b is as before. */
UT_MUSTUSE enum ut_err ut_buf_add(struct ut_buf *b, const void *data,
                                  size_t len, struct ut_error *e);
UT_MUSTUSE enum ut_err ut_buf_addf(struct ut_buf *b, struct ut_error *e,
                                   const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Appends a whole file. Errors: UT_EIO naming it; those of ut_buf_add. */
UT_MUSTUSE enum ut_err ut_buf_add_file(struct ut_buf *b, const char *path,
                                       struct ut_error *e);

/* Hands the bytes to the caller, who frees them; *b becomes empty. NULL if
 * nothing was ever added. */
char *ut_buf_take(struct ut_buf *b, size_t *len);

#endif
