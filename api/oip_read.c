/* The Open Inference Protocol's requests. Lists of numbers, which are millions,
 * are read straight into tensors and taken out of the text; what is left is a
 * few hundred bytes of JSON, which become a message like any other. */
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/oip.h"

#define MAX_JSON_BYTES (64 * 1024) /* without the lists */
#define MAX_LISTS 8
#define MAX_NESTING 8
#define MAX_NUMBER 48 /* characters */

struct list {
    size_t first, n; /* of reader.values */
};

struct reader {
    const char *at, *end;
    struct ut_buf json;   /* the text, with [k] for list k */
    struct ut_buf values; /* float[] */
    struct list lists[MAX_LISTS];
    size_t n_lists;
    struct api_error *err;
};

static enum ut_err bad(struct api_error *err, const char *field,
                       const char *what)
{
    api_fail(err, API_INVALID_ARGUMENT, "%s: %s", field, what);
    snprintf(err->field, sizeof(err->field), "%s", field);
    return UT_EINVAL;
}

static enum ut_err from_buf(struct api_error *err, const struct ut_error *e)
{
    if (e->code != UT_EBUSY)
        api_fail(err, API_INTERNAL, "no memory for the request");
    else
        api_fail(err, API_INVALID_ARGUMENT,
                 "the request has over %d bytes of JSON besides tensors, or "
                 "over %d numbers in them",
                 MAX_JSON_BYTES, API_OIP_MAX_ELEMENTS);
    return e->code;
}

/* ---- lists of numbers ---- */

static const char *space(const char *at, const char *end)
{
    while (at < end &&
           (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at;
}

/* A number being read: mantissa x 10^exponent, while it fits. */
struct decimal {
    uint64_t mantissa;
    int digits, exponent;
};

/* Digits from s on; NULL if there are none. scale: what each adds to the
 * exponent. */
static const char *digits(const char *s, const char *end, int scale,
                          struct decimal *d)
{
    const char *from = s;

    for (; s < end && *s >= '0' && *s <= '9'; s++) {
        if (d->digits < 19)
            d->mantissa = d->mantissa * 10 + (uint64_t)(*s - '0');
        d->digits += d->mantissa != 0;
        d->exponent += scale;
    }
    return s > from ? s : NULL;
}

/* What follows an 'e'. */
static const char *exponent(const char *s, const char *end, struct decimal *d)
{
    struct decimal e = {0};
    bool minus = s < end && *s == '-';

    s += s < end && (*s == '-' || *s == '+');
    s = digits(s, end, 0, &e);
    if (e.digits > 4)
        e.mantissa = 9999;
    d->exponent += minus ? -(int)e.mantissa : (int)e.mantissa;
    return s;
}

/* A number as JSON has it, to its nearest float, or one beside it: no other
 * way of reading is as fast, and these come by the million.
 * Source: W. Clinger, How to Read Floating Point Numbers Accurately (1990),
 * for what doubles hold exactly. */
static bool read_number(struct reader *r, float *out)
{
    static const double tens[] = {
        1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
        1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const char *end = r->end - r->at > MAX_NUMBER ? r->at + MAX_NUMBER : r->end;
    const char *s = r->at + (r->at < end && *r->at == '-');
    struct decimal d = {0};
    char text[MAX_NUMBER + 1];
    double v;

    if (s + 1 < end && *s == '0' && s[1] >= '0' && s[1] <= '9')
        return false;
    s = digits(s, end, 0, &d);
    if (s && s < end && *s == '.')
        s = digits(s + 1, end, -1, &d);
    if (s && s < end && (*s == 'e' || *s == 'E'))
        s = exponent(s + 1, end, &d);
    if (!s || (s == end && end < r->end && !strchr(",] \t\r\n", *end)))
        return false;
    if (d.digits <= 15 && d.exponent >= -22 && d.exponent <= 22) {
        v = (double)d.mantissa;
        v = d.exponent < 0 ? v / tens[-d.exponent] : v * tens[d.exponent];
        *out = (float)(*r->at == '-' ? -v : v);
    } else {
        snprintf(text, sizeof(text), "%.*s", (int)(s - r->at), r->at);
        *out = strtof(text, NULL);
    }
    r->at = s;
    return isfinite(*out);
}

static enum ut_err bad_list(struct reader *r)
{
    return bad(r->err, "data",
               "wants numbers in lists, nested at most 8 times, up to 48 "
               "characters each");
}

/* From '[' to past its ']'. */
static enum ut_err read_list(struct reader *r)
{
    struct list *l = &r->lists[r->n_lists];
    bool value = false; /* what stands before is one: a comma or ] may come */
    struct ut_error e;
    int depth = 0;

    if (r->n_lists == MAX_LISTS)
        return bad(r->err, "data", "there are over 8 of them");
    l->first = r->values.len / sizeof(float);
    do {
        float v;

        r->at = space(r->at, r->end);
        if (r->at == r->end)
            return bad_list(r);
        if (*r->at == '[' && !value && depth < MAX_NESTING) {
            depth++;
            r->at++;
        } else if (*r->at == ']' && (value || r->at[-1] == '[')) {
            depth--;
            value = true;
            r->at++;
        } else if (*r->at == ',' && value) {
            value = false;
            r->at++;
        } else if (!value && read_number(r, &v)) {
            value = true;
            if (ut_buf_add(&r->values, &v, sizeof(v), &e))
                return from_buf(r->err, &e);
        } else {
            return bad_list(r);
        }
    } while (depth);
    l->n = r->values.len / sizeof(float) - l->first;
    r->n_lists++;
    return UT_OK;
}

/* Takes the lists that are members "data" out of the text. */
static enum ut_err take_lists(struct reader *r)
{
    const char *from = r->at;
    struct ut_error e;
    enum ut_err rc = UT_OK;

    while (!rc && r->at < r->end) {
        const char *word = r->at;

        if (*r->at++ != '"')
            continue;
        while (r->at < r->end && *r->at != '"')
            r->at += *r->at == '\\' && r->at + 1 < r->end ? 2 : 1;
        if (r->at == r->end)
            break;
        r->at++;
        if (r->at - word != 6 || memcmp(word, "\"data\"", 6))
            continue;
        r->at = space(r->at, r->end);
        if (r->at == r->end || *r->at != ':')
            continue;
        r->at = space(r->at + 1, r->end);
        if (r->at == r->end || *r->at != '[')
            continue;
        if (ut_buf_add(&r->json, from, (size_t)(r->at - from), &e) ||
            ut_buf_addf(&r->json, &e, "[%zu]", r->n_lists))
            return from_buf(r->err, &e);
        rc = read_list(r);
        from = r->at;
    }
    if (!rc && ut_buf_add(&r->json, from, (size_t)(r->end - from), &e))
        rc = from_buf(r->err, &e);
    return rc;
}

/* ---- the rest of the JSON ---- */

/* Parameters are bare values in this JSON; in the message they say their
 * type. */
static enum ut_err type_parameters(json_t *of, const char *path,
                                   struct api_error *err)
{
    json_t *values = json_object_get(of, "parameters"), *v, *typed;
    const char *name;
    char field[96];
    void *next;

    if (!values || json_is_null(values))
        return UT_OK;
    if (!json_is_object(values))
        return bad(err, path, "parameters wants an object");
    json_object_foreach_safe(values, next, name, v)
    {
        const char *type = json_is_boolean(v)   ? "bool_param"
                           : json_is_integer(v) ? "int64_param"
                           : json_is_real(v)    ? "double_param"
                           : json_is_string(v)  ? "string_param"
                                                : NULL;

        if (!type) {
            snprintf(field, sizeof(field), "%s.%.40s", path, name);
            return bad(err, field, "wants a number, a text or a boolean");
        }
        typed = json_pack("{s:O}", type, v);
        if (!typed || json_object_set_new(values, name, typed)) {
            api_fail(err, API_INTERNAL, "no memory for the request");
            return UT_ENOMEM;
        }
    }
    return UT_OK;
}

/* Which list an input has, n_lists for none; takes the member away. */
static enum ut_err take_data(struct reader *r, json_t *input, const char *path,
                             size_t *which)
{
    json_t *data = json_object_get(input, "data");

    *which = r->n_lists;
    if (!data)
        return UT_OK;
    /* It is no list of ours where the name was written with escapes. */
    *which = (size_t)json_integer_value(json_array_get(data, 0));
    if (!json_is_array(data) || *which >= r->n_lists)
        return bad(r->err, path, "data wants a list of numbers");
    json_object_del(input, "data");
    return UT_OK;
}

static enum ut_err shape_request(struct reader *r, json_t *root, size_t *which)
{
    json_t *inputs = json_object_get(root, "inputs");
    json_t *outputs = json_object_get(root, "outputs"), *one;
    enum ut_err rc;
    char path[48];
    size_t i;

    if (json_array_size(inputs) > MAX_LISTS)
        return bad(r->err, "inputs", "there are over 8 of them");
    rc = type_parameters(root, "parameters", r->err);
    if (rc)
        return rc;
    json_array_foreach(inputs, i, one)
    {
        snprintf(path, sizeof(path), "inputs[%zu]", i);
        rc = take_data(r, one, path, &which[i]);
        if (!rc)
            rc = type_parameters(one, path, r->err);
        if (rc)
            return rc;
    }
    json_array_foreach(outputs, i, one)
    {
        snprintf(path, sizeof(path), "outputs[%zu]", i);
        rc = type_parameters(one, path, r->err);
        if (rc)
            return rc;
    }
    return UT_OK;
}

static enum ut_err read_message(struct reader *r, size_t *which,
                                Inference__ModelInferRequest **out)
{
    json_error_t why;
    json_t *root = json_loadb(r->json.data ? r->json.data : "", r->json.len,
                              JSON_REJECT_DUPLICATES, &why);
    enum ut_err rc;
    char *text;

    if (!json_is_object(root)) {
        json_decref(root);
        api_fail(r->err, API_INVALID_ARGUMENT, "the body is no JSON object%s%s",
                 root ? "" : ": ", root ? "" : why.text);
        return UT_EINVAL;
    }
    rc = shape_request(r, root, which);
    if (!rc) {
        text = json_dumps(root, JSON_COMPACT);
        rc = text ? api_json_read(&inference__model_infer_request__descriptor,
                                  text, strlen(text),
                                  (ProtobufCMessage **)(void *)out, r->err)
                  : UT_ENOMEM;
        if (!text)
            api_fail(r->err, API_INTERNAL, "no memory for the request");
        free(text);
    }
    json_decref(root);
    /* Members of the message, but not of this JSON. */
    if (!rc && (*out)->n_raw_input_contents)
        return bad(r->err, "raw_input_contents", "is not a member of the JSON");
    for (size_t i = 0; !rc && i < (*out)->n_inputs; i++)
        if ((*out)->inputs[i]->contents)
            return bad(r->err, "contents", "is not a member of the JSON");
    return rc;
}

/* ---- bytes ---- */

static const Inference__InferParameter *
binary_size(const Inference__ModelInferRequest__InferInputTensor *in)
{
    for (size_t i = 0; i < in->n_parameters; i++)
        if (!strcmp(in->parameters[i]->key, "binary_data_size"))
            return in->parameters[i]->value;
    return NULL;
}

static enum ut_err to_bytes(const struct reader *r, const struct list *l,
                            const char *path, const char *datatype,
                            ProtobufCBinaryData *out)
{
    bool f32 = !strcmp(datatype, "FP32");
    const float *v;

    if (!f32 && strcmp(datatype, "UINT8"))
        return bad(r->err, path, "datatype is neither UINT8 nor FP32");
    out->len = l->n * (f32 ? sizeof(float) : 1);
    if (!l->n)
        return UT_OK; /* there may be no values at all */
    v = (const float *)(const void *)r->values.data + l->first;
    if (f32) {
        memcpy(out->data, v, out->len);
        return UT_OK;
    }
    for (size_t i = 0; i < l->n; i++) {
        if (!(v[i] >= 0 && v[i] <= 255) || v[i] != (float)(uint8_t)v[i])
            return bad(r->err, path,
                       "data of UINT8 wants whole numbers from 0 to 255");
        out->data[i] = (uint8_t)v[i];
    }
    return UT_OK;
}

/* The bytes of input i, from its list or from *rest. */
static enum ut_err add_bytes(const struct reader *r,
                             Inference__ModelInferRequest *m, size_t i,
                             size_t which, const char **rest, const char *end)
{
    const Inference__ModelInferRequest__InferInputTensor *in = m->inputs[i];
    const Inference__InferParameter *size = binary_size(in);
    ProtobufCBinaryData *out = &m->raw_input_contents[i];
    size_t len = which < r->n_lists ? r->lists[which].n * sizeof(float) : 0;
    char path[48];

    snprintf(path, sizeof(path), "inputs[%zu]", i);
    if (!size == (which == r->n_lists))
        return bad(r->err, path, "wants either data or binary_data_size");
    if (size) {
        if (size->parameter_choice_case !=
                INFERENCE__INFER_PARAMETER__PARAMETER_CHOICE_INT64_PARAM ||
            size->int64_param < 0 || size->int64_param > end - *rest)
            return bad(
                r->err, path,
                "binary_data_size is not a number of bytes after the JSON");
        len = (size_t)size->int64_param;
    }
    out->data = malloc(len ? len : 1);
    m->n_raw_input_contents++;
    if (!out->data) {
        api_fail(r->err, API_INTERNAL, "no memory for the tensors");
        return UT_ENOMEM;
    }
    if (!size)
        return to_bytes(r, &r->lists[which], path, in->datatype, out);
    memcpy(out->data, *rest, len);
    out->len = len;
    *rest += len;
    return UT_OK;
}

static enum ut_err add_all_bytes(const struct reader *r,
                                 Inference__ModelInferRequest *m,
                                 const size_t *which, const char *end)
{
    const char *rest = r->end;
    enum ut_err rc = UT_OK;

    m->raw_input_contents =
        calloc(m->n_inputs + 1, sizeof(*m->raw_input_contents));
    if (!m->raw_input_contents) {
        api_fail(r->err, API_INTERNAL, "no memory for the tensors");
        return UT_ENOMEM;
    }
    for (size_t i = 0; i < m->n_inputs && !rc; i++)
        rc = add_bytes(r, m, i, which[i], &rest, end);
    if (!rc && rest != end) {
        api_fail(r->err, API_INVALID_ARGUMENT,
                 "%td bytes follow the JSON that no binary_data_size claims",
                 end - rest);
        rc = UT_EINVAL;
    }
    return rc;
}

enum ut_err api_oip_read(const char *body, size_t len, size_t json_len,
                         Inference__ModelInferRequest **out,
                         struct api_error *err)
{
    size_t which[MAX_LISTS];
    struct reader r = {.at = body, .err = err};
    enum ut_err rc;

    *out = NULL;
    if (json_len == API_OIP_ALL_JSON)
        json_len = len;
    if (json_len > len) {
        api_fail(err, API_INVALID_ARGUMENT,
                 "Inference-Header-Content-Length says %zu bytes of JSON; the "
                 "body has %zu",
                 json_len, len);
        return UT_EINVAL;
    }
    r.end = body + json_len;
    ut_buf_init(&r.json, MAX_JSON_BYTES);
    ut_buf_init(&r.values, API_OIP_MAX_ELEMENTS * sizeof(float));
    rc = take_lists(&r);
    if (!rc)
        rc = read_message(&r, which, out);
    if (!rc)
        rc = add_all_bytes(&r, *out, which, body + len);
    if (rc && *out) {
        protobuf_c_message_free_unpacked(&(*out)->base, NULL);
        *out = NULL;
    }
    ut_buf_fini(&r.json);
    ut_buf_fini(&r.values);
    return rc;
}
