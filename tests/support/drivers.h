#ifndef TESTS_SUPPORT_DRIVERS_H
#define TESTS_SUPPORT_DRIVERS_H

#include "tests/support/server.h"

/* Drivers whose faces are drawn: who is test_face()'s identity. Anything that
 * fails here fails the test, but for what is returned. */

/* An identity without a face; its id. */
void test_identity(const struct test_server *s, const char *name, char id[64]);
/* Adds a face to it, force: also one like another's. Returns the status. */
long test_add_face(const struct test_server *s, const char *id, int who,
                   bool force, struct test_answer *a);
/* An identity with one face, by force; its id. */
void test_enroll(const struct test_server *s, const char *name, int who,
                 char id[64]);
/* Whether the answer to a search for that face has a text. */
bool test_finds(const struct test_server *s, int who, const char *text);

#endif
