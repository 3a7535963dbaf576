/* tscaf-model train: the options of a training, and its progress. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/tool/cmd.h"
#include "model/train/session.h"

static const char help[] =
    "usage: tscaf-model train --model BASE --out OUT --steps N\n"
    "                         [--fatigue DATA] [--recognition DATA] "
    "[OPTIONS]\n"
    "\n"
    "Trains the leaves of a tree from two datasets of aligned faces, or one. "
    "DATA\n"
    "is a manifest (file<TAB>label<TAB>group, a line a picture) or a folder "
    "of\n"
    "classes; for fatigue label 1 is drowsy. BASE is a model file. "
    "OUT.checkpoint\n"
    "is written every --save steps and when the training is stopped by SIGINT "
    "or\n"
    "SIGTERM (exit 3); OUT at the end.\n"
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
    "  --hint MODULE[,MODULE...]    also learn an inner map of the teacher "
    "that "
    "is\n"
    "                               run, of the size of MODULE's (such as\n"
    "                               root.stage5; of several the first that "
    "the\n"
    "                               model has), by a linear map from it;\n"
    "                               --hint-weight W (1)\n"
    "  --cosine W, --similarity W   weights of distillation (1, 20)\n"
    "  --arcface W                  weight of ArcFace (1; needs labels)\n"
    "  --scale S, --margin M, --sub-centres K   of ArcFace (20, 0.5, 3)\n"
    "  --batch N                    (64)\n"
    "  --optimizer sgd|adam|adamw   (adamw)\n"
    "  --rate R, --warm-up N        peak and the steps up to it (2e-3, 100)\n"
    "  --schedule cosine|stable     from the peak to 0 by a cosine; or stay "
    "there,\n"
    "                               and fall to 0 over the last --decay-steps: "
    "a\n"
    "                               run that goes on with --resume may set "
    "--steps\n"
    "                               and --decay-steps anew until then "
    "(cosine)\n"
    "  --decay-steps N              (0)\n"
    "  --decay W, --clip N          weight decay, gradient norm (0.01, 5)\n"
    "  --frozen-root                only branches train\n"
    "  --no-augment                 pictures as they are\n"
    "  --precision P                float32, or bfloat16 with float32 master "
    "weights\n"
    "                               (float32)\n"
    "  --threads N                  (2)\n"
    "  --lanes N                    train each batch in N equal parts, each on "
    "its\n"
    "                               share of the threads and with BatchNorms "
    "of its\n"
    "                               own: faster where other programs use the "
    "CPU;\n"
    "                               on CUDA, each on a GPU of its own (1)\n"
    "  --seed N                     (1)\n"
    "  --fatigue-rate F, --recognition-rate F   of a branch, times --rate (1)"
    "\n"
    "  --held-out P                 share of each dataset, whole groups or\n"
    "                               identities, that is kept for figures "
    "(0.1)\n"
    "  --save N                     steps between checkpoints (500)\n"
    "  --resume                     go on from OUT.checkpoint if it is there\n"
    "  --json                       progress as lines of JSON\n"
    "  --backend NAME, --name NAME\n";

/* ---- progress ---- */

static void print_json(void *arg, const struct mdl_progress *p)
{
    (void)arg;
    printf("{\"step\":%ld,\"steps\":%ld,\"fatigue_loss\":%.4f,"
           "\"recognition_loss\":%.4f,\"rate\":%.3g,\"gradient_norm\":%.3f,"
           "\"images_per_second\":%.1f,\"seconds_left\":%.0f,"
           "\"queues\":[%d,%d],\"dry\":[%lld,%lld],\"broken\":[%lld,%lld],"
           "\"epochs\":[%lld,%lld]}\n",
           p->step, p->steps, p->loss[0], p->loss[1], p->rate, p->gradient_norm,
           p->images_per_second, p->seconds_left, p->queue[0].waiting,
           p->queue[1].waiting, (long long)p->queue[0].dry,
           (long long)p->queue[1].dry, (long long)p->queue[0].broken,
           (long long)p->queue[1].broken, (long long)p->epochs[0],
           (long long)p->epochs[1]);
    fflush(stdout);
}

/* A bar that redraws itself on a terminal, lines elsewhere. */
static void print_bar(void *arg, const struct mdl_progress *p)
{
    static const char full[] = "####################";
    int done = (int)(20 * p->step / p->steps);
    const char *end = isatty(STDERR_FILENO) ? "\r" : "\n";
    int64_t broken = p->queue[0].broken + p->queue[1].broken;

    (void)arg;
    fprintf(stderr,
            "[%-20.*s] %ld/%ld  fatigue %.3f  recognition %.3f  %.0f images/s"
            "  queues %d %d of %d  %.0f:%02.0f:%02.0f left",
            done, full, p->step, p->steps, p->loss[0], p->loss[1],
            p->images_per_second, p->queue[0].waiting, p->queue[1].waiting,
            MDL_QUEUE_BATCHES, floor(p->seconds_left / 3600),
            fmod(floor(p->seconds_left / 60), 60), fmod(p->seconds_left, 60));
    if (broken)
        fprintf(stderr, "  %lld broken pictures", (long long)broken);
    fputs(p->step == p->steps ? "\n" : end, stderr);
}

static void warn(const struct mdl_progress *p)
{
    char text[MDL_WARNINGS][MDL_WARNING_LEN];
    int n = mdl_progress_warnings(p, text);

    for (int i = 0; i < n; i++)
        fprintf(stderr, "tscaf-model train: %s\n", text[i]);
}

/* ---- options ---- */

/* Options whose value is a number. */
static bool set_number(struct mdl_session_config *t, int option,
                       const char *text)
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
    case 'W':
        t->recognition.hint.weight = (float)v;
        return true;
    case 'L':
        t->trainer.lanes = (int)v;
        return v >= 1 && v <= 64;
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
        t->trainer.batch = (int)v;
        return v >= 2 && v <= 1024;
    case 'r':
        t->rate = v;
        return v > 0;
    case 'u':
        t->warm_up = (long)v;
        return true;
    case 'Y':
        t->decay_steps = (long)v;
        return true;
    case 'd':
        t->trainer.optimizer.weight_decay = (float)v;
        return true;
    case 'c':
        t->trainer.clip = (float)v;
        return true;
    case 't':
        t->trainer.threads = (int)v;
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
    case 'F':
        t->rates[MDL_FATIGUE] = (float)v;
        return true;
    case 'R':
        t->rates[MDL_RECOGNITION] = (float)v;
        return true;
    case 'H':
        t->held_out = v;
        return v < 1;
    case 'T':
        t->turn = (long)v;
        return v >= 1;
    default:
        return false;
    }
}

static bool set_text(struct mdl_session_config *t, int option, const char *text)
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
        t->data[MDL_FATIGUE] = text;
        return true;
    case 'g':
        t->data[MDL_RECOGNITION] = text;
        return true;
    case 'k':
        t->teacher = text;
        return true;
    case 'I':
        return mdl_onnx_input_parse(text, &t->teacher_input);
    case 'G':
        t->recognition.hint.module = text;
        return true;
    case 'N':
        t->name = text;
        return true;
    case 'B':
        t->trainer.backend = text;
        return true;
    case 'P':
        kind = mdl_precision_parse(text);
        t->trainer.precision = (enum mdl_precision)kind;
        return kind == MDL_PREC_F32 || kind == MDL_PREC_BF16;
    case 'O':
        kind = mdl_optimizer_parse(text);
        t->trainer.optimizer.kind = (enum mdl_optimizer_kind)kind;
        return kind >= 0;
    case 'q':
        t->schedule = !strcmp(text, "stable") ? MDL_STABLE : MDL_COSINE;
        return t->schedule == MDL_STABLE || !strcmp(text, "cosine");
    case 'a':
        t->accumulate = !strcmp(text, "accumulate");
        return t->accumulate || !strcmp(text, "alternate");
    default:
        return false;
    }
}

static int parse(struct mdl_session_config *t, int argc, char **argv)
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
        {"hint", required_argument, NULL, 'G'},
        {"hint-weight", required_argument, NULL, 'W'},
        {"arcface", required_argument, NULL, 'A'},
        {"scale", required_argument, NULL, 's'},
        {"margin", required_argument, NULL, 'M'},
        {"sub-centres", required_argument, NULL, 'K'},
        {"batch", required_argument, NULL, 'b'},
        {"optimizer", required_argument, NULL, 'O'},
        {"rate", required_argument, NULL, 'r'},
        {"warm-up", required_argument, NULL, 'u'},
        {"schedule", required_argument, NULL, 'q'},
        {"decay-steps", required_argument, NULL, 'Y'},
        {"decay", required_argument, NULL, 'd'},
        {"clip", required_argument, NULL, 'c'},
        {"threads", required_argument, NULL, 't'},
        {"lanes", required_argument, NULL, 'L'},
        {"seed", required_argument, NULL, 'e'},
        {"save", required_argument, NULL, 'v'},
        {"precision", required_argument, NULL, 'P'},
        {"backend", required_argument, NULL, 'B'},
        {"name", required_argument, NULL, 'N'},
        {"frozen-root", no_argument, NULL, 'z'},
        {"no-augment", no_argument, NULL, 'x'},
        {"fatigue-rate", required_argument, NULL, 'F'},
        {"recognition-rate", required_argument, NULL, 'R'},
        {"held-out", required_argument, NULL, 'H'},
        {"resume", no_argument, NULL, 'U'},
        {"json", no_argument, NULL, 'J'},
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
            t->trainer.frozen_root = true;
        else if (c == 'x')
            t->augmented = false;
        else if (c == 'U')
            t->resume = true;
        else if (c == 'J')
            t->progress = print_json;
        else if (c == '?')
            return 2;
        else if (!set_text(t, c, optarg) && !set_number(t, c, optarg)) {
            fprintf(stderr, "tscaf-model train: --%s cannot be \"%s\"\n",
                    options[index].name, optarg);
            return 2;
        }
    }
    if (optind != argc || !t->base || !t->out || !t->steps ||
        (!t->data[MDL_FATIGUE] && !t->data[MDL_RECOGNITION])) {
        fputs(help, stderr);
        return 2;
    }
    return -1;
}

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

/* What the progress is told through: the last is kept for the end's words. */
struct listener {
    void (*print)(void *arg, const struct mdl_progress *p);
    struct mdl_progress last;
};

static void listen(void *arg, const struct mdl_progress *p)
{
    struct listener *l = arg;

    l->last = *p;
    l->print(NULL, p);
}

int cmd_train(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    struct mdl_session_config t = {
        .name = "trained",
        .held_out = 0.1,
        .rates = {1, 1},
        .trainer =
            {
                .threads = 2,
                .batch = 64,
                .optimizer = {MDL_ADAMW, 0.9f, 0.999f, 1e-8f, 0.01f},
                .momentum = 0.1f,
                .clip = 5,
            },
        .recognition =
            {
                .arcface = {.k = 3, .scale = 20, .margin = 0.5f},
                .arcface_weight = 1,
                .distill = {.cosine = 1, .similarity = 20},
                .hint = {.weight = 1},
            },
        .augmented = true,
        .weight = 0.5f,
        .rate = 2e-3,
        .warm_up = 100,
        .save = 500,
        .turn = 1,
        .every = 20,
        .seed = 1,
        .progress = print_bar,
        .stop = &stop,
    };
    struct listener listener = {.print = print_bar};
    struct ut_error e;
    enum ut_err rc;
    bool done;
    int code;

    mdl_onnx_input_parse("insightface", &t.teacher_input);
    code = parse(&t, argc, argv);
    if (code >= 0)
        return code;
    listener.print = t.progress;
    t.progress = listen;
    t.arg = &listener;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    done = false;
    rc = cmd_check_backend(t.trainer.backend, &e);
    if (!rc)
        rc = mdl_session_run(&t, &done, &e);
    warn(&listener.last);
    if (rc)
        return cmd_fail(&e);
    if (!done)
        fprintf(stderr,
                "tscaf-model train: stopped; --resume goes on from "
                "%s.checkpoint\n",
                t.out);
    return done ? 0 : 3;
}
