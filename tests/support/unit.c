/* Assertions, allocation faults, folders and data lookup for all tests. */
#include "tests/support/unit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void assert_close(const float *got, const float *want, size_t n, double atol,
                  double rtol, const char *what)
{
    double worst = 0;
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        double over = fabs((double)got[i] - want[i]) -
                      (atol + rtol * fabs((double)want[i]));

        if (isnan(got[i]) || isnan(want[i]))
            fail_msg("%s: NaN at %zu (got %g, want %g)", what, i, got[i],
                     want[i]);
        if (over > worst) {
            worst = over;
            at = i;
        }
    }
    if (worst > 0)
        fail_msg("%s: worst at %zu of %zu: got %.8g, want %.8g", what, at, n,
                 got[at], want[at]);
}

static _Thread_local long countdown = -1;
static _Thread_local bool reached;

void fault_arm(long nth)
{
    countdown = nth;
    reached = false;
}

bool fault_disarm(void)
{
    countdown = -1;
    return reached;
}

static bool denied(void)
{
    if (countdown < 0 || countdown-- > 0)
        return false;
    reached = true;
    return true;
}

long each_allocation_fails(enum ut_err (*attempt)(void *arg,
                                                  struct ut_error *e),
                           void *arg)
{
    for (long nth = 0;; nth++) {
        struct ut_error e = {0};
        enum ut_err rc;

        fault_arm(nth);
        rc = attempt(arg, &e);
        if (!fault_disarm()) {
            if (rc)
                fail_msg("no allocation failed, and yet: %s", e.msg);
            return nth;
        }
        if (rc != UT_ENOMEM)
            fail_msg("allocation %ld failed: error %d, \"%s\"", nth, (int)rc,
                     e.msg);
    }
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

void *__wrap_malloc(size_t size)
{
    return denied() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return denied() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return denied() ? NULL : __real_realloc(p, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    return denied() ? NULL : __real_aligned_alloc(align, size);
}

static char own_dir[] = "/tmp/tscaf-test-XXXXXX";
static pid_t owner;

static void remove_own_dir(void)
{
    char line[64];

    if (getpid() != owner) /* a child's end is not the test's */
        return;
    snprintf(line, sizeof(line), "rm -rf %s", own_dir);
    (void)!system(line);
}

const char *test_dir(void)
{
    if (!owner) {
        assert_non_null(mkdtemp(own_dir));
        owner = getpid();
        atexit(remove_own_dir);
    }
    return own_dir;
}

const char *test_data(const char *name)
{
    const char *dir = getenv("TSCAF_TEST_DATA");

    if (!dir)
        dir = "../shared/data";
    if (access(dir, R_OK) == 0)
        return dir;
    printf("SKIPPED %s: no test data at %s (set TSCAF_TEST_DATA)\n", name, dir);
    return NULL;
}
