/* Names of fields and enum values, sizes of values. */
#include "api/json_common.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

bool api_is_map(const ProtobufCFieldDescriptor *f)
{
    const ProtobufCMessageDescriptor *d = f->descriptor;
    size_t len;

    if (f->label != PROTOBUF_C_LABEL_REPEATED ||
        f->type != PROTOBUF_C_TYPE_MESSAGE || d->n_fields != 2)
        return false;
    len = strlen(d->name);
    return len > 5 && !strcmp(d->name + len - 5, "Entry") &&
           !strcmp(d->fields[0].name, "key") &&
           !strcmp(d->fields[1].name, "value");
}

size_t api_value_size(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_ENUM:
        return 4;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return 8;
    }
    return 0;
}

/* Characters of the prefix that all of an enum's names share: InputKind has
 * INPUT_KIND_, and its first value ends in UNSPECIFIED by convention. */
static size_t prefix_len(const ProtobufCEnumDescriptor *d)
{
    const char *first = d->values[0].name;
    const char *end = strstr(first, "UNSPECIFIED");

    return end ? (size_t)(end - first) : 0;
}

void api_enum_short_name(const ProtobufCEnumDescriptor *d,
                         const ProtobufCEnumValue *v,
                         char name[API_ENUM_NAME_LEN])
{
    snprintf(name, API_ENUM_NAME_LEN, "%s", v->name + prefix_len(d));
    for (char *p = name; *p; p++)
        *p = (char)tolower((unsigned char)*p);
}

const ProtobufCEnumValue *api_enum_find(const ProtobufCEnumDescriptor *d,
                                        const char *name)
{
    for (unsigned i = 0; i < d->n_values; i++)
        if (!strcasecmp(name, d->values[i].name) ||
            !strcasecmp(name, d->values[i].name + prefix_len(d)))
            return &d->values[i];
    return NULL;
}

void api_enum_known(const ProtobufCEnumDescriptor *d, char *text, size_t size)
{
    char name[API_ENUM_NAME_LEN];
    size_t at = 0;

    text[0] = '\0';
    for (unsigned i = 1; i < d->n_values && at < size; i++) {
        api_enum_short_name(d, &d->values[i], name);
        at += (size_t)snprintf(text + at, size - at, "%s%s", i > 1 ? ", " : "",
                               name);
    }
}

const ProtobufCFieldDescriptor *
api_field_find(const ProtobufCMessageDescriptor *d, const char *name)
{
    char snake[64];
    size_t n = 0;

    for (const char *p = name; *p; p++) {
        if (n + 3 > sizeof(snake))
            return NULL;
        if (isupper((unsigned char)*p))
            snake[n++] = '_';
        snake[n++] = (char)tolower((unsigned char)*p);
    }
    snake[n] = '\0';
    return protobuf_c_message_descriptor_get_field_by_name(d, snake);
}
