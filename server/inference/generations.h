#ifndef SERVER_GENERATIONS_H
#define SERVER_GENERATIONS_H

#include <limits.h>
#include <pthread.h>

#include "api/tscaf.pb-c.h"
#include "server/inference/batcher.h"
#include "server/store/store.h"

/* What answers: a model, the gallery of its embeddings and the executors that
 * run it, as one thing. A request takes the current one when it begins and
 * keeps it to its end, so that nothing is ever matched across versions and a
 * change over needs no pause; an old one goes with its last request. The one
 * before is kept, so that rollback opens nothing.
 *
 * Memory: a change over needs room for a second model (weights and plans on
 * every lane) and a second gallery (4 bytes x dim a face) beside the current;
 * they stay while there is one to roll back to. That one, unless it is what
 * comes next, goes before the new one is opened: should the change over then
 * fail, a rollback opens it anew, as after a restart.
 *
 * Versions live in DATA/models/VERSION.safetensors, their records in the store:
 * which is active is decided by one transaction, so that a server killed at any
 * moment starts with the old or the new one, whole. */

struct srv_app;

struct srv_generation {
    char *path; /* of the model's file; NULL: the network without --model */
    struct srv_engine *engine;
    struct srv_gallery *gallery;
    struct srv_batcher *batcher; /* NULL until it is in use */
    /* Of fatigue and recognition, with plans of their own; made by the explain
     * thread when they are first asked for. */
    struct mdl_explainer *explainers[2];
    bool overfull; /* faces of others found no room; the store's thread's */
    struct srv_app *app;
    int refs; /* atomic */
};

/* ---- any thread ---- */

/* The current one, held. */
struct srv_generation *srv_generation_take(struct srv_app *app);
void srv_generation_drop(struct srv_generation *g); /* accepts NULL */
/* The same, and if that was the last hold, at once: its executors are joined
 * here. Thread: one that may wait. */
void srv_generation_drop_now(struct srv_generation *g); /* accepts NULL */
const char *srv_generation_version(const struct srv_generation *g);

/* DATA/models/VERSION.safetensors. */
void srv_model_path(const char *data, const char *version, char out[PATH_MAX]);

/* ---- the store's thread ---- */

/* Opens what answers first: the active version, else --model; *unusable counts
 * stored faces without an embedding by it. */
UT_MUSTUSE enum ut_err
srv_generations_open(struct srv_app *app, size_t *unusable, struct ut_error *e);
/* Whether g is what enrolments go to now. */
bool srv_generation_is_current(const struct srv_generation *g);
/* Changes of every gallery that is or may come into use. A face that was stored
 * is added with its embedding by the gallery's model, where there is one; one
 * past the limit is passed over, which is logged once. */
UT_MUSTUSE enum ut_err srv_generations_add_face(struct srv_app *app,
                                                const char *face_id,
                                                struct ut_error *e);
void srv_generations_rename(struct srv_app *app, const char *identity_id,
                            const char *name);
void srv_generations_remove_face(struct srv_app *app, const char *face_id);
void srv_generations_remove_identity(struct srv_app *app,
                                     const char *identity_id);

/* ---- the loop ---- */

/* Starts the executors of what was opened. */
UT_MUSTUSE enum ut_err srv_generations_start(struct srv_app *app,
                                             struct ut_error *e);
/* Once no request is left and all other threads have ended. */
void srv_generations_free(struct srv_app *app);

/* ---- change over (change_over.c) ---- */

/* Begins to embed the gallery by a version and then changes over to it, on the
 * models' thread; one at a time. rollback: to the version before, whatever
 * version says. done is called on the loop, with the version. Errors of the
 * start: UT_EBUSY. Thread: the loop. */
typedef void (*srv_change_over_fn)(void *arg, const char *version,
                                   const struct ut_error *e);
UT_MUSTUSE enum ut_err srv_change_over(struct srv_app *app, const char *actor,
                                       const char *version, bool force,
                                       bool rollback, srv_change_over_fn done,
                                       void *arg, struct ut_error *e);

/* Begins to take up the version that another server activated, whose gallery is
 * embedded already. anew: even if it answers here, since the gallery is no
 * longer what the store says. */
UT_MUSTUSE enum ut_err srv_change_over_follow(struct srv_app *app,
                                              const char *version, bool anew,
                                              srv_change_over_fn done,
                                              void *arg, struct ut_error *e);

/* Whether a change over to that version is under way, and how far, into text.
 * Thread: any. */
bool srv_change_over_state(struct srv_app *app, const char *version, char *text,
                           size_t size);

/* Whether the last change over, since the server began, was to that version and
 * failed, and why, into text. Thread: any. */
bool srv_change_over_failed(struct srv_app *app, const char *version,
                            char *text, size_t size);

/* UT_ENOTFOUND if that version neither answers nor has a record. Thread: that
 * of store. */
UT_MUSTUSE enum ut_err srv_generations_have(struct srv_app *app,
                                            const char *version,
                                            struct srv_store *store,
                                            struct ut_error *e);
/* The version that a job starts from ("": the active one), and its file; path
 * "-" for the network that is made without one. Thread: that of store. */
UT_MUSTUSE enum ut_err srv_generations_base(struct srv_app *app,
                                            const char *asked, char version[17],
                                            char path[PATH_MAX],
                                            struct srv_store *store,
                                            struct ut_error *e);

/* What a model file that is not in use says of itself, as a candidate: info and
 * ref point into m; info->spec is the caller's to free, NULL after an error.
 * Thread: any. */
UT_MUSTUSE enum ut_err srv_candidate_info(const struct mdl_model *m,
                                          Tscaf__V1__ModelInfo *info,
                                          Tscaf__V1__ModelRef *ref,
                                          struct ut_error *e);

/* A version's record from the engine that runs it. Strings are g's, but spec,
 * which is the caller's to free. */
UT_MUSTUSE enum ut_err srv_generation_info(const struct srv_generation *g,
                                           Tscaf__V1__ModelInfo *info,
                                           Tscaf__V1__ModelRef *ref,
                                           struct ut_error *e);

/* The store's record of the active version, or "". Thread: that of store. */
UT_MUSTUSE enum ut_err srv_model_active(struct srv_store *store,
                                        char version[17], struct ut_error *e);

/* ---- private to both files ---- */

#define SRV_NOT_COUNTED (-1)

struct srv_generations {
    pthread_mutex_t lock;
    struct srv_generation *current, *previous; /* under lock */
    /* What is about to come into use, once its gallery is filled, so that
     * changes reach that too; under next_lock. */
    struct srv_generation *next;
    pthread_mutex_t next_lock;
    char initial[17]; /* what --model, or its absence, opened; "": not known */
    /* Of the change over under way, or the last; under lock. */
    bool changing;
    char version[17];
    int64_t done, total;     /* faces; total: or SRV_NOT_COUNTED */
    struct ut_error failure; /* of the last one, to version; under lock */
};

/* A generation without executors; path NULL: the network without --model. What
 * the engine remarks is logged. */
UT_MUSTUSE enum ut_err srv_generation_new(struct srv_app *app, const char *path,
                                          struct srv_generation **out,
                                          struct ut_error *e);
UT_MUSTUSE enum ut_err srv_generation_execute(struct srv_generation *g,
                                              struct ut_error *e);
/* Adds what the store has and the gallery has not. The store's thread. */
UT_MUSTUSE enum ut_err srv_generation_fill(struct srv_generation *g,
                                           struct ut_error *e);
/* The file of a version: NULL for the network without --model, *path else. */
UT_MUSTUSE enum ut_err srv_model_find(struct srv_app *app, const char *version,
                                      char path[PATH_MAX], const char **file,
                                      struct ut_error *e);

#endif
