/* A device's copy of the rows in half precision, and why what it says is
 * enough.
 *
 * Of a query q and a row v, the device has the halves q' and v' and computes a
 * product p'; the processor computes p from q and v. With |.| the norm,
 *
 *   q v - q' v'      at most |q - q'| |v| + |q'| |v - v'|   (Cauchy-Schwarz)
 *   p' from q' v'    dim products, exact in float32, added up in any order; an
 *                    addition is off by at most 2^-23 of what it adds (a
 *                    tensor core cuts, and also what it aligns), twice over:
 *                    dim 2^-22 |q'| |v'|
 *   p from q v       dim additions and products, rounded: dim 2^-23 |q| |v|
 *
 * The norms are measured: of each query, and the largest of all rows that were
 * ever copied. Their sum is how far p may be from p'. The device tells panels
 * from the best p' down. As soon as the next is that far below the least p
 * that the caller still has a use for, so are all that were not told. Where
 * that does not happen soon (many rows equally near, a number that half
 * precision has not), the processor looks at all rows, as without a device.
 */
#include "model/search_device.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <immintrin.h>

#define MAX_SEEKERS 8  /* at work at once; the processor has the others */
#define MAX_FAILURES 3 /* one after the other, then the device is given up */
#define PUT_PANELS (MDL_INDEX_PUT / MDL_PANEL_ROWS)
/* The processor is quicker with all rows than with more than this part of
 * them, panel by panel. */
#define PART 8
/* Norms of rows are sums of float32 squares, off by less than that factor and,
 * where squares are too small to be numbers, by that much for each. */
#define SLACK 1.001f
#define TINY 0x1p-73f

struct seeker {
    void *ctx;         /* owned; the index's */
    uint16_t *queries; /* owned; [MDL_INDEX_QUERIES, dim] */
    struct mdl_near near[MDL_INDEX_QUERIES][MDL_INDEX_NEAR];
};

struct norms {
    float row, half, apart; /* |v|, |v'|, |v - v'|, at most */
};

struct search_device {
    struct mdl_index index;
    int number, dim;
    size_t max_rows;
    mdl_search_remark_fn remark;
    void *arg;
    uint16_t *staged;     /* owned; [MDL_INDEX_PUT, dim] */
    pthread_mutex_t lock; /* guards all that follows, and staged */
    uint64_t *touched;    /* owned; a bit for each panel    */
    bool any;             /* one of them is set             */
    size_t panels;        /* that the index has             */
    bool lost;            /* what is there may be gone      */
    bool off;             /* given up                       */
    int failures, load;
    struct norms norms;
    struct seeker *idle[MAX_SEEKERS]; /* owned */
    int n_idle;
};

static size_t n_words(const struct search_device *d)
{
    return d->max_rows / MDL_PANEL_ROWS / 64 + 1;
}

enum ut_err search_device_new(struct mdl_backend *b, int number, int dim,
                              size_t max_rows, mdl_search_remark_fn remark,
                              void *arg, struct search_device **out,
                              struct ut_error *e)
{
    struct search_device *d = calloc(1, sizeof(*d));
    struct mdl_device_stats stats;
    char line[256];
    double need = (double)max_rows * dim * 2;
    enum ut_err rc;

    *out = NULL;
    if (!d)
        return ut_fail(e, UT_ENOMEM, "no memory for a search");
    rc = mdl_index_open(b, dim, &d->index, e);
    if (rc || !d->index.ops) {
        free(d);
        return rc;
    }
    d->number = number;
    d->dim = dim;
    d->max_rows = max_rows;
    d->remark = remark;
    d->arg = arg;
    pthread_mutex_init(&d->lock, NULL);
    d->touched = calloc(n_words(d), sizeof(*d->touched));
    d->staged = malloc(MDL_INDEX_PUT * (size_t)dim * sizeof(*d->staged));
    if (!d->touched || !d->staged) {
        search_device_free(d);
        return ut_fail(e, UT_ENOMEM, "no memory to search %zu rows on a device",
                       max_rows);
    }
    if (mdl_backend_stats(b, &stats) && stats.memory_total &&
        need > (double)stats.memory_total) {
        snprintf(line, sizeof(line),
                 "%zu faces, the limit, are %.0f MiB in half precision, and "
                 "device %d has %llu: past what fits the processor searches",
                 max_rows, need / (1 << 20), number,
                 (unsigned long long)stats.memory_total >> 20);
        remark(arg, line);
    }
    *out = d;
    return UT_OK;
}

static void seeker_free(struct search_device *d, struct seeker *s)
{
    if (s->ctx)
        d->index.ops->seeker_free(s->ctx);
    free(s->queries);
    free(s);
}

static enum ut_err seeker_new(struct search_device *d, struct seeker **out,
                              struct ut_error *e)
{
    struct seeker *s = calloc(1, sizeof(*s));
    enum ut_err rc;

    if (s)
        s->queries =
            malloc(MDL_INDEX_QUERIES * (size_t)d->dim * sizeof(*s->queries));
    rc = s && s->queries ? d->index.ops->seeker_new(d->index.ctx, &s->ctx, e)
                         : ut_fail(e, UT_ENOMEM, "no memory for a search");
    if (!rc) {
        *out = s;
        return UT_OK;
    }
    if (s)
        seeker_free(d, s);
    return rc;
}

/* Gives the device's memory back; nobody seeks. */
static void forget(struct search_device *d)
{
    while (d->n_idle)
        seeker_free(d, d->idle[--d->n_idle]);
    d->index.ops->clear(d->index.ctx);
    d->panels = 0;
    d->lost = true;
}

void search_device_free(struct search_device *d)
{
    if (!d)
        return;
    forget(d);
    d->index.ops->close(d->index.ctx);
    pthread_mutex_destroy(&d->lock);
    free(d->touched);
    free(d->staged);
    free(d);
}

/* An error of the device, under the lock; one that is given up keeps none of
 * its memory. */
static void failed(struct search_device *d, size_t rows, enum ut_err rc,
                   const struct ut_error *why)
{
    char line[400];

    if (d->off || (d->lost && rc == UT_EDEVICE)) /* said by another */
        return;
    d->lost |= rc == UT_EDEVICE;
    d->off = rc == UT_ENOMEM || ++d->failures >= MAX_FAILURES;
    if (rc == UT_ENOMEM)
        snprintf(line, sizeof(line),
                 "device %d has no room to search %zu faces (%zu MiB in half "
                 "precision): %.200s; the processor searches",
                 d->number, rows, (rows * (size_t)d->dim * 2) >> 20, why->msg);
    else
        snprintf(line, sizeof(line),
                 "device %d failed to search: %.200s; the processor searches%s",
                 d->number, why->msg, d->off ? " from here" : " meanwhile");
    d->remark(d->arg, line);
    if (d->off && !d->load)
        forget(d);
}

/* ---- the copy ---- */

void search_device_touch(struct search_device *d, size_t row)
{
    size_t panel = row / MDL_PANEL_ROWS;

    d->touched[panel / 64] |= 1ull << panel % 64;
    d->any = true;
}

typedef float row_sums[MDL_PANEL_ROWS];

static __attribute__((target("avx,f16c"))) void
halve_f16c(const float *from, uint16_t *half, float *back)
{
    for (int i = 0; i < MDL_PANEL_ROWS; i += 8) {
        __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(from + i),
                                    _MM_FROUND_TO_NEAREST_INT);

        _mm_storeu_si128((__m128i *)(void *)(half + i), h);
        _mm256_storeu_ps(back + i, _mm256_cvtph_ps(h));
    }
}

static void halve(const float *from, uint16_t *half, float *back)
{
    /* Clang 14 does not know "f16c"; whatever has AVX2 has it. */
    if (__builtin_cpu_supports("avx2")) {
        halve_f16c(from, half, back);
    } else {
        mdl_f32_to_f16(from, half, MDL_PANEL_ROWS);
        mdl_f16_to_f32(half, back, MDL_PANEL_ROWS);
    }
}

/* A NaN stays. */
static float most(float so_far, const row_sums squares, float tiny)
{
    for (int i = 0; i < MDL_PANEL_ROWS; i++) {
        float norm = sqrtf(squares[i]) * SLACK + tiny;

        if (norm > so_far || isnan(norm))
            so_far = norm;
    }
    return so_far;
}

/* A panel's rows as halves, row by row, and their norms. */
static void stage(struct search_device *d, const float *panel, uint16_t *to)
{
    row_sums norm = {0}, half_norm = {0}, apart = {0};
    float tiny = sqrtf((float)d->dim) * TINY;
    uint16_t half[MDL_PANEL_ROWS];
    float back[MDL_PANEL_ROWS];
    size_t dim = (size_t)d->dim;

    for (size_t k = 0; k < dim; k++) {
        const float *from = panel + k * MDL_PANEL_ROWS;

        halve(from, half, back);
        for (size_t i = 0; i < MDL_PANEL_ROWS; i++) {
            float off = from[i] - back[i];

            norm[i] += from[i] * from[i];
            half_norm[i] += back[i] * back[i];
            apart[i] += off * off;
            to[i * dim + k] = half[i];
        }
    }
    d->norms.row = most(d->norms.row, norm, tiny);
    d->norms.half = most(d->norms.half, half_norm, tiny);
    d->norms.apart = most(d->norms.apart, apart, tiny);
}

static bool is_touched(const struct search_device *d, size_t panel)
{
    return d->touched[panel / 64] >> panel % 64 & 1;
}

/* The panels that were touched and follow each other, from the first at or
 * after *panel on: how many, as one put takes. 0: no more. */
static size_t next_run(const struct search_device *d, size_t *panel)
{
    size_t end = n_words(d) * 64, n = 0;

    while (*panel < end && !is_touched(d, *panel))
        *panel = d->touched[*panel / 64] >> *panel % 64
                     ? *panel + 1
                     : (*panel / 64 + 1) * 64;
    while (*panel + n < end && n < PUT_PANELS && is_touched(d, *panel + n))
        n++;
    return n;
}

static void touch_all(struct search_device *d, const struct search_rows *rows)
{
    for (size_t row = 0; row < rows->n; row += MDL_PANEL_ROWS)
        search_device_touch(d, row);
}

/* Under the lock. Where there is something to do, nobody seeks: what was
 * touched since the last search, its writer waited for all of them. */
static bool bring(struct search_device *d, const struct search_rows *rows)
{
    size_t dim = (size_t)d->dim, panel = 0, n;
    struct ut_error e;
    enum ut_err rc = UT_OK;

    if (d->off || (d->lost && d->load))
        return false;
    if (d->lost) {
        forget(d);
        memset(d->touched, 0, n_words(d) * sizeof(*d->touched));
        touch_all(d, rows);
        d->lost = false;
    }
    while (d->any && !rc && (n = next_run(d, &panel))) {
        for (size_t i = 0; i < n; i++) {
            stage(d, search_panel(rows, panel + i),
                  d->staged + i * MDL_PANEL_ROWS * dim);
            d->touched[(panel + i) / 64] &= ~(1ull << (panel + i) % 64);
        }
        rc = d->index.ops->put(d->index.ctx, panel * MDL_PANEL_ROWS,
                               n * MDL_PANEL_ROWS, d->staged, &e);
        panel += n;
        if (!rc && panel > d->panels)
            d->panels = panel;
    }
    if (!rc) {
        d->any = false;
        return true;
    }
    failed(d, rows->n, rc, &e);
    return false;
}

/* Under the lock: so that the next search need not make one. */
static bool have_seeker(struct search_device *d, const struct search_rows *rows)
{
    struct ut_error e;
    enum ut_err rc;

    if (d->n_idle || d->load)
        return true;
    rc = seeker_new(d, &d->idle[0], &e);
    d->n_idle = !rc;
    if (rc)
        failed(d, rows->n, rc, &e);
    return !rc;
}

bool search_device_settle(struct search_device *d,
                          const struct search_rows *rows, bool again)
{
    bool ok;

    pthread_mutex_lock(&d->lock);
    if (again) {
        d->off = false;
        d->failures = 0;
    }
    ok = bring(d, rows) && have_seeker(d, rows);
    pthread_mutex_unlock(&d->lock);
    return ok;
}

void search_device_park(struct search_device *d)
{
    pthread_mutex_lock(&d->lock);
    d->off = true;
    if (!d->load)
        forget(d);
    pthread_mutex_unlock(&d->lock);
}

size_t search_device_bytes(struct search_device *d)
{
    size_t panels;

    pthread_mutex_lock(&d->lock);
    panels = d->panels;
    pthread_mutex_unlock(&d->lock);
    return panels * MDL_PANEL_ROWS * (size_t)d->dim * 2;
}

/* ---- searching ---- */

int search_device_load(struct search_device *d)
{
    int load;

    pthread_mutex_lock(&d->lock);
    load = d->off || d->load == MAX_SEEKERS ? INT_MAX : d->load;
    pthread_mutex_unlock(&d->lock);
    return load;
}

/* A seeker of rows that are all there; NULL: none. */
static struct seeker *enter(struct search_device *d,
                            const struct search_rows *rows, struct norms *norms)
{
    struct seeker *s = NULL;
    struct ut_error e;
    enum ut_err rc;

    pthread_mutex_lock(&d->lock);
    if (d->load < MAX_SEEKERS && bring(d, rows)) {
        *norms = d->norms;
        if (d->n_idle) {
            s = d->idle[--d->n_idle];
        } else {
            rc = seeker_new(d, &s, &e);
            if (rc)
                failed(d, rows->n, rc, &e);
        }
        d->load += s != NULL;
    }
    pthread_mutex_unlock(&d->lock);
    return s;
}

static void leave(struct search_device *d, struct seeker *s, size_t rows,
                  enum ut_err rc, const struct ut_error *e)
{
    pthread_mutex_lock(&d->lock);
    d->load--;
    d->idle[d->n_idle++] = s;
    if (rc)
        failed(d, rows, rc, e);
    else
        d->failures = 0;
    if (d->off && !d->load)
        forget(d);
    pthread_mutex_unlock(&d->lock);
}

/* The query in halves, and how far its products may be from the device's. */
static double halve_query(const float *q, int dim, const struct norms *rows,
                          uint16_t *half)
{
    double norm = 0, half_norm = 0, apart = 0;

    mdl_f32_to_f16(q, half, (size_t)dim);
    for (int k = 0; k < dim; k++) {
        float back;

        mdl_f16_to_f32(&half[k], &back, 1);
        norm += (double)q[k] * q[k];
        half_norm += (double)back * back;
        apart += ((double)q[k] - back) * ((double)q[k] - back);
    }
    norm = sqrt(norm);
    half_norm = sqrt(half_norm);
    return (double)SLACK * (sqrt(apart) * rows->row + half_norm * rows->apart +
                            dim * 0x1p-22 * half_norm * rows->half +
                            dim * 0x1p-23 * norm * rows->row + dim * 0x1p-148);
}

/* Looks where the device says; how many panels it looked at. */
static size_t follow(struct search_call *c, int q, const struct mdl_near *near,
                     double apart)
{
    size_t looked = 0;

    for (int i = 0; i < MDL_INDEX_NEAR && !c->settled[q]; i++)
        if (near[i].panel < 0 || near[i].score + apart < c->least[q])
            c->settled[q] = true;
        else {
            search_tell(c, q, (size_t)near[i].panel);
            looked++;
        }
    return looked;
}

static enum ut_err seek(struct search_device *d, struct seeker *s,
                        struct search_call *c, const double *apart,
                        struct ut_error *e)
{
    size_t looked = 0;
    int open = 0;
    enum ut_err rc =
        d->index.ops->seek(s->ctx, c->rows->n, s->queries, c->n, s->near, e);

    while (!rc) {
        open = 0;
        for (int q = 0; q < c->n; q++)
            if (!c->settled[q] && apart[q] < (double)INFINITY) {
                looked += follow(c, q, s->near[q], apart[q]);
                open += !c->settled[q];
            }
        if (!open || looked * MDL_PANEL_ROWS * PART > c->rows->n)
            return UT_OK;
        rc = d->index.ops->more(s->ctx, c->n, s->near, e);
    }
    return rc;
}

bool search_device_run(struct search_device *d, struct search_call *c)
{
    double apart[MDL_INDEX_QUERIES];
    struct norms norms = {0};
    struct seeker *s = enter(d, c->rows, &norms);
    struct ut_error e;
    enum ut_err rc;

    if (!s)
        return false;
    for (int q = 0; q < c->n; q++)
        apart[q] = halve_query(c->queries[q], d->dim, &norms,
                               s->queries + (size_t)q * (size_t)d->dim);
    rc = seek(d, s, c, apart, &e);
    leave(d, s, c->rows->n, rc, &e);
    return !rc;
}
