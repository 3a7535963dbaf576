#ifndef SERVER_MESSAGE_H
#define SERVER_MESSAGE_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

/* Messages that own what they say, as records of the store are held. Thread:
 * any. */

/* NULL without memory; else to be freed as a message. */
ProtobufCMessage *srv_message_copy(const ProtobufCMessage *m);

/* Puts a copy of text, or the time, into a field of such a message. False
 * without memory: the field is as before. */
bool srv_message_set(char **field, const char *text);
bool srv_message_set_now(char **field);

#endif
