/* Which model answers. */
#include "tests/support/models.h"

#include <string.h>
#include <unistd.h>

#include "tests/support/unit.h"

#define PATIENCE 6000 /* twentieths of a second: machines are busy */

void test_model_active(const struct test_server *s, char version[64])
{
    struct test_answer a = {0};

    assert_int_equal(test_get(s, "/v1/models", &a), 200);
    test_member(&a, "version", version, 64); /* the active one is first */
    test_answer_fini(&a);
}

void test_model_wait(const struct test_server *s, const char *version)
{
    char now[64] = "";

    for (int tries = 0; strcmp(now, version); tries++) {
        if (tries == PATIENCE)
            fail_msg("%s never answers, but %s", version, now);
        test_model_active(s, now);
        usleep(50000);
    }
}

void test_model_rollback(const struct test_server *s)
{
    struct test_answer a = {0};

    test_send(s,
              &(struct test_request){
                  .method = "POST",
                  .path = "/v1/models/rollback",
                  .headers = (const char *const[]){"Connect-Timeout-Ms: 100000",
                                                   NULL}},
              &a);
    if (a.status != 200)
        fail_msg("%s", a.body);
    test_answer_fini(&a);
}
