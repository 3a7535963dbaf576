#ifndef SERVER_H2_TLS_H
#define SERVER_H2_TLS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"

/* TLS for HTTP/2's listener: between a socket's bytes and frames' bytes. It
 * moves none itself. h2_tls.c alone knows the TLS library. Thread: the loop.
 * Sources: https://www.rfc-editor.org/rfc/rfc9113#section-9.2 (TLS 1.2 or
 * later), https://www.rfc-editor.org/rfc/rfc7301 (ALPN: "h2") */

struct h2_tls;      /* a certificate and its key: a listener's */
struct h2_tls_conn; /* a connection's */

/* Reads both files, PEM; cert: the server's certificate, then those that lead
 * to a root. Errors: UT_EIO, UT_EFORMAT, naming the file; UT_ENOMEM. */
UT_MUSTUSE enum ut_err h2_tls_new(const char *cert, const char *key,
                                  struct h2_tls **out, struct ut_error *e);
void h2_tls_free(struct h2_tls *t); /* accepts NULL */

/* t outlives it. NULL: no memory. */
struct h2_tls_conn *h2_tls_open(struct h2_tls *t);
void h2_tls_close(struct h2_tls_conn *c); /* accepts NULL */

/* Whether the handshake is done, and h2_tls_out may be called. */
bool h2_tls_ready(const struct h2_tls_conn *c);

/* What came from the socket; plain (called any number of times) takes what is
 * in it, and says no by a negative number. UT_EIO: the connection is over, in
 * order or by a failure that e names; h2_tls_out may have a last word. */
UT_MUSTUSE enum ut_err
h2_tls_in(struct h2_tls_conn *c, const char *bytes, size_t len,
          ssize_t (*plain)(void *arg, const uint8_t *data, size_t len),
          void *arg, struct ut_error *e);

/* Seals what b holds, which is put in its place, with whatever else TLS has to
 * say, be b empty. False: no memory. */
UT_MUSTUSE bool h2_tls_out(struct h2_tls_conn *c, struct ut_buf *b);

/* Says once that no more will come. */
void h2_tls_bye(struct h2_tls_conn *c);

#endif
