/* multipart/form-data: its parts, its limits, and bodies that are none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/multipart.h"
#include "tests/support/unit.h"

#define TYPE "multipart/form-data; boundary=b"

static struct api_part parts[API_MULTIPART_MAX_PARTS];

static void is(const char *view, size_t len, const char *want)
{
    if (!want) {
        assert_null(view);
        return;
    }
    assert_int_equal(len, strlen(want));
    assert_memory_equal(view, want, len);
}

static int parse(const char *type, const char *body, size_t len)
{
    /* A copy without a NUL behind it: ASan sees one byte too many. */
    char *copy = malloc(len ? len : 1);
    struct api_error err;
    int n;

    memcpy(copy, body, len);
    if (api_multipart_parse(type, copy, len, parts, &n, &err)) {
        assert_string_equal(err.reason, "BAD_MULTIPART");
        n = -1;
    }
    free(copy);
    return n;
}

static void parse__browser_body__names_files_types_data(void **state)
{
    static const char body[] =
        "--b\r\nContent-Disposition: form-data; name=\"images\"; "
        "filename=\"a;name=x.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n"
        "\xff\xd8\r\n--c\r\n\r\n--b\r\n"
        "content-disposition: form-data; filename=\"x;name=y\"; name=top_k\r\n"
        "X-Other: 1\r\n\r\n5\r\n--b\r\n"
        "Content-Disposition: form-data;\tname=\"empty\"\r\n\r\n\r\n--b--\r\n";
    struct api_error err;
    int n;

    (void)state;
    assert_int_equal(api_multipart_parse("multipart/form-data; charset=x; "
                                         "boundary=\"b\"",
                                         body, sizeof(body) - 1, parts, &n,
                                         &err),
                     UT_OK);
    assert_int_equal(n, 3);
    is(parts[0].name, parts[0].name_len, "images");
    is(parts[0].filename, parts[0].filename_len, "a;name=x.jpg");
    is(parts[0].type, parts[0].type_len, "image/jpeg");
    is(parts[0].data, parts[0].data_len, "\xff\xd8\r\n--c\r\n");
    is(parts[1].name, parts[1].name_len, "top_k");
    is(parts[1].filename, parts[1].filename_len, "x;name=y");
    is(parts[1].type, parts[1].type_len, NULL);
    is(parts[1].data, parts[1].data_len, "5");
    is(parts[2].name, parts[2].name_len, "empty");
    is(parts[2].data, parts[2].data_len, "");
}

static void parse__preamble_and_no_parts__allowed(void **state)
{
    static const char preamble[] =
        "hello\r\n--b\r\nContent-Disposition: x; name=a\r\n\r\n1\r\n--b--";

    (void)state;
    assert_int_equal(parse(TYPE, preamble, sizeof(preamble) - 1), 1);
    assert_int_equal(parse(TYPE, "--b--", 5), 0);
}

static void parse__cut_anywhere__refused(void **state)
{
    static const char body[] = "--b\r\nContent-Disposition: form-data; "
                               "name=\"a\"\r\n\r\n1\r\n--b--";

    (void)state;
    assert_int_equal(parse(TYPE, body, sizeof(body) - 1), 1);
    for (size_t len = 0; len < sizeof(body) - 1; len++)
        assert_int_equal(parse(TYPE, body, len), -1);
}

static void parse__each_fault__refused(void **state)
{
    static const char *const bodies[] = {
        "--b\nContent-Disposition: form-data; name=a\n\n1\n--b--",
        "--b\r\n\r\n1\r\n--b--",
        "--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--",
        "--b\r\nContent-Disposition: form-data; name=\"a\r\n\r\n1\r\n--b--",
        "--c\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--c--",
        "--bx\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b--",
    };
    static const char good[] =
        "--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b--";
    char type[128];

    (void)state;
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        if (parse(TYPE, bodies[i], strlen(bodies[i])) != -1)
            fail_msg("body %zu was taken", i);
    assert_int_equal(parse("multipart/form-data", good, strlen(good)), -1);
    assert_int_equal(
        parse("multipart/form-data; boundary=", good, strlen(good)), -1);
    assert_int_equal(
        parse("multipart/form-data; boundary=\"b", good, strlen(good)), -1);
    snprintf(type, sizeof(type), "multipart/form-data; boundary=%071d", 1);
    assert_int_equal(parse(type, good, strlen(good)), -1);
}

static void parse__parts__at_the_limit_and_one_past(void **state)
{
    static char body[16384];
    size_t len = 0;

    (void)state;
    for (int i = 0; i < API_MULTIPART_MAX_PARTS + 1; i++) {
        char whole[16384];
        int n;

        len += (size_t)snprintf(
            body + len, sizeof(body) - len,
            "--b\r\nContent-Disposition: form-data; name=a%d\r\n\r\n%d\r\n", i,
            i);
        n = snprintf(whole, sizeof(whole), "%s--b--\r\n", body);
        if (i >= API_MULTIPART_MAX_PARTS - 1)
            assert_int_equal(parse(TYPE, whole, (size_t)n),
                             i < API_MULTIPART_MAX_PARTS ? i + 1 : -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parse__browser_body__names_files_types_data),
        cmocka_unit_test(parse__preamble_and_no_parts__allowed),
        cmocka_unit_test(parse__cut_anywhere__refused),
        cmocka_unit_test(parse__each_fault__refused),
        cmocka_unit_test(parse__parts__at_the_limit_and_one_past),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
