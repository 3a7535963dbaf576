/* Metrics and logs: what is recorded is what is read, from any thread. */
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/log.h"
#include "server/metrics.h"
#include "tests/support/unit.h"

static const char *const routes[] = {"GET /a", "POST /b/{id}"};

static char *text_of(struct srv_metrics *m)
{
    struct ut_error e;
    struct ut_buf b;
    size_t len;

    ut_buf_init(&b, 1 << 20);
    assert_int_equal(srv_metrics_write(m, &b, &e), UT_OK);
    return ut_buf_take(&b, &len);
}

static void has(const char *text, const char *line)
{
    if (!strstr(text, line))
        fail_msg("\"%s\" is not in:\n%s", line, text);
}

static void write__after_some_events__prometheus_text(void **state)
{
    struct srv_metrics *m;
    struct ut_error e;
    char *text;

    (void)state;
    assert_int_equal(srv_metrics_new(routes, 2, &m, &e), UT_OK);
    srv_metrics_request(m, 0, 200, 0.003);
    srv_metrics_request(m, 0, 200, 0.001); /* at a bound: inside it */
    srv_metrics_request(m, 1, 404, 99);    /* past the last bound */
    srv_metrics_request(m, -1, 404, 0);
    srv_metrics_request(m, 3, 777, 0); /* neither is known */
    srv_metrics_request(m, -1, 202, 0);
    srv_metrics_request(m, -1, 304, 0);
    srv_metrics_observe(m, SRV_METRIC_COMPUTE, 0.02);
    srv_metrics_batch(m, 1);
    srv_metrics_batch(m, 3);
    srv_metrics_batch(m, 33);
    srv_metrics_count(m, SRV_REJECT_BODY);
    srv_metrics_set(m, SRV_GAUGE_GALLERY, -5);
    text = text_of(m);
    has(text, "# TYPE tscaf_requests_total counter\n");
    has(text, "tscaf_requests_total{route=\"GET /a\",status=\"200\"} 2\n");
    has(text,
        "tscaf_requests_total{route=\"POST /b/{id}\",status=\"404\"} 1\n");
    has(text, "tscaf_requests_total{route=\"other\",status=\"404\"} 1\n");
    has(text, "tscaf_requests_total{route=\"other\",status=\"0\"} 1\n");
    has(text, "tscaf_requests_total{route=\"other\",status=\"202\"} 1\n");
    has(text, "tscaf_requests_total{route=\"other\",status=\"304\"} 1\n");
    has(text,
        "tscaf_request_seconds_bucket{route=\"GET /a\",le=\"0.0005\"} 0\n");
    has(text,
        "tscaf_request_seconds_bucket{route=\"GET /a\",le=\"0.001\"} 1\n");
    has(text,
        "tscaf_request_seconds_bucket{route=\"GET /a\",le=\"0.005\"} 2\n");
    has(text, "tscaf_request_seconds_sum{route=\"GET /a\"} 0.004000\n");
    has(text, "tscaf_request_seconds_count{route=\"GET /a\"} 2\n");
    has(text,
        "tscaf_request_seconds_bucket{route=\"POST /b/{id}\",le=\"10\"} 0\n");
    has(text, "tscaf_request_seconds_bucket{route=\"POST /b/{id}\",le=\"+Inf\"}"
              " 1\n");
    has(text, "tscaf_compute_seconds_bucket{le=\"0.025\"} 1\n");
    has(text, "tscaf_compute_seconds_sum{} 0.020000\n");
    has(text, "tscaf_batch_faces_bucket{le=\"1\"} 1\n");
    has(text, "tscaf_batch_faces_bucket{le=\"4\"} 2\n");
    has(text, "tscaf_batch_faces_bucket{le=\"32\"} 2\n");
    has(text, "tscaf_batch_faces_bucket{le=\"+Inf\"} 3\n");
    has(text, "tscaf_batch_faces_sum 37\n");
    has(text, "tscaf_rejections_total{reason=\"body_too_large\"} 1\n");
    has(text, "tscaf_gallery_faces -5\n");
    free(text);
    srv_metrics_free(m);
}

static void *record(void *arg)
{
    for (int i = 0; i < 10000; i++) {
        srv_metrics_request(arg, i % 2, 200, 0.001);
        srv_metrics_batch(arg, 8);
    }
    return NULL;
}

static void record__four_threads_and_a_reader__nothing_lost(void **state)
{
    pthread_t threads[4];
    struct srv_metrics *m;
    struct ut_error e;
    char *text;

    (void)state;
    assert_int_equal(srv_metrics_new(routes, 2, &m, &e), UT_OK);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, record, m);
    free(text_of(m));
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    text = text_of(m);
    has(text, "tscaf_requests_total{route=\"GET /a\",status=\"200\"} 20000\n");
    has(text, "tscaf_request_seconds_sum{route=\"GET /a\"} 20.000000\n");
    has(text, "tscaf_batch_faces_count 40000\n");
    free(text);
    srv_metrics_free(m);
}

static void new__routes_at_the_limit_and_one_past__refused(void **state)
{
    const char *many[SRV_METRICS_MAX_ROUTES + 1];
    struct srv_metrics *m;
    struct ut_error e;

    (void)state;
    for (int i = 0; i <= SRV_METRICS_MAX_ROUTES; i++)
        many[i] = "x";
    assert_int_equal(srv_metrics_new(many, SRV_METRICS_MAX_ROUTES, &m, &e),
                     UT_OK);
    srv_metrics_free(m);
    assert_int_equal(srv_metrics_new(many, SRV_METRICS_MAX_ROUTES + 1, &m, &e),
                     UT_EINVAL);
    assert_null(m);
    /* Parts run without metrics. */
    srv_metrics_observe(NULL, SRV_METRIC_QUEUE, 1);
    srv_metrics_request(NULL, 0, 200, 1);
    srv_metrics_count(NULL, SRV_REJECT_AUTH);
    srv_metrics_set(NULL, SRV_GAUGE_QUEUE, 1);
    srv_metrics_batch(NULL, 1);
}

/* ---- Logs ---- */

/* What was logged, each line parsed. */
static json_t *read_lines(int fd)
{
    json_t *lines = json_array();
    char line[SRV_LOG_MAX_LINE + 1];
    FILE *f;

    lseek(fd, 0, SEEK_SET);
    f = fdopen(fd, "r");
    while (fgets(line, sizeof(line), f)) {
        json_t *one = json_loads(line, 0, NULL);

        if (!one)
            fail_msg("not JSON: %s", line);
        json_array_append_new(lines, one);
    }
    fclose(f);
    return lines;
}

static const char *member(json_t *lines, size_t i, const char *name)
{
    return json_string_value(json_object_get(json_array_get(lines, i), name));
}

static int open_temp(void)
{
    char path[] = "/tmp/tscaf-log-XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    unlink(path);
    return fd;
}

static void log__hostile_texts__one_json_line_each(void **state)
{
    char big[3 * SRV_LOG_MAX_LINE];
    struct srv_log *log;
    struct ut_error e;
    json_t *lines;
    int fd = open_temp();

    (void)state;
    memset(big, '"', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    assert_int_equal(srv_log_new(fd, SRV_LOG_INFO, &log, &e), UT_OK);
    srv_log_line(log, SRV_LOG_INFO, "id-1", "a \"b\"\n\t\\ \xC3\xA4 %d", 7);
    srv_log_line(log, SRV_LOG_WARN, NULL, "bad \xC3( \xED\xA0\x80 \xFF\x01");
    srv_log_line(log, SRV_LOG_ERROR, NULL, "%s", big);
    srv_log_line(log, SRV_LOG_DEBUG, NULL, "not this one");
    srv_log_request(log, &(struct srv_log_request){.request_id = "r",
                                                   .method = "GET",
                                                   .path = big,
                                                   .peer = "::1",
                                                   .actor = "",
                                                   .status = 404,
                                                   .us = 1500});
    srv_log_line(NULL, SRV_LOG_ERROR, NULL, "nowhere");
    srv_log_free(log);
    lines = read_lines(fd);
    assert_int_equal(json_array_size(lines), 4);
    assert_string_equal(member(lines, 0, "message"),
                        "a \"b\"\n\t\\ \xC3\xA4 7");
    assert_string_equal(member(lines, 0, "request_id"), "id-1");
    assert_string_equal(member(lines, 0, "level"), "info");
    assert_int_equal(strlen(member(lines, 0, "time")),
                     strlen("2026-01-31T12:00:00.000Z"));
    assert_null(member(lines, 1, "request_id"));
    assert_memory_equal(member(lines, 3, "path"), "\"\"\"", 3);
    assert_int_equal(
        json_integer_value(json_object_get(json_array_get(lines, 3), "status")),
        404);
    json_decref(lines);
}

static void *log_many(void *arg)
{
    for (int i = 0; i < 500; i++)
        srv_log_line(arg, SRV_LOG_INFO, "id", "line %d", i);
    return NULL;
}

static void log__four_threads__no_line_mixed(void **state)
{
    pthread_t threads[4];
    struct srv_log *log;
    struct ut_error e;
    json_t *lines;
    int fd = open_temp();

    (void)state;
    assert_int_equal(srv_log_new(fd, SRV_LOG_INFO, &log, &e), UT_OK);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, log_many, log);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    srv_log_free(log);
    lines = read_lines(fd);
    assert_int_equal(json_array_size(lines), 2000);
    json_decref(lines);
}

static void time__known_moments__rfc_3339(void **state)
{
    char text[SRV_LOG_TIME_LEN];

    (void)state;
    srv_log_time(0, text);
    assert_string_equal(text, "1970-01-01T00:00:00.000Z");
    srv_log_time(1709210096789, text);
    assert_string_equal(text, "2024-02-29T12:34:56.789Z");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write__after_some_events__prometheus_text),
        cmocka_unit_test(record__four_threads_and_a_reader__nothing_lost),
        cmocka_unit_test(new__routes_at_the_limit_and_one_past__refused),
        cmocka_unit_test(log__hostile_texts__one_json_line_each),
        cmocka_unit_test(log__four_threads__no_line_mixed),
        cmocka_unit_test(time__known_moments__rfc_3339),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
