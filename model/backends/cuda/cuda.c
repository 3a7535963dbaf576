/* The CUDA backend, in a plug-in.
 *
 *   maps     [n, h, w, c] in float32, float16 or bfloat16
 *   vectors  [n, c] float32
 *
 * Convolutions and fully connected layers are computed by whichever of our
 * kernels and the engines of cuDNN and cuBLASLt is fastest here and agrees
 * with ours (tune.c). A lane is a stream. A plan is recorded once for each set
 * of outputs that a server asks for (CUDA graphs) and replayed; nothing is
 * allocated in a run but where a later plan made the lane's memory move.
 * docs/GPU.md says what of this has run where. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/cuda/plan.h"
#include "model/backends/plugin.h"

#define MAX_GPUS 64

/* A CUDA context is the process's, and so is its loss: an error that stays (a
 * bad access in a kernel, an uncorrectable memory error) takes all that was on
 * the device, whoever put it there. Whoever runs holds the lock for reading;
 * whoever saw the loss makes a new context, holding it for writing, and counts
 * epochs on; those who would run wait behind it, or under load its turn might
 * never come. What is of an older epoch is then made anew before it next runs.
 * This is the one thing here that all backends of a process share. */
static struct {
    pthread_rwlock_t lock;
    unsigned epoch[MAX_GPUS];
} process = {.lock = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP};

static int score(void)
{
    return 20;
}

static enum ut_err open_cuda(int device, void **out, struct ut_error *e)
{
    struct ctx *c = calloc(1, sizeof(*c));
    struct ut_error remark;
    enum ut_err rc;

    if (!c)
        return ut_fail(e, UT_ENOMEM, "no memory for the CUDA backend");
    if (device >= MAX_GPUS) {
        free(c);
        return ut_fail(e, UT_EDEVICE, "GPU %d is past the limit of %d", device,
                       MAX_GPUS);
    }
    pthread_rwlock_rdlock(&process.lock);
    c->device = device;
    c->epoch = process.epoch[device < 0 ? 0 : device];
    rc = gpu_check(device, &c->bfloat16, e);
    if (!rc)
        rc = gpu_stream_new(device, &c->stream, e);
    if (!rc)
        rc = cuda_handles_open(c->stream, c->handles, e);
    if (rc) {
        if (c->stream)
            gpu_stream_free(c->stream);
        free(c);
        pthread_rwlock_unlock(&process.lock);
        return rc;
    }
    pthread_mutex_init(&c->busy, NULL);
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->choosing, NULL);
    cuda_chip(c);
    choices_path(c->choices.chip, c->cache, sizeof(c->cache));
    choices_read(&c->choices, c->cache, &remark);
    snprintf(c->remark, sizeof(c->remark), "%s", remark.msg);
    *out = c;
    pthread_rwlock_unlock(&process.lock);
    return UT_OK;
}

unsigned cuda_enter(const struct ctx *c)
{
    pthread_rwlock_rdlock(&process.lock);
    return process.epoch[c->device];
}

unsigned cuda_epoch(const struct ctx *c)
{
    return process.epoch[c->device];
}

void cuda_leave(void)
{
    pthread_rwlock_unlock(&process.lock);
}

static bool is_lost(const struct ctx *c, unsigned epoch)
{
    return epoch != process.epoch[c->device];
}

static void close_cuda(void *ctx)
{
    struct ctx *c = ctx;
    struct ut_error ignored;
    bool lost;

    pthread_rwlock_rdlock(&process.lock);
    lost = is_lost(c, c->epoch) || gpu_enter(c->stream, &ignored);
    cuda_forget(c, lost);
    cuda_handles_close(c->handles, lost);
    if (lost)
        gpu_stream_abandon(c->stream);
    else
        gpu_stream_free(c->stream);
    pthread_rwlock_unlock(&process.lock);
    choices_free(&c->choices);
    pthread_mutex_destroy(&c->choosing);
    pthread_mutex_destroy(&c->busy);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static int devices(void)
{
    return gpu_count();
}

static void close_parts(struct lane *l, bool lost)
{
    cuda_handles_close(l->handles, lost);
    gpu_mark_free(l->from, lost);
    gpu_mark_free(l->to, lost);
    l->from = l->to = NULL;
}

/* What a lane has on its stream. */
static enum ut_err open_parts(struct lane *l, struct ut_error *e)
{
    enum ut_err rc = cuda_handles_open(l->stream, l->handles, e);

    if (!rc)
        rc = gpu_mark_new(l->stream, &l->from, e);
    if (!rc)
        rc = gpu_mark_new(l->stream, &l->to, e);
    if (rc)
        close_parts(l, false);
    return rc;
}

enum ut_err cuda_lane_open(struct ctx *c, struct lane *l, struct ut_error *e)
{
    enum ut_err rc = gpu_stream_new(c->device, &l->stream, e);

    if (rc)
        return rc;
    l->epoch = process.epoch[c->device];
    rc = open_parts(l, e);
    if (rc)
        gpu_stream_free(l->stream);
    return rc;
}

static enum ut_err lane_new(void *ctx, void **out, struct ut_error *e)
{
    struct lane *l = calloc(1, sizeof(*l));
    enum ut_err rc;

    if (!l)
        return ut_fail(e, UT_ENOMEM, "no memory for a lane");
    pthread_rwlock_rdlock(&process.lock);
    rc = cuda_lane_open(ctx, l, e);
    pthread_rwlock_unlock(&process.lock);
    if (rc)
        free(l);
    else
        *out = l;
    return rc;
}

void cuda_lane_close(struct ctx *c, struct lane *l)
{
    struct ut_error ignored;
    bool lost = is_lost(c, l->epoch) || gpu_enter(l->stream, &ignored);

    close_parts(l, lost);
    if (lost) {
        gpu_stream_abandon(l->stream);
    } else {
        gpu_free(l->work);
        gpu_unpin(l->host);
        gpu_stream_free(l->stream);
    }
}

static void lane_free(void *ctx, void *lane)
{
    pthread_rwlock_rdlock(&process.lock);
    cuda_lane_close(ctx, lane);
    pthread_rwlock_unlock(&process.lock);
    free(lane);
}

static bool supports(void *ctx, enum mdl_precision precision)
{
    return precision == MDL_PREC_F32 || precision == MDL_PREC_F16 ||
           ((precision == MDL_PREC_BF16 || precision == MDL_PREC_TF32) &&
            ((struct ctx *)ctx)->bfloat16);
}

static void forget(struct plan *p)
{
    for (int i = 0; i < p->n_recorded; i++)
        if (p->recorded[i].graph)
            gpu_graph_free(p->recorded[i].graph);
    p->n_recorded = 0;
}

static void plan_free(void *ctx, void *plan)
{
    struct plan *p = plan;
    struct ut_error ignored;
    bool lost;

    pthread_rwlock_rdlock(&process.lock);
    if (is_lost(ctx, p->ctx->epoch))
        cuda_weights_lose(ctx);
    lost = is_lost(ctx, p->epoch) || gpu_enter(p->lane->stream, &ignored);
    if (!lost)
        forget(p);
    cuda_unbuild(p, lost);
    pthread_rwlock_unlock(&process.lock);
    free(p->maps);
    free(p->offset);
    free(p);
}

/* Room for p in its lane. What lies there is nobody's between runs. */
static enum ut_err grow(struct plan *p, struct ut_error *e)
{
    struct lane *l = p->lane;
    enum ut_err rc;

    if (p->work_size <= l->work_size && p->host_size <= l->host_size)
        return UT_OK;
    l->generation++;
    rc = cuda_grow(&l->work, &l->work_size, p->work_size, false, e);
    return rc ? rc : cuda_grow(&l->host, &l->host_size, p->host_size, true, e);
}

struct wanted {
    struct plan *p;
    uint64_t outputs;
};

static enum ut_err queue(void *arg, struct ut_error *e)
{
    const struct wanted *w = arg;

    return cuda_queue(w->p, w->outputs, e);
}

/* Records the run that wants these outputs. Without a recording a run queues
 * its steps one by one: slower, and as right. */
static void record(struct plan *p, uint64_t outputs)
{
    struct wanted w = {p, outputs};
    struct gpu_graph *graph = cuda_record(p->lane->stream, queue, &w);

    if (graph)
        p->recorded[p->n_recorded++] = (struct recording){outputs, graph, true};
}

/* Points the values into the lane's memory, runs once so that every kernel is
 * loaded, and records: all outputs, and each alone where there are two. */
static enum ut_err bind(struct plan *p, struct ut_error *e)
{
    const struct mdl_graph *g = p->g;
    uint64_t all = 0;
    enum ut_err rc = grow(p, e);

    if (p->lane->user != p) {
        p->lane->user = p;
        p->ran = 0;
    }
    if (rc || p->generation == p->lane->generation)
        return rc;
    forget(p);
    p->ran = 0;
    for (int v = 0; v < g->n_values; v++)
        if (p->offset[v] != SIZE_MAX)
            p->maps[v].data = p->lane->work + p->offset[v];
    for (int i = 0; i < g->n_outputs; i++)
        if (g->outputs[i] >= 0)
            all |= 1ull << i;
    if (p->trains) {
        p->generation = p->lane->generation;
        return UT_OK;
    }
    memset(p->lane->host, 0, p->host_size);
    rc = cuda_queue(p, all, e);
    if (!rc)
        rc = gpu_wait(p->lane->stream, e);
    if (rc)
        return rc;
    record(p, all);
    if (__builtin_popcountll(all) == 2) {
        record(p, all & -all);
        record(p, all & (all - 1));
    }
    p->generation = p->lane->generation;
    return UT_OK;
}

/* ---- Being made, and made anew ---- */

enum ut_err cuda_renew(struct ctx *c, struct lane *l, struct ut_error *e)
{
    unsigned epoch = process.epoch[c->device];
    enum ut_err rc = UT_OK;

    pthread_mutex_lock(&c->choosing);
    if (c->epoch != epoch) {
        rc = cuda_lose(c, e);
        if (!rc)
            c->epoch = epoch;
    }
    pthread_mutex_unlock(&c->choosing);
    if (rc || l->epoch == epoch)
        return rc;
    l->work = l->host = NULL;
    l->work_size = l->host_size = 0;
    l->generation++;
    close_parts(l, true);
    rc = gpu_stream_renew(l->stream, e);
    if (!rc)
        rc = open_parts(l, e);
    if (!rc)
        l->epoch = epoch;
    return rc;
}

/* p on the device, whether it was there or not. */
static enum ut_err build(struct plan *p, struct ut_error *e)
{
    bool lost = is_lost(p->ctx, p->epoch);
    enum ut_err rc = gpu_enter(p->lane->stream, e);

    if (!rc)
        rc = cuda_renew(p->ctx, p->lane, e);
    if (rc || (p->built && !lost))
        return rc;
    if (lost)
        p->n_recorded = 0;
    cuda_unbuild(p, lost);
    p->epoch = process.epoch[p->ctx->device];
    p->work_size = p->host_size = 0;
    p->generation = p->lane->generation - 1;
    rc = cuda_build(p, e);
    if (!rc)
        rc = cuda_place(p, e);
    if (!rc)
        rc = bind(p, e);
    p->built = !rc;
    return rc;
}

enum ut_err cuda_ready(struct plan *p, struct ut_error *e)
{
    enum ut_err rc = build(p, e);

    return rc ? rc : bind(p, e);
}

void cuda_mend(struct ctx *c, unsigned epoch, enum ut_err rc)
{
    struct ut_error why;
    bool lost;

    if (rc != UT_EDEVICE)
        return;
    pthread_rwlock_rdlock(&process.lock);
    lost = !is_lost(c, epoch) && gpu_lost(c->device);
    pthread_rwlock_unlock(&process.lock);
    if (!lost) /* an error of one run is no reason to stop all others */
        return;
    pthread_rwlock_wrlock(&process.lock);
    if (!is_lost(c, epoch)) { /* nobody else has mended it meanwhile */
        if (gpu_reset(c->device, &why))
            cuda_failed(c, 0, why.msg);
        else
            __atomic_add_fetch(&process.epoch[c->device], 1, __ATOMIC_RELAXED);
    }
    pthread_rwlock_unlock(&process.lock);
}

static enum ut_err compile(void *ctx, void *lane, const struct mdl_graph *g,
                           enum mdl_precision precision, int batch, void **out,
                           struct ut_error *e)
{
    struct plan *p = calloc(1, sizeof(*p));
    struct ut_error why = {0};
    unsigned epoch;
    enum ut_err rc;

    if (!p)
        return ut_fail(e, UT_ENOMEM, "no memory for a plan");
    *p = (struct plan){.ctx = ctx,
                       .lane = lane,
                       .g = g,
                       .batch = batch,
                       .tf32 = precision == MDL_PREC_TF32,
                       .type = precision == MDL_PREC_F16    ? GPU_F16
                               : precision == MDL_PREC_BF16 ? GPU_BF16
                                                            : GPU_F32};
    for (int i = 0; i < g->n_nodes; i++)
        p->trains |= g->nodes[i].op >= MDL_OP_BN_STATS;
    if (p->trains && p->type == GPU_F16) {
        free(p);
        return ut_fail(
            e, UT_EINVAL,
            "the CUDA backend trains in float32 and bfloat16, not in "
            "float16");
    }
    p->maps = calloc((size_t)g->n_values, sizeof(*p->maps));
    p->offset =
        calloc((size_t)(g->n_values + g->n_outputs), sizeof(*p->offset));
    pthread_rwlock_rdlock(&process.lock);
    p->epoch = epoch = process.epoch[p->ctx->device];
    if (p->maps && p->offset) {
        cuda_shape(p);
        rc = build(p, &why);
    } else {
        rc = ut_fail(&why, UT_ENOMEM, "no memory for a plan");
    }
    pthread_rwlock_unlock(&process.lock);
    cuda_remember(ctx);
    if (!rc) {
        *out = p;
        return UT_OK;
    }
    if (rc == UT_ENOMEM && p->work_size)
        ut_fail(e, rc, "a plan for %d faces needs %zu MiB: %.180s", batch,
                p->work_size >> 20, why.msg);
    else
        ut_fail(e, rc, "%s", why.msg);
    plan_free(ctx, p);
    cuda_mend(ctx, epoch, rc);
    return rc;
}

/* ---- Running ---- */

static enum ut_err replay_or_queue(struct plan *p, uint64_t wanted,
                                   struct ut_error *e)
{
    for (int i = 0; i < p->n_recorded; i++)
        if (p->recorded[i].wanted == wanted)
            return gpu_replay(p->lane->stream, p->recorded[i].graph, e);
    return cuda_queue(p, wanted, e);
}

static enum ut_err run_ready(struct plan *p, const struct mdl_io *io,
                             struct ut_error *e)
{
    const struct mdl_graph *g = p->g;
    struct lane *l = p->lane;
    uint64_t wanted = 0;
    enum ut_err rc = cuda_ready(p, e);

    for (int i = 0; i < g->n_outputs; i++)
        if (io->out[i] && g->outputs[i] >= 0)
            wanted |= 1ull << i;
    if (rc || !wanted)
        return rc;
    memcpy(l->host, io->in, cuda_in_len(p));
    rc = replay_or_queue(p, wanted, e);
    if (!rc)
        rc = gpu_wait(l->stream, e);
    for (int i = 0; i < g->n_outputs && !rc; i++)
        if (wanted >> i & 1)
            memcpy(io->out[i], l->host + p->host_out[i], cuda_out_len(p, i));
    return rc;
}

static enum ut_err run(void *ctx, void *plan, const struct mdl_io *io,
                       struct ut_error *e)
{
    struct plan *p = plan;
    int64_t began = gpu_clock_us();
    unsigned epoch;
    enum ut_err rc;

    cuda_busy(ctx, 1);
    pthread_rwlock_rdlock(&process.lock);
    epoch = process.epoch[p->ctx->device];
    rc = run_ready(p, io, e);
    if (!rc)
        cuda_ran(ctx, gpu_clock_us() - began,
                 gpu_between(p->lane->from, p->lane->to));
    pthread_rwlock_unlock(&process.lock);
    cuda_busy(ctx, -1);
    if (rc)
        cuda_failed(ctx, 1, e->msg);
    cuda_mend(ctx, epoch, rc);
    return rc;
}

static void lane_threads(void *ctx, void *lane, int n)
{
    (void)ctx; /* the processor's: a GPU has its own */
    (void)lane;
    (void)n;
}

static void stats(void *ctx, struct mdl_device_stats *out)
{
    struct ctx *c = ctx;

    cuda_read(c, out);
    out->contexts_lost =
        __atomic_load_n(&process.epoch[c->device], __ATOMIC_RELAXED);
    /* Whoever asks, as a server's loop, waits neither for a new context nor for
     * a device that is in trouble: its memory is as it was last seen. */
    if (out->failed || pthread_rwlock_tryrdlock(&process.lock))
        return;
    gpu_memory(c->device, &out->memory_used, &out->memory_total);
    pthread_rwlock_unlock(&process.lock);
    cuda_saw_memory(c, out);
}

static void report(void *ctx, char *text, size_t len)
{
    cuda_report(ctx, text, len);
}

static const struct mdl_backend_ops ops = {
    .name = "cuda",
    .score = score,
    .devices = devices,
    .open = open_cuda,
    .close = close_cuda,
    .lane_new = lane_new,
    .lane_free = lane_free,
    .compile = compile,
    .plan_free = plan_free,
    .run = run,
    .supports = supports,
    .lane_threads = lane_threads,
    .run_nodes = cuda_run_nodes,
    .set = cuda_set,
    .get = cuda_get,
    .refresh = cuda_refresh,
    .report = report,
    .stats = stats,
    .index = &cuda_index,
    .learner = &cuda_learner,
};

extern const struct mdl_plugin tscaf_plugin;
__attribute__((visibility("default"))) const struct mdl_plugin tscaf_plugin = {
    .abi = MDL_PLUGIN_ABI, .layout = MDL_PLUGIN_LAYOUT, .ops = &ops};
