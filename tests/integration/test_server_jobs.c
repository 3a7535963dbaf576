/* From two drawn datasets to a model in use: jobs, their ends, change over
 * under load, and kill -9 in the middle of all of it. */
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "model/vision/face.h"
#include "model/vision/image.h"
#include "server/inference/generations.h"
#include "server/jobs/job_folder.h"
#include "tests/support/drivers.h"
#include "tests/support/models.h"
#include "tests/support/server.h"
#include "tests/support/unit.h"

#define PEOPLE 16
#define N_ENROLLED 12
#define N_LOADS 3
#define PATIENCE                                                               \
    1200 /* quarter seconds; training beside other work is slow                \
          */
#define KILLS 3

/* A job takes the processor that there is: nobody is to be spared here. */
static const char *const flags[] = {"--job-nice", "0", NULL};

/* ---- data ---- */

static void draw(const char *path, const struct mdl_sample_face *s)
{
    static uint8_t rgb[MDL_FACE_SIDE_PX * MDL_FACE_SIDE_PX * 3];
    struct ut_error e;
    uint8_t *png;
    size_t len;
    FILE *f;

    mdl_sample_face_draw(s, rgb);
    assert_int_equal(mdl_image_encode_png(rgb, MDL_FACE_SIDE_PX,
                                          MDL_FACE_SIDE_PX, &png, &len, &e),
                     UT_OK);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(png, 1, len, f), len);
    fclose(f);
    free(png);
}

static void run(const char *command)
{
    if (system(command))
        fail_msg("%s", command);
}

/* DIR/f: alert and drowsy faces; DIR/r: four pictures each of some people. */
static void draw_data(const char *dir)
{
    char path[256];

    snprintf(path, sizeof(path), "mkdir -p %s/f/alert %s/f/drowsy", dir, dir);
    run(path);
    for (uint32_t i = 0; i < 40; i++) {
        bool drowsy = i % 2;
        struct mdl_sample_face s = {
            i / 2 + 1, drowsy ? 0.05f : 1, drowsy ? 0.9f : 0.1f, 0.9f, 0, i};

        snprintf(path, sizeof(path), "%s/f/%s/%02u.png", dir,
                 drowsy ? "drowsy" : "alert", i);
        draw(path, &s);
    }
    for (uint32_t i = 0; i < PEOPLE * 4; i++) {
        struct mdl_sample_face s = {i / 4 + 1,
                                    1,
                                    0.1f * (float)(i % 4),
                                    0.6f + 0.1f * (float)(i % 4),
                                    0,
                                    100 + i};

        snprintf(path, sizeof(path), "%s/r/p%02u", dir, i / 4);
        if (i % 4 == 0) {
            char parent[256];

            snprintf(parent, sizeof(parent), "%s/r", dir);
            mkdir(parent, 0700);
            mkdir(path, 0700);
        }
        snprintf(path, sizeof(path), "%s/r/p%02u/%u.png", dir, i / 4, i % 4);
        draw(path, &s);
    }
    snprintf(path, sizeof(path),
             "tar -C %s/f -cf %s/f.tar . && tar -C %s/r "
             "-czf %s/r.tgz .",
             dir, dir, dir, dir);
    run(path);
}

static char *read_all(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    char *data = malloc(1 << 24);

    assert_non_null(f);
    assert_non_null(data);
    *len = fread(data, 1, 1 << 24, f);
    fclose(f);
    return data;
}

/* A dataset of a kind from an archive; its id. */
static void upload(const struct test_server *s, const char *kind,
                   const char *type, const char *file, char id[64])
{
    struct test_answer a = {0};
    char text[256];
    size_t len;
    char *data = read_all(file, &len);

    snprintf(text, sizeof(text), "{\"name\":\"%s\",\"kind\":\"%s\"}", kind,
             kind);
    assert_int_equal(test_json(s, "POST", "/v1/datasets", text, &a), 201);
    test_member(&a, "id", id, 64);
    snprintf(text, sizeof(text), "/v1/datasets/%s/archive", id);
    test_send(s,
              &(struct test_request){
                  .path = text, .type = type, .body = data, .len = len},
              &a);
    if (a.status != 200)
        fail_msg("%s", a.body);
    assert_non_null(strstr(a.body, "\"problem_count\":0"));
    free(data);
    test_answer_fini(&a);
}

/* ---- jobs ---- */

static void start_job_from(const struct test_server *s, const char *base,
                           const char *fatigue, const char *recognition,
                           int steps, char id[64])
{
    struct test_answer a = {0};
    char text[512];

    snprintf(text, sizeof(text),
             "{\"name\":\"first\",\"base_version\":\"%s\","
             "\"fatigue_dataset\":\"%s\","
             "\"recognition_dataset\":\"%s\",\"settings\":{\"steps\":%d,"
             "\"batch\":16,\"warm_up\":10,\"rate\":0.003,\"save\":20,"
             "\"no_augment\":true}}",
             base, fatigue, recognition, steps);
    if (test_json(s, "POST", "/v1/jobs", text, &a) != 202)
        fail_msg("%s", a.body);
    test_member(&a, "id", id, 64);
    test_answer_fini(&a);
}

static void start_job(const struct test_server *s, const char *fatigue,
                      const char *recognition, int steps, char id[64])
{
    start_job_from(s, "", fatigue, recognition, steps, id);
}

/* Asks path until its answer has one of the words; which. */
static int until(const struct test_server *s, const char *path,
                 const char *const *words, struct test_answer *a)
{
    for (int tries = 0; tries < PATIENCE; tries++) {
        assert_int_equal(test_get(s, path, a), 200);
        for (int i = 0; words[i]; i++)
            if (strstr(a->body, words[i]))
                return i;
        usleep(250000);
    }
    fail_msg("never \"%s\" but: %s", words[0], a->body);
    return -1;
}

static void wait_state(const struct test_server *s, const char *id,
                       const char *state, struct test_answer *a)
{
    char path[128], word[64];
    const char *const words[] = {word, NULL};

    snprintf(path, sizeof(path), "/v1/jobs/%s", id);
    snprintf(word, sizeof(word), "\"state\":\"%s\"", state);
    until(s, path, words, a);
}

static void post(const struct test_server *s, const char *root, const char *id,
                 const char *verb, long want)
{
    struct test_answer a = {0};
    char path[160];

    snprintf(path, sizeof(path), "/v1/%s/%s/%s", root, id, verb);
    test_send(s,
              &(struct test_request){
                  .method = "POST",
                  .path = path,
                  .body = strcmp(verb, "activate") ? NULL : "{\"force\":true}"},
              &a);
    if (a.status != want)
        fail_msg("%s: %ld %s", path, a.status, a.body);
    test_answer_fini(&a);
}

static double number(const char *text, const char *name)
{
    char key[64];
    const char *at;

    snprintf(key, sizeof(key), "\"%s\":", name);
    at = strstr(text, key);
    if (!at)
        fail_msg("no %s in %s", name, text);
    return atof(at + strlen(key));
}

/* The stream of a job: what it is at once, what it becomes, its end. */
static void *watch(void *arg)
{
    const char *const *of = arg; /* the server, the path */
    struct test_answer *a = calloc(1, sizeof(*a));

    /* One request may last less long than training on a busy machine. */
    do
        test_get((const struct test_server *)(const void *)of[0], of[1], a);
    while (!a->status);
    return a;
}

/* ---- load ---- */

struct load {
    const struct test_server *s;
    char versions[2][24]; /* "\"version\":\"...\"" of the two */
    char *png[N_ENROLLED];
    size_t len[N_ENROLLED];
    atomic_bool stop;
    atomic_int n_bad, seen[2];
};

/* Every answer is 200, by one of the two. */
static void *put_load(void *arg)
{
    struct load *l = arg;
    struct test_answer a = {0};

    for (int i = 0; !atomic_load(&l->stop); i++) {
        int k = i % N_ENROLLED, which;

        test_png(l->s, "/v1/analyze?input=crop", l->png[k], l->len[k], &a);
        which = strstr(a.body, l->versions[0])   ? 0
                : strstr(a.body, l->versions[1]) ? 1
                                                 : -1;
        if (a.status != 200 || which < 0) {
            atomic_fetch_add(&l->n_bad, 1);
            fprintf(stderr, "%ld %s\n", a.status, a.body);
            break;
        }
        atomic_fetch_add(&l->seen[which], 1);
    }
    test_answer_fini(&a);
    return NULL;
}

static void enroll(const struct test_server *s)
{
    char id[64];

    for (int i = 0; i < N_ENROLLED; i++)
        test_enroll(s, "X", 1 + i, id);
}

/* An enrolled face is found at similarity 1 by whatever answers: its stored
 * embedding is that model's. */
static void check_gallery(const struct test_server *s)
{
    struct test_answer a = {0};
    size_t len;
    char *png = test_face(1, 0, &len);

    assert_int_equal(test_png(s, "/v1/search?input=crop&top_k=1", png, len, &a),
                     200);
    if (number(a.body, "similarity") < 0.999)
        fail_msg("%s", a.body);
    free(png);
    test_answer_fini(&a);
}

static void change_over_under_load(struct test_server *s, const char *base,
                                   const char *made)
{
    struct load l = {.s = s};
    pthread_t threads[N_LOADS];

    for (int i = 0; i < N_ENROLLED; i++)
        l.png[i] = test_face(1 + i, 1, &l.len[i]);
    snprintf(l.versions[0], sizeof(l.versions[0]), "\"%s\"", base);
    snprintf(l.versions[1], sizeof(l.versions[1]), "\"%s\"", made);
    for (int i = 0; i < N_LOADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, put_load, &l), 0);
    while (atomic_load(&l.seen[0]) < 5 && !atomic_load(&l.n_bad))
        usleep(10000);
    post(s, "models", made, "activate", 202);
    test_model_wait(s, made);
    check_gallery(s);
    while (atomic_load(&l.seen[1]) < 5 && !atomic_load(&l.n_bad))
        usleep(10000);
    atomic_store(&l.stop, true);
    for (int i = 0; i < N_LOADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&l.n_bad), 0);
    for (int i = 0; i < N_ENROLLED; i++)
        free(l.png[i]);
}

/* Stops a job's process as soon as it is there, so that it has not ended yet
 * however fast the machine is; SIGCONT lets it go on. */
static pid_t hold_job(const struct test_server *s, const char *job)
{
    const int64_t until = ut_clock_us() + PATIENCE * 250000LL;
    char data[80];
    pid_t pid;

    snprintf(data, sizeof(data), "%s/data", s->dir);
    while (!(pid = srv_job_holder(data, job))) {
        if (ut_clock_us() > until)
            fail_msg("%s never began", job);
        usleep(1000);
    }
    assert_int_equal(kill(pid, SIGSTOP), 0);
    return pid;
}

/* ---- the gate ---- */

/* A job from an older version, and another comes into use while it runs: its
 * candidate is compared with that, whose figures on the same pictures are auc,
 * and does not pass. Its version into made. */
static void compared_with_what_answers(struct test_server *s, const char *base,
                                       const char *better, double auc,
                                       const char *fatigue,
                                       const char *recognition, char made[64])
{
    struct test_answer a = {0};
    char job[64], text[64], *log;
    pid_t pid;

    start_job_from(s, base, fatigue, recognition, 2, job);
    pid = hold_job(s, job);
    post(s, "models", better, "activate", 202);
    test_model_wait(s, better);
    kill(pid, SIGCONT);
    wait_state(s, job, "succeeded", &a);
    log = test_server_log(s);
    assert_non_null(strstr(log, "another model answers since"));
    free(log);
    assert_true(fabs(number(a.body, "active_auc") - auc) < 1e-6);
    assert_true(number(a.body, "auc") < auc - 0.005);
    test_member(&a, "model_version", made, 64);
    snprintf(text, sizeof(text), "/v1/models/%s", made);
    assert_int_equal(test_get(s, text, &a), 200);
    snprintf(text, sizeof(text), "\"compared_with\":\"%s\"", better);
    assert_non_null(strstr(a.body, text));
    assert_non_null(strstr(a.body, "\"passed\":false"));
    snprintf(text, sizeof(text), "of model %s, then in use", better);
    assert_non_null(strstr(a.body, text));
    test_answer_fini(&a);
}

static void force(const struct test_server *s, const char *version)
{
    post(s, "models", version, "activate", 202);
    test_model_wait(s, version);
}

/* Whether /v1/models/VERSION says so. */
static bool model_says(const struct test_server *s, const char *version,
                       const char *what)
{
    struct test_answer a = {0};
    char path[64];
    bool says;

    snprintf(path, sizeof(path), "/v1/models/%s", version);
    assert_int_equal(test_get(s, path, &a), 200);
    says = strstr(a.body, what);
    test_answer_fini(&a);
    return says;
}

/* A good model was compared with the base; now a worse one answers. Compared
 * with that, it needs no force. */
static void compared_anew(struct test_server *s, const char *base,
                          const char *made, const char *worse, const char *job)
{
    struct test_answer a = {0};
    char path[80], text[64], created[64];

    post(s, "jobs", job, "compare", 400); /* with itself */
    force(s, base);
    force(s, worse);
    snprintf(path, sizeof(path), "/v1/models/%s", made);
    assert_int_equal(test_get(s, path, &a), 200);
    test_member(&a, "created_at", created, sizeof(created));
    snprintf(path, sizeof(path), "/v1/models/%s/activate", made);
    assert_int_equal(test_json(s, "POST", path, "{}", &a), 400);
    assert_non_null(strstr(a.body, "was compared with"));
    post(s, "jobs", job, "compare", 202);
    wait_state(s, job, "succeeded", &a);
    assert_true(number(a.body, "auc") > number(a.body, "active_auc"));
    snprintf(text, sizeof(text), "\"compared_with\":\"%s\"", worse);
    assert_true(model_says(s, made, text));
    assert_true(model_says(s, made, "\"passed\":true"));
    assert_true(model_says(s, made, "\"state\":\"candidate\""));
    assert_true(model_says(s, made, created));
    assert_int_equal(test_json(s, "POST", path, "{}", &a), 202);
    test_model_wait(s, made);
    force(s, base); /* neither answers, nor is the last */
    test_answer_fini(&a);
}

/* What it held out is gone: it says so, and has made its model all the same. */
static void not_compared_anew(struct test_server *s, const char *job,
                              const char *dataset)
{
    const char *const words[] = {"the comparison failed: ", NULL};
    struct test_answer a = {0};
    char path[128];

    snprintf(path, sizeof(path), "/v1/datasets/%s", dataset);
    assert_int_equal(test_json(s, "DELETE", path, NULL, &a), 204);
    post(s, "jobs", job, "compare", 202);
    snprintf(path, sizeof(path), "/v1/jobs/%s", job);
    until(s, path, words, &a);
    assert_non_null(strstr(a.body, "\"state\":\"succeeded\""));
    snprintf(path, sizeof(path), "%s/data/jobs/%s/model.safetensors", s->dir,
             job);
    assert_int_not_equal(access(path, F_OK), 0);
    test_answer_fini(&a);
}

/* Losses of all its updates, both queues'; the answer's body, to be freed. */
static char *losses_of(const struct test_server *s, const char *job, int steps)
{
    struct test_answer a = {0};
    const char *at;
    char path[128];
    int n = 0;

    snprintf(path, sizeof(path), "/v1/jobs/%s/losses", job);
    assert_int_equal(test_get(s, path, &a), 200);
    for (at = a.body; (at = strstr(at, "\"step\":")); at++, n++) {
        if (atoi(at + 7) != n + 1)
            fail_msg("update %d is not told in %s", n + 1, a.body);
        if (!(number(at, "fatigue_loss") > 0) ||
            (n && !(number(at, "recognition_loss") > 0)))
            fail_msg("a loss of update %d is none: %.100s", n + 1, at);
    }
    assert_int_equal(n, steps);
    at = strdup(a.body);
    test_answer_fini(&a);
    return (char *)(uintptr_t)at;
}

/* ---- tests ---- */

static void job__two_datasets__a_better_model_in_use(void **state)
{
    struct test_server s;
    struct test_answer a = {0}, *events;
    char fatigue[64], recognition[64], job[64], base[64], made[64], path[128];
    char file[128], now[64], worse[64];
    char *losses, *again;
    double auc;
    const char *of[2] = {(const char *)&s, path};
    pthread_t thread;
    pid_t pid;

    (void)state;
    test_server_start(&s, flags);
    draw_data(s.dir);
    snprintf(file, sizeof(file), "%s/f.tar", s.dir);
    upload(&s, "fatigue", "application/x-tar", file, fatigue);
    snprintf(file, sizeof(file), "%s/r.tgz", s.dir);
    upload(&s, "recognition", "application/gzip", file, recognition);
    enroll(&s);
    test_model_active(&s, base);

    /* Paused and resumed, it comes to its end. */
    start_job(&s, fatigue, recognition, 120, job);
    snprintf(path, sizeof(path), "/v1/jobs/%s/events", job);
    pid = hold_job(&s, job);
    wait_state(&s, job, "running", &a);
    post(&s, "jobs", job, "pause", 200);
    kill(pid, SIGCONT);
    post(&s, "jobs", job, "resume", 200);
    assert_int_equal(pthread_create(&thread, NULL, watch, of), 0);
    wait_state(&s, job, "succeeded", &a);
    pthread_join(thread, (void **)&events);
    assert_int_equal(events->status, 200);
    assert_non_null(strstr(events->type, "text/event-stream"));
    assert_non_null(strstr(events->body, "\"step\":"));
    assert_non_null(strstr(events->body, "event: end"));
    test_answer_fini(events);
    free(events);
    losses = losses_of(&s, job, 120);

    test_member(&a, "model_version", made, sizeof(made));
    {
        const char *f = strstr(a.body, "\"task\":\"fatigue\"");
        const char *r = strstr(a.body, "\"task\":\"recognition\"");

        assert_non_null(f);
        assert_non_null(r);
        auc = number(f, "auc");
        assert_true(auc > number(f, "base_auc"));
        assert_true(number(f, "active_auc") == number(f, "base_auc"));
        assert_true(number(r, "auc") > number(r, "base_auc") - 0.05);
    }

    change_over_under_load(&s, base, made);
    test_model_rollback(&s);
    test_model_active(&s, now);
    assert_string_equal(now, base);
    check_gallery(&s);

    /* kill -9 in the middle of a change over: the old or the new, whole. */
    for (int i = 0; i < KILLS; i++) {
        post(&s, "models", made, "activate", 202);
        usleep((useconds_t)i * 40000);
        test_server_signal(&s, SIGKILL);
        test_server_wait(&s);
        test_server_restart(&s, flags);
        test_model_active(&s, now);
        assert_true(!strcmp(now, base) || !strcmp(now, made));
        check_gallery(&s);
        if (!strcmp(now, made))
            test_model_rollback(&s);
    }

    /* How it was trained is known to another server too. */
    again = losses_of(&s, job, 120);
    assert_string_equal(losses, again);
    free(losses);
    free(again);

    /* A candidate that nobody wants goes. */
    compared_with_what_answers(&s, base, made, auc, fatigue, recognition,
                               worse);
    compared_anew(&s, base, made, worse, job);
    snprintf(path, sizeof(path), "/v1/models/%s", worse);
    assert_int_equal(test_json(&s, "DELETE", path, NULL, &a), 204);
    assert_int_equal(test_get(&s, path, &a), 404);
    not_compared_anew(&s, job, fatigue);
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

/* A deleted job leaves neither its folder nor the manifest frozen for it. */
static void check_nothing_left(const struct test_server *s, const char *dataset,
                               const char *job)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/data/jobs/%s", s->dir, job);
    assert_int_not_equal(access(path, F_OK), 0);
    snprintf(path, sizeof(path), "%s/data/datasets/%s/%s.tsv", s->dir, dataset,
             job);
    assert_int_not_equal(access(path, F_OK), 0);
    snprintf(path, sizeof(path), "%s/data/datasets/%s/manifest.tsv", s->dir,
             dataset);
    assert_int_equal(access(path, F_OK), 0);
}

/* Who did what with a job is in the audit log. */
static void check_audited(const struct test_server *s, const char *job)
{
    static const char *const actions[] = {
        "job.create", "job.pause", "job.resume", "job.cancel", "job.delete"};
    struct test_answer a = {0};
    char want[160];

    assert_int_equal(test_get(s, "/v1/audit", &a), 200);
    for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
        snprintf(want, sizeof(want), "\"action\":\"%s\",\"subject\":\"%s\"",
                 actions[i], job);
        if (!strstr(a.body, want))
            fail_msg("no %s in %s", want, a.body);
    }
    test_answer_fini(&a);
}

/* What a job may not have it says by name; serving goes on. */
static void job__more_memory_than_its_limit__limit_named(void **state)
{
    const char *const little[] = {"--job-nice", "0", "--job-memory", "64MiB",
                                  NULL};
    struct test_server s;
    struct test_answer a = {0};
    char fatigue[64], job[64], file[128];

    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    /* A sanitizer's own memory counts as data too. */
    print_message("SKIPPED job__more_memory_than_its_limit__limit_named: under "
                  "a sanitizer\n");
    skip();
#endif
    test_server_start(&s, little);
    draw_data(s.dir);
    snprintf(file, sizeof(file), "%s/f.tar", s.dir);
    upload(&s, "fatigue", "application/x-tar", file, fatigue);
    start_job(&s, fatigue, "", 100000, job);
    wait_state(&s, job, "failed", &a);
    if (!strstr(a.body, "67108864 bytes (--job-memory)"))
        fail_msg("%s", a.body);
    assert_int_equal(test_get(&s, "/v1/models", &a), 200);
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

static void
server_killed__while_a_job_runs__found_again_and_cancelled(void **state)
{
    struct test_server s;
    struct test_answer a = {0};
    char fatigue[64], job[64], file[128], path[128];
    const char *const ended[] = {"\"jobs\":[]", NULL};

    (void)state;
    test_server_start(&s, flags);
    draw_data(s.dir);
    snprintf(file, sizeof(file), "%s/f.tar", s.dir);
    upload(&s, "fatigue", "application/x-tar", file, fatigue);
    start_job(&s, fatigue, "", 1000000, job);
    wait_state(&s, job, "running", &a);
    test_server_signal(&s, SIGKILL);
    test_server_wait(&s);
    test_server_restart(&s, flags);
    wait_state(&s, job, "running", &a);
    {
        const char *const steps[] = {"\"step\":", NULL};

        snprintf(path, sizeof(path), "/v1/jobs/%s", job);
        until(&s, path, steps, &a); /* it is heard of again */
    }
    /* A dataset that it was started with stays. */
    snprintf(path, sizeof(path), "/v1/datasets/%s", fatigue);
    assert_int_equal(test_json(&s, "DELETE", path, NULL, &a), 400);
    post(&s, "jobs", job, "compare", 400);
    post(&s, "jobs", job, "pause", 200);
    post(&s, "jobs", job, "pause", 400);
    post(&s, "jobs", job, "resume", 200);
    post(&s, "jobs", job, "cancel", 200);
    post(&s, "jobs", job, "resume", 400);
    wait_state(&s, job, "cancelled", &a);
    snprintf(path, sizeof(path), "/v1/jobs/%s", job);
    for (int tries = 0; test_json(&s, "DELETE", path, NULL, &a) != 204;
         tries++) {
        if (tries == PATIENCE)
            fail_msg("%s", a.body); /* its process never ended */
        usleep(250000);
    }
    until(&s, "/v1/jobs", ended, &a);
    check_nothing_left(&s, fatigue, job);
    check_audited(&s, job);
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

/* A look at a dataset of one alert and two drowsy pictures. */
static void check_samples(const struct test_server *s, const char *id)
{
    static const struct {
        const char *query;
        long status;
        int n; /* pictures */
    } cases[] = {{"", 200, 3},
                 {"?limit=1", 200, 1},
                 {"?limit=2", 200, 2},
                 {"?limit=48", 200, 3},
                 {"?limit=49", 400, 0}};
    struct test_answer a = {0};
    char path[160];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int n = 0;

        snprintf(path, sizeof(path), "/v1/datasets/%s/samples%s", id,
                 cases[i].query);
        assert_int_equal(test_get(s, path, &a), cases[i].status);
        for (const char *at = a.body; (at = strstr(at, "\"picture\":\"iVBOR"));
             at++)
            n++;
        if (n != cases[i].n)
            fail_msg("%s: %d pictures, not %d", path, n, cases[i].n);
        if (n == 3) {
            assert_non_null(
                strstr(a.body, "{\"label\":\"alert\",\"group\":\"g0"));
            assert_non_null(
                strstr(a.body, "{\"label\":\"drowsy\",\"group\":\"g2"));
        }
    }
    assert_int_equal(test_get(s, "/v1/datasets/ds_none/samples", &a), 404);
    test_answer_fini(&a);
}

/* Waits until the server's log has the words. */
static void wait_log(const struct test_server *s, const char *words)
{
    for (int tries = 0;; tries++) {
        char *log = test_server_log(s);
        bool there = strstr(log, words) != NULL;

        if (!there && tries == PATIENCE)
            fail_msg("never \"%s\" in %s", words, log);
        free(log);
        if (there)
            return;
        usleep(250000);
    }
}

/* A process of a server that was killed may take its job's lock only after the
 * next server has started another: here this test holds it. */
static void job__another_process_is_at_it__watched_to_its_end(void **state)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct test_server s;
    struct test_answer a = {0};
    char fatigue[64], first[64], job[64], path[256], words[80];
    int fd;

    (void)state;
    test_server_start(&s, flags);
    draw_data(s.dir);
    snprintf(path, sizeof(path), "%s/f.tar", s.dir);
    upload(&s, "fatigue", "application/x-tar", path, fatigue);
    start_job(&s, fatigue, "", 1000000, first);
    start_job(&s, fatigue, "", 1, job); /* waits for the first */
    snprintf(path, sizeof(path), "%s/data/jobs/%s/lock", s.dir, job);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(fcntl(fd, F_SETLK, &l), 0);
    post(&s, "jobs", first, "cancel", 200);
    snprintf(words, sizeof(words), "%s: its process %d was found again", job,
             (int)getpid());
    wait_log(&s, words);
    wait_state(&s, job, "running", &a);
    close(fd); /* it has ended, without a result: the job goes on */
    wait_state(&s, job, "succeeded", &a);
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

/* A series of one job in /metrics, or -1 where there is none. */
static double series(const struct test_server *s, const char *name,
                     const char *job)
{
    struct test_answer a = {0};
    char want[160];
    const char *at;
    double v = -1;

    snprintf(want, sizeof(want), "\ntscaf_job_%s{job=\"%s\"} ", name, job);
    assert_int_equal(test_get(s, "/metrics", &a), 200);
    at = strstr(a.body, want);
    if (at)
        v = atof(at + strlen(want));
    test_answer_fini(&a);
    return v;
}

/* How many jobs /metrics has in a state. */
static int jobs_in(const struct test_server *s, const char *state)
{
    struct test_answer a = {0};
    char want[80];
    const char *at;
    int n;

    snprintf(want, sizeof(want), "\ntscaf_jobs{state=\"%s\"} ", state);
    assert_int_equal(test_get(s, "/metrics", &a), 200);
    at = strstr(a.body, want);
    if (!at)
        fail_msg("no%s in %s", want, a.body);
    n = atoi(at + strlen(want));
    test_answer_fini(&a);
    return n;
}

/* Registers DIR/name below the root; its id. */
static void register_folder(const struct test_server *s, const char *kind,
                            const char *name, char id[64])
{
    struct test_answer a = {0};
    char text[256];

    snprintf(text, sizeof(text),
             "{\"name\":\"x\",\"kind\":\"%s\",\"path\":\"%s\"}", kind, name);
    if (test_json(s, "POST", "/v1/datasets", text, &a) != 201)
        fail_msg("%s", a.body);
    test_member(&a, "id", id, 64);
    test_answer_fini(&a);
}

static void run_in(const char *dir, const char *command)
{
    char line[512];

    snprintf(line, sizeof(line), "cd %s && %s", dir, command);
    run(line);
}

/* Data that the operator keeps are trained on where they lie, and stay as they
 * are; /metrics has the job's series while it runs and no longer. */
static void job__registered_folders__trained_on_where_they_lie(void **state)
{
    static const char *const names[] = {"step", "steps", "images_per_second",
                                        "fatigue_loss", "recognition_loss"};
    char dir[] = "/tmp/tscaf-registered-XXXXXX", fatigue[64], recognition[64];
    const char *const rooted[] = {"--job-nice", "0", "--dataset-root", dir,
                                  NULL};
    char job[64], path[160];
    struct test_server s;
    struct test_answer a = {0};

    (void)state;
    assert_non_null(mkdtemp(dir));
    draw_data(dir);
    run_in(dir, "find f r | sort > before");
    test_server_start(&s, rooted);
    register_folder(&s, "fatigue", "f", fatigue);
    register_folder(&s, "recognition", "r", recognition);
    snprintf(path, sizeof(path), "/v1/datasets/%s", recognition);
    assert_int_equal(test_get(&s, path, &a), 200);
    assert_true(number(a.body, "pictures") == PEOPLE * 4);
    assert_true(number(a.body, "classes") == PEOPLE);

    start_job(&s, fatigue, recognition, 1000000, job);
    wait_state(&s, job, "running", &a);
    for (int tries = 0; series(&s, "step", job) < 2; tries++) {
        if (tries == PATIENCE)
            fail_msg("no series of a job that runs");
        usleep(250000);
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (!(series(&s, names[i], job) > 0))
            fail_msg("tscaf_job_%s is %g", names[i], series(&s, names[i], job));
    assert_true(series(&s, "steps", job) == 1000000);
    assert_int_equal(jobs_in(&s, "running"), 1);
    post(&s, "jobs", job, "cancel", 200);
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        assert_true(series(&s, names[i], job) < 0);
    assert_int_equal(jobs_in(&s, "running"), 0);
    assert_int_equal(jobs_in(&s, "cancelled"), 1);

    start_job(&s, fatigue, recognition, 4, job);
    wait_state(&s, job, "succeeded", &a);
    assert_true(number(a.body, "auc") > 0);
    assert_true(series(&s, "step", job) < 0);
    assert_int_equal(jobs_in(&s, "succeeded"), 1);
    snprintf(path, sizeof(path), "/v1/datasets/%s", fatigue);
    assert_int_equal(test_json(&s, "DELETE", path, NULL, &a), 204);
    run_in(dir, "find f r | sort | cmp - before");
    assert_int_equal(test_server_stop(&s), 0);
    snprintf(path, sizeof(path), "rm -r %s", dir);
    run(path);
    test_answer_fini(&a);
}

/* A candidate of that version in the repository, of which no job here knows. */
static void keep_model(const struct test_server *s, const char *version)
{
    Tscaf__V1__ModelInfo info = TSCAF__V1__MODEL_INFO__INIT;
    Tscaf__V1__ModelRef ref = TSCAF__V1__MODEL_REF__INIT;
    const struct srv_record put = {SRV_TABLE_MODEL, version, &info.base};
    struct srv_store *store;
    char data[80], path[PATH_MAX];
    struct ut_error e;

    snprintf(data, sizeof(data), "%s/data", s->dir);
    srv_model_path(data, version, path);
    assert_int_equal(ut_file_write(path, "weights", 7, &e), UT_OK);
    ref.version = (char *)(uintptr_t)version;
    info.model = &ref;
    info.state = TSCAF__V1__MODEL_STATE__MODEL_STATE_CANDIDATE;
    if (srv_store_open(data, NULL, &store, &e) ||
        srv_store_put(store, NULL, NULL, NULL, &put, 1, &e))
        fail_msg("%s", e.msg);
    srv_store_close(store);
}

/* What a job starts from it opens at its end, too. */
static void model__base_of_a_job_that_waits__stays(void **state)
{
    const char *const none[] = {"--max-jobs", "0", NULL};
    const char version[] = "0123456789abcdef";
    struct test_server s;
    struct test_answer a = {0};
    char fatigue[64], job[64], path[128], model[64];

    (void)state;
    test_server_start(&s, none);
    draw_data(s.dir);
    snprintf(path, sizeof(path), "%s/f.tar", s.dir);
    upload(&s, "fatigue", "application/x-tar", path, fatigue);
    keep_model(&s, version);
    start_job_from(&s, version, fatigue, "", 10, job);
    snprintf(model, sizeof(model), "/v1/models/%s", version);
    assert_int_equal(test_json(&s, "DELETE", model, NULL, &a), 400);
    if (!strstr(a.body, job) || !strstr(a.body, "queued"))
        fail_msg("%s", a.body);
    assert_int_equal(test_get(&s, model, &a), 200);
    post(&s, "jobs", job, "cancel", 200);
    snprintf(path, sizeof(path), "/v1/jobs/%s", job);
    assert_int_equal(test_json(&s, "DELETE", path, NULL, &a), 204);
    assert_int_equal(test_json(&s, "DELETE", model, NULL, &a), 204);
    assert_int_equal(test_get(&s, model, &a), 404);
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

static void dataset__samples_one_by_one__counted_listed_deleted(void **state)
{
    struct test_server s;
    struct test_answer a = {0};
    char id[64], path[160], version[64];
    size_t len;
    char *png = test_face(1, 0, &len);

    (void)state;
    test_server_start(&s, flags);
    assert_int_equal(test_json(&s, "POST", "/v1/datasets",
                               "{\"name\":\"x\",\"kind\":\"fatigue\"}", &a),
                     201);
    test_member(&a, "id", id, sizeof(id));
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path),
                 "/v1/datasets/%s/samples?input=crop&label=%s&group=g%d", id,
                 i ? "drowsy" : "0", i);
        assert_int_equal(test_png(&s, path, png, len, &a), 201);
    }
    snprintf(path, sizeof(path),
             "/v1/datasets/%s/samples?input=crop&label=asleep", id);
    assert_int_equal(test_png(&s, path, png, len, &a), 400);
    check_samples(&s, id);
    snprintf(path, sizeof(path), "/v1/datasets/%s", id);
    assert_int_equal(test_get(&s, path, &a), 200);
    assert_true(number(a.body, "pictures") == 3);
    assert_true(number(a.body, "classes") == 2);
    assert_true(number(a.body, "groups") == 3);
    assert_int_equal(test_get(&s, "/v1/datasets", &a), 200);
    assert_non_null(strstr(a.body, id));
    assert_int_equal(test_json(&s, "DELETE", path, NULL, &a), 204);
    assert_int_equal(test_get(&s, path, &a), 404);
    free(png);

    test_model_active(&s, version);
    snprintf(path, sizeof(path), "/v1/models/%s", version);
    assert_int_equal(test_get(&s, path, &a), 200);
    assert_int_equal(test_json(&s, "DELETE", path, NULL, &a), 400);
    snprintf(path, sizeof(path), "/v1/models/%s/reenrolment", version);
    assert_int_equal(test_get(&s, path, &a), 200);
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

static void job__what_cannot_be__refused_by_name(void **state)
{
    static const struct {
        const char *body, *word;
        long status;
    } cases[] = {
        {"{}", "dataset", 400},
        {"{\"fatigue_dataset\":\"ds_none\"}", "ds_none", 404},
        {"{\"fatigue_dataset\":\"x\",\"settings\":{\"batch\":1}}",
         "settings.batch", 400},
        {"{\"fatigue_dataset\":\"x\",\"settings\":{\"batch\":1025}}", "1024",
         400},
        {"{\"fatigue_dataset\":\"x\",\"base_version\":\"none\"}", "none", 404},
    };
    struct test_server s;
    struct test_answer a = {0};

    (void)state;
    test_server_start(&s, flags);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (test_json(&s, "POST", "/v1/jobs", cases[i].body, &a) !=
                cases[i].status ||
            !strstr(a.body, cases[i].word))
            fail_msg("%s: %ld %s", cases[i].body, a.status, a.body);
    }
    assert_int_equal(test_get(&s, "/v1/jobs/job_none/events", &a), 404);
    assert_int_equal(test_get(&s, "/v1/jobs/job_none/losses", &a), 404);
    assert_int_equal(
        test_json(&s, "POST", "/v1/datasets",
                  "{\"name\":\"x\",\"kind\":\"fatigue\",\"path\":\"/etc\"}",
                  &a),
        400);
    assert_non_null(strstr(a.body, "--dataset-root"));
    assert_int_equal(test_server_stop(&s), 0);
    test_answer_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dataset__samples_one_by_one__counted_listed_deleted),
        cmocka_unit_test(job__what_cannot_be__refused_by_name),
        cmocka_unit_test(model__base_of_a_job_that_waits__stays),
        cmocka_unit_test(job__more_memory_than_its_limit__limit_named),
        cmocka_unit_test(
            server_killed__while_a_job_runs__found_again_and_cancelled),
        cmocka_unit_test(job__registered_folders__trained_on_where_they_lie),
        cmocka_unit_test(job__another_process_is_at_it__watched_to_its_end),
        cmocka_unit_test(job__two_datasets__a_better_model_in_use),
    };

    cmocka_set_test_filter(getenv("TEST_FILTER")); /* NULL: all */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
