/* The store over SQLite: WAL, every commit synced, foreign keys, deleted
 * pages overwritten. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "server/store_sqlite.h"

/* What each schema adds to the one before. */
static const char *const schemas[] = {
    "CREATE TABLE identity (id TEXT PRIMARY KEY, name TEXT NOT NULL,"
    " external_id TEXT UNIQUE, consent_ref TEXT NOT NULL,"
    " created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL)"
    " WITHOUT ROWID;"
    "CREATE TABLE metadata (identity_id TEXT NOT NULL REFERENCES identity"
    " ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL,"
    " PRIMARY KEY (identity_id, key)) WITHOUT ROWID;"
    "CREATE TABLE face (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " identity_id TEXT NOT NULL REFERENCES identity ON DELETE CASCADE,"
    " model_version TEXT NOT NULL, x REAL, y REAL, w REAL, h REAL,"
    " quality INTEGER NOT NULL, embedding BLOB NOT NULL, crop BLOB,"
    " created_ms INTEGER NOT NULL);"
    "CREATE INDEX face_identity ON face (identity_id);"
    "CREATE TABLE api_key (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " name TEXT NOT NULL, role INTEGER NOT NULL, hash BLOB NOT NULL,"
    " created_ms INTEGER NOT NULL);"
    "CREATE TABLE audit (seq INTEGER PRIMARY KEY AUTOINCREMENT,"
    " at_ms INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,"
    " subject TEXT NOT NULL, detail TEXT NOT NULL);"
    "CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN"
    " SELECT RAISE(ABORT, 'the audit log is append-only'); END;"
    "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN"
    " SELECT RAISE(ABORT, 'the audit log is append-only'); END;"
    "PRAGMA user_version = 1;",

    /* An embedding for each model that a face was embedded by. */
    "CREATE TABLE embedding (seq INTEGER PRIMARY KEY, face_id TEXT NOT NULL"
    " REFERENCES face (id) ON DELETE CASCADE, model_version TEXT NOT NULL,"
    " vector BLOB NOT NULL, UNIQUE (face_id, model_version));"
    "INSERT INTO embedding (face_id, model_version, vector)"
    " SELECT id, model_version, embedding FROM face ORDER BY seq;"
    "ALTER TABLE face DROP COLUMN embedding;"
    /* record: the message of api/tscaf.proto. */
    "CREATE TABLE dataset (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " record BLOB NOT NULL);"
    "CREATE TABLE job (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " record BLOB NOT NULL);"
    "CREATE TABLE model (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " record BLOB NOT NULL);"
    "PRAGMA user_version = 2;",
};
#define SCHEMA_VERSION (int)(sizeof(schemas) / sizeof(schemas[0]))

/* ---- statements ---- */

enum ut_err srv_sql_fail(const struct srv_store *s, struct ut_error *e)
{
    int code = sqlite3_errcode(s->db);

    return ut_fail(e, code == SQLITE_NOMEM ? UT_ENOMEM : UT_EIO, "%s: %s",
                   s->path, sqlite3_errmsg(s->db));
}

static enum ut_err exec(struct srv_store *s, const char *sql,
                        struct ut_error *e)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) ? srv_sql_fail(s, e)
                                                      : UT_OK;
}

/* A statement with text arguments bound from 1 on; NULL after an error. */
sqlite3_stmt *srv_sql_prepare(struct srv_store *s, const char *sql, int n,
                              const char *const *texts, struct ut_error *e)
{
    sqlite3_stmt *st;

    if (sqlite3_prepare_v2(s->db, sql, -1, &st, NULL)) {
        srv_sql_fail(s, e);
        return NULL;
    }
    for (int i = 0; i < n; i++)
        if (texts[i])
            sqlite3_bind_text(st, i + 1, texts[i], -1, SQLITE_TRANSIENT);
    return st;
}

/* Steps a statement without rows and finalises it. */
enum ut_err srv_sql_finish(struct srv_store *s, sqlite3_stmt *st,
                           struct ut_error *e)
{
    enum ut_err rc = UT_OK;
    int code;

    if (!st)
        return e->code;
    code = sqlite3_step(st);
    if (code != SQLITE_DONE && code != SQLITE_ROW)
        rc = sqlite3_extended_errcode(s->db) == SQLITE_CONSTRAINT_UNIQUE
                 ? ut_fail(e, UT_EEXISTS, "it exists already")
                 : srv_sql_fail(s, e);
    sqlite3_finalize(st);
    return rc;
}

enum ut_err srv_sql_run(struct srv_store *s, const char *sql, int n,
                        const char *const *texts, struct ut_error *e)
{
    return srv_sql_finish(s, srv_sql_prepare(s, sql, n, texts, e), e);
}

char *srv_sql_text(sqlite3_stmt *st, int column)
{
    const char *text = (const char *)sqlite3_column_text(st, column);

    return strdup(text ? text : "");
}

void srv_sql_id(const char *prefix, char id[SRV_ID_LEN])
{
    uint8_t bytes[12];
    int at = snprintf(id, SRV_ID_LEN, "%s", prefix);

    randombytes_buf(bytes, sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i++)
        at += snprintf(id + at, SRV_ID_LEN - (size_t)at, "%02x", bytes[i]);
}

/* ---- transactions: the change and its audit line, or neither ---- */

enum ut_err srv_sql_begin(struct srv_store *s, struct ut_error *e)
{
    return exec(s, "BEGIN IMMEDIATE", e);
}

/* Ends the transaction; rc is how it went so far. */
enum ut_err srv_sql_end(struct srv_store *s, enum ut_err rc, const char *actor,
                        const char *action, const char *subject,
                        const char *detail, struct ut_error *e)
{
    const char *texts[] = {actor, action, subject, detail};
    sqlite3_stmt *st;

    if (!rc && actor) {
        st = srv_sql_prepare(
            s,
            "INSERT INTO audit (actor, action, subject, detail, at_ms)"
            " VALUES (?, ?, ?, ?, ?)",
            4, texts, e);
        if (st)
            sqlite3_bind_int64(st, 5, ut_clock_unix_ms());
        rc = srv_sql_finish(s, st, e);
    }
    if (!rc)
        rc = exec(s, "COMMIT", e);
    if (rc)
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

/* ---- opening ---- */

static enum ut_err migrate(struct srv_store *s, struct ut_error *e)
{
    sqlite3_stmt *st = srv_sql_prepare(s, "PRAGMA user_version", 0, NULL, e);
    int version;
    enum ut_err rc;

    if (!st)
        return e->code;
    version = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int(st, 0) : -1;
    sqlite3_finalize(st);
    if (version < 0)
        return srv_sql_fail(s, e);
    if (version > SCHEMA_VERSION)
        return ut_fail(e, UT_EFORMAT, "%s has schema %d; this program knows %d",
                       s->path, version, SCHEMA_VERSION);
    if (version == SCHEMA_VERSION)
        return UT_OK;
    rc = srv_sql_begin(s, e);
    for (int i = version; i < SCHEMA_VERSION && !rc; i++)
        rc = exec(s, schemas[i], e);
    if (!rc)
        rc = exec(s, "COMMIT", e);
    return rc;
}

enum ut_err srv_store_open(const char *dir, struct srv_store **out,
                           struct ut_error *e)
{
    struct srv_store *s = calloc(1, sizeof(*s));
    enum ut_err rc;

    *out = NULL;
    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for the store");
    if (mkdir(dir, 0700) && errno != EEXIST) {
        rc = ut_fail(e, UT_EIO, "%s: cannot be made: %m", dir);
        goto out;
    }
    snprintf(s->path, sizeof(s->path), "%s/tscaf.db", dir);
    if (sqlite3_open(s->path, &s->db)) {
        rc = srv_sql_fail(s, e);
        goto out;
    }
    sqlite3_extended_result_codes(s->db, 1);
    sqlite3_busy_timeout(s->db, 5000);
    rc = exec(s,
              "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
              "PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;",
              e);
    if (!rc)
        rc = migrate(s, e);
    if (!rc) {
        *out = s;
        s = NULL;
    }
out:
    srv_store_close(s);
    return rc;
}

void srv_store_close(struct srv_store *s)
{
    if (!s)
        return;
    sqlite3_close(s->db);
    free(s);
}
