#ifndef MODEL_TOOL_BENCH_H
#define MODEL_TOOL_BENCH_H

#include <stdbool.h>
#include <stddef.h>

#include "model/backend.h"
#include "model/model.h"

/* What the machine can do at most, and the search; for cmd_bench.c. */

/* Multiplies and adds in registers on this core; how many it does, by the
 * widest instructions of a precision that the processor has. */
void bench_peak(enum mdl_precision precision);
double bench_peak_macs(enum mdl_precision precision);

/* Bytes that a batch moves through memory at least: every map written once and
 * read by every node that wants it, every weight read once. */
double bench_bytes(const struct mdl_graph *g, enum mdl_precision precision,
                   int batch);

/* The middle of n values, which are sorted. */
double bench_median(double *values, int n);

/* Times the search in a gallery of so many faces, by the processor and by a
 * backend's device, beside reading memory; returns the exit code, 1 also where
 * the two answer otherwise. */
struct bench_gallery {
    size_t faces;
    const char *backend; /* NULL: the processor alone */
    int threads, reps;
    bool json;
};
int bench_gallery(const struct bench_gallery *b);

/* A model file, or a fresh model of a spec. */
UT_MUSTUSE enum ut_err bench_open(const char *path, struct mdl_model *m,
                                  struct ut_error *e);

/* Times training steps of the recognition leaf; returns the exit code. */
struct bench_train {
    const char *backend;
    enum mdl_precision precisions[3];
    int n_precisions, threads, batch, reps;
    bool profile, json;
};
int bench_train(const struct bench_train *b, const char *path);

#endif
