#ifndef MODEL_DATA_DATASET_H
#define MODEL_DATA_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "model/vision/image.h"

/* What a leaf is trained on: pictures of aligned faces with a label each.
 *
 * A manifest is text, a line a picture: "file<TAB>label" and, if there is a
 * third column, its group; the first line names them ("file", "label",
 * "group"). Files are below the manifest's folder. Labels are whole numbers
 * from 0 on, -1 for none. A folder is taken as one folder a class, in order of
 * their names. A file *.rec is InsightFace's RecordIO (model/data/recordio.h).
 * Lines keep their order, so that rows of other files can be matched to
 * them. */

#define MDL_DATASET_MAX 50000000

struct mdl_example {
    char *path;    /* owned, unless it is recorded */
    bool recorded; /* a record in path, a RecordIO file, which begins at: */
    int64_t at;
    int32_t label;
    int32_t group; /* a number for each different text; -1: none */
    int32_t line;  /* its place in what was opened, from 0 */
};

struct mdl_dataset {
    struct mdl_example *examples; /* owned */
    int n;
    int classes;  /* highest label + 1 */
    char **group; /* owned; [groups], their texts */
    int groups;
    char *records; /* owned; the RecordIO file, or NULL */
};

/* Errors: UT_ENOTFOUND, UT_EIO, UT_EFORMAT naming the line, UT_ENOMEM. */
UT_MUSTUSE enum ut_err
mdl_dataset_open(const char *path, struct mdl_dataset *out, struct ut_error *e);
void mdl_dataset_fini(struct mdl_dataset *d); /* zeroed memory is fine */

/* Decodes example i, scaled down as mdl_image_open does it. Errors: its, naming
 * the file. Thread: any. */
UT_MUSTUSE enum ut_err mdl_dataset_picture(const struct mdl_dataset *d, int i,
                                           int max_side_px,
                                           struct mdl_image *out,
                                           struct ut_error *e);

/* Whether every label is 0 or 1, as a binary leaf's data have to be. Errors:
 * UT_EFORMAT naming the picture and its label. */
UT_MUSTUSE enum ut_err mdl_dataset_check_binary(const struct mdl_dataset *d,
                                                struct ut_error *e);

/* Takes out the examples whose pictures cannot be decoded; how many they were.
 */
int mdl_dataset_drop_broken(struct mdl_dataset *d, int max_side_px);

/* What must not lie on both sides of a split. */
enum mdl_split {
    MDL_SPLIT_GROUP, /* groups; a picture without one is its own */
    MDL_SPLIT_LABEL, /* labels: identities */
};

/* Moves a share of d's pictures (0 to 1), whole groups or labels drawn by
 * seed, into *held, at least one picture and leaving at least one; more than
 * twice the share only where every group is larger. d outlives it. Errors:
 * UT_EINVAL where that cannot be; UT_ENOMEM. */
UT_MUSTUSE enum ut_err
mdl_dataset_split(struct mdl_dataset *d, enum mdl_split by, double share,
                  uint64_t seed, struct mdl_dataset *held, struct ut_error *e);

#endif
