/* A convolution and its epilogue as one of cuDNN's graphs, channels last:
 *
 *   conv(x, w) -> + bias -> act -> + shift -> + residual -> y
 *
 * or, training, its gradient by x or by w. What is between two operations is a
 * virtual float32 tensor. PReLU is max(x, slope x), which is right where no
 * slope is above 1. */
#include <math.h>
#include <stdlib.h>

#include "model/backends/cuda/cudnn_parts.h"
#include "model/graph.h"

cudnnBackendDescriptor_t cudnn_part(struct cudnn_graph *g,
                                    cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d = NULL;

    if (g->status == CUDNN_STATUS_SUCCESS && g->n_parts == CUDNN_MAX_PARTS)
        g->status = CUDNN_STATUS_INTERNAL_ERROR;
    if (g->status != CUDNN_STATUS_SUCCESS)
        return NULL;
    g->status = g->h->BackendCreateDescriptor(type, &d);
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->parts[g->n_parts++] = d;
    return d;
}

void cudnn_set(struct cudnn_graph *g, cudnnBackendDescriptor_t d,
               cudnnBackendAttributeName_t name,
               cudnnBackendAttributeType_t type, int64_t n, const void *of)
{
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = g->h->BackendSetAttribute(d, name, type, n, of);
}

void cudnn_set_part(struct cudnn_graph *g, cudnnBackendDescriptor_t d,
                    cudnnBackendAttributeName_t name,
                    cudnnBackendDescriptor_t of)
{
    cudnn_set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &of);
}

void cudnn_ready(struct cudnn_graph *g, cudnnBackendDescriptor_t d,
                 const char *what)
{
    if (g->status != CUDNN_STATUS_SUCCESS)
        return;
    g->what = what;
    g->status = g->h->BackendFinalize(d);
}

static cudnnDataType_t data_type(enum gpu_type t)
{
    return t == GPU_F16    ? CUDNN_DATA_HALF
           : t == GPU_BF16 ? CUDNN_DATA_BFLOAT16
                           : CUDNN_DATA_FLOAT;
}

/* [n, h, w, c] in memory, which cuDNN names n, c, h, w. uid 0: virtual. */
static cudnnBackendDescriptor_t tensor(struct cudnn_graph *g, int64_t uid,
                                       cudnnDataType_t type, int64_t n,
                                       int64_t h, int64_t w, int64_t c)
{
    cudnnBackendDescriptor_t d = cudnn_part(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    int64_t dims[] = {n, c, h, w}, strides[] = {h * w * c, 1, w * c, c};
    int64_t align = 16;
    bool virtual = !uid;

    if (virtual)
        uid = ++g->virtual_uid;
    cudnn_set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1,
              &type);
    cudnn_set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
    cudnn_set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
    cudnn_set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    cudnn_set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1,
              &align);
    cudnn_set(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1,
              &virtual);
    cudnn_ready(g, d, "a tensor");
    return d;
}

/* The operation of a pass, and the names of its attributes. */
static const struct pass {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t conv, x, w, y, alpha, beta;
} passes[] = {
#define PASS(name, X, W, Y)                                                    \
    {                                                                          \
        CUDNN_BACKEND_OPERATION_CONVOLUTION_##name##_DESCRIPTOR,               \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##name##_CONV_DESC,               \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##name##_##X,                     \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##name##_##W,                     \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##name##_##Y,                     \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##name##_ALPHA,                   \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##name##_BETA                     \
    }
#define CUDNN_BACKEND_OPERATION_CONVOLUTION_BWD_DATA_DESCRIPTOR                \
    CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR
#define CUDNN_BACKEND_OPERATION_CONVOLUTION_BWD_FILTER_DESCRIPTOR              \
    CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR
    [GPU_FORWARD] = PASS(FORWARD, X, W, Y),
    [GPU_DX] = PASS(BWD_DATA, DY, W, DX),
    [GPU_DW] = PASS(BWD_FILTER, X, DY, DW),
#undef PASS
};

/* y from x and w, whatever these are in the pass. */
static void convolve(struct cudnn_graph *g, const struct gpu_product *p,
                     cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t w,
                     cudnnBackendDescriptor_t y)
{
    const struct pass *pass = &passes[p->pass];
    cudnnBackendDescriptor_t c =
        cudnn_part(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    cudnnBackendDescriptor_t op = cudnn_part(g, pass->type);
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    int64_t rank = 2, pad[] = {p->window.pad, p->window.pad};
    int64_t stride[] = {p->window.stride, p->window.stride}, one[] = {1, 1};
    float alpha = 1, beta = 0;

    cudnn_set(g, c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1,
              &rank);
    cudnn_set(g, c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1,
              &type);
    cudnn_set(g, c, CUDNN_ATTR_CONVOLUTION_CONV_MODE,
              CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    cudnn_set(g, c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2,
              pad);
    cudnn_set(g, c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2,
              pad);
    cudnn_set(g, c, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, one);
    cudnn_set(g, c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2,
              stride);
    cudnn_ready(g, c, "a convolution");
    cudnn_set_part(g, op, pass->conv, c);
    cudnn_set_part(g, op, pass->x, x);
    cudnn_set_part(g, op, pass->w, w);
    cudnn_set_part(g, op, pass->y, y);
    cudnn_set(g, op, pass->alpha, CUDNN_TYPE_FLOAT, 1, &alpha);
    cudnn_set(g, op, pass->beta, CUDNN_TYPE_FLOAT, 1, &beta);
    cudnn_ready(g, op, "a convolution");
    g->ops[g->n_ops++] = op;
}

/* A gradient, of the maps' type: cuDNN has no float32 dw of other factors. */
static void describe_gradient(struct cudnn_graph *g,
                              const struct gpu_product *p)
{
    const struct gpu_map *x = &p->x, *y = &p->y;
    bool dx = p->pass == GPU_DX;
    cudnnDataType_t type = data_type(x->type);
    cudnnBackendDescriptor_t big =
        tensor(g, dx ? UID_Y : UID_X, type, x->batch, x->h, x->w, x->c);
    cudnnBackendDescriptor_t dy =
        tensor(g, dx ? UID_X : UID_W, type, y->batch, y->h, y->w, y->c);
    cudnnBackendDescriptor_t w =
        tensor(g, dx ? UID_W : UID_Y, type, y->c, p->window.kernel,
               p->window.kernel, x->c / p->window.groups);

    if (dx)
        convolve(g, p, dy, w, big);
    else
        convolve(g, p, big, dy, w);
}

/* b NULL: of one operand. clips: lower, upper, slope below; NULL: none. */
static void pointwise(struct cudnn_graph *g, cudnnPointwiseMode_t mode,
                      const double *clips, cudnnBackendDescriptor_t x,
                      cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t way =
        cudnn_part(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    cudnnBackendDescriptor_t op =
        cudnn_part(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    static const cudnnBackendAttributeName_t names[] = {
        CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP,
        CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP,
        CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP_SLOPE};

    cudnn_set(g, way, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1,
              &mode);
    cudnn_set(g, way, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1,
              &type);
    for (int i = 0; clips && i < 3; i++)
        cudnn_set(g, way, names[i], CUDNN_TYPE_DOUBLE, 1, &clips[i]);
    cudnn_ready(g, way, "an epilogue");
    cudnn_set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, way);
    cudnn_set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b)
        cudnn_set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    cudnn_set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    cudnn_ready(g, op, "an epilogue");
    g->ops[g->n_ops++] = op;
}

/* An operation of the epilogue. */
struct link {
    cudnnPointwiseMode_t mode;
    double clips[3];
    bool relu;
    int64_t uid; /* of its second operand; 0: none, -1: the link's before last
                    input, which PReLU's max wants */
};

/* The epilogue as a chain; -1: it cannot be said. */
static int chain(const struct gpu_product *p, struct link links[6])
{
    const struct gpu_epilogue *ep = &p->ep;
    double top = ep->act == MDL_ACT_RELU6 ? 6 : INFINITY;
    int n = 0;

    if (p->bare)
        return 0;
    if (ep->scale)
        return -1;
    if (ep->bias)
        links[n++] = (struct link){CUDNN_POINTWISE_ADD, .uid = UID_BIAS};
    switch (ep->act) {
    case MDL_ACT_NONE:
        break;
    case MDL_ACT_RELU:
    case MDL_ACT_RELU6:
    case MDL_ACT_LEAKY:
        links[n++] = (struct link){
            CUDNN_POINTWISE_RELU_FWD,
            {0, top, ep->act == MDL_ACT_LEAKY ? (double)ep->alpha : 0},
            true,
            0};
        break;
    case MDL_ACT_PRELU:
        if (p->steep)
            return -1;
        links[n++] = (struct link){CUDNN_POINTWISE_MUL, .uid = UID_SLOPE};
        links[n++] = (struct link){CUDNN_POINTWISE_MAX, .uid = -1};
        break;
    case MDL_ACT_SIGMOID:
        links[n++] = (struct link){CUDNN_POINTWISE_SIGMOID_FWD, .uid = 0};
        break;
    default:
        return -1;
    }
    if (ep->shift)
        links[n++] = (struct link){CUDNN_POINTWISE_ADD, .uid = UID_SHIFT};
    if (ep->residual)
        links[n++] = (struct link){CUDNN_POINTWISE_ADD, .uid = UID_RESIDUAL};
    return n;
}

bool cudnn_describe(struct cudnn_graph *g, const struct gpu_product *p)
{
    struct link links[6];
    int n = chain(p, links);
    const struct gpu_map *x = &p->x, *y = &p->y;
    cudnnDataType_t yt = data_type(y->type);
    cudnnBackendDescriptor_t before = NULL, now, last;

#define MIDDLE tensor(g, 0, CUDNN_DATA_FLOAT, y->batch, y->h, y->w, y->c)
    if (p->pass != GPU_FORWARD) {
        describe_gradient(g, p);
        return true;
    }
    if (n < 0)
        return false;
    last = tensor(g, UID_Y, yt, y->batch, y->h, y->w, y->c);
    now = n ? MIDDLE : last;
    convolve(g, p,
             tensor(g, UID_X, data_type(x->type), x->batch, x->h, x->w, x->c),
             tensor(g, UID_W, data_type(x->type), y->c, p->window.kernel,
                    p->window.kernel, x->c / p->window.groups),
             now);
    for (int i = 0; i < n; i++) {
        const struct link *l = &links[i];
        cudnnBackendDescriptor_t b = NULL, to = i + 1 < n ? MIDDLE : last;

        if (l->uid == UID_RESIDUAL)
            b = tensor(g, l->uid, yt, y->batch, y->h, y->w, y->c);
        else if (l->uid > 0)
            b = tensor(g, l->uid, CUDNN_DATA_FLOAT, 1, 1, 1, y->c);
        else if (l->uid < 0)
            b = before;
        pointwise(g, l->mode, l->relu ? l->clips : NULL, now, b, to);
        before = now;
        now = to;
    }
#undef MIDDLE
    return true;
}

void cudnn_graph_free(struct cudnn_graph *g)
{
    while (g->n_parts)
        g->h->BackendDestroyDescriptor(g->parts[--g->n_parts]);
    free(g);
}
