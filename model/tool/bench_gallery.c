/* The gallery's search, by the processor and by a device if one is asked for,
 * beside the rate at which memory is read. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "model/data/augment.h"
#include "model/search.h"
#include "model/tool/bench.h"
#include "model/tool/cmd.h"

#define DIM 512
#define TOP 5
#define MAX_THREADS 64
#define MAX_REPS 1000
#define N_KINDS 7
#define READ_MAX ((size_t)256 << 20) /* numbers that reading alone reads */

/* queries 0: only reading. */
static const struct kind {
    int queries;
    bool device;
} kinds[N_KINDS] = {{0, false}, {1, false}, {8, false}, {32, false},
                    {1, true},  {8, true},  {32, true}};

struct best {
    float product[TOP];
    size_t row[TOP];
};

struct rig {
    const struct bench_gallery *b;
    struct mdl_backend *backend;
    struct mdl_search *search;
    float *queries, *buffer; /* owned; [32, DIM], [n_buffer] */
    size_t n_buffer;
};

struct search {
    const struct rig *rig;
    struct kind kind;
    struct best best[MDL_SEARCH_QUERIES];
    float sum; /* so that reading is done */
    bool failed;
    pthread_t thread;
};

static void random_row(uint64_t seed, float row[DIM])
{
    double norm = 0;

    for (int i = 0; i < DIM; i++) {
        row[i] = (float)(2 * mdl_uniform(&seed) - 1);
        norm += (double)row[i] * row[i];
    }
    for (int i = 0; i < DIM; i++)
        row[i] = (float)(row[i] / sqrt(norm));
}

static float keep(void *arg, int query, size_t row, float product)
{
    struct best *b = &((struct search *)arg)->best[query];
    int at = TOP - 1;

    for (int i = 0; i < TOP; i++)
        if (b->row[i] == row) /* it may be told twice */
            return b->product[TOP - 1];
    if (product < b->product[at] ||
        (product == b->product[at] && row > b->row[at]))
        return b->product[TOP - 1];
    for (; at && (product > b->product[at - 1] ||
                  (product == b->product[at - 1] && row < b->row[at - 1]));
         at--) {
        b->product[at] = b->product[at - 1];
        b->row[at] = b->row[at - 1];
    }
    b->product[at] = product;
    b->row[at] = row;
    return b->product[TOP - 1];
}

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
    struct search *s = arg;
    const struct rig *rig = s->rig;
    const float *queries[MDL_SEARCH_QUERIES];
    struct mdl_search_scratch *x;
    struct ut_error e;

    if (!s->kind.queries) {
        s->sum = read_all(rig->buffer, rig->n_buffer);
        return NULL;
    }
    s->failed = mdl_search_scratch_new(rig->search, &x, &e) != UT_OK;
    if (s->failed)
        return NULL;
    for (int q = 0; q < s->kind.queries; q++) {
        queries[q] = rig->queries + q * DIM;
        for (int i = 0; i < TOP; i++) {
            s->best[q].product[i] = -INFINITY;
            s->best[q].row[i] = SIZE_MAX;
        }
    }
    (s->kind.device ? mdl_search_run : mdl_search_run_here)(
        rig->search, x, queries, s->kind.queries, keep, s);
    mdl_search_scratch_free(x);
    return NULL;
}

/* All threads at once; milliseconds, negative if memory was too short. */
static double round_ms(const struct rig *rig, struct kind kind,
                       struct best *best)
{
    static struct search all[MAX_THREADS];
    int64_t at = ut_clock_us();
    bool failed = false;
    int n = 0;

    for (; n < rig->b->threads; n++) {
        all[n] = (struct search){.rig = rig, .kind = kind};
        if (pthread_create(&all[n].thread, NULL, run, &all[n]))
            break;
    }
    for (int i = 0; i < n; i++) {
        pthread_join(all[i].thread, NULL);
        failed |= all[i].failed;
    }
    memcpy(best, all[0].best, sizeof(all[0].best));
    return failed || n < rig->b->threads ? -1
                                         : (double)(ut_clock_us() - at) / 1000;
}

static void on_remark(void *arg, const char *line)
{
    (void)arg;
    fprintf(stderr, "tscaf-model: %s\n", line);
}

static enum ut_err fill(struct rig *r, struct ut_error *e)
{
    size_t faces = r->b->faces;
    float row[DIM];
    enum ut_err rc = mdl_search_new(DIM, faces, &r->search, e);

    r->n_buffer = faces * DIM < READ_MAX ? faces * DIM : READ_MAX;
    r->queries = malloc(MDL_SEARCH_QUERIES * DIM * sizeof(float));
    r->buffer = aligned_alloc(64, r->n_buffer * sizeof(float));
    if (!rc && (!r->queries || !r->buffer))
        rc = ut_fail(e, UT_ENOMEM, "no memory for %zu faces", faces);
    if (!rc && r->b->backend)
        rc = cmd_open_backend(r->b->backend, &r->backend, e);
    if (!rc && r->backend)
        rc = mdl_search_place(r->search, &r->backend, 1, on_remark, NULL, e);
    for (size_t i = 0; i < faces && !rc; i++) {
        random_row(i + 1, row);
        rc = mdl_search_add(r->search, row, e);
    }
    for (size_t i = 0; i < r->n_buffer && !rc; i++)
        r->buffer[i] = (float)(i % 1024);
    for (int q = 0; q < MDL_SEARCH_QUERIES && !rc; q++)
        random_row(~(uint64_t)q, r->queries + q * DIM);
    return rc;
}

static void empty(struct rig *r)
{
    mdl_search_free(r->search);
    if (r->backend)
        mdl_backend_close(r->backend);
    free(r->queries);
    free(r->buffer);
}

static void print(const struct rig *r, const struct kind *k, double ms,
                  double read_gbps)
{
    double bytes = (double)r->b->faces * DIM * (k->device ? 2 : 4);
    double gbps = bytes * r->b->threads / ms / 1e6;
    double rate = (double)r->b->faces * k->queries * r->b->threads / ms * 1e3;
    const char *by = k->device ? mdl_backend_name(r->backend) : "processor";

    if (r->b->json) {
        printf("{\"faces\":%zu,\"queries\":%d,\"by\":\"%s\",\"ms\":%.3f,"
               "\"gb_per_second\":%.2f,\"read_share\":",
               r->b->faces, k->queries, by, ms, gbps);
        printf(k->device ? "null}\n" : "%.4f}\n", gbps / read_gbps);
        return;
    }
    printf("%-10s %8d %12.2f %12.1f", by, k->queries, ms, gbps);
    if (k->device)
        printf(" %16s", "-");
    else
        printf(" %16.2f", gbps / read_gbps);
    printf(" %18.3g\n", rate);
}

/* Whether device and processor found the same. */
static bool agree(const struct rig *r)
{
    struct best here[MDL_SEARCH_QUERIES], there[MDL_SEARCH_QUERIES];
    bool same =
        round_ms(r, kinds[3], here) >= 0 && round_ms(r, kinds[6], there) >= 0;

    for (int q = 0; q < MDL_SEARCH_QUERIES && same; q++)
        same = !memcmp(here[q].product, there[q].product,
                       sizeof(here[q].product)) &&
               !memcmp(here[q].row, there[q].row, sizeof(here[q].row));
    return same;
}

static int measure(const struct rig *r)
{
    static double ms[N_KINDS][MAX_REPS];
    static struct best best[MDL_SEARCH_QUERIES];
    struct mdl_search_stats stats = {0};
    int n_kinds = 4;
    double gbps;

    if (r->backend) {
        mdl_search_settle(r->search, true);
        mdl_search_stats(r->search, &stats);
        n_kinds = stats.device_bytes ? N_KINDS : n_kinds;
    }
    for (int i = -1; i < r->b->reps; i++) /* the first round only warms up */
        for (int k = 0; k < n_kinds; k++) {
            double t = round_ms(r, kinds[k], best);

            if (t < 0) {
                fprintf(stderr, "tscaf-model: no memory for %d threads\n",
                        r->b->threads);
                return 1;
            }
            if (i >= 0)
                ms[k][i] = t;
        }
    gbps = (double)r->n_buffer * sizeof(float) * r->b->threads / 1e6 /
           bench_median(ms[0], r->b->reps);
    if (!r->b->json)
        printf("%zu faces, %d threads, reading alone %.1f GB/s\n"
               "%-10s %8s %12s %12s %16s %18s\n",
               r->b->faces, r->b->threads, gbps, "by", "queries", "ms", "GB/s",
               "share of reading", "faces compared/s");
    for (int k = 1; k < n_kinds; k++)
        print(r, &kinds[k], bench_median(ms[k], r->b->reps), gbps);
    if (n_kinds == N_KINDS && !agree(r)) {
        fprintf(stderr, "tscaf-model: the device's answer is not the "
                        "processor's\n");
        return 1;
    }
    mdl_search_stats(r->search, &stats);
    if (n_kinds == N_KINDS)
        fprintf(stderr,
                "tscaf-model: the device has %llu MiB of faces and answered "
                "%llu queries, the processor %llu of the device's again\n",
                (unsigned long long)stats.device_bytes >> 20,
                (unsigned long long)stats.by_device,
                (unsigned long long)stats.again);
    return 0;
}

int bench_gallery(const struct bench_gallery *b)
{
    struct rig r = {.b = b};
    struct ut_error e;
    double pages =
        (double)b->faces * DIM * sizeof(float) / (double)sysconf(_SC_PAGESIZE);
    int code;

    if (pages > (double)sysconf(_SC_PHYS_PAGES)) {
        fprintf(stderr, "tscaf-model: no memory for %zu faces\n", b->faces);
        return 1;
    }

    code = fill(&r, &e) ? cmd_fail(&e) : measure(&r);
    empty(&r);
    return code;
}
