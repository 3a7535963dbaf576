/* Reading and writing safetensors: every fault has its row. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/safetensors.h"
#include "tests/support/unit.h"

/* A file of the given header and data_len zero bytes; malloc'ed. */
static uint8_t *file_of(const char *header, size_t data_len, size_t *len)
{
    size_t n = strlen(header);
    uint8_t *bytes = calloc(1, 8 + n + data_len);

    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)n >> 8 * i);
    memcpy(bytes + 8, header, n);
    *len = 8 + n + data_len;
    return bytes;
}

#define T(shape, from, to)                                                     \
    "{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to  \
    "]}"

static const struct {
    const char *header;
    size_t data_len;
    const char *says; /* NULL: it opens */
} rows[] = {
    {"{}", 0, NULL},
    {"{\"a\":" T("[2]", 0, 8) "}", 8, NULL},
    {"{\"a\":" T("[]", 0, 4) "}", 4, NULL},
    {"{\"a\":" T("[0,5]", 0, 0) "}", 0, NULL},
    {"{\"__metadata__\":{\"k\":\"v\"},\"a\":" T("[1]", 0, 4) "}", 4, NULL},
    {"[]", 0, "no JSON object"},
    {"{\"a\":1}", 0, "lacks dtype"},
    {"{\"a\":" T("[2]", 0, 8) "}", 7, "over 7 bytes"},
    {"{\"a\":" T("[1]", 4, 8) "}", 7, "outside the file"},
    {"{\"a\":" T("[3]", 0, 8) "}", 8, "\"a\""},
    {"{\"a\":" T("[1]", 0, 8) "}", 8, "where its shape needs 4"},
    {"{\"a\":" T("[-1]", 0, 4) "}", 4, "dimension 0"},
    {"{\"a\":" T("[1.5]", 0, 4) "}", 4, "dimension 0"},
    {"{\"a\":" T("[1,1,1,1,1,1]", 0, 4) "}", 4, "6 dimensions"},
    {"{\"a\":" T("[4294967296,4294967296,4]", 0, 4) "}", 4, "over 4 bytes"},
    {"{\"a\":" T("[1]", 4, 0) "}", 8, "outside the file"},
    {"{\"a\":" T("[1]", -4, 0) "}", 8, "outside the file"},
    {"{\"a\":" T("[1]", 0, 4) ",\"b\":" T("[1]", 2, 6) "}", 6, "overlap"},
    {"{\"a\":" T("[1]", 0, 4) ",\"a\":" T("[1]", 4, 8) "}", 8,
     "no JSON object"},
    {"{\"a\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8,
     "dtype \"F64\""},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4,
     "lacks dtype"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "metadata \"k\""},
    {"{\"__metadata__\":[]}", 0, "__metadata__"},
};

static void open__each_fault__named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct ut_error e = {0};
        struct mdl_st *st;
        size_t len;
        uint8_t *bytes = file_of(rows[i].header, rows[i].data_len, &len);
        enum ut_err rc = mdl_st_open_memory("test", bytes, len, &st, &e);

        if (rows[i].says) {
            assert_int_equal(rc, UT_EFORMAT);
            assert_null(st);
            if (!strstr(e.msg, rows[i].says))
                fail_msg("%s: said \"%s\"", rows[i].header, e.msg);
        } else if (rc) {
            fail_msg("%s: %s", rows[i].header, e.msg);
        }
        mdl_st_close(st);
        free(bytes);
    }
}

static void open__header_length__checked_at_the_limit(void **state)
{
    struct ut_error e;
    struct mdl_st *st;
    uint8_t bytes[16] = {8,   0,   0,   0,   0,   0,   0,   0,
                         '{', '}', ' ', ' ', ' ', ' ', ' ', ' '};

    (void)state;
    assert_int_equal(mdl_st_open_memory("t", bytes, 16, &st, &e), UT_OK);
    mdl_st_close(st);
    assert_int_equal(mdl_st_open_memory("t", bytes, 15, &st, &e), UT_EFORMAT);
    assert_int_equal(mdl_st_open_memory("t", bytes, 7, &st, &e), UT_EFORMAT);
    bytes[0] = 9;
    assert_int_equal(mdl_st_open_memory("t", bytes, 16, &st, &e), UT_EFORMAT);
    memset(bytes, 0xff, 8);
    assert_int_equal(mdl_st_open_memory("t", bytes, 16, &st, &e), UT_EFORMAT);
}

static void write__read_back__equal(void **state)
{
    const char *path = "build/test_safetensors.safetensors";
    float a[6] = {1, 2, 3, 4, 5, 6};
    uint8_t b[3] = {7, 8, 9};
    uint16_t half[2] = {0x3c00, 0xc000}; /* 1, -2 */
    const struct mdl_st_tensor tensors[] = {
        {"x.weight", MDL_F32, mdl_shape_of(2, 2, 3), a, sizeof(a)},
        {"images", MDL_U8, mdl_shape_of(1, 3), b, sizeof(b)},
        {"half", MDL_F16, mdl_shape_of(1, 2), half, sizeof(half)},
    };
    const struct mdl_st_pair meta[] = {{"format", "tscaf/1"},
                                       {"odd", "\"quotes\" \xc3\xa9"}};
    const char *key, *value;
    struct mdl_st *st;
    struct ut_error e;
    float back[2];

    (void)state;
    mkdir("build", 0755);
    if (mdl_st_write(path, tensors, 3, meta, 2, &e) ||
        mdl_st_open(path, &st, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(mdl_st_count(st), 3);
    assert_memory_equal(mdl_st_find(st, "x.weight")->data, a, sizeof(a));
    assert_int_equal(mdl_st_find(st, "x.weight")->shape.dim[1], 3);
    assert_memory_equal(mdl_st_find(st, "images")->data, b, sizeof(b));
    assert_int_equal(mdl_st_floats(mdl_st_find(st, "half"), back, &e), UT_OK);
    assert_true(back[0] == 1 && back[1] == -2);
    assert_int_equal(mdl_st_floats(mdl_st_find(st, "images"), back, &e),
                     UT_EFORMAT);
    assert_string_equal(mdl_st_meta(st, "odd"), meta[1].value);
    assert_null(mdl_st_meta(st, "none"));
    assert_true(mdl_st_meta_at(st, 1, &key, &value));
    assert_false(mdl_st_meta_at(st, 2, &key, &value));
    assert_null(mdl_st_find(st, "none"));
    mdl_st_close(st);
    unlink(path);
}

static void write__bad_input__refused(void **state)
{
    float a[2] = {0};
    struct mdl_st_tensor t[] = {
        {"a", MDL_F32, mdl_shape_of(1, 2), a, sizeof(a)},
        {"a", MDL_F32, mdl_shape_of(1, 2), a, sizeof(a)},
    };
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_st_write("build/x", t, 2, NULL, 0, &e), UT_EINVAL);
    t[0].len = 4;
    assert_int_equal(mdl_st_write("build/x", t, 1, NULL, 0, &e), UT_EINVAL);
    t[0].len = 8;
    assert_int_equal(mdl_st_write("build/x", t, 1,
                                  &(struct mdl_st_pair){"from", "p\xff"}, 1,
                                  &e),
                     UT_EINVAL);
    assert_non_null(strstr(e.msg, "metadata \"from\" is not UTF-8"));
    t[1].name = "b\xff";
    assert_int_equal(mdl_st_write("build/x", t, 2, NULL, 0, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "name is not UTF-8"));
    assert_int_equal(mdl_st_write("/nowhere/x", t, 1, NULL, 0, &e), UT_EIO);
    assert_non_null(strstr(e.msg, "/nowhere/x"));
    /* A full disk: nothing is left behind, the message names the file. */
    assert_int_equal(mdl_st_write("/dev/full/x", t, 1, NULL, 0, &e), UT_EIO);
}

/* What is written can be read: the same limits. */
static void write__limits__at_and_past(void **state)
{
    /* {"__metadata__":{"k":"..."}} after 8 bytes of length: a header ends at a
     * multiple of 64 bytes. */
    size_t len =
        MDL_ST_MAX_HEADER - 8 - strlen("{\"__metadata__\":{\"k\":\"\"}}");
    struct mdl_st_tensor *t = calloc(MDL_ST_MAX_TENSORS + 1, sizeof(*t));
    char *text = malloc(len + 2), path[64];
    struct mdl_st_pair meta = {"k", text};
    struct ut_error e;
    struct mdl_st *st;

    (void)state;
    snprintf(path, sizeof(path), "%s/limits", test_dir());
    memset(text, 'a', len);
    strcpy(text + len, "");
    if (mdl_st_write(path, NULL, 0, &meta, 1, &e) || mdl_st_open(path, &st, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(strlen(mdl_st_meta(st, "k")), len);
    mdl_st_close(st);
    strcpy(text + len, "a");
    assert_int_equal(mdl_st_write(path, NULL, 0, &meta, 1, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "header of 16777272 bytes is over"));
    for (size_t i = 0; i <= MDL_ST_MAX_TENSORS; i++)
        t[i].name = "a";
    assert_int_equal(mdl_st_write(path, t, MDL_ST_MAX_TENSORS + 1, NULL, 0, &e),
                     UT_EINVAL);
    assert_non_null(strstr(e.msg, "65537 tensors are over"));
    free(text);
    free(t);
}

static enum ut_err write_one(void *arg, struct ut_error *e)
{
    float a[2] = {1, 2};
    const struct mdl_st_tensor t = {"a", MDL_F32, mdl_shape_of(1, 2), a,
                                    sizeof(a)};
    const struct mdl_st_pair meta = {"k", "v"};

    enum ut_err rc = mdl_st_write(arg, &t, 1, &meta, 1, e);

    assert_int_equal(access(arg, F_OK), rc ? -1 : 0);
    return rc;
}

static void write__any_allocation_fails__no_file(void **state)
{
    struct mdl_st *st;
    struct ut_error e;
    char path[64];

    (void)state;
    json_set_alloc_funcs(malloc, free);
    snprintf(path, sizeof(path), "%s/memory", test_dir());
    assert_true(each_allocation_fails(write_one, path) > 20);
    assert_int_equal(mdl_st_open(path, &st, &e), UT_OK);
    assert_string_equal(mdl_st_meta(st, "k"), "v");
    mdl_st_close(st);
}

static void open__no_such_file_or_folder__named(void **state)
{
    struct ut_error e;
    struct mdl_st *st;

    (void)state;
    assert_int_equal(mdl_st_open("/nowhere/model", &st, &e), UT_EIO);
    assert_non_null(strstr(e.msg, "/nowhere/model"));
    assert_int_equal(mdl_st_open("/", &st, &e), UT_EIO);
}

static void open__any_allocation_fails__clean_error(void **state)
{
    size_t len;
    uint8_t *bytes = file_of("{\"a\":" T("[1]", 0, 4) "}", 4, &len);

    (void)state;
    for (long nth = 0;; nth++) {
        struct mdl_st *st;
        struct ut_error e;
        enum ut_err rc;
        bool hit;

        fault_arm(nth);
        rc = mdl_st_open_memory("t", bytes, len, &st, &e);
        hit = fault_disarm();
        mdl_st_close(st);
        if (!hit) {
            assert_int_equal(rc, UT_OK);
            break;
        }
        assert_int_equal(rc, UT_ENOMEM);
        assert_null(st);
    }
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open__each_fault__named),
        cmocka_unit_test(open__header_length__checked_at_the_limit),
        cmocka_unit_test(write__read_back__equal),
        cmocka_unit_test(write__bad_input__refused),
        cmocka_unit_test(write__limits__at_and_past),
        cmocka_unit_test(open__no_such_file_or_folder__named),
        cmocka_unit_test(open__any_allocation_fails__clean_error),
        /* Last: from here on jansson's allocations can fail too. */
        cmocka_unit_test(write__any_allocation_fails__no_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
