/* Panels against a plain double loop, with all vectors there are and fewer. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/isa.h"
#include "model/panel.h"
#include "tests/support/unit.h"

static float noise(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8 & 0xffff) / 32768 - 1;
}

/* To the nearest bfloat16 below in magnitude: exact as bfloat16. */
static uint16_t cut(float *f)
{
    uint32_t bits;

    memcpy(&bits, f, sizeof(bits));
    bits &= 0xffff0000u;
    memcpy(f, &bits, sizeof(bits));
    return (uint16_t)(bits >> 16);
}

static void compare(bool bf16, int n, size_t rows, size_t columns)
{
    size_t stride = columns + 6, size = mdl_panel_count(rows, columns) * 4;
    float *w = aligned_alloc(64, (size + 63) / 64 * 64);
    float *x = malloc((size_t)n * stride * sizeof(*x));
    float *y = malloc((size_t)n * rows * sizeof(*y));
    float *want = malloc((size_t)n * rows * sizeof(*want));
    unsigned seed = 1;

    memset(w, 0, size);
    for (size_t i = 0; i < (size_t)n * rows; i++)
        want[i] = y[i] = noise(&seed);
    for (size_t i = 0; i < (size_t)n * stride; i++) {
        float v = noise(&seed);
        uint16_t half = cut(&v);

        if (bf16)
            ((uint16_t *)x)[i] = half;
        else
            x[i] = v;
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) {
            size_t at = mdl_panel_at(bf16, columns, r, c);
            float v = noise(&seed);
            uint16_t half = cut(&v);

            if (bf16)
                ((uint16_t *)w)[at] = half;
            else
                w[at] = v;
            for (int i = 0; i < n; i++) {
                size_t from = (size_t)i * stride + c;
                float in = bf16 ? 0 : x[from];
                uint32_t bits =
                    bf16 ? (uint32_t)((uint16_t *)x)[from] << 16 : 0;

                if (bf16)
                    memcpy(&in, &bits, sizeof(in));
                want[(size_t)i * rows + r] += in * v;
            }
        }
    mdl_panel_product(bf16, w, rows, columns, x, stride, n, y);
    assert_close(y, want, (size_t)n * rows, 1e-4, 1e-4,
                 bf16 ? "bfloat16" : "float32");
    free(w);
    free(x);
    free(y);
    free(want);
}

static void product__any_shape__as_a_double_loop(void **state)
{
    static const struct {
        int n;
        size_t rows, columns;
    } shapes[] = {{1, 1, 2},     {2, 31, 16},   {3, 32, 40}, {5, 33, 1024},
                  {8, 64, 1026}, {9, 70, 2050}, {33, 5, 18}, {70, 40, 8}};

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        compare(false, shapes[i].n, shapes[i].rows, shapes[i].columns);
        compare(false, shapes[i].n, shapes[i].rows, shapes[i].columns + 1);
        if (__builtin_cpu_supports("avx512bf16"))
            compare(true, shapes[i].n, shapes[i].rows, shapes[i].columns);
    }
    if (!__builtin_cpu_supports("avx512bf16"))
        print_message("SKIPPED bfloat16: the processor has none\n");
}

/* What a program was told is all it uses, however it was told. */
static void isa__told_so__no_more(void **state)
{
    const char *isa = getenv("ONEDNN_MAX_CPU_ISA");

    (void)state;
    if (isa && !strcmp(isa, "SSE41"))
        assert_int_equal(mdl_isa(), MDL_ISA_ANY);
    else if (isa)
        assert_true(mdl_isa() <= MDL_ISA_AVX2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(product__any_shape__as_a_double_loop),
        cmocka_unit_test(isa__told_so__no_more),
    };

    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    const char *isa = getenv("ONEDNN_MAX_CPU_ISA");

    if (failed || (isa && !strcmp(isa, "SSE41")))
        return failed;
    /* The same with fewer vectors, which a program chooses once. */
    setenv("ONEDNN_MAX_CPU_ISA", isa ? "SSE41" : "avx2", 1);
    execl("/proc/self/exe", "test_model_panel", (char *)NULL);
    return 1;
}
