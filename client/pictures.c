/* Finding and reading picture files. */
#include "client/pictures.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static enum ut_err add(struct cl_pictures *p, const char *path,
                       struct ut_error *e)
{
    if (p->n == CL_MAX_PICTURES)
        return ut_fail(e, UT_EBUSY, "more than %d pictures", CL_MAX_PICTURES);
    if (p->n == p->cap) {
        int cap = p->cap ? 2 * p->cap : 64;
        char **more = realloc(p->paths, (size_t)cap * sizeof(*more));

        if (!more)
            return ut_fail(e, UT_ENOMEM, "no memory");
        p->paths = more;
        p->cap = cap;
    }
    p->paths[p->n] = strdup(path);
    if (!p->paths[p->n])
        return ut_fail(e, UT_ENOMEM, "no memory");
    p->n++;
    return UT_OK;
}

static bool named_like_a_picture(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot && (!strcasecmp(dot, ".jpg") || !strcasecmp(dot, ".jpeg") ||
                   !strcasecmp(dot, ".png"));
}

static enum ut_err add_folder(struct cl_pictures *p, const char *folder,
                              int depth, struct ut_error *e)
{
    struct dirent **entries;
    enum ut_err rc = UT_OK;
    int n;

    if (depth > CL_MAX_FOLDER_DEPTH)
        return ut_fail(e, UT_EBUSY, "%.150s: over %d folders deep", folder,
                       CL_MAX_FOLDER_DEPTH);
    n = scandir(folder, &entries, NULL, alphasort);
    if (n < 0)
        return ut_fail(e, UT_EIO, "%.150s: cannot be listed: %s", folder,
                       strerror(errno));
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        struct stat st;
        char path[4096];
        bool fits = snprintf(path, sizeof(path), "%s/%s", folder, name) <
                    (int)sizeof(path);

        if (!rc && name[0] != '.') {
            if (!fits)
                rc = ut_fail(e, UT_EBUSY, "%.150s: a path is too long", folder);
            else if (stat(path, &st))
                rc = ut_fail(e, UT_EIO, "%.150s: %s", path, strerror(errno));
            else if (S_ISDIR(st.st_mode))
                rc = add_folder(p, path, depth + 1, e);
            else if (S_ISREG(st.st_mode) && named_like_a_picture(name))
                rc = add(p, path, e);
        }
        free(entries[i]);
    }
    free(entries);
    return rc;
}

enum ut_err cl_pictures_add(struct cl_pictures *p, const char *path,
                            struct ut_error *e)
{
    size_t len = strlen(path);
    struct stat st;
    enum ut_err rc;
    char *bare;

    if (stat(path, &st))
        return ut_fail(e, UT_ENOTFOUND, "%.150s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return add(p, path, e);
    while (len > 1 && path[len - 1] == '/')
        len--;
    bare = strndup(path, len);
    if (!bare)
        return ut_fail(e, UT_ENOMEM, "no memory");
    rc = add_folder(p, bare, 1, e);
    free(bare);
    return rc;
}

void cl_pictures_fini(struct cl_pictures *p)
{
    for (int i = 0; i < p->n; i++)
        free(p->paths[i]);
    free(p->paths);
    memset(p, 0, sizeof(*p));
}

enum ut_err cl_picture_read(const char *path, char **bytes, size_t *len,
                            const char **type, struct ut_error *e)
{
    enum ut_err rc = UT_OK;
    struct stat st;
    char *data = NULL;
    size_t n = 0;
    FILE *f = fopen(path, "rb");

    *bytes = NULL;
    if (!f || fstat(fileno(f), &st))
        rc = ut_fail(e, errno == ENOENT ? UT_ENOTFOUND : UT_EIO, "%.150s: %s",
                     path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = ut_fail(e, UT_EFORMAT, "%.150s: is no file", path);
    else if (st.st_size > CL_MAX_PICTURE_BYTES)
        rc = ut_fail(e, UT_EBUSY, "%.150s: %lld bytes are over %u", path,
                     (long long)st.st_size, CL_MAX_PICTURE_BYTES);
    if (!rc) {
        n = (size_t)st.st_size;
        data = malloc(n ? n : 1);
        if (!data)
            rc = ut_fail(e, UT_ENOMEM, "no memory for %.100s", path);
        else if (fread(data, 1, n, f) != n)
            rc = ut_fail(e, UT_EIO, "%.150s: cannot be read whole", path);
    }
    if (!rc) {
        if (n >= 3 && !memcmp(data, "\xff\xd8\xff", 3))
            *type = "image/jpeg";
        else if (n >= 8 && !memcmp(data, "\x89PNG\r\n\x1a\n", 8))
            *type = "image/png";
        else
            rc =
                ut_fail(e, UT_EFORMAT, "%.150s: is neither JPEG nor PNG", path);
    }
    if (f)
        fclose(f);
    if (rc) {
        free(data);
        return rc;
    }
    *bytes = data;
    *len = n;
    return UT_OK;
}
