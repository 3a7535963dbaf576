/* The tree specification, from JSON and back. */
#include "model/spec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/spec_json.h"

/* members: that only nodes of this module have. */
static const struct {
    const char *name, *members;
} modules[] = {
    [MDL_MODULE_IRESNET] = {"iresnet", "layers widths"},
    [MDL_MODULE_MOBILENETV2] = {"mobilenetv2", "width"},
    [MDL_MODULE_LASE] = {"lase", "la_r se_r"},
    [MDL_MODULE_LA] = {"la", "la_r se_r"},
    [MDL_MODULE_SE] = {"se", "la_r se_r"},
    [MDL_MODULE_NONE] = {"none", "la_r se_r"},
    [MDL_MODULE_GRAPH] = {"graph", "ops"},
};

static const char *const heads[] = {
    [MDL_HEAD_NONE] = "none",
    [MDL_HEAD_BINARY] = "binary",
    [MDL_HEAD_EMBEDDING] = "embedding",
};

/* Names for usual depths. Source: InsightFace iresnet.py's factories. */
static const struct {
    const char *name;
    int layers[4];
} depths[] = {
    {"iresnet18", {2, 2, 2, 2}},
    {"iresnet34", {3, 4, 6, 3}},
    {"iresnet50", {3, 4, 14, 3}},
    {"iresnet100", {3, 13, 30, 3}},
};

#define MAX_BLOCKS 128 /* per stage     */
#define MAX_INPUT_PX 1024
#define MAX_DIM 2048     /* of embeddings */
#define MAX_PIXEL 65536. /* of means and scales */

const struct mdl_spec_image mdl_spec_image_default = {
    .mean = {127.5f, 127.5f, 127.5f},
    .scale = {1 / 127.5f, 1 / 127.5f, 1 / 127.5f},
};

bool mdl_spec_image_equal(const struct mdl_spec_image *a,
                          const struct mdl_spec_image *b)
{
    return !memcmp(a->mean, b->mean, sizeof(a->mean)) &&
           !memcmp(a->scale, b->scale, sizeof(a->scale)) && a->bgr == b->bgr;
}

const char *mdl_module_name(enum mdl_module m)
{
    return modules[m].name;
}

/* Whether a node of module m may stand at the top of a tree, or below. */
static bool may_stand(enum mdl_module m, bool top)
{
    bool root = m == MDL_MODULE_IRESNET || m == MDL_MODULE_MOBILENETV2;

    return m == MDL_MODULE_GRAPH || root == top;
}

enum ut_err mdl_spec_get_int(const json_t *j, const char *node, const char *key,
                             int low, int high, int *out, struct ut_error *e)
{
    const json_t *v = json_object_get(j, key);

    if (!v)
        return UT_OK;
    if (!json_is_integer(v) || json_integer_value(v) < low ||
        json_integer_value(v) > high)
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\": \"%s\" is not a whole number from "
                       "%d to %d",
                       node, key, low, high);
    *out = (int)json_integer_value(v);
    return UT_OK;
}

static enum ut_err get_ints(const json_t *j, const char *node, const char *key,
                            int high, int *out, int *n, struct ut_error *e)
{
    const json_t *list = json_object_get(j, key);
    size_t count = json_array_size(list);

    if (count < 1 || count > MDL_SPEC_MAX_STAGES)
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\": \"%s\" wants a list of 1 to %d "
                       "numbers",
                       node, key, MDL_SPEC_MAX_STAGES);
    for (size_t i = 0; i < count; i++) {
        json_int_t v = json_integer_value(json_array_get(list, i));

        if (v < 1 || v > high)
            return ut_fail(e, UT_EFORMAT,
                           "spec: node \"%s\": \"%s\"[%zu] is not from 1 to %d",
                           node, key, i, high);
        out[i] = (int)v;
    }
    *n = (int)count;
    return UT_OK;
}

enum ut_err mdl_spec_check_members(const json_t *j, const char *where,
                                   const char *allowed, struct ut_error *e)
{
    const char *key;
    json_t *value;
    char word[64];

    json_object_foreach((json_t *)(uintptr_t)j, key, value)
    {
        snprintf(word, sizeof(word), " %s ", key);
        if (strchr(key, ' ') || !strstr(allowed, word))
            return ut_fail(e, UT_EFORMAT,
                           "spec: %s has an unknown member \"%s\"; known are%s",
                           where, key, allowed);
    }
    return UT_OK;
}

static enum ut_err read_name(const json_t *j, const struct mdl_spec *spec,
                             struct mdl_spec_node *n, struct ut_error *e)
{
    const char *name = json_string_value(json_object_get(j, "name"));
    size_t len = name ? strlen(name) : 0;

    if (!len || len >= sizeof(n->name) ||
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != len)
        return ut_fail(e, UT_EFORMAT,
                       "spec: a node's name is not 1 to %d of a-z, 0-9, _",
                       MDL_SPEC_NAME_LEN - 1);
    if (mdl_spec_find(spec, name) >= 0)
        return ut_fail(e, UT_EFORMAT, "spec: two nodes are called \"%s\"",
                       name);
    memcpy(n->name, name, len + 1);
    return UT_OK;
}

static enum ut_err read_iresnet(const json_t *j, const char *module,
                                struct mdl_spec_node *n, struct ut_error *e)
{
    static const int widths[4] = {64, 128, 256, 512};
    int n_widths = 0; /* that the name stands for, or that are listed */
    enum ut_err rc;

    n->module = MDL_MODULE_IRESNET;
    for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++)
        if (!strcmp(module, depths[i].name)) {
            n->n_stages = n_widths = 4;
            memcpy(n->layers, depths[i].layers, sizeof(depths[i].layers));
            memcpy(n->widths, widths, sizeof(widths));
        }
    if (!n->n_stages || json_object_get(j, "layers")) {
        rc = get_ints(j, n->name, "layers", MAX_BLOCKS, n->layers, &n->n_stages,
                      e);
        if (rc)
            return rc;
    }
    if (!n_widths || json_object_get(j, "widths")) {
        rc = get_ints(j, n->name, "widths", MDL_SPEC_MAX_WIDTH, n->widths,
                      &n_widths, e);
        if (rc)
            return rc;
    }
    if (n_widths != n->n_stages)
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\" has %d layers but %d widths", n->name,
                       n->n_stages, n_widths);
    return UT_OK;
}

static enum ut_err read_module(const json_t *j, struct mdl_spec_node *n,
                               struct ut_error *e)
{
    const char *module = json_string_value(json_object_get(j, "module"));
    const json_t *width = json_object_get(j, "width");

    if (module && !strncmp(module, "iresnet", 7)) {
        bool known = !module[7];

        for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++)
            known = known || !strcmp(module, depths[i].name);
        if (known)
            return read_iresnet(j, module, n, e);
    }
    for (int i = MDL_MODULE_MOBILENETV2; module && i <= MDL_MODULE_GRAPH; i++) {
        if (strcmp(module, modules[i].name))
            continue;
        n->module = (enum mdl_module)i;
        n->width = 1.0;
        if (width) {
            n->width = json_number_value(width);
            if (!(n->width >= 0.05 && n->width <= 8))
                return ut_fail(e, UT_EFORMAT,
                               "spec: node \"%s\": \"width\" is not from 0.05 "
                               "to 8",
                               n->name);
        }
        return UT_OK;
    }
    return ut_fail(e, UT_EFORMAT,
                   "spec: node \"%s\" has module \"%s\"; known are iresnet, "
                   "iresnet18, 34, 50, 100, mobilenetv2, lase, la, se, none, "
                   "graph",
                   n->name, module ? module : "");
}

/* Three numbers of pixels, if they are there. */
static enum ut_err get_pixels(const json_t *j, const char *node,
                              const char *key, float out[3], struct ut_error *e)
{
    const json_t *list = json_object_get(j, key);
    bool good = json_array_size(list) == 3;

    for (size_t c = 0; good && c < 3; c++) {
        const json_t *v = json_array_get(list, c);

        out[c] = (float)json_number_value(v);
        good = json_is_number(v) && fabs(json_number_value(v)) <= MAX_PIXEL;
    }
    return good || !list
               ? UT_OK
               : ut_fail(e, UT_EFORMAT,
                         "spec: node \"%s\": the image's \"%s\" is not "
                         "three numbers up to %g",
                         node, key, MAX_PIXEL);
}

static enum ut_err read_image(const json_t *j, struct mdl_spec_node *n,
                              struct ut_error *e)
{
    const json_t *image = json_object_get(j, "image"), *bgr;
    enum ut_err rc;

    n->image = mdl_spec_image_default;
    if (!image)
        return UT_OK;
    if (n->parent >= 0)
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\" is no root and has an \"image\"",
                       n->name);
    rc = mdl_spec_check_members(image, "an image", " mean scale bgr ", e);
    if (!rc)
        rc = get_pixels(image, n->name, "mean", n->image.mean, e);
    if (!rc)
        rc = get_pixels(image, n->name, "scale", n->image.scale, e);
    bgr = json_object_get(image, "bgr");
    if (!rc && ((bgr && !json_is_boolean(bgr)) || !json_is_object(image)))
        rc = ut_fail(e, UT_EFORMAT,
                     "spec: node \"%s\": \"image\" is no object, or its "
                     "\"bgr\" neither true nor false",
                     n->name);
    n->image.bgr = json_is_true(bgr);
    return rc;
}

static enum ut_err read_head(const json_t *j, struct mdl_spec_node *n,
                             struct ut_error *e)
{
    const json_t *head = json_object_get(j, "head");
    const json_t *children = json_object_get(j, "children");
    bool parent = json_array_size(children) > 0;

    n->head = MDL_HEAD_NONE;
    for (int i = MDL_HEAD_BINARY; head && i <= MDL_HEAD_EMBEDDING; i++)
        if (json_is_string(head) && !strcmp(json_string_value(head), heads[i]))
            n->head = (enum mdl_head)i;
    if (head && !n->head)
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\": \"head\" is neither binary nor "
                       "embedding",
                       n->name);
    if (children && !json_is_array(children))
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\": \"children\" is no list", n->name);
    if (parent && n->head)
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\" has children and a head", n->name);
    if (!parent && !n->head)
        return ut_fail(e, UT_EFORMAT,
                       "spec: leaf \"%s\" has no head (binary or embedding)",
                       n->name);
    if (n->head != MDL_HEAD_EMBEDDING && json_object_get(j, "dim"))
        return ut_fail(e, UT_EFORMAT,
                       "spec: node \"%s\" has \"dim\" but no embedding",
                       n->name);
    n->dim = 512;
    return mdl_spec_get_int(j, n->name, "dim", 1, MAX_DIM, &n->dim, e);
}

static enum ut_err read_node(const json_t *j, int parent, int depth,
                             struct mdl_spec *spec, struct ut_error *e)
{
    struct mdl_spec_node n = {.parent = parent, .la_r = 2, .se_r = 16};
    int me = spec->n_nodes;
    char allowed[96];
    enum ut_err rc;

    if (!json_is_object(j))
        return ut_fail(e, UT_EFORMAT, "spec: a node is not an object");
    if (depth >= MDL_SPEC_MAX_DEPTH || me >= MDL_SPEC_MAX_NODES)
        return ut_fail(e, UT_EFORMAT, "spec: over %d levels or %d nodes",
                       MDL_SPEC_MAX_DEPTH, MDL_SPEC_MAX_NODES);
    rc = read_name(j, spec, &n, e);
    if (!rc)
        rc = read_module(j, &n, e);
    if (!rc) {
        snprintf(allowed, sizeof(allowed),
                 " name module %s head dim image children ",
                 modules[n.module].members);
        rc = mdl_spec_check_members(j, n.name, allowed, e);
    }
    if (!rc && !may_stand(n.module, parent < 0))
        rc = ut_fail(
            e, UT_EFORMAT, "spec: node \"%s\": %s can%s be the root of a tree",
            n.name, modules[n.module].name, parent < 0 ? "not" : " only");
    if (!rc)
        rc = mdl_spec_get_int(j, n.name, "la_r", 1, MDL_SPEC_MAX_WIDTH, &n.la_r,
                              e);
    if (!rc)
        rc = mdl_spec_get_int(j, n.name, "se_r", 1, MDL_SPEC_MAX_WIDTH, &n.se_r,
                              e);
    if (!rc)
        rc = read_head(j, &n, e);
    if (!rc)
        rc = read_image(j, &n, e);
    if (!rc && n.module == MDL_MODULE_GRAPH)
        rc = mdl_spec_read_ops(j, spec, &n, e);
    if (rc)
        return rc;
    spec->nodes[spec->n_nodes++] = n;
    for (size_t i = 0;
         !rc && i < json_array_size(json_object_get(j, "children")); i++)
        rc = read_node(json_array_get(json_object_get(j, "children"), i), me,
                       depth + 1, spec, e);
    return rc;
}

enum ut_err mdl_spec_parse(const char *json, size_t len, struct mdl_spec *out,
                           struct ut_error *e)
{
    struct mdl_spec *spec = calloc(1, sizeof(*spec));
    json_error_t why;
    json_t *j = json_loadb(json, len, JSON_REJECT_DUPLICATES, &why), *trees;
    enum ut_err rc = UT_OK;

    if (!spec) {
        rc = ut_fail(e, UT_ENOMEM, "spec: no memory");
        goto out;
    }
    if (!json_is_object(j)) {
        rc = ut_fail(e, UT_EFORMAT, "spec: no JSON object: %s at line %d",
                     j ? "another type" : why.text, j ? 1 : why.line);
        goto out;
    }
    spec->input = 112;
    rc = mdl_spec_check_members(j, "the top", " input trees ", e);
    if (!rc)
        rc = mdl_spec_get_int(j, "the top", "input", 16, MAX_INPUT_PX,
                              &spec->input, e);
    trees = json_object_get(j, "trees");
    if (!rc && json_array_size(trees) == 0)
        rc = ut_fail(e, UT_EFORMAT, "spec: \"trees\" is no list of trees");
    for (size_t i = 0; !rc && i < json_array_size(trees); i++)
        rc = read_node(json_array_get(trees, i), -1, 0, spec, e);
    if (!rc)
        *out = *spec;
out:
    json_decref(j);
    free(spec);
    return rc;
}

void mdl_spec_set(json_t *j, const char *key, json_t *v, bool *ok)
{
    *ok = !json_object_set_new(j, key, v) && *ok;
}

void mdl_spec_append(json_t *list, json_t *v, bool *ok)
{
    *ok = !json_array_append_new(list, v) && *ok;
}

static json_t *int_list(const int *v, int n, bool *ok)
{
    json_t *list = json_array();

    for (int i = 0; i < n; i++)
        mdl_spec_append(list, json_integer(v[i]), ok);
    return list;
}

static json_t *pixels(const float v[3], bool *ok)
{
    json_t *list = json_array();

    for (int c = 0; c < 3; c++)
        mdl_spec_append(list, json_real((double)v[c]), ok);
    return list;
}

static json_t *image_json(const struct mdl_spec_image *image, bool *ok)
{
    json_t *j = json_object();

    mdl_spec_set(j, "mean", pixels(image->mean, ok), ok);
    mdl_spec_set(j, "scale", pixels(image->scale, ok), ok);
    if (image->bgr)
        mdl_spec_set(j, "bgr", json_true(), ok);
    return j;
}

static json_t *node_json(const struct mdl_spec *spec, int idx, bool *ok)
{
    const struct mdl_spec_node *n = &spec->nodes[idx];
    json_t *j = json_object(), *children;

    mdl_spec_set(j, "name", json_string(n->name), ok);
    mdl_spec_set(j, "module", json_string(modules[n->module].name), ok);
    if (n->parent < 0 &&
        !mdl_spec_image_equal(&n->image, &mdl_spec_image_default))
        mdl_spec_set(j, "image", image_json(&n->image, ok), ok);
    if (n->module == MDL_MODULE_IRESNET) {
        mdl_spec_set(j, "layers", int_list(n->layers, n->n_stages, ok), ok);
        mdl_spec_set(j, "widths", int_list(n->widths, n->n_stages, ok), ok);
    } else if (n->module == MDL_MODULE_MOBILENETV2) {
        mdl_spec_set(j, "width", json_real(n->width), ok);
    } else if (n->module == MDL_MODULE_GRAPH) {
        mdl_spec_set(j, "ops", mdl_spec_ops_json(spec, n, ok), ok);
    } else {
        mdl_spec_set(j, "la_r", json_integer(n->la_r), ok);
        mdl_spec_set(j, "se_r", json_integer(n->se_r), ok);
    }
    if (n->head)
        mdl_spec_set(j, "head", json_string(heads[n->head]), ok);
    if (n->head == MDL_HEAD_EMBEDDING)
        mdl_spec_set(j, "dim", json_integer(n->dim), ok);
    if (!n->head) {
        children = json_array();
        for (int i = idx + 1; i < spec->n_nodes; i++)
            if (spec->nodes[i].parent == idx)
                mdl_spec_append(children, node_json(spec, i, ok), ok);
        mdl_spec_set(j, "children", children, ok);
    }
    return j;
}

/* JSON has no word for what is not a number. */
static enum ut_err check_numbers(const struct mdl_spec *spec,
                                 struct ut_error *e)
{
    for (int i = 0; i < spec->n_nodes; i++) {
        const struct mdl_spec_node *n = &spec->nodes[i];

        for (int c = 0; c < 3; c++)
            if (!isfinite(n->image.mean[c]) || !isfinite(n->image.scale[c]))
                return ut_fail(e, UT_EINVAL,
                               "spec: node \"%s\": the image's mean or scale "
                               "is not finite",
                               n->name);
        for (int k = 0; k < n->n_ops; k++)
            if (!isfinite(spec->ops[n->first_op + k].number))
                return ut_fail(e, UT_EINVAL,
                               "spec: node \"%s\", operation %d: its number "
                               "is not finite",
                               n->name, k);
    }
    return UT_OK;
}

/* Not by json_dumps, which leaves out what it has no memory for. */
static char *text_of(const json_t *j)
{
    size_t len = json_dumpb(j, NULL, 0, JSON_COMPACT);
    char *text = calloc(1, len + 1);

    if (!len || !text || json_dumpb(j, text, len, JSON_COMPACT) != len) {
        free(text);
        return NULL;
    }
    return text;
}

enum ut_err mdl_spec_write(const struct mdl_spec *spec, char **json,
                           struct ut_error *e)
{
    json_t *top, *trees;
    enum ut_err rc = check_numbers(spec, e);
    bool ok = true;

    *json = NULL;
    if (rc)
        return rc;
    top = json_object();
    trees = json_array();
    for (int i = 0; i < spec->n_nodes; i++)
        if (spec->nodes[i].parent < 0)
            mdl_spec_append(trees, node_json(spec, i, &ok), &ok);
    mdl_spec_set(top, "input", json_integer(spec->input), &ok);
    mdl_spec_set(top, "trees", trees, &ok);
    if (ok)
        *json = text_of(top);
    json_decref(top);
    return *json ? UT_OK : ut_fail(e, UT_ENOMEM, "spec: no memory to write it");
}

int mdl_spec_find(const struct mdl_spec *spec, const char *name)
{
    for (int i = 0; i < spec->n_nodes; i++)
        if (!strcmp(spec->nodes[i].name, name))
            return i;
    return -1;
}
