/* The hint's loss: three products over rows of places. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/panel.h"
#include "model/train/loss.h"

/* Sizes: m places of the whole batch, c channels here, t there. */
struct work {
    float *x;      /* [m, c]: the pupil's, each channel's mean 0 */
    float *wanted; /* [m, t]: the teacher's, mean 0, deviation 1 */
    float *off;    /* [m, t]: what is said less what is wanted   */
    float *dx;     /* [m, c]                                     */
    float *turned; /* [t, m]                                     */
    float *panels; /* packed for the product at hand             */
};

/* Channels last: map [n, channels, places] to rows [n places, channels]. */
static void to_rows(const float *map, size_t n, size_t channels, size_t places,
                    float *rows)
{
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < channels; c++)
            for (size_t p = 0; p < places; p++)
                rows[(i * places + p) * channels + c] =
                    map[(i * channels + c) * places + p];
}

/* Each column's mean to 0 and, if asked, its deviation to 1. */
static void standardise(float *rows, size_t m, size_t channels, bool deviation)
{
    for (size_t c = 0; c < channels; c++) {
        double sum = 0, squares = 0, mean, scale = 1;

        for (size_t i = 0; i < m; i++) {
            sum += rows[i * channels + c];
            squares += (double)rows[i * channels + c] * rows[i * channels + c];
        }
        mean = sum / (double)m;
        if (deviation)
            scale = 1 / sqrt(fmax(squares / (double)m - mean * mean, 1e-12));
        for (size_t i = 0; i < m; i++)
            rows[i * channels + c] =
                (float)((rows[i * channels + c] - mean) * scale);
    }
}

/* y [n, rows] = x [n, columns] W^T; W's element (r, c) lies at
 * w[r * by_row + c * by_column]. */
static void product(float *panels, const float *w, size_t by_row,
                    size_t by_column, size_t rows, size_t columns,
                    const float *x, size_t n, float *y)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++)
            panels[mdl_panel_at(false, columns, r, c)] =
                w[r * by_row + c * by_column];
    memset(y, 0, n * rows * sizeof(*y));
    mdl_panel_product(false, panels, rows, columns, x, columns, (int)n, y);
}

static bool allocate(struct work *s, size_t m, size_t c, size_t t)
{
    size_t panels = mdl_panel_count(c, m);

    if (mdl_panel_count(t, c) > panels)
        panels = mdl_panel_count(t, c);
    if (mdl_panel_count(c, t) > panels)
        panels = mdl_panel_count(c, t);
    panels = (panels * sizeof(float) + 63) / 64 * 64;
    s->x = malloc(m * c * sizeof(float));
    s->dx = malloc(m * c * sizeof(float));
    s->wanted = malloc(m * t * sizeof(float));
    s->off = malloc(m * t * sizeof(float));
    s->turned = malloc(m * t * sizeof(float));
    s->panels = aligned_alloc(64, panels);
    if (!s->x || !s->dx || !s->wanted || !s->off || !s->turned || !s->panels)
        return false;
    memset(s->panels, 0, panels);
    return true;
}

static void release(struct work *s)
{
    free(s->x);
    free(s->dx);
    free(s->wanted);
    free(s->off);
    free(s->turned);
    free(s->panels);
}

enum ut_err mdl_loss_hint(const struct mdl_hint *h, const float *map,
                          const float *projection, const float *teacher, int n,
                          double *loss, float *dmap, float *dprojection,
                          struct ut_error *e)
{
    size_t images = (size_t)n, places = (size_t)h->places, m = images * places;
    size_t c = (size_t)h->channels, t = (size_t)h->teacher_channels;
    double sum = 0, each = 1 / (double)(m * t);
    struct work s = {0};

    *loss = 0;
    if (!allocate(&s, m, c, t)) {
        release(&s);
        return ut_fail(e, UT_ENOMEM, "no memory for a hint");
    }
    to_rows(map, images, c, places, s.x);
    to_rows(teacher, images, t, places, s.wanted);
    standardise(s.x, m, c, false);
    standardise(s.wanted, m, t, true);
    product(s.panels, projection, c, 1, t, c, s.x, m, s.off);
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < t; k++) {
            float off = s.off[i * t + k] - s.wanted[i * t + k];

            sum += (double)off * off;
            s.off[i * t + k] = s.turned[k * m + i] =
                (float)(2 * off * each * h->weight);
        }
    *loss = h->weight * sum * each;
    product(s.panels, projection, 1, c, c, t, s.off, m, s.dx);
    standardise(s.dx, m, c, false); /* through x's mean */
    for (size_t i = 0; i < images; i++)
        for (size_t k = 0; k < c; k++)
            for (size_t p = 0; p < places; p++)
                dmap[(i * c + k) * places + p] = s.dx[(i * places + p) * c + k];
    product(s.panels, s.x, 1, c, c, m, s.turned, t, dprojection);
    release(&s);
    return UT_OK;
}
