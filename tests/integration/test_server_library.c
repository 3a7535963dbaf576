/* libtscaf's typed calls against a real tscafd. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/result.h"
#include "tests/support/server.h"
#include "tests/support/unit.h"

static struct test_server server;
static struct cl_client *client;
static struct cl_image image = {.type = "image/png"};

static int set_up(void **state)
{
    struct cl_options o = {.timeout_ms = 60000, .retries = 3};
    struct ut_error e;
    char url[64];

    (void)state;
    image.bytes = test_face(1, 1, &image.len);
    test_server_start(&server, NULL);
    snprintf(url, sizeof(url), "http://127.0.0.1:%d", server.port);
    o.url = url;
    assert_int_equal(cl_open(&o, &client, &e), UT_OK);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cl_close(client);
    free((void *)image.bytes);
    return test_server_stop(&server);
}

static void enrol__then_analyze__is_the_one_enrolled(void **state)
{
    struct cl_identity *ada = NULL, *again = NULL;
    struct cl_enrolled *face = NULL;
    struct cl_analysis *a = NULL;
    const struct cl_face *f;
    struct api_error err;
    float norm = 0;

    (void)state;
    assert_int_equal(
        cl_identity_create(client, "Ada \"A\"", "car 7", &ada, &err), UT_OK);
    assert_string_equal(ada->name, "Ada \"A\"");
    assert_string_equal(ada->external_id, "car 7");
    assert_int_equal(ada->n_faces, 0);
    assert_int_equal(cl_identity_create(client, "B", "car 7", &again, &err),
                     UT_EIO);
    assert_null(again);
    assert_int_equal(err.code, API_ALREADY_EXISTS);

    image.query = "input=crop";
    if (cl_enroll(client, ada->id, &image, &face, &err))
        fail_msg("%s", err.message);
    assert_string_equal(face->identity_id, ada->id);
    assert_memory_equal(face->id, "face_", 5);

    image.query = "input=crop&return=embedding";
    if (cl_analyze(client, &image, &a, &err))
        fail_msg("%s", err.message);
    assert_string_equal(a->model_version, face->model_version);
    assert_false(a->trained);
    assert_true(a->total_ms > 0);
    assert_int_equal(a->n_frames, 1);
    assert_int_equal(a->frames[0].width, 112);
    assert_int_equal(a->frames[0].n_faces, 1);
    f = a->frames[0].faces;
    assert_true(f->box.width == 112 && f->box.height == 112);
    assert_true(f->has_fatigue && f->has_identity && !f->has_landmarks);
    assert_true(f->fatigue.probability >= 0 && f->fatigue.probability <= 1);
    assert_int_equal(f->fatigue.drowsy,
                     f->fatigue.probability >= f->fatigue.threshold);
    assert_int_equal(f->identity.verdict, CL_VERDICT_MATCH);
    assert_int_equal(f->identity.n_matches, 1);
    assert_string_equal(f->identity.matches[0].identity_id, ada->id);
    assert_string_equal(f->identity.matches[0].name, "Ada \"A\"");
    assert_true(fabsf(f->identity.matches[0].similarity - 1) < 1e-3f);
    assert_true(f->n_embedding > 0);
    for (size_t i = 0; i < f->n_embedding; i++)
        norm += f->embedding[i] * f->embedding[i];
    assert_true(fabsf(norm - 1) < 1e-3f);
    cl_analysis_free(a);
    cl_enrolled_free(face);
    cl_identity_free(ada);
}

static void calls__that_the_server_refuses__its_words(void **state)
{
    struct cl_image bad = {.bytes = "no picture",
                           .len = 10,
                           .type = "image/png",
                           .query = "input=crop"};
    struct cl_analysis *a;
    struct cl_enrolled *face;
    struct cl_job *job;
    struct api_error err;
    char long_query[3000];

    (void)state;
    assert_int_equal(cl_analyze(client, &bad, &a, &err), UT_EIO);
    assert_null(a);
    assert_int_equal(err.code, API_INVALID_ARGUMENT);
    assert_int_equal(cl_enroll(client, "id_0", &image, &face, &err), UT_EIO);
    assert_null(face);
    assert_int_equal(
        cl_job_get(client, "job_000000000000000000000000", &job, &err), UT_EIO);
    assert_null(job);
    assert_int_equal(err.code, API_NOT_FOUND);
    memset(long_query, 'x', sizeof(long_query));
    long_query[sizeof(long_query) - 1] = '\0';
    bad.query = long_query;
    assert_int_equal(cl_analyze(client, &bad, &a, &err), UT_EBUSY);
    assert_null(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(enrol__then_analyze__is_the_one_enrolled),
        cmocka_unit_test(calls__that_the_server_refuses__its_words),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
