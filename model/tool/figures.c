/* Figures as JSON. */
#include "model/tool/figures.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void tool_print_json(json_t *object)
{
    json_dumpf(object, stdout,
               JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(object);
}

static void add(json_t *o, const char *key, double value)
{
    json_object_set_new(o, key, json_real(value));
}

static void add_count(json_t *o, const char *key, int64_t value)
{
    json_object_set_new(o, key, json_integer(value));
}

/* [[false positive rate, true positive rate, threshold], ...] */
static void add_roc(json_t *o, const struct mdl_scored *s, int n)
{
    struct mdl_roc_point *p = malloc(MDL_ROC_POINTS * sizeof(*p));
    json_t *list = json_array();
    int points = p ? mdl_roc_of(s, n, p) : 0;

    for (int i = 0; i < points; i++)
        json_array_append_new(list, json_pack("[f, f, o]", p[i].far, p[i].tar,
                                              isfinite(p[i].threshold)
                                                  ? json_real(p[i].threshold)
                                                  : json_null()));
    json_object_set_new(o, "roc", list);
    free(p);
}

static void add_tar(json_t *o, const double tar[3])
{
    static const char *const keys[] = {"tar_at_far_1e-2", "tar_at_far_1e-3",
                                       "tar_at_far_1e-4"};

    for (int i = 0; i < 3; i++)
        add(o, keys[i], tar[i]);
}

/* ---- fatigue ---- */

static void add_binary(json_t *o, const struct mdl_binary_figures *f)
{
    const struct mdl_confusion *c = &f->confusion;
    double low, high;

    mdl_interval(c->true_positive + c->true_negative, f->pictures, &low, &high);
    add_count(o, "pictures", f->pictures);
    add(o, "accuracy", f->accuracy);
    json_object_set_new(o, "accuracy_95", json_pack("[f, f]", low, high));
    add(o, "precision", f->precision);
    add(o, "recall", f->recall);
    add_count(o, "true_positive", c->true_positive);
    add_count(o, "false_positive", c->false_positive);
    add_count(o, "true_negative", c->true_negative);
    add_count(o, "false_negative", c->false_negative);
    /* One class alone has no curve. */
    if (c->true_positive + c->false_negative &&
        c->false_positive + c->true_negative) {
        add(o, "auc", f->auc);
        add(o, "equal_error_rate", f->eer);
    }
}

static enum ut_err add_groups(json_t *o, const struct mdl_dataset *d,
                              const float *p, double threshold,
                              struct ut_error *e)
{
    json_t *list = json_array();
    enum ut_err rc = UT_OK;

    json_object_set_new(o, "groups", list);
    for (int g = 0; g < d->groups && !rc; g++) {
        struct mdl_binary_figures f;
        json_t *one = json_object();

        json_array_append_new(list, one);
        json_object_set_new(one, "group", json_string(d->group[g]));
        rc = mdl_binary_figures_of_group(d, p, g, threshold, &f, e);
        if (!rc)
            add_binary(one, &f);
    }
    return rc;
}

static struct mdl_scored *scores_of(const struct mdl_dataset *d, const float *p)
{
    struct mdl_scored *s = malloc((size_t)d->n * sizeof(*s));

    for (int i = 0; s && i < d->n; i++)
        s[i] = (struct mdl_scored){p[i], d->examples[i].label > 0, 0};
    if (s)
        mdl_scored_sort(s, d->n);
    return s;
}

enum ut_err tool_fatigue_scores(struct mdl_evaluator *v, const char *data,
                                struct mdl_scored **scores, int *n,
                                struct ut_error *e)
{
    struct mdl_dataset d;
    float *p = NULL;
    int size;
    enum ut_err rc = mdl_dataset_open(data, &d, e);

    *scores = NULL;
    if (!rc)
        rc = mdl_dataset_check_binary(&d, e);
    if (!rc)
        rc = mdl_evaluate(v, &d, "fatigue.probability", &p, &size, e);
    if (!rc && !(*scores = scores_of(&d, p)))
        rc = ut_fail(e, UT_ENOMEM, "no memory for %d scores", d.n);
    *n = d.n;
    free(p);
    mdl_dataset_fini(&d);
    return rc;
}

enum ut_err tool_figures_fatigue(struct mdl_evaluator *v,
                                 const struct mdl_model *m,
                                 const struct tool_tests *t, json_t **out,
                                 struct ut_error *e)
{
    double threshold = mdl_model_threshold(m, "fatigue", 0.5);
    struct mdl_binary_figures f = {0};
    struct mdl_scored *s = NULL;
    struct mdl_dataset d;
    float *p = NULL;
    int size;
    enum ut_err rc = mdl_dataset_open(t->fatigue, &d, e);

    *out = json_pack("{s: s}", "task", "fatigue");
    if (!rc)
        rc = mdl_dataset_check_binary(&d, e);
    if (!rc)
        rc = mdl_evaluate(v, &d, "fatigue.probability", &p, &size, e);
    if (!rc)
        rc = mdl_binary_figures_of(&d, p, threshold, &f, e);
    if (!rc) {
        add(*out, "threshold", threshold);
        add_binary(*out, &f);
        rc = add_groups(*out, &d, p, threshold, e);
    }
    if (!rc && t->roc && !(s = scores_of(&d, p)))
        rc = ut_fail(e, UT_ENOMEM, "no memory for %d scores", d.n);
    if (s)
        add_roc(*out, s, d.n);
    if (rc) {
        json_decref(*out);
        *out = NULL;
    }
    free(s);
    free(p);
    mdl_dataset_fini(&d);
    return rc;
}

/* ---- recognition ---- */

enum ut_err tool_figures_pairs(struct mdl_evaluator *v,
                               const struct tool_tests *t, json_t **out,
                               struct ut_error *e)
{
    static const double far[] = {1e-2, 1e-3, 1e-4};
    struct mdl_scored *s = NULL;
    struct mdl_pairs p;
    struct mdl_folds f = {0};
    double tar[3];
    json_t *o;
    enum ut_err rc = mdl_pairs_open(t->pairs, t->pictures, &p, e);

    *out = NULL;
    if (!rc)
        rc = mdl_pairs_score(v, &p, "recognition", &s, e);
    if (!rc)
        rc = mdl_folds_of(s, p.n, &f, e);
    if (!rc) {
        o = *out = json_pack("{s: s}", "task", "recognition");
        add_count(o, "pairs", p.n);
        add_count(o, "pictures", p.pictures.n);
        add_count(o, "folds", f.n);
        add(o, "accuracy", f.mean);
        add(o, "deviation", f.deviation);
        add(o, "threshold", f.threshold);
        add(o, "auc", mdl_auc(s, p.n));
        add(o, "equal_error_rate", mdl_eer(s, p.n));
        for (int i = 0; i < 3; i++)
            tar[i] = mdl_tar_at(s, p.n, far[i], NULL);
        add_tar(o, tar);
        if (t->roc)
            add_roc(o, s, p.n);
    }
    free(s);
    mdl_pairs_fini(&p);
    return rc;
}

static json_t *faces_json(const struct mdl_identity_figures *f, double rate)
{
    json_t *o = json_pack("{s: s}", "task", "identities");

    add_count(o, "pictures", f->pictures);
    add_count(o, "identities", f->identities);
    add_count(o, "genuine", f->genuine);
    add_count(o, "impostor", f->impostor);
    add(o, "auc", f->auc);
    add(o, "equal_error_rate", f->eer);
    add_tar(o, f->tar);
    add_count(o, "enrolled", f->enrolled);
    add_count(o, "probes", f->probes);
    add_count(o, "strangers", f->strangers);
    add(o, "rank1", f->rank1);
    add(o, "tpir_at_fpir_1e-2", f->tpir);
    add(o, "false_match_rate", rate);
    if (isfinite(f->threshold)) /* no score is that rare: there is none */
        add(o, "threshold", f->threshold);
    add(o, "fpir_at_threshold", f->fpir_there);
    add(o, "tpir_at_threshold", f->tpir_there);
    return o;
}

enum ut_err tool_figures_faces(struct mdl_evaluator *v,
                               const struct tool_tests *t, json_t **out,
                               struct ut_error *e)
{
    struct mdl_identity_figures f = {0};
    struct mdl_scored *s = NULL;
    struct mdl_dataset d;
    enum ut_err rc = mdl_dataset_open(t->faces, &d, e);
    int n = 0;

    *out = NULL;
    if (!rc)
        rc = mdl_evaluate_identities(v, &d, "recognition", t->false_match_rate,
                                     &f, e);
    if (!rc && t->roc)
        rc = mdl_identity_scores(v, &d, "recognition", &s, &n, e);
    if (!rc) {
        *out = faces_json(&f, t->false_match_rate);
        if (t->roc)
            add_roc(*out, s, n);
    }
    free(s);
    mdl_dataset_fini(&d);
    return rc;
}
