/* Any bytes as a safetensors file and, if they have one, their spec and the
 * graph that it asks for. */
#include <string.h>

#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void build(const char *text, size_t len)
{
    static struct mdl_spec spec;
    struct mdl_graph g;
    struct ut_error e;

    if (mdl_spec_parse(text, len, &spec, &e) || mdl_model_build(&spec, &g, &e))
        return;
    for (int i = 0; i < g.n_nodes; i++)
        (void)mdl_node_macs(&g, &g.nodes[i]);
    mdl_graph_fini(&g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct ut_error e;
    struct mdl_st *st;
    const char *text;

    if (mdl_st_open_memory("fuzz", data, len, &st, &e)) {
        /* The same bytes as a spec: the header checks would keep most out. */
        build((const char *)data, len);
        return 0;
    }
    for (size_t i = 0; i < mdl_st_count(st); i++) {
        const struct mdl_st_tensor *t = mdl_st_at(st, i);
        volatile uint8_t sum = 0;

        for (size_t k = 0; k < t->len; k++)
            sum = (uint8_t)(sum + ((const uint8_t *)t->data)[k]);
    }
    text = mdl_st_meta(st, "spec");
    if (text)
        build(text, strlen(text));
    mdl_st_close(st);
    return 0;
}
