#ifndef MODEL_TOOL_PLOT_JOB_H
#define MODEL_TOOL_PLOT_JOB_H

#include "model/plot/plot.h"
#include "model/tool/figures.h"

/* What a `tscaf-model plot` was asked for. */

#define PLOT_PICTURES 12
#define PLOT_LEAVES 4

struct plot_job {
    const char *out, *backend;
    struct tool_tests tests;
    const char *data;                    /* tsne */
    const char *leaves[PLOT_LEAVES];     /* none: fatigue and recognition */
    const char *pictures[PLOT_PICTURES]; /* grad-cam */
    const char *reference;
    bool attention, against;
    double perplexity;
    int points, people; /* at most */
    uint64_t seed;
    int n_leaves, n_pictures;
    char **files; /* models or logs */
    int n_files;
};

/* "a/b.safetensors" as "b": what a model is called in a figure. */
void plot_name(const char *path, char out[64]);

UT_MUSTUSE enum ut_err plot_grad_cam(const struct plot_job *j,
                                     struct ut_error *e);
UT_MUSTUSE enum ut_err plot_tsne(const struct plot_job *j, struct ut_error *e);

#endif
