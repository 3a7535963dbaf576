/* From one model to another, with candidates put into the store by hand: what
 * is refused, what fails, and what becomes of faces without a crop. Under load
 * and with kill -9: test_server_jobs.c. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/tscaf.pb-c.h"
#include "model/model.h"
#include "server/store/store.h"
#include "tests/support/drivers.h"
#include "tests/support/models.h"
#include "tests/support/unit.h"

#define PATIENCE 1200
#define TINY "tests/support/tiny.json"

/* Another small model, as a job might have made it: its file, if it is to have
 * one, in the repository, and its record. */
static void add_candidate(const struct test_server *s, const char *name,
                          const char *spec, bool with_file, bool passed,
                          char version[17])
{
    Tscaf__V1__ModelInfo info = TSCAF__V1__MODEL_INFO__INIT;
    Tscaf__V1__ModelRef ref = TSCAF__V1__MODEL_REF__INIT;
    const struct srv_record put = {SRV_TABLE_MODEL, version, &info.base};
    char made[128], line[512], base[64];
    struct srv_store *store;
    struct mdl_model m;
    struct ut_error e;

    snprintf(made, sizeof(made), "%s/%s.safetensors", s->dir, name);
    snprintf(line, sizeof(line),
             "%s/tscaf-model init --name %s %s %s >/dev/null", test_programs(),
             name, spec, made);
    assert_int_equal(system(line), 0);
    assert_int_equal(mdl_model_open(made, &m, &e), UT_OK);
    snprintf(version, 17, "%s", m.version);
    mdl_model_close(&m);
    snprintf(line, sizeof(line), "mv %s %s/data/models/%s.safetensors", made,
             s->dir, version);
    assert_int_equal(system(with_file ? line : "true"), 0);
    ref.name = (char *)(uintptr_t)name;
    ref.version = version;
    info.model = &ref;
    info.state = TSCAF__V1__MODEL_STATE__MODEL_STATE_CANDIDATE;
    info.passed = passed;
    test_model_active(s, base);
    info.compared_with = base;
    info.reason = (char *)(uintptr_t) "fatigue: held-out AUC 0.51 is below the "
                                      "base's 0.99";
    snprintf(line, sizeof(line), "%s/data", s->dir);
    assert_int_equal(srv_store_open(line, NULL, &store, &e), UT_OK);
    assert_int_equal(
        srv_store_put(store, "job", "model.create", version, &put, 1, &e),
        UT_OK);
    srv_store_close(store);
}

static long activate(const struct test_server *s, const char *version,
                     const char *body, struct test_answer *a)
{
    char path[128];

    snprintf(path, sizeof(path), "/v1/models/%s/activate", version);
    return test_json(s, "POST", path, body, a);
}

static void activate__did_not_pass__refused_without_force(void **state)
{
    char base[64], made[17], now[64];
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    test_server_start(&s, NULL);
    test_model_active(&s, base);
    add_candidate(&s, "worse", TINY, true, false, made);
    assert_int_equal(activate(&s, made, "{}", &a), 400);
    assert_non_null(strstr(a.body, "failed_precondition"));
    assert_non_null(strstr(a.body, "did not pass"));
    assert_non_null(strstr(a.body, "below the base's 0.99"));
    test_model_active(&s, now);
    assert_string_equal(now, base);

    assert_int_equal(activate(&s, made, "{\"force\":true}", &a), 202);
    test_model_wait(&s, made);
    test_model_rollback(&s);
    test_model_active(&s, now);
    assert_string_equal(now, base);
    /* What answered once may come back without force. */
    assert_int_equal(activate(&s, made, "{}", &a), 202);
    test_model_wait(&s, made);
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

/* Both are no worse than what answered; then one of them answers. */
static void activate__compared_with_another__refused_without_force(void **state)
{
    char base[64], one[17], other[17], path[64], words[120];
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    test_server_start(&s, NULL);
    test_model_active(&s, base);
    add_candidate(&s, "one", TINY, true, true, one);
    add_candidate(&s, "other", TINY, true, true, other);
    assert_int_equal(activate(&s, one, "{}", &a), 202);
    test_model_wait(&s, one);
    assert_int_equal(activate(&s, other, "{}", &a), 400);
    snprintf(words, sizeof(words), "compared with %s, not with %s", base, one);
    assert_non_null(strstr(a.body, words));
    snprintf(path, sizeof(path), "/v1/models/%s", other);
    assert_int_equal(test_get(&s, path, &a), 200);
    assert_non_null(strstr(a.body, "\"passed\":false"));
    assert_non_null(strstr(a.body, "with which it was not compared"));
    /* What it was compared with answers again. */
    test_model_rollback(&s);
    assert_int_equal(test_get(&s, path, &a), 200);
    assert_non_null(strstr(a.body, "\"passed\":true"));
    assert_int_equal(activate(&s, other, "{}", &a), 202);
    test_model_wait(&s, other);
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

static void activate__file_is_gone__told_and_served_on(void **state)
{
    char base[64], made[17], now[64], path[64];
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    test_server_start(&s, NULL);
    test_model_active(&s, base);
    add_candidate(&s, "gone", TINY, false, true, made);
    assert_int_equal(activate(&s, made, "{}", &a), 202);
    snprintf(path, sizeof(path), "/v1/models/%s", made);
    for (int tries = 0; !strstr(a.body, "its activation failed"); tries++) {
        if (tries == PATIENCE)
            fail_msg("%s", a.body);
        usleep(50000);
        assert_int_equal(test_get(&s, path, &a), 200);
    }
    assert_non_null(strstr(a.body, "has no file"));
    assert_non_null(strstr(a.body, "below the base's 0.99; its activation"));
    assert_non_null(strstr(a.body, "\"state\":\"candidate\""));
    test_model_active(&s, now);
    assert_string_equal(now, base);
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

static void
activate__face_without_a_crop__listed_unmatched_and_back(void **state)
{
    static const char *const no_crops[] = {"--store-crops", "false", NULL};
    char with[64], without[64], made[17], path[64];
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    test_server_start(&s, no_crops);
    test_enroll(&s, "X", 1, without);
    test_server_signal(&s, SIGTERM);
    assert_int_equal(test_server_wait(&s), 0);
    test_server_restart(&s, NULL);
    test_enroll(&s, "X", 2, with);
    add_candidate(&s, "next", TINY, true, true, made);

    /* Told before it is activated, too. */
    snprintf(path, sizeof(path), "/v1/models/%s/reenrolment", made);
    assert_int_equal(test_get(&s, path, &a), 200);
    assert_non_null(strstr(a.body, without));
    assert_null(strstr(a.body, with));
    assert_true(test_finds(&s, 1, without));

    assert_int_equal(activate(&s, made, "{}", &a), 202);
    test_model_wait(&s, made);
    assert_true(test_finds(&s, 2, with));
    assert_false(test_finds(&s, 1, without));
    assert_int_equal(test_get(&s, path, &a), 200);
    assert_non_null(strstr(a.body, without));

    /* Its embedding by the former model is kept for rollback. */
    test_model_rollback(&s);
    assert_true(test_finds(&s, 1, without));
    assert_true(test_finds(&s, 2, with));
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

/* Faces with crops do not wait for embeddings that it never makes. */
static void activate__model_that_does_not_recognise__answers(void **state)
{
    char made[17], id[64], spec[80];
    struct test_answer a = {0};
    struct test_server s;
    FILE *f;

    (void)state;
    test_server_start(&s, NULL);
    test_enroll(&s, "X", 1, id);
    snprintf(spec, sizeof(spec), "%s/fatigue.json", s.dir);
    f = fopen(spec, "w");
    fputs("{\"input\": 112, \"trees\": [{\"name\": \"root\", \"module\":"
          " \"mobilenetv2\", \"width\": 0.1, \"children\": [{\"name\":"
          " \"fatigue\", \"module\": \"lase\", \"head\": \"binary\"}]}]}",
          f);
    fclose(f);
    add_candidate(&s, "fatigue", spec, true, true, made);
    assert_int_equal(activate(&s, made, "{}", &a), 202);
    test_model_wait(&s, made);
    test_model_rollback(&s);
    assert_true(test_finds(&s, 1, id));
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

/* Faces that came since are embedded by the executors, whose queue may be
 * shorter than a batch of theirs. */
static void rollback__more_faces_than_the_queue_takes__embedded(void **state)
{
    static const char *const flags[] = {"--max-queue", "3", NULL};
    char made[17], id[64];
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    test_server_start(&s, flags);
    add_candidate(&s, "next", TINY, true, true, made);
    assert_int_equal(activate(&s, made, "{}", &a), 202);
    test_model_wait(&s, made);
    for (int who = 1; who <= 5; who++)
        test_enroll(&s, "X", who, id);
    test_model_rollback(&s);
    assert_true(test_finds(&s, 5, id));
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

/* Once it is done nothing is gained by saying that it came too late. */
static void
rollback__deadline_passes_meanwhile__told_that_it_is_done(void **state)
{
    const char *const soon[] = {"Connect-Timeout-Ms: 1", NULL};
    char base[64], made[17], now[64];
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    test_server_start(&s, NULL);
    test_model_active(&s, base);
    add_candidate(&s, "next", TINY, true, true, made);
    assert_int_equal(activate(&s, made, "{}", &a), 202);
    test_model_wait(&s, made);
    test_send(&s,
              &(struct test_request){.method = "POST",
                                     .path = "/v1/models/rollback",
                                     .headers = soon},
              &a);
    assert_int_equal(a.status, 200);
    test_model_active(&s, now);
    assert_string_equal(now, base);
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

/* What was trained, grafted or calibrated elsewhere comes into a server that
 * runs, with the faces that are enrolled. */
static void add_model__file_from_elsewhere__activated(void **state)
{
    char file[128], line[400], out[400], version[17], id[64];
    struct test_answer a = {0};
    struct test_server s;

    (void)state;
    test_server_start(&s, NULL);
    test_enroll(&s, "X", 1, id);
    snprintf(file, sizeof(file), "%s/mine.safetensors", s.dir);
    snprintf(line, sizeof(line),
             "%s/tscaf-model init --name mine " TINY " %s >/dev/null",
             test_programs(), file);
    assert_int_equal(system(line), 0);
    for (int i = 0; i < 2; i++) { /* again is as good as once */
        assert_int_equal(
            test_server_run(&s,
                            (const char *const[]){"--add-model", file, NULL},
                            out, sizeof(out)),
            0);
        out[strcspn(out, "\n")] = '\0';
        assert_int_equal(strlen(out), 16);
    }
    snprintf(version, sizeof(version), "%s", out);
    assert_int_equal(activate(&s, version, "{}", &a), 400);
    assert_non_null(strstr(a.body, "added by hand"));
    assert_int_equal(activate(&s, version, "{\"force\":true}", &a), 202);
    test_model_wait(&s, version);
    assert_true(test_finds(&s, 1, id));
    /* Known, and in use: it stays so. */
    assert_int_equal(
        test_server_run(&s, (const char *const[]){"--add-model", file, NULL},
                        out, sizeof(out)),
        0);
    test_model_wait(&s, version);
    /* As on another server of the same database. */
    snprintf(line, sizeof(line), "%s/data/models/%s.safetensors", s.dir,
             version);
    assert_int_equal(unlink(line), 0);
    assert_int_equal(
        test_server_run(&s, (const char *const[]){"--add-model", file, NULL},
                        out, sizeof(out)),
        0);
    assert_int_equal(access(line, R_OK), 0);
    assert_int_equal(
        test_server_run(&s, (const char *const[]){"--add-model", TINY, NULL},
                        out, sizeof(out)),
        1);
    assert_non_null(strstr(out, TINY));
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activate__did_not_pass__refused_without_force),
        cmocka_unit_test(
            activate__compared_with_another__refused_without_force),
        cmocka_unit_test(activate__file_is_gone__told_and_served_on),
        cmocka_unit_test(
            activate__face_without_a_crop__listed_unmatched_and_back),
        cmocka_unit_test(activate__model_that_does_not_recognise__answers),
        cmocka_unit_test(add_model__file_from_elsewhere__activated),
        cmocka_unit_test(rollback__more_faces_than_the_queue_takes__embedded),
        cmocka_unit_test(
            rollback__deadline_passes_meanwhile__told_that_it_is_done),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
