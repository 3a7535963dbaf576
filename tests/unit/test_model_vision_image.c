/* Pictures: formats, orientation, limits, and everything that is no picture. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>

#include "model/vision/codec.h"
#include "tests/support/unit.h"

#define W 48
#define H 32

/* Red, green, blue and white quarters, from the top left, row by row. */
static void quarters(uint8_t *rgb)
{
    static const uint8_t colours[4][3] = {
        {255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {255, 255, 255}};

    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            memcpy(rgb + 3 * (y * W + x),
                   colours[(y >= H / 2) * 2 + (x >= W / 2)], 3);
}

/* "rgbw": the colours of the four corners, row by row. */
static void corners(const struct mdl_image *im, char out[5])
{
    for (int k = 0; k < 4; k++) {
        int x = k % 2 ? im->width - 4 : 3, y = k / 2 ? im->height - 4 : 3;
        const uint8_t *p = im->rgb + 3 * (y * im->width + x);
        int bits = (p[0] > 128) | (p[1] > 128) << 1 | (p[2] > 128) << 2;

        out[k] = bits == 1   ? 'r'
                 : bits == 2 ? 'g'
                 : bits == 4 ? 'b'
                 : bits == 7 ? 'w'
                             : '?';
    }
    out[4] = '\0';
}

static uint8_t *encode(bool png, size_t *len)
{
    uint8_t rgb[W * H * 3], *bytes;
    struct ut_error e;

    quarters(rgb);
    assert_int_equal(
        png ? mdl_image_encode_png(rgb, W, H, &bytes, len, &e)
            : mdl_image_encode_jpeg(rgb, W, H, 95, &bytes, len, &e),
        UT_OK);
    return bytes;
}

/* A picture of one colour by turbojpeg; pixels as the format says. */
static uint8_t *jpeg(int w, int h, int format, int subsampling, int value,
                     unsigned long *len)
{
    int size = tjPixelSize[format];
    uint8_t *pixels = malloc((size_t)w * (size_t)h * (size_t)size);
    uint8_t *bytes = NULL, *copy;
    tjhandle t = tjInitCompress();

    assert_non_null(pixels);
    memset(pixels, value, (size_t)w * (size_t)h * (size_t)size);
    assert_int_equal(tjCompress2(t, pixels, w, 0, h, format, &bytes, len,
                                 subsampling, 80, 0),
                     0);
    copy = malloc(*len);
    memcpy(copy, bytes, *len);
    tjFree(bytes);
    tjDestroy(t);
    free(pixels);
    return copy;
}

static void refused(const void *bytes, size_t len, enum ut_err code,
                    const char *says)
{
    struct mdl_image im;
    struct ut_error e;
    enum ut_err rc = mdl_image_decode(bytes, len, 0, &im, &e);

    if (rc != code || !strstr(e.msg, says))
        fail_msg("%d, not %d, or no \"%s\" in: %s", rc, code, says,
                 rc ? e.msg : "");
    assert_null(im.rgb);
}

static void decode__what_was_encoded__comes_back(void **state)
{
    struct mdl_image im;
    struct ut_error e;
    char where[5];

    (void)state;
    for (int png = 0; png < 2; png++) {
        uint8_t rgb[W * H * 3];
        size_t len;
        uint8_t *bytes = encode(png, &len);

        quarters(rgb);
        assert_int_equal(mdl_image_decode(bytes, len, 0, &im, &e), UT_OK);
        assert_int_equal(im.width, W);
        assert_int_equal(im.height, H);
        assert_int_equal(im.full_width, W);
        if (png)
            assert_memory_equal(im.rgb, rgb, sizeof(rgb));
        corners(&im, where);
        assert_string_equal(where, "rgbw");
        mdl_image_fini(&im);
        free(bytes);
    }
}

static void decode__grey__becomes_rgb(void **state)
{
    unsigned long len;
    uint8_t *bytes = jpeg(20, 10, TJPF_GRAY, TJSAMP_GRAY, 100, &len);
    struct mdl_image im;
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_image_decode(bytes, len, 0, &im, &e), UT_OK);
    assert_int_equal(im.width, 20);
    for (int i = 0; i < 20 * 10 * 3; i++)
        assert_in_range(im.rgb[i], 98, 102);
    mdl_image_fini(&im);
    free(bytes);
}

/* Puts an APP1 segment with this orientation behind the JPEG's first bytes. */
static uint8_t *with_orientation(const uint8_t *bytes, size_t *len, int turn)
{
    uint8_t exif[] = {0xff, 0xe1, 0,    34,   'E', 'x', 'i', 'f', 0,
                      0,    'I',  'I',  '*',  0,   8,   0,   0,   0,
                      1,    0,    0x12, 0x01, 3,   0,   1,   0,   0,
                      0,    0,    0,    0,    0,   0,   0,   0,   0};
    uint8_t *out = malloc(*len + sizeof(exif));

    exif[28] = (uint8_t)turn;
    memcpy(out, bytes, 2);
    memcpy(out + 2, exif, sizeof(exif));
    memcpy(out + 2 + sizeof(exif), bytes + 2, *len - 2);
    *len += sizeof(exif);
    return out;
}

static void decode__orientation_1_to_8__upright(void **state)
{
    /* Where the stored corners rgbw lie once the camera is upright
     * (EXIF 2.32, 4.6.4 A, tag 0x0112). */
    static const char *const upright[] = {"rgbw", "grwb", "wbgr", "bwrg",
                                          "rbgw", "brwg", "wgbr", "gwrb"};
    size_t len;
    uint8_t *bytes = encode(false, &len);

    (void)state;
    for (int turn = 0; turn <= 9; turn++) {
        size_t n = len;
        uint8_t *turned = with_orientation(bytes, &n, turn);
        bool known = turn >= 1 && turn <= 8, side = known && turn > 4;
        struct mdl_image im;
        struct ut_error e;
        char where[5];

        assert_int_equal(mdl_exif_orientation(turned, n), known ? turn : 1);
        assert_int_equal(mdl_image_decode(turned, n, 0, &im, &e), UT_OK);
        assert_int_equal(im.width, side ? H : W);
        assert_int_equal(im.full_width, side ? H : W);
        corners(&im, where);
        assert_string_equal(where, upright[known ? turn - 1 : 0]);
        mdl_image_fini(&im);
        free(turned);
    }
    free(bytes);
}

static void decode__larger_than_wanted__scaled_not_below(void **state)
{
    unsigned long len;
    uint8_t *bytes = jpeg(1600, 1200, TJPF_RGB, TJSAMP_420, 90, &len);
    static const struct {
        int max, width;
    } cases[] = {{0, 1600},   {1600, 1600}, {1599, 1600},
                 {801, 1600}, {800, 800},   {640, 800},
                 {400, 400},  {200, 200},   {100, 200}};
    struct mdl_image im;
    struct ut_error e;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(mdl_image_decode(bytes, len, cases[i].max, &im, &e),
                         UT_OK);
        assert_int_equal(im.width, cases[i].width);
        assert_int_equal(im.full_width, 1600);
        assert_int_equal(im.full_height, 1200);
        mdl_image_fini(&im);
    }
    free(bytes);
}

static void decode__not_pictures__said(void **state)
{
    static const uint8_t magic[64] = "\x89PNG\r\n\x1a\n";
    unsigned long n;
    size_t len;
    uint8_t *bytes = jpeg(16, 16, TJPF_CMYK, TJSAMP_444, 100, &n);

    (void)state;
    refused(bytes, n, UT_EFORMAT, "send it as RGB");
    free(bytes);
    refused("", 0, UT_EFORMAT, "");
    refused("GIF89a", 6, UT_EFORMAT, "");
    refused(magic, sizeof(magic), UT_EFORMAT, "");
    refused("\xff\xd8\xff\xd9", 4, UT_EFORMAT, "");
    for (int png = 0; png < 2; png++) {
        bytes = encode(png, &len);
        for (size_t cut = 0; cut + 12 < len; cut += cut < 64 ? 1 : 37)
            refused(bytes, cut, UT_EFORMAT, "");
        bytes[len / 2] ^= 0xff;
        if (png) /* its checksum tells; a JPEG has none */
            refused(bytes, len, UT_EFORMAT, "");
        free(bytes);
    }
}

static void decode__each_limit__at_it_and_one_past(void **state)
{
    uint8_t *bytes, *big = calloc(1, MDL_IMAGE_MAX_BYTES + 1);
    unsigned long len;
    size_t n;
    struct mdl_image im;
    struct ut_error e;

    (void)state;
    bytes = jpeg(MDL_IMAGE_MAX_SIDE_PX, 8, TJPF_GRAY, TJSAMP_GRAY, 9, &len);
    assert_int_equal(mdl_image_decode(bytes, len, 0, &im, &e), UT_OK);
    mdl_image_fini(&im);
    free(bytes);
    bytes = jpeg(MDL_IMAGE_MAX_SIDE_PX + 1, 8, TJPF_GRAY, TJSAMP_GRAY, 9, &len);
    refused(bytes, len, UT_EINVAL, "8193");
    free(bytes);

    bytes = jpeg(8000, 5000, TJPF_GRAY, TJSAMP_GRAY, 9, &len);
    assert_int_equal(mdl_image_decode(bytes, len, 640, &im, &e), UT_OK);
    mdl_image_fini(&im);
    free(bytes);
    bytes = jpeg(8000, 5001, TJPF_GRAY, TJSAMP_GRAY, 9, &len);
    refused(bytes, len, UT_EINVAL, "5001");
    free(bytes);

    memcpy(big, "\xff\xd8\xff\xe0", 4);
    refused(big, MDL_IMAGE_MAX_BYTES, UT_EFORMAT, "");
    refused(big, MDL_IMAGE_MAX_BYTES + 1, UT_EINVAL, "16777217");

    /* Black unpacks to a thousand times its size: over 1 MiB that is too
     * much, below it is a dark frame. */
    memset(big, 0, 1200 * 1200 * 3);
    assert_int_equal(mdl_image_encode_png(big, 1200, 1200, &bytes, &n, &e),
                     UT_OK);
    refused(bytes, n, UT_EINVAL, "");
    free(bytes);
    assert_int_equal(mdl_image_encode_png(big, 590, 590, &bytes, &n, &e),
                     UT_OK);
    assert_int_equal(mdl_image_decode(bytes, n, 0, &im, &e), UT_OK);
    mdl_image_fini(&im);
    free(bytes);
    free(big);
}

static void decode__each_allocation_fails__no_memory(void **state)
{
    (void)state;
    for (int png = 0; png < 2; png++) {
        size_t len;
        uint8_t *bytes = encode(png, &len);
        int failed = 0;

        for (long nth = 0;; nth++) {
            struct mdl_image im;
            struct ut_error e;
            enum ut_err rc;

            fault_arm(nth);
            rc = mdl_image_decode(bytes, len, 0, &im, &e);
            if (!fault_disarm()) {
                assert_int_equal(rc, UT_OK);
                mdl_image_fini(&im);
                break;
            }
            assert_int_not_equal(rc, UT_OK);
            assert_null(im.rgb);
            failed++;
        }
        assert_true(failed > 0);
        free(bytes);
    }
}

static void resize__one_colour_and_halves__kept(void **state)
{
    uint8_t rgb[W * H * 3], out[W * H * 3 * 4];
    struct mdl_image im = {.rgb = rgb, .width = W, .height = H};

    (void)state;
    quarters(rgb);
    mdl_image_resize(&im, W / 2, H / 2, out);
    for (int y = 0; y < H / 2; y++) /* even halves: no pixel is mixed */
        for (int x = 0; x < W / 2; x++)
            assert_memory_equal(out + 3 * (y * (W / 2) + x),
                                rgb + 3 * (2 * y * W + 2 * x), 3);
    memset(rgb, 77, sizeof(rgb));
    mdl_image_resize(&im, 2 * W, 2 * H, out);
    for (size_t i = 0; i < sizeof(out); i++)
        assert_int_equal(out[i], 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode__what_was_encoded__comes_back),
        cmocka_unit_test(decode__grey__becomes_rgb),
        cmocka_unit_test(decode__orientation_1_to_8__upright),
        cmocka_unit_test(decode__larger_than_wanted__scaled_not_below),
        cmocka_unit_test(decode__not_pictures__said),
        cmocka_unit_test(decode__each_limit__at_it_and_one_past),
        cmocka_unit_test(decode__each_allocation_fails__no_memory),
        cmocka_unit_test(resize__one_colour_and_halves__kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
