/* tscaf-model eval: the field's figures for a model on given data. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/tool/cmd.h"
#include "model/tool/figures.h"

static const char help[] =
    "usage: tscaf-model eval [--fatigue DATA] [--pairs FILE] [--faces DATA]\n"
    "                        [OPTIONS] MODEL\n"
    "\n"
    "  --fatigue DATA   a manifest of aligned faces, label 1 drowsy: "
    "accuracy,\n"
    "                   confusion, precision, recall, AUC, equal error rate, "
    "and\n"
    "                   the same by group\n"
    "  --pairs FILE     LFW's pairs.txt, or fold<TAB>same<TAB>a<TAB>b: "
    "10-fold\n"
    "                   accuracy, AUC, TAR at FAR 1e-2, 1e-3, 1e-4\n"
    "  --pictures DIR   where the pairs' pictures are (the folder of FILE)\n"
    "  --faces DATA     a manifest of labelled people: every pair of pictures "
    "as\n"
    "                   above; 1:N rank 1, TPIR at FPIR 1e-2, and both at "
    "the\n"
    "                   threshold of --fmr\n"
    "  --fmr R          false match rate of the threshold that --faces "
    "prints\n"
    "                   (1e-3)\n"
    "  --roc            the curves' points too: [FAR, TAR, threshold]\n"
    "  --backend NAME, --precision P\n"
    "  --threads N      batches at a time (one a processor)\n"
    "\n"
    "Prints one line of JSON for each. LFW is for testing only. `plot` draws "
    "what\n"
    "this counts, `calibrate` writes thresholds into a model.\n";

struct evaluation {
    const char *backend;
    enum mdl_precision precision;
    int threads;
    struct tool_tests tests;
    struct mdl_model model;
    struct mdl_evaluator *evaluator;
};

static enum ut_err evaluate(struct evaluation *v, const char *path,
                            struct ut_error *e)
{
    json_t *line;
    enum ut_err rc = mdl_model_open(path, &v->model, e);

    if (!rc)
        rc = mdl_evaluator_new(&v->model, v->backend, v->precision, v->threads,
                               &v->evaluator, e);
    if (!rc && v->tests.fatigue) {
        rc = tool_figures_fatigue(v->evaluator, &v->model, &v->tests, &line, e);
        if (!rc)
            tool_print_json(line);
    }
    if (!rc && v->tests.pairs) {
        rc = tool_figures_pairs(v->evaluator, &v->tests, &line, e);
        if (!rc)
            tool_print_json(line);
    }
    if (!rc && v->tests.faces) {
        rc = tool_figures_faces(v->evaluator, &v->tests, &line, e);
        if (!rc)
            tool_print_json(line);
    }
    return rc;
}

static bool set(struct evaluation *v, int option, const char *text)
{
    int precision;

    switch (option) {
    case 'f':
        v->tests.fatigue = text;
        return true;
    case 'p':
        v->tests.pairs = text;
        return true;
    case 'd':
        v->tests.pictures = text;
        return true;
    case 'i':
        v->tests.faces = text;
        return true;
    case 'm':
        v->tests.false_match_rate = strtod(text, NULL);
        return v->tests.false_match_rate > 0 && v->tests.false_match_rate < 1;
    case 'o':
        v->tests.roc = true;
        return true;
    case 't':
        v->threads = atoi(text);
        return v->threads > 0;
    case 'b':
        v->backend = text;
        return true;
    case 'r':
        precision = mdl_precision_parse(text);
        v->precision = (enum mdl_precision)precision;
        return precision >= 0;
    default:
        return false;
    }
}

int cmd_eval(int argc, char **argv)
{
    static const struct option options[] = {
        {"fatigue", required_argument, NULL, 'f'},
        {"threads", required_argument, NULL, 't'},
        {"pairs", required_argument, NULL, 'p'},
        {"pictures", required_argument, NULL, 'd'},
        {"faces", required_argument, NULL, 'i'},
        {"fmr", required_argument, NULL, 'm'},
        {"roc", no_argument, NULL, 'o'},
        {"backend", required_argument, NULL, 'b'},
        {"precision", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct evaluation v = {.tests.false_match_rate = 1e-3,
                           .precision = MDL_PREC_F32};
    struct ut_error e;
    enum ut_err rc;
    int c, index;

    while ((c = getopt_long(argc, argv, "", options, &index)) != -1) {
        if (c == 'h')
            return fputs(help, stdout) < 0;
        if (c == '?')
            return 2;
        if (!set(&v, c, optarg)) {
            fprintf(stderr, "tscaf-model eval: --%s cannot be \"%s\"\n",
                    options[index].name, optarg);
            return 2;
        }
    }
    if (argc - optind != 1 ||
        (!v.tests.fatigue && !v.tests.pairs && !v.tests.faces)) {
        fputs(help, stderr);
        return 2;
    }
    rc = evaluate(&v, argv[optind], &e);
    mdl_evaluator_free(v.evaluator);
    mdl_model_close(&v.model);
    return rc ? cmd_fail(&e) : 0;
}
