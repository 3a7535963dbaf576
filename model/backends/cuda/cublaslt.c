/* cuBLASLt: fully connected layers, y[n][o] = sum over k of x[n][k] w[o][k].
 * In its column-major words: Y (o x n) = W (k x o) transposed times X (k x n);
 * their gradients, DX (k x n) = W DY, DW (k x o) = X times DY (o x n)
 * transposed. It multiplies factors of one type: in half precision dy, which is
 * float32, is rounded first.
 *
 * Sums are float32, and its factors TF32 only where that was asked for; ways of
 * adding parts that depend on the order in which blocks finish are not. */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdlib.h>

#include "model/backends/cuda/engines.h"
#include "model/backends/cuda/train_kernels.h"
#include "model/graph.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define LIBRARY "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)
#define MAX_ROOM ((size_t)32 << 20)

#define FUNCTIONS(F)                                                           \
    F(Create)                                                                  \
    F(Destroy)                                                                 \
    F(GetVersion)                                                              \
    F(GetStatusString)                                                         \
    F(MatmulDescCreate)                                                        \
    F(MatmulDescDestroy)                                                       \
    F(MatmulDescSetAttribute)                                                  \
    F(MatrixLayoutCreate)                                                      \
    F(MatrixLayoutDestroy)                                                     \
    F(MatmulPreferenceCreate)                                                  \
    F(MatmulPreferenceDestroy)                                                 \
    F(MatmulPreferenceSetAttribute)                                            \
    F(MatmulAlgoGetHeuristic)                                                  \
    F(MatmulAlgoConfigGetAttribute)                                            \
    F(Matmul)

struct handle {
    void *library; /* owned */
    cublasLtHandle_t lt;
    cudaStream_t stream;
#define F(name) __typeof__(&cublasLt##name) name;
    FUNCTIONS(F)
#undef F
};

struct engine {
    struct gpu_engine base;
    struct gpu_product product;
    cublasLtMatmulAlgo_t algorithm;
};

/* A product in the library's words. */
struct problem {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, y;
};

static enum ut_err fail(const struct handle *h, const char *what,
                        cublasStatus_t s, struct ut_error *e)
{
    return ut_fail(e, s == CUBLAS_STATUS_ALLOC_FAILED ? UT_ENOMEM : UT_EDEVICE,
                   "cuBLASLt: %s: %s", what, h->GetStatusString(s));
}

static void close_lt(void *handle, bool lost)
{
    struct handle *h = handle;

    if (h->lt && !lost)
        h->Destroy(h->lt);
    dlclose(h->library);
    free(h);
}

static enum ut_err load_library(struct handle *h, struct ut_error *e)
{
    const struct gpu_symbol symbols[] = {
#define F(name) {"cublasLt" #name, (void **)&h->name},
        FUNCTIONS(F)
#undef F
    };

    return gpu_library("cuBLASLt", LIBRARY, symbols,
                       sizeof(symbols) / sizeof(symbols[0]), &h->library, e);
}

static enum ut_err open_lt(struct gpu_stream *stream, void **out,
                           struct ut_error *e)
{
    struct handle *h = calloc(1, sizeof(*h));
    cublasStatus_t s;
    enum ut_err rc;

    if (!h)
        return ut_fail(e, UT_ENOMEM, "no memory for cuBLASLt");
    rc = load_library(h, e);
    if (rc) {
        free(h);
        return rc;
    }
    h->stream = gpu_native(stream);
    s = h->Create(&h->lt);
    if (s == CUBLAS_STATUS_SUCCESS) {
        *out = h;
        return UT_OK;
    }
    rc = fail(h, "a handle", s, e);
    close_lt(h, false);
    return rc;
}

static int64_t version(void *handle)
{
    return (int64_t)((struct handle *)handle)->GetVersion();
}

static cudaDataType_t data_type(enum gpu_type t)
{
    return t == GPU_F16 ? CUDA_R_16F : t == GPU_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static void drop_problem(struct handle *h, struct problem *m)
{
    if (m->desc)
        h->MatmulDescDestroy(m->desc);
    if (m->a)
        h->MatrixLayoutDestroy(m->a);
    if (m->b)
        h->MatrixLayoutDestroy(m->b);
    if (m->y)
        h->MatrixLayoutDestroy(m->y);
}

/* bias: device memory, or NULL. */
static cublasStatus_t describe(struct handle *h, const struct gpu_product *p,
                               bool biased, const float *bias,
                               struct problem *m)
{
    cublasOperation_t turned = CUBLAS_OP_T;
    bool dx = p->pass == GPU_DX, dw = p->pass == GPU_DW;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cudaDataType_t f32 = CUDA_R_32F;
    uint64_t k = (uint64_t)p->x.h * (uint64_t)p->x.w * (uint64_t)p->x.c;
    uint64_t n = (uint64_t)p->x.batch, o = (uint64_t)p->y.c;
    cublasStatus_t s = h->MatmulDescCreate(
        &m->desc, p->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
        CUDA_R_32F);

#define SET(name, value)                                                       \
    if (s == CUBLAS_STATUS_SUCCESS)                                            \
    s = h->MatmulDescSetAttribute(m->desc, CUBLASLT_MATMUL_DESC_##name,        \
                                  &(value), sizeof(value))
    if (p->pass == GPU_FORWARD)
        SET(TRANSA, turned);
    if (dw)
        SET(TRANSB, turned);
    if (biased) {
        SET(EPILOGUE, epilogue);
        SET(BIAS_DATA_TYPE, f32);
        SET(BIAS_POINTER, bias);
    }
#undef SET
    if (s == CUBLAS_STATUS_SUCCESS)
        s = h->MatrixLayoutCreate(&m->a, data_type(p->x.type), k, dw ? n : o,
                                  (int64_t)k);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = dx || dw ? h->MatrixLayoutCreate(&m->b, data_type(p->x.type), o, n,
                                             (int64_t)o)
                     : h->MatrixLayoutCreate(&m->b, data_type(p->x.type), k, n,
                                             (int64_t)k);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = dx   ? h->MatrixLayoutCreate(&m->y, data_type(p->x.type), k, n,
                                         (int64_t)k)
            : dw ? h->MatrixLayoutCreate(&m->y, CUDA_R_32F, k, o, (int64_t)k)
                 : h->MatrixLayoutCreate(&m->y, data_type(p->y.type), o, n,
                                         (int64_t)o);
    return s;
}

static cublasStatus_t ask(struct handle *h, const struct problem *m,
                          cublasLtMatmulHeuristicResult_t *list, int *n)
{
    cublasLtMatmulPreference_t wish = NULL;
    size_t room = MAX_ROOM;
    uint32_t adding = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasStatus_t s = h->MatmulPreferenceCreate(&wish);

    if (s == CUBLAS_STATUS_SUCCESS)
        s = h->MatmulPreferenceSetAttribute(
            wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room,
            sizeof(room));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = h->MatmulPreferenceSetAttribute(
            wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &adding,
            sizeof(adding));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = h->MatmulAlgoGetHeuristic(h->lt, m->desc, m->a, m->b, m->y, m->y,
                                      wish, GPU_ENGINES, list, n);
    if (wish)
        h->MatmulPreferenceDestroy(wish);
    return s;
}

static void drop(void *handle, struct gpu_offers *o)
{
    (void)handle;
    free(o->shared);
    *o = (struct gpu_offers){0};
}

static enum ut_err find(void *handle, const struct gpu_product *p,
                        struct gpu_offers *o, struct ut_error *e)
{
    struct handle *h = handle;
    cublasLtMatmulHeuristicResult_t *list = calloc(GPU_ENGINES, sizeof(*list));
    const struct gpu_epilogue *ep = &p->ep;
    struct problem m = {0};
    cublasStatus_t s;
    int n = 0;

    *o = (struct gpu_offers){.vendor = &gpu_cublaslt, .shared = list};
    if (!list)
        return ut_fail(e, UT_ENOMEM, "no memory for engines");
    if (!p->bare && (ep->scale || ep->slope || ep->shift || ep->residual ||
                     ep->act != MDL_ACT_NONE)) {
        drop(h, o);
        return ut_fail(e, UT_EDEVICE, "cuBLASLt has no such epilogue");
    }
    s = describe(h, p, !p->bare && ep->bias, NULL, &m);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = ask(h, &m, list, &n);
    drop_problem(h, &m);
    for (int i = 0; i < n; i++) {
        int32_t id = 0;

        if (list[i].state != CUBLAS_STATUS_SUCCESS)
            continue;
        h->MatmulAlgoConfigGetAttribute(&list[i].algo, CUBLASLT_ALGO_CONFIG_ID,
                                        &id, sizeof(id), NULL);
        o->of[o->n] = &list[i];
        o->id[o->n++] = id;
    }
    if (o->n)
        return UT_OK;
    drop(h, o);
    return s == CUBLAS_STATUS_SUCCESS
               ? ut_fail(e, UT_EDEVICE, "cuBLASLt: no engine for it")
               : fail(h, "engines", s, e);
}

/* Room for dy in the type of the other factor; 0: it is float32 too. */
static size_t rounded_size(const struct gpu_product *p)
{
    return p->pass == GPU_FORWARD || p->x.type == GPU_F32
               ? 0
               : gpu_aligned(gpu_items(&p->y) * 2);
}

static void unmake(void *handle, struct gpu_engine *engine)
{
    (void)handle;
    free((struct engine *)engine);
}

static enum ut_err make(void *handle, const struct gpu_product *p,
                        const struct gpu_offers *o, int i,
                        struct gpu_engine **out, struct ut_error *e)
{
    const cublasLtMatmulHeuristicResult_t *found = o->of[i];
    struct engine *g = calloc(1, sizeof(*g));

    (void)handle;
    *out = NULL;
    if (!g)
        return ut_fail(e, UT_ENOMEM, "no memory for an engine");
    g->base = (struct gpu_engine){&gpu_cublaslt,
                                  found->workspaceSize + rounded_size(p), false,
                                  PTHREAD_MUTEX_INITIALIZER};
    g->product = *p;
    g->algorithm = found->algo;
    *out = &g->base;
    return UT_OK;
}

static enum ut_err run(void *handle, struct gpu_engine *engine,
                       const struct gpu_operands *a, struct ut_error *e)
{
    struct handle *h = handle;
    struct engine *g = (struct engine *)engine;
    const struct gpu_product *p = &g->product;
    size_t rounded = rounded_size(p);
    const void *dy = p->pass == GPU_DX ? a->x : a->w;
    struct problem m = {0};
    float one = 1, zero = 0;
    cublasStatus_t s = describe(h, p, a->ep.bias != NULL, a->ep.bias, &m);

    if (rounded) {
        gpu_t_input(
            h->stream, dy,
            &(struct gpu_map){a->room, p->x.type, p->y.batch, 1, 1, p->y.c});
        dy = a->room;
    }
    if (s == CUBLAS_STATUS_SUCCESS)
        s = h->Matmul(h->lt, m.desc, &one, p->pass == GPU_DW ? a->x : a->w, m.a,
                      p->pass == GPU_FORWARD ? a->x : dy, m.b, &zero, a->y, m.y,
                      a->y, m.y, &g->algorithm, (char *)a->room + rounded,
                      g->base.room - rounded, h->stream);
    drop_problem(h, &m);
    return s == CUBLAS_STATUS_SUCCESS ? UT_OK : fail(h, "a run", s, e);
}

const struct gpu_vendor gpu_cublaslt = {
    .name = "cuBLASLt",
    .open = open_lt,
    .close = close_lt,
    .version = version,
    .find = find,
    .drop = drop,
    .make = make,
    .run = run,
    .unmake = unmake,
};
