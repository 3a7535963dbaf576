/* tscaf-model eval: the field's figures for a model on given data. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backend.h"
#include "model/data/queue.h"
#include "model/eval/metrics.h"
#include "model/tool/cmd.h"

#define BATCH 16

static const char help[] =
    "usage: tscaf-model eval [--fatigue DATA] [--pairs FILE] [OPTIONS] MODEL\n"
    "\n"
    "  --fatigue DATA   a manifest of aligned faces, label 1 drowsy: "
    "accuracy,\n"
    "                   confusion, precision, recall, AUC, equal error rate\n"
    "  --pairs FILE     fold<TAB>same<TAB>a<TAB>b, paths below its folder: "
    "LFW's\n"
    "                   10-fold accuracy, AUC, TAR at FAR 1e-2, 1e-3, 1e-4\n"
    "  --backend NAME, --precision P\n"
    "\n"
    "Prints one line of JSON for each. LFW is for testing only.\n";

struct evaluation {
    const char *backend, *fatigue, *pairs;
    enum mdl_precision precision;
    struct mdl_model model;
    struct mdl_graph graph;
    struct mdl_backend *device;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
};

static enum ut_err open_model(struct evaluation *v, const char *path,
                              struct ut_error *e)
{
    enum ut_err rc = mdl_model_open(path, &v->model, e);

    if (!rc)
        rc = mdl_graph_optimise(&v->model.graph, ~0ull, &v->graph, e);
    if (!rc)
        rc = mdl_backend_open(v->backend, 0, &v->device, e);
    if (!rc)
        rc = mdl_lane_new(v->device, &v->lane, e);
    return rc ? rc
              : mdl_plan_new(v->lane, &v->graph, v->precision, BATCH, &v->plan,
                             e);
}

/* One output of every example, in the dataset's order: [n, size]. The queue's
 * order is a shuffle, so rows are laid where they belong. */
static enum ut_err run_all(struct evaluation *v, const struct mdl_dataset *d,
                           const char *output, float **values, int *size,
                           struct ut_error *e)
{
    struct mdl_queue_config c = {
        .batch = BATCH, .side = v->model.spec.input, .threads = 1, .seed = 1};
    float *out[MDL_MAX_OUTPUTS] = {0};
    const struct mdl_batch *b = NULL;
    struct mdl_queue *q = NULL;
    int at = mdl_graph_find_output(&v->graph, output);
    struct mdl_queue_state state;
    enum ut_err rc;

    *values = NULL;
    if (at < 0)
        return ut_fail(e, UT_EINVAL, "the model has no output \"%s\"", output);
    *size = (int)mdl_shape_count(&v->graph.values[v->graph.outputs[at]].shape);
    *values = calloc((size_t)d->n * (size_t)*size, sizeof(**values));
    out[at] = malloc(BATCH * (size_t)*size * sizeof(**values));
    if (!*values || !out[at])
        rc = ut_fail(e, UT_ENOMEM, "no memory for %d outputs", d->n);
    else
        rc = mdl_queue_new(d, &c, &q, e);
    for (int done = 0; done < d->n && !rc; done += BATCH) {
        rc = mdl_queue_next(q, &b, e);
        if (!rc)
            rc = mdl_plan_run(v->plan, &(struct mdl_io){b->images, out}, e);
        for (int i = 0; i < BATCH && !rc; i++)
            memcpy(*values + (size_t)b->row[i] * (size_t)*size,
                   out[at] + (size_t)i * (size_t)*size,
                   (size_t)*size * sizeof(**values));
    }
    if (q) {
        mdl_queue_state(q, &state);
        if (!rc && state.broken)
            rc = ut_fail(e, UT_EFORMAT, "%lld pictures cannot be read: %.150s",
                         (long long)state.broken, state.last);
    }
    mdl_queue_free(q);
    free(out[at]);
    return rc;
}

static enum ut_err eval_fatigue(struct evaluation *v, struct ut_error *e)
{
    struct mdl_dataset d = {0};
    struct mdl_scored *s = NULL;
    struct mdl_confusion c;
    double threshold = mdl_model_threshold(&v->model, "fatigue", 0.5);
    float *p = NULL;
    int size;
    enum ut_err rc = mdl_dataset_open(v->fatigue, &d, e);

    if (!rc)
        rc = run_all(v, &d, "fatigue.probability", &p, &size, e);
    if (!rc && !(s = malloc((size_t)d.n * sizeof(*s))))
        rc = ut_fail(e, UT_ENOMEM, "no memory for scores");
    if (!rc) {
        for (int i = 0; i < d.n; i++)
            s[i] = (struct mdl_scored){p[i], d.examples[i].label > 0, 0};
        mdl_scored_sort(s, d.n);
        c = mdl_confusion_at(s, d.n, threshold);
        printf("{\"task\":\"fatigue\",\"pictures\":%d,\"threshold\":%g,"
               "\"accuracy\":%.4f,\"true_positive\":%d,\"false_positive\":%d,"
               "\"true_negative\":%d,\"false_negative\":%d,\"auc\":%.4f,"
               "\"equal_error_rate\":%.4f}\n",
               d.n, threshold, mdl_accuracy(&c), c.true_positive,
               c.false_positive, c.true_negative, c.false_negative,
               mdl_auc(s, d.n), mdl_eer(s, d.n));
    }
    free(s);
    free(p);
    mdl_dataset_fini(&d);
    return rc;
}

/* ---- pairs ---- */

struct pair {
    int a, b, fold;
    bool same;
};

struct pairs {
    struct mdl_dataset d; /* each picture once */
    struct pair *list;    /* owned */
    int n, cap, cap_examples;
};

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct mdl_example *)a)->path,
                  ((const struct mdl_example *)b)->path);
}

/* Two examples for each line at first; equal ones become one below. */
static enum ut_err add_pair(struct pairs *p, const char *folder, char *line,
                            const char *path, int at, struct ut_error *e)
{
    char a[512], b[512], whole[2048];
    int fold, same;

    if (sscanf(line, "%d\t%d\t%511s\t%511s", &fold, &same, a, b) != 4 ||
        fold < 0)
        return ut_fail(e, UT_EFORMAT, "%.150s:%d: is no fold, same, a, b", path,
                       at);
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 4096;
        p->list = realloc(p->list, (size_t)p->cap * sizeof(*p->list));
        p->d.examples =
            realloc(p->d.examples, 2 * (size_t)p->cap * sizeof(*p->d.examples));
        if (!p->list || !p->d.examples)
            return ut_fail(e, UT_ENOMEM, "no memory for pairs");
    }
    p->list[p->n++] = (struct pair){.fold = fold, .same = same != 0};
    for (int k = 0; k < 2; k++) {
        snprintf(whole, sizeof(whole), "%s/%s", folder, k ? b : a);
        /* label: which end of which pair it is, until they are merged */
        p->d.examples[p->d.n] = (struct mdl_example){strdup(whole), p->d.n, -1};
        if (!p->d.examples[p->d.n++].path)
            return ut_fail(e, UT_ENOMEM, "no memory for pairs");
    }
    return UT_OK;
}

static void merge(struct pairs *p)
{
    int n = 0;

    qsort(p->d.examples, (size_t)p->d.n, sizeof(*p->d.examples), by_path);
    for (int i = 0; i < p->d.n; i++) {
        struct mdl_example *x = &p->d.examples[i];
        int end = x->label;

        if (n && !by_path(&p->d.examples[n - 1], x))
            free(x->path);
        else
            p->d.examples[n++] = *x;
        *(end % 2 ? &p->list[end / 2].b : &p->list[end / 2].a) = n - 1;
    }
    p->d.n = n;
}

static enum ut_err read_pairs(struct pairs *p, const char *path,
                              struct ut_error *e)
{
    char line[2048], folder[1024];
    FILE *f = fopen(path, "r");
    enum ut_err rc = UT_OK;
    char *slash;
    int at = 0;

    if (!f)
        return ut_fail(e, UT_ENOTFOUND, "%.150s: %m", path);
    snprintf(folder, sizeof(folder), "%s", path);
    slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
    while (!rc && fgets(line, sizeof(line), f))
        if (++at > 1)
            rc = add_pair(p, slash ? folder : ".", line, path, at, e);
    fclose(f);
    if (!rc && !p->n)
        rc = ut_fail(e, UT_EFORMAT, "%.150s: has no pairs", path);
    if (!rc)
        merge(p);
    return rc;
}

static enum ut_err print_pairs(const struct pairs *p, struct mdl_scored *s,
                               struct ut_error *e)
{
    struct mdl_folds folds;
    enum ut_err rc;

    mdl_scored_sort(s, p->n);
    rc = mdl_folds_of(s, p->n, &folds, e);
    if (!rc)
        printf("{\"task\":\"recognition\",\"pairs\":%d,\"pictures\":%d,"
               "\"accuracy\":%.4f,\"deviation\":%.4f,\"threshold\":%.4f,"
               "\"auc\":%.4f,\"equal_error_rate\":%.4f,\"tar_at_far_1e-2\":"
               "%.4f,\"tar_at_far_1e-3\":%.4f,\"tar_at_far_1e-4\":%.4f}\n",
               p->n, p->d.n, folds.mean, folds.deviation, folds.threshold,
               mdl_auc(s, p->n), mdl_eer(s, p->n),
               mdl_tar_at(s, p->n, 1e-2, NULL), mdl_tar_at(s, p->n, 1e-3, NULL),
               mdl_tar_at(s, p->n, 1e-4, NULL));
    return rc;
}

static enum ut_err eval_pairs(struct evaluation *v, struct ut_error *e)
{
    struct mdl_scored *s = NULL;
    struct pairs p = {0};
    float *x = NULL;
    int dim = 0;
    enum ut_err rc = read_pairs(&p, v->pairs, e);

    if (!rc)
        rc = run_all(v, &p.d, "recognition.embedding.normalized", &x, &dim, e);
    if (!rc && !(s = malloc((size_t)p.n * sizeof(*s))))
        rc = ut_fail(e, UT_ENOMEM, "no memory for scores");
    for (int i = 0; i < p.n && !rc; i++) {
        const struct pair *pair = &p.list[i];
        double sum = 0;

        for (int k = 0; k < dim; k++)
            sum += (double)x[(size_t)pair->a * (size_t)dim + (size_t)k] *
                   x[(size_t)pair->b * (size_t)dim + (size_t)k];
        s[i] = (struct mdl_scored){(float)sum, pair->same, pair->fold};
    }
    if (!rc)
        rc = print_pairs(&p, s, e);
    free(s);
    free(x);
    free(p.list);
    mdl_dataset_fini(&p.d);
    return rc;
}

int cmd_eval(int argc, char **argv)
{
    static const struct option options[] = {
        {"fatigue", required_argument, NULL, 'f'},
        {"pairs", required_argument, NULL, 'p'},
        {"backend", required_argument, NULL, 'b'},
        {"precision", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct evaluation v = {0};
    int c, precision = MDL_PREC_F32;
    struct ut_error e;
    enum ut_err rc;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'h' || c == '?') {
            fputs(help, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
        if (c == 'f')
            v.fatigue = optarg;
        if (c == 'p')
            v.pairs = optarg;
        if (c == 'b')
            v.backend = optarg;
        if (c == 'r')
            precision = mdl_precision_parse(optarg);
    }
    if (argc - optind != 1 || precision < 0 || (!v.fatigue && !v.pairs)) {
        fputs(help, stderr);
        return 2;
    }
    v.precision = (enum mdl_precision)precision;
    mdl_graph_init(&v.graph);
    rc = open_model(&v, argv[optind], &e);
    if (!rc && v.fatigue)
        rc = eval_fatigue(&v, &e);
    if (!rc && v.pairs)
        rc = eval_pairs(&v, &e);
    mdl_plan_free(v.plan);
    mdl_lane_free(v.lane);
    mdl_backend_close(v.device);
    mdl_graph_fini(&v.graph);
    mdl_model_close(&v.model);
    return rc ? cmd_fail(&e) : 0;
}
