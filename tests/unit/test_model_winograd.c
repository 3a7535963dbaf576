/* The bfloat16 Winograd kernel against the convolution's definition. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/cpu/winograd.h"
#include "model/tensor.h"
#include "tests/support/unit.h"

static float noise(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8 & 0xffff) / 32768 - 1;
}

static float *noises(size_t n, float scale, unsigned *seed)
{
    float *v = malloc(n * sizeof(*v));

    for (size_t i = 0; i < n; i++)
        v[i] = scale * noise(seed);
    return v;
}

/* n noisy values and their bfloat16 roundings; the floats are the rounded. */
static float *halves(size_t n, uint16_t **bits, unsigned *seed)
{
    float *v = noises(n, 1, seed);

    *bits = aligned_alloc(64, (n * 2 + 63) / 64 * 64);
    mdl_f32_to_bf16(v, *bits, n);
    mdl_bf16_to_f32(*bits, v, n);
    return v;
}

static struct mdl_wino_layout layout(int channels, int h, int w, bool blocked)
{
    struct mdl_wino_layout l = {.image = (ptrdiff_t)channels * h * w};

    l.pixel = blocked ? 16 : channels;
    l.row = l.pixel * w;
    l.block = blocked ? (ptrdiff_t)16 * h * w : 16;
    return l;
}

static ptrdiff_t place(const struct mdl_wino_layout *l, int n, int c, int h,
                       int w)
{
    return n * l->image + h * l->row + w * l->pixel + c / 16 * l->block +
           c % 16;
}

/* The definition, at one place. */
static double expected(const struct mdl_wino *c, const float *w, const float *x,
                       const float *residual, int n, int o, int row, int col)
{
    double sum = c->bias ? c->bias[o] : 0;

    for (int i = 0; i < c->channels; i++)
        for (int a = 0; a < 9; a++) {
            int h = row + a / 3 - 1, k = col + a % 3 - 1;

            if (h >= 0 && h < c->height && k >= 0 && k < c->width)
                sum += (double)
                           w[((size_t)o * (size_t)c->channels + (size_t)i) * 9 +
                             (size_t)a] *
                       x[place(&c->in, n, i, h, k)];
        }
    if (c->slope && sum < 0)
        sum *= c->slope[o];
    return sum + (c->shift ? c->shift[o] : 0) +
           (residual ? residual[place(&c->out, n, o, row, col)] : 0);
}

struct shape {
    int channels, outputs, height, width, batch;
    bool blocked, epilogue;
};

static void check(const struct shape *s)
{
    unsigned seed = 3;
    size_t ins = (size_t)(s->batch * s->channels * s->height * s->width);
    size_t outs = (size_t)(s->batch * s->outputs * s->height * s->width);
    float *w = noises((size_t)(s->channels * s->outputs * 9),
                      1 / sqrtf((float)s->channels * 9), &seed);
    float *v[3];
    uint16_t *u =
        aligned_alloc(64, 2 * mdl_wino_weights_count(s->channels, s->outputs));
    uint16_t *x, *r;
    float *xf = halves(ins, &x, &seed), *rf = halves(outs, &r, &seed);
    float *got = malloc(outs * sizeof(*got));
    struct mdl_wino c = {
        .channels = s->channels,
        .outputs = s->outputs,
        .height = s->height,
        .width = s->width,
        .in = layout(s->channels, s->height, s->width, s->blocked),
        .out = layout(s->outputs, s->height, s->width, s->blocked),
        .weights = u,
    };
    void *scratch;
    double worst = 0;

    for (int i = 0; i < 3; i++)
        v[i] = noises((size_t)s->outputs, 0.5f, &seed);
    if (s->epilogue) {
        c.bias = v[0];
        c.slope = v[1];
        c.shift = v[2];
    }
    scratch = aligned_alloc(64, mdl_wino_scratch(&c));
    /* What lies in the scratch must not matter, NaN included. */
    memset(scratch, 0xff, mdl_wino_scratch(&c));
    mdl_wino_weights(w, s->channels, s->outputs, u);
    /* The residual is added in place, as the backend does. */
    mdl_wino_run(&c, s->batch, x, s->epilogue ? r : NULL, r, scratch);
    mdl_bf16_to_f32(r, got, outs);
    for (int i = 0; i < 4000; i++) {
        int n = i % s->batch, o = i * 7 % s->outputs;
        int row = i * 3 % s->height, col = i * 5 % s->width;
        double want =
            expected(&c, w, xf, s->epilogue ? rf : NULL, n, o, row, col);
        double off = fabs(want - got[place(&c.out, n, o, row, col)]);

        worst = off > worst ? off : worst;
        if (isnan(off))
            fail_msg("NaN at %d %d %d %d", n, o, row, col);
    }
    /* x is exact, w and V are rounded to 8 bits: a relative 2^-9 each on a sum
     * of C * 9 terms of size 1/sqrt(9 C), amplified by at most 4 in A^T M A;
     * the result of size 3 is rounded to 2^-8 of itself. */
    assert_true(worst < 4 * 2 * 0x1p-9 + 3 * 0x1p-8);
    assert_true(worst > 0);
    free(w);
    free(u);
    free(x);
    free(r);
    free(xf);
    free(rf);
    free(got);
    free(scratch);
    for (int i = 0; i < 3; i++)
        free(v[i]);
}

static void wino__shapes_and_layouts__as_defined(void **state)
{
    static const struct shape shapes[] = {
        {64, 64, 12, 12, 1, false, true},  {64, 64, 12, 12, 1, true, true},
        {32, 64, 7, 7, 3, false, true},    {64, 128, 7, 7, 5, true, true},
        {64, 64, 1, 1, 1, false, false},   {96, 192, 5, 9, 2, true, false},
        {512, 512, 7, 7, 1, false, false}, {64, 64, 56, 56, 1, true, false},
    };

    (void)state;
    if (!mdl_wino_available()) {
        printf("SKIPPED test_model_winograd: no AVX-512 BF16 here\n");
        return;
    }
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        check(&shapes[i]);
}

static void fits__multiples_only(void **state)
{
    (void)state;
    assert_true(mdl_wino_fits(32, 64));
    assert_false(mdl_wino_fits(16, 64));
    assert_false(mdl_wino_fits(64, 32));
    assert_false(mdl_wino_fits(3, 64));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wino__shapes_and_layouts__as_defined),
        cmocka_unit_test(fits__multiples_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
