/* A growing byte buffer whose limit is part of it. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ut_buf_init(struct ut_buf *b, size_t limit)
{
    *b = (struct ut_buf){.limit = limit};
}

void ut_buf_fini(struct ut_buf *b)
{
    free(b->data);
    *b = (struct ut_buf){.limit = b->limit};
}

static enum ut_err reserve(struct ut_buf *b, size_t more, struct ut_error *e)
{
    size_t cap = b->cap ? b->cap : 256;
    char *data;

    if (more > b->limit - b->len)
        return ut_fail(e, UT_EBUSY, "%zu bytes are over the limit of %zu",
                       b->len + more, b->limit);
    if (b->len + more < b->cap)
        return UT_OK;
    while (cap <= b->len + more)
        cap *= 2;
    data = realloc(b->data, cap);
    if (!data)
        return ut_fail(e, UT_ENOMEM, "no memory for %zu bytes", cap);
    b->data = data;
    b->cap = cap;
    return UT_OK;
}

enum ut_err ut_buf_add(struct ut_buf *b, const void *data, size_t len,
                       struct ut_error *e)
{
    enum ut_err rc = reserve(b, len, e);

    if (rc)
        return rc;
    if (len)
        memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
    return UT_OK;
}

enum ut_err ut_buf_addf(struct ut_buf *b, struct ut_error *e, const char *fmt,
                        ...)
{
    va_list args;
    enum ut_err rc;
    int n;

    va_start(args, fmt);
    n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0)
        return ut_fail(e, UT_EINVAL, "format \"%s\" cannot be printed", fmt);
    rc = reserve(b, (size_t)n, e);
    if (rc)
        return rc;
    va_start(args, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, args);
    va_end(args);
    b->len += (size_t)n;
    return UT_OK;
}

enum ut_err ut_buf_add_file(struct ut_buf *b, const char *path,
                            struct ut_error *e)
{
    FILE *f = fopen(path, "rbe");
    size_t len = b->len, n;
    enum ut_err rc = UT_OK;
    char chunk[65536];

    if (!f)
        return ut_fail(e, UT_EIO, "%.150s: cannot be opened: %m", path);
    while (!rc && (n = fread(chunk, 1, sizeof(chunk), f)) > 0) {
        struct ut_error why;

        rc = ut_buf_add(b, chunk, n, &why);
        if (rc)
            ut_fail(e, rc, "%.150s: %.90s", path, why.msg);
    }
    if (!rc && ferror(f))
        rc = ut_fail(e, UT_EIO, "%.150s: cannot be read: %m", path);
    fclose(f);
    if (rc)
        b->len = len;
    return rc;
}

char *ut_buf_take(struct ut_buf *b, size_t *len)
{
    char *data = b->data;

    *len = b->len;
    *b = (struct ut_buf){.limit = b->limit};
    return data;
}
