/* The processor in a GPU's place, behind model/backends/cuda/gpu.h: what is
 * queued runs at once, and nothing can be recorded. With it the plan, its
 * memory and the kernels' arithmetic meet the golden numbers on any machine;
 * CUDA itself is not tested so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/backends/cuda/gpu.h"
#include "tests/plugins/host/host.h"

int64_t host_clock_us;

struct gpu_stream {
    int device;
};

enum ut_err gpu_check(int device, bool *bfloat16, struct ut_error *e)
{
    *bfloat16 = true;
    return device ? ut_fail(e, UT_EDEVICE, "there is no GPU %d", device)
                  : UT_OK;
}

void gpu_describe(int device, char *text, size_t len)
{
    snprintf(text, len, "the processor (%d)", device);
}

int64_t gpu_clock_us(void)
{
    return host_clock_us += 1000;
}

enum ut_err gpu_stream_new(int device, struct gpu_stream **out,
                           struct ut_error *e)
{
    struct gpu_stream *s = calloc(1, sizeof(*s));

    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for a stream");
    s->device = device;
    *out = s;
    return UT_OK;
}

void gpu_stream_free(struct gpu_stream *s)
{
    free(s);
}

enum ut_err gpu_enter(struct gpu_stream *s, struct ut_error *e)
{
    (void)s;
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
    *out = aligned_alloc(256, (len + 255) / 256 * 256 + 256);
    if (!*out)
        return ut_fail(e, UT_ENOMEM, "no memory");
    memset(*out, 0xff, len); /* NaN in every type: a missed write shows */
    return UT_OK;
}

void gpu_free(void *p)
{
    free(p);
}

enum ut_err gpu_pin(size_t len, void **out, struct ut_error *e)
{
    *out = malloc(len);
    return *out ? UT_OK : ut_fail(e, UT_ENOMEM, "no pinned memory");
}

void gpu_unpin(void *p)
{
    free(p);
}

enum ut_err gpu_copy_in(struct gpu_stream *s, void *to, const void *from,
                        size_t len, struct ut_error *e)
{
    (void)s;
    (void)e;
    memcpy(to, from, len);
    return UT_OK;
}

enum ut_err gpu_copy_out(struct gpu_stream *s, void *to, const void *from,
                         size_t len, struct ut_error *e)
{
    return gpu_copy_in(s, to, from, len, e);
}

enum ut_err gpu_upload(void *to, const void *from, size_t len,
                       struct ut_error *e)
{
    return gpu_copy_in(NULL, to, from, len, e);
}

enum ut_err gpu_download(void *to, const void *from, size_t len,
                         struct ut_error *e)
{
    return gpu_copy_in(NULL, to, from, len, e);
}

enum ut_err gpu_wait(struct gpu_stream *s, struct ut_error *e)
{
    (void)s;
    (void)e;
    return UT_OK;
}

enum ut_err gpu_launched(const char *what, struct ut_error *e)
{
    (void)what;
    (void)e;
    return UT_OK;
}

enum ut_err gpu_record(struct gpu_stream *s, struct ut_error *e)
{
    (void)s;
    return ut_fail(e, UT_EDEVICE, "the processor records nothing");
}

enum ut_err gpu_recorded(struct gpu_stream *s, struct gpu_graph **out,
                         struct ut_error *e)
{
    *out = NULL;
    return gpu_record(s, e);
}

enum ut_err gpu_replay(struct gpu_stream *s, struct gpu_graph *g,
                       struct ut_error *e)
{
    (void)g;
    return gpu_record(s, e);
}

void gpu_graph_free(struct gpu_graph *g)
{
    (void)g;
}

void *gpu_native(struct gpu_stream *s)
{
    return s;
}
