#ifndef MODEL_BACKENDS_CPU_TWICE_H
#define MODEL_BACKENDS_CPU_TWICE_H

/* How kernels in plain C use wide vectors where there are some. */

#define LANES 16

#define INLINE static inline __attribute__((always_inline))

/* name: the inline function body compiled for AVX-512 and for any processor,
 * and chosen at run time. linkage: static, or nothing. */
#define TWICE(linkage, name, body, types, values)                              \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))) static void  \
        name##_avx512 types                                                    \
    {                                                                          \
        body values;                                                           \
    }                                                                          \
    linkage void name types                                                    \
    {                                                                          \
        if (__builtin_cpu_supports("avx512dq") &&                              \
            __builtin_cpu_supports("avx512vl"))                                \
            name##_avx512 values;                                              \
        else                                                                   \
            body values;                                                       \
    }

#endif
