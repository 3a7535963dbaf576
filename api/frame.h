#ifndef API_FRAME_H
#define API_FRAME_H

#include <stdint.h>

#include "api/error.h"
#include "base/buf.h"

/* What Connect's streams, gRPC-Web and gRPC frame messages in: a byte of
 * flags, four of length (big-endian), so many bytes; and gRPC's own texts.
 * Sources: https://connectrpc.com/docs/protocol,
 * https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md and
 * PROTOCOL-WEB.md. Thread: any. */

#define API_FRAME_HEAD 5

enum api_frame_flags {
    API_FRAME_GZIP = 0x01,
    API_FRAME_END = 0x02,      /* Connect: the last frame, JSON */
    API_FRAME_TRAILERS = 0x80, /* gRPC-Web: the last frame, fields */
};

/* The bytes of the frame with that head, the head among them. */
size_t api_frame_size(const char head[API_FRAME_HEAD]);

/* The frame at *at, which moves behind it; data is a view. Errors: UT_EFORMAT
 * for one that is cut off. */
UT_MUSTUSE enum ut_err api_frame_next(const char **at, const char *end,
                                      unsigned *flags, const char **data,
                                      size_t *len, struct api_error *err);

/* Appends a frame. Errors: those of ut_buf_add. */
UT_MUSTUSE enum ut_err api_frame_add(struct ut_buf *b, unsigned flags,
                                     const void *data, size_t len,
                                     struct ut_error *e);

/* gRPC-Web's text form: pieces of base64, each padded. *out is malloc'ed.
 * Errors: UT_EFORMAT, UT_ENOMEM. */
UT_MUSTUSE enum ut_err api_frame_untext(const char *text, size_t len,
                                        char **out, size_t *out_len,
                                        struct api_error *err);

/* "1500m" of grpc-timeout to microseconds; -1 if it is none. */
int64_t api_grpc_timeout_us(const char *text);

/* Appends the trailers that say err, or success for NULL:
 * "grpc-status: 3\r\ngrpc-message: ...\r\n". */
UT_MUSTUSE enum ut_err api_grpc_trailers(struct ut_buf *b,
                                         const struct api_error *err,
                                         struct ut_error *e);

#endif
