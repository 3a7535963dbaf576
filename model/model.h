#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "model/graph.h"
#include "model/safetensors.h"
#include "model/spec.h"

/* A model: one safetensors file whose metadata says what network it holds.
 *
 * Metadata: "format" "tscaf/1"; "spec" (model/spec.h); optional "name",
 * "trained" ("false" for an initialised file), "card" (JSON), and the
 * calibrated "threshold.<leaf>" texts. */

struct mdl_model {
    struct mdl_st *file; /* owned; weights are views of it */
    struct mdl_spec spec;
    struct mdl_graph graph; /* as trained, bound, with every named output */
    char name[64];          /* metadata "name", else the stem; UTF-8        */
    char version[17];       /* 16 hex digits of the file's BLAKE2b          */
    bool trained;
    float *floats; /* owned; parameters that had to be converted or aligned */
};

/* Opens, checks and binds. Errors: those of mdl_st_open and mdl_spec_parse;
 * UT_EFORMAT listing the tensors that are missing, left over (up to eight
 * names, then a count) or of a wrong shape. Training-only tensors
 * ("*.arcface.weight") are allowed and ignored. */
UT_MUSTUSE enum ut_err mdl_model_open(const char *path, struct mdl_model *out,
                                      struct ut_error *e);
void mdl_model_close(struct mdl_model *m); /* zeroed memory is fine */

/* A tensor that a model's file may hold and only training uses: sub-centres,
 * projections, hints, what the optimiser remembers. */
bool mdl_model_trains_with(const char *name);

/* A model that was never trained, in memory: built and initialised from seed,
 * named "untrained", its version a function of spec and seed. */
UT_MUSTUSE enum ut_err mdl_model_fresh(const struct mdl_spec *spec,
                                       uint64_t seed, struct mdl_model *out,
                                       struct ut_error *e);

/* The built-in specs: "iresnet50" and "mobilenetv2" T-SCAF as JSON text, or
 * NULL for another name. The same as model/specs. */
const char *mdl_model_builtin_spec(const char *name);

/* A calibrated threshold from the metadata, or fallback. */
double mdl_model_threshold(const struct mdl_model *m, const char *leaf,
                           double fallback);
/* A threshold's text for the metadata, which is read back as the same float. */
#define MDL_THRESHOLD_LEN 32
void mdl_model_threshold_text(float threshold, char out[MDL_THRESHOLD_LEN]);

/* Builds the graph of a spec (model/nets), parameters unbound. Outputs, per
 * node: "<name>" for a root's features, "<name>.lase", "<name>.attention.la"
 * and ".se" for a branch, "<name>.logit" and ".probability" for a binary
 * leaf, "<name>.embedding" and ".embedding.normalized" for an embedding
 * leaf, as in tests/golden. Thread: any. */
UT_MUSTUSE enum ut_err mdl_model_build(const struct mdl_spec *spec,
                                       struct mdl_graph *out,
                                       struct ut_error *e);

/* Binds every parameter of g to file's tensors; the list of faults is in the
 * message. Tensors that are not aligned float32 are converted into *floats,
 * which the caller frees after the graph. */
UT_MUSTUSE enum ut_err mdl_model_bind(struct mdl_graph *g,
                                      const struct mdl_st *file, float **floats,
                                      struct ut_error *e);

/* Fills all parameters with fresh values (He for convolutions and linears,
 * 1 and 0 for BatchNorm, 0.25 for PReLU), a function of seed and name alone.
 * *floats as above. */
UT_MUSTUSE enum ut_err mdl_model_init(struct mdl_graph *g, uint64_t seed,
                                      float **floats, struct ut_error *e);

/* Writes a bound graph's parameters and spec as a model file, with more
 * metadata and more tensors (training's own), which may be NULL. */
UT_MUSTUSE enum ut_err
mdl_model_write(const char *path, const struct mdl_spec *spec,
                const struct mdl_graph *g, const struct mdl_st_pair *meta,
                size_t n_meta, const struct mdl_st_tensor *more, size_t n_more,
                struct ut_error *e);

#endif
