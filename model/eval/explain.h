#ifndef MODEL_EVAL_EXPLAIN_H
#define MODEL_EVAL_EXPLAIN_H

#include "model/backend.h"
#include "model/model.h"

/* Where in a face a leaf's answer comes from.
 *
 * Grad-CAM on the branch's last feature map y [C,h,w], "LEAF.lase", which the
 * head reads: a_c is the mean over places of d score / d y_c, and the map is
 * max(0, sum_c a_c y_c). Both heads are linear in y up to the normalisation,
 * so that the gradient is written down and needs no backward graph: it works
 * on every backend, and in a server. Beside it LANet's map, where there is one.
 * Source: Selvaraju et al., "Grad-CAM", 2017, equations 1 and 2. */

struct mdl_explainer;

/* For one leaf of a model, on a lane of its own. m and b outlive it. Errors:
 * UT_EINVAL where leaf is no leaf, UT_ENOMEM, those of mdl_plan_new. */
UT_MUSTUSE enum ut_err
mdl_explainer_new(const struct mdl_model *m, const char *leaf,
                  struct mdl_backend *b, enum mdl_precision precision,
                  struct mdl_explainer **out, struct ut_error *e);
void mdl_explainer_free(struct mdl_explainer *x); /* accepts NULL */

/* Pixels of a side of the face and of the maps: the model's input. */
int mdl_explainer_side(const struct mdl_explainer *x);
/* Whether the branch has spatial attention. */
bool mdl_explainer_attends(const struct mdl_explainer *x);
/* Of its embedding; 0 for a binary leaf. */
int mdl_explainer_dim(const struct mdl_explainer *x);

/* What is asked. Binary leaf: the logit. Embedding leaf: the cosine with
 * reference [dim], of unit length, or, where that is NULL, the length of the
 * embedding itself. against: what speaks against it. */
struct mdl_question {
    const float *reference;
    bool against;
};

/* The maps are the caller's, [side, side], and may be NULL. */
struct mdl_explanation {
    float *cam;       /* 0..1, the largest 1; all 0 where nothing speaks for it
                       */
    float *attention; /* LANet's, 0..1; untouched where there is none */
    float *embedding; /* [dim], of unit length; may be NULL */
    float score;      /* probability, cosine or length */
};

/* face: u8 [side, side, 3]. Thread: one. Errors: UT_EDEVICE, UT_ESTATE for a
 * network that answers with no finite number. */
UT_MUSTUSE enum ut_err mdl_explainer_run(struct mdl_explainer *x,
                                         const uint8_t *face,
                                         const struct mdl_question *q,
                                         struct mdl_explanation *out,
                                         struct ut_error *e);

/* A map over the face it belongs to, from blue (0) to red (1):
 * out [side, side, 3], which may be face. Thread: any. */
void mdl_explain_draw(const uint8_t *face, const float *map, int side,
                      uint8_t *out);

#endif
