#ifndef SERVER_JOB_LIMITS_H
#define SERVER_JOB_LIMITS_H

/* Limits that a job's process sets itself, before it trains. Thread: one. */

/* Of bytes, which are the argument. */
#define SRV_JOB_MEMORY_LIMIT                                                   \
    "a job's data is limited to %lld bytes (--job-memory)"

/* Below the server in everything; memory in bytes, 0: no limit. */
void srv_job_limit(int niceness, long long memory);

/* Leaves the memory limit as the reason in DIR/error when the process crashes
 * where memory has run out. */
void srv_job_watch_for_crash(const char *dir, long long memory);

#endif
