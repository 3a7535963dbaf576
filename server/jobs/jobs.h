#ifndef SERVER_JOBS_H
#define SERVER_JOBS_H

#include "api/tscaf.pb-c.h"
#include "base/buf.h"
#include "server/calls/call.h"

/* Training jobs: a queue, and a process of its own for each that runs, which
 * is this program once more (job_child.h), with its own threads, niceness and
 * memory. What a process has to say it says by files in DATA/jobs/ID, so that
 * it goes on when the server ends, and the next server finds it by the lock
 * that it holds.
 *
 * A record's state is what is wanted: a job that was paused or cancelled is so
 * once that is stored, while its process may need a moment to write its
 * checkpoint and end. Thread: the loop, everything. */

#define SRV_JOBS_MAX 1000        /* records kept */
#define SRV_JOBS_MAX_WATCHERS 64 /* streams of one job */

struct srv_app;
struct srv_jobs;

/* Reads this server's records, finds processes again, starts what waits. */
UT_MUSTUSE enum ut_err srv_jobs_new(struct srv_app *app, struct srv_jobs **out,
                                    struct ut_error *e);
/* Looks at nothing any more; processes go on. Then the loop runs on until it
 * has nothing left, then free. Both accept NULL. */
void srv_jobs_stop(struct srv_jobs *j);
void srv_jobs_free(struct srv_jobs *j);
/* Ends the streams: the server drains. Accepts NULL. */
void srv_jobs_drain(struct srv_jobs *j);

size_t srv_jobs_count(const struct srv_jobs *j);
/* [srv_jobs_count], oldest first; valid until the next change. */
Tscaf__V1__JobRecord **srv_jobs_list(const struct srv_jobs *j);
/* NULL if there is none. */
Tscaf__V1__JobRecord *srv_jobs_find(const struct srv_jobs *j, const char *id);

/* A job that was stored as queued, with its folder; the record is taken. */
void srv_jobs_add(struct srv_jobs *j, Tscaf__V1__JobRecord *record);

/* What calls ask for. *out is the record as it will be, which the caller stores
 * and frees; until srv_jobs_settle() says how that went nothing changes, and
 * other calls for the job are refused. Errors: UT_ENOTFOUND, UT_ESTATE naming
 * the state, UT_EBUSY: another change is being stored. */
UT_MUSTUSE enum ut_err srv_jobs_cancel(struct srv_jobs *j, const char *id,
                                       Tscaf__V1__JobRecord **out,
                                       struct ut_error *e);
UT_MUSTUSE enum ut_err srv_jobs_pause(struct srv_jobs *j, const char *id,
                                      Tscaf__V1__JobRecord **out,
                                      struct ut_error *e);
/* Also of one that failed: it goes on from its checkpoint. */
UT_MUSTUSE enum ut_err srv_jobs_resume(struct srv_jobs *j, const char *id,
                                       Tscaf__V1__JobRecord **out,
                                       struct ut_error *e);
/* Has the model that one made compared with the one that answers now: it runs
 * again, without training, and has succeeded again when that is done, or, with
 * the reason told, when it cannot be done or was cancelled. */
UT_MUSTUSE enum ut_err srv_jobs_compare(struct srv_jobs *j, const char *id,
                                        Tscaf__V1__JobRecord **out,
                                        struct ut_error *e);
/* One that has ended, whose record and folder the caller deletes: then it is
 * forgotten. */
UT_MUSTUSE enum ut_err srv_jobs_remove(struct srv_jobs *j, const char *id,
                                       Tscaf__V1__JobRecord **out,
                                       struct ut_error *e);
/* stored: what was asked for happens now; else the job is as it was. */
void srv_jobs_settle(struct srv_jobs *j, const Tscaf__V1__JobRecord *as,
                     bool stored);

/* Streams the job to c, which it ends. */
void srv_jobs_watch(struct srv_jobs *j, const char *id, struct srv_call *c);

/* Appends Prometheus's series. */
UT_MUSTUSE enum ut_err srv_jobs_metrics(const struct srv_jobs *j,
                                        struct ut_buf *out, struct ut_error *e);

/* "queued"... */
const char *srv_job_state_name(Tscaf__V1__JobState state);

#endif
