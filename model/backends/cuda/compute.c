/* A product, any pass of it, by our kernels or by an engine. */
#include "model/backends/cuda/plan.h"
#include "model/backends/cuda/train_kernels.h"

int cuda_vendor_of(const struct gpu_product *p)
{
    return p->rows ? 1 : 0;
}

static void own_gradient(void *stream, const struct gpu_product *p,
                         const struct gpu_operands *a)
{
    struct gpu_map x = p->x, y = p->y;

    if (p->pass == GPU_DX) {
        x.data = a->y;
        y.data = (void *)(uintptr_t)a->x;
        if (p->rows)
            gpu_t_rows_dx(stream, &y, a->w, &x);
        else
            gpu_t_conv_dx(stream, &p->window, &y, a->w, &x);
        return;
    }
    x.data = (void *)(uintptr_t)a->x;
    y.data = (void *)(uintptr_t)a->w;
    if (p->rows)
        gpu_t_rows_dw(stream, &x, &y, a->y);
    else
        gpu_t_conv_dw(stream, &p->window, &x, &y, a->y, a->room);
}

size_t cuda_own_room(const struct gpu_product *p)
{
    return p->pass == GPU_DW && !p->rows
               ? gpu_t_conv_dw_room(&p->window, &p->x, &p->y)
               : 0;
}

static void own(void *stream, const struct gpu_product *p,
                const struct gpu_operands *a)
{
    struct gpu_map x = p->x, y = p->y;
    const struct gpu_window *k = &p->window;

    x.data = (void *)(uintptr_t)a->x;
    y.data = a->y;
    if (p->rows)
        gpu_k_rows(stream, x.type, x.batch, x.h * x.w * x.c, x.data, a->w, y.c,
                   &a->ep, y.type, y.data);
    else if (k->kernel == 1 && k->stride == 1 && !k->pad && y.c == 1)
        gpu_k_rows(stream, x.type, x.batch * x.h * x.w, x.c, x.data, a->w, 1,
                   &a->ep, y.type, y.data);
    else
        gpu_k_conv(stream, k, &x, a->w, &a->ep, &y);
}

/* A narrow dw lies behind what the engine needs. */
size_t cuda_room(const struct gpu_product *p, const struct gpu_engine *engine)
{
    return engine->narrow ? gpu_aligned(engine->room) + gpu_pieces(p).y.n * 2
                          : engine->room;
}

/* An engine is the ctx's, and so of several threads, but cuDNN's plans are not
 * to be executed by two at once. Nearly all that runs is a recording, which
 * executes none. */
static enum ut_err run_engine(void *handle, struct gpu_engine *engine,
                              const struct gpu_operands *a, struct ut_error *e)
{
    enum ut_err rc;

    pthread_mutex_lock(&engine->running);
    rc = engine->vendor->run(handle, engine, a, e);
    pthread_mutex_unlock(&engine->running);
    return rc;
}

/* dw in x's type, and then in float32. */
static enum ut_err run_narrow(struct gpu_stream *s, void *handle,
                              const struct gpu_product *p,
                              struct gpu_engine *engine,
                              const struct gpu_operands *a, struct ut_error *e)
{
    struct gpu_operands narrow = *a;
    enum ut_err rc;

    narrow.y = (char *)a->room + gpu_aligned(engine->room);
    rc = run_engine(handle, engine, &narrow, e);
    if (rc)
        return rc;
    gpu_k_output(
        gpu_native(s),
        &(struct gpu_map){narrow.y, p->x.type, 1, 1, 1, (int)gpu_pieces(p).y.n},
        a->y);
    return gpu_launched("a gradient", e);
}

enum ut_err cuda_compute(struct gpu_stream *s, void *const handles[2],
                         const struct gpu_product *p, enum choice_way way,
                         struct gpu_engine *engine,
                         const struct gpu_operands *a, struct ut_error *e)
{
    struct gpu_operands bare = *a;
    struct gpu_map y = p->y;
    enum ut_err rc;

    if (way == CHOICE_OWN && p->pass != GPU_FORWARD) {
        own_gradient(gpu_native(s), p, a);
        return gpu_launched("a gradient", e);
    }
    if (way == CHOICE_OWN) {
        own(gpu_native(s), p, a);
        return gpu_launched("a product", e);
    }
    if (way == CHOICE_WHOLE && !engine->narrow)
        return run_engine(handles[cuda_vendor_of(p)], engine, a, e);
    if (way == CHOICE_WHOLE)
        return run_narrow(s, handles[cuda_vendor_of(p)], p, engine, a, e);
    bare.ep = (struct gpu_epilogue){0};
    rc = run_engine(handles[cuda_vendor_of(p)], engine, &bare, e);
    if (rc)
        return rc;
    y.data = a->y;
    gpu_k_epilogue(gpu_native(s), &y, &a->ep, &y);
    return gpu_launched("an epilogue", e);
}
