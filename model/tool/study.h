#ifndef MODEL_TOOL_STUDY_H
#define MODEL_TOOL_STUDY_H

#include "model/tool/figures.h"

/* The paper's tables as trainings, and what came of them. */

#define STUDY_NETWORKS 4
#define STUDY_SEEDS 8
#define STUDY_TABLES 5
#define STUDY_RUNS 256

/* One training. Tables share them: the full tree, alternating, is a row of
 * tables 2 to 5. */
struct study_run {
    char id[64];      /* "mobilenetv2-lase-tree-alternate-s1" */
    char row[48];     /* the id without its network and seed */
    char network[24]; /* as in --networks */
    char module[8];   /* the branches': lase, la, se, none */
    bool parallel;
    double weight; /* of fatigue, accumulating; 0: alternating */
    int seed;
    json_t *figures; /* owned; NULL: not yet */
};

struct study {
    const char *work, *report, *backend;
    enum mdl_precision precision; /* of trainings that begin */
    struct tool_tests tests;
    char networks[STUDY_NETWORKS][24];
    int n_networks, seeds[STUDY_SEEDS], n_seeds;
    int dim;                       /* of the embedding */
    bool tables[STUDY_TABLES + 1]; /* 1 to 5 */
    char **train;                  /* options for every training */
    int n_train;
    struct study_run runs[STUDY_RUNS];
    int n_runs;
};

/* The spec of a network, "mobilenetv2", "iresnet50", "mobilenetv2:0.5" (its
 * width), with branches of a module. Errors: UT_EINVAL. */
UT_MUSTUSE enum ut_err study_spec(const char *network, const char *module,
                                  bool parallel, int dim, struct mdl_spec *out,
                                  struct ut_error *e);

/* Writes the report with what there is so far, by a rename. */
UT_MUSTUSE enum ut_err study_write_report(const struct study *s,
                                          struct ut_error *e);

#endif
