/* Records that are messages, and embeddings by several models. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/store_sqlite.h"

static const char *const tables[] = {
    [SRV_TABLE_DATASET] = "dataset",
    [SRV_TABLE_JOB] = "job",
    [SRV_TABLE_MODEL] = "model",
};

void srv_store_new_id(const char *prefix, char id[SRV_ID_LEN])
{
    srv_sql_id(prefix, id);
}

/* ---- records ---- */

static enum ut_err no_record(enum srv_table table, const char *id,
                             struct ut_error *e)
{
    return ut_fail(e, UT_ENOTFOUND, "there is no %s \"%.64s\"", tables[table],
                   id);
}

static enum ut_err put_one(struct srv_store *s, const struct srv_record *r,
                           struct ut_error *e)
{
    char sql[160];
    sqlite3_stmt *st;
    uint8_t *bytes;
    size_t len;
    enum ut_err rc;

    if (!r->message) {
        snprintf(sql, sizeof(sql), "DELETE FROM %s WHERE id = ?",
                 tables[r->table]);
        rc = srv_sql_run(s, sql, 1, &r->id, e);
        return !rc && !sqlite3_changes(s->db) ? no_record(r->table, r->id, e)
                                              : rc;
    }
    len = protobuf_c_message_get_packed_size(r->message);
    bytes = malloc(len + 1);
    if (!bytes)
        return ut_fail(e, UT_ENOMEM, "no memory for %s", r->id);
    protobuf_c_message_pack(r->message, bytes);
    snprintf(sql, sizeof(sql),
             "INSERT INTO %s (id, record) VALUES (?1, ?2) ON CONFLICT (id)"
             " DO UPDATE SET record = ?2",
             tables[r->table]);
    st = srv_sql_prepare(s, sql, 1, &r->id, e);
    if (st)
        sqlite3_bind_blob(st, 2, bytes, (int)len, SQLITE_TRANSIENT);
    free(bytes);
    return srv_sql_finish(s, st, e);
}

static enum ut_err put_all(struct srv_store *s,
                           const struct srv_record *records, int n,
                           struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (int i = 0; i < n && !rc; i++)
        rc = put_one(s, &records[i], e);
    return rc;
}

enum ut_err srv_store_put(struct srv_store *s, const char *actor,
                          const char *action, const char *subject,
                          const struct srv_record *records, int n,
                          struct ut_error *e)
{
    enum ut_err rc = srv_sql_begin(s, e);

    if (rc)
        return rc;
    rc = put_all(s, records, n, e);
    return srv_sql_end(s, rc, actor, action, subject, "{}", e);
}

enum ut_err srv_store_change_over(struct srv_store *s, const char *actor,
                                  const char *version, const char *previous,
                                  const struct srv_record *records, int n,
                                  struct ut_error *e)
{
    const char *keep[] = {version, previous};
    enum ut_err rc = srv_sql_begin(s, e);

    if (rc)
        return rc;
    rc = put_all(s, records, n, e);
    if (!rc)
        rc = srv_sql_run(
            s, "DELETE FROM embedding WHERE model_version NOT IN (?, ?)", 2,
            keep, e);
    return srv_sql_end(s, rc, actor, "model.activate", version, "{}", e);
}

static enum ut_err unpack(sqlite3_stmt *st, const ProtobufCMessageDescriptor *d,
                          ProtobufCMessage **out, struct ut_error *e)
{
    *out =
        protobuf_c_message_unpack(d, NULL, (size_t)sqlite3_column_bytes(st, 0),
                                  sqlite3_column_blob(st, 0));
    return *out ? UT_OK
                : ut_fail(e, UT_EFORMAT, "a stored %s cannot be read",
                          d->short_name);
}

enum ut_err srv_store_get(struct srv_store *s, enum srv_table table,
                          const char *id, const ProtobufCMessageDescriptor *d,
                          ProtobufCMessage **out, struct ut_error *e)
{
    char sql[80];
    sqlite3_stmt *st;
    enum ut_err rc;
    int code;

    *out = NULL;
    snprintf(sql, sizeof(sql), "SELECT record FROM %s WHERE id = ?",
             tables[table]);
    st = srv_sql_prepare(s, sql, 1, &id, e);
    if (!st)
        return e->code;
    code = sqlite3_step(st);
    rc = code == SQLITE_ROW    ? unpack(st, d, out, e)
         : code == SQLITE_DONE ? no_record(table, id, e)
                               : srv_sql_fail(s, e);
    sqlite3_finalize(st);
    return rc;
}

void srv_messages_free(ProtobufCMessage **list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        protobuf_c_message_free_unpacked(list[i], NULL);
    free(list);
}

enum ut_err srv_store_list(struct srv_store *s, enum srv_table table,
                           const ProtobufCMessageDescriptor *d,
                           ProtobufCMessage ***out, size_t *n,
                           struct ut_error *e)
{
    char sql[80];
    sqlite3_stmt *st;
    enum ut_err rc = UT_OK;
    int code = SQLITE_DONE;

    *out = NULL;
    *n = 0;
    snprintf(sql, sizeof(sql), "SELECT record FROM %s ORDER BY seq",
             tables[table]);
    st = srv_sql_prepare(s, sql, 0, NULL, e);
    if (!st)
        return e->code;
    while (!rc && (code = sqlite3_step(st)) == SQLITE_ROW) {
        ProtobufCMessage **more =
            realloc(*out, (*n + 1) * sizeof(ProtobufCMessage *));

        if (!more) {
            rc = ut_fail(e, UT_ENOMEM, "no memory for a list");
            break;
        }
        *out = more;
        rc = unpack(st, d, &more[*n], e);
        *n += !rc;
    }
    if (!rc && code != SQLITE_DONE)
        rc = srv_sql_fail(s, e);
    sqlite3_finalize(st);
    if (rc) {
        srv_messages_free(*out, *n);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

/* ---- embeddings ---- */

enum ut_err srv_sql_embed(struct srv_store *s, const char *face_id,
                          const char *version, const float *vector, int dim,
                          struct ut_error *e)
{
    const char *texts[] = {face_id, version};
    /* Nothing is inserted for a face that is gone. */
    sqlite3_stmt *st =
        srv_sql_prepare(s,
                        "INSERT INTO embedding (face_id, model_version, vector)"
                        " SELECT id, ?2, ?3 FROM face WHERE id = ?1 ON CONFLICT"
                        " (face_id, model_version) DO UPDATE SET vector = ?3",
                        2, texts, e);

    if (st)
        sqlite3_bind_blob(st, 3, vector, dim * 4, SQLITE_TRANSIENT);
    return srv_sql_finish(s, st, e);
}

enum ut_err srv_store_embed(struct srv_store *s, const char *version,
                            const struct srv_crop *faces,
                            const float *embeddings, int n, int dim,
                            struct ut_error *e)
{
    enum ut_err rc = srv_sql_begin(s, e);

    if (rc)
        return rc;
    for (int i = 0; i < n && !rc; i++)
        rc = srv_sql_embed(s, faces[i].face_id, version,
                           embeddings + (size_t)i * (size_t)dim, dim, e);
    return srv_sql_end(s, rc, NULL, NULL, NULL, NULL, e);
}

#define UNEMBEDDED                                                             \
    " NOT EXISTS (SELECT 1 FROM embedding WHERE face_id = face.id AND"         \
    " model_version = ?1)"

enum ut_err srv_store_crops(struct srv_store *s, const char *version,
                            int64_t after, int limit, struct srv_crop *out,
                            int *n, struct ut_error *e)
{
    sqlite3_stmt *st = srv_sql_prepare(
        s,
        "SELECT seq, id, crop FROM face WHERE seq > ?2 AND"
        " crop IS NOT NULL AND" UNEMBEDDED " ORDER BY seq LIMIT ?3",
        1, &version, e);
    int code = SQLITE_DONE;

    *n = 0;
    if (!st)
        return e->code;
    sqlite3_bind_int64(st, 2, after);
    sqlite3_bind_int(st, 3, limit);
    while ((code = sqlite3_step(st)) == SQLITE_ROW) {
        struct srv_crop *x = &out[*n];

        x->seq = sqlite3_column_int64(st, 0);
        snprintf(x->face_id, sizeof(x->face_id), "%s",
                 (const char *)sqlite3_column_text(st, 1));
        x->len = (size_t)sqlite3_column_bytes(st, 2);
        x->png = malloc(x->len + 1);
        if (!x->png)
            break;
        memcpy(x->png, sqlite3_column_blob(st, 2), x->len);
        ++*n;
    }
    sqlite3_finalize(st);
    if (code == SQLITE_DONE)
        return UT_OK;
    while (*n)
        free(out[--*n].png);
    return code == SQLITE_ROW ? ut_fail(e, UT_ENOMEM, "no memory for crops")
                              : srv_sql_fail(s, e);
}

enum ut_err srv_store_crops_count(struct srv_store *s, const char *version,
                                  int64_t *n, struct ut_error *e)
{
    sqlite3_stmt *st = srv_sql_prepare(
        s, "SELECT count(*) FROM face WHERE crop IS NOT NULL AND" UNEMBEDDED, 1,
        &version, e);
    enum ut_err rc = UT_OK;

    if (!st)
        return e->code;
    if (sqlite3_step(st) == SQLITE_ROW)
        *n = sqlite3_column_int64(st, 0);
    else
        rc = srv_sql_fail(s, e);
    sqlite3_finalize(st);
    return rc;
}

enum ut_err srv_store_unmatchable(struct srv_store *s, const char *version,
                                  int limit, struct srv_face **out, size_t *n,
                                  struct ut_error *e)
{
    sqlite3_stmt *st = srv_sql_prepare(
        s,
        "SELECT " SRV_SQL_FACE " FROM face WHERE crop IS NULL AND" UNEMBEDDED
        " ORDER BY seq LIMIT ?2",
        1, &version, e);
    int code = SQLITE_NOMEM;

    *n = 0;
    *out = st ? calloc((size_t)limit + 1, sizeof(**out)) : NULL;
    if (!st)
        return e->code;
    sqlite3_bind_int(st, 2, limit);
    while (*out && (code = sqlite3_step(st)) == SQLITE_ROW)
        srv_sql_read_face(st, &(*out)[(*n)++]);
    sqlite3_finalize(st);
    if (code == SQLITE_DONE)
        return UT_OK;
    free(*out);
    *out = NULL;
    *n = 0;
    return srv_sql_fail(s, e);
}
