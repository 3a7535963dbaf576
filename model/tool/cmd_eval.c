/* tscaf-model eval: the field's figures for a model on given data. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/eval/evaluate.h"
#include "model/tool/cmd.h"

static const char help[] =
    "usage: tscaf-model eval [--fatigue DATA] [--pairs FILE] [--faces DATA]\n"
    "                        [OPTIONS] MODEL\n"
    "\n"
    "  --fatigue DATA   a manifest of aligned faces, label 1 drowsy: "
    "accuracy,\n"
    "                   confusion, precision, recall, AUC, equal error rate, "
    "and\n"
    "                   accuracy by group\n"
    "  --pairs FILE     fold<TAB>same<TAB>a<TAB>b, paths below its folder: "
    "LFW's\n"
    "                   10-fold accuracy, AUC, TAR at FAR 1e-2, 1e-3, 1e-4\n"
    "  --faces DATA     a manifest of labelled people: every pair of pictures "
    "as\n"
    "                   above; 1:N rank 1, and TPIR at FPIR 1e-2\n"
    "  --fmr R          false match rate of the threshold that --faces "
    "prints\n"
    "                   (1e-3)\n"
    "  --backend NAME, --precision P\n"
    "\n"
    "Prints one line of JSON for each. LFW is for testing only.\n";

struct evaluation {
    const char *backend, *fatigue, *pairs, *faces;
    double false_match_rate;
    struct mdl_model model;
    struct mdl_evaluator *evaluator;
};

/* Accuracy by group, where the manifest has groups. */
static void print_groups(const struct mdl_dataset *d, const float *p,
                         double threshold)
{
    for (int g = 0; g < d->groups; g++) {
        int n = 0, right = 0;

        for (int i = 0; i < d->n; i++) {
            const struct mdl_example *x = &d->examples[i];

            n += x->group == g;
            right += x->group == g && (p[i] >= threshold) == (x->label > 0);
        }
        printf("%s{\"group\":\"%s\",\"pictures\":%d,\"accuracy\":%.4f}",
               g ? "," : "", d->group[g], n, n ? (double)right / n : 0);
    }
}

static enum ut_err eval_fatigue(struct evaluation *v, struct ut_error *e)
{
    double threshold = mdl_model_threshold(&v->model, "fatigue", 0.5);
    struct mdl_binary_figures f = {0};
    struct mdl_dataset d;
    float *p = NULL;
    int size;
    enum ut_err rc = mdl_dataset_open(v->fatigue, &d, e);

    if (!rc)
        rc =
            mdl_evaluate(v->evaluator, &d, "fatigue.probability", &p, &size, e);
    if (!rc)
        rc = mdl_binary_figures_of(&d, p, threshold, &f, e);
    if (!rc) {
        printf("{\"task\":\"fatigue\",\"pictures\":%d,\"threshold\":%g,"
               "\"accuracy\":%.4f,\"precision\":%.4f,\"recall\":%.4f,"
               "\"true_positive\":%d,\"false_positive\":%d,"
               "\"true_negative\":%d,\"false_negative\":%d,\"auc\":%.4f,"
               "\"equal_error_rate\":%.4f,\"groups\":[",
               d.n, threshold, f.accuracy, f.precision, f.recall,
               f.confusion.true_positive, f.confusion.false_positive,
               f.confusion.true_negative, f.confusion.false_negative, f.auc,
               f.eer);
        print_groups(&d, p, threshold);
        printf("]}\n");
    }
    free(p);
    mdl_dataset_fini(&d);
    return rc;
}

static enum ut_err eval_faces(struct evaluation *v, struct ut_error *e)
{
    struct mdl_identity_figures f = {0};
    struct mdl_dataset d;
    enum ut_err rc = mdl_dataset_open(v->faces, &d, e);

    if (!rc)
        rc = mdl_evaluate_identities(v->evaluator, &d, "recognition",
                                     v->false_match_rate, &f, e);
    if (!rc)
        printf("{\"task\":\"identities\",\"pictures\":%d,\"identities\":%d,"
               "\"genuine\":%lld,\"impostor\":%lld,\"auc\":%.4f,"
               "\"equal_error_rate\":%.4f,\"tar_at_far_1e-2\":%.4f,"
               "\"tar_at_far_1e-3\":%.4f,\"tar_at_far_1e-4\":%.4f,"
               "\"rank1\":%.4f,\"tpir_at_fpir_1e-2\":%.4f,"
               "\"false_match_rate\":%g,\"threshold\":%.4f}\n",
               f.pictures, f.identities, (long long)f.genuine,
               (long long)f.impostor, f.auc, f.eer, f.tar[0], f.tar[1],
               f.tar[2], f.rank1, f.tpir, v->false_match_rate, f.threshold);
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
        p->d.examples[p->d.n] = (struct mdl_example){
            .path = strdup(whole), .label = p->d.n, .group = -1};
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
        rc = mdl_evaluate(v->evaluator, &p.d,
                          "recognition.embedding.normalized", &x, &dim, e);
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
        {"faces", required_argument, NULL, 'i'},
        {"fmr", required_argument, NULL, 'm'},
        {"backend", required_argument, NULL, 'b'},
        {"precision", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct evaluation v = {.false_match_rate = 1e-3};
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
        if (c == 'i')
            v.faces = optarg;
        if (c == 'm')
            v.false_match_rate = strtod(optarg, NULL);
        if (c == 'b')
            v.backend = optarg;
        if (c == 'r')
            precision = mdl_precision_parse(optarg);
    }
    if (argc - optind != 1 || precision < 0 ||
        (!v.fatigue && !v.pairs && !v.faces) || v.false_match_rate <= 0 ||
        v.false_match_rate >= 1) {
        fputs(help, stderr);
        return 2;
    }
    rc = mdl_model_open(argv[optind], &v.model, &e);
    if (!rc)
        rc = mdl_evaluator_new(&v.model, v.backend,
                               (enum mdl_precision)precision, &v.evaluator, &e);
    if (!rc && v.fatigue)
        rc = eval_fatigue(&v, &e);
    if (!rc && v.pairs)
        rc = eval_pairs(&v, &e);
    if (!rc && v.faces)
        rc = eval_faces(&v, &e);
    mdl_evaluator_free(v.evaluator);
    mdl_model_close(&v.model);
    return rc ? cmd_fail(&e) : 0;
}
