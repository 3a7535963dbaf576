/* plot tsne: each model's leaves' features of a dataset in the plane. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/eval/tsne.h"
#include "model/tool/plot_job.h"

struct chosen {
    struct mdl_dataset d; /* borrows the paths */
    int *class_of;        /* owned; [d.n] */
    char names[MDL_PLOT_CURVES][32];
    int classes;
};

struct panels {
    struct mdl_points sets[MDL_PLOT_CURVES];
    char titles[MDL_PLOT_CURVES][128];
    float *xy[MDL_PLOT_CURVES]; /* owned */
    int n;
};

/* The labels with the most pictures, best first. */
static int most_of(const struct mdl_dataset *d, int want,
                   int out[MDL_PLOT_CURVES])
{
    int *count = calloc((size_t)d->classes + 1, sizeof(*count)), n = 0;

    if (!count)
        return -1;
    for (int i = 0; i < d->n; i++)
        if (d->examples[i].label >= 0)
            count[d->examples[i].label]++;
    for (; n < want && n < MDL_PLOT_CURVES; n++) {
        int best = 0;

        for (int c = 1; c < d->classes; c++)
            if (count[c] > count[best])
                best = c;
        if (!d->classes || !count[best])
            break;
        out[n] = best;
        count[best] = 0;
    }
    free(count);
    return n;
}

/* At most so many pictures, evenly over the data, of at most so many labels. */
static enum ut_err choose(const struct plot_job *j, const struct mdl_dataset *d,
                          struct chosen *out, struct ut_error *e)
{
    int label[MDL_PLOT_CURVES], all = 0, seen = 0;
    int classes = most_of(d, j->people, label);

    out->d.examples = malloc((size_t)d->n * sizeof(*d->examples));
    out->class_of = malloc((size_t)d->n * sizeof(*out->class_of));
    if (!out->d.examples || !out->class_of || classes < 0)
        return ut_fail(e, UT_ENOMEM, "no memory to choose pictures");
    for (int c = 0; c < classes; c++)
        snprintf(out->names[c], sizeof(out->names[c]),
                 d->classes <= 2 ? (label[c] ? "drowsy" : "alert")
                                 : "identity %d",
                 label[c]);
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < d->n; i++) {
            int c = 0;

            while (c < classes && label[c] != d->examples[i].label)
                c++;
            if (c == classes)
                continue;
            if (!pass) {
                all++;
            } else if (all <= j->points ||
                       (int64_t)(seen + 1) * j->points / all >
                           (int64_t)seen * j->points / all) {
                out->class_of[out->d.n] = c;
                out->d.examples[out->d.n++] = d->examples[i];
            }
            seen += pass;
        }
    out->classes = classes;
    return out->d.n ? UT_OK : ut_fail(e, UT_EINVAL, "no picture has a label");
}

/* Feature maps [n, C, h, w] to their means [n, C], in place. */
static void pool(float *x, int n, int channels, int places)
{
    for (int i = 0; i < n * channels; i++) {
        float sum = 0;

        for (int k = 0; k < places; k++)
            sum += x[(size_t)i * (size_t)places + (size_t)k];
        x[i] = sum / (float)places;
    }
}

/* An embedding leaf's embedding, a binary leaf's pooled LASE output. */
static enum ut_err features(struct mdl_evaluator *v, const struct mdl_model *m,
                            const char *leaf, const struct mdl_dataset *d,
                            float **x, int *dim, struct ut_error *e)
{
    char output[MDL_NAME_LEN + 32];
    const struct mdl_shape *s;
    enum ut_err rc;
    int at;

    snprintf(output, sizeof(output), "%.60s.embedding.normalized", leaf);
    if (mdl_graph_find_output(&m->graph, output) >= 0)
        return mdl_evaluate(v, d, output, x, dim, e);
    snprintf(output, sizeof(output), "%.60s.lase", leaf);
    rc = mdl_evaluate(v, d, output, x, dim, e);
    if (rc)
        return rc;
    at = mdl_graph_find_output(&m->graph, output);
    s = &m->graph.values[m->graph.outputs[at]].shape;
    *dim = (int)s->dim[0];
    pool(*x, d->n, *dim, (int)(s->dim[1] * s->dim[2]));
    return UT_OK;
}

static enum ut_err add_panel(const struct plot_job *j, const struct chosen *c,
                             struct mdl_evaluator *v, const struct mdl_model *m,
                             const char *name, const char *leaf,
                             struct panels *p, struct ut_error *e)
{
    float *x = NULL, *xy = malloc(2 * (size_t)c->d.n * sizeof(*xy));
    int dim;
    enum ut_err rc;

    if (p->n == MDL_PLOT_CURVES) {
        free(xy);
        return ut_fail(e, UT_EINVAL, "over %d panels", MDL_PLOT_CURVES);
    }
    p->xy[p->n] = xy;
    rc = xy ? features(v, m, leaf, &c->d, &x, &dim, e)
            : ut_fail(e, UT_ENOMEM, "no memory for points");
    if (!rc)
        rc = mdl_tsne(x, c->d.n, dim, j->perplexity, j->seed, xy, e);
    free(x);
    snprintf(p->titles[p->n], sizeof(p->titles[0]), "%s, %.40s", name, leaf);
    p->sets[p->n] =
        (struct mdl_points){p->titles[p->n], xy, c->class_of, c->d.n};
    p->n++;
    return rc;
}

static enum ut_err add_model(const struct plot_job *j, const struct chosen *c,
                             const char *path, struct panels *p,
                             struct ut_error *e)
{
    struct mdl_evaluator *v = NULL;
    struct mdl_model m;
    char name[64];
    enum ut_err rc = mdl_model_open(path, &m, e);

    plot_name(path, name);
    if (!rc)
        rc = mdl_evaluator_new(&m, j->backend, MDL_PREC_F32, 0, &v, e);
    for (int i = 0; i < j->n_leaves && !rc; i++)
        rc = add_panel(j, c, v, &m, name, j->leaves[i], p, e);
    mdl_evaluator_free(v);
    mdl_model_close(&m);
    return rc;
}

enum ut_err plot_tsne(const struct plot_job *j, struct ut_error *e)
{
    struct panels *p = calloc(1, sizeof(*p));
    const char *names[MDL_PLOT_CURVES];
    struct mdl_dataset d = {0};
    struct chosen c = {0};
    enum ut_err rc;

    if (!p)
        return ut_fail(e, UT_ENOMEM, "no memory for a figure");
    rc = j->data ? mdl_dataset_open(j->data, &d, e)
                 : ut_fail(e, UT_EINVAL, "tsne wants --data");
    if (!rc)
        rc = choose(j, &d, &c, e);
    for (int i = 0; i < j->n_files && !rc; i++)
        rc = add_model(j, &c, j->files[i], p, e);
    for (int i = 0; i < c.classes; i++)
        names[i] = c.names[i];
    if (!rc)
        rc = mdl_plot_points(j->out, p->sets, p->n, names, c.classes, e);
    for (int i = 0; i < p->n; i++)
        free(p->xy[i]);
    free(p);
    free(c.d.examples);
    free(c.class_of);
    mdl_dataset_fini(&d);
    return rc;
}
