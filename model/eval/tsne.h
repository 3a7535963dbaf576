#ifndef MODEL_EVAL_TSNE_H
#define MODEL_EVAL_TSNE_H

#include <stdint.h>

#include "base/error.h"

/* Points in the plane whose neighbours are those of points in many dimensions:
 * t-SNE, exact, n^2 in time and memory.
 *
 *   x    [n, dim]
 *   out  [n, 2], centred
 *
 * perplexity: how many neighbours count, below n / 3. The same seed gives the
 * same picture. Errors: UT_EINVAL for n below 4 or over MDL_TSNE_MAX, or such a
 * perplexity; UT_ENOMEM. Thread: any.
 * Source: van der Maaten and Hinton, "Visualizing data using t-SNE", 2008. */
#define MDL_TSNE_MAX 4000

UT_MUSTUSE enum ut_err mdl_tsne(const float *x, int n, int dim,
                                double perplexity, uint64_t seed, float *out,
                                struct ut_error *e);

#endif
