#ifndef SERVER_HTTP_EXCHANGE_H
#define SERVER_HTTP_EXCHANGE_H

#include <stdarg.h>

#include "server/http/http.h"

/* What both listeners do alike with an exchange. Thread: the loop. */

/* Bytes of an answer that wait, whole or to a message of a duplex exchange:
 * whoever makes it has a smaller limit. */
#define SRV_HTTP_MAX_ANSWER ((size_t)1 << 31)

/* Sets x's id: the client's if it is one that can be logged and echoed, else
 * a random one. */
void srv_http_pick_id(struct srv_http_exchange *x);

/* Answers x for the listener itself, which counts why. */
void srv_http_refuse(const struct srv_http_config *c,
                     struct srv_http_exchange *x, enum srv_reject why,
                     enum api_code code, int status, const char *fmt,
                     va_list args) __attribute__((format(printf, 6, 0)));

#endif
