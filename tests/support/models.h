#ifndef TESTS_SUPPORT_MODELS_H
#define TESTS_SUPPORT_MODELS_H

#include "tests/support/server.h"

/* Versions of a server's model. Anything that fails here fails the test. */

/* The one that answers. */
void test_model_active(const struct test_server *s, char version[64]);
/* Waits until that one answers. */
void test_model_wait(const struct test_server *s, const char *version);
void test_model_rollback(const struct test_server *s);

#endif
