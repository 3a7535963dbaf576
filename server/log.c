/* Lines are put together on the stack and written by one write(), so that
 * threads never mix theirs and nothing is allocated. */
#include "server/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"

struct srv_log {
    int fd; /* borrowed */
    enum srv_log_level level;
    pthread_mutex_t lock; /* for fds on which a write can be partial */
};

struct line {
    char text[SRV_LOG_MAX_LINE];
    size_t len;
};

/* What ends a line, and room for it. */
#define TAIL "}\n"
#define ROOM (SRV_LOG_MAX_LINE - sizeof(TAIL))

enum ut_err srv_log_new(int fd, enum srv_log_level level, struct srv_log **out,
                        struct ut_error *e)
{
    struct srv_log *log = calloc(1, sizeof(*log));

    *out = NULL;
    if (!log)
        return ut_fail(e, UT_ENOMEM, "no memory for the log");
    log->fd = fd;
    log->level = level;
    pthread_mutex_init(&log->lock, NULL);
    *out = log;
    return UT_OK;
}

void srv_log_free(struct srv_log *log)
{
    if (!log)
        return;
    pthread_mutex_destroy(&log->lock);
    free(log);
}

void srv_log_time(int64_t unix_ms, char out[SRV_LOG_TIME_LEN])
{
    time_t s = (time_t)(unix_ms / 1000);
    struct tm tm;
    size_t n;

    gmtime_r(&s, &tm);
    n = strftime(out, SRV_LOG_TIME_LEN, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, SRV_LOG_TIME_LEN - n, ".%03dZ", (int)(unix_ms % 1000));
}

/* Appends all of s or none of it. */
static bool put(struct line *l, const char *s, size_t len)
{
    if (len > ROOM - l->len)
        return false;
    memcpy(l->text + l->len, s, len);
    l->len += len;
    return true;
}

/* Appends a JSON string, whatever the bytes are; cut where the line is full. */
static void put_string(struct line *l, const char *s)
{
    const unsigned char *p = (const unsigned char *)s;

    if (!put(l, "\"", 1))
        return;
    while (*p) {
        char escaped[8];
        size_t n = (size_t)ut_utf8_len((const char *)p), len;

        if (n > 1 ||
            (n == 1 && *p >= 0x20 && *p != '"' && *p != '\\' && *p != 0x7F)) {
            memcpy(escaped, p, n);
            len = n;
        } else {
            len = (size_t)snprintf(escaped, sizeof(escaped), "\\u%04x", *p);
        }
        if (l->len + len + 1 > ROOM || !put(l, escaped, len))
            break;
        p += n ? n : 1;
    }
    put(l, "\"", 1);
}

/* ,"key":"value"; left out when it cannot fit at all. */
static void put_member(struct line *l, const char *key, const char *value)
{
    char head[64];
    int n = snprintf(head, sizeof(head), ",\"%s\":", key);

    if (l->len + (size_t)n + 2 > ROOM)
        return;
    put(l, head, (size_t)n);
    put_string(l, value);
}

static void put_number(struct line *l, const char *key, double value,
                       int digits)
{
    char text[96];
    int n = snprintf(text, sizeof(text), ",\"%s\":%.*f", key, digits, value);

    put(l, text, (size_t)n);
}

static void start(struct line *l, enum srv_log_level level,
                  const char *request_id)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    char when[SRV_LOG_TIME_LEN];

    l->len = 0;
    srv_log_time(ut_clock_unix_ms(), when);
    put(l, "{\"time\":", 8);
    put_string(l, when);
    put_member(l, "level", names[level]);
    if (request_id && *request_id)
        put_member(l, "request_id", request_id);
}

static void finish(struct srv_log *log, struct line *l)
{
    size_t done = 0;

    memcpy(l->text + l->len, TAIL, sizeof(TAIL) - 1);
    l->len += sizeof(TAIL) - 1;
    pthread_mutex_lock(&log->lock);
    while (done < l->len) {
        ssize_t n = write(log->fd, l->text + done, l->len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break; /* nowhere to say that the log is gone */
        done += (size_t)n;
    }
    pthread_mutex_unlock(&log->lock);
}

void srv_log_line(struct srv_log *log, enum srv_log_level level,
                  const char *request_id, const char *fmt, ...)
{
    char text[SRV_LOG_MAX_LINE / 2];
    struct line l;
    va_list args;

    if (!log || level > log->level)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    start(&l, level, request_id);
    put_member(&l, "message", text);
    finish(log, &l);
}

void srv_log_request(struct srv_log *log, const struct srv_log_request *r)
{
    enum srv_log_level level =
        r->status >= 500 && r->status != 503 ? SRV_LOG_ERROR : SRV_LOG_INFO;
    struct line l;

    if (!log || level > log->level)
        return;
    start(&l, level, r->request_id);
    put_member(&l, "message", "request");
    put_number(&l, "status", r->status, 0);
    put_number(&l, "ms", (double)r->us / 1000, 3);
    put_number(&l, "bytes_in", (double)r->bytes_in, 0);
    put_number(&l, "bytes_out", (double)r->bytes_out, 0);
    put_member(&l, "method", r->method);
    put_member(&l, "peer", r->peer);
    if (*r->actor)
        put_member(&l, "actor", r->actor);
    put_member(&l, "path", r->path);
    finish(log, &l);
}
