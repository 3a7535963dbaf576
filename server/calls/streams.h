#ifndef SERVER_STREAMS_H
#define SERVER_STREAMS_H

#include <stddef.h>

#include "server/calls/call.h"

/* Calls that are told of one thing as it changes: each message says all, so
 * that a client that reads too slowly misses only what was in between. One
 * whose key was revoked is ended in place of its next message. Zeroed memory is
 * an empty list. Thread: the loop. */

struct srv_stream;
struct srv_streams {
    struct srv_stream *first;
};

/* Takes c, sends what is known now. Errors, answered: UT_EBUSY where limit
 * streams are open, UT_ENOMEM. */
void srv_streams_add(struct srv_streams *s, struct srv_call *c, int limit,
                     const ProtobufCMessage *now);
void srv_streams_send(struct srv_streams *s, const ProtobufCMessage *m);
/* The same to those that have heard nothing for a while: keeps the connection
 * alive, and notices a client that left. */
void srv_streams_beat(struct srv_streams *s, const ProtobufCMessage *m);
void srv_streams_end(struct srv_streams *s);

#endif
