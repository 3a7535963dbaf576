/* Devices meet by NCCL, whose library is opened when there are several. Where a
 * build had no nccl.h, they cannot. */
#include "model/backends/cuda/meeting.h"

#if __has_include(<nccl.h>)
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>
#include <stdlib.h>

#include "model/backends/cuda/engines.h"

#define LIBRARY "libnccl.so.2"

#define FUNCTIONS(F)                                                           \
    F(CommInitAll)                                                             \
    F(CommDestroy)                                                             \
    F(CommAbort)                                                               \
    F(CommGetAsyncError)                                                       \
    F(GetErrorString)                                                          \
    F(GetLastError)                                                            \
    F(GroupStart)                                                              \
    F(GroupEnd)                                                                \
    F(AllReduce)

struct gpu_meeting {
    void *library; /* owned */
    int n;
    bool over;             /* an error ended it */
    int *devices;          /* owned */
    ncclComm_t *comms;     /* owned */
    cudaStream_t *streams; /* owned; they are not */
#define F(name) __typeof__(&nccl##name) name;
    FUNCTIONS(F)
#undef F
};

static enum ut_err check(const struct gpu_meeting *m, ncclResult_t s,
                         const char *what, struct ut_error *e)
{
    const char *more;

    if (s == ncclSuccess)
        return UT_OK;
    more = m->GetLastError(NULL);
    return ut_fail(e, UT_EDEVICE, "NCCL: %s: %s%s%.120s", what,
                   m->GetErrorString(s), more && *more ? ": " : "",
                   more ? more : "");
}

static void drop(struct gpu_meeting *m)
{
    if (m->library)
        dlclose(m->library);
    free(m->devices);
    free(m->comms);
    free(m->streams);
    free(m);
}

static enum ut_err load(struct gpu_meeting *m, struct ut_error *e)
{
    const struct gpu_symbol symbols[] = {
#define F(name) {"nccl" #name, (void **)&m->name},
        FUNCTIONS(F)
#undef F
    };

    return gpu_library("NCCL", LIBRARY, symbols,
                       sizeof(symbols) / sizeof(symbols[0]), &m->library, e);
}

enum ut_err gpu_meeting_open(const int *devices,
                             struct gpu_stream *const *streams, int n,
                             struct gpu_meeting **out, struct ut_error *e)
{
    struct gpu_meeting *m = calloc(1, sizeof(*m));
    size_t count = (size_t)n;
    enum ut_err rc = UT_OK;

    if (m) {
        m->n = n;
        m->devices = calloc(count, sizeof(*m->devices));
        m->comms = calloc(count, sizeof(ncclComm_t));
        m->streams = calloc(count, sizeof(cudaStream_t));
    }
    if (!m || !m->devices || !m->comms || !m->streams)
        rc = ut_fail(e, UT_ENOMEM, "no memory for NCCL");
    for (int i = 0; i < n && !rc; i++) {
        m->devices[i] = devices[i];
        m->streams[i] = gpu_native(streams[i]);
    }
    if (!rc)
        rc = load(m, e);
    if (!rc)
        rc = check(m, m->CommInitAll(m->comms, n, devices),
                   "the GPUs that are to meet", e);
    if (!rc)
        *out = m;
    else if (m)
        drop(m);
    return rc;
}

void gpu_meeting_close(struct gpu_meeting *m, bool lost)
{
    if (!m)
        return;
    for (int i = 0; i < m->n && !lost && !m->over; i++)
        m->CommDestroy(m->comms[i]);
    if (lost && !m->over) /* its threads still run in it */
        m->library = NULL;
    drop(m);
}

/* Each device's part in a group: NCCL queues them when it ends. */
static enum ut_err queue(struct gpu_meeting *m, const struct gpu_sum *s,
                         struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (int i = 0; i < m->n && !rc; i++) {
        float *x = s->arrays[i] + s->at;

        rc = check(m,
                   m->AllReduce(x, x, s->n, ncclFloat32,
                                s->mean ? ncclAvg : ncclSum, m->comms[i],
                                m->streams[i]),
                   "a sum over the GPUs", e);
    }
    return rc;
}

void gpu_meeting_end(struct gpu_meeting *m)
{
    if (m->over)
        return;
    m->over = true;
    for (int i = 0; i < m->n; i++)
        m->CommAbort(m->comms[i]);
    cudaGetLastError();
}

enum ut_err gpu_meet(struct gpu_meeting *m, const struct gpu_sum *sums, int n,
                     struct ut_error *e)
{
    enum ut_err rc, ended;

    if (m->over)
        return ut_fail(e, UT_EDEVICE, "NCCL: an error ended it");
    rc = check(m, m->GroupStart(), "a group", e);
    if (rc)
        return rc;
    for (int i = 0; i < n && !rc; i++)
        rc = queue(m, &sums[i], e);
    /* What is in it must end, whatever came before. */
    ended = check(m, m->GroupEnd(), "the sums over the GPUs", rc ? NULL : e);
    rc = rc ? rc : ended;
    if (rc)
        gpu_meeting_end(m);
    return rc;
}

static enum ut_err look(void *arg, int i, bool *busy, struct ut_error *e)
{
    const struct gpu_meeting *m = arg;
    ncclResult_t failed = ncclSuccess;
    cudaError_t s = cudaSetDevice(m->devices[i]);
    enum ut_err rc;

    if (s == cudaSuccess)
        s = cudaStreamQuery(m->streams[i]);
    *busy = s == cudaErrorNotReady;
    if (s != cudaSuccess && s != cudaErrorNotReady)
        return ut_fail(e, UT_EDEVICE, "CUDA: GPU %d, as it met the others: %s",
                       m->devices[i], cudaGetErrorString(s));
    rc = check(m, m->CommGetAsyncError(m->comms[i], &failed), "its state", e);
    return rc ? rc : check(m, failed, "a sum over the GPUs", e);
}

enum ut_err gpu_meeting_wait(struct gpu_meeting *m, struct ut_error *e)
{
    enum ut_err rc = gpu_watch(m->devices, m->n, look, m, GPU_MEETING_MS, e);

    cudaGetLastError(); /* "not ready" is told as an error */
    if (rc)
        gpu_meeting_end(m);
    return rc;
}

#else

enum ut_err gpu_meeting_open(const int *devices,
                             struct gpu_stream *const *streams, int n,
                             struct gpu_meeting **out, struct ut_error *e)
{
    (void)devices;
    (void)streams;
    (void)out;
    return ut_fail(e, UT_EDEVICE,
                   "this build has no NCCL, by which %d GPUs would meet "
                   "(libnccl.so.2): nccl.h was not there",
                   n);
}

void gpu_meeting_close(struct gpu_meeting *m, bool lost)
{
    (void)m;
    (void)lost;
}

enum ut_err gpu_meet(struct gpu_meeting *m, const struct gpu_sum *sums, int n,
                     struct ut_error *e)
{
    (void)m;
    (void)sums;
    (void)n;
    return ut_fail(e, UT_EDEVICE, "this build has no NCCL");
}

void gpu_meeting_end(struct gpu_meeting *m)
{
    (void)m;
}

enum ut_err gpu_meeting_wait(struct gpu_meeting *m, struct ut_error *e)
{
    return gpu_meet(m, NULL, 0, e);
}
#endif
