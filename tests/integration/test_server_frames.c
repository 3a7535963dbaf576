/* Real frames through the real server, where they are at hand. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/server.h"
#include "tests/support/unit.h"

static char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    char *bytes;
    long n;

    if (!f)
        fail_msg("%s cannot be opened", path);
    fseek(f, 0, SEEK_END);
    n = ftell(f);
    rewind(f);
    bytes = malloc((size_t)n);
    *len = fread(bytes, 1, (size_t)n, f);
    fclose(f);
    return bytes;
}

/* Three drivers, each with both answers. */
static void analyze_drivers(const char *data, const char *const *flags)
{
    const char *frames[] = {"driver_02_drowsy_g017", "driver_05_alert_g066",
                            "driver_10_alert_g013"};
    struct test_answer a = {0};
    struct test_server s;
    char path[512];

    test_server_start(&s, flags);
    for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
        struct test_request r = {.path = "/v1/analyze?return=landmarks",
                                 .type = "image/jpeg"};
        char *bytes, *score;

        snprintf(path, sizeof(path), "%s/frames/%s.jpg", data, frames[i]);
        bytes = read_file(path, &r.len);
        r.body = bytes;
        test_send(&s, &r, &a);
        free(bytes);
        assert_int_equal(a.status, 200);
        assert_non_null(strstr(a.body, "\"width\":640,\"height\":480"));
        score = strstr(a.body, "\"detection_score\":");
        assert_non_null(score);
        assert_true(strtod(score + strlen("\"detection_score\":"), NULL) > 0.5);
        assert_non_null(strstr(a.body, "\"fatigue\":{\"probability\":"));
        assert_non_null(strstr(a.body, "\"verdict\":\"unknown\""));
    }
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&s), 0);
}

static void analyze__drivers_frames__both_answers(void **state)
{
    const char *data = test_data("analyze__drivers_frames");
    char detector[512];
    const char *flags[] = {"--detector", detector, NULL};

    (void)state;
    if (!data)
        return;
    snprintf(detector, sizeof(detector),
             "%s/models/retinaface_mnet025.safetensors", data);
    analyze_drivers(data, flags);
}

/* The server finds the weights that ship by itself. */
static void analyze__shipped_detector__finds_drivers(void **state)
{
    const char *data = test_data("analyze__shipped_detector");
    const char *flags[] = {"--detector=", NULL};

    (void)state;
    if (data)
        analyze_drivers(data, flags);
}

/* LFW pairs (data/pairs_paths.tsv): the first of a pair is enrolled, the
 * second verified and searched. What an untrained network says of two people
 * means nothing, but a picture is always its own nearest. */
static void enroll__lfw_pairs__verified_and_found(void **state)
{
    const char *data = test_data("enroll__lfw_pairs");
    struct test_answer a = {0};
    struct test_server s;
    char line[512], path[1200], id[40];
    int pairs = 0;
    FILE *f;

    (void)state;
    if (!data)
        return;
    test_server_start(&s, NULL);
    snprintf(path, sizeof(path), "%s/pairs_paths.tsv", data);
    f = fopen(path, "r");
    assert_non_null(f);
    while (pairs < 24 && fgets(line, sizeof(line), f)) {
        char first[200], second[200], *bytes;
        struct test_request r = {.type = "image/jpeg"};
        int fold, same;

        /* Every 8th pair that shows two of one person. */
        if (sscanf(line, "%d %d %199s %199s", &fold, &same, first, second) !=
                4 ||
            !same || pairs++ % 8)
            continue;
        test_json(&s, "POST", "/v1/identities", "{\"name\":\"one of LFW\"}",
                  &a);
        assert_int_equal(a.status, 201);
        test_member(&a, "id", id, sizeof(id));
        snprintf(path, sizeof(path), "%s/%s", data, first);
        bytes = read_file(path, &r.len);
        r.body = bytes;
        snprintf(path, sizeof(path),
                 "/v1/identities/%s/faces?input=crop&force=true", id);
        r.path = path;
        test_send(&s, &r, &a);
        assert_int_equal(a.status, 201);
        snprintf(path, sizeof(path), "/v1/verify?input=crop&identity_id=%s",
                 id);
        test_send(&s, &r, &a);
        assert_int_equal(a.status, 200);
        assert_non_null(strstr(a.body, "\"same\":true"));
        snprintf(path, sizeof(path), "/v1/search?input=crop&top_k=1");
        test_send(&s, &r, &a);
        assert_int_equal(a.status, 200);
        assert_non_null(strstr(a.body, id));
        free(bytes);

        snprintf(path, sizeof(path), "%s/%s", data, second);
        bytes = read_file(path, &r.len);
        r.body = bytes;
        snprintf(path, sizeof(path), "/v1/verify?input=crop&identity_id=%s",
                 id);
        test_send(&s, &r, &a);
        assert_int_equal(a.status, 200);
        assert_non_null(strstr(a.body, "\"similarity\":"));
        free(bytes);
    }
    fclose(f);
    assert_int_equal(pairs, 24);
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&s), 0);
}

/* Frames without a face, and with several. */
static void enroll__frames__one_face_or_422(void **state)
{
    static const struct {
        const char *file, *reason;
    } frames[] = {{"noface_iceblock", "NO_FACE"},
                  {"multi_couple", "SEVERAL_FACES"}};
    const char *data = test_data("enroll__frames");
    char path[1200], detector[1024], id[40];
    const char *flags[] = {"--detector", detector, NULL};
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    if (!data)
        return;
    snprintf(detector, sizeof(detector),
             "%s/models/retinaface_mnet025.safetensors", data);
    test_server_start(&s, flags);
    test_json(&s, "POST", "/v1/identities", "{\"name\":\"Ada\"}", &a);
    test_member(&a, "id", id, sizeof(id));
    for (int i = 0; i < 2; i++) {
        struct test_request r = {.type = "image/jpeg"};
        char *bytes;

        snprintf(path, sizeof(path), "%s/frames/%s.jpg", data, frames[i].file);
        bytes = read_file(path, &r.len);
        r.body = bytes;
        snprintf(path, sizeof(path), "/v1/identities/%s/faces", id);
        r.path = path;
        test_send(&s, &r, &a);
        if (a.status != 422 || !strstr(a.body, frames[i].reason))
            fail_msg("%s: %ld %s", frames[i].file, a.status, a.body);
        r.path = i ? "/v1/verify?identity_id=id_1" : "/v1/search";
        test_send(&s, &r, &a);
        if (a.status != 422)
            fail_msg("%s at %s: %ld %s", frames[i].file, r.path, a.status,
                     a.body);
        free(bytes);
    }
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&s), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(analyze__drivers_frames__both_answers),
        cmocka_unit_test(analyze__shipped_detector__finds_drivers),
        cmocka_unit_test(enroll__lfw_pairs__verified_and_found),
        cmocka_unit_test(enroll__frames__one_face_or_422),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
