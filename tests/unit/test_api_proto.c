/* Binary protobuf: what is taken, what is refused, and that nothing deep or
 * long costs memory. */
#include <stdlib.h>
#include <string.h>

#include "api/proto.h"
#include "api/tscaf.pb-c.h"
#include "tests/support/unit.h"

#define ANALYZE &tscaf__v1__analyze_request__descriptor
#define UPDATE &tscaf__v1__update_identity_request__descriptor

/* Reads from a copy without a byte to spare: ASan sees one too many. */
static ProtobufCMessage *read_bytes(const ProtobufCMessageDescriptor *d,
                                    const void *bytes, size_t len,
                                    struct api_error *err)
{
    void *copy = malloc(len ? len : 1);
    ProtobufCMessage *m;
    enum ut_err rc;

    memcpy(copy, bytes, len);
    rc = api_proto_read(d, copy, len, &m, err);
    free(copy);
    assert_int_equal(rc == UT_OK, m != NULL);
    return m;
}

#define ROW(d, bytes, field, reason)                                           \
    {                                                                          \
        d, bytes, sizeof(bytes) - 1, field, reason                             \
    }

static const struct {
    const ProtobufCMessageDescriptor *d;
    const char *bytes;
    size_t len;
    const char *field, *reason;
} bad_rows[] = {
    ROW(ANALYZE, "\x0a", "images", "BAD_PROTOBUF"),         /* no length */
    ROW(ANALYZE, "\x0a\x02\x0a", "images", "BAD_PROTOBUF"), /* cut off */
    ROW(ANALYZE, "\x0a\x02\x0a\x05", "images.data", "BAD_PROTOBUF"),
    ROW(ANALYZE, "\x20", "max_faces", "BAD_PROTOBUF"),
    ROW(ANALYZE, "\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        "max_faces", "BAD_PROTOBUF"), /* a varint of eleven bytes */
    ROW(ANALYZE, "\x22\x01\x01", "", "BAD_PROTOBUF"), /* wire type */
    ROW(ANALYZE, "\x35\0\0\0", "fatigue_threshold", "BAD_PROTOBUF"),
    ROW(ANALYZE, "\x02\x01\x01", "", "BAD_PROTOBUF"),     /* field 0 */
    ROW(ANALYZE, "\x0b\x0c", "images", "BAD_PROTOBUF"),   /* a group */
    ROW(ANALYZE, "\xfb\x07\xfc\x07", "", "BAD_PROTOBUF"), /* an unknown one */
    ROW(ANALYZE, "\xfd\x07\0\0\0", "", "BAD_PROTOBUF"),   /* cut off */
    ROW(ANALYZE, "\x10\x07", "input", "UNKNOWN_VALUE"),
    ROW(ANALYZE, "\x1a\x02\x01\x09", "tasks", "UNKNOWN_VALUE"), /* packed */
    ROW(ANALYZE, "\x18\x09", "tasks", "UNKNOWN_VALUE"),
    ROW(UPDATE, "\x12\x01\xff", "name", "BAD_TEXT"),
    ROW(UPDATE, "\x12\x02\xc3\x28", "name", "BAD_TEXT"),
    ROW(UPDATE, "\x12\x03\xed\xa0\x80", "name", "BAD_TEXT"), /* a surrogate */
    ROW(UPDATE, "\x12\x01\xc3", "name", "BAD_TEXT"),         /* cut off */
    ROW(UPDATE,
        "\x12\x03"
        "a\0b",
        "name", "BAD_TEXT"),
    ROW(UPDATE, "\x22\x05\x0a\x01k\x12\x01\xff", "metadata.value",
        "BAD_PROTOBUF"),
    ROW(UPDATE, "\x22\x06\x0a\x01k\x12\x01\xff", "metadata.value", "BAD_TEXT"),
};

static void read__each_fault__field_and_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad_rows) / sizeof(bad_rows[0]); i++) {
        struct api_error err = {0};
        ProtobufCMessage *m =
            read_bytes(bad_rows[i].d, bad_rows[i].bytes, bad_rows[i].len, &err);

        if (m)
            fail_msg("row %zu was read", i);
        if (strcmp(err.field, bad_rows[i].field) != 0 ||
            strcmp(err.reason, bad_rows[i].reason) != 0)
            fail_msg("row %zu: %s, %s: %s", i, err.field, err.reason,
                     err.message);
        assert_int_equal(err.code, API_INVALID_ARGUMENT);
    }
}

static void read__what_protobuf_allows__taken(void **state)
{
    /* Unpacked and packed tasks together, and unknown fields of each wire
     * type around a known one. */
    static const char bytes[] = "\x18\x01\x1a\x01\x02"
                                "\xf8\x07\x01\xf9\x07"
                                "12345678"
                                "\x20\x09\xfa\x07\x01x\xfd\x07"
                                "1234";
    static const char update[] = "\x12\x01"
                                 "a\x12\x03"
                                 "\xc3\xa4"
                                 "b"
                                 "\x22\x06\x0a\x01k\x12\x01v\x2a\0";
    const Tscaf__V1__UpdateIdentityRequest *u;
    const Tscaf__V1__AnalyzeRequest *a;
    struct api_error err = {0};
    ProtobufCMessage *m;

    (void)state;
    m = read_bytes(ANALYZE, bytes, sizeof(bytes) - 1, &err);
    assert_non_null(m);
    a = (const void *)m;
    assert_int_equal(a->n_tasks, 2);
    assert_int_equal(a->tasks[1], TSCAF__V1__TASK__TASK_RECOGNITION);
    assert_int_equal(a->max_faces, 9);
    protobuf_c_message_free_unpacked(m, NULL);

    m = read_bytes(UPDATE, update, sizeof(update) - 1, &err);
    assert_non_null(m);
    u = (const void *)m;
    assert_string_equal(u->name, "\xc3\xa4"
                                 "b"); /* the last one counts */
    assert_int_equal(u->n_metadata, 1);
    assert_string_equal(u->metadata[0]->value, "v");
    assert_string_equal(u->consent_ref, "");
    assert_int_equal(
        u->new_consent_ref_case,
        TSCAF__V1__UPDATE_IDENTITY_REQUEST__NEW_CONSENT_REF_CONSENT_REF);
    assert_int_equal(u->new_external_id_case, 0);
    protobuf_c_message_free_unpacked(m, NULL);
}

static void read__fields__at_the_limit_and_one_past_it(void **state)
{
    size_t n = API_PROTO_MAX_FIELDS;
    char *bytes = calloc(n + 1, 2);
    struct api_error err = {0};
    ProtobufCMessage *m;

    (void)state;
    for (size_t i = 0; i <= n; i++)
        bytes[2 * i] = 0x0a; /* a picture without data */
    m = read_bytes(ANALYZE, bytes, 2 * n, &err);
    assert_non_null(m);
    assert_int_equal(((Tscaf__V1__AnalyzeRequest *)m)->n_images, n);
    protobuf_c_message_free_unpacked(m, NULL);
    assert_null(read_bytes(ANALYZE, bytes, 2 * (n + 1), &err));
    assert_string_equal(err.reason, "OUT_OF_RANGE");
    free(bytes);
}

/* How deep messages of a type can be; fails for one that can be in itself:
 * the depth of what is read is bounded by the contract alone. */
static int depth_of(const ProtobufCMessageDescriptor *d, int above)
{
    int deepest = 0;

    assert_true(above < API_PROTO_MAX_DEPTH);
    for (unsigned i = 0; i < d->n_fields; i++)
        if (d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE) {
            int depth = depth_of(d->fields[i].descriptor, above + 1);

            deepest = depth > deepest ? depth : deepest;
        }
    return deepest + 1;
}

static void contract__no_message_in_itself(void **state)
{
    const ProtobufCServiceDescriptor *const services[] = {
        &tscaf__v1__driver_monitor__descriptor,
        &tscaf__v1__identities__descriptor,
        &tscaf__v1__models__descriptor,
        &tscaf__v1__admin__descriptor,
    };

    (void)state;
    for (size_t s = 0; s < sizeof(services) / sizeof(services[0]); s++)
        for (unsigned i = 0; i < services[s]->n_methods; i++)
            assert_true(depth_of(services[s]->methods[i].input, 0) > 0);
    assert_int_equal(depth_of(ANALYZE, 0), 2);
}

static void write__read_again__the_same(void **state)
{
    Tscaf__V1__Frame f = TSCAF__V1__FRAME__INIT, *list[] = {&f, &f};
    Tscaf__V1__AnalyzeResponse r = TSCAF__V1__ANALYZE_RESPONSE__INIT;
    struct api_error err = {0};
    ProtobufCMessage *m;
    struct ut_error e;
    struct ut_buf b;

    (void)state;
    f.width = 300;
    r.n_frames = 2;
    r.frames = list;
    r.request_id = "x";
    ut_buf_init(&b, 1000);
    assert_int_equal(api_proto_write(&r.base, &b, &e), UT_OK);
    m = read_bytes(&tscaf__v1__analyze_response__descriptor, b.data, b.len,
                   &err);
    assert_non_null(m);
    assert_int_equal(((Tscaf__V1__AnalyzeResponse *)m)->frames[1]->width, 300);
    protobuf_c_message_free_unpacked(m, NULL);
    ut_buf_fini(&b);
    ut_buf_init(&b, 5);
    assert_int_equal(api_proto_write(&r.base, &b, &e), UT_EBUSY);
    ut_buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read__each_fault__field_and_reason),
        cmocka_unit_test(read__what_protobuf_allows__taken),
        cmocka_unit_test(read__fields__at_the_limit_and_one_past_it),
        cmocka_unit_test(contract__no_message_in_itself),
        cmocka_unit_test(write__read_again__the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
