/* Grad-CAM:
 *
 *   binary      logit = w . mean(y) + b          d logit / d y_c,i = w_c / hw
 *   embedding   v = k (W y + b) + t,  k = gamma / sqrt(var + eps)
 *               d / d y = W^T (k g),  g = d score / d v:
 *                 cosine with r    (r - cos v/|v|) / |v|
 *                 length           v / |v|
 */
#include "model/eval/explain.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BN_EPS 1e-5 /* of mdl_net_batchnorm */

enum { LASE, SCORE, ATTENTION, N_OUTPUTS }; /* SCORE: logit or embedding */

struct mdl_explainer {
    struct mdl_graph graph;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    int side, channels, h, w, dim; /* dim 0: binary */
    int at[N_OUTPUTS];             /* of the graph's outputs; -1: none */
    float *out[N_OUTPUTS];         /* owned */
    const float *weight;           /* [1, C] or [dim, C h w] */
    float *scale;                  /* owned; k [dim] */
    double *gradient;              /* owned; a [C] */
    float *coarse;                 /* owned; [h, w] */
};

void mdl_explainer_free(struct mdl_explainer *x)
{
    if (!x)
        return;
    mdl_plan_free(x->plan);
    mdl_lane_free(x->lane);
    mdl_graph_fini(&x->graph);
    for (int i = 0; i < N_OUTPUTS; i++)
        free(x->out[i]);
    free(x->scale);
    free(x->gradient);
    free(x->coarse);
    free(x);
}

int mdl_explainer_side(const struct mdl_explainer *x)
{
    return x->side;
}

bool mdl_explainer_attends(const struct mdl_explainer *x)
{
    return x->at[ATTENTION] >= 0;
}

int mdl_explainer_dim(const struct mdl_explainer *x)
{
    return x->dim;
}

/* A bound parameter's numbers, or NULL. */
static const float *weights(const struct mdl_graph *g, const char *leaf,
                            const char *part)
{
    char name[MDL_NAME_LEN];

    snprintf(name, sizeof(name), "%s.%s", leaf, part);
    for (int v = 0; v < g->n_values; v++)
        if (!strcmp(g->values[v].name, name))
            return g->values[v].data;
    return NULL;
}

static int output(const struct mdl_graph *g, const char *leaf, const char *part)
{
    char name[MDL_NAME_LEN];

    snprintf(name, sizeof(name), "%s.%s", leaf, part);
    return mdl_graph_find_output(g, name);
}

static enum ut_err find(struct mdl_explainer *x, const struct mdl_model *m,
                        const char *leaf, struct ut_error *e)
{
    int n = mdl_spec_find(&m->spec, leaf);
    const struct mdl_graph *g = &m->graph;
    const struct mdl_shape *y;

    if (n < 0 || m->spec.nodes[n].head == MDL_HEAD_NONE)
        return ut_fail(e, UT_EINVAL, "the model has no leaf \"%.60s\"", leaf);
    x->dim =
        m->spec.nodes[n].head == MDL_HEAD_EMBEDDING ? m->spec.nodes[n].dim : 0;
    x->side = m->spec.input;
    x->at[LASE] = output(g, leaf, "lase");
    x->at[SCORE] = output(g, leaf, x->dim ? "embedding" : "logit");
    x->at[ATTENTION] = output(g, leaf, "attention.la");
    x->weight = weights(g, leaf, "head.fc.weight");
    if (x->at[LASE] < 0 || x->at[SCORE] < 0 || !x->weight)
        return ut_fail(e, UT_EINVAL, "leaf \"%.60s\" has no head to explain",
                       leaf);
    y = &g->values[g->outputs[x->at[LASE]]].shape;
    x->channels = (int)y->dim[0];
    x->h = (int)y->dim[1];
    x->w = (int)y->dim[2];
    return UT_OK;
}

static enum ut_err take_memory(struct mdl_explainer *x,
                               const struct mdl_model *m, const char *leaf,
                               struct ut_error *e)
{
    const float *gamma = weights(&m->graph, leaf, "head.bn.weight");
    const float *var = weights(&m->graph, leaf, "head.bn.running_var");
    bool ok = true;

    for (int i = 0; i < N_OUTPUTS; i++) {
        if (x->at[i] < 0)
            continue;
        x->out[i] = calloc(
            mdl_shape_count(&m->graph.values[m->graph.outputs[x->at[i]]].shape),
            sizeof(float));
        ok &= x->out[i] != NULL;
    }
    x->gradient = calloc((size_t)x->channels, sizeof(*x->gradient));
    x->coarse = calloc((size_t)x->h * (size_t)x->w, sizeof(*x->coarse));
    x->scale = calloc((size_t)x->dim + 1, sizeof(*x->scale));
    if (!ok || !x->gradient || !x->coarse || !x->scale)
        return ut_fail(e, UT_ENOMEM, "no memory to explain");
    for (int d = 0; d < x->dim; d++)
        x->scale[d] = gamma && var
                          ? (float)(gamma[d] / sqrt((double)var[d] + BN_EPS))
                          : 1;
    return UT_OK;
}

enum ut_err mdl_explainer_new(const struct mdl_model *m, const char *leaf,
                              struct mdl_backend *b,
                              enum mdl_precision precision,
                              struct mdl_explainer **out, struct ut_error *e)
{
    struct mdl_explainer *x = calloc(1, sizeof(*x));
    uint64_t keep = 0;
    enum ut_err rc;

    *out = NULL;
    if (!x)
        return ut_fail(e, UT_ENOMEM, "no memory to explain");
    mdl_graph_init(&x->graph);
    rc = find(x, m, leaf, e);
    if (!rc)
        rc = take_memory(x, m, leaf, e);
    for (int i = 0; i < N_OUTPUTS && !rc; i++)
        if (x->at[i] >= 0)
            keep |= 1ull << x->at[i];
    if (!rc)
        rc = mdl_graph_optimise(&m->graph, keep, &x->graph, e);
    if (!rc)
        rc = mdl_lane_new(b, &x->lane, e);
    if (!rc)
        rc = mdl_plan_new(x->lane, &x->graph, precision, 1, &x->plan, e);
    if (rc)
        mdl_explainer_free(x);
    else
        *out = x;
    return rc;
}

/* a_c of the embedding's head. */
static void embedding_gradient(struct mdl_explainer *x, const float *reference,
                               float *score)
{
    size_t places = (size_t)x->h * (size_t)x->w;
    size_t columns = places * (size_t)x->channels;
    const float *v = x->out[SCORE];
    double length = 1e-12, cosine = 0;

    for (int d = 0; d < x->dim; d++)
        length += (double)v[d] * v[d];
    length = sqrt(length);
    for (int d = 0; reference && d < x->dim; d++)
        cosine += (double)v[d] * reference[d] / length;
    *score = (float)(reference ? cosine : length);
    for (int d = 0; d < x->dim; d++) {
        double unit = v[d] / length;
        double g = x->scale[d] *
                   (reference ? (reference[d] - cosine * unit) / length : unit);
        const float *row = x->weight + (size_t)d * columns;

        for (int c = 0; c < x->channels; c++, row += places) {
            float sum = 0;

            for (size_t i = 0; i < places; i++)
                sum += row[i];
            x->gradient[c] += g * sum / (double)places;
        }
    }
}

/* Bilinear, with half-pixel centres, from [h, w] to [side, side]. */
static void spread(const float *from, int h, int w, int side, float *to)
{
    for (int i = 0; i < side; i++) {
        double y = fmin(fmax((i + 0.5) * h / side - 0.5, 0), h - 1);
        int y0 = (int)y, y1 = y0 + 1 < h ? y0 + 1 : y0;

        for (int j = 0; j < side; j++) {
            double x = fmin(fmax((j + 0.5) * w / side - 0.5, 0), w - 1);
            int x0 = (int)x, x1 = x0 + 1 < w ? x0 + 1 : x0;
            double top = from[y0 * w + x0] +
                         (x - x0) * (from[y0 * w + x1] - from[y0 * w + x0]);
            double low = from[y1 * w + x0] +
                         (x - x0) * (from[y1 * w + x1] - from[y1 * w + x0]);

            to[i * side + j] = (float)(top + (y - y0) * (low - top));
        }
    }
}

/* max(0, sum_c a_c y_c), over its largest. */
static void draw_cam(struct mdl_explainer *x, bool against, float *cam)
{
    int places = x->h * x->w;
    float most = 0;

    for (int i = 0; i < places; i++) {
        double sum = 0;

        for (int c = 0; c < x->channels; c++)
            sum += x->gradient[c] * x->out[LASE][c * places + i];
        x->coarse[i] = (float)fmax(0, against ? -sum : sum);
        most = fmaxf(most, x->coarse[i]);
    }
    for (int i = 0; i < places && most > 0; i++)
        x->coarse[i] /= most;
    spread(x->coarse, x->h, x->w, x->side, cam);
}

enum ut_err mdl_explainer_run(struct mdl_explainer *x, const uint8_t *face,
                              const struct mdl_question *q,
                              struct mdl_explanation *out, struct ut_error *e)
{
    float *results[MDL_MAX_OUTPUTS] = {0};
    double length = 1e-12;
    enum ut_err rc;

    for (int i = 0; i < N_OUTPUTS; i++)
        if (x->at[i] >= 0)
            results[x->at[i]] = x->out[i];
    rc = mdl_plan_run(x->plan, &(struct mdl_io){face, results}, e);
    if (rc)
        return rc;
    memset(x->gradient, 0, (size_t)x->channels * sizeof(*x->gradient));
    if (x->dim) {
        embedding_gradient(x, q->reference, &out->score);
    } else {
        for (int c = 0; c < x->channels; c++)
            x->gradient[c] = (double)x->weight[c] / (x->h * x->w);
        out->score = 1 / (1 + expf(-x->out[SCORE][0]));
    }
    if (!isfinite(out->score))
        return ut_fail(e, UT_ESTATE, "the network's answer is not finite");
    if (out->cam)
        draw_cam(x, q->against, out->cam);
    if (out->attention && mdl_explainer_attends(x))
        spread(x->out[ATTENTION], x->h, x->w, x->side, out->attention);
    for (int d = 0; d < x->dim; d++)
        length += (double)x->out[SCORE][d] * x->out[SCORE][d];
    for (int d = 0; out->embedding && d < x->dim; d++)
        out->embedding[d] = (float)(x->out[SCORE][d] / sqrt(length));
    return UT_OK;
}

/* Blue, cyan, yellow, red: one channel of v in 0..1. */
static double shade(double v, double middle)
{
    return fmin(1, fmax(0, 1.5 - fabs(4 * v - middle)));
}

void mdl_explain_draw(const uint8_t *face, const float *map, int side,
                      uint8_t *out)
{
    for (int i = 0; i < side * side; i++) {
        double v = fmin(1, fmax(0, (double)map[i]));
        double colour[3] = {shade(v, 3), shade(v, 2), shade(v, 1)};

        for (int c = 0; c < 3; c++)
            out[3 * i + c] =
                (uint8_t)(0.55 * face[3 * i + c] + 0.45 * 255 * colour[c]);
    }
}
