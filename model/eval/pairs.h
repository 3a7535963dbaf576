#ifndef MODEL_EVAL_PAIRS_H
#define MODEL_EVAL_PAIRS_H

#include "model/eval/evaluate.h"

/* Pairs of pictures of one person or of two, in folds: LFW's protocol. */

#define MDL_PAIRS_MAX 2000000

struct mdl_pair {
    int a, b; /* of pictures.examples */
    int fold; /* from 0 */
    bool same;
};

struct mdl_pairs {
    struct mdl_dataset pictures; /* each once, by path */
    struct mdl_pair *list;       /* owned; [n] */
    int n;
};

/* Reads either of
 *
 *   LFW's pairs.txt   "10<TAB>300", then for each fold 300 lines
 *                     "NAME<TAB>i<TAB>j" and 300 "NAME<TAB>i<TAB>NAME<TAB>j";
 *                     the pictures are NAME/NAME_0001.jpg (or .png) or
 *                     NAME/0001.jpg below folder
 *   a manifest        "fold<TAB>same<TAB>a<TAB>b", named by its first line;
 *                     a and b are paths below folder
 *
 * folder NULL: the file's own. Errors: UT_ENOTFOUND for the file or a picture
 * of pairs.txt, UT_EFORMAT naming the line, UT_EBUSY past MDL_PAIRS_MAX,
 * UT_ENOMEM. */
UT_MUSTUSE enum ut_err mdl_pairs_open(const char *path, const char *folder,
                                      struct mdl_pairs *out,
                                      struct ut_error *e);
void mdl_pairs_fini(struct mdl_pairs *p); /* zeroed memory is fine */

/* The cosine of each pair's embeddings, sorted: *scores [p->n], the caller's.
 */
UT_MUSTUSE enum ut_err mdl_pairs_score(struct mdl_evaluator *v,
                                       const struct mdl_pairs *p,
                                       const char *leaf,
                                       struct mdl_scored **scores,
                                       struct ut_error *e);

#endif
