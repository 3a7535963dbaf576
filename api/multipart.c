/* multipart/form-data: boundaries found by memmem, headers read line by line,
 * everything a view of the body. */
#include "api/multipart.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define MAX_BOUNDARY 70 /* RFC 2046, 5.1.1 */

static enum ut_err bad(struct api_error *err, const char *why)
{
    api_fail(err, API_INVALID_ARGUMENT, "multipart body: %s", why);
    snprintf(err->reason, sizeof(err->reason), "BAD_MULTIPART");
    return UT_EFORMAT;
}

/* The next ';' at or after text that is not in quotes; NULL: none. */
static const char *separator(const char *text, const char *end)
{
    for (; text < end && *text != ';'; text++)
        if (*text == '"') {
            text = memchr(text + 1, '"', (size_t)(end - text - 1));
            if (!text)
                return NULL;
        }
    return text < end ? text : NULL;
}

/* The value of parameter key in a header such as
 * form-data; name="images"; filename="a.jpg". A view, or NULL. */
static const char *parameter(const char *text, const char *end, const char *key,
                             size_t *len)
{
    size_t key_len = strlen(key);

    while ((text = separator(text, end))) {
        const char *value, *stop;

        for (text++; text < end && (*text == ' ' || *text == '\t');)
            text++;
        if ((size_t)(end - text) <= key_len ||
            strncasecmp(text, key, key_len) || text[key_len] != '=')
            continue;
        value = text + key_len + 1;
        if (value < end && *value == '"') {
            value++;
            stop = memchr(value, '"', (size_t)(end - value));
            if (!stop)
                return NULL;
        } else {
            for (stop = value; stop < end && *stop != ';' && *stop != ' ';)
                stop++;
        }
        *len = (size_t)(stop - value);
        return value;
    }
    return NULL;
}

static bool header_is(const char *line, const char *end, const char *name,
                      const char **value)
{
    size_t len = strlen(name);

    if ((size_t)(end - line) <= len || strncasecmp(line, name, len) ||
        line[len] != ':')
        return false;
    for (*value = line + len + 1; *value < end && **value == ' ';)
        ++*value;
    return true;
}

/* The headers of one part; *at moves behind the empty line. */
static enum ut_err read_headers(const char **at, const char *end,
                                struct api_part *part, struct api_error *err)
{
    for (;;) {
        const char *eol = memmem(*at, (size_t)(end - *at), "\r\n", 2);
        const char *value;

        if (!eol)
            return bad(err, "a part's headers do not end");
        if (eol == *at) {
            *at = eol + 2;
            break;
        }
        if (header_is(*at, eol, "Content-Disposition", &value)) {
            part->name = parameter(value, eol, "name", &part->name_len);
            part->filename =
                parameter(value, eol, "filename", &part->filename_len);
        } else if (header_is(*at, eol, "Content-Type", &value)) {
            part->type = value;
            part->type_len = (size_t)(eol - value);
        }
        *at = eol + 2;
    }
    return part->name ? UT_OK : bad(err, "a part has no name");
}

enum ut_err api_multipart_parse(const char *content_type, const char *body,
                                size_t len, struct api_part *parts, int *n,
                                struct api_error *err)
{
    const char *end = body + len, *at;
    char mark[MAX_BOUNDARY + 5];
    const char *boundary;
    size_t b_len = 0, m_len;

    *n = 0;
    boundary = parameter(content_type, content_type + strlen(content_type),
                         "boundary", &b_len);
    if (!boundary || b_len < 1 || b_len > MAX_BOUNDARY)
        return bad(err, "Content-Type has no boundary of 1 to 70 characters");
    m_len = (size_t)snprintf(mark, sizeof(mark), "\r\n--%.*s", (int)b_len,
                             boundary);
    /* The first boundary may stand at the very start, without its CRLF. */
    if (len >= m_len - 2 && !memcmp(body, mark + 2, m_len - 2)) {
        at = body + m_len - 2;
    } else {
        at = memmem(body, len, mark, m_len);
        if (!at)
            return bad(err, "the boundary is not in it");
        at += m_len;
    }
    while (end - at < 2 || memcmp(at, "--", 2)) {
        struct api_part part = {0};
        const char *next;
        enum ut_err rc;

        if (end - at < 2 || memcmp(at, "\r\n", 2))
            return bad(err, "a boundary's line does not end");
        if (*n == API_MULTIPART_MAX_PARTS)
            return bad(err, "there are over 64 parts");
        at += 2;
        rc = read_headers(&at, end, &part, err);
        if (rc)
            return rc;
        /* An empty part's closing CRLF is the one that ended its headers. */
        next = memmem(at - 2, (size_t)(end - at + 2), mark, m_len);
        if (!next)
            return bad(err, "the last part does not end");
        part.data = at;
        part.data_len = next < at ? 0 : (size_t)(next - at);
        parts[(*n)++] = part;
        at = next + m_len;
    }
    return UT_OK;
}
