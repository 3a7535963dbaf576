#ifndef SERVER_FOLLOW_H
#define SERVER_FOLLOW_H

#include "base/error.h"
#include "server/inference/generations.h"

/* How one of several servers keeps up with what the others write to the store
 * that they share. The audit log is what it follows: every change has a line,
 * made with it and in its order, so that reading on from the last line that was
 * taken misses nothing, however long the connection was away. A thread waits
 * for the database to say that something changed; the store's thread reads on,
 * and applies it to galleries and keys; a model that another server activated
 * is opened here too (change_over.c). A line that is not as it was, after a
 * failover to a database that had lost some, means to read everything anew.
 *
 * Nobody follows on a store of one's own: app->follow is NULL then, which all
 * functions accept but those around reading everything anew. */

struct srv_app;
struct srv_follow;

/* Notes where the log ends: before galleries and keys are read. *out NULL: the
 * store is one's own. Thread: before others exist. */
UT_MUSTUSE enum ut_err srv_follow_new(struct srv_app *app,
                                      struct srv_follow **out,
                                      struct ut_error *e);
/* Begins to wait, once the models' thread is there. Thread: the loop. */
UT_MUSTUSE enum ut_err srv_follow_start(struct srv_follow *f,
                                        struct ut_error *e);
/* Waits no more; before the store's thread ends. Then free, after it. */
void srv_follow_stop(struct srv_follow *f);
void srv_follow_free(struct srv_follow *f);

/* Whether this server knows what the others wrote; if not, why, into why.
 * Thread: the loop. */
bool srv_follow_well(const struct srv_follow *f, struct ut_error *why);

/* ---- the store's thread ---- */

/* Takes what was written until now. Within a transaction: until the others
 * wait, so that nothing is missing. */
UT_MUSTUSE enum ut_err srv_follow_now(struct srv_follow *f, struct ut_error *e);
/* UT_EBUSY while another model is active than the one that answers here, or all
 * is being read anew: nothing may be enrolled. */
UT_MUSTUSE enum ut_err srv_follow_check(const struct srv_follow *f,
                                        struct ut_error *e);
/* Around reading everything anew. */
UT_MUSTUSE enum ut_err srv_follow_mark(struct srv_follow *f,
                                       struct ut_error *e);
void srv_follow_anew_done(struct srv_follow *f);

#endif
