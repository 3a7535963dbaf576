/* The ONNX file, read back field by field. That other engines compute the same
 * from it is what tests/onnx shows. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "model/model.h"
#include "model/onnx/onnx.h"
#include "tests/support/unit.h"

#define MAX_NAMES 8192

struct view {
    const uint8_t *at, *end;
};

struct field {
    int number, type;
    uint64_t value; /* varint */
    struct view bytes;
};

static uint64_t varint(struct view *v)
{
    uint64_t x = 0;

    for (int shift = 0;; shift += 7) {
        uint8_t byte;

        assert_true(v->at < v->end && shift < 64);
        byte = *v->at++;
        x |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return x;
    }
}

static bool next(struct view *v, struct field *f)
{
    uint64_t key;

    if (v->at == v->end)
        return false;
    key = varint(v);
    f->number = (int)(key >> 3);
    f->type = (int)(key & 7);
    if (f->type == 0) {
        f->value = varint(v);
    } else if (f->type == 2) {
        uint64_t len = varint(v);

        assert_true(len <= (uint64_t)(v->end - v->at));
        f->bytes = (struct view){v->at, v->at + len};
        v->at += len;
    } else {
        assert_int_equal(f->type, 5);
        assert_true(v->end - v->at >= 4);
        v->at += 4;
    }
    return true;
}

static char *names[MAX_NAMES];
static int n_names;

static bool known(struct view s)
{
    size_t len = (size_t)(s.end - s.at);

    for (int i = 0; i < n_names; i++)
        if (strlen(names[i]) == len && !memcmp(names[i], s.at, len))
            return true;
    return len == 0; /* an input that is left out */
}

/* A name of something new. */
static void know(struct view s)
{
    if (known(s))
        fail_msg("a name is used twice: %.*s", (int)(s.end - s.at), s.at);
    assert_true(n_names < MAX_NAMES);
    names[n_names++] = strndup((const char *)s.at, (size_t)(s.end - s.at));
}

static void tensor(struct view t)
{
    uint64_t count = 1, type = 0, len = 0;
    struct field f;

    while (next(&t, &f)) {
        if (f.number == 1)
            count *= f.value;
        else if (f.number == 2)
            type = f.value;
        else if (f.number == 8)
            know(f.bytes);
        else if (f.number == 9)
            len = (uint64_t)(f.bytes.end - f.bytes.at);
    }
    assert_true(type == 1 || type == 7);
    assert_int_equal(len, count * (type == 1 ? 4 : 8));
}

static void value_info(struct view v, bool output)
{
    struct field f;

    while (next(&v, &f))
        if (f.number == 1 && output)
            assert_true(known(f.bytes));
        else if (f.number == 1)
            know(f.bytes);
}

/* Its inputs are known by now; its outputs are from here on. */
static void node(struct view n)
{
    struct view all = n;
    struct field f;

    while (next(&all, &f))
        if (f.number == 1 && !known(f.bytes))
            fail_msg("an input is not known: %.*s",
                     (int)(f.bytes.end - f.bytes.at), f.bytes.at);
    while (next(&n, &f))
        if (f.number == 2)
            know(f.bytes);
}

static void pass(struct view graph, int number, int *count)
{
    struct field f;

    while (next(&graph, &f)) {
        if (f.number != number)
            continue;
        ++*count;
        if (number == 1)
            node(f.bytes);
        else if (number == 5)
            tensor(f.bytes);
        else
            value_info(f.bytes, number == 12);
    }
}

static char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    char *data;

    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    data = malloc(*len);
    assert_int_equal(fread(data, 1, *len, f), *len);
    fclose(f);
    return data;
}

/* The file's graph, in *data. */
static struct view written(const struct mdl_graph *g, uint64_t keep,
                           char **data)
{
    char path[] = "/tmp/test_onnx_XXXXXX";
    int fd = mkstemp(path);
    struct view graph = {0}, model;
    struct field f;
    struct ut_error e;
    size_t len;

    assert_true(fd >= 0);
    close(fd);
    if (mdl_onnx_write(path, g, keep, &e))
        fail_msg("%s", e.msg);
    *data = read_file(path, &len);
    unlink(path);
    model = (struct view){(uint8_t *)*data, (uint8_t *)*data + len};
    while (next(&model, &f))
        if (f.number == 7)
            graph = f.bytes;
        else if (f.number == 1)
            assert_int_equal(f.value, 8);
    assert_non_null(graph.at);
    return graph;
}

static void write_and_read(const struct mdl_graph *g, uint64_t keep,
                           int outputs)
{
    int nodes = 0, tensors = 0, in = 0, out = 0;
    char *data;
    struct view graph = written(g, keep, &data);

    pass(graph, 11, &in);
    pass(graph, 5, &tensors);
    pass(graph, 1, &nodes);
    pass(graph, 12, &out);
    assert_int_equal(in, 1);
    assert_int_equal(out, outputs);
    assert_true(nodes > 20 && tensors > 20);
    while (n_names)
        free(names[--n_names]);
    free(data);
}

static void write__networks__every_name_known_before_its_use(void **state)
{
    static const char *const specs[] = {"mobilenetv2", "iresnet50"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *text = mdl_model_builtin_spec(specs[i]);
        struct mdl_spec *spec = malloc(sizeof(*spec));
        struct mdl_model m = {0};
        struct mdl_graph fused;
        struct ut_error e;

        assert_int_equal(mdl_spec_parse(text, strlen(text), spec, &e), UT_OK);
        assert_int_equal(mdl_model_fresh(spec, 1, &m, &e), UT_OK);
        write_and_read(&m.graph, ~0ull, m.graph.n_outputs);
        write_and_read(&m.graph, 1, 1);
        assert_int_equal(mdl_graph_optimise(&m.graph, ~0ull, &fused, &e),
                         UT_OK);
        write_and_read(&fused, ~0ull, m.graph.n_outputs);
        mdl_graph_fini(&fused);
        mdl_model_close(&m);
        free(spec);
    }
}

/* Two roots, whose outputs are called as they are. */
#define ROOTS(a, b)                                                            \
    "{\"input\":32,\"trees\":[{\"name\":\"" a                                  \
    "\",\"module\":\"mobilenetv2\",\"width\":0.1,\"head\":\"binary\"},{"       \
    "\"name\":\"" b                                                            \
    "\",\"module\":\"mobilenetv2\",\"width\":0.1,\"head\":\"binary\"}]}"

static void write__roots_by_other_names__none_used_twice(void **state)
{
    static const char *const rows[] = {ROOTS("v12", "x3"), ROOTS("v", "x"),
                                       ROOTS("root", "images")};

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct mdl_spec *spec = malloc(sizeof(*spec));
        struct mdl_model m = {0};
        struct ut_error e;

        if (mdl_spec_parse(rows[i], strlen(rows[i]), spec, &e) ||
            mdl_model_fresh(spec, 1, &m, &e))
            fail_msg("%s", e.msg);
        if (i < 2) {
            write_and_read(&m.graph, ~0ull, m.graph.n_outputs);
        } else {
            assert_int_equal(mdl_onnx_write("/tmp/x", &m.graph, 1, &e),
                             UT_EINVAL);
            assert_non_null(strstr(e.msg, "called \"images\", as the input"));
        }
        mdl_model_close(&m);
        free(spec);
    }
}

static int n_of(struct view graph, const char *op)
{
    struct field f, part;
    int n = 0;

    while (next(&graph, &f))
        while (f.number == 1 && next(&f.bytes, &part))
            n += part.number == 4 &&
                 (size_t)(part.bytes.end - part.bytes.at) == strlen(op) &&
                 !memcmp(part.bytes.at, op, strlen(op));
    return n;
}

/* [N,C] by [N,C,1,1] would be [N,C,N,C]. */
static void write__scale_by_channel__reshaped_for_a_map_alone(void **state)
{
    static const float mean[3] = {0}, scale[] = {1, 1, 1};

    (void)state;
    for (int map = 0; map < 2; map++) {
        struct mdl_graph g;
        int x, s;
        char *data;

        mdl_graph_init(&g);
        mdl_graph_module(&g, "m");
        x = mdl_graph_image(&g, mdl_graph_input(&g, 8, 8), mean, scale, false);
        s = mdl_graph_pool(&g, x);
        mdl_graph_output(&g, mdl_graph_scale(&g, map ? x : s, s), "y");
        assert_int_equal(n_of(written(&g, 1, &data), "Reshape"), map);
        free(data);
        mdl_graph_fini(&g);
    }
}

static void write__no_place_or_no_weights__named(void **state)
{
    const char *text = mdl_model_builtin_spec("mobilenetv2");
    struct mdl_spec *spec = malloc(sizeof(*spec));
    struct mdl_graph g;
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_spec_parse(text, strlen(text), spec, &e), UT_OK);
    assert_int_equal(mdl_model_build(spec, &g, &e), UT_OK);
    assert_int_equal(mdl_onnx_write("/tmp/x", &g, ~0ull, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "is not bound"));
    assert_int_equal(mdl_onnx_write("/nowhere/x", &g, 0, &e), UT_EIO);
    assert_non_null(strstr(e.msg, "/nowhere/x"));
    mdl_graph_fini(&g);
    free(spec);
}

/* A limit on a file's size stands for a full disk. */
static void write__disk_full__former_file_stays(void **state)
{
    const char *text = mdl_model_builtin_spec("mobilenetv2");
    struct mdl_spec *spec = malloc(sizeof(*spec));
    struct mdl_model m = {0};
    struct rlimit old, small;
    struct ut_error e;
    enum ut_err rc;
    char path[64];
    size_t len;
    char *data;

    (void)state;
    snprintf(path, sizeof(path), "%s/m.onnx", test_dir());
    assert_int_equal(ut_file_write(path, "before", 6, &e), UT_OK);
    assert_int_equal(mdl_spec_parse(text, strlen(text), spec, &e), UT_OK);
    assert_int_equal(mdl_model_fresh(spec, 1, &m, &e), UT_OK);
    getrlimit(RLIMIT_FSIZE, &old);
    small = (struct rlimit){100000, old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    rc = mdl_onnx_write(path, &m.graph, ~0ull, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(rc, UT_EIO);
    assert_non_null(strstr(e.msg, path));
    data = read_file(path, &len);
    assert_int_equal(len, 6);
    assert_memory_equal(data, "before", 6);
    free(data);
    mdl_model_close(&m);
    free(spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write__networks__every_name_known_before_its_use),
        cmocka_unit_test(write__roots_by_other_names__none_used_twice),
        cmocka_unit_test(write__scale_by_channel__reshaped_for_a_map_alone),
        cmocka_unit_test(write__no_place_or_no_weights__named),
        cmocka_unit_test(write__disk_full__former_file_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
