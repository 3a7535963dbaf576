/* tscaf-model describe: the tree with shapes, parameters and multiply-adds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tool/cmd.h"

static const char help[] =
    "usage: tscaf-model describe MODEL|SPEC\n"
    "\n"
    "Prints every module's output shape, parameters and multiply-adds for one\n"
    "face, their totals, and what one network per leaf (the parallel style)\n"
    "would cost. MODEL is a model file; SPEC a JSON file, iresnet50 or\n"
    "mobilenetv2. Sizes count trained parameters, not running statistics.\n";

struct cost {
    int64_t parameters, macs;
};

static int64_t param_count(const struct mdl_graph *g, const struct mdl_node *n)
{
    int64_t count = 0;

    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] >= 0 && g->values[n->in[i]].kind == MDL_VALUE_PARAM)
            count += (int64_t)mdl_shape_count(&g->values[n->in[i]].shape);
    return count;
}

/* Cost of the modules whose name is NODE or begins with "NODE.". */
static struct cost cost_of(const struct mdl_graph *g, const char *node)
{
    struct cost sum = {0, 0};
    size_t len = strlen(node);

    for (int i = 0; i < g->n_nodes; i++) {
        const char *m = g->modules[g->nodes[i].module];

        if (strncmp(m, node, len) || (m[len] && m[len] != '.'))
            continue;
        sum.parameters += param_count(g, &g->nodes[i]);
        sum.macs += mdl_node_macs(g, &g->nodes[i]);
    }
    return sum;
}

static void print_modules(const struct mdl_graph *g)
{
    printf("%-24s %-18s %14s %16s\n", "module", "output", "parameters",
           "multiply-adds");
    for (int m = 0; m < g->n_modules; m++) {
        struct cost c = {0, 0};
        char shape[80] = "";

        for (int i = 0; i < g->n_nodes; i++)
            if (g->nodes[i].module == m) {
                c.parameters += param_count(g, &g->nodes[i]);
                c.macs += mdl_node_macs(g, &g->nodes[i]);
                mdl_shape_text(&g->values[g->nodes[i].out].shape, shape);
            }
        if (shape[0]) /* else all its nodes are in modules of their own */
            printf("%-24s %-18s %14lld %16lld\n", g->modules[m], shape,
                   (long long)c.parameters, (long long)c.macs);
    }
}

/* One network per leaf: each leaf's path from its root, counted anew. */
static struct cost parallel(const struct mdl_spec *spec,
                            const struct mdl_graph *g, int *leaves)
{
    struct cost sum = {0, 0};

    *leaves = 0;
    for (int i = 0; i < spec->n_nodes; i++) {
        if (!spec->nodes[i].head)
            continue;
        ++*leaves;
        for (int k = i; k >= 0; k = spec->nodes[k].parent) {
            struct cost c = cost_of(g, spec->nodes[k].name);

            sum.parameters += c.parameters;
            sum.macs += c.macs;
        }
    }
    return sum;
}

static void print_line(const char *what, struct cost c)
{
    printf("%s: %lld parameters, %lld multiply-adds (%.2f M, %.2f GFLOPs)\n",
           what, (long long)c.parameters, (long long)c.macs,
           (double)c.parameters / 1e6, 2 * (double)c.macs / 1e9);
}

static void print_all(const struct mdl_spec *spec, const struct mdl_graph *g)
{
    struct cost total = {0, 0}, apart;
    char what[64];
    int leaves;

    print_modules(g);
    for (int i = 0; i < spec->n_nodes; i++) {
        struct cost c = cost_of(g, spec->nodes[i].name);

        total.parameters += c.parameters;
        total.macs += c.macs;
    }
    apart = parallel(spec, g, &leaves);
    printf("\n");
    print_line("this tree", total);
    snprintf(what, sizeof(what), "parallel style, %d networks", leaves);
    print_line(what, apart);
}

int cmd_describe(int argc, char **argv)
{
    struct mdl_spec *spec;
    struct mdl_graph g;
    struct mdl_model m;
    struct ut_error e;
    enum ut_err rc;
    size_t len;

    if (argc == 2 && !strcmp(argv[1], "--help"))
        return fputs(help, stdout) < 0;
    if (argc != 2) {
        fputs(help, stderr);
        return 2;
    }
    len = strlen(argv[1]);
    if (len > 12 && !strcmp(argv[1] + len - 12, ".safetensors")) {
        rc = mdl_model_open(argv[1], &m, &e);
        if (rc)
            return cmd_fail(&e);
        printf("%s, version %s, %strained\n\n", m.name, m.version,
               m.trained ? "" : "un");
        print_all(&m.spec, &m.graph);
        mdl_model_close(&m);
        return 0;
    }
    spec = malloc(sizeof(*spec));
    rc = spec ? cmd_read_spec(argv[1], spec, &e)
              : ut_fail(&e, UT_ENOMEM, "no memory");
    if (!rc)
        rc = mdl_model_build(spec, &g, &e);
    if (!rc) {
        print_all(spec, &g);
        mdl_graph_fini(&g);
    }
    free(spec);
    return rc ? cmd_fail(&e) : 0;
}
