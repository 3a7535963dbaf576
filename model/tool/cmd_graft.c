/* tscaf-model graft: a pretrained recogniser becomes a tree. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/graft.h"
#include "model/onnx/onnx.h"
#include "model/tool/cmd.h"

static const char help[] =
    "usage: tscaf-model graft [OPTIONS] RECOGNISER OUT\n"
    "\n"
    "Makes a tree of a face recogniser: what it computes up to its last "
    "feature\n"
    "map becomes the root, the rest the recognition branch, unchanged; a fresh "
    "LASE\n"
    "branch for fatigue is put beside it, for `train --fatigue DATA "
    "--frozen-root`.\n"
    "RECOGNISER is an ONNX network (FILE.onnx), or the state dict of an "
    "InsightFace\n"
    "IResNet saved as safetensors.\n"
    "\n"
    "  --input KIND   what an ONNX network's input is: imagenet, insightface "
    "or\n"
    "                 bytes (insightface)\n"
    "  --cut NAME     the ONNX tensor to cut at (the last map that all after "
    "it\n"
    "                 comes from)\n"
    "  --name NAME    of the model (grafted)\n"
    "  --seed N       of the fresh branch (1)\n";

struct job {
    struct mdl_onnx_input input;
    const char *cut, *name, *in, *out;
    uint64_t seed;
};

static void tell(const struct job *j, const struct mdl_graph *from, int cut,
                 const struct mdl_spec *spec)
{
    int root = mdl_spec_find(spec, "root");
    int leaf = mdl_spec_find(spec, "recognition");
    char shape[80];

    printf("%s: cut at \"%s\" %s: root of %d operations, recognition of %d, "
           "embedding of %d; fatigue is fresh\n",
           j->out, from->values[cut].name,
           mdl_shape_text(&from->values[cut].shape, shape),
           spec->nodes[root].n_ops, spec->nodes[leaf].n_ops,
           spec->nodes[leaf].dim);
}

static enum ut_err graft_onnx(const struct job *j, struct ut_error *e)
{
    const struct mdl_st_pair meta[] = {{"name", j->name}, {"trained", "false"}};
    struct mdl_graph from;
    struct mdl_model tree = {0};
    enum ut_err rc = mdl_onnx_read(j->in, &j->input, &from, e);
    int cut;

    if (rc)
        return rc;
    rc = mdl_graft_cut(&from, j->cut, &cut, e);
    if (!rc)
        rc = mdl_graft(&from, cut, j->seed, &tree, e);
    if (!rc)
        rc = mdl_model_write(j->out, &tree.spec, &tree.graph, meta, 2, NULL, 0,
                             e);
    if (!rc)
        tell(j, &from, cut, &tree.spec);
    mdl_model_close(&tree);
    mdl_graph_fini(&from);
    return rc;
}

static int parse(int argc, char **argv, struct job *j)
{
    static const struct option options[] = {
        {"input", required_argument, NULL, 'i'},
        {"cut", required_argument, NULL, 'c'},
        {"name", required_argument, NULL, 'n'},
        {"seed", required_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (c == '?')
            return 2;
        if (c == 'c')
            j->cut = optarg;
        if (c == 'n')
            j->name = optarg;
        if ((c == 's' && !cmd_parse_seed(optarg, &j->seed)) ||
            (c == 'i' && !mdl_onnx_input_parse(optarg, &j->input))) {
            fprintf(stderr, "tscaf-model graft: --%s cannot be \"%s\"\n",
                    c == 'i' ? "input" : "seed", optarg);
            return 2;
        }
    }
    if (argc - optind != 2) {
        fputs(help, stderr);
        return 2;
    }
    j->in = argv[optind];
    j->out = argv[optind + 1];
    return -1;
}

int cmd_graft(int argc, char **argv)
{
    struct job j = {.name = "grafted", .seed = 1};
    const char *end;
    struct ut_error e;
    enum ut_err rc;
    int code;

    mdl_onnx_input_parse("insightface", &j.input);
    code = parse(argc, argv, &j);
    if (code >= 0)
        return code;
    end = strrchr(j.in, '.');
    if (end && !strcmp(end, ".onnx"))
        rc = graft_onnx(&j, &e);
    else if (j.cut)
        rc = ut_fail(&e, UT_EINVAL,
                     "--cut is for ONNX: an IResNet is cut at "
                     "its last map");
    else
        rc = cmd_graft_insightface(j.in, j.out, j.name, j.seed, &e);
    return rc ? cmd_fail(&e) : 0;
}
