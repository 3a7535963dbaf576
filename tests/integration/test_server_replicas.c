/* Two servers on one PostgreSQL: what one is told, the other knows, also when
 * the database was away. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/tscaf.pb-c.h"
#include "model/model.h"
#include "server/store/store.h"
#include "tests/support/drivers.h"
#include "tests/support/models.h"
#include "tests/support/postgres.h"
#include "tests/support/unit.h"

#define PATIENCE 6000 /* looks, 20 ms apart */

static struct test_postgres postgres;
static struct test_server a, b;

static void start(struct test_server *s)
{
    char store[200];

    snprintf(store, sizeof(store), "--store=%s", postgres.url);
    /* A job waits, so that it stays what it is. */
    test_server_start(s, (const char *const[]){store, "--max-jobs=0", NULL});
}

static int start_both(void **state)
{
    (void)state;
    start(&a);
    start(&b);
    return 0;
}

/* ---- what they are told and asked ---- */

static void wait_found(const struct test_server *s, int who, const char *text,
                       bool wanted)
{
    for (int i = 0; test_finds(s, who, text) != wanted; i++) {
        if (i == PATIENCE)
            fail_msg("\"%s\" is %sfound", text, wanted ? "not " : "");
        usleep(20000);
    }
}

/* Waits until /readyz says 200, or 503 with a text. */
static void wait_ready(const struct test_server *s, const char *text)
{
    struct test_answer r = {0};

    for (int i = 0;; i++) {
        long status = test_get(s, "/readyz", &r);

        assert_null(strstr(r.body, TEST_POSTGRES_PASSWORD));
        if (text ? status == 503 && strstr(r.body, text) : status == 200)
            break;
        if (i == PATIENCE)
            fail_msg("/readyz: %s", r.body);
        usleep(20000);
    }
    test_answer_fini(&r);
}

static void sql(const char *text)
{
    test_postgres_sql(&postgres, "postgres", text, NULL);
}

/* ---- people ---- */

static void face__enrolled_on_one__known_to_the_other(void **state)
{
    char id[64], other[64], path[160], face[64];
    struct test_answer r = {0};

    (void)state;
    test_enroll(&a, "Ada", 1, id);
    /* At once, however late the news: it waits for what was written. */
    test_identity(&b, "Somebody else", other);
    assert_int_equal(test_add_face(&b, other, 1, false, &r), 409);
    assert_non_null(strstr(r.body, id));
    wait_found(&b, 1, id, true);
    snprintf(path, sizeof(path), "/v1/identities/%s", id);
    assert_int_equal(test_json(&b, "PATCH", path, "{\"name\":\"Grace\"}", &r),
                     200);
    wait_found(&a, 1, "Grace", true);
    /* The only face of one, then an identity with its face. */
    assert_int_equal(test_add_face(&b, other, 2, true, &r), 201);
    test_member(&r, "id", face, sizeof(face));
    wait_found(&a, 2, other, true);
    snprintf(path, sizeof(path), "/v1/identities/%s/faces/%s", other, face);
    assert_int_equal(test_json(&b, "DELETE", path, NULL, &r), 204);
    wait_found(&a, 2, other, false);
    wait_found(&a, 1, id, true);
    snprintf(path, sizeof(path), "/v1/identities/%s", id);
    assert_int_equal(test_json(&a, "DELETE", path, NULL, &r), 204);
    wait_found(&b, 1, id, false);
    test_answer_fini(&r);
}

/* ---- the database away ---- */

static void database__stopped_and_started__told_and_made_up_for(void **state)
{
    char id[64], later[64];
    struct test_answer r = {0};

    (void)state;
    test_enroll(&a, "Before", 3, id);
    wait_found(&b, 3, id, true);
    test_postgres_stop(&postgres);
    wait_ready(&a, "PostgreSQL at 127.0.0.1:");
    wait_ready(&b, "PostgreSQL at 127.0.0.1:");
    assert_int_equal(
        test_json(&a, "POST", "/v1/identities", "{\"name\":\"X\"}", &r), 503);
    assert_non_null(strstr(r.body, "PostgreSQL at 127.0.0.1:"));
    assert_null(strstr(r.body, TEST_POSTGRES_PASSWORD));
    assert_true(test_finds(&b, 3, id)); /* what is known is still answered */
    test_postgres_start(&postgres);
    wait_ready(&a, NULL);
    wait_ready(&b, NULL);
    test_enroll(&b, "After", 4, later);
    wait_found(&a, 4, later, true);
    /* Connections that are cut one by one miss nothing either. */
    for (int i = 0; i < 3; i++) {
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
            " application_name = 'tscafd'");
        test_enroll(i % 2 ? &a : &b, "Cut", 5 + i, later);
        wait_found(i % 2 ? &b : &a, 5 + i, later, true);
    }
    test_answer_fini(&r);
}

static void database__lost_what_was_written__everything_read_anew(void **state)
{
    char kept[64], lost[64], line[600];
    struct test_answer r = {0};
    char *log;

    (void)state;
    test_enroll(&a, "Kept", 10, kept);
    test_enroll(&a, "Lost", 11, lost);
    wait_found(&b, 11, lost, true);
    /* As a standby that had not got the last of it: and others came after. */
    snprintf(line, sizeof(line),
             "BEGIN; ALTER TABLE audit DISABLE TRIGGER audit_kept;"
             " DELETE FROM audit WHERE seq > (SELECT max(seq) - 2 FROM audit);"
             " ALTER TABLE audit ENABLE TRIGGER audit_kept;"
             " DELETE FROM identity WHERE id = '%s';"
             " SELECT setval(pg_get_serial_sequence('audit', 'seq'),"
             " max(seq)) FROM audit; COMMIT",
             lost);
    sql(line);
    test_identity(&a, "Another", lost);
    wait_found(&a, 11, "Lost", false);
    wait_found(&b, 11, "Lost", false);
    assert_true(test_finds(&a, 10, kept));
    assert_true(test_finds(&b, 10, kept));
    log = test_server_log(&b);
    assert_non_null(strstr(log, "everything is read anew"));
    free(log);
    wait_ready(&a, NULL);
    test_enroll(&a, "Again", 12, lost);
    wait_found(&b, 12, lost, true);
    test_answer_fini(&r);
}

/* ---- models ---- */

/* A candidate's record, and its file on one of them, or both. */
static void add_candidate(const char *name, bool on_a, bool on_b,
                          char version[17])
{
    Tscaf__V1__ModelInfo info = TSCAF__V1__MODEL_INFO__INIT;
    Tscaf__V1__ModelRef ref = TSCAF__V1__MODEL_REF__INIT;
    const struct srv_record put = {SRV_TABLE_MODEL, version, &info.base};
    char made[128], line[600];
    struct srv_store *store;
    struct mdl_model m;
    struct ut_error e;

    snprintf(made, sizeof(made), "%s/%s.safetensors", a.dir, name);
    snprintf(line, sizeof(line),
             "%s/tscaf-model init --name %s tests/support/tiny.json %s "
             ">/dev/null",
             test_programs(), name, made);
    assert_int_equal(system(line), 0);
    assert_int_equal(mdl_model_open(made, &m, &e), UT_OK);
    snprintf(version, 17, "%s", m.version);
    mdl_model_close(&m);
    for (int i = 0; i < 2; i++) {
        snprintf(line, sizeof(line), "cp %s %s/data/models/%s.safetensors",
                 made, (i ? &b : &a)->dir, version);
        if (i ? on_b : on_a)
            assert_int_equal(system(line), 0);
    }
    ref.name = (char *)(uintptr_t)name;
    ref.version = version;
    info.model = &ref;
    info.state = TSCAF__V1__MODEL_STATE__MODEL_STATE_CANDIDATE;
    if (srv_store_open(a.dir, postgres.url, &store, &e) ||
        srv_store_put(store, "job", "model.create", version, &put, 1, &e))
        fail_msg("%s", e.msg);
    srv_store_close(store);
}

static void activate(const struct test_server *s, const char *version)
{
    struct test_answer r = {0};
    char path[128];

    snprintf(path, sizeof(path), "/v1/models/%s/activate", version);
    if (test_json(s, "POST", path, "{\"force\":true}", &r) != 202)
        fail_msg("%s", r.body);
    test_answer_fini(&r);
    test_model_wait(s, version);
}

static void model__activated_on_one__answers_on_the_other(void **state)
{
    char first[64], second[17], third[17], id[64], line[600];
    struct test_answer r = {0};

    (void)state;
    test_model_active(&a, first);
    test_enroll(&a, "Model", 20, id);
    add_candidate("second", true, true, second);
    activate(&a, second);
    test_model_wait(&b, second);
    wait_found(&b, 20, id, true);
    test_enroll(&b, "New", 21, id);
    wait_found(&a, 21, id, true);
    /* Back by the one that did not begin it. */
    test_model_rollback(&b);
    test_model_wait(&a, first);
    wait_found(&a, 20, "Model", true);
    /* Where its file is not, that is said, and nothing is enrolled. */
    add_candidate("third", true, false, third);
    activate(&a, third);
    wait_ready(&b, third);
    test_identity(&b, "Refused", id);
    assert_int_equal(test_add_face(&b, id, 22, true, &r), 503);
    assert_non_null(strstr(r.body, third));
    snprintf(line, sizeof(line), "/v1/models/%s", third);
    assert_int_equal(test_json(&b, "DELETE", line, NULL, &r), 400);
    assert_non_null(strstr(r.body, "is in use"));
    wait_ready(&a, NULL);
    snprintf(line, sizeof(line),
             "cp %s/data/models/%s.safetensors %s/data/models", a.dir, third,
             b.dir);
    assert_int_equal(system(line), 0);
    wait_ready(&b, NULL);
    test_model_wait(&b, third);
    assert_int_equal(test_add_face(&b, id, 22, true, &r), 201);
    /* And one that starts now answers with it too. */
    assert_int_equal((test_server_signal(&b, SIGTERM), test_server_wait(&b)),
                     0);
    snprintf(line, sizeof(line), "--store=%s", postgres.url);
    test_server_restart(&b, (const char *const[]){line, NULL});
    test_model_wait(&b, third);
    wait_found(&b, 22, id, true);
    test_answer_fini(&r);
}

/* ---- what is one server's ---- */

/* What a server answers about another's, which names that one. */
static void refused(const char *method, const char *path, const char *body)
{
    struct test_answer r = {0};
    char *log = test_server_log(&a), name[64] = "";
    const char *at = strstr(log, "server ");

    for (; at && !name[0]; at = strstr(at + 1, "server "))
        if (strstr(at, ", one of those"))
            snprintf(name, sizeof(name), "%.*s", (int)strcspn(at + 7, ","),
                     at + 7);
    free(log);
    assert_string_not_equal(name, "");
    if (test_json(&b, method, path, body, &r) != 400 || !strstr(r.body, name))
        fail_msg("%s %s: %s, not naming %s", method, path, r.body, name);
    test_answer_fini(&r);
}

static void job_and_dataset__of_one__told_and_refused_by_the_other(void **state)
{
    char set[64], job[64], path[200], text[200];
    struct test_answer r = {0};
    size_t len;
    char *png;

    (void)state;
    assert_int_equal(test_json(&a, "POST", "/v1/datasets",
                               "{\"name\":\"night\",\"kind\":\"fatigue\"}", &r),
                     201);
    test_member(&r, "id", set, sizeof(set));
    for (int i = 0; i < 4; i++) {
        png = test_face(i, 0, &len);
        snprintf(path, sizeof(path),
                 "/v1/datasets/%s/samples?input=crop&label=%s", set,
                 i % 2 ? "drowsy" : "alert");
        if (test_png(&a, path, png, len, &r) != 201)
            fail_msg("%s", r.body);
        if (i == 3 && (test_png(&b, path, png, len, &r) != 400 ||
                       !strstr(r.body, "are on server")))
            fail_msg("%s", r.body);
        free(png);
    }
    snprintf(path, sizeof(path), "/v1/datasets/%s", set);
    assert_int_equal(test_get(&b, path, &r), 200);
    assert_non_null(strstr(r.body, "\"pictures\":4"));
    refused("DELETE", path, NULL);
    snprintf(text, sizeof(text), "{\"name\":\"n\",\"fatigue_dataset\":\"%s\"}",
             set);
    refused("POST", "/v1/jobs", text);
    if (test_json(&a, "POST", "/v1/jobs", text, &r) != 202)
        fail_msg("%s", r.body);
    test_member(&r, "id", job, sizeof(job));
    assert_int_equal(test_get(&b, "/v1/jobs", &r), 200);
    assert_non_null(strstr(r.body, job));
    snprintf(path, sizeof(path), "/v1/jobs/%s", job);
    assert_int_equal(test_get(&b, path, &r), 200);
    assert_non_null(strstr(r.body, "\"state\":\"queued\""));
    refused("DELETE", path, NULL);
    snprintf(path, sizeof(path), "/v1/jobs/%s/cancel", job);
    refused("POST", path, "{}");
    snprintf(path, sizeof(path), "/v1/jobs/%s/compare", job);
    refused("POST", path, "{}");
    snprintf(path, sizeof(path), "/v1/jobs/%s/events", job);
    refused("GET", path, NULL);
    snprintf(path, sizeof(path), "/v1/jobs/%s/losses", job);
    refused("GET", path, NULL);
    assert_int_equal(test_get(&b, "/v1/jobs/job_none", &r), 404);
    assert_int_equal(test_json(&b, "DELETE", "/v1/jobs/job_none", NULL, &r),
                     404);
    snprintf(path, sizeof(path), "/v1/jobs/%s/cancel", job);
    assert_int_equal(test_json(&a, "POST", path, "{}", &r), 200);
    snprintf(path, sizeof(path), "/v1/jobs/%s", job);
    assert_int_equal(test_get(&b, path, &r), 200);
    assert_non_null(strstr(r.body, "\"state\":\"cancelled\""));
    assert_int_equal(test_json(&a, "DELETE", path, NULL, &r), 204);
    assert_int_equal(test_get(&b, path, &r), 404);
    test_answer_fini(&r);
}

/* ---- keys: last, since from then on every call needs one ---- */

static long analyze_with(const struct test_server *s, const char *key)
{
    struct test_server keyed = *s;
    struct test_answer r = {0};
    size_t len;
    char *png = test_face(1, 0, &len);
    long status;

    snprintf(keyed.key, sizeof(keyed.key), "%s", key);
    status = test_png(&keyed, "/v1/analyze?input=crop", png, len, &r);
    free(png);
    test_answer_fini(&r);
    return status;
}

static void wait_status(const struct test_server *s, const char *key,
                        long wanted)
{
    for (int i = 0; analyze_with(s, key) != wanted; i++) {
        if (i == PATIENCE)
            fail_msg("no %ld", wanted);
        usleep(20000);
    }
}

static void key__made_and_revoked_on_one__counts_on_the_other(void **state)
{
    char admin[64], key[64], id[64], path[128], out[256], store[200];
    struct test_answer r = {0};

    (void)state;
    snprintf(store, sizeof(store), "--store=%s", postgres.url);
    /* By the command too, while they run. */
    assert_int_equal(
        test_server_run(
            &a,
            (const char *const[]){store, "--create-key", "admin:boss", NULL},
            out, sizeof(out)),
        0);
    snprintf(admin, sizeof(admin), "%.*s", (int)strcspn(out, "\n"), out);
    wait_status(&a, "", 401);
    wait_status(&b, "", 401);
    strcpy(a.key, admin);
    strcpy(b.key, admin);
    assert_int_equal(test_json(&a, "POST", "/v1/keys",
                               "{\"name\":\"van\",\"role\":\"analyze\"}", &r),
                     201);
    test_member(&r, "secret", key, sizeof(key));
    test_member(&r, "id", id, sizeof(id));
    wait_status(&b, key, 200);
    snprintf(path, sizeof(path), "/v1/keys/%s", id);
    assert_int_equal(test_json(&a, "DELETE", path, NULL, &r), 204);
    assert_int_equal(analyze_with(&a, key), 401);
    wait_status(&b, key, 401);
    test_answer_fini(&r);
}

/* ---- from SQLite ---- */

static void copy_store__from_sqlite__found_with_the_same_key(void **state)
{
    char url[160], store[200], id[64], key[64], out[400], wanted[200];
    const char *copy[] = {store, "--copy-store", NULL};
    struct test_server s;

    (void)state;
    test_postgres_database(&postgres, "copied", url);
    snprintf(store, sizeof(store), "--store=%s", url);
    test_server_start(&s, (const char *const[]){NULL});
    test_enroll(&s, "Ada", 1, id);
    assert_int_equal(test_server_run(&s, copy, out, sizeof(out)), 1);
    assert_non_null(strstr(out, "is in use by another server"));
    test_server_signal(&s, SIGTERM);
    assert_int_equal(test_server_wait(&s), 0);
    assert_int_equal(
        test_server_run(&s,
                        (const char *const[]){"--create-key", "admin:me", NULL},
                        out, sizeof(out)),
        0);
    snprintf(key, sizeof(key), "%.*s", (int)strcspn(out, "\n"), out);
    assert_int_equal(
        test_server_run(&s, (const char *const[]){"--copy-store", NULL}, out,
                        sizeof(out)),
        2);
    assert_non_null(strstr(out, "--copy-store: needs --store URL"));
    assert_int_equal(test_server_run(&s, copy, out, sizeof(out)), 0);
    snprintf(wanted, sizeof(wanted),
             "identity 1, metadata 0, face 1, embedding 1, api_key 1");
    if (!strstr(out, wanted))
        fail_msg("%s", out);
    assert_null(strstr(out, TEST_POSTGRES_PASSWORD));
    assert_int_equal(test_server_run(&s, copy, out, sizeof(out)), 1);
    assert_non_null(strstr(out, "is not empty: table identity has 1 rows"));
    assert_null(strstr(out, TEST_POSTGRES_PASSWORD));
    strcpy(s.key, key);
    test_server_restart(&s, (const char *const[]){store, NULL});
    strcpy(s.key, key);
    wait_found(&s, 1, id, true);
    assert_int_equal(test_server_stop(&s), 0);
}

static void copy_store__without_a_file__named(void **state)
{
    struct test_server s = {0};
    char out[400];

    (void)state;
    assert_int_equal(
        test_server_run(&s,
                        (const char *const[]){"--store=postgres://nobody",
                                              "--copy-store", NULL},
                        out, sizeof(out)),
        1);
    if (!strstr(out, "/data/tscaf.db: No such file or directory"))
        fail_msg("%s", out);
    test_server_remove(&s);
}

static int stop_both(void **state)
{
    int bad = test_server_stop(&a);

    (void)state;
    return test_server_stop(&b) + bad;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(face__enrolled_on_one__known_to_the_other),
        cmocka_unit_test(database__stopped_and_started__told_and_made_up_for),
        cmocka_unit_test(database__lost_what_was_written__everything_read_anew),
        cmocka_unit_test(model__activated_on_one__answers_on_the_other),
        cmocka_unit_test(
            job_and_dataset__of_one__told_and_refused_by_the_other),
        cmocka_unit_test(copy_store__from_sqlite__found_with_the_same_key),
        cmocka_unit_test(copy_store__without_a_file__named),
        cmocka_unit_test(key__made_and_revoked_on_one__counts_on_the_other),
    };
    int bad = 0;

    if (test_postgres_new(&postgres, "test_server_replicas")) {
        bad = cmocka_run_group_tests(tests, start_both, stop_both);
        test_postgres_free(&postgres);
    }
    return bad;
}
