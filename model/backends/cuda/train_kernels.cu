/* The kernels of training: plain first, in one order for ever. */
#include "model/backends/cuda/train_kernels.h"

#include "model/backends/cuda/kernel.cuh"

/* ---- sums over the places of a batch, for each channel ----
 *
 * A term adds what one element means to up to two sums of its channel. */

template <typename T> struct sum_term {
    enum { SUMS = 1 };
    const T *x;
};

template <typename T>
INLINE void add_term(const sum_term<T> &t, long long i, int, float *s)
{
    s[0] += get(t.x[i]);
}

template <typename T> struct square_term {
    enum { SUMS = 1 };
    const T *x;
    const float *mean;
};

template <typename T>
INLINE void add_term(const square_term<T> &t, long long i, int c, float *s)
{
    float d = get(t.x[i]) - t.mean[c];

    s[0] += d * d;
}

template <typename T> struct bn_term {
    enum { SUMS = 2 };
    const T *x, *dy;
    const float *mean;
};

template <typename T>
INLINE void add_term(const bn_term<T> &t, long long i, int c, float *s)
{
    float d = get(t.dy[i]);

    s[0] += d * (get(t.x[i]) - t.mean[c]);
    s[1] += d;
}

template <typename T> struct slope_term {
    enum { SUMS = 1 };
    const T *x, *dy;
};

template <typename T>
INLINE void add_term(const slope_term<T> &t, long long i, int, float *s)
{
    float at = get(t.x[i]);

    s[0] += at > 0 ? 0 : at * get(t.dy[i]);
}

/* How the places of c channels are cut: enough threads for a large chip, and
 * parts long enough to be worth one. */
struct cut {
    long long places, per, parts;
};

static struct cut cut_of(const struct gpu_map *x)
{
    long long places = (long long)x->batch * x->h * x->w;
    long long most = ((1 << 17) + x->c - 1) / x->c;
    long long per = (places + most - 1) / most;

    per = per < 32 ? 32 : per;
    return {places, per, (places + per - 1) / per};
}

size_t gpu_t_room(const struct gpu_map *x)
{
    return (size_t)cut_of(x).parts * (size_t)x->c * 2 * sizeof(float);
}

/* room [SUMS][parts][c] */
template <typename F>
KERNEL sum_parts(F term, struct cut k, int c, long long n, float *room)
{
    EACH(i, n)
    {
        int channel = (int)(i % c);
        long long from = i / c * k.per, to = from + k.per;
        float s[2] = {0, 0};

        to = to < k.places ? to : k.places;
        for (long long at = from; at < to; at++)
            add_term(term, at * c + channel, channel, s);
        for (int j = 0; j < F::SUMS; j++)
            room[j * n + i] = s[j];
    }
}

/* out[i] = factor times the sum of the parts; the first sum's also times
 * 1 / sqrt(var + eps), if var is there. rows: sums times c. */
KERNEL add_parts(const float *room, long long parts, long long c,
                 long long rows, double factor, const float *var, float eps,
                 float *out)
{
    EACH_ROW(i, rows)
    {
        const float *from = room + i / c * parts * c + i % c;
        double sum = 0;

        for (long long p = LANE; p < parts; p += LANES)
            sum += from[p * c];
        sum = warp_sum(sum) * factor;
        if (var && i < c)
            sum /= sqrt((double)var[i] + eps);
        if (LANE == 0)
            out[i] = (float)sum;
    }
}

template <typename F>
static void sums(void *stream, F term, const struct gpu_map *x, double factor,
                 const float *var, float eps, float *out, void *room)
{
    struct cut k = cut_of(x);
    long long n = k.parts * x->c, rows = (long long)F::SUMS * x->c;

    LAUNCH(sum_parts<F>, stream, n, term, k, x->c, n, (float *)room);
    LAUNCH(add_parts, stream, 32 * rows, (const float *)room, k.parts,
           (long long)x->c, rows, factor, var, eps, out);
}

void gpu_t_bn_stats(void *stream, const struct gpu_map *x, float *stats,
                    void *room)
{
    double mean = 1 / ((double)x->batch * x->h * x->w);

    MAPS(x->type,
          sums(stream, sum_term<T>{(const T *)x->data}, x, mean, NULL, 0, stats,
               room));
    MAPS(x->type, sums(stream, square_term<T>{(const T *)x->data, stats}, x,
                        mean, NULL, 0, stats + x->c, room));
}

void gpu_t_bn_dparam(void *stream, const struct gpu_map *x, const float *stats,
                     float eps, const struct gpu_map *dy, float *dparam,
                     void *room)
{
    MAPS(x->type,
          sums(stream,
               bn_term<T>{(const T *)x->data, (const T *)dy->data, stats}, x, 1,
               stats + x->c, eps, dparam, room));
}

void gpu_t_act_dslope(void *stream, const struct gpu_map *x,
                      const struct gpu_map *dy, float *dslope, void *room)
{
    MAPS(x->type,
          sums(stream, slope_term<T>{(const T *)x->data, (const T *)dy->data},
               x, 1, NULL, 0, dslope, room));
}

void gpu_t_sum(void *stream, const struct gpu_map *x, float *out, void *room)
{
    MAPS(x->type, sums(stream, sum_term<T>{(const T *)x->data}, x, 1, NULL, 0,
                        out, room));
}

/* ---- element by element ---- */

template <typename T>
KERNEL bn_train(const T *x, int c, const float *gamma, const float *beta,
                const float *stats, float eps, long long n, T *y)
{
    EACH(i, n)
    {
        int k = (int)(i % c);
        float factor = (gamma ? gamma[k] : 1) / sqrtf(stats[c + k] + eps);

        put(&y[i],
            (get(x[i]) - stats[k]) * factor + (beta ? beta[k] : 0));
    }
}

/* gamma / sd * (dy - mean(dy) - xhat mean(dy xhat)) */
template <typename T>
KERNEL bn_dx(const T *x, int c, const float *gamma, const float *stats,
             const float *dparam, float eps, float places, const T *dy,
             long long n, T *dx)
{
    EACH(i, n)
    {
        int k = (int)(i % c);
        float factor = 1 / sqrtf(stats[c + k] + eps);
        float xhat = (get(x[i]) - stats[k]) * factor;

        put(&dx[i], (gamma ? gamma[k] : 1) * factor *
                        (get(dy[i]) - dparam[c + k] / places -
                         xhat * (dparam[k] / places)));
    }
}

INLINE float slope_at(int act, float alpha, float slope, float x)
{
    float s;

    switch (act) {
    case MDL_ACT_RELU:
        return x > 0;
    case MDL_ACT_RELU6:
        return x > 0 && x < 6;
    case MDL_ACT_LEAKY:
        return x > 0 ? 1 : alpha;
    case MDL_ACT_PRELU:
        return x > 0 ? 1 : slope;
    case MDL_ACT_SIGMOID:
        s = 1 / (1 + expf(-x));
        return s * (1 - s);
    default:
        return 1;
    }
}

template <typename T>
KERNEL act_dx(int act, float alpha, const float *slope, int c, const T *x,
              const T *dy, long long n, T *dx)
{
    EACH(i, n)
    put(&dx[i], get(dy[i]) * slope_at(act, alpha, slope ? slope[i % c] : 0,
                                      get(x[i])));
}

template <typename T>
KERNEL pool_dx(const float *dy, int c, int area, long long n, T *dx)
{
    EACH(i, n)
    put(&dx[i], dy[i / c / area * c + i % c] / area);
}

/* For each channel of an image, over its places. */
template <typename T>
KERNEL scale_ds_channels(const T *x, const T *dy, int c, int area, long long n,
                         float *ds)
{
    EACH(i, n)
    {
        long long first = i / c * area * c + i % c;
        float sum = 0;

        for (int p = 0; p < area; p++)
            sum += get(x[first + (long long)p * c]) *
                   get(dy[first + (long long)p * c]);
        ds[i] = sum;
    }
}

/* For each place, over its channels. */
template <typename T>
KERNEL scale_ds_places(const T *x, const T *dy, int c, long long places, T *ds)
{
    EACH_ROW(i, places)
    {
        float sum = 0;

        for (int k = LANE; k < c; k += LANES)
            sum += get(x[i * c + k]) * get(dy[i * c + k]);
        sum = warp_sum(sum);
        if (LANE == 0)
            put(&ds[i], sum);
    }
}

/* y = x / |x|: dx = (dy - y <y, dy>) / |x| */
KERNEL l2norm_dx(const float *x, const float *dy, int c, long long rows,
                 float *dx)
{
    EACH_ROW(i, rows)
    {
        const float *a = x + i * c, *d = dy + i * c;
        float squares = 0, along = 0, norm;

        for (int k = LANE; k < c; k += LANES)
            squares += a[k] * a[k];
        norm = fmaxf(sqrtf(warp_sum(squares)), 1e-12f);
        for (int k = LANE; k < c; k += LANES)
            along += a[k] / norm * d[k];
        along = warp_sum(along);
        for (int k = LANE; k < c; k += LANES)
            dx[i * c + k] = (d[k] - a[k] / norm * along) / norm;
    }
}

/* The first of `of` larger places that stands on place i of n. */
INLINE int first_on(int i, int n, int of)
{
    return (int)(((long long)i * of + n - 1) / n);
}

template <typename T>
KERNEL upsample_dx(struct gpu_map dy, struct gpu_map dx, long long n)
{
    EACH(i, n)
    {
        int c = (int)(i % dx.c), col = (int)(i / dx.c % dx.w);
        int row = (int)(i / dx.c / dx.w % dx.h);
        long long image = i / dx.c / dx.w / dx.h;
        float sum = 0;

        for (int r = first_on(row, dx.h, dy.h);
             r < first_on(row + 1, dx.h, dy.h); r++)
            for (int s = first_on(col, dx.w, dy.w);
                 s < first_on(col + 1, dx.w, dy.w); s++)
                sum += get(((const T *)dy.data)[((image * dy.h + r) * dy.w +
                                                 s) *
                                                    dy.c +
                                                c]);
        put((T *)dx.data + i, sum);
    }
}

template <typename T>
KERNEL slice(const T *x, int of, int first, int c, long long n, T *y)
{
    EACH(i, n)
    y[i] = x[i / c * of + first + i % c];
}

template <typename T>
KERNEL softmax_dx(const T *y, const T *dy, long long pairs, T *dx)
{
    EACH(i, pairs)
    {
        float d = get(y[2 * i]) * get(y[2 * i + 1]) *
                  (get(dy[2 * i]) - get(dy[2 * i + 1]));

        put(&dx[2 * i], d);
        put(&dx[2 * i + 1], -d);
    }
}

template <typename T> KERNEL input(const float *x, struct gpu_map m, long long n)
{
    long long area = (long long)m.h * m.w;

    EACH(i, n)
    {
        long long at = i / m.c % area, c = i % m.c, image = i / m.c / area;

        put((T *)m.data + i, x[(image * m.c + c) * area + at]);
    }
}

/* ---- products ---- */

/* One element of dx each. */
template <typename T>
KERNEL conv_dx(struct gpu_window k, struct gpu_map dy, const T *w,
               struct gpu_map dx, long long n)
{
    int ins = dx.c / k.groups, outs = dy.c / k.groups;
    bool depthwise = is_depthwise(k, dx.c, dy.c);

    EACH(i, n)
    {
        int c = (int)(i % dx.c), first = c / ins * outs;
        int col = (int)(i / dx.c % dx.w), row = (int)(i / dx.c / dx.w % dx.h);
        long long image = i / dx.c / dx.w / dx.h * dy.h;
        float sum = 0;

        for (int a = 0; a < k.kernel; a++)
            for (int b = 0; b < k.kernel; b++) {
                int r = row + k.pad - a, s = col + k.pad - b, at;
                const T *d, *by;

                if (r < 0 || s < 0 || r % k.stride || s % k.stride)
                    continue;
                r /= k.stride;
                s /= k.stride;
                if (r >= dy.h || s >= dy.w)
                    continue;
                at = a * k.kernel + b;
                d = (const T *)dy.data + ((image + r) * dy.w + s) * dy.c +
                    first;
                if (depthwise) {
                    sum += get(*d) * get(w[(long long)at * dx.c + c]);
                    continue;
                }
                by = w + ((long long)first * k.kernel * k.kernel + at) * ins +
                     c % ins;
                for (int o = 0; o < outs; o++)
                    sum += get(d[o]) *
                           get(by[(long long)o * k.kernel * k.kernel * ins]);
            }
        put((T *)dx.data + i, sum);
    }
}

/* How the rows of a batch's results are cut for the sums of n weights. */
static struct cut cut_dw(const struct gpu_map *dy, long long n)
{
    long long rows = (long long)dy->batch * dy->h;
    long long most = ((1 << 21) + n - 1) / n;
    long long per = (rows + most - 1) / most;

    return {rows, per, (rows + per - 1) / per};
}

static long long weights_of(const struct gpu_window *k, const struct gpu_map *x,
                            const struct gpu_map *dy)
{
    return (long long)dy->c * k->kernel * k->kernel * (x->c / k->groups);
}

size_t gpu_t_conv_dw_room(const struct gpu_window *k, const struct gpu_map *x,
                          const struct gpu_map *dy)
{
    long long n = weights_of(k, x, dy);

    return (size_t)(cut_dw(dy, n).parts * n) * sizeof(float);
}

/* One part of one weight's sum each: over each row, and then over the rows. */
template <typename T>
KERNEL conv_dw(struct gpu_window k, struct gpu_map x, struct gpu_map dy,
               struct cut cut, long long weights, long long n, float *room)
{
    int ins = x.c / k.groups, outs = dy.c / k.groups, kk = k.kernel * k.kernel;
    bool depthwise = is_depthwise(k, x.c, dy.c);

    EACH(i, n)
    {
        long long at = i % weights, from = i / weights * cut.per;
        long long to = from + cut.per;
        int o = (int)(depthwise ? at % dy.c : at / ins / kk);
        int c = depthwise ? o : o / outs * ins + (int)(at % ins);
        int place = (int)(depthwise ? at / dy.c : at / ins % kk);
        int a = place / k.kernel, b = place % k.kernel;
        float sum = 0;

        to = to < cut.places ? to : cut.places;
        for (long long r = from; r < to; r++) {
            int row = (int)(r % dy.h) * k.stride - k.pad + a;
            const T *d, *in;
            float along = 0;

            if (row < 0 || row >= x.h)
                continue;
            d = (const T *)dy.data + r * dy.w * dy.c + o;
            in = (const T *)x.data + (r / dy.h * x.h + row) * x.w * x.c + c;
            for (int s = 0; s < dy.w; s++) {
                int col = s * k.stride - k.pad + b;

                if (col >= 0 && col < x.w)
                    along += get(d[(long long)s * dy.c]) *
                             get(in[(long long)col * x.c]);
            }
            sum += along;
        }
        room[i] = sum;
    }
}

template <typename T>
KERNEL rows_dx(const float *dy, int o, const T *w, long long k, long long n,
               T *dx)
{
    EACH(i, n)
    {
        const float *d = dy + i / k * o;
        float sum = 0;

        for (int j = 0; j < o; j++)
            sum += d[j] * get(w[j * k + i % k]);
        put(&dx[i], sum);
    }
}

template <typename T>
KERNEL rows_dw(const T *x, long long k, int batch, const float *dy, int o,
               long long n, float *dw)
{
    EACH(i, n)
    {
        float sum = 0;

        for (int b = 0; b < batch; b++)
            sum += dy[(long long)b * o + i / k] * get(x[b * k + i % k]);
        dw[i] = sum;
    }
}

/* ---- launching ---- */

void gpu_t_bn_train(void *stream, const struct gpu_map *x, const float *gamma,
                    const float *beta, const float *stats, float eps,
                    const struct gpu_map *y)
{
    MAPS(x->type, LAUNCH(bn_train<T>, stream, items(x), (const T *)x->data,
                          x->c, gamma, beta, stats, eps, items(x),
                          (T *)y->data));
}

void gpu_t_bn_dx(void *stream, const struct gpu_map *x, const float *gamma,
                 const float *stats, const float *dparam, float eps,
                 const struct gpu_map *dy, const struct gpu_map *dx)
{
    float places = (float)((double)x->batch * x->h * x->w);

    MAPS(x->type, LAUNCH(bn_dx<T>, stream, items(x), (const T *)x->data, x->c,
                          gamma, stats, dparam, eps, places,
                          (const T *)dy->data, items(x), (T *)dx->data));
}

void gpu_t_act_dx(void *stream, int act, float alpha, const float *slope,
                  const struct gpu_map *x, const struct gpu_map *dy,
                  const struct gpu_map *dx)
{
    MAPS(x->type, LAUNCH(act_dx<T>, stream, items(x), act, alpha, slope, x->c,
                          (const T *)x->data, (const T *)dy->data, items(x),
                          (T *)dx->data));
}

void gpu_t_pool_dx(void *stream, const struct gpu_map *dy,
                   const struct gpu_map *dx)
{
    MAPS(dx->type,
          LAUNCH(pool_dx<T>, stream, items(dx), (const float *)dy->data, dx->c,
                 dx->h * dx->w, items(dx), (T *)dx->data));
}

void gpu_t_scale_ds(void *stream, const struct gpu_map *x,
                    const struct gpu_map *dy, const struct gpu_map *ds)
{
    if (ds->h == x->h && ds->w == x->w && ds->c == 1)
        MAPS(x->type, LAUNCH(scale_ds_places<T>, stream, 32 * items(ds),
                              (const T *)x->data, (const T *)dy->data, x->c,
                              items(ds), (T *)ds->data));
    else
        MAPS(x->type, LAUNCH(scale_ds_channels<T>, stream, items(ds),
                              (const T *)x->data, (const T *)dy->data, x->c,
                              x->h * x->w, items(ds), (float *)ds->data));
}

void gpu_t_l2norm_dx(void *stream, const struct gpu_map *x,
                     const struct gpu_map *dy, const struct gpu_map *dx)
{
    LAUNCH(l2norm_dx, stream, 32ll * x->batch, (const float *)x->data,
           (const float *)dy->data, x->c, x->batch, (float *)dx->data);
}

void gpu_t_upsample_dx(void *stream, const struct gpu_map *dy,
                       const struct gpu_map *dx)
{
    MAPS(dx->type,
          LAUNCH(upsample_dx<T>, stream, items(dx), *dy, *dx, items(dx)));
}

void gpu_t_slice(void *stream, const struct gpu_map *x, int first,
                 const struct gpu_map *y)
{
    MAPS(y->type, LAUNCH(slice<T>, stream, items(y), (const T *)x->data, x->c,
                          first, y->c, items(y), (T *)y->data));
}

void gpu_t_softmax_dx(void *stream, const struct gpu_map *y,
                      const struct gpu_map *dy, const struct gpu_map *dx)
{
    MAPS(y->type, LAUNCH(softmax_dx<T>, stream, items(y) / 2,
                          (const T *)y->data, (const T *)dy->data,
                          items(y) / 2, (T *)dx->data));
}

void gpu_t_input(void *stream, const float *x, const struct gpu_map *y)
{
    MAPS(y->type, LAUNCH(input<T>, stream, items(y), x, *y, items(y)));
}

void gpu_t_conv_dx(void *stream, const struct gpu_window *k,
                   const struct gpu_map *dy, const void *w,
                   const struct gpu_map *dx)
{
    MAPS(dx->type, LAUNCH(conv_dx<T>, stream, items(dx), *k, *dy,
                           (const T *)w, *dx, items(dx)));
}

void gpu_t_conv_dw(void *stream, const struct gpu_window *k,
                   const struct gpu_map *x, const struct gpu_map *dy, float *dw,
                   void *room)
{
    long long weights = weights_of(k, x, dy);
    struct cut cut = cut_dw(dy, weights);
    float *to = cut.parts == 1 ? dw : (float *)room;
    long long n = cut.parts * weights;

    MAPS(x->type,
          LAUNCH(conv_dw<T>, stream, n, *k, *x, *dy, cut, weights, n, to));
    if (cut.parts > 1)
        LAUNCH(add_parts, stream, 32 * weights, (const float *)room, cut.parts,
               weights, weights, 1.0, (const float *)NULL, 0.0f, dw);
}

void gpu_t_rows_dx(void *stream, const struct gpu_map *dy, const void *w,
                   const struct gpu_map *dx)
{
    long long k = (long long)dx->h * dx->w * dx->c;

    MAPS(dx->type,
          LAUNCH(rows_dx<T>, stream, items(dx), (const float *)dy->data, dy->c,
                 (const T *)w, k, items(dx), (T *)dx->data));
}

void gpu_t_rows_dw(void *stream, const struct gpu_map *x,
                   const struct gpu_map *dy, float *dw)
{
    long long k = (long long)x->h * x->w * x->c;

    MAPS(x->type, LAUNCH(rows_dw<T>, stream, k * dy->c, (const T *)x->data, k,
                          x->batch, (const float *)dy->data, dy->c, k * dy->c,
                          dw));
}
