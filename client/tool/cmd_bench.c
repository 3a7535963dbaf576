/* tscaf bench: how much the server bears. Closed loop: N clients, each sends
 * again when it has its answer. Open loop: requests leave at a rate whatever
 * the answers do, and latency counts from the moment each was due. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "client/pictures.h"
#include "client/tool/cmd.h"

#define MAX_LEVELS 32
#define MAX_CONCURRENCY 4096
#define MAX_SAMPLES 4000000
#define N_CODES (API_UNAUTHENTICATED + 1)

static const char help[] =
    "usage: tscaf bench [OPTIONS] PATH...\n"
    "\n"
    "Sends the pictures round robin to POST /v1/analyze and prints, for every\n"
    "level of load, throughput, latency and errors by kind.\n"
    "\n"
    "  --concurrency LIST   closed loop: requests on their way "
    "(1,2,4,8,16,32)\n"
    "  --rate LIST          open loop instead: requests per second\n"
    "  --duration S         of each level (5)\n"
    "  --warm-up S          before it, not counted (1)\n"
    "  --input frame|crop   (frame)\n"
    "  --tasks LIST         fatigue,recognition (all)\n"
    "  --priority live|bulk (live)\n"
    "\n"
    "Errors count as requests, not as throughput; --retries is 0. Exit code 1 "
    "if\n"
    "every request of a level failed.\n";

static const struct option options[] = {
    {"concurrency", required_argument, NULL, 'c'},
    {"rate", required_argument, NULL, 'r'},
    {"duration", required_argument, NULL, 'd'},
    {"warm-up", required_argument, NULL, 'w'},
    {"input", required_argument, NULL, 'q'},
    {"tasks", required_argument, NULL, 'q'},
    {"priority", required_argument, NULL, 'q'},
    CMD_OPTIONS,
    {0},
};

struct body {
    char *bytes;
    size_t len;
    const char *type;
};

struct bench {
    struct cmd cmd;
    struct cl_client *client;
    struct cl_pictures files;
    struct body *bodies;
    struct ut_buf path;
    double levels[MAX_LEVELS], duration_s, warm_up_s;
    int n_levels;
    bool open;

    /* one level */
    int64_t counted_from_us, end_us;
    float *ms; /* of the good answers that count */
    int n_ms, next_body;
    long sent, errors[N_CODES], skipped;
    enum ut_err rc;
    struct ut_error e;
};

struct shot {
    struct bench *b;
    int64_t due_us;
};

static void on_answer(void *ctx, struct cl_answer *a)
{
    struct shot *s = ctx;
    struct bench *b = s->b;
    int64_t now = ut_clock_us();

    int64_t counts = b->open ? s->due_us : now;

    if (counts >= b->counted_from_us && counts < b->end_us) {
        b->sent++;
        if (!a->ok)
            b->errors[a->err.code]++;
        else if (b->n_ms < MAX_SAMPLES)
            b->ms[b->n_ms++] = (float)(now - s->due_us) / 1000;
    }
    free(s);
}

static void fire(struct bench *b, int64_t due_us)
{
    const struct body *x = &b->bodies[b->next_body++ % b->files.n];
    struct cl_request r = {.method = "POST",
                           .path = b->path.data,
                           .type = x->type,
                           .body = x->bytes,
                           .len = x->len};
    struct shot *s = malloc(sizeof(*s));

    if (!s) {
        b->rc = ut_fail(&b->e, UT_ENOMEM, "no memory");
        return;
    }
    s->b = b;
    s->due_us = due_us;
    b->rc = cl_start(b->client, &r, on_answer, s, &b->e);
    if (b->rc)
        free(s);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static double percentile(const struct bench *b, double p)
{
    int at = (int)ceil(p * b->n_ms) - 1;

    return b->n_ms ? (double)b->ms[at < 0 ? 0 : at] : 0;
}

static void report(struct bench *b, double level, double seconds)
{
    const char *mode = b->open ? "rate" : "concurrency", *comma = "";
    double p[] = {percentile(b, 0.5), percentile(b, 0.95), percentile(b, 0.99),
                  percentile(b, 1)};

    if (b->cmd.json)
        printf("{\"%s\":%g,\"requests\":%ld,\"ok\":%d,\"per_second\":%.2f,"
               "\"p50_ms\":%.3f,\"p95_ms\":%.3f,\"p99_ms\":%.3f,"
               "\"max_ms\":%.3f,\"errors\":{",
               mode, level, b->sent, b->n_ms, b->n_ms / seconds, p[0], p[1],
               p[2], p[3]);
    else
        printf("%11g  %8ld  %8d  %9.1f  %8.2f  %8.2f  %8.2f  %8.2f ", level,
               b->sent, b->n_ms, b->n_ms / seconds, p[0], p[1], p[2], p[3]);
    for (int i = 1; i < N_CODES; i++) {
        if (!b->errors[i])
            continue;
        printf(b->cmd.json ? "%s\"%s\":%ld" : "%s %s %ld",
               b->cmd.json ? comma : "", api_code_name((enum api_code)i),
               b->errors[i]);
        comma = ",";
    }
    if (b->cmd.json)
        printf("},\"skipped\":%ld}\n", b->skipped);
    else if (b->skipped)
        printf(" (%ld never sent: %d were waiting)\n", b->skipped,
               MAX_CONCURRENCY);
    else
        putchar('\n');
    fflush(stdout);
}

/* Starts what is due now; the milliseconds until the next. */
static int fire_due(struct bench *b, double level, int64_t start_us,
                    int64_t *n_fired)
{
    int64_t now = ut_clock_us();

    if (!b->open) {
        while (!b->rc && cl_busy(b->client) < (int)level)
            fire(b, ut_clock_us());
        return 100;
    }
    for (;;) {
        int64_t due = start_us + (int64_t)((double)*n_fired * 1e6 / level);

        if (due > now || due >= b->end_us)
            return due > now ? (int)((due - now) / 1000) : 0;
        ++*n_fired;
        if (cl_busy(b->client) >= MAX_CONCURRENCY)
            b->skipped++;
        else
            fire(b, due);
        if (b->rc)
            return 0;
    }
}

static bool run_level(struct bench *b, double level)
{
    int64_t start_us = ut_clock_us(), n_fired = 0;

    memset(b->errors, 0, sizeof(b->errors));
    b->sent = b->skipped = b->n_ms = 0;
    b->counted_from_us = start_us + (int64_t)(b->warm_up_s * 1e6);
    b->end_us = b->counted_from_us + (int64_t)(b->duration_s * 1e6);
    while (!b->rc && ut_clock_us() < b->end_us) {
        int wait_ms = fire_due(b, level, start_us, &n_fired);

        if (!b->rc)
            b->rc = cl_wait(b->client, wait_ms, &b->e);
    }
    while (!b->rc && cl_busy(b->client))
        b->rc = cl_wait(b->client, 1000, &b->e);
    if (b->rc)
        return false;
    qsort(b->ms, (size_t)b->n_ms, sizeof(*b->ms), by_value);
    report(b, level, b->duration_s);
    return b->n_ms > 0;
}

static int parse_levels(struct bench *b, const char *option, const char *text,
                        double most)
{
    char *end;

    for (b->n_levels = 0;; text = end + 1) {
        double x = strtod(text, &end);

        if (end == text || (*end && *end != ',') || !(x > 0) || x > most)
            return cmd_usage(&b->cmd, "%s wants numbers up to %g, not \"%s\"",
                             option, most, text);
        if (b->n_levels == MAX_LEVELS)
            return cmd_usage(&b->cmd, "%s has over %d levels", option,
                             MAX_LEVELS);
        b->levels[b->n_levels++] = b->open ? x : floor(x < 1 ? 1 : x);
        if (!*end)
            return -1;
    }
}

static int parse_seconds(const struct cmd *c, const char *option, double *out)
{
    char *end;

    *out = strtod(optarg, &end);
    if (end == optarg || *end || !(*out >= 0) || *out > 86400)
        return cmd_usage(c, "%s \"%s\" is no number of seconds", option,
                         optarg);
    return -1;
}

static int parse(struct bench *b, int argc, char **argv)
{
    struct ut_error e;
    int c, index, code = -1;

    while (code < 0 &&
           (c = getopt_long(argc, argv, "", options, &index)) != -1) {
        switch (c) {
        case 'q':
            if (cmd_query(&b->path, options[index].name, optarg, &e))
                code = cmd_fail(&b->cmd, &e);
            break;
        case 'c':
            b->open = false;
            code = parse_levels(b, "--concurrency", optarg, MAX_CONCURRENCY);
            break;
        case 'r':
            b->open = true;
            code = parse_levels(b, "--rate", optarg, 1e6);
            break;
        case 'd':
            code = parse_seconds(&b->cmd, "--duration", &b->duration_s);
            break;
        case 'w':
            code = parse_seconds(&b->cmd, "--warm-up", &b->warm_up_s);
            break;
        default:
            code = cmd_option(&b->cmd, c);
        }
    }
    if (code >= 0)
        return code;
    if (optind == argc)
        return cmd_usage(&b->cmd, "there is no PATH");
    for (; optind < argc; optind++)
        if (cl_pictures_add(&b->files, argv[optind], &e))
            return cmd_fail(&b->cmd, &e);
    if (!b->files.n)
        return cmd_usage(&b->cmd, "there is no picture in PATH");
    return -1;
}

static enum ut_err read_bodies(struct bench *b)
{
    enum ut_err rc = UT_OK;

    b->bodies = calloc((size_t)b->files.n, sizeof(*b->bodies));
    b->ms = malloc(MAX_SAMPLES * sizeof(*b->ms));
    if (!b->bodies || !b->ms)
        return ut_fail(&b->e, UT_ENOMEM, "no memory");
    for (int i = 0; !rc && i < b->files.n; i++) {
        struct body *x = &b->bodies[i];

        rc = cl_picture_read(b->files.paths[i], &x->bytes, &x->len, &x->type,
                             &b->e);
    }
    return rc;
}

int cmd_bench(int argc, char **argv)
{
    struct bench b = {.levels = {1, 2, 4, 8, 16, 32},
                      .n_levels = 6,
                      .duration_s = 5,
                      .warm_up_s = 1};
    int code;

    cmd_init(&b.cmd, "bench", help);
    b.cmd.client.retries = 0;
    ut_buf_init(&b.path, 1024);
    if (ut_buf_addf(&b.path, &b.e, "/v1/analyze"))
        return cmd_fail(&b.cmd, &b.e);
    code = parse(&b, argc, argv);
    if (code < 0) {
        code = CMD_OK;
        b.rc = read_bodies(&b);
        if (!b.rc)
            b.rc = cl_open(&b.cmd.client, &b.client, &b.e);
        if (!b.rc && !b.cmd.json)
            printf("%11s  %8s  %8s  %9s  %8s  %8s  %8s  %8s  errors\n",
                   b.open ? "rate" : "concurrency", "requests", "ok", "ok/s",
                   "p50 ms", "p95 ms", "p99 ms", "max ms");
        for (int i = 0; !b.rc && i < b.n_levels; i++)
            if (!run_level(&b, b.levels[i]))
                code = CMD_SOME;
        if (b.rc)
            code = cmd_fail(&b.cmd, &b.e);
    }
    cl_close(b.client);
    for (int i = 0; b.bodies && i < b.files.n; i++)
        free(b.bodies[i].bytes);
    free(b.bodies);
    free(b.ms);
    cl_pictures_fini(&b.files);
    ut_buf_fini(&b.path);
    return code;
}
