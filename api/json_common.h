#ifndef API_JSON_COMMON_H
#define API_JSON_COMMON_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

/* What reading and writing JSON share. */

#define API_ENUM_NAME_LEN 64

/* Whether f is a map: protobuf-c makes it a list of entries of key, value. */
bool api_is_map(const ProtobufCFieldDescriptor *f);

/* Bytes of one value in a list. */
size_t api_value_size(ProtobufCType type);

/* INPUT_KIND_FRAME of InputKind -> "frame". */
void api_enum_short_name(const ProtobufCEnumDescriptor *d,
                         const ProtobufCEnumValue *v,
                         char name[API_ENUM_NAME_LEN]);

/* The value of that name, short or full, case ignored; NULL if none. */
const ProtobufCEnumValue *api_enum_find(const ProtobufCEnumDescriptor *d,
                                        const char *name);

/* "frame, crop": the short names but the unspecified one. */
void api_enum_known(const ProtobufCEnumDescriptor *d, char *text, size_t size);

/* The field of that snake_case or lowerCamelCase name; NULL if none. */
const ProtobufCFieldDescriptor *
api_field_find(const ProtobufCMessageDescriptor *d, const char *name);

#endif
