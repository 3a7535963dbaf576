/* The serving engine: a model, its optimised graph, and a plan for every
 * power of two on every lane. */
#include "server/inference/engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LANES 256
#define N_SIZES 6 /* 1, 2, 4, 8, 16, 32 */
#define FRESH_SEED 1

/* Of models without calibrated ones. */
#define FATIGUE_THRESHOLD 0.5
#define IDENTITY_THRESHOLD 0.35

struct lane {
    struct srv_engine *engine;
    int device;
    struct mdl_lane *lane;
    struct mdl_plan *plans[N_SIZES];
    uint8_t *in;                  /* [max_batch, crop]                    */
    float *probability;           /* [max_batch]                          */
    float *embedding;             /* [max_batch, dim]                     */
    float *attention[SRV_LEAVES]; /* [max_batch, height, width] */
    int n_plans;
    enum ut_err rc; /* of compiling; UT_ENOMEM: only n_plans have room */
    struct ut_error errors[N_SIZES]; /* why not, of each size; [0] of others */
};

struct srv_engine {
    struct mdl_model model;
    struct mdl_graph graph;                       /* optimised */
    struct mdl_backend *devices[SRV_MAX_DEVICES]; /* owned */
    int n_devices;
    char remarks[SRV_MAX_DEVICES + N_SIZES][256];
    int n_remarks;
    enum mdl_precision precision;
    int max_batch, n_lanes, dim;
    int fatigue, recognition; /* output positions, -1: none */
    int attention[SRV_LEAVES];
    size_t crop_len;
    struct lane *lanes;
};

const char *srv_engine_leaf(const struct mdl_model *m, enum mdl_head head)
{
    for (int i = 0; i < m->spec.n_nodes; i++)
        if (m->spec.nodes[i].head == head)
            return m->spec.nodes[i].name;
    return "";
}

float srv_engine_threshold(const struct mdl_model *m, enum mdl_head head)
{
    return (float)mdl_model_threshold(
        m, srv_engine_leaf(m, head),
        head == MDL_HEAD_BINARY ? FATIGUE_THRESHOLD : IDENTITY_THRESHOLD);
}

static int leaf_output(const struct mdl_model *m, enum mdl_head head,
                       const char *suffix)
{
    char name[MDL_NAME_LEN];

    snprintf(name, sizeof(name), "%s.%s", srv_engine_leaf(m, head), suffix);
    return mdl_graph_find_output(&m->graph, name);
}

enum ut_err srv_engine_fresh(struct mdl_model *out, struct ut_error *e)
{
    const char *text = mdl_model_builtin_spec("mobilenetv2");
    struct mdl_spec *spec;
    enum ut_err rc;

    spec = malloc(sizeof(*spec));
    if (!spec)
        return ut_fail(e, UT_ENOMEM, "no memory for the built-in spec");
    rc = mdl_spec_parse(text, strlen(text), spec, e);
    if (!rc)
        rc = mdl_model_fresh(spec, FRESH_SEED, out, e);
    free(spec);
    return rc;
}

enum ut_err srv_engine_fresh_version(char version[17], struct ut_error *e)
{
    struct mdl_model m;
    enum ut_err rc = srv_engine_fresh(&m, e);

    if (rc)
        return rc;
    snprintf(version, 17, "%s", m.version);
    mdl_model_close(&m);
    return UT_OK;
}

void srv_engine_sizes(const struct mdl_graph *g, uint64_t *parameters,
                      uint64_t *multiply_adds)
{
    *parameters = *multiply_adds = 0;
    for (int i = 0; i < g->n_values; i++)
        if (g->values[i].kind == MDL_VALUE_PARAM)
            *parameters += mdl_shape_count(&g->values[i].shape);
    for (int i = 0; i < g->n_nodes; i++)
        *multiply_adds += (uint64_t)mdl_node_macs(g, &g->nodes[i]);
}

static enum ut_err choose_outputs(struct srv_engine *en, struct ut_error *e)
{
    uint64_t keep = 0;

    en->fatigue = leaf_output(&en->model, MDL_HEAD_BINARY, "probability");
    en->recognition =
        leaf_output(&en->model, MDL_HEAD_EMBEDDING, "embedding.normalized");
    if (en->model.spec.input != 112)
        return ut_fail(e, UT_EINVAL,
                       "model %s takes %d px faces; the server aligns to 112",
                       en->model.name, en->model.spec.input);
    if (en->fatigue >= 0)
        keep |= 1ull << en->fatigue;
    if (en->recognition >= 0) {
        int v = en->model.graph.outputs[en->recognition];

        keep |= 1ull << en->recognition;
        en->dim = (int)en->model.graph.values[v].shape.dim[0];
    }
    en->attention[0] = leaf_output(&en->model, MDL_HEAD_BINARY, "attention.la");
    en->attention[1] =
        leaf_output(&en->model, MDL_HEAD_EMBEDDING, "attention.la");
    for (int i = 0; i < SRV_LEAVES; i++)
        if (en->attention[i] >= 0)
            keep |= 1ull << en->attention[i];
    if (!keep)
        return ut_fail(e, UT_EINVAL, "model %s has neither leaf",
                       en->model.name);
    return mdl_graph_optimise(&en->model.graph, keep, &en->graph, e);
}

/* Every size, also past one that has no room, so that all that is said of them
 * is said at once; only those before it are kept. */
static void compile_sizes(struct lane *l)
{
    struct srv_engine *en = l->engine;

    for (int i = 0; i < N_SIZES && 1 << i <= en->max_batch; i++) {
        struct mdl_plan *plan = NULL;
        enum ut_err rc = mdl_plan_new(l->lane, &en->graph, en->precision,
                                      1 << i, &plan, &l->errors[i]);

        if (!rc && !l->rc) {
            l->plans[l->n_plans++] = plan;
            continue;
        }
        mdl_plan_free(plan);
        l->rc = rc ? rc : l->rc;
        if (l->rc != UT_ENOMEM) {
            l->errors[0] = l->errors[i];
            return;
        }
    }
}

/* Compiles one lane's plans, on a thread of its own. */
static void *compile_lane(void *arg)
{
    struct lane *l = arg;
    struct srv_engine *en = l->engine;
    size_t n = (size_t)en->max_batch;
    int width, height;
    bool ok;

    l->in = malloc(n * en->crop_len);
    l->probability = malloc(n * sizeof(float));
    l->embedding = malloc((n * (size_t)en->dim + 1) * sizeof(float));
    ok = l->in && l->probability && l->embedding;
    for (int i = 0; i < SRV_LEAVES; i++) {
        size_t size = srv_engine_attention(en, i, &width, &height);

        l->attention[i] = malloc((n * size + 1) * sizeof(float));
        ok &= l->attention[i] != NULL;
    }
    if (!ok) {
        l->rc = ut_fail(l->errors, UT_ENOMEM, "no memory for a lane");
        return NULL;
    }
    l->rc = mdl_lane_new(en->devices[l->device], &l->lane, l->errors);
    if (!l->rc)
        compile_sizes(l);
    return NULL;
}

/* Where there is room for a few sizes only, those: fewer faces at a time are
 * slower, and better than none. Then the largest on any lane is everyone's. */
static enum ut_err agree(struct srv_engine *en, struct ut_error *e)
{
    const struct lane *least = &en->lanes[0];

    for (int i = 0; i < en->n_lanes; i++) {
        const struct lane *l = &en->lanes[i];

        if (l->rc && (l->rc != UT_ENOMEM || !l->n_plans))
            return ut_fail(e, l->rc, "%s", l->errors[0].msg);
        if (l->n_plans < least->n_plans)
            least = l;
    }
    for (int i = least->n_plans; 1 << i <= en->max_batch && i < N_SIZES; i++)
        snprintf(en->remarks[en->n_remarks++], sizeof(en->remarks[0]),
                 "no batches of %d: %.200s", 1 << i, least->errors[i].msg);
    if (1 << (least->n_plans - 1) < en->max_batch)
        en->max_batch = 1 << (least->n_plans - 1);
    return UT_OK;
}

static enum ut_err compile_all(struct srv_engine *en, struct ut_error *e)
{
    pthread_t threads[MAX_LANES];
    bool started[MAX_LANES] = {false};

    for (int i = 0; i < en->n_lanes; i++) {
        en->lanes[i].engine = en;
        en->lanes[i].device = i % en->n_devices;
        started[i] =
            !pthread_create(&threads[i], NULL, compile_lane, &en->lanes[i]);
        if (!started[i])
            compile_lane(&en->lanes[i]);
    }
    for (int i = 0; i < en->n_lanes; i++)
        if (started[i])
            pthread_join(threads[i], NULL);
    return agree(en, e);
}

/* The first must be there; of others, those that can be used and that one of
 * so many lanes is for (0: lanes enough for all). */
static enum ut_err open_devices(struct srv_engine *en, const char *name,
                                int lanes, struct ut_error *e)
{
    enum ut_err rc = mdl_backend_open(name, 0, &en->devices[0], e);
    int n;

    if (rc)
        return rc;
    en->n_devices = 1;
    n = mdl_backend_devices(en->devices[0]);
    if (lanes && lanes < n)
        n = lanes;
    for (int i = 1; i < n && i < SRV_MAX_DEVICES; i++) {
        struct ut_error why;

        if (!mdl_backend_open(mdl_backend_name(en->devices[0]), i,
                              &en->devices[en->n_devices], &why))
            en->n_devices++;
        else
            snprintf(en->remarks[en->n_remarks++], sizeof(en->remarks[0]),
                     "device %d is not used: %.200s", i, why.msg);
    }
    return UT_OK;
}

enum ut_err srv_engine_new(const struct srv_engine_config *c,
                           struct srv_engine **out, struct ut_error *e)
{
    struct srv_engine *en;
    enum ut_err rc;

    *out = NULL;
    if (c->max_batch < 1 || c->max_batch > SRV_MAX_BATCH ||
        c->max_batch & (c->max_batch - 1))
        return ut_fail(e, UT_EINVAL,
                       "a largest batch of %d is no power of two up to %d",
                       c->max_batch, SRV_MAX_BATCH);
    en = calloc(1, sizeof(*en));
    if (!en)
        return ut_fail(e, UT_ENOMEM, "no memory for the engine");
    mdl_graph_init(&en->graph);
    mdl_graph_init(&en->model.graph);
    en->precision = c->precision;
    en->max_batch = c->max_batch;
    rc = c->model_path ? mdl_model_open(c->model_path, &en->model, e)
                       : srv_engine_fresh(&en->model, e);
    if (!rc)
        rc = choose_outputs(en, e);
    if (!rc)
        rc = open_devices(en, c->backend, c->n_lanes, e);
    if (!rc) {
        en->n_lanes = c->n_lanes
                          ? c->n_lanes
                          : mdl_backend_lanes(en->devices[0]) * en->n_devices;
        if (en->n_lanes > MAX_LANES)
            en->n_lanes = MAX_LANES;
        en->crop_len =
            mdl_shape_count(&en->graph.values[en->graph.input].shape);
        en->lanes = calloc((size_t)en->n_lanes, sizeof(*en->lanes));
        rc = en->lanes
                 ? compile_all(en, e)
                 : ut_fail(e, UT_ENOMEM, "no memory for %d lanes", en->n_lanes);
    }
    if (!rc) {
        *out = en;
        en = NULL;
    }
    srv_engine_free(en);
    return rc;
}

void srv_engine_free(struct srv_engine *en)
{
    if (!en)
        return;
    for (int i = 0; en->lanes && i < en->n_lanes; i++) {
        struct lane *l = &en->lanes[i];

        for (int k = 0; k < N_SIZES; k++)
            mdl_plan_free(l->plans[k]);
        mdl_lane_free(l->lane);
        free(l->in);
        free(l->probability);
        free(l->embedding);
        for (int k = 0; k < SRV_LEAVES; k++)
            free(l->attention[k]);
    }
    free(en->lanes);
    for (int i = 0; i < en->n_devices; i++)
        mdl_backend_close(en->devices[i]);
    mdl_graph_fini(&en->graph);
    mdl_model_close(&en->model);
    free(en);
}

const struct mdl_model *srv_engine_model(const struct srv_engine *en)
{
    return &en->model;
}

const char *srv_engine_backend(const struct srv_engine *en)
{
    return mdl_backend_name(en->devices[0]);
}

enum mdl_precision srv_engine_precision(const struct srv_engine *en)
{
    return en->precision;
}

struct mdl_backend *srv_engine_device(const struct srv_engine *en)
{
    return en->devices[0];
}

int srv_engine_devices(const struct srv_engine *en)
{
    return en->n_devices;
}

struct mdl_backend *srv_engine_device_at(const struct srv_engine *en, int i)
{
    return en->devices[i];
}

int srv_engine_max_batch(const struct srv_engine *en)
{
    return en->max_batch;
}

const char *srv_engine_remark(const struct srv_engine *en, int i)
{
    return i < en->n_remarks ? en->remarks[i] : NULL;
}

int srv_engine_lanes(const struct srv_engine *en)
{
    return en->n_lanes;
}

int srv_engine_dim(const struct srv_engine *en)
{
    return en->dim;
}

unsigned srv_engine_tasks(const struct srv_engine *en)
{
    return (en->fatigue >= 0 ? SRV_TASK_FATIGUE : 0u) |
           (en->recognition >= 0 ? SRV_TASK_RECOGNITION : 0u);
}

size_t srv_engine_attention(const struct srv_engine *en, int leaf, int *width,
                            int *height)
{
    const struct mdl_graph *g = &en->graph;
    const struct mdl_shape *map;

    *width = *height = 0;
    if (en->attention[leaf] < 0)
        return 0;
    map = &g->values[g->outputs[en->attention[leaf]]].shape; /* [1, h, w] */
    *height = (int)map->dim[1];
    *width = (int)map->dim[2];
    return (size_t)*height * (size_t)*width;
}

int srv_engine_batch(const struct srv_engine *en, int n)
{
    int size = 1;

    while (size * 2 <= n && size * 2 <= en->max_batch)
        size *= 2;
    return size;
}

enum ut_err srv_engine_run(struct srv_engine *en, int lane,
                           const uint8_t *const *crops, int n, unsigned tasks,
                           struct srv_scores *const *scores, struct ut_error *e)
{
    struct lane *l = &en->lanes[lane];
    float *out[MDL_MAX_OUTPUTS] = {0};
    struct mdl_io io = {l->in, out};
    bool fatigue = tasks & SRV_TASK_FATIGUE && en->fatigue >= 0;
    bool recognition = tasks & SRV_TASK_RECOGNITION && en->recognition >= 0;
    size_t maps[SRV_LEAVES] = {0}; /* numbers of those asked for */
    int width, height;
    enum ut_err rc;

    for (int k = 0; k < SRV_LEAVES && tasks & SRV_TASK_ATTENTION; k++)
        if (tasks >> k & 1)
            maps[k] = srv_engine_attention(en, k, &width, &height);
    for (int i = 0; i < n; i++)
        memcpy(l->in + (size_t)i * en->crop_len, crops[i], en->crop_len);
    if (fatigue)
        out[en->fatigue] = l->probability;
    if (recognition)
        out[en->recognition] = l->embedding;
    for (int k = 0; k < SRV_LEAVES; k++)
        if (maps[k])
            out[en->attention[k]] = l->attention[k];
    rc = mdl_plan_run(l->plans[__builtin_ctz((unsigned)n)], &io, e);
    for (int i = 0; i < n && !rc; i++) {
        if (fatigue)
            scores[i]->probability = l->probability[i];
        if (recognition)
            memcpy(scores[i]->embedding,
                   l->embedding + (size_t)i * (size_t)en->dim,
                   (size_t)en->dim * sizeof(float));
        for (int k = 0; k < SRV_LEAVES; k++)
            if (maps[k])
                memcpy(scores[i]->attention[k],
                       l->attention[k] + (size_t)i * maps[k],
                       maps[k] * sizeof(float));
    }
    return rc;
}
