#ifndef MODEL_TOOL_FIGURES_H
#define MODEL_TOOL_FIGURES_H

#include <jansson.h>

#include "model/eval/evaluate.h"
#include "model/eval/pairs.h"

/* What a model is tested on, and its figures as JSON: the lines of `eval`,
 * what `study` keeps of a training. */

struct tool_tests {
    const char *fatigue;     /* manifest, label 1 drowsy; or NULL          */
    const char *pairs;       /* see mdl_pairs_open                         */
    const char *pictures;    /* the folder of pairs' pictures, NULL: pairs' */
    const char *faces;       /* manifest of people                         */
    double false_match_rate; /* of the threshold that faces give          */
    bool roc;                /* the curves' points too                     */
};

/* An object for each, the caller's to json_decref. The leaves are "fatigue" and
 * "recognition". Errors: those of the datasets and of mdl_evaluate. */
UT_MUSTUSE enum ut_err tool_figures_fatigue(struct mdl_evaluator *v,
                                            const struct mdl_model *m,
                                            const struct tool_tests *t,
                                            json_t **out, struct ut_error *e);
UT_MUSTUSE enum ut_err tool_figures_pairs(struct mdl_evaluator *v,
                                          const struct tool_tests *t,
                                          json_t **out, struct ut_error *e);
UT_MUSTUSE enum ut_err tool_figures_faces(struct mdl_evaluator *v,
                                          const struct tool_tests *t,
                                          json_t **out, struct ut_error *e);

/* The labels and probabilities of a fatigue manifest as sorted scores [*n]. */
UT_MUSTUSE enum ut_err tool_fatigue_scores(struct mdl_evaluator *v,
                                           const char *data,
                                           struct mdl_scored **scores, int *n,
                                           struct ut_error *e);

/* One line on stdout; takes the object. */
void tool_print_json(json_t *object);

#endif
