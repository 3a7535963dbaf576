/* Model files: a spec, the graph it builds and the weights that fill it. */
#include "model/model.h"

#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "model/nets/nets.h"

#define MAX_NAMED_FAULTS 8 /* tensors listed in one message */

/* ---- building ---- */

/* The picture as root n is shown it; roots that are shown the same share it.
 * seen[k]: of the roots before n. */
static int input_image(struct mdl_graph *g, const struct mdl_spec *spec, int n,
                       const int *seen)
{
    const struct mdl_spec_image *image = &spec->nodes[n].image;

    for (int k = 0; k < n; k++)
        if (spec->nodes[k].parent < 0 &&
            mdl_spec_image_equal(&spec->nodes[k].image, image))
            return seen[k];
    mdl_graph_module(g, "input");
    return mdl_graph_image(
        g, n ? g->input : mdl_graph_input(g, spec->input, spec->input),
        image->mean, image->scale, image->bgr);
}

enum ut_err mdl_model_build(const struct mdl_spec *spec, struct mdl_graph *out,
                            struct ut_error *e)
{
    int values[MDL_SPEC_MAX_NODES], seen[MDL_SPEC_MAX_NODES];

    mdl_graph_init(out);
    for (int i = 0; i < spec->n_nodes; i++) {
        const struct mdl_spec_node *n = &spec->nodes[i];
        int x = n->parent < 0 ? seen[i] = input_image(out, spec, i, seen)
                              : values[n->parent];

        if (n->module == MDL_MODULE_GRAPH)
            x = mdl_net_graph(out, x, spec, n);
        else if (n->module == MDL_MODULE_IRESNET)
            x = mdl_net_iresnet(out, x, n);
        else if (n->module == MDL_MODULE_MOBILENETV2)
            x = mdl_net_mobilenetv2(out, x, n);
        else
            x = mdl_net_branch(out, x, n);
        if (n->parent < 0)
            mdl_graph_output(out, x, "%s", n->name);
        mdl_net_head(out, x, n);
        values[i] = x;
    }
    if (out->error.code) {
        enum ut_err rc =
            ut_fail(e, out->error.code, "spec: %s", out->error.msg);

        mdl_graph_fini(out);
        return rc;
    }
    return UT_OK;
}

/* ---- binding ---- */

static bool is_weight(const struct mdl_value *v)
{
    return v->kind == MDL_VALUE_PARAM || v->kind == MDL_VALUE_BUFFER;
}

static bool is_named(const struct mdl_graph *g, const char *name)
{
    for (int i = 0; i < g->n_values; i++)
        if (is_weight(&g->values[i]) && !strcmp(g->values[i].name, name))
            return true;
    return false;
}

bool mdl_model_trains_with(const char *name)
{
    const char *suffixes[] = {".arcface.weight", ".projection.weight",
                              ".hint.weight", ".num_batches_tracked"};
    size_t len = strlen(name);

    if (!strncmp(name, "optimizer.", strlen("optimizer.")))
        return true;
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++)
        if (len > strlen(suffixes[i]) &&
            !strcmp(name + len - strlen(suffixes[i]), suffixes[i]))
            return true;
    return false;
}

struct faults {
    struct ut_buf text;
    bool full;
    int n;
};

static void fault(struct faults *f, const char *what, const char *name)
{
    /* Only as many as the text holds; the count tells of the rest. */
    if (f->n++ < MAX_NAMED_FAULTS && !f->full)
        f->full = ut_buf_addf(&f->text, NULL, "%s%s %s", f->n > 1 ? ", " : "",
                              what, name) != UT_OK;
}

/* Missing, misshapen and left-over tensors; *convert counts the floats that
 * cannot be used where they are. */
static enum ut_err compare(const struct mdl_graph *g, const struct mdl_st *st,
                           size_t *convert, struct ut_error *e)
{
    struct faults f = {.n = 0};
    enum ut_err rc = UT_OK;

    ut_buf_init(&f.text, 200);
    *convert = 0;
    for (int i = 0; i < g->n_values; i++) {
        const struct mdl_value *v = &g->values[i];
        const struct mdl_st_tensor *t;

        if (!is_weight(v))
            continue;
        t = mdl_st_find(st, v->name);
        if (!t)
            fault(&f, "missing", v->name);
        else if (!mdl_shape_equal(&t->shape, &v->shape))
            fault(&f, "wrong shape of", v->name);
        else if (t->dtype != MDL_F32 && t->dtype != MDL_F16 &&
                 t->dtype != MDL_BF16)
            fault(&f, "no floats in", v->name);
        else if (t->dtype != MDL_F32 || (uintptr_t)t->data % sizeof(float))
            *convert += mdl_shape_count(&v->shape);
    }
    for (size_t i = 0; i < mdl_st_count(st); i++)
        if (!mdl_model_trains_with(mdl_st_at(st, i)->name) &&
            !is_named(g, mdl_st_at(st, i)->name))
            fault(&f, "left over", mdl_st_at(st, i)->name);
    if (f.n)
        rc = ut_fail(e, UT_EFORMAT, "%d tensors do not fit the spec: %s%s", f.n,
                     f.text.data ? f.text.data : "",
                     f.full || f.n > MAX_NAMED_FAULTS ? ", ..." : "");
    ut_buf_fini(&f.text);
    return rc;
}

enum ut_err mdl_model_bind(struct mdl_graph *g, const struct mdl_st *file,
                           float **floats, struct ut_error *e)
{
    size_t convert, at = 0;
    enum ut_err rc = compare(g, file, &convert, e);

    *floats = NULL;
    if (rc)
        return rc;
    if (convert && !(*floats = malloc(convert * sizeof(float))))
        return ut_fail(e, UT_ENOMEM, "no memory for %zu weights", convert);
    for (int i = 0; i < g->n_values; i++) {
        struct mdl_value *v = &g->values[i];
        const struct mdl_st_tensor *t;

        if (!is_weight(v))
            continue;
        t = mdl_st_find(file, v->name);
        v->data = t->data;
        if (t->dtype == MDL_F32 && (uintptr_t)t->data % sizeof(float) == 0)
            continue;
        rc = mdl_st_floats(t, *floats + at, e);
        if (rc)
            return rc;
        v->data = *floats + at;
        at += mdl_shape_count(&v->shape);
    }
    return UT_OK;
}

/* ---- fresh values ---- */

/* splitmix64; the constants are the generator's own (Steele et al. 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static double uniform(uint64_t *state)
{
    return ((double)(next_random(state) >> 11) + 0.5) * 0x1p-53;
}

static void fill(const struct mdl_value *v, uint64_t seed, float *out)
{
    size_t n = mdl_shape_count(&v->shape), len = strlen(v->name);
    const char *last = strrchr(v->name, '.');
    double std;

    for (size_t i = 0; i < len; i++)
        seed = (seed ^ (uint8_t)v->name[i]) * 0x100000001b3ull; /* FNV-1a */
    if (v->shape.n_dims > 1) {
        std = sqrt(2.0 / (double)(n / (size_t)v->shape.dim[0]));
        for (size_t i = 0; i < n; i++) {
            double r = sqrt(-2 * log(uniform(&seed)));

            out[i] = (float)(std * r * cos(2 * M_PI * uniform(&seed)));
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = 0; /* biases and running means */
        if (strstr(v->name, "prelu"))
            out[i] = 0.25f;
        else if (last &&
                 (!strcmp(last, ".weight") || !strcmp(last, ".running_var")))
            out[i] = 1;
    }
}

enum ut_err mdl_model_init(struct mdl_graph *g, uint64_t seed, float **floats,
                           struct ut_error *e)
{
    size_t n = 0, at = 0;

    for (int i = 0; i < g->n_values; i++)
        if (is_weight(&g->values[i]))
            n += mdl_shape_count(&g->values[i].shape);
    *floats = malloc((n + 1) * sizeof(float));
    if (!*floats)
        return ut_fail(e, UT_ENOMEM, "no memory for %zu weights", n);
    for (int i = 0; i < g->n_values; i++) {
        struct mdl_value *v = &g->values[i];

        if (!is_weight(v))
            continue;
        fill(v, seed, *floats + at);
        v->data = *floats + at;
        at += mdl_shape_count(&v->shape);
    }
    return UT_OK;
}

/* ---- files ---- */

/* Clients are sent it: UTF-8 whatever the file is called, of whole characters
 * where it is too long. */
static void name_of(const struct mdl_st *st, const char *path, char name[64])
{
    const char *given = mdl_st_meta(st, "name"), *from = given, *end = NULL;
    size_t at = 0;

    if (!given) {
        from = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
        end = strrchr(from, '.');
    }
    end = end ? end : from + strlen(from);
    while (from < end) {
        int valid = ut_utf8_len(from);
        size_t n = valid ? (size_t)valid : 1;

        if (at + n >= 64)
            break;
        memcpy(name + at, valid ? from : "?", n);
        at += n;
        from += n;
    }
    name[at] = '\0';
}

static void version_of(const void *bytes, size_t len, char version[17])
{
    uint8_t hash[16];

    crypto_generichash(hash, sizeof(hash), bytes, len, NULL, 0);
    for (int i = 0; i < 8; i++)
        snprintf(version + 2 * i, 3, "%02x", hash[i]);
}

enum ut_err mdl_model_open(const char *path, struct mdl_model *out,
                           struct ut_error *e)
{
    struct mdl_model m = {.trained = true};
    const char *format, *spec, *trained;
    struct ut_error why = {0};
    const void *bytes;
    enum ut_err rc;
    size_t len;

    memset(out, 0, sizeof(*out));
    mdl_graph_init(&m.graph);
    rc = mdl_st_open(path, &m.file, e);
    if (rc)
        return rc;
    format = mdl_st_meta(m.file, "format");
    spec = mdl_st_meta(m.file, "spec");
    trained = mdl_st_meta(m.file, "trained");
    if (!format || strcmp(format, "tscaf/1") || !spec) {
        rc = ut_fail(&why, UT_EFORMAT,
                     "metadata \"format\" is \"%s\", not \"tscaf/1\", or "
                     "\"spec\" is missing",
                     format ? format : "");
        goto out;
    }
    m.trained = !trained || strcmp(trained, "false");
    rc = mdl_spec_parse(spec, strlen(spec), &m.spec, &why);
    if (!rc)
        rc = mdl_model_build(&m.spec, &m.graph, &why);
    if (!rc)
        rc = mdl_model_bind(&m.graph, m.file, &m.floats, &why);
out:
    if (rc) {
        mdl_model_close(&m);
        return ut_fail(e, rc, "%s: %s", path, why.msg);
    }
    name_of(m.file, path, m.name);
    bytes = mdl_st_bytes(m.file, &len);
    version_of(bytes, len, m.version);
    *out = m;
    return UT_OK;
}

enum ut_err mdl_model_fresh(const struct mdl_spec *spec, uint64_t seed,
                            struct mdl_model *out, struct ut_error *e)
{
    struct mdl_model m = {.spec = *spec, .name = "untrained"};
    struct ut_buf id;
    char *json = NULL;
    enum ut_err rc;

    memset(out, 0, sizeof(*out));
    ut_buf_init(&id, 1 << 20);
    mdl_graph_init(&m.graph);
    rc = mdl_spec_write(spec, &json, e);
    if (!rc)
        rc =
            ut_buf_addf(&id, e, "%s seed %llu", json, (unsigned long long)seed);
    if (!rc)
        rc = mdl_model_build(spec, &m.graph, e);
    if (!rc)
        rc = mdl_model_init(&m.graph, seed, &m.floats, e);
    if (!rc) {
        version_of(id.data, id.len, m.version);
        *out = m;
    } else {
        mdl_model_close(&m);
    }
    ut_buf_fini(&id);
    free(json);
    return rc;
}

#define TSCAF(root)                                                            \
    "{\"input\":112,\"trees\":[{\"name\":\"root\",\"module\":\"" root          \
    "\",\"children\":[{\"name\":\"fatigue\",\"module\":\"lase\","              \
    "\"head\":\"binary\"},{\"name\":\"recognition\",\"module\":\"lase\","      \
    "\"head\":\"embedding\"}]}]}"

const char *mdl_model_builtin_spec(const char *name)
{
    if (!strcmp(name, "iresnet50"))
        return TSCAF("iresnet50");
    if (!strcmp(name, "mobilenetv2"))
        return TSCAF("mobilenetv2");
    return NULL;
}

void mdl_model_close(struct mdl_model *m)
{
    mdl_graph_fini(&m->graph);
    mdl_st_close(m->file);
    free(m->floats);
    memset(m, 0, sizeof(*m));
}

double mdl_model_threshold(const struct mdl_model *m, const char *leaf,
                           double fallback)
{
    char key[MDL_SPEC_NAME_LEN + 16];
    const char *text;
    double value;
    char *end;

    snprintf(key, sizeof(key), "threshold.%s", leaf);
    text = m->file ? mdl_st_meta(m->file, key) : NULL;
    if (!text)
        return fallback;
    value = strtod(text, &end);
    /* As a float, like the scores: one that made it is at it, not below. */
    return *end || end == text || !isfinite(value) ? fallback
                                                   : (double)(float)value;
}

void mdl_model_threshold_text(float threshold, char out[MDL_THRESHOLD_LEN])
{
    snprintf(out, MDL_THRESHOLD_LEN, "%.9g", (double)threshold);
}

enum ut_err mdl_model_write(const char *path, const struct mdl_spec *spec,
                            const struct mdl_graph *g,
                            const struct mdl_st_pair *meta, size_t n_meta,
                            const struct mdl_st_tensor *more, size_t n_more,
                            struct ut_error *e)
{
    struct mdl_st_tensor *tensors =
        calloc((size_t)g->n_values + n_more + 1, sizeof(*tensors));
    struct mdl_st_pair *pairs = calloc(n_meta + 2, sizeof(*pairs));
    char *json = NULL;
    enum ut_err rc;
    size_t n = 0;

    rc = mdl_spec_write(spec, &json, e);
    if (rc)
        goto out;
    if (!tensors || !pairs) {
        rc = ut_fail(e, UT_ENOMEM, "%s: no memory to write it", path);
        goto out;
    }
    pairs[0] = (struct mdl_st_pair){"format", "tscaf/1"};
    pairs[1] = (struct mdl_st_pair){"spec", json};
    for (size_t i = 0; i < n_meta; i++)
        pairs[2 + i] = meta[i];
    for (int i = 0; i < g->n_values; i++) {
        const struct mdl_value *v = &g->values[i];

        if (is_weight(v))
            tensors[n++] = (struct mdl_st_tensor){
                .name = v->name,
                .dtype = MDL_F32,
                .shape = v->shape,
                .data = v->data,
                .len = mdl_shape_count(&v->shape) * sizeof(float),
            };
    }
    for (size_t i = 0; i < n_more; i++)
        tensors[n++] = more[i];
    rc = mdl_st_write(path, tensors, n, pairs, n_meta + 2, e);
out:
    free(tensors);
    free(pairs);
    free(json);
    return rc;
}
