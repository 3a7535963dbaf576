#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include <stdbool.h>
#include <stddef.h>

#include "server/store/store.h"

/* API keys: who calls, and what they may do. The table of hashes is in
 * memory; the store keeps it. Thread: the loop, or before it runs.
 *
 * Until the first key exists, callers from this machine are "local" and may
 * do everything; from the moment one exists every caller needs one, also
 * after the last was deleted (until a restart without keys). */

#define SRV_AUTH_SECRET_LEN 50 /* "tscaf_" + 43 base64url characters + NUL */
/* As in Tscaf__V1__Role; each includes those before it. */
enum srv_role {
    SRV_ROLE_NONE,
    SRV_ROLE_ANALYZE,
    SRV_ROLE_ENROLL,
    SRV_ROLE_ADMIN
};

struct srv_auth;

UT_MUSTUSE enum ut_err srv_auth_new(struct srv_auth **out, struct ut_error *e);
void srv_auth_free(struct srv_auth *a); /* accepts NULL; zeroes the hashes */

/* Adds every key of the store. Thread: the store's, before the loop runs. */
UT_MUSTUSE enum ut_err srv_auth_load(struct srv_auth *a, struct srv_store *s,
                                     struct ut_error *e);

/* Whether a key may have that name: 1 to 200 characters of UTF-8. Errors:
 * UT_EINVAL. Thread: any. */
UT_MUSTUSE enum ut_err srv_auth_name(const char *name, struct ut_error *e);

/* Makes a secret and its hash. */
void srv_auth_secret(char secret[SRV_AUTH_SECRET_LEN], uint8_t hash[32]);

/* Errors: UT_EBUSY past SRV_MAX_KEYS, UT_ENOMEM. */
UT_MUSTUSE enum ut_err
srv_auth_add(struct srv_auth *a, const struct srv_key *key, struct ut_error *e);
/* These are all: others that were are forgotten, as if removed. */
UT_MUSTUSE enum ut_err srv_auth_replace(struct srv_auth *a,
                                        const struct srv_key *keys, size_t n,
                                        struct ut_error *e);
/* Unknown ids are ignored. */
void srv_auth_remove(struct srv_auth *a, const char *id);
size_t srv_auth_keys(const struct srv_auth *a);

/* Whose secret that is (not NUL-ended; NULL: none was sent), in time that
 * does not tell which. local: srv_local. *role becomes theirs and actor their
 * key's id or "local"; UT_EINVAL where nobody's, with a message for the caller.
 */
UT_MUSTUSE enum ut_err srv_auth_check(const struct srv_auth *a,
                                      const char *secret, size_t len,
                                      bool local, enum srv_role *role,
                                      char actor[SRV_ID_LEN],
                                      struct ut_error *e);

/* "analyze", "enroll", "admin"; SRV_ROLE_NONE for others. */
enum srv_role srv_auth_role(const char *name);

#endif
