/* RecordIO files as InsightFace packs them, and broken ones. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/data/dataset.h"
#include "model/data/recordio.h"
#include "tests/support/unit.h"

#define SIDE 16
#define MAGIC "\x0a\x23\xd7\xce"

static char path[] = "/tmp/test_recordio_XXXXXX.rec";

static void put(FILE *f, uint32_t v)
{
    const uint8_t b[] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16),
                         (uint8_t)(v >> 24)};

    fwrite(b, 1, 4, f);
}

static void put_float(FILE *f, float x)
{
    uint32_t v;

    memcpy(&v, &x, sizeof(v));
    put(f, v);
}

static void put_part(FILE *f, uint32_t kind, const void *bytes, size_t len)
{
    fwrite(MAGIC, 1, 4, f);
    put(f, kind << 29 | (uint32_t)len);
    fwrite(bytes, 1, len, f);
    fwrite("\0\0\0", 1, (4 - len % 4) % 4, f);
}

/* A whole record: its header with n labels (0: the one in the header). */
static void put_record(FILE *f, float label, int n, const void *picture,
                       size_t len)
{
    char *bytes = NULL;
    size_t size;
    FILE *m = open_memstream(&bytes, &size);

    put(m, (uint32_t)n);
    put_float(m, n ? 0 : label);
    for (int i = 0; i < 4; i++)
        put(m, 7);
    for (int i = 0; i < n; i++)
        put_float(m, i ? 99 : label);
    fwrite(picture, 1, len, m);
    fclose(m);
    put_part(f, 0, bytes, size);
    free(bytes);
}

/* One colour, so that it can be told which picture was read. */
static uint8_t *encode(uint8_t grey, size_t *len)
{
    uint8_t rgb[SIDE * SIDE * 3], *bytes;
    struct ut_error e;

    memset(rgb, grey, sizeof(rgb));
    if (mdl_image_encode_jpeg(rgb, SIDE, SIDE, 90, &bytes, len, &e))
        fail_msg("%s", e.msg);
    return bytes;
}

/* What tells of the set, three pictures, what tells of an identity. */
static void records__as_insightface_packs_them__read(void **state)
{
    FILE *f = fopen(path, "wb");
    struct mdl_dataset d, held;
    struct mdl_image im;
    struct ut_error e;

    (void)state;
    put_record(f, 4, 2, "", 0);
    for (int i = 0; i < 3; i++) {
        size_t len;
        uint8_t *jpeg = encode((uint8_t)(50 + 60 * i), &len);

        put_record(f, (float)(i / 2), i == 1 ? 2 : 0, jpeg, len);
        free(jpeg);
    }
    put_record(f, 1, 2, "", 0);
    fclose(f);
    if (mdl_dataset_open(path, &d, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(d.n, 3);
    assert_int_equal(d.classes, 2);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(d.examples[i].label, i / 2);
        assert_int_equal(d.examples[i].line, i);
        if (mdl_dataset_picture(&d, i, 0, &im, &e))
            fail_msg("%s", e.msg);
        assert_int_equal(im.width, SIDE);
        assert_true(abs(im.rgb[0] - (50 + 60 * i)) < 3);
        mdl_image_fini(&im);
    }
    if (mdl_dataset_split(&d, MDL_SPLIT_LABEL, 0.3, 1, &held, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(d.n + held.n, 3);
    if (mdl_dataset_picture(&held, 0, 0, &im, &e))
        fail_msg("%s", e.msg);
    mdl_image_fini(&im);
    mdl_dataset_fini(&held);
    mdl_dataset_fini(&d);
}

/* Bytes that hold the magic number are written in parts without it. */
static void records__parts__joined(void **state)
{
    char first[24 + 4] = {0};
    struct mdl_records r;
    struct mdl_record one;
    struct ut_error e;
    struct ut_buf b;
    bool end;
    FILE *f = fopen(path, "wb+");

    (void)state;
    memcpy(first + 24, "abcd", 4);
    put_part(f, 1, first, sizeof(first));
    put_part(f, 2, "", 0);
    put_part(f, 3, "xyz", 3);
    put_record(f, 5, 0, "next", 4);
    assert_int_equal(mdl_records_open(f, path, &r, &e), UT_OK);
    assert_int_equal(mdl_records_next(&r, &one, &end, &e), UT_OK);
    assert_false(end);
    ut_buf_init(&b, 100);
    assert_int_equal(mdl_records_picture(&r, one.at, &b, &e), UT_OK);
    assert_int_equal(b.len, 4 + 4 + 4 + 3);
    assert_memory_equal(b.data, "abcd" MAGIC MAGIC "xyz", b.len);
    assert_int_equal(mdl_records_next(&r, &one, &end, &e), UT_OK);
    assert_int_equal(one.label, 5);
    assert_int_equal(one.len, 4);
    assert_int_equal(mdl_records_next(&r, &one, &end, &e), UT_OK);
    assert_true(end);
    ut_buf_fini(&b);
    fclose(f);
}

static void refused(const char *bytes, size_t len, const char *why)
{
    FILE *f = fopen(path, "wb");
    struct mdl_dataset d;
    struct ut_error e;

    fwrite(bytes, 1, len, f);
    fclose(f);
    assert_int_equal(mdl_dataset_open(path, &d, &e), UT_EFORMAT);
    if (!strstr(e.msg, why) || !strstr(e.msg, path))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
}

#define ZEROS "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"

static void records__broken__named_by_place(void **state)
{
    (void)state;
    refused("", 0, "has no pictures");
    refused("not a record at all", 19, "magic number");
    refused(MAGIC "\x18", 5, "at 0 ends in its middle");
    refused(MAGIC "\x18\0\0\0" ZEROS, 8 + 20, "ends in its middle");
    refused(MAGIC "\x04\0\0\0" ZEROS, 8 + 4, "too short");
    refused(MAGIC "\x18\0\0\0\2\0\0\0" ZEROS, 8 + 24, "more labels than bytes");
    refused(MAGIC "\x18\0\0\0\0\0\0\0\0\0\0\x3f" ZEROS, 8 + 24,
            "no whole number");
    refused(MAGIC "\x18\0\0\x60" ZEROS "\0\0\0\0", 8 + 24, "out of order");
    refused(MAGIC "\x18\0\0\x20" ZEROS "\0\0\0\0", 8 + 24,
            "ends in its middle");
}

static int set_up(void **state)
{
    int fd = mkstemps(path, 4);

    (void)state;
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records__as_insightface_packs_them__read),
        cmocka_unit_test(records__parts__joined),
        cmocka_unit_test(records__broken__named_by_place),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
