/* PNG by libspng, both ways. */
#include <stdlib.h>
#include <string.h>

#include <spng.h>

#include "model/vision/codec.h"

/* The library allocates by our names, so that tests can refuse it memory. */
static struct spng_alloc allocator(void)
{
    return (struct spng_alloc){malloc, realloc, calloc, free};
}

static enum ut_err fail(struct ut_error *e, int status)
{
    if (status == SPNG_EMEM)
        return ut_fail(e, UT_ENOMEM, "no memory for the PNG");
    return ut_fail(e, UT_EFORMAT, "the PNG is truncated or damaged: %s",
                   spng_strerror(status));
}

static enum ut_err check_header(const struct spng_ihdr *h, size_t len,
                                struct ut_error *e)
{
    enum ut_err rc = mdl_image_check_size(h->width, h->height, e);
    uint64_t decoded = (uint64_t)h->width * h->height * 3;

    if (rc)
        return rc;
    if (decoded > MDL_IMAGE_RATIO_FREE_BYTES &&
        decoded > (uint64_t)len * MDL_IMAGE_MAX_RATIO)
        return ut_fail(e, UT_EINVAL,
                       "the PNG of %zu bytes unpacks to %ux%u: more than %d "
                       "times its size",
                       len, h->width, h->height, MDL_IMAGE_MAX_RATIO);
    return UT_OK;
}

/* in [n] RGBA over black into out [n] RGB. */
static void drop_alpha(const uint8_t *in, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < 3; c++)
            out[3 * i + c] =
                (uint8_t)((in[4 * i + c] * in[4 * i + 3] + 127) / 255);
}

/* Pixels into im->rgb, which is allocated here. */
static enum ut_err read_pixels(spng_ctx *ctx, bool alpha, struct mdl_image *im,
                               struct ut_error *e)
{
    size_t n = (size_t)im->width * im->height;
    uint8_t *rgba = NULL;
    enum ut_err rc = UT_OK;
    int status;

    im->rgb = malloc(n * 3);
    rgba = alpha ? malloc(n * 4) : NULL;
    if (!im->rgb || (alpha && !rgba)) {
        rc = ut_fail(e, UT_ENOMEM, "no memory for a picture of %dx%d",
                     im->width, im->height);
        goto out;
    }
    status = alpha ? spng_decode_image(ctx, rgba, n * 4, SPNG_FMT_RGBA8,
                                       SPNG_DECODE_TRNS)
                   : spng_decode_image(ctx, im->rgb, n * 3, SPNG_FMT_RGB8, 0);
    if (!status)
        status = spng_decode_chunks(ctx); /* to the end, or it is cut off */
    if (status) {
        rc = fail(e, status);
        goto out;
    }
    if (alpha)
        drop_alpha(rgba, n, im->rgb);
out:
    free(rgba);
    return rc;
}

enum ut_err mdl_png_decode(const uint8_t *bytes, size_t len,
                           struct mdl_image *out, struct ut_error *e)
{
    struct spng_alloc a = allocator();
    spng_ctx *ctx = spng_ctx_new2(&a, 0);
    struct mdl_image im = {0};
    struct spng_ihdr head;
    struct spng_trns trns;
    enum ut_err rc = UT_OK;
    int status;

    *out = im;
    if (!ctx)
        return ut_fail(e, UT_ENOMEM, "no memory for the PNG decoder");
    status = spng_set_png_buffer(ctx, bytes, len);
    /* Profiles and texts, which nobody reads, get no memory to unpack into. */
    if (!status)
        status = spng_set_chunk_limits(ctx, MDL_IMAGE_MAX_BYTES,
                                       MDL_IMAGE_MAX_BYTES);
    if (!status)
        status = spng_get_ihdr(ctx, &head);
    if (status) {
        rc = fail(e, status);
        goto out;
    }
    rc = check_header(&head, len, e);
    if (rc)
        goto out;
    im.width = im.full_width = (int)head.width;
    im.height = im.full_height = (int)head.height;
    status = spng_get_trns(ctx, &trns);
    if (status && status != SPNG_ECHUNKAVAIL) {
        rc = fail(e, status);
        goto out;
    }
    rc = read_pixels(ctx, !status || (head.color_type & 4), &im, e);
    if (rc)
        goto out;
    *out = im;
    im.rgb = NULL;
out:
    free(im.rgb);
    spng_ctx_free(ctx);
    return rc;
}

enum ut_err mdl_image_encode_png(const uint8_t *rgb, int width, int height,
                                 uint8_t **bytes, size_t *len,
                                 struct ut_error *e)
{
    struct spng_alloc a = allocator();
    struct spng_ihdr head = {.width = (uint32_t)width,
                             .height = (uint32_t)height,
                             .bit_depth = 8,
                             .color_type = SPNG_COLOR_TYPE_TRUECOLOR};
    spng_ctx *ctx = NULL;
    enum ut_err rc = UT_OK;
    int status;

    *bytes = NULL;
    *len = 0;
    rc = width < 1 || height < 1
             ? ut_fail(e, UT_EINVAL, "a picture of %dx%d", width, height)
             : mdl_image_check_size(head.width, head.height, e);
    if (rc)
        return rc;
    ctx = spng_ctx_new2(&a, SPNG_CTX_ENCODER);
    if (!ctx)
        return ut_fail(e, UT_ENOMEM, "no memory for the PNG encoder");
    status = spng_set_option(ctx, SPNG_ENCODE_TO_BUFFER, 1);
    if (!status)
        status = spng_set_ihdr(ctx, &head);
    if (!status)
        status = spng_encode_image(ctx, rgb, (size_t)width * (size_t)height * 3,
                                   SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE);
    if (!status)
        *bytes = spng_get_png_buffer(ctx, len, &status);
    /* Nothing about the pixels can be wrong: what fails is memory. */
    if (!*bytes)
        rc = ut_fail(e, UT_ENOMEM, "PNG: %s", spng_strerror(status));
    spng_ctx_free(ctx);
    return rc;
}
