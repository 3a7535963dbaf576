/* Lanes of one backend on several threads at once: the numbers of one alone,
 * from weights that they share; on the processor, and with it in a GPU's place
 * (tests/plugins/host). */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

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
    at_once("cuda", SPEC("[8,8,8,8]"), 4);
    setenv("TSCAF_HOST_RECORDS", "1", 1);
    at_once("cuda", SPEC("[8,8,8,8]"), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lanes__at_once__the_numbers_of_one),
        cmocka_unit_test(lanes__at_once_on_a_device__the_numbers_of_one),
    };

    setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
    setenv("TSCAF_CUDA_CACHE", "/dev/null", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
