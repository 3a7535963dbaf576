#ifndef SERVER_DATASET_RECORD_H
#define SERVER_DATASET_RECORD_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "model/data/dataset.h"
#include "server/datasets/archive.h"
#include "server/datasets/datasets.h"

/* Private to the files of datasets: a dataset's folder and its record. Thread:
 * the datasets'. */

#define SRV_MANIFEST_HEAD "file\tlabel\tgroup\n"

/* DATA/datasets/ID. */
void srv_dataset_folder(const struct srv_datasets *d, const char *id,
                        char out[PATH_MAX]);
/* folder/name, whole or not at all. */
UT_MUSTUSE enum ut_err srv_dataset_write(const char *folder, const char *name,
                                         const void *data, size_t len,
                                         struct ut_error *e);
/* Adds whole lines to the end of folder/name, made if it is not there, after
 * its last whole line; *size (may be NULL) is what it has then. Durable. */
UT_MUSTUSE enum ut_err srv_dataset_append(const char *folder, const char *name,
                                          const char *lines, off_t *size,
                                          struct ut_error *e);
/* UT_EIO with errno's text. */
UT_MUSTUSE enum ut_err srv_dataset_no_file(const char *path,
                                           struct ut_error *e);
/* Whether a file is a picture that training can read; if not, why. */
bool srv_dataset_decodes(const char *path, struct ut_error *e);

/* srv_dataset_get() of one whose pictures are here: UT_ESTATE for another
 * server's. */
UT_MUSTUSE enum ut_err srv_dataset_get_own(struct srv_datasets *d,
                                           const char *id,
                                           Tscaf__V1__DatasetRecord **out,
                                           struct ut_error *e);
/* Stores a record, as changed now. */
UT_MUSTUSE enum ut_err srv_dataset_put(struct srv_datasets *d,
                                       const char *actor, const char *action,
                                       Tscaf__V1__DatasetRecord *x,
                                       struct ut_error *e);
/* Adds what was left out to the record, which keeps the last ones. */
UT_MUSTUSE enum ut_err srv_dataset_tell(Tscaf__V1__DatasetRecord *x,
                                        const struct srv_problems *p,
                                        struct ut_error *e);
/* Pictures, classes and groups, as training will see them. */
UT_MUSTUSE enum ut_err srv_dataset_count(Tscaf__V1__DatasetRecord *x,
                                         const struct mdl_dataset *set,
                                         struct ut_error *e);

#endif
