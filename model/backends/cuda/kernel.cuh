#ifndef MODEL_BACKENDS_CUDA_KERNEL_CUH
#define MODEL_BACKENDS_CUDA_KERNEL_CUH

/* What the files of kernels share. A kernel is a loop over items, each written
 * by one thread, or over rows, each summed by one warp. Sums are float32.
 *
 * Built by nvcc for the device; by a C++ compiler, where the loops are loops
 * of one thread, for the tests of their arithmetic. */
#include "model/backends/cuda/gpu.h"

#include <math.h>
#include <string.h>

extern "C" {
#include "model/graph.h"
}

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define KERNEL __global__ void
#define INLINE __device__ __forceinline__
/* A struct that threads index: read where it lies, not copied for each. */
#define ARGUMENT const __grid_constant__
#define THREADS 256
#define EACH(i, n)                                                             \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;       \
         i < (n); i += (long long)gridDim.x * blockDim.x)
#define EACH_ROW(i, n)                                                         \
    for (long long i =                                                         \
             (blockIdx.x * (long long)blockDim.x + threadIdx.x) / 32;          \
         i < (n); i += (long long)gridDim.x * blockDim.x / 32)
#define LANE ((int)(threadIdx.x % 32))
#define LANES 32
#define LAUNCH(kernel, stream, threads, ...)                                   \
    kernel<<<blocks_of(threads), THREADS, 0, (cudaStream_t)(stream)>>>(        \
        __VA_ARGS__)

static inline unsigned blocks_of(long long threads)
{
    long long n = (threads + THREADS - 1) / THREADS;

    return n < 1 ? 1 : n > 1 << 20 ? 1 << 20 : (unsigned)n;
}

/* float or double */
template <typename F> INLINE F warp_sum(F x)
{
    for (int k = 16; k; k /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, k);
    return x;
}

typedef __half half_t;
typedef __nv_bfloat16 bf16_t;
INLINE float get(float x) { return x; }
INLINE float get(half_t x) { return __half2float(x); }
INLINE float get(bf16_t x) { return __bfloat162float(x); }
INLINE void put(float *to, float x) { *to = x; }
INLINE void put(half_t *to, float x) { *to = __float2half_rn(x); }
INLINE void put(bf16_t *to, float x) { *to = __float2bfloat16_rn(x); }
/* Of numbers that are not negative: their bits are in their order. */
INLINE void raise_to(float *to, float x)
{
    atomicMax((unsigned *)to, __float_as_uint(x));
}
#else
#define KERNEL static void
#define INLINE static inline
#define ARGUMENT const
#define EACH(i, n) for (long long i = 0; i < (n); i++)
#define EACH_ROW EACH
#define LANE 0
#define LANES 1
#define LAUNCH(kernel, stream, threads, ...)                                   \
    ((void)(stream), (void)(threads), launch(kernel, __VA_ARGS__))

/* tests/plugins/host: true where the calling thread records; the call is then
 * kept, and made by each replay. */
extern "C" bool host_keep(void (*make)(void *call), const void *call,
                          size_t len);
template <typename... P, typename... A>
static inline void launch(void (*kernel)(P...), A... a)
{
    auto call = [=] { kernel(a...); };

    if (!host_keep([](void *c) { (*(decltype(call) *)c)(); }, &call,
                   sizeof(call)))
        call();
}

template <typename F> INLINE F warp_sum(F x) { return x; }

INLINE void raise_to(float *to, float x) { *to = x > *to ? x : *to; }

struct half_t {
    uint16_t bits;
};
struct bf16_t {
    uint16_t bits;
};
/* What mdl_f16_to_f32 and mdl_bf16_to_f32 give, without a call for each factor
 * of a sum. */
INLINE float float_of(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof(x));
    return x;
}
INLINE float get(float x) { return x; }
INLINE float get(half_t x)
{
    uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16;
    uint32_t size = (uint32_t)(x.bits & 0x7fff) << 13;

    if (size >= 0x0f800000) /* infinity, NaN */
        return float_of(sign | size | 0x7f800000);
    return float_of(sign | size) * 0x1p112f; /* rebiased from 15 to 127 */
}
INLINE float get(bf16_t x) { return float_of((uint32_t)x.bits << 16); }
INLINE void put(float *to, float x) { *to = x; }
INLINE void put(half_t *to, float x) { mdl_f32_to_f16(&x, &to->bits, 1); }
INLINE void put(bf16_t *to, float x) { mdl_f32_to_bf16(&x, &to->bits, 1); }
#endif

/* The statement with T as the type of maps that training knows: no float16.
 * Variadic, since a launch has commas that no parentheses hold. */
#define MAPS(type, ...)                                                        \
    do {                                                                       \
        if ((type) == GPU_BF16) {                                              \
            typedef bf16_t T;                                                  \
            __VA_ARGS__;                                                       \
        } else {                                                               \
            typedef float T;                                                   \
            __VA_ARGS__;                                                       \
        }                                                                      \
    } while (0)

/* The statement with T as the type of any map. */
#define TYPED(type, ...)                                                       \
    do {                                                                       \
        if ((type) == GPU_F16) {                                               \
            typedef half_t T;                                                  \
            __VA_ARGS__;                                                       \
        } else {                                                               \
            MAPS(type, __VA_ARGS__);                                           \
        }                                                                      \
    } while (0)

INLINE bool is_depthwise(const struct gpu_window &k, int ins, int outs)
{
    return k.groups == ins && outs == ins && k.groups > 1;
}

static inline long long items(const struct gpu_map *m)
{
    return (long long)m->batch * m->h * m->w * m->c;
}

#endif
