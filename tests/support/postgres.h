#ifndef TESTS_SUPPORT_POSTGRES_H
#define TESTS_SUPPORT_POSTGRES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* A real PostgreSQL on a free port of this machine, with a folder of its own.
 * Its programs are those of $POSTGRES_BIN, else Debian's. Anything else that
 * fails here fails the test. */

#define TEST_POSTGRES_PASSWORD "geheim7"

struct test_postgres {
    pid_t pid; /* 0: it is stopped */
    int port;
    char dir[64];
    char url[160]; /* with the password */
};

/* Makes one and starts it; false after printing "SKIPPED <name>: ..." where
 * there is no PostgreSQL, which with $REQUIRE_POSTGRES fails the test. */
bool test_postgres_new(struct test_postgres *p, const char *name);
void test_postgres_free(struct test_postgres *p); /* accepts what is stopped */

/* Starts what was stopped, and waits until it answers. */
void test_postgres_start(struct test_postgres *p);
/* Stops it at once, as if it had crashed. */
void test_postgres_stop(struct test_postgres *p);

/* Makes an empty database and writes its URL. */
void test_postgres_database(const struct test_postgres *p, const char *name,
                            char url[160]);
/* Runs SQL in a database, which must succeed; the first 200 bytes of what it
 * prints, without the final end of line, into out (may be NULL). */
void test_postgres_sql(const struct test_postgres *p, const char *database,
                       const char *sql, char out[200]);

#endif
