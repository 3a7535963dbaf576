/* The store over either database: opening, transactions, rows. */
#include "server/store/store_sql.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"

void srv_store_new_id(const char *prefix, char id[SRV_ID_LEN])
{
    uint8_t bytes[12];
    int at = snprintf(id, SRV_ID_LEN, "%s", prefix);

    randombytes_buf(bytes, sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i++)
        at += snprintf(id + at, SRV_ID_LEN - (size_t)at, "%02x", bytes[i]);
}

/* ---- statements ---- */

enum ut_err srv_sql_run(struct srv_store *s, const char *sql,
                        const struct srv_value *args, int n_args,
                        struct ut_error *e)
{
    int64_t n;

    return s->ops->query(s, sql, args, n_args, NULL, NULL, &n, e);
}

enum ut_err srv_sql_each(struct srv_store *s, const char *sql,
                         const struct srv_value *args, int n_args,
                         srv_sql_row_fn fn, void *arg, struct ut_error *e)
{
    int64_t n;

    return s->ops->query(s, sql, args, n_args, fn, arg, &n, e);
}

enum ut_err srv_sql_one(struct srv_store *s, const char *sql,
                        const struct srv_value *args, int n_args,
                        srv_sql_row_fn fn, void *arg, const char *what,
                        const char *id, struct ut_error *e)
{
    int64_t n;
    enum ut_err rc = s->ops->query(s, sql, args, n_args, fn, arg, &n, e);

    return rc || n
               ? rc
               : ut_fail(e, UT_ENOTFOUND, "there is no %s \"%.64s\"", what, id);
}

enum ut_err srv_sql_run_on(struct srv_store *s, const char *sql,
                           const struct srv_value *args, int n_args,
                           const char *what, const char *id, struct ut_error *e)
{
    return srv_sql_one(s, sql, args, n_args, NULL, NULL, what, id, e);
}

/* ---- columns ---- */

int64_t srv_sql_int(struct srv_store *s, int column)
{
    return s->ops->column(s, column, SRV_VALUE_INT).number;
}

enum ut_err srv_sql_read_int(struct srv_store *s, void *arg, struct ut_error *e)
{
    (void)e;
    *(int64_t *)arg = srv_sql_int(s, 0);
    return UT_OK;
}

double srv_sql_real(struct srv_store *s, int column)
{
    return s->ops->column(s, column, SRV_VALUE_REAL).real;
}

const char *srv_sql_text(struct srv_store *s, int column)
{
    const char *text = s->ops->column(s, column, SRV_VALUE_TEXT).data;

    return text ? text : "";
}

char *srv_sql_dup(struct srv_store *s, int column)
{
    return strdup(srv_sql_text(s, column));
}

const void *srv_sql_blob(struct srv_store *s, int column, size_t *len)
{
    struct srv_value v = s->ops->column(s, column, SRV_VALUE_BLOB);

    *len = v.len;
    return v.data;
}

void *srv_sql_room(void *list, size_t n, size_t size)
{
    char *more = realloc(list, (n + 1) * size);

    if (more)
        memset(more + n * size, 0, size);
    return more;
}

/* ---- transactions: the change and its audit line, or neither ---- */

enum ut_err srv_sql_begin(struct srv_store *s, struct ut_error *e)
{
    enum ut_err rc = s->depth ? UT_OK : s->ops->begin(s, e);

    s->depth += !rc;
    return rc;
}

enum ut_err srv_sql_end(struct srv_store *s, enum ut_err rc, const char *actor,
                        const char *action, const char *subject,
                        const char *detail, struct ut_error *e)
{
    if (!rc && actor)
        rc = srv_sql_run(
            s,
            "INSERT INTO audit (actor, action, subject, detail, at_ms)"
            " VALUES ($1, $2, $3, $4, $5)",
            SRV_ARGS(SRV_TEXT(actor), SRV_TEXT(action), SRV_TEXT(subject),
                     SRV_TEXT(detail), SRV_INT(ut_clock_unix_ms())),
            e);
    if (--s->depth)
        return rc;
    if (!rc)
        rc = s->ops->commit(s, e);
    if (rc)
        s->ops->rollback(s);
    return rc;
}

enum ut_err srv_store_begin(struct srv_store *s, struct ut_error *e)
{
    return srv_sql_begin(s, e);
}

enum ut_err srv_store_end(struct srv_store *s, enum ut_err rc,
                          struct ut_error *e)
{
    return srv_sql_end(s, rc, NULL, NULL, NULL, NULL, e);
}

/* ---- other servers ---- */

bool srv_store_shared(const struct srv_store *s)
{
    return s->ops->wait != NULL;
}

enum ut_err srv_store_wait(struct srv_store *s, int wake_fd, int timeout_ms,
                           struct ut_error *e)
{
    return s->ops->wait(s, wake_fd, timeout_ms, e);
}

/* ---- opening ---- */

/* What is missing, in one transaction; another server may be at it too. */
static enum ut_err migrate(struct srv_store *s, struct ut_error *e)
{
    const int known = s->ops->n_schemas;
    int64_t version;
    enum ut_err rc = s->ops->version(s, &version, e);

    if (!rc && version < known) {
        rc = srv_sql_begin(s, e);
        if (rc)
            return rc;
        rc = s->ops->version(s, &version, e);
        for (int64_t i = version; i < known && !rc; i++)
            rc = s->ops->exec(s, s->ops->schemas[i], e);
        rc = srv_sql_end(s, rc, NULL, NULL, NULL, NULL, e);
    }
    if (!rc && version > known)
        rc = ut_fail(e, UT_EFORMAT, "%s has schema %d; this program knows %d",
                     s->where, (int)version, known);
    return rc;
}

enum ut_err srv_store_open(const char *dir, const char *url,
                           struct srv_store **out, struct ut_error *e)
{
    struct srv_store *s = calloc(1, sizeof(*s));
    enum ut_err rc;

    *out = NULL;
    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for the store");
    if (mkdir(dir, 0700) && errno != EEXIST)
        rc = ut_fail(e, UT_EIO, "%s: cannot be made: %m", dir);
    else
        rc = url ? srv_postgres_open(s, url, e) : srv_sqlite_open(s, dir, e);
    if (!rc)
        rc = migrate(s, e);
    if (rc)
        srv_store_close(s);
    else
        *out = s;
    return rc;
}

void srv_store_close(struct srv_store *s)
{
    if (!s)
        return;
    if (s->db)
        s->ops->close(s);
    free(s);
}
