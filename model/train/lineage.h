#ifndef MODEL_TRAIN_LINEAGE_H
#define MODEL_TRAIN_LINEAGE_H

#include <stdbool.h>

#include "model/safetensors.h"

/* The metadata of a model that was trained from another: its own pairs, then
 * those of the base that are still true and that it does not have itself.
 *
 *   format, spec, training.*           never: the new file writes its own
 *   threshold.LEAF, calibration.LEAF,  where nothing that LEAF's answers come
 *   held_out.LEAF                      from was trained: a frozen root, and a
 *                                      leaf that is none of trained
 *   anything else                      always (source, licence, side...)
 *
 * trained: n_trained leaves' names; NULLs are passed over. *out is the caller's
 * to free, before base is closed; its texts are own's and base's. Errors:
 * UT_ENOMEM. Thread: any. */
UT_MUSTUSE enum ut_err
mdl_lineage_meta(const struct mdl_st *base, const struct mdl_st_pair *own,
                 size_t n_own, const char *const *trained, int n_trained,
                 bool frozen_root, struct mdl_st_pair **out, size_t *n,
                 struct ut_error *e);

#endif
