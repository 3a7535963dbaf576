/* Keys, and the audit log. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/store_sqlite.h"

/* ---- keys ---- */

void srv_key_fini(struct srv_key *x)
{
    free(x->name);
    memset(x, 0, sizeof(*x));
}

enum ut_err srv_store_key_create(struct srv_store *s, const char *actor,
                                 struct srv_key *x, struct ut_error *e)
{
    const char *texts[] = {x->id, x->name};
    sqlite3_stmt *st;
    enum ut_err rc = srv_sql_begin(s, e);

    if (rc)
        return rc;
    srv_sql_id("key_", x->id);
    x->created_ms = ut_clock_unix_ms();
    st =
        srv_sql_prepare(s,
                        "INSERT INTO api_key (id, name, role, hash, created_ms)"
                        " VALUES (?, ?, ?, ?, ?)",
                        2, texts, e);
    if (st) {
        sqlite3_bind_int(st, 3, x->role);
        sqlite3_bind_blob(st, 4, x->hash, sizeof(x->hash), SQLITE_TRANSIENT);
        sqlite3_bind_int64(st, 5, x->created_ms);
    }
    rc = srv_sql_finish(s, st, e);
    return srv_sql_end(s, rc, actor, "key.create", x->id, "{}", e);
}

enum ut_err srv_store_key_list(struct srv_store *s, struct srv_key **out,
                               size_t *n, struct ut_error *e)
{
    sqlite3_stmt *st = srv_sql_prepare(
        s, "SELECT id, name, role, hash, created_ms FROM api_key ORDER BY seq",
        0, NULL, e);
    struct srv_key *more;
    int code;

    *out = NULL;
    *n = 0;
    if (!st)
        return e->code;
    while ((code = sqlite3_step(st)) == SQLITE_ROW) {
        struct srv_key x = {.name = srv_sql_text(st, 1),
                            .role = sqlite3_column_int(st, 2),
                            .created_ms = sqlite3_column_int64(st, 4)};

        more = realloc(*out, (*n + 1) * sizeof(**out));
        if (!more || !x.name || sqlite3_column_bytes(st, 3) != 32) {
            free(x.name);
            break;
        }
        snprintf(x.id, sizeof(x.id), "%s",
                 (const char *)sqlite3_column_text(st, 0));
        memcpy(x.hash, sqlite3_column_blob(st, 3), sizeof(x.hash));
        *out = more;
        more[(*n)++] = x;
    }
    sqlite3_finalize(st);
    if (code == SQLITE_DONE)
        return UT_OK;
    while (*n)
        srv_key_fini(&(*out)[--*n]);
    free(*out);
    *out = NULL;
    return ut_fail(e, UT_EIO, "%s: the keys cannot be read", s->path);
}

enum ut_err srv_store_key_delete(struct srv_store *s, const char *actor,
                                 const char *id, struct ut_error *e)
{
    enum ut_err rc = srv_sql_begin(s, e);

    if (rc)
        return rc;
    rc = srv_sql_run(s, "DELETE FROM api_key WHERE id = ?", 1, &id, e);
    if (!rc && !sqlite3_changes(s->db))
        rc = ut_fail(e, UT_ENOTFOUND, "there is no key \"%.64s\"", id);
    return srv_sql_end(s, rc, actor, "key.delete", id, "{}", e);
}

/* ---- the audit log ---- */

void srv_audit_fini(struct srv_audit *x)
{
    free(x->actor);
    free(x->action);
    free(x->subject);
    free(x->detail);
    memset(x, 0, sizeof(*x));
}

enum ut_err srv_store_audit_list(struct srv_store *s, uint64_t before,
                                 uint32_t limit, struct srv_audit **out,
                                 size_t *n, struct ut_error *e)
{
    sqlite3_stmt *st = srv_sql_prepare(
        s,
        "SELECT seq, at_ms, actor, action, subject, detail FROM audit"
        " WHERE ?1 = 0 OR seq < ?1 ORDER BY seq DESC LIMIT ?2",
        0, NULL, e);
    int code = SQLITE_NOMEM;

    *n = 0;
    *out = st ? calloc((size_t)limit + 1, sizeof(**out)) : NULL;
    if (!st)
        return e->code;
    sqlite3_bind_int64(st, 1, (int64_t)before);
    sqlite3_bind_int64(st, 2, limit);
    while (*out && (code = sqlite3_step(st)) == SQLITE_ROW) {
        struct srv_audit *x = &(*out)[(*n)++];

        x->seq = (uint64_t)sqlite3_column_int64(st, 0);
        x->at_ms = sqlite3_column_int64(st, 1);
        x->actor = srv_sql_text(st, 2);
        x->action = srv_sql_text(st, 3);
        x->subject = srv_sql_text(st, 4);
        x->detail = srv_sql_text(st, 5);
    }
    sqlite3_finalize(st);
    if (code == SQLITE_DONE)
        return UT_OK;
    while (*n)
        srv_audit_fini(&(*out)[--*n]);
    free(*out);
    *out = NULL;
    return srv_sql_fail(s, e);
}
