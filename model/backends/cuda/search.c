/* A gallery's rows on the device: tiles of a fixed number of rows, so that one
 * engine serves all of them, and a product with a tile is the very one that
 * fully connected layers use: cuBLASLt's or ours, whichever is faster here and
 * as right (tune.c). A fused kernel of our own would not reach the tensor
 * cores' rate, which 32 queries at a time need: on an H200, 10 million rows of
 * 512 are 2 ms of memory, and 5 ms of arithmetic without them. */
#include <stdlib.h>
#include <string.h>

#include "model/backends/cuda/plan.h"
#include "model/backends/cuda/search.h"

#define N_SIZES 3
#define MIN_TREE 4096 /* nodes: room for a gallery to grow in */
#define RESERVE 16    /* this part of the memory is left to plans */

/* Queries of one product: what is asked is filled up to the next. */
static const int sizes[N_SIZES] = {1, 8, MDL_INDEX_QUERIES};

struct index {
    struct ctx *c;
    int dim;
    struct lane lane; /* puts; lane.host holds MDL_INDEX_PUT rows */
    void **tiles;     /* owned; [n_tiles] of [gpu_tile_rows, dim] */
    size_t n_tiles, room;
    unsigned epoch; /* of the tiles */
};

struct seeker {
    struct index *x;
    struct lane lane; /* work: queries, scores, near, the engine's, trees */
    struct gpu_tree tree;
    long long capacity; /* floats of one query's tree; 0: no work yet */
    size_t scores, near, room, trees; /* where they begin in lane.work */
    struct {
        struct gpu_product product;
        enum choice_way way;
        struct gpu_engine *engine; /* the ctx's */
    } by[N_SIZES];
    bool chosen;
    unsigned epoch; /* of the engines */
};

static size_t tile_len(const struct index *x)
{
    return (size_t)gpu_tile_rows * (size_t)x->dim * sizeof(uint16_t);
}

/* ---- the rows ---- */

static void drop_tiles(struct index *x, bool lost)
{
    for (size_t i = 0; i < x->n_tiles && !lost; i++)
        gpu_free(x->tiles[i]);
    x->n_tiles = 0;
}

static void close_index(void *index)
{
    struct index *x = index;
    struct ut_error ignored;
    unsigned epoch = cuda_enter(x->c);

    drop_tiles(x, x->epoch != epoch || gpu_enter(x->lane.stream, &ignored));
    cuda_lane_close(x->c, &x->lane);
    cuda_leave();
    free(x->tiles);
    free(x);
}

static enum ut_err open_index(void *backend, int dim, void **out,
                              struct ut_error *e)
{
    struct index *x = calloc(1, sizeof(*x));
    enum ut_err rc;

    if (!x)
        return ut_fail(e, UT_ENOMEM, "no memory for an index");
    x->c = backend;
    x->dim = dim;
    x->epoch = cuda_enter(x->c);
    rc = cuda_lane_open(x->c, &x->lane, e);
    cuda_leave();
    if (rc)
        free(x);
    else
        *out = x;
    return rc;
}

static void clear(void *index)
{
    struct index *x = index;
    struct ut_error ignored;
    unsigned epoch = cuda_enter(x->c);

    drop_tiles(x, x->epoch != epoch || gpu_enter(x->lane.stream, &ignored));
    cuda_leave();
}

/* The last of a device's memory is not for galleries: a model that is changed
 * over to needs some. A lost context does not say how much there is, and what
 * is asked of it next says why. */
static enum ut_err spare(const struct index *x, struct ut_error *e)
{
    uint64_t used, total;

    gpu_memory(x->c->device, &used, &total);
    if (!total || used + tile_len(x) <= total - total / RESERVE)
        return UT_OK;
    return ut_fail(e, UT_ENOMEM,
                   "%llu of the GPU's %llu MiB are used, and a %dth of it is "
                   "left to models",
                   (unsigned long long)used >> 20,
                   (unsigned long long)total >> 20, RESERVE);
}

static enum ut_err add_tile(struct index *x, struct ut_error *e)
{
    enum ut_err rc = spare(x, e);
    void *tile = NULL;

    if (!rc && x->n_tiles == x->room) {
        size_t room = x->room ? 2 * x->room : 16;
        void **tiles = realloc(x->tiles, room * sizeof(*tiles));

        if (!tiles)
            return ut_fail(e, UT_ENOMEM, "no memory for an index");
        x->tiles = tiles;
        x->room = room;
    }
    if (!rc)
        rc = gpu_alloc(tile_len(x), &tile, e);
    if (!rc)
        x->tiles[x->n_tiles++] = tile;
    return rc;
}

/* Those rows of a put that one tile takes. */
static enum ut_err put_part(struct index *x, size_t first, size_t n,
                            const uint16_t *half, struct ut_error *e)
{
    size_t row = sizeof(*half) * (size_t)x->dim;
    size_t tile = first / (size_t)gpu_tile_rows;
    enum ut_err rc = tile < x->n_tiles ? UT_OK : add_tile(x, e);

    if (rc)
        return rc;
    memcpy(x->lane.host, half, n * row);
    rc = gpu_copy_in(x->lane.stream,
                     (char *)x->tiles[tile] +
                         first % (size_t)gpu_tile_rows * row,
                     x->lane.host, n * row, e);
    return rc ? rc : gpu_wait(x->lane.stream, e);
}

/* Entered: the lane is the present context's, and so are the tiles. */
static enum ut_err ready_to_put(struct index *x, unsigned epoch,
                                struct ut_error *e)
{
    size_t len = MDL_INDEX_PUT * (size_t)x->dim * sizeof(uint16_t);
    enum ut_err rc = gpu_enter(x->lane.stream, e);
    void *host;

    if (!rc)
        rc = cuda_renew(x->c, &x->lane, e);
    if (!rc && x->epoch != epoch && x->n_tiles)
        rc = ut_fail(e, UT_EDEVICE, "CUDA: rows went with their context");
    if (rc || x->lane.host)
        return rc;
    rc = gpu_pin(len, &host, e);
    x->lane.host = rc ? NULL : host;
    return rc;
}

static enum ut_err put(void *index, size_t first, size_t n,
                       const uint16_t *half, struct ut_error *e)
{
    struct index *x = index;
    size_t tile = (size_t)gpu_tile_rows;
    unsigned epoch = cuda_enter(x->c);
    enum ut_err rc = ready_to_put(x, epoch, e);

    if (!rc)
        x->epoch = epoch;
    while (n && !rc) {
        size_t part = tile - first % tile;

        part = part < n ? part : n;
        rc = put_part(x, first, part, half, e);
        first += part;
        half += part * (size_t)x->dim;
        n -= part;
    }
    cuda_leave();
    cuda_mend(x->c, epoch, rc);
    return rc;
}

/* ---- seekers ---- */

/* Room for rows' trees of all queries, and for all else. */
static enum ut_err make_room(struct seeker *s, struct ut_error *e)
{
    size_t dim = (size_t)s->x->dim, q = MDL_INDEX_QUERIES, room = 0, size;
    size_t near = q * MDL_INDEX_NEAR * sizeof(struct mdl_near);
    long long capacity = MIN_TREE;
    void *at = NULL;
    enum ut_err rc;

    if (s->tree.size <= s->capacity)
        return UT_OK;
    while (capacity < s->tree.size)
        capacity *= 2;
    for (int i = 0; i < N_SIZES; i++)
        if (s->by[i].engine && s->by[i].engine->room > room)
            room = s->by[i].engine->room;
    s->scores = gpu_aligned(q * dim * sizeof(uint16_t));
    s->near =
        s->scores + gpu_aligned(q * (size_t)gpu_tile_rows * sizeof(float));
    s->room = s->near + gpu_aligned(near);
    s->trees = s->room + gpu_aligned(room);
    size = s->trees + q * (size_t)capacity * sizeof(float);
    gpu_free(s->lane.work);
    s->lane.work = NULL;
    s->capacity = 0;
    rc = gpu_alloc(size, &at, e);
    s->lane.work = at;
    if (!rc && !s->lane.host) {
        rc = gpu_pin(s->scores + near, &at, e);
        s->lane.host = rc ? NULL : at;
    }
    if (!rc)
        s->capacity = capacity;
    return rc;
}

/* Entered: the lane and the engines are of the present context. */
static enum ut_err ready_to_seek(struct seeker *s, unsigned epoch,
                                 struct ut_error *e)
{
    enum ut_err rc = gpu_enter(s->lane.stream, e);

    if (!rc && s->lane.epoch != epoch)
        s->capacity = 0;
    if (!rc)
        rc = cuda_renew(s->x->c, &s->lane, e);
    if (rc || (s->chosen && s->epoch == epoch))
        return rc;
    for (int i = 0; i < N_SIZES && !rc; i++) {
        s->by[i].product = (struct gpu_product){.rows = true,
                                                .x = {.type = GPU_F16,
                                                      .batch = sizes[i],
                                                      .h = 1,
                                                      .w = 1,
                                                      .c = s->x->dim},
                                                .y = {.type = GPU_F32,
                                                      .batch = sizes[i],
                                                      .h = 1,
                                                      .w = 1,
                                                      .c = gpu_tile_rows}};
        rc = cuda_choose(s->x->c, &s->by[i].product, &s->by[i].way,
                         &s->by[i].engine, e);
    }
    s->chosen = !rc;
    s->epoch = epoch;
    return rc;
}

static void seeker_free(void *seeker)
{
    struct seeker *s = seeker;

    cuda_enter(s->x->c);
    cuda_lane_close(s->x->c, &s->lane);
    cuda_leave();
    free(s);
}

static enum ut_err seeker_new(void *index, void **out, struct ut_error *e)
{
    struct index *x = index;
    struct seeker *s = calloc(1, sizeof(*s));
    unsigned epoch;
    enum ut_err rc;

    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for a search");
    s->x = x;
    epoch = cuda_enter(x->c);
    rc = cuda_lane_open(x->c, &s->lane, e);
    if (!rc) {
        rc = ready_to_seek(s, epoch, e);
        if (rc)
            cuda_lane_close(x->c, &s->lane);
    }
    cuda_leave();
    cuda_remember(x->c);
    cuda_mend(x->c, epoch, rc);
    if (rc)
        free(s);
    else
        *out = s;
    return rc;
}

static void plant(struct gpu_tree *t, size_t tiles)
{
    long long n = (long long)tiles * (gpu_tile_rows / MDL_PANEL_ROWS);

    *t = (struct gpu_tree){0};
    do {
        t->first[t->levels] = t->size;
        t->n[t->levels++] = n;
        t->size += n;
        n = (n + SEARCH_FAN - 1) / SEARCH_FAN;
    } while (t->n[t->levels - 1] > SEARCH_FAN);
}

/* Queues the products with all tiles, and of each the panels' best. */
static enum ut_err queue_tiles(struct seeker *s, size_t rows, int n,
                               struct ut_error *e)
{
    size_t tile = (size_t)gpu_tile_rows;
    char *work = s->lane.work;
    struct gpu_operands a = {
        .x = work, .y = work + s->scores, .room = work + s->room};
    float *trees = (float *)(void *)(work + s->trees);
    enum ut_err rc = UT_OK;
    int size = 0;

    while (sizes[size] < n)
        size++;
    for (size_t first = 0; first < rows && !rc; first += tile) {
        size_t left = rows - first;

        a.w = s->x->tiles[first / tile];
        rc = cuda_compute(s->lane.stream, s->lane.handles, &s->by[size].product,
                          s->by[size].way, s->by[size].engine, &a, e);
        if (rc)
            return rc;
        gpu_k_panels(gpu_native(s->lane.stream), a.y, gpu_tile_rows,
                     (int)(left < tile ? left : tile), n, &s->tree,
                     (long long)(first / MDL_PANEL_ROWS), trees);
        rc = gpu_launched("a search", e);
    }
    if (!rc)
        gpu_k_grow(gpu_native(s->lane.stream), &s->tree, n, trees);
    return rc ? rc : gpu_launched("a search", e);
}

static enum ut_err tell(struct seeker *s, int n,
                        struct mdl_near (*near)[MDL_INDEX_NEAR],
                        struct ut_error *e)
{
    size_t len = (size_t)n * sizeof(*near);
    char *work = s->lane.work, *host = s->lane.host + s->scores;
    enum ut_err rc;

    gpu_k_nearest(gpu_native(s->lane.stream), &s->tree, n,
                  (float *)(void *)(work + s->trees),
                  (struct mdl_near *)(void *)(work + s->near));
    rc = gpu_launched("a search", e);
    if (!rc)
        rc = gpu_copy_out(s->lane.stream, host, work + s->near, len, e);
    if (!rc)
        rc = gpu_wait(s->lane.stream, e);
    if (!rc)
        memcpy(near, host, len);
    return rc;
}

static enum ut_err begin(struct seeker *s, size_t rows, const uint16_t *queries,
                         int n, unsigned epoch, struct ut_error *e)
{
    size_t tile = (size_t)gpu_tile_rows;
    size_t len = MDL_INDEX_QUERIES * (size_t)s->x->dim * sizeof(*queries);
    size_t asked = (size_t)n * (size_t)s->x->dim * sizeof(*queries);
    enum ut_err rc;

    if (s->x->epoch != epoch)
        return ut_fail(e, UT_EDEVICE, "CUDA: rows went with their context");
    rc = ready_to_seek(s, epoch, e);
    if (rc)
        return rc;
    plant(&s->tree, (rows + tile - 1) / tile);
    rc = make_room(s, e);
    if (rc)
        return rc;
    memcpy(s->lane.host, queries, asked);
    memset(s->lane.host + asked, 0, len - asked);
    rc = gpu_copy_in(s->lane.stream, s->lane.work, s->lane.host, len, e);
    return rc ? rc : queue_tiles(s, rows, n, e);
}

static enum ut_err seek(void *seeker, size_t rows, const uint16_t *queries,
                        int n, struct mdl_near (*near)[MDL_INDEX_NEAR],
                        struct ut_error *e)
{
    struct seeker *s = seeker;
    unsigned epoch = cuda_enter(s->x->c);
    enum ut_err rc;

    cuda_busy(s->x->c, 1);
    rc = begin(s, rows, queries, n, epoch, e);
    if (!rc)
        rc = tell(s, n, near, e);
    cuda_leave();
    cuda_busy(s->x->c, -1);
    cuda_mend(s->x->c, epoch, rc);
    return rc;
}

static enum ut_err more(void *seeker, int n,
                        struct mdl_near (*near)[MDL_INDEX_NEAR],
                        struct ut_error *e)
{
    struct seeker *s = seeker;
    unsigned epoch = cuda_enter(s->x->c);
    enum ut_err rc =
        s->lane.epoch == epoch
            ? gpu_enter(s->lane.stream, e)
            : ut_fail(e, UT_EDEVICE, "CUDA: rows went with their context");

    cuda_busy(s->x->c, 1);
    if (!rc)
        rc = tell(s, n, near, e);
    cuda_leave();
    cuda_busy(s->x->c, -1);
    cuda_mend(s->x->c, epoch, rc);
    return rc;
}

const struct mdl_index_ops cuda_index = {
    .open = open_index,
    .close = close_index,
    .put = put,
    .clear = clear,
    .seeker_new = seeker_new,
    .seeker_free = seeker_free,
    .seek = seek,
    .more = more,
};
