/* tscaf-model train-detector: the face detector from labelled frames. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/tool/cmd.h"
#include "model/train/detector.h"

static const char help[] =
    "usage: tscaf-model train-detector --faces FILE --out OUT --steps N\n"
    "                                  [--negatives FILE] [OPTIONS]\n"
    "\n"
    "Trains RetinaFace MobileNet 0.25. --faces: a line a face,\n"
    "  file,width,height,x,y,w,h,l0x,l0y..l4x,l4y,score\n"
    "in pixels of the file, which lies below the list's folder; --negatives: a "
    "line\n"
    "a file without a face. OUT.checkpoint is written every --save steps and "
    "when\n"
    "the training is stopped by SIGINT or SIGTERM (exit 3); OUT at the end.\n"
    "\n"
    "  --base FILE          weights to start from (none: fresh)\n"
    "  --side N             of the views, a multiple of 32 (320)\n"
    "  --mosaic P           chance of four pictures in a view (0.4)\n"
    "  --whole P            chance of a whole picture, not of a face at a "
    "size\n"
    "                       that is drawn (0.3)\n"
    "  --min-face N         the smallest such size, px (12)\n"
    "  --negative-ratio R   hard negatives for each matched anchor (7)\n"
    "  --box W, --landmarks W   weights of the losses (2, 1)\n"
    "  --batch N            (16)\n"
    "  --optimizer sgd|adam|adamw   (adamw)\n"
    "  --rate R, --warm-up N        peak and its steps (2e-3, 100); cosine to "
    "0\n"
    "  --decay W, --clip N  weight decay, gradient norm (0.01, 10)\n"
    "  --precision P        float32, or bfloat16 with float32 master weights\n"
    "                       (float32)\n"
    "  --threads N          (2)\n"
    "  --seed N             (1)\n"
    "  --save N             steps between checkpoints (200)\n"
    "  --resume             go on from OUT.checkpoint if it is there\n"
    "  --frame-side N       OUT says that frames are best scaled to N px on "
    "their long\n"
    "                       side (nothing: 640)\n"
    "  --float32            OUT's convolutions as float32 (bfloat16)\n"
    "  --json               progress as lines of JSON\n"
    "  --backend NAME, --name NAME\n";

/* ---- progress ---- */

static void print_json(void *arg, const struct mdl_detector_progress *p)
{
    (void)arg;
    printf("{\"step\":%ld,\"steps\":%ld,\"loss\":%.4f,\"class_loss\":%.4f,"
           "\"box_loss\":%.4f,\"landmark_loss\":%.4f,\"matched\":%d,"
           "\"rate\":%.3g,\"gradient_norm\":%.3f,\"images_per_second\":%.1f,"
           "\"seconds_left\":%.0f,\"queue\":%d,\"dry\":%lld,\"broken\":%lld,"
           "\"epochs\":%lld}\n",
           p->step, p->steps, p->loss, p->parts.class, p->parts.box,
           p->parts.landmarks, p->parts.matched, p->rate, p->gradient_norm,
           p->images_per_second, p->seconds_left, p->queue.waiting,
           (long long)p->queue.dry, (long long)p->queue.broken,
           (long long)p->epochs);
    fflush(stdout);
}

static void print_bar(void *arg, const struct mdl_detector_progress *p)
{
    static const char full[] = "####################";
    const char *end = isatty(STDERR_FILENO) ? "\r" : "\n";
    int done = (int)(20 * p->step / p->steps);

    (void)arg;
    fprintf(stderr,
            "[%-20.*s] %ld/%ld  class %.3f  box %.3f  landmarks %.3f  %.1f "
            "images/s  queue %d of %d  %.0f:%02.0f:%02.0f left",
            done, full, p->step, p->steps, p->parts.class, p->parts.box,
            p->parts.landmarks, p->images_per_second, p->queue.waiting,
            MDL_QUEUE_BATCHES, floor(p->seconds_left / 3600),
            fmod(floor(p->seconds_left / 60), 60), fmod(p->seconds_left, 60));
    if (p->queue.broken)
        fprintf(stderr, "  %lld broken pictures", (long long)p->queue.broken);
    fputs(p->step == p->steps ? "\n" : end, stderr);
}

struct listener {
    void (*print)(void *arg, const struct mdl_detector_progress *p);
    struct mdl_detector_progress last;
};

static void listen(void *arg, const struct mdl_detector_progress *p)
{
    struct listener *l = arg;

    l->last = *p;
    l->print(NULL, p);
}

static void warn(const struct mdl_detector_progress *p)
{
    const struct mdl_queue_state *q = &p->queue;

    if (q->dry > p->steps / 10)
        fprintf(stderr,
                "tscaf-model train-detector: training waited %lld times for "
                "pictures: making views is slower than training\n",
                (long long)q->dry);
    if (q->broken)
        fprintf(stderr,
                "tscaf-model train-detector: %lld pictures could not be read, "
                "the last: %s\n",
                (long long)q->broken, q->last);
}

/* ---- options ---- */

static bool set_number(struct mdl_detector_config *t, int option,
                       const char *text)
{
    double v;
    char *end;

    v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || v < 0)
        return false;
    switch (option) {
    case 's':
        t->view.side = (int)v;
        return v >= 64 && v <= 1024 && t->view.side % 32 == 0;
    case 'm':
        t->view.mosaic = (float)v;
        return v <= 1;
    case 'w':
        t->view.whole = (float)v;
        return v <= 1;
    case 'S':
        t->frame_side = (int)v;
        return v >= 32 && v <= MDL_DETECT_MAX_SIDE_PX;
    case 'M':
        t->view.min_face = (float)v;
        return v >= 1 && v <= 1024;
    case 'R':
        t->loss.negatives = (float)v;
        return true;
    case 'x':
        t->loss.box = (float)v;
        return true;
    case 'l':
        t->loss.landmarks = (float)v;
        return true;
    case 'b':
        t->trainer.batch = (int)v;
        return v >= 2 && v <= 1024;
    case 'r':
        t->rate = v;
        return v > 0;
    case 'u':
        t->warm_up = (long)v;
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
    default:
        return false;
    }
}

static bool set_text(struct mdl_detector_config *t, int option,
                     const char *text)
{
    int kind;

    switch (option) {
    case 'B':
        t->base = text;
        return true;
    case 'o':
        t->out = text;
        return true;
    case 'f':
        t->faces = text;
        return true;
    case 'g':
        t->negatives = text;
        return true;
    case 'N':
        t->name = text;
        return true;
    case 'k':
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
    default:
        return false;
    }
}

static int parse(struct mdl_detector_config *t, struct listener *l, int argc,
                 char **argv)
{
    static const struct option options[] = {
        {"faces", required_argument, NULL, 'f'},
        {"negatives", required_argument, NULL, 'g'},
        {"out", required_argument, NULL, 'o'},
        {"steps", required_argument, NULL, 'n'},
        {"base", required_argument, NULL, 'B'},
        {"side", required_argument, NULL, 's'},
        {"mosaic", required_argument, NULL, 'm'},
        {"whole", required_argument, NULL, 'w'},
        {"frame-side", required_argument, NULL, 'S'},
        {"min-face", required_argument, NULL, 'M'},
        {"negative-ratio", required_argument, NULL, 'R'},
        {"box", required_argument, NULL, 'x'},
        {"landmarks", required_argument, NULL, 'l'},
        {"batch", required_argument, NULL, 'b'},
        {"optimizer", required_argument, NULL, 'O'},
        {"rate", required_argument, NULL, 'r'},
        {"warm-up", required_argument, NULL, 'u'},
        {"decay", required_argument, NULL, 'd'},
        {"clip", required_argument, NULL, 'c'},
        {"precision", required_argument, NULL, 'P'},
        {"threads", required_argument, NULL, 't'},
        {"seed", required_argument, NULL, 'e'},
        {"save", required_argument, NULL, 'v'},
        {"backend", required_argument, NULL, 'k'},
        {"name", required_argument, NULL, 'N'},
        {"resume", no_argument, NULL, 'U'},
        {"float32", no_argument, NULL, 'F'},
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
        if (c == 'U')
            t->resume = true;
        else if (c == 'F')
            t->half = false;
        else if (c == 'J')
            l->print = print_json;
        else if (c == '?')
            return 2;
        else if (!set_text(t, c, optarg) && !set_number(t, c, optarg)) {
            fprintf(stderr,
                    "tscaf-model train-detector: --%s cannot be \"%s\"\n",
                    options[index].name, optarg);
            return 2;
        }
    }
    if (optind != argc || !t->faces || !t->out || !t->steps) {
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

int cmd_train_detector(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    struct listener listener = {.print = print_bar};
    struct mdl_detector_config t = {
        .name = "retinaface-mobilenet0.25",
        .trainer =
            {
                .threads = 2,
                .batch = 16,
                .optimizer = {MDL_ADAMW, 0.9f, 0.999f, 1e-8f, 0.01f},
                .momentum = 0.1f,
                .clip = 10,
            },
        .view = mdl_view_default,
        .loss = {.match = 0.35f, .negatives = 7, .box = 2, .landmarks = 1},
        .rate = 2e-3,
        .warm_up = 100,
        .save = 200,
        .half = true,
        .seed = 1,
        .every = 20,
        .progress = listen,
        .arg = &listener,
        .stop = &stop,
    };
    int code = parse(&t, &listener, argc, argv);
    struct ut_error e;
    enum ut_err rc;
    bool done;

    if (code >= 0)
        return code;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    done = false;
    rc = cmd_check_backend(t.trainer.backend, &e);
    if (!rc)
        rc = mdl_detector_train(&t, &done, &e);
    warn(&listener.last);
    if (rc)
        return cmd_fail(&e);
    if (!done)
        fprintf(stderr,
                "tscaf-model train-detector: stopped; --resume goes on from "
                "%s.checkpoint\n",
                t.out);
    return done ? 0 : 3;
}
