#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

/* Microseconds on the monotonic clock; never goes back. Thread: any. */
int64_t ut_clock_us(void);

/* Milliseconds since 1970-01-01 UTC. Thread: any. */
int64_t ut_clock_unix_ms(void);

#endif
