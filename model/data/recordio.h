#ifndef MODEL_DATA_RECORDIO_H
#define MODEL_DATA_RECORDIO_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"

/* InsightFace's training sets: MXNet RecordIO files (.rec) of packed images.
 * A record is a magic number, a length, and its bytes, padded to four; one that
 * holds the magic number itself is split there into parts. Its bytes are a
 * header (flag, label, two ids; with a flag of n > 0, n labels follow) and the
 * encoded picture. Records lie one behind the other, so that the .idx beside
 * the file, which says where they begin, is not needed.
 * Source: dmlc-core's recordio.h, MXNet's image recordio documentation. */
struct mdl_records {
    FILE *file;       /* the caller's */
    const char *name; /* for errors; outlives it */
    int64_t size;
};

struct mdl_record {
    int64_t at;    /* where it begins */
    int32_t label; /* the first one, a whole number from 0 on */
    int64_t len;   /* of the picture, at most: 0 for a record without */
};

/* Errors: UT_EIO. */
UT_MUSTUSE enum ut_err mdl_records_open(FILE *file, const char *name,
                                        struct mdl_records *out,
                                        struct ut_error *e);

/* The record at the file's position, which moves behind it; *end where there is
 * none. Errors: UT_EFORMAT naming the place. */
UT_MUSTUSE enum ut_err mdl_records_next(struct mdl_records *r,
                                        struct mdl_record *out, bool *end,
                                        struct ut_error *e);

/* Appends the encoded picture of the record at `at`. Errors: UT_EFORMAT naming
 * the place; those of ut_buf_add. */
UT_MUSTUSE enum ut_err mdl_records_picture(struct mdl_records *r, int64_t at,
                                           struct ut_buf *out,
                                           struct ut_error *e);

#endif
