/* Lanes of one backend on several threads at once: the numbers of one alone,
 * from weights that they share; on the processor, and with it in a GPU's place
 * (tests/plugins/host). */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/backend.h"
#include "model/model.h"
#include "tests/support/unit.h"

#define LANES 3
#define RUNS 3
#define BATCH 2
#define SIDE 32

#define SPEC(widths)                                                           \
    "{\"input\":32,\"trees\":[{\"name\":\"root\",\"module\":\"iresnet\","      \
    "\"layers\":[1,1,1,1],\"widths\":" widths ",\"children\":["                \
    "{\"name\":\"a\",\"module\":\"lase\",\"head\":\"binary\"},"                \
    "{\"name\":\"b\",\"module\":\"none\",\"head\":\"embedding\","              \
    "\"dim\":16}]}]}"

struct worker {
    pthread_t thread;
    struct mdl_backend *backend;
    const struct mdl_graph *graph;
    enum mdl_precision precision;
    int rounds;
    uint8_t in[BATCH * SIDE * SIDE * 3];
    float out[BATCH * 16], *list[MDL_MAX_OUTPUTS];
    enum ut_err rc;
    struct ut_error e;
};

/* Makes its lane and plan too, over and over: those share the weights under a
 * lock, and one thread's come and go while others run and record. */
static void *work(void *arg)
{
    struct worker *w = arg;
    struct mdl_io io = {w->in, w->list};

    w->rc = UT_OK;
    for (int i = 0; i < w->rounds && !w->rc; i++) {
        struct mdl_lane *lane = NULL;
        struct mdl_plan *plan = NULL;

        w->rc = mdl_lane_new(w->backend, &lane, &w->e);
        if (!w->rc)
            w->rc =
                mdl_plan_new(lane, w->graph, w->precision, BATCH, &plan, &w->e);
        for (int k = 0; k < RUNS && !w->rc; k++)
            w->rc = mdl_plan_run(plan, &io, &w->e);
        mdl_plan_free(plan);
        mdl_lane_free(lane);
    }
    return NULL;
}

static void compare(struct mdl_backend *b, const struct mdl_graph *g,
                    enum mdl_precision precision, int rounds)
{
    static struct worker w[LANES], alone;
    int out = mdl_graph_find_output(g, "b.embedding.normalized");

    for (int i = 0; i < LANES; i++) {
        memset(&w[i], 0, sizeof(w[i]));
        w[i].backend = b;
        w[i].graph = g;
        w[i].precision = precision;
        w[i].rounds = rounds;
        w[i].list[out] = w[i].out;
        for (size_t k = 0; k < sizeof(w[i].in); k++)
            w[i].in[k] = (uint8_t)(k * 7 * (unsigned)(i + 1) >> 2);
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < LANES; i++) {
        pthread_join(w[i].thread, NULL);
        if (w[i].rc)
            fail_msg("%s", w[i].e.msg);
    }
    for (int i = 0; i < LANES; i++) {
        alone = w[i];
        alone.rounds = 1;
        memset(alone.out, 0, sizeof(alone.out));
        alone.list[out] = alone.out;
        work(&alone);
        assert_memory_equal(alone.out, w[i].out, sizeof(alone.out));
    }
}

#define TINY SPEC("[8,8,8,8]")
#define ENOUGH 20000

/* Two of these keep a device at work until `mended`. */
struct crowd {
    pthread_t thread;
    struct worker w;
    bool *mended;
    int runs;
};

static void *keep_busy(void *arg)
{
    struct crowd *c = arg;
    struct mdl_io io = {c->w.in, c->w.list};
    struct mdl_lane *lane = NULL;
    struct mdl_plan *plan = NULL;

    c->w.rc = mdl_lane_new(c->w.backend, &lane, &c->w.e);
    if (!c->w.rc)
        c->w.rc =
            mdl_plan_new(lane, c->w.graph, MDL_PREC_F32, BATCH, &plan, &c->w.e);
    while (!c->w.rc && c->runs < ENOUGH &&
           !__atomic_load_n(c->mended, __ATOMIC_SEQ_CST)) {
        c->w.rc = mdl_plan_run(plan, &io, &c->w.e);
        __atomic_add_fetch(&c->runs, 1, __ATOMIC_SEQ_CST);
    }
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    return NULL;
}

/* A context is made anew though another device's runs leave no gap. */
static void device__lost_beside_a_busy_one__mended(void **state)
{
    static struct crowd crowd[2];
    static struct worker w;
    char file[] = "/tmp/tscaf-test-XXXXXX";
    struct mdl_io io = {w.in, w.list};
    struct mdl_backend *b[2];
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    struct mdl_model m = {0};
    struct mdl_spec spec;
    struct mdl_graph g;
    struct ut_error e = {0};
    bool mended = false;
    int out;

    (void)state;
    setenv("TSCAF_HOST_DEVICES", "2", 1);
    if (mdl_spec_parse(TINY, strlen(TINY), &spec, &e) ||
        mdl_model_fresh(&spec, 3, &m, &e) ||
        mdl_graph_optimise(&m.graph, ~0ull, &g, &e) ||
        mdl_backend_open("cuda", 0, &b[0], &e) ||
        mdl_backend_open("cuda", 1, &b[1], &e) ||
        mdl_lane_new(b[0], &lane, &e) ||
        mdl_plan_new(lane, &g, MDL_PREC_F32, BATCH, &plan, &e))
        fail_msg("%s", e.msg);
    out = mdl_graph_find_output(&g, "b.embedding.normalized");
    w.list[out] = w.out;
    setenv("TSCAF_HOST_BUSY", "1", 1);
    assert_int_equal(close(mkstemp(file)), 0);
    assert_int_equal(unlink(file), 0);
    setenv("TSCAF_HOST_LOSE", file, 1);
    for (int i = 0; i < 2; i++) {
        crowd[i].w.backend = b[1];
        crowd[i].w.graph = &g;
        crowd[i].w.list[out] = crowd[i].w.out;
        crowd[i].mended = &mended;
        assert_int_equal(
            pthread_create(&crowd[i].thread, NULL, keep_busy, &crowd[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        while (!__atomic_load_n(&crowd[i].runs, __ATOMIC_SEQ_CST))
            sched_yield();
    assert_int_equal(close(open(file, O_CREAT | O_WRONLY, 0600)), 0);
    assert_int_equal(mdl_plan_run(plan, &io, &e), UT_EDEVICE);
    __atomic_store_n(&mended, true, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 2; i++) {
        pthread_join(crowd[i].thread, NULL);
        if (crowd[i].w.rc)
            fail_msg("%s", crowd[i].w.e.msg);
        assert_true(crowd[i].runs < ENOUGH);
    }
    if (mdl_plan_run(plan, &io, &e))
        fail_msg("%s", e.msg);
    unsetenv("TSCAF_HOST_LOSE");
    unsetenv("TSCAF_HOST_BUSY");
    unsetenv("TSCAF_HOST_DEVICES");
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_backend_close(b[0]);
    mdl_backend_close(b[1]);
    mdl_graph_fini(&g);
    mdl_model_close(&m);
}

static void at_once(const char *backend, const char *text, int rounds)
{
    struct mdl_model m = {0};
    struct mdl_backend *b;
    struct mdl_spec spec;
    struct mdl_graph g;
    struct ut_error e;

    assert_int_equal(mdl_spec_parse(text, strlen(text), &spec, &e), UT_OK);
    assert_int_equal(mdl_model_fresh(&spec, 3, &m, &e), UT_OK);
    assert_int_equal(mdl_graph_optimise(&m.graph, ~0ull, &g, &e), UT_OK);
    if (mdl_backend_open(backend, 0, &b, &e))
        fail_msg("%s", e.msg);
    compare(b, &g, MDL_PREC_F32, rounds);
    if (mdl_backend_supports(b, MDL_PREC_BF16))
        compare(b, &g, MDL_PREC_BF16, rounds);
    mdl_backend_close(b);
    mdl_graph_fini(&g);
    mdl_model_close(&m);
}

static void lanes__at_once__the_numbers_of_one(void **state)
{
    (void)state;
    at_once("cpu", SPEC("[32,32,64,64]"), 8);
}

/* What waits for the whole device while another thread records ends the test
 * (tests/plugins/host/device.c). */
static void lanes__at_once_on_a_device__the_numbers_of_one(void **state)
{
    (void)state;
    setenv("TSCAF_HOST_ENGINES", "f", 1);
    at_once("cuda", TINY, 4);
    setenv("TSCAF_HOST_RECORDS", "1", 1);
    at_once("cuda", TINY, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lanes__at_once__the_numbers_of_one),
        cmocka_unit_test(device__lost_beside_a_busy_one__mended),
        cmocka_unit_test(lanes__at_once_on_a_device__the_numbers_of_one),
    };

    setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
    setenv("TSCAF_CUDA_CACHE", "/dev/null", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
