#ifndef MODEL_SEARCH_H
#define MODEL_SEARCH_H

#include "model/backend.h"

/* Exact search by inner product: rows of float32 numbers in the host's memory,
 * and, where a device has room, a copy there in half precision that says where
 * to look. What is answered is the same to the last bit, wherever it was
 * looked for.
 *
 * Thread: rows are changed while nobody searches; any number may search at
 * once, each with a scratch of its own. */

#define MDL_SEARCH_QUERIES 32 /* of one search, at most */

struct mdl_search;

/* dim: numbers in a row. Rows past max_rows are not added. */
UT_MUSTUSE enum ut_err mdl_search_new(int dim, size_t max_rows,
                                      struct mdl_search **out,
                                      struct ut_error *e);
void mdl_search_free(struct mdl_search *s); /* accepts NULL */

/* Searches on these devices too, from here: whichever is least busy; backends
 * that have no such search are passed over. They outlive s. remark is told, a
 * line each, what is not as wished: rows that a device has no room for, a
 * device that failed. It may be called by any thread that searches. Errors:
 * UT_ENOMEM. Once, before all rows. */
typedef void (*mdl_search_remark_fn)(void *arg, const char *line);
UT_MUSTUSE enum ut_err mdl_search_place(struct mdl_search *s,
                                        struct mdl_backend *const *devices,
                                        int n, mdl_search_remark_fn remark,
                                        void *arg, struct ut_error *e);

/* A row at the end. Errors: UT_EBUSY (max_rows), UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_search_add(struct mdl_search *s, const float *row,
                                      struct ut_error *e);
/* The last row moves into this one's place, and its old place is zeroed. */
void mdl_search_remove(struct mdl_search *s, size_t row);
size_t mdl_search_rows(const struct mdl_search *s);
/* Brings the devices' copies up to date, which the next search would do:
 * after many additions, so that nobody waits; after a removal, so that nothing
 * of it is left. again: also those of devices that had no room, failed, or were
 * parked. false: not all devices have all rows. Thread: as a search. */
bool mdl_search_settle(struct mdl_search *s, bool again);
/* Gives the devices' memory back: the processor searches, until they are
 * settled again. Thread: as a search. */
void mdl_search_park(struct mdl_search *s);

/* The product of a row and q, as a search tells it. */
float mdl_search_score(const struct mdl_search *s, size_t row, const float *q);

struct mdl_search_scratch;
UT_MUSTUSE enum ut_err mdl_search_scratch_new(const struct mdl_search *s,
                                              struct mdl_search_scratch **out,
                                              struct ut_error *e);
void mdl_search_scratch_free(struct mdl_search_scratch *x); /* accepts NULL */

/* Tells take of rows and their products, in any order, some maybe twice, and
 * at least of every row whose product is not below what take last answered for
 * that query: the least product that it still has a use for, never less than
 * before (-INFINITY: any). n queries [dim], up to MDL_SEARCH_QUERIES. */
typedef float (*mdl_search_take_fn)(void *arg, int query, size_t row,
                                    float product);
void mdl_search_run(struct mdl_search *s, struct mdl_search_scratch *x,
                    const float *const *queries, int n, mdl_search_take_fn take,
                    void *arg);
/* Likewise, by the processor alone. */
void mdl_search_run_here(struct mdl_search *s, struct mdl_search_scratch *x,
                         const float *const *queries, int n,
                         mdl_search_take_fn take, void *arg);

/* How the queries so far were answered. */
struct mdl_search_stats {
    uint64_t by_device;    /* a device said where to look                  */
    uint64_t by_processor; /* it looked at every row: there was no device  */
    uint64_t again;        /* likewise: what the device said did not prove
                              the answer (many rows equally near), or it
                              failed                                       */
    uint64_t device_bytes; /* that the copies hold                         */
};
void mdl_search_stats(struct mdl_search *s, struct mdl_search_stats *out);

#endif
