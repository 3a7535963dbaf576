#ifndef MODEL_BACKENDS_CPU_PER_ISA_H
#define MODEL_BACKENDS_CPU_PER_ISA_H

#include "model/isa.h"

/* How kernels in plain C use wide vectors where there are some. */

#define INLINE static inline __attribute__((always_inline))

/* name: the inline function body compiled for AVX-512, for AVX2 and for any
 * processor, and chosen at run time. linkage: static, or nothing. */
#define PER_ISA(linkage, name, body, types, values)                            \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))) static void  \
        name##_avx512 types                                                    \
    {                                                                          \
        body values;                                                           \
    }                                                                          \
    __attribute__((target("avx2,fma"))) static void name##_avx2 types          \
    {                                                                          \
        body values;                                                           \
    }                                                                          \
    linkage void name types                                                    \
    {                                                                          \
        if (mdl_isa() == MDL_ISA_AVX512)                                       \
            name##_avx512 values;                                              \
        else if (mdl_isa() == MDL_ISA_AVX2)                                    \
            name##_avx2 values;                                                \
        else                                                                   \
            body values;                                                       \
    }

#endif
