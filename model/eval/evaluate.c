/* Figures of a model over datasets. */
#include "model/eval/evaluate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/panel.h"

static double share(int of, int other)
{
    return of + other ? (double)of / (of + other) : 0;
}

static enum ut_err figures_of(const struct mdl_dataset *d,
                              const float *probability, bool all, int group,
                              double threshold, struct mdl_binary_figures *out,
                              struct ut_error *e)
{
    struct mdl_scored *s = malloc((size_t)d->n * sizeof(*s));
    struct mdl_confusion *c = &out->confusion;
    int n = 0;

    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for %d scores", d->n);
    for (int i = 0; i < d->n; i++)
        if (all || d->examples[i].group == group)
            s[n++] = (struct mdl_scored){probability[i],
                                         d->examples[i].label > 0, 0};
    mdl_scored_sort(s, n);
    *out = (struct mdl_binary_figures){
        .pictures = n,
        .threshold = threshold,
        .confusion = mdl_confusion_at(s, n, threshold),
        .auc = mdl_auc(s, n),
        .eer = mdl_eer(s, n),
    };
    out->accuracy = mdl_accuracy(c);
    out->precision = share(c->true_positive, c->false_positive);
    out->recall = share(c->true_positive, c->false_negative);
    free(s);
    return UT_OK;
}

enum ut_err mdl_binary_figures_of(const struct mdl_dataset *d,
                                  const float *probability, double threshold,
                                  struct mdl_binary_figures *out,
                                  struct ut_error *e)
{
    return figures_of(d, probability, true, 0, threshold, out, e);
}

enum ut_err mdl_binary_figures_of_group(const struct mdl_dataset *d,
                                        const float *probability, int group,
                                        double threshold,
                                        struct mdl_binary_figures *out,
                                        struct ut_error *e)
{
    return figures_of(d, probability, false, group, threshold, out, e);
}

/* ---- identities ---- */

static int by_label(const void *a, const void *b)
{
    const struct mdl_example *x = a, *y = b;

    return x->label != y->label ? (x->label > y->label) - (x->label < y->label)
                                : (x->line > y->line) - (x->line < y->line);
}

/* The labelled pictures, by label, whole identities up to the limit. Borrows
 * d's paths. */
static enum ut_err choose(const struct mdl_dataset *d, struct mdl_dataset *out,
                          struct ut_error *e)
{
    int n = 0, keep;

    *out = (struct mdl_dataset){0};
    out->examples = malloc((size_t)d->n * sizeof(*out->examples));
    if (!out->examples)
        return ut_fail(e, UT_ENOMEM, "no memory to evaluate");
    for (int i = 0; i < d->n; i++)
        if (d->examples[i].label >= 0)
            out->examples[n++] = d->examples[i];
    qsort(out->examples, (size_t)n, sizeof(*out->examples), by_label);
    keep = n < MDL_IDENTITY_PICTURES ? n : MDL_IDENTITY_PICTURES;
    while (n > keep && keep &&
           out->examples[keep].label == out->examples[keep - 1].label)
        keep--;
    out->n = keep;
    return UT_OK;
}

/* Similarities of every picture with every other: [n, n]. */
static float *similarities(const float *x, int n, int dim)
{
    size_t rows = (size_t)n, columns = (size_t)dim;
    float *all = calloc(rows * rows, sizeof(*all));
    float *panels = aligned_alloc(
        64, (mdl_panel_count(rows, columns) * sizeof(float) + 63) / 64 * 64);

    if (all && panels) {
        for (size_t i = 0; i < rows; i++)
            for (size_t k = 0; k < columns; k++)
                panels[mdl_panel_at(false, columns, i, k)] = x[i * columns + k];
        mdl_panel_product(false, panels, rows, columns, x, columns, n, all);
    }
    free(panels);
    if (!panels) {
        free(all);
        return NULL;
    }
    return all;
}

/* Every pair once, sorted: [n (n - 1) / 2]. */
static struct mdl_scored *pairs(const struct mdl_dataset *d, const float *all)
{
    size_t many = (size_t)d->n * (size_t)(d->n - 1) / 2, n = 0;
    struct mdl_scored *s = malloc(many * sizeof(*s));

    for (int i = 0; s && i < d->n; i++)
        for (int j = i + 1; j < d->n; j++) {
            bool same = d->examples[i].label == d->examples[j].label;

            s[n++] = (struct mdl_scored){
                all[(size_t)i * (size_t)d->n + (size_t)j], same, 0};
        }
    if (s)
        mdl_scored_sort(s, (int)n);
    return s;
}

/* Enrols the first picture of every other identity. */
static enum ut_err identify(const struct mdl_dataset *d, const float *all,
                            struct mdl_identity_figures *f, struct ut_error *e)
{
    struct mdl_scored *strangers = malloc((size_t)d->n * sizeof(*strangers));
    int *gallery = malloc((size_t)d->n * sizeof(*gallery));
    float *right = malloc((size_t)d->n * sizeof(*right)); /* -2: not first */
    int enrolled = 0, n_strangers = 0, probes = 0, first = 0, passed = 0;
    int over = 0, named = 0; /* at f->threshold */
    float limit = 2;

    if (!strangers || !gallery || !right) {
        free(strangers);
        free(gallery);
        free(right);
        return ut_fail(e, UT_ENOMEM, "no memory to evaluate");
    }
    for (int i = 0; i < d->n; i++) {
        bool starts = !i || d->examples[i].label != d->examples[i - 1].label;

        f->identities += starts;
        if (starts && f->identities % 2)
            gallery[enrolled++] = i;
    }
    for (int i = 0; i < d->n; i++) {
        const float *row = all + (size_t)i * (size_t)d->n;
        bool known = false, template = false;
        int best = gallery[0];

        for (int k = 0; k < enrolled; k++) {
            int g = gallery[k];

            template |= g == i;
            known |= d->examples[g].label == d->examples[i].label;
            if (row[g] > row[best])
                best = g;
        }
        if (template)
            continue;
        if (!known) {
            strangers[n_strangers++] = (struct mdl_scored){row[best], false, 0};
            continue;
        }
        right[probes] =
            d->examples[best].label == d->examples[i].label ? row[best] : -2;
        first += right[probes++] > -2;
    }
    mdl_scored_sort(strangers, n_strangers);
    if (n_strangers)
        limit = strangers[n_strangers / 100].score;
    for (int i = 0; i < probes; i++) {
        passed += right[i] > limit;
        named += right[i] >= f->threshold;
    }
    for (int i = 0; i < n_strangers; i++)
        over += strangers[i].score >= f->threshold;
    f->enrolled = enrolled;
    f->probes = probes;
    f->strangers = n_strangers;
    f->fpir_there = n_strangers ? (double)over / n_strangers : 0;
    f->tpir_there = probes ? (double)named / probes : 0;
    f->rank1 = probes ? (double)first / probes : 0;
    f->tpir = probes ? (double)passed / probes : 0;
    free(strangers);
    free(gallery);
    free(right);
    return UT_OK;
}

static enum ut_err compare(const struct mdl_dataset *d, const float *all,
                           const struct mdl_scored *s, double rate,
                           struct mdl_identity_figures *f, struct ut_error *e)
{
    static const double far[] = {1e-2, 1e-3, 1e-4};
    int n = d->n * (d->n - 1) / 2;

    for (int i = 0; i < n; i++) {
        f->genuine += s[i].positive;
        f->impostor += !s[i].positive;
    }
    if (!f->genuine || !f->impostor)
        return ut_fail(e, UT_EINVAL,
                       "%d pictures have no two of one person and of two",
                       d->n);
    f->auc = mdl_auc(s, n);
    f->eer = mdl_eer(s, n);
    for (int i = 0; i < 3; i++)
        f->tar[i] = mdl_tar_at(s, n, far[i], NULL);
    mdl_tar_at(s, n, rate, &f->threshold);
    return identify(d, all, f, e);
}

/* Everything with everything: *chosen borrows d's paths, its examples are the
 * caller's; *all [n, n], *s the pairs, sorted. */
static enum ut_err score_all(struct mdl_evaluator *v,
                             const struct mdl_dataset *d, const char *leaf,
                             struct mdl_dataset *chosen, float **all,
                             struct mdl_scored **s, struct ut_error *e)
{
    char output[MDL_NAME_LEN + 32];
    float *x = NULL;
    enum ut_err rc = choose(d, chosen, e);
    int dim;

    snprintf(output, sizeof(output), "%s.embedding.normalized", leaf);
    if (!rc && chosen->n < 2)
        rc = ut_fail(e, UT_EINVAL, "fewer than two labelled pictures");
    if (!rc)
        rc = mdl_evaluate(v, chosen, output, &x, &dim, e);
    if (rc)
        return rc;
    *all = similarities(x, chosen->n, dim);
    *s = *all ? pairs(chosen, *all) : NULL;
    free(x);
    return *s ? UT_OK
              : ut_fail(e, UT_ENOMEM, "no memory for %d pictures' pairs",
                        chosen->n);
}

enum ut_err mdl_evaluate_identities(struct mdl_evaluator *v,
                                    const struct mdl_dataset *d,
                                    const char *leaf, double false_match_rate,
                                    struct mdl_identity_figures *out,
                                    struct ut_error *e)
{
    struct mdl_dataset chosen = {0};
    struct mdl_scored *s = NULL;
    float *all = NULL;
    enum ut_err rc = score_all(v, d, leaf, &chosen, &all, &s, e);

    *out = (struct mdl_identity_figures){.pictures = chosen.n};
    if (!rc)
        rc = compare(&chosen, all, s, false_match_rate, out, e);
    free(s);
    free(all);
    free(chosen.examples);
    return rc;
}

enum ut_err mdl_identity_scores(struct mdl_evaluator *v,
                                const struct mdl_dataset *d, const char *leaf,
                                struct mdl_scored **scores, int *n,
                                struct ut_error *e)
{
    struct mdl_dataset chosen = {0};
    float *all = NULL;
    enum ut_err rc;

    *scores = NULL;
    rc = score_all(v, d, leaf, &chosen, &all, scores, e);
    *n = chosen.n * (chosen.n - 1) / 2;
    free(all);
    free(chosen.examples);
    return rc;
}
