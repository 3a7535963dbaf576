/* Faces to the ArcFace template.
 *
 *   landmarks [5,2] -> similarity (least squares) -> [112,112,3] */
#include <math.h>

#include "model/vision/face.h"

/* Where the landmarks lie in a crop of 112x112, pixel centres at whole
 * numbers. Source: ArcFace (Deng et al. 2019); every public recognition model
 * and data set of this crop uses these. */
const float mdl_face_template[5][2] = {
    {38.2946f, 51.6963f}, {73.5318f, 51.5014f}, {56.0252f, 71.7366f},
    {41.5493f, 92.3655f}, {70.7299f, 92.2041f},
};

/* A picture's side in crop pixels past which landmarks are nonsense. */
#define MIN_SCALE 1e-3

/* Umeyama's estimate in the plane has a closed form: with both point sets
 * centred, a = sum(p . q) / sum(p . p), b = sum(p x q) / sum(p . p). Having
 * no reflection in it, it needs no sign fix either. */
enum ut_err mdl_face_similarity(const float from[5][2], const float to[5][2],
                                struct mdl_similarity *out, struct ut_error *e)
{
    double pm[2] = {0}, qm[2] = {0}, dot = 0, cross = 0, norm = 0;

    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 2; k++) {
            pm[k] += from[i][k] / 5.0;
            qm[k] += to[i][k] / 5.0;
        }
    for (int i = 0; i < 5; i++) {
        double px = from[i][0] - pm[0], py = from[i][1] - pm[1];
        double qx = to[i][0] - qm[0], qy = to[i][1] - qm[1];

        dot += px * qx + py * qy;
        cross += px * qy - py * qx;
        norm += px * px + py * py;
    }
    /* Written so that NaN fails too. */
    if (!(norm > 1e-6) || !(hypot(dot, cross) / norm > MIN_SCALE) ||
        !isfinite(dot) || !isfinite(cross) || !isfinite(norm))
        return ut_fail(e, UT_EINVAL,
                       "the face's landmarks give no alignment: they are all "
                       "in one place, or not numbers");
    out->a = dot / norm;
    out->b = cross / norm;
    out->tx = qm[0] - (out->a * pm[0] - out->b * pm[1]);
    out->ty = qm[1] - (out->b * pm[0] + out->a * pm[1]);
    return UT_OK;
}

/* Adds the bilinear sample at (x, y), black outside, to sum. */
static void sample(const struct mdl_image *im, double x, double y, float weight,
                   float sum[3])
{
    int x0, y0;
    float fx, fy;

    if (!(x > -1 && y > -1 && x < im->width && y < im->height))
        return;
    x0 = (int)floor(x), y0 = (int)floor(y);
    fx = (float)(x - x0), fy = (float)(y - y0);
    for (int k = 0; k < 4; k++) {
        int u = x0 + (k & 1), v = y0 + (k >> 1);
        float w = (k & 1 ? fx : 1 - fx) * (k >> 1 ? fy : 1 - fy) * weight;
        const uint8_t *p;

        if (u < 0 || v < 0 || u >= im->width || v >= im->height)
            continue;
        p = im->rgb + 3 * ((size_t)v * (size_t)im->width + (size_t)u);
        for (int c = 0; c < 3; c++)
            sum[c] += w * p[c];
    }
}

/* Past this many the crop is a thumbnail of a wall-sized face. */
#define MAX_TAPS 16

static void warp(const struct mdl_image *im, const struct mdl_similarity *t,
                 uint8_t *out)
{
    double s2 = t->a * t->a + t->b * t->b;
    /* Crop pixel to picture pixel is the inverse, [a b; -b a] / s2. */
    double ia = t->a / s2, ib = -t->b / s2, shrink = 1 / sqrt(s2);
    int taps = shrink <= 2 ? 1 : (int)ceil(shrink);
    float weight;

    taps = taps > MAX_TAPS ? MAX_TAPS : taps;
    weight = 1.0f / (float)(taps * taps);
    for (int y = 0; y < MDL_FACE_SIDE_PX; y++)
        for (int x = 0; x < MDL_FACE_SIDE_PX; x++) {
            float sum[3] = {0.5f, 0.5f, 0.5f};

            for (int k = 0; k < taps * taps; k++) {
                double dx = x + (k % taps + 0.5) / taps - 0.5 - t->tx;
                double dy = y + (k / taps + 0.5) / taps - 0.5 - t->ty;

                sample(im, ia * dx - ib * dy, ib * dx + ia * dy, weight, sum);
            }
            for (int c = 0; c < 3; c++)
                *out++ = (uint8_t)(sum[c] > 255 ? 255 : sum[c]);
        }
}

enum ut_err mdl_face_align(const struct mdl_image *im,
                           const struct mdl_face *face, uint8_t *out,
                           struct ut_error *e)
{
    double sx = (double)im->width / im->full_width;
    double sy = (double)im->height / im->full_height;
    float points[5][2];
    struct mdl_similarity t;
    enum ut_err rc;

    for (int i = 0; i < 5; i++) {
        points[i][0] = (float)((face->landmark[i][0] + 0.5) * sx - 0.5);
        points[i][1] = (float)((face->landmark[i][1] + 0.5) * sy - 0.5);
    }
    rc = mdl_face_similarity(points, mdl_face_template, &t, e);
    if (rc)
        return rc;
    warp(im, &t, out);
    return UT_OK;
}

enum ut_err mdl_face_crop(const struct mdl_image *im, uint8_t *out,
                          struct ut_error *e)
{
    int lo = im->width < im->height ? im->width : im->height;
    int hi = im->width < im->height ? im->height : im->width;

    if (lo < MDL_FACE_CROP_MIN_PX)
        return ut_fail(e, UT_EINVAL,
                       "the crop is %dx%d; at least %d px a side are needed",
                       im->width, im->height, MDL_FACE_CROP_MIN_PX);
    if ((int64_t)hi * 10 > (int64_t)lo * 11)
        return ut_fail(e, UT_EINVAL,
                       "the crop is %dx%d; an aligned face is square (within "
                       "10 %%); send whole frames as input=frame",
                       im->width, im->height);
    mdl_image_resize(im, MDL_FACE_SIDE_PX, MDL_FACE_SIDE_PX, out);
    return UT_OK;
}
