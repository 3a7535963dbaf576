#ifndef MODEL_BACKENDS_CUDA_CUDNN_PARTS_H
#define MODEL_BACKENDS_CUDA_CUDNN_PARTS_H

#include <cudnn.h>

#include "model/backends/cuda/engines.h"

/* What cudnn.c and cudnn_graph.c share. */

#define CUDNN_MAX_PARTS 40

#define CUDNN_FUNCTIONS(F)                                                     \
    F(GetVersion)                                                              \
    F(GetErrorString)                                                          \
    F(GetLastErrorString)                                                      \
    F(Create)                                                                  \
    F(Destroy)                                                                 \
    F(SetStream)                                                               \
    F(BackendCreateDescriptor)                                                 \
    F(BackendDestroyDescriptor)                                                \
    F(BackendSetAttribute)                                                     \
    F(BackendGetAttribute)                                                     \
    F(BackendFinalize)                                                         \
    F(BackendExecute)

struct cudnn {
    void *library; /* owned */
    cudnnHandle_t dnn;
    cudnnBackendDescriptor_t chip; /* instead of dnn, where no GPU is */
#define F(name) __typeof__(&cudnn##name) name;
    CUDNN_FUNCTIONS(F)
#undef F
};

enum { UID_X = 1, UID_W, UID_Y, UID_BIAS, UID_SLOPE, UID_SHIFT, UID_RESIDUAL };

/* A graph as it grows: what to destroy with it, and its operations. The first
 * failure stays in rc, and what follows does nothing. */
struct cudnn_graph {
    struct cudnn *h;
    cudnnBackendDescriptor_t parts[CUDNN_MAX_PARTS], ops[8];
    int n_parts, n_ops;
    int64_t virtual_uid;
    cudnnStatus_t status;
    const char *what;
};

/* cudnn_graph.c. The operations of a product; false: its epilogue has no
 * graph. A failure of cuDNN's is in g->status. */
bool cudnn_describe(struct cudnn_graph *g, const struct gpu_product *p);
void cudnn_graph_free(struct cudnn_graph *g); /* and all its parts */

/* One more part, which goes with the graph; its attributes; its end. */
cudnnBackendDescriptor_t cudnn_part(struct cudnn_graph *g,
                                    cudnnBackendDescriptorType_t type);
void cudnn_set(struct cudnn_graph *g, cudnnBackendDescriptor_t d,
               cudnnBackendAttributeName_t name,
               cudnnBackendAttributeType_t type, int64_t n, const void *of);
void cudnn_set_part(struct cudnn_graph *g, cudnnBackendDescriptor_t d,
                    cudnnBackendAttributeName_t name,
                    cudnnBackendDescriptor_t of);
void cudnn_ready(struct cudnn_graph *g, cudnnBackendDescriptor_t d,
                 const char *what);

#endif
