/* Jobs as Prometheus's series. */
#include "server/jobs/jobs.h"

#define N_STATES 7
#define N_SERIES 5

static enum ut_err add_states(const struct srv_jobs *j, struct ut_buf *out,
                              struct ut_error *e)
{
    Tscaf__V1__JobRecord **list = srv_jobs_list(j);
    int n[N_STATES] = {0};
    enum ut_err rc = ut_buf_addf(out, e,
                                 "# HELP tscaf_jobs Training jobs, by state.\n"
                                 "# TYPE tscaf_jobs gauge\n");

    for (size_t i = 0; i < srv_jobs_count(j); i++)
        n[list[i]->state]++;
    for (int s = 1; s < N_STATES && !rc; s++)
        rc = ut_buf_addf(out, e, "tscaf_jobs{state=\"%s\"} %d\n",
                         srv_job_state_name((Tscaf__V1__JobState)s), n[s]);
    return rc;
}

enum ut_err srv_jobs_metrics(const struct srv_jobs *j, struct ut_buf *out,
                             struct ut_error *e)
{
    static const char *const names[N_SERIES][2] = {
        {"step", "Updates that a running job has done."},
        {"steps", "Updates that a running job will do."},
        {"images_per_second", "Pictures that a running job trains on."},
        {"fatigue_loss", "Moving mean of a running job's loss."},
        {"recognition_loss", "Moving mean of a running job's loss."},
    };
    Tscaf__V1__JobRecord **list = srv_jobs_list(j);
    enum ut_err rc = add_states(j, out, e);

    for (int k = 0; k < N_SERIES && !rc; k++) {
        rc = ut_buf_addf(out, e,
                         "# HELP tscaf_job_%s %s\n# TYPE tscaf_job_%s gauge\n",
                         names[k][0], names[k][1], names[k][0]);
        for (size_t i = 0; i < srv_jobs_count(j) && !rc; i++) {
            const Tscaf__V1__JobProgress *p = list[i]->progress;
            double v[N_SERIES];

            if (list[i]->state != TSCAF__V1__JOB_STATE__JOB_STATE_RUNNING || !p)
                continue;
            v[0] = p->step;
            v[1] = p->steps;
            v[2] = (double)p->images_per_second;
            v[3] = (double)p->fatigue_loss;
            v[4] = (double)p->recognition_loss;
            rc = ut_buf_addf(out, e, "tscaf_job_%s{job=\"%s\"} %g\n",
                             names[k][0], list[i]->id, v[k]);
        }
    }
    return rc;
}
