/* Our kernels: plain first. What a kernel is, and how one source serves the
 * device and the processor, is in kernel.cuh. */
#include "model/backends/cuda/kernel.cuh"

INLINE float finish(const struct gpu_epilogue &ep, int c, float x)
{
    if (ep.scale)
        x *= ep.scale[c];
    if (ep.bias)
        x += ep.bias[c];
    switch (ep.act) {
    case MDL_ACT_RELU:
        x = x > 0 ? x : 0;
        break;
    case MDL_ACT_RELU6:
        x = x > 0 ? (x < 6 ? x : 6) : 0;
        break;
    case MDL_ACT_LEAKY:
        x = x > 0 ? x : ep.alpha * x;
        break;
    case MDL_ACT_PRELU:
        x = x > 0 ? x : ep.slope[c] * x;
        break;
    case MDL_ACT_SIGMOID:
        x = 1 / (1 + expf(-x));
        break;
    default:
        break;
    }
    return ep.shift ? x + ep.shift[c] : x;
}

template <typename T>
INLINE float finish_at(const struct gpu_epilogue &ep, int c, long long at,
                       float x)
{
    x = finish(ep, c, x);
    return ep.residual ? x + get(((const T *)ep.residual)[at]) : x;
}

template <typename T>
KERNEL image(struct gpu_image k, const uint8_t *rgb, long long n, T *y)
{
    EACH(i, n)
    {
        int c = (int)(i % 3);

        put(&y[i],
            (rgb[i - c + (k.bgr ? 2 - c : c)] - k.mean[c]) * k.factor[c]);
    }
}

/* One output each. depthwise: weights lie [kernel][kernel][c]. */
template <typename T>
KERNEL conv(struct gpu_window k, struct gpu_map xm, const T *w,
            struct gpu_epilogue ep, struct gpu_map ym, long long n)
{
    const T *x = (const T *)xm.data;
    bool depthwise = is_depthwise(k, xm.c, ym.c);
    int ins = xm.c / k.groups, outs = ym.c / k.groups;

    EACH(i, n)
    {
        int o = (int)(i % ym.c), first = o / outs * ins;
        long long at = i / ym.c;
        int col = (int)(at % ym.w), row = (int)(at / ym.w % ym.h);
        long long image = at / ym.w / ym.h * xm.h;
        float sum = 0;

        for (int a = 0; a < k.kernel; a++)
            for (int b = 0; b < k.kernel; b++) {
                int r = row * k.stride - k.pad + a;
                int s = col * k.stride - k.pad + b;
                const T *from, *by;

                if (r < 0 || r >= xm.h || s < 0 || s >= xm.w)
                    continue;
                from = x + ((image + r) * xm.w + s) * xm.c + first;
                by = depthwise
                         ? w + (long long)(a * k.kernel + b) * xm.c + o
                         : w + (((long long)o * k.kernel + a) * k.kernel + b) *
                                   ins;
                for (int c = 0; c < ins; c++)
                    sum += get(from[c]) * get(by[c]);
            }
        put((T *)ym.data + i, finish_at<T>(ep, o, i, sum));
    }
}

template <typename T, typename U>
KERNEL rows_by_rows(const T *x, const T *w, int k, int o, long long n,
                    struct gpu_epilogue ep, U *y)
{
    EACH_ROW(i, n)
    {
        const T *a = x + i / o * k, *b = w + i % o * k;
        float sum = 0;

        for (int c = LANE; c < k; c += LANES)
            sum += get(a[c]) * get(b[c]);
        sum = warp_sum(sum);
        if (LANE == 0)
            put(&y[i], finish_at<U>(ep, (int)(i % o), i, sum));
    }
}

template <typename T>
KERNEL epilogue(const T *x, int c, long long n, struct gpu_epilogue ep, T *y)
{
    EACH(i, n)
    put(&y[i], finish_at<T>(ep, (int)(i % c), i, get(x[i])));
}

template <typename T>
KERNEL attend(struct gpu_map m, float base, const T *place,
              const float *channel, long long n, T *y)
{
    EACH(i, n)
    {
        long long at = i / m.c;
        float f = base;

        if (place)
            f += get(place[at]);
        if (channel)
            f += channel[at / (m.h * m.w) * m.c + i % m.c];
        put(&y[i], get(((const T *)m.data)[i]) * f);
    }
}

/* A mean each: neighbouring threads read neighbouring channels. */
template <typename T>
KERNEL attend_pool(struct gpu_map m, float base, const T *place,
                   const float *channel, long long n, float *y)
{
    int area = m.h * m.w;

    EACH(i, n)
    {
        long long image = i / m.c * area;
        float f = base + (channel ? channel[i] : 0), sum = 0;

        for (int p = 0; p < area; p++)
            sum += get(((const T *)m.data)[(image + p) * m.c + i % m.c]) *
                   (place ? f + get(place[image + p]) : f);
        y[i] = sum / area;
    }
}

struct terms {
    const void *of[MDL_NODE_INPUTS];
};

template <typename T> KERNEL add(struct terms t, int terms, long long n, T *y)
{
    EACH(i, n)
    {
        float sum = 0;

        for (int k = 0; k < terms; k++)
            sum += get(((const T *)t.of[k])[i]);
        put(&y[i], sum);
    }
}

KERNEL l2norm(const float *x, int k, long long rows, float *y)
{
    EACH_ROW(i, rows)
    {
        float sum = 0;

        for (int c = LANE; c < k; c += LANES)
            sum += x[i * k + c] * x[i * k + c];
        sum = fmaxf(sqrtf(warp_sum(sum)), 1e-12f);
        for (int c = LANE; c < k; c += LANES)
            y[i * k + c] = x[i * k + c] / sum;
    }
}

template <typename T>
KERNEL upsample(struct gpu_map x, struct gpu_map y, long long n)
{
    EACH(i, n)
    {
        long long at = i / y.c, image = at / y.w / y.h;
        int row = (int)(at / y.w % y.h), col = (int)(at % y.w);

        ((T *)y.data)[i] =
            ((const T *)x.data)[((image * x.h + (long long)row * x.h / y.h) *
                                     x.w +
                                 (long long)col * x.w / y.w) *
                                    x.c +
                                i % y.c];
    }
}

template <typename T>
KERNEL concat(const T *x, int c, int first, int of, long long n, T *y)
{
    EACH(i, n)
    y[i / c * of + first + i % c] = x[i];
}

template <typename T> KERNEL softmax(const T *x, long long pairs, T *y)
{
    EACH(i, pairs)
    {
        float d = get(x[2 * i + 1]) - get(x[2 * i]);

        put(&y[2 * i], 1 / (1 + expf(d)));
        put(&y[2 * i + 1], 1 / (1 + expf(-d)));
    }
}

INLINE float random_at(uint32_t seed, long long i)
{
    uint32_t h = (uint32_t)i * 0x9e3779b9u + seed * 0x85ebca6bu;

    h = (h ^ h >> 16) * 0x7feb352du;
    h = (h ^ h >> 15) * 0x846ca68bu;
    h ^= h >> 16;
    return (float)(h >> 8) * 0x1p-23f - 1;
}

template <typename T> KERNEL random_numbers(uint32_t seed, T *y, long long n)
{
    EACH(i, n)
    put(&y[i], random_at(seed, i));
}

template <typename T>
KERNEL deviation(const T *got, const T *want, long long n, float absolute,
                 float relative, float *worst)
{
    float most = 0;

    EACH(i, n)
    {
        float y = get(want[i]), off = fabsf(get(got[i]) - y);

        off /= absolute + relative * fabsf(y);
        most = off <= most ? most : off < INFINITY ? off : INFINITY;
    }
    raise_to(worst, most);
}

template <typename T> KERNEL output(struct gpu_map m, long long n, float *y)
{
    long long area = (long long)m.h * m.w;

    EACH(i, n)
    {
        long long at = i % area, c = i / area % m.c, image = i / area / m.c;

        y[i] = get(((const T *)m.data)[(image * area + at) * m.c + c]);
    }
}

/* ---- launching ---- */

void gpu_k_image(void *stream, const struct gpu_image *k, const uint8_t *rgb,
                 const struct gpu_map *y)
{
    TYPED(y->type, LAUNCH(image<T>, stream, items(y), *k, rgb, items(y),
                          (T *)y->data));
}

void gpu_k_conv(void *stream, const struct gpu_window *k,
                const struct gpu_map *x, const void *w,
                const struct gpu_epilogue *ep, const struct gpu_map *y)
{
    TYPED(x->type, LAUNCH(conv<T>, stream, items(y), *k, *x, (const T *)w, *ep,
                          *y, items(y)));
}

void gpu_k_rows(void *stream, enum gpu_type xt, int rows, int k, const void *x,
                const void *w, int o, const struct gpu_epilogue *ep,
                enum gpu_type yt, void *y)
{
    long long n = (long long)rows * o;

    if (yt == GPU_F32)
        TYPED(xt, LAUNCH((rows_by_rows<T, float>), stream, 32 * n,
                         (const T *)x, (const T *)w, k, o, n, *ep, (float *)y));
    else
        TYPED(xt, LAUNCH((rows_by_rows<T, T>), stream, 32 * n, (const T *)x,
                         (const T *)w, k, o, n, *ep, (T *)y));
}

void gpu_k_epilogue(void *stream, const struct gpu_map *x,
                    const struct gpu_epilogue *ep, const struct gpu_map *y)
{
    TYPED(y->type, LAUNCH(epilogue<T>, stream, items(y), (const T *)x->data,
                          y->c, items(y), *ep, (T *)y->data));
}

void gpu_k_attend(void *stream, const struct gpu_map *x, float base,
                  const void *place, const float *channel,
                  const struct gpu_map *y)
{
    if (y->h == 1 && y->w == 1 && y->type == GPU_F32)
        TYPED(x->type, LAUNCH(attend_pool<T>, stream, items(y), *x, base,
                              (const T *)place, channel, items(y),
                              (float *)y->data));
    else
        TYPED(x->type,
              LAUNCH(attend<T>, stream, items(y), *x, base, (const T *)place,
                     channel, items(y), (T *)y->data));
}

void gpu_k_add(void *stream, const void *const *list, int n,
               const struct gpu_map *y)
{
    struct terms t;

    memset(&t, 0, sizeof(t));
    memcpy(t.of, list, (size_t)n * sizeof(*list));
    TYPED(y->type,
          LAUNCH(add<T>, stream, items(y), t, n, items(y), (T *)y->data));
}

void gpu_k_l2norm(void *stream, const struct gpu_map *x,
                  const struct gpu_map *y)
{
    LAUNCH(l2norm, stream, 32ll * y->batch, (const float *)x->data, y->c,
           y->batch, (float *)y->data);
}

void gpu_k_upsample(void *stream, const struct gpu_map *x,
                    const struct gpu_map *y)
{
    TYPED(y->type, LAUNCH(upsample<T>, stream, items(y), *x, *y, items(y)));
}

void gpu_k_concat(void *stream, const struct gpu_map *x, int first,
                  const struct gpu_map *y)
{
    TYPED(y->type, LAUNCH(concat<T>, stream, items(x), (const T *)x->data,
                          x->c, first, y->c, items(x), (T *)y->data));
}

void gpu_k_softmax(void *stream, const struct gpu_map *x,
                   const struct gpu_map *y)
{
    TYPED(y->type, LAUNCH(softmax<T>, stream, items(y) / 2, (const T *)x->data,
                          items(y) / 2, (T *)y->data));
}

void gpu_k_random(void *stream, enum gpu_type type, uint32_t seed, void *y,
                  long long n)
{
    TYPED(type, LAUNCH(random_numbers<T>, stream, n, seed, (T *)y, n));
}

void gpu_k_deviation(void *stream, enum gpu_type type, const void *got,
                     const void *want, long long n, float absolute,
                     float relative, float *worst)
{
    TYPED(type, LAUNCH(deviation<T>, stream, n, (const T *)got, (const T *)want,
                       n, absolute, relative, worst));
}

void gpu_k_output(void *stream, const struct gpu_map *x, float *y)
{
    TYPED(x->type, LAUNCH(output<T>, stream, items(x), *x, items(x), y));
}
