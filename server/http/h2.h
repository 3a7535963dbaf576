#ifndef SERVER_H2_H
#define SERVER_H2_H

#include "server/http/http.h"

/* HTTP/2 on the loop, within limits, over TLS (ALPN: h2) or without it by prior
 * knowledge (h2c): the second listener, which gRPC needs for its trailers. Its
 * exchanges are server/http/http.h's, and so are its hooks and its config,
 * whose limits hold for each listener by itself. h2*.c alone know the HTTP/2
 * library.
 *
 * A connection that floods us with frames that ask for nothing but work (resets
 * among them: rapid reset), or that rests too long, is told to go away.
 * Thread: the loop, everything.
 * Source: https://www.rfc-editor.org/rfc/rfc9113 */

#define SRV_H2_MAX_STREAMS 128  /* of a connection, at once; others refused */
#define SRV_H2_WINDOW (1 << 20) /* bytes that a stream may bring unasked */
#define SRV_H2_BURST 500        /* idle frames: resets, pings, settings... */
#define SRV_H2_PER_SECOND 33    /* and how many more a second */

struct srv_h2;

/* Listens. Errors: UT_EIO naming the address; UT_EIO, UT_EFORMAT naming TLS's
 * files; UT_ENOMEM. */
UT_MUSTUSE enum ut_err srv_h2_new(uv_loop_t *loop,
                                  const struct srv_http_config *c,
                                  struct srv_h2 **out, struct ut_error *e);

/* Once every call has ended. Cuts what connections are left; the loop must
 * run on until its handles have closed. Accepts NULL. */
void srv_h2_free(struct srv_h2 *h);

int srv_h2_port(const struct srv_h2 *h);
size_t srv_h2_calls(const struct srv_h2 *h); /* handed to handle() */

/* Takes no more connections, tells the others to go away, answers what they
 * have asked and closes them; then calls drained (once, on the loop). */
void srv_h2_drain(struct srv_h2 *h, void (*drained)(void *arg), void *arg);

#endif
