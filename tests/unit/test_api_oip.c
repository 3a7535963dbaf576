/* The Open Inference Protocol's requests and answers as bytes. */
#include "tests/support/unit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/oip.h"

#define INPUT(type, rest)                                                      \
    "{\"inputs\":[{\"name\":\"images\",\"datatype\":\"" type                   \
    "\",\"shape\":[2]," rest "}]}"

static Inference__ModelInferRequest *m;
static struct api_error err;

static enum ut_err read_text(const char *text, size_t json_len)
{
    return api_oip_read(text, strlen(text), json_len, &m, &err);
}

static void done(void)
{
    protobuf_c_message_free_unpacked(&m->base, NULL);
    m = NULL;
}

static void read__lists__bytes_of_their_datatype(void **state)
{
    static const char *const same[] = {
        INPUT("FP32", "\"data\":[0.5,-1]"),
        INPUT("FP32", "\"data\" : [ [5e-1], [-1.0E0] ]"),
        INPUT("FP32", "\"parameters\":{\"data\":1},\"data\":[[0.5,-1]]"),
    };
    static const float values[] = {0.5f, -1};

    (void)state;
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        assert_int_equal(read_text(same[i], API_OIP_ALL_JSON), UT_OK);
        assert_int_equal(m->n_raw_input_contents, 1);
        assert_int_equal(m->raw_input_contents[0].len, sizeof(values));
        assert_memory_equal(m->raw_input_contents[0].data, values,
                            sizeof(values));
        assert_int_equal(m->inputs[0]->shape[0], 2);
        done();
    }
    assert_int_equal(
        read_text(INPUT("UINT8", "\"data\":[0,255,7.0]"), API_OIP_ALL_JSON),
        UT_OK);
    assert_memory_equal(m->raw_input_contents[0].data, "\0\377\7", 3);
    done();
}

/* Every float comes back from what is written of it, however that is. */
static void read__floats_as_text__the_same_floats(void **state)
{
    static const char *const forms[] = {"%.9g", "%.9e", "%.12g", "%.17g"};
    uint32_t bits = 1;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        char text[200], number[60];
        float v, got;

        bits = bits * 1664525u + 1013904223u;
        memcpy(&v, &bits, sizeof(v));
        if (!isfinite(v))
            continue;
        snprintf(number, sizeof(number), forms[i % 4], (double)v);
        snprintf(text, sizeof(text), INPUT("FP32", "\"data\":[%s]"), number);
        if (read_text(text, API_OIP_ALL_JSON))
            fail_msg("%s: %s", number, err.message);
        memcpy(&got, m->raw_input_contents[0].data, sizeof(got));
        if (memcmp(&got, &v, sizeof(v)))
            fail_msg("%s is read as %.9g", number, (double)got);
        done();
    }
}

static void read__binary__after_the_json_in_order(void **state)
{
    const char *text =
        "{\"inputs\":[{\"name\":\"a\",\"datatype\":\"UINT8\",\"shape\":[2],"
        "\"parameters\":{\"binary_data_size\":2}},{\"name\":\"b\",\"datatype\":"
        "\"UINT8\",\"shape\":[1],\"data\":[9]},{\"name\":\"c\",\"datatype\":"
        "\"BF16\",\"shape\":[0],\"parameters\":{\"binary_data_size\":3}}]}"
        "ABCDE";

    (void)state;
    assert_int_equal(read_text(text, strlen(text) - 5), UT_OK);
    assert_int_equal(m->n_raw_input_contents, 3);
    assert_memory_equal(m->raw_input_contents[0].data, "AB", 2);
    assert_memory_equal(m->raw_input_contents[1].data, "\t", 1);
    assert_memory_equal(m->raw_input_contents[2].data, "CDE", 3);
    done();
}

static void read__wrong__named(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {INPUT("UINT8", "\"data\":[1.5]"), "whole numbers"},
        {INPUT("UINT8", "\"data\":[-1]"), "whole numbers"},
        {INPUT("UINT16", "\"data\":[1]"), "neither UINT8 nor FP32"},
        {INPUT("FP32", "\"data\":[1e39]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[01]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[1.]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[-]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[-.5]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[1e]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[1e+]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[1e99999]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[0x1]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[+1]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[nan]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[1,]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[1 2]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[1[2]]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[,1]"), "wants numbers"},
        {INPUT("FP32", "\"data\":[true]"), "wants numbers"},
        {"{\"inputs\":[{\"data\":[1", "wants numbers"},
        {"{\"inputs\":[{\"data\":[", "wants numbers"},
        {"{\"inputs\":[{\"data\":", "no JSON object"},
        {"{\"inputs\":[{\"da", "no JSON object"},
        {INPUT("FP32", "\"data\":7"), "list of numbers"},
        {INPUT("FP32", "\"d\\u0061ta\":[0]"), "list of numbers"},
        {INPUT("FP32", "\"d\\u0061ta\":[-1]"), "list of numbers"},
        {INPUT("FP32", "\"data\":[1],\"data\":[2]"), "duplicate"},
        {INPUT("FP32", "\"data\":[1],\"parameters\":[]"), "an object"},
        {INPUT("FP32", "\"data\":[1],\"parameters\":{\"x\":{}}"),
         "inputs[0].x"},
        {INPUT("FP32", "\"contents\":{\"fp32_contents\":[1]},\"data\":[1]"),
         "not a member"},
        {"{\"rawInputContents\":[\"\"]}", "not a member"},
        {INPUT("FP32", "\"data\":[1],\"parameters\":{\"binary_data_size\":0}"),
         "either data or"},
        {INPUT("FP32", "\"parameters\":{\"binary_data_size\":-1}"),
         "not a number of bytes"},
        {INPUT("FP32", "\"parameters\":{\"binary_data_size\":\"1\"}"),
         "not a number of bytes"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(read_text(cases[i].text, API_OIP_ALL_JSON), UT_EINVAL);
        assert_null(m);
        if (!strstr(err.message, cases[i].says))
            fail_msg("no \"%s\" in: %s", cases[i].says, err.message);
    }
}

/* n times what, then end. */
static char *repeated(const char *start, const char *what, size_t n,
                      const char *end)
{
    struct ut_error e;
    struct ut_buf b;
    size_t len;

    ut_buf_init(&b, 64u << 20);
    assert_int_equal(ut_buf_addf(&b, &e, "%s", start), UT_OK);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ut_buf_add(&b, what, strlen(what), &e), UT_OK);
    assert_int_equal(ut_buf_addf(&b, &e, "%s", end), UT_OK);
    return ut_buf_take(&b, &len);
}

static void read__limits__at_and_past(void **state)
{
    static const struct {
        const char *start, *what, *end;
        size_t n; /* the most */
    } cases[] = {
        /* Numbers, nesting, digits, lists, JSON besides lists. */
        {"{\"inputs\":[{\"name\":\"a\",\"datatype\":\"UINT8\",\"data\":[1",
         ",1", "]}]}", API_OIP_MAX_ELEMENTS - 1},
        {"{\"inputs\":[{\"name\":\"a\",\"datatype\":\"FP32\",\"data\":[0.", "1",
         "]}]}", 46},
        {"{\"inputs\":[{\"name\":\"a\",\"datatype\":\"FP32\",\"data\":[1]}",
         ",{\"name\":\"a\",\"datatype\":\"FP32\",\"data\":[1]}", "]}", 7},
        {"{\"inputs\":[]", " ", "}", 64 * 1024 - 13},
    };
    char *text;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        text =
            repeated(cases[i].start, cases[i].what, cases[i].n, cases[i].end);
        if (read_text(text, API_OIP_ALL_JSON))
            fail_msg("case %zu: %s", i, err.message);
        done();
        free(text);
        text = repeated(cases[i].start, cases[i].what, cases[i].n + 1,
                        cases[i].end);
        assert_int_not_equal(read_text(text, API_OIP_ALL_JSON), UT_OK);
        assert_int_equal(err.code, API_INVALID_ARGUMENT);
        free(text);
    }
    assert_int_equal(read_text(INPUT("FP32", "\"data\":[[[[[[[[1]]]]]]]]"),
                               API_OIP_ALL_JSON),
                     UT_OK);
    done();
    assert_int_equal(read_text(INPUT("FP32", "\"data\":[[[[[[[[[1]]]]]]]]]"),
                               API_OIP_ALL_JSON),
                     UT_EINVAL);
    assert_int_equal(read_text("{}", 2), UT_OK);
    done();
    assert_int_equal(read_text("{}", 3), UT_EINVAL);
}

static void write__number_that_json_cannot_say__error(void **state)
{
    Inference__ModelInferRequest q = INFERENCE__MODEL_INFER_REQUEST__INIT;
    Inference__ModelInferResponse r = INFERENCE__MODEL_INFER_RESPONSE__INIT;
    Inference__ModelInferResponse__InferOutputTensor t =
        INFERENCE__MODEL_INFER_RESPONSE__INFER_OUTPUT_TENSOR__INIT;
    Inference__ModelInferResponse__InferOutputTensor *list[] = {&t};
    float v[] = {0.1f, NAN};
    ProtobufCBinaryData raw = {sizeof(float), (uint8_t *)v};
    struct ut_error e;
    struct ut_buf b;
    size_t len;

    (void)state;
    ut_buf_init(&b, 1000);
    t.name = "p";
    t.datatype = "FP32";
    r.n_outputs = r.n_raw_output_contents = 1;
    r.outputs = list;
    r.raw_output_contents = &raw;
    r.model_name = "a\"";
    assert_int_equal(api_oip_write(&q, &r, &b, &len, &e), UT_OK);
    assert_string_equal(
        b.data, "{\"model_name\":\"a\\\"\",\"model_version\":\"\",\"outputs\":"
                "[{\"name\":\"p\",\"datatype\":\"FP32\",\"shape\":[],\"data\":"
                "[0.100000001]}]}");
    assert_int_equal(len, b.len);
    raw.len = sizeof(v);
    assert_int_equal(api_oip_write(&q, &r, &b, &len, &e), UT_EINVAL);
    ut_buf_fini(&b);
}

static enum ut_err read_request(void *arg, struct ut_error *e)
{
    enum ut_err rc = read_text(arg, API_OIP_ALL_JSON);

    if (rc)
        return ut_fail(e, UT_ENOMEM, "%s", err.message);
    done();
    return UT_OK;
}

static void read__any_allocation_fails__clean_error(void **state)
{
    (void)state;
    assert_true(each_allocation_fails(
                    read_request,
                    INPUT("FP32", "\"data\":[1],\"parameters\":{\"x\":1}")) >
                4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read__lists__bytes_of_their_datatype),
        cmocka_unit_test(read__floats_as_text__the_same_floats),
        cmocka_unit_test(read__binary__after_the_json_in_order),
        cmocka_unit_test(read__wrong__named),
        cmocka_unit_test(read__limits__at_and_past),
        cmocka_unit_test(write__number_that_json_cannot_say__error),
        cmocka_unit_test(read__any_allocation_fails__clean_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
