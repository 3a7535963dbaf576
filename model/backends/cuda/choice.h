#ifndef MODEL_BACKENDS_CUDA_CHOICE_H
#define MODEL_BACKENDS_CUDA_CHOICE_H

#include "model/backends/cuda/engines.h"

/* Which of several ways computes a product, and the file that remembers it.
 * Host code: no GPU is touched here. */

#define CHOICE_KEY_LEN 128
#define CHOICE_MAX 4096 /* remembered; the rest is measured each time */

enum choice_way {
    CHOICE_OWN,   /* our kernel                              */
    CHOICE_WHOLE, /* an engine, epilogue included            */
    CHOICE_BARE,  /* an engine, and our kernel's epilogue    */
};

struct choice {
    char key[CHOICE_KEY_LEN]; /* of the product: choice_key */
    enum choice_way way;
    int at;     /* position in the vendor's offers */
    int64_t id; /* and the vendor's name for what stood there */
    double us;  /* a run's time, when it was measured */
};

struct choices {
    char chip[160]; /* chip, driver and library versions that they hold for */
    struct choice *list; /* owned */
    int n, room;
    bool changed; /* since it was read or written */
};

/* One line without blanks that names a product: equal for what computes alike.
 */
void choice_key(const struct gpu_product *p, char key[CHOICE_KEY_LEN]);

/* How far an engine's y may be from our kernel's, where x, w and every vector
 * of the epilogue are even between -1 and 1: absolute + relative * |y|.
 *
 * K products add up, of standard deviation 1/3. Six of the sum's, 2 sqrt(K),
 * bound every partial sum. In float32 each addition is off by a rounding, up
 * to 2^-24 of it and even: K of them in each of two orders stay within six
 * standard deviations, 10 K 2^-24. A tensor core cuts instead of rounding,
 * always to one side: K 2^-23 2 sqrt(K). Both then round y once, and a bare
 * engine also the sum before the epilogue.
 *
 * TF32 has 11 bits of each factor and may cut the others, up to 2^-10 of it: a
 * product is off by at most 2^-9 of itself, and its sign is even. K of them
 * stay within six standard deviations, 2^-9 2 sqrt(K).
 *
 * dw adds up millions of products, where what a tensor core cuts could be as
 * large as the sum. In half precision it may not be further off than what
 * rounding both factors to the type, by up to u of each, has cost already: K
 * errors of standard deviation u sqrt(2/3) / 3, six of the sum's, 1.6 u
 * sqrt(K), below u 2 sqrt(K). And where a fully connected layer's dy is rounded
 * to the type for an engine's sake, that is as much again. An engine may round
 * a convolution's dw to the type, once, as it does y. In float32 the bound
 * sees TF32 where K is below some 700 000. */
struct choice_bound {
    float absolute, relative;
};
struct choice_bound choice_bound(const struct gpu_product *p);

/* A way that was tried. */
struct trial {
    struct choice choice;
    enum ut_err rc;  /* it ran                                   */
    float deviation; /* from our kernel's, in bounds; NaN counts */
};

/* The fastest of those that ran and stayed within their bound. trials[0] is
 * our own kernel, which others have to beat. */
int choice_best(const struct trial *trials, int n);

/* Where they are kept: $TSCAF_CUDA_CACHE, else tscaf in $XDG_CACHE_HOME or
 * ~/.cache; "": nowhere. A file for each chip. */
void choices_path(const char *chip, char *path, size_t len);
/* Reads what the file remembers of c->chip. A file that is of another chip or
 * damaged anywhere counts as none: why says so ("" where there is no file). */
void choices_read(struct choices *c, const char *path, struct ut_error *why);
/* By rename, so that a reader sees the old file or the new. What others have
 * put there since c was read stays. Thread: c's; others may write theirs to the
 * same path. */
enum ut_err choices_write(struct choices *c, const char *path,
                          struct ut_error *e);
const struct choice *choices_find(const struct choices *c, const char *key);
/* Adds or replaces. */
void choices_set(struct choices *c, const struct choice *choice);
void choices_free(struct choices *c);

#endif
