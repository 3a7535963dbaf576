/* tscaf-model export: a model as ONNX, for other engines. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "model/onnx/onnx.h"
#include "model/tool/cmd.h"

static const char help[] =
    "usage: tscaf-model export [--all] MODEL OUT.onnx\n"
    "\n"
    "Writes the network as ONNX, opset 17: \"images\" uint8 [N,H,W,3] in, the\n"
    "leaves' last outputs out (--all: every named output). Nothing is folded;\n"
    "the engine that reads it does that.\n";

/* The outputs that a server gives. */
static bool is_answer(const char *name)
{
    return strstr(name, ".probability") || strstr(name, ".normalized");
}

int cmd_export(int argc, char **argv)
{
    static const struct option options[] = {
        {"all", no_argument, NULL, 'a'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct mdl_model m = {0};
    uint64_t keep = 0;
    struct ut_error e;
    bool all = false;
    enum ut_err rc;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c != 'a') {
            fputs(help, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
        all = true;
    }
    if (argc - optind != 2) {
        fputs(help, stderr);
        return 2;
    }
    rc = mdl_model_open(argv[optind], &m, &e);
    for (int i = 0; !rc && i < m.graph.n_outputs; i++)
        if (all || is_answer(m.graph.values[m.graph.outputs[i]].name))
            keep |= 1ull << i;
    if (!rc)
        rc = mdl_onnx_write(argv[optind + 1], &m.graph, keep, &e);
    mdl_model_close(&m);
    return rc ? cmd_fail(&e) : 0;
}
