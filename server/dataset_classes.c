/* Names of classes and their labels, in classes.txt of a dataset. */
#include "server/dataset_classes.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"

#define MAX_CLASSES 1000000

static int find_class(const struct srv_classes *c, const char *name)
{
    for (int i = c->n - 1; i >= 0; i--)
        if (!strcmp(c->name[i], name))
            return i;
    return -1;
}

static enum ut_err add_name(struct srv_classes *c, const char *name,
                            struct ut_error *e)
{
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
    c->name[c->n] = strdup(name);
    if (!c->name[c->n])
        return ut_fail(e, UT_ENOMEM, "no memory for classes");
    c->n++;
    return UT_OK;
}

void srv_classes_fini(struct srv_classes *c)
{
    for (int i = 0; i < c->n; i++)
        free(c->name[i]);
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
    while (!rc && rest && (line = strsep(&rest, "\n")))
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
