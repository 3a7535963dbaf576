/* The real server over real sockets: every route, every error status, keys,
 * overload, draining. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/data_folder.h"
#include "tests/support/server.h"
#include "tests/support/unit.h"

static void is(const struct test_answer *a, long status, const char *what)
{
    if (a->status != status || !strstr(a->body, what))
        fail_msg("%ld, not %ld, or \"%s\" is not in: %s", a->status, status,
                 what, a->body);
}

static void headers_have(const struct test_answer *a, const char *what)
{
    if (!strcasestr(a->headers, what))
        fail_msg("\"%s\" is not in: %s", what, a->headers);
}

#define FLAGS(...)                                                             \
    (const char *const[])                                                      \
    {                                                                          \
        __VA_ARGS__, NULL                                                      \
    }

/* ---- Every route ---- */

static void operations(struct test_server *s, struct test_answer *a)
{
    test_get(s, "/healthz", a);
    is(a, 200, "\"ok\"");
    test_get(s, "/livez", a);
    is(a, 200, "\"ok\"");
    test_get(s, "/readyz", a);
    is(a, 200, "\"ready\"");
    test_get(s, "/v1/models", a);
    is(a, 200, "\"trained\":false");
    test_get(s, "/metrics", a);
    is(a, 200, "tscaf_gallery_faces 0\n");
    is(a, 200, "tscaf_requests_total{route=\"GET /healthz\",status=\"200\"} 1");
    assert_string_equal(a->type, "text/plain; version=0.0.4");
    test_send(s, &(struct test_request){.method = "HEAD", .path = "/v1/models"},
              a);
    is(a, 200, "");
    assert_int_equal(a->len, 0);
}

static void gallery(struct test_server *s, struct test_answer *a)
{
    char id[40], face[40], path[200];
    size_t len, other_len;
    char *png = test_face(1, 1, &len), *other = test_face(1, 2, &other_len);
    char *embedding;

    test_json(s, "POST", "/v1/identities",
              "{\"name\":\"Ada\",\"external_id\":\"x\",\"metadata\":{\"a\":"
              "\"b\"}}",
              a);
    is(a, 201, "\"name\":\"Ada\"");
    test_member(a, "id", id, sizeof(id));
    snprintf(path, sizeof(path), "/v1/identities/%s", id);
    test_get(s, path, a);
    is(a, 200, "\"metadata\":{\"a\":\"b\"}");
    test_json(s, "PATCH", path, "{\"name\":\"Ada L.\"}", a);
    is(a, 200, "\"name\":\"Ada L.\"");
    test_get(s, "/v1/identities?limit=1&query=ada", a);
    is(a, 200, id);

    snprintf(path, sizeof(path), "/v1/identities/%s/faces?input=crop", id);
    test_png(s, path, png, len, a);
    is(a, 201, "\"has_crop\":true");
    test_member(a, "id", face, sizeof(face));
    snprintf(path, sizeof(path), "/v1/identities/%s/faces", id);
    test_get(s, path, a);
    is(a, 200, face);
    snprintf(path, sizeof(path), "/v1/identities/%s/faces/%s/crop", id, face);
    test_get(s, path, a);
    assert_int_equal(a->status, 200);
    assert_string_equal(a->type, "image/png");
    assert_memory_equal(a->body, "\x89PNG", 4);

    test_png(s, "/v1/analyze?input=crop&return=embedding,crop", png, len, a);
    is(a, 200, "\"verdict\":\"match\"");
    is(a, 200, "\"name\":\"Ada L.\"");
    is(a, 200, "\"probability\":");
    assert_non_null(strstr(a->body, "\"embedding\":["));
    embedding = strndup(strstr(a->body, "\"embedding\":["), 200);
    test_png(s, "/v1/embed?input=crop", png, len, a);
    is(a, 200, embedding);
    assert_null(strstr(a->body, "\"identity\""));
    assert_null(strstr(a->body, "\"fatigue\""));
    free(embedding);
    snprintf(path, sizeof(path), "/v1/verify?input=crop&identity_id=%s", id);
    test_png(s, path, other, other_len, a);
    is(a, 200, "\"same\":true");
    test_png(s, "/v1/search?input=crop", other, other_len, a);
    is(a, 200, id);

    snprintf(path, sizeof(path), "/v1/identities/%s/faces/%s", id, face);
    test_json(s, "DELETE", path, NULL, a);
    is(a, 204, "");
    test_json(s, "DELETE", path, NULL, a);
    is(a, 404, "not_found");
    test_png(s, "/v1/analyze?input=crop", png, len, a);
    is(a, 200, "\"verdict\":\"unknown\"");
    snprintf(path, sizeof(path), "/v1/identities/%s", id);
    test_json(s, "DELETE", path, NULL, a);
    is(a, 204, "");
    test_get(s, path, a);
    is(a, 404, id);
    test_get(s, "/v1/audit?limit=2", a);
    is(a, 200, "\"action\":\"identity.delete\"");
    is(a, 200, "\"next_cursor\":\"");
    free(png);
    free(other);
}

static void routes__all_of_them__answered(void **state)
{
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    test_server_start(&s, NULL);
    operations(&s, &a);
    gallery(&s, &a);
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&s), 0);
}

/* ---- Every error status ---- */

static void errors__each_status__in_the_one_shape(void **state)
{
    const struct {
        struct test_request r;
        long status;
        const char *code, *says;
    } rows[] = {
        {{.path = "/v3"}, 404, "not_found", "/v3"},
        {{.path = "/v1/identities/id_0"}, 404, "not_found", "id_0"},
        {{.path = "/v1/analyze"}, 405, "unimplemented", "POST"},
        {{.path = "/v1/identities?sort=x"},
         400,
         "invalid_argument",
         "cursor, limit, query"},
        {{.path = "/v1/identities", .body = "{\"nmae\":\"x\"}"},
         400,
         "invalid_argument",
         "\"field\":\"nmae\""},
        {{.path = "/v1/identities", .body = "{}"},
         400,
         "invalid_argument",
         "\"field\":\"name\""},
        {{.path = "/v1/identities", .body = "x", .type = "text/plain"},
         415,
         "invalid_argument",
         "application/json"},
        {{.path = "/v1/analyze?input=crop", .body = "x", .type = "image/png"},
         400,
         "invalid_argument",
         "BAD_IMAGE"},
        {{.path = "/v1/analyze", .body = "{}"},
         400,
         "invalid_argument",
         "\"field\":\"images\""},
        {{.path = "/v1/keys", .body = "{\"name\":\"x\"}"},
         400,
         "invalid_argument",
         "\"field\":\"role\""},
        {{.path = "/v1/keys", .body = "{\"role\":\"admin\"}"},
         400,
         "invalid_argument",
         "\"field\":\"name\""},
        {{.path = "/v1/audit?cursor=-1"},
         400,
         "invalid_argument",
         "\"field\":\"cursor\""},
        {{.path = "/v1/audit?limit=1001"},
         400,
         "invalid_argument",
         "\"field\":\"limit\""},
        {{.method = "DELETE", .path = "/v1/keys/key_0"},
         404,
         "not_found",
         "key_0"},
    };
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    test_server_start(&s, NULL);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char code[64];

        test_send(&s, &rows[i].r, &a);
        is(&a, rows[i].status, rows[i].says);
        snprintf(code, sizeof(code), "{\"code\":\"%s\",\"message\":\"",
                 rows[i].code);
        is(&a, rows[i].status, code);
        is(&a, rows[i].status, ",\"details\":[");
        headers_have(&a, "X-Request-Id: ");
    }
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&s), 0);
}

static void errors__that_need_a_face__told(void **state)
{
    size_t len, big = 2 * 1024 * 1024;
    char *png = test_face(1, 1, &len), *bytes = calloc(1, big);
    struct test_answer a = {0};
    char id[40], path[100];
    struct test_server s;

    (void)state;
    test_server_start(&s, FLAGS("--max-body-bytes", "1MiB"));
    test_png(&s, "/v1/analyze", png, len, &a);
    is(&a, 400, "failed_precondition");
    is(&a, 400, "--detector");
    test_send(&s,
              &(struct test_request){.path = "/v1/analyze?input=crop",
                                     .type = "image/png",
                                     .body = png,
                                     .len = len,
                                     .headers = FLAGS("Connect-Timeout-Ms: 0")},
              &a);
    is(&a, 504, "deadline_exceeded");
    test_png(&s, "/v1/analyze", bytes, big, &a);
    is(&a, 413, "resource_exhausted");
    for (int i = 0; i < 2; i++) {
        test_json(&s, "POST", "/v1/identities", "{\"name\":\"Ada\"}", &a);
        test_member(&a, "id", id, sizeof(id));
        snprintf(path, sizeof(path), "/v1/identities/%s/faces?input=crop", id);
        test_png(&s, path, png, len, &a);
        if (i == 0)
            is(&a, 201, id);
        else
            is(&a, 409, "\"identity_id\":\"id_");
    }
    free(png);
    free(bytes);
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&s), 0);
}

/* ---- Keys ---- */

static void keys__made_used_deleted__as_their_roles_allow(void **state)
{
    char admin[64], reader[64], reader_id[40], path[80], *log;
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    test_server_start(&s, NULL);
    test_json(&s, "POST", "/v1/keys", "{\"name\":\"ops\",\"role\":\"admin\"}",
              &a);
    is(&a, 201, "\"role\":\"admin\"");
    test_member(&a, "secret", admin, sizeof(admin));
    test_get(&s, "/v1/keys", &a);
    is(&a, 401, "unauthenticated");
    headers_have(&a, "WWW-Authenticate: Bearer");
    test_get(&s, "/healthz", &a);
    is(&a, 200, "");

    snprintf(s.key, sizeof(s.key), "%s", admin);
    test_json(&s, "POST", "/v1/keys", "{\"name\":\"car\",\"role\":\"analyze\"}",
              &a);
    is(&a, 201, "\"name\":\"car\"");
    test_member(&a, "secret", reader, sizeof(reader));
    test_member(&a, "id", reader_id, sizeof(reader_id));
    test_get(&s, "/v1/keys", &a);
    is(&a, 200, reader_id);
    assert_null(strstr(a.body, reader + 6));

    snprintf(s.key, sizeof(s.key), "%s", reader);
    test_get(&s, "/v1/models", &a);
    is(&a, 200, "models");
    test_get(&s, "/v1/identities", &a);
    is(&a, 403, "permission_denied");
    test_get(&s, "/v1/audit", &a);
    is(&a, 403, "admin");

    snprintf(s.key, sizeof(s.key), "%s", admin);
    snprintf(path, sizeof(path), "/v1/keys/%s", reader_id);
    test_json(&s, "DELETE", path, NULL, &a);
    is(&a, 204, "");
    snprintf(s.key, sizeof(s.key), "%s", reader);
    test_get(&s, "/v1/models", &a);
    is(&a, 401, "not known");
    snprintf(s.key, sizeof(s.key), "%s", admin);
    test_get(&s, "/v1/audit", &a);
    is(&a, 200, "\"action\":\"key.delete\"");

    log = test_server_log(&s);
    assert_null(strstr(log, admin + 6));
    assert_null(strstr(log, reader + 6));
    free(log);
    /* The table of keys comes back from the store. */
    test_server_signal(&s, SIGTERM);
    assert_int_equal(test_server_wait(&s), 0);
    test_server_restart(&s, NULL);
    test_get(&s, "/v1/keys", &a);
    is(&a, 200, "\"name\":\"ops\"");
    s.key[0] = '\0';
    test_get(&s, "/v1/keys", &a);
    is(&a, 401, "");
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&s), 0);
}

static void store__others_umask__read_by_its_user_alone(void **state)
{
    mode_t before = umask(022);
    struct test_server s;
    char path[128];
    struct stat st;

    (void)state;
    test_server_start(&s, NULL);
    snprintf(path, sizeof(path), "%s/data/tscaf.db", s.dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(test_server_stop(&s), 0);
    umask(before);
}

static void no_key_yet__warned_of_until_there_is_one(void **state)
{
    struct test_server s;
    char out[200], *log;

    (void)state;
    test_server_start(&s, NULL);
    log = test_server_log(&s);
    assert_non_null(strstr(log, "no API key exists yet"));
    free(log);
    test_server_signal(&s, SIGTERM);
    assert_int_equal(test_server_wait(&s), 0);
    assert_int_equal(test_server_run(&s, FLAGS("--create-key", "admin:me"), out,
                                     sizeof(out)),
                     0);
    test_server_restart(&s, NULL);
    log = test_server_log(&s);
    assert_null(strstr(log, "no API key"));
    free(log);
    assert_int_equal(test_server_stop(&s), 0);
}

static void
beyond_loopback__without_and_with_a_key__refused_then_served(void **state)
{
    struct test_server s = {0};
    struct test_answer a = {0};
    char out[1024];

    (void)state;
    assert_int_equal(
        test_server_run(&s, FLAGS("--listen", "0.0.0.0:0"), out, sizeof(out)),
        1);
    assert_non_null(strstr(out, "--create-key admin:NAME"));
    assert_int_equal(
        test_server_run(&s, FLAGS("--create-key", "boss:x"), out, sizeof(out)),
        2);
    assert_non_null(strstr(out, "boss:x"));
    assert_int_equal(test_server_run(&s, FLAGS("--create-key", "admin:first"),
                                     out, sizeof(out)),
                     0);
    assert_memory_equal(out, "tscaf_", 6);
    out[strcspn(out, "\n")] = '\0';
    snprintf(s.key, sizeof(s.key), "%s", out);
    assert_int_equal(
        test_server_run(&s, FLAGS("--create-key", "admin:second", "--if-none"),
                        out, sizeof(out)),
        0);
    assert_string_equal(out, "");
    test_server_restart(&s, FLAGS("--listen", "0.0.0.0:0"));
    test_get(&s, "/v1/keys", &a);
    is(&a, 200, "\"name\":\"first\"");
    assert_null(strstr(a.body, "second"));
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&s), 0);
}

/* A key of that name could neither be listed nor made by the API. */
static void create_key__name_that_the_api_refuses__exit_2(void **state)
{
    char most[6 + 201 + 1] = "admin:", out[1024];
    const char *const names[] = {"admin:", "admin:\xff", most};
    struct test_server s = {0};

    (void)state;
    memset(most + 6, 'x', 201);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(test_server_run(&s, FLAGS("--create-key", names[i]),
                                         out, sizeof(out)),
                         2);
        assert_non_null(strstr(out, "--create-key: a name "));
    }
    most[6 + 200] = '\0';
    assert_int_equal(
        test_server_run(&s, FLAGS("--create-key", most), out, sizeof(out)), 0);
    test_server_remove(&s);
}

/* Its database may be of an earlier version, which it still uses. */
static void start__folder_is_anothers__refused_before_the_store(void **state)
{
    struct srv_data_folder held;
    struct test_server s = {0};
    char out[1024], path[128];
    struct ut_error e;

    (void)state;
    assert_int_equal(test_server_run(&s, FLAGS("--version"), out, sizeof(out)),
                     0);
    snprintf(path, sizeof(path), "%s/data", s.dir);
    assert_int_equal(srv_data_folder_claim(path, &held, &e), UT_OK);
    assert_int_equal(
        test_server_run(&s, FLAGS("--listen", "127.0.0.1:0"), out, sizeof(out)),
        1);
    assert_non_null(strstr(out, "is in use by another server"));
    snprintf(path, sizeof(path), "%s/data/tscaf.db", s.dir);
    assert_int_not_equal(access(path, F_OK), 0);
    srv_data_folder_release(&held);
    test_server_remove(&s);
}

static void command_line__mistakes__exit_2_and_a_word(void **state)
{
    struct test_server s = {0};
    char out[16384];

    (void)state;
    assert_int_equal(
        test_server_run(&s, FLAGS("--max-batch", "9"), out, sizeof(out)), 2);
    assert_non_null(strstr(out, "tscafd: --max-batch: \"9\""));
    assert_int_equal(test_server_run(&s, FLAGS("--help"), out, sizeof(out)), 0);
    assert_non_null(strstr(out, "(default 127.0.0.1:8080)"));
    assert_int_equal(test_server_run(&s, FLAGS("--version"), out, sizeof(out)),
                     0);
    assert_non_null(strstr(out, "tscafd "));
    assert_int_equal(test_server_run(&s,
                                     FLAGS("--listen", "127.0.0.1:0", "--model",
                                           "/nowhere.safetensors"),
                                     out, sizeof(out)),
                     1);
    assert_non_null(strstr(out, "/nowhere.safetensors"));
    test_server_remove(&s);
}

/* ---- Load and the end ---- */

struct caller {
    pthread_t thread;
    const struct test_server *s;
    const char *png;
    size_t len;
    struct test_answer a;
};

static void *call(void *arg)
{
    struct caller *c = arg;

    test_png(c->s, "/v1/analyze?input=crop", c->png, c->len, &c->a);
    return NULL;
}

static void start_callers(struct caller *callers, int n,
                          const struct test_server *s, const char *png,
                          size_t len)
{
    for (int i = 0; i < n; i++) {
        callers[i] = (struct caller){.s = s, .png = png, .len = len};
        assert_int_equal(
            pthread_create(&callers[i].thread, NULL, call, &callers[i]), 0);
    }
}

/* Until /metrics shows the line. */
static void wait_metric(const struct test_server *s, const char *line)
{
    struct test_answer a = {0};

    for (int tries = 0; !a.body || !strstr(a.body, line); tries++) {
        if (tries > 6000)
            fail_msg("never \"%s\" in: %s", line, a.body);
        usleep(10000);
        test_get(s, "/metrics", &a);
    }
    test_answer_fini(&a);
}

/* An executor waits this long for a fuller batch: calls stay in flight. */
#define HELD "--batch-delay-us", "1000000", "--max-batch", "32"

static void drain__calls_in_flight__all_answered_exit_0(void **state)
{
    struct caller callers[12];
    struct test_server s;
    size_t len;
    char *png = test_face(2, 1, &len);

    (void)state;
    test_server_start(&s, FLAGS(HELD));
    start_callers(callers, 12, &s, png, len);
    wait_metric(&s, "tscaf_calls_in_flight 13\n"); /* and the one that asks */
    test_server_signal(&s, SIGTERM);
    for (int i = 0; i < 12; i++) {
        pthread_join(callers[i].thread, NULL);
        is(&callers[i].a, 200, "\"frames\":[{");
        test_answer_fini(&callers[i].a);
    }
    assert_int_equal(test_server_wait(&s), 0);
    test_server_remove(&s);
    free(png);
}

static void signal__while_starting__exit_0(void **state)
{
    struct test_server s;

    (void)state;
    /* Its own untrained IResNet50 takes seconds to start. */
    test_server_launch(&s, FLAGS("--model="));
    assert_int_equal(test_server_stop(&s), 0);
}

static void second_signal__while_draining__ends_at_once(void **state)
{
    struct caller callers[2];
    struct test_server s;
    size_t len;
    char *png = test_face(2, 1, &len);

    (void)state;
    test_server_start(&s, FLAGS(HELD));
    start_callers(callers, 2, &s, png, len);
    wait_metric(&s, "tscaf_calls_in_flight 3\n");
    test_server_signal(&s, SIGTERM);
    for (;;) { /* signals of one kind would become one */
        char *log = test_server_log(&s);
        bool draining = strstr(log, "draining") != NULL;

        free(log);
        if (draining)
            break;
        usleep(1000);
    }
    test_server_signal(&s, SIGINT);
    assert_int_equal(test_server_wait(&s), 128 + SIGINT);
    for (int i = 0; i < 2; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].a.status, 0);
        test_answer_fini(&callers[i].a);
    }
    test_server_remove(&s);
    free(png);
}

static void overload__past_max_queue__503_at_once(void **state)
{
    struct caller callers[10];
    struct test_server s;
    int served = 0, refused = 0;
    size_t len;
    char *png = test_face(2, 1, &len);
    struct test_answer a = {0};

    (void)state;
    test_server_start(&s, FLAGS(HELD, "--max-queue", "2"));
    start_callers(callers, 10, &s, png, len);
    for (int i = 0; i < 10; i++) {
        pthread_join(callers[i].thread, NULL);
        if (callers[i].a.status == 200) {
            served++;
        } else {
            is(&callers[i].a, 503, "unavailable");
            headers_have(&callers[i].a, "Retry-After: 1");
            refused++;
        }
        test_answer_fini(&callers[i].a);
    }
    assert_true(served >= 2);
    assert_true(refused >= 1);
    test_png(&s, "/v1/analyze?input=crop", png, len, &a);
    is(&a, 200, "");
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&s), 0);
    free(png);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes__all_of_them__answered),
        cmocka_unit_test(errors__each_status__in_the_one_shape),
        cmocka_unit_test(errors__that_need_a_face__told),
        cmocka_unit_test(keys__made_used_deleted__as_their_roles_allow),
        cmocka_unit_test(store__others_umask__read_by_its_user_alone),
        cmocka_unit_test(no_key_yet__warned_of_until_there_is_one),
        cmocka_unit_test(
            beyond_loopback__without_and_with_a_key__refused_then_served),
        cmocka_unit_test(create_key__name_that_the_api_refuses__exit_2),
        cmocka_unit_test(start__folder_is_anothers__refused_before_the_store),
        cmocka_unit_test(command_line__mistakes__exit_2_and_a_word),
        cmocka_unit_test(drain__calls_in_flight__all_answered_exit_0),
        cmocka_unit_test(signal__while_starting__exit_0),
        cmocka_unit_test(second_signal__while_draining__ends_at_once),
        cmocka_unit_test(overload__past_max_queue__503_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
