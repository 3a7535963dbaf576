/* Exact t-SNE: similarities p of the points by Gaussians of one perplexity, q
 * of their images by Student's t, gradient descent on KL(p || q). */
#include "model/eval/tsne.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 1000
#define EXAGGERATED 250 /* steps with p times 12: clusters form early */
#define EXAGGERATION 12

struct tsne {
    int n;
    float *p;                /* [n, n]; symmetric, sums to 1 */
    double *y, *gain, *move; /* [n, 2] */
    double *pull, *push;     /* [n, 2] */
};

/* Squared distances [n, n]. */
static void distances(const float *x, int n, int dim, float *out)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) {
            const float *a = x + (size_t)i * (size_t)dim;
            const float *b = x + (size_t)j * (size_t)dim;
            float sum = 0;

            for (int k = 0; k < dim; k++)
                sum += (a[k] - b[k]) * (a[k] - b[k]);
            out[(size_t)i * (size_t)n + (size_t)j] = sum;
            out[(size_t)j * (size_t)n + (size_t)i] = sum;
        }
}

/* Distances to one point become its neighbours' probabilities, whose entropy
 * is log(perplexity): the Gaussian's width by bisection. */
static void neighbours(float *row, int n, int self, double perplexity)
{
    double beta = 1, low = 0, high = INFINITY, sum = 0, nearest = INFINITY;

    for (int j = 0; j < n; j++)
        if (j != self)
            nearest = fmin(nearest, (double)row[j]);
    for (int tries = 0; tries < 64; tries++) {
        double weighted = 0, entropy;

        sum = 1e-300;
        for (int j = 0; j < n; j++) {
            double d = row[j] - nearest, p = j == self ? 0 : exp(-beta * d);

            sum += p;
            weighted += p * d;
        }
        entropy = log(sum) + beta * weighted / sum;
        if (fabs(entropy - log(perplexity)) < 1e-5)
            break;
        if (entropy > log(perplexity))
            low = beta;
        else
            high = beta;
        beta = isinf(high) ? 2 * beta : (low + high) / 2;
    }
    for (int j = 0; j < n; j++)
        row[j] = j == self ? 0 : (float)(exp(-beta * (row[j] - nearest)) / sum);
}

static void symmetrise(float *p, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) {
            float *a = &p[(size_t)i * (size_t)n + (size_t)j];
            float *b = &p[(size_t)j * (size_t)n + (size_t)i];

            *a = *b = fmaxf((*a + *b) / (2 * (float)n), 1e-12f);
        }
}

static double uniform(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)(z >> 11) * 0x1p-53;
}

/* The gradient's two halves, for every pair once: what pulls neighbours
 * together, and what pushes all apart, before its division by sum q. */
static double forces(struct tsne *t)
{
    double all = 1e-12;

    memset(t->pull, 0, 2 * (size_t)t->n * sizeof(*t->pull));
    memset(t->push, 0, 2 * (size_t)t->n * sizeof(*t->push));
    for (int i = 0; i < t->n; i++) {
        const float *p = t->p + (size_t)i * (size_t)t->n;
        double pull[2] = {0, 0}, push[2] = {0, 0};

        for (int j = 0; j < i; j++) {
            double dx = t->y[2 * i] - t->y[2 * j];
            double dy = t->y[2 * i + 1] - t->y[2 * j + 1];
            double q = 1 / (1 + dx * dx + dy * dy), a = p[j] * q, r = q * q;

            all += 2 * q;
            pull[0] += a * dx;
            pull[1] += a * dy;
            push[0] += r * dx;
            push[1] += r * dy;
            t->pull[2 * j] -= a * dx;
            t->pull[2 * j + 1] -= a * dy;
            t->push[2 * j] -= r * dx;
            t->push[2 * j + 1] -= r * dy;
        }
        for (int k = 0; k < 2; k++) {
            t->pull[2 * i + k] += pull[k];
            t->push[2 * i + k] += push[k];
        }
    }
    return all;
}

/* Gradient descent with momentum and a gain for each number. */
static void step(struct tsne *t, int at)
{
    double momentum = at < EXAGGERATED ? 0.5 : 0.8;
    double factor = at < EXAGGERATED ? EXAGGERATION : 1;
    double rate = fmax(50, t->n / (double)EXAGGERATION);
    double all = forces(t), middle[2] = {0, 0};

    for (int k = 0; k < 2 * t->n; k++) {
        double g = 4 * (factor * t->pull[k] - t->push[k] / all);

        t->gain[k] = g * t->move[k] < 0 ? t->gain[k] + 0.2
                                        : fmax(0.01, t->gain[k] * 0.8);
        t->move[k] = momentum * t->move[k] - rate * t->gain[k] * g;
        t->y[k] += t->move[k];
        middle[k % 2] += t->y[k] / t->n;
    }
    for (int k = 0; k < 2 * t->n; k++)
        t->y[k] -= middle[k % 2];
}

enum ut_err mdl_tsne(const float *x, int n, int dim, double perplexity,
                     uint64_t seed, float *out, struct ut_error *e)
{
    struct tsne t = {.n = n};
    double *numbers = NULL;

    if (n < 4 || n > MDL_TSNE_MAX)
        return ut_fail(e, UT_EINVAL, "t-SNE of %d points: from 4 to %d", n,
                       MDL_TSNE_MAX);
    if (!(perplexity >= 1) || perplexity > (n - 1) / 3.0)
        return ut_fail(e, UT_EINVAL,
                       "a perplexity of %g is not from 1 to %g, a third of "
                       "the points",
                       perplexity, (n - 1) / 3.0);
    t.p = calloc((size_t)n * (size_t)n, sizeof(*t.p));
    numbers = calloc((size_t)n * 10, sizeof(*numbers));
    if (!t.p || !numbers) {
        free(t.p);
        free(numbers);
        return ut_fail(e, UT_ENOMEM, "no memory for %d points", n);
    }
    t.y = numbers;
    t.gain = numbers + 2 * n;
    t.move = numbers + 4 * n;
    t.pull = numbers + 6 * n;
    t.push = numbers + 8 * n;
    distances(x, n, dim, t.p);
    for (int i = 0; i < n; i++)
        neighbours(t.p + (size_t)i * (size_t)n, n, i, perplexity);
    symmetrise(t.p, n);
    for (int k = 0; k < 2 * n; k++) {
        t.y[k] = 1e-2 * (uniform(&seed) - 0.5);
        t.gain[k] = 1;
    }
    for (int i = 0; i < STEPS; i++)
        step(&t, i);
    for (int k = 0; k < 2 * n; k++)
        out[k] = (float)t.y[k];
    free(t.p);
    free(numbers);
    return UT_OK;
}
