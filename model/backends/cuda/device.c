/* CUDA's runtime behind gpu.h. */
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/backends/cuda/gpu.h"
#include "model/backends/cuda/search.h"

const int gpu_tile_rows = 65536;

struct gpu_stream {
    int device;
    cudaStream_t stream;
};

static enum ut_err check(cudaError_t s, const char *what, struct ut_error *e)
{
    if (s == cudaSuccess)
        return UT_OK;
    cudaGetLastError(); /* told once, if it is not one that stays */
    return ut_fail(e, s == cudaErrorMemoryAllocation ? UT_ENOMEM : UT_EDEVICE,
                   "CUDA: %s: %s", what, cudaGetErrorString(s));
}

static enum ut_err no_device(cudaError_t s, struct ut_error *e)
{
    int driver = 0;

    cudaGetLastError();
    if (cudaDriverGetVersion(&driver) != cudaSuccess || !driver)
        return ut_fail(e, UT_EDEVICE, "no NVIDIA driver on this machine");
    if (s == cudaErrorInsufficientDriver)
        return ut_fail(e, UT_EDEVICE,
                       "the NVIDIA driver is for CUDA %d.%d, the plug-in for "
                       "%d.%d",
                       driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                       CUDART_VERSION % 1000 / 10);
    return ut_fail(e, UT_EDEVICE, "no NVIDIA GPU: %s", cudaGetErrorString(s));
}

enum ut_err gpu_check(int device, bool *bfloat16, struct ut_error *e)
{
    int n = 0, major = 0, minor = 0;
    cudaError_t s = cudaGetDeviceCount(&n);
    enum ut_err rc;

    if (s != cudaSuccess)
        return no_device(s, e);
    if (device < 0 || device >= n)
        return ut_fail(e, UT_EDEVICE, "there is no GPU %d: this machine has %d",
                       device, n);
    rc = check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                      device),
               "the GPU's attributes", e);
    if (!rc)
        rc = check(cudaDeviceGetAttribute(
                       &minor, cudaDevAttrComputeCapabilityMinor, device),
                   "the GPU's attributes", e);
    if (!rc && major * 10 + minor < 75)
        rc = ut_fail(e, UT_EDEVICE,
                     "GPU %d has compute capability %d.%d; 7.5 is the least",
                     device, major, minor);
    *bfloat16 = major >= 8;
    return rc;
}

void gpu_describe(int device, char *text, size_t len)
{
    struct cudaDeviceProp chip;
    int driver = 0;

    if (cudaGetDeviceProperties(&chip, device) != cudaSuccess)
        memset(&chip, 0, sizeof(chip));
    cudaDriverGetVersion(&driver);
    snprintf(text, len, "%.80s (%d.%d), driver for CUDA %d.%d", chip.name,
             chip.major, chip.minor, driver / 1000, driver % 1000 / 10);
}

int gpu_count(void)
{
    int n = 0;

    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

void gpu_memory(int device, uint64_t *used, uint64_t *total)
{
    size_t left = 0, all = 0;

    if (cudaSetDevice(device) != cudaSuccess ||
        cudaMemGetInfo(&left, &all) != cudaSuccess)
        left = all = 0;
    *used = all - left;
    *total = all;
}

/* Of a stream, not of the device: that would fail, and spoil the recording,
 * while another thread records on one of its streams. */
bool gpu_lost(int device)
{
    cudaGetLastError();
    return cudaSetDevice(device) != cudaSuccess ||
           cudaStreamSynchronize(cudaStreamPerThread) != cudaSuccess;
}

enum ut_err gpu_reset(int device, struct ut_error *e)
{
    enum ut_err rc;

    cudaSetDevice(device);
    rc = check(cudaDeviceReset(), "a new context", e);
    cudaGetLastError();
    return rc;
}

enum ut_err gpu_stream_new(int device, struct gpu_stream **out,
                           struct ut_error *e)
{
    struct gpu_stream *s = calloc(1, sizeof(*s));
    enum ut_err rc;

    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for a stream");
    s->device = device;
    rc = gpu_enter(s, e);
    if (!rc)
        rc = check(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking),
                   "a stream", e);
    if (rc)
        free(s);
    else
        *out = s;
    return rc;
}

enum ut_err gpu_stream_renew(struct gpu_stream *s, struct ut_error *e)
{
    enum ut_err rc = gpu_enter(s, e);

    return rc ? rc
              : check(cudaStreamCreateWithFlags(&s->stream,
                                                cudaStreamNonBlocking),
                      "a stream", e);
}

void gpu_stream_abandon(struct gpu_stream *s)
{
    free(s);
}

void gpu_stream_free(struct gpu_stream *s)
{
    cudaStreamDestroy(s->stream);
    free(s);
}

enum ut_err gpu_enter(struct gpu_stream *s, struct ut_error *e)
{
    return check(cudaSetDevice(s->device), "the device", e);
}

enum ut_err gpu_alloc(size_t len, void **out, struct ut_error *e)
{
    cudaError_t s = cudaMalloc(out, len ? len : 1);
    size_t left = 0, total = 0;

    if (s != cudaErrorMemoryAllocation)
        return check(s, "device memory", e);
    *out = NULL;
    cudaGetLastError();
    cudaMemGetInfo(&left, &total);
    return ut_fail(e, UT_ENOMEM,
                   "the GPU has no %zu MiB: %zu of its %zu MiB are free",
                   len >> 20, left >> 20, total >> 20);
}

void gpu_free(void *p)
{
    cudaFree(p);
}

enum ut_err gpu_pin(size_t len, void **out, struct ut_error *e)
{
    return check(cudaMallocHost(out, len ? len : 1), "pinned memory", e);
}

void gpu_unpin(void *p)
{
    if (p)
        cudaFreeHost(p);
}

enum ut_err gpu_copy_in(struct gpu_stream *s, void *to, const void *from,
                        size_t len, struct ut_error *e)
{
    return check(
        cudaMemcpyAsync(to, from, len, cudaMemcpyHostToDevice, s->stream),
        "copying in", e);
}

enum ut_err gpu_copy_out(struct gpu_stream *s, void *to, const void *from,
                         size_t len, struct ut_error *e)
{
    return check(
        cudaMemcpyAsync(to, from, len, cudaMemcpyDeviceToHost, s->stream),
        "copying out", e);
}

/* By a stream of the thread's own, which is waited for: a copy from pageable
 * memory may return before it has arrived, and our streams wait for no other.
 * As in gpu_lost, nothing here may wait for the device. */
static enum ut_err copy_now(void *to, const void *from, size_t len,
                            enum cudaMemcpyKind kind, const char *what,
                            struct ut_error *e)
{
    enum ut_err rc = check(
        cudaMemcpyAsync(to, from, len, kind, cudaStreamPerThread), what, e);

    return rc ? rc : check(cudaStreamSynchronize(cudaStreamPerThread), what, e);
}

enum ut_err gpu_upload(void *to, const void *from, size_t len,
                       struct ut_error *e)
{
    return copy_now(to, from, len, cudaMemcpyHostToDevice, "uploading weights",
                    e);
}

enum ut_err gpu_download(void *to, const void *from, size_t len,
                         struct ut_error *e)
{
    return copy_now(to, from, len, cudaMemcpyDeviceToHost, "copying out", e);
}

enum ut_err gpu_wait(struct gpu_stream *s, struct ut_error *e)
{
    return check(cudaStreamSynchronize(s->stream), "a batch", e);
}

struct gpu_mark {
    cudaEvent_t event;
};

enum ut_err gpu_mark_new(struct gpu_stream *s, struct gpu_mark **out,
                         struct ut_error *e)
{
    struct gpu_mark *m = calloc(1, sizeof(*m));
    enum ut_err rc;

    if (!m)
        return ut_fail(e, UT_ENOMEM, "no memory for a mark");
    rc = gpu_enter(s, e);
    if (!rc)
        rc = check(cudaEventCreate(&m->event), "an event", e);
    if (rc)
        free(m);
    else
        *out = m;
    return rc;
}

void gpu_mark_free(struct gpu_mark *m, bool lost)
{
    if (m && !lost)
        cudaEventDestroy(m->event);
    free(m);
}

/* In a recording, a plain record would only order what follows. */
enum ut_err gpu_mark(struct gpu_stream *s, struct gpu_mark *m,
                     struct ut_error *e)
{
    enum cudaStreamCaptureStatus now = cudaStreamCaptureStatusNone;
    enum ut_err rc =
        check(cudaStreamIsCapturing(s->stream, &now), "recording", e);

    return rc ? rc
              : check(cudaEventRecordWithFlags(
                          m->event, s->stream,
                          now == cudaStreamCaptureStatusActive
                              ? cudaEventRecordExternal
                              : cudaEventRecordDefault),
                      "an event", e);
}

int64_t gpu_between(const struct gpu_mark *from, const struct gpu_mark *to)
{
    float ms = 0;

    if (cudaEventElapsedTime(&ms, from->event, to->event) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return (int64_t)(ms * 1000 + 0.5f);
}

int64_t gpu_clock_us(void)
{
    return ut_clock_us();
}

enum ut_err gpu_launched(const char *what, struct ut_error *e)
{
    return check(cudaGetLastError(), what, e);
}

/* Thread-local: what other lanes allocate meanwhile is their own affair. */
enum ut_err gpu_record(struct gpu_stream *s, struct ut_error *e)
{
    return check(
        cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal),
        "recording", e);
}

enum ut_err gpu_recorded(struct gpu_stream *s, struct gpu_graph **out,
                         struct ut_error *e)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t ready = NULL;
    enum ut_err rc =
        check(cudaStreamEndCapture(s->stream, &graph), "recording", e);

    if (!rc)
        rc = check(cudaGraphInstantiate(&ready, graph, 0), "recording", e);
    if (graph)
        cudaGraphDestroy(graph);
    *out = (struct gpu_graph *)(void *)ready;
    return rc;
}

enum ut_err gpu_replay(struct gpu_stream *s, struct gpu_graph *g,
                       struct ut_error *e)
{
    return check(cudaGraphLaunch((cudaGraphExec_t)(void *)g, s->stream),
                 "a batch", e);
}

void gpu_graph_free(struct gpu_graph *g)
{
    cudaGraphExecDestroy((cudaGraphExec_t)(void *)g);
}

void *gpu_native(struct gpu_stream *s)
{
    return s->stream;
}
