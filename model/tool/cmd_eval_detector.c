/* tscaf-model eval-detector: a face detector's figures on labelled frames. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/eval/detection.h"
#include "model/tool/cmd.h"

static const char help[] =
    "usage: tscaf-model eval-detector --faces FILE [OPTIONS] DETECTOR\n"
    "\n"
    "Recall at IoU 0.5 with its 95 % interval, average precision, landmark "
    "error in\n"
    "distances between the eyes, and pictures without a face that one was "
    "found "
    "in.\n"
    "Lists as of train-detector. Prints one line of JSON.\n"
    "\n"
    "  --negatives FILE    pictures without a face\n"
    "  --only PREFIX       of the pictures with faces, those whose file's name "
    "starts\n"
    "                      so\n"
    "  --min-faces N       and has at least so many (1)\n"
    "  --min-score S       from which a detection counts (0.5)\n"
    "  --side N            the long side that frames are scaled to (the "
    "detector's)\n"
    "  --backend NAME\n";

struct evaluation {
    const char *backend, *faces, *negatives, *detector;
    struct mdl_detection_choice choice;
    float min_score;
    int side_px;
};

static void print(const struct evaluation *v,
                  const struct mdl_detection_figures *f)
{
    double lo, hi, alarm_lo, alarm_hi;

    mdl_wilson(f->found, f->faces, &lo, &hi);
    mdl_wilson(f->negatives_alarmed, f->negatives, &alarm_lo, &alarm_hi);
    printf("{\"task\":\"detection\",\"pictures\":%d,\"faces\":%d,"
           "\"min_score\":%g,\"found\":%d,\"recall\":%.4f,"
           "\"recall_95\":[%.4f,%.4f],\"average_precision\":%.4f,"
           "\"false_positives\":%d,\"landmark_error_mean\":%.4f,"
           "\"landmark_error_median\":%.4f,\"negatives\":%d,"
           "\"negatives_alarmed\":%d,\"alarmed_95\":[%.4f,%.4f]}\n",
           f->pictures, f->faces, (double)v->min_score, f->found,
           (double)f->found / f->faces, lo, hi, f->average_precision,
           f->false_positive, f->landmark_mean, f->landmark_median,
           f->negatives, f->negatives_alarmed, alarm_lo, alarm_hi);
}

static enum ut_err evaluate(const struct evaluation *v, struct ut_error *e)
{
    struct mdl_detection_figures figures;
    struct mdl_detector *d = NULL;
    struct mdl_backend *b = NULL;
    struct mdl_finder *f = NULL;
    struct mdl_frames frames;
    enum ut_err rc = mdl_frames_open(v->faces, v->negatives, &frames, e);

    if (!rc)
        rc = mdl_detector_open(v->detector, &d, e);
    if (!rc)
        rc = cmd_open_backend(v->backend, &b, e);
    if (!rc)
        rc = mdl_finder_new(d, b, &f, e);
    if (!rc)
        rc = mdl_detection_measure(f, &frames, &v->choice, v->side_px,
                                   v->min_score, &figures, e);
    if (!rc)
        print(v, &figures);
    mdl_finder_free(f);
    mdl_backend_close(b);
    mdl_detector_close(d);
    mdl_frames_fini(&frames);
    return rc;
}

static bool set(struct evaluation *v, int option, const char *text)
{
    char *end;
    double n;

    switch (option) {
    case 'f':
        v->faces = text;
        return true;
    case 'n':
        v->negatives = text;
        return true;
    case 'o':
        v->choice.prefix = text;
        return true;
    case 'b':
        v->backend = text;
        return true;
    default:
        break;
    }
    n = strtod(text, &end);
    if (end == text || *end || !isfinite(n) || n < 0 || n > 1e6)
        return false;
    if (option == 'm')
        v->choice.min_faces = (int)n;
    else if (option == 's')
        v->side_px = (int)n;
    else
        v->min_score = (float)n;
    return option != 'c' || (n > 0 && n <= 1);
}

int cmd_eval_detector(int argc, char **argv)
{
    static const struct option options[] = {
        {"faces", required_argument, NULL, 'f'},
        {"negatives", required_argument, NULL, 'n'},
        {"only", required_argument, NULL, 'o'},
        {"min-faces", required_argument, NULL, 'm'},
        {"min-score", required_argument, NULL, 'c'},
        {"side", required_argument, NULL, 's'},
        {"backend", required_argument, NULL, 'b'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct evaluation v = {.min_score = 0.5f};
    int c, index;
    struct ut_error e;

    while ((c = getopt_long(argc, argv, "", options, &index)) != -1) {
        if (c == 'h' || c == '?') {
            fputs(help, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
        if (!set(&v, c, optarg)) {
            fprintf(stderr,
                    "tscaf-model eval-detector: --%s cannot be \"%s\"\n",
                    options[index].name, optarg);
            return 2;
        }
    }
    if (argc - optind != 1 || !v.faces) {
        fputs(help, stderr);
        return 2;
    }
    v.detector = argv[optind];
    return evaluate(&v, &e) ? cmd_fail(&e) : 0;
}
