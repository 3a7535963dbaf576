/* cuDNN 9 by its graph interface: a convolution and its epilogue as one graph
 * of operations (cudnn_graph.c).
 *
 * The library is opened at run time, so that a machine without it says so.
 * Nondeterministic engines, and those that would round float32 to TF32 or add
 * up in less than float32, are left out by what cuDNN notes about them. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/cuda/cudnn_parts.h"

#define LIBRARY "libcudnn.so.9"
#define MAX_ROOM ((int64_t)256 << 20)

struct engine {
    struct gpu_engine base;
    cudnnBackendDescriptor_t plan;
};

static enum ut_err fail(const struct cudnn *h, const char *what,
                        cudnnStatus_t s, struct ut_error *e)
{
    bool full = s == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
                s == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
    char why[120] = "";

    h->GetLastErrorString(why, sizeof(why));
    return ut_fail(e, full ? UT_ENOMEM : UT_EDEVICE, "cuDNN: %s: %s %s", what,
                   h->GetErrorString(s), why);
}

static enum ut_err load_library(struct cudnn *h, struct ut_error *e)
{
    const struct gpu_symbol symbols[] = {
#define F(name) {"cudnn" #name, (void **)&h->name},
        CUDNN_FUNCTIONS(F)
#undef F
    };

    return gpu_library("cuDNN 9", LIBRARY, symbols,
                       sizeof(symbols) / sizeof(symbols[0]), &h->library, e);
}

static enum ut_err load(struct cudnn **out, struct ut_error *e)
{
    struct cudnn *h = calloc(1, sizeof(*h));
    enum ut_err rc;

    *out = NULL;
    if (!h)
        return ut_fail(e, UT_ENOMEM, "no memory for cuDNN");
    rc = load_library(h, e);
    if (rc) {
        free(h);
        return rc;
    }
    *out = h;
    return UT_OK;
}

static void close_cudnn(void *handle, bool lost)
{
    struct cudnn *h = handle;

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
    struct cudnn *h;
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
    struct cudnn *h;
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
    return (int64_t)((struct cudnn *)handle)->GetVersion();
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
static bool acceptable(struct cudnn *h, cudnnBackendDescriptor_t config,
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
    struct cudnn *h = handle;

    for (int i = 0; i < o->n; i++)
        h->BackendDestroyDescriptor(o->of[i]);
    if (o->shared)
        cudnn_graph_free(o->shared);
    *o = (struct gpu_offers){0};
}

/* Adds what a heuristic has to say. */
static void ask(struct cudnn_graph *g, cudnnBackendDescriptor_t ops,
                cudnnBackendHeurMode_t mode, bool single, struct gpu_offers *o)
{
    struct cudnn *h = g->h;
    cudnnBackendDescriptor_t heuristic =
        cudnn_part(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    cudnnBackendDescriptor_t list[2 * GPU_ENGINES];
    int64_t n = 0, made = 0;

    cudnn_set_part(g, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, ops);
    cudnn_set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1,
              &mode);
    if (h->chip)
        cudnn_set_part(g, heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, h->chip);
    cudnn_ready(g, heuristic, "engines");
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
    struct cudnn *h = handle;
    struct cudnn_graph *g = calloc(1, sizeof(*g));
    cudnnBackendDescriptor_t ops;
    bool sayable, ready, single; /* float32 through and through */
    enum ut_err rc;

    *o = (struct gpu_offers){.vendor = &gpu_cudnn, .shared = g};
    if (!g)
        return ut_fail(e, UT_ENOMEM, "no memory for a graph");
    *g = (struct cudnn_graph){.h = h, .virtual_uid = 100, .what = "a graph"};
    sayable = cudnn_describe(g, p);
    ops = cudnn_part(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    cudnn_set(g, ops, CUDNN_ATTR_OPERATIONGRAPH_OPS,
              CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_ops, g->ops);
    if (h->dnn)
        cudnn_set(g, ops, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE,
                  1, &h->dnn);
    cudnn_ready(g, ops, "a graph");
    single = p->x.type == GPU_F32 && !p->tf32;
    ready = g->status == CUDNN_STATUS_SUCCESS;
    ask(g, ops, CUDNN_HEUR_MODE_A, single, o);
    if (ready && !o->n) {
        g->status = CUDNN_STATUS_SUCCESS; /* where that heuristic fails too */
        ask(g, ops, CUDNN_HEUR_MODE_FALLBACK, single, o);
    }
    if (sayable && g->status == CUDNN_STATUS_SUCCESS && o->n)
        return UT_OK;
    rc = !sayable ? ut_fail(e, UT_EDEVICE, "no graph for this epilogue")
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
        ((struct cudnn *)handle)->BackendDestroyDescriptor(g->plan);
    free(g);
}

static cudnnStatus_t make_plan(struct cudnn *h, cudnnBackendDescriptor_t plan,
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
    struct cudnn *h = handle;
    struct engine *g = calloc(1, sizeof(*g));
    int64_t room = 0;
    cudnnStatus_t s;
    enum ut_err rc = UT_OK;

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
    g->base = (struct gpu_engine){&gpu_cudnn, (size_t)room,
                                  p->pass == GPU_DW && p->x.type != GPU_F32,
                                  PTHREAD_MUTEX_INITIALIZER};
    *out = &g->base;
    return UT_OK;
}

static enum ut_err run(void *handle, struct gpu_engine *engine,
                       const struct gpu_operands *a, struct ut_error *e)
{
    struct cudnn *h = handle;
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
