/* RetinaFace with MobileNetV1 0.25 as a graph, under the tensor names of
 * biubug6/Pytorch_Retinaface.
 *
 *   u8 [h,w,3] -> BGR less (104,117,123) [3,h,w]
 *     -> body  stage1 [64,h/8,w/8], stage2 [128,h/16,..], stage3 [256,h/32,..]
 *     -> fpn   three maps of 64 channels, the coarser added to the finer
 *     -> ssh   context of 3x3, 5x5 and 7x7, 64 channels
 *     -> heads per map i: probs.i [2*2], boxes.i [2*4], landmarks.i [2*10],
 *              two anchors a cell, an anchor's channels together
 *
 * Source: Deng et al., RetinaFace (2020); Howard et al., MobileNets (2017). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "model/vision/face.h"

struct mdl_detector {
    struct mdl_graph graph; /* the smallest, bound: where others find weights */
    float *floats;          /* owned; all parameters                          */
    int side_px;            /* long side of frames that suits it              */
};

#define LEAK 0.1f
#define MAPS 3

/* PREFIX.conv (no bias) and PREFIX.bn; relu: with LeakyReLU after. */
static int conv_bn(struct mdl_graph *g, int x, const char *prefix, int conv,
                   int out, int kernel, int stride, int groups, bool relu)
{
    struct mdl_shape c = mdl_shape_of(1, out);
    int w, gamma, beta, mean, var, bn = conv + 1;

    if (x < 0)
        return -1;
    w = mdl_graph_param(g, MDL_VALUE_PARAM,
                        mdl_shape_of(4, out,
                                     (int)g->values[x].shape.dim[0] / groups,
                                     kernel, kernel),
                        "%s.%d.weight", prefix, conv);
    x = mdl_graph_conv(g, x, w, -1, stride, kernel / 2, groups);
    gamma = mdl_graph_param(g, MDL_VALUE_PARAM, c, "%s.%d.weight", prefix, bn);
    beta = mdl_graph_param(g, MDL_VALUE_PARAM, c, "%s.%d.bias", prefix, bn);
    mean = mdl_graph_param(g, MDL_VALUE_BUFFER, c, "%s.%d.running_mean", prefix,
                           bn);
    var = mdl_graph_param(g, MDL_VALUE_BUFFER, c, "%s.%d.running_var", prefix,
                          bn);
    x = mdl_graph_batchnorm(g, x, gamma, beta, mean, var, 1e-5f);
    return relu ? mdl_graph_act(g, x, MDL_ACT_LEAKY, LEAK, -1) : x;
}

/* Depthwise 3x3, then 1x1: body.stageS.I.{0,1,3,4}. */
static int separable(struct mdl_graph *g, int x, int stage, int idx, int out,
                     int stride)
{
    char prefix[32];
    int in;

    if (x < 0)
        return -1;
    in = (int)g->values[x].shape.dim[0];
    snprintf(prefix, sizeof(prefix), "body.stage%d.%d", stage, idx);
    x = conv_bn(g, x, prefix, 0, in, 3, stride, in, true);
    return conv_bn(g, x, prefix, 3, out, 1, 1, 1, true);
}

static void body(struct mdl_graph *g, int x, int maps[MAPS])
{
    static const struct {
        int stage, idx, out, stride;
    } blocks[] = {
        {1, 1, 16, 1},  {1, 2, 32, 2},  {1, 3, 32, 1},  {1, 4, 64, 2},
        {1, 5, 64, 1},  {2, 0, 128, 2}, {2, 1, 128, 1}, {2, 2, 128, 1},
        {2, 3, 128, 1}, {2, 4, 128, 1}, {2, 5, 128, 1}, {3, 0, 256, 2},
        {3, 1, 256, 1},
    };

    mdl_graph_module(g, "body");
    x = conv_bn(g, x, "body.stage1.0", 0, 8, 3, 2, 1, true);
    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        x = separable(g, x, blocks[i].stage, blocks[i].idx, blocks[i].out,
                      blocks[i].stride);
        maps[blocks[i].stage - 1] = x;
    }
}

static void fpn(struct mdl_graph *g, int maps[MAPS])
{
    char prefix[32];

    mdl_graph_module(g, "fpn");
    for (int i = 0; i < MAPS; i++) {
        snprintf(prefix, sizeof(prefix), "fpn.output%d", i + 1);
        maps[i] = conv_bn(g, maps[i], prefix, 0, 64, 1, 1, 1, true);
    }
    for (int i = MAPS - 2; i >= 0 && maps[i] >= 0; i--) {
        const struct mdl_shape *s = &g->values[maps[i]].shape;
        int terms[2] = {
            maps[i],
            mdl_graph_upsample(g, maps[i + 1], (int)s->dim[1], (int)s->dim[2])};

        snprintf(prefix, sizeof(prefix), "fpn.merge%d", i + 1);
        maps[i] = conv_bn(g, mdl_graph_add(g, terms, 2), prefix, 0, 64, 3, 1, 1,
                          true);
    }
}

static int ssh(struct mdl_graph *g, int x, int level)
{
    static const struct {
        const char *name;
        int from; /* part whose result goes in, -1: the map */
        int out;
        bool relu, joined; /* joined: among the concatenated */
    } parts[] = {
        {"conv3X3", -1, 32, false, true},  {"conv5X5_1", -1, 16, true, false},
        {"conv5X5_2", 1, 16, false, true}, {"conv7X7_2", 1, 16, true, false},
        {"conv7x7_3", 3, 16, false, true},
    };
    int made[5], joined[5], n = 0;
    char prefix[32];

    for (int i = 0; i < 5; i++) {
        snprintf(prefix, sizeof(prefix), "ssh%d.%s", level + 1, parts[i].name);
        made[i] = conv_bn(g, parts[i].from < 0 ? x : made[parts[i].from],
                          prefix, 0, parts[i].out, 3, 1, 1, parts[i].relu);
        if (parts[i].joined)
            joined[n++] = made[i];
    }
    return mdl_graph_act(g, mdl_graph_concat(g, joined, n), MDL_ACT_RELU, 0,
                         -1);
}

static int head(struct mdl_graph *g, int x, const char *name, int level,
                int out)
{
    int w = mdl_graph_param(g, MDL_VALUE_PARAM, mdl_shape_of(4, out, 64, 1, 1),
                            "%s.%d.conv1x1.weight", name, level);
    int b = mdl_graph_param(g, MDL_VALUE_PARAM, mdl_shape_of(1, out),
                            "%s.%d.conv1x1.bias", name, level);

    return mdl_graph_conv(g, x, w, b, 1, 0, 1);
}

static enum ut_err build(struct mdl_graph *g, int h, int w, struct ut_error *e)
{
    static const float mean[3] = {104, 117, 123}, scale[3] = {1, 1, 1};
    int maps[MAPS] = {-1, -1, -1};

    mdl_graph_init(g);
    body(g, mdl_graph_image(g, mdl_graph_input(g, h, w), mean, scale, true),
         maps);
    fpn(g, maps);
    mdl_graph_module(g, "heads");
    for (int i = 0; i < MAPS; i++) {
        int x = ssh(g, maps[i], i);

        mdl_graph_output(g, mdl_graph_softmax(g, head(g, x, "ClassHead", i, 4)),
                         "probs.%d", i);
        mdl_graph_output(g, head(g, x, "BboxHead", i, 8), "boxes.%d", i);
        mdl_graph_output(g, head(g, x, "LandmarkHead", i, 20), "landmarks.%d",
                         i);
    }
    if (!g->error.code)
        return UT_OK;
    if (e)
        *e = g->error;
    return g->error.code;
}

static bool is_weight(const struct mdl_value *v)
{
    return v->kind == MDL_VALUE_PARAM || v->kind == MDL_VALUE_BUFFER;
}

/* Copies what the graph needs out of the file and points the values at it. */
static enum ut_err bind(struct mdl_detector *d, const struct mdl_st *st,
                        const char *path, struct ut_error *e)
{
    struct mdl_graph *g = &d->graph;
    size_t n = 0, at = 0;
    enum ut_err rc = UT_OK;

    for (int i = 0; i < g->n_values; i++)
        if (is_weight(&g->values[i]))
            n += mdl_shape_count(&g->values[i].shape);
    d->floats = malloc(n * sizeof(*d->floats));
    if (!d->floats)
        return ut_fail(e, UT_ENOMEM, "%s: no memory for %zu weights", path, n);
    for (int i = 0; i < g->n_values; i++) {
        struct mdl_value *v = &g->values[i];
        const struct mdl_st_tensor *t;
        char got[80], want[80];

        if (!is_weight(v))
            continue;
        t = mdl_st_find(st, v->name);
        if (!t)
            return ut_fail(e, UT_EFORMAT,
                           "%s: no RetinaFace MobileNet 0.25: tensor %s is "
                           "missing",
                           path, v->name);
        if (!mdl_shape_equal(&t->shape, &v->shape))
            return ut_fail(e, UT_EFORMAT, "%s: %s is %s, not %s", path, v->name,
                           mdl_shape_text(&t->shape, got),
                           mdl_shape_text(&v->shape, want));
        rc = mdl_st_floats(t, d->floats + at, e);
        if (rc)
            return rc;
        v->data = d->floats + at;
        at += mdl_shape_count(&v->shape);
    }
    return UT_OK;
}

/* "side" of the metadata. */
static enum ut_err read_side(struct mdl_detector *d, const struct mdl_st *st,
                             const char *path, struct ut_error *e)
{
    const char *text = mdl_st_meta(st, "side");
    char *end;
    long side;

    d->side_px = MDL_DETECT_SIDE_PX;
    if (!text)
        return UT_OK;
    side = strtol(text, &end, 10);
    if (end == text || *end || side < 32 || side > MDL_DETECT_MAX_SIDE_PX)
        return ut_fail(e, UT_EFORMAT, "%s: \"side\" is \"%.20s\", not 32 to %d",
                       path, text, MDL_DETECT_MAX_SIDE_PX);
    d->side_px = (int)side;
    return UT_OK;
}

int mdl_detector_side(const struct mdl_detector *d)
{
    return d->side_px;
}

enum ut_err mdl_detector_open(const char *path, struct mdl_detector **out,
                              struct ut_error *e)
{
    struct mdl_detector *d = NULL;
    struct mdl_st *st = NULL;
    enum ut_err rc;

    *out = NULL;
    rc = mdl_st_open(path, &st, e);
    if (rc)
        goto out;
    d = calloc(1, sizeof(*d));
    if (!d) {
        rc = ut_fail(e, UT_ENOMEM, "%s: no memory for the handle", path);
        goto out;
    }
    rc = build(&d->graph, 32, 32, e);
    if (!rc)
        rc = bind(d, st, path, e);
    if (!rc)
        rc = read_side(d, st, path, e);
    if (rc)
        goto out;
    *out = d;
    d = NULL;
out:
    mdl_detector_close(d);
    mdl_st_close(st);
    return rc;
}

enum ut_err mdl_detector_fresh(uint64_t seed, struct mdl_detector **out,
                               struct ut_error *e)
{
    struct mdl_detector *d = calloc(1, sizeof(*d));
    enum ut_err rc;

    *out = NULL;
    if (!d)
        return ut_fail(e, UT_ENOMEM, "no memory for a detector");
    d->side_px = MDL_DETECT_SIDE_PX;
    rc = build(&d->graph, 32, 32, e);
    if (!rc)
        rc = mdl_model_init(&d->graph, seed, &d->floats, e);
    if (rc)
        mdl_detector_close(d);
    else
        *out = d;
    return rc;
}

void mdl_detector_close(struct mdl_detector *d)
{
    if (!d)
        return;
    mdl_graph_fini(&d->graph);
    free(d->floats);
    free(d);
}

enum ut_err mdl_detector_graph(const struct mdl_detector *d, int h, int w,
                               struct mdl_graph *out, struct ut_error *e)
{
    enum ut_err rc;

    mdl_graph_init(out);
    if (h < 32 || w < 32 || h % 32 || w % 32 || h > MDL_DETECT_MAX_SIDE_PX ||
        w > MDL_DETECT_MAX_SIDE_PX)
        return ut_fail(e, UT_EINVAL,
                       "the detector takes sides of 32, 64... %d px, not %dx%d",
                       MDL_DETECT_MAX_SIDE_PX, w, h);
    rc = build(out, h, w, e);
    if (rc) {
        mdl_graph_fini(out);
        return rc;
    }
    /* Built by the same calls, so that values have the same places. */
    for (int i = 0; i < out->n_values; i++)
        if (is_weight(&out->values[i]))
            out->values[i].data = d->graph.values[i].data;
    return UT_OK;
}

enum ut_err mdl_detector_write(const char *path, const struct mdl_graph *g,
                               bool half, const struct mdl_st_pair *meta,
                               size_t n_meta, const struct mdl_st_tensor *more,
                               size_t n_more, struct ut_error *e)
{
    struct mdl_st_tensor *list =
        calloc((size_t)g->n_values + n_more, sizeof(*list));
    size_t n = 0, at = 0, floats = 0;
    uint16_t *halves;
    enum ut_err rc;

    for (int i = 0; i < g->n_values; i++)
        if (is_weight(&g->values[i]))
            floats += mdl_shape_count(&g->values[i].shape);
    halves = malloc(floats * sizeof(*halves));
    if (!list || !halves) {
        rc = ut_fail(e, UT_ENOMEM, "%s: no memory to write it", path);
        goto out;
    }
    for (int i = 0; i < g->n_values; i++) {
        const struct mdl_value *v = &g->values[i];
        size_t count = mdl_shape_count(&v->shape);

        if (!is_weight(v))
            continue;
        list[n] = (struct mdl_st_tensor){v->name, MDL_F32, v->shape, v->data,
                                         count * sizeof(float)};
        if (half && v->shape.n_dims > 1) {
            mdl_f32_to_bf16(v->data, halves + at, count);
            list[n].dtype = MDL_BF16;
            list[n].data = halves + at;
            list[n].len = count * sizeof(*halves);
            at += count;
        }
        n++;
    }
    for (size_t i = 0; i < n_more; i++)
        list[n++] = more[i];
    rc = mdl_st_write(path, list, n, meta, n_meta, e);
out:
    free(list);
    free(halves);
    return rc;
}
