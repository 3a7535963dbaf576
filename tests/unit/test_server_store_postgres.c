/* What is PostgreSQL's own: connections that are lost at the worst moment,
 * servers at work at once, and what is said of it. */
#include <arpa/inet.h>
#include <ctype.h>
#include <poll.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/tscaf.pb-c.h"
#include "server/store/store.h"
#include "tests/support/postgres.h"
#include "tests/support/unit.h"

static struct test_postgres server;

static struct srv_store *open_store(const char *url)
{
    struct srv_store *s;
    struct ut_error e;

    if (srv_store_open(test_dir(), url, &s, &e))
        fail_msg("%s", e.msg);
    return s;
}

static enum ut_err create(struct srv_store *s, const char *name,
                          struct ut_error *e)
{
    struct srv_identity x = {.name = strdup(name),
                             .external_id = strdup(""),
                             .consent_ref = strdup("")};
    enum ut_err rc = srv_store_identity_create(s, "local", &x, e);

    srv_identity_fini(&x);
    return rc;
}

/* ---- what is said ---- */

static void open__refused__named_without_the_password(void **state)
{
    static const char secret[] = TEST_POSTGRES_PASSWORD;
    struct srv_store *s;
    struct ut_error e;
    char url[200];

    (void)state;
    snprintf(url, sizeof(url), "postgres://tscaf:%s@127.0.0.1:1/gone", secret);
    assert_int_equal(srv_store_open(test_dir(), url, &s, &e), UT_EBUSY);
    assert_null(s);
    assert_non_null(strstr(e.msg, "PostgreSQL at 127.0.0.1:1/gone"));
    assert_null(strpbrk(e.msg, "\n\t"));
    assert_null(strstr(e.msg, secret));
    snprintf(url, sizeof(url), "postgres://tscaf:wrong%s@127.0.0.1:%d/postgres",
             secret, server.port);
    assert_int_equal(srv_store_open(test_dir(), url, &s, &e), UT_EBUSY);
    assert_non_null(strstr(e.msg, "authentication failed"));
    assert_null(strstr(e.msg, secret));
    snprintf(url, sizeof(url), "postgres://tscaf:%s@[::1/x", secret);
    assert_int_equal(srv_store_open(test_dir(), url, &s, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "--store"));
    assert_null(strstr(e.msg, secret));
}

static void open__newer_schema__refused_by_name(void **state)
{
    struct srv_store *s;
    struct ut_error e;
    char url[160];

    (void)state;
    test_postgres_database(&server, "newer", url);
    srv_store_close(open_store(url));
    test_postgres_sql(&server, "newer",
                      "UPDATE tscaf_schema SET version = 1000", NULL);
    assert_int_equal(srv_store_open(test_dir(), url, &s, &e), UT_EFORMAT);
    assert_non_null(strstr(e.msg, "/newer has schema 1000"));
    assert_null(s);
}

static void audit__changed_by_hand__refused_by_the_database(void **state)
{
    char url[160], said[200];

    (void)state;
    test_postgres_database(&server, "audit", url);
    srv_store_close(open_store(url));
    for (int i = 0; i < 3; i++) {
        static const char *const tries[] = {"UPDATE audit SET actor = ''",
                                            "DELETE FROM audit",
                                            "TRUNCATE audit"};
        char sql[300];

        snprintf(sql, sizeof(sql),
                 "DO $$ BEGIN %s; RAISE 'done'; EXCEPTION WHEN"
                 " raise_exception THEN CREATE TABLE said%d AS SELECT"
                 " sqlerrm AS said; END $$",
                 tries[i], i);
        test_postgres_sql(&server, "audit", sql, NULL);
        snprintf(sql, sizeof(sql), "SELECT said FROM said%d", i);
        test_postgres_sql(&server, "audit", sql, said);
        assert_string_equal(said, "the audit log is append-only");
    }
}

/* ---- several at once ---- */

struct writer {
    const char *url;
    int n;
    struct ut_error e;
};

static void *open_and_write(void *arg)
{
    struct writer *w = arg;
    struct srv_store *s;

    w->e.code = srv_store_open(test_dir(), w->url, &s, &w->e);
    for (int i = 0; i < w->n && !w->e.code; i++)
        w->e.code = create(s, "Many", &w->e);
    srv_store_close(s);
    return NULL;
}

static void write__several_at_once__all_there_in_turn(void **state)
{
    enum { WRITERS = 6, EACH = 25 };
    struct writer w[WRITERS];
    pthread_t threads[WRITERS];
    char url[160], said[200];

    (void)state;
    test_postgres_database(&server, "many", url);
    /* They also migrate the schema at once. */
    for (int i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){.url = url, .n = EACH};
        assert_int_equal(
            pthread_create(&threads[i], NULL, open_and_write, &w[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
        if (w[i].e.code)
            fail_msg("%s", w[i].e.msg);
    }
    test_postgres_sql(&server, "many",
                      "SELECT count(DISTINCT id), (SELECT count(*) FROM audit),"
                      " (SELECT max(seq) FROM audit) FROM identity",
                      said);
    assert_string_equal(said, "150|150|150");
}

/* ---- lost connections ---- */

static void server__restarted_between_calls__nobody_notices(void **state)
{
    struct srv_identity *list;
    struct srv_store *s;
    struct ut_error e;
    char url[160];
    size_t n;

    (void)state;
    test_postgres_database(&server, "restart", url);
    s = open_store(url);
    for (int i = 0; i < 2; i++) {
        test_postgres_stop(&server);
        test_postgres_start(&server);
        if (i && create(s, "Written", &e)) /* a write comes first */
            fail_msg("%s", e.msg);
        if (srv_store_identity_list(s, "", "", 10, &list, &n, &e))
            fail_msg("%s", e.msg); /* a read comes first */
        assert_int_equal(n, i);
        for (size_t k = 0; k < n; k++)
            srv_identity_fini(&list[k]);
        free(list);
    }
    /* While it is away that is said, and nothing hangs. */
    test_postgres_stop(&server);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(create(s, "Not written", &e), UT_EBUSY);
        assert_non_null(strstr(e.msg, "PostgreSQL at 127.0.0.1:"));
        assert_null(strstr(e.msg, TEST_POSTGRES_PASSWORD));
    }
    test_postgres_start(&server);
    for (int i = 0; create(s, "Again", &e); i++) {
        assert_int_equal(e.code, UT_EBUSY);
        assert_true(i < 1000);
        usleep(20000);
    }
    srv_store_close(s);
}

/* A way to the server that is cut when the client says a word. */
struct way {
    int listener, port;
    const char *word;  /* NULL: never */
    bool pass;         /* the word itself still arrives */
    atomic_bool reset; /* cut it now, so that writing already fails */
    atomic_int cuts;
};

/* COMMIT is not in COMMITTED. */
static bool says(const char *bytes, size_t n, const char *word)
{
    size_t len = word ? strlen(word) : 0;
    const char *at = word ? memmem(bytes, n, word, len) : NULL;

    return at && (at + len == bytes + n || !isalpha(at[len]));
}

static void carry(struct way *w, int client)
{
    /* What a server says that is shut down at once. */
    static const char notice[] =
        "N\0\0\0\44SWARNING\0VWARNING\0C57P02\0Mgone\0";
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)server.port)};
    int ends[2] = {client, socket(AF_INET, SOCK_STREAM, 0)};
    char bytes[4096];

    if (connect(ends[1], (struct sockaddr *)&to, sizeof(to)))
        fail_msg("no way to the server");
    for (;;) {
        struct pollfd p[2] = {{.fd = ends[0], .events = POLLIN},
                              {.fd = ends[1], .events = POLLIN}};
        int from;
        ssize_t n;

        if (!poll(p, 2, 10) && atomic_exchange(&w->reset, false)) {
            const struct linger none = {.l_onoff = 1};

            (void)!write(client, notice, sizeof(notice));
            setsockopt(client, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
            w->cuts++;
            break;
        }
        if (!p[0].revents && !p[1].revents)
            continue;
        from = !p[0].revents;
        n = read(ends[from], bytes, sizeof(bytes));
        if (n <= 0)
            break;
        if (!from && !w->cuts && says(bytes, (size_t)n, w->word)) {
            w->cuts++;
            if (w->pass) { /* and its answer is waited for, and lost */
                (void)!write(ends[1], bytes, (size_t)n);
                (void)!read(ends[1], bytes, sizeof(bytes));
            }
            break;
        }
        if (write(ends[!from], bytes, (size_t)n) != n)
            break;
    }
    close(ends[1]);
    close(client);
}

static void *keep_way(void *arg)
{
    struct way *w = arg;
    int client;

    /* One at a time: the store has one connection. */
    while ((client = accept(w->listener, NULL, NULL)) >= 0)
        carry(w, client);
    return NULL;
}

static pthread_t open_way(struct way *w, const char *database, char url[200])
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    pthread_t thread;

    w->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(w->listener, (struct sockaddr *)&a, len), 0);
    assert_int_equal(listen(w->listener, 4), 0);
    assert_int_equal(getsockname(w->listener, (struct sockaddr *)&a, &len), 0);
    snprintf(url, 200,
             "postgres://tscaf:" TEST_POSTGRES_PASSWORD "@127.0.0.1:%d/%s"
             "?sslmode=disable&gssencmode=disable",
             ntohs(a.sin_port), database);
    assert_int_equal(pthread_create(&thread, NULL, keep_way, w), 0);
    return thread;
}

/* A change whose connection is cut at a word: what it says, and how many
 * identities and audit lines there are then. */
static void cut_at(const char *database, const char *word, bool pass,
                   enum ut_err wanted, const char *there)
{
    struct way w = {.pass = pass};
    struct srv_store *s;
    struct ut_error e;
    char direct[160], url[200], said[200];
    pthread_t thread;

    test_postgres_database(&server, database, direct);
    thread = open_way(&w, database, url);
    s = open_store(url);
    w.word = word;
    if (create(s, "Cut", &e) != wanted)
        fail_msg("cut at %s: %s", word, e.msg);
    assert_int_equal(w.cuts, 1);
    test_postgres_sql(
        &server, database,
        "SELECT count(*), (SELECT count(*) FROM audit) FROM identity", said);
    assert_string_equal(said, there);
    /* And the next goes through. */
    if (create(s, "Next", &e))
        fail_msg("after a cut at %s: %s", word, e.msg);
    srv_store_close(s);
    shutdown(w.listener, SHUT_RDWR);
    close(w.listener);
    pthread_join(thread, NULL);
}

static void write__cut_before_it_began__made_once(void **state)
{
    (void)state;
    cut_at("cut_begin", "BEGIN", false, UT_OK, "1|1");
    cut_at("cut_begun", "BEGIN", true, UT_OK, "1|1");
}

static void
write_and_read__connection_reset_before__nobody_notices(void **state)
{
    struct way w = {.pass = false};
    struct srv_identity *list;
    struct srv_store *s;
    struct ut_error e;
    char direct[160], url[200];
    pthread_t thread;
    size_t n;

    (void)state;
    test_postgres_database(&server, "reset", direct);
    thread = open_way(&w, "reset", url);
    s = open_store(url);
    for (int i = 0; i < 2; i++) {
        w.reset = true;
        while (w.cuts <= i)
            usleep(1000);
        usleep(20000); /* it arrives before the call */
        if (i ? srv_store_identity_list(s, "", "", 10, &list, &n, &e)
              : create(s, "Reset", &e))
            fail_msg("%s", e.msg);
    }
    assert_int_equal(n, 1);
    srv_identity_fini(list);
    free(list);
    srv_store_close(s);
    shutdown(w.listener, SHUT_RDWR);
    close(w.listener);
    pthread_join(thread, NULL);
}

static void write__cut_in_the_middle__not_made(void **state)
{
    (void)state;
    cut_at("cut_insert", "INSERT INTO identity", true, UT_EBUSY, "0|0");
    cut_at("cut_audit", "INSERT INTO audit", false, UT_EBUSY, "0|0");
}

static void write__cut_at_its_commit__known_whether_it_was_made(void **state)
{
    (void)state;
    cut_at("cut_commit", "COMMIT", true, UT_OK, "1|1");
    cut_at("cut_no_commit", "COMMIT", false, UT_EBUSY, "0|0");
}

/* ---- all of it from SQLite, and back ---- */

static void fill(struct srv_store *s)
{
    float vector[8] = {1, -2, 0.5f, 1e-30f};
    struct srv_face f = {.model_version = "0123456789abcdef",
                         .box = {1.5f, 2, 3, 4},
                         .quality = 87,
                         .embedding = vector,
                         .dim = 8,
                         .crop = (uint8_t *)(uintptr_t) "p\0g",
                         .crop_len = 3};
    struct srv_identity x = {.name = strdup("J\xc3\xb6rg"),
                             .external_id = strdup("e-1"),
                             .consent_ref = strdup("paper 7")};
    struct srv_key key = {.name = strdup("boss"), .role = 3};
    Tscaf__V1__ModelInfo m = TSCAF__V1__MODEL_INFO__INIT;
    const struct srv_record put = {SRV_TABLE_MODEL, "m1", &m.base};
    struct ut_error e;

    x.metadata = calloc(1, sizeof(*x.metadata));
    x.metadata[0].key = strdup("depot");
    x.metadata[0].value = strdup("");
    x.n_metadata = 1;
    m.reason = (char *)(uintptr_t) "m1";
    memset(key.hash, 0xab, sizeof(key.hash));
    assert_int_equal(srv_store_identity_create(s, "local", &x, &e), UT_OK);
    snprintf(f.identity_id, sizeof(f.identity_id), "%s", x.id);
    assert_int_equal(srv_store_face_add(s, "local", &f, &e), UT_OK);
    f.crop = NULL;
    f.crop_len = 0;
    assert_int_equal(srv_store_face_add(s, "local", &f, &e), UT_OK);
    assert_int_equal(srv_store_key_create(s, "local", &key, &e), UT_OK);
    assert_int_equal(
        srv_store_put(s, "local", "model.create", "m1", &put, 1, &e), UT_OK);
    assert_int_equal(create(s, "without anything", &e), UT_OK);
    srv_identity_fini(&x);
    srv_key_fini(&key);
}

static int one_int(void *arg, int n, char **columns, char **names)
{
    (void)n;
    (void)names;
    *(int *)arg = atoi(columns[0]);
    return 0;
}

static int ask(sqlite3 *db, const char *format, ...)
{
    va_list args;
    char *sql, *why = NULL;
    int out = -1;

    va_start(args, format);
    sql = sqlite3_vmprintf(format, args);
    va_end(args);
    if (sqlite3_exec(db, sql, one_int, &out, &why))
        fail_msg("%s: %s", sql, why);
    sqlite3_free(sql);
    return out;
}

/* Every column of every table but the count of a row, byte for byte. */
static void check_same(const char *a, const char *b)
{
    static const char *const tables[][2] = {
        {"identity", "*"},
        {"metadata", "*"},
        {"face", "id, identity_id, model_version, x, y, w, h, quality, crop, "
                 "created_ms"},
        {"embedding", "face_id, model_version, vector"},
        {"api_key", "id, name, role, hash, created_ms"},
        {"model", "id, record"},
        {"audit", "at_ms, actor, action, subject, detail"}};
    sqlite3 *db;

    assert_int_equal(sqlite3_open(a, &db), SQLITE_OK);
    ask(db, "ATTACH %Q AS other", b);
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        const char *t = tables[i][0], *columns = tables[i][1];

        assert_true(ask(db, "SELECT count(*) FROM %s", t) > 0);
        assert_int_equal(ask(db,
                             "SELECT count(*) FROM (SELECT %s FROM %s EXCEPT "
                             "SELECT %s FROM other.%s)",
                             columns, t, columns, t),
                         0);
    }
    assert_int_equal(ask(db,
                         "SELECT (SELECT count(*) FROM other.audit) - (SELECT "
                         "count(*) FROM audit)"),
                     2); /* that it was copied, twice */
    assert_int_equal(ask(db, "SELECT (SELECT count(*) FROM other.face) - "
                             "(SELECT count(*) FROM face)"),
                     0);
    sqlite3_close(db);
}

static void copy__from_sqlite_and_back__the_same(void **state)
{
    struct srv_store *one, *two, *three;
    char url[160], first[256], third[256], said[400];
    struct ut_error e;

    (void)state;
    test_postgres_database(&server, "copy", url);
    snprintf(first, sizeof(first), "%s/first", test_dir());
    snprintf(third, sizeof(third), "%s/third", test_dir());
    assert_int_equal(srv_store_open(first, NULL, &one, &e), UT_OK);
    fill(one);
    two = open_store(url);
    assert_int_equal(srv_store_open(third, NULL, &three, &e), UT_OK);
    if (srv_store_copy(one, two, said, sizeof(said), &e) ||
        srv_store_copy(two, three, said, sizeof(said), &e))
        fail_msg("%s", e.msg);
    assert_string_equal(said, "identity 2, metadata 1, face 2, embedding 2, "
                              "api_key 1, dataset 0, job 0, model 1, audit 7");
    /* What is not empty stays as it is. */
    assert_int_equal(srv_store_copy(one, two, said, sizeof(said), &e),
                     UT_EEXISTS);
    srv_store_close(one);
    srv_store_close(two);
    srv_store_close(three);
    strcat(first, "/tscaf.db");
    strcat(third, "/tscaf.db");
    check_same(first, third);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open__refused__named_without_the_password),
        cmocka_unit_test(open__newer_schema__refused_by_name),
        cmocka_unit_test(audit__changed_by_hand__refused_by_the_database),
        cmocka_unit_test(copy__from_sqlite_and_back__the_same),
        cmocka_unit_test(write__several_at_once__all_there_in_turn),
        cmocka_unit_test(server__restarted_between_calls__nobody_notices),
        cmocka_unit_test(write__cut_before_it_began__made_once),
        cmocka_unit_test(
            write_and_read__connection_reset_before__nobody_notices),
        cmocka_unit_test(write__cut_in_the_middle__not_made),
        cmocka_unit_test(write__cut_at_its_commit__known_whether_it_was_made),
    };
    int bad = 0;

    if (test_postgres_new(&server, "test_server_store_postgres")) {
        bad = cmocka_run_group_tests(tests, NULL, NULL);
        test_postgres_free(&server);
    }
    return bad;
}
