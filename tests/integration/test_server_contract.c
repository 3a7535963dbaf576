/* Every operation with every error that a client can bring about; the bodies
 * are held against openapi.yaml after the run (tests/contract/check). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/server.h"
#include "tests/support/unit.h"

enum role { NONE, ANALYZE, ENROLL, ADMIN };
enum body { NO_BODY, JSON, IMAGE };

#define ID "id_000000000000000000000000"
#define FACE "face_000000000000000000000000"
#define KEY "key_000000000000000000000000"

static const struct operation {
    const char *method, *path; /* of things that are not there */
    enum role role;
    enum body body;
    const char *json; /* complete, but for the picture */
} operations[] = {
    {"GET", "/healthz", NONE, NO_BODY, NULL},
    {"GET", "/readyz", NONE, NO_BODY, NULL},
    {"GET", "/metrics", ANALYZE, NO_BODY, NULL},
    {"POST", "/v1/analyze", ANALYZE, IMAGE, "{\"images\":[]}"},
    {"POST", "/v1/embed", ANALYZE, IMAGE, "{\"images\":[]}"},
    {"POST", "/v1/verify", ANALYZE, IMAGE, "{\"identity_id\":\"" ID "\"}"},
    {"POST", "/v1/search", ANALYZE, IMAGE, "{}"},
    {"GET", "/v1/models", ANALYZE, NO_BODY, NULL},
    {"POST", "/v1/identities", ENROLL, JSON, "{\"name\":\"Ada\"}"},
    {"GET", "/v1/identities", ENROLL, NO_BODY, NULL},
    {"GET", "/v1/identities/" ID, ENROLL, NO_BODY, NULL},
    {"PATCH", "/v1/identities/" ID, ENROLL, JSON, "{\"name\":\"Ada\"}"},
    {"DELETE", "/v1/identities/" ID, ENROLL, NO_BODY, NULL},
    {"POST", "/v1/identities/" ID "/faces", ENROLL, IMAGE, "{}"},
    {"GET", "/v1/identities/" ID "/faces", ENROLL, NO_BODY, NULL},
    {"DELETE", "/v1/identities/" ID "/faces/" FACE, ENROLL, NO_BODY, NULL},
    {"GET", "/v1/identities/" ID "/faces/" FACE "/crop", ENROLL, NO_BODY, NULL},
    {"POST", "/v1/keys", ADMIN, JSON, "{\"name\":\"x\",\"role\":\"analyze\"}"},
    {"GET", "/v1/keys", ADMIN, NO_BODY, NULL},
    {"DELETE", "/v1/keys/" KEY, ADMIN, NO_BODY, NULL},
    {"GET", "/v1/audit", ADMIN, NO_BODY, NULL},
    {"GET", "/livez", NONE, NO_BODY, NULL},
    {"POST", "/v1/explain", ANALYZE, IMAGE, "{}"},
};

#define N (sizeof(operations) / sizeof(operations[0]))

static struct test_server server;
static char keys[4][64]; /* by role */
static char *png;
static size_t png_len;

/* Sends one and wants this status and word. */
static void wants(const struct operation *o, struct test_request r, long status,
                  const char *says)
{
    struct test_answer a = {0};

    r.method = r.method ? r.method : o->method;
    r.path = r.path ? r.path : o->path;
    test_send(&server, &r, &a);
    if (a.status != status || !strstr(a.body, says))
        fail_msg("%s %s: %ld, not %ld, or no \"%s\" in: %s", r.method, r.path,
                 a.status, status, says, a.body);
    test_answer_fini(&a);
}

#define WANTS(o, status, says, ...)                                            \
    wants(o, (struct test_request){__VA_ARGS__}, status, says)

static void with_key(enum role role)
{
    snprintf(server.key, sizeof(server.key), "%s", keys[role]);
}

static void make_key(enum role role, const char *name)
{
    struct test_answer a = {0};
    char json[100];

    snprintf(json, sizeof(json), "{\"name\":\"%s\",\"role\":\"%s\"}", name,
             name);
    assert_int_equal(test_json(&server, "POST", "/v1/keys", json, &a), 201);
    test_member(&a, "secret", keys[role], sizeof(keys[role]));
    test_answer_fini(&a);
}

static int set_up(void **state)
{
    const char *const flags[] = {"--max-body-bytes", "64KiB", NULL};

    (void)state;
    png = test_face(1, 1, &png_len);
    test_server_start(&server, flags);
    make_key(ADMIN, "admin");
    with_key(ADMIN);
    make_key(ANALYZE, "analyze");
    make_key(ENROLL, "enroll");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(png);
    return test_server_stop(&server);
}

static void every_operation__key_missing_wrong_or_low__401_403(void **state)
{
    (void)state;
    for (size_t i = 0; i < N; i++) {
        const struct operation *o = &operations[i];

        if (o->role == NONE)
            continue;
        with_key(NONE);
        WANTS(o, 401, "unauthenticated", .body = o->json);
        snprintf(server.key, sizeof(server.key), "tscaf_wrong");
        WANTS(o, 401, "not known", .body = o->json);
        if (o->role > ANALYZE) {
            with_key(o->role - 1);
            WANTS(o, 403, "permission_denied", .body = o->json);
        }
    }
    with_key(ADMIN);
}

static void
every_operation__method_query_or_timeout_unknown__405_400(void **state)
{
    (void)state;
    for (size_t i = 0; i < N; i++) {
        const struct operation *o = &operations[i];
        const char *const timeout[] = {"Connect-Timeout-Ms: soon", NULL};
        char path[200];

        WANTS(o, 405, "EXPECTED", .method = "PUT", .body = "{}");
        snprintf(path, sizeof(path), "%s?nmae=1", o->path);
        WANTS(o, 400, "nmae", .path = path, .body = o->json);
        if (o->role != NONE)
            WANTS(o, 400, "Connect-Timeout-Ms", .body = o->json,
                  .headers = timeout);
        if (o->body == NO_BODY)
            WANTS(o, 400, "takes no body", .body = "{}");
    }
}

static void every_name_in_a_path__nothing_there__404(void **state)
{
    (void)state;
    for (size_t i = 0; i < N; i++) {
        const struct operation *o = &operations[i];
        char path[200];

        if (!strstr(o->path, "_0000"))
            continue;
        if (o->body == IMAGE) {
            snprintf(path, sizeof(path), "%s?input=crop", o->path);
            WANTS(o, 404, "not_found", .path = path, .type = "image/png",
                  .body = png, .len = png_len);
        } else {
            WANTS(o, 404, "not_found", .body = o->json);
        }
    }
}

static void every_body__wrong__400_413_415(void **state)
{
    static char big[64 * 1024 + 1];

    (void)state;
    memset(big, ' ', sizeof(big));
    for (size_t i = 0; i < N; i++) {
        const struct operation *o = &operations[i];

        if (o->body == NO_BODY)
            continue;
        WANTS(o, 400, "BAD_JSON", .body = "{\"");
        WANTS(o, 400, "BAD_JSON", .body = big, .len = sizeof(big) - 1);
        WANTS(o, 413, "resource_exhausted", .body = big, .len = sizeof(big));
        WANTS(o, 415, "application/json", .type = "text/plain", .body = "x");
        WANTS(o, 400, "UNKNOWN_FIELD", .body = "{\"nmae\":1}");
        WANTS(o, 400, "is not JSON", .body = "{\"a\":1,\"a\":2}");
    }
}

static void every_body__does_not_come__408(void **state)
{
    const char *const flags[] = {"--request-timeout-ms", "100", NULL};
    const char *const more[] = {"Content-Length: 100", NULL};
    struct test_server up = server;

    (void)state;
    memset(&server, 0, sizeof(server));
    test_server_start(&server, flags);
    for (size_t i = 0; i < N; i++)
        if (operations[i].body != NO_BODY)
            WANTS(&operations[i], 408, "came too slowly", .body = "{",
                  .headers = more);
    assert_int_equal(test_server_stop(&server), 0);
    server = up;
}

static void every_picture__bad_late_or_undetectable__400_504(void **state)
{
    const char *const timeout[] = {"Connect-Timeout-Ms: 0", NULL};
    struct test_answer a = {0};
    char id[40], path[200];

    (void)state;
    test_json(&server, "POST", "/v1/identities", "{\"name\":\"Ada\"}", &a);
    test_member(&a, "id", id, sizeof(id));
    test_answer_fini(&a);
    for (size_t i = 0; i < N; i++) {
        const struct operation *o = &operations[i];
        const char *below = strstr(o->path, "/faces");

        if (o->body != IMAGE)
            continue;
        WANTS(o, 400, "\"field\":\"image", .body = o->json);
        if (below)
            snprintf(path, sizeof(path), "/v1/identities/%s%s", id, below);
        else
            snprintf(path, sizeof(path), "%s%s", o->path,
                     strstr(o->path, "verify") ? "?identity_id=" ID : "");
        WANTS(o, 400, "--detector", .path = path, .type = "image/png",
              .body = png, .len = png_len);
        snprintf(path + strlen(path), sizeof(path) - strlen(path),
                 "%cinput=crop", strchr(path, '?') ? '&' : '?');
        WANTS(o, 400, "BAD_IMAGE", .path = path, .type = "image/png",
              .body = "x");
        WANTS(o, 400, "BAD_IMAGE", .path = path, .type = "image/png",
              .body = png, .len = png_len / 2);
        WANTS(o, 504, "deadline_exceeded", .path = path, .type = "image/png",
              .body = png, .len = png_len, .headers = timeout);
    }
}

static void conflicts__external_id_and_poor_face__409_422(void **state)
{
    const struct operation *create = &operations[8];
    struct test_answer a = {0};
    char id[40], path[100];
    size_t len = 0;
    char *dark = test_dark_face(&len);

    (void)state;
    WANTS(create, 201, "\"e-1\"",
          .body = "{\"name\":\"Bo\",\"external_id\":\"e-1\"}");
    WANTS(create, 409, "already_exists",
          .body = "{\"name\":\"Bo\",\"external_id\":\"e-1\"}");
    test_json(&server, "POST", "/v1/identities", "{\"name\":\"Cy\"}", &a);
    test_member(&a, "id", id, sizeof(id));
    test_answer_fini(&a);
    snprintf(path, sizeof(path), "/v1/identities/%s", id);
    WANTS(&operations[11], 409, "already_exists", .path = path,
          .body = "{\"external_id\":\"e-1\"}");
    snprintf(path, sizeof(path), "/v1/identities/%s/faces?input=crop", id);
    WANTS(&operations[13], 422, "LOW_BRIGHTNESS", .path = path,
          .type = "image/png", .body = dark, .len = len);
    free(dark);
}

static void every_operation__while_starting__503(void **state)
{
    const char *const flags[] = {"--model=", NULL};
    struct test_server up = server;

    (void)state;
    /* Its own untrained IResNet50 takes seconds to start. */
    memset(&server, 0, sizeof(server));
    test_server_launch(&server, flags);
    for (size_t i = 0; i < N; i++)
        if (operations[i].role != NONE && i != 2)
            WANTS(&operations[i], 503, "starting", .body = operations[i].json);
    WANTS(&operations[1], 503, "starting");
    assert_int_equal(test_server_stop(&server), 0);
    server = up;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation__key_missing_wrong_or_low__401_403),
        cmocka_unit_test(
            every_operation__method_query_or_timeout_unknown__405_400),
        cmocka_unit_test(every_name_in_a_path__nothing_there__404),
        cmocka_unit_test(every_body__wrong__400_413_415),
        cmocka_unit_test(every_body__does_not_come__408),
        cmocka_unit_test(every_picture__bad_late_or_undetectable__400_504),
        cmocka_unit_test(conflicts__external_id_and_poor_face__409_422),
        cmocka_unit_test(every_operation__while_starting__503),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
