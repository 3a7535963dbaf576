#ifndef SERVER_CONSOLE_H
#define SERVER_CONSOLE_H

#include "server/http/http.h"

/* The console's files, client/console/, as they were when the program was
 * built: "/" is index.html, "/console/NAME" each of the others. Everything
 * else goes on to the hooks behind; nothing here knows the API. Thread: the
 * loop. */

struct srv_console;

/* behind, log and metrics (which may be NULL) outlive it. Errors: UT_ENOMEM. */
UT_MUSTUSE enum ut_err srv_console_new(const struct srv_http_hooks *behind,
                                       struct srv_log *log,
                                       struct srv_metrics *metrics,
                                       struct srv_console **out,
                                       struct ut_error *e);
void srv_console_free(struct srv_console *c); /* accepts NULL */

/* For struct srv_http_config. */
struct srv_http_hooks srv_console_hooks(struct srv_console *c);

#endif
