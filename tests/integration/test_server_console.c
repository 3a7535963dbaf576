/* The console's files: types, caching, policy, and that they are those of
 * client/console/, all of them. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/server.h"
#include "tests/support/unit.h"

#define FOLDER "client/console"

static struct test_server server;

static void headers_have(const struct test_answer *a, const char *what)
{
    if (!strcasestr(a->headers, what))
        fail_msg("\"%s\" is not in: %s", what, a->headers);
}

static const char *type_of(const char *name)
{
    const char *dot = strrchr(name, '.');

    return strcmp(dot, ".html") == 0  ? "text/html; charset=utf-8"
           : strcmp(dot, ".css") == 0 ? "text/css; charset=utf-8"
           : strcmp(dot, ".svg") == 0 ? "image/svg+xml"
                                      : "text/javascript; charset=utf-8";
}

static char *read_file(const char *name, size_t *len)
{
    char path[512], *text = malloc(1 << 20);
    FILE *f;

    snprintf(path, sizeof(path), FOLDER "/%s", name);
    f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(text);
    *len = fread(text, 1, 1 << 20, f);
    fclose(f);
    return text;
}

static void every_file_of_the_folder__asked__as_it_is(void **state)
{
    DIR *d = opendir(FOLDER);
    struct test_answer a = {0};
    char path[300];
    int n = 0;

    (void)state;
    assert_non_null(d);
    for (const struct dirent *f = readdir(d); f; f = readdir(d)) {
        size_t len;
        char *text;

        if (f->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/console/%s", f->d_name);
        if (strcmp(f->d_name, "index.html") == 0)
            snprintf(path, sizeof(path), "/");
        if (test_get(&server, path, &a) != 200)
            fail_msg("%s: %ld; is it in server/console.c?", path, a.status);
        text = read_file(f->d_name, &len);
        assert_int_equal(a.len, len);
        assert_memory_equal(a.body, text, len);
        assert_string_equal(a.type, type_of(f->d_name));
        free(text);
        n++;
    }
    closedir(d);
    assert_true(n > 5);
    test_answer_fini(&a);
}

static void page__asked__with_a_strict_policy(void **state)
{
    struct test_answer a = {0};
    char *policy;

    (void)state;
    test_get(&server, "/", &a);
    assert_null(strcasestr(a.headers, "Connection: close"));
    headers_have(&a, "Content-Security-Policy: default-src 'none'; "
                     "script-src 'self'; style-src 'self';");
    headers_have(&a, "frame-ancestors 'none'");
    headers_have(&a, "X-Content-Type-Options: nosniff");
    headers_have(&a, "Referrer-Policy: no-referrer");
    policy = strcasestr(a.headers, "Content-Security-Policy: ") + 25;
    policy[strcspn(policy, "\r")] = '\0';
    if (strstr(policy, "unsafe") || strstr(policy, "http") ||
        strchr(policy, '*'))
        fail_msg("the policy lets others in: %s", policy);
    test_answer_fini(&a);
}

static void page__known_already__304(void **state)
{
    char etag[80], field[120];
    const char *const headers[] = {field, NULL}, *at;
    struct test_answer a = {0};

    (void)state;
    test_get(&server, "/console/app.js", &a);
    at = strcasestr(a.headers, "ETag: ");
    assert_non_null(at);
    snprintf(etag, sizeof(etag), "%.*s", (int)strcspn(at + 6, "\r\n"), at + 6);
    headers_have(&a, "Cache-Control: no-cache");
    assert_null(strcasestr(a.headers, "no-store"));

    snprintf(field, sizeof(field), "If-None-Match: \"x\", W/%s", etag);
    test_send(
        &server,
        &(struct test_request){.path = "/console/app.js", .headers = headers},
        &a);
    assert_int_equal(a.status, 304);
    assert_int_equal(a.len, 0);
    headers_have(&a, etag);
    snprintf(field, sizeof(field), "If-None-Match: \"%032d\"", 0);
    test_send(
        &server,
        &(struct test_request){.path = "/console/app.js", .headers = headers},
        &a);
    assert_int_equal(a.status, 200);
    test_answer_fini(&a);
}

static void other_requests__sent__refused(void **state)
{
    struct test_answer a = {0};

    (void)state;
    test_json(&server, "POST", "/", "{}", &a);
    assert_int_equal(a.status, 405);
    headers_have(&a, "Allow: GET, HEAD");
    test_json(&server, "GET", "/", "{}", &a);
    assert_int_equal(a.status, 400);
    test_send(&server, &(struct test_request){.method = "HEAD", .path = "/"},
              &a);
    assert_int_equal(a.status, 200);
    assert_int_equal(a.len, 0);
    test_get(&server, "/console/", &a);
    assert_int_equal(a.status, 404);
    test_get(&server, "/console/../server/console.c", &a);
    assert_int_equal(a.status, 404);
    /* What is not the console's goes on to the API. */
    test_get(&server, "/v1/models", &a);
    assert_int_equal(a.status, 200);
    test_answer_fini(&a);
}

static int start(void **state)
{
    (void)state;
    /* Files are not part of the contract that exchanges are held against. */
    unsetenv("TSCAF_EXCHANGES");
    test_server_start(&server, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    return test_server_stop(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_file_of_the_folder__asked__as_it_is),
        cmocka_unit_test(page__asked__with_a_strict_policy),
        cmocka_unit_test(page__known_already__304),
        cmocka_unit_test(other_requests__sent__refused),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
