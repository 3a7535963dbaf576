#ifndef TESTS_GOLDEN_GOLDEN_H
#define TESTS_GOLDEN_GOLDEN_H

/* Runs a golden case through the real way: open, optimise, compile, run.
 * tests/golden/cases/README.md says where the numbers come from. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backend.h"
#include "model/model.h"
#include "tests/support/unit.h"

#define GOLDEN_DIR "tests/golden/cases"

static const char *const golden_cases[] = {
    "iresnet_lase", "iresnet_none",     "iresnet_la",
    "iresnet_se",   "mobilenetv2_lase",
};

#define N_GOLDEN_CASES (sizeof(golden_cases) / sizeof(golden_cases[0]))

static inline struct mdl_st *golden_open(const char *name, const char *file)
{
    char path[256];
    struct mdl_st *st;
    struct ut_error e;

    snprintf(path, sizeof(path), GOLDEN_DIR "/%s/%s.safetensors", name, file);
    if (mdl_st_open(path, &st, &e))
        fail_msg("%s", e.msg);
    return st;
}

/* Called for each output that the case has numbers for; got and want are
 * [n] floats. */
typedef void (*golden_check)(const char *output, const float *got,
                             const float *want, size_t n, const char *what);

/* Runs a case's batch in parts of `batch` images, with the outputs in the
 * bit set keep, and checks each of them. */
static inline void golden_run(const char *name, const char *backend,
                              enum mdl_precision precision, int batch,
                              uint64_t keep, golden_check check)
{
    struct mdl_st *batches = golden_open(name, "batches");
    struct mdl_st *forward = golden_open(name, "forward");
    const struct mdl_st_tensor *in = mdl_st_find(batches, "0.images");
    float *out[MDL_MAX_OUTPUTS] = {0}, *part[MDL_MAX_OUTPUTS] = {0};
    char path[256], what[256];
    struct mdl_model m;
    struct mdl_graph g;
    struct mdl_backend *b;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    struct ut_error e = {0};
    size_t image;
    int n, compared = 0;

    snprintf(path, sizeof(path), GOLDEN_DIR "/%s/weights.safetensors", name);
    if (mdl_model_open(path, &m, &e) ||
        mdl_graph_optimise(&m.graph, keep, &g, &e) ||
        mdl_backend_open(backend, 0, &b, &e) || mdl_lane_new(b, &lane, &e) ||
        mdl_plan_new(lane, &g, precision, batch, &plan, &e))
        fail_msg("%s: %s", name, e.msg);
    image = mdl_shape_count(&g.values[g.input].shape);
    n = (int)in->shape.dim[0];
    assert_int_equal(n % batch, 0);
    for (int i = 0; i < g.n_outputs; i++)
        if (g.outputs[i] >= 0)
            out[i] = calloc((size_t)n *
                                mdl_shape_count(&g.values[g.outputs[i]].shape),
                            sizeof(float));
    for (int at = 0; at < n; at += batch) {
        struct mdl_io io = {(const uint8_t *)in->data + (size_t)at * image,
                            part};

        for (int i = 0; i < g.n_outputs; i++)
            if (out[i])
                part[i] =
                    out[i] +
                    (size_t)at * mdl_shape_count(&g.values[g.outputs[i]].shape);
        if (mdl_plan_run(plan, &io, &e))
            fail_msg("%s: %s", name, e.msg);
    }
    for (int i = 0; i < g.n_outputs; i++) {
        const struct mdl_st_tensor *want;
        float *floats;

        if (!out[i])
            continue;
        want = mdl_st_find(forward, g.values[g.outputs[i]].name);
        if (!want)
            fail_msg("%s: no golden %s", name, g.values[g.outputs[i]].name);
        floats = malloc(want->len);
        memcpy(floats, want->data, want->len);
        snprintf(what, sizeof(what), "%s %s batch %d: %s", name, backend, batch,
                 want->name);
        check(want->name, out[i], floats, mdl_shape_count(&want->shape), what);
        free(floats);
        free(out[i]);
        compared++;
    }
    assert_true(compared > 0);
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_backend_close(b);
    mdl_graph_fini(&g);
    mdl_model_close(&m);
    mdl_st_close(batches);
    mdl_st_close(forward);
}

/* The bit of one output of a case's model. */
static inline uint64_t golden_bit(const char *name, const char *output)
{
    char path[256];
    struct mdl_model m;
    struct ut_error e;
    int at;

    snprintf(path, sizeof(path), GOLDEN_DIR "/%s/weights.safetensors", name);
    if (mdl_model_open(path, &m, &e))
        fail_msg("%s", e.msg);
    at = mdl_graph_find_output(&m.graph, output);
    if (at < 0)
        fail_msg("%s has no output %s", name, output);
    mdl_model_close(&m);
    return 1ull << at;
}

#endif
