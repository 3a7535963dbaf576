/* What stands in for cuDNN and cuBLASLt where the processor stands in for the
 * GPU: engines of every kind that a vendor might have. $TSCAF_HOST_ENGINES
 * says which are offered, a letter each:
 *
 *   f  right, and fast: adds up in another order, by the clock of device.c
 *   s  right, and slow
 *   t  right in TF32, and fast: cuts its factors to 11 bits
 *   w  wrong: every third output is off
 *   n  leaves NaNs behind
 *   e  errs when it runs      m  cannot be made
 *   o  has no memory to be made
 *   r  right, and fast, but cannot be recorded
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/cuda/engines.h"
#include "model/backends/cuda/train_kernels.h"
#include "model/graph.h"
#include "tests/plugins/host/host.h"

/* For tests: how often an engine computed. */
__attribute__((visibility("default"))) int host_engine_runs;

struct engine {
    struct gpu_engine base;
    struct gpu_product product;
    char kind;
    bool running;
};

static enum ut_err open_host(struct gpu_stream *s, void **handle,
                             struct ut_error *e)
{
    static int any;

    (void)s;
    if (getenv("TSCAF_HOST_NO_CUDNN"))
        return ut_fail(e, UT_EDEVICE, "cuDNN 9 does not load: none");
    *handle = &any;
    return UT_OK;
}

static void close_host(void *handle, bool lost)
{
    (void)handle;
    if (!lost)
        host_waits_for_all();
}

static int64_t version(void *handle)
{
    const char *text = getenv("TSCAF_HOST_VERSION");

    (void)handle;
    return text ? atoll(text) : 1;
}

static enum ut_err find(void *handle, const struct gpu_product *p,
                        struct gpu_offers *o, struct ut_error *e)
{
    const char *kinds = getenv("TSCAF_HOST_ENGINES");

    (void)handle;
    *o = (struct gpu_offers){.vendor = p->rows ? &gpu_cublaslt : &gpu_cudnn};
    if (!kinds || (p->rows && !p->bare && p->ep.act))
        return ut_fail(e, UT_EDEVICE, "no engine for it");
    for (; kinds[o->n] && o->n < GPU_ENGINES; o->n++)
        o->id[o->n] = kinds[o->n];
    return UT_OK;
}

static void drop(void *handle, struct gpu_offers *o)
{
    (void)handle;
    o->n = 0;
}

static void unmake(void *handle, struct gpu_engine *g)
{
    (void)handle;
    free(g);
}

/* As cuDNN does it: dw in the maps' type. */
static bool narrow(const struct gpu_product *p)
{
    return p->pass == GPU_DW && !p->rows && p->x.type != GPU_F32;
}

static enum ut_err make(void *handle, const struct gpu_product *p,
                        const struct gpu_offers *o, int i,
                        struct gpu_engine **out, struct ut_error *e)
{
    struct engine *g;

    (void)handle;
    if (o->id[i] == 'm')
        return ut_fail(e, UT_EDEVICE, "an engine: not supported");
    g = o->id[i] == 'o' ? NULL : calloc(1, sizeof(*g));
    if (!g)
        return ut_fail(e, UT_ENOMEM, "an engine: no memory");
    *g =
        (struct engine){{o->vendor, 1000, narrow(p), PTHREAD_MUTEX_INITIALIZER},
                        *p,
                        (char)o->id[i],
                        false};
    *out = &g->base;
    return UT_OK;
}

/* float32 numbers with what TF32 has of them. */
static float *cut(const void *from, size_t n)
{
    uint32_t *to = malloc(n * sizeof(*to));

    if (!to)
        abort();
    memcpy(to, from, n * sizeof(*to));
    for (size_t i = 0; i < n; i++)
        to[i] &= ~0x1fffu;
    return (float *)(void *)to;
}

static const size_t sizes[] = {4, 2, 2};

/* Images from the last to the first, each by the kernels: the same sums, but
 * through memory of its own, so that a wrong stride or epilogue shows. */
static void forward(const struct gpu_product *p, const struct gpu_operands *a)
{
    size_t xs = (size_t)(p->x.h * p->x.w * p->x.c) * sizes[p->x.type];
    size_t ys = (size_t)(p->y.h * p->y.w * p->y.c) * sizes[p->y.type];
    struct gpu_map x = p->x, y = p->y;

    x.batch = y.batch = 1;
    for (int i = p->x.batch - 1; i >= 0; i--) {
        struct gpu_epilogue ep = a->ep;

        ep.act = p->bare ? MDL_ACT_NONE : p->ep.act;
        ep.alpha = p->ep.alpha;
        if (ep.residual)
            ep.residual = (const char *)ep.residual + (size_t)i * ys;
        x.data = (char *)(uintptr_t)a->x + (size_t)i * xs;
        y.data = (char *)a->y + (size_t)i * ys;
        if (p->rows)
            gpu_k_rows(NULL, x.type, 1, x.h * x.w * x.c, x.data, a->w, y.c, &ep,
                       y.type, y.data);
        else
            gpu_k_conv(NULL, &p->window, &x, a->w, &ep, &y);
    }
}

static void dx(const struct gpu_product *p, const struct gpu_operands *a)
{
    size_t xs = (size_t)(p->x.h * p->x.w * p->x.c) * sizes[p->x.type];
    size_t ys = (size_t)(p->y.h * p->y.w * p->y.c) * sizes[p->y.type];
    struct gpu_map x = p->x, y = p->y;

    x.batch = y.batch = 1;
    for (int i = p->x.batch - 1; i >= 0; i--) {
        x.data = (char *)a->y + (size_t)i * xs;
        y.data = (char *)(uintptr_t)a->x + (size_t)i * ys;
        if (p->rows)
            gpu_t_rows_dx(NULL, &y, a->w, &x);
        else
            gpu_t_conv_dx(NULL, &p->window, &y, a->w, &x);
    }
}

/* Each image's sums, added up from the last to the first. */
static void dw(const struct gpu_product *p, const struct gpu_operands *a)
{
    size_t xs = (size_t)(p->x.h * p->x.w * p->x.c) * sizes[p->x.type];
    size_t ys = (size_t)(p->y.h * p->y.w * p->y.c) * sizes[p->y.type];
    size_t n = gpu_pieces(p).y.n;
    struct gpu_map x = p->x, y = p->y;
    float *one = malloc(n * sizeof(*one)), *sum = malloc(n * sizeof(*sum));
    void *room;

    x.batch = y.batch = 1;
    room = malloc(p->rows ? 1 : gpu_t_conv_dw_room(&p->window, &x, &y));
    memset(sum, 0, n * sizeof(*sum));
    for (int i = p->x.batch - 1; i >= 0; i--) {
        x.data = (char *)(uintptr_t)a->x + (size_t)i * xs;
        y.data = (char *)(uintptr_t)a->w + (size_t)i * ys;
        if (p->rows)
            gpu_t_rows_dw(NULL, &x, &y, one);
        else
            gpu_t_conv_dw(NULL, &p->window, &x, &y, one, room);
        for (size_t k = 0; k < n; k++)
            sum[k] += one[k];
    }
    if (narrow(p))
        gpu_t_input(NULL, sum,
                    &(struct gpu_map){a->y, p->x.type, 1, 1, 1, (int)n});
    else
        memcpy(a->y, sum, n * sizeof(*sum));
    free(one);
    free(sum);
    free(room);
}

static void compute(const struct gpu_product *p, const struct gpu_operands *a)
{
    if (p->pass == GPU_FORWARD)
        forward(p, a);
    else if (p->pass == GPU_DX)
        dx(p, a);
    else
        dw(p, a);
}

/* Puts a number into y, in its type. */
static void spoil(enum gpu_type type, void *y, size_t at, bool nan)
{
    float v = NAN;
    uint16_t *half = (uint16_t *)y + at;

    if (!nan) {
        if (type == GPU_F16)
            mdl_f16_to_f32(half, &v, 1);
        else if (type == GPU_BF16)
            mdl_bf16_to_f32(half, &v, 1);
        else
            v = ((float *)y)[at];
        v += 1 + fabsf(v) / 4;
    }
    if (type == GPU_F16)
        mdl_f32_to_f16(&v, half, 1);
    else if (type == GPU_BF16)
        mdl_f32_to_bf16(&v, half, 1);
    else
        ((float *)y)[at] = v;
}

struct call {
    const struct engine *g;
    struct gpu_operands a;
};

static void make_call(void *call)
{
    const struct call *c = call;
    const struct engine *g = c->g;
    const struct gpu_product *p = &g->product;
    struct gpu_piece y = gpu_pieces(p).y;
    struct gpu_operands a = c->a;
    float *x = NULL, *w = NULL;

    __atomic_add_fetch(&host_engine_runs, 1, __ATOMIC_RELAXED);
    if (narrow(p))
        y.type = p->x.type;
    memset(a.room, 1, g->base.room);
    if (g->kind == 't' && p->x.type == GPU_F32) {
        size_t xc = (size_t)p->x.c, area = (size_t)(p->x.h * p->x.w);
        size_t k = p->rows ? area * xc
                           : (size_t)(p->window.kernel * p->window.kernel) * xc;

        a.x = x = cut(a.x, (size_t)p->x.batch * area * xc);
        a.w = w = cut(a.w, (size_t)p->y.c * k);
    }
    compute(p, &a);
    free(x);
    free(w);
    __atomic_add_fetch(&host_clock_us, g->kind == 's' ? 1000 : -10,
                       __ATOMIC_RELAXED);
    if (g->kind == 'w')
        for (size_t i = 0; i < y.n; i += 3)
            spoil(y.type, a.y, i, false);
    if (g->kind == 'n')
        for (size_t i = y.n / 2; i < y.n; i++)
            spoil(y.type, a.y, i, true);
}

static enum ut_err run(void *handle, struct gpu_engine *engine,
                       const struct gpu_operands *a, struct ut_error *e)
{
    struct engine *g = (struct engine *)engine;
    struct call c = {g, *a};

    (void)handle;
    if (g->kind == 'e')
        return ut_fail(e, UT_EDEVICE, "a run: execution failed");
    if (g->kind == 'r' && host_records())
        return ut_fail(e, UT_EDEVICE, "a run: not while recording");
    if (__atomic_exchange_n(&g->running, true, __ATOMIC_SEQ_CST))
        return ut_fail(e, UT_EDEVICE, "a run: two threads' at once");
    if (!host_keep(make_call, &c, sizeof(c)))
        make_call(&c);
    __atomic_store_n(&g->running, false, __ATOMIC_SEQ_CST);
    return UT_OK;
}

#define HOST_VENDOR                                                            \
    .open = open_host, .close = close_host, .version = version, .find = find,  \
    .drop = drop, .make = make, .run = run, .unmake = unmake

const struct gpu_vendor gpu_cudnn = {.name = "cuDNN", HOST_VENDOR};
const struct gpu_vendor gpu_cublaslt = {.name = "cuBLASLt", HOST_VENDOR};
