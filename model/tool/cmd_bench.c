/* tscaf-model bench: time the network, configurations interleaved, beside what
 * the cores can do at most. */
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/backend.h"
#include "model/tool/bench.h"
#include "model/tool/cmd.h"

static const char help[] =
    "usage: tscaf-model bench [--backend NAME] [--precision P,...] "
    "[--batch N,...]\n"
    "                         [--threads N] [--reps N] [--profile] [--json]\n"
    "                         MODEL|SPEC\n"
    "       tscaf-model bench --train [--backend NAME] [--precision P,...] "
    "[--batch N]\n"
    "                         [--threads N] [--reps N] [--profile] [--json]\n"
    "                         MODEL|SPEC\n"
    "       tscaf-model bench --gallery N [--backend NAME] [--threads N]\n"
    "                         [--reps N] [--json]\n"
    "\n"
    "Runs N pinned single-threaded lanes at once, each with batches of its "
    "own,\n"
    "and prints the median time of a face over the repetitions. The\n"
    "configurations take turns, so that a noisy machine is noisy to all. "
    "peak is\n"
    "the share of the multiply-adds a second that the same cores reach "
    "without\n"
    "memory, measured in turn; Winograd, counted as direct convolution, can "
    "pass\n"
    "it; on cuda there is none, but the kernels' time without copies. "
    "GB/s is what\n"
    "a batch has to move through memory. --train times training steps "
    "(forward, "
    "ArcFace, backward, AdamW) of "
    "one\n"
    "batch (64) on N threads; --gallery the search in a gallery of N faces\n"
    "by the processor and, if --backend has one, a device, whose answers must "
    "be\n"
    "the same.\n";

#define MAX_CONFIGS 32
#define MAX_BATCH 256
#define MAX_THREADS 64
#define MAX_REPS 1000

struct bench;

struct worker {
    struct bench *b;
    int idx;
    pthread_t thread;
    struct mdl_lane *lane;
    struct mdl_plan *plans[MAX_CONFIGS];
    int64_t began_us, ended_us;
    enum ut_err rc;
    struct ut_error error;
};

struct config {
    enum mdl_precision precision;
    int batch;           /* 0: the cores' peak instead of the network */
    double ms[MAX_REPS]; /* of all lanes together */
    struct mdl_device_stats spent; /* on it, by a device: all reps */
};

struct bench {
    const char *backend;
    int n_threads, reps;
    bool profile, json;
    struct config configs[MAX_CONFIGS];
    int n_configs, now; /* now: the one being run; -1: end */
    struct mdl_graph graph;
    struct mdl_backend *device;
    struct worker workers[MAX_THREADS];
    pthread_barrier_t start, end;
    double macs;
};

static enum ut_err prepare(struct worker *w)
{
    struct bench *b = w->b;
    cpu_set_t one;
    enum ut_err rc = mdl_lane_new(b->device, &w->lane, &w->error);

    CPU_ZERO(&one);
    CPU_SET(w->idx, &one);
    pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
    for (int i = 0; i < b->n_configs && !rc; i++)
        if (b->configs[i].batch)
            rc = mdl_plan_new(w->lane, &b->graph, b->configs[i].precision,
                              b->configs[i].batch, &w->plans[i], &w->error);
    return rc;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct bench *b = w->b;
    const struct mdl_graph *g = &b->graph;
    size_t image = mdl_shape_count(&g->values[g->input].shape);
    uint8_t *in = malloc(MAX_BATCH * image);
    float *out[MDL_MAX_OUTPUTS] = {0};
    struct mdl_io io = {in, out};

    for (int i = 0; i < g->n_outputs; i++)
        if (g->outputs[i] >= 0)
            out[i] = malloc(MAX_BATCH * sizeof(float) *
                            mdl_shape_count(&g->values[g->outputs[i]].shape));
    for (size_t i = 0; in && i < MAX_BATCH * image; i++)
        in[i] = (uint8_t)(i * 31 >> 2);
    w->rc = in ? prepare(w) : ut_fail(&w->error, UT_ENOMEM, "no memory");
    for (;;) {
        pthread_barrier_wait(&b->start);
        if (b->now < 0)
            break;
        w->began_us = ut_clock_us();
        if (!b->configs[b->now].batch)
            bench_peak(b->configs[b->now].precision);
        else if (!w->rc)
            w->rc = mdl_plan_run(w->plans[b->now], &io, &w->error);
        w->ended_us = ut_clock_us();
        pthread_barrier_wait(&b->end);
    }
    free(in);
    for (int i = 0; i < g->n_outputs; i++)
        free(out[i]);
    return NULL;
}

static void profile_line(void *arg, const char *name, const char *detail,
                         double us, double macs)
{
    (void)arg;
    printf("    %-16s %-40s %9.0f us %7.1f GFLOP/s\n", name, detail, us,
           us > 0 ? 2 * macs / us / 1e3 : 0);
}

static double gflops(const struct bench *b, const struct config *c, double ms)
{
    double macs = c->batch ? b->macs * c->batch : bench_peak_macs(c->precision);

    return 2 * macs * b->n_threads / ms / 1e6;
}

static double peak_of(const struct bench *b, enum mdl_precision precision,
                      const double *ms)
{
    for (int i = 0; i < b->n_configs; i++)
        if (!b->configs[i].batch && b->configs[i].precision == precision)
            return gflops(b, &b->configs[i], ms[i]);
    return 0;
}

/* The device's time for a face without copies, ms, or the word for none. */
static void kernel_text(const struct bench *b, const struct config *c,
                        char text[16])
{
    if (c->spent.batches)
        snprintf(text, 16, b->json ? "%.5f" : "%.4f",
                 (double)c->spent.kernel_us / 1e3 /
                     ((double)c->spent.batches * c->batch));
    else
        snprintf(text, 16, "%s", b->json ? "null" : "-");
}

static void report(struct bench *b)
{
    double ms[MAX_CONFIGS];

    for (int i = 0; i < b->n_configs; i++)
        ms[i] = bench_median(b->configs[i].ms, b->reps);
    if (!b->json)
        printf("%-10s %6s %12s %12s %12s %6s %10s %8s\n", "precision", "batch",
               "ms/face", "faces/s", "GFLOP/s", "peak", "kernel ms", "GB/s");
    for (int i = 0; i < b->n_configs; i++) {
        const struct config *c = &b->configs[i];
        double face = ms[i] / (c->batch * b->n_threads);
        double rate = gflops(b, c, ms[i]);
        double moved =
            c->batch ? bench_bytes(&b->graph, c->precision, c->batch) : 0;
        double peak = peak_of(b, c->precision, ms);
        char share[16] = "-", kernel[16];

        if (!c->batch)
            continue;
        if (peak > 0)
            snprintf(share, sizeof(share), b->json ? "%.4f" : "%.2f",
                     rate / peak);
        else if (b->json)
            snprintf(share, sizeof(share), "null");
        kernel_text(b, c, kernel);
        printf(b->json ? "{\"precision\":\"%s\",\"batch\":%d,"
                         "\"ms_per_face\":%.4f,\"faces_per_second\":%.2f,"
                         "\"gflops\":%.2f,\"peak_share\":%s,"
                         "\"kernel_ms_per_face\":%s,"
                         "\"gb_per_second\":%.1f}\n"
                       : "%-10s %6d %12.3f %12.1f %12.1f %6s %10s %8.1f\n",
               mdl_precision_name(c->precision), c->batch, face, 1000 / face,
               rate, share, kernel, moved * b->n_threads / ms[i] / 1e6);
        if (b->profile)
            mdl_plan_profile(b->workers[0].plans[i], profile_line, NULL);
    }
}

/* Adds what the device did since `before`. */
static void spend(struct bench *b, struct config *c,
                  const struct mdl_device_stats *before)
{
    struct mdl_device_stats now;

    if (!mdl_backend_stats(b->device, &now))
        return;
    c->spent.batches += now.batches - before->batches;
    c->spent.kernel_us += now.kernel_us - before->kernel_us;
}

/* From the first lane's start to the last one's end. The main thread has no
 * core of its own, so that its clock would miss the start. */
static double round_ms(const struct bench *b)
{
    int64_t from = b->workers[0].began_us, to = b->workers[0].ended_us;

    for (int i = 1; i < b->n_threads; i++) {
        const struct worker *w = &b->workers[i];

        from = w->began_us < from ? w->began_us : from;
        to = w->ended_us > to ? w->ended_us : to;
    }
    return (double)(to - from) / 1000;
}

static enum ut_err run_all(struct bench *b, struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    pthread_barrier_init(&b->start, NULL, (unsigned)b->n_threads + 1);
    pthread_barrier_init(&b->end, NULL, (unsigned)b->n_threads + 1);
    for (int i = 0; i < b->n_threads; i++) {
        b->workers[i].b = b;
        b->workers[i].idx = i;
        if (pthread_create(&b->workers[i].thread, NULL, work, &b->workers[i]))
            return ut_fail(e, UT_ENOMEM, "thread %d cannot be started", i);
    }
    for (int r = -1; r < b->reps; r++) /* the first round only warms up */
        for (int i = 0; i < b->n_configs; i++) {
            struct mdl_device_stats before = {0};

            mdl_backend_stats(b->device, &before);
            b->now = i;
            pthread_barrier_wait(&b->start);
            pthread_barrier_wait(&b->end);
            if (r < 0)
                continue;
            b->configs[i].ms[r] = round_ms(b);
            spend(b, &b->configs[i], &before);
        }
    b->now = -1;
    pthread_barrier_wait(&b->start);
    for (int i = 0; i < b->n_threads; i++) {
        pthread_join(b->workers[i].thread, NULL);
        if (b->workers[i].rc && !rc)
            rc = ut_fail(e, b->workers[i].rc, "%s", b->workers[i].error.msg);
    }
    if (!rc)
        report(b);
    for (int i = 0; i < b->n_threads; i++) {
        for (int k = 0; k < b->n_configs; k++)
            mdl_plan_free(b->workers[i].plans[k]);
        mdl_lane_free(b->workers[i].lane);
    }
    return rc;
}

enum ut_err bench_open(const char *path, struct mdl_model *m,
                       struct ut_error *e)
{
    size_t len = strlen(path);
    struct mdl_spec *spec;
    enum ut_err rc;

    if (len > 12 && !strcmp(path + len - 12, ".safetensors"))
        return mdl_model_open(path, m, e);
    spec = malloc(sizeof(*spec));
    rc = spec ? cmd_read_spec(path, spec, e)
              : ut_fail(e, UT_ENOMEM, "no memory");
    if (!rc)
        rc = mdl_model_fresh(spec, 1, m, e);
    free(spec);
    return rc;
}

/* What the cores can do says nothing of a GPU. */
static void drop_peaks(struct bench *b)
{
    int n = 0;

    for (int i = 0; i < b->n_configs; i++)
        if (b->configs[i].batch)
            b->configs[n++] = b->configs[i];
    b->n_configs = n;
}

static enum ut_err open_all(struct bench *b, const char *path,
                            struct mdl_model *m, struct ut_error *e)
{
    enum ut_err rc = bench_open(path, m, e);
    uint64_t keep = 0;

    if (rc)
        return rc;
    /* What a server computes: the leaves' last outputs. */
    for (int i = 0; i < m->graph.n_outputs; i++) {
        const char *name = m->graph.values[m->graph.outputs[i]].name;

        if (strstr(name, ".probability") || strstr(name, ".normalized"))
            keep |= 1ull << i;
    }
    for (int i = 0; i < m->graph.n_nodes; i++)
        b->macs += (double)mdl_node_macs(&m->graph, &m->graph.nodes[i]);
    rc = mdl_graph_optimise(&m->graph, keep, &b->graph, e);
    if (!rc)
        rc = cmd_open_backend(b->backend, &b->device, e);
    if (!rc && !strcmp(mdl_backend_name(b->device), "cuda"))
        drop_peaks(b);
    return rc;
}

/* Every precision with every batch; false after a complaint. */
static bool make_configs(struct bench *b, const char *precisions,
                         const char *batches)
{
    char text[128], *save, *word;

    snprintf(text, sizeof(text), "%s", precisions);
    for (word = strtok_r(text, ",", &save); word;
         word = strtok_r(NULL, ",", &save)) {
        int precision = mdl_precision_parse(word);

        if (precision < 0) {
            fprintf(stderr, "tscaf-model: --precision %s is unknown\n", word);
            return false;
        }
        if (b->n_configs < MAX_CONFIGS)
            b->configs[b->n_configs++] =
                (struct config){.precision = (enum mdl_precision)precision};
        for (const char *p = batches; *p; p += strspn(p, ",")) {
            char *end;
            long n = strtol(p, &end, 10);

            if (end == p || n < 1 || n > MAX_BATCH ||
                b->n_configs == MAX_CONFIGS) {
                fprintf(stderr,
                        "tscaf-model: --batch %s is not a list of 1 "
                        "to %d\n",
                        batches, MAX_BATCH);
                return false;
            }
            b->configs[b->n_configs++] = (struct config){
                .precision = (enum mdl_precision)precision, .batch = (int)n};
            p = end;
        }
    }
    return true;
}

static int run_bench(struct bench *b, const char *path)
{
    struct mdl_model m = {0};
    char report[512];
    struct ut_error e;
    enum ut_err rc;

    mdl_graph_init(&b->graph);
    rc = open_all(b, path, &m, &e);
    if (!rc)
        rc = run_all(b, &e);
    if (!rc)
        mdl_backend_report(b->device, report, sizeof(report));
    if (!rc && *report)
        fprintf(stderr, "tscaf-model: %s\n", report);
    mdl_backend_close(b->device);
    mdl_graph_fini(&b->graph);
    mdl_model_close(&m);
    return rc ? cmd_fail(&e) : 0;
}

static int train(const struct bench *b, const char *precisions, int batch,
                 const char *path)
{
    struct bench_train t = {.backend = b->backend,
                            .threads = b->n_threads,
                            .batch = batch,
                            .reps = b->reps,
                            .profile = b->profile,
                            .json = b->json};
    char text[128], *save, *word;

    snprintf(text, sizeof(text), "%s", precisions);
    for (word = strtok_r(text, ",", &save); word && t.n_precisions < 3;
         word = strtok_r(NULL, ",", &save)) {
        int precision = mdl_precision_parse(word);

        if (precision < 0) {
            fprintf(stderr, "tscaf-model: --precision %s is unknown\n", word);
            return 2;
        }
        t.precisions[t.n_precisions++] = (enum mdl_precision)precision;
    }
    if (batch < 2 || batch > 1024) {
        fprintf(stderr, "tscaf-model: --batch %d is not 2 to 1024\n", batch);
        return 2;
    }
    return bench_train(&t, path);
}

int cmd_bench(int argc, char **argv)
{
    static const struct option options[] = {
        {"backend", required_argument, NULL, 'b'},
        {"precision", required_argument, NULL, 'p'},
        {"batch", required_argument, NULL, 'n'},
        {"threads", required_argument, NULL, 't'},
        {"reps", required_argument, NULL, 'r'},
        {"profile", no_argument, NULL, 'f'},
        {"json", no_argument, NULL, 'j'},
        {"train", no_argument, NULL, 'T'},
        {"gallery", required_argument, NULL, 'g'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const char *precisions = NULL, *batches = NULL;
    bool trains = false;
    struct bench *b = calloc(1, sizeof(*b));
    long faces = 0;
    int c, code = 2;

    if (!b)
        return 1;
    b->n_threads = 2;
    b->reps = 10;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'h' || c == '?') {
            code = c == 'h' ? fputs(help, stdout) < 0 : 2;
            goto out;
        }
        if (c == 'b')
            b->backend = optarg;
        if (c == 'p')
            precisions = optarg;
        if (c == 'n')
            batches = optarg;
        if (c == 't')
            b->n_threads = atoi(optarg);
        if (c == 'r')
            b->reps = atoi(optarg);
        if (c == 'f')
            b->profile = true;
        if (c == 'j')
            b->json = true;
        if (c == 'T')
            trains = true;
        if (c == 'g')
            faces = atol(optarg);
    }
    if (argc - optind != (faces ? 0 : 1) || faces < 0 || b->n_threads < 1 ||
        b->n_threads > MAX_THREADS || b->reps < 1 || b->reps > MAX_REPS)
        fputs(help, stderr);
    else if (faces)
        code = bench_gallery(&(struct bench_gallery){.faces = (size_t)faces,
                                                     .backend = b->backend,
                                                     .threads = b->n_threads,
                                                     .reps = b->reps,
                                                     .json = b->json});
    else if (trains)
        code = train(b, precisions ? precisions : "float32",
                     batches ? atoi(batches) : 64, argv[optind]);
    else if (make_configs(b, precisions ? precisions : "float32,bfloat16",
                          batches ? batches : "1,8"))
        code = run_bench(b, argv[optind]);
out:
    free(b);
    return code;
}
