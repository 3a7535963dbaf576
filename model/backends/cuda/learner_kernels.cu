/* The kernels that move weights which learn on the device. */
#include "model/backends/cuda/learner_kernels.h"

#include "model/backends/cuda/kernel.cuh"

/* Which of the list's tensors has the chunk: the same for a whole block. */
template <typename L> INLINE int owner(const L &l, uint32_t chunk)
{
    int from = 0, to = l.n;

    while (to - from > 1) {
        int mid = (from + to) / 2;

        if (l.of[mid].chunk <= chunk)
            from = mid;
        else
            to = mid;
    }
    return from;
}

/* The statement for each number j of each tensor t. */
#define EACH_OF(l, t, j, ...)                                                  \
    EACH(i_, (long long)(l).chunks *GPU_CHUNK)                                 \
    {                                                                          \
        uint32_t chunk_ = (uint32_t)(i_ / GPU_CHUNK);                          \
        const auto &t = (l).of[owner((l), chunk_)];                            \
        long long at_ = i_ - (long long)t.chunk * GPU_CHUNK;                   \
        uint32_t j = (uint32_t)at_;                                            \
                                                                               \
        if (at_ < t.n)                                                         \
            __VA_ARGS__;                                                       \
    }

KERNEL gather(ARGUMENT struct gpu_gathers l)
{
    EACH_OF(l, t, j, {
        uint32_t r = t.at + j, c = r / t.places % t.channels;
        uint32_t image = r / t.places / t.channels;
        float x = t.from[((size_t)image * t.places + r % t.places) *
                             t.channels +
                         c];

        t.to[j] = t.more ? t.to[j] + x : x;
    })
}

KERNEL run(ARGUMENT struct gpu_runs l)
{
    EACH_OF(l, t, j, {
        t.mean[j] += t.momentum * (t.stats[j] - t.mean[j]);
        t.var[j] += t.momentum * (t.stats[t.n + j] * t.unbias - t.var[j]);
    })
}

KERNEL layout(ARGUMENT struct gpu_layouts l)
{
    EACH_OF(l, t, j, {
        uint32_t c = j % t.channels, place = j / t.channels % t.places;
        uint32_t image = j / t.channels / t.places;
        float x = t.from[((size_t)image * t.channels + c) * t.places + place];

        if (t.type == GPU_F32)
            put((float *)t.to + j, x);
        else if (t.type == GPU_F16)
            put((half_t *)t.to + j, x);
        else
            put((bf16_t *)t.to + j, x);
    })
}

KERNEL square_chunks(ARGUMENT struct gpu_squares l)
{
    EACH_ROW(i, l.chunks)
    {
        const struct gpu_square &t = l.of[owner(l, (uint32_t)i)];
        uint32_t chunk = (uint32_t)i - t.chunk;
        long long from = (long long)chunk * GPU_CHUNK, to = from + GPU_CHUNK;
        const float *x = l.x + t.at;
        double sum = 0;

        to = to < t.n ? to : t.n;
        for (long long j = from + LANE; j < to; j += LANES)
            sum += (double)x[j] * x[j];
        sum = warp_sum(sum);
        if (LANE == 0)
            l.parts[t.part + chunk] = sum;
    }
}

KERNEL square_tensors(ARGUMENT struct gpu_squares l)
{
    EACH_ROW(i, l.n)
    {
        const struct gpu_square &t = l.of[i];
        uint32_t n = GPU_CHUNKS(t.n);
        double sum = 0;

        for (uint32_t j = LANE; j < n; j += LANES)
            sum += l.parts[t.part + j];
        sum = warp_sum(sum);
        if (LANE == 0)
            l.squares[t.to] = sum;
    }
}

/* Operation by operation as in model/train/optimizer.c; where a device's
 * compiler joins a product and a sum, one rounding is left out. */

KERNEL sgd(ARGUMENT struct gpu_moves l)
{
    EACH_OF(l, t, j, {
        size_t i = t.at + j;
        float x = l.x[i];
        float first = t.keep * l.first[i] + l.factor * l.gradient[i] +
                      t.joined * x;

        l.first[i] = first;
        l.x[i] = x - t.step * first;
    })
}

KERNEL adam(ARGUMENT struct gpu_moves l)
{
    EACH_OF(l, t, j, {
        size_t i = t.at + j;
        float x = l.x[i], first = l.first[i], second = l.second[i];
        float g = l.factor * l.gradient[i] + t.joined * x;

        first += (1 - l.beta1) * (g - first);
        second = l.beta2 * second + (1 - l.beta2) * g * g;
        l.first[i] = first;
        l.second[i] = second;
        l.x[i] =
            t.keep * x - t.step * first / (sqrtf(second) / t.fix + l.eps);
    })
}

KERNEL zero(float *x, long long n)
{
    EACH(i, n)
    x[i] = 0;
}

/* ---- launching ---- */

template <typename L> static long long numbers(const L *l)
{
    return (long long)l->chunks * GPU_CHUNK;
}

void gpu_l_gather(void *stream, const struct gpu_gathers *l)
{
    LAUNCH(gather, stream, numbers(l), *l);
}

void gpu_l_run(void *stream, const struct gpu_runs *l)
{
    LAUNCH(run, stream, numbers(l), *l);
}

void gpu_l_layout(void *stream, const struct gpu_layouts *l)
{
    LAUNCH(layout, stream, numbers(l), *l);
}

void gpu_l_square(void *stream, const struct gpu_squares *l)
{
    LAUNCH(square_chunks, stream, 32ll * l->chunks, *l);
    LAUNCH(square_tensors, stream, 32ll * l->n, *l);
}

void gpu_l_sgd(void *stream, const struct gpu_moves *l)
{
    LAUNCH(sgd, stream, numbers(l), *l);
}

void gpu_l_adam(void *stream, const struct gpu_moves *l)
{
    LAUNCH(adam, stream, numbers(l), *l);
}

void gpu_l_zero(void *stream, float *x, size_t n)
{
    LAUNCH(zero, stream, (long long)n, x, (long long)n);
}
