#ifndef TESTS_PLUGINS_HOST_HOST_H
#define TESTS_PLUGINS_HOST_HOST_H

#include <stdint.h>

/* By which engines are timed: 1000 more with each look, and what engines.c
 * adds or takes away. Time stands still for all else. */
extern int64_t host_clock_us;

#endif
