/* The processor in a GPU's place, behind model/backends/cuda/gpu.h: what is
 * queued runs at once or, where $TSCAF_HOST_RECORDS says so, is recorded and
 * replayed. With it the plan, its
 * memory and the kernels' arithmetic meet the golden numbers on any machine;
 * CUDA itself is not tested so. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "model/backends/cuda/gpu.h"
#include "model/backends/cuda/search.h"
#include "tests/plugins/host/host.h"

int64_t host_clock_us;
const int gpu_tile_rows = 256; /* so that a small gallery has several */

/* All memory, each of its device's context: gpu_reset takes it. */
static struct piece {
    struct piece *next;
    int device;
    void *data;
    size_t len;
} * pieces;
static pthread_mutex_t pieces_lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local int current; /* as gpu_enter said */

static enum ut_err piece_new(size_t len, void **out, struct ut_error *e)
{
    struct piece *p = malloc(sizeof(*p));

    *out = aligned_alloc(256, (len + 255) / 256 * 256 + 256);
    if (!p || !*out) {
        free(p);
        free(*out);
        return ut_fail(e, UT_ENOMEM, "no memory");
    }
    memset(*out, 0xff, len); /* NaN in every type: a missed write shows */
    pthread_mutex_lock(&pieces_lock);
    *p = (struct piece){pieces, current, *out, len};
    pieces = p;
    pthread_mutex_unlock(&pieces_lock);
    return UT_OK;
}

static void piece_free(void *data)
{
    struct piece **at = &pieces, *p;

    if (!data)
        return;
    pthread_mutex_lock(&pieces_lock);
    while (*at && (*at)->data != data)
        at = &(*at)->next;
    p = *at;
    if (!p)
        abort(); /* of a context that is lost, or freed twice */
    *at = p->next;
    pthread_mutex_unlock(&pieces_lock);
    free(p);
    free(data);
}

struct gpu_stream {
    int device;
};

enum ut_err gpu_check(int device, bool *bfloat16, struct ut_error *e)
{
    *bfloat16 = true;
    return device >= gpu_count()
               ? ut_fail(e, UT_EDEVICE, "there is no GPU %d", device)
               : UT_OK;
}

void gpu_describe(int device, char *text, size_t len)
{
    snprintf(text, len, "the processor (%d)", device);
}

int64_t gpu_clock_us(void)
{
    return __atomic_add_fetch(&host_clock_us, 1000, __ATOMIC_RELAXED);
}

/* ---- Recordings ---- */

struct gpu_graph {
    struct kept {
        void (*make)(void *call);
        void *call; /* owned */
    } * list;       /* owned */
    int n;
};
static _Thread_local struct gpu_graph *recording;
static int recordings; /* of all threads */

bool host_keep(void (*make)(void *call), const void *call, size_t len)
{
    struct gpu_graph *g = recording;
    struct kept *list;
    void *copy;

    if (!g)
        return false;
    list = realloc(g->list, ((size_t)g->n + 1) * sizeof(*list));
    copy = malloc(len);
    if (!list || !copy)
        abort();
    memcpy(copy, call, len);
    g->list = list;
    g->list[g->n++] = (struct kept){make, copy};
    return true;
}

bool host_records(void)
{
    return recording;
}

void host_waits_for_all(void)
{
    if (__atomic_load_n(&recordings, __ATOMIC_SEQ_CST))
        abort();
}

/* What a thread that records may not do, since it would wait for itself. */
static enum ut_err at_once(struct ut_error *e)
{
    return recording ? ut_fail(e, UT_EDEVICE, "CUDA: not while recording")
                     : UT_OK;
}

enum ut_err gpu_record(struct gpu_stream *s, struct ut_error *e)
{
    (void)s;
    if (!getenv("TSCAF_HOST_RECORDS"))
        return ut_fail(e, UT_EDEVICE, "the processor records nothing");
    recording = calloc(1, sizeof(*recording));
    if (!recording)
        return ut_fail(e, UT_ENOMEM, "no memory for a recording");
    __atomic_add_fetch(&recordings, 1, __ATOMIC_SEQ_CST);
    return UT_OK;
}

enum ut_err gpu_recorded(struct gpu_stream *s, struct gpu_graph **out,
                         struct ut_error *e)
{
    const struct timespec a_while = {.tv_nsec = 1000000}; /* for others' turn */

    (void)s;
    (void)e;
    nanosleep(&a_while, NULL);
    *out = recording;
    recording = NULL;
    __atomic_sub_fetch(&recordings, 1, __ATOMIC_SEQ_CST);
    return UT_OK;
}

enum ut_err gpu_replay(struct gpu_stream *s, struct gpu_graph *g,
                       struct ut_error *e)
{
    (void)s;
    (void)e;
    for (int i = 0; i < g->n; i++)
        g->list[i].make(g->list[i].call);
    return UT_OK;
}

void gpu_graph_free(struct gpu_graph *g)
{
    for (int i = 0; i < g->n; i++)
        free(g->list[i].call);
    free(g->list);
    free(g);
}

/* By the same clock. */
struct gpu_mark {
    int64_t us;
};

enum ut_err gpu_mark_new(struct gpu_stream *s, struct gpu_mark **out,
                         struct ut_error *e)
{
    (void)s;
    *out = calloc(1, sizeof(struct gpu_mark));
    return *out ? UT_OK : ut_fail(e, UT_ENOMEM, "no memory for a mark");
}

void gpu_mark_free(struct gpu_mark *m, bool lost)
{
    (void)lost;
    free(m);
}

static void pass(void *call)
{
    (*(struct gpu_mark **)call)->us = gpu_clock_us();
}

enum ut_err gpu_mark(struct gpu_stream *s, struct gpu_mark *m,
                     struct ut_error *e)
{
    (void)s;
    (void)e;
    if (!host_keep(pass, &m, sizeof(m)))
        pass(&m);
    return UT_OK;
}

int64_t gpu_between(const struct gpu_mark *from, const struct gpu_mark *to)
{
    return to->us - from->us;
}

/* $TSCAF_HOST_DEVICES: how many GPUs the processor stands for. */
int gpu_count(void)
{
    const char *text = getenv("TSCAF_HOST_DEVICES");

    return text ? atoi(text) : 1;
}

static bool is_busy(int device)
{
    const char *text = getenv("TSCAF_HOST_BUSY");

    return text && atoi(text) == device;
}

/* Each run of a busy device waits a while for the next to begin, so that there
 * is no moment between them. */
static void overlap(void)
{
    const struct timespec a_while = {.tv_nsec = 1000000};
    static int begun;
    int mine = __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);

    for (int i = 0; i < 20; i++) {
        if (__atomic_load_n(&begun, __ATOMIC_SEQ_CST) != mine)
            return;
        nanosleep(&a_while, NULL);
    }
}

/* While the file $TSCAF_HOST_LOSE is there, what is copied out or waited for
 * fails, until there is a new context: the file goes with the old one, and so
 * does its memory. With $TSCAF_HOST_STAYS_LOST there is no new one. A device
 * that is $TSCAF_HOST_BUSY keeps its context. */
bool gpu_lost(int device)
{
    const char *file = getenv("TSCAF_HOST_LOSE");

    return file && !is_busy(device) && !access(file, F_OK);
}

void gpu_memory(int device, uint64_t *used, uint64_t *total)
{
    bool lost = gpu_lost(device);

    *used = lost ? 0 : 1 << 20;
    *total = lost ? 0 : 1 << 30;
}

enum ut_err gpu_reset(int device, struct ut_error *e)
{
    struct piece **at = &pieces, *p;

    if (getenv("TSCAF_HOST_STAYS_LOST"))
        return ut_fail(e, UT_EDEVICE, "CUDA: a new context: the bus is dead");
    unlink(getenv("TSCAF_HOST_LOSE"));
    pthread_mutex_lock(&pieces_lock);
    while ((p = *at)) {
        if (p->device != device) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        memset(p->data, 0xff, p->len);
        free(p->data);
        free(p);
    }
    pthread_mutex_unlock(&pieces_lock);
    return UT_OK;
}

enum ut_err gpu_stream_renew(struct gpu_stream *s, struct ut_error *e)
{
    (void)s;
    (void)e;
    return UT_OK;
}

void gpu_stream_abandon(struct gpu_stream *s)
{
    free(s);
}

enum ut_err gpu_stream_new(int device, struct gpu_stream **out,
                           struct ut_error *e)
{
    struct gpu_stream *s = calloc(1, sizeof(*s));

    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for a stream");
    s->device = current = device;
    *out = s;
    return UT_OK;
}

void gpu_stream_free(struct gpu_stream *s)
{
    free(s);
}

enum ut_err gpu_enter(struct gpu_stream *s, struct ut_error *e)
{
    current = s->device;
    (void)e;
    return UT_OK;
}

/* $TSCAF_HOST_DEVICE_MIB stands for a GPU's memory: no piece may be larger. */
enum ut_err gpu_alloc(size_t len, void **out, struct ut_error *e)
{
    const char *limit = getenv("TSCAF_HOST_DEVICE_MIB");

    *out = NULL;
    if (limit && len > (size_t)atol(limit) << 20)
        return ut_fail(e, UT_ENOMEM, "the GPU has no %zu MiB", len >> 20);
    return piece_new(len, out, e);
}

void gpu_free(void *p)
{
    piece_free(p);
}

enum ut_err gpu_pin(size_t len, void **out, struct ut_error *e)
{
    return piece_new(len, out, e);
}

void gpu_unpin(void *p)
{
    piece_free(p);
}

struct copy {
    void *to;
    const void *from;
    size_t len;
};

static void copy(void *call)
{
    const struct copy *c = call;

    memcpy(c->to, c->from, c->len);
}

enum ut_err gpu_copy_in(struct gpu_stream *s, void *to, const void *from,
                        size_t len, struct ut_error *e)
{
    struct copy c = {to, from, len};

    (void)s;
    (void)e;
    if (!host_keep(copy, &c, sizeof(c)))
        copy(&c);
    return UT_OK;
}

enum ut_err gpu_copy_out(struct gpu_stream *s, void *to, const void *from,
                         size_t len, struct ut_error *e)
{
    return gpu_lost(s->device)
               ? ut_fail(e, UT_EDEVICE, "CUDA: copying out: an illegal access")
               : gpu_copy_in(s, to, from, len, e);
}

enum ut_err gpu_upload(void *to, const void *from, size_t len,
                       struct ut_error *e)
{
    enum ut_err rc = at_once(e);

    return rc ? rc : gpu_copy_in(NULL, to, from, len, e);
}

enum ut_err gpu_download(void *to, const void *from, size_t len,
                         struct ut_error *e)
{
    enum ut_err rc = at_once(e);

    return rc ? rc : gpu_copy_in(NULL, to, from, len, e);
}

enum ut_err gpu_wait(struct gpu_stream *s, struct ut_error *e)
{
    enum ut_err rc = at_once(e);

    if (rc)
        return rc;
    if (is_busy(s->device))
        overlap();
    return gpu_lost(s->device)
               ? ut_fail(e, UT_EDEVICE, "CUDA: a batch: an illegal access")
               : UT_OK;
}

enum ut_err gpu_launched(const char *what, struct ut_error *e)
{
    (void)what;
    (void)e;
    return UT_OK;
}

void *gpu_native(struct gpu_stream *s)
{
    return s;
}
