#ifndef MODEL_SPEC_JSON_H
#define MODEL_SPEC_JSON_H

#include <jansson.h>

#include "model/spec.h"

/* What spec.c and spec_ops.c share in reading JSON. Inside them only. */

#define MDL_SPEC_MAX_WIDTH 4096 /* channels */

/* An integer member in [low, high] into *out; absent leaves it. where: the
 * node, for errors. */
UT_MUSTUSE enum ut_err mdl_spec_get_int(const json_t *j, const char *where,
                                        const char *key, int low, int high,
                                        int *out, struct ut_error *e);

/* allowed: the members, each between two blanks. */
UT_MUSTUSE enum ut_err mdl_spec_check_members(const json_t *j,
                                              const char *where,
                                              const char *allowed,
                                              struct ut_error *e);

/* The member "ops" of the graph n, which is not yet in spec, into spec. */
UT_MUSTUSE enum ut_err mdl_spec_read_ops(const json_t *j, struct mdl_spec *spec,
                                         struct mdl_spec_node *n,
                                         struct ut_error *e);

/* The list that mdl_spec_read_ops reads; new. */
json_t *mdl_spec_ops_json(const struct mdl_spec *spec,
                          const struct mdl_spec_node *n, bool *ok);

/* v, which is taken, as a member of j, or at the end of a list. *ok: false
 * where there was no memory for any of it. */
void mdl_spec_set(json_t *j, const char *key, json_t *v, bool *ok);
void mdl_spec_append(json_t *list, json_t *v, bool *ok);

#endif
