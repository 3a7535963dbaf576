/* Every operation of the CPU backend against the reference, on odd shapes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backend.h"
#include "model/backends/cpu/train_kernels.h"
#include "tests/support/unit.h"

#define SIDE 11 /* of the picture: no multiple of anything */
#define MAX_BATCH 8

static unsigned seed;

static float noise(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8 & 0xffff) / 32768 - 1;
}

/* A parameter with values in [mid - 1, mid + 1] / spread. */
static int param(struct mdl_graph *g, struct mdl_shape shape, double mid,
                 double spread)
{
    static int n;
    size_t count = mdl_shape_count(&shape);
    float *data = malloc(count * sizeof(*data));

    for (size_t i = 0; i < count; i++)
        data[i] = (float)((mid + noise()) / spread);
    return mdl_graph_param_owned(g, shape, &data, "p%d", n++);
}

static int conv(struct mdl_graph *g, int x, int outputs, int kernel, int stride,
                int pad, int groups, bool bias)
{
    int ins = (int)g->values[x].shape.dim[0] / groups;
    int w = param(g, mdl_shape_of(4, outputs, ins, kernel, kernel), 0,
                  sqrt(ins * kernel * kernel / 3.0));

    return mdl_graph_conv(g, x, w,
                          bias ? param(g, mdl_shape_of(1, outputs), 0, 2) : -1,
                          stride, pad, groups);
}

/* [channels, SIDE, SIDE] of something. */
static int start(struct mdl_graph *g, int channels)
{
    static const float mean[] = {127.5f, 120, 130},
                       scale[] = {1 / 128.0f, 1 / 100.0f, 1 / 120.0f};
    int x;

    mdl_graph_init(g);
    mdl_graph_module(g, "test");
    x = mdl_graph_image(g, mdl_graph_input(g, SIDE, SIDE), mean, scale,
                        channels % 2);
    return channels == 3 ? x : conv(g, x, channels, 1, 1, 0, 1, true);
}

static float *run(const char *backend, const struct mdl_graph *g,
                  enum mdl_precision precision, int batch, const uint8_t *in,
                  size_t count)
{
    struct mdl_backend *b;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    float *out = malloc((size_t)batch * count * sizeof(*out)), *list[1] = {out};
    struct mdl_io io = {in, list};
    struct ut_error e;

    if (mdl_backend_open(backend, 0, &b, &e) || mdl_lane_new(b, &lane, &e) ||
        mdl_plan_new(lane, g, precision, batch, &plan, &e) ||
        mdl_plan_run(plan, &io, &e))
        fail_msg("%s: %s", backend, e.msg);
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_backend_close(b);
    return out;
}

static bool has_bf16(void)
{
    struct mdl_backend *b;
    struct ut_error e;
    bool has;

    assert_int_equal(mdl_backend_open("cpu", 0, &b, &e), UT_OK);
    has = mdl_backend_supports(b, MDL_PREC_BF16);
    mdl_backend_close(b);
    return has;
}

/* bfloat16 keeps 8 bits: input, weights and result are each off by up to
 * 2^-9 of themselves, and at most four such values follow each other here, so
 * 4 * 3 * 2^-9 = 2.3 % of the result's norm bounds what adds up. */
static void near_norm(const float *got, const float *want, size_t n,
                      const char *what)
{
    double off = 0, norm = 0;

    for (size_t i = 0; i < n; i++) {
        off += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    if (!(sqrt(off) <= 0.023 * sqrt(norm) + 1e-6))
        fail_msg("%s: relative error %g", what, sqrt(off / norm));
}

/* The graph whose only output is y, as it is and optimised. */
static void check(struct mdl_graph *g, int y, const char *what)
{
    static const int batches[] = {1, 3, MAX_BATCH};
    static uint8_t in[MAX_BATCH * SIDE * SIDE * 3];
    struct mdl_graph fused;
    struct ut_error e;
    size_t count;

    mdl_graph_output(g, y, "y");
    if (g->error.code)
        fail_msg("%s: %s", what, g->error.msg);
    count = mdl_shape_count(&g->values[y].shape);
    for (size_t i = 0; i < sizeof(in); i++)
        in[i] = (uint8_t)(128 + 120 * noise());
    assert_int_equal(mdl_graph_optimise(g, 1, &fused, &e), UT_OK);
    for (int i = 0; i < 3; i++) {
        int n = batches[i];
        float *want = run("ref", g, MDL_PREC_F32, n, in, count);
        float *plain = run("cpu", g, MDL_PREC_F32, n, in, count);
        float *got = run("cpu", &fused, MDL_PREC_F32, n, in, count);

        assert_close(plain, want, (size_t)n * count, 1e-4, 1e-4, what);
        assert_close(got, want, (size_t)n * count, 1e-4, 1e-4, what);
        free(got);
        if (has_bf16()) {
            got = run("cpu", &fused, MDL_PREC_BF16, n, in, count);
            near_norm(got, want, (size_t)n * count, what);
            free(got);
        }
        free(plain);
        free(want);
    }
    mdl_graph_fini(&fused);
    mdl_graph_fini(g);
}

static void convolutions__any_shape__as_the_reference(void **state)
{
    static const struct {
        int ins, outs, kernel, stride, pad, groups;
    } c[] = {
        {3, 16, 3, 1, 1, 1},   {3, 8, 3, 2, 1, 1},    {1, 1, 1, 1, 0, 1},
        {17, 5, 3, 1, 1, 1},   {40, 40, 3, 1, 1, 40}, {16, 16, 3, 2, 1, 16},
        {17, 17, 3, 1, 1, 17}, {32, 64, 3, 1, 1, 1},  {64, 64, 3, 1, 1, 1},
        {32, 64, 3, 2, 1, 1},  {20, 33, 1, 1, 0, 1},  {24, 48, 1, 2, 0, 1},
        {16, 1, 1, 1, 0, 1},   {8, 12, 5, 1, 2, 1},   {48, 48, 5, 2, 2, 48},
        {96, 24, 1, 1, 0, 1},  {16, 32, 3, 1, 0, 1},
    };
    struct mdl_graph g;
    char what[80];

    (void)state;
    seed = 1;
    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        snprintf(what, sizeof(what), "%d to %d, %dx%d / %d, %d groups",
                 c[i].ins, c[i].outs, c[i].kernel, c[i].kernel, c[i].stride,
                 c[i].groups);
        check(&g,
              conv(&g, start(&g, c[i].ins), c[i].outs, c[i].kernel, c[i].stride,
                   c[i].pad, c[i].groups, i % 2),
              what);
    }
}

static void activations__alone_and_fused__as_the_reference(void **state)
{
    static const int channels[] = {1, 16, 19};
    struct mdl_graph g;
    char what[80];

    (void)state;
    seed = 2;
    for (int act = MDL_ACT_RELU; act <= MDL_ACT_SIGMOID; act++)
        for (int i = 0; i < 6; i++) {
            int c = channels[i % 3], x = start(&g, c), slope;

            snprintf(what, sizeof(what), "activation %d of %d, %s", act, c,
                     i < 3 ? "convolution" : "linear");
            x = i < 3 ? conv(&g, x, c, 3, 1, 1, 1, true)
                      : mdl_graph_linear(
                            &g, x,
                            param(&g, mdl_shape_of(2, c, c * SIDE * SIDE), 0,
                                  sqrt(c * SIDE * SIDE / 3.0)),
                            param(&g, mdl_shape_of(1, c), 0, 2));
            slope =
                act == MDL_ACT_PRELU ? param(&g, mdl_shape_of(1, c), 1, 4) : -1;
            check(&g, mdl_graph_act(&g, x, (enum mdl_act)act, 0.1f, slope),
                  what);
        }
}

static int batchnorm(struct mdl_graph *g, int x)
{
    int c = (int)g->values[x].shape.dim[0];

    return mdl_graph_batchnorm(g, x, param(g, mdl_shape_of(1, c), 3, 3),
                               param(g, mdl_shape_of(1, c), 0, 2),
                               param(g, mdl_shape_of(1, c), 0, 2),
                               param(g, mdl_shape_of(1, c), 2, 2), 1e-5f);
}

static void batchnorms__everywhere__as_the_reference(void **state)
{
    struct mdl_graph g;
    int x;

    (void)state;
    seed = 3;
    check(&g, batchnorm(&g, start(&g, 21)), "after a convolution");
    x = start(&g, 32);
    x = mdl_graph_act(&g, x, MDL_ACT_RELU, 0, -1);
    check(&g, conv(&g, batchnorm(&g, x), 64, 3, 1, 1, 1, false),
          "before a padded convolution");
    x = mdl_graph_pool(&g, start(&g, 18));
    check(&g, batchnorm(&g, x), "of a vector");
}

static void residuals__with_batchnorm_and_prelu__as_the_reference(void **state)
{
    static const int channels[] = {5, 16, 64};
    struct mdl_graph g;

    (void)state;
    seed = 4;
    for (int i = 0; i < 3; i++) {
        int c = channels[i], x = start(&g, c), y;

        y = batchnorm(&g, conv(&g, batchnorm(&g, x), c, 3, 1, 1, 1, false));
        y = mdl_graph_act(&g, y, MDL_ACT_PRELU, 0,
                          param(&g, mdl_shape_of(1, c), 1, 4));
        y = batchnorm(&g, conv(&g, y, c, 3, 1, 1, 1, false));
        check(&g, mdl_graph_add(&g, (int[]){y, x}, 2), "a residual block");
    }
}

static void others__odd_channels__as_the_reference(void **state)
{
    static const int channels[] = {2, 16, 20, 35};
    struct mdl_graph g;

    (void)state;
    seed = 5;
    for (int i = 0; i < 4; i++) {
        int c = channels[i], x = start(&g, c), s;

        check(&g, mdl_graph_pool(&g, x), "pool");
        x = start(&g, c);
        check(&g, mdl_graph_l2norm(&g, mdl_graph_pool(&g, x)), "l2 norm");
        x = start(&g, c);
        s = mdl_graph_act(&g, mdl_graph_pool(&g, x), MDL_ACT_SIGMOID, 0, -1);
        check(&g, mdl_graph_scale(&g, x, s), "scale by channel");
        x = start(&g, c);
        s = mdl_graph_act(&g, conv(&g, x, 1, 1, 1, 0, 1, true), MDL_ACT_SIGMOID,
                          0, -1);
        check(&g, mdl_graph_scale(&g, x, s), "scale by place");
        x = start(&g, c);
        s = conv(&g, x, c, 1, 1, 0, 1, true);
        check(&g, mdl_graph_add(&g, (int[]){x, s, x}, 3), "three terms");
        x = conv(&g, start(&g, 8), c, 3, 2, 1, 1, true);
        check(&g, mdl_graph_upsample(&g, x, SIDE, SIDE), "upsample");
        x = start(&g, c);
        s = conv(&g, x, 7, 1, 1, 0, 1, true);
        check(&g, mdl_graph_concat(&g, (int[]){x, s}, 2), "concat");
        x = conv(&g, start(&g, c), 6, 1, 1, 0, 1, true);
        check(&g, mdl_graph_softmax(&g, x), "softmax");
        x = start(&g, c);
        check(&g,
              mdl_graph_linear(
                  &g, mdl_graph_pool(&g, x),
                  param(&g, mdl_shape_of(2, 37, c), 0, sqrt(c / 3.0)), -1),
              "linear of a vector");
    }
}

static float float_of(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Infinities and NaNs stay what they are, whatever their bits; half-way ones
 * go to the even one, also up into the next exponent or to infinity. */
static void bf16__any_bits__as_the_nearest(void **state)
{
    static const struct {
        uint32_t from;
        uint16_t to;
    } c[] = {
        {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f808001, 0x3f81},
        {0x3f818000, 0x3f82}, {0x3fffffff, 0x4000}, {0x80000000, 0x8000},
        {0x00008000, 0x0000}, {0x7f7f7fff, 0x7f7f}, {0x7f7fffff, 0x7f80},
        {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, {0x7fc00000, 0x7fc0},
        {0x7f800001, 0x7fc0}, {0x7fffffff, 0x7fff}, {0xffffffff, 0xffff},
        {0xff80ffff, 0xffc0},
    };
    enum { N = sizeof(c) / sizeof(c[0]) };
    float in[N];
    uint16_t out[N];
    struct mdl_map m = {.data = out,
                        .batch = 1,
                        .channels = N,
                        .height = 1,
                        .width = 1,
                        .bf16 = true};

    (void)state;
    for (int i = 0; i < N; i++) {
        in[i] = float_of(c[i].from);
        assert_int_equal(mdl_bf16_of(in[i]), c[i].to);
    }
    for (m.lanes = 8; m.lanes <= 16; m.lanes += 8) {
        memset(out, 0, sizeof(out));
        (m.lanes == 8 ? &mdl_train_kernels_8 : &mdl_train_kernels_16)
            ->from_rows(in, &m);
        for (int i = 0; i < N; i++)
            assert_int_equal(out[i], c[i].to);
    }
}

/* The picture itself, which convolutions like best in another layout. */
static void picture__read_by_each_operation__as_the_reference(void **state)
{
    struct mdl_graph g;
    int x, y;

    (void)state;
    seed = 6;
    check(&g, start(&g, 3), "the picture alone");
    check(&g, batchnorm(&g, start(&g, 3)), "batchnorm");
    for (int act = MDL_ACT_RELU; act <= MDL_ACT_SIGMOID; act++) {
        x = start(&g, 3);
        y = act == MDL_ACT_PRELU ? param(&g, mdl_shape_of(1, 3), 1, 4) : -1;
        check(&g, mdl_graph_act(&g, x, (enum mdl_act)act, 0.1f, y),
              "activation");
    }
    check(&g, mdl_graph_pool(&g, start(&g, 3)), "pool");
    x = start(&g, 3);
    check(&g,
          mdl_graph_linear(&g, x,
                           param(&g, mdl_shape_of(2, 5, 3 * SIDE * SIDE), 0,
                                 sqrt(3 * SIDE * SIDE / 3.0)),
                           -1),
          "linear");
    x = start(&g, 3);
    check(&g, mdl_graph_add(&g, (int[]){x, x}, 2), "add");
    x = start(&g, 3);
    check(&g, mdl_graph_upsample(&g, x, 2 * SIDE, 2 * SIDE), "upsample");
    x = start(&g, 3);
    y = mdl_graph_act(&g, mdl_graph_pool(&g, x), MDL_ACT_SIGMOID, 0, -1);
    check(&g, mdl_graph_scale(&g, x, y), "scale");
    x = start(&g, 3);
    y = conv(&g, x, 7, 3, 1, 1, 1, true);
    check(&g, mdl_graph_concat(&g, (int[]){x, y}, 2), "concat");
    x = start(&g, 3);
    y = conv(&g, x, 3, 3, 1, 1, 1, true);
    check(&g, mdl_graph_add(&g, (int[]){y, x}, 2), "a residual");
    x = start(&g, 3);
    y = conv(&g, batchnorm(&g, x), 16, 3, 2, 1, 1, true);
    check(&g,
          mdl_graph_add(&g, (int[]){y, conv(&g, x, 16, 1, 2, 0, 1, true)}, 2),
          "batchnorm beside a convolution");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolutions__any_shape__as_the_reference),
        cmocka_unit_test(activations__alone_and_fused__as_the_reference),
        cmocka_unit_test(batchnorms__everywhere__as_the_reference),
        cmocka_unit_test(residuals__with_batchnorm_and_prelu__as_the_reference),
        cmocka_unit_test(others__odd_channels__as_the_reference),
        cmocka_unit_test(bf16__any_bits__as_the_nearest),
        cmocka_unit_test(picture__read_by_each_operation__as_the_reference),
    };

    if (!has_bf16())
        print_message("SKIPPED bfloat16: the processor has none\n");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
