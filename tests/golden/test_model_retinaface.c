/* RetinaFace against its golden numbers and real frames; third-party data, so
 * skipped by name where it is absent. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"
#include "model/shipped.h"
#include "model/vision/face.h"
#include "tests/support/unit.h"

#define GOLDEN_SIDE 320
#define GOLDEN_ANCHORS 4200

static struct mdl_detector *open_detector(const char *data)
{
    struct mdl_detector *d;
    struct ut_error e;
    char path[512];

    snprintf(path, sizeof(path), "%s/models/retinaface_mnet025.safetensors",
             data);
    if (mdl_detector_open(path, &d, &e))
        fail_msg("%s", e.msg);
    return d;
}

/* Ours, or NULL after printing why. */
static struct mdl_detector *open_shipped(const char *name)
{
    struct mdl_detector *d;
    struct ut_error e;
    char path[512];

    if (!mdl_shipped(MDL_SHIPPED_DETECTOR, path, sizeof(path))) {
        printf("SKIPPED %s: there is no %s\n", name, path);
        return NULL;
    }
    if (mdl_detector_open(path, &d, &e))
        fail_msg("%s", e.msg);
    return d;
}

/* NULL where the backend cannot be had on this machine. */
static struct mdl_backend *open_backend(const char *name)
{
    struct mdl_backend *b = NULL;
    struct ut_error e;

    if (mdl_backend_open(name, 0, &b, &e))
        printf("SKIPPED retinaface on %s: %s\n", name ? name : "any backend",
               e.msg);
    return b;
}

/* The engine's [anchors*k, h, w] by map into torch's [cells, anchors, k]. */
static void to_rows(float *const out[9], int which, int k, float *rows)
{
    for (int m = 0; m < 3; m++) {
        int side = GOLDEN_SIDE / (8 << m);

        for (int cell = 0; cell < side * side; cell++)
            for (int c = 0; c < 2 * k; c++)
                *rows++ = out[3 * m + which][c * side * side + cell];
    }
}

static void compare(struct mdl_st *golden, float *const out[9],
                    const char *backend)
{
    static const struct {
        const char *name;
        int k;
    } parts[] = {{"probs", 2}, {"boxes", 4}, {"landmarks", 10}};
    char what[64];

    for (int i = 0; i < 3; i++) {
        const struct mdl_st_tensor *t = mdl_st_find(golden, parts[i].name);
        size_t n = (size_t)GOLDEN_ANCHORS * (size_t)parts[i].k;
        float *got = malloc(n * sizeof(*got));
        float *want = malloc(n * sizeof(*want));
        struct ut_error e;

        assert_non_null(t);
        assert_int_equal(mdl_shape_count(&t->shape), n);
        assert_int_equal(mdl_st_floats(t, want, &e), UT_OK);
        to_rows(out, i, parts[i].k, got);
        snprintf(what, sizeof(what), "retinaface %s %s", backend,
                 parts[i].name);
        /* float32 on both sides; torch and ONNX Runtime differ by 7.6e-5. */
        assert_close(got, want, n, 1e-4, 1e-4, what);
        free(got);
        free(want);
    }
}

static void detector__golden_frame__same_outputs(void **state)
{
    static const char *const backends[] = {"ref", "cpu"};
    const char *data = test_data("retinaface golden");
    struct mdl_detector *d;
    struct mdl_st *golden;
    struct mdl_graph g, fast;
    struct ut_error e;
    char path[512];

    (void)state;
    if (!data)
        skip();
    d = open_detector(data);
    snprintf(path, sizeof(path), "%s/models/retinaface_golden.safetensors",
             data);
    assert_int_equal(mdl_st_open(path, &golden, &e), UT_OK);
    assert_int_equal(mdl_detector_graph(d, GOLDEN_SIDE, GOLDEN_SIDE, &g, &e),
                     UT_OK);
    assert_int_equal(mdl_graph_optimise(&g, ~0ull, &fast, &e), UT_OK);
    for (int i = 0; i < 2; i++) {
        struct mdl_backend *b = open_backend(backends[i]);
        struct mdl_lane *lane;
        struct mdl_plan *plan;
        float *out[9];
        struct mdl_io io = {mdl_st_find(golden, "image")->data, out};

        if (!b)
            continue;
        for (int k = 0; k < 9; k++)
            out[k] =
                malloc(mdl_shape_count(&fast.values[fast.outputs[k]].shape) *
                       sizeof(float));
        if (mdl_lane_new(b, &lane, &e) ||
            mdl_plan_new(lane, &fast, MDL_PREC_F32, 1, &plan, &e) ||
            mdl_plan_run(plan, &io, &e))
            fail_msg("%s: %s", backends[i], e.msg);
        compare(golden, out, backends[i]);
        for (int k = 0; k < 9; k++)
            free(out[k]);
        mdl_plan_free(plan);
        mdl_lane_free(lane);
        mdl_backend_close(b);
    }
    mdl_graph_fini(&fast);
    mdl_graph_fini(&g);
    mdl_st_close(golden);
    mdl_detector_close(d);
}

/* ---- Real frames ---- */

struct row {
    char file[64];
    struct mdl_face face;
    bool found;
};

#define MAX_ROWS 64

static int read_rows(const char *data, struct row *rows)
{
    char path[512], line[512];
    FILE *f;
    int n = 0;

    snprintf(path, sizeof(path), "%s/frames_faces.csv", data);
    f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof(line), f)); /* the column names */
    while (fgets(line, sizeof(line), f)) {
        struct row *r = &rows[n];
        struct mdl_face *a = &r->face;
        float x2, y2;
        float(*l)[2] = a->landmark;

        assert_true(n < MAX_ROWS);
        *r = (struct row){0};
        if (sscanf(line,
                   "%63[^,],%*d,%*d,%f,%f,%f,%f,%f,%f,%f,%f,%f,%f,%f,%f,%f,%f,"
                   "%f",
                   r->file, &a->score, &a->x, &a->y, &x2, &y2, &l[0][0],
                   &l[0][1], &l[1][0], &l[1][1], &l[2][0], &l[2][1], &l[3][0],
                   &l[3][1], &l[4][0], &l[4][1]) != 16)
            continue; /* a frame without a face */
        a->w = x2 - a->x;
        a->h = y2 - a->y;
        n++;
    }
    fclose(f);
    return n;
}

static struct mdl_image read_frame(const char *data, const char *name)
{
    struct mdl_image im;
    struct ut_error e;
    char path[512];
    uint8_t *bytes;
    size_t len;
    FILE *f;

    snprintf(path, sizeof(path), "%s/frames/%s", data, name);
    f = fopen(path, "rb");
    assert_non_null(f);
    bytes = malloc(MDL_IMAGE_MAX_BYTES);
    len = fread(bytes, 1, MDL_IMAGE_MAX_BYTES, f);
    fclose(f);
    if (mdl_image_decode(bytes, len, 1280, &im, &e))
        fail_msg("%s: %s", name, e.msg);
    free(bytes);
    return im;
}

/* How far, in crop pixels, the template's points land apart under the two
 * alignments: the worst of the five. */
static double alignment_distance(const struct mdl_face *a,
                                 const struct mdl_face *b)
{
    struct mdl_similarity s, t;
    struct ut_error e;
    double worst = 0;

    assert_int_equal(
        mdl_face_similarity(a->landmark, mdl_face_template, &s, &e), UT_OK);
    assert_int_equal(
        mdl_face_similarity(b->landmark, mdl_face_template, &t, &e), UT_OK);
    for (int i = 0; i < 5; i++) {
        const float *p = b->landmark[i];
        double dx = (s.a - t.a) * p[0] - (s.b - t.b) * p[1] + s.tx - t.tx;
        double dy = (s.b - t.b) * p[0] + (s.a - t.a) * p[1] + s.ty - t.ty;

        worst = fmax(worst, hypot(dx, dy));
    }
    return worst;
}

/* Two detectors' landmarks of one face differ by some 5 % of the distance
 * between its eyes, 35 px in the crop; twice that and a half is allowed, and
 * the crop is that of a usable face. The one that ships differs by 10 % and is
 * allowed twice that too. */
#define REFERENCE_APART_PX 4.5
#define SHIPPED_APART_PX 9.0

static void check_driver(const struct mdl_image *im, const struct row *r,
                         const struct mdl_face *found, double most)
{
    uint8_t crop[MDL_FACE_SIDE_PX * MDL_FACE_SIDE_PX * 3];
    struct ut_error e;
    double apart = alignment_distance(found, &r->face);

    assert_int_equal(mdl_face_align(im, found, crop, &e), UT_OK);
    if (apart > most || mdl_face_quality(crop, found))
        fail_msg("%s: alignments %.1f px apart, quality 0x%x", r->file, apart,
                 mdl_face_quality(crop, found));
}

/* Every driver, aligned to `most` px, and `least` of ten of the other faces.
 * Takes d. */
static void find_faces(const char *data, struct mdl_detector *d, double most,
                       int least)
{
    struct mdl_backend *b;
    struct mdl_finder *f;
    struct row rows[MAX_ROWS];
    struct mdl_face faces[MDL_FACE_MAX];
    struct ut_error e;
    int n_rows, drivers = 0, drivers_found = 0, group = 0, group_found = 0;

    b = open_backend(NULL);
    assert_non_null(b);
    assert_int_equal(mdl_finder_new(d, b, &f, &e), UT_OK);
    n_rows = read_rows(data, rows);
    for (int i = 0; i < n_rows;) {
        struct mdl_image im = read_frame(data, rows[i].file);
        bool driver = !strncmp(rows[i].file, "driver_", 7);
        int n, first = i;

        if (mdl_finder_run(f, &im, 0, 0.5f, MDL_FACE_MAX, faces, &n, &e))
            fail_msg("%s: %s", rows[i].file, e.msg);
        for (; i < n_rows && !strcmp(rows[i].file, rows[first].file); i++) {
            int best = -1;

            for (int k = 0; k < n; k++)
                if (mdl_face_iou(&faces[k], &rows[i].face) >= 0.5f)
                    best = best < 0 ? k : best;
            if (driver) {
                drivers++;
                drivers_found += best >= 0;
            } else {
                group++;
                group_found += best >= 0;
            }
            if (driver && best >= 0)
                check_driver(&im, &rows[i], &faces[best], most);
            if (best < 0)
                printf("  %s: missed %.0fx%.0f at %.0f,%.0f\n", rows[i].file,
                       rows[i].face.w, rows[i].face.h, rows[i].face.x,
                       rows[i].face.y);
        }
        mdl_image_fini(&im);
    }
    printf("  drivers %d/%d, others %d/%d\n", drivers_found, drivers,
           group_found, group);
    assert_int_equal(drivers, 12);
    assert_int_equal(drivers_found, drivers);
    assert_true(group_found * 10 >= group * least);
    mdl_finder_free(f);
    mdl_backend_close(b);
    mdl_detector_close(d);
}

static void finder__real_frames__finds_the_faces(void **state)
{
    const char *data = test_data("retinaface on real frames");

    (void)state;
    if (!data)
        skip();
    find_faces(data, open_detector(data), REFERENCE_APART_PX, 9);
}

static void shipped__real_frames__finds_the_drivers(void **state)
{
    const char *data = test_data("shipped detector on real frames");
    struct mdl_detector *d = data ? open_shipped("its frames") : NULL;

    (void)state;
    if (!d)
        skip();
    find_faces(data, d, SHIPPED_APART_PX, 9);
}

static void finder__no_face__finds_none(void **state)
{
    static const char *const frames[] = {"noface_view.jpg",
                                         "noface_iceblock.jpg"};
    const char *data = test_data("retinaface on frames without faces");
    struct mdl_detector *d;
    struct mdl_backend *b;
    struct mdl_finder *f;
    struct mdl_face faces[MDL_FACE_MAX];
    struct ut_error e;

    (void)state;
    if (!data)
        skip();
    d = open_detector(data);
    b = open_backend(NULL);
    assert_non_null(b);
    assert_int_equal(mdl_finder_new(d, b, &f, &e), UT_OK);
    for (int i = 0; i < 2; i++) {
        struct mdl_image im = read_frame(data, frames[i]);
        int n;

        if (mdl_finder_run(f, &im, 0, 0.5f, MDL_FACE_MAX, faces, &n, &e))
            fail_msg("%s: %s", frames[i], e.msg);
        for (int k = 0; k < n; k++)
            printf("  %s: %.3f %.0fx%.0f at %.0f,%.0f\n", frames[i],
                   faces[k].score, faces[k].w, faces[k].h, faces[k].x,
                   faces[k].y);
        assert_int_equal(n, 0);
        mdl_image_fini(&im);
    }
    mdl_finder_free(f);
    mdl_backend_close(b);
    mdl_detector_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(detector__golden_frame__same_outputs),
        cmocka_unit_test(finder__real_frames__finds_the_faces),
        cmocka_unit_test(finder__no_face__finds_none),
        cmocka_unit_test(shipped__real_frames__finds_the_drivers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
