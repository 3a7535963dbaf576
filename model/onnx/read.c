/* An ONNX file to a graph. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "model/onnx/reader.h"

#define MAX_SIDE 4096
#define OPSET_FIRST 7
#define OPSET_LAST 21

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

static void read_opset(struct onnx_reader *r)
{
    long long version = 0;

    for (size_t i = 0; i < r->model->n_opset_import; i++)
        if (!*r->model->opset_import[i]->domain)
            version = r->model->opset_import[i]->version;
    if (version < OPSET_FIRST || version > OPSET_LAST)
        onnx_bad(r, "opset %lld is not between %d and %d", version, OPSET_FIRST,
                 OPSET_LAST);
}

/* The one input that is no weight: [N,3,H,W] floats, or bytes [N,H,W,3]. */
static void read_input(struct onnx_reader *r,
                       const struct mdl_onnx_input *input)
{
    const Onnx__Graph *g = r->model->graph;
    const Onnx__ValueInfo *info = NULL;
    const Onnx__TensorType *type;
    struct onnx_entry *x;
    int64_t dims[4];
    bool bytes;

    for (size_t i = 0; i < g->n_input && !r->rc; i++) {
        if (onnx_find(r, g->input[i]->name))
            continue;
        if (info)
            onnx_bad(r, "over one input");
        info = g->input[i];
    }
    type = info && info->type ? info->type->tensor_type : NULL;
    if (!type || !type->shape || type->shape->n_dim != 4) {
        onnx_bad(r, "its input is not a picture of four dimensions");
        return;
    }
    bytes = type->elem_type == ONNX_TYPE_UINT8;
    for (int i = 0; i < 4; i++)
        dims[i] = type->shape->dim[i]->dim_value;
    if (dims[bytes ? 3 : 1] != 3 || dims[bytes ? 1 : 2] < 1 ||
        dims[bytes ? 2 : 3] < 1 || dims[bytes ? 1 : 2] > MAX_SIDE ||
        dims[bytes ? 2 : 3] > MAX_SIDE) {
        onnx_bad(r,
                 "its input is %lldx%lldx%lld, not a picture of a fixed size",
                 (long long)dims[1], (long long)dims[2], (long long)dims[3]);
        return;
    }
    r->picture = mdl_graph_input(r->g, (int)dims[bytes ? 1 : 2],
                                 (int)dims[bytes ? 2 : 3]);
    x = onnx_add(r, info->name, ONNX_PICTURE);
    if (x)
        x->last = bytes;
    if (x && bytes)
        mdl_onnx_input_parse("bytes", &x->made);
    else if (x)
        x->made = *input;
}

static void read_outputs(struct onnx_reader *r)
{
    const Onnx__Graph *g = r->model->graph;

    if (!g->n_output || g->n_output > MDL_MAX_OUTPUTS)
        onnx_bad(r, "%zu outputs, not 1 to %d", g->n_output, MDL_MAX_OUTPUTS);
    for (size_t i = 0; i < g->n_output && !r->rc; i++) {
        const struct onnx_entry *x = onnx_find(r, g->output[i]->name);
        int v;

        if (!x || x->kind != ONNX_RESULT) {
            onnx_bad(r, "nothing makes the output \"%.60s\"",
                     g->output[i]->name);
            continue;
        }
        /* An add of one term: each output is a value of its own. */
        v = r->g->values[x->value].output < 0
                ? x->value
                : mdl_graph_add(r->g, &x->value, 1);
        mdl_graph_output(r->g, v, "%.90s", x->name);
    }
}

static void read_graph(struct onnx_reader *r,
                       const struct mdl_onnx_input *input)
{
    const Onnx__Graph *g = r->model->graph;

    if (!g) {
        onnx_bad(r, "has no graph");
        return;
    }
    read_opset(r);
    for (size_t i = 0; i < g->n_initializer && !r->rc; i++) {
        struct onnx_entry *x =
            onnx_add(r, g->initializer[i]->name, ONNX_CONSTANT);

        if (x)
            x->tensor = g->initializer[i];
    }
    if (!r->rc)
        read_input(r, input);
    mdl_graph_module(r->g, "onnx");
    for (size_t i = 0; i < g->n_node && !r->rc; i++) {
        r->node = g->node[i];
        r->at = (int)i;
        onnx_node(r);
        if (!r->rc && r->g->error.code)
            onnx_bad(r, "%s", r->g->error.msg);
    }
    r->node = NULL;
    if (!r->rc)
        read_outputs(r);
}

enum ut_err mdl_onnx_read_memory(const char *name, const void *data, size_t len,
                                 const struct mdl_onnx_input *input,
                                 struct mdl_graph *out, struct ut_error *e)
{
    struct onnx_reader r = {.name = name, .g = out, .e = e};
    struct onnx_entry *x, *next;

    mdl_graph_init(out);
    r.model = onnx__model__unpack(NULL, len, data);
    if (r.model)
        read_graph(&r, input);
    else
        onnx_bad(&r, "is no ONNX file");
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
