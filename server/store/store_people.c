/* Identities and their faces. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/store/store_sql.h"

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
    enum ut_err rc =
        srv_sql_run(s, "DELETE FROM metadata WHERE identity_id = $1",
                    SRV_ARGS(SRV_TEXT(x->id)), e);

    for (size_t i = 0; i < x->n_metadata && !rc; i++)
        rc = srv_sql_run(s, "INSERT INTO metadata VALUES ($1, $2, $3)",
                         SRV_ARGS(SRV_TEXT(x->id), SRV_TEXT(x->metadata[i].key),
                                  SRV_TEXT(x->metadata[i].value)),
                         e);
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

/* Any number may have none. */
static struct srv_value external(const struct srv_identity *x)
{
    return SRV_TEXT(x->external_id[0] ? x->external_id : NULL);
}

enum ut_err srv_store_identity_create(struct srv_store *s, const char *actor,
                                      struct srv_identity *x,
                                      struct ut_error *e)
{
    enum ut_err rc;

    srv_store_new_id("id_", x->id);
    x->created_ms = x->updated_ms = ut_clock_unix_ms();
    rc = srv_sql_begin(s, e);
    if (rc)
        return rc;
    rc = srv_sql_run(s, "INSERT INTO identity VALUES ($1, $2, $3, $4, $5, $5)",
                     SRV_ARGS(SRV_TEXT(x->id), SRV_TEXT(x->name), external(x),
                              SRV_TEXT(x->consent_ref), SRV_INT(x->created_ms)),
                     e);
    rc = explain(rc, x, e);
    if (!rc)
        rc = write_metadata(s, x, e);
    return srv_sql_end(s, rc, actor, "identity.create", x->id, "{}", e);
}

enum ut_err srv_store_identity_update(struct srv_store *s, const char *actor,
                                      struct srv_identity *x,
                                      struct ut_error *e)
{
    enum ut_err rc;

    x->updated_ms = ut_clock_unix_ms();
    rc = srv_sql_begin(s, e);
    if (rc)
        return rc;
    rc = srv_sql_run_on(s,
                        "UPDATE identity SET name = $1, external_id = $2,"
                        " consent_ref = $3, updated_ms = $5 WHERE id = $4",
                        SRV_ARGS(SRV_TEXT(x->name), external(x),
                                 SRV_TEXT(x->consent_ref), SRV_TEXT(x->id),
                                 SRV_INT(x->updated_ms)),
                        "identity", x->id, e);
    rc = explain(rc, x, e);
    if (!rc)
        rc = write_metadata(s, x, e);
    return srv_sql_end(s, rc, actor, "identity.update", x->id, "{}", e);
}

/* Of those that a condition chooses, with a row for each pair of metadata. */
#define IDENTITIES(which)                                                      \
    "SELECT chosen.id, name, external_id, consent_ref, created_ms, "           \
    "updated_ms,"                                                              \
    " (SELECT count(*) FROM face WHERE face.identity_id = chosen.id), key,"    \
    " value FROM (SELECT * FROM identity " which ") AS chosen"                 \
    " LEFT JOIN metadata ON metadata.identity_id = chosen.id"                  \
    " ORDER BY chosen.id, key"

struct identity_list {
    struct srv_identity *list;
    size_t n;
};

static enum ut_err read_pair(struct srv_store *s, struct srv_identity *x)
{
    struct srv_pair *p = srv_sql_room(x->metadata, x->n_metadata, sizeof(*p));

    if (!p)
        return UT_ENOMEM;
    x->metadata = p;
    p += x->n_metadata++;
    p->key = srv_sql_dup(s, 7);
    p->value = srv_sql_dup(s, 8);
    return p->key && p->value ? UT_OK : UT_ENOMEM;
}

static enum ut_err read_identity(struct srv_store *s, void *arg,
                                 struct ut_error *e)
{
    struct identity_list *l = arg;
    const char *id = srv_sql_text(s, 0);
    struct srv_identity *x = l->n ? &l->list[l->n - 1] : NULL;

    if (!x || strcmp(x->id, id)) {
        x = srv_sql_room(l->list, l->n, sizeof(*x));
        if (!x)
            return ut_fail(e, UT_ENOMEM, "no memory for identities");
        l->list = x;
        x += l->n++;
        snprintf(x->id, sizeof(x->id), "%s", id);
        x->name = srv_sql_dup(s, 1);
        x->external_id = srv_sql_dup(s, 2);
        x->consent_ref = srv_sql_dup(s, 3);
        x->created_ms = srv_sql_int(s, 4);
        x->updated_ms = srv_sql_int(s, 5);
        x->face_count = (uint32_t)srv_sql_int(s, 6);
    }
    if (!x->name || !x->external_id || !x->consent_ref ||
        (*srv_sql_text(s, 7) && read_pair(s, x)))
        return ut_fail(e, UT_ENOMEM, "no memory for identities");
    return UT_OK;
}

static void free_identities(struct identity_list *l)
{
    while (l->n)
        srv_identity_fini(&l->list[--l->n]);
    free(l->list);
    l->list = NULL;
}

enum ut_err srv_store_identity_get(struct srv_store *s, const char *id,
                                   struct srv_identity *out, struct ut_error *e)
{
    struct identity_list l = {0};
    enum ut_err rc =
        srv_sql_one(s, IDENTITIES("WHERE id = $1"), SRV_ARGS(SRV_TEXT(id)),
                    read_identity, &l, "identity", id, e);

    memset(out, 0, sizeof(*out));
    if (rc) {
        free_identities(&l);
        return rc;
    }
    *out = l.list[0];
    free(l.list);
    return UT_OK;
}

enum ut_err srv_store_identity_list(struct srv_store *s, const char *cursor,
                                    const char *query, uint32_t limit,
                                    struct srv_identity **out, size_t *n,
                                    struct ut_error *e)
{
    struct identity_list l = {0};
    /* Both databases know replace(): it takes away what it finds. */
    enum ut_err rc = srv_sql_each(
        s,
        IDENTITIES("WHERE id > $1 AND ($2 = '' OR"
                   " replace(lower(name), lower($2), '') <> lower(name) OR"
                   " replace(lower(external_id), lower($2), '')"
                   " <> lower(external_id)) ORDER BY id LIMIT $3"),
        SRV_ARGS(SRV_TEXT(cursor), SRV_TEXT(query), SRV_INT(limit)),
        read_identity, &l, e);

    if (rc)
        free_identities(&l);
    *out = l.list;
    *n = l.n;
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
        rc = srv_sql_run(s, "DELETE FROM identity WHERE id = $1",
                         SRV_ARGS(SRV_TEXT(id)), e);
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
    struct srv_identity owner;
    enum ut_err rc = srv_sql_begin(s, e);

    if (rc)
        return rc;
    srv_store_new_id("face_", x->id);
    x->created_ms = ut_clock_unix_ms();
    rc = srv_store_identity_get(s, x->identity_id, &owner, e);
    if (!rc) {
        srv_identity_fini(&owner);
        rc = srv_sql_run(
            s,
            "INSERT INTO face (id, identity_id, model_version, x, y, w, h,"
            " quality, crop, created_ms)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            SRV_ARGS(SRV_TEXT(x->id), SRV_TEXT(x->identity_id),
                     SRV_TEXT(x->model_version), SRV_REAL(x->box[0]),
                     SRV_REAL(x->box[1]), SRV_REAL(x->box[2]),
                     SRV_REAL(x->box[3]), SRV_INT(x->quality),
                     SRV_BLOB(x->crop, x->crop_len), SRV_INT(x->created_ms)),
            e);
    }
    if (!rc)
        rc = srv_sql_embed(s, x->id, x->model_version, x->embedding, x->dim, e);
    return srv_sql_end(s, rc, actor, "face.enroll", x->id, "{}", e);
}

void srv_sql_read_face(struct srv_store *s, struct srv_face *x)
{
    memset(x, 0, sizeof(*x));
    snprintf(x->id, sizeof(x->id), "%s", srv_sql_text(s, 0));
    snprintf(x->identity_id, sizeof(x->identity_id), "%s", srv_sql_text(s, 1));
    snprintf(x->model_version, sizeof(x->model_version), "%s",
             srv_sql_text(s, 2));
    for (int i = 0; i < 4; i++)
        x->box[i] = (float)srv_sql_real(s, 3 + i);
    x->quality = (unsigned)srv_sql_int(s, 7);
    x->has_crop = srv_sql_int(s, 8) != 0;
    x->created_ms = srv_sql_int(s, 9);
}

struct face_list {
    struct srv_face *list;
    size_t n;
};

static enum ut_err add_face(struct srv_store *s, void *arg, struct ut_error *e)
{
    struct face_list *l = arg;
    struct srv_face *x = srv_sql_room(l->list, l->n, sizeof(*x));

    if (!x)
        return ut_fail(e, UT_ENOMEM, "no memory for faces");
    l->list = x;
    srv_sql_read_face(s, &x[l->n++]);
    return UT_OK;
}

enum ut_err srv_sql_faces(struct srv_store *s, const char *sql,
                          const struct srv_value *args, int n_args,
                          struct srv_face **out, size_t *n, struct ut_error *e)
{
    struct face_list l = {0};
    enum ut_err rc = srv_sql_each(s, sql, args, n_args, add_face, &l, e);

    if (rc) {
        free(l.list);
        l = (struct face_list){0};
    }
    *out = l.list;
    *n = l.n;
    return rc;
}

enum ut_err srv_store_face_list(struct srv_store *s, const char *identity_id,
                                struct srv_face **out, size_t *n,
                                struct ut_error *e)
{
    return srv_sql_faces(s,
                         "SELECT " SRV_SQL_FACE
                         " FROM face WHERE identity_id = $1 ORDER BY seq",
                         SRV_ARGS(SRV_TEXT(identity_id)), out, n, e);
}

struct crop {
    uint8_t *png;
    size_t len;
    const char *face_id;
};

static enum ut_err read_crop(struct srv_store *s, void *arg, struct ut_error *e)
{
    struct crop *c = arg;
    const void *png = srv_sql_blob(s, 0, &c->len);

    if (!png)
        return ut_fail(e, UT_ENOTFOUND, "face \"%.64s\" has no stored crop",
                       c->face_id);
    c->png = malloc(c->len + 1);
    if (!c->png)
        return ut_fail(e, UT_ENOMEM, "no memory for a crop");
    memcpy(c->png, png, c->len);
    return UT_OK;
}

enum ut_err srv_store_face_crop(struct srv_store *s, const char *identity_id,
                                const char *face_id, uint8_t **png, size_t *len,
                                struct ut_error *e)
{
    struct crop c = {.face_id = face_id};
    enum ut_err rc = srv_sql_one(
        s, "SELECT crop FROM face WHERE identity_id = $1 AND id = $2",
        SRV_ARGS(SRV_TEXT(identity_id), SRV_TEXT(face_id)), read_crop, &c,
        "face", face_id, e);

    if (rc) {
        free(c.png);
        c.png = NULL;
    }
    *png = c.png;
    *len = c.len;
    return rc;
}

enum ut_err srv_store_face_delete(struct srv_store *s, const char *actor,
                                  const char *identity_id, const char *face_id,
                                  struct ut_error *e)
{
    enum ut_err rc = srv_sql_begin(s, e);

    if (rc)
        return rc;
    rc = srv_sql_run_on(
        s, "DELETE FROM face WHERE identity_id = $1 AND id = $2",
        SRV_ARGS(SRV_TEXT(identity_id), SRV_TEXT(face_id)), "face", face_id, e);
    return srv_sql_end(s, rc, actor, "face.delete", face_id, "{}", e);
}

struct each_face {
    srv_store_face_fn fn;
    void *arg;
};

static enum ut_err hand_out(struct srv_store *s, void *arg, struct ut_error *e)
{
    struct each_face *each = arg;
    struct srv_face x;
    size_t len;

    srv_sql_read_face(s, &x);
    x.embedding = (float *)(uintptr_t)srv_sql_blob(s, 10, &len);
    x.dim = (int)(len / sizeof(float));
    return each->fn(each->arg, &x, srv_sql_text(s, 11), e);
}

#define EMBEDDED                                                               \
    "SELECT " SRV_SQL_FACE ", vector, identity.name FROM face JOIN embedding"  \
    " ON face_id = face.id AND embedding.model_version = $1 JOIN identity"     \
    " ON identity.id = identity_id"

enum ut_err srv_store_faces_each(struct srv_store *s, const char *model_version,
                                 srv_store_face_fn fn, void *arg,
                                 struct ut_error *e)
{
    struct each_face each = {fn, arg};

    return srv_sql_each(s, EMBEDDED " ORDER BY face.seq",
                        SRV_ARGS(SRV_TEXT(model_version)), hand_out, &each, e);
}

enum ut_err srv_store_face_of(struct srv_store *s, const char *model_version,
                              const char *face_id, srv_store_face_fn fn,
                              void *arg, struct ut_error *e)
{
    struct each_face each = {fn, arg};

    return srv_sql_each(s, EMBEDDED " WHERE face.id = $2",
                        SRV_ARGS(SRV_TEXT(model_version), SRV_TEXT(face_id)),
                        hand_out, &each, e);
}
