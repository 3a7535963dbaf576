/* cuDNN 9 by its graph interface: a convolution and its epilogue as one graph
 * of operations, channels last.
 *
 *   conv(x, w) -> + bias -> act -> + shift -> + residual -> y
 *
 * What is between two operations is a virtual float32 tensor. PReLU is
 * max(x, slope x), which is right where no slope is above 1.
 *
 * The library is opened at run time, so that a machine without it says so.
 * Nondeterministic engines, and those that would round float32 to TF32 or add
 * up in less than float32, are left out by what cuDNN notes about them. */
#include <cudnn.h>
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/cuda/engines.h"
#include "model/graph.h"

#define LIBRARY "libcudnn.so.9"
#define MAX_ROOM ((int64_t)256 << 20)
#define MAX_PARTS 40

#define FUNCTIONS(F)                                                           \
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

struct handle {
    void *library; /* owned */
    cudnnHandle_t dnn;
    cudnnBackendDescriptor_t chip; /* instead of dnn, where no GPU is */
#define F(name) __typeof__(&cudnn##name) name;
    FUNCTIONS(F)
#undef F
};

struct engine {
    struct gpu_engine base;
    cudnnBackendDescriptor_t plan;
};

enum { UID_X = 1, UID_W, UID_Y, UID_BIAS, UID_SLOPE, UID_SHIFT, UID_RESIDUAL };

/* A graph as it grows: what to destroy with it, and its operations. The first
 * failure stays in rc, and what follows does nothing. */
struct graph {
    struct handle *h;
    cudnnBackendDescriptor_t parts[MAX_PARTS], ops[8];
    int n_parts, n_ops;
    int64_t virtual_uid;
    cudnnStatus_t status;
    const char *what;
};

static enum ut_err fail(const struct handle *h, const char *what,
                        cudnnStatus_t s, struct ut_error *e)
{
    char why[120] = "";

    h->GetLastErrorString(why, sizeof(why));
    return ut_fail(e, s == CUDNN_STATUS_ALLOC_FAILED ? UT_ENOMEM : UT_EDEVICE,
                   "cuDNN: %s: %s %s", what, h->GetErrorString(s), why);
}

static enum ut_err load(struct handle **out, struct ut_error *e)
{
    struct handle *h = calloc(1, sizeof(*h));
    const char *why;

    *out = NULL;
    if (!h)
        return ut_fail(e, UT_ENOMEM, "no memory for cuDNN");
    h->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!h->library) {
        why = dlerror();
        free(h);
        return ut_fail(e, UT_EDEVICE, "cuDNN 9 does not load: %.180s",
                       why ? why : LIBRARY);
    }
#define F(name)                                                                \
    *(void **)&h->name = dlsym(h->library, "cudnn" #name);                     \
    if (!h->name) {                                                            \
        dlclose(h->library);                                                   \
        free(h);                                                               \
        return ut_fail(e, UT_EDEVICE, LIBRARY " has no cudnn" #name);          \
    }
    FUNCTIONS(F)
#undef F
    *out = h;
    return UT_OK;
}

static void close_cudnn(void *handle, bool lost)
{
    struct handle *h = handle;

    if (h->dnn && !lost)
        h->Destroy(h->dnn);
    if (h->chip)
        h->BackendDestroyDescriptor(h->chip);
    dlclose(h->library);
    free(h);
}

static enum ut_err open_cudnn(struct gpu_stream *s, void **out,
                              struct ut_error *e)
{
    struct handle *h;
    enum ut_err rc = load(&h, e);
    cudnnStatus_t status;

    if (rc)
        return rc;
    status = h->Create(&h->dnn);
    if (status == CUDNN_STATUS_SUCCESS)
        status = h->SetStream(h->dnn, gpu_native(s));
    if (status == CUDNN_STATUS_SUCCESS) {
        *out = h;
        return UT_OK;
    }
    rc = fail(h, "a handle", status, e);
    close_cudnn(h, false);
    return rc;
}

enum ut_err gpu_cudnn_without_gpu(const char *chip, void **out,
                                  struct ut_error *e)
{
    struct handle *h;
    enum ut_err rc = load(&h, e);
    cudnnStatus_t s;

    if (rc)
        return rc;
    s = h->BackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR,
                                   &h->chip);
    if (s == CUDNN_STATUS_SUCCESS)
        s = h->BackendSetAttribute(
            h->chip, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
            (int64_t)strlen(chip) + 1, chip);
    if (s == CUDNN_STATUS_SUCCESS)
        s = h->BackendFinalize(h->chip);
    if (s == CUDNN_STATUS_SUCCESS) {
        *out = h;
        return UT_OK;
    }
    rc = fail(h, "a chip", s, e);
    close_cudnn(h, false);
    return rc;
}

static int64_t version(void *handle)
{
    return (int64_t)((struct handle *)handle)->GetVersion();
}

/* ---- The graph ---- */

static cudnnBackendDescriptor_t part(struct graph *g,
                                     cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d = NULL;

    if (g->status == CUDNN_STATUS_SUCCESS && g->n_parts == MAX_PARTS)
        g->status = CUDNN_STATUS_INTERNAL_ERROR;
    if (g->status != CUDNN_STATUS_SUCCESS)
        return NULL;
    g->status = g->h->BackendCreateDescriptor(type, &d);
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->parts[g->n_parts++] = d;
    return d;
}

static void set(struct graph *g, cudnnBackendDescriptor_t d,
                cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, const void *of)
{
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = g->h->BackendSetAttribute(d, name, type, n, of);
}

static void set_part(struct graph *g, cudnnBackendDescriptor_t d,
                     cudnnBackendAttributeName_t name,
                     cudnnBackendDescriptor_t of)
{
    set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &of);
}

static void ready(struct graph *g, cudnnBackendDescriptor_t d, const char *what)
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
static cudnnBackendDescriptor_t tensor(struct graph *g, int64_t uid,
                                       cudnnDataType_t type, int64_t n,
                                       int64_t h, int64_t w, int64_t c)
{
    cudnnBackendDescriptor_t d = part(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    int64_t dims[] = {n, c, h, w}, strides[] = {h * w * c, 1, w * c, c};
    int64_t align = 16;
    bool virtual = !uid;

    if (virtual)
        uid = ++g->virtual_uid;
    set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
    set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
    set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    set(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &virtual);
    ready(g, d, "a tensor");
    return d;
}

static void convolve(struct graph *g, const struct gpu_product *p,
                     cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t w,
                     cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t c = part(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    cudnnBackendDescriptor_t op =
        part(g, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    int64_t rank = 2, pad[] = {p->window.pad, p->window.pad};
    int64_t stride[] = {p->window.stride, p->window.stride}, one[] = {1, 1};
    float alpha = 1, beta = 0;

    set(g, c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &rank);
    set(g, c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, c, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1,
        &mode);
    set(g, c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
    set(g, c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
    set(g, c, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, one);
    set(g, c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2,
        stride);
    ready(g, c, "a convolution");
    set_part(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, c);
    set_part(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
    set_part(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w);
    set_part(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT,
        1, &alpha);
    set(g, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT,
        1, &beta);
    ready(g, op, "a convolution");
    g->ops[g->n_ops++] = op;
}

/* b NULL: of one operand. clips: lower, upper, slope below; NULL: none. */
static void pointwise(struct graph *g, cudnnPointwiseMode_t mode,
                      const double *clips, cudnnBackendDescriptor_t x,
                      cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t way = part(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    cudnnBackendDescriptor_t op =
        part(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    static const cudnnBackendAttributeName_t names[] = {
        CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP,
        CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP,
        CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP_SLOPE};

    set(g, way, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(g, way, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
    for (int i = 0; clips && i < 3; i++)
        set(g, way, names[i], CUDNN_TYPE_DOUBLE, 1, &clips[i]);
    ready(g, way, "an epilogue");
    set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, way);
    set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b)
        set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    ready(g, op, "an epilogue");
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

static void describe(struct graph *g, const struct gpu_product *p,
                     const struct link *links, int n)
{
    const struct gpu_map *x = &p->x, *y = &p->y;
    cudnnDataType_t yt = data_type(y->type);
    cudnnBackendDescriptor_t before = NULL, now;
    cudnnBackendDescriptor_t last =
        tensor(g, UID_Y, yt, y->batch, y->h, y->w, y->c);

#define MIDDLE tensor(g, 0, CUDNN_DATA_FLOAT, y->batch, y->h, y->w, y->c)
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
}

static void drop_graph(struct graph *g)
{
    while (g->n_parts)
        g->h->BackendDestroyDescriptor(g->parts[--g->n_parts]);
    free(g);
}

/* ---- Offers ---- */

static bool has_note(const cudnnBackendNumericalNote_t *notes, int64_t n,
                     cudnnBackendNumericalNote_t of)
{
    for (int64_t i = 0; i < n; i++)
        if (notes[i] == of)
            return true;
    return false;
}

/* Whether an engine's numbers can be what the precision promises. */
static bool acceptable(struct handle *h, cudnnBackendDescriptor_t config,
                       bool single, int64_t *id)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    cudnnBackendDescriptor_t engine;
    int64_t n = 0, one = 0;
    bool ok = false;

    if (h->BackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) !=
        CUDNN_STATUS_SUCCESS)
        return false;
    if (h->BackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                               CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &one,
                               &engine) == CUDNN_STATUS_SUCCESS &&
        h->BackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX,
                               CUDNN_TYPE_INT64, 1, &one,
                               id) == CUDNN_STATUS_SUCCESS &&
        h->BackendGetAttribute(
            engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
            CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, notes) == CUDNN_STATUS_SUCCESS)
        ok = !has_note(notes, n, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) &&
             !has_note(notes, n,
                       CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION) &&
             !has_note(notes, n, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS) &&
             !(single && has_note(notes, n, CUDNN_NUMERICAL_NOTE_TENSOR_CORE));
    h->BackendDestroyDescriptor(engine);
    return ok;
}

static void drop(void *handle, struct gpu_offers *o)
{
    struct handle *h = handle;

    for (int i = 0; i < o->n; i++)
        h->BackendDestroyDescriptor(o->of[i]);
    if (o->shared)
        drop_graph(o->shared);
    *o = (struct gpu_offers){0};
}

/* Adds what a heuristic has to say. */
static void ask(struct graph *g, cudnnBackendDescriptor_t ops,
                cudnnBackendHeurMode_t mode, bool single, struct gpu_offers *o)
{
    struct handle *h = g->h;
    cudnnBackendDescriptor_t heuristic =
        part(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    cudnnBackendDescriptor_t list[2 * GPU_ENGINES];
    int64_t n = 0, made = 0;

    set_part(g, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, ops);
    set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1,
        &mode);
    if (h->chip)
        set_part(g, heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, h->chip);
    ready(g, heuristic, "engines");
    if (g->status != CUDNN_STATUS_SUCCESS)
        return;
    while (made < 2 * GPU_ENGINES &&
           h->BackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR,
                                      &list[made]) == CUDNN_STATUS_SUCCESS)
        made++;
    if (h->BackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                               CUDNN_TYPE_BACKEND_DESCRIPTOR, made, &n,
                               list) != CUDNN_STATUS_SUCCESS)
        n = 0;
    for (int64_t i = 0; i < made; i++) {
        if (i < n && o->n < GPU_ENGINES &&
            acceptable(h, list[i], single, &o->id[o->n]))
            o->of[o->n++] = list[i];
        else
            h->BackendDestroyDescriptor(list[i]);
    }
}

static enum ut_err find(void *handle, const struct gpu_product *p,
                        struct gpu_offers *o, struct ut_error *e)
{
    struct handle *h = handle;
    struct graph *g = calloc(1, sizeof(*g));
    cudnnBackendDescriptor_t ops;
    struct link links[6];
    int n = chain(p, links);
    enum ut_err rc;

    *o = (struct gpu_offers){.vendor = &gpu_cudnn, .shared = g};
    if (!g)
        return ut_fail(e, UT_ENOMEM, "no memory for a graph");
    *g = (struct graph){.h = h, .virtual_uid = 100, .what = "a graph"};
    if (n >= 0)
        describe(g, p, links, n);
    ops = part(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(g, ops, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
        g->n_ops, g->ops);
    if (h->dnn)
        set(g, ops, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1,
            &h->dnn);
    ready(g, ops, "a graph");
    ask(g, ops, CUDNN_HEUR_MODE_A, p->x.type == GPU_F32, o);
    if (!o->n)
        ask(g, ops, CUDNN_HEUR_MODE_FALLBACK, p->x.type == GPU_F32, o);
    if (n >= 0 && g->status == CUDNN_STATUS_SUCCESS && o->n)
        return UT_OK;
    rc = n < 0 ? ut_fail(e, UT_EDEVICE, "no graph for this epilogue")
         : g->status == CUDNN_STATUS_SUCCESS
             ? ut_fail(e, UT_EDEVICE, "cuDNN: no engine for it")
             : fail(h, g->what, g->status, e);
    drop(h, o);
    return rc;
}

/* ---- Engines ---- */

static void unmake(void *handle, struct gpu_engine *engine)
{
    struct engine *g = (struct engine *)engine;

    if (handle)
        ((struct handle *)handle)->BackendDestroyDescriptor(g->plan);
    free(g);
}

static cudnnStatus_t make_plan(struct handle *h, cudnnBackendDescriptor_t plan,
                               void *config, int64_t *room)
{
    int64_t n;
    cudnnStatus_t s =
        h->BackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                               CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);

    if (s == CUDNN_STATUS_SUCCESS)
        s = h->chip
                ? h->BackendSetAttribute(
                      plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
                      CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &h->chip)
                : h->BackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE,
                                         CUDNN_TYPE_HANDLE, 1, &h->dnn);
    if (s == CUDNN_STATUS_SUCCESS)
        s = h->BackendFinalize(plan);
    if (s == CUDNN_STATUS_SUCCESS)
        s = h->BackendGetAttribute(plan,
                                   CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                   CUDNN_TYPE_INT64, 1, &n, room);
    return s;
}

static enum ut_err make(void *handle, const struct gpu_product *p,
                        const struct gpu_offers *o, int i,
                        struct gpu_engine **out, struct ut_error *e)
{
    struct handle *h = handle;
    struct engine *g = calloc(1, sizeof(*g));
    int64_t room = 0;
    cudnnStatus_t s;
    enum ut_err rc = UT_OK;

    (void)p;
    *out = NULL;
    if (!g)
        return ut_fail(e, UT_ENOMEM, "no memory for an engine");
    s = h->BackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
                                   &g->plan);
    if (s != CUDNN_STATUS_SUCCESS) {
        free(g);
        return fail(h, "an engine", s, e);
    }
    s = make_plan(h, g->plan, o->of[i], &room);
    if (s != CUDNN_STATUS_SUCCESS)
        rc = fail(h, "an engine", s, e);
    else if (room > MAX_ROOM)
        rc = ut_fail(e, UT_EDEVICE, "cuDNN: an engine wants %lld MiB",
                     (long long)(room >> 20));
    if (rc) {
        unmake(h, &g->base);
        return rc;
    }
    g->base = (struct gpu_engine){&gpu_cudnn, (size_t)room};
    *out = &g->base;
    return UT_OK;
}

static enum ut_err run(void *handle, struct gpu_engine *engine,
                       const struct gpu_operands *a, struct ut_error *e)
{
    struct handle *h = handle;
    struct engine *g = (struct engine *)engine;
    cudnnBackendDescriptor_t pack;
    const int64_t all[] = {UID_X,     UID_W,     UID_Y,       UID_BIAS,
                           UID_SLOPE, UID_SHIFT, UID_RESIDUAL};
    const void *at[] = {a->x,        a->w,        a->y,          a->ep.bias,
                        a->ep.slope, a->ep.shift, a->ep.residual};
    int64_t uids[7], n = 0;
    const void *data[7];
    cudnnStatus_t s;

    for (int i = 0; i < 7; i++)
        if (at[i]) {
            uids[n] = all[i];
            data[n++] = at[i];
        }
    s = h->BackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR,
                                   &pack);
    if (s != CUDNN_STATUS_SUCCESS)
        return fail(h, "a run", s, e);
    s = h->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS,
                               CUDNN_TYPE_INT64, n, uids);
    if (s == CUDNN_STATUS_SUCCESS)
        s = h->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                   CUDNN_TYPE_VOID_PTR, n, data);
    if (s == CUDNN_STATUS_SUCCESS)
        s = h->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                                   CUDNN_TYPE_VOID_PTR, 1, &a->room);
    if (s == CUDNN_STATUS_SUCCESS)
        s = h->BackendFinalize(pack);
    if (s == CUDNN_STATUS_SUCCESS)
        s = h->BackendExecute(h->dnn, g->plan, pack);
    h->BackendDestroyDescriptor(pack);
    return s == CUDNN_STATUS_SUCCESS ? UT_OK : fail(h, "a run", s, e);
}

const struct gpu_vendor gpu_cudnn = {
    .name = "cuDNN",
    .open = open_cudnn,
    .close = close_cudnn,
    .version = version,
    .find = find,
    .drop = drop,
    .make = make,
    .run = run,
    .unmake = unmake,
};
