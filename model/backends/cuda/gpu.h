#ifndef MODEL_BACKENDS_CUDA_GPU_H
#define MODEL_BACKENDS_CUDA_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* What the backend asks of a GPU: a little of CUDA's runtime (device.c), and
 * its own kernels (kernels.cu). Plain C, no vendor's types: tests put the
 * processor in the device's place (tests/plugins/host). */

#ifdef __cplusplus
extern "C" {
#endif

enum gpu_type { GPU_F32, GPU_F16, GPU_BF16 };

/* A value: [batch, h, w, c], channels last; a vector has h = w = 1. */
struct gpu_map {
    void *data; /* on the device */
    enum gpu_type type;
    int batch, h, w, c;
};

/* y = act(x * scale + bias) + shift + residual; [c] float32, NULL: absent. */
struct gpu_epilogue {
    const float *scale, *bias, *slope, *shift;
    const void *residual; /* of y's type and shape */
    int act;              /* enum mdl_act */
    float alpha;
};

struct gpu_window {
    int kernel, stride, pad, groups;
};

/* IMAGE: y[c] = (rgb[bgr ? 2 - c : c] - mean[c]) * factor[c]. */
struct gpu_image {
    float mean[3], factor[3];
    int bgr;
};

/* ---- device.c ---- */

struct gpu_stream;
struct gpu_graph; /* a captured run */

/* Whether device can be used by the calling process; else UT_EDEVICE with the
 * reason: no driver, too old a driver, no GPU, too old a GPU. */
enum ut_err gpu_check(int device, bool *bfloat16, struct ut_error *e);

/* The chip and its driver, in words. */
void gpu_describe(int device, char *text, size_t len);

/* How many there are; 0 without a driver. */
int gpu_count(void);
/* Bytes; 0 of 0 where the device does not say, as when its context is lost. */
void gpu_memory(int device, uint64_t *used, uint64_t *total);
/* Whether an error stays, whatever is asked of the device: its context is lost,
 * and every pointer, stream and handle with it. */
bool gpu_lost(int device);
/* A new context; what was in the old is gone. */
enum ut_err gpu_reset(int device, struct ut_error *e);

enum ut_err gpu_stream_new(int device, struct gpu_stream **out,
                           struct ut_error *e);
void gpu_stream_free(struct gpu_stream *s);
/* After gpu_reset: a new one in the place of the lost. */
enum ut_err gpu_stream_renew(struct gpu_stream *s, struct ut_error *e);
/* Frees what is on the host's side of a lost one. */
void gpu_stream_abandon(struct gpu_stream *s);
/* The calling thread's device is the stream's from here. */
enum ut_err gpu_enter(struct gpu_stream *s, struct ut_error *e);

/* Device memory, 256-byte aligned. UT_ENOMEM says what was wanted and free. */
enum ut_err gpu_alloc(size_t len, void **out, struct ut_error *e);
void gpu_free(void *p);
/* Host memory that the device copies to and from at full speed. */
enum ut_err gpu_pin(size_t len, void **out, struct ut_error *e);
void gpu_unpin(void *p);

/* Queued; from and to are pinned on the host's side. */
enum ut_err gpu_copy_in(struct gpu_stream *s, void *to, const void *from,
                        size_t len, struct ut_error *e);
enum ut_err gpu_copy_out(struct gpu_stream *s, void *to, const void *from,
                         size_t len, struct ut_error *e);
/* At once, from any host memory. */
enum ut_err gpu_upload(void *to, const void *from, size_t len,
                       struct ut_error *e);
enum ut_err gpu_download(void *to, const void *from, size_t len,
                         struct ut_error *e);
/* Until all that was queued is done; says the first error of it. */
enum ut_err gpu_wait(struct gpu_stream *s, struct ut_error *e);
/* A mark passes when all that was queued before it is done; recorded, it
 * passes at each replay. */
struct gpu_mark;
enum ut_err gpu_mark_new(struct gpu_stream *s, struct gpu_mark **out,
                         struct ut_error *e);
void gpu_mark_free(struct gpu_mark *m, bool lost); /* accepts NULL */
enum ut_err gpu_mark(struct gpu_stream *s, struct gpu_mark *m,
                     struct ut_error *e);
/* Microseconds from one to the other, both passed; 0 where that is not known.
 */
int64_t gpu_between(const struct gpu_mark *from, const struct gpu_mark *to);
/* Microseconds, for timing engines. */
int64_t gpu_clock_us(void);
/* A failed launch since the last call. */
enum ut_err gpu_launched(const char *what, struct ut_error *e);

/* What is queued between the two is recorded, not run. */
enum ut_err gpu_record(struct gpu_stream *s, struct ut_error *e);
enum ut_err gpu_recorded(struct gpu_stream *s, struct gpu_graph **out,
                         struct ut_error *e);
enum ut_err gpu_replay(struct gpu_stream *s, struct gpu_graph *g,
                       struct ut_error *e);
void gpu_graph_free(struct gpu_graph *g);
void *gpu_native(struct gpu_stream *s); /* cudaStream_t */

/* ---- kernels.cu: queued; a failure is told by gpu_launched ---- */

/* rgb u8 [batch, h, w, 3]; y [batch, h, w, 3]. */
void gpu_k_image(void *stream, const struct gpu_image *k, const uint8_t *rgb,
                 const struct gpu_map *y);
/* w [o][kernel][kernel][c / groups], where groups = c = o
 * [kernel][kernel][c]; of x's type. */
void gpu_k_conv(void *stream, const struct gpu_window *k,
                const struct gpu_map *x, const void *w,
                const struct gpu_epilogue *ep, const struct gpu_map *y);
/* Each row of x, [rows, k] of x's type, with each row of w [o, k]; y [rows, o]
 * of yt. */
void gpu_k_rows(void *stream, enum gpu_type xt, int rows, int k, const void *x,
                const void *w, int o, const struct gpu_epilogue *ep,
                enum gpu_type yt, void *y);
/* The epilogue alone; x may be y. */
void gpu_k_epilogue(void *stream, const struct gpu_map *x,
                    const struct gpu_epilogue *ep, const struct gpu_map *y);
/* y = x * (base + place[n,h,w] + channel[n,c]); either may be NULL. y a vector
 * of more places than one: its mean over them. */
void gpu_k_attend(void *stream, const struct gpu_map *x, float base,
                  const void *place, const float *channel,
                  const struct gpu_map *y);
void gpu_k_add(void *stream, const void *const *terms, int n,
               const struct gpu_map *y);
void gpu_k_l2norm(void *stream, const struct gpu_map *x,
                  const struct gpu_map *y);
void gpu_k_upsample(void *stream, const struct gpu_map *x,
                    const struct gpu_map *y);
/* x into y's channels from first on. */
void gpu_k_concat(void *stream, const struct gpu_map *x, int first,
                  const struct gpu_map *y);
void gpu_k_softmax(void *stream, const struct gpu_map *x,
                   const struct gpu_map *y);
/* n numbers, even between -1 and 1, always the same for a seed. */
void gpu_k_random(void *stream, enum gpu_type type, uint32_t seed, void *y,
                  long long n);
/* Raises *worst (device memory) to the largest |got - want| / (absolute +
 * relative |want|); a NaN counts as infinite. */
void gpu_k_deviation(void *stream, enum gpu_type type, const void *got,
                     const void *want, long long n, float absolute,
                     float relative, float *worst);
/* Row-major float32, [batch, c, h, w]. */
void gpu_k_output(void *stream, const struct gpu_map *x, float *y);

#ifdef __cplusplus
}
#endif

#endif
