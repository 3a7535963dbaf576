/* Manifests, folders and records of pictures. */
#include "model/data/dataset.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "model/data/recordio.h"

struct reader {
    struct mdl_dataset *d;
    int cap, cap_groups;
    struct ut_error *e;
};

void mdl_dataset_fini(struct mdl_dataset *d)
{
    for (int i = 0; i < d->n; i++)
        if (!d->examples[i].recorded)
            free(d->examples[i].path);
    free(d->examples);
    for (int i = 0; i < d->groups; i++)
        free(d->group[i]);
    free(d->group);
    free(d->records);
    memset(d, 0, sizeof(*d));
}

static enum ut_err no_memory(struct reader *r)
{
    return ut_fail(r->e, UT_ENOMEM, "no memory for a dataset");
}

/* x->path is taken on success. */
static enum ut_err add(struct reader *r, const struct mdl_example *x)
{
    struct mdl_dataset *d = r->d;

    if (d->n == MDL_DATASET_MAX)
        return ut_fail(r->e, UT_EBUSY, "more than %d pictures",
                       MDL_DATASET_MAX);
    if (d->n == r->cap) {
        int cap = r->cap ? 2 * r->cap : 1024;
        struct mdl_example *more =
            realloc(d->examples, (size_t)cap * sizeof(*more));

        if (!more)
            return no_memory(r);
        d->examples = more;
        r->cap = cap;
    }
    d->examples[d->n] = *x;
    d->examples[d->n].line = d->n;
    d->n++;
    if (x->label >= d->classes)
        d->classes = x->label + 1;
    return UT_OK;
}

static enum ut_err add_file(struct reader *r, const char *folder,
                            const char *file, int32_t label, int32_t group)
{
    struct mdl_example x = {.label = label, .group = group};
    enum ut_err rc;

    x.path = malloc(strlen(folder) + strlen(file) + 2);
    if (!x.path)
        return no_memory(r);
    sprintf(x.path, "%s/%s", folder, file);
    rc = add(r, &x);
    if (rc)
        free(x.path);
    return rc;
}

/* The number of a group's name; -1 without memory. Neighbours in a manifest
 * tend to share it, so the search starts at the end. */
static int32_t group_of(struct reader *r, const char *name)
{
    struct mdl_dataset *d = r->d;

    for (int i = d->groups - 1; i >= 0; i--)
        if (!strcmp(d->group[i], name))
            return i;
    if (d->groups == r->cap_groups) {
        int cap = r->cap_groups ? 2 * r->cap_groups : 64;
        char **more = realloc(d->group, (size_t)cap * sizeof(*more));

        if (!more)
            return -1;
        d->group = more;
        r->cap_groups = cap;
    }
    d->group[d->groups] = strdup(name);
    return d->group[d->groups] ? d->groups++ : -1;
}

static enum ut_err read_line(struct reader *r, const char *folder, char *line,
                             const char *path, int at)
{
    char *file = strsep(&line, "\t"), *label = strsep(&line, "\t");
    char *group = strsep(&line, "\t"), *end;
    int32_t g = -1;
    long n;

    if (!*file || !label)
        return ut_fail(r->e, UT_EFORMAT, "%.150s:%d: is not file<TAB>label",
                       path, at);
    n = strtol(label, &end, 10);
    if (end == label || *end || n < -1 || n > 100000000)
        return ut_fail(r->e, UT_EFORMAT,
                       "%.150s:%d: label \"%.40s\" is no number from -1 on",
                       path, at, label);
    if (group && *group) {
        g = group_of(r, group);
        if (g < 0)
            return no_memory(r);
    }
    return add_file(r, folder, file, (int32_t)n, g);
}

static enum ut_err read_manifest(struct reader *r, const char *path)
{
    char *line = NULL, *folder = strdup(path), *slash;
    enum ut_err rc = UT_OK;
    FILE *f = fopen(path, "r");
    size_t size = 0;
    int at = 0;

    if (!f || !folder) {
        rc = ut_fail(r->e, UT_ENOTFOUND, "%.150s: %s", path, strerror(errno));
        goto out;
    }
    slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
    while (!rc && getline(&line, &size, f) > 0) {
        line[strcspn(line, "\r\n")] = '\0';
        at++;
        if (at == 1 && strncmp(line, "file\tlabel", 10))
            rc = ut_fail(r->e, UT_EFORMAT,
                         "%.150s:1: does not start with file<TAB>label", path);
        else if (at > 1 && *line)
            rc = read_line(r, slash ? folder : ".", line, path, at);
    }
    if (!rc && ferror(f))
        rc = ut_fail(r->e, UT_EIO, "%.150s: cannot be read", path);
out:
    if (f)
        fclose(f);
    free(folder);
    free(line);
    return rc;
}

static int visible(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

static bool is_picture(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot && (!strcasecmp(dot, ".jpg") || !strcasecmp(dot, ".jpeg") ||
                   !strcasecmp(dot, ".png"));
}

/* Calls visit for every visible entry of a folder, by name. */
static enum ut_err each(struct reader *r, const char *folder,
                        enum ut_err (*visit)(struct reader *r,
                                             const char *folder,
                                             const char *name, int32_t *label),
                        int32_t *label)
{
    struct dirent **entries;
    enum ut_err rc = UT_OK;
    int n = scandir(folder, &entries, visible, alphasort);

    if (n < 0)
        return ut_fail(r->e, UT_EIO, "%.150s: %s", folder, strerror(errno));
    for (int i = 0; i < n; i++) {
        if (!rc)
            rc = visit(r, folder, entries[i]->d_name, label);
        free(entries[i]);
    }
    free(entries);
    return rc;
}

static enum ut_err visit_file(struct reader *r, const char *folder,
                              const char *name, int32_t *label)
{
    return is_picture(name) ? add_file(r, folder, name, *label, -1) : UT_OK;
}

static enum ut_err visit_class(struct reader *r, const char *folder,
                               const char *name, int32_t *label)
{
    char path[4096];
    struct stat st;
    enum ut_err rc;

    if (snprintf(path, sizeof(path), "%s/%s", folder, name) >=
            (int)sizeof(path) ||
        stat(path, &st) || !S_ISDIR(st.st_mode))
        return UT_OK;
    rc = each(r, path, visit_file, label);
    ++*label;
    return rc;
}

/* The records that hold a picture: the others, at a file's beginning and end,
 * say which identities there are. */
static enum ut_err read_records(struct reader *r, const char *path)
{
    FILE *f = fopen(path, "rb");
    struct mdl_records records;
    struct mdl_record one;
    bool end = false;
    enum ut_err rc;

    if (!f)
        return ut_fail(r->e, UT_EIO, "%.150s: %s", path, strerror(errno));
    r->d->records = strdup(path);
    rc = r->d->records ? mdl_records_open(f, path, &records, r->e)
                       : no_memory(r);
    while (!rc) {
        rc = mdl_records_next(&records, &one, &end, r->e);
        if (end)
            break;
        if (!rc && one.len > 0)
            rc = add(r, &(struct mdl_example){.path = r->d->records,
                                              .recorded = true,
                                              .at = one.at,
                                              .label = one.label,
                                              .group = -1});
    }
    fclose(f);
    return rc;
}

static bool is_records(const char *path)
{
    const char *dot = strrchr(path, '.');

    return dot && !strcmp(dot, ".rec");
}

enum ut_err mdl_dataset_open(const char *path, struct mdl_dataset *out,
                             struct ut_error *e)
{
    struct reader r = {.d = out, .e = e};
    struct stat st;
    int32_t label = 0;
    enum ut_err rc;

    memset(out, 0, sizeof(*out));
    if (stat(path, &st))
        return ut_fail(e, UT_ENOTFOUND, "%.150s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        rc = each(&r, path, visit_class, &label);
    else
        rc =
            is_records(path) ? read_records(&r, path) : read_manifest(&r, path);
    if (!rc && !out->n)
        rc = ut_fail(e, UT_EFORMAT, "%.150s: has no pictures", path);
    if (rc)
        mdl_dataset_fini(out);
    return rc;
}

enum ut_err mdl_dataset_picture(const struct mdl_dataset *d, int i,
                                int max_side_px, struct mdl_image *out,
                                struct ut_error *e)
{
    const struct mdl_example *x = &d->examples[i];
    struct mdl_records records;
    struct ut_error why;
    struct ut_buf bytes;
    enum ut_err rc;
    FILE *f;

    if (!x->recorded)
        return mdl_image_open(x->path, max_side_px, out, e);
    *out = (struct mdl_image){0};
    f = fopen(x->path, "rb");
    if (!f)
        return ut_fail(e, UT_EIO, "%.150s: %s", x->path, strerror(errno));
    ut_buf_init(&bytes, MDL_IMAGE_MAX_BYTES);
    rc = mdl_records_open(f, x->path, &records, e);
    if (!rc)
        rc = mdl_records_picture(&records, x->at, &bytes, e);
    if (!rc) {
        rc = mdl_image_decode(bytes.data, bytes.len, max_side_px, out, &why);
        if (rc)
            ut_fail(e, rc, "%.90s: the record at %lld: %.90s", x->path,
                    (long long)x->at, why.msg);
    }
    ut_buf_fini(&bytes);
    fclose(f);
    return rc;
}

enum ut_err mdl_dataset_check_binary(const struct mdl_dataset *d,
                                     struct ut_error *e)
{
    for (int i = 0; i < d->n; i++) {
        const struct mdl_example *x = &d->examples[i];

        if (x->label != 0 && x->label != 1)
            return ut_fail(e, UT_EFORMAT,
                           "%.150s: its label is %d, not 0 (alert) or 1 "
                           "(drowsy)",
                           x->path, (int)x->label);
    }
    return UT_OK;
}

int mdl_dataset_drop_broken(struct mdl_dataset *d, int max_side_px)
{
    int n = d->n, kept = 0;

    for (int i = 0; i < n; i++) {
        struct mdl_image im;
        struct ut_error e;

        if (!mdl_dataset_picture(d, i, max_side_px, &im, &e)) {
            mdl_image_fini(&im);
            d->examples[kept++] = d->examples[i];
        } else if (!d->examples[i].recorded) {
            free(d->examples[i].path);
        }
    }
    d->n = kept;
    return n - kept;
}

/* ---- splits ---- */

/* What an example is drawn with: the same number for all that stay together. */
static uint64_t lot(const struct mdl_example *x, enum mdl_split by,
                    uint64_t seed)
{
    int64_t key = by == MDL_SPLIT_LABEL ? x->label : x->group;
    uint64_t z = seed * 0x9e3779b97f4a7c15u;

    /* Those without stay alone: negative keys, one for each line. */
    z += (uint64_t)(key >= 0 ? key : -1 - (int64_t)x->line);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Groups keep their numbers and names on both sides. */
static bool copy_groups(const struct mdl_dataset *d, struct mdl_dataset *held)
{
    held->group = calloc((size_t)d->groups + 1, sizeof(*held->group));
    if (!held->group)
        return false;
    for (; held->groups < d->groups; held->groups++) {
        held->group[held->groups] = strdup(d->group[held->groups]);
        if (!held->group[held->groups])
            return false;
    }
    return true;
}

/* Of n sorted lots those that are held out, moved to the front: from the lowest
 * on until there are want pictures, stepping over what would make them more
 * than twice as many, or all; the smallest if every one would. Returns how
 * many; 0 where all pictures have one lot. */
static int choose_lots(uint64_t *lots, int n, int want)
{
    int chosen = 0, held = 0, smallest = n;
    uint64_t least = 0;

    for (int i = 0, end; i < n; i = end) {
        uint64_t own = lots[i];
        int size;

        for (end = i; end < n && lots[end] == own; end++)
            continue;
        size = end - i;
        if (size < smallest) {
            smallest = size;
            least = own;
        }
        if (held < want && held + size <= 2 * want && held + size < n) {
            lots[chosen++] = own;
            held += size;
        }
    }
    if (!chosen && smallest < n)
        lots[chosen++] = least;
    return chosen;
}

enum ut_err mdl_dataset_split(struct mdl_dataset *d, enum mdl_split by,
                              double share, uint64_t seed,
                              struct mdl_dataset *held, struct ut_error *e)
{
    int want = (int)(share * d->n + 0.5), kept = 0, chosen;
    uint64_t *lots = malloc((size_t)d->n * sizeof(*lots));

    memset(held, 0, sizeof(*held));
    held->examples = malloc((size_t)d->n * sizeof(*held->examples));
    if (!lots || !held->examples || !copy_groups(d, held)) {
        free(lots);
        mdl_dataset_fini(held);
        return ut_fail(e, UT_ENOMEM, "no memory for a split");
    }
    for (int i = 0; i < d->n; i++)
        lots[i] = lot(&d->examples[i], by, seed);
    qsort(lots, (size_t)d->n, sizeof(*lots), by_number);
    chosen = choose_lots(lots, d->n, want < 1 ? 1 : want);
    if (!chosen) {
        free(lots);
        mdl_dataset_fini(held);
        return ut_fail(e, UT_EINVAL,
                       "%d pictures cannot be split: all are of one %s", d->n,
                       by == MDL_SPLIT_LABEL ? "label" : "group");
    }
    for (int i = 0; i < d->n; i++) {
        uint64_t own = lot(&d->examples[i], by, seed);

        if (bsearch(&own, lots, (size_t)chosen, sizeof(*lots), by_number))
            held->examples[held->n++] = d->examples[i];
        else
            d->examples[kept++] = d->examples[i];
    }
    d->n = kept;
    held->classes = d->classes;
    free(lots);
    return UT_OK;
}
