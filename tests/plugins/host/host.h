#ifndef TESTS_PLUGINS_HOST_HOST_H
#define TESTS_PLUGINS_HOST_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* By which engines are timed: 1000 more with each look, and what engines.c
 * adds or takes away. Time stands still for all else. */
extern int64_t host_clock_us;

/* As kernel.cuh has it: for what is queued and no kernel. */
bool host_keep(void (*make)(void *call), const void *call, size_t len);
bool host_records(void); /* the calling thread */
/* What waits for the whole device, as cuDNN does when it is closed: while
 * someone records, the end of the test. */
void host_waits_for_all(void);

#endif
