/* The journal of tscaf enroll. */
#include "client/tool/journal.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct journal_entry *)a)->path,
                  ((const struct journal_entry *)b)->path);
}

static int by_path_and_line(const void *a, const void *b)
{
    int order = by_path(a, b);

    return order ? order
                 : ((const struct journal_entry *)a)->line -
                       ((const struct journal_entry *)b)->line;
}

/* Sorted by path; of a path that was enrolled again, the last line counts. */
static void sort(struct journal *j)
{
    int n = 0;

    if (!j->n)
        return;
    qsort(j->entries, (size_t)j->n, sizeof(*j->entries), by_path_and_line);
    for (int i = 0; i < j->n; i++) {
        struct journal_entry *x = &j->entries[i];

        if (i + 1 < j->n && !by_path(x, x + 1))
            free(x->path);
        else
            j->entries[n++] = *x;
    }
    j->n = n;
}

/* Cuts a line at its tabs; by these alone, as a path may begin with any other
 * white space. NULL if it is none of ours, else its path. */
static const char *read_line(char *line, struct journal_entry *x)
{
    char *identity = strchr(line, '\t');
    char *path = identity ? strchr(identity + 1, '\t') : NULL;

    if (!path)
        return NULL;
    *identity++ = *path++ = '\0';
    if (!*line || !*identity || !*path || strlen(line) >= sizeof(x->face) ||
        strlen(identity) >= sizeof(x->identity))
        return NULL;
    snprintf(x->face, sizeof(x->face), "%s", line);
    snprintf(x->identity, sizeof(x->identity), "%s", identity);
    return path;
}

static void read_lines(struct journal *j)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t len;
    int cap = 0;

    while ((len = getline(&line, &size, j->file)) > 0) {
        struct journal_entry x;
        const char *path;

        if (line[len - 1] != '\n') {
            fseek(j->file, 0, SEEK_END); /* from reading to writing */
            fputc('\n', j->file);
            break;
        }
        line[len - 1] = '\0';
        path = read_line(line, &x);
        if (!path)
            continue;
        if (j->n == cap) {
            struct journal_entry *more;

            cap = cap ? 2 * cap : 256;
            more = realloc(j->entries, (size_t)cap * sizeof(*more));
            if (!more)
                break;
            j->entries = more;
        }
        x.path = strdup(path);
        if (!x.path)
            break;
        x.line = j->n;
        j->entries[j->n++] = x;
    }
    free(line);
    sort(j);
}

enum ut_err journal_open(struct journal *j, const char *name,
                         struct ut_error *e)
{
    *j = (struct journal){.name = name, .file = fopen(name, "a+")};
    if (!j->file)
        return ut_fail(e, UT_EIO, "%.150s: %s; --journal can name another file",
                       name, strerror(errno));
    rewind(j->file);
    read_lines(j);
    return fseek(j->file, 0, SEEK_END)
               ? ut_fail(e, UT_EIO, "%.150s: %s", name, strerror(errno))
               : UT_OK;
}

const struct journal_entry *journal_find(const struct journal *j,
                                         const char *path)
{
    const struct journal_entry key = {.path = (char *)(uintptr_t)path};

    return j->n ? bsearch(&key, j->entries, (size_t)j->n, sizeof(key), by_path)
                : NULL;
}

enum ut_err journal_add(struct journal *j, const char *face,
                        const char *identity, const char *path,
                        struct ut_error *e)
{
    fprintf(j->file, "%s\t%s\t%s\n", face, identity, path);
    return fflush(j->file)
               ? ut_fail(e, UT_EIO, "%.150s: %s", j->name, strerror(errno))
               : UT_OK;
}

void journal_close(struct journal *j)
{
    if (j->file)
        fclose(j->file);
    for (int i = 0; i < j->n; i++)
        free(j->entries[i].path);
    free(j->entries);
    *j = (struct journal){0};
}
