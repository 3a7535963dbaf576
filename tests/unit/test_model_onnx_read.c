/* ONNX networks read back: our own by their numbers, broken ones by the fault
 * that the error names. That others' networks give the same numbers as in ONNX
 * Runtime is what tests/onnx shows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/backend.h"
#include "model/model.h"
#include "model/onnx/onnx.h"
#include "model/onnx/onnx.pb-c.h"
#include "tests/support/unit.h"

static const struct mdl_onnx_input bytes_in = {{0, 0, 0}, {1, 1, 1}, false};

/* Output `name` of a graph for two drawn pictures, on the reference backend. */
static float *answers(const struct mdl_graph *g, const char *name, size_t *len)
{
    size_t image = mdl_shape_count(&g->values[g->input].shape);
    uint8_t *images = malloc(2 * image);
    float *out[MDL_MAX_OUTPUTS] = {0};
    int at = mdl_graph_find_output(g, name);
    struct mdl_io io = {images, out};
    struct mdl_backend *b;
    struct mdl_lane *lane;
    struct mdl_graph fused;
    struct mdl_plan *plan;
    struct ut_error e;

    assert_true(at >= 0);
    for (size_t i = 0; i < 2 * image; i++)
        images[i] = (uint8_t)(i * 2654435761u >> 13);
    *len = 2 * mdl_shape_count(&g->values[g->outputs[at]].shape);
    out[at] = malloc(*len * sizeof(float));
    assert_int_equal(mdl_graph_optimise(g, 1ull << at, &fused, &e), UT_OK);
    assert_int_equal(mdl_backend_open("cpu", 0, &b, &e), UT_OK);
    assert_int_equal(mdl_lane_new(b, &lane, &e), UT_OK);
    assert_int_equal(mdl_plan_new(lane, &fused, MDL_PREC_F32, 2, &plan, &e),
                     UT_OK);
    assert_int_equal(mdl_plan_run(plan, &io, &e), UT_OK);
    mdl_plan_free(plan);
    mdl_lane_free(lane);
    mdl_backend_close(b);
    mdl_graph_fini(&fused);
    free(images);
    return out[at];
}

/* Normalisations that are not the identity: folded, they leave biases that
 * differ. */
static void draw_statistics(struct mdl_model *m)
{
    float *at = m->floats;

    for (int i = 0; i < m->graph.n_values; i++) {
        const struct mdl_value *v = &m->graph.values[i];
        size_t n = v->data ? mdl_shape_count(&v->shape) : 0;

        for (size_t k = 0; v->shape.n_dims == 1 && k < n; k++)
            at[k] += (float)((k * 2654435761u + (size_t)i) % 64) / 256;
        at += n;
    }
}

/* written: what of m, as trained or optimised, goes through the file. */
static void same_numbers(const struct mdl_graph *m,
                         const struct mdl_graph *written)
{
    static const char *const outputs[] = {"fatigue.logit",
                                          "recognition.embedding"};
    char path[] = "/tmp/test_onnx_XXXXXX";
    struct mdl_graph back;
    uint64_t keep = 0;
    struct ut_error e;
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    close(fd);
    for (int k = 0; k < 2; k++)
        keep |= 1ull << mdl_graph_find_output(m, outputs[k]);
    if (mdl_onnx_write(path, written, keep, &e) ||
        mdl_onnx_read(path, &bytes_in, &back, &e))
        fail_msg("%s", e.msg);
    unlink(path);
    for (int k = 0; k < 2; k++) {
        size_t n, n_back;
        float *want = answers(m, outputs[k], &n);
        float *got = answers(&back, outputs[k], &n_back);

        assert_int_equal(n, n_back);
        assert_close(got, want, n, 1e-4, 1e-4, outputs[k]);
        free(want);
        free(got);
    }
    mdl_graph_fini(&back);
}

static void read__what_was_written__same_numbers(void **state)
{
    static const char *const specs[] = {"mobilenetv2", "iresnet18"};
    static const char iresnet18[] =
        "{\"input\":112,\"trees\":[{\"name\":\"root\",\"module\":\"iresnet18\","
        "\"children\":[{\"name\":\"fatigue\",\"module\":\"lase\",\"head\":"
        "\"binary\"},{\"name\":\"recognition\",\"module\":\"lase\",\"head\":"
        "\"embedding\"}]}]}";

    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *text = mdl_model_builtin_spec(specs[i]);
        struct mdl_spec *spec = malloc(sizeof(*spec));
        struct mdl_model m = {0};
        struct mdl_graph fused;
        struct ut_error e;

        text = text ? text : iresnet18;
        assert_int_equal(mdl_spec_parse(text, strlen(text), spec, &e), UT_OK);
        assert_int_equal(mdl_model_fresh(spec, 1, &m, &e), UT_OK);
        draw_statistics(&m);
        same_numbers(&m.graph, &m.graph);
        /* IResNet's shifts are Adds of constants, which are not read. */
        assert_int_equal(mdl_graph_optimise(&m.graph, ~0ull, &fused, &e),
                         UT_OK);
        if (i == 0)
            same_numbers(&m.graph, &fused);
        mdl_graph_fini(&fused);
        mdl_model_close(&m);
        free(spec);
    }
}

/* ---- networks by hand ---- */

/* A small model: a picture of 8x8, then what a case puts behind it. */
struct hand {
    Onnx__Model model;
    Onnx__Graph graph;
    Onnx__OperatorSet opset, *opsets[1];
    Onnx__ValueInfo in, out, again, *ins[1], *outs[2];
    Onnx__Type type;
    Onnx__TensorType tensor_type;
    Onnx__Shape shape;
    Onnx__Dimension dims[4], *dim[4];
    Onnx__Tensor tensors[8], *tensor[8];
    Onnx__Node nodes[16], *node[16];
    Onnx__Attribute attributes[16], *attribute[16];
    char *names[128];
    int64_t numbers[64];
    float floats[4096];
    int n_names, n_numbers, n_floats, n_attributes;
};

static void start(struct hand *h)
{
    static const int64_t side[] = {1, 3, 8, 8};

    memset(h, 0, sizeof(*h));
    onnx__model__init(&h->model);
    onnx__graph__init(&h->graph);
    onnx__operator_set__init(&h->opset);
    onnx__value_info__init(&h->in);
    onnx__value_info__init(&h->out);
    onnx__type__init(&h->type);
    onnx__tensor_type__init(&h->tensor_type);
    onnx__shape__init(&h->shape);
    for (int i = 0; i < 4; i++) {
        onnx__dimension__init(&h->dims[i]);
        h->dims[i].dim_value = side[i];
        h->dim[i] = &h->dims[i];
    }
    h->opset.domain = "";
    h->opset.version = 17;
    h->opsets[0] = &h->opset;
    h->shape.n_dim = 4;
    h->shape.dim = h->dim;
    h->tensor_type.elem_type = 1;
    h->tensor_type.shape = &h->shape;
    h->type.tensor_type = &h->tensor_type;
    h->in.name = "in";
    h->in.type = &h->type;
    h->out.name = "out";
    h->ins[0] = &h->in;
    h->outs[0] = &h->out;
    h->model.graph = &h->graph;
    h->model.n_opset_import = 1;
    h->model.opset_import = h->opsets;
    h->graph.n_input = h->graph.n_output = 1;
    h->graph.input = h->ins;
    h->graph.output = h->outs;
    h->graph.node = h->node;
    h->graph.initializer = h->tensor;
}

/* A weight of counting numbers. */
static Onnx__Tensor *weight(struct hand *h, char *name, int n_dims,
                            const int64_t *dims)
{
    Onnx__Tensor *t = &h->tensors[h->graph.n_initializer];
    size_t count = 1;

    onnx__tensor__init(t);
    t->name = name;
    t->data_type = 1;
    t->n_dims = (size_t)n_dims;
    t->dims = h->numbers + h->n_numbers;
    for (int i = 0; i < n_dims; i++) {
        h->numbers[h->n_numbers++] = dims[i];
        count *= (size_t)dims[i];
    }
    t->n_float_data = count;
    t->float_data = h->floats + h->n_floats;
    for (size_t i = 0; i < count; i++)
        h->floats[h->n_floats++] = (float)i / 8;
    h->tensor[h->graph.n_initializer++] = t;
    return t;
}

/* A node; inputs are apart by blanks. */
static Onnx__Node *node(struct hand *h, char *op, const char *inputs, char *out)
{
    Onnx__Node *n = &h->nodes[h->graph.n_node];
    char *copy = strdup(inputs), *rest = copy, *name;

    onnx__node__init(n);
    n->op_type = op;
    n->input = h->names + h->n_names;
    while ((name = strsep(&rest, " ")))
        h->names[h->n_names + (int)n->n_input++] = strdup(name);
    h->n_names += (int)n->n_input;
    n->output = h->names + h->n_names;
    n->n_output = 1;
    h->names[h->n_names++] = strdup(out);
    n->attribute = h->attribute + h->n_attributes;
    h->node[h->graph.n_node++] = n;
    free(copy);
    return n;
}

/* An attribute of the last node. */
static Onnx__Attribute *with(struct hand *h, char *name)
{
    Onnx__Attribute *a = &h->attributes[h->n_attributes];

    onnx__attribute__init(a);
    a->name = name;
    h->attribute[h->n_attributes++] = a;
    h->nodes[h->graph.n_node - 1].n_attribute++;
    return a;
}

static void with_ints(struct hand *h, char *name, int n, int64_t v)
{
    Onnx__Attribute *a = with(h, name);

    a->n_ints = (size_t)n;
    a->ints = h->numbers + h->n_numbers;
    for (int i = 0; i < n; i++)
        h->numbers[h->n_numbers++] = v;
}

static enum ut_err read_hand(struct hand *h, struct mdl_graph *g,
                             struct ut_error *e)
{
    size_t len = onnx__model__get_packed_size(&h->model);
    uint8_t *bytes = malloc(len);
    enum ut_err rc;

    onnx__model__pack(&h->model, bytes);
    rc = mdl_onnx_read_memory("hand", bytes, len, &bytes_in, g, e);
    free(bytes);
    while (h->n_names)
        free(h->names[--h->n_names]);
    return rc;
}

static void conv(struct hand *h, const char *in, char *out)
{
    weight(h, "w", 4, (int64_t[]){4, 3, 3, 3});
    node(h, "Conv", in, out);
    with_ints(h, "pads", 4, 1);
}

/* ---- what each fault says ---- */

static void unknown_operator(struct hand *h)
{
    node(h, "ArgMax", "in", "out");
}

static void other_domain(struct hand *h)
{
    node(h, "Relu", "in", "out")->domain = "com.example";
}

static void old_opset(struct hand *h)
{
    conv(h, "in w", "out");
    h->opset.version = 6;
}

static void new_opset(struct hand *h)
{
    conv(h, "in w", "out");
    h->opset.version = 22;
}

static void no_output(struct hand *h)
{
    conv(h, "in w", "other");
}

static void no_weights(struct hand *h)
{
    node(h, "Conv", "in w", "out");
}

static void made_twice(struct hand *h)
{
    conv(h, "in w", "out");
    node(h, "Relu", "out", "out");
}

static void short_weights(struct hand *h)
{
    conv(h, "in w", "out");
    h->tensors[0].n_float_data = 107;
}

static void weights_elsewhere(struct hand *h)
{
    conv(h, "in w", "out");
    h->tensors[0].data_location = 1;
}

static void integer_weights(struct hand *h)
{
    conv(h, "in w", "out");
    h->tensors[0].data_type = 7;
}

static void negative_dimension(struct hand *h)
{
    conv(h, "in w", "out");
    h->tensors[0].dims[1] = -3;
}

static void huge_dimensions(struct hand *h)
{
    conv(h, "in w", "out");
    h->tensors[0].dims[0] = h->tensors[0].dims[1] = 1 << 20;
}

static void other_channels(struct hand *h)
{
    weight(h, "w", 4, (int64_t[]){4, 5, 3, 3});
    node(h, "Conv", "in w", "out");
}

static void uneven_strides(struct hand *h)
{
    conv(h, "in w", "out");
    with_ints(h, "strides", 2, 1);
    h->attributes[1].ints[1] = 2;
}

static void dilated(struct hand *h)
{
    conv(h, "in w", "out");
    with_ints(h, "dilations", 2, 2);
}

static void automatic_pads(struct hand *h)
{
    Onnx__Attribute *a;

    conv(h, "in w", "out");
    a = with(h, "auto_pad");
    a->s.data = (uint8_t *)"SAME_UPPER";
    a->s.len = 10;
}

static void clip_elsewhere(struct hand *h)
{
    conv(h, "in w", "a");
    node(h, "Clip", "a", "out");
    with(h, "min")->f = -1;
    with(h, "max")->f = 1;
}

static void some_slopes(struct hand *h)
{
    conv(h, "in w", "a");
    weight(h, "s", 3, (int64_t[]){3, 1, 1});
    node(h, "PRelu", "a s", "out");
}

static void grey_picture(struct hand *h)
{
    h->dims[1].dim_value = 1;
    conv(h, "in w", "out");
}

static void any_size(struct hand *h)
{
    h->dims[2].dim_value = 0;
    conv(h, "in w", "out");
}

static void too_large(struct hand *h)
{
    h->dims[2].dim_value = 4097;
    conv(h, "in w", "out");
}

static void flattened_map(struct hand *h)
{
    conv(h, "in w", "a");
    node(h, "Flatten", "a", "b");
    node(h, "Relu", "b", "out");
}

static void part_of_the_map(struct hand *h)
{
    conv(h, "in w", "a");
    node(h, "AveragePool", "a", "out");
    with_ints(h, "kernel_shape", 2, 2);
}

static void late_cast(struct hand *h)
{
    conv(h, "in w", "a");
    node(h, "Cast", "a", "out");
}

static void other_sides(struct hand *h)
{
    node(h, "Transpose", "in", "a");
    with_ints(h, "perm", 4, 0);
    h->attributes[0].ints[1] = 1;
    h->attributes[0].ints[2] = 3;
    h->attributes[0].ints[3] = 2;
    conv(h, "a w", "out");
}

/* A picture whose colours are last, and a Transpose that is as it should be. */
static void turned(struct hand *h)
{
    h->tensor_type.elem_type = 2;
    h->dims[1].dim_value = 8;
    h->dims[3].dim_value = 3;
    node(h, "Transpose", "in", "a");
    with_ints(h, "perm", 4, 0);
    h->attributes[0].ints[1] = 3;
    h->attributes[0].ints[2] = 1;
    h->attributes[0].ints[3] = 2;
}

static void turned_twice(struct hand *h)
{
    turned(h);
    node(h, "Transpose", "a", "b");
    with_ints(h, "perm", 4, 0);
    memcpy(h->attributes[1].ints, h->attributes[0].ints, 4 * sizeof(int64_t));
    conv(h, "b w", "out");
}

static void not_turned(struct hand *h)
{
    turned(h);
    conv(h, "in w", "out");
}

static void colours_of_rows(struct hand *h)
{
    weight(h, "k", 1, (int64_t[]){3});
    node(h, "Sub", "in k", "a");
    conv(h, "a w", "out");
}

static void other_colours(struct hand *h)
{
    static int64_t mixed[] = {0, 2, 1};
    Onnx__Tensor *t = weight(h, "order", 1, (int64_t[]){3});

    t->data_type = 7;
    t->n_float_data = 0;
    t->n_int64_data = 3;
    t->int64_data = mixed;
    node(h, "Gather", "in order", "a");
    with(h, "axis")->i = 1;
    conv(h, "a w", "out");
}

static void gathered_rows(struct hand *h)
{
    other_colours(h);
    h->attributes[0].i = 2;
}

static void slopes_of_columns(struct hand *h)
{
    conv(h, "in w", "a");
    weight(h, "s", 1, (int64_t[]){4});
    node(h, "PRelu", "a s", "out");
}

static void mean_of_colours(struct hand *h)
{
    conv(h, "in w", "a");
    node(h, "ReduceMean", "a", "out");
    with_ints(h, "axes", 1, 1);
}

static void no_opset(struct hand *h)
{
    conv(h, "in w", "out");
    h->model.n_opset_import = 0;
}

static void no_graph(struct hand *h)
{
    h->model.graph = NULL;
}

static void scaled_gemm(struct hand *h)
{
    weight(h, "w", 2, (int64_t[]){192, 2});
    node(h, "Gemm", "in w", "out");
    with(h, "alpha")->f = 2;
}

static void read__faults__named(void **state)
{
    static const struct {
        void (*make)(struct hand *h);
        const char *says;
    } cases[] = {
        {unknown_operator, "node 0, ArgMax: this operator is not supported"},
        {other_domain, "node 0, Relu: this operator is not supported"},
        {old_opset, "opset 6 is not between 7 and 21"},
        {new_opset, "opset 22 is not between 7 and 21"},
        {no_opset, "opset 0"},
        {no_graph, "has no graph"},
        {no_output, "nothing makes the output \"out\""},
        {no_weights, "there is no \"w\""},
        {made_twice, "node 1, Relu: \"out\" is made twice"},
        {short_weights, "\"w\" is not 108 float32"},
        {weights_elsewhere, "inside the file"},
        {integer_weights, "\"w\" is not 108 float32"},
        {negative_dimension, "\"w\" is [4, -3, 3, 3], not 1 to 268435456"},
        {huge_dimensions, "\"w\" is [1048576, 1048576, 3, 3], not 1 to 26843"},
        {other_channels, "node 0, Conv"},
        {uneven_strides, "strides must be alike"},
        {dilated, "dilations must be alike"},
        {automatic_pads, "auto_pad is not supported"},
        {clip_elsewhere, "to -1 and 1, not 0 and 6"},
        {some_slopes, "3 slopes for 4 channels"},
        {grey_picture, "its input is 1x8x8"},
        {any_size, "not a picture of a fixed size"},
        {too_large, "its input is 3x4097x8"},
        {flattened_map, "node 2, Relu: of a flattened map"},
        {part_of_the_map, "less than the whole map"},
        {late_cast, "Cast: is supported on the picture alone"},
        {scaled_gemm, "alpha, beta and transA"},
        {other_sides, "Transpose: is supported from [N,H,W,3] to [N,3,H,W]"},
        {turned_twice, "node 1, Transpose: is supported from [N,H,W,3]"},
        {not_turned, "\"in\" is [N,H,W,3], not [N,3,H,W]"},
        {colours_of_rows, "by 3 numbers that are not one for each colour"},
        {other_colours, "Gather: of other indices than 2, 1, 0"},
        {gathered_rows, "Gather: axis 2"},
        {slopes_of_columns, "4 slopes for 4 channels"},
        {mean_of_colours, "over other axes than 2 and 3"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct hand *h = malloc(sizeof(*h));
        struct mdl_graph g;
        struct ut_error e = {0};

        start(h);
        cases[i].make(h);
        if (read_hand(h, &g, &e) != UT_EFORMAT || !strstr(e.msg, cases[i].says))
            fail_msg("%zu: \"%s\" is not in \"%s\"", i, cases[i].says, e.msg);
        free(h);
    }
}

/* A map of 2^8 numbers, joined with itself n times over: 2^(8 + 3n). */
static enum ut_err read_joined(int n, struct mdl_graph *g, struct ut_error *e)
{
    static char names[][2] = {"a", "b", "c", "d", "e", "f", "g",
                              "h", "i", "j", "k", "l", "m", "n"};
    struct hand *h = malloc(sizeof(*h));
    enum ut_err rc;

    start(h);
    conv(h, "in w", names[0]);
    for (int i = 0; i < n; i++) {
        char inputs[] = "? ? ? ? ? ? ? ?";

        for (int k = 0; k < 16; k += 2)
            inputs[k] = *names[i];
        node(h, "Concat", inputs, names[i + 1]);
        with(h, "axis")->i = 1;
    }
    h->out.name = names[n];
    rc = read_hand(h, g, e);
    free(h);
    return rc;
}

static void read__values_that_grow__up_to_the_limit(void **state)
{
    struct mdl_graph g;
    struct ut_error e;

    (void)state;
    if (read_joined(6, &g, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(mdl_shape_count(&g.values[g.outputs[0]].shape), 1 << 26);
    mdl_graph_fini(&g);
    for (int n = 7; n <= 12; n++) {
        assert_int_equal(read_joined(n, &g, &e), UT_EFORMAT);
        assert_non_null(strstr(e.msg, "node 7, Concat: [8388608, 8, 8] is not "
                                      "1 to 67108864 numbers"));
    }
}

/* The picture's arithmetic ends up in the IMAGE node, pads and all. */
static void read__normalised_inside__one_image_node(void **state)
{
    struct hand *h = malloc(sizeof(*h));
    struct mdl_graph g;
    struct ut_error e;

    (void)state;
    start(h);
    weight(h, "half", 0, NULL)->float_data[0] = 127.5f;
    weight(h, "each", 3, (int64_t[]){3, 1, 1});
    node(h, "Sub", "in half", "a");
    node(h, "Div", "a half", "b");
    node(h, "Add", "b each", "c");
    conv(h, "c w", "d");
    node(h, "GlobalAveragePool", "d", "e");
    weight(h, "w2", 4, (int64_t[]){2, 4, 1, 1});
    node(h, "Conv", "e w2", "out");
    if (read_hand(h, &g, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(g.nodes[0].op, MDL_OP_IMAGE);
    for (int c = 0; c < 3; c++) {
        const struct mdl_node *n = &g.nodes[0];
        double at100 = (100 - n->mean[c]) * n->scale[c];

        assert_true(at100 > (100 - 127.5) / 127.5 + c / 8.0 - 1e-5 &&
                    at100 < (100 - 127.5) / 127.5 + c / 8.0 + 1e-5);
    }
    assert_int_equal(g.nodes[g.n_nodes - 1].op, MDL_OP_LINEAR);
    mdl_graph_fini(&g);
    free(h);
}

/* A tensor under two names: whichever is kept, it is made. */
static void read__one_tensor_two_outputs__each_by_itself(void **state)
{
    struct hand *h = malloc(sizeof(*h));
    struct mdl_graph g;
    struct ut_error e;
    float *first, *second;
    size_t n, n_second;

    (void)state;
    start(h);
    conv(h, "in w", "out");
    node(h, "Identity", "out", "again");
    onnx__value_info__init(&h->again);
    h->again.name = "again";
    h->outs[1] = &h->again;
    h->graph.n_output = 2;
    if (read_hand(h, &g, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(g.n_outputs, 2);
    first = answers(&g, "out", &n);
    second = answers(&g, "again", &n_second);
    assert_int_equal(n, 2 * 4 * 8 * 8);
    assert_int_equal(n_second, n);
    assert_true(first[0] != 0);
    assert_memory_equal(first, second, n * sizeof(float));
    free(first);
    free(second);
    mdl_graph_fini(&g);
    free(h);
}

static void read__no_file_or_noise__named(void **state)
{
    struct mdl_onnx_input in;
    struct mdl_graph g;
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_onnx_read("/nowhere.onnx", &bytes_in, &g, &e), UT_EIO);
    assert_non_null(strstr(e.msg, "/nowhere.onnx"));
    assert_int_equal(
        mdl_onnx_read_memory("noise", "\xff\xff\xff", 3, &bytes_in, &g, &e),
        UT_EFORMAT);
    assert_non_null(strstr(e.msg, "noise: is no ONNX file"));
    assert_true(mdl_onnx_input_parse("imagenet", &in));
    assert_false(mdl_onnx_input_parse("other", &in));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read__what_was_written__same_numbers),
        cmocka_unit_test(read__faults__named),
        cmocka_unit_test(read__values_that_grow__up_to_the_limit),
        cmocka_unit_test(read__normalised_inside__one_image_node),
        cmocka_unit_test(read__one_tensor_two_outputs__each_by_itself),
        cmocka_unit_test(read__no_file_or_noise__named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
