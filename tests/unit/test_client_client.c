/* libtscaf without a server: URLs, paths, picture files. */
#include "tests/support/unit.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/client.h"
#include "client/pictures.h"
#include "client/retry.h"
#include "tests/support/script.h"

static void open__urls__checked(void **state)
{
    static const struct {
        const char *url;
        bool good;
    } cases[] = {
        {"http://127.0.0.1:8080", true}, {"https://tscaf.example/base/", true},
        {"127.0.0.1:8080", false},       {"ftp://host", false},
        {"http://host?x=1", false},      {"http://ho st", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cl_options o = {.url = cases[i].url, .timeout_ms = 100};
        struct cl_client *c;
        struct ut_error e;

        assert_int_equal(cl_open(&o, &c, &e),
                         cases[i].good ? UT_OK : UT_EINVAL);
        if (cases[i].good)
            cl_close(c);
        else
            assert_non_null(strstr(e.msg, cases[i].url));
    }
}

static void path__any_text__percent_encoded(void **state)
{
    struct ut_error e;
    struct ut_buf b;

    (void)state;
    ut_buf_init(&b, 100);
    assert_int_equal(ut_buf_addf(&b, &e, "/v1/x"), UT_OK);
    assert_int_equal(cl_path_segment(&b, "a/b?c", &e), UT_OK);
    assert_int_equal(cl_path_query(&b, "q", "A b&\xc3\xa9", &e), UT_OK);
    assert_int_equal(cl_path_query(&b, "l", "1,2", &e), UT_OK);
    assert_string_equal(b.data, "/v1/x/a%2Fb%3Fc?q=A%20b%26%C3%A9&l=1,2");
    ut_buf_fini(&b);

    ut_buf_init(&b, 4);
    assert_int_equal(cl_path_segment(&b, "abc", &e), UT_OK);
    assert_int_equal(cl_path_segment(&b, "d", &e), UT_EBUSY);
    ut_buf_fini(&b);
}

static void call__nobody_listens__unavailable(void **state)
{
    /* Port 1 of this machine has no server. */
    struct cl_options o = {
        .url = "http://127.0.0.1:1", .timeout_ms = 1000, .retries = 3};
    struct cl_request r = {.method = "GET", .path = "/healthz"};
    struct cl_answer a;
    struct cl_client *c;
    struct ut_error e;

    (void)state;
    assert_int_equal(cl_open(&o, &c, &e), UT_OK);
    assert_int_equal(cl_call(c, &r, &a, &e), UT_OK);
    assert_false(a.ok);
    assert_int_equal(a.status, 0);
    assert_int_equal(a.err.code, API_UNAVAILABLE);
    assert_non_null(strstr(a.err.message, "http://127.0.0.1:1"));
    free(a.body);
    cl_close(c);
}

/* ---- Retries ---- */

static void wait__each_try__doubles_keeps_half_to_chance_and_ends(void **state)
{
    int64_t most = CL_FIRST_WAIT_MS;

    (void)state;
    for (int tries = 0; tries < 40; tries++) {
        assert_int_equal(cl_retry_wait_ms(tries, 0, 0), most / 2);
        assert_int_equal(cl_retry_wait_ms(tries, 0, (uint32_t)(most / 2)),
                         most / 2 + most / 2);
        for (uint32_t random = 1; random; random <<= 1) {
            assert_in_range(cl_retry_wait_ms(tries, 0, random), most / 2, most);
            assert_in_range(cl_retry_wait_ms(tries, 3, random), 3000 + most / 2,
                            3000 + most);
        }
        most = 2 * most < CL_MOST_WAIT_MS ? 2 * most : CL_MOST_WAIT_MS;
    }
    assert_int_equal(cl_retry_wait_ms(0, 60, 0), 60000 + CL_FIRST_WAIT_MS / 2);
    assert_int_equal(cl_retry_wait_ms(0, 61, 0), 60000 + CL_FIRST_WAIT_MS / 2);
    assert_int_equal(cl_retry_wait_ms(0, -1, 0), CL_FIRST_WAIT_MS / 2);
}

#define ANSWER(status, more)                                                   \
    SCRIPT_ANSWER(status, more "Content-Length: 2\r\n", "{}")

static struct cl_client *client_of(const struct script *s, int retries)
{
    struct cl_options o = {.timeout_ms = 30000, .retries = retries};
    struct cl_client *c;
    struct ut_error e;
    char url[60];

    snprintf(url, sizeof(url), "http://127.0.0.1:%d", s->port);
    o.url = url;
    assert_int_equal(cl_open(&o, &c, &e), UT_OK);
    return c;
}

static void
call__refused_for_overload__tried_again_and_nothing_else(void **state)
{
    static const char *const busy[] = {ANSWER("503", ""), ANSWER("503", ""),
                                       ANSWER("200", ""), ANSWER("418", ""),
                                       NULL};
    static const char *const wrong[] = {ANSWER("500", ""), ANSWER("418", ""),
                                        NULL};
    static const char *const denied[] = {ANSWER("401", ""), ANSWER("418", ""),
                                         NULL};
    static const char *const late[] = {ANSWER("503", "Retry-After: 50\r\n"),
                                       ANSWER("418", ""), NULL};
    static const struct {
        const char *const *answers;
        int retries, deadline_ms, status, asked;
        enum api_code code;
    } cases[] = {
        {busy, 2, 0, 200, 3, 0},
        {busy, 1, 60000, 503, 2, API_UNAVAILABLE},
        {busy, 0, 0, 503, 1, API_UNAVAILABLE},
        {wrong, 5, 0, 500, 1, API_UNKNOWN},
        {denied, 5, 0, 401, 1, API_UNAUTHENTICATED},
        /* A retry after fifty seconds would miss a deadline of ten. */
        {late, 5, 10000, 503, 1, API_UNAVAILABLE},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cl_options o = {.timeout_ms = 30000,
                               .deadline_ms = cases[i].deadline_ms,
                               .retries = cases[i].retries};
        struct cl_request r = {.method = "GET", .path = "/healthz"};
        struct cl_client *c;
        struct cl_answer a;
        struct script s;
        struct ut_error e;
        char url[60];

        script_start(&s, cases[i].answers, NULL);
        snprintf(url, sizeof(url), "http://127.0.0.1:%d", s.port);
        o.url = url;
        assert_int_equal(cl_open(&o, &c, &e), UT_OK);
        assert_int_equal(cl_call(c, &r, &a, &e), UT_OK);
        cl_close(c);
        script_end(&s);
        assert_int_equal(a.status, cases[i].status);
        assert_int_equal(a.err.code, cases[i].code);
        assert_int_equal(s.asked, cases[i].asked);
        assert_in_range(s.timeout_ms, 1,
                        o.deadline_ms == 10000 ? 10000 : 30000);
        free(a.body);
    }
}

static void
call__kept_connection_dies__sent_again_only_if_harmless(void **state)
{
    static const char *const answers[] = {SCRIPT_KEEP_ALIVE, SCRIPT_CLOSE,
                                          ANSWER("200", ""), ANSWER("418", ""),
                                          NULL};
    static const struct {
        const char *method;
        int status, asked;
    } cases[] = {{"GET", 200, 3}, {"POST", 0, 2}, {"DELETE", 0, 2}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool post = !strcmp(cases[i].method, "POST");
        struct cl_request first = {.method = "GET", .path = "/healthz"};
        struct cl_request r = {.method = cases[i].method,
                               .path = "/v1/identities",
                               .type = post ? "application/json" : NULL,
                               .body = "{}",
                               .len = post ? 2 : 0};
        struct cl_client *c;
        struct cl_answer a;
        struct script s;
        struct ut_error e;

        script_start(&s, answers, NULL);
        c = client_of(&s, 5);
        assert_int_equal(cl_call(c, &first, &a, &e), UT_OK);
        assert_int_equal(a.status, 200);
        free(a.body);
        assert_int_equal(cl_call(c, &r, &a, &e), UT_OK);
        cl_close(c);
        script_end(&s);
        assert_int_equal(a.status, cases[i].status);
        assert_int_equal(s.asked, cases[i].asked);
        if (!a.status) {
            assert_int_equal(a.err.code, API_UNAVAILABLE);
            assert_non_null(
                strstr(a.err.message, "may or may not have been done"));
        }
        free(a.body);
    }
}

/* ---- In a loop of the caller's ---- */

/* One request in it. */
struct asked {
    struct cl_client *client;
    const void *cancels; /* in its callback: what was started with this */
    int calls, status;
    enum api_code code; /* of its error */
};

static void note(void *ctx, struct cl_answer *a)
{
    struct asked *x = ctx;

    x->calls++;
    x->status = a->status;
    x->code = a->ok ? 0 : a->err.code;
    if (x->cancels)
        assert_int_equal(cl_cancel(x->client, x->cancels), 1);
}

static void ask(struct cl_client *c, int deadline_ms, struct asked *x)
{
    struct cl_request r = {
        .method = "GET", .path = "/healthz", .deadline_ms = deadline_ms};
    struct ut_error e;

    *x = (struct asked){.client = c};
    assert_int_equal(cl_start(c, &r, note, x, &e), UT_OK);
}

/* As poll(2) has it, until nothing is on its way; how often it woke. */
static int loop(struct cl_client *c)
{
    struct ut_error e;
    int woken = 0;

    for (; cl_busy(c); woken++) {
        struct pollfd p = {.fd = cl_fd(c), .events = POLLIN};

        assert_int_equal(poll(&p, 1, 60000), 1);
        assert_int_equal(cl_wait(c, 0, &e), UT_OK);
    }
    return woken;
}

static void loop__refused_twice__woken_for_each_retry(void **state)
{
    static const char *const busy[] = {ANSWER("503", ""), ANSWER("503", ""),
                                       ANSWER("200", ""), ANSWER("418", ""),
                                       NULL};
    struct cl_client *c;
    struct script s;
    struct asked x;

    (void)state;
    script_start(&s, busy, NULL);
    c = client_of(&s, 2);
    ask(c, 0, &x);
    assert_in_range(loop(c), 3, 300); /* and not again and again */
    assert_int_equal(x.calls, 1);
    assert_int_equal(x.status, 200);
    cl_close(c);
    script_end(&s);
}

/* Stands before libcurl's own. */
static int adds_until_none = -1; /* -1: never */

CURLMcode curl_multi_add_handle(CURLM *multi, CURL *easy)
{
    static CURLMcode (*add)(CURLM *, CURL *);

    if (!add)
        *(void **)(void *)&add = dlsym(RTLD_NEXT, "curl_multi_add_handle");
    return adds_until_none >= 0 && adds_until_none-- == 0 ? CURLM_OUT_OF_MEMORY
                                                          : add(multi, easy);
}

static void retry__cannot_be_sent__told_and_the_others_go_on(void **state)
{
    static const char *const answers[] = {ANSWER("503", ""), ANSWER("200", ""),
                                          NULL};
    struct asked lost, other;
    struct cl_client *c;
    struct script s;

    (void)state;
    script_start(&s, answers, NULL);
    c = client_of(&s, 1);
    ask(c, 0, &lost);
    adds_until_none = 0;
    loop(c);
    assert_int_equal(adds_until_none, -1); /* it came to that */
    assert_int_equal(lost.calls, 1);
    assert_int_equal(lost.status, 0);
    assert_int_equal(lost.code, API_UNAVAILABLE);
    ask(c, 0, &other);
    loop(c);
    assert_int_equal(other.status, 200);
    cl_close(c);
    script_end(&s);
}

static void loop__no_answer__woken_at_the_deadline(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct script s = {.listener = socket(AF_INET, SOCK_STREAM, 0)};
    socklen_t len = sizeof(a);
    struct cl_client *c;
    struct asked x;

    (void)state; /* connects, and is never accepted */
    assert_int_equal(bind(s.listener, (void *)&a, sizeof(a)), 0);
    assert_int_equal(listen(s.listener, 8), 0);
    assert_int_equal(getsockname(s.listener, (void *)&a, &len), 0);
    s.port = ntohs(a.sin_port);
    c = client_of(&s, 2);
    ask(c, 1, &x);
    assert_in_range(loop(c), 1, 300);
    assert_int_equal(x.calls, 1);
    assert_int_equal(x.status, 0);
    assert_int_equal(x.code, API_DEADLINE_EXCEEDED);
    cl_close(c);
    close(s.listener);
}

static void cancel__any_state__no_callback_and_the_others_go_on(void **state)
{
    static const char *const answers[] = {ANSWER("503", "Retry-After: 50\r\n"),
                                          ANSWER("200", ""), NULL};
    struct asked waits, first, never, last;
    struct cl_client *c;
    struct script s;
    struct ut_error e;

    (void)state;
    script_start(&s, answers, NULL);
    c = client_of(&s, 1);
    ask(c, 0, &waits); /* waits for its retry, which nobody waits for */
    while (!s.asked)
        assert_int_equal(cl_wait(c, 10, &e), UT_OK);
    for (int i = 0; i < 20; i++)
        assert_int_equal(cl_wait(c, 1, &e), UT_OK);
    ask(c, 0, &never);
    assert_int_equal(cl_cancel(c, &never), 1); /* before it was sent */
    assert_int_equal(cl_cancel(c, &never), 0);
    ask(c, 0, &first);
    first.cancels = &waits;
    while (!first.calls)
        assert_int_equal(cl_wait(c, 1000, &e), UT_OK);
    assert_int_equal(cl_busy(c), 0);
    ask(c, 0, &last);
    loop(c);
    assert_int_equal(last.status, 200);
    assert_int_equal(first.status, 200);
    assert_int_equal(waits.calls + never.calls, 0);
    ask(c, 0, &last); /* closed with one on its way */
    cl_close(c);
    assert_int_equal(last.calls, 0);
    script_end(&s);
}

static void open__no_descriptors__said(void **state)
{
    struct cl_options o = {.url = "http://127.0.0.1:1", .timeout_ms = 1};
    struct rlimit all, few;
    struct cl_client *c;
    struct ut_error e;
    enum ut_err rc;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &all), 0);
    few = all;
    few.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    rc = cl_open(&o, &c, &e);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &all), 0);
    assert_int_equal(rc, UT_EIO);
    assert_null(c);
    assert_non_null(strstr(e.msg, "descriptors"));
}

/* From a URL to an answer that does not come. */
static enum ut_err call_nobody(void *arg, struct ut_error *e)
{
    struct cl_options o = {
        .url = "http://127.0.0.1:1", .key = "secret", .timeout_ms = 1000};
    struct cl_request r = {.method = "GET"};
    struct cl_answer a = {0};
    struct cl_client *c = NULL;
    struct ut_buf path;
    enum ut_err rc;

    (void)arg;
    ut_buf_init(&path, 100);
    rc = cl_path_segment(&path, "v1", e);
    if (!rc)
        rc = cl_path_query(&path, "name", "Ada", e);
    r.path = path.data;
    if (!rc)
        rc = cl_open(&o, &c, e);
    if (!rc)
        rc = cl_call(c, &r, &a, e);
    free(a.body);
    if (c)
        cl_close(c);
    ut_buf_fini(&path);
    return rc;
}

static enum ut_err list_and_read(void *arg, struct ut_error *e)
{
    struct cl_pictures p = {0};
    enum ut_err rc = cl_pictures_add(&p, arg, e);
    const char *type;
    char *bytes = NULL;
    size_t len;

    if (!rc)
        rc = cl_picture_read(p.paths[0], &bytes, &len, &type, e);
    free(bytes);
    cl_pictures_fini(&p);
    return rc;
}

static void client__any_allocation_fails__clean_error(void **state)
{
    char dir[] = "/tmp/test_client_XXXXXX", path[64];
    FILE *f;

    (void)state;
    assert_true(each_allocation_fails(call_nobody, NULL) > 2);
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/a.png", dir);
    f = fopen(path, "wb");
    assert_int_equal(fwrite("\x89PNG\r\n\x1a\n", 1, 8, f), 8);
    fclose(f);
    assert_true(each_allocation_fails(list_and_read, dir) > 1);
    remove(path);
    rmdir(dir);
}

static void put(const char *dir, const char *name, const char *bytes,
                size_t len)
{
    char path[256];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    fclose(f);
}

static void pictures__folders__sorted_and_filtered(void **state)
{
    char dir[] = "/tmp/test_client_XXXXXX", path[256];
    struct cl_pictures p = {0};
    const char *type;
    struct ut_error e;
    char *bytes;
    size_t len;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/b", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    put(dir, "b/z.PNG", "\x89PNG\r\n\x1a\n", 8);
    put(dir, "b/notes.txt", "x", 1);
    put(dir, "c.jpeg", "\xff\xd8\xff\xe0", 4);
    put(dir, "a.jpg", "junk", 4);
    put(dir, ".hidden.jpg", "junk", 4);
    put(dir, "empty.png", "", 0);

    snprintf(path, sizeof(path), "%s/", dir);
    assert_int_equal(cl_pictures_add(&p, path, &e), UT_OK);
    assert_int_equal(p.n, 4);
    snprintf(path, sizeof(path), "%s/a.jpg", dir);
    assert_string_equal(p.paths[0], path);
    assert_int_equal(cl_picture_read(path, &bytes, &len, &type, &e),
                     UT_EFORMAT);
    assert_int_equal(cl_picture_read(p.paths[1], &bytes, &len, &type, &e),
                     UT_OK);
    assert_string_equal(type, "image/png");
    free(bytes);
    assert_int_equal(cl_picture_read(p.paths[2], &bytes, &len, &type, &e),
                     UT_OK);
    assert_string_equal(type, "image/jpeg");
    assert_int_equal(len, 4);
    free(bytes);
    assert_int_equal(cl_picture_read(p.paths[3], &bytes, &len, &type, &e),
                     UT_EFORMAT);
    assert_int_equal(cl_picture_read(dir, &bytes, &len, &type, &e), UT_EFORMAT);
    assert_int_equal(cl_picture_read("/nowhere.png", &bytes, &len, &type, &e),
                     UT_ENOTFOUND);

    /* One byte over the limit, by a file that takes no space. */
    snprintf(path, sizeof(path), "%s/c.jpeg", dir);
    assert_int_equal(truncate(path, (off_t)CL_MAX_PICTURE_BYTES), 0);
    assert_int_equal(cl_picture_read(path, &bytes, &len, &type, &e), UT_OK);
    free(bytes);
    assert_int_equal(truncate(path, (off_t)CL_MAX_PICTURE_BYTES + 1), 0);
    assert_int_equal(cl_picture_read(path, &bytes, &len, &type, &e), UT_EBUSY);

    assert_int_equal(cl_pictures_add(&p, "/nowhere", &e), UT_ENOTFOUND);
    for (int i = 0; i < p.n; i++)
        unlink(p.paths[i]);
    cl_pictures_fini(&p);
    snprintf(path, sizeof(path), "rm -r %s", dir);
    assert_int_equal(system(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open__urls__checked),
        cmocka_unit_test(path__any_text__percent_encoded),
        cmocka_unit_test(call__nobody_listens__unavailable),
        cmocka_unit_test(wait__each_try__doubles_keeps_half_to_chance_and_ends),
        cmocka_unit_test(
            call__refused_for_overload__tried_again_and_nothing_else),
        cmocka_unit_test(
            call__kept_connection_dies__sent_again_only_if_harmless),
        cmocka_unit_test(loop__refused_twice__woken_for_each_retry),
        cmocka_unit_test(retry__cannot_be_sent__told_and_the_others_go_on),
        cmocka_unit_test(loop__no_answer__woken_at_the_deadline),
        cmocka_unit_test(cancel__any_state__no_callback_and_the_others_go_on),
        cmocka_unit_test(open__no_descriptors__said),
        cmocka_unit_test(client__any_allocation_fails__clean_error),
        cmocka_unit_test(pictures__folders__sorted_and_filtered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
