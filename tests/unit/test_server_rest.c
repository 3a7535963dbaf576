/* REST's promises: routes, roles, media types, and requests into messages. */
#include "tests/unit/server_http.h"

/* Sends METHOD PATH with fields and a body; expects a status and words. */
static void row(const char *line, const char *fields, const char *body,
                int status, const char *what)
{
    char request[8192];
    char *answer;

    snprintf(request, sizeof(request),
             "%s HTTP/1.1\r\n" HOST "%sContent-Length: %zu\r\n\r\n%s", line,
             fields, strlen(body), body);
    answer = once(request);
    is_status(answer, status);
    has(answer, what);
}

#define JSON "Content-Type: application/json\r\n"
#define JPEG "Content-Type: image/jpeg\r\n"
#define PARTS "Content-Type: multipart/form-data; boundary=XX\r\n"

static void errors__each_kind__named(void **state)
{
    (void)state;
    start();
    row("GET /nowhere", "", "", 404, "/nowhere");
    row("GET /plain/", "", "", 404, "not_found");
    row("GET /echo/", "", "", 404, "not_found");
    row("GET /echo/a/b", "", "", 404, "not_found");
    row("POST /plain", "", "", 405, "Allow: GET, HEAD\r\n");
    row("GET /echo/a", "", "", 405, "Allow: PATCH, DELETE\r\n");
    row("PUT /stream", "", "", 405, "Allow: GET\r\n");
    is_status(once("HEAD /stream HTTP/1.1\r\n" HOST "\r\n"), 405);
    row("PUT /pictures", "", "", 405, "\"value\":\"POST\"");
    row("GET /plain", JSON, "{}", 400, "takes no body");
    row("DELETE /echo/a", JSON, "{}", 400, "takes no body");
    row("PATCH /echo/a", "", "{}", 415, "application/json");
    row("PATCH /echo/a", "Content-Type: text/plain\r\n", "{}", 415,
        "\"field\":\"Content-Type\"");
    row("PATCH /echo/a", JPEG, "xx", 415, "\"value\":\"application/json\"");
    row("POST /pictures", "Content-Type: image/webp\r\n", "xx", 415,
        "image/jpeg, image/png, multipart/form-data, application/json");
    row("POST /pictures", "Content-Type: image/jpegs\r\n", "xx", 415, "");
    row("PATCH /echo/a?nmae=x", "", "", 400, "\"field\":\"nmae\"");
    row("PATCH /echo/a?nmae=x", "", "", 400,
        "\"value\":\"name, external_id, consent_ref\"");
    row("PATCH /echo/a?id=b", "", "", 400, "\"field\":\"id\"");
    row("POST /pictures?images=b", "", "", 400, "\"field\":\"images\"");
    row("GET /a/1/b/2/crop?x", "", "", 400, "no query at all");
    row("POST /pictures?top_k=x", "", "", 400, "\"field\":\"top_k\"");
    row("PATCH /echo/a", JSON, "{", 400, "invalid_argument");
    row("PATCH /echo/a", JSON, "{\"nmae\":1}", 400, "nmae");
    row("PATCH /echo/a", JSON, "{\"id\":\"b\"}", 400, "in the path");
    row("GET /plain%00x", "", "", 400, "NUL");
    row("POST /pair", "Connect-Timeout-Ms: 1x\r\n", "", 400,
        "\"field\":\"Connect-Timeout-Ms\"");
    row("POST /pair", "Connect-Timeout-Ms: 12345678901\r\n", "", 400, "10");
    row("POST /pair", "Connect-Timeout-Ms: \r\n", "", 400, "number");
}

static void internal_error__hidden_from_the_client(void **state)
{
    char *answer;

    (void)state;
    start();
    answer =
        once("GET /broken HTTP/1.1\r\n" HOST "X-Request-Id: the-id\r\n\r\n");
    is_status(answer, 500);
    has(answer, "request id the-id");
    assert_null(strstr(answer, "fire"));
}

static void messages__of_path_query_and_body__filled(void **state)
{
    (void)state;
    start();
    row("PATCH /echo/a%20b", JSON, "{\"name\":\"x\"}", 201, "\"id\":\"a b\"");
    row("PATCH /echo/a", JSON, "{\"id\":\"a\",\"name\":\"x\"}", 201,
        "\"name\":\"x\"");
    row("PATCH /echo/a?name=%C3%84+b", "", "", 201, "\"name\":\"\xC3\x84 b\"");
    row("PATCH /echo/a", "Content-Type: Application/JSON ; charset=utf-8\r\n",
        "{\"name\":\"y\"}", 201, "\"name\":\"y\"");
    row("POST /pictures?top_k=7&tasks=fatigue,recognition", JPEG, "abc", 200,
        "\"width\":3,\"height\":97");
    row("POST /pictures?top_k=7&tasks=fatigue,recognition", JPEG, "abc", 200,
        "\"batch_size\":7002");
    row("POST /pictures", JSON, "{\"images\":[{\"data\":\"YWI=\"}]}", 200,
        "\"width\":2");
    row("POST /pictures", "", "", 200, "\"frames\":[]");
    row("DELETE /echo/a", "", "", 204, "X-Request-Id");
    row("GET /a/x/b/y/crop", "", "", 200, "Content-Type: image/png");
    row("GET /a/x/b/y/crop", "", "", 200, "\x89PNG");
}

#define PART(head, data)                                                       \
    "--XX\r\nContent-Disposition: form-data; " head "\r\n\r\n" data "\r\n"

static void multipart__files_and_texts__in_their_fields(void **state)
{
    (void)state;
    start();
    row("POST /pictures", PARTS,
        PART("name=\"a\"; filename=\"1\"", "zzzz") PART("name=\"images\"", "yy")
            PART("name=\"top_k\"", "9") "--XX--\r\n",
        200,
        "\"frames\":[{\"width\":4,\"height\":122,\"faces\":[]},"
        "{\"width\":2,\"height\":121,\"faces\":[]}]");
    row("POST /pictures", PARTS,
        PART("name=\"top_k\"", "9")
            PART("name=\"tasks\"", "fatigue") "--XX--\r\n",
        200, "\"batch_size\":9001");
    row("POST /pair", PARTS,
        PART("name=\"other\"", "12345")
            PART("name=\"image\"; filename=\"x\"", "123") "--XX--\r\n",
        200, "\"same\":true");
    row("POST /pair", PARTS,
        PART("name=\"third\"; filename=\"x\"", "123") "--XX--\r\n", 400,
        "\"field\":\"third\"");
    row("POST /pair", PARTS,
        PART("name=\"image\"", "1") PART("name=\"image\"", "2") "--XX--\r\n",
        400, "one picture");
    row("POST /pictures", PARTS, PART("name=\"nmae\"", "1") "--XX--\r\n", 400,
        "nmae");
    row("POST /pictures", PARTS, "--XX\r\n", 400, "invalid_argument");
}

static void deadline__sent_or_not__the_clients_or_the_default(void **state)
{
    (void)state;
    start();
    row("POST /pair", "", "", 200, "\"similarity\":12345");
    row("POST /pair", "Connect-Timeout-Ms: 250\r\n", "", 200,
        "\"similarity\":250");
}

static struct srv_key key = {.id = "key_1", .role = SRV_ROLE_ENROLL};

static void do_add_key(void)
{
    struct ut_error e;

    if (srv_auth_add(the.app.auth, &key, &e))
        abort();
}

static void do_remove_key(void)
{
    srv_auth_remove(the.app.auth, key.id);
}

static void keys__once_one_exists__needed(void **state)
{
    char secret[SRV_AUTH_SECRET_LEN], bearer[128], direct[128];

    (void)state;
    start();
    srv_auth_secret(secret, key.hash);
    snprintf(bearer, sizeof(bearer), "Authorization: bearer %s\r\n", secret);
    snprintf(direct, sizeof(direct), "X-API-Key: %s\r\n", secret);
    row("PATCH /echo/a", "", "", 201, "\"external_id\":\"local\"");
    ask(do_add_key);
    row("PATCH /echo/a", "", "", 401, "WWW-Authenticate: Bearer");
    row("PATCH /echo/a", "X-API-Key: tscaf_wrong\r\n", "", 401, "not known");
    row("PATCH /echo/a", "Authorization: Basic abc\r\n", "", 401,
        "unauthenticated");
    row("PATCH /echo/a", bearer, "", 201, "\"external_id\":\"key_1\"");
    row("PATCH /echo/a", direct, "", 201, "\"external_id\":\"key_1\"");
    row("POST /pair", direct, "", 200, ""); /* a role includes those below */
    row("GET /broken", direct, "", 403, "role admin; yours has enroll");
    row("GET /plain", "", "", 200, "plain"); /* open to all */
    ask(do_remove_key);
    row("PATCH /echo/a", direct, "", 401, "not known");
    row("PATCH /echo/a", "", "", 401, "needed"); /* it does not open again */
    assert_true(counted("reason=\"auth\"} 6"));
}

static void do_unready(void)
{
    the.app.ready = false;
}

/* Proxies and browsers are on this machine too. */
static void no_key_yet__open_to_this_machine_alone(void **state)
{
#define AS(fields) "PATCH /echo/a HTTP/1.1\r\n" fields "\r\n"
    static const char *const open[] = {
        AS("Host: localhost\r\n"),
        AS("Host: LOCALHOST:8080\r\n"),
        AS("Host: 127.0.0.1:8080\r\n"),
        AS("Host: [::1]:8080\r\n"),
        AS("Host: [::1]\r\n"),
        AS("Host: localhost:8080\r\nOrigin: http://localhost:8080\r\n"),
    };
    static const char *const closed[] = {
        AS("Host: rebound.example.org\r\n"),
        AS("Host: 127.0.0.1.example.org\r\n"),
        AS("Host: [2001:db8::1]:8080\r\n"),
        AS("Host: \r\n"),
        AS("Host: localhost:8080\r\nOrigin: http://example.org\r\n"),
        AS("Host: localhost:8080\r\nOrigin: http://localhost:3000\r\n"),
        AS("Host: localhost\r\nOrigin: null\r\n"),
        AS("Host: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n"),
        AS("Host: localhost\r\nForwarded: for=192.0.2.1\r\n"),
        AS("Host: localhost\r\nX-Real-IP: 192.0.2.1\r\n"),
        AS("Host: localhost\r\nVia: 1.1 edge\r\n"),
        /* nginx, told nothing but whom to ask. */
        "PATCH /echo/a HTTP/1.0\r\nHost: 127.0.0.1:8080\r\n"
        "Connection: close\r\n\r\n",
    };

    (void)state;
    start();
    for (size_t i = 0; i < sizeof(open) / sizeof(open[0]); i++)
        is_status(once(open[i]), 201);
    for (size_t i = 0; i < sizeof(closed) / sizeof(closed[0]); i++) {
        char *answer = once(closed[i]);

        is_status(answer, 401);
        has(answer, "no API key exists yet");
    }
}

static void starting__calls_refused_and_plain_routes_not(void **state)
{
    (void)state;
    start();
    ask(do_unready);
    row("POST /pair", "", "", 503, "Retry-After: 1");
    row("POST /pair", JSON, "{}", 503, "starting");
    row("GET /plain", "", "", 200, "plain");
}

static void do_draining(void)
{
    the.app.ready = true;
    the.app.draining = true;
}

static void operations__starting_and_draining__told(void **state)
{
    (void)state;
    start();
    row("GET /readyz", "", "", 200, "{\"status\":\"ready\"}");
    ask(do_unready);
    row("GET /healthz", "", "", 200, "{\"status\":\"ok\"}");
    row("GET /readyz", "", "", 503, "the server is starting");
    row("GET /metrics", "", "", 200, "\ntscaf_ready 0\n");
    ask(do_draining);
    row("GET /healthz", "", "", 200, "{\"status\":\"ok\"}");
    row("GET /readyz", "", "", 503, "the server is draining");
}

static void metrics__of_requests__by_route_and_status(void **state)
{
    (void)state;
    start();
    row("PATCH /echo/a", "", "", 201, "");
    row("PATCH /echo/b", JSON, "{", 400, "");
    row("GET /nowhere", "", "", 404, "");
    UNTIL(counted("requests_total{route=\"PATCH /echo/{id}\",status=\"201\"} "
                  "1\n"));
    UNTIL(counted("requests_total{route=\"PATCH /echo/{id}\",status=\"400\"} "
                  "1\n"));
    UNTIL(counted("requests_total{route=\"other\",status=\"404\"} 1\n"));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, prepare, finish)
    const struct CMUnitTest tests[] = {
        T(errors__each_kind__named),
        T(internal_error__hidden_from_the_client),
        T(messages__of_path_query_and_body__filled),
        T(multipart__files_and_texts__in_their_fields),
        T(deadline__sent_or_not__the_clients_or_the_default),
        T(keys__once_one_exists__needed),
        T(no_key_yet__open_to_this_machine_alone),
        T(starting__calls_refused_and_plain_routes_not),
        T(operations__starting_and_draining__told),
        T(metrics__of_requests__by_route_and_status),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
