/* plot grad-cam: a row of faces, a row of maps for each model's leaves. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "model/eval/explain.h"
#include "model/tool/plot_job.h"
#include "model/vision/image.h"

#define MAX_ROWS 33

struct sheet {
    const struct plot_job *job;
    int side, columns, rows;
    char names[MAX_ROWS][96];
    uint8_t *cells; /* owned; [MAX_ROWS, columns, side, side, 3] */
    float *map;     /* owned; [side, side] */
};

static uint8_t *cell(struct sheet *s, int row, int column)
{
    return s->cells + (size_t)(row * s->columns + column) * (size_t)s->side *
                          (size_t)s->side * 3;
}

/* A picture of an aligned face, at the network's side. */
static enum ut_err read_face(const char *path, int side, uint8_t *out,
                             struct ut_error *e)
{
    struct mdl_image im;
    struct ut_error why;
    struct ut_buf file;
    enum ut_err rc;

    ut_buf_init(&file, MDL_IMAGE_MAX_BYTES);
    rc = ut_buf_add_file(&file, path, e);
    if (!rc) {
        rc = mdl_image_decode(file.data, file.len, 2 * side, &im, &why);
        if (rc)
            rc = ut_fail(e, rc, "%.90s: %.90s", path, why.msg);
    }
    if (!rc) {
        mdl_image_resize(&im, side, side, out);
        mdl_image_fini(&im);
    }
    ut_buf_fini(&file);
    return rc;
}

static enum ut_err start(struct sheet *s, int side, struct ut_error *e)
{
    const struct plot_job *j = s->job;
    size_t pixels = (size_t)side * (size_t)side;
    enum ut_err rc = UT_OK;

    if (s->side)
        return s->side == side
                   ? UT_OK
                   : ut_fail(e, UT_EINVAL, "one model sees %d pixels, one %d",
                             s->side, side);
    s->side = side;
    s->cells = malloc(MAX_ROWS * (size_t)s->columns * pixels * 3);
    s->map = calloc(pixels, sizeof(*s->map));
    if (!s->cells || !s->map)
        return ut_fail(e, UT_ENOMEM, "no memory for pictures");
    for (int i = 0; i < s->columns && !rc; i++)
        rc = read_face(j->pictures[i], side, cell(s, 0, i), e);
    snprintf(s->names[s->rows++], sizeof(s->names[0]), "face");
    return rc;
}

/* The unit embedding of the picture that all are compared with. */
static enum ut_err reference_of(struct sheet *s, struct mdl_explainer *x,
                                float *out, struct ut_error *e)
{
    uint8_t *face = cell(s, MAX_ROWS - 1, 0); /* not yet used */
    enum ut_err rc = read_face(s->job->reference, s->side, face, e);

    return rc ? rc
              : mdl_explainer_run(x, face, &(struct mdl_question){0},
                                  &(struct mdl_explanation){.embedding = out},
                                  e);
}

static enum ut_err add_row(struct sheet *s, struct mdl_explainer *x,
                           const char *model, const char *leaf, bool attention,
                           const float *reference, struct ut_error *e)
{
    struct mdl_question q = {reference, s->job->against};
    struct mdl_explanation out = {.cam = attention ? NULL : s->map,
                                  .attention = attention ? s->map : NULL};
    enum ut_err rc = UT_OK;

    if (s->rows == MAX_ROWS - 1)
        return ut_fail(e, UT_EINVAL, "over %d rows of maps", MAX_ROWS - 2);
    snprintf(s->names[s->rows], sizeof(s->names[0]), "%.40s\n%.30s%s", model,
             leaf, attention ? ", LANet" : "");
    for (int i = 0; i < s->columns && !rc; i++) {
        rc = mdl_explainer_run(x, cell(s, 0, i), &q, &out, e);
        mdl_explain_draw(cell(s, 0, i), s->map, s->side, cell(s, s->rows, i));
        if (!rc && !attention)
            printf("{\"model\":\"%s\",\"leaf\":\"%s\",\"picture\":%d,"
                   "\"score\":%.4f}\n",
                   model, leaf, i, (double)out.score);
    }
    s->rows++;
    return rc;
}

static enum ut_err explain(struct sheet *s, const struct mdl_model *m,
                           const char *name, const char *leaf,
                           struct mdl_backend *b, struct ut_error *e)
{
    struct mdl_explainer *x;
    float *reference = NULL;
    enum ut_err rc = mdl_explainer_new(m, leaf, b, MDL_PREC_F32, &x, e);

    if (!rc)
        rc = start(s, mdl_explainer_side(x), e);
    if (!rc && s->job->reference && mdl_explainer_dim(x)) {
        reference = calloc((size_t)mdl_explainer_dim(x), sizeof(*reference));
        rc = reference ? reference_of(s, x, reference, e)
                       : ut_fail(e, UT_ENOMEM, "no memory for an embedding");
    }
    if (!rc)
        rc = add_row(s, x, name, leaf, false, reference, e);
    if (!rc && s->job->attention && mdl_explainer_attends(x))
        rc = add_row(s, x, name, leaf, true, reference, e);
    free(reference);
    mdl_explainer_free(x);
    return rc;
}

static enum ut_err add_model(struct sheet *s, const char *path,
                             struct mdl_backend *b, struct ut_error *e)
{
    const struct plot_job *j = s->job;
    struct mdl_model m;
    char name[64];
    enum ut_err rc = mdl_model_open(path, &m, e);

    plot_name(path, name);
    for (int i = 0; i < j->n_leaves && !rc; i++)
        rc = explain(s, &m, name, j->leaves[i], b, e);
    mdl_model_close(&m);
    return rc;
}

enum ut_err plot_grad_cam(const struct plot_job *j, struct ut_error *e)
{
    struct sheet *s = calloc(1, sizeof(*s));
    const char *names[MAX_ROWS];
    struct mdl_backend *b = NULL;
    enum ut_err rc;

    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for pictures");
    s->job = j;
    s->columns = j->n_pictures;
    rc = j->n_pictures ? mdl_backend_open(j->backend, 0, &b, e)
                       : ut_fail(e, UT_EINVAL, "grad-cam wants a --picture");
    for (int i = 0; i < j->n_files && !rc; i++)
        rc = add_model(s, j->files[i], b, e);
    for (int i = 0; i < s->rows; i++)
        names[i] = s->names[i];
    if (!rc)
        rc = mdl_plot_pictures(j->out, names, s->rows, s->columns, s->cells,
                               s->side, e);
    mdl_backend_close(b);
    free(s->cells);
    free(s->map);
    free(s);
    return rc;
}
