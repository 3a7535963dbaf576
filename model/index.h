#ifndef MODEL_INDEX_H
#define MODEL_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "model/panel.h"

/* Rows of numbers on a device, in half precision, and where among them the
 * nearest to a query lie: near enough for model/search.c to find the exact
 * answer with few looks at the host's own float32 rows. For implementers;
 * callers use model/search.h.
 *
 * A panel is MDL_PANEL_ROWS rows that follow each other, and counts as near as
 * the nearest of them. */

#define MDL_INDEX_QUERIES 32 /* at most, of one seek           */
#define MDL_INDEX_NEAR 32    /* panels told at a time, a query */
#define MDL_INDEX_PUT 4096   /* rows at most, of one put       */

struct mdl_near {
    float score;   /* the best of its rows, as the device computes it */
    int32_t panel; /* -1: there are no more */
};

struct mdl_index_ops {
    /* dim: numbers in a row. The backend outlives the index. */
    enum ut_err (*open)(void *backend, int dim, void **index,
                        struct ut_error *e);
    void (*close)(void *index); /* after its seekers */

    /* half [n, dim] become rows [first, first + n); first is not past the end.
     * Not while any seeker seeks. Errors: UT_ENOMEM, what is there stays;
     * UT_EDEVICE, all rows may be lost. */
    enum ut_err (*put)(void *index, size_t first, size_t n,
                       const uint16_t *half, struct ut_error *e);
    /* Forgets all rows; those that a lost context took too. */
    void (*clear)(void *index);

    /* A way through the index, for one thread at a time. */
    enum ut_err (*seeker_new)(void *index, void **seeker, struct ut_error *e);
    void (*seeker_free)(void *seeker);
    /* The nearest panels among rows [0, rows) for n queries, half [n, dim],
     * best first, ties by number. A product is of halves, exact, and is added
     * up in float32 in any order, rounded or cut. Errors: UT_ENOMEM;
     * UT_EDEVICE, rows may be lost. */
    enum ut_err (*seek)(void *seeker, size_t rows, const uint16_t *queries,
                        int n, struct mdl_near (*near)[MDL_INDEX_NEAR],
                        struct ut_error *e);
    /* Those that come after, of the same n queries. */
    enum ut_err (*more)(void *seeker, int n,
                        struct mdl_near (*near)[MDL_INDEX_NEAR],
                        struct ut_error *e);
};

struct mdl_index {
    const struct mdl_index_ops *ops;
    void *ctx; /* only ops look inside */
};

struct mdl_backend;
/* out->ops stays NULL where the backend has none. The index goes by
 * out->ops->close, before the backend. */
UT_MUSTUSE enum ut_err mdl_index_open(struct mdl_backend *b, int dim,
                                      struct mdl_index *out,
                                      struct ut_error *e);

#endif
