/* The detector's training, from its settings to its file. */
#include "model/train/detector.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "model/train/schedule.h"
#include "model/train/weights.h"

#define OUTPUTS (3 * MDL_DETECTION_MAPS)

struct training {
    const struct mdl_detector_config *c;
    char checkpoint[4096];
    char settings[1024]; /* what decides the outcome, for a checkpoint */
    struct mdl_frames frames;
    struct mdl_views views;
    struct mdl_queue *queue;
    const struct mdl_batch *batch;
    struct mdl_detector *detector;
    struct mdl_graph graph; /* of one view */
    struct mdl_weights weights;
    struct mdl_step forth_and_back;
    struct mdl_backend *backend;
    struct mdl_lane *lane;
    struct mdl_plan *plan;
    struct mdl_prior *priors; /* owned */
    struct mdl_detection_loss loss;
    float *out[OUTPUTS], *seed[OUTPUTS]; /* owned */
    struct mdl_st *file;                 /* the checkpoint, resuming */
    long step;
    int64_t taken; /* batches */
    struct mdl_detector_progress progress;
};

/* ---- opening ---- */

/* The logits, in front of the softmax; boxes; landmarks. */
static int end_of(const struct mdl_graph *g, int output)
{
    int v = g->outputs[output];
    const struct mdl_node *n = &g->nodes[g->values[v].producer];

    return n->op == MDL_OP_SOFTMAX ? n->in[0] : v;
}

static enum ut_err open_step(struct training *t, struct ut_error *e)
{
    const struct mdl_trainer_config *c = &t->c->trainer;
    int ends[OUTPUTS];
    enum ut_err rc;

    for (int i = 0; i < OUTPUTS; i++)
        ends[i] = end_of(&t->graph, i);
    rc = mdl_step_build(&t->graph, ends, OUTPUTS, t->weights.trains,
                        &t->forth_and_back, e);
    if (!rc)
        rc = mdl_backend_open(c->backend, 0, &t->backend, e);
    if (!rc)
        rc = mdl_lane_new(t->backend, &t->lane, e);
    if (rc)
        return rc;
    mdl_lane_threads(t->lane, c->threads);
    return mdl_plan_new(t->lane, &t->forth_and_back.graph, c->precision,
                        c->batch, &t->plan, e);
}

static enum ut_err open_loss(struct training *t, struct ut_error *e)
{
    size_t batch = (size_t)t->c->trainer.batch;
    int side = t->c->view.side;

    t->priors =
        malloc((size_t)side * (size_t)side * 21 / 512 * sizeof(*t->priors));
    if (!t->priors)
        return ut_fail(e, UT_ENOMEM, "no memory for anchors");
    t->loss = t->c->loss;
    t->loss.side = side;
    t->loss.priors = t->priors;
    t->loss.n_priors = mdl_detector_priors(side, side, t->priors);
    for (int i = 0; i < OUTPUTS; i++) {
        const struct mdl_step *s = &t->forth_and_back;
        size_t n = batch * mdl_shape_count(&s->graph.values[s->ends[i]].shape);

        t->out[i] = malloc(n * sizeof(float));
        t->seed[i] = malloc(n * sizeof(float));
        if (!t->out[i] || !t->seed[i])
            return ut_fail(e, UT_ENOMEM, "no memory for a batch's outputs");
    }
    return UT_OK;
}

static enum ut_err open_queue(struct training *t, struct ut_error *e)
{
    const struct mdl_detector_config *c = t->c;
    const struct mdl_queue_config queue = {
        .batch = c->trainer.batch,
        .side = c->view.side,
        .threads = 1,
        .seed = c->seed,
        .first = t->taken,
    };
    struct mdl_source s;

    t->views = (struct mdl_views){&t->frames, c->view};
    s = mdl_views_source(&t->views);
    return mdl_queue_open(&s, &queue, &t->queue, e);
}

/* Folders are the machine's, not the training's. */
static const char *stem(const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;

    return slash ? slash + 1 : path ? path : "-";
}

/* The settings that a resumed run must share; the file made says them too. */
static void describe_settings(struct training *t)
{
    const struct mdl_detector_config *c = t->c;
    const struct mdl_trainer_config *r = &c->trainer;
    const struct mdl_optimizer *o = &r->optimizer;

    snprintf(t->settings, sizeof(t->settings),
             "base %s; faces %s; negatives %s; side %d; mosaic %g; whole %g; "
             "tilt %g; turn %g; flip %g; ground %g; min face %g; ignored %g; "
             "rate %g; "
             "steps %ld; warm-up %ld; %s; seed %" PRIu64 "; batch %d; "
             "optimizer %d %g %g %g %g; momentum %g; clip %g; match %g; "
             "negatives %g; box %g; landmarks %g",
             stem(c->base), stem(c->faces), stem(c->negatives), c->view.side,
             (double)c->view.mosaic, (double)c->view.whole,
             (double)c->view.tilt, (double)c->view.turn, (double)c->view.flip,
             (double)c->view.ground, (double)c->view.min_face,
             (double)c->view.max_ignored, c->rate, c->steps, c->warm_up,
             mdl_precision_name(r->precision), c->seed, r->batch, (int)o->kind,
             (double)o->beta1, (double)o->beta2, (double)o->eps,
             (double)o->weight_decay, (double)r->momentum, (double)r->clip,
             (double)c->loss.match, (double)c->loss.negatives,
             (double)c->loss.box, (double)c->loss.landmarks);
}

static enum ut_err open_checkpoint(struct training *t, struct ut_error *e)
{
    enum ut_err rc = mdl_st_open(t->checkpoint, &t->file, e);
    const char *step, *taken, *settings;

    if (rc)
        return rc;
    step = mdl_st_meta(t->file, "training.step");
    taken = mdl_st_meta(t->file, "training.taken");
    settings = mdl_st_meta(t->file, "training.settings");
    if (!step || !taken || !settings || sscanf(step, "%ld", &t->step) != 1 ||
        sscanf(taken, "%" SCNd64, &t->taken) != 1 || t->step < 0 ||
        t->taken < 0)
        return ut_fail(e, UT_EFORMAT, "%.150s: is no checkpoint",
                       t->checkpoint);
    rc = mdl_settings_agree(t->checkpoint, settings, t->settings, e);
    return rc ? rc : mdl_detector_open(t->checkpoint, &t->detector, e);
}

static enum ut_err open_all(struct training *t, struct ut_error *e)
{
    const struct mdl_detector_config *c = t->c;
    bool resumes = c->resume && !access(t->checkpoint, F_OK);
    int side = c->view.side;
    enum ut_err rc = mdl_frames_open(c->faces, c->negatives, &t->frames, e);

    if (!rc)
        rc = resumes   ? open_checkpoint(t, e)
             : c->base ? mdl_detector_open(c->base, &t->detector, e)
                       : mdl_detector_fresh(c->seed, &t->detector, e);
    if (!rc)
        rc = mdl_detector_graph(t->detector, side, side, &t->graph, e);
    if (!rc)
        rc = mdl_weights_take(&t->graph, &t->weights, e);
    if (!rc && resumes)
        rc = mdl_weights_restore(&t->weights, t->c->trainer.optimizer.kind,
                                 t->file, e);
    if (!rc)
        rc = open_step(t, e);
    if (!rc)
        rc = mdl_weights_place(&t->weights, &t->lane, 1, e);
    if (!rc)
        rc = open_loss(t, e);
    return rc ? rc : open_queue(t, e);
}

static void close_all(struct training *t)
{
    mdl_queue_free(t->queue);
    mdl_frames_fini(&t->frames);
    mdl_weights_fini(&t->weights);
    mdl_plan_free(t->plan);
    mdl_lane_free(t->lane);
    mdl_backend_close(t->backend);
    mdl_step_fini(&t->forth_and_back);
    mdl_graph_fini(&t->graph);
    mdl_detector_close(t->detector);
    mdl_st_close(t->file);
    for (int i = 0; i < OUTPUTS; i++) {
        free(t->out[i]);
        free(t->seed[i]);
    }
    free(t->priors);
}

/* ---- checkpoints ---- */

static enum ut_err save(struct training *t, struct ut_error *e)
{
    char step[32], taken[32];
    const struct mdl_st_pair meta[] = {
        {"name", t->c->name},
        {"training.step", step},
        {"training.taken", taken},
        {"training.settings", t->settings},
    };
    struct mdl_weights_tensors state;
    enum ut_err rc = mdl_weights_tensors(&t->weights, true, &state, e);

    if (rc)
        return rc;
    snprintf(step, sizeof(step), "%ld", t->step);
    snprintf(taken, sizeof(taken), "%" PRId64, t->taken);
    rc = mdl_detector_write(t->checkpoint, &t->graph, false, meta, 4,
                            state.list, state.n, e);
    mdl_weights_tensors_fini(&state);
    return rc;
}

/* The detector that was asked for; then the checkpoint goes. */
static enum ut_err finish(struct training *t, struct ut_error *e)
{
    char side[16];
    const struct mdl_st_pair meta[] = {
        {"name", t->c->name},
        {"trained", "true"},
        {"training.settings", t->settings},
        {"side", side},
    };
    enum ut_err rc = mdl_weights_read(&t->weights, false, e);

    if (rc)
        return rc;
    snprintf(side, sizeof(side), "%d", t->c->frame_side);
    rc = mdl_detector_write(t->c->out, &t->graph, t->c->half, meta,
                            t->c->frame_side ? 4 : 3, NULL, 0, e);

    if (!rc)
        unlink(t->checkpoint);
    return rc;
}

/* ---- steps ---- */

static void follow(double *mean, double value)
{
    *mean += (*mean != 0 ? 0.02 : 1) * (value - *mean);
}

static enum ut_err run_batch(struct training *t, struct ut_error *e)
{
    const struct mdl_step *s = &t->forth_and_back;
    const uint8_t *images = t->batch->images;
    struct mdl_detection_parts parts;
    double loss;
    enum ut_err rc = mdl_plan_run_nodes(t->plan, images, 0, s->n_forward, e);

    for (int i = 0; i < OUTPUTS && !rc; i++)
        rc = mdl_plan_get(t->plan, s->ends[i], t->out[i], e);
    if (!rc)
        rc = mdl_loss_detection(&t->loss, t->out, t->batch->notes,
                                t->c->trainer.batch, &loss, &parts, t->seed, e);
    if (!rc && !isfinite(loss))
        rc = ut_fail(e, UT_ESTATE, "the loss is not finite");
    for (int i = 0; i < OUTPUTS && !rc; i++)
        rc = mdl_plan_set(t->plan, s->seeds[i], t->seed[i], e);
    if (!rc)
        rc = mdl_plan_run_nodes(t->plan, images, s->n_forward, s->graph.n_nodes,
                                e);
    if (rc)
        return rc;
    follow(&t->progress.loss, loss);
    follow(&t->progress.parts.class, parts.class);
    follow(&t->progress.parts.box, parts.box);
    follow(&t->progress.parts.landmarks, parts.landmarks);
    t->progress.parts.matched = parts.matched;
    return mdl_weights_learn(&t->weights, s, &t->plan, 1,
                             t->c->trainer.momentum, e);
}

static enum ut_err one_step(struct training *t, struct ut_error *e)
{
    const struct mdl_detector_config *c = t->c;
    enum ut_err rc = mdl_queue_next(t->queue, &t->batch, e);

    if (rc)
        return rc;
    t->taken++;
    t->progress.rate = mdl_rate_at(c->rate, t->step, c->steps, c->warm_up);
    rc = run_batch(t, e);
    if (!rc)
        rc = mdl_weights_update(
            &t->weights, &c->trainer.optimizer, t->progress.rate,
            c->trainer.clip, c->trainer.threads, &t->progress.gradient_norm, e);
    return rc ? rc : mdl_plan_refresh(t->plan, e);
}

static void tell(struct training *t, int64_t began_us, long began)
{
    struct mdl_detector_progress *p = &t->progress;
    double spent = (double)(ut_clock_us() - began_us) / 1e6;
    long steps = t->step - began;
    int batch = t->c->trainer.batch;

    p->step = t->step;
    p->steps = t->c->steps;
    p->images_per_second = (double)(steps * batch) / spent;
    p->seconds_left = spent / (double)steps * (double)(p->steps - p->step);
    p->epochs = t->taken * batch / t->frames.n;
    mdl_queue_state(t->queue, &p->queue);
    t->c->progress(t->c->arg, p);
}

static enum ut_err train(struct training *t, bool *done, struct ut_error *e)
{
    const struct mdl_detector_config *c = t->c;
    int64_t began_us = ut_clock_us();
    long began = t->step;
    enum ut_err rc = UT_OK;

    while (!rc && t->step < c->steps && !(c->stop && *c->stop)) {
        struct ut_error why;

        rc = one_step(t, &why);
        if (rc)
            return ut_fail(e, rc, "step %ld: %s", t->step, why.msg);
        t->step++;
        if (t->step % c->every == 0 || t->step == c->steps)
            tell(t, began_us, began);
        if (t->step % c->save == 0)
            rc = save(t, e);
    }
    *done = t->step >= c->steps;
    if (!rc && !*done)
        rc = save(t, e);
    return rc;
}

enum ut_err mdl_detector_train(const struct mdl_detector_config *c, bool *done,
                               struct ut_error *e)
{
    struct training *t = calloc(1, sizeof(*t));
    enum ut_err rc;

    *done = false;
    if (!t)
        return ut_fail(e, UT_ENOMEM, "no memory to train");
    t->c = c;
    describe_settings(t);
    if (snprintf(t->checkpoint, sizeof(t->checkpoint), "%s.checkpoint",
                 c->out) >= (int)sizeof(t->checkpoint))
        rc = ut_fail(e, UT_EINVAL, "%.150s...: is too long", c->out);
    else
        rc = open_all(t, e);
    if (!rc)
        rc = train(t, done, e);
    if (!rc && *done)
        rc = finish(t, e);
    close_all(t);
    free(t);
    return rc;
}
