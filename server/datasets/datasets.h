#ifndef SERVER_DATASETS_H
#define SERVER_DATASETS_H

#include "api/tscaf.pb-c.h"
#include "server/config.h"
#include "server/store/store.h"

/* Datasets: records in the store, pictures in DATA/datasets/ID. There
 * manifest.tsv names every picture with its label and group, classes.txt the
 * classes in the order of their labels; parts/N holds what one archive brought,
 * samples what came one by one. A manifest changes by a rename, or by a line at
 * its end, so that a crash leaves what was acknowledged. Blocks: on the
 * datasets' thread, which alone uses these. */

#define SRV_DATASET_INDEXES 8 /* counts that are kept, for samples */

struct srv_dataset_index;

struct srv_datasets {
    const struct srv_config *config;
    const char *server;      /* this one's name */
    struct srv_store *store; /* a handle of this thread's own */
    /* Owned; NULL where there is none, the last the latest: dataset_index.h. */
    struct srv_dataset_index *indexes[SRV_DATASET_INDEXES];
};

/* Frees what is kept in memory; zeroed memory is fine. */
void srv_datasets_fini(struct srv_datasets *d);

/* Each gives the record as it is then, to be freed as a message. Where several
 * servers share the store, one whose pictures another has can only be read:
 * UT_ESTATE, which names that one. Errors: UT_EINVAL, UT_ENOTFOUND, UT_EFORMAT,
 * UT_EBUSY past a limit, UT_ESTATE, UT_EIO.
 */
UT_MUSTUSE enum ut_err
srv_dataset_create(struct srv_datasets *d, const char *actor,
                   const Tscaf__V1__CreateDatasetRequest *r,
                   Tscaf__V1__DatasetRecord **out, struct ut_error *e);
UT_MUSTUSE enum ut_err
srv_dataset_upload(struct srv_datasets *d, const char *actor,
                   const Tscaf__V1__UploadDatasetRequest *r,
                   Tscaf__V1__DatasetRecord **out, struct ut_error *e);
/* png: the aligned face. */
UT_MUSTUSE enum ut_err
srv_dataset_add_sample(struct srv_datasets *d, const char *actor,
                       const Tscaf__V1__AddSampleRequest *r, const uint8_t *png,
                       size_t len, char id[SRV_ID_LEN], uint32_t *label,
                       Tscaf__V1__DatasetRecord **out, struct ut_error *e);
UT_MUSTUSE enum ut_err srv_dataset_get(struct srv_datasets *d, const char *id,
                                       Tscaf__V1__DatasetRecord **out,
                                       struct ut_error *e);
/* At most limit pictures, evenly spread over the dataset. */
UT_MUSTUSE enum ut_err srv_dataset_samples(struct srv_datasets *d,
                                           const char *id, uint32_t limit,
                                           Tscaf__V1__ListSamplesResponse **out,
                                           struct ut_error *e);
/* Refuses one that a job which has not ended was started with. */
UT_MUSTUSE enum ut_err srv_dataset_delete(struct srv_datasets *d,
                                          const char *actor, const char *id,
                                          struct ut_error *e);

/* Ends deletions that an earlier process did not: at the start, before calls.
 */
void srv_datasets_sweep(struct srv_datasets *d);

/* What a job trains on: a manifest or folder that does not change any more,
 * into path [size]. kind is checked. */
UT_MUSTUSE enum ut_err srv_dataset_freeze(struct srv_datasets *d,
                                          const char *id,
                                          Tscaf__V1__DatasetKind kind,
                                          const char *job, char *path,
                                          size_t size, struct ut_error *e);

/* Removes what was frozen for that job; another path stays. Thread: any. */
void srv_dataset_thaw(const char *path, const char *job);

#endif
