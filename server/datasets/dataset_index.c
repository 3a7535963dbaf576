/* Counts of manifests, those of the last few datasets that were added to. */
#include "server/datasets/dataset_index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Running out of memory is an error, not an exit. */
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(item) (item)->lost = true
#include <uthash.h>

#include "server/datasets/dataset_record.h"

struct srv_seen {
    UT_hash_handle hh;
    bool lost;  /* not in the table: no memory */
    char key[]; /* "l" and a label, or "g" and a group */
};

static void free_index(struct srv_dataset_index *x)
{
    struct srv_seen *s, *next;

    if (!x)
        return;
    HASH_ITER(hh, x->seen, s, next)
    {
        HASH_DEL(x->seen, s);
        free(s);
    }
    srv_classes_fini(&x->classes);
    free(x);
}

/* Counts a key that was not seen before. */
static enum ut_err see(struct srv_dataset_index *x, char kind, const char *text,
                       uint32_t *count, struct ut_error *e)
{
    size_t len = strlen(text);
    struct srv_seen *s = calloc(1, sizeof(*s) + len + 2), *known;

    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for a dataset's counts");
    s->key[0] = kind;
    memcpy(s->key + 1, text, len);
    HASH_FIND_STR(x->seen, s->key, known);
    if (known) {
        free(s);
        return UT_OK;
    }
    HASH_ADD_STR(x->seen, key, s);
    if (s->lost) {
        free(s);
        return ut_fail(e, UT_ENOMEM, "no memory for a dataset's counts");
    }
    ++*count;
    return UT_OK;
}

enum ut_err srv_dataset_index_add(struct srv_dataset_index *x, int label,
                                  const char *group, struct ut_error *e)
{
    char number[16];
    enum ut_err rc = UT_OK;

    snprintf(number, sizeof(number), "%d", label);
    if (label >= 0)
        rc = see(x, 'l', number, &x->n_classes, e);
    if (!rc && *group)
        rc = see(x, 'g', group, &x->n_groups, e);
    if (!rc)
        x->pictures++;
    return rc;
}

static enum ut_err count(struct srv_dataset_index *x, const char *path,
                         struct ut_error *e)
{
    struct mdl_dataset set;
    enum ut_err rc = mdl_dataset_open(path, &set, e);

    if (rc)
        return rc;
    for (int i = 0; i < set.n && !rc; i++) {
        const struct mdl_example *of = &set.examples[i];

        rc = srv_dataset_index_add(
            x, of->label, of->group >= 0 ? set.group[of->group] : "", e);
    }
    mdl_dataset_fini(&set);
    return rc;
}

/* Counts the manifest, rid of a line that a crash cut short. */
static enum ut_err read_index(const Tscaf__V1__DatasetRecord *x,
                              const char *folder,
                              struct srv_dataset_index **out,
                              struct ut_error *e)
{
    struct srv_dataset_index *i = calloc(1, sizeof(*i));
    char path[PATH_MAX];
    enum ut_err rc;

    if (!i)
        return ut_fail(e, UT_ENOMEM, "no memory for a dataset's counts");
    snprintf(i->id, sizeof(i->id), "%s", x->id);
    snprintf(path, sizeof(path), "%.4000s/manifest.tsv", folder);
    rc = srv_classes_read(&i->classes, folder, x->kind, e);
    if (!rc)
        rc = srv_dataset_append(folder, "manifest.tsv", "", &i->size, e);
    if (!rc && i->size > (off_t)strlen(SRV_MANIFEST_HEAD))
        rc = count(i, path, e);
    if (rc)
        free_index(i);
    else
        *out = i;
    return rc;
}

/* Takes the last place; the oldest goes. */
static void keep(struct srv_datasets *d, struct srv_dataset_index *x)
{
    free_index(d->indexes[0]);
    memmove(&d->indexes[0], &d->indexes[1],
            (SRV_DATASET_INDEXES - 1) * sizeof(d->indexes[0]));
    d->indexes[SRV_DATASET_INDEXES - 1] = x;
}

/* Takes it out of where it is kept; NULL: it is not. The gap goes to where the
 * oldest is, so that keep() forgets no other for it. */
static struct srv_dataset_index *take(struct srv_datasets *d, const char *id)
{
    for (int i = 0; i < SRV_DATASET_INDEXES; i++)
        if (d->indexes[i] && !strcmp(d->indexes[i]->id, id)) {
            struct srv_dataset_index *x = d->indexes[i];

            memmove(&d->indexes[1], &d->indexes[0],
                    (size_t)i * sizeof(d->indexes[0]));
            d->indexes[0] = NULL;
            return x;
        }
    return NULL;
}

void srv_dataset_index_drop(struct srv_datasets *d, const char *id)
{
    free_index(take(d, id));
}

void srv_datasets_fini(struct srv_datasets *d)
{
    for (int i = 0; i < SRV_DATASET_INDEXES; i++) {
        free_index(d->indexes[i]);
        d->indexes[i] = NULL;
    }
}

enum ut_err srv_dataset_index(struct srv_datasets *d,
                              const Tscaf__V1__DatasetRecord *x,
                              struct srv_dataset_index **out,
                              struct ut_error *e)
{
    char folder[PATH_MAX], path[PATH_MAX];
    struct srv_dataset_index *i = take(d, x->id);
    struct stat st;
    enum ut_err rc = UT_OK;

    *out = NULL;
    srv_dataset_folder(d, x->id, folder);
    snprintf(path, sizeof(path), "%.4000s/manifest.tsv", folder);
    if (stat(path, &st)) {
        free_index(i);
        return srv_dataset_no_file(path, e);
    }
    if (!i || i->size != st.st_size) {
        free_index(i);
        rc = read_index(x, folder, &i, e);
    }
    if (rc)
        return rc;
    keep(d, i);
    *out = i;
    return UT_OK;
}
