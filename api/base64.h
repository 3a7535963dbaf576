#ifndef API_BASE64_H
#define API_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* base64 (RFC 4648), standard alphabet out; both alphabets in, padding
 * optional. Thread: any. */

/* Characters for len bytes, without NUL. */
size_t api_base64_len(size_t len);
void api_base64_encode(const uint8_t *data, size_t len, char *out);

/* Decodes into out, which holds len / 4 * 3 + 3 bytes. Returns the length, or
 * -1 at a character that is not base64. */
ptrdiff_t api_base64_decode(const char *text, size_t len, uint8_t *out);

#endif
