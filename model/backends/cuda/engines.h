#ifndef MODEL_BACKENDS_CUDA_ENGINES_H
#define MODEL_BACKENDS_CUDA_ENGINES_H

#include <pthread.h>

#include "model/backends/cuda/gpu.h"

/* Other ways to compute a step than our own kernels: what cuDNN and cuBLASLt
 * offer for a product, one engine each, all untrusted until tune.c has held
 * them against ours. Plain C: tests put offers of their own in the place. */

#define GPU_ENGINES 8 /* at most this many of a vendor's are tried */

/* What of a product is computed, from which of its operands. */
enum gpu_pass {
    GPU_FORWARD, /* y = epilogue(x * w), as gpu_k_conv and gpu_k_rows do */
    GPU_DX,      /* dx, here y, from dy, here x, and w                   */
    GPU_DW,      /* dw, here y, float32, from x and dy, here w           */
};

/* x and y are the forward product's whatever the pass. */
struct gpu_product {
    enum gpu_pass pass;
    bool rows;  /* fully connected: x [batch, h w c], else a convolution */
    bool bare;  /* without the epilogue */
    bool tf32;  /* engines may round float32 factors to 11 bits */
    bool steep; /* a slope of its PReLU is above 1 */
    struct gpu_window window;
    struct gpu_map x, y;    /* data is not looked at */
    struct gpu_epilogue ep; /* which parts it has: not NULL */
};

struct gpu_operands {
    const void *x, *w;
    struct gpu_epilogue ep;
    void *y, *room; /* room: gpu_engine.room bytes */
};

struct gpu_vendor;

/* What a vendor offers for one product, its best guess first. */
struct gpu_offers {
    const struct gpu_vendor *vendor;
    int n;
    int64_t id[GPU_ENGINES]; /* the vendor's own name for each */
    void *of[GPU_ENGINES];   /* the vendor's */
    void *shared;            /* the vendor's */
};

/* library.c. A function of a library, and where its address goes. */
struct gpu_symbol {
    const char *name;
    void **at;
};
/* Opens file, which is vendor's, and finds its functions; *library goes to
 * dlclose. UT_EDEVICE: it, or one of them, is not there. */
UT_MUSTUSE enum ut_err gpu_library(const char *vendor, const char *file,
                                   const struct gpu_symbol *symbols, int n,
                                   void **library, struct ut_error *e);

struct gpu_engine {
    const struct gpu_vendor *vendor;
    size_t room; /* bytes of device memory that a run needs */
    bool narrow; /* GPU_DW: it leaves dw in x's type, not in float32 */
    pthread_mutex_t running; /* compute.c's */
};

struct gpu_vendor {
    const char *name;
    /* One stream's handle. UT_EDEVICE: no such library, or not on this chip. */
    enum ut_err (*open)(struct gpu_stream *s, void **handle,
                        struct ut_error *e);
    /* lost: with its context, which cannot be told any more. */
    void (*close)(void *handle, bool lost);
    int64_t (*version)(void *handle);
    /* UT_EDEVICE: none, and why. Else o goes to drop. */
    enum ut_err (*find)(void *handle, const struct gpu_product *p,
                        struct gpu_offers *o, struct ut_error *e);
    void (*drop)(void *handle, struct gpu_offers *o);
    /* The engine may outlive the offers. */
    enum ut_err (*make)(void *handle, const struct gpu_product *p,
                        const struct gpu_offers *o, int i,
                        struct gpu_engine **out, struct ut_error *e);
    /* Queues it. Thread: an engine's, one at a time. */
    enum ut_err (*run)(void *handle, struct gpu_engine *g,
                       const struct gpu_operands *a, struct ut_error *e);
    /* handle NULL: lost with its context. */
    void (*unmake)(void *handle, struct gpu_engine *g);
};

/* cudnn.c: convolutions. cublaslt.c: fully connected layers. */
extern const struct gpu_vendor gpu_cudnn, gpu_cublaslt;

/* What a product's pass reads and makes. A convolution's dy is of the maps'
 * type, a fully connected layer's float32, and so is every dw. */
struct gpu_piece {
    enum gpu_type type;
    size_t n;
};
struct gpu_pieces {
    struct gpu_piece x, w, y; /* as in gpu_operands */
    double terms;             /* products that add up to one of y */
};

/* Where the next piece of a memory may begin, whatever it is. */
static inline size_t gpu_aligned(size_t len)
{
    return (len + 255) / 256 * 256;
}

static inline size_t gpu_items(const struct gpu_map *m)
{
    return (size_t)m->batch * (size_t)m->h * (size_t)m->w * (size_t)m->c;
}

static inline struct gpu_pieces gpu_pieces(const struct gpu_product *p)
{
    size_t row = (size_t)p->x.h * (size_t)p->x.w * (size_t)p->x.c;
    size_t area = (size_t)p->window.kernel * (size_t)p->window.kernel;
    size_t groups = p->rows ? 1 : (size_t)p->window.groups;
    size_t k = p->rows ? row : area * (size_t)p->x.c / groups;
    struct gpu_piece x = {p->x.type, gpu_items(&p->x)};
    struct gpu_piece w = {p->x.type, (size_t)p->y.c * k};
    struct gpu_piece y = {p->y.type, gpu_items(&p->y)};

    switch (p->pass) {
    case GPU_DX:
        return (struct gpu_pieces){y, w, x,
                                   (double)(p->rows ? 1 : area) *
                                       (double)p->y.c / (double)groups};
    case GPU_DW:
        return (struct gpu_pieces){
            x, y, {GPU_F32, w.n}, (double)y.n / (double)p->y.c};
    default:
        return (struct gpu_pieces){x, w, y, (double)k};
    }
}

/* cudnn.c. For a chip that is not there, described by cuDNN's own JSON: what
 * open returns, but nothing can run. Tests and scripts/gpu-check only. */
enum ut_err gpu_cudnn_without_gpu(const char *chip, void **handle,
                                  struct ut_error *e);

#endif
