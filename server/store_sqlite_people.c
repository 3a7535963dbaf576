/* Identities and their faces. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/store_sqlite.h"

/* ---- identities ---- */

void srv_identity_fini(struct srv_identity *x)
{
    free(x->name);
    free(x->external_id);
    free(x->consent_ref);
    for (size_t i = 0; i < x->n_metadata; i++) {
        free(x->metadata[i].key);
        free(x->metadata[i].value);
    }
    free(x->metadata);
    memset(x, 0, sizeof(*x));
}

static enum ut_err write_metadata(struct srv_store *s,
                                  const struct srv_identity *x,
                                  struct ut_error *e)
{
    const char *id[] = {x->id};
    enum ut_err rc =
        srv_sql_run(s, "DELETE FROM metadata WHERE identity_id = ?", 1, id, e);

    for (size_t i = 0; i < x->n_metadata && !rc; i++) {
        const char *texts[] = {x->id, x->metadata[i].key, x->metadata[i].value};

        rc = srv_sql_run(s, "INSERT INTO metadata VALUES (?, ?, ?)", 3, texts,
                         e);
    }
    return rc;
}

static enum ut_err explain(enum ut_err rc, const struct srv_identity *x,
                           struct ut_error *e)
{
    return rc == UT_EEXISTS
               ? ut_fail(e, rc,
                         "external_id \"%.100s\" belongs to another "
                         "identity",
                         x->external_id)
               : rc;
}

enum ut_err srv_store_identity_create(struct srv_store *s, const char *actor,
                                      struct srv_identity *x,
                                      struct ut_error *e)
{
    const char *external = x->external_id[0] ? x->external_id : NULL;
    const char *texts[] = {x->id, x->name, external, x->consent_ref};
    sqlite3_stmt *st;
    enum ut_err rc;

    srv_sql_id("id_", x->id);
    x->created_ms = x->updated_ms = ut_clock_unix_ms();
    rc = srv_sql_begin(s, e);
    if (rc)
        return rc;
    st = srv_sql_prepare(s, "INSERT INTO identity VALUES (?, ?, ?, ?, ?5, ?5)",
                         4, texts, e);
    if (st)
        sqlite3_bind_int64(st, 5, x->created_ms);
    rc = explain(srv_sql_finish(s, st, e), x, e);
    if (!rc)
        rc = write_metadata(s, x, e);
    return srv_sql_end(s, rc, actor, "identity.create", x->id, "{}", e);
}

enum ut_err srv_store_identity_update(struct srv_store *s, const char *actor,
                                      struct srv_identity *x,
                                      struct ut_error *e)
{
    const char *external = x->external_id[0] ? x->external_id : NULL;
    const char *texts[] = {x->name, external, x->consent_ref, x->id};
    sqlite3_stmt *st;
    enum ut_err rc;

    x->updated_ms = ut_clock_unix_ms();
    rc = srv_sql_begin(s, e);
    if (rc)
        return rc;
    st = srv_sql_prepare(s,
                         "UPDATE identity SET name = ?, external_id = ?,"
                         " consent_ref = ?, updated_ms = ?5 WHERE id = ?4",
                         4, texts, e);
    if (st)
        sqlite3_bind_int64(st, 5, x->updated_ms);
    rc = explain(srv_sql_finish(s, st, e), x, e);
    if (!rc && !sqlite3_changes(s->db))
        rc = ut_fail(e, UT_ENOTFOUND, "there is no identity \"%s\"", x->id);
    if (!rc)
        rc = write_metadata(s, x, e);
    return srv_sql_end(s, rc, actor, "identity.update", x->id, "{}", e);
}

#define IDENTITY_COLUMNS                                                       \
    "id, name, external_id, consent_ref, created_ms, updated_ms,"              \
    " (SELECT count(*) FROM face WHERE identity_id = identity.id)"

static enum ut_err read_metadata(struct srv_store *s, struct srv_identity *x,
                                 struct ut_error *e)
{
    const char *id[] = {x->id};
    sqlite3_stmt *st = srv_sql_prepare(
        s, "SELECT key, value FROM metadata WHERE identity_id = ? ORDER BY key",
        1, id, e);
    struct srv_pair *more;
    int code;

    if (!st)
        return e->code;
    while ((code = sqlite3_step(st)) == SQLITE_ROW) {
        more = realloc(x->metadata, (x->n_metadata + 1) * sizeof(*more));
        if (!more)
            break;
        x->metadata = more;
        more[x->n_metadata].key = srv_sql_text(st, 0);
        more[x->n_metadata++].value = srv_sql_text(st, 1);
    }
    sqlite3_finalize(st);
    return code == SQLITE_DONE ? UT_OK : srv_sql_fail(s, e);
}

static enum ut_err read_identity(struct srv_store *s, sqlite3_stmt *st,
                                 struct srv_identity *x, struct ut_error *e)
{
    *x = (struct srv_identity){
        .name = srv_sql_text(st, 1),
        .external_id = srv_sql_text(st, 2),
        .consent_ref = srv_sql_text(st, 3),
        .created_ms = sqlite3_column_int64(st, 4),
        .updated_ms = sqlite3_column_int64(st, 5),
        .face_count = (uint32_t)sqlite3_column_int(st, 6),
    };
    snprintf(x->id, sizeof(x->id), "%s",
             (const char *)sqlite3_column_text(st, 0));
    if (!x->name || !x->external_id || !x->consent_ref)
        return ut_fail(e, UT_ENOMEM, "no memory for an identity");
    return read_metadata(s, x, e);
}

enum ut_err srv_store_identity_get(struct srv_store *s, const char *id,
                                   struct srv_identity *out, struct ut_error *e)
{
    sqlite3_stmt *st = srv_sql_prepare(
        s, "SELECT " IDENTITY_COLUMNS " FROM identity WHERE id = ?", 1, &id, e);
    enum ut_err rc;
    int code;

    memset(out, 0, sizeof(*out));
    if (!st)
        return e->code;
    code = sqlite3_step(st);
    if (code == SQLITE_ROW)
        rc = read_identity(s, st, out, e);
    else if (code == SQLITE_DONE)
        rc = ut_fail(e, UT_ENOTFOUND, "there is no identity \"%.64s\"", id);
    else
        rc = srv_sql_fail(s, e);
    sqlite3_finalize(st);
    if (rc)
        srv_identity_fini(out);
    return rc;
}

enum ut_err srv_store_identity_list(struct srv_store *s, const char *cursor,
                                    const char *query, uint32_t limit,
                                    struct srv_identity **out, size_t *n,
                                    struct ut_error *e)
{
    const char *texts[] = {cursor, query};
    sqlite3_stmt *st = srv_sql_prepare(
        s,
        "SELECT " IDENTITY_COLUMNS " FROM identity WHERE id > ?1 AND (?2 = ''"
        " OR instr(lower(name), lower(?2)) OR"
        " instr(lower(ifnull(external_id, '')), lower(?2)))"
        " ORDER BY id LIMIT ?3",
        2, texts, e);
    enum ut_err rc = UT_OK;
    int code = SQLITE_DONE;

    *n = 0;
    *out = calloc((size_t)limit + 1, sizeof(**out));
    if (!st || !*out) {
        sqlite3_finalize(st);
        free(*out);
        *out = NULL;
        return st ? ut_fail(e, UT_ENOMEM, "no memory for a list") : e->code;
    }
    sqlite3_bind_int64(st, 3, limit);
    while (!rc && (code = sqlite3_step(st)) == SQLITE_ROW)
        rc = read_identity(s, st, &(*out)[(*n)++], e);
    if (!rc && code != SQLITE_DONE)
        rc = srv_sql_fail(s, e);
    sqlite3_finalize(st);
    if (rc) {
        while (*n)
            srv_identity_fini(&(*out)[--*n]);
        free(*out);
        *out = NULL;
    }
    return rc;
}

enum ut_err srv_store_identity_delete(struct srv_store *s, const char *actor,
                                      const char *id, uint32_t *n_faces,
                                      struct ut_error *e)
{
    struct srv_identity x;
    char detail[64];
    enum ut_err rc = srv_sql_begin(s, e);

    if (rc)
        return rc;
    rc = srv_store_identity_get(s, id, &x, e);
    if (!rc) {
        *n_faces = x.face_count;
        srv_identity_fini(&x);
        snprintf(detail, sizeof(detail), "{\"faces\":%u}", *n_faces);
        rc = srv_sql_run(s, "DELETE FROM identity WHERE id = ?", 1, &id, e);
    }
    return srv_sql_end(s, rc, actor, "identity.delete", id, detail, e);
}

/* ---- faces ---- */

void srv_face_fini(struct srv_face *x)
{
    free(x->embedding);
    free(x->crop);
    memset(x, 0, sizeof(*x));
}

enum ut_err srv_store_face_add(struct srv_store *s, const char *actor,
                               struct srv_face *x, struct ut_error *e)
{
    const char *texts[] = {x->id, x->identity_id, x->model_version};
    struct srv_identity owner;
    sqlite3_stmt *st;
    enum ut_err rc = srv_sql_begin(s, e);

    if (rc)
        return rc;
    srv_sql_id("face_", x->id);
    x->created_ms = ut_clock_unix_ms();
    rc = srv_store_identity_get(s, x->identity_id, &owner, e);
    if (!rc) {
        srv_identity_fini(&owner);
        st = srv_sql_prepare(
            s,
            "INSERT INTO face (id, identity_id, model_version, x, y,"
            " w, h, quality, crop, created_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            3, texts, e);
        if (st) {
            for (int i = 0; i < 4; i++)
                sqlite3_bind_double(st, 4 + i, (double)x->box[i]);
            sqlite3_bind_int64(st, 8, x->quality);
            if (x->crop)
                sqlite3_bind_blob(st, 9, x->crop, (int)x->crop_len,
                                  SQLITE_TRANSIENT);
            sqlite3_bind_int64(st, 10, x->created_ms);
        }
        rc = srv_sql_finish(s, st, e);
    }
    if (!rc)
        rc = srv_sql_embed(s, x->id, x->model_version, x->embedding, x->dim, e);
    return srv_sql_end(s, rc, actor, "face.enroll", x->id, "{}", e);
}

void srv_sql_read_face(sqlite3_stmt *st, struct srv_face *x)
{
    memset(x, 0, sizeof(*x));
    snprintf(x->id, sizeof(x->id), "%s",
             (const char *)sqlite3_column_text(st, 0));
    snprintf(x->identity_id, sizeof(x->identity_id), "%s",
             (const char *)sqlite3_column_text(st, 1));
    snprintf(x->model_version, sizeof(x->model_version), "%s",
             (const char *)sqlite3_column_text(st, 2));
    for (int i = 0; i < 4; i++)
        x->box[i] = (float)sqlite3_column_double(st, 3 + i);
    x->quality = (unsigned)sqlite3_column_int64(st, 7);
    x->has_crop = sqlite3_column_int(st, 8);
    x->created_ms = sqlite3_column_int64(st, 9);
}

enum ut_err srv_store_face_list(struct srv_store *s, const char *identity_id,
                                struct srv_face **out, size_t *n,
                                struct ut_error *e)
{
    sqlite3_stmt *st = srv_sql_prepare(s,
                                       "SELECT " SRV_SQL_FACE
                                       " FROM face WHERE identity_id = ?"
                                       " ORDER BY seq",
                                       1, &identity_id, e);
    struct srv_face *more;
    int code;

    *out = NULL;
    *n = 0;
    if (!st)
        return e->code;
    while ((code = sqlite3_step(st)) == SQLITE_ROW) {
        more = realloc(*out, (*n + 1) * sizeof(**out));
        if (!more)
            break;
        *out = more;
        srv_sql_read_face(st, &more[(*n)++]);
    }
    sqlite3_finalize(st);
    if (code == SQLITE_DONE)
        return UT_OK;
    free(*out);
    *out = NULL;
    return code == SQLITE_ROW ? ut_fail(e, UT_ENOMEM, "no memory for a list")
                              : srv_sql_fail(s, e);
}

static enum ut_err no_face(const char *face_id, struct ut_error *e)
{
    return ut_fail(e, UT_ENOTFOUND, "there is no face \"%.64s\"", face_id);
}

enum ut_err srv_store_face_crop(struct srv_store *s, const char *identity_id,
                                const char *face_id, uint8_t **png, size_t *len,
                                struct ut_error *e)
{
    const char *texts[] = {identity_id, face_id};
    sqlite3_stmt *st = srv_sql_prepare(
        s, "SELECT crop FROM face WHERE identity_id = ? AND id = ?", 2, texts,
        e);
    enum ut_err rc = UT_OK;
    int code;

    *png = NULL;
    if (!st)
        return e->code;
    code = sqlite3_step(st);
    if (code == SQLITE_DONE) {
        rc = no_face(face_id, e);
    } else if (code != SQLITE_ROW) {
        rc = srv_sql_fail(s, e);
    } else if (sqlite3_column_type(st, 0) == SQLITE_NULL) {
        rc = ut_fail(e, UT_ENOTFOUND, "face \"%.64s\" has no stored crop",
                     face_id);
    } else {
        *len = (size_t)sqlite3_column_bytes(st, 0);
        *png = malloc(*len + 1);
        if (*png)
            memcpy(*png, sqlite3_column_blob(st, 0), *len);
        else
            rc = ut_fail(e, UT_ENOMEM, "no memory for a crop");
    }
    sqlite3_finalize(st);
    return rc;
}

enum ut_err srv_store_face_delete(struct srv_store *s, const char *actor,
                                  const char *identity_id, const char *face_id,
                                  struct ut_error *e)
{
    const char *texts[] = {identity_id, face_id};
    enum ut_err rc = srv_sql_begin(s, e);

    if (rc)
        return rc;
    rc = srv_sql_run(s, "DELETE FROM face WHERE identity_id = ? AND id = ?", 2,
                     texts, e);
    if (!rc && !sqlite3_changes(s->db))
        rc = no_face(face_id, e);
    return srv_sql_end(s, rc, actor, "face.delete", face_id, "{}", e);
}

enum ut_err srv_store_faces_each(struct srv_store *s, const char *model_version,
                                 srv_store_face_fn fn, void *arg,
                                 struct ut_error *e)
{
    sqlite3_stmt *st = srv_sql_prepare(
        s,
        "SELECT " SRV_SQL_FACE ", vector, identity.name FROM face"
        " JOIN embedding ON face_id = face.id AND embedding.model_version = ?"
        " JOIN identity ON identity.id = identity_id ORDER BY face.seq",
        1, &model_version, e);
    enum ut_err rc = UT_OK;
    int code = SQLITE_DONE;

    if (!st)
        return e->code;
    while (!rc && (code = sqlite3_step(st)) == SQLITE_ROW) {
        struct srv_face x;

        srv_sql_read_face(st, &x);
        x.dim = sqlite3_column_bytes(st, 10) / 4;
        x.embedding = (float *)(uintptr_t)sqlite3_column_blob(st, 10);
        rc = fn(arg, &x, (const char *)sqlite3_column_text(st, 11), e);
    }
    if (!rc && code != SQLITE_DONE)
        rc = srv_sql_fail(s, e);
    sqlite3_finalize(st);
    return rc;
}
