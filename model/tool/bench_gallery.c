/* The gallery's search: the product with the packed templates, beside the time
 * that reading them takes. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/panel.h"
#include "model/tool/bench.h"
#include "model/tool/cmd.h"

#define DIM 512
#define CHUNK_FACES 4096 /* as server/gallery.c */
#define MAX_QUERIES 32
#define MAX_THREADS 64
#define MAX_REPS 1000
#define N_KINDS 4

/* 0: only reading. */
static const int queries_of[N_KINDS] = {0, 1, 8, 32};

struct search {
    const float *panels;
    size_t faces;
    int queries;
    float best; /* so that the work is done */
    pthread_t thread;
};

/* Sums side by side: reading, and nothing that takes longer. */
static float read_all(const float *p, size_t n)
{
    typedef float vector __attribute__((vector_size(16)));
    const vector *v = (const vector *)p;
    vector sum[8] = {{0}};

    for (size_t i = 0; i + 8 <= n / 4; i += 8) {
#pragma GCC unroll 8
        for (size_t k = 0; k < 8; k++)
            sum[k] += v[i + k];
    }
    for (int k = 1; k < 8; k++)
        sum[0] += sum[k];
    return sum[0][0];
}

static void *run(void *arg)
{
    static float queries[MAX_QUERIES * DIM];
    struct search *s = arg;
    float *score;

    if (!s->queries) {
        s->best = read_all(s->panels, mdl_panel_count(s->faces, DIM));
        return NULL;
    }
    score = malloc(MAX_QUERIES * CHUNK_FACES * sizeof(*score));
    for (size_t first = 0; score && first < s->faces; first += CHUNK_FACES) {
        size_t rows = s->faces - first;

        if (rows > CHUNK_FACES)
            rows = CHUNK_FACES;
        memset(score, 0, (size_t)s->queries * rows * sizeof(*score));
        mdl_panel_product(false, s->panels + first * DIM, rows, DIM, queries,
                          DIM, s->queries, score);
        for (size_t i = 0; i < (size_t)s->queries * rows; i++)
            if (score[i] > s->best)
                s->best = score[i];
    }
    free(score);
    return NULL;
}

/* All threads search at once; milliseconds. */
static double round_ms(const float *panels, size_t faces, int queries,
                       int n_threads)
{
    struct search all[MAX_THREADS];
    int64_t at = ut_clock_us();
    int n = 0;

    for (int i = 0; i < n_threads; i++) {
        all[i] = (struct search){panels, faces, queries, -2, 0};
        if (pthread_create(&all[i].thread, NULL, run, &all[i]))
            break;
        n++;
    }
    for (int i = 0; i < n; i++)
        pthread_join(all[i].thread, NULL);
    return (double)(ut_clock_us() - at) / 1000;
}

int bench_gallery(size_t faces, int n_threads, int reps, bool json)
{
    static double ms[N_KINDS][MAX_REPS];
    size_t count = mdl_panel_count(faces, DIM);
    double gb = (double)count * sizeof(float) * n_threads / 1e9, least;
    float *panels = faces > SIZE_MAX / sizeof(float) / DIM / 2
                        ? NULL
                        : aligned_alloc(64, count * sizeof(float));

    if (!panels) {
        fprintf(stderr, "tscaf-model: no memory for %zu faces\n", faces);
        return 1;
    }
    for (size_t i = 0; i < count; i++)
        panels[i] = (float)((i * 2654435761u >> 8) % 1024) / 1024 - 0.5f;
    for (int r = -1; r < reps; r++) /* the first round only warms up */
        for (int k = 0; k < N_KINDS; k++) {
            double t = round_ms(panels, faces, queries_of[k], n_threads);

            if (r >= 0)
                ms[k][r] = t;
        }
    free(panels);
    least = bench_median(ms[0], reps);
    if (!json)
        printf("%zu faces, %d threads, reading alone %.1f ms, %.1f GB/s\n"
               "%8s %12s %12s %16s %18s\n",
               faces, n_threads, least, gb / least * 1e3, "queries", "ms",
               "GB/s", "share of reading", "faces compared/s");
    for (int k = 1; k < N_KINDS; k++) {
        double t = bench_median(ms[k], reps);

        if (json)
            printf("{\"faces\":%zu,\"queries\":%d,\"ms\":%.3f,"
                   "\"gb_per_second\":%.2f,\"read_share\":%.4f}\n",
                   faces, queries_of[k], t, gb / t * 1e3, least / t);
        else
            printf("%8d %12.2f %12.1f %16.2f %18.3g\n", queries_of[k], t,
                   gb / t * 1e3, least / t,
                   (double)faces * queries_of[k] * n_threads / t * 1e3);
    }
    return 0;
}
