#ifndef MODEL_BACKENDS_CUDA_MEETING_H
#define MODEL_BACKENDS_CUDA_MEETING_H

#include "model/backends/cuda/gpu.h"

/* Devices of one process that add up what each of them has (nccl.c: NCCL; tests
 * put the processor's additions in its place). All are asked by one thread. */

struct gpu_meeting;

/* A range of an array that each device has: to its sum over the devices, or its
 * mean. */
struct gpu_sum {
    float *const *arrays; /* one a device, on it */
    size_t at, n;
    bool mean;
};

/* n devices, each another, and a stream on each, which outlive it. UT_EDEVICE:
 * there is no NCCL, or it cannot have them. */
enum ut_err gpu_meeting_open(const int *devices,
                             struct gpu_stream *const *streams, int n,
                             struct gpu_meeting **out, struct ut_error *e);
/* lost: what it had on one of the devices went with a context. Accepts NULL. */
void gpu_meeting_close(struct gpu_meeting *m, bool lost);
/* All sums at once, queued on the streams. */
enum ut_err gpu_meet(struct gpu_meeting *m, const struct gpu_sum *sums, int n,
                     struct ut_error *e);
/* Of an error between the two: nobody meets any more, and those that wait for
 * one that failed are freed of it. */
void gpu_meeting_end(struct gpu_meeting *m);
/* Until all that is queued on all of the streams is done. UT_EDEVICE, and
 * nobody meets any more: a device failed, which leaves the others waiting, or
 * the wait was longer than GPU_MEETING_MS, as for one that cannot be
 * reached. */
enum ut_err gpu_meeting_wait(struct gpu_meeting *m, struct ut_error *e);

/* A step takes seconds at most, and a hundred times that under a debugger or a
 * sanitizer; NCCL, where links are blocked, waits without an error. */
#define GPU_MEETING_MS (10 * 60 * 1000)

/* *busy: device i has not ended yet. An error ends the watch. */
typedef enum ut_err gpu_look(void *arg, int i, bool *busy, struct ut_error *e);
/* For meetings: looks at the n devices until none is busy; after limit_ms the
 * error is UT_EDEVICE, and names those that are. */
enum ut_err gpu_watch(const int *devices, int n, gpu_look *look, void *arg,
                      int64_t limit_ms, struct ut_error *e);

#endif
