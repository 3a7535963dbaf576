/* The rows and the processor's search; search_device.c has the devices'. */
#include "model/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/search_device.h"

#define MAX_DEVICES 16

struct mdl_search {
    struct search_rows rows; /* chunks owned, as they are */
    size_t max_rows, n_chunks;
    struct search_device *devices[MAX_DEVICES]; /* owned */
    int n_devices;
    uint64_t by_device, by_processor, again; /* atomic */
};

struct mdl_search_scratch {
    float product[MDL_SEARCH_QUERIES * SEARCH_CHUNK];
    float *queries; /* owned; [MDL_SEARCH_QUERIES, dim] */
};

enum ut_err mdl_search_new(int dim, size_t max_rows, struct mdl_search **out,
                           struct ut_error *e)
{
    struct mdl_search *s = calloc(1, sizeof(*s));

    *out = NULL;
    if (s)
        s->rows.chunks =
            calloc(max_rows / SEARCH_CHUNK + 1, sizeof(*s->rows.chunks));
    if (!s || !s->rows.chunks) {
        free(s);
        return ut_fail(e, UT_ENOMEM, "no memory for %zu rows", max_rows);
    }
    s->rows.dim = dim;
    s->max_rows = max_rows;
    *out = s;
    return UT_OK;
}

void mdl_search_free(struct mdl_search *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n_devices; i++)
        search_device_free(s->devices[i]);
    for (size_t c = 0; c < s->n_chunks; c++)
        free(s->rows.chunks[c]);
    free(s->rows.chunks);
    free(s);
}

enum ut_err mdl_search_place(struct mdl_search *s,
                             struct mdl_backend *const *devices, int n,
                             mdl_search_remark_fn remark, void *arg,
                             struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    for (int i = 0; i < n && i < MAX_DEVICES && !rc; i++) {
        struct search_device *d = NULL;

        rc = search_device_new(devices[i], i, s->rows.dim, s->max_rows, remark,
                               arg, &d, e);
        if (d)
            s->devices[s->n_devices++] = d;
    }
    return rc;
}

/* ---- rows ---- */

static float *element(const struct mdl_search *s, size_t row, int column)
{
    return s->rows.chunks[row / SEARCH_CHUNK] +
           mdl_panel_at(false, (size_t)s->rows.dim, row % SEARCH_CHUNK,
                        (size_t)column);
}

static void touch(struct mdl_search *s, size_t row)
{
    for (int i = 0; i < s->n_devices; i++)
        search_device_touch(s->devices[i], row);
}

enum ut_err mdl_search_add(struct mdl_search *s, const float *row,
                           struct ut_error *e)
{
    size_t size = SEARCH_CHUNK * (size_t)s->rows.dim * sizeof(float);

    if (s->rows.n >= s->max_rows)
        return ut_fail(e, UT_EBUSY, "there are %zu rows, the limit", s->rows.n);
    if (s->rows.n == s->n_chunks * SEARCH_CHUNK) {
        float *chunk = aligned_alloc(64, size);

        if (!chunk)
            return ut_fail(e, UT_ENOMEM, "no memory for more rows");
        memset(chunk, 0, size);
        s->rows.chunks[s->n_chunks++] = chunk;
    }
    for (int k = 0; k < s->rows.dim; k++)
        *element(s, s->rows.n, k) = row[k];
    touch(s, s->rows.n++);
    return UT_OK;
}

void mdl_search_remove(struct mdl_search *s, size_t row)
{
    size_t last = --s->rows.n;

    for (int k = 0; k < s->rows.dim; k++) {
        *element(s, row, k) = *element(s, last, k);
        *element(s, last, k) = 0;
    }
    touch(s, row);
    touch(s, last);
}

size_t mdl_search_rows(const struct mdl_search *s)
{
    return s->rows.n;
}

bool mdl_search_settle(struct mdl_search *s, bool again)
{
    bool all = true;

    for (int i = 0; i < s->n_devices; i++)
        all &= search_device_settle(s->devices[i], &s->rows, again);
    return all;
}

void mdl_search_park(struct mdl_search *s)
{
    for (int i = 0; i < s->n_devices; i++)
        search_device_park(s->devices[i]);
}

/* ---- searching ---- */

static void product_of_panel(const struct search_rows *r, size_t panel,
                             const float *q, float product[MDL_PANEL_ROWS])
{
    memset(product, 0, MDL_PANEL_ROWS * sizeof(float));
    mdl_panel_product(false, search_panel(r, panel), MDL_PANEL_ROWS,
                      (size_t)r->dim, q, (size_t)r->dim, 1, product);
}

float mdl_search_score(const struct mdl_search *s, size_t row, const float *q)
{
    float product[MDL_PANEL_ROWS];

    product_of_panel(&s->rows, row / MDL_PANEL_ROWS, q, product);
    return product[row % MDL_PANEL_ROWS];
}

static void tell(struct search_call *c, int query, size_t row, float product)
{
    if (product >= c->least[query])
        c->least[query] = c->take(c->arg, query, row, product);
}

void search_tell(struct search_call *c, int query, size_t panel)
{
    size_t first = panel * MDL_PANEL_ROWS, n = c->rows->n - first;
    float product[MDL_PANEL_ROWS];

    product_of_panel(c->rows, panel, c->queries[query], product);
    for (size_t i = 0; i < MDL_PANEL_ROWS && i < n; i++)
        tell(c, query, first + i, product[i]);
}

enum ut_err mdl_search_scratch_new(const struct mdl_search *s,
                                   struct mdl_search_scratch **out,
                                   struct ut_error *e)
{
    struct mdl_search_scratch *x = malloc(sizeof(*x));

    *out = NULL;
    if (x)
        x->queries =
            malloc(MDL_SEARCH_QUERIES * (size_t)s->rows.dim * sizeof(float));
    if (!x || !x->queries) {
        free(x);
        return ut_fail(e, UT_ENOMEM, "no memory for a search");
    }
    *out = x;
    return UT_OK;
}

void mdl_search_scratch_free(struct mdl_search_scratch *x)
{
    if (!x)
        return;
    free(x->queries);
    free(x);
}

/* One pass over all rows, for those queries that are not settled. */
static void look_at_all(struct search_call *c, struct mdl_search_scratch *x)
{
    size_t dim = (size_t)c->rows->dim;
    int who[MDL_SEARCH_QUERIES], n = 0;

    for (int q = 0; q < c->n; q++)
        if (!c->settled[q]) {
            memcpy(x->queries + (size_t)n * dim, c->queries[q],
                   dim * sizeof(float));
            who[n++] = q;
        }
    for (size_t first = 0; first < c->rows->n; first += SEARCH_CHUNK) {
        size_t rows = c->rows->n - first;

        if (rows > SEARCH_CHUNK)
            rows = SEARCH_CHUNK;
        memset(x->product, 0, (size_t)n * rows * sizeof(float));
        mdl_panel_product(false, c->rows->chunks[first / SEARCH_CHUNK], rows,
                          dim, x->queries, dim, n, x->product);
        for (int q = 0; q < n; q++)
            for (size_t i = 0; i < rows; i++)
                tell(c, who[q], first + i, x->product[(size_t)q * rows + i]);
    }
}

static void count(uint64_t *of, int n)
{
    __atomic_add_fetch(of, (uint64_t)n, __ATOMIC_RELAXED);
}

static struct search_device *idlest_of(struct mdl_search *s)
{
    struct search_device *idlest = NULL;
    int least = INT32_MAX;

    for (int i = 0; i < s->n_devices; i++) {
        int load = search_device_load(s->devices[i]);

        if (load < least) {
            least = load;
            idlest = s->devices[i];
        }
    }
    return idlest;
}

static void run(struct mdl_search *s, struct mdl_search_scratch *x,
                struct search_device *idlest, struct search_call *c)
{
    int settled = 0;

    for (int q = 0; q < c->n; q++)
        c->least[q] = -INFINITY;
    if (!s->rows.n) /* nothing to ask a device for */
        idlest = NULL;
    if (idlest)
        search_device_run(idlest, c);
    for (int q = 0; q < c->n; q++)
        settled += c->settled[q];
    count(&s->by_device, settled);
    count(idlest ? &s->again : &s->by_processor, c->n - settled);
    if (settled < c->n)
        look_at_all(c, x);
}

void mdl_search_run(struct mdl_search *s, struct mdl_search_scratch *x,
                    const float *const *queries, int n, mdl_search_take_fn take,
                    void *arg)
{
    struct search_call c = {
        .rows = &s->rows, .queries = queries, .n = n, .take = take, .arg = arg};

    run(s, x, idlest_of(s), &c);
}

void mdl_search_run_here(struct mdl_search *s, struct mdl_search_scratch *x,
                         const float *const *queries, int n,
                         mdl_search_take_fn take, void *arg)
{
    struct search_call c = {
        .rows = &s->rows, .queries = queries, .n = n, .take = take, .arg = arg};

    run(s, x, NULL, &c);
}

void mdl_search_stats(struct mdl_search *s, struct mdl_search_stats *out)
{
    *out = (struct mdl_search_stats){
        __atomic_load_n(&s->by_device, __ATOMIC_RELAXED),
        __atomic_load_n(&s->by_processor, __ATOMIC_RELAXED),
        __atomic_load_n(&s->again, __ATOMIC_RELAXED), 0};
    for (int i = 0; i < s->n_devices; i++)
        out->device_bytes += search_device_bytes(s->devices[i]);
}
