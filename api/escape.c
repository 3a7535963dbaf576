/* JSON strings. */
#include "api/escape.h"

#include <stdint.h>
#include <string.h>

#include "base/utf8.h"

enum ut_err api_escape(struct ut_buf *b, const char *text, struct ut_error *e)
{
    enum ut_err rc = ut_buf_add(b, "\"", 1, e);

    while (!rc && *text) {
        const char *plain = text;
        int n = 0;

        while (*text && *text != '"' && *text != '\\' &&
               (uint8_t)*text >= 0x20 && (n = ut_utf8_len(text)) > 0)
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
