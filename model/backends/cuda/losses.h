#ifndef MODEL_BACKENDS_CUDA_LOSSES_H
#define MODEL_BACKENDS_CUDA_LOSSES_H

#include "model/backends/cuda/engines.h"
#include "model/backends/cuda/learner.h"

/* What a learner's losses share (losses.c): memory that grows to the largest
 * need, and products of float32 by whoever computes them fastest. Everything is
 * queued on the first device's lane, and waited for once, by cuda_loss_end. */

/* A product over n rows, from k numbers to o. */
struct chosen {
    struct gpu_product product;
    enum choice_way way;
    struct gpu_engine *engine; /* the ctx's; NULL: our kernel */
};

/* y [n, o] = x [n, k] w^T, and both gradients; w [o, k]. */
enum { FORWARD, DX, DW, PRODUCTS };

struct losses {
    char *work, *host; /* owned; on the device; pinned */
    size_t work_size, host_size;
    struct chosen *chosen; /* owned; [n_chosen], room for so many */
    int n_chosen, room;
    bool news; /* something was chosen since the file was written */
};

/* One call of a loss. */
struct loss {
    const struct mdl_own *own;
    const float *x, *teacher; /* the host's */
    const int32_t *label;
    int n;
    double *loss;
    float *dx; /* the host's */
    union {
        const struct mdl_arcface *arcface;
        const struct mdl_distill *distill;
        const struct mdl_hint *hint;
    };
};

typedef enum ut_err loss_work(struct learner *l, const struct loss *a,
                              struct ut_error *e);

/* Does it entered, with the weights on the device: UT_EDEVICE if they are gone.
 * Nothing is queued any more when it returns. */
enum ut_err cuda_loss_with(struct learner *l, loss_work *do_it,
                           const struct loss *a, struct ut_error *e);

/* Who computes it, decided once for each shape; a forward product and its
 * gradients; bytes that the neediest of them needs beside. */
enum ut_err cuda_loss_choose(struct learner *l, enum gpu_pass pass, int n,
                             int k, int o, struct chosen *out,
                             struct ut_error *e);
enum ut_err cuda_loss_choose_all(struct learner *l, int n, int k, int o,
                                 struct chosen of[PRODUCTS],
                                 struct ut_error *e);
size_t cuda_loss_room(const struct chosen *of, int n);
/* Queued. x, w, y, room as in gpu_operands. */
enum ut_err cuda_loss_multiply(struct learner *l, const struct chosen *c,
                               const float *x, const float *w, float *y,
                               void *room, struct ut_error *e);

/* A memory's pieces are taken one after another. Those that go to the device or
 * come back are first, and lie at the same places on the host. */
static inline size_t loss_take(size_t *size, size_t len)
{
    size_t at = *size;

    *size += gpu_aligned(len);
    return at;
}

/* So much on the device, and of it on the host, for `what` of n faces.
 * UT_ENOMEM says what was wanted. */
enum ut_err cuda_loss_memory(struct losses *s, const char *what, int n,
                             size_t work, size_t host, struct ut_error *e);
/* To the device, queued; `from` is not needed any more when it returns. */
enum ut_err cuda_loss_send(struct learner *l, size_t at, const void *from,
                           size_t len, struct ut_error *e);
/* All from `at` to `end` comes back, and nothing is queued any more: first a
 * gradient of len bytes, which goes to a->dx. */
enum ut_err cuda_loss_end(struct learner *l, const struct loss *a, size_t at,
                          size_t len, size_t end, struct ut_error *e);
/* Of doubles that came back. */
double cuda_loss_sum(const struct losses *s, size_t at, int n);

static inline float *loss_floats(const struct losses *s, size_t at)
{
    return (float *)(void *)(s->work + at);
}

static inline double *loss_doubles(const struct losses *s, size_t at)
{
    return (double *)(void *)(s->work + at);
}

static inline void *loss_stream(const struct learner *l)
{
    return gpu_native(l->device[0].lane->stream);
}

static inline const float *loss_weight(const struct learner *l,
                                       const struct mdl_own *o)
{
    return l->device[0].x + l->at[o->tensor];
}

static inline float *loss_gradient(const struct learner *l,
                                   const struct mdl_own *o)
{
    return l->device[0].gradient + l->at[o->tensor];
}

#endif
