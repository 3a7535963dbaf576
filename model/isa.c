/* Which vectors there are. */
#include "model/isa.h"

#include <pthread.h>
#include <stdlib.h>
#include <strings.h>

static enum mdl_isa known;

/* As oneDNN reads it: the first of two names, in any case. */
static const char *told(void)
{
    const char *text = getenv("ONEDNN_MAX_CPU_ISA");

    return text && *text ? text : getenv("DNNL_MAX_CPU_ISA");
}

static enum mdl_isa limit(void)
{
    static const char *const before[] = {"SSE41", "AVX"};
    const char *text = told();

    for (int i = 0; text && i < 2; i++)
        if (!strcasecmp(text, before[i]))
            return MDL_ISA_ANY;
    return text && !strncasecmp(text, "AVX2", 4) ? MDL_ISA_AVX2
                                                 : MDL_ISA_AVX512;
}

static void look(void)
{
    if (__builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        known = MDL_ISA_AVX512;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        known = MDL_ISA_AVX2;
    if (known > limit())
        known = limit();
}

enum mdl_isa mdl_isa(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, look);
    return known;
}
