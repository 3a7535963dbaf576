/* The cores' peak: multiply-adds in registers. */
#include <immintrin.h>
#include <stdlib.h>

#include "model/tool/bench.h"

#define ROUNDS 1000000
#define CHAINS 12 /* independent sums: latency times units */

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f");
}

static bool has_bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

/* Keeps the compiler from leaving the sums out. */
static volatile float sink;

static __attribute__((target("avx512f"))) void peak_avx512(void)
{
    __m512 a[CHAINS], b = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(1e-3f);

#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++)
        a[k] = _mm512_set1_ps((float)k);
    for (int i = 0; i < ROUNDS; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < CHAINS; k++)
            a[k] = _mm512_fmadd_ps(a[k], b, c);
    }
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++)
        sink = _mm512_reduce_add_ps(a[k]);
}

static __attribute__((target("avx512f,avx512bf16"))) void peak_bf16(void)
{
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    __m512 a[CHAINS];

#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++)
        a[k] = _mm512_set1_ps((float)k);
    for (int i = 0; i < ROUNDS; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < CHAINS; k++)
            a[k] = _mm512_dpbf16_ps(a[k], x, x);
    }
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++)
        sink = _mm512_reduce_add_ps(a[k]);
}

static __attribute__((target("avx2,fma"))) void peak_avx2(void)
{
    __m256 a[CHAINS], b = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(1e-3f);

#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++)
        a[k] = _mm256_set1_ps((float)k);
    for (int i = 0; i < ROUNDS; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < CHAINS; k++)
            a[k] = _mm256_fmadd_ps(a[k], b, c);
    }
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++)
        sink = _mm256_cvtss_f32(a[k]);
}

void bench_peak(enum mdl_precision precision)
{
    if (precision == MDL_PREC_BF16 && has_bf16())
        peak_bf16();
    else if (has_avx512())
        peak_avx512();
    else if (__builtin_cpu_supports("fma"))
        peak_avx2();
}

double bench_peak_macs(enum mdl_precision precision)
{
    double sums = (double)ROUNDS * CHAINS;

    if (precision == MDL_PREC_BF16 && has_bf16())
        return sums * 32;
    return sums * (has_avx512() ? 16 : 8);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

double bench_median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof(*values), by_value);
    return values[n / 2];
}
