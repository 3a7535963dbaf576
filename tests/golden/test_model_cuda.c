/* The CUDA backend's plan and kernels against the golden numbers and, on odd
 * shapes, against the reference: with the processor in the GPU's place
 * (tests/plugins/host), or on a GPU where TSCAF_TEST_CUDA=1 asks for it. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/golden/golden.h"

/* As on the reference backend: float32 sums in another order. */
static void check_float32(const char *output, const float *got,
                          const float *want, size_t n, const char *what)
{
    (void)output;
    assert_close(got, want, n, 1e-4, 1e-4, what);
}

/* As in test_model_cpu.c: bits' last place, once for each of 54 layers,
 * adding up like noise, twice; a logit may lose one bit more, and so may the
 * probability, whose relative error is (1 - p) |logit| times the logit's: it is
 * held to the logit's bound. */
static void within(int bits, const char *output, const float *got,
                   const float *want, size_t n, const char *what)
{
    double off = 0, norm = 0, bound = 2 * ldexp(1, -bits) * sqrt(2 * 54.0);

    for (size_t i = 0; i < n; i++) {
        off += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    if (strstr(output, "logit") || strstr(output, "probability"))
        bound *= 2;
    if (!(sqrt(off) <= bound * sqrt(norm)))
        fail_msg("%s: relative error %g, bound %g", what, sqrt(off / norm),
                 bound);
}

static void check_bfloat16(const char *output, const float *got,
                           const float *want, size_t n, const char *what)
{
    within(9, output, got, want, n, what);
}

static void check_float16(const char *output, const float *got,
                          const float *want, size_t n, const char *what)
{
    within(12, output, got, want, n, what);
}

/* As float16's, whose 11 bits TF32 has, but cut, not rounded: one bit less. */
static void check_tf32(const char *output, const float *got, const float *want,
                       size_t n, const char *what)
{
    within(11, output, got, want, n, what);
}

static void cuda__every_case__matches_golden(void **state)
{
    static const struct {
        enum mdl_precision precision;
        golden_check check;
    } ways[] = {{MDL_PREC_F32, check_float32},
                {MDL_PREC_BF16, check_bfloat16},
                {MDL_PREC_F16, check_float16},
                {MDL_PREC_TF32, check_tf32}};
    /* Alone: the LASE block and the fatigue head's mean are one step. */
    static const char *const leaves[] = {"fatigue.probability",
                                         "recognition.embedding.normalized"};

    (void)state;
    setenv("TSCAF_HOST_RECORDS", "1", 1);
    for (size_t i = 0; i < N_GOLDEN_CASES; i++)
        for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
            golden_run(golden_cases[i], "cuda", ways[w].precision, 4, ~0ull,
                       ways[w].check);
            golden_run(golden_cases[i], "cuda", ways[w].precision, 1,
                       golden_bit(golden_cases[i], leaves[0]) |
                           golden_bit(golden_cases[i], leaves[1]),
                       ways[w].check);
        }
    unsetenv("TSCAF_HOST_RECORDS");
}

/* A plan that the device's memory has no room for says what it needs. */
static void cuda__no_room__says_what_a_batch_needs(void **state)
{
    struct mdl_backend *b;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    struct mdl_model m;
    struct mdl_graph g;
    struct ut_error e = {0};

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    if (mdl_model_open(GOLDEN_DIR "/iresnet_lase/weights.safetensors", &m,
                       &e) ||
        mdl_graph_optimise(&m.graph, ~0ull, &g, &e) ||
        mdl_backend_open("cuda", 0, &b, &e) || mdl_lane_new(b, &lane, &e))
        fail_msg("%s", e.msg);
    setenv("TSCAF_HOST_DEVICE_MIB", "1", 1);
    assert_int_equal(mdl_plan_new(lane, &g, MDL_PREC_F32, 256, &plan, &e),
                     UT_ENOMEM);
    if (!strstr(e.msg, "a plan for 256 faces needs "))
        fail_msg("%s", e.msg);
    unsetenv("TSCAF_HOST_DEVICE_MIB");
    assert_int_equal(mdl_plan_new(lane, &g, MDL_PREC_F32, 2, &plan, &e), UT_OK);
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_backend_close(b);
    mdl_graph_fini(&g);
    mdl_model_close(&m);
}

/* ---- Engines that are not ours (tests/plugins/host/engines.c) ---- */

#define N_FACES 3

struct rig {
    struct mdl_model model;
    struct mdl_graph graph;
    struct mdl_backend *backend;
    float out[N_FACES * 512];
    char report[512];
    int first, next; /* how often engines computed for a plan, and for another
                        of the same products */
};

static int engine_runs(void)
{
    void *plugin = dlopen(PLUGINS "host.so", RTLD_NOW);
    int *runs = dlsym(plugin, "host_engine_runs");

    assert_non_null(runs);
    dlclose(plugin);
    return *runs;
}

/* Embeddings of the same faces by a plan made with these engines on offer. */
static void embed(struct rig *r, const char *engines, enum mdl_precision p)
{
    static uint8_t faces[N_FACES * 112 * 112 * 3];
    float *out[MDL_MAX_OUTPUTS] = {0};
    struct mdl_lane *lane;
    struct mdl_plan *plan, *other;
    struct ut_error e = {0};
    int at, runs;

    for (size_t i = 0; i < sizeof(faces); i++)
        faces[i] = (uint8_t)(i * 31 >> 2);
    if (engines)
        setenv("TSCAF_HOST_ENGINES", engines, 1);
    else
        unsetenv("TSCAF_HOST_ENGINES");
    if (mdl_model_open(GOLDEN_DIR "/iresnet_lase/weights.safetensors",
                       &r->model, &e) ||
        mdl_graph_optimise(&r->model.graph, ~0ull, &r->graph, &e) ||
        mdl_backend_open("cuda", 0, &r->backend, &e) ||
        mdl_lane_new(r->backend, &lane, &e))
        fail_msg("%s", e.msg);
    runs = engine_runs();
    if (mdl_plan_new(lane, &r->graph, p, N_FACES, &plan, &e))
        fail_msg("%s", e.msg);
    r->first = engine_runs() - runs;
    if (mdl_plan_new(lane, &r->graph, p, N_FACES, &other, &e))
        fail_msg("%s", e.msg);
    r->next = engine_runs() - runs - r->first;
    mdl_plan_free(other);
    at = mdl_graph_find_output(&r->model.graph,
                               "recognition.embedding.normalized");
    out[at] = r->out;
    if (mdl_plan_run(plan, &(struct mdl_io){faces, out}, &e))
        fail_msg("%s", e.msg);
    mdl_backend_report(r->backend, r->report, sizeof(r->report));
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_backend_close(r->backend);
    mdl_graph_fini(&r->graph);
    mdl_model_close(&r->model);
}

static void expect(const struct rig *r, const char *part, bool there)
{
    if ((strstr(r->report, part) != NULL) != there)
        fail_msg("the report is \"%s\"", r->report);
}

static void cuda__engines_of_every_kind__only_right_ones_compute(void **state)
{
    static const enum mdl_precision all[] = {MDL_PREC_F32, MDL_PREC_F16,
                                             MDL_PREC_BF16};
    static const float bound[] = {1e-5f, 4e-3f, 3e-2f};
    static struct rig ours, theirs;
    char folder[64];

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    snprintf(folder, sizeof(folder), "%s", getenv("TSCAF_CUDA_CACHE"));
    setenv("TSCAF_CUDA_CACHE", "/dev/null", 1);
    for (int i = 0; i < 3; i++) {
        embed(&ours, NULL, all[i]);
        expect(&ours, ": 0 of ", true);
        expect(&ours, "refused", false);
        embed(&theirs, "wnme", all[i]); /* none of them is right */
        expect(&theirs, ": 0 of ", true);
        expect(&theirs, " refused, the last: ", true);
        assert_memory_equal(ours.out, theirs.out, sizeof(ours.out));
        embed(&theirs, "wsfe", all[i]);
        expect(&theirs, ": 0 of ", false);
        assert_close(theirs.out, ours.out, N_FACES * 512, bound[i], 0,
                     "embeddings");
    }
    setenv("TSCAF_CUDA_CACHE", folder, 1);
}

/* TF32 computes where its name was said, and nowhere else. */
static void cuda__tf32__by_its_name_only(void **state)
{
    static struct rig plain, tf32;
    struct mdl_backend *cpu;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    struct mdl_graph g;
    struct mdl_model m;
    struct ut_error e;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    setenv("TSCAF_HOST_VERSION", "4", 1);
    embed(&plain, "t", MDL_PREC_F32);
    expect(&plain, ": 0 of ", true);
    embed(&tf32, "t", MDL_PREC_TF32);
    expect(&tf32, ": 0 of ", false);
    assert_memory_not_equal(tf32.out, plain.out, sizeof(plain.out));
    check_tf32("embedding", tf32.out, plain.out, N_FACES * 512, "tf32");
    unsetenv("TSCAF_HOST_VERSION");
    unsetenv("TSCAF_HOST_ENGINES");
    assert_int_equal(mdl_precision_parse("tf32"), MDL_PREC_TF32);
    assert_string_equal(mdl_precision_name(MDL_PREC_TF32), "tf32");
    if (mdl_model_open(GOLDEN_DIR "/iresnet_lase/weights.safetensors", &m,
                       &e) ||
        mdl_graph_optimise(&m.graph, ~0ull, &g, &e) ||
        mdl_backend_open("cpu", 0, &cpu, &e) || mdl_lane_new(cpu, &lane, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(mdl_plan_new(lane, &g, MDL_PREC_TF32, 1, &plan, &e),
                     UT_EINVAL);
    assert_string_equal(e.msg, "backend \"cpu\" cannot compute in tf32");
    mdl_lane_free(lane);
    mdl_backend_close(cpu);
    mdl_graph_fini(&g);
    mdl_model_close(&m);
}

/* How a plan's engines are remembered, and when not. */
static void cuda__remembered__proved_again(void **state)
{
    static struct rig first, next;
    const char *folder = getenv("TSCAF_CUDA_CACHE");
    char command[256], damaged[64];
    int kinds;

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    embed(&first, "f", MDL_PREC_F32);
    expect(&first, ": 0 of ", false);
    embed(&next, "f", MDL_PREC_F32);
    assert_string_equal(next.report, first.report);
    /* Each ran once, to be compared, and was not timed again. */
    assert_int_equal(sscanf(next.report, "%*[^:]: %d of", &kinds), 1);
    assert_int_equal(next.first, next.next + kinds);
    assert_true(first.first > next.first);
    /* The place now holds another engine: all are tried again. */
    embed(&next, "w", MDL_PREC_F32);
    expect(&next, ": 0 of ", true);
    /* Another version of the library has a file of its own. */
    setenv("TSCAF_HOST_VERSION", "2", 1);
    embed(&next, "f", MDL_PREC_F32);
    expect(&next, ": 0 of ", false);
    /* Refused for want of memory: that is not remembered. */
    setenv("TSCAF_HOST_VERSION", "3", 1);
    embed(&next, "o", MDL_PREC_F32);
    expect(&next, ": 0 of ", true);
    embed(&next, "f", MDL_PREC_F32);
    expect(&next, ": 0 of ", false);
    /* Nor is that a recording came to nothing. */
    setenv("TSCAF_HOST_VERSION", "5", 1);
    setenv("TSCAF_HOST_RECORDS", "1", 1);
    embed(&next, "r", MDL_PREC_F32);
    expect(&next, ": 0 of ", true);
    expect(&next, "cannot be recorded", true);
    unsetenv("TSCAF_HOST_RECORDS");
    embed(&next, "r", MDL_PREC_F32);
    expect(&next, ": 0 of ", false);
    unsetenv("TSCAF_HOST_VERSION");
    snprintf(command, sizeof(command),
             "for f in %s/*; do echo damage >>$f; done", folder);
    assert_int_equal(system(command), 0);
    embed(&next, "f", MDL_PREC_F32);
    snprintf(damaged, sizeof(damaged), "more after its end; engines are");
    expect(&next, damaged, true);
    expect(&next, ": 0 of ", false);
    embed(&next, "f", MDL_PREC_F32); /* mended */
    assert_string_equal(next.report, first.report);
}

/* A kernel that traps, by CUDA's driver: its context is lost. */
static void trap(void)
{
    static const char code[] = ".version 7.0\n.target sm_75\n"
                               ".address_size 64\n"
                               ".visible .entry k()\n{\n trap;\n}\n";
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    void *context, *module, *kernel;
    int (*retain)(void **, int), (*enter)(void *), (*wait)(void);
    int (*load)(void **, const void *), (*find)(void **, void *, const char *);
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned,
                  unsigned, unsigned, void *, void **, void **);

    assert_non_null(driver);
    *(void **)&retain = dlsym(driver, "cuDevicePrimaryCtxRetain");
    *(void **)&enter = dlsym(driver, "cuCtxSetCurrent");
    *(void **)&load = dlsym(driver, "cuModuleLoadData");
    *(void **)&find = dlsym(driver, "cuModuleGetFunction");
    *(void **)&launch = dlsym(driver, "cuLaunchKernel");
    *(void **)&wait = dlsym(driver, "cuCtxSynchronize");
    assert_int_equal(retain(&context, 0), 0);
    assert_int_equal(enter(context), 0);
    assert_int_equal(load(&module, code), 0);
    assert_int_equal(find(&kernel, module, "k"), 0);
    assert_int_equal(launch(kernel, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL), 0);
    assert_int_not_equal(wait(), 0);
    dlclose(driver);
}

static void lose_context(const char *file)
{
    if (getenv("TSCAF_TEST_CUDA"))
        trap();
    else
        fclose(fopen(file, "w"));
}

/* An error that stays: the batch fails, all is made anew, and the next batch
 * answers as before; on both lanes, and with engines that were chosen. On a GPU
 * where TSCAF_TEST_CUDA=lose: whether it comes back is the driver's to say. */
static void cuda__context_lost__batch_fails_then_as_before(void **state)
{
    static uint8_t faces[112 * 112 * 3];
    static float first[512], got[512];
    float *out[MDL_MAX_OUTPUTS] = {0};
    struct mdl_device_stats stats;
    struct mdl_lane *lanes[2];
    struct mdl_plan *plans[3];
    struct rig r = {0};
    struct mdl_io io = {faces, out};
    struct ut_error e = {0};
    const char *gpu = getenv("TSCAF_TEST_CUDA");
    char file[96];
    int at;

    (void)state;
    if (gpu && strcmp(gpu, "lose") != 0)
        return;
    for (size_t i = 0; i < sizeof(faces); i++)
        faces[i] = (uint8_t)(i * 31 >> 2);
    snprintf(file, sizeof(file), "%s/lose",
             gpu ? "" : getenv("TSCAF_CUDA_CACHE"));
    setenv("TSCAF_HOST_LOSE", file, 1);
    setenv("TSCAF_HOST_ENGINES", "f", 1);
    if (mdl_model_open(GOLDEN_DIR "/iresnet_lase/weights.safetensors", &r.model,
                       &e) ||
        mdl_graph_optimise(&r.model.graph, ~0ull, &r.graph, &e) ||
        mdl_backend_open("cuda", 0, &r.backend, &e))
        fail_msg("%s", e.msg);
    at = mdl_graph_find_output(&r.model.graph,
                               "recognition.embedding.normalized");
    for (int i = 0; i < 2; i++)
        if (mdl_lane_new(r.backend, &lanes[i], &e) ||
            mdl_plan_new(lanes[i], &r.graph, MDL_PREC_F32, 1, &plans[i], &e))
            fail_msg("%s", e.msg);
    out[at] = first;
    assert_int_equal(mdl_plan_run(plans[0], &io, &e), UT_OK);
    out[at] = got;
    for (int time = 1; time <= 2; time++) {
        lose_context(file);
        assert_int_equal(mdl_plan_run(plans[0], &io, &e), UT_EDEVICE);
        if (!gpu)
            assert_non_null(strstr(e.msg, "illegal access"));
        for (int i = 0; i < 2; i++) {
            memset(got, 0, sizeof(got));
            if (mdl_plan_run(plans[i], &io, &e))
                fail_msg("%s", e.msg);
            assert_close(got, first, 512, gpu ? 1e-4 : 0, 0, "as before");
        }
        assert_true(mdl_backend_stats(r.backend, &stats));
        assert_int_equal(stats.contexts_lost, time);
        assert_int_equal(stats.batches, 1 + 2 * time);
        assert_true(stats.busy_us >= stats.run_us);
        assert_true(stats.run_us > stats.kernel_us && stats.kernel_us);
    }
    /* Lost while a plan is made; then what was not made anew goes. */
    lose_context(file);
    assert_int_equal(
        mdl_plan_new(lanes[0], &r.graph, MDL_PREC_F32, 2, &plans[2], &e),
        UT_EDEVICE);
    for (int i = 0; i < 2; i++) {
        mdl_plan_free(plans[i]);
        mdl_lane_free(lanes[i]);
    }
    mdl_backend_close(r.backend);
    mdl_graph_fini(&r.graph);
    mdl_model_close(&r.model);
    unsetenv("TSCAF_HOST_LOSE");
    unsetenv("TSCAF_HOST_ENGINES");
}

static void cuda__no_cudnn__says_so(void **state)
{
    struct mdl_backend *b;
    struct ut_error e = {0};

    (void)state;
    if (getenv("TSCAF_TEST_CUDA"))
        return;
    setenv("TSCAF_HOST_NO_CUDNN", "1", 1);
    assert_int_equal(mdl_backend_open("cuda", 0, &b, &e), UT_EDEVICE);
    assert_non_null(strstr(e.msg, "cuDNN 9 does not load"));
    assert_int_equal(mdl_backend_open("auto", 0, &b, &e), UT_OK);
    assert_string_equal(mdl_backend_name(b), "cpu");
    assert_non_null(strstr(mdl_backend_note(b), "cuDNN 9 does not load"));
    mdl_backend_close(b);
    unsetenv("TSCAF_HOST_NO_CUDNN");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuda__every_case__matches_golden),
        cmocka_unit_test(cuda__no_room__says_what_a_batch_needs),
        cmocka_unit_test(cuda__engines_of_every_kind__only_right_ones_compute),
        cmocka_unit_test(cuda__tf32__by_its_name_only),
        cmocka_unit_test(cuda__remembered__proved_again),
        cmocka_unit_test(cuda__context_lost__batch_fails_then_as_before),
        cmocka_unit_test(cuda__no_cudnn__says_so),
    };
    char cache[] = "/tmp/tscaf-test-XXXXXX", command[64];
    int bad;

    cmocka_set_test_filter(getenv("TEST_FILTER")); /* NULL: all */
    if (getenv("TSCAF_TEST_CUDA"))
        return cmocka_run_group_tests(tests, NULL, NULL);
    setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
    if (!mkdtemp(cache))
        return 1;
    setenv("TSCAF_CUDA_CACHE", cache, 1);
    bad = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof(command), "rm -r %s", cache);
    return system(command) || bad;
}
