/* Any bytes as an ONNX network, made ready for inference. */
#include "model/onnx/onnx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct mdl_onnx_input input = {{0, 0, 0}, {1, 1, 1}, false};
    struct mdl_graph g, fused;
    struct ut_error e;

    if (mdl_onnx_read_memory("fuzz", data, len, &input, &g, &e))
        return 0;
    if (!mdl_graph_optimise(&g, ~0ull, &fused, &e))
        mdl_graph_fini(&fused);
    mdl_graph_fini(&g);
    return 0;
}
