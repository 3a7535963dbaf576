/* tscaf-model: the offline tool. Dispatches to cmd_*.c. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "model/tool/cmd.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"describe", cmd_describe, "sizes of a model file or spec, by module"},
    {"init", cmd_init, "make an untrained model file from a spec"},
    {"run", cmd_run, "images through the network, all outputs to a file"},
    {"import", cmd_import, "take over InsightFace or torchvision weights"},
    {"graft", cmd_graft, "make a tree of a pretrained recogniser"},
    {"export", cmd_export, "write a model as ONNX"},
    {"train", cmd_train, "train both leaves over two dataset queues"},
    {"train-detector", cmd_train_detector,
     "train the face detector from frames"},
    {"eval", cmd_eval, "accuracy and the rest, for fatigue and recognition"},
    {"calibrate", cmd_calibrate,
     "thresholds at stated error rates, into a model"},
    {"convert", cmd_convert, "a trained model as it ships: half the size"},
    {"eval-detector", cmd_eval_detector,
     "recall and the rest, for the face detector"},
    {"plot", cmd_plot, "ROC, training, confusion, Grad-CAM and t-SNE figures"},
    {"study", cmd_study, "the paper's tables as one command that resumes"},
    {"bench", cmd_bench, "time the network or the gallery search"},
    {"sample", cmd_sample, "draw a sample face"},
};

#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

int cmd_fail(const struct ut_error *e)
{
    fprintf(stderr, "tscaf-model: %s\n", e->msg);
    return 1;
}

enum ut_err cmd_open_backend(const char *name, struct mdl_backend **out,
                             struct ut_error *e)
{
    enum ut_err rc = mdl_backend_open(name, 0, out, e);

    if (!rc && *mdl_backend_note(*out))
        fprintf(stderr, "tscaf-model: cuda is not used: %s\n",
                mdl_backend_note(*out));
    return rc;
}

enum ut_err cmd_check_backend(const char *name, struct ut_error *e)
{
    struct mdl_backend *b;
    enum ut_err rc = cmd_open_backend(name, &b, e);

    if (!rc)
        mdl_backend_close(b);
    return rc;
}

bool cmd_parse_seed(const char *text, uint64_t *out)
{
    char *end;

    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end;
}

enum ut_err cmd_read_spec(const char *path, struct mdl_spec *out,
                          struct ut_error *e)
{
    const char *builtin = mdl_model_builtin_spec(path);
    struct ut_buf text;
    enum ut_err rc;

    if (builtin)
        return mdl_spec_parse(builtin, strlen(builtin), out, e);
    ut_buf_init(&text, 1 << 20);
    rc = ut_buf_add_file(&text, path, e);
    if (!rc)
        rc = mdl_spec_parse(text.data ? text.data : "", text.len, out, e);
    ut_buf_fini(&text);
    return rc;
}

static int usage(FILE *to)
{
    fprintf(to, "usage: tscaf-model COMMAND ...\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-14s %s\n", commands[i].name, commands[i].help);
    fprintf(to, "\ntscaf-model COMMAND --help tells more.\n");
    return to == stdout ? 0 : 2;
}

int main(int argc, char **argv)
{
    if (sodium_init() < 0) {
        fprintf(stderr, "tscaf-model: libsodium cannot be initialised\n");
        return 1;
    }
    if (argc < 2)
        return usage(stderr);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
        return usage(stdout);
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "tscaf-model: there is no command \"%s\"\n", argv[1]);
    return usage(stderr);
}
