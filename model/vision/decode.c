/* From bytes to an upright RGB picture.
 *
 *   bytes -> sniff -> jpeg.c or png.c (limits, then pixels [H,W,3])
 *         -> turned by EXIF (JPEG) -> [H',W',3] */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "model/vision/codec.h"

enum ut_err mdl_image_check_size(uint32_t width, uint32_t height,
                                 struct ut_error *e)
{
    if (width == 0 || height == 0)
        return ut_fail(e, UT_EFORMAT, "the picture is empty: %ux%u", width,
                       height);
    if (width > MDL_IMAGE_MAX_SIDE_PX || height > MDL_IMAGE_MAX_SIDE_PX)
        return ut_fail(e, UT_EINVAL,
                       "the picture is %ux%u; a side may be at most %d px",
                       width, height, MDL_IMAGE_MAX_SIDE_PX);
    if ((uint64_t)width * height > MDL_IMAGE_MAX_PIXELS)
        return ut_fail(e, UT_EINVAL,
                       "the picture is %ux%u; at most %d pixels are taken",
                       width, height, MDL_IMAGE_MAX_PIXELS);
    return UT_OK;
}

/* Where the stored pixel (x, y) goes under each EXIF orientation: the first
 * stored pixel's place and the steps, in pixels, per stored column and row. */
static void turn_pixels(const struct mdl_image *in, int turn, uint8_t *out)
{
    ptrdiff_t w = in->width, h = in->height;
    ptrdiff_t start = 0, dx = 1, dy = w;
    const uint8_t *p = in->rgb;

    switch (turn) {
    case 2: /* mirrored left to right */
        start = w - 1, dx = -1, dy = w;
        break;
    case 3: /* upside down */
        start = w * h - 1, dx = -1, dy = -w;
        break;
    case 4: /* mirrored top to bottom */
        start = w * (h - 1), dx = 1, dy = -w;
        break;
    case 5: /* transposed; from here on rows are h long */
        start = 0, dx = h, dy = 1;
        break;
    case 6: /* to be turned clockwise */
        start = h - 1, dx = h, dy = -1;
        break;
    case 7: /* transposed over the other diagonal */
        start = w * h - 1, dx = -h, dy = -1;
        break;
    case 8: /* to be turned anticlockwise */
        start = h * (w - 1), dx = -h, dy = 1;
        break;
    }
    for (ptrdiff_t y = 0; y < h; y++)
        for (ptrdiff_t x = 0; x < w; x++, p += 3)
            memcpy(out + 3 * (start + x * dx + y * dy), p, 3);
}

static enum ut_err make_upright(struct mdl_image *im, int turn,
                                struct ut_error *e)
{
    uint8_t *rgb;
    int side;

    if (turn == 1)
        return UT_OK;
    rgb = malloc((size_t)im->width * im->height * 3);
    if (!rgb)
        return ut_fail(e, UT_ENOMEM, "no memory to turn a picture of %dx%d",
                       im->width, im->height);
    turn_pixels(im, turn, rgb);
    free(im->rgb);
    im->rgb = rgb;
    if (turn >= 5) {
        side = im->width, im->width = im->height, im->height = side;
        side = im->full_width, im->full_width = im->full_height;
        im->full_height = side;
    }
    return UT_OK;
}

enum ut_err mdl_image_decode(const void *bytes, size_t len, int max_side_px,
                             struct mdl_image *out, struct ut_error *e)
{
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    static const uint8_t jpeg[3] = {0xff, 0xd8, 0xff};
    struct mdl_image im = {0};
    enum ut_err rc;

    *out = (struct mdl_image){0};
    if (len > MDL_IMAGE_MAX_BYTES)
        return ut_fail(e, UT_EINVAL,
                       "the picture has %zu bytes; at most %u are taken", len,
                       MDL_IMAGE_MAX_BYTES);
    if (len >= sizeof(jpeg) && !memcmp(bytes, jpeg, sizeof(jpeg))) {
        rc = mdl_jpeg_decode(bytes, len, max_side_px, &im, e);
        if (!rc)
            rc = make_upright(&im, mdl_exif_orientation(bytes, len), e);
    } else if (len >= sizeof(png) && !memcmp(bytes, png, sizeof(png))) {
        rc = mdl_png_decode(bytes, len, &im, e);
    } else {
        rc = ut_fail(e, UT_EFORMAT,
                     "the picture is neither JPEG nor PNG, by its first bytes");
    }
    if (rc) {
        mdl_image_fini(&im);
        return rc;
    }
    *out = im;
    return UT_OK;
}

enum ut_err mdl_image_open(const char *path, int max_side_px,
                           struct mdl_image *out, struct ut_error *e)
{
    struct ut_error why;
    struct ut_buf file;
    enum ut_err rc;

    *out = (struct mdl_image){0};
    ut_buf_init(&file, MDL_IMAGE_MAX_BYTES);
    rc = ut_buf_add_file(&file, path, e);
    if (!rc) {
        rc = mdl_image_decode(file.data, file.len, max_side_px, out, &why);
        if (rc)
            ut_fail(e, rc, "%.90s: %.120s", path, why.msg);
    }
    ut_buf_fini(&file);
    return rc;
}

void mdl_image_fini(struct mdl_image *im)
{
    free(im->rgb);
    *im = (struct mdl_image){0};
}
