/* Names of classes and their labels, in classes.txt of a dataset. */
#include "server/datasets/dataset_classes.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Running out of memory is an error, not an exit. */
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(item) (item)->lost = true
#include <uthash.h>

#include "base/buf.h"
#include "base/file.h"
#include "server/datasets/dataset_record.h"

#define MAX_CLASSES 1000000

struct srv_class {
    UT_hash_handle hh;
    int label;
    bool lost;   /* not in the table: no memory */
    char name[]; /* the key */
};

static int find_class(const struct srv_classes *c, const char *name)
{
    struct srv_class *x;

    HASH_FIND_STR(c->table, name, x);
    return x ? x->label : -1;
}

static enum ut_err add_name(struct srv_classes *c, const char *name,
                            struct ut_error *e)
{
    struct srv_class *x;

    if (c->n == MAX_CLASSES)
        return ut_fail(e, UT_EBUSY, "over %d classes, the limit", MAX_CLASSES);
    if (c->n == c->cap) {
        int cap = c->cap ? 2 * c->cap : 64;
        char **more = realloc(c->name, (size_t)cap * sizeof(char *));

        if (!more)
            return ut_fail(e, UT_ENOMEM, "no memory for classes");
        c->name = more;
        c->cap = cap;
    }
    x = calloc(1, sizeof(*x) + strlen(name) + 1);
    if (!x)
        return ut_fail(e, UT_ENOMEM, "no memory for classes");
    x->label = c->n;
    strcpy(x->name, name);
    HASH_ADD_STR(c->table, name, x);
    if (x->lost) {
        free(x);
        return ut_fail(e, UT_ENOMEM, "no memory for classes");
    }
    c->name[c->n++] = x->name;
    return UT_OK;
}

void srv_classes_fini(struct srv_classes *c)
{
    struct srv_class *x, *next;

    HASH_ITER(hh, c->table, x, next)
    {
        HASH_DEL(c->table, x);
        free(x);
    }
    free(c->name);
}

enum ut_err srv_classes_read(struct srv_classes *c, const char *folder,
                             Tscaf__V1__DatasetKind kind, struct ut_error *e)
{
    char path[PATH_MAX], *line, *rest;
    struct ut_buf text;
    enum ut_err rc = UT_OK;

    memset(c, 0, sizeof(*c));
    c->fixed = kind == TSCAF__V1__DATASET_KIND__DATASET_KIND_FATIGUE;
    snprintf(path, sizeof(path), "%.4000s/classes.txt", folder);
    if (access(path, F_OK))
        return UT_OK;
    ut_buf_init(&text, SRV_MANIFEST_MAX_BYTES);
    rc = ut_buf_add_file(&text, path, e);
    rest = text.data;
    /* Without an end it is half a name. */
    while (!rc && rest && strchr(rest, '\n') && (line = strsep(&rest, "\n")))
        if (*line)
            rc = add_name(c, line, e);
    ut_buf_fini(&text);
    return rc;
}

enum ut_err srv_classes_write(const struct srv_classes *c, const char *folder,
                              struct ut_error *e)
{
    char path[PATH_MAX];
    struct ut_buf b;
    enum ut_err rc = UT_OK;

    if (c->fixed)
        return UT_OK;
    snprintf(path, sizeof(path), "%.4000s/classes.txt", folder);
    ut_buf_init(&b, SRV_MANIFEST_MAX_BYTES);
    for (int i = 0; i < c->n && !rc; i++)
        rc = ut_buf_addf(&b, e, "%s\n", c->name[i]);
    if (!rc)
        rc = ut_file_write(path, b.data, b.len, e);
    ut_buf_fini(&b);
    return rc;
}

enum ut_err srv_classes_append(const struct srv_classes *c, const char *folder,
                               int first, struct ut_error *e)
{
    struct ut_buf b;
    enum ut_err rc = UT_OK;

    if (c->fixed || first == c->n)
        return UT_OK;
    ut_buf_init(&b, SRV_MANIFEST_MAX_BYTES);
    for (int i = first; i < c->n && !rc; i++)
        rc = ut_buf_addf(&b, e, "%s\n", c->name[i]);
    if (!rc)
        rc = srv_dataset_append(folder, "classes.txt", b.data, NULL, e);
    ut_buf_fini(&b);
    return rc;
}

bool srv_classes_name_ok(const char *s)
{
    if (!*s || strlen(s) > SRV_CLASS_MAX_NAME)
        return false;
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 127)
            return false;
    return true;
}

enum ut_err srv_classes_label(struct srv_classes *c, const char *name,
                              int *label, struct ut_error *e)
{
    if (!srv_classes_name_ok(name))
        return ut_fail(e, UT_EINVAL,
                       "label: \"%.60s\" is not 1 to %d printable bytes", name,
                       SRV_CLASS_MAX_NAME);
    if (c->fixed) {
        *label = !strcmp(name, "alert") || !strcmp(name, "0")    ? 0
                 : !strcmp(name, "drowsy") || !strcmp(name, "1") ? 1
                                                                 : -1;
        return *label >= 0
                   ? UT_OK
                   : ut_fail(e, UT_EINVAL,
                             "label: \"%.60s\" is not alert (0) or drowsy (1)",
                             name);
    }
    *label = find_class(c, name);
    if (*label >= 0)
        return UT_OK;
    *label = c->n;
    return add_name(c, name, e);
}
