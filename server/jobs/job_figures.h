#ifndef SERVER_JOB_FIGURES_H
#define SERVER_JOB_FIGURES_H

#include <stdbool.h>
#include <stdint.h>

#include "api/tscaf.pb-c.h"
#include "model/train/session.h"

/* A job's candidate, the base that it was trained from, and the model that
 * answers now (the active one), over the same pictures: those that its training
 * held out. Thread: one. */

enum { SRV_TRIAL_BASE, SRV_TRIAL_CANDIDATE, SRV_TRIAL_ACTIVE, SRV_TRIALS };

struct srv_trial {
    const char *models[SRV_TRIALS]; /* files; ACTIVE NULL: it is the base */
    const char *active_version;     /* what that file must hold; NULL: any */
    const char *data[MDL_TASKS];    /* NULL: not trained */
    double held_out;                /* the split's, as in training */
    uint64_t seed;
    int threads;
};

struct srv_job_figures {
    Tscaf__V1__JobFigures *list[MDL_TASKS]; /* into of */
    size_t n;
    unsigned tasks[SRV_TRIALS]; /* SRV_TASK_ bits that each model answers */
    Tscaf__V1__JobFigures of[MDL_TASKS];
    char errors[MDL_TASKS][sizeof(((struct ut_error *)0)->msg)];
};

/* out holds pointers into itself. What cannot be measured for want of pictures
 * that can be read is said in the figures, which leave broken ones out. Errors:
 * those of the files; UT_EFORMAT if the active file holds another version. */
UT_MUSTUSE enum ut_err srv_job_figures_take(const struct srv_trial *t,
                                            struct srv_job_figures *out,
                                            struct ut_error *e);

#endif
