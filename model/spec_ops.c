/* The operations of "graph" nodes, from JSON and back:
 *
 *   "ops":[{"op":"convolution","out":64,"kernel":3,"stride":2,"pad":1},
 *          {"op":"batch_norm"}, {"op":"prelu"},
 *          {"op":"add","of":[1,3]}, ...]
 *
 * Members at their default are left out. */
#include <math.h>
#include <string.h>

#include "model/spec_json.h"

#define MAX_KERNEL 32
#define MAX_STRIDE 16
#define MAX_PAD 64
#define DEFAULT_EPS 1e-5f

static const struct {
    const char *name;
    enum mdl_op op;
    enum mdl_act act;
    int least, most; /* how many values it is of */
    const char *members;
} kinds[] = {
    {"convolution", MDL_OP_CONV, MDL_ACT_NONE, 1, 1,
     " op of out kernel stride pad groups bias "},
    {"linear", MDL_OP_LINEAR, MDL_ACT_NONE, 1, 1, " op of out bias "},
    {"batch_norm", MDL_OP_BATCHNORM, MDL_ACT_NONE, 1, 1, " op of eps "},
    {"relu", MDL_OP_ACT, MDL_ACT_RELU, 1, 1, " op of "},
    {"relu6", MDL_OP_ACT, MDL_ACT_RELU6, 1, 1, " op of "},
    {"leaky_relu", MDL_OP_ACT, MDL_ACT_LEAKY, 1, 1, " op of alpha "},
    {"prelu", MDL_OP_ACT, MDL_ACT_PRELU, 1, 1, " op of "},
    {"sigmoid", MDL_OP_ACT, MDL_ACT_SIGMOID, 1, 1, " op of "},
    {"pool", MDL_OP_POOL, MDL_ACT_NONE, 1, 1, " op of "},
    {"add", MDL_OP_ADD, MDL_ACT_NONE, 1, MDL_NODE_INPUTS, " op of "},
    {"scale", MDL_OP_SCALE, MDL_ACT_NONE, 2, 2, " op of "},
    {"concat", MDL_OP_CONCAT, MDL_ACT_NONE, 1, MDL_NODE_INPUTS, " op of "},
};

#define N_KINDS (int)(sizeof(kinds) / sizeof(kinds[0]))

/* ---- reading ---- */

static enum ut_err read_of(const json_t *j, const char *where, int kind, int at,
                           struct mdl_spec_op *op, struct ut_error *e)
{
    const json_t *list = json_object_get(j, "of");
    size_t n = list ? json_array_size(list) : 1;

    if (n < (size_t)kinds[kind].least || n > (size_t)kinds[kind].most)
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\": %s is \"of\" %zu values, not %d to "
                       "%d",
                       where, kinds[kind].name, n, kinds[kind].least,
                       kinds[kind].most);
    op->n_of = (int)n;
    op->of[0] = (uint16_t)at;
    for (size_t i = 0; list && i < n; i++) {
        const json_t *v = json_array_get(list, i);

        if (!json_is_integer(v) || json_integer_value(v) < 0 ||
            json_integer_value(v) > at)
            return ut_fail(e, UT_EFORMAT,
                           "spec: node \"%s\": \"of\"[%zu] is not a value from "
                           "0 to %d",
                           where, i, at);
        op->of[i] = (uint16_t)json_integer_value(v);
    }
    return UT_OK;
}

/* A member between -high and high, or the default. */
static enum ut_err read_number(const json_t *j, const char *where,
                               const char *key, double low, double high,
                               float other, float *out, struct ut_error *e)
{
    const json_t *v = json_object_get(j, key);
    double number = json_number_value(v);

    *out = v ? (float)number : other;
    if (v && !(json_is_number(v) && number >= low && number <= high))
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\": \"%s\" is not from %g to %g", where,
                       key, low, high);
    return UT_OK;
}

static enum ut_err read_product(const json_t *j, const char *where,
                                struct mdl_spec_op *op, struct ut_error *e)
{
    const json_t *bias = json_object_get(j, "bias");
    enum ut_err rc;

    rc = mdl_spec_get_int(j, where, "out", 1, MDL_SPEC_MAX_WIDTH, &op->out, e);
    if (!rc)
        rc =
            mdl_spec_get_int(j, where, "kernel", 1, MAX_KERNEL, &op->kernel, e);
    if (!rc)
        rc =
            mdl_spec_get_int(j, where, "stride", 1, MAX_STRIDE, &op->stride, e);
    if (!rc)
        rc = mdl_spec_get_int(j, where, "pad", 0, MAX_PAD, &op->pad, e);
    if (!rc)
        rc = mdl_spec_get_int(j, where, "groups", 1, MDL_SPEC_MAX_WIDTH,
                              &op->groups, e);
    if (!rc && (!op->out || (bias && !json_is_boolean(bias))))
        rc = ut_fail(e, UT_EFORMAT,
                     "spec: node \"%s\": there is no \"out\", or \"bias\" is "
                     "neither true nor false",
                     where);
    op->bias = json_is_true(bias);
    return rc;
}

static enum ut_err read_op(const json_t *j, const char *where, int at,
                           struct mdl_spec_op *op, struct ut_error *e)
{
    const char *name = json_string_value(json_object_get(j, "op"));
    enum ut_err rc;
    int kind = 0;

    while (kind < N_KINDS && (!name || strcmp(name, kinds[kind].name)))
        kind++;
    if (kind == N_KINDS)
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\": there is no operation \"%.40s\"",
                       where, name ? name : "");
    *op = (struct mdl_spec_op){.op = kinds[kind].op, .act = kinds[kind].act};
    rc = mdl_spec_check_members(j, where, kinds[kind].members, e);
    if (!rc)
        rc = read_of(j, where, kind, at, op, e);
    if (rc)
        return rc;
    if (op->op == MDL_OP_CONV || op->op == MDL_OP_LINEAR) {
        op->kernel = op->stride = op->groups = 1;
        return read_product(j, where, op, e);
    }
    if (op->op == MDL_OP_BATCHNORM)
        return read_number(j, where, "eps", 0, 1, DEFAULT_EPS, &op->number, e);
    if (op->act == MDL_ACT_LEAKY)
        return read_number(j, where, "alpha", -100, 100, 0.01f, &op->number, e);
    return UT_OK;
}

enum ut_err mdl_spec_read_ops(const json_t *j, struct mdl_spec *spec,
                              struct mdl_spec_node *n, struct ut_error *e)
{
    const json_t *list = json_object_get(j, "ops");
    size_t count = json_array_size(list);
    char where[MDL_SPEC_NAME_LEN + 24];
    enum ut_err rc = UT_OK;

    if (!count || count > (size_t)(MDL_SPEC_MAX_OPS - spec->n_ops))
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\" has %zu \"ops\"; a file has 1 to %d",
                       n->name, count, MDL_SPEC_MAX_OPS);
    n->first_op = spec->n_ops;
    n->n_ops = (int)count;
    for (int i = 0; i < n->n_ops && !rc; i++) {
        snprintf(where, sizeof(where), "%s, operation %d", n->name, i);
        rc = read_op(json_array_get(list, (size_t)i), where, i,
                     &spec->ops[spec->n_ops++], e);
    }
    return rc;
}

/* ---- writing ---- */

static void set_int(json_t *j, const char *key, int v, int other, bool *ok)
{
    if (v != other)
        mdl_spec_set(j, key, json_integer(v), ok);
}

static json_t *op_json(const struct mdl_spec_op *op, int at, bool *ok)
{
    json_t *j = json_object(), *of = json_array();
    int kind = 0;

    while (kinds[kind].op != op->op || kinds[kind].act != op->act)
        kind++;
    mdl_spec_set(j, "op", json_string(kinds[kind].name), ok);
    for (int i = 0; i < op->n_of; i++)
        mdl_spec_append(of, json_integer(op->of[i]), ok);
    if (op->n_of > 1 || op->of[0] != at)
        mdl_spec_set(j, "of", json_incref(of), ok);
    json_decref(of);
    if (op->op == MDL_OP_CONV || op->op == MDL_OP_LINEAR) {
        set_int(j, "out", op->out, 0, ok);
        set_int(j, "kernel", op->kernel, 1, ok);
        set_int(j, "stride", op->stride, 1, ok);
        set_int(j, "pad", op->pad, 0, ok);
        set_int(j, "groups", op->groups, 1, ok);
        if (op->bias)
            mdl_spec_set(j, "bias", json_true(), ok);
    }
    if (op->op == MDL_OP_BATCHNORM && op->number != DEFAULT_EPS)
        mdl_spec_set(j, "eps", json_real((double)op->number), ok);
    if (op->act == MDL_ACT_LEAKY)
        mdl_spec_set(j, "alpha", json_real((double)op->number), ok);
    return j;
}

json_t *mdl_spec_ops_json(const struct mdl_spec *spec,
                          const struct mdl_spec_node *n, bool *ok)
{
    json_t *list = json_array();

    for (int i = 0; i < n->n_ops; i++)
        mdl_spec_append(list, op_json(&spec->ops[n->first_op + i], i, ok), ok);
    return list;
}
