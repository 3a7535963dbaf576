/* tscaf-model import: other projects' weights under our names.
 *
 *   insightface   X -> ROOT.X; fc -> LEAF.head.fc; features -> LEAF.head.bn
 *   torchvision   features.X -> ROOT.features.X; classifier is left out
 *
 * The leaf's head is taken over only where its branch is "none": a LASE branch
 * feeds its head something else, and starts fresh. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/graft.h"
#include "model/tool/cmd.h"

static const char help[] =
    "usage: tscaf-model import --from insightface|torchvision [--spec SPEC]\n"
    "                          [--seed N] WEIGHTS OUT\n"
    "\n"
    "WEIGHTS is the state dict of an IResNet backbone or a mobilenet_v2 saved\n"
    "as safetensors. SPEC (iresnet50 or mobilenetv2 by default) is the tree "
    "to\n"
    "fill: branches \"none\" take the recognition head over, others start "
    "fresh.\n";

struct import {
    const char *from, *name, *spec_path, *in, *out;
    uint64_t seed;
    struct mdl_spec spec;
    struct mdl_st *source;
    struct mdl_model model;
    float **copies; /* owned; converted tensors, by value */
    int taken, fresh;
};

/* PREFIX.REST -> REST, or NULL. */
static const char *after(const char *name, const char *prefix)
{
    size_t len = strlen(prefix);

    return !strncmp(name, prefix, len) && name[len] == '.' ? name + len + 1
                                                           : NULL;
}

/* The source's name for our tensor, or NULL where it has none. */
static const char *source_name(const struct import *im, const char *ours,
                               char text[MDL_NAME_LEN])
{
    const char *rest = after(ours, im->spec.nodes[0].name);

    if (rest)
        return rest;
    for (int i = 0; i < im->spec.n_nodes; i++) {
        const struct mdl_spec_node *n = &im->spec.nodes[i];

        if (n->head != MDL_HEAD_EMBEDDING || n->module != MDL_MODULE_NONE ||
            strcmp(im->from, "insightface"))
            continue;
        rest = after(ours, n->name);
        if (rest && after(rest, "head.fc"))
            snprintf(text, MDL_NAME_LEN, "fc.%s", after(rest, "head.fc"));
        else if (rest && after(rest, "head.bn"))
            snprintf(text, MDL_NAME_LEN, "features.%s", after(rest, "head.bn"));
        else
            continue;
        return text;
    }
    return NULL;
}

static enum ut_err take(struct import *im, int value, struct ut_error *e)
{
    struct mdl_value *v = &im->model.graph.values[value];
    char text[MDL_NAME_LEN], a[80], b[80];
    const char *name = source_name(im, v->name, text);
    const struct mdl_st_tensor *t;

    if (!name) {
        im->fresh++;
        return UT_OK;
    }
    t = mdl_st_find(im->source, name);
    if (!t)
        return ut_fail(e, UT_EFORMAT, "%s: there is no tensor \"%s\" for %s",
                       im->in, name, v->name);
    if (!mdl_shape_equal(&t->shape, &v->shape))
        return ut_fail(e, UT_EFORMAT, "%s: tensor \"%s\" is %s, not %s", im->in,
                       name, mdl_shape_text(&t->shape, a),
                       mdl_shape_text(&v->shape, b));
    im->copies[value] = malloc(mdl_shape_count(&v->shape) * sizeof(float));
    if (!im->copies[value])
        return ut_fail(e, UT_ENOMEM, "no memory for tensor \"%s\"", name);
    v->data = im->copies[value];
    im->taken++;
    return mdl_st_floats(t, im->copies[value], e);
}

/* With the spec and the source set. */
static enum ut_err take_all(struct import *im, struct ut_error *e)
{
    enum ut_err rc = mdl_model_fresh(&im->spec, im->seed, &im->model, e);
    struct mdl_st_pair meta[2];
    struct mdl_graph *g = &im->model.graph;

    if (rc)
        return rc;
    im->copies = calloc((size_t)g->n_values, sizeof(*im->copies));
    if (!im->copies)
        return ut_fail(e, UT_ENOMEM, "no memory");
    for (int i = 0; i < g->n_values && !rc; i++)
        if (g->values[i].kind == MDL_VALUE_PARAM ||
            g->values[i].kind == MDL_VALUE_BUFFER)
            rc = take(im, i, e);
    if (rc)
        return rc;
    meta[0] = (struct mdl_st_pair){"name", im->name};
    meta[1] = (struct mdl_st_pair){"trained", im->fresh ? "false" : "true"};
    rc = mdl_model_write(im->out, &im->spec, g, meta, 2, NULL, 0, e);
    if (!rc)
        printf("%s: %d tensors taken over, %d fresh\n", im->out, im->taken,
               im->fresh);
    return rc;
}

static enum ut_err run_import(struct import *im, struct ut_error *e)
{
    enum ut_err rc = cmd_read_spec(im->spec_path, &im->spec, e);

    if (!rc)
        rc = mdl_st_open(im->in, &im->source, e);
    return rc ? rc : take_all(im, e);
}

static void import_free(struct import *im)
{
    for (int i = 0; im->copies && i < im->model.graph.n_values; i++)
        free(im->copies[i]);
    free(im->copies);
    mdl_model_close(&im->model);
    mdl_st_close(im->source);
    free(im);
}

enum ut_err cmd_graft_insightface(const char *in, const char *out,
                                  const char *name, uint64_t seed,
                                  struct ut_error *e)
{
    struct import *im = calloc(1, sizeof(*im));
    enum ut_err rc;

    if (!im)
        return ut_fail(e, UT_ENOMEM, "no memory");
    *im = (struct import){.from = "insightface",
                          .name = name,
                          .in = in,
                          .out = out,
                          .seed = seed};
    rc = mdl_st_open(in, &im->source, e);
    if (!rc)
        rc = mdl_graft_insightface(im->source, &im->spec, e);
    if (!rc)
        rc = take_all(im, e);
    import_free(im);
    return rc;
}

static int parse(int argc, char **argv, struct import *im)
{
    static const struct option options[] = {
        {"from", required_argument, NULL, 'f'},
        {"spec", required_argument, NULL, 's'},
        {"seed", required_argument, NULL, 'n'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (c == 'f')
            im->from = optarg;
        if (c == 's')
            im->spec_path = optarg;
        if (c == 'n' && !cmd_parse_seed(optarg, &im->seed)) {
            fprintf(stderr, "tscaf-model import: --seed %s is no number\n",
                    optarg);
            return 2;
        }
        if (c == '?')
            return 2;
    }
    if (argc - optind != 2 || !im->from ||
        (strcmp(im->from, "insightface") && strcmp(im->from, "torchvision"))) {
        fputs(help, stderr);
        return 2;
    }
    im->in = argv[optind];
    im->out = argv[optind + 1];
    im->name = im->from;
    if (!im->spec_path)
        im->spec_path =
            strcmp(im->from, "insightface") ? "mobilenetv2" : "iresnet50";
    return -1;
}

int cmd_import(int argc, char **argv)
{
    struct import *im = calloc(1, sizeof(*im));
    struct ut_error e = {.msg = "no memory"};
    enum ut_err rc;
    int code;

    if (!im)
        return cmd_fail(&e);
    im->seed = 1;
    code = parse(argc, argv, im);
    if (code < 0) {
        rc = run_import(im, &e);
        code = rc ? cmd_fail(&e) : 0;
    }
    import_free(im);
    return code;
}
