/* Any bytes as an ONNX network. */
#include "model/onnx/onnx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct mdl_onnx_input input = {{0, 0, 0}, {1, 1, 1}, false};
    struct mdl_graph g;
    struct ut_error e;

    if (!mdl_onnx_read_memory("fuzz", data, len, &input, &g, &e))
        mdl_graph_fini(&g);
    return 0;
}
