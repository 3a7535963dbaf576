/* The operations of training, as their definitions say; sums in double, but the
 * few terms of an upsampling. */
#include <math.h>
#include <string.h>

#include "model/backends/ref/plan.h"

static struct map in_map(const struct plan *p, const struct mdl_node *n,
                         int role, int b)
{
    return ref_map(p, n->in[role], b);
}

static int64_t area(struct map m)
{
    return m.h * m.w;
}

/* ---- BatchNorm; xhat = (x - mean) / sqrt(var + eps) ---- */

static double inverse_deviation(const struct mdl_node *n, const float *stats,
                                int64_t channels, int64_t c)
{
    return 1 / sqrt((double)stats[channels + c] + n->eps);
}

static void bn_stats(struct plan *p, const struct mdl_node *n)
{
    struct map x = in_map(p, n, 0, 0);
    float *out = ref_value(p, n->out, 0);
    double count = (double)(area(x) * p->batch);

    for (int64_t c = 0; c < x.c; c++) {
        double sum = 0, squares = 0;

        for (int b = 0; b < p->batch; b++)
            for (int64_t i = 0; i < area(x); i++)
                sum += in_map(p, n, 0, b).data[c * area(x) + i];
        for (int b = 0; b < p->batch; b++)
            for (int64_t i = 0; i < area(x); i++) {
                double d =
                    in_map(p, n, 0, b).data[c * area(x) + i] - sum / count;

                squares += d * d;
            }
        out[c] = (float)(sum / count);
        out[x.c + c] = (float)(squares / count);
    }
}

static void bn_train(struct plan *p, const struct mdl_node *n)
{
    const float *gamma = ref_in(p, n, 1), *beta = ref_in(p, n, 2);
    const float *stats = ref_in(p, n, 3);

    for (int b = 0; b < p->batch; b++) {
        struct map x = in_map(p, n, 0, b), y = ref_map(p, n->out, b);

        for (int64_t i = 0; i < x.c * area(x); i++) {
            int64_t c = i / area(x);
            double k =
                (gamma ? gamma[c] : 1) * inverse_deviation(n, stats, x.c, c);

            y.data[i] = (float)((x.data[i] - (double)stats[c]) * k +
                                (beta ? beta[c] : 0));
        }
    }
}

static void bn_dparam(struct plan *p, const struct mdl_node *n)
{
    const float *stats = ref_in(p, n, 1);
    struct map x = in_map(p, n, 0, 0);
    float *out = ref_value(p, n->out, 0);

    for (int64_t c = 0; c < x.c; c++) {
        double k = inverse_deviation(n, stats, x.c, c), dgamma = 0, dbeta = 0;

        for (int b = 0; b < p->batch; b++)
            for (int64_t i = c * area(x); i < (c + 1) * area(x); i++) {
                double dy = in_map(p, n, 2, b).data[i];

                dbeta += dy;
                dgamma += dy * (in_map(p, n, 0, b).data[i] - stats[c]) * k;
            }
        out[c] = (float)dgamma;
        out[x.c + c] = (float)dbeta;
    }
}

/* dx = gamma / sd * (dy - mean(dy) - xhat mean(dy xhat)) */
static void bn_dx(struct plan *p, const struct mdl_node *n)
{
    const float *gamma = ref_in(p, n, 1), *stats = ref_in(p, n, 2);
    const float *dparam = ref_in(p, n, 3);

    for (int b = 0; b < p->batch; b++) {
        struct map x = in_map(p, n, 0, b), dy = in_map(p, n, 4, b);
        float *dx = ref_value(p, n->out, b);
        double count = (double)(area(x) * p->batch);

        for (int64_t i = 0; i < x.c * area(x); i++) {
            int64_t c = i / area(x);
            double k = inverse_deviation(n, stats, x.c, c);
            double xhat = (x.data[i] - (double)stats[c]) * k;

            dx[i] = (float)((gamma ? gamma[c] : 1) * k *
                            (dy.data[i] - dparam[x.c + c] / count -
                             xhat * dparam[c] / count));
        }
    }
}

/* ---- products ---- */

/* Which output, along one side, reads input `at` by tap i of the kernel: -1 if
 * none does. */
static int64_t reader(const struct mdl_node *n, int64_t at, int64_t i,
                      int64_t outputs)
{
    int64_t first = at + n->pad - i, r = first / n->stride;

    return first >= 0 && first % n->stride == 0 && r < outputs ? r : -1;
}

static void conv_dx(struct plan *p, const struct mdl_node *n)
{
    const float *w = ref_in(p, n, 1);
    int64_t k = n->kernel;

    for (int b = 0; b < p->batch; b++) {
        struct map dy = in_map(p, n, 0, b), dx = ref_map(p, n->out, b);
        int64_t ins = dx.c / n->groups, outs = dy.c / n->groups;

        for (int64_t at = 0; at < dx.c * area(dx); at++) {
            int64_t c = at / area(dx), from = c / ins * outs;
            double sum = 0;

            for (int64_t i = 0; i < k * k; i++) {
                int64_t r = reader(n, at / dx.w % dx.h, i / k, dy.h);
                int64_t q = reader(n, at % dx.w, i % k, dy.w);

                for (int64_t o = from; o < from + outs && r >= 0 && q >= 0; o++)
                    sum += (double)dy.data[(o * dy.h + r) * dy.w + q] *
                           w[(o * ins + c % ins) * k * k + i];
            }
            dx.data[at] = (float)sum;
        }
    }
}

/* Of one weight: tap (i, j) from channel c to channel o. */
static double conv_dw_at(struct plan *p, const struct mdl_node *n, int64_t o,
                         int64_t c, int64_t i, int64_t j)
{
    double sum = 0;

    for (int b = 0; b < p->batch; b++) {
        struct map x = in_map(p, n, 0, b), dy = in_map(p, n, 1, b);

        for (int64_t r = 0; r < dy.h; r++)
            for (int64_t q = 0; q < dy.w; q++) {
                int64_t row = r * n->stride - n->pad + i;
                int64_t col = q * n->stride - n->pad + j;

                if (row >= 0 && row < x.h && col >= 0 && col < x.w)
                    sum += (double)dy.data[(o * dy.h + r) * dy.w + q] *
                           x.data[(c * x.h + row) * x.w + col];
            }
    }
    return sum;
}

static void conv_dw(struct plan *p, const struct mdl_node *n)
{
    struct map x = in_map(p, n, 0, 0), y = in_map(p, n, 1, 0);
    int64_t ins = x.c / n->groups, outs = y.c / n->groups, k = n->kernel;
    float *dw = ref_value(p, n->out, 0);

    for (int64_t at = 0; at < y.c * ins * k * k; at++) {
        int64_t o = at / (k * k) / ins, c = o / outs * ins + at / (k * k) % ins;

        dw[at] = (float)conv_dw_at(p, n, o, c, at / k % k, at % k);
    }
}

static void linear_dx(struct plan *p, const struct mdl_node *n)
{
    const struct mdl_shape *s = &p->g->values[n->in[1]].shape;
    const float *w = ref_in(p, n, 1);

    for (int b = 0; b < p->batch; b++)
        for (int64_t i = 0; i < s->dim[1]; i++) {
            double sum = 0;

            for (int64_t o = 0; o < s->dim[0]; o++)
                sum +=
                    (double)w[o * s->dim[1] + i] * in_map(p, n, 0, b).data[o];
            ref_value(p, n->out, b)[i] = (float)sum;
        }
}

static void linear_dw(struct plan *p, const struct mdl_node *n)
{
    const struct mdl_shape *s = &p->g->values[n->in[2]].shape;
    float *dw = ref_value(p, n->out, 0);

    for (int64_t o = 0; o < s->dim[0]; o++)
        for (int64_t i = 0; i < s->dim[1]; i++) {
            double sum = 0;

            for (int b = 0; b < p->batch; b++)
                sum += (double)in_map(p, n, 0, b).data[i] *
                       in_map(p, n, 1, b).data[o];
            dw[o * s->dim[1] + i] = (float)sum;
        }
}

static void sum_places(struct plan *p, const struct mdl_node *n)
{
    struct map x = in_map(p, n, 0, 0);

    for (int64_t c = 0; c < x.c; c++) {
        double sum = 0;

        for (int b = 0; b < p->batch; b++)
            for (int64_t i = 0; i < area(x); i++)
                sum += in_map(p, n, 0, b).data[c * area(x) + i];
        ref_value(p, n->out, 0)[c] = (float)sum;
    }
}

/* ---- the rest ---- */

static double slope_at(const struct mdl_node *n, double x, double slope)
{
    double s;

    switch (n->act) {
    case MDL_ACT_NONE:
        return 1;
    case MDL_ACT_RELU:
        return x > 0;
    case MDL_ACT_RELU6:
        return x > 0 && x < 6;
    case MDL_ACT_LEAKY:
        return x > 0 ? 1 : n->alpha;
    case MDL_ACT_PRELU:
        return x > 0 ? 1 : slope;
    case MDL_ACT_SIGMOID:
        s = 1 / (1 + exp(-x));
        return s * (1 - s);
    }
    return 1;
}

static void act_dx(struct plan *p, const struct mdl_node *n)
{
    const float *slope = ref_in(p, n, 1);

    for (int b = 0; b < p->batch; b++) {
        struct map x = in_map(p, n, 0, b), dy = in_map(p, n, 2, b);

        for (int64_t i = 0; i < x.c * area(x); i++)
            ref_value(p, n->out, b)[i] =
                (float)(dy.data[i] *
                        slope_at(n, x.data[i], slope ? slope[i / area(x)] : 0));
    }
}

static void act_dslope(struct plan *p, const struct mdl_node *n)
{
    struct map x = in_map(p, n, 0, 0);

    for (int64_t c = 0; c < x.c; c++) {
        double sum = 0;

        for (int b = 0; b < p->batch; b++)
            for (int64_t i = c * area(x); i < (c + 1) * area(x); i++) {
                float at = in_map(p, n, 0, b).data[i];

                sum += at > 0 ? 0 : (double)at * in_map(p, n, 1, b).data[i];
            }
        ref_value(p, n->out, 0)[c] = (float)sum;
    }
}

static void pool_dx(struct plan *p, const struct mdl_node *n, int b)
{
    struct map dx = ref_map(p, n->out, b);
    const float *dy = in_map(p, n, 0, b).data;

    for (int64_t i = 0; i < dx.c * area(dx); i++)
        dx.data[i] = dy[i / area(dx)] / (float)area(dx);
}

static void scale_ds(struct plan *p, const struct mdl_node *n, int b)
{
    struct map x = in_map(p, n, 0, b), dy = in_map(p, n, 1, b);
    struct map ds = ref_map(p, n->out, b);
    bool places = area(ds) > 1 || p->g->values[n->out].shape.n_dims == 3;

    for (int64_t k = 0; k < ds.c * area(ds); k++) {
        double sum = 0;

        for (int64_t i = 0; i < (places ? x.c : area(x)); i++) {
            int64_t at = places ? i * area(x) + k : k * area(x) + i;

            sum += (double)x.data[at] * dy.data[at];
        }
        ds.data[k] = (float)sum;
    }
}

/* y = x / |x|: dx = (dy - y <y, dy>) / |x| */
static void l2norm_dx(struct plan *p, const struct mdl_node *n, int b)
{
    struct map x = in_map(p, n, 0, b), dy = in_map(p, n, 1, b);
    double squares = 0, along = 0, norm;

    for (int64_t i = 0; i < x.c; i++)
        squares += (double)x.data[i] * x.data[i];
    norm = fmax(sqrt(squares), 1e-12);
    for (int64_t i = 0; i < x.c; i++)
        along += x.data[i] / norm * dy.data[i];
    for (int64_t i = 0; i < x.c; i++)
        ref_value(p, n->out, b)[i] =
            (float)((dy.data[i] - x.data[i] / norm * along) / norm);
}

static void upsample_dx(struct plan *p, const struct mdl_node *n, int b)
{
    struct map dy = in_map(p, n, 0, b), dx = ref_map(p, n->out, b);

    memset(dx.data, 0, (size_t)(dx.c * area(dx)) * sizeof(float));
    for (int64_t c = 0; c < dy.c; c++)
        for (int64_t i = 0; i < dy.h; i++)
            for (int64_t j = 0; j < dy.w; j++)
                dx.data[(c * dx.h + i * dx.h / dy.h) * dx.w +
                        j * dx.w / dy.w] += dy.data[(c * dy.h + i) * dy.w + j];
}

static void slice(struct plan *p, const struct mdl_node *n, int b)
{
    struct map out = ref_map(p, n->out, b);

    memcpy(out.data, in_map(p, n, 0, b).data + n->first * area(out),
           (size_t)(out.c * area(out)) * sizeof(float));
}

static void softmax_dx(struct plan *p, const struct mdl_node *n, int b)
{
    struct map y = in_map(p, n, 0, b), dy = in_map(p, n, 1, b);
    float *dx = ref_value(p, n->out, b);

    for (int64_t c = 0; c < y.c; c += 2)
        for (int64_t i = c * area(y); i < (c + 1) * area(y); i++) {
            int64_t j = i + area(y);
            double d = (double)y.data[i] * y.data[j] *
                       ((double)dy.data[i] - dy.data[j]);

            dx[i] = (float)d;
            dx[j] = (float)-d;
        }
}

static void each(struct plan *p, const struct mdl_node *n,
                 void (*of_image)(struct plan *p, const struct mdl_node *n,
                                  int b))
{
    for (int b = 0; b < p->batch; b++)
        of_image(p, n, b);
}

bool ref_run_gradient(struct plan *p, const struct mdl_node *n)
{
    p->image = 0;
    switch (n->op) {
    case MDL_OP_BN_STATS:
        bn_stats(p, n);
        return true;
    case MDL_OP_BN_TRAIN:
        bn_train(p, n);
        return true;
    case MDL_OP_BN_DPARAM:
        bn_dparam(p, n);
        return true;
    case MDL_OP_BN_DX:
        bn_dx(p, n);
        return true;
    case MDL_OP_CONV_DX:
        conv_dx(p, n);
        return true;
    case MDL_OP_CONV_DW:
        conv_dw(p, n);
        return true;
    case MDL_OP_SUM:
        sum_places(p, n);
        return true;
    case MDL_OP_LINEAR_DX:
        linear_dx(p, n);
        return true;
    case MDL_OP_LINEAR_DW:
        linear_dw(p, n);
        return true;
    case MDL_OP_ACT_DX:
        act_dx(p, n);
        return true;
    case MDL_OP_ACT_DSLOPE:
        act_dslope(p, n);
        return true;
    case MDL_OP_POOL_DX:
        each(p, n, pool_dx);
        return true;
    case MDL_OP_SCALE_DS:
        each(p, n, scale_ds);
        return true;
    case MDL_OP_L2NORM_DX:
        each(p, n, l2norm_dx);
        return true;
    case MDL_OP_UPSAMPLE_DX:
        each(p, n, upsample_dx);
        return true;
    case MDL_OP_SLICE:
        each(p, n, slice);
        return true;
    case MDL_OP_SOFTMAX_DX:
        each(p, n, softmax_dx);
        return true;
    default:
        return false;
    }
}
