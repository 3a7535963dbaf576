#ifndef MODEL_GRAFT_H
#define MODEL_GRAFT_H

#include "model/model.h"

/* A pretrained recogniser becomes a tree. Its graph is cut at a feature map:
 * what lies before is the root, what follows the recognition branch, operation
 * by operation, and a fresh LASE branch for fatigue reads the same map.
 * docs/GRAFTING.md is the way as a user goes it. */

/* The value at which g is cut: the last map [C,H,W], H and W over 1, that all
 * of g's first output depends on and nothing bypasses; or the one called name
 * (ONNX's) of those. Errors: UT_EINVAL where there is none. */
UT_MUSTUSE enum ut_err mdl_graft_cut(const struct mdl_graph *g,
                                     const char *name, int *cut,
                                     struct ut_error *e);

/* The tree of g, read from ONNX (model/onnx), cut there. Recognition's weights
 * are views of g's, which must outlive it; fatigue's are drawn from seed.
 * Errors: UT_EINVAL for what a spec cannot say: the operation, a number that is
 * not finite, pictures that are not square, an output that is no vector;
 * UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_graft(const struct mdl_graph *g, int cut,
                                 uint64_t seed, struct mdl_model *out,
                                 struct ut_error *e);

/* The spec of an InsightFace IResNet state dict ("layer1.0.conv1.weight"...,
 * "fc.weight"): its depth, widths and embedding as they are in the file, its
 * head as the recognition branch, a fresh LASE branch for fatigue. Errors:
 * UT_EFORMAT where it is no such network. */
UT_MUSTUSE enum ut_err mdl_graft_insightface(const struct mdl_st *weights,
                                             struct mdl_spec *out,
                                             struct ut_error *e);

#endif
