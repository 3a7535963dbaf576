#ifndef TESTS_SUPPORT_UNIT_H
#define TESTS_SUPPORT_UNIT_H

/* cmocka wants these four before it, in any order; kept here so that no
 * formatter reorders them. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <stdbool.h>

#include "base/error.h"

/* Fails at the worst element where |got - want| > atol + rtol * |want|, or
 * where either is NaN. */
void assert_close(const float *got, const float *want, size_t n, double atol,
                  double rtol, const char *what);

/* The nth allocation (0-based) from here on, on this thread, returns NULL. */
void fault_arm(long nth);
/* Ends it; true if that allocation was reached. */
bool fault_disarm(void);

/* Runs attempt, which leaves nothing behind, again and again: first its first
 * allocation fails, then its second, until a run needs no more and succeeds.
 * Every other run must say UT_ENOMEM. Returns how many allocations failed. */
long each_allocation_fails(enum ut_err (*attempt)(void *arg,
                                                  struct ut_error *e),
                           void *arg);

/* A folder of this program's own, made when first asked for and removed at its
 * end. */
const char *test_dir(void);

/* The folder of third-party test data ("../shared/data" or
 * $TSCAF_TEST_DATA), or NULL after printing "SKIPPED <name>: ..." */
const char *test_data(const char *name);

#endif
