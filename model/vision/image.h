#ifndef MODEL_VISION_IMAGE_H
#define MODEL_VISION_IMAGE_H

#include "model/tensor.h"

/* Pictures in memory, and how they get there. */

#define MDL_IMAGE_MAX_BYTES (16u << 20)
#define MDL_IMAGE_MAX_SIDE_PX 8192
#define MDL_IMAGE_MAX_PIXELS (40 * 1000 * 1000)
#define MDL_IMAGE_MAX_RATIO 500 /* decoded bytes per encoded byte (PNG) */
/* Pictures that unpack to no more than this may have any ratio: a dark frame
 * of 640x480 is no bomb. */
#define MDL_IMAGE_RATIO_FREE_BYTES (1u << 20)

struct mdl_image {
    uint8_t *rgb; /* owned; [height, width, 3], sRGB, rows packed */
    int width, height;
    /* The picture's own size, upright, before any scaled decoding; boxes are
     * reported in these pixels. */
    int full_width, full_height;
};

/* Decodes a JPEG (libjpeg-turbo; EXIF orientation applied) or PNG (alpha over
 * black, 16 bit to 8), recognised by its first bytes. A JPEG of more than
 * max_side_px (0: no limit) on its long side is decoded at the smallest of the
 * scales 1, 1/2, 1/4, 1/8 that does not fall below it. Grey becomes RGB.
 * Errors: UT_EFORMAT for CMYK, bogus bytes and pictures with any part missing,
 * UT_EINVAL past a limit above, told before memory is taken; UT_ENOMEM; *out
 * is then zeroed. Thread: any. */
UT_MUSTUSE enum ut_err mdl_image_decode(const void *bytes, size_t len,
                                        int max_side_px, struct mdl_image *out,
                                        struct ut_error *e);
/* The same of a file. Errors: those, naming it, and UT_EIO. */
UT_MUSTUSE enum ut_err mdl_image_open(const char *path, int max_side_px,
                                      struct mdl_image *out,
                                      struct ut_error *e);
void mdl_image_fini(struct mdl_image *im); /* zeroed memory is fine */

/* Encodes as PNG or as JPEG of the given quality (1..100; colour at full
 * resolution from 90 on); the caller frees *bytes. Errors: UT_EINVAL for a
 * size past the limits or such a quality, UT_ENOMEM. Thread: any. */
UT_MUSTUSE enum ut_err mdl_image_encode_png(const uint8_t *rgb, int width,
                                            int height, uint8_t **bytes,
                                            size_t *len, struct ut_error *e);
UT_MUSTUSE enum ut_err mdl_image_encode_jpeg(const uint8_t *rgb, int width,
                                             int height, int quality,
                                             uint8_t **bytes, size_t *len,
                                             struct ut_error *e);

/* Area-averaged (down) or bilinear (up) resize into out [h, w, 3], each axis
 * for itself. Allocates nothing; 96 KiB of stack. Thread: any. */
void mdl_image_resize(const struct mdl_image *im, int w, int h, uint8_t *out);

#endif
