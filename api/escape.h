#ifndef API_ESCAPE_H
#define API_ESCAPE_H

#include "base/buf.h"

/* Appends text as a quoted JSON string. Bytes that are no valid UTF-8 become
 * U+FFFD. Errors: those of ut_buf_add. Thread: any. */
UT_MUSTUSE enum ut_err api_escape(struct ut_buf *b, const char *text,
                                  struct ut_error *e);

#endif
