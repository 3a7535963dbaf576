/* tscaf-model run: images through the network, every output to a file. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backend.h"
#include "model/onnx/onnx.h"
#include "model/tool/cmd.h"

static const char help[] =
    "usage: tscaf-model run [--backend NAME] [--precision P] [--batch N]\n"
    "                       MODEL IMAGES OUT\n"
    "\n"
    "IMAGES is a safetensors with \"images\" (or \"0.images\"), uint8 "
    "[N,H,W,3]; OUT\n"
    "gets every named output of the model as float32 [N,...]. MODEL may be an "
    "ONNX\n"
    "network (FILE.onnx).\n"
    "\n"
    "  --backend NAME   auto, cpu, ref or cuda (auto)\n"
    "  --precision P    float32 or bfloat16; on cuda also float16, tf32\n"
    "                   (float32)\n"
    "  --batch N        images at a time (all)\n"
    "  --input KIND     what an ONNX network's input is: imagenet, insightface "
    "or\n"
    "                   bytes (insightface)\n";

struct job {
    const char *backend;
    enum mdl_precision precision;
    int batch; /* 0: all */
    struct mdl_onnx_input input;
    struct mdl_model model;
    struct mdl_graph graph;
    struct mdl_st *images;
    const struct mdl_st_tensor *in;
    struct mdl_backend *device;
    struct mdl_lane *lane;
    float *out[MDL_MAX_OUTPUTS];
};

static enum ut_err open_network(struct job *j, const char *path,
                                struct ut_error *e)
{
    const char *end = strrchr(path, '.');
    enum ut_err rc;

    rc = end && !strcmp(end, ".onnx")
             ? mdl_onnx_read(path, &j->input, &j->model.graph, e)
             : mdl_model_open(path, &j->model, e);
    return rc ? rc : mdl_graph_optimise(&j->model.graph, ~0ull, &j->graph, e);
}

static enum ut_err open_images(struct job *j, const char *path,
                               struct ut_error *e)
{
    const struct mdl_shape *want;
    enum ut_err rc = mdl_st_open(path, &j->images, e);
    char a[80], b[80];

    if (rc)
        return rc;
    j->in = mdl_st_find(j->images, "images");
    if (!j->in)
        j->in = mdl_st_find(j->images, "0.images");
    want = &j->graph.values[j->graph.input].shape;
    if (!j->in)
        return ut_fail(e, UT_EFORMAT, "%s: there is no tensor \"images\"",
                       path);
    if (j->in->dtype != MDL_U8 || j->in->shape.n_dims != 4 ||
        j->in->shape.dim[0] < 1 ||
        memcmp(&j->in->shape.dim[1], want->dim, 3 * sizeof(want->dim[0])))
        return ut_fail(
            e, UT_EFORMAT, "%s: \"images\" is %s %s, not U8 [N] of %s", path,
            mdl_dtype_name(j->in->dtype), mdl_shape_text(&j->in->shape, a),
            mdl_shape_text(want, b));
    return UT_OK;
}

/* Runs images [at, at + n). */
static enum ut_err run_part(struct job *j, int64_t at, int n,
                            struct ut_error *e)
{
    const struct mdl_graph *g = &j->graph;
    size_t image = mdl_shape_count(&g->values[g->input].shape);
    float *out[MDL_MAX_OUTPUTS] = {0};
    struct mdl_plan *plan;
    struct mdl_io io = {.in = (const uint8_t *)j->in->data + (size_t)at * image,
                        .out = out};
    enum ut_err rc;

    for (int i = 0; i < g->n_outputs; i++)
        out[i] = j->out[i] +
                 (size_t)at * mdl_shape_count(&g->values[g->outputs[i]].shape);
    rc = mdl_plan_new(j->lane, g, j->precision, n, &plan, e);
    if (rc)
        return rc;
    rc = mdl_plan_run(plan, &io, e);
    mdl_plan_free(plan);
    return rc;
}

static enum ut_err write_outputs(const struct job *j, const char *path,
                                 struct ut_error *e)
{
    struct mdl_st_tensor t[MDL_MAX_OUTPUTS] = {0};

    for (int i = 0; i < j->graph.n_outputs; i++) {
        const struct mdl_value *v = &j->graph.values[j->graph.outputs[i]];

        t[i].name = v->name;
        t[i].shape.n_dims = v->shape.n_dims + 1;
        t[i].shape.dim[0] = j->in->shape.dim[0];
        memcpy(&t[i].shape.dim[1], v->shape.dim,
               (size_t)v->shape.n_dims * sizeof(v->shape.dim[0]));
        t[i].data = j->out[i];
        t[i].len = mdl_shape_count(&t[i].shape) * sizeof(float);
    }
    return mdl_st_write(path, t, (size_t)j->graph.n_outputs, NULL, 0, e);
}

static enum ut_err run_job(struct job *j, char **paths, struct ut_error *e)
{
    enum ut_err rc = open_network(j, paths[0], e);
    int64_t n, step;

    if (!rc)
        rc = open_images(j, paths[1], e);
    if (!rc)
        rc = cmd_open_backend(j->backend, &j->device, e);
    if (!rc)
        rc = mdl_lane_new(j->device, &j->lane, e);
    if (rc)
        return rc;
    n = j->in->shape.dim[0];
    for (int i = 0; i < j->graph.n_outputs; i++) {
        const struct mdl_value *v = &j->graph.values[j->graph.outputs[i]];

        j->out[i] =
            malloc((size_t)n * mdl_shape_count(&v->shape) * sizeof(float));
        if (!j->out[i])
            return ut_fail(e, UT_ENOMEM, "no memory for output %s", v->name);
    }
    for (int64_t at = 0; at < n && !rc; at += step) {
        step = j->batch && j->batch < n - at ? j->batch : n - at;
        rc = run_part(j, at, (int)step, e);
    }
    return rc ? rc : write_outputs(j, paths[2], e);
}

static int parse(int argc, char **argv, struct job *j)
{
    static const struct option options[] = {
        {"backend", required_argument, NULL, 'b'},
        {"precision", required_argument, NULL, 'p'},
        {"batch", required_argument, NULL, 'n'},
        {"input", required_argument, NULL, 'i'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int c, precision;
    char *end;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (c == 'b')
            j->backend = optarg;
        if (c == 'p') {
            precision = mdl_precision_parse(optarg);
            if (precision < 0) {
                fprintf(stderr,
                        "tscaf-model: --precision %s is neither "
                        "float32, bfloat16, float16 nor tf32\n",
                        optarg);
                return 2;
            }
            j->precision = (enum mdl_precision)precision;
        }
        if (c == 'n') {
            j->batch = (int)strtol(optarg, &end, 10);
            if (*end || j->batch < 1) {
                fprintf(stderr, "tscaf-model: --batch %s is below 1\n", optarg);
                return 2;
            }
        }
        if (c == 'i' && !mdl_onnx_input_parse(optarg, &j->input)) {
            fprintf(stderr,
                    "tscaf-model: --input %s is neither imagenet, insightface "
                    "nor bytes\n",
                    optarg);
            return 2;
        }
        if (c == '?')
            return 2;
    }
    if (argc - optind != 3) {
        fputs(help, stderr);
        return 2;
    }
    return -1;
}

int cmd_run(int argc, char **argv)
{
    struct job j = {.precision = MDL_PREC_F32};
    struct ut_error e;
    enum ut_err rc;
    int code;

    mdl_onnx_input_parse("insightface", &j.input);
    code = parse(argc, argv, &j);
    if (code >= 0)
        return code;
    mdl_graph_init(&j.graph);
    rc = run_job(&j, argv + optind, &e);
    for (int i = 0; i < MDL_MAX_OUTPUTS; i++)
        free(j.out[i]);
    mdl_lane_free(j.lane);
    mdl_backend_close(j.device);
    mdl_st_close(j.images);
    mdl_graph_fini(&j.graph);
    mdl_model_close(&j.model);
    return rc ? cmd_fail(&e) : 0;
}
