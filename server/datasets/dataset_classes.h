#ifndef SERVER_DATASET_CLASSES_H
#define SERVER_DATASET_CLASSES_H

#include <stdbool.h>

#include "api/tscaf.pb-c.h"
#include "base/error.h"

/* The classes of a dataset: a name's label is its line in classes.txt, from 0
 * on; those of fatigue are fixed and have no file. Thread: the datasets'. */

#define SRV_MANIFEST_MAX_BYTES (256u * 1024 * 1024)
#define SRV_CLASS_MAX_NAME 100 /* bytes of a class's or group's name */

struct srv_class;

struct srv_classes {
    bool fixed;  /* alert and drowsy */
    char **name; /* owned, but the names are the table's; [n] */
    int n, cap;
    struct srv_class *table; /* owned; by name */
};

/* Those of a dataset's folder. Errors: UT_EIO, UT_ENOMEM; *c is to be fini'd in
 * any case. */
UT_MUSTUSE enum ut_err srv_classes_read(struct srv_classes *c,
                                        const char *folder,
                                        Tscaf__V1__DatasetKind kind,
                                        struct ut_error *e);
UT_MUSTUSE enum ut_err srv_classes_write(const struct srv_classes *c,
                                         const char *folder,
                                         struct ut_error *e);
/* Adds those from the first-th on to the file, which has the others: what a
 * crash cuts short is no class. */
UT_MUSTUSE enum ut_err srv_classes_append(const struct srv_classes *c,
                                          const char *folder, int first,
                                          struct ut_error *e);
void srv_classes_fini(struct srv_classes *c); /* zeroed memory is fine */

/* 1 to SRV_CLASS_MAX_NAME bytes without control characters. */
bool srv_classes_name_ok(const char *name);
/* The label of a class's name, made if it is new. Errors: UT_EINVAL, UT_EBUSY
 * past the limit of classes, UT_ENOMEM. */
UT_MUSTUSE enum ut_err srv_classes_label(struct srv_classes *c,
                                         const char *name, int *label,
                                         struct ut_error *e);

#endif
