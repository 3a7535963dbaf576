/* SGD, Adam, AdamW; PyTorch's order of operations, which the golden runs
 * hold. */
#include "model/train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int mdl_optimizer_team(size_t n, int threads)
{
    return n < 65536 ? 1 : threads;
}

int mdl_optimizer_parse(const char *text)
{
    static const char *const names[] = {"sgd", "adam", "adamw"};

    for (int i = 0; i < 3; i++)
        if (!strcmp(text, names[i]))
            return i;
    return -1;
}

void mdl_moments_fini(struct mdl_moments *m)
{
    free(m->first);
    free(m->second);
    *m = (struct mdl_moments){0};
}

/* One parameter's move. */
struct move {
    float rate, decay, factor;
    int threads;
    float *x;
    const float *gradient;
    size_t n;
};

static void adam(const struct mdl_optimizer *o, const struct mdl_moments *m,
                 const struct move *v)
{
    double fix1 = 1 - pow(o->beta1, (double)m->steps);
    double fix2 = sqrt(1 - pow(o->beta2, (double)m->steps));
    bool apart = o->kind == MDL_ADAMW;
    float step = (float)(v->rate / fix1), fix = (float)fix2;
    float keep = apart ? 1 - v->rate * v->decay : 1;
    float joined = apart ? 0 : v->decay, beta1 = o->beta1, beta2 = o->beta2;
    float *x = v->x, *first = m->first, *second = m->second, eps = o->eps;

#pragma omp parallel for simd num_threads(v->threads) schedule(static)
    for (size_t i = 0; i < v->n; i++) {
        float g = v->factor * v->gradient[i] + joined * x[i];

        first[i] += (1 - beta1) * (g - first[i]);
        second[i] = beta2 * second[i] + (1 - beta2) * g * g;
        x[i] = keep * x[i] - step * first[i] / (sqrtf(second[i]) / fix + eps);
    }
}

static void sgd(const struct mdl_optimizer *o, const struct mdl_moments *m,
                const struct move *v)
{
    float keep = m->steps == 1 ? 0 : o->beta1, *x = v->x, *first = m->first;

#pragma omp parallel for simd num_threads(v->threads) schedule(static)
    for (size_t i = 0; i < v->n; i++) {
        first[i] =
            keep * first[i] + v->factor * v->gradient[i] + v->decay * x[i];
        x[i] -= v->rate * first[i];
    }
}

enum ut_err mdl_optimizer_step(const struct mdl_optimizer *o,
                               struct mdl_moments *m, double rate, bool decay,
                               float factor, int threads, float *x,
                               const float *gradient, size_t n,
                               struct ut_error *e)
{
    struct move v = {(float)rate,
                     decay ? o->weight_decay : 0,
                     factor,
                     mdl_optimizer_team(n, threads),
                     x,
                     gradient,
                     n};

    if (!m->first) {
        m->first = calloc(n, sizeof(*m->first));
        m->second = o->kind == MDL_SGD ? NULL : calloc(n, sizeof(*m->second));
        if (!m->first || (o->kind != MDL_SGD && !m->second)) {
            mdl_moments_fini(m);
            return ut_fail(e, UT_ENOMEM, "no memory for an optimiser");
        }
    }
    m->steps++;
    if (o->kind == MDL_SGD)
        sgd(o, m, &v);
    else
        adam(o, m, &v);
    return UT_OK;
}
