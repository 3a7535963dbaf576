/* A look at a dataset: some of its pictures, as training takes them. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/data/dataset.h"
#include "model/vision/face.h"
#include "model/vision/image.h"
#include "server/calls/message.h"
#include "server/datasets/dataset_classes.h"
#include "server/datasets/dataset_record.h"
#include "server/datasets/datasets.h"

/* What an example's label is called. */
static bool set_label(Tscaf__V1__DatasetSample *s, const struct srv_classes *c,
                      int label)
{
    char number[16];

    if (label < 0)
        return true;
    snprintf(number, sizeof(number), "%d", label);
    return srv_message_set(&s->label, c->fixed ? label ? "drowsy" : "alert"
                                      : label < c->n ? c->name[label]
                                                     : number);
}

/* Example i into s. false: it cannot be read. */
static bool read_picture(const struct mdl_dataset *set, int i,
                         Tscaf__V1__DatasetSample *s)
{
    uint8_t crop[MDL_FACE_SIDE_PX * MDL_FACE_SIDE_PX * 3];
    struct mdl_image im = {0};
    struct ut_error e;
    bool ok;

    ok = !mdl_dataset_picture(set, i, 0, &im, &e) &&
         !mdl_face_crop(&im, crop, &e) &&
         !mdl_image_encode_png(crop, MDL_FACE_SIDE_PX, MDL_FACE_SIDE_PX,
                               &s->picture.data, &s->picture.len, &e);
    mdl_image_fini(&im);
    return ok;
}

static enum ut_err add(const struct mdl_dataset *set, int i,
                       const struct srv_classes *c,
                       Tscaf__V1__ListSamplesResponse *r, struct ut_error *e)
{
    const struct mdl_example *x = &set->examples[i];
    Tscaf__V1__DatasetSample *s = malloc(sizeof(*s));

    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for samples");
    tscaf__v1__dataset_sample__init(s);
    if (!read_picture(set, i, s)) {
        tscaf__v1__dataset_sample__free_unpacked(s, NULL);
        return UT_OK;
    }
    r->samples[r->n_samples++] = s;
    if (!set_label(s, c, x->label) ||
        (x->group >= 0 && !srv_message_set(&s->group, set->group[x->group])))
        return ut_fail(e, UT_ENOMEM, "no memory for samples");
    return UT_OK;
}

static enum ut_err look(const char *path, const struct srv_classes *c,
                        uint32_t limit, Tscaf__V1__ListSamplesResponse *r,
                        struct ut_error *e)
{
    struct mdl_dataset set = {0};
    enum ut_err rc = mdl_dataset_open(path, &set, e);
    uint32_t n = set.n > 0 && limit > (uint32_t)set.n ? (uint32_t)set.n : limit;

    r->samples = rc ? NULL : calloc(limit, sizeof(*r->samples));
    if (!rc && !r->samples)
        rc = ut_fail(e, UT_ENOMEM, "no memory for samples");
    for (uint32_t k = 0; k < n && !rc; k++)
        rc = add(&set, (int)((uint64_t)k * (uint64_t)set.n / n), c, r, e);
    mdl_dataset_fini(&set);
    return rc;
}

enum ut_err srv_dataset_samples(struct srv_datasets *d, const char *id,
                                uint32_t limit,
                                Tscaf__V1__ListSamplesResponse **out,
                                struct ut_error *e)
{
    char folder[PATH_MAX], path[PATH_MAX];
    Tscaf__V1__ListSamplesResponse *r = NULL;
    struct srv_classes classes = {0};
    Tscaf__V1__DatasetRecord *x;
    enum ut_err rc = srv_dataset_get_own(d, id, &x, e);

    *out = NULL;
    if (rc)
        return rc;
    r = malloc(sizeof(*r));
    if (!r) {
        rc = ut_fail(e, UT_ENOMEM, "no memory for samples");
        goto out;
    }
    tscaf__v1__list_samples_response__init(r);
    srv_dataset_folder(d, id, folder);
    snprintf(path, sizeof(path), "%.4000s/manifest.tsv", folder);
    if (*x->path) /* registered: names are not ours */
        classes.fixed =
            x->kind == TSCAF__V1__DATASET_KIND__DATASET_KIND_FATIGUE;
    else
        rc = srv_classes_read(&classes, folder, x->kind, e);
    if (!rc && x->pictures)
        rc = look(*x->path ? x->path : path, &classes, limit, r, e);
    if (!rc) {
        *out = r;
        r = NULL;
    }
out:
    srv_classes_fini(&classes);
    if (r)
        tscaf__v1__list_samples_response__free_unpacked(r, NULL);
    tscaf__v1__dataset_record__free_unpacked(x, NULL);
    return rc;
}
