/* Records that are messages, and embeddings by several models. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/store_sql.h"

static const char *const tables[] = {
    [SRV_TABLE_DATASET] = "dataset",
    [SRV_TABLE_JOB] = "job",
    [SRV_TABLE_MODEL] = "model",
};

/* ---- records ---- */

static enum ut_err put_one(struct srv_store *s, const struct srv_record *r,
                           struct ut_error *e)
{
    const char *table = tables[r->table];
    char sql[160];
    uint8_t *bytes;
    size_t len;
    enum ut_err rc;

    if (!r->message) {
        snprintf(sql, sizeof(sql), "DELETE FROM %s WHERE id = $1", table);
        return srv_sql_run_on(s, sql, SRV_ARGS(SRV_TEXT(r->id)), table, r->id,
                              e);
    }
    len = protobuf_c_message_get_packed_size(r->message);
    bytes = malloc(len + 1);
    if (!bytes)
        return ut_fail(e, UT_ENOMEM, "no memory for %s", r->id);
    protobuf_c_message_pack(r->message, bytes);
    snprintf(sql, sizeof(sql),
             "INSERT INTO %s (id, record) VALUES ($1, $2) ON CONFLICT (id)"
             " DO UPDATE SET record = $2",
             table);
    rc =
        srv_sql_run(s, sql, SRV_ARGS(SRV_TEXT(r->id), SRV_BLOB(bytes, len)), e);
    free(bytes);
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
    for (int i = 0; i < n && !rc; i++)
        rc = put_one(s, &records[i], e);
    return srv_sql_end(s, rc, actor, action, subject, "{}", e);
}

enum ut_err srv_store_change_over(struct srv_store *s, const char *actor,
                                  const char *version, const char *previous,
                                  const struct srv_record *records, int n,
                                  struct ut_error *e)
{
    enum ut_err rc = srv_store_begin(s, e);

    if (rc)
        return rc;
    rc = srv_sql_run(s,
                     "DELETE FROM embedding WHERE model_version NOT IN"
                     " ($1, $2)",
                     SRV_ARGS(SRV_TEXT(version), SRV_TEXT(previous)), e);
    if (!rc)
        rc = srv_store_put(s, actor, "model.activate", version, records, n, e);
    return srv_store_end(s, rc, e);
}

struct message_list {
    const ProtobufCMessageDescriptor *d;
    ProtobufCMessage **list;
    size_t n;
};

static enum ut_err read_message(struct srv_store *s, void *arg,
                                struct ut_error *e)
{
    struct message_list *l = arg;
    ProtobufCMessage **m =
        srv_sql_room(l->list, l->n, sizeof(ProtobufCMessage *));
    const void *bytes;
    size_t len;

    if (!m)
        return ut_fail(e, UT_ENOMEM, "no memory for a list");
    l->list = m;
    bytes = srv_sql_blob(s, 0, &len);
    m[l->n] = protobuf_c_message_unpack(l->d, NULL, len, bytes);
    if (!m[l->n])
        return ut_fail(e, UT_EFORMAT, "a stored %s cannot be read",
                       l->d->short_name);
    l->n++;
    return UT_OK;
}

void srv_messages_free(ProtobufCMessage **list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        protobuf_c_message_free_unpacked(list[i], NULL);
    free(list);
}

enum ut_err srv_store_get(struct srv_store *s, enum srv_table table,
                          const char *id, const ProtobufCMessageDescriptor *d,
                          ProtobufCMessage **out, struct ut_error *e)
{
    struct message_list l = {.d = d};
    char sql[80];
    enum ut_err rc;

    snprintf(sql, sizeof(sql), "SELECT record FROM %s WHERE id = $1",
             tables[table]);
    rc = srv_sql_one(s, sql, SRV_ARGS(SRV_TEXT(id)), read_message, &l,
                     tables[table], id, e);
    *out = rc ? NULL : l.list[0];
    srv_messages_free(l.list, rc ? l.n : 0);
    return rc;
}

enum ut_err srv_store_list(struct srv_store *s, enum srv_table table,
                           const ProtobufCMessageDescriptor *d,
                           ProtobufCMessage ***out, size_t *n,
                           struct ut_error *e)
{
    struct message_list l = {.d = d};
    char sql[80];
    enum ut_err rc;

    snprintf(sql, sizeof(sql), "SELECT record FROM %s ORDER BY seq",
             tables[table]);
    rc = srv_sql_each(s, sql, SRV_NO_ARGS, read_message, &l, e);
    if (rc) {
        srv_messages_free(l.list, l.n);
        l = (struct message_list){0};
    }
    *out = l.list;
    *n = l.n;
    return rc;
}

/* ---- embeddings ---- */

enum ut_err srv_sql_embed(struct srv_store *s, const char *face_id,
                          const char *version, const float *vector, int dim,
                          struct ut_error *e)
{
    /* Nothing is inserted for a face that is gone. */
    return srv_sql_run(s,
                       "INSERT INTO embedding (face_id, model_version, vector)"
                       " SELECT id, $2, $3 FROM face WHERE id = $1 ON CONFLICT"
                       " (face_id, model_version) DO UPDATE SET vector = $3",
                       SRV_ARGS(SRV_TEXT(face_id), SRV_TEXT(version),
                                SRV_BLOB(vector, (size_t)dim * sizeof(float))),
                       e);
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
    " embedding.model_version = $1)"

struct crop_list {
    struct srv_crop *list; /* the caller's, long enough */
    int n;
};

static enum ut_err read_crop(struct srv_store *s, void *arg, struct ut_error *e)
{
    struct crop_list *l = arg;
    struct srv_crop *x = &l->list[l->n];
    const void *png = srv_sql_blob(s, 2, &x->len);

    x->seq = srv_sql_int(s, 0);
    snprintf(x->face_id, sizeof(x->face_id), "%s", srv_sql_text(s, 1));
    x->png = malloc(x->len + 1);
    if (!x->png)
        return ut_fail(e, UT_ENOMEM, "no memory for crops");
    memcpy(x->png, png, x->len);
    l->n++;
    return UT_OK;
}

enum ut_err srv_store_crops(struct srv_store *s, const char *version,
                            int64_t after, int limit, struct srv_crop *out,
                            int *n, struct ut_error *e)
{
    struct crop_list l = {.list = out};
    enum ut_err rc = srv_sql_each(
        s,
        "SELECT seq, id, crop FROM face WHERE seq > $2 AND"
        " crop IS NOT NULL AND" UNEMBEDDED " ORDER BY seq LIMIT $3",
        SRV_ARGS(SRV_TEXT(version), SRV_INT(after), SRV_INT(limit)), read_crop,
        &l, e);

    if (rc)
        while (l.n)
            free(out[--l.n].png);
    *n = l.n;
    return rc;
}

enum ut_err srv_store_crops_count(struct srv_store *s, const char *version,
                                  int64_t *n, struct ut_error *e)
{
    return srv_sql_each(
        s, "SELECT count(*) FROM face WHERE crop IS NOT NULL AND" UNEMBEDDED,
        SRV_ARGS(SRV_TEXT(version)), srv_sql_read_int, n, e);
}

enum ut_err srv_store_unmatchable(struct srv_store *s, const char *version,
                                  int limit, struct srv_face **out, size_t *n,
                                  struct ut_error *e)
{
    return srv_sql_faces(
        s,
        "SELECT " SRV_SQL_FACE " FROM face WHERE crop IS NULL AND" UNEMBEDDED
        " ORDER BY seq LIMIT $2",
        SRV_ARGS(SRV_TEXT(version), SRV_INT(limit)), out, n, e);
}
