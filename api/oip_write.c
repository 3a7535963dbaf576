/* The Open Inference Protocol's answers. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "api/escape.h"
#include "api/oip.h"

/* A parameter's truth; otherwise, where it is not given. */
static bool truth(Inference__InferParameter *const value, bool otherwise)
{
    return value && value->parameter_choice_case ==
                        INFERENCE__INFER_PARAMETER__PARAMETER_CHOICE_BOOL_PARAM
               ? value->bool_param
               : otherwise;
}

static bool wants_binary(const Inference__ModelInferRequest *r,
                         const char *output)
{
    bool binary = false;

    for (size_t i = 0; i < r->n_parameters; i++)
        if (!strcmp(r->parameters[i]->key, "binary_data_output"))
            binary = truth(r->parameters[i]->value, false);
    for (size_t i = 0; i < r->n_outputs; i++)
        for (size_t k = 0; k < r->outputs[i]->n_parameters; k++)
            if (!strcmp(r->outputs[i]->name, output) &&
                !strcmp(r->outputs[i]->parameters[k]->key, "binary_data"))
                binary = truth(r->outputs[i]->parameters[k]->value, binary);
    return binary;
}

static enum ut_err add_numbers(struct ut_buf *b, const ProtobufCBinaryData *raw,
                               struct ut_error *e)
{
    enum ut_err rc = ut_buf_addf(b, e, ",\"data\":[");

    for (size_t i = 0; i < raw->len / sizeof(float) && !rc; i++) {
        float v;

        memcpy(&v, raw->data + i * sizeof(v), sizeof(v));
        if (!isfinite(v))
            return ut_fail(e, UT_EINVAL, "JSON cannot say %f", (double)v);
        rc = ut_buf_addf(b, e, "%s%.9g", i ? "," : "", (double)v);
    }
    return rc ? rc : ut_buf_add(b, "]", 1, e);
}

static enum ut_err
add_output(struct ut_buf *b,
           const Inference__ModelInferResponse__InferOutputTensor *t,
           const ProtobufCBinaryData *raw, bool binary, struct ut_error *e)
{
    enum ut_err rc =
        ut_buf_addf(b, e, "{\"name\":\"%s\",\"datatype\":\"%s\",\"shape\":[",
                    t->name, t->datatype);

    for (size_t i = 0; i < t->n_shape && !rc; i++)
        rc = ut_buf_addf(b, e, "%s%lld", i ? "," : "", (long long)t->shape[i]);
    if (!rc)
        rc = ut_buf_add(b, "]", 1, e);
    if (!rc)
        rc = binary ? ut_buf_addf(b, e,
                                  ",\"parameters\":{\"binary_data_size\":%zu}",
                                  raw->len)
                    : add_numbers(b, raw, e);
    return rc ? rc : ut_buf_add(b, "}", 1, e);
}

enum ut_err api_oip_write(const Inference__ModelInferRequest *request,
                          const Inference__ModelInferResponse *m,
                          struct ut_buf *b, size_t *json_len,
                          struct ut_error *e)
{
    size_t from = b->len;
    enum ut_err rc = ut_buf_addf(b, e, "{\"model_name\":");

    if (!rc)
        rc = api_escape(b, m->model_name, e);
    if (!rc)
        rc = ut_buf_addf(b, e, ",\"model_version\":");
    if (!rc)
        rc = api_escape(b, m->model_version, e);
    if (!rc && *m->id) {
        rc = ut_buf_addf(b, e, ",\"id\":");
        if (!rc)
            rc = api_escape(b, m->id, e);
    }
    if (!rc)
        rc = ut_buf_addf(b, e, ",\"outputs\":[");
    for (size_t i = 0; i < m->n_outputs && !rc; i++) {
        if (i)
            rc = ut_buf_add(b, ",", 1, e);
        if (!rc)
            rc = add_output(b, m->outputs[i], &m->raw_output_contents[i],
                            wants_binary(request, m->outputs[i]->name), e);
    }
    if (!rc)
        rc = ut_buf_addf(b, e, "]}");
    *json_len = b->len - from;
    for (size_t i = 0; i < m->n_outputs && !rc; i++)
        if (wants_binary(request, m->outputs[i]->name))
            rc = ut_buf_add(b, m->raw_output_contents[i].data,
                            m->raw_output_contents[i].len, e);
    return rc;
}
