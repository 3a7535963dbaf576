/* TLS under HTTP/2: what libcurl gets, and how handshakes fail. @grpc/grpc-js
 * is in tests/rpc. */
#include <curl/curl.h>

#include "server/http/h2.h"
#include "tests/unit/server_http.h"

static char dir[] = "/tmp/test_h2_tls_XXXXXX";
static char cert[64], key[64], other[64], text_file[64], missing[64];

static int make_files(void **state)
{
    char line[1024];

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(cert, sizeof(cert), "%s/cert.pem", dir);
    snprintf(key, sizeof(key), "%s/key.pem", dir);
    snprintf(other, sizeof(other), "%s/other.pem", dir);
    snprintf(text_file, sizeof(text_file), "%s/text.pem", dir);
    snprintf(missing, sizeof(missing), "%s/missing.pem", dir);
    snprintf(line, sizeof(line),
             "exec 2>%s && "
             "openssl req -x509 -newkey ec -pkeyopt "
             "ec_paramgen_curve:prime256v1 -nodes -keyout %s -out %s -days 2 "
             "-subj /CN=test -addext subjectAltName=IP:127.0.0.1 && "
             "openssl genpkey -algorithm ed25519 -out %s",
             text_file, key, cert, other);
    return system(line);
}

static int remove_files(void **state)
{
    char line[128];

    (void)state;
    snprintf(line, sizeof(line), "rm -r %s", dir);
    return system(line);
}

static void start_tls(void)
{
    the.with_h2 = true;
    the.http.tls_cert = cert;
    the.http.tls_key = key;
    start();
}

/* ---- libcurl ---- */

struct answer {
    CURLcode code;
    long status, version;
    char why[CURL_ERROR_SIZE];
    struct ut_buf body;
};

static size_t on_body(char *data, size_t one, size_t n, void *arg)
{
    struct answer *a = arg;
    struct ut_error e;

    (void)one;
    return ut_buf_add(&a->body, data, n, &e) ? 0 : n;
}

static CURL *easy(const char *path, struct answer *a)
{
    CURL *h = curl_easy_init();
    char url[128];

    assert_non_null(h);
    memset(a, 0, sizeof(*a));
    ut_buf_init(&a->body, 1 << 20);
    snprintf(url, sizeof(url), "https://127.0.0.1:%d%s",
             srv_h2_port(the.app.h2), path);
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_CAINFO, cert);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, 60000L);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, a->why);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, a);
    return h;
}

static void perform(CURL *h, struct answer *a)
{
    a->code = curl_easy_perform(h);
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &a->status);
    curl_easy_getinfo(h, CURLINFO_HTTP_VERSION, &a->version);
    curl_easy_cleanup(h);
}

static void body(CURL *h, const char *method, struct curl_slist **fields,
                 const char *type, const char *data, size_t len)
{
    *fields = curl_slist_append(NULL, type);
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, *fields);
    curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE, (long)len);
    curl_easy_setopt(h, CURLOPT_POSTFIELDS, data);
}

static void get__either_version__h2(void **state)
{
    static const long versions[] = {CURL_SSLVERSION_MAX_TLSv1_2,
                                    CURL_SSLVERSION_MAX_TLSv1_3};

    (void)state;
    start_tls();
    for (int i = 0; i < 2; i++) {
        struct answer a;
        CURL *h = easy("/plain", &a);

        curl_easy_setopt(h, CURLOPT_SSLVERSION, versions[i]);
        perform(h, &a);
        if (a.code)
            fail_msg("%s", a.why);
        assert_int_equal(a.status, 200);
        assert_int_equal(a.version, CURL_HTTP_VERSION_2_0);
        assert_string_equal(a.body.data, "plain");
        ut_buf_fini(&a.body);
    }
    assert_true(counted("tscaf_rejections_total{reason=\"tls\"} 0"));
}

/* More than a record, and than a write, both ways. */
static void bodies__of_many_records__whole(void **state)
{
    enum { N = 200000 };
    char *text = malloc(N + 16);
    struct curl_slist *fields;
    struct answer a;
    size_t len;
    CURL *h;

    (void)state;
    assert_non_null(text);
    len = (size_t)sprintf(text, "{\"name\":\"");
    for (int i = 0; i < N; i++)
        text[len++] = (char)('a' + i % 26);
    len += (size_t)sprintf(text + len, "\"}");
    start_tls();
    h = easy("/echo/me", &a);
    body(h, "PATCH", &fields, "Content-Type: application/json", text, len);
    perform(h, &a);
    curl_slist_free_all(fields);
    if (a.code)
        fail_msg("%s", a.why);
    assert_int_equal(a.status, 201);
    text[len - 2] = '\0';
    assert_non_null(strstr(a.body.data, text + 9));
    ut_buf_fini(&a.body);
    free(text);
}

static void client__without_alpn__refused(void **state)
{
    struct answer a;
    CURL *h;

    (void)state;
    start_tls();
    h = easy("/plain", &a);
    curl_easy_setopt(h, CURLOPT_SSL_ENABLE_ALPN, 0L);
    perform(h, &a);
    assert_int_not_equal(a.code, CURLE_OK);
    assert_int_equal(a.status, 0);
    ut_buf_fini(&a.body);
    UNTIL(counted("tscaf_rejections_total{reason=\"tls\"} 1"));
    /* One that names others. */
    h = easy("/plain", &a);
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    perform(h, &a);
    assert_int_equal(a.code, CURLE_SSL_CONNECT_ERROR);
    ut_buf_fini(&a.body);
    UNTIL(counted("tscaf_rejections_total{reason=\"tls\"} 2"));
}

/* ---- Bytes ---- */

/* The start of a ClientHello: a record of 512 bytes, of which 3 come. */
static const char hello[] = "\x16\x03\x01\x02\x00\x01\x00\x01";

static void plain_text__connection_ends(void **state)
{
    static const char *const rows[] = {
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    };
    char bytes[256];

    (void)state;
    start_tls();
    for (size_t i = 0; i < 2; i++) {
        int fd = dial_port(srv_h2_port(the.app.h2));

        put(fd, rows[i]);
        while (recv(fd, bytes, sizeof(bytes), 0) > 0)
            ;
        close(fd);
    }
    UNTIL(counted("tscaf_rejections_total{reason=\"tls\"} 2"));
}

static void handshake__never_ends__cut(void **state)
{
    char byte;
    int fds[2];

    (void)state;
    the.http.header_timeout_ms = 200;
    start_tls();
    for (int i = 0; i < 2; i++) /* one says nothing at all */
        fds[i] = dial_port(srv_h2_port(the.app.h2));
    put_n(fds[1], hello, sizeof(hello) - 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(recv(fds[i], &byte, 1, 0), 0);
        close(fds[i]);
    }
    assert_true(counted("tscaf_rejections_total{reason=\"slow\"} 2"));
}

static int begin_handshake(void)
{
    int fd = dial_port(srv_h2_port(the.app.h2));

    put_n(fd, hello, sizeof(hello) - 1);
    UNTIL(counted("tscaf_connections 1"));
    return fd;
}

static void handshake__client_leaves__forgotten(void **state)
{
    int fd;

    (void)state;
    start_tls();
    fd = begin_handshake();
    close(fd);
    UNTIL(counted("tscaf_connections 0"));
}

static void drain__in_a_handshake__does_not_wait(void **state)
{
    int fd;

    (void)state;
    start_tls();
    fd = begin_handshake();
    ask(do_drain_h2);
    UNTIL(atomic_load(&the.drained));
    assert_true(ended(fd));
    close(fd);
}

/* ---- Files ---- */

static void files__bad__named(void **state)
{
    const struct {
        const char *cert, *key;
        enum ut_err code;
        const char *what;
    } rows[] = {
        {missing, key, UT_EIO, "missing.pem"},
        {cert, missing, UT_EIO, "missing.pem"},
        {text_file, key, UT_EFORMAT, "text.pem"},
        {cert, text_file, UT_EFORMAT, "text.pem"},
        {cert, other, UT_EFORMAT, "other.pem"}, /* another's key */
    };

    (void)state;
    start_tls();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct srv_http_config c = the.http;
        struct srv_h2 *h;
        struct ut_error e;

        c.tls_cert = rows[i].cert;
        c.tls_key = rows[i].key;
        assert_int_equal(srv_h2_new(&the.app.loop, &c, &h, &e), rows[i].code);
        assert_null(h);
        has(e.msg, rows[i].what);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, prepare, finish)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(get__either_version__h2),
        T(bodies__of_many_records__whole),
        T(client__without_alpn__refused),
        T(plain_text__connection_ends),
        T(handshake__never_ends__cut),
        T(handshake__client_leaves__forgotten),
        T(drain__in_a_handshake__does_not_wait),
        T(files__bad__named),
    };

    return cmocka_run_group_tests(tests, make_files, remove_files);
}
