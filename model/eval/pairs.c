/* Files of pairs, and a model's scores for them. */
#include "model/eval/pairs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FIELDS 4

struct reader {
    struct mdl_pairs *p;
    const char *path, *folder;
    int line, cap;
    int folds, half; /* of pairs.txt: half is 300 */
};

static enum ut_err bad(const struct reader *r, const char *why,
                       struct ut_error *e)
{
    return ut_fail(e, UT_EFORMAT, "%.120s:%d: %s", r->path, r->line, why);
}

/* Cuts a line at its tabs; how many fields, or -1 past MAX_FIELDS. */
static int cut(char *line, char *field[MAX_FIELDS])
{
    int n = 0;

    line[strcspn(line, "\r\n")] = '\0';
    for (char *at = line; at; n++) {
        if (n == MAX_FIELDS)
            return -1;
        field[n] = strsep(&at, "\t");
    }
    return n;
}

static bool number(const char *text, int *out)
{
    char *end;
    long v = strtol(text, &end, 10);

    *out = (int)v;
    return end != text && !*end && v >= 0 && v < MDL_PAIRS_MAX;
}

static bool grow(void **array, size_t bytes)
{
    void *more = realloc(*array, bytes);

    if (more)
        *array = more;
    return more;
}

static enum ut_err add(struct reader *r, int fold, bool same, const char *a,
                       const char *b, struct ut_error *e)
{
    struct mdl_pairs *p = r->p;
    struct mdl_dataset *d = &p->pictures;

    if (p->n == MDL_PAIRS_MAX)
        return ut_fail(e, UT_EBUSY, "%.120s: over %d pairs", r->path,
                       MDL_PAIRS_MAX);
    if (p->n == r->cap) {
        size_t cap = r->cap ? 2 * (size_t)r->cap : 4096;

        if (!grow((void **)&p->list, cap * sizeof(*p->list)) ||
            !grow((void **)&d->examples, 2 * cap * sizeof(*d->examples)))
            return ut_fail(e, UT_ENOMEM, "no memory for pairs");
        r->cap = (int)cap;
    }
    p->list[p->n++] = (struct mdl_pair){.fold = fold, .same = same};
    for (int k = 0; k < 2; k++) {
        /* label: which end of which pair it is, until they are merged */
        d->examples[d->n] = (struct mdl_example){
            .path = strdup(k ? b : a), .label = d->n, .group = -1};
        if (!d->examples[d->n++].path)
            return ut_fail(e, UT_ENOMEM, "no memory for pairs");
    }
    return UT_OK;
}

/* "fold<TAB>same<TAB>a<TAB>b" */
static enum ut_err add_manifest(struct reader *r, char **field, int n,
                                struct ut_error *e)
{
    char a[2048], b[2048];
    int fold, same;

    if (n != 4 || !number(field[0], &fold) || !number(field[1], &same) ||
        same > 1 || !*field[2] || !*field[3])
        return bad(r, "is no fold, same, a, b", e);
    snprintf(a, sizeof(a), "%s/%s", r->folder, field[2]);
    snprintf(b, sizeof(b), "%s/%s", r->folder, field[3]);
    return add(r, fold, same, a, b, e);
}

/* Where a person's picture lies: LFW's own names, or bare numbers. */
static bool find(const struct reader *r, const char *name, int number,
                 char *out, size_t size)
{
    static const char *const ends[] = {"jpg", "png"};

    for (size_t k = 0; k < 2; k++) {
        snprintf(out, size, "%s/%s/%04d.%s", r->folder, name, number, ends[k]);
        if (!access(out, R_OK))
            return true;
        snprintf(out, size, "%s/%s/%s_%04d.%s", r->folder, name, name, number,
                 ends[k]);
        if (!access(out, R_OK))
            return true;
    }
    snprintf(out, size, "%s/%s/%s_%04d.jpg", r->folder, name, name, number);
    return false;
}

/* "NAME<TAB>i<TAB>j", "NAME<TAB>i<TAB>NAME<TAB>j" */
static enum ut_err add_lfw(struct reader *r, char **field, int n,
                           struct ut_error *e)
{
    bool same = r->p->n / r->half % 2 == 0;
    char path[2][2048];
    int i, j;

    if (n != (same ? 3 : 4) || !*field[0] || !number(field[1], &i) ||
        !number(field[n - 1], &j))
        return bad(r,
                   same ? "is no name and two numbers"
                        : "is not two names with a number each",
                   e);
    if (r->p->n == r->folds * 2 * r->half)
        return bad(r, "is one pair more than the first line says", e);
    for (int k = 0; k < 2; k++)
        if (!find(r, field[k && !same ? 2 : 0], k ? j : i, path[k],
                  sizeof(path[k])))
            return ut_fail(e, UT_ENOTFOUND, "%.60s:%d: there is no %.100s",
                           r->path, r->line, path[k]);
    return add(r, r->p->n / (2 * r->half), same, path[0], path[1], e);
}

/* The first line says which of the two it is. */
static enum ut_err read_first(struct reader *r, char **field, int n,
                              struct ut_error *e)
{
    if (n == 4 && !strcmp(field[0], "fold"))
        return UT_OK;
    if (n == 2 && number(field[0], &r->folds) && number(field[1], &r->half) &&
        r->folds && r->half && r->folds <= MDL_PAIRS_MAX / 2 / r->half)
        return UT_OK;
    return bad(r, "is neither \"fold, same, a, b\" nor folds and pairs", e);
}

static enum ut_err read_lines(struct reader *r, FILE *f, struct ut_error *e)
{
    char line[4096], *field[MAX_FIELDS];
    enum ut_err rc = UT_OK;

    while (!rc && fgets(line, sizeof(line), f)) {
        int n;

        r->line++;
        if (!strchr(line, '\n') && !feof(f))
            return bad(r, "is too long", e);
        n = cut(line, field);
        if (r->line == 1)
            rc = read_first(r, field, n, e);
        else if (n == 1 && !*field[0])
            continue;
        else
            rc = r->half ? add_lfw(r, field, n, e)
                         : add_manifest(r, field, n, e);
    }
    if (!rc && ferror(f))
        rc = ut_fail(e, UT_EIO, "%.150s: %m", r->path);
    if (!rc && (!r->p->n || r->p->n < r->folds * 2 * r->half))
        rc = ut_fail(e, UT_EFORMAT, "%.120s: has %d pairs, not %d", r->path,
                     r->p->n, r->half ? r->folds * 2 * r->half : 1);
    return rc;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct mdl_example *)a)->path,
                  ((const struct mdl_example *)b)->path);
}

/* A picture of many pairs goes through the network once. */
static void merge(struct mdl_pairs *p)
{
    struct mdl_example *x = p->pictures.examples;
    int n = 0;

    qsort(x, (size_t)p->pictures.n, sizeof(*x), by_path);
    for (int i = 0; i < p->pictures.n; i++) {
        int end = x[i].label;

        if (n && !by_path(&x[n - 1], &x[i]))
            free(x[i].path);
        else
            x[n++] = x[i];
        *(end % 2 ? &p->list[end / 2].b : &p->list[end / 2].a) = n - 1;
    }
    p->pictures.n = n;
}

enum ut_err mdl_pairs_open(const char *path, const char *folder,
                           struct mdl_pairs *out, struct ut_error *e)
{
    struct reader r = {.p = out, .path = path, .folder = folder};
    char own[1024];
    FILE *f = fopen(path, "r");
    enum ut_err rc;
    char *slash;

    *out = (struct mdl_pairs){0};
    if (!f)
        return ut_fail(e, UT_ENOTFOUND, "%.150s: %m", path);
    if (!folder) {
        snprintf(own, sizeof(own), "%s", path);
        slash = strrchr(own, '/');
        if (slash)
            *slash = '\0';
        r.folder = slash ? own : ".";
    }
    rc = read_lines(&r, f, e);
    fclose(f);
    if (rc)
        mdl_pairs_fini(out);
    else
        merge(out);
    return rc;
}

void mdl_pairs_fini(struct mdl_pairs *p)
{
    mdl_dataset_fini(&p->pictures);
    free(p->list);
    *p = (struct mdl_pairs){0};
}

enum ut_err mdl_pairs_score(struct mdl_evaluator *v, const struct mdl_pairs *p,
                            const char *leaf, struct mdl_scored **scores,
                            struct ut_error *e)
{
    char output[MDL_NAME_LEN + 32];
    float *x = NULL;
    int dim = 0;
    enum ut_err rc;

    *scores = NULL;
    snprintf(output, sizeof(output), "%s.embedding.normalized", leaf);
    rc = mdl_evaluate(v, &p->pictures, output, &x, &dim, e);
    if (rc)
        return rc;
    *scores = malloc((size_t)p->n * sizeof(**scores));
    if (!*scores)
        rc = ut_fail(e, UT_ENOMEM, "no memory for %d scores", p->n);
    for (int i = 0; i < p->n && !rc; i++) {
        const struct mdl_pair *pair = &p->list[i];
        const float *a = x + (size_t)pair->a * (size_t)dim;
        const float *b = x + (size_t)pair->b * (size_t)dim;
        double sum = 0;

        for (int k = 0; k < dim; k++)
            sum += (double)a[k] * b[k];
        (*scores)[i] = (struct mdl_scored){(float)sum, pair->same, pair->fold};
    }
    if (!rc)
        mdl_scored_sort(*scores, p->n);
    free(x);
    return rc;
}
