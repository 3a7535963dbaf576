#ifndef SERVER_GATE_H
#define SERVER_GATE_H

#include <stdbool.h>
#include <stddef.h>

#include "api/tscaf.pb-c.h"
#include "base/error.h"

/* Whether a candidate may go into use: it must not be worse than the model that
 * answers now (the active one), on pictures that were held out of its training.
 * Where it was trained from another, its base's figures say whether training
 * helped, not whether it may answer. An active model that was itself trained on
 * those pictures looks better than it is: the gate errs on the safe side.
 * Thread: any. */

#define SRV_GATE_SLACK 0.005 /* AUC that a candidate may lose */
#define SRV_GATE_LEAST 0.6   /* AUC that it must have */

struct srv_gate {
    const char *active;          /* version */
    const char *base;            /* version that the candidate was made from */
    bool frozen_root;            /* only branches were trained */
    unsigned answers, candidate; /* SRV_TASK_ bits: what each of both answers */
    Tscaf__V1__JobFigures *const *figures; /* of what was trained */
    size_t n;
};

/* The verdict, in words, into why. */
bool srv_gate_pass(const struct srv_gate *g, char *why, size_t size);

/* Whether what is known of a version lets it go into use without force: it
 * answers now or answered last (rollback), or it passed, compared with what
 * answers now. Errors: UT_ESTATE saying why not. */
UT_MUSTUSE enum ut_err srv_gate_admits(const Tscaf__V1__ModelInfo *m,
                                       const char *active, struct ut_error *e);

#endif
