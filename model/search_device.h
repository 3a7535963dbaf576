#ifndef MODEL_SEARCH_DEVICE_H
#define MODEL_SEARCH_DEVICE_H

#include <stdbool.h>

#include "model/index.h"
#include "model/search.h"

/* A device's copy of a search's rows. Private to model/search*.c. */

#define SEARCH_CHUNK 4096 /* rows that lie together; whole panels */

struct search_rows {
    int dim;
    size_t n;
    float **chunks; /* packed: model/panel.h */
};

/* Panel p's numbers. */
static inline const float *search_panel(const struct search_rows *r, size_t p)
{
    size_t row = p * MDL_PANEL_ROWS;

    return r->chunks[row / SEARCH_CHUNK] + row % SEARCH_CHUNK * (size_t)r->dim;
}

/* What one search wants, and how far it is. */
struct search_call {
    const struct search_rows *rows;
    const float *const *queries;
    int n;
    mdl_search_take_fn take;
    void *arg;
    float least[MDL_SEARCH_QUERIES];  /* what take last answered */
    bool settled[MDL_SEARCH_QUERIES]; /* it has been told all    */
};

/* Tells of one panel's rows. */
void search_tell(struct search_call *c, int query, size_t panel);

struct search_device;

/* *out stays NULL where the backend has no such search. */
UT_MUSTUSE enum ut_err search_device_new(struct mdl_backend *b, int number,
                                         int dim, size_t max_rows,
                                         mdl_search_remark_fn remark, void *arg,
                                         struct search_device **out,
                                         struct ut_error *e);
void search_device_free(struct search_device *d); /* accepts NULL */

/* A row has changed; nobody searches. */
void search_device_touch(struct search_device *d, size_t row);

/* Copies what was touched. again: also if it was parked or given up. false: it
 * cannot be used. Searches may run, nobody changes rows. */
bool search_device_settle(struct search_device *d,
                          const struct search_rows *rows, bool again);
/* Gives its memory back, after the searches under way. */
void search_device_park(struct search_device *d);
/* Searches under way; a device that was given up has INT_MAX. */
int search_device_load(struct search_device *d);
/* Settles those queries that it can; false: an error. */
bool search_device_run(struct search_device *d, struct search_call *c);
size_t search_device_bytes(struct search_device *d);

#endif
