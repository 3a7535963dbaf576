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

static void
analyze__drivers_frames__one_face_each_with_both_answers(void **state)
{
    const char *frames[] = {"driver_02_drowsy_g017", "driver_05_alert_g066",
                            "driver_10_alert_g013"};
    const char *data = test_data("analyze__drivers_frames");
    char path[512], detector[512];
    const char *flags[] = {"--detector", detector, NULL};
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    if (!data)
        return;
    snprintf(detector, sizeof(detector),
             "%s/models/retinaface_mnet025.safetensors", data);
    test_server_start(&s, flags);
    for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
        struct test_request r = {.path = "/v1/analyze?return=landmarks",
                                 .type = "image/jpeg"};
        char *bytes;

        snprintf(path, sizeof(path), "%s/frames/%s.jpg", data, frames[i]);
        bytes = read_file(path, &r.len);
        r.body = bytes;
        test_send(&s, &r, &a);
        free(bytes);
        assert_int_equal(a.status, 200);
        assert_non_null(strstr(a.body, "\"width\":640,\"height\":480"));
        assert_non_null(strstr(a.body, "\"detection_score\":0.9"));
        assert_non_null(strstr(a.body, "\"fatigue\":{\"probability\":"));
        assert_non_null(strstr(a.body, "\"verdict\":\"unknown\""));
    }
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&s), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            analyze__drivers_frames__one_face_each_with_both_answers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
