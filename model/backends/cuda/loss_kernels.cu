/* The kernels of losses: what model/train/loss.c and loss_hint.c compute, in
 * their order where it matters, around the products. */
#include "model/backends/cuda/loss_kernels.h"

#include "model/backends/cuda/kernel.cuh"

#ifdef __CUDACC__
INLINE double warp_most(double x)
{
    for (int k = 16; k; k /= 2)
        x = fmax(x, __shfl_xor_sync(0xffffffffu, x, k));
    return x;
}
#else
INLINE double warp_most(double x) { return x; }
#endif

/* How n things are cut: into at most so many parts, each worth a warp or a
 * thread. */
struct cuts {
    long long n, per, parts;
};

static struct cuts cut_of(long long n, long long least, long long most)
{
    long long per = (n + most - 1) / most;

    per = per < least ? least : per;
    return {n, per, (n + per - 1) / per};
}

INLINE long long end_of(const struct cuts &k, long long part)
{
    long long to = (part + 1) * k.per;

    return to < k.n ? to : k.n;
}

/* ---- lengths ---- */

KERNEL unit_rows(const float *x, int dim, long long rows, float *unit,
                 float *norm)
{
    EACH_ROW(i, rows)
    {
        const float *a = x + i * dim;
        double sum = 0;
        float length;

        for (int c = LANE; c < dim; c += LANES)
            sum += (double)a[c] * a[c];
        length = (float)fmax(sqrt(warp_sum(sum)), 1e-12);
        for (int c = LANE; c < dim; c += LANES)
            unit[i * dim + c] = a[c] / length;
        if (LANE == 0)
            norm[i] = length;
    }
}

INLINE void set_or_add(float *to, bool more, float x)
{
    *to = more ? *to + x : x;
}

KERNEL through_unit(const float *x, const float *norm, const float *d, int dim,
                    long long rows, float share, bool more, float *out)
{
    EACH_ROW(i, rows)
    {
        const float *a = x + i * dim, *by = d + i * dim;
        float length = norm[i];
        double along = 0;

        for (int c = LANE; c < dim; c += LANES)
            along += (double)(a[c] / length) * by[c];
        along = warp_sum(along);
        for (int c = LANE; c < dim; c += LANES)
            set_or_add(&out[i * dim + c], more,
                       share * ((float)(by[c] - a[c] / length * along) /
                                length));
    }
}

KERNEL add_share(const float *d, long long n, float share, bool more,
                 float *out)
{
    EACH(i, n)
    set_or_add(&out[i], more, share * d[i]);
}

/* ---- ArcFace ----
 *
 * A row of 100,000 classes is cut into parts, each a warp's: its highest logit
 * and its sum of exponentials below that; then the row's; then gradients. */

struct peak {
    double top, sum; /* of a whole row: 1 / sum */
};

/* The target's cosine with its margin; *slope its derivative by the cosine. */
INLINE double widen(const struct gpu_arcface &a, double t, double *slope)
{
    double sine = sqrt(1 - t * t);

    if (t > a.past) {
        *slope = a.cosine + t / sine * a.sine;
        return t * a.cosine - sine * a.sine;
    }
    return t - a.less;
}

/* Of one class, by its sub-centre *nearest. */
INLINE double logit_of(const struct gpu_arcface &a, const float *cosine, int c,
                       int label, int *nearest, double *slope)
{
    const float *x = cosine + (long long)c * a.k;
    double t;

    *nearest = 0;
    *slope = 1;
    for (int k = 1; k < a.k; k++)
        if (x[k] > x[*nearest])
            *nearest = k;
    t = fmin(fmax((double)x[*nearest], -1 + 1e-7), 1 - 1e-7);
    return a.scale * (c == label ? widen(a, t, slope) : t);
}

/* The difference is a double's, so that little is lost by the exponential of a
 * float32: chips for the desk have next to no doubles. */
INLINE double exp_of(double x) { return expf((float)x); }

KERNEL arcface_parts(struct gpu_arcface a, const float *cosine,
                     const int32_t *label, struct cuts cut, long long n,
                     struct peak *peaks)
{
    EACH_ROW(i, n)
    {
        long long row = i / cut.parts, from = i % cut.parts * cut.per;
        int to = (int)end_of(cut, i % cut.parts), nearest, own = label[row];
        const float *x = cosine + row * a.classes * a.k;
        double top = -INFINITY, sum = 0, slope;

        if (own < 0)
            continue;
        for (int c = (int)from + LANE; c < to; c += LANES)
            top = fmax(top, logit_of(a, x, c, own, &nearest, &slope));
        top = warp_most(top);
        for (int c = (int)from + LANE; c < to; c += LANES)
            sum += exp_of(logit_of(a, x, c, own, &nearest, &slope) - top);
        sum = warp_sum(sum);
        if (LANE == 0)
            peaks[i] = {top, sum};
    }
}

KERNEL arcface_rows(struct gpu_arcface a, const float *cosine,
                    const int32_t *label, long long parts,
                    const struct peak *peaks, long long rows,
                    struct peak *whole, double *loss)
{
    EACH_ROW(i, rows)
    {
        const struct peak *of = peaks + i * parts;
        double top = -INFINITY, sum = 0, slope;
        int nearest;

        if (label[i] < 0) {
            if (LANE == 0)
                loss[i] = 0;
            continue;
        }
        for (long long p = LANE; p < parts; p += LANES)
            top = fmax(top, of[p].top);
        top = warp_most(top);
        for (long long p = LANE; p < parts; p += LANES)
            sum += of[p].sum * exp(of[p].top - top);
        sum = warp_sum(sum);
        if (LANE == 0) {
            whole[i] = {top, 1 / sum};
            loss[i] = log(fmax(sum, 1.0)) + top - /* the top gives 1 */
                      logit_of(a, cosine + i * a.classes * a.k, label[i],
                               label[i], &nearest, &slope);
        }
    }
}

/* One class of one row each. */
KERNEL arcface_dcosine(struct gpu_arcface a, const int32_t *label,
                       const struct peak *whole, double factor, long long n,
                       float *cosine)
{
    EACH(i, n)
    {
        long long row = i / a.classes;
        int c = (int)(i % a.classes), own = label[row], nearest = 0;
        float *x = cosine + row * a.classes * a.k;
        double d = 0, slope;

        if (own >= 0) {
            d = exp_of(logit_of(a, x, c, own, &nearest, &slope) -
                       whole[row].top) *
                whole[row].sum;
            d = (d - (c == own)) * factor * slope;
        }
        for (int k = 0; k < a.k; k++)
            x[(long long)c * a.k + k] = k == nearest ? (float)d : 0;
    }
}

static struct cuts cut_classes(const struct gpu_arcface *a)
{
    return cut_of(a->classes, 1024, 1024);
}

/* ---- distillation ---- */

KERNEL cosine_rows(const float *teacher, int dim, long long rows, double weight,
                   float *p, double *loss)
{
    EACH_ROW(i, rows)
    {
        const float *t = teacher + i * dim;
        float *x = p + i * dim;
        double squares = 0, along = 0, norm, cosine;

        for (int c = LANE; c < dim; c += LANES) {
            squares += (double)x[c] * x[c];
            along += (double)x[c] * t[c];
        }
        norm = fmax(sqrt(warp_sum(squares)), 1e-12);
        cosine = warp_sum(along) / norm;
        for (int c = LANE; c < dim; c += LANES)
            x[c] = (float)(-(t[c] - x[c] / norm * cosine) / norm / rows *
                           weight);
        if (LANE == 0)
            loss[i] = 1 - cosine;
    }
}

KERNEL similarity_rows(const float *there, long long rows, double pairs,
                       double weight, float *here, double *loss)
{
    EACH_ROW(i, rows)
    {
        double sum = 0;

        for (long long c = LANE; c < rows; c += LANES) {
            float *x = here + i * rows + c;
            double off = c == i ? 0 : (double)*x - there[i * rows + c];

            sum += off * off;
            *x = (float)(4 * off / pairs * weight);
        }
        sum = warp_sum(sum);
        if (LANE == 0)
            loss[i] = sum / pairs;
    }
}

/* ---- the hint ---- */

/* room [2][parts][columns]: sums and sums of squares. */
KERNEL column_parts(const float *x, int columns, struct cuts cut, long long n,
                    double *room)
{
    EACH(i, n)
    {
        long long part = i / columns, c = i % columns, to = end_of(cut, part);
        double sum = 0, squares = 0;

        for (long long row = part * cut.per; row < to; row++) {
            double v = x[row * columns + c];

            sum += v;
            squares += v * v;
        }
        room[i] = sum;
        room[n + i] = squares;
    }
}

struct standard {
    double mean, scale;
};

KERNEL column_standards(const double *room, long long parts, long long columns,
                        double rows, bool deviation, struct standard *out)
{
    EACH_ROW(i, columns)
    {
        const double *of = room + i, *squares_of = of + parts * columns;
        double sum = 0, squares = 0, mean;

        for (long long p = LANE; p < parts; p += LANES) {
            sum += of[p * columns];
            squares += squares_of[p * columns];
        }
        mean = warp_sum(sum) / rows;
        squares = warp_sum(squares) / rows - mean * mean;
        if (LANE == 0)
            out[i] = {mean, deviation ? 1 / sqrt(fmax(squares, 1e-12)) : 1};
    }
}

KERNEL standardise(const struct standard *by, int columns, long long n,
                   float *x)
{
    EACH(i, n)
    x[i] = (float)((x[i] - by[i % columns].mean) * by[i % columns].scale);
}

static struct cuts cut_rows(int rows, int columns)
{
    return cut_of(rows, 32, ((1 << 17) + columns - 1) / columns);
}

KERNEL off_parts(const float *wanted, struct cuts cut, double factor,
                 float *said, double *loss)
{
    EACH_ROW(part, cut.parts)
    {
        long long to = end_of(cut, part);
        double sum = 0;

        for (long long i = part * cut.per + LANE; i < to; i += LANES) {
            float off = said[i] - wanted[i];

            sum += (double)off * off;
            said[i] = (float)(2 * off * factor);
        }
        sum = warp_sum(sum);
        if (LANE == 0)
            loss[part] = sum;
    }
}

static struct cuts cut_off(long long n)
{
    return cut_of(n, 4096, 4096);
}

/* ---- launching ---- */

void gpu_loss_unit(void *stream, const float *x, int rows, int dim, float *unit,
                float *norm)
{
    LAUNCH(unit_rows, stream, 32ll * rows, x, dim, rows, unit, norm);
}

void gpu_loss_through_unit(void *stream, const float *x, const float *norm,
                        const float *d, int rows, int dim, float share,
                        bool more, float *out)
{
    LAUNCH(through_unit, stream, 32ll * rows, x, norm, d, dim, rows, share,
           more, out);
}

void gpu_loss_share(void *stream, const float *d, long long n, float share,
                 bool more, float *out)
{
    LAUNCH(add_share, stream, n, d, n, share, more, out);
}

size_t gpu_loss_arcface_room(const struct gpu_arcface *a, int n)
{
    return (size_t)n * (size_t)(cut_classes(a).parts + 1) * sizeof(struct peak);
}

void gpu_loss_arcface(void *stream, const struct gpu_arcface *a,
                   const int32_t *label, int n, int labelled, float *cosine,
                   double *loss, void *room)
{
    struct cuts cut = cut_classes(a);
    struct peak *whole = (struct peak *)room, *peaks = whole + n;
    long long all = (long long)n * a->classes;
    double factor = labelled ? a->scale / labelled : 0;

    LAUNCH(arcface_parts, stream, 32 * n * cut.parts, *a, cosine, label, cut,
           n * cut.parts, peaks);
    LAUNCH(arcface_rows, stream, 32ll * n, *a, cosine, label, cut.parts, peaks,
           n, whole, loss);
    LAUNCH(arcface_dcosine, stream, all, *a, label, whole, factor, all, cosine);
}

void gpu_loss_cosine(void *stream, const float *teacher, int n, int dim,
                  double weight, float *p, double *loss)
{
    LAUNCH(cosine_rows, stream, 32ll * n, teacher, dim, n, weight, p, loss);
}

void gpu_loss_similarity(void *stream, const float *there, int n, double weight,
                      float *here, double *loss)
{
    double pairs = fmax((double)n * (n - 1), 1.0);

    LAUNCH(similarity_rows, stream, 32ll * n, there, n, pairs, weight, here,
           loss);
}

size_t gpu_loss_standard_room(int rows, int columns)
{
    return (size_t)columns *
           ((size_t)cut_rows(rows, columns).parts * 2 * sizeof(double) +
            sizeof(struct standard));
}

void gpu_loss_standard(void *stream, int rows, int columns, bool deviation,
                    float *x, void *room)
{
    struct cuts cut = cut_rows(rows, columns);
    struct standard *by = (struct standard *)room;
    double *sums = (double *)(by + columns);
    long long n = cut.parts * columns, all = (long long)rows * columns;

    LAUNCH(column_parts, stream, n, x, columns, cut, n, sums);
    LAUNCH(column_standards, stream, 32ll * columns, sums, cut.parts, columns,
           rows, deviation, by);
    LAUNCH(standardise, stream, all, by, columns, all, x);
}

int gpu_loss_off_parts(long long n)
{
    return (int)cut_off(n).parts;
}

void gpu_loss_off(void *stream, const float *wanted, long long n, double factor,
               float *said, double *loss)
{
    struct cuts cut = cut_off(n);

    LAUNCH(off_parts, stream, 32 * cut.parts, wanted, cut, factor, said, loss);
}
