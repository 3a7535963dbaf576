/* Losses. ArcFace's three products run over packed panels. */
#include "model/train/loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/panel.h"

double mdl_loss_bce(const float *logit, const float *target, int n,
                    float *dlogit)
{
    double loss = 0;

    for (int i = 0; i < n; i++) {
        double x = logit[i], p = 1 / (1 + exp(-x));

        /* log(1 + e^x) - t x without overflow */
        loss += fmax(x, 0) + log1p(exp(-fabs(x))) - target[i] * x;
        dlogit[i] = (float)((p - target[i]) / n);
    }
    return loss / n;
}

/* ---- ArcFace ---- */

struct work {
    float *unit, *unit_norm;     /* [n, dim], [n]: embeddings           */
    float *centre, *centre_norm; /* [rows, dim], [rows]: sub-centres    */
    float *panels;               /* packed for the product at hand      */
    float *cosine;               /* [n, rows]                           */
    float *dcosine;              /* [n, rows]                           */
    float *turned;               /* [rows, n]                           */
    double *logit;               /* [classes]                           */
    int *nearest;                /* [classes]: row                      */
};

static void normalise(const float *x, size_t rows, size_t dim, float *unit,
                      float *norm)
{
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;

        for (size_t i = 0; i < dim; i++)
            sum += (double)x[r * dim + i] * x[r * dim + i];
        norm[r] = (float)fmax(sqrt(sum), 1e-12);
        for (size_t i = 0; i < dim; i++)
            unit[r * dim + i] = x[r * dim + i] / norm[r];
    }
}

/* Gradient by x of a function of x / |x|. */
static void through_norm(const float *unit, const float *norm, size_t rows,
                         size_t dim, float *d)
{
    for (size_t r = 0; r < rows; r++) {
        double along = 0;

        for (size_t i = 0; i < dim; i++)
            along += (double)unit[r * dim + i] * d[r * dim + i];
        for (size_t i = 0; i < dim; i++)
            d[r * dim + i] =
                (float)((d[r * dim + i] - unit[r * dim + i] * along) / norm[r]);
    }
}

/* y [n, rows] = x [n, columns] w^T, w [rows, columns] or, transposed,
 * [columns, rows]. */
static void product(struct work *s, const float *w, bool transposed,
                    size_t rows, size_t columns, const float *x, size_t n,
                    float *y)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++)
            s->panels[mdl_panel_at(false, columns, r, c)] =
                transposed ? w[c * rows + r] : w[r * columns + c];
    memset(y, 0, n * rows * sizeof(*y));
    mdl_panel_product(false, s->panels, rows, columns, x, columns, (int)n, y);
}

/* The target's cosine with its margin; *slope its derivative by the cosine. */
static double widen(double t, double margin, double *slope)
{
    double sine = sqrt(1 - t * t);

    if (t > cos(3.14159265358979323846 - margin)) {
        *slope = cos(margin) + t / sine * sin(margin);
        return t * cos(margin) - sine * sin(margin);
    }
    *slope = 1;
    return t - margin * sin(margin);
}

/* One image's row of cosines to its row of gradients; returns its loss. */
static double row(const struct mdl_arcface *a, struct work *s,
                  const float *cosine, int label, int n, float *d)
{
    double slope = 1, sum = 0, top = -1e30, target;

    for (int c = 0; c < a->classes; c++) {
        int best = c * a->k;

        for (int k = 1; k < a->k; k++)
            if (cosine[c * a->k + k] > cosine[best])
                best = c * a->k + k;
        s->nearest[c] = best;
        s->logit[c] = a->scale * fmin(fmax(cosine[best], -1 + 1e-7), 1 - 1e-7);
    }
    target = s->logit[label] =
        a->scale * widen(s->logit[label] / a->scale, a->margin, &slope);
    for (int c = 0; c < a->classes; c++)
        top = fmax(top, s->logit[c]);
    for (int c = 0; c < a->classes; c++)
        sum += exp(s->logit[c] - top);
    for (int c = 0; c < a->classes; c++) {
        double p = exp(s->logit[c] - top) / sum - (c == label);

        d[s->nearest[c]] = (float)(p * a->scale * (c == label ? slope : 1) / n);
    }
    return log(fmax(sum, 1)) + top - target; /* the top gives 1 */
}

static size_t panel_bytes(size_t rows, size_t columns)
{
    size_t bytes = mdl_panel_count(rows, columns) * sizeof(float);

    return (bytes + 63) / 64 * 64;
}

static bool allocate(struct work *s, const struct mdl_arcface *a, size_t n)
{
    size_t rows = (size_t)a->classes * (size_t)a->k, dim = (size_t)a->dim;
    size_t panels = panel_bytes(rows, dim);

    if (panel_bytes(dim, rows) > panels)
        panels = panel_bytes(dim, rows);
    if (panel_bytes(dim, n) > panels)
        panels = panel_bytes(dim, n);
    s->panels = aligned_alloc(64, panels);
    s->unit = malloc(n * dim * sizeof(float));
    s->unit_norm = malloc(n * sizeof(float));
    s->centre = malloc(rows * dim * sizeof(float));
    s->centre_norm = malloc(rows * sizeof(float));
    s->cosine = malloc(n * rows * sizeof(float));
    s->dcosine = calloc(n * rows, sizeof(float));
    s->turned = malloc(n * rows * sizeof(float));
    s->logit = malloc((size_t)a->classes * sizeof(double));
    s->nearest = malloc((size_t)a->classes * sizeof(int));
    if (!s->panels || !s->unit || !s->unit_norm || !s->centre ||
        !s->centre_norm || !s->cosine || !s->dcosine || !s->turned ||
        !s->logit || !s->nearest)
        return false;
    memset(s->panels, 0, panels);
    return true;
}

static void release(struct work *s)
{
    free(s->panels);
    free(s->unit);
    free(s->unit_norm);
    free(s->centre);
    free(s->centre_norm);
    free(s->cosine);
    free(s->dcosine);
    free(s->turned);
    free(s->logit);
    free(s->nearest);
}

enum ut_err mdl_loss_arcface(const struct mdl_arcface *a,
                             const float *embedding, const float *weight,
                             const int32_t *label, int n, double *loss,
                             float *dembedding, float *dweight,
                             struct ut_error *e)
{
    size_t rows = (size_t)a->classes * (size_t)a->k, dim = (size_t)a->dim;
    struct work s = {0};
    enum ut_err rc = UT_OK;
    int labelled = 0;

    *loss = 0;
    for (int i = 0; i < n && !rc; i++) {
        labelled += label[i] >= 0;
        if (label[i] >= a->classes)
            rc = ut_fail(e, UT_EINVAL, "label %d is past %d classes", label[i],
                         a->classes);
    }
    if (!rc && !allocate(&s, a, (size_t)n))
        rc = ut_fail(e, UT_ENOMEM, "no memory for ArcFace");
    if (rc)
        goto out;
    normalise(embedding, (size_t)n, dim, s.unit, s.unit_norm);
    normalise(weight, rows, dim, s.centre, s.centre_norm);
    product(&s, s.centre, false, rows, dim, s.unit, (size_t)n, s.cosine);
    for (int i = 0; i < n; i++)
        if (label[i] >= 0)
            *loss += row(a, &s, s.cosine + (size_t)i * rows, label[i], labelled,
                         s.dcosine + (size_t)i * rows);
    if (labelled)
        *loss /= labelled;
    product(&s, s.centre, true, dim, rows, s.dcosine, (size_t)n, dembedding);
    through_norm(s.unit, s.unit_norm, (size_t)n, dim, dembedding);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < (size_t)n; i++)
            s.turned[r * (size_t)n + i] = s.dcosine[i * rows + r];
    product(&s, s.unit, true, dim, (size_t)n, s.turned, rows, dweight);
    through_norm(s.centre, s.centre_norm, rows, dim, dweight);
out:
    release(&s);
    return rc;
}

/* ---- distillation ---- */

static double dot(const float *a, const float *b, int n)
{
    double sum = 0;

    for (int i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

static void add_times(float *y, float a, const float *x, int n)
{
    for (int i = 0; i < n; i++)
        y[i] += a * x[i];
}

static double cosine_part(const struct mdl_distill *d, const float *embedding,
                          const float *projection, const float *teacher, int n,
                          float *p, float *dembedding, float *dprojection)
{
    double loss = 0;

    for (int i = 0; i < n; i++) {
        const float *e = embedding + (size_t)i * (size_t)d->dim;
        const float *t = teacher + (size_t)i * (size_t)d->teacher_dim;
        double norm, cosine;

        for (int k = 0; k < d->teacher_dim; k++)
            p[k] =
                (float)dot(projection + (size_t)k * (size_t)d->dim, e, d->dim);
        norm = fmax(sqrt(dot(p, p, d->teacher_dim)), 1e-12);
        cosine = dot(p, t, d->teacher_dim) / norm;
        loss += 1 - cosine;
        for (int k = 0; k < d->teacher_dim; k++) {
            const float *row = projection + (size_t)k * (size_t)d->dim;
            double dp = -(t[k] - p[k] / norm * cosine) / norm / n * d->cosine;

            add_times(dembedding + (size_t)i * (size_t)d->dim, (float)dp, row,
                      d->dim);
            add_times(dprojection + (size_t)k * (size_t)d->dim, (float)dp, e,
                      d->dim);
        }
    }
    return loss / n;
}

static double similarity_part(const struct mdl_distill *d, const float *unit,
                              const float *norm, const float *teacher, int n,
                              float *du, float *dembedding)
{
    double loss = 0, pairs = fmax((double)n * (n - 1), 1);
    size_t dim = (size_t)d->dim;

    memset(du, 0, (size_t)n * dim * sizeof(*du));
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) {
            double off =
                dot(unit + (size_t)i * dim, unit + (size_t)j * dim, d->dim) -
                dot(teacher + (size_t)i * (size_t)d->teacher_dim,
                    teacher + (size_t)j * (size_t)d->teacher_dim,
                    d->teacher_dim);
            float g = (float)(4 * off / pairs * d->similarity);

            loss += 2 * off * off / pairs;
            add_times(du + (size_t)i * dim, g, unit + (size_t)j * dim, d->dim);
            add_times(du + (size_t)j * dim, g, unit + (size_t)i * dim, d->dim);
        }
    through_norm(unit, norm, (size_t)n, dim, du);
    for (size_t i = 0; i < (size_t)n * dim; i++)
        dembedding[i] += du[i];
    return loss;
}

enum ut_err mdl_loss_distill(const struct mdl_distill *d,
                             const float *embedding, const float *projection,
                             const float *teacher, int n, double *loss,
                             float *dembedding, float *dprojection,
                             struct ut_error *e)
{
    size_t dim = (size_t)d->dim, count = (size_t)n * dim;
    float *p = malloc((size_t)d->teacher_dim * sizeof(*p));
    float *unit = malloc(count * sizeof(*unit));
    float *norm = malloc((size_t)n * sizeof(*norm));
    float *du = malloc(count * sizeof(*du));
    enum ut_err rc = UT_OK;

    *loss = 0;
    memset(dembedding, 0, count * sizeof(*dembedding));
    memset(dprojection, 0, (size_t)d->teacher_dim * dim * sizeof(*dprojection));
    if (!p || !unit || !norm || !du) {
        rc = ut_fail(e, UT_ENOMEM, "no memory for distillation");
    } else {
        normalise(embedding, (size_t)n, dim, unit, norm);
        *loss = d->cosine * cosine_part(d, embedding, projection, teacher, n, p,
                                        dembedding, dprojection) +
                d->similarity *
                    similarity_part(d, unit, norm, teacher, n, du, dembedding);
    }
    free(p);
    free(unit);
    free(norm);
    free(du);
    return rc;
}
