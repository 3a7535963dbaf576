/* ONNX to a graph: a table of names, a function for each operator. What comes
 * before the first real operator (casts, transposes, constants subtracted and
 * multiplied) is gathered into the IMAGE node. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Running out of memory is an error, not an exit. */
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(item) (item)->lost = true
#include <uthash.h>

#include "base/buf.h"
#include "model/onnx/onnx.h"
#include "model/onnx/onnx.pb-c.h"
#include "model/safetensors.h"

#define MAX_SIDE 4096
#define OPSET_FIRST 7
#define OPSET_LAST 21
enum { TYPE_FLOAT = 1, TYPE_UINT8 = 2, TYPE_FLOAT16 = 10 };

enum kind {
    KIND_RESULT,   /* value of the graph */
    KIND_PICTURE,  /* the input, somewhat normalised */
    KIND_CONSTANT, /* tensor */
};

struct entry {
    const char *name; /* the model's */
    enum kind kind;
    int value;
    bool flat; /* by Flatten or Reshape: [N, everything] */
    bool lost; /* not in the table: no memory */
    const Onnx__Tensor *tensor;
    struct mdl_onnx_input made; /* of a picture */
    UT_hash_handle hh;
};

struct reader {
    const char *name; /* of the file */
    Onnx__Model *model;
    const Onnx__Node *node;
    int at; /* the node's position */
    struct mdl_graph *g;
    struct entry *entries; /* table */
    int picture;           /* the graph's input */
    int n_params;
    struct ut_error *e;
    enum ut_err rc;
};

bool mdl_onnx_input_parse(const char *text, struct mdl_onnx_input *out)
{
    static const struct {
        const char *name;
        struct mdl_onnx_input input;
    } known[] = {
        {"imagenet",
         {{123.675f, 116.28f, 103.53f},
          {1 / 58.395f, 1 / 57.12f, 1 / 57.375f},
          false}},
        {"insightface",
         {{127.5f, 127.5f, 127.5f},
          {1 / 127.5f, 1 / 127.5f, 1 / 127.5f},
          false}},
        {"bytes", {{0, 0, 0}, {1, 1, 1}, false}},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (!strcmp(text, known[i].name)) {
            *out = known[i].input;
            return true;
        }
    return false;
}

/* ---- errors ---- */

/* The first error, with the file and the node. */
static int bad(struct reader *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static int bad(struct reader *r, const char *fmt, ...)
{
    /* Without memory a graph is not built, whatever the file says. */
    enum ut_err code = r->g->error.code == UT_ENOMEM ? UT_ENOMEM : UT_EFORMAT;
    char why[160];
    va_list args;

    if (r->rc)
        return -1;
    va_start(args, fmt);
    vsnprintf(why, sizeof(why), fmt, args);
    va_end(args);
    if (r->node)
        r->rc = ut_fail(r->e, code, "%.100s: node %d, %.30s: %s", r->name,
                        r->at, r->node->op_type, why);
    else
        r->rc = ut_fail(r->e, code, "%.100s: %s", r->name, why);
    return -1;
}

/* ---- names ---- */

static struct entry *find(struct reader *r, const char *name)
{
    struct entry *x;

    HASH_FIND_STR(r->entries, name, x);
    return x;
}

static struct entry *add(struct reader *r, const char *name, enum kind kind)
{
    struct entry *x;

    if (find(r, name)) {
        bad(r, "\"%.60s\" is made twice", name);
        return NULL;
    }
    x = calloc(1, sizeof(*x));
    if (!x) {
        if (!r->rc)
            r->rc = ut_fail(r->e, UT_ENOMEM, "no memory for %.100s", r->name);
        return NULL;
    }
    x->name = name;
    x->kind = kind;
    x->value = -1;
    HASH_ADD_KEYPTR(hh, r->entries, x->name, strlen(x->name), x);
    if (x->lost) {
        if (!r->rc)
            r->rc = ut_fail(r->e, UT_ENOMEM, "no memory for %.100s", r->name);
        free(x);
        return NULL;
    }
    return x;
}

/* The i-th input, or NULL where it is absent. */
static struct entry *given(struct reader *r, size_t i)
{
    struct entry *x;

    if (i >= r->node->n_input || !*r->node->input[i])
        return NULL;
    x = find(r, r->node->input[i]);
    if (!x)
        bad(r, "there is no \"%.60s\"", r->node->input[i]);
    return x;
}

static const Onnx__Attribute *attribute(const struct reader *r,
                                        const char *name)
{
    for (size_t i = 0; i < r->node->n_attribute; i++)
        if (!strcmp(r->node->attribute[i]->name, name))
            return r->node->attribute[i];
    return NULL;
}

static int64_t integer(const struct reader *r, const char *name, int64_t other)
{
    const Onnx__Attribute *a = attribute(r, name);

    return a ? a->i : other;
}

static float number(const struct reader *r, const char *name, float other)
{
    const Onnx__Attribute *a = attribute(r, name);

    return a ? a->f : other;
}

/* A list of n integers that are all the same and between low and high. */
static int same(struct reader *r, const char *name, size_t n, int low, int high,
                int other)
{
    const Onnx__Attribute *a = attribute(r, name);

    if (!a)
        return other;
    if (a->n_ints != n)
        return bad(r, "%s has %zu numbers, not %zu", name, a->n_ints, n);
    for (size_t i = 0; i < n; i++)
        if (a->ints[i] != a->ints[0] || a->ints[i] < low || a->ints[i] > high)
            return bad(r, "%s must be alike, %d to %d", name, low, high);
    return (int)a->ints[0];
}

/* ---- constants ---- */

static bool shape_of(struct reader *r, const Onnx__Tensor *t,
                     struct mdl_shape *out)
{
    int64_t count = 1;

    if (t->n_dims > MDL_MAX_DIMS) {
        bad(r, "\"%.60s\" has %zu dimensions, over %d", t->name, t->n_dims,
            MDL_MAX_DIMS);
        return false;
    }
    out->n_dims = (int)t->n_dims;
    for (size_t i = 0; i < t->n_dims; i++) {
        if (t->dims[i] < 1 || t->dims[i] > INT32_MAX / count) {
            bad(r, "\"%.60s\" has a dimension of %lld", t->name,
                (long long)t->dims[i]);
            return false;
        }
        count *= t->dims[i];
        out->dim[i] = t->dims[i];
    }
    return true;
}

/* A constant's numbers, malloc'ed. */
static float *floats(struct reader *r, const struct entry *x,
                     struct mdl_shape *shape)
{
    const Onnx__Tensor *t = x ? x->tensor : NULL;
    bool half = t && t->data_type == TYPE_FLOAT16;
    size_t n, size;
    float *out;

    if (!x || x->kind != KIND_CONSTANT) {
        bad(r, "an input that must be a constant is not");
        return NULL;
    }
    if (!shape_of(r, t, shape))
        return NULL;
    n = mdl_shape_count(shape);
    size = n * (half ? 2 : 4);
    if (t->data_location || (t->data_type != TYPE_FLOAT && !half) ||
        (t->n_float_data ? t->n_float_data != n || half
                         : t->raw_data.len != size)) {
        bad(r, "\"%.60s\" is not %zu float32 or float16 inside the file",
            t->name, n);
        return NULL;
    }
    out = malloc(n * sizeof(*out));
    if (!out) {
        r->rc = ut_fail(r->e, UT_ENOMEM, "no memory for %.60s", t->name);
        return NULL;
    }
    if (t->n_float_data) {
        memcpy(out, t->float_data, size);
    } else {
        struct mdl_st_tensor raw = {t->name, half ? MDL_F16 : MDL_F32, *shape,
                                    t->raw_data.data, size};
        enum ut_err rc = mdl_st_floats(&raw, out, r->e);

        if (rc) {
            r->rc = rc;
            free(out);
            return NULL;
        }
    }
    return out;
}

/* A parameter of the graph over numbers, which it takes. */
static int param(struct reader *r, struct mdl_shape shape, float *data)
{
    int v;

    if (!data)
        return -1;
    v = mdl_graph_param_owned(r->g, shape, &data, "onnx.%d", r->n_params++);
    free(data); /* unless it was taken */
    return v;
}

/* The constant input i as a parameter; -1 where it is absent. */
static int weights(struct reader *r, size_t i, int n_dims)
{
    const struct entry *x = given(r, i);
    struct mdl_shape shape;
    float *data;

    if (!x)
        return -1;
    data = floats(r, x, &shape);
    if (data && shape.n_dims != n_dims) {
        bad(r, "\"%.60s\" has %d dimensions, not %d", x->name, shape.n_dims,
            n_dims);
        free(data);
        return -1;
    }
    return param(r, shape, data);
}

/* A constant of one number. */
static float scalar(struct reader *r, size_t i, float other)
{
    const struct entry *x = given(r, i);
    struct mdl_shape shape;
    float *data, v;

    if (!x)
        return other;
    data = floats(r, x, &shape);
    if (!data)
        return other;
    v = data[0];
    if (mdl_shape_count(&shape) != 1)
        bad(r, "\"%.60s\" is not one number", x->name);
    free(data);
    return v;
}

/* ---- values ---- */

/* Input i as a value of the graph; a picture becomes its IMAGE node. */
static int value(struct reader *r, size_t i)
{
    struct entry *x = given(r, i);

    if (!x)
        return bad(r, "input %zu is absent", i);
    if (x->kind == KIND_CONSTANT)
        return bad(r, "\"%.60s\" cannot be a constant", x->name);
    if (x->kind == KIND_PICTURE) {
        x->kind = KIND_RESULT;
        x->value = mdl_graph_image(r->g, r->picture, x->made.mean,
                                   x->made.scale, x->made.bgr);
    }
    return x->value;
}

/* As value, of [N,C,H,W] or [N,C]. */
static int map(struct reader *r, size_t i)
{
    int v = value(r, i);
    struct entry *x = v < 0 ? NULL : given(r, i);

    if (x && x->flat && r->g->values[v].shape.n_dims > 1)
        return bad(r, "of a flattened map is not supported");
    return v;
}

static void result(struct reader *r, int v)
{
    struct entry *x;

    if (v < 0 || r->rc)
        return;
    x = add(r, r->node->output[0], KIND_RESULT);
    if (!x)
        return;
    x->value = v;
    snprintf(r->g->values[v].name, MDL_NAME_LEN, "%s", x->name);
}

/* The first input under the first output's name. */
static void pass(struct reader *r, bool flat)
{
    const struct entry *x = given(r, 0);
    struct entry *y;

    if (!x) {
        bad(r, "has no input");
        return;
    }
    y = add(r, r->node->output[0], x->kind);
    if (!y)
        return;
    y->value = x->value;
    y->tensor = x->tensor;
    y->made = x->made;
    y->flat = x->flat || flat;
}

/* ---- operators ---- */

static void op_conv(struct reader *r)
{
    int x = map(r, 0), w = weights(r, 1, 4), b = weights(r, 2, 1);
    int stride = same(r, "strides", 2, 1, 16, 1);
    int pad = same(r, "pads", 4, 0, 64, 0);
    int64_t groups = integer(r, "group", 1);

    same(r, "dilations", 2, 1, 1, 1);
    if (attribute(r, "auto_pad") && attribute(r, "auto_pad")->s.len &&
        memcmp(attribute(r, "auto_pad")->s.data, "NOTSET",
               attribute(r, "auto_pad")->s.len < 6
                   ? attribute(r, "auto_pad")->s.len
                   : 6))
        bad(r, "auto_pad is not supported");
    if (groups < 1 || groups > INT32_MAX)
        bad(r, "group %lld", (long long)groups);
    if (r->rc || x < 0 || w < 0)
        return;
    /* After a global pool a 1x1 convolution is a product with a vector. */
    if (r->g->values[x].shape.n_dims == 1) {
        const struct mdl_shape *s = &r->g->values[w].shape;

        if (s->dim[2] != 1 || s->dim[3] != 1 || groups != 1 || pad) {
            bad(r, "over one place must be 1x1");
            return;
        }
        r->g->values[w].shape = mdl_shape_of(2, (int)s->dim[0], (int)s->dim[1]);
        result(r, mdl_graph_linear(r->g, x, w, b));
        return;
    }
    result(r, mdl_graph_conv(r->g, x, w, b, stride, pad, (int)groups));
}

static void op_batchnorm(struct reader *r)
{
    int x = map(r, 0), gamma = weights(r, 1, 1), beta = weights(r, 2, 1);
    int mean = weights(r, 3, 1), var = weights(r, 4, 1);

    if (r->rc || mean < 0 || var < 0)
        bad(r, "lacks its mean or variance");
    else
        result(r, mdl_graph_batchnorm(r->g, x, gamma, beta, mean, var,
                                      number(r, "epsilon", 1e-5f)));
}

/* [C,1,1] or one number for all: [C]. */
static void op_prelu(struct reader *r)
{
    int x = map(r, 0), channels;
    struct mdl_shape shape;
    float *slope, *full;
    size_t n;

    slope = floats(r, given(r, 1), &shape);
    if (!slope || x < 0) {
        free(slope);
        return;
    }
    n = mdl_shape_count(&shape);
    channels = (int)r->g->values[x].shape.dim[0];
    if (n != 1 && n != (size_t)channels) {
        bad(r, "%zu slopes for %d channels", n, channels);
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
    result(r, mdl_graph_act(r->g, x, MDL_ACT_PRELU, 0,
                            param(r, mdl_shape_of(1, channels), full)));
}

static void act(struct reader *r, enum mdl_act kind, float alpha)
{
    int x = map(r, 0);

    if (x >= 0)
        result(r, mdl_graph_act(r->g, x, kind, alpha, -1));
}

static void op_relu(struct reader *r)
{
    act(r, MDL_ACT_RELU, 0);
}

static void op_leaky(struct reader *r)
{
    act(r, MDL_ACT_LEAKY, number(r, "alpha", 0.01f));
}

static void op_sigmoid(struct reader *r)
{
    act(r, MDL_ACT_SIGMOID, 0);
}

static void op_clip(struct reader *r)
{
    float low = scalar(r, 1, number(r, "min", -INFINITY));
    float high = scalar(r, 2, number(r, "max", INFINITY));

    if (low == 0 && high == 6)
        act(r, MDL_ACT_RELU6, 0);
    else if (low == 0 && high > 1e30f)
        act(r, MDL_ACT_RELU, 0);
    else
        bad(r, "to %g and %g, not 0 and 6", (double)low, (double)high);
}

/* A picture's normalisation: y = (in - mean) * scale, moved on by a constant
 * of one number or [3,1,1]. */
static void op_picture(struct reader *r, const struct entry *constant,
                       char sign)
{
    struct mdl_shape shape;
    float *k = floats(r, constant, &shape);
    struct mdl_onnx_input *in;
    struct entry *y;
    size_t n;

    if (!k)
        return;
    n = mdl_shape_count(&shape);
    pass(r, false);
    y = find(r, r->node->output[0]);
    if (r->rc || !y || (n != 1 && n != 3)) {
        bad(r, "%zu numbers for three colours", n);
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

static void op_arithmetic(struct reader *r)
{
    const struct entry *a = given(r, 0), *b = given(r, 1);
    char sign = *r->node->op_type == 'A'   ? '+'
                : *r->node->op_type == 'S' ? '-'
                : *r->node->op_type == 'M' ? '*'
                                           : '/';
    int x, y;

    if (a && b && a->kind == KIND_PICTURE && b->kind == KIND_CONSTANT) {
        op_picture(r, b, sign);
        return;
    }
    x = map(r, 0);
    y = map(r, 1);
    if (x < 0 || y < 0)
        return;
    if (sign == '+')
        result(r, mdl_graph_add(r->g, (int[]){x, y}, 2));
    else if (sign == '*' && r->g->values[x].shape.n_dims == 1)
        result(r, mdl_graph_scale(r->g, y, x));
    else if (sign == '*')
        result(r, mdl_graph_scale(r->g, x, y));
    else
        bad(r, "is supported on the picture alone");
}

static void op_pool(struct reader *r)
{
    int x = map(r, 0);

    if (x >= 0)
        result(r, mdl_graph_pool(r->g, x));
}

/* An average over the whole map. */
static void op_average(struct reader *r)
{
    const Onnx__Attribute *kernel = attribute(r, "kernel_shape");
    int x = map(r, 0);
    const struct mdl_shape *s = x < 0 ? NULL : &r->g->values[x].shape;

    if (!s)
        return;
    if (!kernel || kernel->n_ints != 2 || s->n_dims != 3 ||
        kernel->ints[0] != s->dim[1] || kernel->ints[1] != s->dim[2] ||
        same(r, "pads", 4, 0, 0, 0))
        bad(r, "over less than the whole map is not supported");
    else
        result(r, mdl_graph_pool(r->g, x));
}

static void op_reduce_mean(struct reader *r)
{
    const Onnx__Attribute *axes = attribute(r, "axes");
    int x = map(r, 0);

    if (!axes || axes->n_ints != 2 ||
        !((axes->ints[0] == 2 && axes->ints[1] == 3) ||
          (axes->ints[0] == -2 && axes->ints[1] == -1)) ||
        x < 0 || r->g->values[x].shape.n_dims != 3)
        bad(r, "over other axes than 2 and 3 is not supported");
    else
        result(r, mdl_graph_pool(r->g, x));
}

/* b [K,O] or, transposed, [O,K]; the graph's is [O,K]. */
static int matrix(struct reader *r, bool transposed)
{
    struct mdl_shape s;
    float *b = floats(r, given(r, 1), &s), *turned;
    size_t k, o;

    if (!b || s.n_dims != 2) {
        bad(r, "weights are not a matrix");
        free(b);
        return -1;
    }
    if (transposed)
        return param(r, s, b);
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
    return param(r, mdl_shape_of(2, (int)o, (int)k), turned);
}

static void op_gemm(struct reader *r)
{
    bool gemm = *r->node->op_type == 'G';
    int x = value(r, 0), w = matrix(r, gemm && integer(r, "transB", 0));
    int b = gemm ? weights(r, 2, 1) : -1;

    if (number(r, "alpha", 1) != 1 || number(r, "beta", 1) != 1 ||
        integer(r, "transA", 0))
        bad(r, "alpha, beta and transA are not supported");
    if (!r->rc)
        result(r, mdl_graph_linear(r->g, x, w, b));
}

/* Sum and Concat. */
static void op_many(struct reader *r)
{
    bool sum = *r->node->op_type == 'S';
    int list[MDL_NODE_INPUTS], n = (int)r->node->n_input;

    if (n < 1 || n > MDL_NODE_INPUTS || integer(r, "axis", 1) != 1) {
        bad(r, "of %d inputs along axis %lld is not supported", n,
            (long long)integer(r, "axis", 1));
        return;
    }
    for (int i = 0; i < n; i++)
        list[i] = map(r, (size_t)i);
    if (!r->rc)
        result(r, sum ? mdl_graph_add(r->g, list, n)
                      : mdl_graph_concat(r->g, list, n));
}

static void op_constant(struct reader *r)
{
    const Onnx__Attribute *a = attribute(r, "value");
    struct entry *x;

    if (!a || !a->t) {
        bad(r, "has no tensor");
        return;
    }
    x = add(r, r->node->output[0], KIND_CONSTANT);
    if (x)
        x->tensor = a->t;
}

static void op_flatten(struct reader *r)
{
    if (integer(r, "axis", 1) != 1)
        bad(r, "axis %lld", (long long)integer(r, "axis", 1));
    pass(r, true);
}

/* Whatever the new shape is, only [N, everything] is right for what follows. */
static void op_reshape(struct reader *r)
{
    value(r, 0);
    pass(r, true);
}

static void op_identity(struct reader *r)
{
    pass(r, false);
}

/* Casts and transposes belong to the way from bytes to the picture. */
static void op_of_picture(struct reader *r)
{
    const struct entry *x = given(r, 0);

    if (!x || x->kind != KIND_PICTURE)
        bad(r, "is supported on the picture alone");
    pass(r, false);
}

/* Channels in the other order. */
static void op_gather(struct reader *r)
{
    struct entry *y;

    op_of_picture(r);
    y = find(r, r->node->output[0]);
    if (integer(r, "axis", 0) != 1)
        bad(r, "axis %lld", (long long)integer(r, "axis", 0));
    if (!r->rc && y)
        y->made.bgr = !y->made.bgr;
}

static const struct {
    const char *name;
    void (*read)(struct reader *r);
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
    {"Transpose", op_of_picture},
};

static void read_node(struct reader *r)
{
    const Onnx__Node *n = r->node;

    if (n->n_output < 1) {
        bad(r, "has no output");
        return;
    }
    for (size_t i = 0; i < sizeof(operators) / sizeof(*operators); i++)
        if (!strcmp(n->op_type, operators[i].name) && !*n->domain) {
            operators[i].read(r);
            return;
        }
    bad(r, "this operator is not supported");
}

/* ---- the whole ---- */

static void read_opset(struct reader *r)
{
    long long version = 0;

    for (size_t i = 0; i < r->model->n_opset_import; i++)
        if (!*r->model->opset_import[i]->domain)
            version = r->model->opset_import[i]->version;
    if (version < OPSET_FIRST || version > OPSET_LAST)
        bad(r, "opset %lld is not between %d and %d", version, OPSET_FIRST,
            OPSET_LAST);
}

/* The one input that is no weight: [N,3,H,W] floats, or bytes [N,H,W,3]. */
static void read_input(struct reader *r, const struct mdl_onnx_input *input)
{
    const Onnx__Graph *g = r->model->graph;
    const Onnx__ValueInfo *info = NULL;
    const Onnx__TensorType *type;
    struct entry *x;
    int64_t dims[4];
    bool bytes;

    for (size_t i = 0; i < g->n_input && !r->rc; i++) {
        if (find(r, g->input[i]->name))
            continue;
        if (info)
            bad(r, "over one input");
        info = g->input[i];
    }
    type = info && info->type ? info->type->tensor_type : NULL;
    if (!type || !type->shape || type->shape->n_dim != 4) {
        bad(r, "its input is not a picture of four dimensions");
        return;
    }
    bytes = type->elem_type == TYPE_UINT8;
    for (int i = 0; i < 4; i++)
        dims[i] = type->shape->dim[i]->dim_value;
    if (dims[bytes ? 3 : 1] != 3 || dims[bytes ? 1 : 2] < 1 ||
        dims[bytes ? 2 : 3] < 1 || dims[bytes ? 1 : 2] > MAX_SIDE ||
        dims[bytes ? 2 : 3] > MAX_SIDE) {
        bad(r, "its input is %lldx%lldx%lld, not a picture of a fixed size",
            (long long)dims[1], (long long)dims[2], (long long)dims[3]);
        return;
    }
    r->picture = mdl_graph_input(r->g, (int)dims[bytes ? 1 : 2],
                                 (int)dims[bytes ? 2 : 3]);
    x = add(r, info->name, KIND_PICTURE);
    if (x && bytes)
        mdl_onnx_input_parse("bytes", &x->made);
    else if (x)
        x->made = *input;
}

static void read_outputs(struct reader *r)
{
    const Onnx__Graph *g = r->model->graph;

    if (!g->n_output || g->n_output > MDL_MAX_OUTPUTS)
        bad(r, "%zu outputs, not 1 to %d", g->n_output, MDL_MAX_OUTPUTS);
    for (size_t i = 0; i < g->n_output && !r->rc; i++) {
        const struct entry *x = find(r, g->output[i]->name);

        if (!x || x->kind != KIND_RESULT)
            bad(r, "nothing makes the output \"%.60s\"", g->output[i]->name);
        else
            mdl_graph_output(r->g, x->value, "%.90s", x->name);
    }
}

static void read_graph(struct reader *r, const struct mdl_onnx_input *input)
{
    const Onnx__Graph *g = r->model->graph;

    if (!g) {
        bad(r, "has no graph");
        return;
    }
    read_opset(r);
    for (size_t i = 0; i < g->n_initializer && !r->rc; i++) {
        struct entry *x = add(r, g->initializer[i]->name, KIND_CONSTANT);

        if (x)
            x->tensor = g->initializer[i];
    }
    if (!r->rc)
        read_input(r, input);
    mdl_graph_module(r->g, "onnx");
    for (size_t i = 0; i < g->n_node && !r->rc; i++) {
        r->node = g->node[i];
        r->at = (int)i;
        read_node(r);
        if (!r->rc && r->g->error.code)
            bad(r, "%s", r->g->error.msg);
    }
    r->node = NULL;
    if (!r->rc)
        read_outputs(r);
}

enum ut_err mdl_onnx_read_memory(const char *name, const void *data, size_t len,
                                 const struct mdl_onnx_input *input,
                                 struct mdl_graph *out, struct ut_error *e)
{
    struct reader r = {.name = name, .g = out, .e = e};
    struct entry *x, *next;

    mdl_graph_init(out);
    r.model = onnx__model__unpack(NULL, len, data);
    if (r.model)
        read_graph(&r, input);
    else
        bad(&r, "is no ONNX file");
    if (!r.rc && out->error.code)
        r.rc = ut_fail(e, out->error.code, "%s", out->error.msg);
    HASH_ITER(hh, r.entries, x, next)
    {
        HASH_DEL(r.entries, x);
        free(x);
    }
    if (r.model)
        onnx__model__free_unpacked(r.model, NULL);
    if (r.rc)
        mdl_graph_fini(out);
    return r.rc;
}

enum ut_err mdl_onnx_read(const char *path, const struct mdl_onnx_input *input,
                          struct mdl_graph *out, struct ut_error *e)
{
    struct ut_buf file;
    enum ut_err rc;

    mdl_graph_init(out);
    ut_buf_init(&file, INT32_MAX);
    rc = ut_buf_add_file(&file, path, e);
    if (!rc)
        rc = mdl_onnx_read_memory(path, file.data, file.len, input, out, e);
    ut_buf_fini(&file);
    return rc;
}
