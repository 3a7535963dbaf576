/* What trains the face detector: lists, views, anchors, the loss on each
 * backend, a training that is resumed, figures. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/eval/detection.h"
#include "model/train/detector.h"
#include "model/train/weights.h"
#include "tests/support/unit.h"

#define SIDE 64
#define BATCH 2
#define ANCHORS (SIDE * SIDE * 21 / 512)
#define HEADER                                                                 \
    "file,width,height,x,y,w,h,l0x,l0y,l1x,l1y,l2x,l2y,l3x,l3y,l4x,l4y,"       \
    "score\n"

static const char *at(const char *name)
{
    static char path[8][256];
    static int n;
    char *p = path[n++ % 8];

    snprintf(p, sizeof(path[0]), "%s/%s", test_dir(), name);
    return p;
}

static void write_text(const char *name, const char *text)
{
    FILE *f = fopen(at(name), "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* ---- drawn frames ---- */

/* A drawn face of `size` px at x, y of a frame 160x120. */
static void write_frame(const char *name, int x, int y, int size, uint32_t who)
{
    static uint8_t face[112 * 112 * 3], small[112 * 112 * 3],
        rgb[160 * 120 * 3];
    struct mdl_sample_face s = {
        .identity = who, .eyes = 1, .light = 1, .noise = who};
    struct mdl_image im = {face, 112, 112, 112, 112};
    struct ut_error e;
    uint8_t *bytes;
    size_t len;
    FILE *f;

    for (size_t i = 0; i < sizeof(rgb); i++)
        rgb[i] = (uint8_t)(90 + 31 * who + i % 37 + i / 480 % 11);
    if (size) {
        mdl_sample_face_draw(&s, face);
        mdl_image_resize(&im, size, size, small);
        for (int r = 0; r < size; r++)
            memcpy(rgb + 3 * ((y + r) * 160 + x), small + 3 * r * size,
                   3 * (size_t)size);
    }
    assert_int_equal(mdl_image_encode_png(rgb, 160, 120, &bytes, &len, &e),
                     UT_OK);
    f = fopen(at(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    fclose(f);
    free(bytes);
}

static int add_row(char *text, const char *name, int x, int y, int size)
{
    const float unit = (float)size / 112;
    int n = sprintf(text, "%s,160,120,%d,%d,%d,%d", name, x, y, size, size);

    for (int i = 0; i < 5; i++)
        n += sprintf(text + n, ",%.2f,%.2f",
                     (float)x + unit * mdl_face_template[i][0],
                     (float)y + unit * mdl_face_template[i][1]);
    return n + sprintf(text + n, ",0.9\n");
}

static int set_up(void **state)
{
    char text[4096];
    int n;

    (void)state;
    n = sprintf(text, "%s", HEADER);
    for (int i = 0; i < 6; i++) {
        char name[16];
        int x = 10 + 12 * i, y = 8 + 5 * i, size = 40 + 8 * i;

        snprintf(name, sizeof(name), "f%d.png", i);
        write_frame(name, x, y, size, (uint32_t)i);
        n += add_row(text + n, name, x, y, size);
    }
    write_text("faces.csv", text);
    write_frame("none.png", 0, 0, 0, 3);
    write_text("none.txt", "none.png\n");
    return 0;
}

static void open_frames(struct mdl_frames *f)
{
    struct ut_error e;

    if (mdl_frames_open(at("faces.csv"), at("none.txt"), f, &e))
        fail_msg("%s", e.msg);
}

/* ---- lists ---- */

static void frames__lists__by_picture(void **state)
{
    struct mdl_frames f;
    char text[2048];
    struct ut_error e;
    int n;

    (void)state;
    open_frames(&f);
    assert_int_equal(f.n, 7);
    assert_int_equal(f.n_faces, 6);
    assert_int_equal(f.frames[6].n, 0); /* by name: none.png is the last */
    assert_non_null(strstr(f.frames[6].path, "/none.png"));
    mdl_frames_fini(&f);

    /* Faces of one picture need not be neighbours. */
    n = sprintf(text, "%s", HEADER);
    n += add_row(text + n, "b.png", 1, 2, 30);
    n += add_row(text + n, "a.png", 3, 4, 30);
    add_row(text + n, "b.png", 5, 6, 30);
    write_text("more.csv", text);
    assert_int_equal(mdl_frames_open(at("more.csv"), NULL, &f, &e), UT_OK);
    assert_int_equal(f.n, 2);
    assert_int_equal(f.frames[1].n, 2);
    assert_true(f.faces[f.frames[1].first].x == 1 &&
                f.faces[f.frames[1].first + 1].x == 5);
    assert_true(fabsf(f.faces[0].score - 0.9f) < 1e-6f);
    mdl_frames_fini(&f);
}

static void refused(const char *faces, const char *negatives, const char *says)
{
    struct mdl_frames f;
    struct ut_error e;

    write_text("bad.csv", faces);
    if (negatives)
        write_text("bad.txt", negatives);
    assert_int_equal(mdl_frames_open(at("bad.csv"),
                                     negatives ? at("bad.txt") : NULL, &f, &e),
                     UT_EFORMAT);
    assert_null(f.frames);
    if (!strstr(e.msg, says))
        fail_msg("no \"%s\" in: %s", says, e.msg);
}

static void frames__broken_lists__line_named(void **state)
{
    char row[512], text[1024];
    struct mdl_frames f;
    struct ut_error e;

    (void)state;
    add_row(row, "a.png", 1, 2, 30);
    refused("", NULL, "has no faces");
    refused("file\tlabel\n", NULL, ":1:");
    refused(HEADER "a.png,1,2,3\n", NULL, ":2:");
    refused(HEADER "a.png\n", NULL, ":2:");
    refused(HEADER ",160,120,1,2,3,4,5,6,7,8,9,10,11,12,13,14,1\n", NULL,
            ":2:");
    refused(HEADER "a,160,120,1,2,0,4,5,6,7,8,9,10,11,12,13,14,1\n", NULL,
            "some size");
    refused(HEADER "a,160,120,1,2,nan,4,5,6,7,8,9,10,11,12,13,14,1\n", NULL,
            ":2:");
    refused(HEADER "a,160,120,1,2,3,4,5,6,7,8,9,10,11,12,13,14,1,9\n", NULL,
            ":2:");
    snprintf(text, sizeof(text), "%s%s", HEADER, row);
    refused(text, "a.png\n", "listed twice");
    assert_int_equal(mdl_frames_open("/nowhere", NULL, &f, &e), UT_ENOTFOUND);
}

/* ---- views ---- */

static void views__seed__same_view_and_faces_inside(void **state)
{
    struct mdl_views v = {.config = mdl_view_default};
    static uint8_t a[96 * 96 * 3], b[sizeof(a)];
    struct mdl_view one, two;
    struct mdl_frames frames;
    struct mdl_source s;
    int faces = 0, marked = 0;
    struct ut_error e;

    (void)state;
    open_frames(&frames);
    v.frames = &frames;
    v.config.side = 96;
    s = mdl_views_source(&v);
    assert_int_equal(s.note, sizeof(one));
    for (int i = 0; i < 60; i++) {
        uint64_t x = (uint64_t)i, y = (uint64_t)i;

        assert_int_equal(s.make(s.arg, i % s.n, &x, NULL, a, &one, &e), UT_OK);
        assert_int_equal(s.make(s.arg, i % s.n, &y, NULL, b, &two, &e), UT_OK);
        assert_memory_equal(a, b, sizeof(a));
        assert_int_equal(one.n, two.n);
        for (int k = 0; k < one.n; k++) {
            const struct mdl_view_face *f = &one.faces[k];
            const float(*l)[2] = f->face.landmark;

            assert_true(f->face.x >= 0 && f->face.y >= 0);
            assert_true(f->face.x + f->face.w <= 96.01f);
            assert_true(f->face.y + f->face.h <= 96.01f);
            faces += !f->ignored;
            marked += f->marked;
            /* Mirrored or not, the left eye as seen is l0, turned by no more
             * than a little: the eyes' line is longer than it is steep. */
            assert_true(l[1][0] - l[0][0] > fabsf(l[1][1] - l[0][1]));
            assert_true(l[4][0] > l[3][0] && l[3][1] > l[0][1]);
        }
    }
    assert_true(faces > 30 && marked > 15);
    mdl_frames_fini(&frames);
}

/* ---- anchors ---- */

static struct mdl_view_face face_at(float x, float y, float w, float h)
{
    struct mdl_view_face f = {.face = {.x = x, .y = y, .w = w, .h = h},
                              .marked = true};

    for (int i = 0; i < 5; i++) {
        f.face.landmark[i][0] = x + w * mdl_face_template[i][0] / 112;
        f.face.landmark[i][1] = y + h * mdl_face_template[i][1] / 112;
    }
    return f;
}

static void anchors__encoded__decode_to_the_face(void **state)
{
    static float buffers[9][20 * 8 * 8];
    float *out[9], box[4], marks[10];
    struct mdl_prior priors[ANCHORS];
    struct mdl_view_face f = face_at(11, 14, 27, 33);
    struct mdl_face found[ANCHORS];
    int a = 2 * 64 + 5; /* the second map, its first anchor, cell 5 */

    (void)state;
    assert_int_equal(mdl_detector_priors(SIDE, SIDE, priors), ANCHORS);
    assert_true(priors[a].side == 64 && priors[a].x == 24 && priors[a].y == 24);
    mdl_detector_encode(&f.face, &priors[a], box, marks);
    for (int i = 0; i < 9; i++)
        out[i] = buffers[i];
    out[3][1 * 16 + 5] = 0.75f; /* of its plane of 4x4 cells */
    for (int i = 0; i < 4; i++)
        out[4][i * 16 + 5] = box[i];
    for (int i = 0; i < 10; i++)
        out[5][i * 16 + 5] = marks[i];
    assert_int_equal(mdl_detector_decode(out, SIDE, SIDE, 0.5f, found), 1);
    assert_close(&found[0].x, &f.face.x, 4, 1e-4, 0, "box");
    assert_close(&found[0].landmark[0][0], &f.face.landmark[0][0], 10, 1e-4, 0,
                 "landmarks");
}

static void match__faces__each_has_its_best_anchor(void **state)
{
    struct mdl_prior priors[ANCHORS];
    struct mdl_detection_loss c = {
        .side = SIDE, .priors = priors, .n_priors = ANCHORS, .match = 0.35f};
    struct mdl_view v = {.n = 3};
    int match[ANCHORS], of[3] = {0}, ignored = 0;

    (void)state;
    mdl_detector_priors(SIDE, SIDE, priors);
    v.faces[0] = face_at(4, 4, 30, 34);  /* like an anchor of 32 */
    v.faces[1] = face_at(50, 50, 6, 40); /* like none */
    v.faces[2] = face_at(45, 5, 6, 6);
    v.faces[2].ignored = true;
    mdl_detection_match(&c, &v, match);
    for (int a = 0; a < ANCHORS; a++) {
        struct mdl_face p = {.x = priors[a].x - priors[a].side / 2,
                             .y = priors[a].y - priors[a].side / 2,
                             .w = priors[a].side,
                             .h = priors[a].side};

        assert_true(match[a] >= MDL_ANCHOR_IGNORED && match[a] < 2);
        ignored += match[a] == MDL_ANCHOR_IGNORED;
        if (match[a] >= 0)
            of[match[a]]++;
        if (match[a] == 0)
            assert_true(mdl_face_iou(&p, &v.faces[0].face) >= 0.35f);
        if (mdl_face_iou(&p, &v.faces[0].face) >= 0.35f)
            assert_int_equal(match[a], 0);
    }
    assert_true(of[0] > 1);
    assert_int_equal(of[1], 1);
    assert_true(ignored > 0);
}

/* ---- the loss ---- */

struct machine {
    struct mdl_detector *detector;
    struct mdl_graph graph;
    struct mdl_weights weights;
    struct mdl_step step;
    struct mdl_backend *backend;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    float *out[9], *seed[9];
    uint8_t images[BATCH * SIDE * SIDE * 3];
    struct mdl_prior priors[ANCHORS];
    struct mdl_view views[BATCH];
};

static void open_machine(struct machine *m, const char *backend)
{
    int ends[9];
    struct ut_error e;
    unsigned x = 1;

    memset(m, 0, sizeof(*m));
    if (mdl_detector_fresh(5, &m->detector, &e) ||
        mdl_detector_graph(m->detector, SIDE, SIDE, &m->graph, &e) ||
        mdl_weights_take(&m->graph, &m->weights, &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < 9; i++) {
        int v = m->graph.outputs[i];
        const struct mdl_node *n = &m->graph.nodes[m->graph.values[v].producer];

        ends[i] = n->op == MDL_OP_SOFTMAX ? n->in[0] : v;
    }
    if (mdl_step_build(&m->graph, ends, 9, m->weights.trains, &m->step, &e) ||
        mdl_backend_open(backend, 0, &m->backend, &e) ||
        mdl_lane_new(m->backend, &m->lane, &e) ||
        mdl_plan_new(m->lane, &m->step.graph, MDL_PREC_F32, BATCH, &m->plan,
                     &e))
        fail_msg("%s", e.msg);
    for (int i = 0; i < 9; i++) {
        size_t n = BATCH * mdl_shape_count(
                               &m->step.graph.values[m->step.ends[i]].shape);

        m->out[i] = malloc(n * sizeof(float));
        m->seed[i] = malloc(n * sizeof(float));
    }
    for (size_t i = 0; i < sizeof(m->images); i++) {
        x = x * 1664525u + 1013904223u;
        m->images[i] = (uint8_t)(x >> 24);
    }
    mdl_detector_priors(SIDE, SIDE, m->priors);
    m->views[0].n = 2;
    m->views[0].faces[0] = face_at(4, 6, 30, 36);
    m->views[0].faces[1] = face_at(40, 30, 17, 15);
    m->views[0].faces[1].marked = false;
    m->views[1].n = 1;
    m->views[1].faces[0] = face_at(0, 2, 58, 60);
}

static void close_machine(struct machine *m)
{
    for (int i = 0; i < 9; i++) {
        free(m->out[i]);
        free(m->seed[i]);
    }
    mdl_plan_free(m->plan);
    mdl_lane_free(m->lane);
    mdl_backend_close(m->backend);
    mdl_step_fini(&m->step);
    mdl_weights_fini(&m->weights);
    mdl_graph_fini(&m->graph);
    mdl_detector_close(m->detector);
}

/* All negatives count, so that which are the worst can't change the loss. */
static double loss_of(struct machine *m, struct mdl_detection_parts *parts)
{
    struct mdl_detection_loss c = {.side = SIDE,
                                   .priors = m->priors,
                                   .n_priors = ANCHORS,
                                   .match = 0.35f,
                                   .negatives = ANCHORS,
                                   .box = 2,
                                   .landmarks = 1};
    struct ut_error e;
    double loss;

    assert_int_equal(mdl_plan_refresh(m->plan, &e), UT_OK);
    assert_int_equal(
        mdl_plan_run_nodes(m->plan, m->images, 0, m->step.n_forward, &e),
        UT_OK);
    for (int i = 0; i < 9; i++)
        assert_int_equal(mdl_plan_get(m->plan, m->step.ends[i], m->out[i], &e),
                         UT_OK);
    assert_int_equal(mdl_loss_detection(&c, m->out, m->views, BATCH, &loss,
                                        parts, m->seed, &e),
                     UT_OK);
    return loss;
}

static void back(struct machine *m)
{
    struct ut_error e;

    for (int i = 0; i < 9; i++)
        assert_int_equal(
            mdl_plan_set(m->plan, m->step.seeds[i], m->seed[i], &e), UT_OK);
    assert_int_equal(mdl_plan_run_nodes(m->plan, m->images, m->step.n_forward,
                                        m->step.graph.n_nodes, &e),
                     UT_OK);
    assert_int_equal(
        mdl_weights_learn(&m->weights, &m->step, &m->plan, 1, 0, &e), UT_OK);
}

/* Parameters of each part: a few of their elements by central differences. */
static void loss__whole_detector__by_differences(void **state)
{
    static const char *const names[] = {
        "body.stage1.0.0.weight",  "body.stage3.1.4.bias",
        "fpn.output3.0.weight",    "fpn.merge1.1.weight",
        "ssh2.conv7x7_3.0.weight", "ClassHead.0.conv1x1.weight",
        "BboxHead.1.conv1x1.bias", "LandmarkHead.1.conv1x1.weight",
    };
    static struct machine m;
    struct mdl_detection_parts parts;
    int checked = 0;

    (void)state;
    open_machine(&m, "ref");
    loss_of(&m, &parts);
    assert_true(parts.matched > 3 && parts.class > 0 && parts.box > 0 &&
                parts.landmarks > 0);
    back(&m);
    for (int v = 0; v < m.graph.n_values; v++) {
        struct mdl_weight *w = &m.weights.list[v];
        double norm = 0;

        for (size_t i = 0; w->gradient && i < w->n; i++)
            norm += (double)w->gradient[i] * w->gradient[i];
        for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
            size_t i = w->n / 3;
            struct mdl_detection_parts unused;
            double up, down, want;
            float old;

            if (!w->gradient || strcmp(w->name, names[k]))
                continue;
            checked++;
            assert_true(norm > 0);
            /* The largest element tells most. */
            for (size_t j = 0; j < w->n; j++)
                if (fabsf(w->gradient[j]) > fabsf(w->gradient[i]))
                    i = j;
            old = w->x[i];
            w->x[i] = old + 2e-3f;
            up = loss_of(&m, &unused);
            w->x[i] = old - 2e-3f;
            down = loss_of(&m, &unused);
            w->x[i] = old;
            want = (up - down) / 4e-3;
            /* LeakyReLU and smooth L1 have kinks between the two points. */
            if (!(fabs(w->gradient[i] - want) <
                  0.03 * sqrt(norm) + 0.03 * fabs(want)))
                fail_msg("%s[%zu]: %g, by differences %g, norm %g", w->name, i,
                         w->gradient[i], want, sqrt(norm));
        }
    }
    assert_int_equal(checked, 8);
    close_machine(&m);
}

/* float32 on both, 30 layers with BatchNorm over few places: gradients agree
 * to a thousandth of their norm. */
static void same_gradients(const char *backend)
{
    static struct machine ref, other;
    struct mdl_detection_parts parts;
    double a, b;

    open_machine(&ref, "ref");
    open_machine(&other, backend);
    a = loss_of(&ref, &parts);
    b = loss_of(&other, &parts);
    assert_true(fabs(a - b) < 1e-4 * a);
    back(&ref);
    back(&other);
    for (int v = 0; v < ref.graph.n_values; v++) {
        const struct mdl_weight *x = &ref.weights.list[v];
        const struct mdl_weight *y = &other.weights.list[v];
        double norm = 0, off = 0;

        for (size_t i = 0; x->gradient && i < x->n; i++) {
            double d = (double)x->gradient[i] - (double)y->gradient[i];

            norm += (double)x->gradient[i] * x->gradient[i];
            off += d * d;
        }
        if (sqrt(off) > 1e-3 * sqrt(norm) + 1e-4)
            fail_msg("%s on %s: off by %g of %g", x->name, backend, sqrt(off),
                     sqrt(norm));
    }
    close_machine(&ref);
    close_machine(&other);
}

static void loss__ref_and_cpu__same_gradients(void **state)
{
    (void)state;
    same_gradients("cpu");
}

/* With the processor in the GPU's place. */
static void loss__ref_and_cuda__same_gradients(void **state)
{
    (void)state;
    setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
    setenv("TSCAF_CUDA_CACHE", "/dev/null", 1);
    same_gradients("cuda");
    unsetenv("TSCAF_CUDA_PLUGIN");
    unsetenv("TSCAF_CUDA_CACHE");
}

static void loss__negatives__the_worst_of_the_batch(void **state)
{
    static float out[9][BATCH * 20 * 64], seed[9][BATCH * 20 * 64];
    float *o[9], *s[9];
    struct mdl_prior priors[ANCHORS];
    static struct mdl_view views[BATCH]; /* without faces */
    struct mdl_detection_loss c = {.side = SIDE,
                                   .priors = priors,
                                   .n_priors = ANCHORS,
                                   .match = 0.35f,
                                   .negatives = 2};
    struct mdl_detection_parts parts;
    struct ut_error e;
    double loss;
    int moved = 0;

    (void)state;
    mdl_detector_priors(SIDE, SIDE, priors);
    for (int i = 0; i < 9; i++) {
        o[i] = out[i];
        s[i] = seed[i];
    }
    /* Four margins stand out, two of each image; 2 for each of 2 images. */
    for (int i = 0; i < BATCH; i++)
        for (int k = 0; k < 2; k++)
            out[0][(i * 4 + 1) * 64 + 7 + k] = 3 + (float)k;
    assert_int_equal(
        mdl_loss_detection(&c, o, views, BATCH, &loss, &parts, s, &e), UT_OK);
    assert_int_equal(parts.matched, 0);
    for (int i = 0; i < BATCH * 4 * 64; i++)
        moved += seed[0][i] > 0;
    assert_int_equal(moved, 4);
    assert_true(seed[0][1 * 64 + 7] > 0.9f && seed[0][0 * 64 + 7] < -0.9f);
    assert_true(seed[1][0] == 0 && seed[2][0] == 0);
    assert_true(fabs(loss - 2 * (log1p(exp(3)) + log1p(exp(4)))) < 1e-4);
}

/* ---- training ---- */

static volatile sig_atomic_t stop;
static double first_loss, last_loss;

static void on_progress(void *arg, const struct mdl_detector_progress *p)
{
    const long *stop_at = arg;

    first_loss = first_loss > 0 ? first_loss : p->loss;
    last_loss = p->loss;
    if (*stop_at && p->step >= *stop_at)
        stop = 1;
}

static enum ut_err train(const char *out, long stop_at, bool resume,
                         double rate, bool *done, struct ut_error *e)
{
    char path[256], faces[256], none[256];
    struct mdl_detector_config c = {
        .out = path,
        .name = "test",
        .faces = faces,
        .negatives = none,
        .trainer = {.threads = 1,
                    .batch = 2,
                    .optimizer = {MDL_ADAMW, 0.9f, 0.999f, 1e-8f, 0.01f},
                    .momentum = 0.1f,
                    .clip = 10},
        .view = mdl_view_default,
        .loss = {.match = 0.35f, .negatives = 7, .box = 2, .landmarks = 1},
        .rate = rate,
        .steps = 12,
        .warm_up = 2,
        .save = 100,
        .resume = resume,
        .seed = 1,
        .every = 1,
        .progress = on_progress,
        .arg = &stop_at,
        .stop = &stop,
    };

    c.view.side = SIDE;
    snprintf(path, sizeof(path), "%s", at(out));
    snprintf(faces, sizeof(faces), "%s", at("faces.csv"));
    snprintf(none, sizeof(none), "%s", at("none.txt"));
    stop = 0;
    first_loss = 0;
    return mdl_detector_train(&c, done, e);
}

static void same_file(const char *a, const char *b)
{
    char line[700];

    snprintf(line, sizeof(line), "cmp %s %s", at(a), at(b));
    assert_int_equal(system(line), 0);
}

static void train__stopped_and_resumed__same_weights(void **state)
{
    struct mdl_detector *d;
    struct ut_error e;
    bool done;

    (void)state;
    assert_int_equal(train("whole", 0, false, 2e-3, &done, &e), UT_OK);
    assert_true(done);
    assert_true(last_loss < first_loss);
    assert_int_not_equal(access(at("whole.checkpoint"), F_OK), 0);
    assert_int_equal(mdl_detector_open(at("whole"), &d, &e), UT_OK);
    mdl_detector_close(d);

    assert_int_equal(train("parts", 5, true, 2e-3, &done, &e), UT_OK);
    assert_false(done);
    /* Another rate is another training. */
    assert_int_equal(train("parts", 0, true, 1e-3, &done, &e), UT_EINVAL);
    assert_non_null(strstr(e.msg, "rate"));
    assert_int_equal(train("parts", 0, true, 2e-3, &done, &e), UT_OK);
    assert_true(done);
    same_file("whole", "parts");
}

static void train__not_finite__step_named(void **state)
{
    struct ut_error e;
    bool done;

    (void)state;
    assert_int_equal(train("wild", 0, false, 1e30, &done, &e), UT_ESTATE);
    assert_non_null(strstr(e.msg, "step "));
}

static enum ut_err write_side(const struct mdl_graph *g, const char *side,
                              struct mdl_detector **out, struct ut_error *e)
{
    const struct mdl_st_pair meta[] = {{"side", side}};

    assert_int_equal(
        mdl_detector_write(at("side"), g, true, meta, side ? 1 : 0, NULL, 0, e),
        UT_OK);
    return mdl_detector_open(at("side"), out, e);
}

static void files__side__said_or_refused(void **state)
{
    struct mdl_detector *d, *read;
    struct mdl_graph g;
    struct ut_error e;

    (void)state;
    assert_int_equal(mdl_detector_fresh(1, &d, &e), UT_OK);
    assert_int_equal(mdl_detector_graph(d, 64, 64, &g, &e), UT_OK);
    assert_int_equal(write_side(&g, NULL, &read, &e), UT_OK);
    assert_int_equal(mdl_detector_side(read), MDL_DETECT_SIDE_PX);
    mdl_detector_close(read);
    assert_int_equal(write_side(&g, "448", &read, &e), UT_OK);
    assert_int_equal(mdl_detector_side(read), 448);
    mdl_detector_close(read);
    assert_int_equal(write_side(&g, "31", &read, &e), UT_EFORMAT);
    assert_non_null(strstr(e.msg, "\"31\""));
    assert_int_equal(write_side(&g, "2049", &read, &e), UT_EFORMAT);
    assert_int_equal(write_side(&g, "wide", &read, &e), UT_EFORMAT);
    mdl_graph_fini(&g);
    mdl_detector_close(d);
}

/* ---- figures ---- */

static void wilson__known_counts__known_intervals(void **state)
{
    double lo, hi;

    (void)state;
    mdl_wilson(20, 20, &lo, &hi); /* 1 / (1 + z^2 / n) */
    assert_true(fabs(lo - 0.8389) < 1e-4 && hi == 1);
    mdl_wilson(5, 10, &lo, &hi);
    assert_true(fabs(lo - 0.2366) < 1e-4 && fabs(hi - 0.7634) < 1e-4);
    mdl_wilson(0, 0, &lo, &hi);
    assert_true(lo == 0 && hi == 1);
}

static void measure__fresh_detector__figures_in_range(void **state)
{
    struct mdl_detection_choice all = {0}, none = {.prefix = "zebra"};
    struct mdl_detection_figures f;
    struct mdl_detector *d;
    struct mdl_backend *b;
    struct mdl_finder *finder;
    struct mdl_frames frames;
    struct ut_error e;

    (void)state;
    open_frames(&frames);
    if (mdl_detector_fresh(1, &d, &e) || mdl_backend_open(NULL, 0, &b, &e) ||
        mdl_finder_new(d, b, &finder, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(
        mdl_detection_measure(finder, &frames, &all, 160, 0.5f, &f, &e), UT_OK);
    assert_int_equal(f.pictures, 6);
    assert_int_equal(f.faces, 6);
    assert_int_equal(f.negatives, 1);
    assert_in_range(f.found, 0, 6);
    assert_true(f.average_precision >= 0 && f.average_precision <= 1);
    assert_int_equal(
        mdl_detection_measure(finder, &frames, &none, 160, 0.5f, &f, &e),
        UT_EINVAL);
    mdl_finder_free(finder);
    mdl_backend_close(b);
    mdl_detector_close(d);
    mdl_frames_fini(&frames);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames__lists__by_picture),
        cmocka_unit_test(frames__broken_lists__line_named),
        cmocka_unit_test(views__seed__same_view_and_faces_inside),
        cmocka_unit_test(anchors__encoded__decode_to_the_face),
        cmocka_unit_test(match__faces__each_has_its_best_anchor),
        cmocka_unit_test(loss__whole_detector__by_differences),
        cmocka_unit_test(loss__ref_and_cpu__same_gradients),
        cmocka_unit_test(loss__ref_and_cuda__same_gradients),
        cmocka_unit_test(loss__negatives__the_worst_of_the_batch),
        cmocka_unit_test(train__stopped_and_resumed__same_weights),
        cmocka_unit_test(train__not_finite__step_named),
        cmocka_unit_test(files__side__said_or_refused),
        cmocka_unit_test(wilson__known_counts__known_intervals),
        cmocka_unit_test(measure__fresh_detector__figures_in_range),
    };

    return cmocka_run_group_tests(tests, set_up, NULL);
}
