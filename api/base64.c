/* base64, by tables. */
#include "api/base64.h"

static const char letters[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t api_base64_len(size_t len)
{
    return (len + 2) / 3 * 4;
}

void api_base64_encode(const uint8_t *data, size_t len, char *out)
{
    for (size_t i = 0; i < len; i += 3) {
        uint32_t v = (uint32_t)data[i] << 16;

        if (i + 1 < len)
            v |= (uint32_t)data[i + 1] << 8;
        if (i + 2 < len)
            v |= data[i + 2];
        *out++ = letters[v >> 18];
        *out++ = letters[v >> 12 & 63];
        *out++ = i + 1 < len ? letters[v >> 6 & 63] : '=';
        *out++ = i + 2 < len ? letters[v & 63] : '=';
    }
}

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+' || c == '-')
        return 62;
    return c == '/' || c == '_' ? 63 : -1;
}

ptrdiff_t api_base64_decode(const char *text, size_t len, uint8_t *out)
{
    uint8_t *start = out;
    uint32_t bits = 0;
    size_t n = 0;

    if (len && text[len - 1] == '=')
        len--;
    if (len && text[len - 1] == '=')
        len--;
    if (len % 4 == 1)
        return -1;
    for (; n < len; n++) {
        int v = value_of(text[n]);

        if (v < 0)
            return -1;
        bits = bits << 6 | (uint32_t)v;
        if (n % 4 == 3) {
            *out++ = (uint8_t)(bits >> 16);
            *out++ = (uint8_t)(bits >> 8);
            *out++ = (uint8_t)bits;
        }
    }
    if (len % 4 == 2)
        *out++ = (uint8_t)(bits >> 4);
    if (len % 4 == 3) {
        *out++ = (uint8_t)(bits >> 10);
        *out++ = (uint8_t)(bits >> 2);
    }
    return out - start;
}
