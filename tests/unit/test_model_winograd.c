/* The Winograd kernels against the convolution's definition. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/cpu/winograd.h"
#include "model/isa.h"
#include "model/tensor.h"
#include "tests/support/unit.h"

struct kind {
    const struct mdl_wino_kernel *kernel;
    int lanes; /* of a block of channels */
    bool bf16;
    double bound; /* of an error, where results are about 1 */
};

struct shape {
    int channels, outputs, height, width, batch;
    bool blocked, epilogue;
};

static float noise(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8 & 0xffff) / 32768 - 1;
}

static int up(int n, int to)
{
    return (n + to - 1) / to * to;
}

static void *zeros(size_t bytes)
{
    size_t size = (bytes + 63) / 64 * 64;
    void *p = aligned_alloc(64, size);

    memset(p, 0, size);
    return p;
}

static float *noises(size_t n, float scale, unsigned *seed)
{
    float *v = zeros((n + 16) * sizeof(*v));

    for (size_t i = 0; i < n; i++)
        v[i] = scale * noise(seed);
    return v;
}

static struct mdl_wino_layout layout(const struct kind *k,
                                     const struct shape *s, int channels)
{
    ptrdiff_t padded = up(channels, k->lanes);
    struct mdl_wino_layout l = {.image = padded * s->height * s->width};

    l.pixel = s->blocked ? k->lanes : padded;
    l.row = l.pixel * s->width;
    l.block = s->blocked ? l.row * s->height : k->lanes;
    return l;
}

static size_t place(const struct kind *k, const struct mdl_wino_layout *l,
                    int n, int c, int h, int w)
{
    return (size_t)(n * l->image + h * l->row + w * l->pixel +
                    c / k->lanes * l->block + c % k->lanes);
}

/* A map as the kernel reads it, noisy, and zero where channels are padded;
 * *floats: what it holds. */
static void *map(const struct kind *k, const struct shape *s,
                 const struct mdl_wino_layout *l, int channels, float **floats,
                 unsigned *seed)
{
    size_t n = (size_t)(l->image * s->batch);
    float *v = *floats = zeros(n * sizeof(*v));
    uint16_t *bits = k->bf16 ? zeros(n * sizeof(*bits)) : NULL;

    for (int i = 0; i < s->batch * channels; i++)
        for (int p = 0; p < s->height * s->width; p++)
            v[place(k, l, i / channels, i % channels, p / s->width,
                    p % s->width)] = noise(seed);
    if (!k->bf16)
        return memcpy(zeros(n * sizeof(*v)), v, n * sizeof(*v));
    mdl_f32_to_bf16(v, bits, n);
    mdl_bf16_to_f32(bits, v, n);
    return bits;
}

/* The definition, at one place. */
static double expected(const struct kind *k, const struct mdl_wino *c,
                       const float *w, const float *x, const float *residual,
                       int n, int o, int row, int col)
{
    double sum = c->bias ? c->bias[o] : 0;

    for (int i = 0; i < c->channels; i++)
        for (int a = 0; a < 9; a++) {
            int h = row + a / 3 - 1, v = col + a % 3 - 1;

            if (h >= 0 && h < c->height && v >= 0 && v < c->width)
                sum += (double)
                           w[((size_t)o * (size_t)c->channels + (size_t)i) * 9 +
                             (size_t)a] *
                       x[place(k, &c->in, n, i, h, v)];
        }
    if (c->slope && sum < 0)
        sum *= c->slope[o];
    return sum + (c->shift ? c->shift[o] : 0) +
           (residual ? residual[place(k, &c->out, n, o, row, col)] : 0);
}

/* Some of the outputs, and that padded ones are zero. */
static void compare(const struct kind *k, const struct shape *s,
                    const struct mdl_wino *c, const float *w, const float *x,
                    const float *residual, const float *got)
{
    int outputs = up(s->outputs, k->lanes);
    double worst = 0;

    for (int i = 0; i < 4000; i++) {
        int n = i % s->batch, o = i * 7 % outputs;
        int row = i * 3 % s->height, col = i * 5 % s->width;
        float y = got[place(k, &c->out, n, o, row, col)];
        double off;

        if (o >= s->outputs) {
            assert_true(y == 0);
            continue;
        }
        off = fabs(expected(k, c, w, x, residual, n, o, row, col) - y);
        worst = off > worst ? off : worst;
        if (!(off < k->bound))
            fail_msg("%s, %d to %d channels, %dx%d, %d images: off by %g at "
                     "%d %d %d %d",
                     k->kernel->name, s->channels, s->outputs, s->height,
                     s->width, s->batch, off, n, o, row, col);
    }
    assert_true(worst > 0);
}

static void check(const struct kind *k, const struct shape *s)
{
    unsigned seed = 3;
    struct mdl_wino c = {
        .kernel = k->kernel,
        .channels = s->channels,
        .outputs = s->outputs,
        .height = s->height,
        .width = s->width,
        .in = layout(k, s, s->channels),
        .out = layout(k, s, s->outputs),
    };
    float *w = noises((size_t)(s->channels * s->outputs * 9),
                      1 / sqrtf((float)s->channels * 9), &seed);
    void *u = zeros(k->kernel->weights_bytes(s->channels, s->outputs));
    float *v[3], *xf, *rf, *got;
    void *x = map(k, s, &c.in, s->channels, &xf, &seed);
    void *r = map(k, s, &c.out, s->outputs, &rf, &seed);
    size_t outs = (size_t)(c.out.image * s->batch);
    size_t size = k->kernel->scratch(&c, s->batch);
    void *scratch = zeros(size);

    for (int i = 0; i < 3; i++)
        v[i] = noises((size_t)s->outputs, 0.5f, &seed);
    if (s->epilogue) {
        c.bias = v[0];
        c.slope = v[1];
        c.shift = v[2];
    }
    /* What lies in the scratch must not matter, NaN included. */
    memset(scratch, 0xff, size);
    k->kernel->pack(w, s->channels, s->outputs, u);
    c.weights = u;
    /* The residual may be y itself. */
    k->kernel->run(&c, s->batch, x, s->epilogue ? r : NULL, r, scratch);
    got = zeros(outs * sizeof(*got));
    if (k->bf16)
        mdl_bf16_to_f32(r, got, outs);
    else
        memcpy(got, r, outs * sizeof(*got));
    compare(k, s, &c, w, xf, s->epilogue ? rf : NULL, got);
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

/* ---- gradients ---- */

/* sum over o and places of dy times w, at one place of the input. */
static double expected_dx(const struct kind *k, const struct mdl_wino *c,
                          const float *w, const float *dy, int n, int i,
                          int row, int col)
{
    double sum = 0;

    for (int o = 0; o < c->channels; o++)
        for (int a = 0; a < 9; a++) {
            int h = row - a / 3 + 1, v = col - a % 3 + 1;

            if (h >= 0 && h < c->height && v >= 0 && v < c->width)
                sum +=
                    (double)w[((size_t)o * (size_t)c->outputs + (size_t)i) * 9 +
                              (size_t)a] *
                    dy[place(k, &c->in, n, o, h, v)];
        }
    return sum;
}

/* The gradient by the input: the run whose filters are packed for it. */
static void check_dx(const struct kind *k, const struct shape *s)
{
    unsigned seed = 5;
    /* The run's channels are the convolution's outputs. */
    struct mdl_wino c = {
        .kernel = k->kernel,
        .channels = s->outputs,
        .outputs = s->channels,
        .height = s->height,
        .width = s->width,
        .in = layout(k, s, s->outputs),
        .out = layout(k, s, s->channels),
    };
    float *w = noises((size_t)(s->channels * s->outputs * 9),
                      1 / sqrtf((float)s->outputs * 9), &seed);
    void *u = zeros(k->kernel->weights_bytes(c.channels, c.outputs));
    float *dyf;
    void *dy = map(k, s, &c.in, s->outputs, &dyf, &seed);
    size_t outs = (size_t)(c.out.image * s->batch) * sizeof(float);
    float *dx = memset(zeros(outs), 0xff, outs);
    size_t size = k->kernel->scratch(&c, s->batch);
    void *scratch = memset(zeros(size), 0xff, size);

    k->kernel->pack_back(w, c.channels, c.outputs, u);
    c.weights = u;
    k->kernel->run(&c, s->batch, dy, NULL, dx, scratch);
    for (int i = 0; i < 4000; i++) {
        int n = i % s->batch, ch = i * 7 % up(s->channels, k->lanes);
        int row = i * 3 % s->height, col = i * 5 % s->width;
        float got = dx[place(k, &c.out, n, ch, row, col)];
        double off;

        if (ch >= s->channels) {
            assert_true(got == 0);
            continue;
        }
        off = fabs(expected_dx(k, &c, w, dyf, n, ch, row, col) - got);
        if (!(off < k->bound))
            fail_msg("%s by the input, %d to %d channels, %dx%d: off by %g at "
                     "%d %d %d %d",
                     k->kernel->name, s->channels, s->outputs, s->height,
                     s->width, off, n, ch, row, col);
    }
    free(w);
    free(u);
    free(dy);
    free(dyf);
    free(dx);
    free(scratch);
}

static double expected_dw(const struct kind *k, const struct mdl_wino *c,
                          int batch, const float *x, const float *dy, int o,
                          int i, int a)
{
    double sum = 0;

    for (int n = 0; n < batch; n++)
        for (int p = 0; p < c->height * c->width; p++) {
            int row = p / c->width, col = p % c->width;
            int h = row + a / 3 - 1, v = col + a % 3 - 1;

            if (h >= 0 && h < c->height && v >= 0 && v < c->width)
                sum += (double)x[place(k, &c->in, n, i, h, v)] *
                       dy[place(k, &c->out, n, o, row, col)];
        }
    return sum;
}

/* The gradient by the weights; nothing is written beside it. */
static void check_dw(const struct kind *k, const struct shape *s)
{
    unsigned seed = 7;
    struct mdl_wino c = {
        .kernel = k->kernel,
        .channels = s->channels,
        .outputs = s->outputs,
        .height = s->height,
        .width = s->width,
        .in = layout(k, s, s->channels),
        .out = layout(k, s, s->outputs),
    };
    size_t count = (size_t)(s->channels * s->outputs * 9);
    float *xf, *dyf, *dw = zeros((count + 1) * sizeof(*dw));
    void *x = map(k, s, &c.in, s->channels, &xf, &seed);
    void *dy = map(k, s, &c.out, s->outputs, &dyf, &seed);
    size_t size = k->kernel->gradient_scratch(&c, s->batch);
    void *scratch = memset(zeros(size), 0xff, size);
    /* The sum of so many products of numbers of size 1. */
    double scale = sqrt(s->batch * s->height * s->width);

    dw[count] = 5;
    k->kernel->gradient(&c, s->batch, x, dy, dw, scratch);
    assert_true(dw[count] == 5);
    for (size_t i = 0; i < 4000; i++) {
        size_t at = (i * count / 4000 + i % 9) % count;
        int a = (int)(at % 9), ch = (int)(at / 9) % s->channels;
        int o = (int)(at / 9) / s->channels;
        double off =
            fabs(expected_dw(k, &c, s->batch, xf, dyf, o, ch, a) - dw[at]);

        if (!(off < k->bound * scale))
            fail_msg("%s by the weights, %d to %d channels, %dx%d, %d images: "
                     "off by %g of %g at %d %d %d",
                     k->kernel->name, s->channels, s->outputs, s->height,
                     s->width, s->batch, off, scale, o, ch, a);
    }
    free(x);
    free(dy);
    free(xf);
    free(dyf);
    free(dw);
    free(scratch);
}

static void bf16__shapes_and_layouts__as_defined(void **state)
{
    static const struct shape shapes[] = {
        {64, 64, 12, 12, 1, false, true},  {64, 64, 12, 12, 1, true, true},
        {32, 64, 7, 7, 3, false, true},    {64, 128, 7, 7, 5, true, true},
        {64, 64, 1, 1, 1, false, false},   {96, 192, 5, 9, 2, true, false},
        {512, 512, 7, 7, 1, false, false}, {64, 64, 56, 56, 1, true, false},
    };
    /* x is exact, w and V are rounded to 8 bits: a relative 2^-9 each on a sum
     * of C * 9 terms of size 1/sqrt(9 C), amplified by at most 4 in A^T M A;
     * the result of size 3 is rounded to 2^-8 of itself. */
    const struct kind k = {&mdl_wino_bf16, 16, true,
                           4 * 2 * 0x1p-9 + 3 * 0x1p-8};

    (void)state;
    if (!mdl_wino_bf16_available()) {
        printf("SKIPPED test_model_winograd: no AVX-512 BF16 here\n");
        return;
    }
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        check(&k, &shapes[i]);
}

static void f32__shapes_and_layouts__as_defined(void **state)
{
    static const struct shape shapes[] = {
        /* IResNet50's maps */
        {8, 16, 112, 112, 1, true, true},
        {64, 64, 56, 56, 1, true, true},
        {32, 48, 28, 28, 2, true, true},
        {256, 256, 14, 14, 3, true, true},
        {512, 512, 7, 7, 2, true, true},
        /* channels that fill no block; sides that fill no tile */
        {3, 5, 9, 6, 1, true, true},
        {17, 20, 13, 31, 2, true, true},
        {20, 33, 5, 4, 9, true, false},
        {1, 1, 1, 1, 1, true, false},
        /* 2, 3, 4, 5 tiles beside sixes */
        {8, 8, 4, 8, 1, true, false},
        {16, 24, 4, 12, 1, true, false},
        {16, 24, 8, 20, 1, true, true},
        {16, 24, 11, 40, 1, true, true},
        {40, 16, 1, 20, 1, true, true},
        {64, 16, 12, 12, 1, false, true},
        {24, 32, 7, 7, 5, false, false},
    };
    /* Every number is rounded to 2^-24 of itself, and A^T M A makes the errors
     * larger: 2.5e-6 of the largest at most in these shapes, and four times
     * that is allowed. */
    const struct kind k = {&mdl_wino_f32, 8, false, 1e-5};

    (void)state;
    if (mdl_isa() < MDL_ISA_AVX2) {
        printf("SKIPPED test_model_winograd: no AVX2 here\n");
        return;
    }
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        check(&k, &shapes[i]);
        check_dx(&k, &shapes[i]);
        check_dw(&k, &shapes[i]);
    }
}

static void choose__what_suits__or_none(void **state)
{
    const struct mdl_wino_kernel *f32 =
        mdl_isa() == MDL_ISA_AVX2 ? &mdl_wino_f32 : NULL;
    const struct mdl_wino_kernel *bf16 =
        mdl_wino_bf16_available() ? &mdl_wino_bf16 : NULL;

    (void)state;
    assert_ptr_equal(mdl_wino_choose(true, 32, 64, 7, 7), bf16);
    assert_null(mdl_wino_choose(true, 16, 64, 7, 7));
    assert_null(mdl_wino_choose(true, 64, 32, 7, 7));
    assert_ptr_equal(mdl_wino_choose(false, 5, 3, 4, 4), f32);
    assert_null(mdl_wino_choose(false, 64, 64, 3, 7));
    assert_null(mdl_wino_choose(false, 64, 64, 7, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16__shapes_and_layouts__as_defined),
        cmocka_unit_test(f32__shapes_and_layouts__as_defined),
        cmocka_unit_test(choose__what_suits__or_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
