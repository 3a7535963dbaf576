/* Copies of messages, and texts in them. */
#include "server/calls/message.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/log.h"

ProtobufCMessage *srv_message_copy(const ProtobufCMessage *m)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = malloc(len + 1);
    ProtobufCMessage *copy = NULL;

    if (bytes) {
        protobuf_c_message_pack(m, bytes);
        copy = protobuf_c_message_unpack(m->descriptor, NULL, len, bytes);
        free(bytes);
    }
    return copy;
}

bool srv_message_set(char **field, const char *text)
{
    char *copy = strdup(text);

    if (!copy)
        return false;
    if (*field != protobuf_c_empty_string)
        free(*field);
    *field = copy;
    return true;
}

bool srv_message_set_now(char **field)
{
    char text[SRV_LOG_TIME_LEN];

    srv_log_time(ut_clock_unix_ms(), text);
    return srv_message_set(field, text);
}
