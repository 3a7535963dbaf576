/* JPEG by libturbojpeg, both ways. */
#include <stdlib.h>
#include <string.h>

#include <turbojpeg.h>

#include "model/vision/codec.h"

/* A coded block of 8x8 pixels takes at least one bit, so a file of len bytes
 * that claims more pixels than this has them not, and its memory is not worth
 * taking. */
#define PIXELS_PER_BYTE 512

/* The subsampling need not be one that the library has a name for: it says so
 * after everything else is known, and decodes such files. */
static enum ut_err read_header(tjhandle tj, const uint8_t *bytes, size_t len,
                               int *width, int *height, struct ut_error *e)
{
    int subsampling = 0, colours = -1;
    enum ut_err rc;

    *width = *height = 0;
    if (tjDecompressHeader3(tj, bytes, len, width, height, &subsampling,
                            &colours) &&
        (subsampling >= 0 || colours < 0 || *width < 1 || *height < 1))
        return ut_fail(e, UT_EFORMAT, "the JPEG cannot be read: %s",
                       tjGetErrorStr2(tj));
    if (colours == TJCS_CMYK || colours == TJCS_YCCK)
        return ut_fail(e, UT_EFORMAT, "the JPEG is %s; send it as RGB or grey",
                       colours == TJCS_CMYK ? "CMYK" : "YCCK");
    rc = mdl_image_check_size((uint32_t)*width, (uint32_t)*height, e);
    if (rc)
        return rc;
    if ((uint64_t)*width * (uint64_t)*height > (uint64_t)len * PIXELS_PER_BYTE)
        return ut_fail(e, UT_EFORMAT,
                       "the JPEG is truncated: %zu bytes cannot hold %dx%d",
                       len, *width, *height);
    return UT_OK;
}

/* Only the halvings: they have fast paths in the library, the eighths between
 * them do not, and whoever wants an exact size resizes anyway. */
static tjscalingfactor choose_scale(int width, int height, int max_side_px)
{
    int side = width > height ? width : height;
    tjscalingfactor f = {1, 1};

    while (max_side_px > 0 && f.denom < 8 &&
           (side + f.denom * 2 - 1) / (f.denom * 2) >= max_side_px)
        f.denom *= 2;
    return f;
}

enum ut_err mdl_jpeg_decode(const uint8_t *bytes, size_t len, int max_side_px,
                            struct mdl_image *out, struct ut_error *e)
{
    struct mdl_image im = {0};
    tjscalingfactor scale;
    enum ut_err rc;
    tjhandle tj = tjInitDecompress();

    *out = im;
    if (!tj)
        return ut_fail(e, UT_ENOMEM, "no memory for the JPEG decoder");
    rc = read_header(tj, bytes, len, &im.full_width, &im.full_height, e);
    if (rc)
        goto out;
    scale = choose_scale(im.full_width, im.full_height, max_side_px);
    im.width = TJSCALED(im.full_width, scale);
    im.height = TJSCALED(im.full_height, scale);
    im.rgb = malloc((size_t)im.width * im.height * 3);
    if (!im.rgb) {
        rc = ut_fail(e, UT_ENOMEM, "no memory for a picture of %dx%d", im.width,
                     im.height);
        goto out;
    }
    /* A warning is data that is missing or damaged: half a frame would be
     * judged as if it were whole, so it is an error to us. */
    if (tjDecompress2(tj, bytes, len, im.rgb, im.width, 0, im.height, TJPF_RGB,
                      TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS)) {
        rc = ut_fail(e, UT_EFORMAT, "the JPEG is truncated or damaged: %s",
                     tjGetErrorStr2(tj));
        goto out;
    }
    *out = im;
    im.rgb = NULL;
out:
    free(im.rgb);
    tjDestroy(tj);
    return rc;
}

enum ut_err mdl_image_encode_jpeg(const uint8_t *rgb, int width, int height,
                                  int quality, uint8_t **bytes, size_t *len,
                                  struct ut_error *e)
{
    unsigned char *made = NULL;
    unsigned long n = 0;
    enum ut_err rc = UT_OK;
    tjhandle tj;

    *bytes = NULL;
    *len = 0;
    rc = width < 1 || height < 1
             ? ut_fail(e, UT_EINVAL, "a picture of %dx%d", width, height)
             : mdl_image_check_size((uint32_t)width, (uint32_t)height, e);
    if (rc)
        return rc;
    if (quality < 1 || quality > 100)
        return ut_fail(e, UT_EINVAL, "JPEG quality %d is not in 1..100",
                       quality);
    tj = tjInitCompress();
    if (!tj)
        return ut_fail(e, UT_ENOMEM, "no memory for the JPEG encoder");
    if (tjCompress2(tj, rgb, width, 0, height, TJPF_RGB, &made, &n,
                    quality >= 90 ? TJSAMP_444 : TJSAMP_420, quality, 0)) {
        rc = ut_fail(e, UT_ENOMEM, "JPEG: %s", tjGetErrorStr2(tj));
        goto out;
    }
    /* The library's memory has its own free(); callers have the C one. */
    *bytes = malloc(n);
    if (!*bytes) {
        rc = ut_fail(e, UT_ENOMEM, "no memory for a JPEG of %lu bytes", n);
        goto out;
    }
    memcpy(*bytes, made, n);
    *len = n;
out:
    tjFree(made);
    tjDestroy(tj);
    return rc;
}
