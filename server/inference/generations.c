/* Models with their galleries, held by the requests that use them. */
#include "server/inference/generations.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/eval/explain.h"
#include "server/app.h"

void srv_model_path(const char *data, const char *version, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%.4000s/models/%s.safetensors", data, version);
}

const char *srv_generation_version(const struct srv_generation *g)
{
    return srv_engine_model(g->engine)->version;
}

/* ---- holding ---- */

static void destroy(struct srv_generation *g)
{
    srv_batcher_free(g->batcher);
    srv_gallery_free(g->gallery);
    for (int i = 0; i < 2; i++)
        mdl_explainer_free(g->explainers[i]);
    srv_engine_free(g->engine);
    free(g->path);
    free(g);
}

static void destroy_run(void *arg, int worker)
{
    (void)worker;
    destroy(arg);
}

struct srv_generation *srv_generation_take(struct srv_app *app)
{
    struct srv_generations *all = &app->generations;
    struct srv_generation *g;

    pthread_mutex_lock(&all->lock);
    g = all->current;
    __atomic_add_fetch(&g->refs, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&all->lock);
    return g;
}

static bool was_last(struct srv_generation *g)
{
    return g && !__atomic_sub_fetch(&g->refs, 1, __ATOMIC_ACQ_REL);
}

void srv_generation_drop_now(struct srv_generation *g)
{
    if (was_last(g))
        destroy(g);
}

void srv_generation_drop(struct srv_generation *g)
{
    struct ut_error e;

    if (!was_last(g))
        return;
    /* Its executors are joined and much memory goes back: not on the loop. */
    if (!g->app->model_pool ||
        srv_pool_push(g->app->model_pool, destroy_run, g, &e))
        destroy(g);
}

bool srv_generation_is_current(const struct srv_generation *g)
{
    struct srv_generations *all = &g->app->generations;
    bool is;

    pthread_mutex_lock(&all->lock);
    is = g == all->current;
    pthread_mutex_unlock(&all->lock);
    return is;
}

/* ---- making ---- */

/* The gallery searches where the model runs. */
static enum ut_err place(struct srv_generation *g, struct ut_error *e)
{
    struct mdl_backend *devices[SRV_MAX_DEVICES];
    int n = srv_engine_devices(g->engine);

    for (int i = 0; i < n; i++)
        devices[i] = srv_engine_device_at(g->engine, i);
    return srv_engine_dim(g->engine)
               ? srv_gallery_place(g->gallery, devices, n, g->app->log, e)
               : UT_OK;
}

enum ut_err srv_generation_new(struct srv_app *app, const char *path,
                               struct srv_generation **out, struct ut_error *e)
{
    const struct srv_config *c = app->config;
    const struct srv_engine_config engine = {
        .model_path = path,
        .backend = c->backend,
        .precision = c->precision,
        .max_batch = c->max_batch,
    };
    struct srv_generation *g = calloc(1, sizeof(*g));
    enum ut_err rc;

    *out = NULL;
    if (!g)
        return ut_fail(e, UT_ENOMEM, "no memory for a model");
    g->app = app;
    g->refs = 1;
    rc = srv_engine_new(&engine, &g->engine, e);
    for (int i = 0; !rc && srv_engine_remark(g->engine, i); i++)
        srv_log_line(app->log, SRV_LOG_WARN, NULL, "%s",
                     srv_engine_remark(g->engine, i));
    if (!rc && path) {
        g->path = realpath(path, NULL);
        if (!g->path)
            rc = ut_fail(e, UT_EIO, "%.150s: cannot be found", path);
    }
    if (!rc)
        rc = srv_gallery_new(srv_engine_dim(g->engine),
                             (size_t)c->gallery_max_faces, &g->gallery, e);
    if (!rc)
        rc = place(g, e);
    if (rc)
        destroy(g);
    else
        *out = g;
    return rc;
}

enum ut_err srv_generation_execute(struct srv_generation *g, struct ut_error *e)
{
    const struct srv_batcher_config batcher = {
        .max_items = (size_t)g->app->config->max_queue,
        .delay_us = g->app->config->batch_delay_us,
    };

    return srv_batcher_new(g->engine, g->gallery, g->app->metrics, g->app->log,
                           &batcher, &g->batcher, e);
}

struct filling {
    struct srv_generation *g;
    size_t past; /* the limit of faces */
};

static enum ut_err add_face(void *arg, const struct srv_face *f,
                            const char *identity_name, struct ut_error *e)
{
    struct filling *w = arg;
    enum ut_err rc;

    if (f->dim != srv_engine_dim(w->g->engine))
        return UT_OK;
    rc = srv_gallery_has(w->g->gallery, f->id)
             ? UT_OK
             : srv_gallery_add(w->g->gallery, f->identity_id, identity_name,
                               f->id, f->embedding, e);
    w->past += rc == UT_EBUSY;
    return rc == UT_EBUSY ? UT_OK : rc;
}

enum ut_err srv_generation_fill(struct srv_generation *g, struct ut_error *e)
{
    struct filling w = {.g = g};
    enum ut_err rc = srv_store_faces_each(
        g->app->store, srv_generation_version(g), add_face, &w, e);

    return rc || !w.past
               ? rc
               : ut_fail(e, UT_EBUSY,
                         "--gallery-max-faces is %lld, and %zu faces are "
                         "enrolled",
                         (long long)g->app->config->gallery_max_faces,
                         srv_gallery_faces(g->gallery) + w.past);
}

/* ---- the repository ---- */

enum ut_err srv_model_active(struct srv_store *store, char version[17],
                             struct ut_error *e)
{
    ProtobufCMessage **list;
    size_t n;
    enum ut_err rc =
        srv_store_list(store, SRV_TABLE_MODEL,
                       &tscaf__v1__model_info__descriptor, &list, &n, e);

    version[0] = '\0';
    if (rc)
        return rc;
    for (size_t i = 0; i < n; i++) {
        const Tscaf__V1__ModelInfo *m = (const void *)list[i];

        if (m->state == TSCAF__V1__MODEL_STATE__MODEL_STATE_ACTIVE && m->model)
            snprintf(version, 17, "%s", m->model->version);
    }
    srv_messages_free(list, n);
    return UT_OK;
}

enum ut_err srv_model_find(struct srv_app *app, const char *version,
                           char path[PATH_MAX], const char **file,
                           struct ut_error *e)
{
    char fresh[17];
    enum ut_err rc;

    srv_model_path(app->config->data, version, path);
    *file = path;
    if (!access(path, R_OK))
        return UT_OK;
    if (!strcmp(version, app->generations.initial)) {
        *file = app->config->model;
        return UT_OK;
    }
    *file = NULL;
    rc = srv_engine_fresh_version(fresh, e);
    if (rc || !strcmp(fresh, version))
        return rc;
    return ut_fail(e, UT_ENOTFOUND,
                   "model %.17s has no file %.150s on this "
                   "server",
                   version, path);
}

/* The file of the version that was activated; if it has none, --model, which
 * may be it: what version that is shows when it is open. */
static enum ut_err find_active(struct srv_app *app, const char *version,
                               char path[PATH_MAX], const char **file,
                               struct ut_error *e)
{
    enum ut_err rc = srv_model_find(app, version, path, file, e);

    if (rc == UT_ENOTFOUND && app->config->model) {
        *file = app->config->model;
        return UT_OK;
    }
    if (!rc && app->config->model)
        srv_log_line(app->log, SRV_LOG_INFO, NULL,
                     "model %s was activated and goes before --model", version);
    return rc;
}

enum ut_err srv_generations_open(struct srv_app *app, size_t *unusable,
                                 struct ut_error *e)
{
    const char *file = app->config->model, *is;
    char version[17], path[PATH_MAX];
    struct srv_generation *g;
    int64_t n = 0;
    enum ut_err rc = srv_model_active(app->store, version, e);

    if (!rc && *version)
        rc = find_active(app, version, path, &file, e);
    if (!rc)
        rc = srv_generation_new(app, file, &g, e);
    if (rc)
        return rc;
    app->generations.current = g;
    is = srv_generation_version(g);
    if (file == app->config->model)
        snprintf(app->generations.initial, sizeof(app->generations.initial),
                 "%s", is);
    if (*version && strcmp(version, is))
        return file == app->config->model
                   ? ut_fail(e, UT_ENOTFOUND,
                             "model %s is active and has no file %.100s on "
                             "this server; --model is %s",
                             version, path, is)
                   : ut_fail(e, UT_EFORMAT, "%.150s: is model %s, not %s", path,
                             is, version);
    rc = srv_generation_fill(g, e);
    if (!rc)
        srv_gallery_settle(g->gallery);
    if (!rc)
        rc = srv_store_crops_count(app->store, is, &n, e);
    *unusable = (size_t)n;
    return rc;
}

enum ut_err srv_generations_start(struct srv_app *app, struct ut_error *e)
{
    return srv_generation_execute(app->generations.current, e);
}

void srv_generations_free(struct srv_app *app)
{
    srv_generation_drop(app->generations.current);
    srv_generation_drop(app->generations.previous);
    app->generations.current = app->generations.previous = NULL;
}

enum ut_err srv_generations_have(struct srv_app *app, const char *version,
                                 struct srv_store *store, struct ut_error *e)
{
    struct srv_generation *g = srv_generation_take(app);
    ProtobufCMessage *m;
    enum ut_err rc = UT_OK;

    if (strcmp(version, srv_generation_version(g))) {
        rc = srv_store_get(store, SRV_TABLE_MODEL, version,
                           &tscaf__v1__model_info__descriptor, &m, e);
        if (!rc)
            protobuf_c_message_free_unpacked(m, NULL);
    }
    srv_generation_drop(g);
    return rc;
}

enum ut_err srv_generations_base(struct srv_app *app, const char *asked,
                                 char version[17], char path[PATH_MAX],
                                 struct srv_store *store, struct ut_error *e)
{
    struct srv_generation *g = srv_generation_take(app);
    const char *current = srv_generation_version(g), *file;
    char found[PATH_MAX];
    enum ut_err rc =
        *asked ? srv_generations_have(app, asked, store, e) : UT_OK;

    snprintf(version, 17, "%s", *asked && !rc ? asked : current);
    if (!rc) {
        rc = srv_model_find(app, version, found, &file, e);
        if (!rc && file && !realpath(file, path))
            rc = ut_fail(e, UT_EIO, "%.150s: cannot be found", file);
        if (!rc && !file)
            strcpy(path, "-");
    }
    srv_generation_drop(g);
    return rc;
}

enum ut_err srv_candidate_info(const struct mdl_model *m,
                               Tscaf__V1__ModelInfo *info,
                               Tscaf__V1__ModelRef *ref, struct ut_error *e)
{
    enum ut_err rc;

    tscaf__v1__model_info__init(info);
    tscaf__v1__model_ref__init(ref);
    rc = mdl_spec_write(&m->spec, &info->spec, e);
    if (rc) {
        info->spec = NULL;
        return rc;
    }
    ref->name = (char *)(uintptr_t)m->name;
    ref->version = (char *)(uintptr_t)m->version;
    ref->trained = m->trained;
    info->model = ref;
    srv_engine_sizes(&m->graph, &info->parameters, &info->multiply_adds);
    info->fatigue_threshold = srv_engine_threshold(m, MDL_HEAD_BINARY);
    info->identity_threshold = srv_engine_threshold(m, MDL_HEAD_EMBEDDING);
    info->state = TSCAF__V1__MODEL_STATE__MODEL_STATE_CANDIDATE;
    return UT_OK;
}

enum ut_err srv_generation_info(const struct srv_generation *g,
                                Tscaf__V1__ModelInfo *info,
                                Tscaf__V1__ModelRef *ref, struct ut_error *e)
{
    enum ut_err rc =
        srv_candidate_info(srv_engine_model(g->engine), info, ref, e);

    if (rc)
        return rc;
    info->backend = (char *)(uintptr_t)srv_engine_backend(g->engine);
    info->precision =
        (char *)(uintptr_t)mdl_precision_name(srv_engine_precision(g->engine));
    info->detector = g->app->detector != NULL;
    info->state = TSCAF__V1__MODEL_STATE__MODEL_STATE_ACTIVE;
    info->passed = true;
    return UT_OK;
}

/* ---- changes of the gallery, on the store's thread ---- */

/* Only that thread changes which they are: no lock is needed to read them. */
#define EACH_GALLERY(app, call)                                                \
    do {                                                                       \
        struct srv_generation *list[] = {(app)->generations.current,           \
                                         (app)->generations.previous};         \
                                                                               \
        for (int i = 0; i < 2; i++)                                            \
            if (list[i])                                                       \
                call;                                                          \
        pthread_mutex_lock(&(app)->generations.next_lock);                     \
        list[0] = (app)->generations.next;                                     \
        for (int i = 0; i < 1 && list[0]; i++)                                 \
            call;                                                              \
        pthread_mutex_unlock(&(app)->generations.next_lock);                   \
    } while (0)

/* What finds no room is passed over: the others have it. */
static enum ut_err add_to(struct srv_generation *g, const char *face_id,
                          struct ut_error *e)
{
    struct filling w = {.g = g};
    enum ut_err rc =
        srv_gallery_has(g->gallery, face_id)
            ? UT_OK
            : srv_store_face_of(g->app->store, srv_generation_version(g),
                                face_id, add_face, &w, e);

    if (w.past && !g->overfull)
        srv_log_line(g->app->log, SRV_LOG_ERROR, NULL,
                     "another server enrolled a face past this one's "
                     "--gallery-max-faces %lld: it and those after it are not "
                     "recognised here; start it with that of the others",
                     (long long)g->app->config->gallery_max_faces);
    g->overfull = g->overfull || w.past;
    return rc;
}

enum ut_err srv_generations_add_face(struct srv_app *app, const char *face_id,
                                     struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    EACH_GALLERY(app, rc = rc ? rc : add_to(list[i], face_id, e));
    return rc;
}

void srv_generations_rename(struct srv_app *app, const char *identity_id,
                            const char *name)
{
    EACH_GALLERY(app, srv_gallery_rename(list[i]->gallery, identity_id, name));
}

void srv_generations_remove_face(struct srv_app *app, const char *face_id)
{
    EACH_GALLERY(app, srv_gallery_remove_face(list[i]->gallery, face_id));
}

void srv_generations_remove_identity(struct srv_app *app,
                                     const char *identity_id)
{
    EACH_GALLERY(app,
                 srv_gallery_remove_identity(list[i]->gallery, identity_id));
}
