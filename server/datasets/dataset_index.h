#ifndef SERVER_DATASET_INDEX_H
#define SERVER_DATASET_INDEX_H

#include <sys/types.h>

#include "server/datasets/dataset_classes.h"
#include "server/datasets/datasets.h"

/* What is counted of a dataset's own manifest, kept in memory from one sample
 * to the next: a sample then costs what it is, not the reading of all before
 * it. Thread: the datasets'. */

struct srv_seen;

struct srv_dataset_index {
    char id[SRV_ID_LEN];
    off_t size; /* bytes of the manifest that were counted */
    uint32_t pictures, n_classes, n_groups;
    struct srv_seen *seen;      /* owned; labels and groups */
    struct srv_classes classes; /* as in its folder */
};

/* That of the manifest as it is: the one that was kept, else read. It stays
 * d's. Errors: those of the files, UT_ENOMEM. */
UT_MUSTUSE enum ut_err srv_dataset_index(struct srv_datasets *d,
                                         const Tscaf__V1__DatasetRecord *x,
                                         struct srv_dataset_index **out,
                                         struct ut_error *e);

/* Counts one picture more; label -1 and group "": it has none. Errors:
 * UT_ENOMEM. */
UT_MUSTUSE enum ut_err srv_dataset_index_add(struct srv_dataset_index *x,
                                             int label, const char *group,
                                             struct ut_error *e);

/* Forgets that of a dataset, whose manifest has changed or is gone, or where
 * something failed half way. */
void srv_dataset_index_drop(struct srv_datasets *d, const char *id);

#endif
