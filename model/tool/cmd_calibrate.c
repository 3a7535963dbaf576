/* tscaf-model calibrate: thresholds at stated error rates, into a model file.
 */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tool/cmd.h"
#include "model/tool/figures.h"

static const char help[] =
    "usage: tscaf-model calibrate [--faces DATA] [--fatigue DATA] [OPTIONS]\n"
    "                             MODEL OUT\n"
    "\n"
    "Finds the loosest thresholds that keep stated error rates on data that "
    "the\n"
    "model was not trained on, and writes OUT: the same model with "
    "threshold.LEAF\n"
    "and calibration.LEAF (rate, data, what else it costs) in its metadata. "
    "The\n"
    "server uses a model's own thresholds where a request gives none. OUT is "
    "a new\n"
    "version: a gallery that MODEL made has to be embedded again.\n"
    "\n"
    "  --faces DATA     a manifest of labelled people, for recognition\n"
    "  --fmr R          its false match rate, of two people's pictures "
    "(1e-3)\n"
    "  --fatigue DATA   a manifest, label 1 drowsy, for fatigue\n"
    "  --fpr R          its rate of alert faces that are called drowsy "
    "(0.05)\n"
    "  --backend NAME, --precision P    as the model will be served\n"
    "\n"
    "A rate must be met by at least ten errors on the data, else it would be "
    "chance.\n";

#define MIN_ERRORS 10

struct calibration {
    const char *backend, *faces, *fatigue;
    enum mdl_precision precision;
    double fmr, fpr;
    struct mdl_model model;
    struct mdl_evaluator *evaluator;
    struct mdl_st_pair pairs[4];
    size_t n;
    char threshold[2][MDL_THRESHOLD_LEN];
    char *text[2]; /* owned */
};

static enum ut_err find(struct calibration *c, const char *leaf,
                        const char *data, double rate,
                        const struct mdl_scored *s, int n, struct ut_error *e)
{
    static const char *const keys[2][2] = {
        {"threshold.fatigue", "calibration.fatigue"},
        {"threshold.recognition", "calibration.recognition"},
    };
    int which = leaf[0] == 'r', negatives = 0;
    double threshold, tpr = mdl_tar_at(s, n, rate, &threshold);
    json_t *o;

    for (int i = 0; i < n; i++)
        negatives += !s[i].positive;
    if (negatives * rate < MIN_ERRORS)
        return ut_fail(e, UT_EINVAL,
                       "%.90s: %d negatives cannot tell a rate of %g: that "
                       "takes %.0f",
                       data, negatives, rate, ceil(MIN_ERRORS / rate));
    if (!isfinite(threshold) || negatives == n)
        return ut_fail(e, UT_EINVAL, "%.90s: no threshold has a rate of %g",
                       data, rate);
    mdl_model_threshold_text((float)threshold, c->threshold[which]);
    o = json_pack("{s: f, s: f, s: i, s: i, s: s}",
                  which ? "false_match_rate" : "false_positive_rate", rate,
                  "true_positive_rate", tpr, "positives", n - negatives,
                  "negatives", negatives, "data", data);
    c->text[which] = json_dumps(o, JSON_COMPACT | JSON_PRESERVE_ORDER |
                                       JSON_REAL_PRECISION(6));
    json_decref(o);
    if (!c->text[which])
        return ut_fail(e, UT_EINVAL, "%.90s: is no UTF-8 name", data);
    c->pairs[c->n++] =
        (struct mdl_st_pair){keys[which][0], c->threshold[which]};
    c->pairs[c->n++] = (struct mdl_st_pair){keys[which][1], c->text[which]};
    printf("{\"leaf\":\"%s\",\"threshold\":%s,\"calibration\":%s}\n", leaf,
           c->threshold[which], c->text[which]);
    return UT_OK;
}

static enum ut_err calibrate(struct calibration *c, struct ut_error *e)
{
    struct mdl_scored *s = NULL;
    struct mdl_dataset d;
    enum ut_err rc = UT_OK;
    int n;

    if (c->fatigue) {
        rc = tool_fatigue_scores(c->evaluator, c->fatigue, &s, &n, e);
        if (!rc)
            rc = find(c, "fatigue", c->fatigue, c->fpr, s, n, e);
        free(s);
    }
    if (rc || !c->faces)
        return rc;
    s = NULL;
    rc = mdl_dataset_open(c->faces, &d, e);
    if (!rc)
        rc = mdl_identity_scores(c->evaluator, &d, "recognition", &s, &n, e);
    if (!rc)
        rc = find(c, "recognition", c->faces, c->fmr, s, n, e);
    free(s);
    mdl_dataset_fini(&d);
    return rc;
}

/* Every tensor as it is, and the metadata with what was found in place. */
static enum ut_err write_model(const struct calibration *c, const char *path,
                               struct ut_error *e)
{
    const struct mdl_st *file = c->model.file;
    size_t tensors = mdl_st_count(file), n = 0, given = 0;
    const char *key, *value;
    struct mdl_st_tensor *list = calloc(tensors + 1, sizeof(*list));
    struct mdl_st_pair *meta;
    enum ut_err rc;

    while (mdl_st_meta_at(file, given, &key, &value))
        given++;
    meta = calloc(given + c->n, sizeof(*meta));
    if (!list || !meta) {
        free(list);
        free(meta);
        return ut_fail(e, UT_ENOMEM, "no memory to write %.150s", path);
    }
    for (size_t i = 0; i < tensors; i++)
        list[i] = *mdl_st_at(file, i);
    for (size_t i = 0; mdl_st_meta_at(file, i, &key, &value); i++) {
        bool replaced = false;

        for (size_t k = 0; k < c->n; k++)
            replaced |= !strcmp(key, c->pairs[k].key);
        if (!replaced)
            meta[n++] = (struct mdl_st_pair){key, value};
    }
    for (size_t k = 0; k < c->n; k++)
        meta[n++] = c->pairs[k];
    rc = mdl_st_write(path, list, tensors, meta, n, e);
    free(list);
    free(meta);
    return rc;
}

static bool set(struct calibration *c, int option, const char *text)
{
    int precision;

    switch (option) {
    case 'i':
        c->faces = text;
        return true;
    case 'f':
        c->fatigue = text;
        return true;
    case 'm':
        c->fmr = strtod(text, NULL);
        return c->fmr > 0 && c->fmr < 1;
    case 'p':
        c->fpr = strtod(text, NULL);
        return c->fpr > 0 && c->fpr < 1;
    case 'b':
        c->backend = text;
        return true;
    case 'r':
        precision = mdl_precision_parse(text);
        c->precision = (enum mdl_precision)precision;
        return precision >= 0;
    default:
        return false;
    }
}

int cmd_calibrate(int argc, char **argv)
{
    static const struct option options[] = {
        {"faces", required_argument, NULL, 'i'},
        {"fmr", required_argument, NULL, 'm'},
        {"fatigue", required_argument, NULL, 'f'},
        {"fpr", required_argument, NULL, 'p'},
        {"backend", required_argument, NULL, 'b'},
        {"precision", required_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct calibration c = {
        .fmr = 1e-3, .fpr = 0.05, .precision = MDL_PREC_F32};
    struct ut_error e;
    enum ut_err rc;
    int option, index;

    while ((option = getopt_long(argc, argv, "", options, &index)) != -1) {
        if (option == 'h')
            return fputs(help, stdout) < 0;
        if (option == '?')
            return 2;
        if (!set(&c, option, optarg)) {
            fprintf(stderr, "tscaf-model calibrate: --%s cannot be \"%s\"\n",
                    options[index].name, optarg);
            return 2;
        }
    }
    if (argc - optind != 2 || (!c.faces && !c.fatigue)) {
        fputs(help, stderr);
        return 2;
    }
    rc = mdl_model_open(argv[optind], &c.model, &e);
    if (!rc)
        rc = mdl_evaluator_new(&c.model, c.backend, c.precision, 0,
                               &c.evaluator, &e);
    if (!rc)
        rc = calibrate(&c, &e);
    if (!rc)
        rc = write_model(&c, argv[optind + 1], &e);
    for (int i = 0; i < 2; i++)
        free(c.text[i]);
    mdl_evaluator_free(c.evaluator);
    mdl_model_close(&c.model);
    return rc ? cmd_fail(&e) : 0;
}
