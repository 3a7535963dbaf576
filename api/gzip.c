/* zlib behind two calls. */
#include "api/gzip.h"

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define GZIP_WINDOW (15 + 16) /* + 16: gzip's header, not zlib's */
#define MEMORY_LEVEL 8
#define FIRST_BYTES (64 * 1024u)

enum ut_err api_gzip(const char *data, size_t len, char **out, size_t *out_len,
                     struct ut_error *e)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)len};
    char *packed = NULL;
    size_t cap;
    int rc;

    *out = NULL;
    if (len > UINT_MAX / 2)
        return ut_fail(e, UT_EINVAL, "%zu bytes are too many for gzip", len);
    if (deflateInit2(&z, Z_BEST_SPEED, Z_DEFLATED, GZIP_WINDOW, MEMORY_LEVEL,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return ut_fail(e, UT_ENOMEM, "no memory for gzip");
    cap = deflateBound(&z, (uLong)len);
    packed = malloc(cap);
    if (!packed) {
        deflateEnd(&z);
        return ut_fail(e, UT_ENOMEM, "no memory for %zu bytes of gzip", cap);
    }
    z.next_out = (Bytef *)packed;
    z.avail_out = (uInt)cap;
    rc = deflate(&z, Z_FINISH);
    *out_len = z.total_out;
    deflateEnd(&z);
    if (rc != Z_STREAM_END) {
        free(packed);
        return ut_fail(e, UT_ENOMEM, "gzip: status %d", rc);
    }
    *out = packed;
    return UT_OK;
}

static enum ut_err bad(struct api_error *err, enum ut_err rc, size_t limit)
{
    if (rc == UT_EBUSY) {
        api_fail(err, API_RESOURCE_EXHAUSTED,
                 "the body has over %zu bytes when unpacked, the limit", limit);
        err->http_status = 413;
    } else if (rc == UT_ENOMEM) {
        api_fail(err, API_INTERNAL, "no memory for the body");
    } else {
        api_fail(err, API_INVALID_ARGUMENT, "the body is not one whole gzip");
        snprintf(err->reason, sizeof(err->reason), "BAD_GZIP");
    }
    return rc;
}

/* More room for z's output, up to limit bytes and one that betrays more. */
static enum ut_err grow(z_stream *z, char **out, size_t *cap, size_t limit)
{
    size_t used = *cap - z->avail_out;
    size_t more = *cap ? *cap * 2 : FIRST_BYTES;
    char *bigger;

    if (used > limit)
        return UT_EBUSY;
    if (more > limit + 1)
        more = limit + 1;
    bigger = realloc(*out, more + 1);
    if (!bigger)
        return UT_ENOMEM;
    *out = bigger;
    *cap = more;
    z->next_out = (Bytef *)bigger + used;
    z->avail_out = (uInt)(more - used);
    return UT_OK;
}

enum ut_err api_gunzip(const char *data, size_t len, size_t limit, char **out,
                       size_t *out_len, struct api_error *err)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)len};
    enum ut_err rc = UT_OK;
    char *plain = NULL;
    size_t cap = 0;
    int status = Z_OK;

    *out = NULL;
    if (len > UINT_MAX / 2 || limit > UINT_MAX / 2)
        return bad(err, UT_EBUSY, limit);
    if (inflateInit2(&z, GZIP_WINDOW) != Z_OK)
        return bad(err, UT_ENOMEM, limit);
    while (!rc && status == Z_OK) {
        if (!z.avail_out)
            rc = grow(&z, &plain, &cap, limit);
        if (!rc)
            status = inflate(&z, Z_NO_FLUSH);
    }
    *out_len = z.total_out;
    if (!rc && (status != Z_STREAM_END || z.avail_in))
        rc = status == Z_MEM_ERROR ? UT_ENOMEM : UT_EFORMAT;
    if (!rc && *out_len > limit)
        rc = UT_EBUSY;
    inflateEnd(&z);
    if (rc) {
        free(plain);
        return bad(err, rc, limit);
    }
    plain[*out_len] = '\0';
    *out = plain;
    return UT_OK;
}
