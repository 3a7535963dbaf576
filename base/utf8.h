#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>

/* Length of the UTF-8 sequence at s (1 to 4), 0 if it is not one. Reads no byte
 * after a NUL. Thread: any. */
int ut_utf8_len(const char *s);

/* Whether all of it is UTF-8. Thread: any. */
bool ut_utf8_ok(const char *text);

#endif
