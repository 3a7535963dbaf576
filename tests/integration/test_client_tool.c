/* tscaf against a real server: what it prints, its exit codes, resuming. */
#include "tests/support/unit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/script.h"
#include "tests/support/server.h"

static struct test_server server;
static char dir[] = "/tmp/test_client_XXXXXX";

/* Runs a shell line in the work folder, tscaf and tscaf-model on the PATH;
 * returns its exit code and what it printed. */
static int sh(const char *line, char *text, size_t size)
{
    char all[2048], programs[1024];
    size_t n;
    FILE *p;

    assert_non_null(realpath(test_programs(), programs));
    snprintf(all, sizeof(all),
             "cd %s && export PATH=%s:$PATH TSCAF_URL=http://127.0.0.1:%d; "
             "( %s ) 2>&1",
             dir, programs, server.port, line);
    p = popen(all, "r");
    assert_non_null(p);
    n = fread(text, 1, size - 1, p);
    text[n] = '\0';
    return WEXITSTATUS(pclose(p));
}

/* Whether a line ended with this exit code and said all of what (NULL-ended).
 */
static void judge(int code, const char *line, const char *const *what, int got,
                  const char *text)
{
    if (got != code)
        fail_msg("%s: exit %d, not %d:\n%s", line, got, code, text);
    for (; *what; what++)
        if (!strstr(text, *what))
            fail_msg("%s: no \"%s\" in:\n%s", line, *what, text);
}

#define SAYS(code, line, ...)                                                  \
    says(code, line, (const char *const[]){__VA_ARGS__, NULL})
static void says(int code, const char *line, const char *const *what)
{
    char text[65536];
    int got = sh(line, text, sizeof(text));

    judge(code, line, what, got, text);
}

/* The same against a server of these answers. */
#define SAYS_TO(answers, before, code, line, ...)                              \
    says_to(answers, before, code, line,                                       \
            (const char *const[]){__VA_ARGS__, NULL})
static void says_to(const char *const *answers, void (*before)(int n), int code,
                    const char *line, const char *const *what)
{
    struct script s;
    char all[1024], text[65536];
    int got;

    script_start(&s, answers, before);
    snprintf(all, sizeof(all), "export TSCAF_URL=http://127.0.0.1:%d; %s",
             s.port, line);
    got = sh(all, text, sizeof(text));
    script_end(&s); /* also if the test fails */
    judge(code, line, what, got, text);
}

static int set_up(void **state)
{
    char text[4096];

    (void)state;
    assert_non_null(mkdtemp(dir));
    test_server_start(&server, NULL);
    /* 3 drivers with 2 pictures each, and one file that is no picture. */
    assert_int_equal(sh("for i in 1 2 3; do mkdir -p all/driver_$i; "
                        "for n in 1 2; do tscaf-model sample --identity $i "
                        "--noise $n all/driver_$i/$n.png; done; done; "
                        "tscaf-model sample --light 0 dark.png; "
                        "echo junk > all/driver_1/bad.jpg",
                        text, sizeof(text)),
                     0);
    return 0;
}

static int tear_down(void **state)
{
    char line[64];

    (void)state;
    snprintf(line, sizeof(line), "rm -r %s", dir);
    assert_int_equal(system(line), 0);
    return test_server_stop(&server);
}

static void usage__each_mistake__exit_2(void **state)
{
    (void)state;
    SAYS(2, "tscaf", "usage:");
    SAYS(0, "tscaf --help", "Exit codes");
    SAYS(2, "tscaf fly", "no command \"fly\"");
    SAYS(0, "tscaf analyze --help", "usage: tscaf analyze");
    SAYS(2, "tscaf analyze", "there is no PATH");
    SAYS(2, "tscaf analyze --wing 3 x", "--wing", "analyze --help");
    SAYS(2, "tscaf analyze --parallel 0 x", "--parallel \"0\"");
    SAYS(2, "tscaf analyze --timeout soon x", "--timeout \"soon\"");
    SAYS(2, "tscaf models --url here", "http://HOST:PORT");
    SAYS(2, "tscaf models x", "say list, activate VERSION");
    SAYS(2, "tscaf models activate", "say list, activate VERSION");
    SAYS(2, "tscaf jobs", "say what to do");
    SAYS(2, "tscaf jobs start --set wings=2", "--set wings");
    SAYS(2, "tscaf datasets create x --kind y", "fatigue or recognition");
    SAYS(2, "tscaf identities", "say what to do");
    SAYS(2, "tscaf identities fly", "\"fly\"");
    SAYS(2, "tscaf identities show", "show takes 1 words, not 0");
    SAYS(2, "tscaf identities create x --metadata y", "KEY=VALUE");
    SAYS(2, "tscaf verify dark.png", "two pictures");
    SAYS(2, "tscaf keys create x --role king", "analyze, enroll or admin");
    SAYS(2, "tscaf keys delete key_1 key_2", "\"key_2\" is too much");
    SAYS(2, "tscaf keys create x y --role admin", "\"y\" is too much");
    SAYS(2, "tscaf bench --concurrency 1,,2 dark.png", "--concurrency");
    SAYS(2, "tscaf enroll", "one DIR");
    SAYS(5, "tscaf analyze nowhere.png", "nowhere.png");
    SAYS(5, "tscaf models --key-file nowhere", "nowhere: has no key");
}

static void server__absent__exit_3(void **state)
{
    (void)state;
    SAYS(3, "tscaf models --url http://127.0.0.1:1", "unavailable",
         "127.0.0.1:1");
    SAYS(3, "tscaf analyze --url http://127.0.0.1:1 dark.png", "unavailable");
    SAYS(3, "tscaf enroll --url http://127.0.0.1:1 --journal j all", "7 left",
         "unavailable");
}

static void models__untrained__said(void **state)
{
    (void)state;
    SAYS(0, "tscaf models", "UNTRAINED", "runs on cpu in float32",
         "crops only");
    SAYS(0, "tscaf models --json", "{\"models\":[{", "\"trained\":false");
    SAYS(5, "tscaf models >/dev/full", "standard output: No space left");
}

static void enroll__folder__enrols_reports_resumes(void **state)
{
    (void)state;
    SAYS(1, "tscaf enroll --input crop --force --parallel 3 all",
         "3 identities: 6 pictures enrolled, 0 were already, 1 refused, 0 left",
         "driver_1/bad.jpg: invalid_argument", "neither JPEG nor PNG");
    SAYS(1, "tscaf enroll --input crop --force all",
         "0 pictures enrolled, 6 were already, 1 refused");
    SAYS(0, "tscaf identities list", "2 faces  driver_1  (driver_1)",
         "driver_3");

    /* The journal is believed only where the server still has the face; a
     * line that was cut short is no harm. */
    SAYS(0,
         "id=$(tscaf identities list --query driver_2 --json | "
         "grep -o 'id_[0-9a-f]*' | head -1); "
         "face=$(tscaf identities faces $id | cut -d' ' -f1 | head -1); "
         "tscaf identities crop $id $face crop.png && "
         "tscaf identities delete-face $id $face && rm all/driver_1/bad.jpg && "
         "printf 'face_1\\tid_' >> all/.tscaf-enrolled && "
         "tscaf enroll --input crop --force --json all && "
         "tscaf enroll --input crop --force all",
         "{\"path\":\"driver_2/", "\"face_id\":\"face_",
         "0 pictures enrolled, 6 were already, 0 refused");
    SAYS(0, "tscaf analyze --input crop crop.png", "crop.png: 112x112, 1 face");
    /* Enrolled anew thrice, each picture has four lines: the last counts. */
    SAYS(0,
         "for i in 1 2 3; do for id in $(tscaf identities list | "
         "cut -d' ' -f1); do for face in $(tscaf identities faces $id | "
         "cut -d' ' -f1); do tscaf identities delete-face $id $face; done; "
         "done; tscaf enroll --input crop --force all; done; "
         "tscaf enroll --input crop --force all",
         "6 pictures enrolled, 0 were already, 0 refused",
         "0 pictures enrolled, 6 were already, 0 refused");

    /* Without --force a poor picture and somebody else's face are refused. */
    SAYS(1,
         "mkdir -p more/driver_9 && cp all/driver_1/1.png dark.png "
         "more/driver_9/ && tscaf enroll --input crop more",
         "driver_9/1.png: already_exists", "FACE_EXISTS",
         "driver_9/dark.png: invalid_argument", "LOW_BRIGHTNESS");
    SAYS(2, "mkdir -p none && tscaf enroll none", "no folder with pictures");
    /* Any name is found again that the journal can hold. */
    SAYS(1,
         "mkdir -p 'odd/ lead\ta' && cp dark.png 'odd/ lead\ta/ 1.png' && "
         "cp dark.png 'odd/ lead\ta/2\n.png' && "
         "tscaf enroll --input crop --force odd; "
         "tscaf enroll --input crop --force odd; code=$?; tscaf identities "
         "delete $(tscaf identities list | grep lead | cut -d' ' -f1); "
         "exit $code",
         "1 pictures enrolled, 0 were already, 1 refused", "with a newline",
         "0 pictures enrolled, 1 were already, 1 refused");
}

#define IDENTITY SCRIPT_ANSWER("201", "", "{\"id\":\"id_1\"}")
#define DENIED                                                                 \
    SCRIPT_ANSWER("403", "",                                                   \
                  "{\"code\":\"permission_denied\",\"message\":\"no\"}")
#define FACE SCRIPT_ANSWER("201", "", "{\"id\":\"face_1\"}")

/* Of the program whose id is in the file pid, once it has sent a picture. */
static void interrupt(int n)
{
    char path[64];
    long pid = 0;
    FILE *f;

    if (n != 1)
        return;
    snprintf(path, sizeof(path), "%s/pid", dir);
    f = fopen(path, "r");
    if (f && fscanf(f, "%ld", &pid) == 1)
        kill((pid_t)pid, SIGINT);
    if (f)
        fclose(f);
    usleep(200000); /* it would be gone by the answer */
}

/* The tool has read the answers before by then. */
static void late(int n)
{
    if (n == 2)
        usleep(200000);
}

static void enroll__stopped__what_is_on_its_way_is_in_the_journal(void **state)
{
    static const char *const denied[] = {IDENTITY, DENIED, FACE, NULL};
    static const char *const answers[] = {IDENTITY, FACE, NULL};

    (void)state;
    SAYS_TO(denied, late, 4,
            "mkdir -p two/a && cp all/driver_1/*.png two/a && "
            "tscaf enroll --parallel 2 two; code=$?; cat two/.tscaf-enrolled; "
            "exit $code",
            "1 pictures enrolled, 0 were already, 0 refused, 1 left",
            "permission_denied: no", "face_1\tid_1\ta/");
    SAYS_TO(answers, interrupt, 130,
            "rm two/.tscaf-enrolled; "
            "sh -c 'echo $$ >pid; exec tscaf enroll --parallel 1 two'; "
            "code=$?; cat two/.tscaf-enrolled; exit $code",
            "1 pictures enrolled, 0 were already, 0 refused, 1 left",
            "interrupted", "face_1\tid_1\ta/");
}

static void identities__life__all_verbs(void **state)
{
    (void)state;
    SAYS(0,
         "set -e; id=$(tscaf identities create 'Ann B' --external-id a-1 "
         "--consent-ref form-7 --metadata team=night | head -1 | "
         "cut -d' ' -f1); "
         "tscaf identities update $id --name Anna --metadata team= "
         "--metadata shift=2; tscaf identities show $id; "
         "tscaf identities add-face $id dark.png --input crop --force; "
         "tscaf identities faces $id; "
         "tscaf verify --input crop dark.png --identity $id; "
         "tscaf identities delete $id",
         "Anna  (a-1)", "consent form-7", "shift=2", "LOW_BRIGHTNESS",
         "same person: similarity +1.0000");
    SAYS(4, "tscaf identities show id_000000000000000000000000", "not_found");
    SAYS(4, "tscaf identities create ''", "invalid_argument", "REQUIRED");
    SAYS(0, "tscaf identities list --limit 1", "more: --cursor ");
    SAYS(0, "tscaf audit --limit 2", "identity.delete", "more: --cursor ");
}

static void analyze__many__in_order(void **state)
{
    char text[65536];

    (void)state;
    assert_int_equal(sh("tscaf analyze --input crop --parallel 4 all dark.png "
                        "| grep -v '^  '",
                        text, sizeof(text)),
                     0);
    assert_string_equal(
        text,
        "all/driver_1/1.png: 112x112, 1 face (UNTRAINED model: numbers mean "
        "nothing)\n"
        "all/driver_1/2.png: 112x112, 1 face (UNTRAINED model: numbers mean "
        "nothing)\n"
        "all/driver_2/1.png: 112x112, 1 face (UNTRAINED model: numbers mean "
        "nothing)\n"
        "all/driver_2/2.png: 112x112, 1 face (UNTRAINED model: numbers mean "
        "nothing)\n"
        "all/driver_3/1.png: 112x112, 1 face (UNTRAINED model: numbers mean "
        "nothing)\n"
        "all/driver_3/2.png: 112x112, 1 face (UNTRAINED model: numbers mean "
        "nothing)\n"
        "dark.png: 112x112, 1 face (UNTRAINED model: numbers mean nothing)\n");
    SAYS(0, "tscaf analyze --json --input crop --tasks fatigue dark.png",
         "{\"path\":\"dark.png\",\"answer\":{\"request_id\":",
         "\"probability\":");
    SAYS(1, "tscaf analyze --json --input sky dark.png",
         "{\"path\":\"dark.png\",\"error\":{\"code\":\"invalid_argument\"");
    /* The server has no detector. */
    SAYS(1, "tscaf analyze dark.png", "failed_precondition", "--detector");
}

static void exit_code__each_answer__its_own(void **state)
{
    static const char *const page[] = {SCRIPT_ANSWER("200", "", "<html>"),
                                       NULL};
    static const char *const busy[] = {SCRIPT_ANSWER("503", "", ""),
                                       SCRIPT_ANSWER("418", "", ""), NULL};
    static const char *const full[] = {
        SCRIPT_ANSWER("201", "", "{\"id\":\"id_1\"}"),
        SCRIPT_ANSWER("503", "", ""), NULL};

    (void)state;
    SAYS_TO(page, NULL, 4,
            "tscaf analyze all >out; code=$?; cat out; "
            "[ $(wc -l <out) = 1 ] && exit $code",
            "all/driver_1/1.png: unknown: the answer cannot be read");
    SAYS_TO(page, NULL, 4, "tscaf analyze --json dark.png",
            "{\"path\":\"dark.png\",\"error\":{\"code\":\"unknown\"");
    /* Of the others it says nothing. */
    SAYS_TO(busy, NULL, 3,
            "tscaf analyze --retries 0 dark.png all/driver_1/1.png",
            "dark.png: unavailable", "1.png: unknown");
    SAYS_TO(full, NULL, 3,
            "mkdir -p one/a && cp dark.png one/a && "
            "tscaf enroll --retries 0 one",
            "0 pictures enrolled, 0 were already, 1 refused, 0 left",
            "a/dark.png: unavailable");
}

static void match__pictures__yes_and_no(void **state)
{
    (void)state;
    SAYS(0, "tscaf verify --input crop all/driver_1/1.png all/driver_1/2.png",
         "same person");
    SAYS(1,
         "tscaf verify --input crop --identity-threshold 1 all/driver_1/1.png "
         "all/driver_2/1.png",
         "different: similarity", "threshold 1.0000");
    SAYS(0, "tscaf search --input crop --top-k 3 all/driver_1/1.png",
         "identity match", "driver_1", "driver_2");
    SAYS(1,
         "tscaf search --input crop --identity-threshold 0.9999 dark.png "
         "--json",
         "\"verdict\":\"unknown\"");
}

static void bench__both_loops__count_what_they_send(void **state)
{
    (void)state;
    SAYS(0,
         "tscaf bench --input crop --concurrency 1,4 --duration 0.3 --warm-up "
         "0 dark.png",
         "concurrency", "p99 ms");
    SAYS(0,
         "tscaf bench --json --input crop --rate 20 --duration 0.5 --warm-up 0 "
         "dark.png",
         "{\"rate\":20,\"requests\":10,\"ok\":10,", "\"errors\":{}");
    SAYS(1,
         "tscaf bench --json --concurrency 1 --duration 0.2 --warm-up 0 "
         "dark.png",
         "\"ok\":0,", "\"errors\":{\"failed_precondition\":");
}

/* What the command prints first, up to a space, into word [64]. */
static void first_word(const char *line, char word[64])
{
    char text[65536];

    if (sh(line, text, sizeof(text)) || sscanf(text, "%63s", word) != 1)
        fail_msg("%s:\n%s", line, text);
}

static void training__from_pictures__to_a_model_and_back(void **state)
{
    char data[64], first[64], job[64], line[512];

    (void)state;
    SAYS(0,
         "for i in $(seq 12); do mkdir -p f/alert f/drowsy; "
         "tscaf-model sample --identity $i --mouth 0 f/alert/$i.png; "
         "tscaf-model sample --identity $i --mouth 1 f/drowsy/$i.png; "
         "done; tar -C f -cf f.tar .",
         "");
    first_word("tscaf datasets create yawns --kind fatigue", data);
    snprintf(line, sizeof(line), "tscaf datasets upload %s f.tar", data);
    SAYS(0, line, "24 pictures, 2 classes");
    SAYS(0, "tscaf datasets list", "yawns");
    /* It waits behind another until it is watched, which ends that one. */
    snprintf(line, sizeof(line),
             "tscaf jobs start --name long --fatigue %s --set steps=1000000 "
             "--set batch=4",
             data);
    first_word(line, first);
    snprintf(line, sizeof(line),
             "tscaf jobs start --name short --fatigue %s --set steps=4 "
             "--set batch=4",
             data);
    first_word(line, job);
    snprintf(line, sizeof(line),
             "tscaf jobs watch %s >watched 2>&1 & until grep -q queued "
             "watched; do sleep 0.1; done; tscaf jobs cancel %s; wait $!; "
             "code=$?; cat watched; exit $code",
             job, first);
    SAYS(0, line, "queued", "4/4", "succeeded", "model");
    SAYS(0, "tscaf jobs list", "short", "succeeded");
    SAYS(0, "tscaf models", "candidate");
    SAYS(0,
         "tscaf models activate --force "
         "$(tscaf models | awk '/candidate/ {print $3}') && "
         "for i in $(seq 1200); do tscaf models | grep -q previous && break; "
         "sleep 0.1; done; tscaf models",
         "active", "previous");
    SAYS(0, "tscaf models rollback", "UNTRAINED");
    snprintf(line, sizeof(line),
             "tscaf jobs delete %s && tscaf datasets delete %s", job, data);
    SAYS(0, line, "");
}

static void keys__from_the_first__needed(void **state)
{
    (void)state;
    SAYS(0,
         "tscaf keys create root --role admin 2>/dev/null > key && "
         "tscaf keys list --key-file key && tscaf --help",
         "admin", "root");
    SAYS(4, "tscaf models", "unauthenticated");
    SAYS(4, "tscaf enroll --input crop all", "unauthenticated", "6 left");
    SAYS(4,
         "tscaf analyze --input crop all >out; code=$?; cat out; "
         "[ $(wc -l <out) = 1 ] && exit $code",
         "all/driver_1/1.png: unauthenticated");
    SAYS(0, "TSCAF_KEY=$(cat key) tscaf models", "UNTRAINED");
    SAYS(0,
         "tscaf keys create cam --role analyze --key-file key "
         "2>/dev/null > cam; tscaf analyze --key-file cam --input crop "
         "dark.png",
         "1 face");
    SAYS(4, "tscaf keys list --key-file cam", "permission_denied");
    SAYS(0,
         "id=$(tscaf keys list --key-file key | grep cam | cut -d' ' -f1); "
         "tscaf keys delete $id --key-file key; tscaf keys list --key-file key",
         "root");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usage__each_mistake__exit_2),
        cmocka_unit_test(server__absent__exit_3),
        cmocka_unit_test(models__untrained__said),
        cmocka_unit_test(enroll__folder__enrols_reports_resumes),
        cmocka_unit_test(enroll__stopped__what_is_on_its_way_is_in_the_journal),
        cmocka_unit_test(identities__life__all_verbs),
        cmocka_unit_test(analyze__many__in_order),
        cmocka_unit_test(exit_code__each_answer__its_own),
        cmocka_unit_test(match__pictures__yes_and_no),
        cmocka_unit_test(bench__both_loops__count_what_they_send),
        cmocka_unit_test(training__from_pictures__to_a_model_and_back),
        cmocka_unit_test(keys__from_the_first__needed),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
