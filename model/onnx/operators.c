/* Operators of ONNX as nodes of a graph. What comes before the first real one
 * (casts, transposes, constants subtracted and multiplied) is gathered into the
 * IMAGE node. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/onnx/reader.h"

static void op_conv(struct onnx_reader *r)
{
    int x = onnx_map(r, 0), w = onnx_weights(r, 1, 4),
        b = onnx_weights(r, 2, 1);
    int stride = onnx_same(r, "strides", 2, 1, 16, 1);
    int pad = onnx_same(r, "pads", 4, 0, 64, 0);
    int64_t groups = onnx_integer(r, "group", 1);

    onnx_same(r, "dilations", 2, 1, 1, 1);
    if (onnx_attribute(r, "auto_pad") && onnx_attribute(r, "auto_pad")->s.len &&
        memcmp(onnx_attribute(r, "auto_pad")->s.data, "NOTSET",
               onnx_attribute(r, "auto_pad")->s.len < 6
                   ? onnx_attribute(r, "auto_pad")->s.len
                   : 6))
        onnx_bad(r, "auto_pad is not supported");
    if (groups < 1 || groups > INT32_MAX)
        onnx_bad(r, "group %lld", (long long)groups);
    if (r->rc || x < 0 || w < 0)
        return;
    /* After a global pool a 1x1 convolution is a product with a vector. */
    if (r->g->values[x].shape.n_dims == 1) {
        const struct mdl_shape *s = &r->g->values[w].shape;

        if (s->dim[2] != 1 || s->dim[3] != 1 || groups != 1 || pad) {
            onnx_bad(r, "over one place must be 1x1");
            return;
        }
        r->g->values[w].shape = mdl_shape_of(2, (int)s->dim[0], (int)s->dim[1]);
        onnx_result(r, mdl_graph_linear(r->g, x, w, b));
        return;
    }
    onnx_result(r, mdl_graph_conv(r->g, x, w, b, stride, pad, (int)groups));
}

static void op_batchnorm(struct onnx_reader *r)
{
    int x = onnx_map(r, 0), gamma = onnx_weights(r, 1, 1),
        beta = onnx_weights(r, 2, 1);
    int mean = onnx_weights(r, 3, 1), var = onnx_weights(r, 4, 1);

    if (r->rc || mean < 0 || var < 0)
        onnx_bad(r, "lacks its mean or variance");
    else
        onnx_result(r, mdl_graph_batchnorm(r->g, x, gamma, beta, mean, var,
                                           onnx_number(r, "epsilon", 1e-5f)));
}

/* Whether the last n dimensions are 1. */
static bool ends_in_ones(const struct mdl_shape *s, int n)
{
    for (int i = 1; i <= n; i++)
        if (s->n_dims < i || s->dim[s->n_dims - i] != 1)
            return false;
    return true;
}

/* [C,1,1] of a map, [C] of a vector, or one number for all: [C]. */
static void op_prelu(struct onnx_reader *r)
{
    int x = onnx_map(r, 0), channels;
    struct mdl_shape shape;
    float *slope, *full;
    size_t n;

    slope = onnx_floats(r, onnx_given(r, 1), &shape);
    if (!slope || x < 0) {
        free(slope);
        return;
    }
    n = mdl_shape_count(&shape);
    channels = (int)r->g->values[x].shape.dim[0];
    if (n != 1 &&
        (n != (size_t)channels ||
         !ends_in_ones(&shape, r->g->values[x].shape.n_dims == 3 ? 2 : 0))) {
        onnx_bad(r, "%zu slopes for %d channels", n, channels);
        free(slope);
        return;
    }
    full = malloc((size_t)channels * sizeof(*full));
    if (!full) {
        r->rc = ut_fail(r->e, UT_ENOMEM, "no memory for %d slopes", channels);
        free(slope);
        return;
    }
    for (int c = 0; c < channels; c++)
        full[c] = slope[n == 1 ? 0 : c];
    free(slope);
    onnx_result(r,
                mdl_graph_act(r->g, x, MDL_ACT_PRELU, 0,
                              onnx_param(r, mdl_shape_of(1, channels), full)));
}

static void act(struct onnx_reader *r, enum mdl_act kind, float alpha)
{
    int x = onnx_map(r, 0);

    if (x >= 0)
        onnx_result(r, mdl_graph_act(r->g, x, kind, alpha, -1));
}

static void op_relu(struct onnx_reader *r)
{
    act(r, MDL_ACT_RELU, 0);
}

static void op_leaky(struct onnx_reader *r)
{
    act(r, MDL_ACT_LEAKY, onnx_number(r, "alpha", 0.01f));
}

static void op_sigmoid(struct onnx_reader *r)
{
    act(r, MDL_ACT_SIGMOID, 0);
}

static void op_clip(struct onnx_reader *r)
{
    float low = onnx_scalar(r, 1, onnx_number(r, "min", -INFINITY));
    float high = onnx_scalar(r, 2, onnx_number(r, "max", INFINITY));

    if (low == 0 && high == 6)
        act(r, MDL_ACT_RELU6, 0);
    else if (low == 0 && high > 1e30f)
        act(r, MDL_ACT_RELU, 0);
    else
        onnx_bad(r, "to %g and %g, not 0 and 6", (double)low, (double)high);
}

/* A picture's normalisation: y = (in - mean) * scale, moved on by a constant
 * of one number or one for each colour, where those are: [3,1,1] or [3]. */
static void op_picture(struct onnx_reader *r, const struct onnx_entry *constant,
                       char sign)
{
    struct mdl_shape shape;
    float *k = onnx_floats(r, constant, &shape);
    struct mdl_onnx_input *in;
    struct onnx_entry *y;
    size_t n;

    if (!k)
        return;
    n = mdl_shape_count(&shape);
    onnx_pass(r, false);
    y = onnx_find(r, r->node->output[0]);
    if (r->rc || !y ||
        (n != 1 && (n != 3 || !ends_in_ones(&shape, y->last ? 0 : 2) ||
                    (y->last && shape.dim[shape.n_dims - 1] != 3)))) {
        onnx_bad(r, "by %zu numbers that are not one for each colour", n);
        free(k);
        return;
    }
    in = &y->made;
    for (int c = 0; c < 3; c++) {
        float v = k[n == 1 ? 0 : c];

        if (sign == '*')
            in->scale[c] *= v;
        else if (sign == '/')
            in->scale[c] /= v;
        else
            in->mean[c] += (sign == '-' ? v : -v) / in->scale[c];
    }
    free(k);
}

static void op_arithmetic(struct onnx_reader *r)
{
    const struct onnx_entry *a = onnx_given(r, 0), *b = onnx_given(r, 1);
    char sign = *r->node->op_type == 'A'   ? '+'
                : *r->node->op_type == 'S' ? '-'
                : *r->node->op_type == 'M' ? '*'
                                           : '/';
    int x, y;

    if (a && b && a->kind == ONNX_PICTURE && b->kind == ONNX_CONSTANT) {
        op_picture(r, b, sign);
        return;
    }
    x = onnx_map(r, 0);
    y = onnx_map(r, 1);
    if (x < 0 || y < 0)
        return;
    if (sign == '+')
        onnx_result(r, mdl_graph_add(r->g, (int[]){x, y}, 2));
    else if (sign == '*' && r->g->values[x].shape.n_dims == 1)
        onnx_result(r, mdl_graph_scale(r->g, y, x));
    else if (sign == '*')
        onnx_result(r, mdl_graph_scale(r->g, x, y));
    else
        onnx_bad(r, "is supported on the picture alone");
}

static void op_pool(struct onnx_reader *r)
{
    int x = onnx_map(r, 0);

    if (x >= 0)
        onnx_result(r, mdl_graph_pool(r->g, x));
}

/* An average over the whole map. */
static void op_average(struct onnx_reader *r)
{
    const Onnx__Attribute *kernel = onnx_attribute(r, "kernel_shape");
    int x = onnx_map(r, 0);
    const struct mdl_shape *s = x < 0 ? NULL : &r->g->values[x].shape;

    if (!s)
        return;
    if (!kernel || kernel->n_ints != 2 || s->n_dims != 3 ||
        kernel->ints[0] != s->dim[1] || kernel->ints[1] != s->dim[2] ||
        onnx_same(r, "pads", 4, 0, 0, 0))
        onnx_bad(r, "over less than the whole map is not supported");
    else
        onnx_result(r, mdl_graph_pool(r->g, x));
}

/* Over height and width: an attribute, from opset 18 on an input. */
static void op_reduce_mean(struct onnx_reader *r)
{
    static const int64_t places[][2] = {{2, 3}, {-2, -1}};
    const Onnx__Attribute *axes = onnx_attribute(r, "axes");
    const struct onnx_entry *given = onnx_given(r, 1);
    int x = onnx_map(r, 0);
    bool whole = false;

    for (int i = 0; i < 2; i++)
        whole |= axes ? axes->n_ints == 2 &&
                            !memcmp(axes->ints, places[i], sizeof(places[i]))
                      : onnx_integers_are(given, places[i], 2);
    if (!whole || x < 0 || r->g->values[x].shape.n_dims != 3)
        onnx_bad(r, "over other axes than 2 and 3 is not supported");
    else
        onnx_result(r, mdl_graph_pool(r->g, x));
}

/* b [K,O] or, transposed, [O,K]; the graph's is [O,K]. */
static int matrix(struct onnx_reader *r, bool transposed)
{
    struct mdl_shape s;
    float *b = onnx_floats(r, onnx_given(r, 1), &s), *turned;
    size_t k, o;

    if (!b || s.n_dims != 2) {
        onnx_bad(r, "weights are not a matrix");
        free(b);
        return -1;
    }
    if (transposed)
        return onnx_param(r, s, b);
    k = (size_t)s.dim[0];
    o = (size_t)s.dim[1];
    turned = malloc(k * o * sizeof(*turned));
    for (size_t i = 0; turned && i < o; i++)
        for (size_t j = 0; j < k; j++)
            turned[i * k + j] = b[j * o + i];
    free(b);
    if (!turned) {
        r->rc = ut_fail(r->e, UT_ENOMEM, "no memory for %zu weights", k * o);
        return -1;
    }
    return onnx_param(r, mdl_shape_of(2, (int)o, (int)k), turned);
}

static void op_gemm(struct onnx_reader *r)
{
    bool gemm = *r->node->op_type == 'G';
    int x = onnx_value(r, 0),
        w = matrix(r, gemm && onnx_integer(r, "transB", 0));
    int b = gemm ? onnx_weights(r, 2, 1) : -1;

    if (onnx_number(r, "alpha", 1) != 1 || onnx_number(r, "beta", 1) != 1 ||
        onnx_integer(r, "transA", 0))
        onnx_bad(r, "alpha, beta and transA are not supported");
    if (!r->rc)
        onnx_result(r, mdl_graph_linear(r->g, x, w, b));
}

/* Sum and Concat. */
static void op_many(struct onnx_reader *r)
{
    bool sum = *r->node->op_type == 'S';
    int list[MDL_NODE_INPUTS], n = (int)r->node->n_input;

    if (n < 1 || n > MDL_NODE_INPUTS || onnx_integer(r, "axis", 1) != 1) {
        onnx_bad(r, "of %d inputs along axis %lld is not supported", n,
                 (long long)onnx_integer(r, "axis", 1));
        return;
    }
    for (int i = 0; i < n; i++)
        list[i] = onnx_map(r, (size_t)i);
    if (!r->rc)
        onnx_result(r, sum ? mdl_graph_add(r->g, list, n)
                           : mdl_graph_concat(r->g, list, n));
}

static void op_constant(struct onnx_reader *r)
{
    const Onnx__Attribute *a = onnx_attribute(r, "value");
    struct onnx_entry *x;

    if (!a || !a->t) {
        onnx_bad(r, "has no tensor");
        return;
    }
    x = onnx_add(r, r->node->output[0], ONNX_CONSTANT);
    if (x)
        x->tensor = a->t;
}

static void op_flatten(struct onnx_reader *r)
{
    if (onnx_integer(r, "axis", 1) != 1)
        onnx_bad(r, "axis %lld", (long long)onnx_integer(r, "axis", 1));
    onnx_pass(r, true);
}

/* Whatever the new shape is, only [N, everything] is right for what follows. */
static void op_reshape(struct onnx_reader *r)
{
    onnx_value(r, 0);
    onnx_pass(r, true);
}

static void op_identity(struct onnx_reader *r)
{
    onnx_pass(r, false);
}

/* Casts belong to the way from bytes to the picture, and so do the next two. */
static void op_of_picture(struct onnx_reader *r)
{
    const struct onnx_entry *x = onnx_given(r, 0);

    if (!x || x->kind != ONNX_PICTURE)
        onnx_bad(r, "is supported on the picture alone");
    onnx_pass(r, false);
}

/* [N,H,W,3] to [N,3,H,W]. */
static void op_transpose(struct onnx_reader *r)
{
    static const int64_t colours_first[] = {0, 3, 1, 2};
    const Onnx__Attribute *perm = onnx_attribute(r, "perm");
    struct onnx_entry *y;

    op_of_picture(r);
    y = onnx_find(r, r->node->output[0]);
    if (!perm || perm->n_ints != 4 ||
        memcmp(perm->ints, colours_first, sizeof(colours_first)) ||
        (y && !y->last))
        onnx_bad(r, "is supported from [N,H,W,3] to [N,3,H,W] alone");
    if (!r->rc && y)
        y->last = false;
}

static void swap(float *a, float *b)
{
    float was = *a;

    *a = *b;
    *b = was;
}

/* Colours in the other order. */
static void op_gather(struct onnx_reader *r)
{
    static const int64_t backwards[] = {2, 1, 0};
    int64_t axis = onnx_integer(r, "axis", 0);
    struct mdl_onnx_input *in;
    struct onnx_entry *y;

    op_of_picture(r);
    y = onnx_find(r, r->node->output[0]);
    if (y && axis != (y->last ? 3 : 1))
        onnx_bad(r, "axis %lld", (long long)axis);
    if (!onnx_integers_are(onnx_given(r, 1), backwards, 3))
        onnx_bad(r, "of other indices than 2, 1, 0");
    if (r->rc || !y)
        return;
    in = &y->made;
    in->bgr = !in->bgr;
    /* What was done to each colour goes with it. */
    swap(&in->mean[0], &in->mean[2]);
    swap(&in->scale[0], &in->scale[2]);
}

static const struct {
    const char *name;
    void (*read)(struct onnx_reader *r);
} operators[] = {
    {"Add", op_arithmetic},
    {"AveragePool", op_average},
    {"BatchNormalization", op_batchnorm},
    {"Cast", op_of_picture},
    {"Clip", op_clip},
    {"Concat", op_many},
    {"Constant", op_constant},
    {"Conv", op_conv},
    {"Div", op_arithmetic},
    {"Dropout", op_identity},
    {"Flatten", op_flatten},
    {"Gather", op_gather},
    {"Gemm", op_gemm},
    {"GlobalAveragePool", op_pool},
    {"Identity", op_identity},
    {"LeakyRelu", op_leaky},
    {"MatMul", op_gemm},
    {"Mul", op_arithmetic},
    {"PRelu", op_prelu},
    {"ReduceMean", op_reduce_mean},
    {"Relu", op_relu},
    {"Reshape", op_reshape},
    {"Sigmoid", op_sigmoid},
    {"Squeeze", op_reshape},
    {"Sub", op_arithmetic},
    {"Sum", op_many},
    {"Transpose", op_transpose},
};

void onnx_node(struct onnx_reader *r)
{
    const Onnx__Node *n = r->node;

    if (n->n_output < 1) {
        onnx_bad(r, "has no output");
        return;
    }
    for (size_t i = 0; i < sizeof(operators) / sizeof(*operators); i++)
        if (!strcmp(n->op_type, operators[i].name) && !*n->domain) {
            operators[i].read(r);
            return;
        }
    onnx_bad(r, "this operator is not supported");
}
