#ifndef TESTS_UNIT_HOLD_H
#define TESTS_UNIT_HOLD_H

#include <uv.h>

#include "server/pool.h"
#include "tests/support/unit.h"

/* What keeps a pool's thread busy until go is posted; begun says that it is. */
struct hold {
    uv_sem_t begun, go;
};

static inline void hold_run(void *arg, int worker)
{
    struct hold *h = arg;

    (void)worker;
    uv_sem_post(&h->begun);
    uv_sem_wait(&h->go);
}

static inline void hold(struct srv_pool *p, struct hold *h)
{
    struct ut_error e;

    uv_sem_init(&h->begun, 0);
    uv_sem_init(&h->go, 0);
    assert_int_equal(srv_pool_push(p, hold_run, h, &e), UT_OK);
}

static inline void hold_fini(struct hold *h)
{
    uv_sem_destroy(&h->begun);
    uv_sem_destroy(&h->go);
}

#endif
