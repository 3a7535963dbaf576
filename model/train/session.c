/* A training from its settings to its file. */
#include "model/train/session.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "model/train/held_out.h"
#include "model/train/lineage.h"
#include "model/train/schedule.h"

const char *const mdl_task_names[MDL_TASKS] = {"fatigue", "recognition"};

struct session {
    const struct mdl_session_config *c;
    char checkpoint[4096];
    char settings[2048]; /* what decides the outcome, for a checkpoint */
    struct mdl_model model;
    struct mdl_recognition recognition;
    struct mdl_trainer *trainer;
    struct mdl_dataset sets[MDL_TASKS], held[MDL_TASKS];
    struct mdl_queue *queues[MDL_TASKS];
    const struct mdl_batch *batches[MDL_TASKS];
    int64_t taken[MDL_TASKS]; /* batches since the first step */
    struct mdl_st *embeddings_file;
    float *embeddings; /* owned; [lines, dim]; or: */
    struct mdl_teacher *teacher;
    float *target, *rows, *hint; /* owned */
    int tasks[MDL_TASKS];
    long step;
    struct mdl_progress progress;
};

/* ---- opening ---- */

/* Else it is a file of embeddings. */
static bool runs_teacher(const struct mdl_session_config *c)
{
    const char *end = c->teacher ? strrchr(c->teacher, '.') : NULL;

    return end && !strcmp(end, ".onnx");
}

/* What becomes metadata: told now, not at the first checkpoint. */
static enum ut_err check_texts(const struct mdl_session_config *c,
                               struct ut_error *e)
{
    const char *const texts[] = {c->name, c->data[MDL_FATIGUE],
                                 c->data[MDL_RECOGNITION], c->teacher,
                                 c->recognition.hint.module};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (texts[i] && !ut_utf8_ok(texts[i]))
            return ut_fail(e, UT_EINVAL,
                           "\"%.150s\" is not UTF-8, as a model's metadata are",
                           texts[i]);
    return UT_OK;
}

static enum ut_err check(const struct mdl_session_config *c, struct ut_error *e)
{
    if (!c->data[MDL_FATIGUE] && !c->data[MDL_RECOGNITION])
        return ut_fail(e, UT_EINVAL, "there is no dataset");
    if (c->accumulate && (!c->data[MDL_FATIGUE] || !c->data[MDL_RECOGNITION]))
        return ut_fail(e, UT_EINVAL, "accumulating needs both datasets");
    if (c->mix > 0 && !runs_teacher(c))
        return ut_fail(e, UT_EINVAL,
                       "mixed pictures need a teacher that is run");
    if (c->recognition.hint.module && !runs_teacher(c))
        return ut_fail(e, UT_EINVAL, "a hint needs a teacher that is run");
    if (c->teacher && !c->data[MDL_RECOGNITION])
        return ut_fail(e, UT_EINVAL, "teacher %.150s: needs recognition data",
                       c->teacher);
    if (c->decay_steps && c->schedule != MDL_STABLE)
        return ut_fail(e, UT_EINVAL, "%ld decay steps need the stable schedule",
                       c->decay_steps);
    return check_texts(c, e);
}

static enum ut_err open_data(struct session *s, struct ut_error *e)
{
    const struct mdl_session_config *c = s->c;
    enum ut_err rc = UT_OK;

    for (int i = 0; i < MDL_TASKS && !rc; i++) {
        if (!c->data[i])
            continue;
        rc = mdl_dataset_open(c->data[i], &s->sets[i], e);
        if (!rc && i == MDL_FATIGUE)
            rc = mdl_dataset_check_binary(&s->sets[i], e);
        if (!rc && c->held_out > 0)
            rc = mdl_dataset_split(&s->sets[i],
                                   i == MDL_FATIGUE ? MDL_SPLIT_GROUP
                                                    : MDL_SPLIT_LABEL,
                                   c->held_out, c->seed, &s->held[i], e);
    }
    return rc;
}

/* A row for each line of the recognition data, the held-out ones too. */
static enum ut_err open_embeddings(struct session *s, struct ut_error *e)
{
    int lines = s->sets[MDL_RECOGNITION].n + s->held[MDL_RECOGNITION].n;
    const struct mdl_st_tensor *x;
    enum ut_err rc = mdl_st_open(s->c->teacher, &s->embeddings_file, e);

    if (rc)
        return rc;
    x = mdl_st_find(s->embeddings_file, "embedding");
    if (!x || x->shape.n_dims != 2 || x->shape.dim[0] != lines)
        return ut_fail(e, UT_EFORMAT,
                       "%s: has no \"embedding\" with a row for each of %d "
                       "pictures",
                       s->c->teacher, lines);
    s->recognition.distill.teacher_dim = (int)x->shape.dim[1];
    s->embeddings = malloc(mdl_shape_count(&x->shape) * sizeof(float));
    return s->embeddings
               ? mdl_st_floats(x, s->embeddings, e)
               : ut_fail(e, UT_ENOMEM, "no memory for %s", s->c->teacher);
}

static enum ut_err open_teacher(struct session *s, struct ut_error *e)
{
    struct mdl_teacher_config c = {
        .path = s->c->teacher,
        .input = s->c->teacher_input,
        .backend = s->c->trainer.backend,
        .side = s->model.spec.input,
        .batch = s->c->trainer.batch,
        .threads = s->c->trainer.threads,
    };
    const struct mdl_graph *g = &s->model.graph;
    int inner = -1;
    enum ut_err rc;

    if (!s->c->data[MDL_RECOGNITION] || !s->c->teacher)
        return UT_OK;
    if (!runs_teacher(s->c))
        return open_embeddings(s, e);
    if (s->recognition.hint.module)
        inner = mdl_graph_find_module(g, s->recognition.hint.module);
    for (int i = 0; inner >= 0 && i < 2; i++)
        c.hint[i] = (int)g->values[inner].shape.dim[1 + i];
    rc = mdl_teacher_open(&c, &s->teacher, e);
    if (rc)
        return rc;
    s->recognition.distill.teacher_dim = mdl_teacher_dim(s->teacher);
    s->recognition.hint.teacher_channels =
        mdl_teacher_hint_channels(s->teacher);
    return UT_OK;
}

static enum ut_err open_queues(struct session *s, struct ut_error *e)
{
    const struct mdl_session_config *from = s->c;
    struct mdl_queue_config c = {
        .batch = from->trainer.batch,
        .side = s->model.spec.input,
        .threads = 1,
        .augmented = from->augmented,
        .augment = mdl_augment_default,
    };
    enum ut_err rc = UT_OK;

    for (int i = 0; i < MDL_TASKS && !rc; i++) {
        if (!from->data[i])
            continue;
        c.seed = from->seed * 2 + (uint64_t)i;
        c.mix = i == MDL_RECOGNITION ? from->mix : 0;
        c.first = s->taken[i];
        rc = mdl_queue_new(&s->sets[i], &c, &s->queues[i], e);
    }
    return rc;
}

static enum ut_err open_trainer(struct session *s, struct ut_error *e)
{
    const struct mdl_session_config *c = s->c;
    enum ut_err rc = mdl_trainer_new(&s->model, &c->trainer, &s->trainer, e);

    s->recognition.seed = c->seed;
    if (s->recognition.arcface_weight > 0)
        s->recognition.arcface.classes = s->sets[MDL_RECOGNITION].classes;
    for (int i = 0; i < MDL_TASKS && !rc; i++)
        if (c->data[i])
            rc = mdl_trainer_leaf(s->trainer, mdl_task_names[i],
                                  i == MDL_RECOGNITION ? &s->recognition : NULL,
                                  c->rates[i], &s->tasks[i], e);
    return rc;
}

/* ---- checkpoints ---- */

/* How the rate came to be what it is. Before a decay begins, its place is still
 * open. */
static void describe_schedule(const struct session *s, char *out, size_t size)
{
    const struct mdl_session_config *c = s->c;

    if (c->schedule == MDL_COSINE)
        snprintf(out, size, "cosine over %ld steps", c->steps);
    else if (s->step <= c->steps - c->decay_steps)
        snprintf(out, size, "stable");
    else
        snprintf(out, size, "stable, decay over %ld of %ld steps",
                 c->decay_steps, c->steps);
}

/* What a teacher that is run is shown, where it is not the usual: checkpoints
 * from before this was told stay good. */
static void describe_input(const struct session *s, char *out, size_t size)
{
    const struct mdl_onnx_input *i = &s->c->teacher_input;
    struct mdl_onnx_input usual;
    bool same = mdl_onnx_input_parse("insightface", &usual);

    for (int k = 0; k < 3; k++)
        same &= i->mean[k] == usual.mean[k] && i->scale[k] == usual.scale[k];
    *out = '\0';
    if (runs_teacher(s->c) && !(same && i->bgr == usual.bgr))
        snprintf(out, size, "; teacher input %g %g %g / %g %g %g%s",
                 (double)i->mean[0], (double)i->mean[1], (double)i->mean[2],
                 1 / (double)i->scale[0], 1 / (double)i->scale[1],
                 1 / (double)i->scale[2], i->bgr ? " BGR" : "");
}

/* The settings that a run resumed at this step must share. Errors: UT_EINVAL
 * where they are too long, and a part would not be compared. */
static enum ut_err describe_settings(struct session *s, struct ut_error *e)
{
    const struct mdl_session_config *c = s->c;
    const struct mdl_trainer_config *t = &c->trainer;
    const struct mdl_recognition *r = &s->recognition;
    char schedule[96], input[128];
    int len;

    describe_schedule(s, schedule, sizeof(schedule));
    describe_input(s, input, sizeof(input));
    len = snprintf(
        s->settings, sizeof(s->settings),
        "fatigue %s; recognition %s; held out %g; rates %g %g; teacher %s%s; "
        "mix %g; %s; weight %g; turn %ld; rate %g; %s; warm-up %ld; "
        "%s; augment %d; seed %" PRIu64 "; batch %d; optimizer %d %g %g %g %g; "
        "momentum %g; clip %g; frozen root %d; arcface %g %g %g %d; distill "
        "%g %g; hint %s %g; lanes %d",
        c->data[0] ? c->data[0] : "-", c->data[1] ? c->data[1] : "-",
        c->held_out, (double)c->rates[0], (double)c->rates[1],
        c->teacher ? c->teacher : "-", input, (double)c->mix,
        c->accumulate ? "accumulate" : "alternate", (double)c->weight, c->turn,
        c->rate, schedule, c->warm_up, mdl_precision_name(t->precision),
        c->augmented, c->seed, t->batch, (int)t->optimizer.kind,
        (double)t->optimizer.beta1, (double)t->optimizer.beta2,
        (double)t->optimizer.eps, (double)t->optimizer.weight_decay,
        (double)t->momentum, (double)t->clip, t->frozen_root,
        (double)r->arcface_weight, (double)r->arcface.scale,
        (double)r->arcface.margin, r->arcface.k, (double)r->distill.cosine,
        (double)r->distill.similarity, r->hint.module ? r->hint.module : "-",
        (double)r->hint.weight, t->lanes);
    /* The schedule's part may still grow, when its decay begins. */
    len += (int)(sizeof(schedule) - strlen(schedule));
    return len < (int)sizeof(s->settings)
               ? UT_OK
               : ut_fail(e, UT_EINVAL,
                         "the settings take %d bytes, over %zu: shorter paths "
                         "are needed",
                         len, sizeof(s->settings) - 1);
}

/* A file of what was trained: its own metadata and what stays true of the
 * base's, which a checkpoint hands on. */
static enum ut_err write_trained(struct session *s, const char *path,
                                 const struct mdl_st_pair *own, size_t n_own,
                                 bool state, struct ut_error *e)
{
    const char *trained[MDL_TASKS] = {0};
    struct mdl_st_pair *meta;
    size_t n;
    enum ut_err rc;

    for (int i = 0; i < MDL_TASKS; i++)
        if (s->c->data[i])
            trained[i] = mdl_task_names[i];
    rc = mdl_lineage_meta(s->model.file, own, n_own, trained, MDL_TASKS,
                          s->c->trainer.frozen_root, &meta, &n, e);
    if (rc)
        return rc;
    rc = mdl_trainer_write(s->trainer, path, meta, n, state, e);
    free(meta);
    return rc;
}

static enum ut_err save(struct session *s, struct ut_error *e)
{
    char step[32], taken[64];
    const struct mdl_st_pair meta[] = {
        {"name", s->c->name},
        {"trained", "true"},
        {"training.step", step},
        {"training.taken", taken},
        {"training.settings", s->settings},
    };
    enum ut_err rc = describe_settings(s, e);

    if (rc)
        return rc;
    snprintf(step, sizeof(step), "%ld", s->step);
    snprintf(taken, sizeof(taken), "%" PRId64 " %" PRId64, s->taken[0],
             s->taken[1]);
    return write_trained(s, s->checkpoint, meta, 5, true, e);
}

/* Of the hint's modules the first that the model has; the trainer refuses a
 * list of none. */
static void choose_hint(struct session *s)
{
    const struct mdl_graph *g = &s->model.graph;
    struct mdl_hint *hint = &s->recognition.hint;
    int value = -1;

    for (const char *at = hint->module; at && value < 0;) {
        int len = (int)strcspn(at, ",");
        char name[MDL_NAME_LEN];

        snprintf(name, sizeof(name), "%.*s", len, at);
        value = mdl_graph_find_module(g, name);
        at = at[len] ? at + len + 1 : NULL;
    }
    if (value >= 0)
        hint->module = g->modules[g->nodes[g->values[value].producer].module];
}

/* Where the model to go on with, a checkpoint, stopped. */
static enum ut_err read_checkpoint(struct session *s, struct ut_error *e)
{
    const char *step, *taken, *settings;
    enum ut_err rc;

    step = mdl_st_meta(s->model.file, "training.step");
    taken = mdl_st_meta(s->model.file, "training.taken");
    settings = mdl_st_meta(s->model.file, "training.settings");
    if (!step || !taken || !settings || sscanf(step, "%ld", &s->step) != 1 ||
        sscanf(taken, "%" SCNd64 " %" SCNd64, &s->taken[0], &s->taken[1]) !=
            2 ||
        s->step < 0 || s->taken[0] < 0 || s->taken[1] < 0)
        return ut_fail(e, UT_EFORMAT, "%.150s: is no checkpoint",
                       s->checkpoint);
    rc = describe_settings(s, e);
    return rc ? rc
              : mdl_settings_agree(s->checkpoint, settings, s->settings, e);
}

/* Numbers of one picture's hint. */
static size_t hint_size(const struct session *s)
{
    const struct mdl_hint *h = &s->recognition.hint;
    const struct mdl_graph *g = &s->model.graph;
    int inner = h->module ? mdl_graph_find_module(g, h->module) : -1;

    return inner < 0 ? 0
                     : (size_t)h->teacher_channels *
                           (size_t)(g->values[inner].shape.dim[1] *
                                    g->values[inner].shape.dim[2]);
}

static enum ut_err open_all(struct session *s, struct ut_error *e)
{
    const struct mdl_session_config *c = s->c;
    bool resumes = c->resume && !access(s->checkpoint, F_OK);
    size_t n = (size_t)c->trainer.batch, hint;
    enum ut_err rc = check(c, e);

    if (!rc)
        rc = mdl_model_open(resumes ? s->checkpoint : c->base, &s->model, e);
    if (!rc)
        choose_hint(s);
    if (!rc && resumes)
        rc = read_checkpoint(s, e);
    if (!rc)
        rc = open_data(s, e);
    if (!rc)
        rc = open_teacher(s, e);
    if (!rc)
        rc = open_trainer(s, e);
    if (!rc && resumes)
        rc = mdl_trainer_restore(s->trainer, e);
    if (!rc)
        rc = open_queues(s, e);
    if (rc)
        return rc;
    s->target = malloc(n * sizeof(float));
    s->rows = malloc(n * sizeof(float) *
                     (size_t)(s->recognition.distill.teacher_dim + 1));
    hint = hint_size(s);
    s->hint = hint ? malloc(n * hint * sizeof(float)) : NULL;
    return s->target && s->rows && (s->hint || !hint)
               ? UT_OK
               : ut_fail(e, UT_ENOMEM, "no memory for labels");
}

static void close_all(struct session *s)
{
    for (int i = 0; i < MDL_TASKS; i++) {
        mdl_queue_free(s->queues[i]);
        mdl_dataset_fini(&s->sets[i]);
        mdl_dataset_fini(&s->held[i]);
    }
    mdl_trainer_free(s->trainer);
    mdl_model_close(&s->model);
    mdl_st_close(s->embeddings_file);
    mdl_teacher_close(s->teacher);
    free(s->embeddings);
    free(s->target);
    free(s->rows);
    free(s->hint);
}

/* ---- steps ---- */

static enum ut_err teach(struct session *s, const struct mdl_batch *b,
                         struct ut_error *e)
{
    size_t dim = (size_t)s->recognition.distill.teacher_dim;

    if (s->teacher)
        return mdl_teacher_embed(s->teacher, b->images, s->rows, s->hint, e);
    for (int i = 0; s->embeddings && i < s->c->trainer.batch; i++) {
        int line = s->sets[MDL_RECOGNITION].examples[b->row[i]].line;

        memcpy(s->rows + (size_t)i * dim, s->embeddings + (size_t)line * dim,
               dim * sizeof(float));
    }
    return UT_OK;
}

static enum ut_err one_batch(struct session *s, int which, float weight,
                             struct ut_error *e)
{
    struct mdl_labels labels = {
        .target = s->target, .teacher = s->rows, .hint = s->hint};
    const struct mdl_batch *b;
    double loss, *mean = &s->progress.loss[which];
    enum ut_err rc = mdl_queue_next(s->queues[which], &s->batches[which], e);

    if (rc)
        return rc;
    b = s->batches[which];
    s->taken[which]++;
    labels.label = b->label;
    for (int i = 0; i < s->c->trainer.batch; i++)
        s->target[i] = (float)(b->label[i] > 0);
    if (which == MDL_RECOGNITION)
        rc = teach(s, b, e);
    if (!rc)
        rc = mdl_trainer_batch(s->trainer, s->tasks[which], b->images, &labels,
                               weight, &loss, e);
    if (!rc)
        *mean += (*mean != 0 ? 0.05 : 1) * (loss - *mean);
    return rc;
}

/* One update: a turn of one queue, or both queues together. */
static enum ut_err one_step(struct session *s, struct ut_error *e)
{
    const struct mdl_session_config *c = s->c;
    bool both = c->data[MDL_FATIGUE] && c->data[MDL_RECOGNITION];
    int which = both ? (s->step % (c->turn + 1) ? MDL_RECOGNITION : MDL_FATIGUE)
                     : (c->data[MDL_FATIGUE] ? MDL_FATIGUE : MDL_RECOGNITION);
    enum ut_err rc;

    s->progress.rate =
        c->schedule == MDL_STABLE
            ? mdl_stable_rate_at(c->rate, s->step, c->steps, c->warm_up,
                                 c->decay_steps)
            : mdl_rate_at(c->rate, s->step, c->steps, c->warm_up);
    if (c->accumulate) {
        rc = one_batch(s, MDL_FATIGUE, c->weight, e);
        if (!rc)
            rc = one_batch(s, MDL_RECOGNITION, 1 - c->weight, e);
    } else {
        rc = one_batch(s, which, 1, e);
    }
    return rc ? rc
              : mdl_trainer_update(s->trainer, s->progress.rate,
                                   &s->progress.gradient_norm, e);
}

static void tell(struct session *s, int64_t began_us, long began)
{
    struct mdl_progress *p = &s->progress;
    double spent = (double)(ut_clock_us() - began_us) / 1e6;
    long steps = s->step - began;
    int per_step = s->c->trainer.batch * (s->c->accumulate ? 2 : 1);

    p->step = s->step;
    p->steps = s->c->steps;
    p->images_per_second = (double)(steps * per_step) / spent;
    p->seconds_left = spent / (double)steps * (double)(p->steps - p->step);
    for (int i = 0; i < MDL_TASKS; i++) {
        if (!s->queues[i])
            continue;
        p->trained[i] = true;
        mdl_queue_state(s->queues[i], &p->queue[i]);
        p->epochs[i] = s->taken[i] * s->c->trainer.batch / s->sets[i].n;
    }
    s->c->progress(s->c->arg, p);
}

static enum ut_err train(struct session *s, bool *done, struct ut_error *e)
{
    const struct mdl_session_config *c = s->c;
    int64_t began_us = ut_clock_us();
    long began = s->step;
    enum ut_err rc = UT_OK;

    while (!rc && s->step < c->steps && !(c->stop && *c->stop)) {
        struct ut_error why;

        rc = one_step(s, &why);
        if (rc)
            return ut_fail(e, rc, "step %ld: %s", s->step, why.msg);
        s->step++;
        if (s->step % c->every == 0 || s->step == c->steps)
            tell(s, began_us, began);
        if (s->step % c->save == 0)
            rc = save(s, e);
    }
    *done = s->step >= c->steps;
    if (!rc && !*done)
        rc = save(s, e);
    return rc;
}

/* ---- the end ---- */

/* The model that was asked for; then the checkpoint goes. */
static enum ut_err finish(struct session *s, struct ut_error *e)
{
    struct mdl_held_out f = {.n = 0};
    struct mdl_st_pair meta[3 + 2 * MDL_TASKS] = {
        {"name", s->c->name},
        {"trained", "true"},
        {"training.settings", s->settings},
    };
    enum ut_err rc = save(s, e);

    if (!rc)
        rc = mdl_held_out_measure(s->checkpoint, s->c->trainer.backend,
                                  s->c->trainer.threads, s->held, &f, e);
    if (!rc) {
        memcpy(meta + 3, f.pairs, sizeof(f.pairs));
        rc = write_trained(s, s->c->out, meta, 3 + f.n, false, e);
    }
    if (!rc)
        unlink(s->checkpoint);
    return rc;
}

enum ut_err mdl_session_run(const struct mdl_session_config *c, bool *done,
                            struct ut_error *e)
{
    struct session *s = calloc(1, sizeof(*s));
    enum ut_err rc;

    *done = false;
    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory to train");
    s->c = c;
    s->recognition = c->recognition;
    rc = describe_settings(s, e);
    if (!rc && snprintf(s->checkpoint, sizeof(s->checkpoint), "%s.checkpoint",
                        c->out) >= (int)sizeof(s->checkpoint))
        rc = ut_fail(e, UT_EINVAL, "%.150s...: is too long", c->out);
    if (!rc)
        rc = open_all(s, e);
    if (!rc)
        rc = train(s, done, e);
    if (!rc && *done)
        rc = finish(s, e);
    close_all(s);
    free(s);
    return rc;
}
