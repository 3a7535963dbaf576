#ifndef MODEL_VISION_CODEC_H
#define MODEL_VISION_CODEC_H

#include "model/vision/image.h"

/* What decode.c asks of the two formats; inside model/vision only. Both read
 * the picture as it is stored, before any turn, and leave *out zeroed on
 * failure. Errors: as mdl_image_decode. */
UT_MUSTUSE enum ut_err mdl_jpeg_decode(const uint8_t *bytes, size_t len,
                                       int max_side_px, struct mdl_image *out,
                                       struct ut_error *e);
UT_MUSTUSE enum ut_err mdl_png_decode(const uint8_t *bytes, size_t len,
                                      struct mdl_image *out,
                                      struct ut_error *e);

/* Says UT_EINVAL for sides or a product past the limits of image.h. */
UT_MUSTUSE enum ut_err mdl_image_check_size(uint32_t width, uint32_t height,
                                            struct ut_error *e);

/* EXIF orientation of a JPEG, 1 to 8; 1 where there is none or it is broken.
 * Thread: any. */
int mdl_exif_orientation(const uint8_t *bytes, size_t len);

#endif
