#ifndef MODEL_DATA_DATASET_H
#define MODEL_DATA_DATASET_H

#include <stdint.h>

#include "base/error.h"

/* What a leaf is trained on: pictures of aligned faces with a label each.
 *
 * A manifest is text, a line a picture: "file<TAB>label" and, if there is a
 * third column, its group; the first line names them ("file", "label",
 * "group"). Files are below the manifest's folder. Labels are whole numbers
 * from 0 on, -1 for none. A folder is taken as one folder a class, in order of
 * their names. Lines keep their order, so that rows of other files can be
 * matched to them. */

#define MDL_DATASET_MAX 50000000

struct mdl_example {
    char *path; /* owned */
    int32_t label;
    int32_t group; /* a number for each different text; -1: none */
};

struct mdl_dataset {
    struct mdl_example *examples; /* owned */
    int n;
    int classes; /* highest label + 1 */
    int groups;
};

/* Errors: UT_ENOTFOUND, UT_EIO, UT_EFORMAT naming the line, UT_ENOMEM. */
UT_MUSTUSE enum ut_err
mdl_dataset_open(const char *path, struct mdl_dataset *out, struct ut_error *e);
void mdl_dataset_fini(struct mdl_dataset *d); /* zeroed memory is fine */

#endif
