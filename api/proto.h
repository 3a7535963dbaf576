#ifndef API_PROTO_H
#define API_PROTO_H

#include <protobuf-c/protobuf-c.h>

#include "api/error.h"
#include "base/buf.h"

/* Binary protobuf for messages that strangers send. protobuf-c reads what it
 * is given; what may be given is checked first, on the bytes, so that no
 * message costs memory before it is known to be sound. Thread: any. */

#define API_PROTO_MAX_FIELDS 65536 /* in a message and all within it */
#define API_PROTO_MAX_DEPTH 16

/* Reads a message; free it by protobuf_c_message_free_unpacked(msg, NULL).
 * Texts are UTF-8 without NUL and enum values known, else the error names the
 * field ("images.data"). Unknown fields are skipped, groups refused.
 * Errors: UT_EFORMAT, UT_EBUSY over a limit, UT_ENOMEM. */
UT_MUSTUSE enum ut_err api_proto_read(const ProtobufCMessageDescriptor *d,
                                      const void *data, size_t len,
                                      ProtobufCMessage **out,
                                      struct api_error *err);

/* Appends a message. Errors: those of ut_buf_add. */
UT_MUSTUSE enum ut_err api_proto_write(const ProtobufCMessage *msg,
                                       struct ut_buf *b, struct ut_error *e);

#endif
