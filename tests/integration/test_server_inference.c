/* The Open Inference Protocol: its answers are the engine's, by JSON and by
 * binary tensors, and its errors have its one shape. */
#include <jansson.h>
#include <math.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "model/vision/face.h"
#include "tests/support/server.h"
#include "tests/support/unit.h"

#define CROP (112 * 112 * 3)
#define MAX_FACES 32
#define DIM 64 /* tests/support/tiny.json */

static struct test_server server;
static uint8_t crops[MAX_FACES + 1][CROP];
static float expected[2][1 + DIM]; /* of crops 0 and 1, by /v1/analyze */
static char model[200], path[300]; /* its name; where it infers */

/* ---- requests ---- */

struct body {
    char *data; /* owned */
    size_t len, cap, json_len;
};

static void add(struct body *b, const void *data, size_t len)
{
    if (b->len + len >= b->cap) {
        b->cap = 2 * (b->len + len + 1);
        b->data = realloc(b->data, b->cap);
        assert_non_null(b->data);
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
}

static void add_text(struct body *b, const char *text)
{
    add(b, text, strlen(text));
}

/* Pixel i of a crop as the float input has it: planes, and not rows. */
static float plane(const uint8_t *crop, size_t i)
{
    return ((float)crop[i % (112 * 112) * 3 + i / (112 * 112)] - 127.5f) /
           127.5f;
}

/* A request for n crops; rest: more members. */
static struct body request(int n, bool is_float, bool binary, const char *rest)
{
    size_t size = (size_t)n * CROP * (is_float ? sizeof(float) : 1);
    struct body b = {0};
    char text[300];

    snprintf(text, sizeof(text),
             "{%s\"inputs\":[{\"name\":\"images\",\"datatype\":\"%s\","
             "\"shape\":[%d,%s],",
             rest, is_float ? "FP32" : "UINT8", n,
             is_float ? "3,112,112" : "112,112,3");
    add_text(&b, text);
    if (binary) {
        snprintf(text, sizeof(text),
                 "\"parameters\":{\"binary_data_size\":%zu}}]}", size);
        add_text(&b, text);
        b.json_len = b.len;
    } else {
        add_text(&b, "\"data\":[");
    }
    for (int k = 0; k < n; k++) {
        if (!binary)
            add_text(&b, k ? ",[" : "[");
        for (size_t i = 0; i < CROP; i++) {
            float v = is_float ? plane(crops[k], i) : (float)crops[k][i];

            if (!binary) {
                snprintf(text, sizeof(text), "%s%.9g", i ? "," : "", (double)v);
                add_text(&b, text);
            } else if (is_float) {
                add(&b, &v, sizeof(v));
            } else {
                add(&b, &crops[k][i], 1);
            }
        }
        if (!binary)
            add_text(&b, "]");
    }
    if (!binary)
        add_text(&b, "]}]}");
    return b;
}

/* Sends b, which it frees. */
static long infer(struct body b, const char *const *more, struct test_answer *a)
{
    char length[60];
    const char *headers[4] = {NULL};
    int n = 0;

    if (b.json_len) {
        snprintf(length, sizeof(length), "Inference-Header-Content-Length: %zu",
                 b.json_len);
        headers[n++] = length;
    }
    while (more && *more)
        headers[n++] = *more++;
    test_send(&server,
              &(struct test_request){
                  .method = "POST",
                  .path = path,
                  .type = b.json_len ? "application/octet-stream" : NULL,
                  .body = b.data,
                  .len = b.len,
                  .headers = headers},
              a);
    free(b.data);
    return a->status;
}

/* ---- answers ---- */

static json_t *json_of(const struct test_answer *a)
{
    const char *at = strcasestr(a->headers, "Inference-Header-Content-Length:");
    json_error_t e;
    json_t *j = json_loadb(
        a->body, at ? strtoul(strchr(at, ':') + 1, NULL, 10) : a->len, 0, &e);

    if (!j)
        fail_msg("%s in %.200s", e.text, a->body);
    return j;
}

static json_t *output(json_t *j, size_t i, const char *name, int n, int width)
{
    json_t *o = json_array_get(json_object_get(j, "outputs"), i);

    assert_string_equal(json_string_value(json_object_get(o, "name")), name);
    assert_string_equal(json_string_value(json_object_get(o, "datatype")),
                        "FP32");
    assert_int_equal(
        json_integer_value(json_array_get(json_object_get(o, "shape"), 0)), n);
    assert_int_equal(
        json_integer_value(json_array_get(json_object_get(o, "shape"), 1)),
        width);
    return o;
}

static void wants_error(const struct test_answer *a, long status,
                        const char *says)
{
    json_t *j = json_of(a);
    const char *error = json_string_value(json_object_get(j, "error"));

    if (a->status != status || !error || !strstr(error, says))
        fail_msg("%ld, not %ld, or no \"%s\" in: %s", a->status, status, says,
                 a->body);
    assert_int_equal(json_object_size(j), 1);
    json_decref(j);
}

/* ---- what is expected ---- */

/* The crop that the server makes of a picture, and what it says of it. */
static void prepare(int k)
{
    struct test_answer a = {0};
    struct mdl_image im;
    json_error_t why;
    struct ut_error e;
    size_t len;
    char *png = test_face(k + 1, 1, &len);
    json_t *j, *face, *embedding;

    assert_int_equal(mdl_image_decode(png, len, 0, &im, &e), UT_OK);
    assert_int_equal(mdl_face_crop(&im, crops[k], &e), UT_OK);
    mdl_image_fini(&im);
    assert_int_equal(test_png(&server,
                              "/v1/analyze?input=crop&return=embedding", png,
                              len, &a),
                     200);
    free(png);
    j = json_loadb(a.body, a.len, 0, &why);
    snprintf(model, sizeof(model), "%s",
             json_string_value(
                 json_object_get(json_object_get(j, "model"), "name")));
    face = json_array_get(
        json_object_get(json_array_get(json_object_get(j, "frames"), 0),
                        "faces"),
        0);
    expected[k][0] = (float)json_number_value(
        json_object_get(json_object_get(face, "fatigue"), "probability"));
    embedding = json_object_get(face, "embedding");
    assert_int_equal(json_array_size(embedding), DIM);
    for (size_t i = 0; i < DIM; i++)
        expected[k][1 + i] =
            (float)json_number_value(json_array_get(embedding, i));
    json_decref(j);
    test_answer_fini(&a);
}

static int set_up(void **state)
{
    (void)state;
    test_server_start(&server, NULL);
    prepare(0);
    prepare(1);
    for (int k = 2; k <= MAX_FACES; k++)
        memcpy(crops[k], crops[k % 2], CROP);
    snprintf(path, sizeof(path), "/v2/models/%s/infer", model);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return test_server_stop(&server);
}

/* ---- tests ---- */

static void wants_numbers(const float *v, int k, int n)
{
    /* A batch of another size sums in another order. */
    for (int i = 0; i < n; i++)
        if (!(fabsf(v[i] - expected[k % 2][1 + i]) < 1e-4f))
            fail_msg("face %d, %d: %g, not %g", k, i, (double)v[i],
                     (double)expected[k % 2][1 + i]);
}

static void infer__json_uint8_and_float__as_analyze(void **state)
{
    struct test_answer a = {0};

    (void)state;
    for (int is_float = 0; is_float < 2; is_float++) {
        float v[DIM];
        json_t *j, *data;

        assert_int_equal(
            infer(request(1, is_float, false, "\"id\":\"no \\\"1\\\"\","), NULL,
                  &a),
            200);
        j = json_of(&a);
        assert_string_equal(json_string_value(json_object_get(j, "id")),
                            "no \"1\"");
        assert_string_equal(json_string_value(json_object_get(j, "model_name")),
                            model);
        data =
            json_object_get(output(j, 0, "fatigue_probability", 1, 1), "data");
        assert_true((float)json_number_value(json_array_get(data, 0)) ==
                    expected[0][0]);
        data = json_object_get(output(j, 1, "embedding", 1, DIM), "data");
        for (size_t i = 0; i < DIM; i++)
            v[i] = (float)json_number_value(json_array_get(data, i));
        assert_memory_equal(v, expected[0] + 1, sizeof(v));
        json_decref(j);
    }
    test_answer_fini(&a);
}

static void infer__binary_in_and_out__bytes_after_the_json(void **state)
{
    struct test_answer a = {0};
    const char *tail;
    float v[2 * DIM];
    json_t *j, *o;

    (void)state;
    for (int is_float = 0; is_float < 2; is_float++) {
        assert_int_equal(
            infer(request(2, is_float, true,
                          "\"parameters\":{\"binary_data_output\":true},"
                          "\"outputs\":[{\"name\":\"embedding\"},{\"name\":"
                          "\"fatigue_probability\",\"parameters\":{\"binary_"
                          "data\":false}}],"),
                  NULL, &a),
            200);
        assert_string_equal(a.type, "application/octet-stream");
        j = json_of(&a);
        o = output(j, 0, "embedding", 2, DIM);
        assert_int_equal(
            json_integer_value(json_object_get(json_object_get(o, "parameters"),
                                               "binary_data_size")),
            sizeof(v));
        assert_null(json_object_get(o, "data"));
        o = output(j, 1, "fatigue_probability", 2, 1);
        assert_int_equal(json_array_size(json_object_get(o, "data")), 2);
        tail = a.body + a.len - sizeof(v);
        assert_int_equal(tail[-1], '}'); /* nothing but the tensor follows */
        memcpy(v, tail, sizeof(v));
        wants_numbers(v, 0, DIM);
        wants_numbers(v + DIM, 1, DIM);
        json_decref(j);
    }
    test_answer_fini(&a);
}

static void infer__outputs_asked__only_those_in_that_order(void **state)
{
    struct test_answer a = {0};
    json_t *j;

    (void)state;
    infer(request(1, false, true, "\"outputs\":[{\"name\":\"embedding\"}],"),
          NULL, &a);
    j = json_of(&a);
    assert_int_equal(json_array_size(json_object_get(j, "outputs")), 1);
    output(j, 0, "embedding", 1, DIM);
    json_decref(j);
    infer(request(1, false, true, "\"outputs\":[{\"name\":\"logit\"}],"), NULL,
          &a);
    wants_error(&a, 400, "no output \"logit\"");
    infer(request(1, false, true,
                  "\"outputs\":[{\"name\":\"embedding\"},{\"name\":"
                  "\"embedding\"}],"),
          NULL, &a);
    wants_error(&a, 400, "asked for twice");
    test_answer_fini(&a);
}

static void infer__32_faces_and_33__answered_and_refused(void **state)
{
    struct test_answer a = {0};
    float v[DIM];
    json_t *j;

    (void)state;
    assert_int_equal(infer(request(MAX_FACES, false, true,
                                   "\"parameters\":{\"binary_data_output\":"
                                   "true},\"outputs\":[{\"name\":\"embedding\"}"
                                   "],"),
                           NULL, &a),
                     200);
    j = json_of(&a);
    output(j, 0, "embedding", MAX_FACES, DIM);
    json_decref(j);
    for (int k = 0; k < MAX_FACES; k++) {
        memcpy(v, a.body + a.len - (size_t)(MAX_FACES - k) * sizeof(v),
               sizeof(v));
        wants_numbers(v, k, DIM);
    }
    infer(request(MAX_FACES + 1, false, true, ""), NULL, &a);
    wants_error(&a, 400, "33 faces are not from 1 to 32");
    infer(request(MAX_FACES, false, false, ""), NULL, &a);
    assert_int_equal(a.status, 200);
    infer(request(MAX_FACES + 1, false, false, ""), NULL, &a);
    wants_error(&a, 400, "numbers");
    test_answer_fini(&a);
}

static void infer__wrong_requests__named_in_its_shape(void **state)
{
    static const struct {
        const char *body, *says;
        size_t json_len;
    } cases[] = {
        {"", "no JSON object", 0},
        {"[]", "no JSON object", 0},
        {"{\"inputs\":[]}", "one input", 0},
        {"{\"inputs\":[{\"name\":\"x\",\"data\":[1],\"datatype\":\"UINT8\"}]}",
         "one input, \"images\"", 0},
        {"{\"inptus\":[]}", "inptus", 0},
        {"{\"inputs\":[{\"name\":\"images\",\"shape\":[1,112,112,3],"
         "\"datatype\":\"UINT8\",\"data\":[1,2]}]}",
         "37632 bytes, not 2", 0},
        {"{\"inputs\":[{\"name\":\"images\",\"shape\":[1,112,112,3],"
         "\"datatype\":\"FP32\",\"data\":[1,2]}]}",
         "[N,3,112,112]", 0},
        {"{\"inputs\":[{\"name\":\"images\",\"shape\":[1,112,112,3],"
         "\"datatype\":\"UINT8\",\"data\":[256]}]}",
         "from 0 to 255", 0},
        {"{\"inputs\":[{\"name\":\"images\",\"shape\":[1,112,112,3],"
         "\"datatype\":\"UINT8\",\"data\":[\"1\"]}]}",
         "wants numbers", 0},
        {"{\"inputs\":[{\"name\":\"images\",\"shape\":[1,112,112,3],"
         "\"datatype\":\"UINT8\"}]}",
         "either data or binary_data_size", 0},
        {"{\"inputs\":[{\"name\":\"images\",\"shape\":[1,112,112,3],"
         "\"datatype\":\"UINT8\",\"parameters\":{\"binary_data_size\":9}}]}",
         "not a number of bytes after the JSON", 0},
        {"{\"inputs\":[]}more", "4 bytes follow the JSON", 13},
        {"{}", "says 3 bytes of JSON; the body has 2", 3},
        {"{\"inputs\":[],\"raw_input_contents\":[\"AAAA\"]}",
         "not a member of the JSON", 0},
    };
    const char *const length[] = {"Inference-Header-Content-Length: -1", NULL};
    const char *const late[] = {"Connect-Timeout-Ms: 0", NULL};
    struct test_answer a = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct body b = {.json_len = cases[i].json_len};

        add_text(&b, cases[i].body);
        infer(b, NULL, &a);
        wants_error(&a, 400, cases[i].says);
    }
    infer(request(1, false, false, ""), length, &a);
    wants_error(&a, 400, "is not a number of bytes");
    infer(request(1, false, true, ""), late, &a);
    wants_error(&a, 504, "deadline");
    {
        struct body b = request(1, true, true, "");
        float two = 2;

        memcpy(b.data + b.json_len, &two, sizeof(two));
        infer(b, NULL, &a);
        wants_error(&a, 400, "element 0 is 2, not from -1 to 1");
    }
    test_answer_fini(&a);
}

static void metadata__server_and_model__as_the_protocol_has_them(void **state)
{
    struct test_answer a = {0};
    char at[400], version[20];
    json_t *j, *t;

    (void)state;
    assert_int_equal(test_get(&server, "/v2/health/live", &a), 200);
    assert_string_equal(a.body, "{\"live\":true}");
    assert_int_equal(test_get(&server, "/v2/health/ready", &a), 200);
    assert_string_equal(a.body, "{\"ready\":true}");
    assert_int_equal(test_get(&server, "/v2", &a), 200);
    assert_non_null(strstr(a.body, "\"binary_tensor_data\""));
    snprintf(at, sizeof(at), "/v2/models/%s", model);
    assert_int_equal(test_get(&server, at, &a), 200);
    j = json_of(&a);
    t = json_array_get(json_object_get(j, "inputs"), 0);
    assert_string_equal(json_string_value(json_object_get(t, "name")),
                        "images");
    t = json_array_get(json_object_get(j, "outputs"), 1);
    assert_int_equal(
        json_integer_value(json_array_get(json_object_get(t, "shape"), 0)), -1);
    assert_int_equal(
        json_integer_value(json_array_get(json_object_get(t, "shape"), 1)),
        DIM);
    snprintf(
        version, sizeof(version), "%s",
        json_string_value(json_array_get(json_object_get(j, "versions"), 0)));
    json_decref(j);
    snprintf(at, sizeof(at), "/v2/models/%s/versions/%s", model, version);
    assert_int_equal(test_get(&server, at, &a), 200);
    strcat(at, "/ready");
    assert_int_equal(test_get(&server, at, &a), 200);
    snprintf(at, sizeof(at), "{\"name\":\"%s\",\"ready\":true}", model);
    assert_string_equal(a.body, at);
    snprintf(at, sizeof(at), "/v2/models/%s/ready", model);
    assert_int_equal(test_get(&server, at, &a), 200);

    test_get(&server, "/v2/models/resnet/ready", &a);
    wants_error(&a, 404, "no model \"resnet\"");
    snprintf(at, sizeof(at), "/v2/models/%s/versions/7", model);
    test_get(&server, at, &a);
    wants_error(&a, 404, "version \"7\"");
    test_get(&server, "/v2/nothing", &a);
    wants_error(&a, 404, "nothing at /v2/nothing");
    test_json(&server, "DELETE", "/v2", "{}", &a);
    wants_error(&a, 405, "DELETE");
    test_get(&server, "/v2?verbose=1", &a);
    wants_error(&a, 400, "verbose");
    snprintf(path, sizeof(path), "/v2/models/%s/versions/%s/infer", model,
             version);
    assert_int_equal(infer(request(1, false, true, ""), NULL, &a), 200);
    snprintf(path, sizeof(path), "/v2/models/%s/infer", model);
    test_answer_fini(&a);
}

static void statistics__after_inferences__count_faces_and_batches(void **state)
{
    static const char *const paths[] = {"/v2/models/stats",
                                        "/v2/models/%s/stats"};
    json_int_t count[2], batches[2], at_size = 0;
    struct test_answer a = {0};
    char at[300], version[20];
    json_t *j, *s, *size;
    size_t i;

    (void)state;
    for (int k = 0; k < 2; k++) {
        snprintf(at, sizeof(at), paths[k], model);
        assert_int_equal(test_get(&server, at, &a), 200);
        j = json_of(&a);
        s = json_array_get(json_object_get(j, "model_stats"), 0);
        assert_string_equal(json_string_value(json_object_get(s, "name")),
                            model);
        count[k] = json_integer_value(json_object_get(s, "inference_count"));
        batches[k] = json_integer_value(json_object_get(s, "execution_count"));
        snprintf(version, sizeof(version), "%s",
                 json_string_value(json_object_get(s, "version")));
        at_size = 0;
        json_array_foreach(json_object_get(s, "batch_stats"), i, size)
            at_size += json_integer_value(json_object_get(
                json_object_get(size, "compute_infer"), "count"));
        assert_int_equal(at_size, batches[k]);
        s = json_object_get(json_object_get(s, "inference_stats"), "queue");
        assert_int_equal(json_integer_value(json_object_get(s, "count")),
                         count[k]);
        json_decref(j);
        if (!k)
            assert_int_equal(infer(request(3, false, true, ""), NULL, &a), 200);
    }
    assert_int_equal(count[1], count[0] + 3);
    assert_true(batches[1] > batches[0] && batches[1] <= batches[0] + 3);
    snprintf(at, sizeof(at), "/v2/models/%s/versions/%s/stats", model, version);
    assert_int_equal(test_get(&server, at, &a), 200);
    test_get(&server, "/v2/models/x/stats", &a);
    wants_error(&a, 404, "no model");
    test_answer_fini(&a);
}

static void
repository__index_load_unload__listed_loaded_and_refused(void **state)
{
    struct test_answer a = {0};
    char at[300];
    json_t *j;

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(test_json(&server, "POST", "/v2/repository/index",
                                   i ? "{\"ready\":true}" : "{}", &a),
                         200);
        j = json_of(&a);
        assert_int_equal(json_array_size(j), 1);
        assert_string_equal(
            json_string_value(json_object_get(json_array_get(j, 0), "name")),
            model);
        assert_string_equal(
            json_string_value(json_object_get(json_array_get(j, 0), "state")),
            "READY");
        json_decref(j);
    }
    test_json(&server, "POST", "/v2/repository/index", "{\"raedy\":true}", &a);
    wants_error(&a, 400, "raedy");
    snprintf(at, sizeof(at), "/v2/repository/models/%s/load", model);
    assert_int_equal(test_json(&server, "POST", at, "{}", &a), 200);
    assert_int_equal(test_json(&server, "POST", at, "", &a), 200);
    test_json(&server, "POST", at, "{\"parameters\":{\"config\":\"{}\"}}", &a);
    wants_error(&a, 400, "parameters");
    test_json(&server, "POST", "/v2/repository/models/other/load", "{}", &a);
    wants_error(&a, 404, "no model \"other\"");
    snprintf(at, sizeof(at), "/v2/repository/models/%s/unload", model);
    test_json(&server, "POST", at,
              "{\"parameters\":{\"unload_dependents\":false}}", &a);
    wants_error(&a, 501, "/activate");
    test_answer_fini(&a);
}

static void limits__body_type_and_key__in_its_shape(void **state)
{
    const char *const flags[] = {"--max-body-bytes", "64KiB", NULL};
    struct test_server up = server;
    struct test_answer a = {0};

    (void)state;
    memset(&server, 0, sizeof(server));
    test_server_start(&server, flags);
    infer(request(2, false, true, ""), NULL, &a);
    wants_error(&a, 413, "limit");
    test_send(
        &server,
        &(struct test_request){.path = path, .type = "text/plain", .body = "x"},
        &a);
    wants_error(&a, 415, "text/plain");
    test_json(&server, "POST", "/v1/keys",
              "{\"name\":\"a\",\"role\":\"admin\"}", &a);
    infer(request(1, false, true, ""), NULL, &a);
    wants_error(&a, 401, "key");
    assert_int_equal(test_get(&server, "/v2/health/ready", &a), 200);
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&server), 0);
    server = up;
}

static double rejected(const char *reason)
{
    struct test_answer a = {0};
    char line[80];
    const char *at;
    double n;

    assert_int_equal(test_get(&server, "/metrics", &a), 200);
    snprintf(line, sizeof(line), "\ntscaf_rejections_total{reason=\"%s\"} ",
             reason);
    at = strstr(a.body, line);
    assert_non_null(at);
    n = strtod(at + strlen(line), NULL);
    test_answer_fini(&a);
    return n;
}

/* Long bodies are read on the decoder's thread, which is one here: clients have
 * left before their faces come to it. */
static void infer__client_leaves_at_once__others_are_answered(void **state)
{
    const char *const flags[] = {"--decode-threads", "1", NULL};
    struct body b = request(8, true, false, "");
    struct test_server up = server;
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct test_answer a = {0};
    char head[400];

    (void)state;
    memset(&server, 0, sizeof(server));
    test_server_start(&server, flags);
    to.sin_port = htons((uint16_t)server.port);
    assert_true(b.len > 256 * 1024);
    snprintf(head, sizeof(head),
             "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
             "%zu\r\n\r\n",
             path, b.len);
    for (int i = 0; i < 8; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);

        assert_int_equal(connect(fd, (void *)&to, sizeof(to)), 0);
        assert_int_equal(send(fd, head, strlen(head), MSG_NOSIGNAL),
                         strlen(head));
        for (size_t at = 0, n; at < b.len; at += n) {
            ssize_t sent = send(fd, b.data + at, b.len - at, MSG_NOSIGNAL);

            assert_true(sent > 0);
            n = (size_t)sent;
        }
        close(fd);
    }
    free(b.data);
    for (int i = 0; rejected("cancelled") < 1 && i < 20000; i++)
        usleep(1000);
    assert_true(rejected("cancelled") > 0);
    assert_true(rejected("auth") == 0);
    assert_int_equal(infer(request(8, true, false, ""), NULL, &a), 200);
    b = request(8, true, false, "");
    b.data[b.len - 2] = '}'; /* broken at its end */
    infer(b, NULL, &a);
    wants_error(&a, 400, "JSON");
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&server), 0);
    server = up;
}

static void starting__live_but_not_ready(void **state)
{
    const char *const flags[] = {"--model=", NULL};
    struct test_server up = server;
    struct test_answer a = {0};

    (void)state;
    /* Its own untrained network takes a while to start. */
    memset(&server, 0, sizeof(server));
    test_server_launch(&server, flags);
    test_get(&server, "/v2/health/ready", &a);
    wants_error(&a, 503, "starting");
    assert_non_null(strcasestr(a.headers, "Retry-After: 1"));
    assert_int_equal(test_get(&server, "/v2/health/live", &a), 200);
    test_answer_fini(&a);
    assert_int_equal(test_server_stop(&server), 0);
    server = up;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(infer__json_uint8_and_float__as_analyze),
        cmocka_unit_test(infer__binary_in_and_out__bytes_after_the_json),
        cmocka_unit_test(infer__outputs_asked__only_those_in_that_order),
        cmocka_unit_test(infer__32_faces_and_33__answered_and_refused),
        cmocka_unit_test(infer__wrong_requests__named_in_its_shape),
        cmocka_unit_test(infer__client_leaves_at_once__others_are_answered),
        cmocka_unit_test(metadata__server_and_model__as_the_protocol_has_them),
        cmocka_unit_test(statistics__after_inferences__count_faces_and_batches),
        cmocka_unit_test(
            repository__index_load_unload__listed_loaded_and_refused),
        cmocka_unit_test(starting__live_but_not_ready),
        cmocka_unit_test(limits__body_type_and_key__in_its_shape),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
