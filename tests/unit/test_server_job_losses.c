/* A job's losses: few points, evenly spread, from the first to the last. */
#include "server/jobs/job_losses.h"

#include "tests/support/unit.h"

static struct srv_job_losses l;

static void run(uint32_t from, uint32_t to, uint32_t steps)
{
    for (uint32_t step = from; step <= to; step++)
        srv_job_losses_add(&l, step, steps, (float)step, (float)(2 * step));
}

/* What it was told to keep is what it tells. */
static void check(size_t n, uint32_t stride, uint32_t last)
{
    Tscaf__V1__JobLoss *list[SRV_JOB_LOSSES_MAX + 1];
    Tscaf__V1__JobLosses m;

    srv_job_losses_tell(&l, list, &m);
    assert_int_equal(m.n_losses, n);
    for (size_t i = 0; i < n; i++) {
        uint32_t step = i + 1 < n ? 1 + (uint32_t)i * stride : last;

        assert_int_equal(m.losses[i]->step, step);
        assert_true(m.losses[i]->fatigue_loss == (float)step);
        assert_true(m.losses[i]->recognition_loss == (float)(2 * step));
    }
}

static void losses__at_the_limit_and_one_past__thinned(void **state)
{
    (void)state;
    srv_job_losses_init(&l, NULL);
    run(1, SRV_JOB_LOSSES_MAX, 1000000);
    check(SRV_JOB_LOSSES_MAX, 1, SRV_JOB_LOSSES_MAX);
    run(SRV_JOB_LOSSES_MAX + 1, SRV_JOB_LOSSES_MAX + 1, 1000000);
    check(SRV_JOB_LOSSES_MAX / 2 + 1, 2, SRV_JOB_LOSSES_MAX + 1);
}

static void losses__long_and_short__the_last_is_there(void **state)
{
    (void)state;
    for (uint32_t steps = 1; steps < 40000; steps = steps * 3 + 1) {
        uint32_t stride = 1, n;

        srv_job_losses_init(&l, NULL);
        run(1, steps, steps);
        while ((steps - 1) / stride + 1 > SRV_JOB_LOSSES_MAX)
            stride *= 2;
        n = (steps - 1) / stride + 1;
        check(n + ((steps - 1) % stride != 0), stride, steps);
    }
}

/* A step that comes again: a job that went on from its checkpoint. */
static void losses__resumed__goes_on_from_there(void **state)
{
    Tscaf__V1__JobLoss *list[SRV_JOB_LOSSES_MAX + 1];
    Tscaf__V1__JobLosses m;
    static struct srv_job_losses before;

    (void)state;
    srv_job_losses_init(&l, NULL);
    run(1, 3000, 10000);
    check(375, 8, 2993);
    before = l;
    srv_job_losses_tell(&before, list, &m);
    srv_job_losses_init(&l, &m);
    assert_false(l.changed);
    check(375, 8, 2993);
    run(2501, 2501, 10000);
    assert_false(l.points[l.n - 1].step > 2501);
    run(2502, 10000, 10000);
    check(314, 32, 10000);
}

static void losses__other_than_ours__none(void **state)
{
    Tscaf__V1__JobLoss a = TSCAF__V1__JOB_LOSS__INIT, b = a;
    Tscaf__V1__JobLoss *list[SRV_JOB_LOSSES_MAX + 2] = {&a, &b};
    Tscaf__V1__JobLosses m = TSCAF__V1__JOB_LOSSES__INIT;

    (void)state;
    m.losses = list;
    m.n_losses = 2;
    srv_job_losses_init(&l, &m); /* steps of 0 */
    assert_int_equal(l.n, 0);
    a.step = 5;
    b.step = 5;
    srv_job_losses_init(&l, &m);
    assert_int_equal(l.n, 1);
    assert_int_equal(l.stride, 1);
    for (size_t i = 0; i < SRV_JOB_LOSSES_MAX + 2; i++)
        list[i] = &a;
    m.n_losses = SRV_JOB_LOSSES_MAX + 2;
    srv_job_losses_init(&l, &m);
    assert_int_equal(l.n, 0);
}

/* A whole file whose last is not the last: there is no room for one more. */
static void losses__full_and_one_past__the_last_is_there(void **state)
{
    static Tscaf__V1__JobLoss points[SRV_JOB_LOSSES_MAX + 1];
    Tscaf__V1__JobLoss *list[SRV_JOB_LOSSES_MAX + 1];
    Tscaf__V1__JobLosses m = TSCAF__V1__JOB_LOSSES__INIT;

    (void)state;
    for (uint32_t i = 0; i <= SRV_JOB_LOSSES_MAX; i++) {
        tscaf__v1__job_loss__init(&points[i]);
        points[i].step = 1 + 2 * i;
        points[i].fatigue_loss = (float)points[i].step;
        points[i].recognition_loss = (float)(2 * points[i].step);
        list[i] = &points[i];
    }
    m.losses = list;
    m.n_losses = SRV_JOB_LOSSES_MAX + 1;
    srv_job_losses_init(&l, &m);
    check(SRV_JOB_LOSSES_MAX + 1, 2, 1 + 2 * SRV_JOB_LOSSES_MAX);
    run(2 * SRV_JOB_LOSSES_MAX + 2, 2 * SRV_JOB_LOSSES_MAX + 2,
        2 * SRV_JOB_LOSSES_MAX + 2);
    check(SRV_JOB_LOSSES_MAX + 1, 2, 2 * SRV_JOB_LOSSES_MAX + 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses__at_the_limit_and_one_past__thinned),
        cmocka_unit_test(losses__long_and_short__the_last_is_there),
        cmocka_unit_test(losses__resumed__goes_on_from_there),
        cmocka_unit_test(losses__other_than_ours__none),
        cmocka_unit_test(losses__full_and_one_past__the_last_is_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
