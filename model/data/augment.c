/* Random views of an aligned face. */
#include "model/data/augment.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "model/vision/image.h"

const struct mdl_augment mdl_augment_default = {
    .flip = 0.5f,
    .shift = 0.04f,
    .zoom = 0.06f,
    .turn = 6,
    .light = 0.25f,
    .night = 0.1f,
    .grey = 0.15f,
    .blur = 0.1f,
    .noise = 4,
    .jpeg = 0.15f,
    .occlude = 0.1f,
};

/* splitmix64 (Steele, Lea, Flood 2014). */
double mdl_uniform(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static double either(uint64_t *seed, double size)
{
    return (2 * mdl_uniform(seed) - 1) * size;
}

static uint8_t clamp(double v)
{
    return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)(v + 0.5);
}

/* out(x, y) = rgb(m (x, y)), bilinear, edges repeated. */
static void warp(const uint8_t *rgb, int side, const double m[6], uint8_t *out)
{
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++) {
            double u = m[0] * x + m[1] * y + m[2];
            double v = m[3] * x + m[4] * y + m[5];
            int x0, y0, x1, y1;
            float fx, fy;

            u = u < 0 ? 0 : u > side - 1 ? side - 1 : u;
            v = v < 0 ? 0 : v > side - 1 ? side - 1 : v;
            x0 = (int)u;
            y0 = (int)v;
            x1 = x0 + 1 < side ? x0 + 1 : x0;
            y1 = y0 + 1 < side ? y0 + 1 : y0;
            fx = (float)(u - x0);
            fy = (float)(v - y0);
            for (int c = 0; c < 3; c++) {
                float top = rgb[(y0 * side + x0) * 3 + c] * (1 - fx) +
                            rgb[(y0 * side + x1) * 3 + c] * fx;
                float low = rgb[(y1 * side + x0) * 3 + c] * (1 - fx) +
                            rgb[(y1 * side + x1) * 3 + c] * fx;

                out[(y * side + x) * 3 + c] =
                    (uint8_t)(top * (1 - fy) + low * fy + 0.5f);
            }
        }
}

static void place(const struct mdl_augment *a, const uint8_t *rgb, int side,
                  uint64_t *seed, uint8_t *out)
{
    double middle = (side - 1) / 2.0;
    double turn = either(seed, a->turn) * 3.14159265358979 / 180;
    double zoom = 1 + either(seed, a->zoom);
    double dx = either(seed, a->shift) * side,
           dy = either(seed, a->shift) * side;
    double mirror = mdl_uniform(seed) < a->flip ? -1 : 1;
    double c = cos(turn) / zoom, s = sin(turn) / zoom;
    double m[6] = {c * mirror, -s, 0, s * mirror, c, 0};

    m[2] = middle + dx - m[0] * middle - m[1] * middle;
    m[5] = middle + dy - m[3] * middle - m[4] * middle;
    warp(rgb, side, m, out);
}

/* A 3x3 mean, in place, by rows that are still whole. */
static void blur(uint8_t *rgb, int side)
{
    uint8_t above[3 * 512], row[3 * 512];

    if (side > 512)
        return;
    memcpy(above, rgb, (size_t)side * 3);
    for (int y = 1; y + 1 < side; y++) {
        uint8_t *at = rgb + (size_t)y * (size_t)side * 3;

        memcpy(row, at, (size_t)side * 3);
        for (int i = 3; i < 3 * side - 3; i++)
            at[i] =
                (uint8_t)((above[i - 3] + above[i] + above[i + 3] + row[i - 3] +
                           row[i] + row[i + 3] + at[3 * side + i - 3] +
                           at[3 * side + i] + at[3 * side + i + 3]) /
                          9);
        memcpy(above, row, (size_t)side * 3);
    }
}

static void light(const struct mdl_augment *a, uint8_t *rgb, int side,
                  uint64_t *seed)
{
    double gain = 1 + either(seed, a->light), offset = either(seed, a->light);
    bool grey = mdl_uniform(seed) < a->grey;
    double noise = a->noise * mdl_uniform(seed);

    if (mdl_uniform(seed) < a->night)
        gain *= 0.15 + 0.4 * mdl_uniform(seed);
    for (int i = 0; i < side * side; i++) {
        uint8_t *p = rgb + 3 * i;
        /* Near enough to a normal deviate: three uniforms. */
        double n =
            noise * (either(seed, 1) + either(seed, 1) + either(seed, 1));

        if (grey)
            p[0] = p[1] = p[2] =
                (uint8_t)(0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]);
        for (int c = 0; c < 3; c++)
            p[c] = clamp((p[c] - 128 + 128 * offset) * gain +
                         128 * fmin(gain, 1) + n);
    }
}

/* A box of one colour: sunglasses or a cap over the eyes, a mask, hand or
 * scarf over the mouth, or something anywhere. The rows are those of an aligned
 * face (eyes at 0.46, mouth at 0.82 of the side). */
static void occlude(uint8_t *rgb, int side, uint64_t *seed)
{
    static const double rows[][2] = {{0.3, 0.56}, {0.62, 1}};
    int which = (int)(3 * mdl_uniform(seed));
    double wide = which < 2 ? 0.5 : 0.2, high = which < 2 ? 0.15 : 0.1;
    int w = (int)(side * (wide + 0.4 * mdl_uniform(seed)));
    int h = (int)(side * (high + 0.2 * mdl_uniform(seed)));
    double from = which < 2 ? rows[which][0] * side : 0;
    double to = (which < 2 ? rows[which][1] * side : side) - h;
    int x = (int)((side - w) * mdl_uniform(seed));
    int y = (int)(from + fmax(to - from, 0) * mdl_uniform(seed));
    uint8_t colour[3];

    for (int c = 0; c < 3; c++)
        colour[c] = (uint8_t)(255 * mdl_uniform(seed));
    for (int i = y; i < y + h && i < side; i++)
        for (int j = x; j < x + w; j++)
            memcpy(rgb + 3 * (i * side + j), colour, 3);
}

/* Encoded and decoded; where that fails, as it was. */
static void compress(uint8_t *rgb, int side, int quality)
{
    struct mdl_image im = {0};
    struct ut_error e;
    uint8_t *bytes;
    size_t len;

    if (mdl_image_encode_jpeg(rgb, side, side, quality, &bytes, &len, &e))
        return;
    if (!mdl_image_decode(bytes, len, 0, &im, &e))
        memcpy(rgb, im.rgb, (size_t)side * (size_t)side * 3);
    mdl_image_fini(&im);
    free(bytes);
}

void mdl_augment_look(const struct mdl_augment *a, int side, uint64_t *seed,
                      uint8_t *rgb)
{
    if (mdl_uniform(seed) < a->blur)
        blur(rgb, side);
    light(a, rgb, side, seed);
    if (mdl_uniform(seed) < a->occlude)
        occlude(rgb, side, seed);
    if (mdl_uniform(seed) < a->jpeg)
        compress(rgb, side, 20 + (int)(60 * mdl_uniform(seed)));
}

void mdl_augment(const struct mdl_augment *a, const uint8_t *rgb, int side,
                 uint64_t *seed, uint8_t *out)
{
    place(a, rgb, side, seed, out);
    mdl_augment_look(a, side, seed, out);
}

static void mix_box(const uint8_t *other, int side, uint64_t *seed,
                    uint8_t *rgb)
{
    int w = (int)(side * (0.2 + 0.5 * mdl_uniform(seed)));
    int h = (int)(side * (0.2 + 0.5 * mdl_uniform(seed)));
    int x = (int)((side - w) * mdl_uniform(seed));
    int y = (int)((side - h) * mdl_uniform(seed));

    for (int i = y; i < y + h; i++)
        memcpy(rgb + 3 * (i * side + x), other + 3 * (i * side + x),
               3 * (size_t)w);
}

void mdl_mix(const uint8_t *other, int side, uint64_t *seed, uint8_t *rgb)
{
    int share = (int)(128 * mdl_uniform(seed));

    if (mdl_uniform(seed) < 0.5) {
        mix_box(other, side, seed, rgb);
        return;
    }
    for (int i = 0; i < 3 * side * side; i++)
        rgb[i] = (uint8_t)((rgb[i] * (256 - share) + other[i] * share) >> 8);
}
