/* ListModels: what answers, and how. */
#include <stdlib.h>

#include "server/answer.h"
#include "server/app.h"
#include "server/handlers.h"

static void fill_sizes(const struct mdl_graph *g, Tscaf__V1__ModelInfo *info)
{
    for (int i = 0; i < g->n_values; i++)
        if (g->values[i].kind == MDL_VALUE_PARAM)
            info->parameters += mdl_shape_count(&g->values[i].shape);
    for (int i = 0; i < g->n_nodes; i++)
        info->multiply_adds += (uint64_t)mdl_node_macs(g, &g->nodes[i]);
}

void srv_handle_list_models(struct srv_call *c)
{
    Tscaf__V1__ListModelsResponse r = TSCAF__V1__LIST_MODELS_RESPONSE__INIT;
    Tscaf__V1__ModelInfo info = TSCAF__V1__MODEL_INFO__INIT, *list = &info;
    const struct mdl_model *m = srv_engine_model(c->app->engine);
    Tscaf__V1__ModelRef model;
    struct ut_error e;
    char *spec;

    if (mdl_spec_write(&m->spec, &spec, &e)) {
        srv_answer_fail(c, &e);
        return;
    }
    srv_answer_model(c->app, &model);
    fill_sizes(&m->graph, &info);
    info.model = &model;
    info.backend = (char *)(uintptr_t)srv_engine_backend(c->app->engine);
    info.precision = (char *)(uintptr_t)mdl_precision_name(
        srv_engine_precision(c->app->engine));
    info.spec = spec;
    info.fatigue_threshold = srv_answer_fatigue_threshold(c->app, 0);
    info.identity_threshold = srv_answer_identity_threshold(c->app, 0);
    info.detector = c->app->detector != NULL;
    r.n_models = 1;
    r.models = &list;
    c->reply(c, &r.base);
    free(spec);
}
