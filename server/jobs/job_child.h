#ifndef SERVER_JOB_CHILD_H
#define SERVER_JOB_CHILD_H

/* The process of one training job: "tscafd --job DIR BASE FATIGUE RECOGNITION
 * THREADS NICE MEMORY ACTIVE VERSION", started by jobs.c. ACTIVE and VERSION
 * are the model that answers now, with which the result is compared. A path may
 * be
 * "-": the network that the server has without --model; no dataset. In DIR:
 *
 *   job.json         the record, from the server
 *   lock             write-locked (fcntl) as long as the process lives
 *   progress.json    JobProgress, replaced as it goes
 *   losses.json      JobLosses, the same
 *   model.safetensors(.checkpoint)
 *   result.json      JobResult: it has ended well
 *   error            why it has not
 *
 * Exit: 0 with a result, 1 an error, or: */
enum {
    SRV_JOB_STOPPED = 3, /* by SIGTERM, with a checkpoint */
    SRV_JOB_HELD = 4,    /* another process has the lock: nothing was done */
};

#define SRV_JOB_ARGS 11

int srv_job_child(char **argv);

#endif
