/* What a trained model keeps of its base's metadata. */
#include "model/train/lineage.h"

#include <stdlib.h>
#include <string.h>

/* The leaf that a key speaks of, NULL if it speaks of none. */
static const char *leaf_of(const char *key)
{
    static const char *const kinds[] = {"threshold.", "calibration.",
                                        "held_out."};

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (!strncmp(key, kinds[i], strlen(kinds[i])))
            return key + strlen(kinds[i]);
    return NULL;
}

static bool has(const struct mdl_st_pair *pairs, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(pairs[i].key, key))
            return true;
    return false;
}

static bool still_true(const char *key, const char *const *trained,
                       int n_trained, bool frozen_root)
{
    const char *leaf = leaf_of(key);

    if (!strcmp(key, "format") || !strcmp(key, "spec") ||
        !strncmp(key, "training.", strlen("training.")))
        return false;
    for (int i = 0; leaf && i < n_trained; i++)
        if (trained[i] && !strcmp(leaf, trained[i]))
            return false;
    return !leaf || frozen_root;
}

enum ut_err mdl_lineage_meta(const struct mdl_st *base,
                             const struct mdl_st_pair *own, size_t n_own,
                             const char *const *trained, int n_trained,
                             bool frozen_root, struct mdl_st_pair **out,
                             size_t *n, struct ut_error *e)
{
    const char *key, *value;
    size_t count = 0, at = n_own;
    struct mdl_st_pair *pairs;

    while (mdl_st_meta_at(base, count, &key, &value))
        count++;
    pairs = calloc(n_own + count + 1, sizeof(*pairs));
    if (!pairs)
        return ut_fail(e, UT_ENOMEM, "no memory for metadata");
    memcpy(pairs, own, n_own * sizeof(*own));
    for (size_t i = 0; mdl_st_meta_at(base, i, &key, &value); i++)
        if (!has(own, n_own, key) &&
            still_true(key, trained, n_trained, frozen_root))
            pairs[at++] = (struct mdl_st_pair){key, value};
    *out = pairs;
    *n = at;
    return UT_OK;
}
