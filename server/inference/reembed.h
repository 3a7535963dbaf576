#ifndef SERVER_REEMBED_H
#define SERVER_REEMBED_H

#include "server/inference/generations.h"

/* Embeds the gallery by another model, from the faces' stored crops: in the
 * background, behind everything that lives. Thread: the models'. */

struct srv_reembed;

/* g recognises, and is held as long; store is this thread's own. Errors:
 * UT_ENOMEM. */
UT_MUSTUSE enum ut_err srv_reembed_new(struct srv_generation *g,
                                       struct srv_store *store,
                                       struct srv_reembed **out,
                                       struct ut_error *e);
void srv_reembed_free(struct srv_reembed *r); /* accepts NULL */

/* All that is missing now, a few faces at a time; crops that cannot be read are
 * passed over, and logged. What is done counts in the generations' progress.
 * Errors: those of the store and the engine, UT_EBUSY when the server
 * drains. */
UT_MUSTUSE enum ut_err srv_reembed_missing(struct srv_reembed *r,
                                           struct ut_error *e);

/* The last face that was looked at: see srv_store_crops. Thread: any, while
 * srv_reembed_missing does not run. */
int64_t srv_reembed_after(const struct srv_reembed *r);

#endif
