#ifndef API_JSON_H
#define API_JSON_H

#include <protobuf-c/protobuf-c.h>

#include "api/error.h"
#include "base/buf.h"

/* Any message of api/tscaf.proto to and from JSON, by its descriptor.
 *
 * Out: snake_case names, every scalar and list (also empty), messages only
 * when present, empty bytes left out, bytes as base64, maps as objects.
 * In: snake_case or lowerCamelCase; null means absent; unknown members,
 * wrong types, numbers out of range, bad base64, invalid UTF-8 and duplicate
 * members are errors that name the field's path ("images[3].data") and what
 * was expected. */

#define API_JSON_MAX_DEPTH 16

enum api_json_flags {
    /* Enum values as "frame" instead of "INPUT_KIND_FRAME" and 64-bit
     * integers as numbers: REST. Without it: canonical protobuf JSON. Both
     * forms are always read. */
    API_JSON_REST = 1,
};

/* Reads JSON text into a new message; free it by
 * protobuf_c_message_free_unpacked(msg, NULL). len 0 is an empty message. */
UT_MUSTUSE enum ut_err api_json_read(const ProtobufCMessageDescriptor *d,
                                     const char *json, size_t len,
                                     ProtobufCMessage **out,
                                     struct api_error *err);

/* The same for the answer of a server that may be newer: members and enum
 * values that are not known are skipped. */
UT_MUSTUSE enum ut_err api_json_read_answer(const ProtobufCMessageDescriptor *d,
                                            const char *json, size_t len,
                                            ProtobufCMessage **out,
                                            struct api_error *err);

/* Writes a message; *json is malloc'ed and NUL-ended. Errors: UT_ENOMEM,
 * UT_EINVAL for a number that JSON cannot say (NaN). */
UT_MUSTUSE enum ut_err api_json_write(const ProtobufCMessage *msg, int flags,
                                      char **json, size_t *len,
                                      struct ut_error *e);

/* Appends the same to a buffer. Errors: also those of ut_buf_add. */
UT_MUSTUSE enum ut_err api_json_add(const ProtobufCMessage *msg, int flags,
                                    struct ut_buf *b, struct ut_error *e);

/* Sets one field of msg from text, as in a query or path ("top_k=3",
 * "tasks=fatigue,recognition": lists are split at commas).
 * A list given twice and text that is not UTF-8 are errors. Booleans: true,
 * false, 1, 0. Message and bytes fields cannot be set so. */
UT_MUSTUSE enum ut_err api_json_set(ProtobufCMessage *msg, const char *name,
                                    const char *text, struct api_error *err);

#endif
