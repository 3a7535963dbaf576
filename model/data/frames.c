/* Lists of faces in whole pictures. */
#include "model/data/frames.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS "file,width,height,x,y,w,h,l0x,"
#define NUMBERS 17 /* the size, the box, landmarks, the score */

/* A line: a face, or a picture without one. */
struct line {
    char *path;
    struct mdl_face face;
    int at;
    bool negative;
};

struct reader {
    struct line *lines; /* owned, and their paths */
    int n, cap;
    struct ut_error *e;
};

void mdl_frames_fini(struct mdl_frames *f)
{
    for (int i = 0; i < f->n; i++)
        free(f->frames[i].path);
    free(f->frames);
    free(f->faces);
    *f = (struct mdl_frames){0};
}

static enum ut_err no_memory(struct reader *r)
{
    return ut_fail(r->e, UT_ENOMEM, "no memory for a list of faces");
}

static enum ut_err add(struct reader *r, const char *folder, const char *file,
                       const struct mdl_face *face)
{
    struct line *l;

    if (r->n == MDL_FRAMES_MAX)
        return ut_fail(r->e, UT_EBUSY, "more than %d faces", MDL_FRAMES_MAX);
    if (r->n == r->cap) {
        int cap = r->cap ? 2 * r->cap : 1024;
        struct line *more = realloc(r->lines, (size_t)cap * sizeof(*more));

        if (!more)
            return no_memory(r);
        r->lines = more;
        r->cap = cap;
    }
    l = &r->lines[r->n];
    *l = (struct line){.at = r->n, .negative = !face};
    if (face)
        l->face = *face;
    l->path = malloc(strlen(folder) + strlen(file) + 2);
    if (!l->path)
        return no_memory(r);
    sprintf(l->path, "%s/%s", folder, file);
    r->n++;
    return UT_OK;
}

/* "width,height,x,y,w,h,l0x..l4y,score" */
static bool read_face(const char *text, struct mdl_face *f)
{
    float v[NUMBERS];

    for (int i = 0; i < NUMBERS; i++) {
        char *end;

        v[i] = strtof(text, &end);
        if (end == text || !isfinite(v[i]) || fabsf(v[i]) > 1e5f ||
            *end != (i < NUMBERS - 1 ? ',' : '\0'))
            return false;
        text = end + 1;
    }
    *f = (struct mdl_face){v[2], v[3], v[4], v[5], v[NUMBERS - 1], {{0}}};
    memcpy(f->landmark, v + 6, sizeof(f->landmark));
    return f->w > 0 && f->h > 0;
}

static enum ut_err read_line(struct reader *r, const char *folder, char *line,
                             bool faces, const char *path, int at)
{
    char *comma = strchr(line, ',');
    struct mdl_face f;

    if (!faces)
        return add(r, folder, line, NULL);
    if (!comma || comma == line || !read_face(comma + 1, &f))
        return ut_fail(r->e, UT_EFORMAT,
                       "%.150s:%d: is not %sl0y..l4y,score with a box of some "
                       "size",
                       path, at, COLUMNS);
    *comma = '\0';
    return add(r, folder, line, &f);
}

static enum ut_err read_list(struct reader *r, const char *path, bool faces)
{
    char *line = NULL, *folder = strdup(path), *slash;
    FILE *f = fopen(path, "r");
    enum ut_err rc = UT_OK;
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
        if (at == 1 && faces) {
            if (strncmp(line, COLUMNS, strlen(COLUMNS)))
                rc = ut_fail(r->e, UT_EFORMAT,
                             "%.150s:1: does not start with %s", path, COLUMNS);
        } else if (*line) {
            rc = read_line(r, slash ? folder : ".", line, faces, path, at);
        }
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

static int by_path(const void *a, const void *b)
{
    const struct line *x = a, *y = b;
    int order = strcmp(x->path, y->path);

    return order ? order : x->at - y->at;
}

/* Lines to pictures; the paths move. */
static enum ut_err gather(struct reader *r, struct mdl_frames *out)
{
    out->frames = malloc((size_t)(r->n + 1) * sizeof(*out->frames));
    out->faces = malloc((size_t)(r->n + 1) * sizeof(*out->faces));
    if (!out->frames || !out->faces)
        return no_memory(r);
    qsort(r->lines, (size_t)r->n, sizeof(*r->lines), by_path);
    for (int i = 0; i < r->n; i++) {
        struct line *l = &r->lines[i];
        struct mdl_frame *last = out->n ? &out->frames[out->n - 1] : NULL;

        if (!last || strcmp(last->path, l->path)) {
            last = &out->frames[out->n++];
            *last = (struct mdl_frame){l->path, out->n_faces, 0};
            l->path = NULL;
        } else if (l->negative || !last->n) {
            return ut_fail(r->e, UT_EFORMAT,
                           "%.150s: is listed twice, once as without a face",
                           l->path);
        }
        if (l->negative)
            continue;
        out->faces[out->n_faces++] = l->face;
        last->n++;
    }
    return UT_OK;
}

enum ut_err mdl_frames_open(const char *faces, const char *negatives,
                            struct mdl_frames *out, struct ut_error *e)
{
    struct reader r = {.e = e};
    enum ut_err rc;

    *out = (struct mdl_frames){0};
    rc = read_list(&r, faces, true);
    if (!rc && negatives)
        rc = read_list(&r, negatives, false);
    if (!rc && !r.n)
        rc = ut_fail(e, UT_EFORMAT, "%.150s: has no faces", faces);
    if (!rc)
        rc = gather(&r, out);
    for (int i = 0; i < r.n; i++)
        free(r.lines[i].path);
    free(r.lines);
    if (rc)
        mdl_frames_fini(out);
    return rc;
}
