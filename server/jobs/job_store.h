#ifndef SERVER_JOB_STORE_H
#define SERVER_JOB_STORE_H

#include "server/app.h"

/* What the store has to know of jobs, on its own thread. Thread: the loop. */

/* Stores a copy of the record, in the background: what is lost in a crash is
 * found out again from the job's files. A failure is logged, and refused is
 * called on the loop with the job's id, perhaps at once. */
typedef void (*srv_job_refused_fn)(void *arg, const char *id);
void srv_job_save(struct srv_app *app, const Tscaf__V1__JobRecord *x,
                  srv_job_refused_fn refused, void *arg);

/* Takes a job's result.json over: its model goes into the repository, and the
 * records of both are stored together. done is called on the loop with x as it
 * is then, which is done's, or with NULL and why not: UT_EIO, UT_EBUSY and
 * UT_ENOMEM may pass, and the result is there to be stored again. */
typedef void (*srv_job_stored_fn)(void *arg, Tscaf__V1__JobRecord *x,
                                  const struct ut_error *e);
UT_MUSTUSE enum ut_err srv_job_store_result(struct srv_app *app,
                                            const Tscaf__V1__JobRecord *x,
                                            srv_job_stored_fn done, void *arg,
                                            struct ut_error *e);

#endif
