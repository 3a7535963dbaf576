#ifndef SERVER_CALL_H
#define SERVER_CALL_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/error.h"
#include "base/error.h"

/* One call of one method, whatever carried it. Handlers (handle_*.c) know
 * only this and the messages; transports (dispatch.c and the protocols behind
 * it) make calls and turn replies into bytes. All on the loop. */

#define SRV_CALL_MAX_UNSENT (64 * 1024) /* bytes of a stream */

struct srv_app;

struct srv_call {
    struct srv_app *app;
    const ProtobufCMessage *request; /* borrowed from the transport; lives
                                        until the reply */
    char request_id[33];
    char actor[32];      /* key id or "local" */
    int64_t start_us;    /* first byte */
    int64_t deadline_us; /* ut_clock_us() time */
    bool cancelled;      /* set (atomically) by the transport when the client
                            left; the call must still be ended */

    /* The transport's. Exactly one of them ends the call, on the loop. */
    void (*reply)(struct srv_call *c, const ProtobufCMessage *response);
    void (*fail)(struct srv_call *c, const struct api_error *err);

    /* A method that answers with a stream instead sends any number of
     * messages and ends the call by end or fail. send says false, and nothing
     * of the message goes out, when the client left or when
     * SRV_CALL_MAX_UNSENT bytes wait for one that reads too slowly; the call
     * must be ended all the same. */
    bool (*send)(struct srv_call *c, const ProtobufCMessage *message);
    void (*end)(struct srv_call *c);
    /* Whether its key still lets it; err says why not. One who streams asks
     * before each message, for keys are revoked meanwhile. */
    bool (*allowed)(struct srv_call *c, struct api_error *err);

    /* The handler's. Once something was sent, a client that leaves ends the
     * call: left is called, once, and c is gone when it returns. A handler
     * that sends must set it. */
    void (*left)(struct srv_call *c);
    void *user;
};

typedef void (*srv_handler_fn)(struct srv_call *c);

#endif
