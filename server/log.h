#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* JSON lines, one write each. Thread: any. */

enum srv_log_level {
    SRV_LOG_ERROR, /* the operator must act          */
    SRV_LOG_WARN,  /* something is not as it should  */
    SRV_LOG_INFO,  /* start, stop and every request  */
    SRV_LOG_DEBUG
};

#define SRV_LOG_MAX_LINE 4096 /* bytes; longer texts are cut */

struct srv_log;

/* Lines go to fd (borrowed), those above level nowhere. */
UT_MUSTUSE enum ut_err srv_log_new(int fd, enum srv_log_level level,
                                   struct srv_log **out, struct ut_error *e);
void srv_log_free(struct srv_log *log); /* accepts NULL */

/* {"time":...,"level":...,"request_id":...,"message":...}; request_id may be
 * NULL, and so may log (nothing is written). */
void srv_log_line(struct srv_log *log, enum srv_log_level level,
                  const char *request_id, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* One request's line. Paths and texts of clients are escaped; bodies, query
 * values and secrets are never logged. */
struct srv_log_request {
    const char *request_id, *method, *path, *peer, *actor;
    int status;
    size_t bytes_in, bytes_out;
    int64_t us; /* from the first byte to the answer */
};
void srv_log_request(struct srv_log *log, const struct srv_log_request *r);

/* "2026-01-31T12:00:00.000Z" of Unix milliseconds. */
#define SRV_LOG_TIME_LEN 32
void srv_log_time(int64_t unix_ms, char out[SRV_LOG_TIME_LEN]);

#endif
