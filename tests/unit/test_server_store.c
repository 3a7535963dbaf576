/* The store and the gallery: what is written is there, also after reopening. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "server/store.h"
#include "tests/support/unit.h"

#define DIM 8

static struct srv_store *open_store(void)
{
    struct srv_store *s;
    struct ut_error e;

    if (srv_store_open(test_dir(), &s, &e))
        fail_msg("%s", e.msg);
    return s;
}

static struct srv_identity identity(const char *name, const char *external)
{
    struct srv_identity x = {.name = strdup(name),
                             .external_id = strdup(external),
                             .consent_ref = strdup("paper 7")};

    x.metadata = calloc(1, sizeof(*x.metadata));
    x.metadata[0].key = strdup("depot");
    x.metadata[0].value = strdup("north");
    x.n_metadata = 1;
    return x;
}

static void add_face(struct srv_store *s, const char *id, char out[SRV_ID_LEN])
{
    float embedding[DIM] = {1, 2, 3};
    struct srv_face f = {.model_version = "0123456789abcdef",
                         .embedding = embedding,
                         .dim = DIM,
                         .crop = (uint8_t *)(uintptr_t) "png",
                         .crop_len = 3};
    struct ut_error e;

    snprintf(f.identity_id, sizeof(f.identity_id), "%s", id);
    if (srv_store_face_add(s, "local", &f, &e))
        fail_msg("%s", e.msg);
    memcpy(out, f.id, SRV_ID_LEN);
}

static enum ut_err count_face(void *arg, const struct srv_face *f,
                              const char *name, struct ut_error *e)
{
    (void)e;
    assert_int_equal(f->dim, DIM);
    assert_true(f->embedding[1] == 2);
    assert_true(name[0] != '\0');
    ++*(int *)arg;
    return UT_OK;
}

static void identity__written_and_reopened__all_there(void **state)
{
    struct srv_store *s = open_store();
    struct srv_identity x = identity("J\xc3\xb6rg", "e-1"), got;
    char face[SRV_ID_LEN];
    struct ut_error e;
    uint8_t *png;
    size_t len;
    int n = 0;

    (void)state;
    assert_int_equal(srv_store_identity_create(s, "local", &x, &e), UT_OK);
    add_face(s, x.id, face);
    srv_store_close(s);
    s = open_store();
    assert_int_equal(srv_store_identity_get(s, x.id, &got, &e), UT_OK);
    assert_string_equal(got.name, "J\xc3\xb6rg");
    assert_string_equal(got.external_id, "e-1");
    assert_int_equal(got.face_count, 1);
    assert_int_equal(got.n_metadata, 1);
    assert_string_equal(got.metadata[0].value, "north");
    srv_identity_fini(&got);
    assert_int_equal(
        srv_store_faces_each(s, "0123456789abcdef", count_face, &n, &e), UT_OK);
    assert_int_equal(n, 1);
    /* Another model's embeddings are not handed out. */
    assert_int_equal(
        srv_store_faces_each(s, "fedcba9876543210", count_face, &n, &e), UT_OK);
    assert_int_equal(n, 1);
    assert_int_equal(srv_store_face_crop(s, x.id, face, &png, &len, &e), UT_OK);
    assert_int_equal(len, 3);
    free(png);
    srv_identity_fini(&x);
    srv_store_close(s);
}

static void identity__duplicate_and_unknown__named(void **state)
{
    struct srv_store *s = open_store();
    struct srv_identity x = identity("A", "e-dup"), y = identity("B", "e-dup");
    struct srv_identity got;
    struct ut_error e;
    uint32_t n;

    (void)state;
    assert_int_equal(srv_store_identity_create(s, "local", &x, &e), UT_OK);
    assert_int_equal(srv_store_identity_create(s, "local", &y, &e), UT_EEXISTS);
    assert_non_null(strstr(e.msg, "e-dup"));
    assert_int_equal(srv_store_identity_get(s, "id_none", &got, &e),
                     UT_ENOTFOUND);
    assert_int_equal(srv_store_identity_delete(s, "local", "id_none", &n, &e),
                     UT_ENOTFOUND);
    assert_int_equal(srv_store_face_delete(s, "local", x.id, "face_none", &e),
                     UT_ENOTFOUND);
    srv_identity_fini(&x);
    srv_identity_fini(&y);
    srv_store_close(s);
}

static void delete__identity__faces_gone_and_proof_left(void **state)
{
    struct srv_store *s = open_store();
    struct srv_identity x = identity("Gone", "");
    struct srv_audit *log;
    struct srv_face *faces;
    char face[SRV_ID_LEN];
    struct ut_error e;
    uint32_t n_faces;
    size_t n;

    (void)state;
    assert_int_equal(srv_store_identity_create(s, "key_1", &x, &e), UT_OK);
    add_face(s, x.id, face);
    add_face(s, x.id, face);
    assert_int_equal(srv_store_identity_delete(s, "key_1", x.id, &n_faces, &e),
                     UT_OK);
    assert_int_equal(n_faces, 2);
    assert_int_equal(srv_store_face_list(s, x.id, &faces, &n, &e), UT_OK);
    assert_int_equal(n, 0);
    free(faces);
    assert_int_equal(srv_store_audit_list(s, 0, 1, &log, &n, &e), UT_OK);
    assert_int_equal(n, 1);
    assert_string_equal(log[0].action, "identity.delete");
    assert_string_equal(log[0].actor, "key_1");
    assert_string_equal(log[0].subject, x.id);
    assert_string_equal(log[0].detail, "{\"faces\":2}");
    srv_audit_fini(&log[0]);
    free(log);
    srv_identity_fini(&x);
    srv_store_close(s);
}

static void open__not_a_folder__named(void **state)
{
    struct srv_store *s;
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_store_open("/dev/null/x", &s, &e), UT_EIO);
    assert_non_null(strstr(e.msg, "/dev/null/x"));
    assert_null(s);
}

/* ---- what earlier versions left ---- */

/* The first schema, as it was. */
static const char schema_1[] =
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
    "PRAGMA user_version = 1;"
    "INSERT INTO identity VALUES ('id_old', 'Old', 'e-old', '', 1, 2);"
    /* Little-endian floats 1 2 3 0 0 0 0 0. */
    "INSERT INTO face VALUES (1, 'face_old', 'id_old', '0123456789abcdef', 1,"
    " 2, 3, 4, 0, "
    "x'0000803f00000040000040400000000000000000000000000000000000000000',"
    " x'706e67', 5);"
    "INSERT INTO audit VALUES (1, 1, 'local', 'face.enroll', 'face_old',"
    " '{}');";

static void run_sql(const char *path, const char *sql)
{
    sqlite3 *db;
    char *why = NULL;

    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &why))
        fail_msg("%s", why);
    sqlite3_close(db);
}

static void open__first_schema__migrated_with_all_it_held(void **state)
{
    char old[] = "/tmp/tscaf-store-old-XXXXXX", path[64], line[64];
    struct srv_identity got;
    struct srv_store *s;
    struct srv_audit *log;
    struct ut_error e;
    uint8_t *png;
    size_t len, n_log;
    int n = 0;

    (void)state;
    assert_non_null(mkdtemp(old));
    snprintf(path, sizeof(path), "%s/tscaf.db", old);
    run_sql(path, schema_1);
    /* The second time there is nothing left to migrate. */
    for (int i = 0; i < 2; i++) {
        if (srv_store_open(old, &s, &e))
            fail_msg("%s", e.msg);
        assert_int_equal(srv_store_identity_get(s, "id_old", &got, &e), UT_OK);
        assert_string_equal(got.external_id, "e-old");
        assert_int_equal(got.face_count, 1);
        srv_identity_fini(&got);
        n = 0;
        if (srv_store_faces_each(s, "0123456789abcdef", count_face, &n, &e))
            fail_msg("%s", e.msg);
        assert_int_equal(n, 1);
        assert_int_equal(
            srv_store_face_crop(s, "id_old", "face_old", &png, &len, &e),
            UT_OK);
        assert_int_equal(len, 3);
        free(png);
        assert_int_equal(srv_store_audit_list(s, 0, 10, &log, &n_log, &e),
                         UT_OK);
        assert_int_equal(n_log, 1);
        assert_string_equal(log[0].subject, "face_old");
        srv_audit_fini(&log[0]);
        free(log);
        srv_store_close(s);
    }
    /* One that a later version wrote is left alone. */
    run_sql(path, "PRAGMA user_version = 1000;");
    assert_int_equal(srv_store_open(old, &s, &e), UT_EFORMAT);
    assert_non_null(strstr(e.msg, "1000"));
    snprintf(line, sizeof(line), "rm -rf %s", old);
    assert_int_equal(system(line), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity__written_and_reopened__all_there),
        cmocka_unit_test(identity__duplicate_and_unknown__named),
        cmocka_unit_test(delete__identity__faces_gone_and_proof_left),
        cmocka_unit_test(open__not_a_folder__named),
        cmocka_unit_test(open__first_schema__migrated_with_all_it_held),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
