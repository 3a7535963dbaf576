#ifndef SERVER_DATA_FOLDER_H
#define SERVER_DATA_FOLDER_H

#include "base/error.h"

/* DATA, the folder of one server: models, datasets, jobs, and the database if
 * that is SQLite. One server has it at a time, under a name that stays with it
 * and says to the others on one PostgreSQL whose a job or a dataset is. */

#define SRV_SERVER_NAME_LEN 64

struct srv_data_folder {
    int fd;                         /* of DATA/server, locked */
    char name[SRV_SERVER_NAME_LEN]; /* "host-a1b2c3" */
};

/* Takes DIR, made if it is missing, until the process ends or releases it.
 * Errors: UT_ESTATE if another server has it, UT_EIO. Thread: before others
 * exist. */
UT_MUSTUSE enum ut_err srv_data_folder_claim(const char *dir,
                                             struct srv_data_folder *d,
                                             struct ut_error *e);
void srv_data_folder_release(struct srv_data_folder *d);

#endif
