#ifndef SERVER_JOB_FOLDER_H
#define SERVER_JOB_FOLDER_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "api/tscaf.pb-c.h"
#include "base/buf.h"

/* DATA/jobs/ID as the server sees it: the order that a job's process is started
 * with, and what the process leaves (job_child.h). data: DATA. Thread: any, one
 * at a time for one job. */

/* Model, fatigue data, recognition data; "-" for none. */
enum { SRV_JOB_BASE, SRV_JOB_DATA, SRV_JOB_ORDER = 3 };

void srv_job_path(const char *data, const char *id, const char *name,
                  char out[PATH_MAX]);

/* Makes the folder with its order and job.json. */
UT_MUSTUSE enum ut_err
srv_job_folder_make(const char *data, const Tscaf__V1__JobRecord *x,
                    const char *const order[SRV_JOB_ORDER], struct ut_error *e);
/* order points into *b, which the caller fini's. */
UT_MUSTUSE enum ut_err srv_job_order_read(const char *data, const char *id,
                                          struct ut_buf *b,
                                          char *order[SRV_JOB_ORDER],
                                          struct ut_error *e);

bool srv_job_has(const char *data, const char *id, const char *name);
/* A message from a file, or NULL. */
ProtobufCMessage *srv_job_read(const char *data, const char *id,
                               const char *name,
                               const ProtobufCMessageDescriptor *d);
/* The process that holds the job's lock; 0: none. */
pid_t srv_job_holder(const char *data, const char *id);

/* Gives the process of a job the model of that version, in place of what it
 * trained, and no result. Errors: UT_ESTATE: it is not there any more; UT_EIO.
 */
UT_MUSTUSE enum ut_err srv_job_take_model(const char *data, const char *id,
                                          const char *version,
                                          struct ut_error *e);

/* Removes the weights, done or half done. */
void srv_job_drop_work(const char *data, const char *id);
/* Removes all, and the manifests that were frozen for it. */
void srv_job_folder_remove(const char *data, const char *id);

#endif
