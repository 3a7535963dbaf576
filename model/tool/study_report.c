/* The study as markdown: our figures, data and settings stated. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tool/study.h"

/* What the paper says that this project's own documents repeat: Table 1's
 * parameters in millions (tests/golden/cases/README.md). */
static const struct {
    const char *network;
    double millions;
} paper[] = {{"iresnet50", 43.92}, {"mobilenetv2", 14.77}};

enum ut_err study_spec(const char *network, const char *module, bool parallel,
                       int dim, struct mdl_spec *out, struct ut_error *e)
{
    static const char leaves[] =
        "{\"name\":\"fatigue\",\"module\":\"%s\",\"head\":\"binary\"}%s"
        "{\"name\":\"recognition\",\"module\":\"%s\",\"head\":\"embedding\","
        "\"dim\":%d}";
    char root[128], name[24], branches[512], middle[192] = ",", text[1024];
    char *width;
    int n;

    snprintf(name, sizeof(name), "%s", network);
    width = strchr(name, ':');
    if (width)
        *width++ = '\0';
    snprintf(root, sizeof(root), "\"module\":\"%s\"%s%s,\"children\":[", name,
             width ? ",\"width\":" : "", width ? width : "");
    if (parallel)
        snprintf(middle, sizeof(middle), "]},{\"name\":\"root\",%s", root);
    snprintf(branches, sizeof(branches), leaves, module, middle, module, dim);
    n = snprintf(text, sizeof(text),
                 "{\"input\":112,\"trees\":[{\"name\":\"%s\",%s%s]}]}",
                 parallel ? "root_fatigue" : "root", root, branches);
    if (n >= (int)sizeof(text))
        return ut_fail(e, UT_EINVAL, "%s: is too long a name", network);
    return mdl_spec_parse(text, (size_t)n, out, e);
}

/* ---- Table 1 ---- */

struct size {
    double parameters, macs; /* millions */
};

static enum ut_err size_of(const char *network, bool parallel, int dim,
                           struct size *out, struct ut_error *e)
{
    struct mdl_spec *spec = malloc(sizeof(*spec));
    struct mdl_graph g;
    enum ut_err rc;

    *out = (struct size){0, 0};
    if (!spec)
        return ut_fail(e, UT_ENOMEM, "no memory");
    rc = study_spec(network, "lase", parallel, dim, spec, e);
    if (!rc)
        rc = mdl_model_build(spec, &g, e);
    if (!rc) {
        for (int i = 0; i < g.n_values; i++)
            if (g.values[i].kind == MDL_VALUE_PARAM)
                out->parameters += (double)mdl_shape_count(&g.values[i].shape);
        for (int i = 0; i < g.n_nodes; i++)
            out->macs += (double)mdl_node_macs(&g, &g.nodes[i]);
        mdl_graph_fini(&g);
    }
    out->parameters /= 1e6;
    out->macs /= 1e6;
    free(spec);
    return rc;
}

static enum ut_err size_row(FILE *f, const char *network, int dim,
                            struct ut_error *e)
{
    struct size tree, apart;
    const char *said = "not known here";
    char number[32];
    enum ut_err rc = size_of(network, false, dim, &tree, e);

    if (!rc)
        rc = size_of(network, true, dim, &apart, e);
    if (rc)
        return rc;
    for (size_t i = 0; i < sizeof(paper) / sizeof(paper[0]); i++)
        if (!strcmp(paper[i].network, network)) {
            snprintf(number, sizeof(number), "%.2f", paper[i].millions);
            said = number;
        }
    fprintf(f, "| %s | %.2f | %s | %.0f | %.2f | %.0f | %.2f |\n", network,
            tree.parameters, said, tree.macs, apart.parameters, apart.macs,
            apart.parameters / tree.parameters);
    return UT_OK;
}

static enum ut_err sizes(FILE *f, const struct study *s, struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    fprintf(f, "## Table 1: sizes of the tree and of the parallel style\n\n"
               "Trained parameters and multiply-adds of one face, in "
               "millions.\n\n"
               "| network | tree, parameters | the paper's | multiply-adds | "
               "parallel, parameters | multiply-adds | times the tree |\n"
               "| --- | --- | --- | --- | --- | --- | --- |\n");
    for (size_t i = 0; i < sizeof(paper) / sizeof(paper[0]) && !rc; i++)
        rc = size_row(f, paper[i].network, 512, e);
    for (int i = 0; i < s->n_networks && !rc; i++) {
        bool done = false;

        for (size_t k = 0; k < sizeof(paper) / sizeof(paper[0]); k++)
            done |= !strcmp(paper[k].network, s->networks[i]);
        if (!done)
            rc = size_row(f, s->networks[i], s->dim, e);
    }
    fprintf(f, "\n");
    return rc;
}

/* ---- the others ---- */

static const struct {
    const char *test, *key, *title;
    double times; /* 100: per cent */
} columns[] = {
    {"fatigue", "accuracy", "fatigue accuracy, %", 100},
    {"fatigue", "auc", "fatigue AUC", 1},
    {"fatigue", "equal_error_rate", "fatigue EER, %", 100},
    {"pairs", "accuracy", "pairs accuracy, %", 100},
    {"pairs", "auc", "pairs AUC", 1},
    {"pairs", "tar_at_far_1e-3", "pairs TAR at FAR 1e-3, %", 100},
    {"faces", "auc", "people AUC", 1},
    {"faces", "rank1", "people rank 1, %", 100},
};

#define COLUMNS (int)(sizeof(columns) / sizeof(columns[0]))

static bool has_column(const struct study *s, int c)
{
    return (columns[c].test[0] == 'p' && s->tests.pairs) ||
           (columns[c].test[1] == 'a' && columns[c].test[2] == 't' &&
            s->tests.fatigue) ||
           (!strcmp(columns[c].test, "faces") && s->tests.faces);
}

static void header(FILE *f, const struct study *s, const char *first)
{
    fprintf(f, "| %s |", first);
    for (int c = 0; c < COLUMNS; c++)
        if (has_column(s, c))
            fprintf(f, " %s |", columns[c].title);
    fprintf(f, " trainings |\n| --- |");
    for (int c = 0; c < COLUMNS; c++)
        if (has_column(s, c))
            fprintf(f, " --- |");
    fprintf(f, " --- |\n");
}

/* Mean, and with several seeds the deviation, of a figure over a row's runs. */
static void cell(FILE *f, const struct study *s, const char *network,
                 const char *row, int c)
{
    double sum = 0, squares = 0, mean;
    int n = 0;

    for (int i = 0; i < s->n_runs; i++) {
        const struct study_run *r = &s->runs[i];
        const json_t *x = json_object_get(
            json_object_get(r->figures, columns[c].test), columns[c].key);
        double v = json_number_value(x) * columns[c].times;

        if (strcmp(r->row, row) || strcmp(r->network, network) ||
            !json_is_number(x))
            continue;
        sum += v;
        squares += v * v;
        n++;
    }
    if (!n) {
        fprintf(f, " |");
        return;
    }
    mean = sum / n;
    fprintf(f, columns[c].times > 1 ? " %.2f" : " %.4f", mean);
    if (n > 1)
        fprintf(f, columns[c].times > 1 ? " ± %.2f" : " ± %.4f",
                sqrt(fmax(0, (squares - n * mean * mean) / (n - 1))));
    fprintf(f, " |");
}

static void line(FILE *f, const struct study *s, const char *title,
                 const char *network, const char *row)
{
    int done = 0, all = 0;

    for (int i = 0; i < s->n_runs; i++)
        if (!strcmp(s->runs[i].row, row) &&
            !strcmp(s->runs[i].network, network)) {
            all++;
            done += s->runs[i].figures != NULL;
        }
    fprintf(f, "| %s |", title);
    for (int c = 0; c < COLUMNS; c++)
        if (has_column(s, c))
            cell(f, s, network, row, c);
    fprintf(f, " %d of %d |\n", done, all);
}

static void tables(FILE *f, const struct study *s)
{
    static const char *const modules[][2] = {
        {"no attention", "none-tree-alternate"},
        {"LANet", "la-tree-alternate"},
        {"SENet", "se-tree-alternate"},
        {"LANet and SENet (LASE)", "lase-tree-alternate"}};
    const char *first = s->networks[0];
    char title[64], row[48];

    if (s->tables[2]) {
        fprintf(f, "## Table 2: the full network's own rows\n\n");
        header(f, s, "network");
        for (int i = 0; i < s->n_networks; i++)
            line(f, s, s->networks[i], s->networks[i], "lase-tree-alternate");
    }
    if (s->tables[3]) {
        fprintf(f, "\n## Table 3: attention in the branches (%s)\n\n", first);
        header(f, s, "branches");
        for (int i = 0; i < 4; i++)
            line(f, s, modules[i][0], first, modules[i][1]);
    }
    if (s->tables[4]) {
        fprintf(f,
                "\n## Table 4: alternating updation against gradient "
                "accumulation (%s)\n\n",
                first);
        header(f, s, "mode");
        line(f, s, "alternating", first, "lase-tree-alternate");
        for (int w = 1; w <= 9; w++) {
            snprintf(title, sizeof(title), "accumulation, w = 0.%d", w);
            snprintf(row, sizeof(row), "lase-tree-accumulate0.%d", w);
            line(f, s, title, first, row);
        }
    }
    if (s->tables[5]) {
        fprintf(f, "\n## Table 5: tree against parallel style (%s)\n\n", first);
        header(f, s, "style");
        line(f, s, "tree", first, "lase-tree-alternate");
        line(f, s, "parallel", first, "lase-parallel-alternate");
    }
}

static bool was_in(const struct study_run *r, const char *precision)
{
    const char *p = json_string_value(json_object_get(r->figures, "precision"));

    return p && !strcmp(p, precision);
}

/* Which trainings had a precision: all, or these. */
static void precision(FILE *f, const struct study *s, const char *name)
{
    int done = 0, in = 0;

    for (int i = 0; i < s->n_runs; i++) {
        done += s->runs[i].figures != NULL;
        in += was_in(&s->runs[i], name);
    }
    if (!in)
        return;
    fprintf(f, "- In %s:%s", name, in == done ? " all" : "");
    for (int i = 0; i < s->n_runs && in < done; i++)
        if (was_in(&s->runs[i], name))
            fprintf(f, " %s", s->runs[i].id);
    fprintf(f, ".\n");
}

static void settings(FILE *f, const struct study *s)
{
    const struct tool_tests *t = &s->tests;

    fprintf(f, "\n## Data and settings\n\n- Training, the same for every row: "
               "`tscaf-model train");
    for (int i = 0; i < s->n_train; i++)
        fprintf(f, " %s", s->train[i]);
    fprintf(f, "`, from weights that a seed draws; seeds");
    for (int i = 0; i < s->n_seeds; i++)
        fprintf(f, " %d", s->seeds[i]);
    fprintf(f,
            ". Embeddings have %d numbers. A step of accumulation takes a "
            "batch of both datasets, one "
            "of alternation a batch of one.\n",
            s->dim);
    for (int p = MDL_PREC_F32; p <= MDL_PREC_TF32; p++)
        precision(f, s, mdl_precision_name((enum mdl_precision)p));
    if (t->fatigue)
        fprintf(f, "- Fatigue is tested on `%s`.\n", t->fatigue);
    if (t->pairs)
        fprintf(f, "- Pairs: `%s`, each fold by the threshold of the others.\n",
                t->pairs);
    if (t->faces)
        fprintf(f, "- People: every pair of pictures of `%s`.\n", t->faces);
    fprintf(f, "- ± is the standard deviation over seeds. An empty cell is a "
               "training that has not been done.\n"
               "- The paper's figures stand beside ours where this project's "
               "documents state them: Table 1's parameters. The others are not "
               "known here and are left out.\n");
}

enum ut_err study_write_report(const struct study *s, struct ut_error *e)
{
    char part[4096];
    enum ut_err rc = UT_OK;
    FILE *f;

    snprintf(part, sizeof(part), "%.4000s.part", s->report);
    f = fopen(part, "w");
    if (!f)
        return ut_fail(e, UT_EIO, "%.150s: cannot be written: %m", part);
    fprintf(f, "# Results\n\nWritten by `tscaf-model study`.\n\n");
    if (s->tables[1])
        rc = sizes(f, s, e);
    tables(f, s);
    settings(f, s);
    if (fclose(f) && !rc)
        rc = ut_fail(e, UT_EIO, "%.150s: cannot be written: %m", part);
    if (!rc && rename(part, s->report))
        rc = ut_fail(e, UT_EIO, "%.150s: cannot be written: %m", s->report);
    if (rc)
        remove(part);
    return rc;
}
