/* RecordIO: parts, records, the packed image's header. */
#include "model/data/recordio.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC 0xced7230au
#define HEADER 24 /* flag, label: 4 bytes each; two ids of 8 */

/* What a part is of its record. */
enum { WHOLE, FIRST, MIDDLE, LAST };

static uint32_t word(const uint8_t *b)
{
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 |
           (uint32_t)b[3] << 24;
}

enum ut_err mdl_records_open(FILE *file, const char *name,
                             struct mdl_records *out, struct ut_error *e)
{
    *out = (struct mdl_records){.file = file, .name = name};
    if (fseeko(file, 0, SEEK_END) || (out->size = ftello(file)) < 0 ||
        fseeko(file, 0, SEEK_SET))
        return ut_fail(e, UT_EIO, "%.150s: %m", name);
    return UT_OK;
}

static enum ut_err bad(const struct mdl_records *r, int64_t at, const char *why,
                       struct ut_error *e)
{
    return ut_fail(e, UT_EFORMAT, "%.150s: the record at %lld %s", r->name,
                   (long long)at, why);
}

/* Reads a part's head at the position; its bytes, of which there are len, come
 * next, and are all in the file. */
static enum ut_err part(struct mdl_records *r, int64_t at, int *kind,
                        int64_t *len, struct ut_error *e)
{
    int64_t here = ftello(r->file);
    uint8_t head[8];

    if (here < 0 || fread(head, 1, sizeof(head), r->file) != sizeof(head))
        return bad(r, at, "ends in its middle", e);
    if (word(head) != MAGIC)
        return bad(r, at, "does not start with RecordIO's magic number", e);
    *kind = (int)(word(head + 4) >> 29);
    *len = word(head + 4) & ((1u << 29) - 1);
    return here + 8 + *len <= r->size ? UT_OK
                                      : bad(r, at, "ends in its middle", e);
}

static enum ut_err skip(struct mdl_records *r, int64_t at, int64_t bytes,
                        struct ut_error *e)
{
    return fseeko(r->file, bytes, SEEK_CUR) ? bad(r, at, "cannot be read", e)
                                            : UT_OK;
}

static int64_t padding(int64_t len)
{
    return (4 - len % 4) % 4;
}

/* The header in the first part's len bytes: the label, and how many bytes come
 * before the picture. */
static enum ut_err header(struct mdl_records *r, int64_t at, int64_t len,
                          int32_t *label, int64_t *before, struct ut_error *e)
{
    uint8_t b[HEADER + 4];
    uint32_t flag, bits;
    float value;

    if (len < HEADER || fread(b, 1, HEADER, r->file) != HEADER)
        return bad(r, at, "is too short for an image's header", e);
    flag = word(b);
    *before = HEADER + 4 * (int64_t)flag;
    if (*before > len)
        return bad(r, at, "has more labels than bytes", e);
    bits = word(b + 4);
    if (flag) {
        if (fread(b + HEADER, 1, 4, r->file) != 4 ||
            fseeko(r->file, 4 * (int64_t)(flag - 1), SEEK_CUR))
            return bad(r, at, "cannot be read", e);
        bits = word(b + HEADER);
    }
    memcpy(&value, &bits, sizeof(value));
    if (!(value >= 0 && value <= 1e8f) || value != floorf(value))
        return bad(r, at, "has a label that is no whole number from 0 on", e);
    *label = (int32_t)value;
    return UT_OK;
}

/* Reads on at the record at `at`; out: NULL, or where its picture goes. */
static enum ut_err read_record(struct mdl_records *r, int64_t at,
                               struct mdl_record *got, struct ut_buf *out,
                               struct ut_error *e)
{
    int64_t len = 0, before = 0;
    int kind = WHOLE, expected = WHOLE;
    enum ut_err rc;

    got->at = at;
    got->len = 0;
    do {
        rc = part(r, at, &kind, &len, e);
        if (!rc && (kind > LAST || (expected == WHOLE) != (kind <= FIRST)))
            rc = bad(r, at, "has parts out of order", e);
        if (!rc && expected == WHOLE)
            rc = header(r, at, len, &got->label, &before, e);
        if (!rc && expected != WHOLE && out) {
            const uint8_t magic[] = {0x0a, 0x23, 0xd7, 0xce};

            rc = ut_buf_add(out, magic, sizeof(magic), e);
        }
        if (rc)
            return rc;
        got->len += len - before;
        if (out && len > before) {
            char *bytes = malloc((size_t)(len - before));

            if (!bytes)
                return ut_fail(e, UT_ENOMEM, "no memory for a record");
            rc = fread(bytes, 1, (size_t)(len - before), r->file) ==
                         (size_t)(len - before)
                     ? ut_buf_add(out, bytes, (size_t)(len - before), e)
                     : bad(r, at, "cannot be read", e);
            free(bytes);
            rc = rc ? rc : skip(r, at, padding(len), e);
        } else {
            rc = skip(r, at, len - before + padding(len), e);
        }
        before = 0;
        expected = kind == FIRST || kind == MIDDLE ? LAST : WHOLE;
    } while (!rc && expected != WHOLE);
    return rc;
}

enum ut_err mdl_records_next(struct mdl_records *r, struct mdl_record *out,
                             bool *end, struct ut_error *e)
{
    int64_t at = ftello(r->file);

    *end = at >= r->size;
    return *end ? UT_OK : read_record(r, at, out, NULL, e);
}

enum ut_err mdl_records_picture(struct mdl_records *r, int64_t at,
                                struct ut_buf *out, struct ut_error *e)
{
    struct mdl_record ignored;

    if (fseeko(r->file, at, SEEK_SET))
        return bad(r, at, "cannot be read", e);
    return read_record(r, at, &ignored, out, e);
}
