/* SQLite: WAL, every commit synced, foreign keys, deleted pages overwritten. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/store_sql.h"

#define PATIENCE_MS 5000 /* with another writer of the file */

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

struct db {
    sqlite3 *db;
    sqlite3_stmt *row; /* the statement whose row is at hand */
};

static enum ut_err fail(struct srv_store *s, struct ut_error *e)
{
    struct db *d = s->db;
    int code = sqlite3_errcode(d->db);

    if (sqlite3_extended_errcode(d->db) == SQLITE_CONSTRAINT_UNIQUE)
        return ut_fail(e, UT_EEXISTS, "it exists already");
    if (code == SQLITE_BUSY)
        return ut_fail(e, UT_EBUSY, "%s: another has been writing for %d ms",
                       s->where, PATIENCE_MS);
    return ut_fail(e, code == SQLITE_NOMEM ? UT_ENOMEM : UT_EIO, "%s: %s",
                   s->where, sqlite3_errmsg(d->db));
}

static enum ut_err exec(struct srv_store *s, const char *sql,
                        struct ut_error *e)
{
    struct db *d = s->db;

    return sqlite3_exec(d->db, sql, NULL, NULL, NULL) ? fail(s, e) : UT_OK;
}

static enum ut_err begin(struct srv_store *s, struct ut_error *e)
{
    return exec(s, "BEGIN IMMEDIATE", e);
}

static enum ut_err commit(struct srv_store *s, struct ut_error *e)
{
    return exec(s, "COMMIT", e);
}

static void rollback(struct srv_store *s)
{
    struct ut_error e;

    (void)!exec(s, "ROLLBACK", &e);
}

static void bind(sqlite3_stmt *st, int number, const struct srv_value *v)
{
    char name[8];
    int at;

    /* To SQLite $1 is a name. */
    snprintf(name, sizeof(name), "$%d", number);
    at = sqlite3_bind_parameter_index(st, name);
    switch (v->kind) {
    case SRV_VALUE_TEXT:
        sqlite3_bind_text(st, at, v->data, -1, SQLITE_STATIC);
        break;
    case SRV_VALUE_INT:
        sqlite3_bind_int64(st, at, v->number);
        break;
    case SRV_VALUE_REAL:
        sqlite3_bind_double(st, at, v->real);
        break;
    case SRV_VALUE_BLOB:
        sqlite3_bind_blob(st, at, v->data, (int)v->len, SQLITE_STATIC);
        break;
    }
}

static enum ut_err query(struct srv_store *s, const char *sql,
                         const struct srv_value *args, int n_args,
                         srv_sql_row_fn fn, void *arg, int64_t *n,
                         struct ut_error *e)
{
    struct db *d = s->db;
    sqlite3_stmt *st;
    enum ut_err rc = UT_OK;
    int code;

    *n = 0;
    if (sqlite3_prepare_v2(d->db, sql, -1, &st, NULL))
        return fail(s, e);
    for (int i = 0; i < n_args; i++)
        bind(st, i + 1, &args[i]);
    d->row = st;
    while (!rc && (code = sqlite3_step(st)) != SQLITE_DONE) {
        rc = code == SQLITE_ROW ? fn(s, arg, e) : fail(s, e);
        ++*n;
    }
    d->row = NULL;
    sqlite3_finalize(st);
    if (!fn)
        *n = sqlite3_changes(d->db);
    return rc;
}

static struct srv_value column(struct srv_store *s, int i,
                               enum srv_value_kind kind)
{
    sqlite3_stmt *st = ((struct db *)s->db)->row;
    struct srv_value v = {.kind = kind};

    switch (kind) {
    case SRV_VALUE_TEXT:
        v.data = sqlite3_column_text(st, i);
        break;
    case SRV_VALUE_INT:
        v.number = sqlite3_column_int64(st, i);
        return v;
    case SRV_VALUE_REAL:
        v.real = sqlite3_column_double(st, i);
        return v;
    case SRV_VALUE_BLOB:
        v.data = sqlite3_column_blob(st, i);
        break;
    }
    v.len = (size_t)sqlite3_column_bytes(st, i);
    return v;
}

static enum ut_err version(struct srv_store *s, int64_t *out,
                           struct ut_error *e)
{
    return srv_sql_each(s, "PRAGMA user_version", SRV_NO_ARGS, srv_sql_read_int,
                        out, e);
}

static void close_db(struct srv_store *s)
{
    struct db *d = s->db;

    sqlite3_close(d->db);
    free(d);
}

static const struct srv_sql_ops ops = {
    .schemas = schemas,
    .n_schemas = sizeof(schemas) / sizeof(schemas[0]),
    .version = version,
    .exec = exec,
    .begin = begin,
    .commit = commit,
    .rollback = rollback,
    .query = query,
    .column = column,
    .close = close_db,
};

enum ut_err srv_sqlite_open(struct srv_store *s, const char *dir,
                            struct ut_error *e)
{
    int len = snprintf(s->where, sizeof(s->where), "%s/" SRV_STORE_FILE, dir);
    struct db *d;

    if ((size_t)len >= sizeof(s->where)) /* cut, it would be another's */
        return ut_fail(e, UT_EINVAL,
                       "%.60s...: the database's path has %d bytes, the limit "
                       "is %zu",
                       dir, len, sizeof(s->where) - 1);
    d = calloc(1, sizeof(*d));
    if (!d)
        return ut_fail(e, UT_ENOMEM, "no memory for the store");
    s->ops = &ops;
    s->db = d;
    if (sqlite3_open(s->where, &d->db))
        return fail(s, e);
    sqlite3_extended_result_codes(d->db, 1);
    sqlite3_busy_timeout(d->db, PATIENCE_MS);
    return exec(s,
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                "PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;",
                e);
}
