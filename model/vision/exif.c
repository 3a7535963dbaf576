/* The one EXIF field we read: how the camera was held.
 *
 * A JPEG is 0xFFD8, then segments 0xFF marker, length (big endian, counting
 * itself), payload; EXIF is an APP1 (0xE1) before the picture's own data. */
#include <string.h>

#include <libexif/exif-data.h>

#include "model/vision/codec.h"

#define MARKER_APP1 0xe1
#define MARKER_SOS 0xda

/* The EXIF payload, from "Exif\0\0" on, or NULL. */
static const uint8_t *find_exif(const uint8_t *b, size_t len, size_t *n)
{
    size_t at = 2;

    while (at + 4 <= len && b[at] == 0xff) {
        size_t seg = (size_t)b[at + 2] << 8 | b[at + 3];

        if (b[at + 1] == 0xff) { /* fill byte */
            at++;
            continue;
        }
        if (b[at + 1] == MARKER_SOS || seg < 2 || seg > len - at - 2)
            return NULL;
        if (b[at + 1] == MARKER_APP1 && seg >= 2 + 6 + 8 &&
            !memcmp(b + at + 4, "Exif\0\0", 6)) {
            *n = seg - 2;
            return b + at + 4;
        }
        at += 2 + seg;
    }
    return NULL;
}

int mdl_exif_orientation(const uint8_t *bytes, size_t len)
{
    ExifData *data;
    ExifEntry *entry;
    size_t n = 0;
    const uint8_t *exif = find_exif(bytes, len, &n);
    int turn = 1;

    if (!exif)
        return 1;
    data = exif_data_new_from_data(exif, (unsigned)n);
    if (!data)
        return 1;
    entry = exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION);
    if (entry && entry->format == EXIF_FORMAT_SHORT && entry->components == 1 &&
        entry->size >= 2)
        turn = exif_get_short(entry->data, exif_data_get_byte_order(data));
    exif_data_unref(data);
    return turn >= 1 && turn <= 8 ? turn : 1;
}
