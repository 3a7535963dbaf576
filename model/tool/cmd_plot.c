/* tscaf-model plot: figures of models, data and trainings. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tool/cmd.h"
#include "model/tool/plot_job.h"

static const char help[] =
    "usage: tscaf-model plot roc       --out F DATA MODEL...\n"
    "       tscaf-model plot confusion --out F --fatigue DATA MODEL\n"
    "       tscaf-model plot training  --out F LOG...\n"
    "       tscaf-model plot grad-cam  --out F --picture FACE... MODEL...\n"
    "       tscaf-model plot tsne      --out F --data DATA MODEL...\n"
    "\n"
    "Draws F.png or F.svg; gnuplot (Debian: gnuplot-nox) does the drawing.\n"
    "\n"
    "roc: a curve for each model over DATA, one of\n"
    "  --fatigue DATA, --pairs FILE [--pictures DIR], --faces DATA   as in "
    "eval\n"
    "training: the losses that `train --json` printed, a curve for each LOG\n"
    "grad-cam: a row of faces, then a row for each model and leaf: where its "
    "answer\n"
    "comes from. The scores are printed.\n"
    "  --picture FACE     an aligned face; up to 12 of them\n"
    "  --reference FACE   recognition: what speaks for this one's being the "
    "same\n"
    "                     (else: what the embedding's length comes from)\n"
    "  --against          what speaks against being drowsy, or the same\n"
    "  --attention        LANet's maps too\n"
    "tsne: a panel for each model and leaf; colours are labels\n"
    "  --data DATA        a manifest or folder of aligned faces\n"
    "  --points N         pictures, evenly over DATA (1000; at most 4000)\n"
    "  --people N         the labels with the most pictures (10; at most 16)\n"
    "  --perplexity P, --seed N   (30, 1)\n"
    "grad-cam and tsne: --leaf NAME, again for more (fatigue and recognition)\n"
    "all: --backend NAME\n";

void plot_name(const char *path, char out[64])
{
    const char *slash = strrchr(path, '/');
    char *end;

    snprintf(out, 64, "%s", slash ? slash + 1 : path);
    end = strstr(out, ".safetensors");
    if (end)
        *end = '\0';
}

/* ---- roc, confusion ---- */

static enum ut_err scores_of(const struct plot_job *j, struct mdl_evaluator *v,
                             struct mdl_scored **s, int *n, struct ut_error *e)
{
    const struct tool_tests *t = &j->tests;
    struct mdl_dataset d;
    struct mdl_pairs p;
    enum ut_err rc;

    if (t->fatigue)
        return tool_fatigue_scores(v, t->fatigue, s, n, e);
    *s = NULL;
    if (t->pairs) {
        rc = mdl_pairs_open(t->pairs, t->pictures, &p, e);
        if (!rc)
            rc = mdl_pairs_score(v, &p, "recognition", s, e);
        *n = p.n;
        mdl_pairs_fini(&p);
        return rc;
    }
    rc = mdl_dataset_open(t->faces, &d, e);
    if (!rc)
        rc = mdl_identity_scores(v, &d, "recognition", s, n, e);
    mdl_dataset_fini(&d);
    return rc;
}

/* A model's sorted scores over the data. */
static enum ut_err score(const struct plot_job *j, const char *path,
                         double *threshold, struct mdl_scored **s, int *n,
                         struct ut_error *e)
{
    struct mdl_evaluator *v = NULL;
    struct mdl_model m;
    enum ut_err rc = mdl_model_open(path, &m, e);

    *s = NULL;
    if (!rc)
        rc = mdl_evaluator_new(&m, j->backend, MDL_PREC_F32, 0, &v, e);
    if (!rc) {
        *threshold = mdl_model_threshold(&m, "fatigue", 0.5);
        rc = scores_of(j, v, s, n, e);
    }
    mdl_evaluator_free(v);
    mdl_model_close(&m);
    return rc;
}

struct roc {
    struct mdl_roc_point points[MDL_ROC_POINTS];
    double x[MDL_ROC_POINTS], y[MDL_ROC_POINTS];
    char name[96];
};

static enum ut_err roc_of(const struct plot_job *j, const char *path,
                          struct roc *r, struct mdl_curve *out,
                          struct ut_error *e)
{
    struct mdl_scored *s;
    double threshold;
    char name[64];
    int n = 0;
    enum ut_err rc = score(j, path, &threshold, &s, &n, e);

    if (rc)
        return rc;
    plot_name(path, name);
    snprintf(r->name, sizeof(r->name), "%s, AUC %.4f", name, mdl_auc(s, n));
    *out = (struct mdl_curve){r->name, r->x, r->y, mdl_roc_of(s, n, r->points)};
    for (int i = 0; i < out->n; i++) {
        r->x[i] = r->points[i].far;
        r->y[i] = r->points[i].tar;
    }
    free(s);
    return out->n ? UT_OK
                  : ut_fail(e, UT_EINVAL, "the data are all of one kind");
}

static enum ut_err plot_roc(const struct plot_job *j, struct ut_error *e)
{
    const struct tool_tests *t = &j->tests;
    struct mdl_curve curves[MDL_PLOT_CURVES];
    const char *data = t->fatigue ? t->fatigue : t->pairs ? t->pairs : t->faces;
    struct roc *r;
    char title[256];
    enum ut_err rc = UT_OK;

    if (!data)
        return ut_fail(e, UT_EINVAL, "roc wants --fatigue, --pairs or --faces");
    if (j->n_files > MDL_PLOT_CURVES)
        return ut_fail(e, UT_EINVAL, "over %d models", MDL_PLOT_CURVES);
    r = calloc((size_t)j->n_files, sizeof(*r));
    if (!r)
        return ut_fail(e, UT_ENOMEM, "no memory for curves");
    for (int i = 0; i < j->n_files && !rc; i++)
        rc = roc_of(j, j->files[i], &r[i], &curves[i], e);
    snprintf(title, sizeof(title), "%s: %.200s",
             t->fatigue ? "fatigue" : "recognition", data);
    if (!rc)
        rc = mdl_plot_roc(j->out, title, curves, j->n_files, e);
    free(r);
    return rc;
}

static enum ut_err plot_confusion(const struct plot_job *j, struct ut_error *e)
{
    static const char *const classes[2] = {"alert", "drowsy"};
    struct mdl_confusion c;
    struct mdl_scored *s;
    double threshold;
    char title[128], name[64];
    int n;
    enum ut_err rc;

    if (!j->tests.fatigue || j->n_files != 1)
        return ut_fail(e, UT_EINVAL, "confusion wants --fatigue and one model");
    rc = score(j, j->files[0], &threshold, &s, &n, e);
    if (rc)
        return rc;
    c = mdl_confusion_at(s, n, threshold);
    free(s);
    plot_name(j->files[0], name);
    snprintf(title, sizeof(title), "%s, threshold %.3g: %.1f %% of %d right",
             name, threshold, 100 * mdl_accuracy(&c), n);
    return mdl_plot_confusion(j->out, title, classes, &c, e);
}

/* ---- training ---- */

struct losses {
    double *step, *loss[2]; /* owned; [n] */
    int n, cap;
    char name[64];
};

static bool push(struct losses *l, double step, double a, double b)
{
    int cap = l->cap ? 2 * l->cap : 1024;
    double *step_more, *a_more, *b_more;

    if (l->n == l->cap) {
        step_more = realloc(l->step, (size_t)cap * sizeof(double));
        l->step = step_more ? step_more : l->step;
        a_more = realloc(l->loss[0], (size_t)cap * sizeof(double));
        l->loss[0] = a_more ? a_more : l->loss[0];
        b_more = realloc(l->loss[1], (size_t)cap * sizeof(double));
        l->loss[1] = b_more ? b_more : l->loss[1];
        if (!step_more || !a_more || !b_more)
            return false;
        l->cap = cap;
    }
    l->step[l->n] = step;
    l->loss[0][l->n] = a;
    l->loss[1][l->n++] = b;
    return true;
}

/* The lines of `train --json`; others, a killed run's last half line too, are
 * passed over. */
static enum ut_err read_log(const char *path, struct losses *l,
                            struct ut_error *e)
{
    FILE *f = fopen(path, "r");
    char line[4096];
    enum ut_err rc = UT_OK;

    if (!f)
        return ut_fail(e, UT_ENOTFOUND, "%.150s: %m", path);
    plot_name(path, l->name);
    while (!rc && fgets(line, sizeof(line), f)) {
        json_t *o = json_loads(line, 0, NULL);
        const json_t *step = json_object_get(o, "step");

        if (json_is_number(step) &&
            !push(l, json_number_value(step),
                  json_number_value(json_object_get(o, "fatigue_loss")),
                  json_number_value(json_object_get(o, "recognition_loss"))))
            rc = ut_fail(e, UT_ENOMEM, "no memory for %.150s", path);
        json_decref(o);
    }
    fclose(f);
    if (!rc && !l->n)
        rc =
            ut_fail(e, UT_EFORMAT, "%.120s: has no line of train --json", path);
    return rc;
}

static bool any(const double *x, int n)
{
    for (int i = 0; i < n; i++)
        if (x[i] != 0)
            return true;
    return false;
}

static enum ut_err plot_training(const struct plot_job *j, struct ut_error *e)
{
    static const char *const titles[2] = {"fatigue loss", "recognition loss"};
    struct mdl_curve curves[2 * MDL_PLOT_CURVES] = {0};
    struct losses logs[MDL_PLOT_CURVES] = {0};
    int n = j->n_files;
    enum ut_err rc = UT_OK;

    if (n > MDL_PLOT_CURVES)
        return ut_fail(e, UT_EINVAL, "over %d logs", MDL_PLOT_CURVES);
    for (int i = 0; i < n && !rc; i++)
        rc = read_log(j->files[i], &logs[i], e);
    for (int k = 0; k < 2 * n && !rc; k++) {
        struct losses *l = &logs[k % n];
        const double *y = l->loss[k / n];

        /* A leaf that was not trained has a loss of 0 throughout. */
        curves[k] =
            (struct mdl_curve){l->name, l->step, y, any(y, l->n) ? l->n : 0};
    }
    if (!rc)
        rc = mdl_plot_training(j->out, titles, 2, curves, n, e);
    for (int i = 0; i < n; i++) {
        free(logs[i].step);
        free(logs[i].loss[0]);
        free(logs[i].loss[1]);
    }
    return rc;
}

/* ---- options ---- */

static const struct {
    const char *name;
    enum ut_err (*draw)(const struct plot_job *j, struct ut_error *e);
} kinds[] = {
    {"roc", plot_roc},           {"confusion", plot_confusion},
    {"training", plot_training}, {"grad-cam", plot_grad_cam},
    {"tsne", plot_tsne},
};

static bool set(struct plot_job *j, int option, const char *text)
{
    switch (option) {
    case 'o':
        j->out = text;
        return true;
    case 'f':
        j->tests.fatigue = text;
        return true;
    case 'p':
        j->tests.pairs = text;
        return true;
    case 'd':
        j->tests.pictures = text;
        return true;
    case 'i':
        j->tests.faces = text;
        return true;
    case 'a':
        j->data = text;
        return true;
    case 'l':
        if (j->n_leaves == PLOT_LEAVES)
            return false;
        j->leaves[j->n_leaves++] = text;
        return true;
    case 'c':
        if (j->n_pictures == PLOT_PICTURES)
            return false;
        j->pictures[j->n_pictures++] = text;
        return true;
    case 'r':
        j->reference = text;
        return true;
    case 'A':
        j->attention = true;
        return true;
    case 'g':
        j->against = true;
        return true;
    case 'P':
        j->perplexity = strtod(text, NULL);
        return j->perplexity >= 1;
    case 'n':
        j->points = atoi(text);
        return j->points >= 4 && j->points <= 4000;
    case 'N':
        j->people = atoi(text);
        return j->people >= 1 && j->people <= MDL_PLOT_CURVES;
    case 's':
        return cmd_parse_seed(text, &j->seed);
    case 'b':
        j->backend = text;
        return true;
    default:
        return false;
    }
}

static int parse(struct plot_job *j, int argc, char **argv)
{
    static const struct option options[] = {
        {"out", required_argument, NULL, 'o'},
        {"fatigue", required_argument, NULL, 'f'},
        {"pairs", required_argument, NULL, 'p'},
        {"pictures", required_argument, NULL, 'd'},
        {"faces", required_argument, NULL, 'i'},
        {"data", required_argument, NULL, 'a'},
        {"leaf", required_argument, NULL, 'l'},
        {"picture", required_argument, NULL, 'c'},
        {"reference", required_argument, NULL, 'r'},
        {"attention", no_argument, NULL, 'A'},
        {"against", no_argument, NULL, 'g'},
        {"perplexity", required_argument, NULL, 'P'},
        {"points", required_argument, NULL, 'n'},
        {"people", required_argument, NULL, 'N'},
        {"seed", required_argument, NULL, 's'},
        {"backend", required_argument, NULL, 'b'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int c, index;

    while ((c = getopt_long(argc, argv, "", options, &index)) != -1) {
        if (c == 'h')
            return fputs(help, stdout) < 0;
        if (c == '?')
            return 2;
        if (!set(j, c, optarg)) {
            fprintf(stderr, "tscaf-model plot: --%s cannot be \"%s\"\n",
                    options[index].name, optarg);
            return 2;
        }
    }
    if (argc - optind < 2 || !j->out) {
        fputs(help, stderr);
        return 2;
    }
    if (!j->n_leaves) {
        j->leaves[j->n_leaves++] = "fatigue";
        j->leaves[j->n_leaves++] = "recognition";
    }
    j->files = argv + optind + 1;
    j->n_files = argc - optind - 1;
    return -1;
}

int cmd_plot(int argc, char **argv)
{
    struct plot_job j = {
        .perplexity = 30, .points = 1000, .people = 10, .seed = 1};
    int code = parse(&j, argc, argv);
    struct ut_error e;

    if (code >= 0)
        return code;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (!strcmp(argv[optind], kinds[i].name))
            return kinds[i].draw(&j, &e) ? cmd_fail(&e) : 0;
    fprintf(stderr, "tscaf-model plot: there is no figure \"%s\"\n",
            argv[optind]);
    return 2;
}
