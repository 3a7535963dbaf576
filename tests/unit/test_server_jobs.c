/* The queue beside a store that takes long, or refuses: no process runs. */
#include "server/jobs/jobs.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/json.h"
#include "base/clock.h"
#include "base/file.h"
#include "server/app.h"
#include "server/jobs/job_folder.h"
#include "server/methods/handlers.h"
#include "server/store/store_sql.h"
#include "tests/support/unit.h"

#define JOB "job_a"
#define VERSION "0123456789abcdef"
#define PATIENCE_US 60000000
#define STATE(x) TSCAF__V1__JOB_STATE__JOB_STATE_##x

static struct srv_app app;
static struct srv_config config;
static char dir[64], data[80];

/* ---- a store that can be held, and that refuses ---- */

static struct srv_sql_ops ops;
static enum ut_err (*begin)(struct srv_store *s, struct ut_error *e);
static atomic_bool held;
static atomic_int n_refusals; /* to come */
static uv_sem_t go;

static enum ut_err begin_or_not(struct srv_store *s, struct ut_error *e)
{
    if (atomic_exchange(&held, false))
        uv_sem_wait(&go);
    if (atomic_load(&n_refusals)) {
        atomic_fetch_sub(&n_refusals, 1);
        return ut_fail(e, UT_EIO, "the store is full");
    }
    return begin(s, e);
}

/* ---- the server without its sockets ---- */

static int set_up(void **state)
{
    static const char *const folders[] = {"", "/jobs", "/models"};
    char path[128];
    struct ut_error e;
    size_t unusable;

    (void)state;
    memset(&app, 0, sizeof(app));
    snprintf(dir, sizeof(dir), "/tmp/tscaf-jobs-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(data, sizeof(data), "%s/data", dir);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s%s", data, folders[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    config = (struct srv_config){.data = data,
                                 .backend = (char *)(uintptr_t) "cpu",
                                 .precision = MDL_PREC_F32,
                                 .max_batch = 1,
                                 .max_queue = 1,
                                 .gallery_max_faces = 1};
    app.config = &config;
    pthread_mutex_init(&app.generations.lock, NULL);
    pthread_mutex_init(&app.generations.next_lock, NULL);
    if (srv_store_open(data, NULL, &app.store, &e))
        fail_msg("%s", e.msg);
    ops = *app.store->ops;
    begin = ops.begin;
    ops.begin = begin_or_not;
    app.store->ops = &ops;
    atomic_store(&held, false);
    atomic_store(&n_refusals, 0);
    uv_sem_init(&go, 0);
    uv_loop_init(&app.loop);
    assert_int_equal(srv_mailbox_new(&app.loop, &app.mailbox, &e), UT_OK);
    assert_int_equal(srv_pool_new("store", 1, 4, &app.store_pool, &e), UT_OK);
    if (srv_generations_open(&app, &unusable, &e))
        fail_msg("%s", e.msg);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    srv_jobs_stop(app.jobs);
    uv_sem_post(&go); /* of a test that failed */
    srv_pool_free(app.store_pool);
    srv_generations_free(&app);
    srv_mailbox_free(app.mailbox);
    uv_run(&app.loop, UV_RUN_DEFAULT);
    uv_loop_close(&app.loop);
    srv_jobs_free(app.jobs);
    srv_store_close(app.store);
    pthread_mutex_destroy(&app.generations.lock);
    pthread_mutex_destroy(&app.generations.next_lock);
    uv_sem_destroy(&go);
    ut_remove_tree(dir);
    return 0;
}

static void begin_jobs(void)
{
    struct ut_error e;

    if (srv_jobs_new(&app, &app.jobs, &e))
        fail_msg("%s", e.msg);
}

/* ---- what a process left ---- */

static void write_in_job(const char *name, const char *text)
{
    char path[PATH_MAX];
    struct ut_error e;

    srv_job_path(data, JOB, name, path);
    assert_int_equal(ut_file_write(path, text, strlen(text), &e), UT_OK);
}

static void put(enum srv_table table, const char *id, const ProtobufCMessage *m)
{
    const struct srv_record r = {table, id, m};
    struct ut_error e;

    assert_int_equal(srv_store_put(app.store, NULL, NULL, NULL, &r, 1, &e),
                     UT_OK);
}

/* A stored job in that state, with its folder. */
static void add_job(Tscaf__V1__JobState job_state)
{
    Tscaf__V1__JobRecord x = TSCAF__V1__JOB_RECORD__INIT;
    char path[PATH_MAX];

    x.id = (char *)(uintptr_t)JOB;
    x.state = job_state;
    put(SRV_TABLE_JOB, JOB, &x.base);
    srv_job_path(data, JOB, "", path);
    assert_int_equal(mkdir(path, 0700), 0);
}

static const char *answering(void)
{
    return srv_generation_version(app.generations.current);
}

/* The model that its process made. */
static void add_result(const char *compared_with)
{
    Tscaf__V1__JobResult r = TSCAF__V1__JOB_RESULT__INIT;
    Tscaf__V1__ModelInfo info = TSCAF__V1__MODEL_INFO__INIT;
    Tscaf__V1__ModelRef ref = TSCAF__V1__MODEL_REF__INIT;
    struct ut_error e;
    char *json;
    size_t len;

    ref.version = (char *)(uintptr_t)VERSION;
    info.model = &ref;
    info.state = TSCAF__V1__MODEL_STATE__MODEL_STATE_CANDIDATE;
    info.compared_with = (char *)(uintptr_t)compared_with;
    info.job_id = (char *)(uintptr_t)JOB;
    r.model = &info;
    assert_int_equal(api_json_write(&r.base, API_JSON_REST, &json, &len, &e),
                     UT_OK);
    write_in_job("result.json", json);
    write_in_job("model.safetensors", "weights");
    free(json);
}

/* The loop turns once; it fails when what is waited for took too long. */
static void turn(int64_t by_us)
{
    if (ut_clock_us() > by_us)
        fail_msg("after %d s: %s", PATIENCE_US / 1000000,
                 srv_jobs_find(app.jobs, JOB)->reason);
    uv_run(&app.loop, UV_RUN_ONCE);
}

static void until(Tscaf__V1__JobState wanted)
{
    int64_t by_us = ut_clock_us() + PATIENCE_US;

    while (srv_jobs_find(app.jobs, JOB)->state != wanted)
        turn(by_us);
}

/* ---- calls ---- */

/* Static where it is used: an answer may come after a test that failed. */
struct answer {
    struct srv_call call;
    Tscaf__V1__JobRef ref;
    bool done;
    int code; /* -1: a reply */
    char message[200];
};

static void on_reply(struct srv_call *c, const ProtobufCMessage *response)
{
    struct answer *a = c->user;

    (void)response;
    a->done = true;
    a->code = -1;
}

static void on_fail(struct srv_call *c, const struct api_error *err)
{
    struct answer *a = c->user;

    a->done = true;
    a->code = (int)err->code;
    snprintf(a->message, sizeof(a->message), "%s", err->message);
}

static void ask(struct answer *a, srv_handler_fn handler)
{
    *a = (struct answer){.call = {.app = &app,
                                  .request = &a->ref.base,
                                  .actor = "ada",
                                  .deadline_us = INT64_MAX,
                                  .reply = on_reply,
                                  .fail = on_fail,
                                  .user = a},
                         .ref = TSCAF__V1__JOB_REF__INIT};
    a->ref.id = (char *)(uintptr_t)JOB;
    handler(&a->call);
}

static void wait_for(const struct answer *a)
{
    int64_t by_us = ut_clock_us() + PATIENCE_US;

    while (!a->done)
        turn(by_us);
}

/* How many lines the audit log has of that. */
static int audited(const char *action)
{
    struct srv_audit *list;
    struct ut_error e;
    size_t n;
    int found = 0;

    assert_int_equal(srv_store_audit_list(app.store, 0, 100, &list, &n, &e),
                     UT_OK);
    for (size_t i = 0; i < n; i++) {
        found +=
            !strcmp(list[i].action, action) && !strcmp(list[i].actor, "ada");
        srv_audit_fini(&list[i]);
    }
    free(list);
    return found;
}

/* The state of the stored record; 0: there is none. Beside the store's thread,
 * so by a handle of its own. */
static int stored_state(void)
{
    struct srv_store *store;
    ProtobufCMessage *m;
    struct ut_error e;
    int job_state = 0;

    if (srv_store_open(data, NULL, &store, &e))
        fail_msg("%s", e.msg);
    if (!srv_store_get(store, SRV_TABLE_JOB, JOB,
                       &tscaf__v1__job_record__descriptor, &m, &e)) {
        job_state = (int)((Tscaf__V1__JobRecord *)(void *)m)->state;
        protobuf_c_message_free_unpacked(m, NULL);
    }
    srv_store_close(store);
    return job_state;
}

static bool job_has(const char *name)
{
    return srv_job_has(data, JOB, name);
}

static bool reason_has(const char *words)
{
    return strstr(srv_jobs_find(app.jobs, JOB)->reason, words);
}

/* ---- tests ---- */

/* Resumed, its process would drop what is about to be stored. */
static void resume__result_is_being_stored__refused(void **state)
{
    static struct answer a;

    (void)state;
    add_job(STATE(PAUSED));
    add_result(answering());
    atomic_store(&held, true);
    begin_jobs();
    ask(&a, srv_handle_resume_job);
    assert_true(a.done);
    assert_int_equal(a.code, API_FAILED_PRECONDITION);
    assert_non_null(strstr(a.message, "its result is being stored"));
    uv_sem_post(&go);
    until(STATE(SUCCEEDED));
}

static Tscaf__V1__ModelInfo *stored_model(void)
{
    ProtobufCMessage *m;
    struct ut_error e;

    if (srv_store_get(app.store, SRV_TABLE_MODEL, VERSION,
                      &tscaf__v1__model_info__descriptor, &m, &e))
        fail_msg("%s", e.msg);
    return (Tscaf__V1__ModelInfo *)m;
}

/* Training repeats bit for bit: a job like one before makes the same file. */
static void result__same_bytes_as_a_model_in_use__it_stays_active(void **state)
{
    Tscaf__V1__ModelInfo info = TSCAF__V1__MODEL_INFO__INIT, *m;
    Tscaf__V1__ModelRef ref = TSCAF__V1__MODEL_REF__INIT;

    (void)state;
    ref.version = (char *)(uintptr_t)VERSION;
    info.model = &ref;
    info.state = TSCAF__V1__MODEL_STATE__MODEL_STATE_ACTIVE;
    info.job_id = (char *)(uintptr_t) "job_before";
    info.created_at = (char *)(uintptr_t) "before";
    info.compared_with = (char *)(uintptr_t) "another";
    put(SRV_TABLE_MODEL, VERSION, &info.base);
    add_job(STATE(RUNNING));
    add_result(answering());
    begin_jobs();
    until(STATE(SUCCEEDED));
    m = stored_model();
    assert_int_equal(m->state, TSCAF__V1__MODEL_STATE__MODEL_STATE_ACTIVE);
    assert_string_equal(m->job_id, "job_before");
    assert_string_equal(m->created_at, "before");
    assert_string_equal(m->compared_with, answering());
    tscaf__v1__model_info__free_unpacked(m, NULL);
    assert_string_equal(srv_jobs_find(app.jobs, JOB)->model_version, VERSION);
}

/* The weights are what took so long. */
static void result__store_refuses_once__stored_by_the_next_try(void **state)
{
    int64_t by_us = ut_clock_us() + PATIENCE_US;
    Tscaf__V1__ModelInfo *m;
    char path[PATH_MAX];
    static struct answer a;

    (void)state;
    add_job(STATE(RUNNING));
    add_result(answering());
    atomic_store(&n_refusals, 1);
    begin_jobs();
    while (!reason_has("not stored yet: the store is full"))
        turn(by_us);
    assert_int_equal(srv_jobs_find(app.jobs, JOB)->state, STATE(RUNNING));
    ask(&a, srv_handle_pause_job);
    assert_int_equal(a.code, API_FAILED_PRECONDITION);
    ask(&a, srv_handle_resume_job);
    assert_int_equal(a.code, API_FAILED_PRECONDITION);
    until(STATE(SUCCEEDED));
    assert_false(reason_has("not stored"));
    m = stored_model();
    assert_string_equal(m->job_id, JOB);
    tscaf__v1__model_info__free_unpacked(m, NULL);
    srv_model_path(data, VERSION, path);
    assert_int_equal(access(path, F_OK), 0);
}

/* A server ended between the two, and another model answers since. */
static void
result__model_is_moved_and_verdict_old__stored_as_it_is(void **state)
{
    char from[PATH_MAX], to[PATH_MAX];
    Tscaf__V1__ModelInfo *m;

    (void)state;
    add_job(STATE(RUNNING));
    add_result("another");
    srv_job_path(data, JOB, "model.safetensors", from);
    srv_model_path(data, VERSION, to);
    assert_int_equal(rename(from, to), 0);
    begin_jobs();
    until(STATE(SUCCEEDED));
    m = stored_model();
    assert_string_equal(m->compared_with, "another");
    tscaf__v1__model_info__free_unpacked(m, NULL);
}

/* Refused by the store, a change has not been; asked for again, it is, and who
 * asked for it is known. */
static void cancel__store_refuses_once__as_before_then_cancelled(void **state)
{
    static struct answer a;

    (void)state;
    add_job(STATE(PAUSED));
    write_in_job("model.safetensors.checkpoint", "weights");
    begin_jobs();
    atomic_store(&n_refusals, 1);
    ask(&a, srv_handle_cancel_job);
    wait_for(&a);
    assert_int_equal(a.code, API_INTERNAL);
    assert_int_equal(srv_jobs_find(app.jobs, JOB)->state, STATE(PAUSED));
    assert_true(job_has("model.safetensors.checkpoint"));
    ask(&a, srv_handle_cancel_job);
    wait_for(&a);
    assert_int_equal(a.code, -1);
    assert_int_equal(srv_jobs_find(app.jobs, JOB)->state, STATE(CANCELLED));
    assert_int_equal(stored_state(), STATE(CANCELLED));
    assert_false(job_has("model.safetensors.checkpoint"));
    assert_int_equal(audited("job.cancel"), 1);
}

static void delete__store_refuses_once__there_then_gone(void **state)
{
    static struct answer a;

    (void)state;
    add_job(STATE(CANCELLED));
    begin_jobs();
    atomic_store(&n_refusals, 1);
    ask(&a, srv_handle_delete_job);
    wait_for(&a);
    assert_int_equal(a.code, API_INTERNAL);
    assert_non_null(srv_jobs_find(app.jobs, JOB));
    ask(&a, srv_handle_delete_job);
    wait_for(&a);
    assert_int_equal(a.code, -1);
    assert_null(srv_jobs_find(app.jobs, JOB));
    assert_int_equal(srv_jobs_count(app.jobs), 0);
    assert_int_equal(stored_state(), 0);
    assert_false(job_has(""));
    assert_int_equal(audited("job.delete"), 1);
}

/* A job that is being deleted cannot be brought back by its next record. */
static void resume__while_it_is_being_deleted__refused(void **state)
{
    static struct answer gone, resumed;

    (void)state;
    add_job(STATE(FAILED));
    begin_jobs();
    atomic_store(&held, true);
    ask(&gone, srv_handle_delete_job);
    ask(&resumed, srv_handle_resume_job);
    assert_int_equal(resumed.code, API_UNAVAILABLE);
    assert_non_null(strstr(resumed.message, JOB));
    uv_sem_post(&go);
    wait_for(&gone);
    assert_int_equal(gone.code, -1);
    assert_int_equal(stored_state(), 0);
}

/* Nobody asked for it, so nobody would ask again. */
static void found_again__store_refuses_once__saved_later(void **state)
{
    int64_t by_us = ut_clock_us() + PATIENCE_US;

    (void)state;
    add_job(STATE(RUNNING));
    atomic_store(&n_refusals, 1);
    begin_jobs();
    assert_int_equal(srv_jobs_find(app.jobs, JOB)->state, STATE(QUEUED));
    while (stored_state() != STATE(QUEUED))
        turn(by_us);
    assert_int_equal(atomic_load(&n_refusals), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(resume__result_is_being_stored__refused),
        TEST(result__same_bytes_as_a_model_in_use__it_stays_active),
        TEST(result__store_refuses_once__stored_by_the_next_try),
        TEST(result__model_is_moved_and_verdict_old__stored_as_it_is),
        TEST(cancel__store_refuses_once__as_before_then_cancelled),
        TEST(delete__store_refuses_once__there_then_gone),
        TEST(resume__while_it_is_being_deleted__refused),
        TEST(found_again__store_refuses_once__saved_later),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
