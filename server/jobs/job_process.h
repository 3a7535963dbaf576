#ifndef SERVER_JOB_PROCESS_H
#define SERVER_JOB_PROCESS_H

#include <uv.h>

#include "server/config.h"

/* The process of a job: a child of this server's, or one that was found again
 * by the lock it holds, whose server has ended. Thread: the loop. */

struct srv_generation;
struct srv_job_process;

/* It has ended and is gone; status is job_child.h's, signum is not 0 where it
 * was killed by one and that is known. Called once, never by the calls below
 * but srv_job_process_look. */
typedef void (*srv_job_end_fn)(void *arg, int status, int signum);

/* active: the generation that answers now, with which it compares. */
UT_MUSTUSE enum ut_err
srv_job_process_start(uv_loop_t *loop, const struct srv_config *c,
                      const char *id, const struct srv_generation *active,
                      srv_job_end_fn end, void *arg,
                      struct srv_job_process **out, struct ut_error *e);
/* NULL where none lives, or without memory. */
struct srv_job_process *srv_job_process_find(const struct srv_config *c,
                                             const char *id, srv_job_end_fn end,
                                             void *arg);
int srv_job_process_pid(const struct srv_job_process *p);

/* Asks it to write its checkpoint and end; it is killed if it takes long. */
void srv_job_process_stop(struct srv_job_process *p);
/* To be called now and then. */
void srv_job_process_look(struct srv_job_process *p);
/* Lets it run on by itself. Accepts NULL. */
void srv_job_process_forget(struct srv_job_process *p);

#endif
