#ifndef SERVER_JOBS_PARTS_H
#define SERVER_JOBS_PARTS_H

#include <time.h>

#include "server/app.h"
#include "server/calls/streams.h"
#include "server/jobs/job_process.h"

/* What jobs.c (processes and what comes next) and jobs_calls.c (what clients
 * ask) share. Nobody else includes it. Thread: the loop. */

#define STATE(x) TSCAF__V1__JOB_STATE__JOB_STATE_##x

struct job {
    struct srv_jobs *jobs;
    Tscaf__V1__JobRecord *record;    /* owned */
    struct srv_job_process *process; /* NULL: none lives */
    bool finishing;                  /* its result is being stored */
    int64_t again_us; /* when it is tried again, as the store refused; 0 */
    int64_t save_us;  /* the same of the record */
    bool asked;       /* a call's change of it is being stored */
    bool removing;    /* which deletes it */
    bool gone;        /* meanwhile its process did, so: */
    int status, signum;
    struct timespec told; /* of progress.json, as last read */
    struct srv_streams streams;
};

struct srv_jobs {
    struct srv_app *app;
    struct job **list;              /* owned, oldest first */
    Tscaf__V1__JobRecord **records; /* of list, the same order */
    size_t n;
    uv_timer_t timer;
    bool stopped;
};

/* NULL: there is none, and e says so. */
struct job *srv_job_of(const struct srv_jobs *j, const char *id,
                       struct ut_error *e);
bool srv_job_has_ended(const struct job *x);
/* Its result is stored, now or when the store takes it: no process is to make
 * another. */
bool srv_job_is_done(const struct job *x);
const char *srv_job_data(const struct job *x); /* DATA */

/* Writes a state with its reason into a record; false without memory. */
bool srv_job_describe(Tscaf__V1__JobRecord *r, Tscaf__V1__JobState state,
                      const char *reason);
/* Tells the log and who watches what state it is in now. */
void srv_job_announce(struct job *x);

/* What a process left tells how it ended; signal 0 where that is not known. */
void srv_job_ended(struct job *x, int status, int signum);
/* Starts what waits while there is room. */
void srv_jobs_pump(struct srv_jobs *j);

#endif
