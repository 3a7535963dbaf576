/* tscaf-model train: two queues, two leaves, one network. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "model/data/queue.h"
#include "model/tool/cmd.h"
#include "model/train/teacher.h"
#include "model/train/trainer.h"

static const char help[] =
    "usage: tscaf-model train --model BASE --out OUT --steps N\n"
    "                         --fatigue DATA --recognition DATA [OPTIONS]\n"
    "\n"
    "Trains both leaves of a tree from two datasets of aligned faces. DATA is "
    "a\n"
    "manifest (file<TAB>label, a line a picture) or a folder of classes; for\n"
    "fatigue label 1 is drowsy. BASE is a model file; OUT gets the weights "
    "every\n"
    "--save steps and at the end.\n"
    "\n"
    "  --mode alternate|accumulate  turn by turn, or both in one update "
    "(alternate)\n"
    "  --weight W                   of fatigue, when accumulating (0.5)\n"
    "  --turn N                     recognition batches for each of fatigue, "
    "when\n"
    "                               alternating (1)\n"
    "  --teacher FILE               distil: FILE.onnx, an embedder that is run "
    "on\n"
    "                               what the network is shown, or unit "
    "embeddings,\n"
    "                               a row for each line of the recognition "
    "data\n"
    "  --teacher-input KIND         imagenet, insightface or bytes "
    "(insightface)\n"
    "  --mix P                      chance of a second picture mixed in; for "
    "a\n"
    "                               teacher that is run (0)\n"
    "  --cosine W, --similarity W   weights of distillation (1, 20)\n"
    "  --arcface W                  weight of ArcFace (1; needs labels)\n"
    "  --scale S, --margin M, --sub-centres K   of ArcFace (20, 0.5, 3)\n"
    "  --batch N                    (64)\n"
    "  --optimizer sgd|adam|adamw   (adamw)\n"
    "  --rate R, --warm-up N        peak and its steps (2e-3, 100); cosine to "
    "0\n"
    "  --decay W, --clip N          weight decay, gradient norm (0.01, 5)\n"
    "  --frozen-root                only branches train\n"
    "  --no-augment                 pictures as they are\n"
    "  --threads N                  (2)\n"
    "  --seed N                     (1)\n"
    "  --save N                     steps between checkpoints (500)\n"
    "  --backend NAME, --name NAME\n";

enum { FATIGUE, RECOGNITION, N_TASKS };

struct training {
    const char *base, *out, *data[N_TASKS], *teacher_path, *name;
    struct mdl_trainer_config config;
    struct mdl_recognition recognition;
    bool accumulate, augmented;
    float weight;
    double rate;
    long steps, warm_up, save, turn;
    uint64_t seed;

    struct mdl_model model;
    struct mdl_trainer *trainer;
    struct mdl_dataset sets[N_TASKS];
    struct mdl_queue *queues[N_TASKS];
    const struct mdl_batch *batches[N_TASKS];
    struct mdl_st *teacher_file;
    float *embeddings; /* owned; [rows, dim]; or: */
    struct mdl_teacher *teacher;
    struct mdl_onnx_input teacher_input;
    float mix;
    float *target, *rows;
    int tasks[N_TASKS];
    double loss[N_TASKS]; /* moving means, for the eye */
};

static enum ut_err open_embeddings(struct training *t, struct ut_error *e)
{
    const struct mdl_st_tensor *x;
    enum ut_err rc = mdl_st_open(t->teacher_path, &t->teacher_file, e);

    if (rc)
        return rc;
    x = mdl_st_find(t->teacher_file, "embedding");
    if (!x || x->shape.n_dims != 2 || x->shape.dim[0] != t->sets[RECOGNITION].n)
        return ut_fail(e, UT_EFORMAT,
                       "%s: has no \"embedding\" with a row for each of %d "
                       "pictures",
                       t->teacher_path, t->sets[RECOGNITION].n);
    t->recognition.distill.teacher_dim = (int)x->shape.dim[1];
    t->embeddings = malloc(mdl_shape_count(&x->shape) * sizeof(float));
    return t->embeddings
               ? mdl_st_floats(x, t->embeddings, e)
               : ut_fail(e, UT_ENOMEM, "no memory for %s", t->teacher_path);
}

static enum ut_err open_teacher(struct training *t, struct ut_error *e)
{
    const char *end = t->teacher_path ? strrchr(t->teacher_path, '.') : NULL;
    bool runs = end && !strcmp(end, ".onnx");
    struct mdl_teacher_config c = {
        .path = t->teacher_path,
        .input = t->teacher_input,
        .side = t->model.spec.input,
        .batch = t->config.batch,
        .threads = t->config.threads,
    };
    enum ut_err rc;

    if (!runs && t->mix > 0)
        return ut_fail(e, UT_EINVAL, "--mix needs a --teacher FILE.onnx");
    if (!runs)
        return t->teacher_path ? open_embeddings(t, e) : UT_OK;
    rc = mdl_teacher_open(&c, &t->teacher, e);
    if (!rc)
        t->recognition.distill.teacher_dim = mdl_teacher_dim(t->teacher);
    return rc;
}

static enum ut_err open_queues(struct training *t, struct ut_error *e)
{
    struct mdl_queue_config c = {
        .batch = t->config.batch,
        .side = t->model.spec.input,
        .threads = 1,
        .augmented = t->augmented,
        .augment = mdl_augment_default,
    };
    enum ut_err rc = UT_OK;

    for (int i = 0; i < N_TASKS && !rc; i++) {
        c.seed = t->seed * 2 + (uint64_t)i;
        c.mix = i == RECOGNITION ? t->mix : 0;
        rc = mdl_queue_new(&t->sets[i], &c, &t->queues[i], e);
    }
    return rc;
}

static enum ut_err open_all(struct training *t, struct ut_error *e)
{
    size_t n = (size_t)t->config.batch;
    enum ut_err rc = mdl_model_open(t->base, &t->model, e);

    for (int i = 0; i < N_TASKS && !rc; i++)
        rc = mdl_dataset_open(t->data[i], &t->sets[i], e);
    if (!rc)
        rc = open_teacher(t, e);
    if (!rc && t->recognition.arcface_weight > 0)
        t->recognition.arcface.classes = t->sets[RECOGNITION].classes;
    if (!rc)
        rc = mdl_trainer_new(&t->model, &t->config, &t->trainer, e);
    t->recognition.seed = t->seed;
    if (!rc)
        rc = mdl_trainer_leaf(t->trainer, "fatigue", NULL, &t->tasks[FATIGUE],
                              e);
    if (!rc)
        rc = mdl_trainer_leaf(t->trainer, "recognition", &t->recognition,
                              &t->tasks[RECOGNITION], e);
    if (!rc)
        rc = open_queues(t, e);
    t->target = malloc(n * sizeof(float));
    t->rows = malloc(n * sizeof(float) *
                     (size_t)(t->recognition.distill.teacher_dim + 1));
    if (!rc && (!t->target || !t->rows))
        rc = ut_fail(e, UT_ENOMEM, "no memory for labels");
    return rc;
}

static enum ut_err one_batch(struct training *t, int which, float weight,
                             struct ut_error *e)
{
    int n = t->config.batch, dim = t->recognition.distill.teacher_dim;
    struct mdl_labels labels = {.target = t->target, .teacher = t->rows};
    const struct mdl_batch *b;
    double loss;
    enum ut_err rc = mdl_queue_next(t->queues[which], &t->batches[which], e);

    if (rc)
        return rc;
    b = t->batches[which];
    labels.label = b->label;
    for (int i = 0; i < n; i++) {
        t->target[i] = (float)(b->label[i] > 0);
        if (which == RECOGNITION && t->embeddings)
            memcpy(t->rows + (size_t)i * (size_t)dim,
                   t->embeddings + (size_t)b->row[i] * (size_t)dim,
                   (size_t)dim * sizeof(float));
    }
    if (which == RECOGNITION && t->teacher)
        rc = mdl_teacher_embed(t->teacher, b->images, t->rows, e);
    if (!rc)
        rc = mdl_trainer_batch(t->trainer, t->tasks[which], b->images, &labels,
                               weight, &loss, e);
    if (!rc)
        t->loss[which] += (t->loss[which] ? 0.05 : 1) * (loss - t->loss[which]);
    return rc;
}

static double rate_at(const struct training *t, long step)
{
    double part = (double)(step - t->warm_up) /
                  (double)(t->steps > t->warm_up ? t->steps - t->warm_up : 1);

    if (step < t->warm_up)
        return t->rate * (double)(step + 1) / (double)t->warm_up;
    return t->rate * 0.5 * (1 + cos(3.14159265358979 * part));
}

static enum ut_err save(struct training *t, long step, struct ut_error *e)
{
    char at[32];
    struct mdl_st_pair meta[] = {
        {"name", t->name}, {"trained", "true"}, {"steps", at}};

    snprintf(at, sizeof(at), "%ld", step);
    return mdl_trainer_write(t->trainer, t->out, meta, 3, e);
}

static void tell(const struct training *t, long step, double norm,
                 int64_t began_us, long views)
{
    double s = (double)(ut_clock_us() - began_us) / 1e6;
    struct mdl_queue_state q[N_TASKS];

    for (int i = 0; i < N_TASKS; i++)
        mdl_queue_state(t->queues[i], &q[i]);
    printf("{\"step\":%ld,\"fatigue_loss\":%.4f,\"recognition_loss\":%.4f,"
           "\"rate\":%.3g,\"gradient_norm\":%.3f,\"images_per_second\":%.1f,"
           "\"seconds_left\":%.0f,\"queues\":[%d,%d],\"dry\":[%lld,%lld],"
           "\"broken\":[%lld,%lld]}\n",
           step, t->loss[FATIGUE], t->loss[RECOGNITION], rate_at(t, step), norm,
           (double)views / s, s / (double)step * (double)(t->steps - step),
           q[0].waiting, q[1].waiting, (long long)q[0].dry, (long long)q[1].dry,
           (long long)q[0].broken, (long long)q[1].broken);
    fflush(stdout);
}

/* One update: a turn of one queue, or both queues together. */
static enum ut_err one_step(struct training *t, long step, double *norm,
                            struct ut_error *e)
{
    int which = step % (t->turn + 1) ? RECOGNITION : FATIGUE;
    enum ut_err rc;

    if (t->accumulate) {
        rc = one_batch(t, FATIGUE, t->weight, e);
        if (!rc)
            rc = one_batch(t, RECOGNITION, 1 - t->weight, e);
    } else {
        rc = one_batch(t, which, 1, e);
    }
    return rc ? rc : mdl_trainer_update(t->trainer, rate_at(t, step), norm, e);
}

static enum ut_err run(struct training *t, struct ut_error *e)
{
    long per_step = t->config.batch * (t->accumulate ? 2 : 1);
    int64_t began_us = ut_clock_us();
    enum ut_err rc = UT_OK;
    double norm = 0;

    for (long step = 0; step < t->steps && !rc; step++) {
        struct ut_error why;

        rc = one_step(t, step, &norm, &why);
        if (rc)
            return ut_fail(e, rc, "step %ld: %s", step, why.msg);
        if ((step + 1) % 20 == 0)
            tell(t, step + 1, norm, began_us, (step + 1) * per_step);
        if ((step + 1) % t->save == 0 || step + 1 == t->steps)
            rc = save(t, step + 1, e);
    }
    return rc;
}

static void close_all(struct training *t)
{
    for (int i = 0; i < N_TASKS; i++) {
        mdl_queue_free(t->queues[i]);
        mdl_dataset_fini(&t->sets[i]);
    }
    mdl_trainer_free(t->trainer);
    mdl_model_close(&t->model);
    mdl_st_close(t->teacher_file);
    mdl_teacher_close(t->teacher);
    free(t->embeddings);
    free(t->target);
    free(t->rows);
}

/* Options whose value is a number. */
static bool set_number(struct training *t, int option, const char *text)
{
    double v;
    char *end;

    v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || v < 0)
        return false;
    switch (option) {
    case 'w':
        t->weight = (float)v;
        return v <= 1;
    case 'C':
        t->recognition.distill.cosine = (float)v;
        return true;
    case 'S':
        t->recognition.distill.similarity = (float)v;
        return true;
    case 'A':
        t->recognition.arcface_weight = (float)v;
        return true;
    case 's':
        t->recognition.arcface.scale = (float)v;
        return v > 0;
    case 'M':
        t->recognition.arcface.margin = (float)v;
        return v < 1.5;
    case 'K':
        t->recognition.arcface.k = (int)v;
        return v >= 1 && v <= 16;
    case 'b':
        t->config.batch = (int)v;
        return v >= 2 && v <= 1024;
    case 'r':
        t->rate = v;
        return v > 0;
    case 'u':
        t->warm_up = (long)v;
        return true;
    case 'd':
        t->config.optimizer.weight_decay = (float)v;
        return true;
    case 'c':
        t->config.clip = (float)v;
        return true;
    case 't':
        t->config.threads = (int)v;
        return v >= 1 && v <= 256;
    case 'e':
        t->seed = (uint64_t)v;
        return true;
    case 'v':
        t->save = (long)v;
        return v >= 1;
    case 'n':
        t->steps = (long)v;
        return v >= 1;
    case 'X':
        t->mix = (float)v;
        return v <= 1;
    case 'T':
        t->turn = (long)v;
        return v >= 1;
    default:
        return false;
    }
}

static bool set_text(struct training *t, int option, const char *text)
{
    int kind;

    switch (option) {
    case 'm':
        t->base = text;
        return true;
    case 'o':
        t->out = text;
        return true;
    case 'f':
        t->data[FATIGUE] = text;
        return true;
    case 'g':
        t->data[RECOGNITION] = text;
        return true;
    case 'k':
        t->teacher_path = text;
        return true;
    case 'I':
        return mdl_onnx_input_parse(text, &t->teacher_input);
    case 'N':
        t->name = text;
        return true;
    case 'B':
        t->config.backend = text;
        return true;
    case 'O':
        kind = mdl_optimizer_parse(text);
        t->config.optimizer.kind = (enum mdl_optimizer_kind)kind;
        return kind >= 0;
    case 'a':
        t->accumulate = !strcmp(text, "accumulate");
        return t->accumulate || !strcmp(text, "alternate");
    default:
        return false;
    }
}

static int parse(struct training *t, int argc, char **argv)
{
    static const struct option options[] = {
        {"model", required_argument, NULL, 'm'},
        {"out", required_argument, NULL, 'o'},
        {"steps", required_argument, NULL, 'n'},
        {"fatigue", required_argument, NULL, 'f'},
        {"recognition", required_argument, NULL, 'g'},
        {"teacher", required_argument, NULL, 'k'},
        {"teacher-input", required_argument, NULL, 'I'},
        {"mix", required_argument, NULL, 'X'},
        {"mode", required_argument, NULL, 'a'},
        {"weight", required_argument, NULL, 'w'},
        {"turn", required_argument, NULL, 'T'},
        {"cosine", required_argument, NULL, 'C'},
        {"similarity", required_argument, NULL, 'S'},
        {"arcface", required_argument, NULL, 'A'},
        {"scale", required_argument, NULL, 's'},
        {"margin", required_argument, NULL, 'M'},
        {"sub-centres", required_argument, NULL, 'K'},
        {"batch", required_argument, NULL, 'b'},
        {"optimizer", required_argument, NULL, 'O'},
        {"rate", required_argument, NULL, 'r'},
        {"warm-up", required_argument, NULL, 'u'},
        {"decay", required_argument, NULL, 'd'},
        {"clip", required_argument, NULL, 'c'},
        {"threads", required_argument, NULL, 't'},
        {"seed", required_argument, NULL, 'e'},
        {"save", required_argument, NULL, 'v'},
        {"backend", required_argument, NULL, 'B'},
        {"name", required_argument, NULL, 'N'},
        {"frozen-root", no_argument, NULL, 'z'},
        {"no-augment", no_argument, NULL, 'x'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int c, index;

    while ((c = getopt_long(argc, argv, "", options, &index)) != -1) {
        if (c == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (c == 'z')
            t->config.frozen_root = true;
        else if (c == 'x')
            t->augmented = false;
        else if (c == '?')
            return 2;
        else if (!set_text(t, c, optarg) && !set_number(t, c, optarg)) {
            fprintf(stderr, "tscaf-model train: --%s cannot be \"%s\"\n",
                    options[index].name, optarg);
            return 2;
        }
    }
    if (optind != argc || !t->base || !t->out || !t->steps ||
        !t->data[FATIGUE] || !t->data[RECOGNITION]) {
        fputs(help, stderr);
        return 2;
    }
    return -1;
}

int cmd_train(int argc, char **argv)
{
    struct training *t = calloc(1, sizeof(*t));
    struct ut_error e = {.msg = "no memory"};
    enum ut_err rc;
    int code;

    if (!t)
        return cmd_fail(&e);
    t->config = (struct mdl_trainer_config){
        .threads = 2,
        .batch = 64,
        .optimizer = {MDL_ADAMW, 0.9f, 0.999f, 1e-8f, 0.01f},
        .momentum = 0.1f,
        .clip = 5,
    };
    t->recognition = (struct mdl_recognition){
        .arcface = {.k = 3, .scale = 20, .margin = 0.5f},
        .arcface_weight = 1,
        .distill = {.cosine = 1, .similarity = 20},
    };
    t->augmented = true;
    mdl_onnx_input_parse("insightface", &t->teacher_input);
    t->weight = 0.5f;
    t->rate = 2e-3;
    t->warm_up = 100;
    t->save = 500;
    t->turn = 1;
    t->seed = 1;
    t->name = "trained";
    code = parse(t, argc, argv);
    if (code < 0) {
        rc = open_all(t, &e);
        if (!rc)
            rc = run(t, &e);
        code = rc ? cmd_fail(&e) : 0;
    }
    close_all(t);
    free(t);
    return code;
}
