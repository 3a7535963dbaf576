/* Enrolling and searching drawn drivers. */
#include "tests/support/drivers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/unit.h"

void test_identity(const struct test_server *s, const char *name, char id[64])
{
    struct test_answer a = {0};
    char json[80];

    snprintf(json, sizeof(json), "{\"name\":\"%s\"}", name);
    if (test_json(s, "POST", "/v1/identities", json, &a) != 201)
        fail_msg("%s", a.body);
    test_member(&a, "id", id, 64);
    test_answer_fini(&a);
}

long test_add_face(const struct test_server *s, const char *id, int who,
                   bool force, struct test_answer *a)
{
    char path[160];
    size_t len;
    char *png = test_face(who, 0, &len);

    snprintf(path, sizeof(path), "/v1/identities/%s/faces?input=crop%s", id,
             force ? "&force=true" : "");
    test_png(s, path, png, len, a);
    free(png);
    return a->status;
}

void test_enroll(const struct test_server *s, const char *name, int who,
                 char id[64])
{
    struct test_answer a = {0};

    test_identity(s, name, id);
    if (test_add_face(s, id, who, true, &a) != 201)
        fail_msg("%s", a.body);
    test_answer_fini(&a);
}

bool test_finds(const struct test_server *s, int who, const char *text)
{
    struct test_answer a = {0};
    size_t len;
    char *png = test_face(who, 0, &len);
    bool is;

    if (test_png(s, "/v1/search?input=crop&top_k=100", png, len, &a) != 200)
        fail_msg("%s", a.body);
    is = strstr(a.body, text) != NULL;
    free(png);
    test_answer_fini(&a);
    return is;
}
