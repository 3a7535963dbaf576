/* Answers as structs, without a server: what a newer one may send, what is no
 * answer, and memory that is not there. */
#include "tests/support/unit.h"

#include <string.h>

#include "client/result.h"

/* With members and a verdict that this client does not know. */
static char full[] =
    "{\"request_id\":\"r1\",\"model\":{\"name\":\"tiny\",\"version\":\"0a\","
    "\"trained\":true,\"colour\":\"red\"},\"frames\":["
    "{\"width\":640,\"height\":480,\"faces\":["
    "{\"box\":{\"x\":1,\"y\":2,\"width\":3,\"height\":4},"
    "\"detection_score\":0.75,\"landmarks\":[{\"x\":1,\"y\":2},{\"x\":3,"
    "\"y\":4},{\"x\":5,\"y\":6},{\"x\":7,\"y\":8},{\"x\":9,\"y\":10}],"
    "\"quality_reasons\":[\"LOW_SHARPNESS\"],"
    "\"fatigue\":{\"probability\":0.5,\"drowsy\":true,\"threshold\":0.25},"
    "\"identity\":{\"verdict\":\"ambiguous\",\"threshold\":0.5,\"matches\":["
    "{\"identity_id\":\"id_1\",\"name\":\"Ada\",\"similarity\":0.75},"
    "{\"identity_id\":\"id_2\",\"name\":\"Bo\",\"similarity\":0.5}]},"
    "\"embedding\":[1,0]},"
    "{\"identity\":{\"verdict\":\"perhaps\",\"matches\":["
    "{\"identity_id\":\"id_3\",\"similarity\":-1}]},\"landmarks\":[{}]}]},"
    "{\"width\":2,\"height\":1}],\"timing_ms\":{\"total\":8}}";

static struct cl_answer answer(char *body)
{
    return (struct cl_answer){
        .ok = true, .status = 200, .body = body, .len = strlen(body)};
}

static void analysis__every_part__as_the_answer_has_it(void **state)
{
    struct cl_answer a = answer(full);
    struct cl_analysis *x;
    const struct cl_face *f;
    struct api_error err;

    (void)state;
    assert_int_equal(cl_analysis_read(&a, &x, &err), UT_OK);
    assert_string_equal(x->request_id, "r1");
    assert_string_equal(x->model, "tiny");
    assert_string_equal(x->model_version, "0a");
    assert_true(x->trained);
    assert_true(x->total_ms == 8);
    assert_int_equal(x->n_frames, 2);
    assert_int_equal(x->frames[0].width, 640);
    assert_int_equal(x->frames[0].height, 480);
    assert_int_equal(x->frames[0].n_faces, 2);
    assert_int_equal(x->frames[1].width, 2);
    assert_int_equal(x->frames[1].n_faces, 0);

    f = &x->frames[0].faces[0];
    assert_true(f->box.x == 1 && f->box.y == 2 && f->box.width == 3 &&
                f->box.height == 4);
    assert_true(f->detection_score == 0.75f);
    assert_true(f->has_landmarks && f->has_fatigue && f->has_identity);
    assert_true(f->landmarks[4].x == 9 && f->landmarks[4].y == 10);
    assert_true(f->fatigue.probability == 0.5f && f->fatigue.drowsy &&
                f->fatigue.threshold == 0.25f);
    assert_int_equal(f->n_quality_reasons, 1);
    assert_string_equal(f->quality_reasons[0], "LOW_SHARPNESS");
    assert_int_equal(f->n_embedding, 2);
    assert_true(f->embedding[0] == 1 && f->embedding[1] == 0);
    assert_int_equal(f->identity.verdict, CL_VERDICT_AMBIGUOUS);
    assert_true(f->identity.threshold == 0.5f);
    assert_int_equal(f->identity.n_matches, 2);
    assert_string_equal(f->identity.matches[1].identity_id, "id_2");
    assert_string_equal(f->identity.matches[1].name, "Bo");
    assert_true(f->identity.matches[1].similarity == 0.5f);

    f = &x->frames[0].faces[1];
    assert_false(f->has_landmarks || f->has_fatigue);
    assert_true(f->box.width == 0);
    assert_int_equal(f->identity.verdict, CL_VERDICT_OTHER);
    assert_int_equal(f->identity.n_matches, 1);
    assert_string_equal(f->identity.matches[0].identity_id, "id_3");
    assert_string_equal(f->identity.matches[0].name, "");
    cl_analysis_free(x);
}

static void analysis__empty_answer__no_frames(void **state)
{
    static char text[] = "{}";
    struct cl_answer a = answer(text);
    struct cl_analysis *x;
    struct api_error err;

    (void)state;
    assert_int_equal(cl_analysis_read(&a, &x, &err), UT_OK);
    assert_int_equal(x->n_frames, 0);
    assert_string_equal(x->model, "");
    assert_false(x->trained);
    cl_analysis_free(x);
    cl_analysis_free(NULL);
}

static void analysis__no_answer_or_another__said(void **state)
{
    static char bodies[][40] = {"<html>", "{\"frames\":7}",
                                "{\"frames\":[null]}",
                                "{\"frames\":[{\"faces\":[null]}]}"};
    struct cl_answer a = {.status = 429};
    struct cl_analysis *x = (void *)&a;
    struct api_error err = {0};

    (void)state;
    api_fail(&a.err, API_RESOURCE_EXHAUSTED, "slower");
    assert_int_equal(cl_analysis_read(&a, &x, &err), UT_EIO);
    assert_null(x);
    assert_int_equal(err.code, API_RESOURCE_EXHAUSTED);
    assert_string_equal(err.message, "slower");
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        a = answer(bodies[i]);
        memset(&err, 0, sizeof(err));
        if (cl_analysis_read(&a, &x, &err) != UT_EFORMAT)
            fail_msg("\"%s\" was read", bodies[i]);
        assert_null(x);
        assert_true(strlen(err.message) > 0);
    }
}

static enum ut_err read_full(void *arg, struct ut_error *e)
{
    struct cl_answer a = answer(arg);
    struct cl_analysis *x;
    struct api_error err;
    enum ut_err rc = cl_analysis_read(&a, &x, &err);

    cl_analysis_free(x);
    return rc ? ut_fail(e, rc, "%s", err.message) : UT_OK;
}

static void analysis__any_allocation_fails__clean_error(void **state)
{
    (void)state;
    assert_true(each_allocation_fails(read_full, full) > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(analysis__every_part__as_the_answer_has_it),
        cmocka_unit_test(analysis__empty_answer__no_frames),
        cmocka_unit_test(analysis__no_answer_or_another__said),
        cmocka_unit_test(analysis__any_allocation_fails__clean_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
