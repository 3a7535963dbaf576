/* What is SQLite's own: its file, and what earlier versions left in it. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/store.h"
#include "tests/support/unit.h"

#define DIM 8

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

static void open__not_a_folder__named(void **state)
{
    struct srv_store *s;
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_store_open("/dev/null/x", NULL, &s, &e), UT_EIO);
    assert_non_null(strstr(e.msg, "/dev/null/x"));
    assert_null(s);
}

/* What would be cut is another file. */
static void open__path_at_the_limit_and_one_past__refused(void **state)
{
    const size_t most = 599 - strlen("/" SRV_STORE_FILE);
    struct srv_store *s;
    struct ut_error e;
    char path[640];
    size_t len;

    (void)state;
    len = (size_t)snprintf(path, sizeof(path), "%s/long", test_dir());
    assert_int_equal(srv_store_open(path, NULL, &s, &e), UT_OK);
    srv_store_close(s);
    while (len <= most)
        path[len++] = '/';
    path[len] = '\0';
    assert_int_equal(srv_store_open(path, NULL, &s, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "has 600 bytes, the limit is 599"));
    path[most] = '\0';
    assert_int_equal(srv_store_open(path, NULL, &s, &e), UT_OK);
    srv_store_close(s);
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
        if (srv_store_open(old, NULL, &s, &e))
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
    assert_int_equal(srv_store_open(old, NULL, &s, &e), UT_EFORMAT);
    assert_non_null(strstr(e.msg, "1000"));
    snprintf(line, sizeof(line), "rm -rf %s", old);
    assert_int_equal(system(line), 0);
}

/* ---- another writer ---- */

static void write__another_writes_for_long__busy(void **state)
{
    struct srv_key k = {.name = (char *)(uintptr_t) "one", .role = 1};
    char path[256];
    struct srv_store *s;
    struct ut_error e;
    sqlite3 *db;

    (void)state;
    snprintf(path, sizeof(path), "%s/busy", test_dir());
    assert_int_equal(srv_store_open(path, NULL, &s, &e), UT_OK);
    snprintf(path, sizeof(path), "%s/busy/%s", test_dir(), SRV_STORE_FILE);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL),
                     SQLITE_OK);
    assert_int_equal(srv_store_key_create(s, "local", &k, &e), UT_EBUSY);
    assert_non_null(strstr(e.msg, "another has been writing for 5000 ms"));
    sqlite3_close(db);
    assert_int_equal(srv_store_key_create(s, "local", &k, &e), UT_OK);
    srv_store_close(s);
}

/* ---- limits ---- */

/* More could not be loaded at the next start. */
static void keys__at_the_limit_and_one_past__refused(void **state)
{
    struct srv_key k = {.name = (char *)(uintptr_t) "one", .role = 1};
    char path[256];
    struct srv_store *s;
    struct ut_error e;

    (void)state;
    snprintf(path, sizeof(path), "%s/keys", test_dir());
    assert_int_equal(srv_store_open(path, NULL, &s, &e), UT_OK);
    snprintf(path, sizeof(path), "%s/keys/%s", test_dir(), SRV_STORE_FILE);
    run_sql(path,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            " WHERE i < 9999) INSERT INTO api_key (id, name, role, hash,"
            " created_ms) SELECT 'key_' || i, 'x', 1, zeroblob(32), 0 FROM n");
    assert_int_equal(srv_store_key_create(s, "local", &k, &e), UT_OK);
    assert_int_equal(srv_store_key_create(s, "local", &k, &e), UT_ESTATE);
    assert_non_null(strstr(e.msg, "10000 keys"));
    assert_int_equal(srv_store_key_delete(s, "local", "key_1", &e), UT_OK);
    assert_int_equal(srv_store_key_create(s, "local", &k, &e), UT_OK);
    srv_store_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open__not_a_folder__named),
        cmocka_unit_test(open__path_at_the_limit_and_one_past__refused),
        cmocka_unit_test(write__another_writes_for_long__busy),
        cmocka_unit_test(keys__at_the_limit_and_one_past__refused),
        cmocka_unit_test(open__first_schema__migrated_with_all_it_held),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
