/* What nodes of an ONNX file refer to: a table of names, attributes, constants,
 * values of the graph. */
#include "model/onnx/reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"

/* ---- errors ---- */

int onnx_bad(struct onnx_reader *r, const char *fmt, ...)
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

struct onnx_entry *onnx_find(struct onnx_reader *r, const char *name)
{
    struct onnx_entry *x;

    HASH_FIND_STR(r->entries, name, x);
    return x;
}

struct onnx_entry *onnx_add(struct onnx_reader *r, const char *name,
                            enum onnx_kind kind)
{
    struct onnx_entry *x;

    if (onnx_find(r, name)) {
        onnx_bad(r, "\"%.60s\" is made twice", name);
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

struct onnx_entry *onnx_given(struct onnx_reader *r, size_t i)
{
    struct onnx_entry *x;

    if (i >= r->node->n_input || !*r->node->input[i])
        return NULL;
    x = onnx_find(r, r->node->input[i]);
    if (!x)
        onnx_bad(r, "there is no \"%.60s\"", r->node->input[i]);
    return x;
}

const Onnx__Attribute *onnx_attribute(const struct onnx_reader *r,
                                      const char *name)
{
    for (size_t i = 0; i < r->node->n_attribute; i++)
        if (!strcmp(r->node->attribute[i]->name, name))
            return r->node->attribute[i];
    return NULL;
}

int64_t onnx_integer(const struct onnx_reader *r, const char *name,
                     int64_t other)
{
    const Onnx__Attribute *a = onnx_attribute(r, name);

    return a ? a->i : other;
}

float onnx_number(const struct onnx_reader *r, const char *name, float other)
{
    const Onnx__Attribute *a = onnx_attribute(r, name);

    return a ? a->f : other;
}

int onnx_same(struct onnx_reader *r, const char *name, size_t n, int low,
              int high, int other)
{
    const Onnx__Attribute *a = onnx_attribute(r, name);

    if (!a)
        return other;
    if (a->n_ints != n)
        return onnx_bad(r, "%s has %zu numbers, not %zu", name, a->n_ints, n);
    for (size_t i = 0; i < n; i++)
        if (a->ints[i] != a->ints[0] || a->ints[i] < low || a->ints[i] > high)
            return onnx_bad(r, "%s must be alike, %d to %d", name, low, high);
    return (int)a->ints[0];
}

/* ---- constants ---- */

static bool shape_of(struct onnx_reader *r, const Onnx__Tensor *t,
                     struct mdl_shape *out)
{
    struct ut_error why;
    size_t bytes;
    char text[80];

    if (t->n_dims > MDL_MAX_DIMS) {
        onnx_bad(r, "\"%.60s\" has %zu dimensions, over %d", t->name, t->n_dims,
                 MDL_MAX_DIMS);
        return false;
    }
    out->n_dims = (int)t->n_dims;
    for (size_t i = 0; i < t->n_dims; i++)
        out->dim[i] = t->dims[i];
    if (mdl_shape_bytes(out, MDL_F32, MDL_MAX_WHOLE * sizeof(float), &bytes,
                        &why) ||
        !bytes) {
        onnx_bad(r, "\"%.40s\" is %s, not 1 to %d numbers", t->name,
                 mdl_shape_text(out, text), MDL_MAX_WHOLE);
        return false;
    }
    return true;
}

float *onnx_floats(struct onnx_reader *r, const struct onnx_entry *x,
                   struct mdl_shape *shape)
{
    const Onnx__Tensor *t = x ? x->tensor : NULL;
    bool half = t && t->data_type == ONNX_TYPE_FLOAT16;
    size_t n, size;
    float *out;

    if (!x || x->kind != ONNX_CONSTANT) {
        onnx_bad(r, "an input that must be a constant is not");
        return NULL;
    }
    if (!shape_of(r, t, shape))
        return NULL;
    n = mdl_shape_count(shape);
    size = n * (half ? 2 : 4);
    if (t->data_location || (t->data_type != ONNX_TYPE_FLOAT && !half) ||
        (t->n_float_data ? t->n_float_data != n || half
                         : t->raw_data.len != size)) {
        onnx_bad(r, "\"%.60s\" is not %zu float32 or float16 inside the file",
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

bool onnx_integers_are(const struct onnx_entry *x, const int64_t *want,
                       size_t n)
{
    const Onnx__Tensor *t = x ? x->tensor : NULL;
    size_t size = n * sizeof(*want);

    if (!t || t->data_type != ONNX_TYPE_INT64 || t->data_location)
        return false;
    return t->n_int64_data
               ? t->n_int64_data == n && !memcmp(t->int64_data, want, size)
               : t->raw_data.len == size &&
                     !memcmp(t->raw_data.data, want, size);
}

int onnx_param(struct onnx_reader *r, struct mdl_shape shape, float *data)
{
    int v;

    if (!data)
        return -1;
    v = mdl_graph_param_owned(r->g, shape, &data, "onnx.%d", r->n_params++);
    free(data); /* unless it was taken */
    return v;
}

int onnx_weights(struct onnx_reader *r, size_t i, int n_dims)
{
    const struct onnx_entry *x = onnx_given(r, i);
    struct mdl_shape shape;
    float *data;

    if (!x)
        return -1;
    data = onnx_floats(r, x, &shape);
    if (data && shape.n_dims != n_dims) {
        onnx_bad(r, "\"%.60s\" has %d dimensions, not %d", x->name,
                 shape.n_dims, n_dims);
        free(data);
        return -1;
    }
    return onnx_param(r, shape, data);
}

float onnx_scalar(struct onnx_reader *r, size_t i, float other)
{
    const struct onnx_entry *x = onnx_given(r, i);
    struct mdl_shape shape;
    float *data, v;

    if (!x)
        return other;
    data = onnx_floats(r, x, &shape);
    if (!data)
        return other;
    v = data[0];
    if (mdl_shape_count(&shape) != 1)
        onnx_bad(r, "\"%.60s\" is not one number", x->name);
    free(data);
    return v;
}

/* ---- values ---- */

int onnx_value(struct onnx_reader *r, size_t i)
{
    struct onnx_entry *x = onnx_given(r, i);

    if (!x)
        return onnx_bad(r, "input %zu is absent", i);
    if (x->kind == ONNX_CONSTANT)
        return onnx_bad(r, "\"%.60s\" cannot be a constant", x->name);
    if (x->kind == ONNX_PICTURE && x->last)
        return onnx_bad(r, "\"%.60s\" is [N,H,W,3], not [N,3,H,W]", x->name);
    if (x->kind == ONNX_PICTURE) {
        x->kind = ONNX_RESULT;
        x->value = mdl_graph_image(r->g, r->picture, x->made.mean,
                                   x->made.scale, x->made.bgr);
    }
    return x->value;
}

int onnx_map(struct onnx_reader *r, size_t i)
{
    int v = onnx_value(r, i);
    struct onnx_entry *x = v < 0 ? NULL : onnx_given(r, i);

    if (x && x->flat && r->g->values[v].shape.n_dims > 1)
        return onnx_bad(r, "of a flattened map is not supported");
    return v;
}

void onnx_result(struct onnx_reader *r, int v)
{
    struct onnx_entry *x;

    if (v < 0 || r->rc)
        return;
    x = onnx_add(r, r->node->output[0], ONNX_RESULT);
    if (!x)
        return;
    x->value = v;
    snprintf(r->g->values[v].name, MDL_NAME_LEN, "%s", x->name);
}

void onnx_pass(struct onnx_reader *r, bool flat)
{
    const struct onnx_entry *x = onnx_given(r, 0);
    struct onnx_entry *y;

    if (!x) {
        onnx_bad(r, "has no input");
        return;
    }
    y = onnx_add(r, r->node->output[0], x->kind);
    if (!y)
        return;
    y->value = x->value;
    y->tensor = x->tensor;
    y->made = x->made;
    y->last = x->last;
    y->flat = x->flat || flat;
}
