/* SGD, Adam, AdamW; PyTorch's order of operations, which the golden runs
 * hold. */
#include "model/train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static void adam(const struct mdl_optimizer *o, const struct mdl_moments *m,
                 double rate, float decay, float *x, const float *gradient,
                 size_t n)
{
    double fix1 = 1 - pow(o->beta1, (double)m->steps);
    double fix2 = sqrt(1 - pow(o->beta2, (double)m->steps));
    float step = (float)(rate / fix1), keep = (float)(1 - rate * decay);
    bool apart = o->kind == MDL_ADAMW;

    for (size_t i = 0; i < n; i++) {
        float g = gradient[i] + (apart ? 0 : decay * x[i]);

        m->first[i] += (1 - o->beta1) * (g - m->first[i]);
        m->second[i] = o->beta2 * m->second[i] + (1 - o->beta2) * g * g;
        if (apart)
            x[i] *= keep;
        x[i] -=
            step * m->first[i] / (sqrtf(m->second[i]) / (float)fix2 + o->eps);
    }
}

static void sgd(const struct mdl_optimizer *o, const struct mdl_moments *m,
                double rate, float decay, float *x, const float *gradient,
                size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float g = gradient[i] + decay * x[i];

        m->first[i] = m->steps == 1 ? g : o->beta1 * m->first[i] + g;
        x[i] -= (float)rate * m->first[i];
    }
}

enum ut_err mdl_optimizer_step(const struct mdl_optimizer *o,
                               struct mdl_moments *m, double rate, bool decay,
                               float *x, const float *gradient, size_t n,
                               struct ut_error *e)
{
    float weight_decay = decay ? o->weight_decay : 0;

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
        sgd(o, m, rate, weight_decay, x, gradient, n);
    else
        adam(o, m, rate, weight_decay, x, gradient, n);
    return UT_OK;
}
