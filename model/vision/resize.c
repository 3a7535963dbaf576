/* Resizing: rows first into one row of floats, then columns, so that nothing
 * is allocated.
 *
 *   [H,W,3] u8 -> per output row [W,3] f32 -> [w,3] u8 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "model/vision/image.h"

/* One output place as a weighted run of input places along an axis. */
struct span {
    int first, n;
    float head, body, tail; /* weights: first, between, last; sum 1 */
};

/* Area where the axis shrinks, bilinear with half-pixel centres where it
 * grows. */
static struct span span_of(int i, int n_out, int n_in)
{
    double ratio = (double)n_in / n_out;
    struct span s = {0, 1, 1, 0, 0};

    if (n_out == n_in) {
        s.first = i;
    } else if (n_out < n_in) {
        double lo = i * ratio, hi = (i + 1) * ratio;
        int last = (int)ceil(hi - 1e-9) - 1;

        s.first = (int)floor(lo + 1e-9);
        if (last > n_in - 1)
            last = n_in - 1;
        s.n = last - s.first + 1;
        if (s.n > 1) {
            s.head = (float)((s.first + 1 - lo) / ratio);
            s.body = (float)(1 / ratio);
            s.tail = (float)((hi - last) / ratio);
        }
    } else {
        double at = (i + 0.5) * ratio - 0.5;

        at = at < 0 ? 0 : at > n_in - 1 ? n_in - 1 : at;
        s.first = (int)at;
        s.n = s.first + 1 < n_in ? 2 : 1;
        if (s.n == 2) {
            s.tail = (float)(at - s.first);
            s.head = 1 - s.tail;
        }
    }
    return s;
}

static float weight(const struct span *s, int k)
{
    return k == 0 ? s->head : k == s->n - 1 ? s->tail : s->body;
}

static void mix_rows(const struct mdl_image *im, const struct span *s,
                     float *row)
{
    size_t n = (size_t)im->width * 3;

    memset(row, 0, n * sizeof(*row));
    for (int k = 0; k < s->n; k++) {
        const uint8_t *p = im->rgb + (size_t)(s->first + k) * n;
        float w = weight(s, k);

        for (size_t i = 0; i < n; i++)
            row[i] += w * p[i];
    }
}

void mdl_image_resize(const struct mdl_image *im, int w, int h, uint8_t *out)
{
    float row[MDL_IMAGE_MAX_SIDE_PX * 3]; /* 96 KiB of stack */

    assert(im->width <= MDL_IMAGE_MAX_SIDE_PX && w > 0 && h > 0);
    for (int y = 0; y < h; y++) {
        struct span sy = span_of(y, h, im->height);

        mix_rows(im, &sy, row);
        for (int x = 0; x < w; x++) {
            struct span sx = span_of(x, w, im->width);
            float sum[3] = {0.5f, 0.5f, 0.5f};

            for (int k = 0; k < sx.n; k++) {
                const float *p = row + 3 * (sx.first + k);
                float wt = weight(&sx, k);

                for (int c = 0; c < 3; c++)
                    sum[c] += wt * p[c];
            }
            for (int c = 0; c < 3; c++)
                *out++ = (uint8_t)(sum[c] > 255 ? 255 : sum[c]);
        }
    }
}
