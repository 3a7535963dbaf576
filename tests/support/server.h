#ifndef TESTS_SUPPORT_SERVER_H
#define TESTS_SUPPORT_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* A real tscafd as a process of its own, and requests to it by libcurl. The
 * program is $TSCAFD, or the one that was built beside the running test.
 *
 * Every exchange is appended to the file $TSCAF_EXCHANGES, if that is set, as
 * one line of JSON: method, path (with its query), status, content_type, and
 * body: the answer's body as a string, null unless it is text or JSON. The
 * OpenAPI check reads it. Anything that fails here fails the test. */

struct test_server {
    pid_t pid;
    int port;
    char dir[64]; /* its own temporary folder: DIR/data, DIR/log */
    char key[64]; /* sent as Bearer when not empty */
};

/* The folder of the programs under test (build/release). */
const char *test_programs(void);

/* A small untrained model file, made once per process, gone at its end. */
const char *test_model(void);

/* A drawn sample face as PNG, in malloc'ed memory: the same identity with
 * another variant is another picture of the same person. */
char *test_face(int identity, int variant, size_t *len);
/* One that is too dark to enrol. */
char *test_dark_face(size_t *len);

/* Starts tscafd on a free port of this machine with a data folder of its own
 * and test_model(), without a detector, plus flags (NULL-ended, may be NULL;
 * they win), and waits until it is ready. */
void test_server_start(struct test_server *s, const char *const *flags);
/* The same without waiting for more than its port. */
void test_server_launch(struct test_server *s, const char *const *flags);
/* The same as start on the folder of a server that was stopped or killed. */
void test_server_restart(struct test_server *s, const char *const *flags);
/* Runs tscafd with flags (and --data DIR) to its end; returns its exit code
 * and what it printed, stdout and stderr together. */
int test_server_run(struct test_server *s, const char *const *flags, char *out,
                    size_t size);

void test_server_signal(const struct test_server *s, int signum);
/* Waits for its end; the exit code, or 128 + the signal that killed it. */
int test_server_wait(struct test_server *s);
/* SIGTERM, waits, removes the folder. Returns the exit code. */
int test_server_stop(struct test_server *s);
void test_server_remove(struct test_server *s); /* only the folder */
/* What it logged so far, malloc'ed. */
char *test_server_log(const struct test_server *s);

struct test_answer {
    long status; /* 0: no answer came */
    char type[128];
    char *headers; /* owned */
    char *body;    /* owned; NUL-ended */
    size_t len;
};

struct test_request {
    const char *method; /* NULL: GET, or POST with a body */
    const char *path;
    const char *type;           /* Content-Type; NULL: application/json */
    const char *body;           /* NULL: none */
    size_t len;                 /* 0: strlen(body) */
    const char *const *headers; /* NULL-ended lines; may be NULL */
};

/* Sends one request; answer may hold an earlier one, which is freed. Thread:
 * any, on different answers. */
void test_send(const struct test_server *s, const struct test_request *r,
               struct test_answer *a);
/* Short forms; each returns the status. */
long test_get(const struct test_server *s, const char *path,
              struct test_answer *a);
long test_json(const struct test_server *s, const char *method,
               const char *path, const char *json, struct test_answer *a);
long test_png(const struct test_server *s, const char *path, const char *bytes,
              size_t len, struct test_answer *a);
void test_answer_fini(struct test_answer *a); /* zeroed memory is fine */

/* The text of a string member ("id") anywhere in the body, "" if none. */
void test_member(const struct test_answer *a, const char *name, char *out,
                 size_t size);

#endif
