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
    test_server_start(&server, (const char *const[]){"--max-jobs", "0", NULL});
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

/* A job that waits, for no job may run here. */
static void job__made_cancelled__read(void **state)
{
    struct test_answer a = {0};
    char dataset[64], id[64], text[256];
    struct cl_job *job = NULL;
    struct api_error err;

    (void)state;
    assert_int_equal(test_json(&server, "POST", "/v1/datasets",
                               "{\"name\":\"x\",\"kind\":\"fatigue\"}", &a),
                     201);
    test_member(&a, "id", dataset, sizeof(dataset));
    for (int i = 0; i < 4; i++) {
        snprintf(text, sizeof(text),
                 "/v1/datasets/%s/samples?input=crop&label=%d&group=g%d",
                 dataset, i % 2, i);
        assert_int_equal(test_png(&server, text, image.bytes, image.len, &a),
                         201);
    }
    snprintf(text, sizeof(text),
             "{\"name\":\"night\",\"fatigue_dataset\":\"%s\",\"settings\":{"
             "\"steps\":77}}",
             dataset);
    if (test_json(&server, "POST", "/v1/jobs", text, &a) != 202)
        fail_msg("%s", a.body);
    test_member(&a, "id", id, sizeof(id));
    if (cl_job_get(client, id, &job, &err))
        fail_msg("%s", err.message);
    assert_string_equal(job->id, id);
    assert_string_equal(job->name, "night");
    assert_int_equal(job->state, CL_JOB_QUEUED);
    assert_int_equal(job->step, 0);
    assert_string_equal(job->model_version, "");
    cl_job_free(job);
    snprintf(text, sizeof(text), "/v1/jobs/%s/cancel", id);
    assert_int_equal(test_json(&server, "POST", text, "{}", &a), 200);
    assert_int_equal(cl_job_get(client, id, &job, &err), UT_OK);
    assert_int_equal(job->state, CL_JOB_CANCELLED);
    cl_job_free(job);
    test_answer_fini(&a);
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
        cmocka_unit_test(job__made_cancelled__read),
        cmocka_unit_test(calls__that_the_server_refuses__its_words),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
