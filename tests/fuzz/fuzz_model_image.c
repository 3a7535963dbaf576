/* Any bytes as a picture. */
#include "model/vision/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mdl_image im = {0};
    struct ut_error e;

    if (!mdl_image_decode(data, len, len % 2 ? 640 : 0, &im, &e) &&
        (im.width < 1 || im.height < 1))
        __builtin_trap();
    mdl_image_fini(&im);
    return 0;
}
