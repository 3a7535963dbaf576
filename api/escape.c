/* JSON strings. */
#include "api/escape.h"

#include <stdint.h>
#include <string.h>

int api_utf8_len(const char *s)
{
    const uint8_t *p = (const uint8_t *)s;

    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xc2 && p[0] < 0xe0)
        return (p[1] & 0xc0) == 0x80 ? 2 : 0;
    if ((p[0] & 0xf0) == 0xe0) {
        if ((p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80 ||
            (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0))
            return 0;
        return 3;
    }
    if (p[0] >= 0xf0 && p[0] < 0xf5) {
        if ((p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80 ||
            (p[3] & 0xc0) != 0x80 || (p[0] == 0xf0 && p[1] < 0x90) ||
            (p[0] == 0xf4 && p[1] >= 0x90))
            return 0;
        return 4;
    }
    return 0;
}

enum ut_err api_escape(struct ut_buf *b, const char *text, struct ut_error *e)
{
    enum ut_err rc = ut_buf_add(b, "\"", 1, e);

    while (!rc && *text) {
        const char *plain = text;
        int n = 0;

        while (*text && *text != '"' && *text != '\\' &&
               (uint8_t)*text >= 0x20 && (n = api_utf8_len(text)) > 0)
            text += n;
        rc = ut_buf_add(b, plain, (size_t)(text - plain), e);
        if (rc || !*text)
            break;
        if (*text == '"' || *text == '\\')
            rc = ut_buf_addf(b, e, "\\%c", *text);
        else if ((uint8_t)*text < 0x20)
            rc = ut_buf_addf(b, e, "\\u%04x", (unsigned)*text);
        else
            rc = ut_buf_add(b, "\xef\xbf\xbd", 3, e);
        text++;
    }
    return rc ? rc : ut_buf_add(b, "\"", 1, e);
}
