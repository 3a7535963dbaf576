/* A plan that trains: run in parts, its values set and got between them. The
 * parts are queued one by one at first, and recorded as CUDA graphs when they
 * come again. */
#include <string.h>

#include "model/backends/cuda/plan.h"
#include "model/backends/cuda/train_kernels.h"

typedef enum ut_err work(struct plan *p, void *arg, struct ut_error *e);

/* Does it with the plan on the device. */
static enum ut_err with(struct plan *p, work *do_it, void *arg,
                        struct ut_error *e)
{
    unsigned epoch = cuda_enter(p->ctx);
    enum ut_err rc = cuda_ready(p, e);

    if (!rc)
        rc = do_it(p, arg, e);
    cuda_leave();
    cuda_mend(p->ctx, epoch, rc);
    return rc;
}

struct part {
    struct plan *p;
    const void *in;
    int first, last;
};

static enum ut_err queue_nodes(void *arg, struct ut_error *e)
{
    const struct part *a = arg;
    struct plan *p = a->p;
    struct lane *l = p->lane;
    const struct mdl_graph *g = p->g;
    enum ut_err rc = UT_OK;

    for (int i = a->first; i < a->last && !rc; i++) {
        if (p->steps[i].node->op == MDL_OP_IMAGE)
            rc = gpu_copy_in(l->stream, l->work + p->offset[g->input], l->host,
                             cuda_in_len(p), e);
        if (!rc)
            rc = cuda_queue_step(p, &p->steps[i], e);
    }
    return rc;
}

/* The recording of a part, made at its second run; NULL: there is none. */
static struct gpu_graph *recorded(struct plan *p, struct part *a)
{
    uint64_t key = (uint64_t)a->first << 32 | (uint32_t)a->last;
    int n = (int)(sizeof(p->recorded) / sizeof(p->recorded[0])), i = 0;
    struct recording *r;

    while (i < p->n_recorded && p->recorded[i].wanted != key)
        i++;
    if (i == p->n_recorded) { /* the first: every kernel is loaded by it */
        if (i < n)
            p->recorded[p->n_recorded++] = (struct recording){.wanted = key};
        return NULL;
    }
    r = &p->recorded[i];
    if (!r->tried)
        r->graph = cuda_record(p->lane->stream, queue_nodes, a);
    r->tried = true;
    return r->graph;
}

static enum ut_err run_nodes(struct plan *p, void *arg, struct ut_error *e)
{
    struct part *a = arg;
    struct gpu_graph *graph;
    enum ut_err rc;

    if (!p->trains)
        return ut_fail(e, UT_EINVAL,
                       "a plan without operations of training runs whole");
    if (a->first > p->ran)
        return ut_fail(e, UT_EDEVICE,
                       "what %d nodes before %d left on the GPU is gone with "
                       "its context",
                       a->first - p->ran, a->first);
    p->ran = a->first;
    if (a->first == 0)
        memcpy(p->lane->host, a->in, cuda_in_len(p));
    graph = recorded(p, a);
    rc = graph ? gpu_replay(p->lane->stream, graph, e) : queue_nodes(a, e);
    if (!rc)
        rc = gpu_wait(p->lane->stream, e);
    if (!rc)
        p->ran = a->last;
    return rc;
}

enum ut_err cuda_run_nodes(void *ctx, void *plan, const void *in, int first,
                           int last, struct ut_error *e)
{
    struct part a = {plan, in, first, last};

    (void)ctx;
    return with(plan, run_nodes, &a, e);
}

/* ---- values ---- */

struct transfer {
    int value;
    const float *from;
    float *to;
};

/* Row-major float32 already. */
static bool is_plain(const struct gpu_map *m)
{
    return m->type == GPU_F32 && (m->c == 1 || (m->h == 1 && m->w == 1));
}

static enum ut_err set(struct plan *p, void *arg, struct ut_error *e)
{
    const struct transfer *a = arg;
    const struct gpu_map *m = &p->maps[a->value];
    float *rows = (float *)(void *)(p->lane->work + p->room);
    size_t len = gpu_items(m) * sizeof(float);
    enum ut_err rc = gpu_upload(is_plain(m) ? m->data : rows, a->from, len, e);

    if (rc || is_plain(m))
        return rc;
    gpu_t_input(gpu_native(p->lane->stream), rows, m);
    rc = gpu_launched("a given value", e);
    return rc ? rc : gpu_wait(p->lane->stream, e);
}

enum ut_err cuda_set(void *ctx, void *plan, int value, const float *from,
                     struct ut_error *e)
{
    struct transfer a = {.value = value, .from = from};

    (void)ctx;
    return with(plan, set, &a, e);
}

static enum ut_err get(struct plan *p, void *arg, struct ut_error *e)
{
    const struct transfer *a = arg;
    const struct gpu_map *m = &p->maps[a->value];
    float *rows = (float *)(void *)(p->lane->work + p->room);
    size_t len = gpu_items(m) * sizeof(float);
    enum ut_err rc;

    if (p->g->values[a->value].producer >= p->ran)
        return ut_fail(e, UT_EDEVICE,
                       "a result is not on the GPU: it went with its context");
    if (is_plain(m))
        return gpu_download(a->to, m->data, len, e);
    gpu_k_output(gpu_native(p->lane->stream), m, rows);
    rc = gpu_launched("a result", e);
    if (!rc)
        rc = gpu_wait(p->lane->stream, e);
    return rc ? rc : gpu_download(a->to, rows, len, e);
}

enum ut_err cuda_get(void *ctx, void *plan, int value, float *to,
                     struct ut_error *e)
{
    struct transfer a = {.value = value, .to = to};

    (void)ctx;
    return with(plan, get, &a, e);
}

static enum ut_err refresh(struct plan *p, void *arg, struct ut_error *e)
{
    (void)arg;
    return cuda_weights_refresh(p, e);
}

enum ut_err cuda_refresh(void *ctx, void *plan, struct ut_error *e)
{
    (void)ctx;
    return with(plan, refresh, NULL, e);
}
