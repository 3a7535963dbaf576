/* kill -9 at any moment: what was acknowledged is there after a restart. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/server.h"
#include "tests/support/unit.h"

#define ROUNDS 6
#define MAX_ACKED 2000

static char acked[MAX_ACKED][64]; /* ids of identities */
static char faces[MAX_ACKED][64]; /* their faces, "" if not acknowledged */
static atomic_int n_acked;

/* Kills once some were acknowledged, and then at any moment of the next. */
struct killer {
    const struct test_server *server;
    int after_acked;
    useconds_t after_us;
    atomic_bool over; /* the enrolling ended */
};

static void *kill_later(void *arg)
{
    struct killer *k = arg;

    while (n_acked < k->after_acked && !k->over)
        usleep(1000);
    usleep(k->after_us);
    test_server_signal(k->server, SIGKILL);
    return NULL;
}

/* Enrols until the server is gone. */
static void enrol_until_killed(const struct test_server *s)
{
    struct test_answer a = {0};
    size_t len;

    while (n_acked < MAX_ACKED) {
        char path[160];
        char *png = test_face(n_acked + 1, 0, &len);

        if (test_json(s, "POST", "/v1/identities", "{\"name\":\"Crash\"}",
                      &a) != 201) {
            free(png);
            break;
        }
        test_member(&a, "id", acked[n_acked], sizeof(acked[0]));
        snprintf(path, sizeof(path),
                 "/v1/identities/%s/faces?input=crop&force=true",
                 acked[n_acked]);
        faces[n_acked][0] = '\0';
        if (test_png(s, path, png, len, &a) == 201)
            test_member(&a, "id", faces[n_acked], sizeof(faces[0]));
        free(png);
        n_acked++;
    }
    assert_int_equal(a.status, 0); /* ended by the kill, not by a refusal */
    test_answer_fini(&a);
}

static void check_all(const struct test_server *s)
{
    struct test_answer a = {0};
    int with_face = 0;

    for (int i = 0; i < n_acked; i++) {
        char path[160];

        snprintf(path, sizeof(path), "/v1/identities/%s/faces", acked[i]);
        assert_int_equal(test_get(s, path, &a), 200);
        if (faces[i][0]) {
            with_face++;
            if (!strstr(a.body, faces[i]))
                fail_msg("%s was acknowledged and is gone", faces[i]);
        }
    }
    /* The gallery was filled from the store. */
    if (with_face) {
        size_t len;
        char *png = test_face(1, 0, &len);

        assert_int_equal(
            test_png(s, "/v1/search?input=crop&top_k=1", png, len, &a), 200);
        assert_non_null(strstr(a.body, "\"identity_id\":\"id_"));
        free(png);
    }
    test_answer_fini(&a);
}

static void kill_9__while_enrolling__nothing_acknowledged_is_lost(void **state)
{
    struct test_server s;
    unsigned seed = 7;

    (void)state;
    test_server_start(&s, NULL);
    for (int round = 0; round < ROUNDS; round++) {
        struct killer k = {.server = &s};
        pthread_t thread;

        seed = seed * 1664525u + 1013904223u;
        k.after_acked = n_acked + 1 + (int)(seed >> 28);
        k.after_us = (seed >> 12) % 40000;
        assert_int_equal(pthread_create(&thread, NULL, kill_later, &k), 0);
        enrol_until_killed(&s);
        k.over = true;
        pthread_join(thread, NULL);
        assert_int_equal(test_server_wait(&s), 128 + SIGKILL);
        test_server_restart(&s, NULL);
        check_all(&s);
    }
    assert_true(n_acked >= ROUNDS);
    assert_int_equal(test_server_stop(&s), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kill_9__while_enrolling__nothing_acknowledged_is_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
