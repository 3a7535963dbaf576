/* Keys are random 256-bit secrets, so one fast keyless hash is enough: there
 * is nothing to guess. Every stored hash is compared on every check, so that
 * time tells neither whether nor which one fits. */
#include "server/auth.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

struct entry {
    uint8_t hash[32];
    char id[SRV_ID_LEN];
    enum srv_role role;
};

struct srv_auth {
    struct entry *keys; /* owned; [cap] */
    size_t n, cap;
    bool closed; /* a key exists or has existed */
};

static const char PREFIX[] = "tscaf_";

#define MAX_NAME 200 /* characters */

enum ut_err srv_auth_new(struct srv_auth **out, struct ut_error *e)
{
    *out = NULL;
    if (sodium_init() < 0)
        return ut_fail(e, UT_EIO, "libsodium cannot get random numbers");
    *out = calloc(1, sizeof(**out));
    return *out ? UT_OK : ut_fail(e, UT_ENOMEM, "no memory for the keys");
}

void srv_auth_free(struct srv_auth *a)
{
    if (!a)
        return;
    if (a->keys)
        sodium_memzero(a->keys, a->cap * sizeof(*a->keys));
    free(a->keys);
    free(a);
}

enum ut_err srv_auth_load(struct srv_auth *a, struct srv_store *s,
                          struct ut_error *e)
{
    struct srv_key *keys = NULL;
    size_t n = 0;
    enum ut_err rc = srv_store_key_list(s, &keys, &n, e);

    for (size_t i = 0; i < n; i++) {
        if (!rc)
            rc = srv_auth_add(a, &keys[i], e);
        srv_key_fini(&keys[i]);
    }
    free(keys);
    return rc;
}

enum ut_err srv_auth_name(const char *name, struct ut_error *e)
{
    size_t n = 0;

    if (!ut_utf8_ok(name))
        return ut_fail(e, UT_EINVAL, "a name that is not UTF-8");
    for (; *name; name += ut_utf8_len(name))
        n++;
    return n && n <= MAX_NAME
               ? UT_OK
               : ut_fail(e, UT_EINVAL,
                         "a name of %zu characters, not from 1 to %d", n,
                         MAX_NAME);
}

static void hash_of(const char *secret, size_t len, uint8_t hash[32])
{
    crypto_generichash(hash, 32, (const unsigned char *)secret, len, NULL, 0);
}

void srv_auth_secret(char secret[SRV_AUTH_SECRET_LEN], uint8_t hash[32])
{
    uint8_t random[32];

    randombytes_buf(random, sizeof(random));
    memcpy(secret, PREFIX, sizeof(PREFIX) - 1);
    sodium_bin2base64(secret + sizeof(PREFIX) - 1,
                      SRV_AUTH_SECRET_LEN - (sizeof(PREFIX) - 1), random,
                      sizeof(random), sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    sodium_memzero(random, sizeof(random));
    hash_of(secret, strlen(secret), hash);
}

enum ut_err srv_auth_add(struct srv_auth *a, const struct srv_key *key,
                         struct ut_error *e)
{
    struct entry *en;

    if (a->n == SRV_MAX_KEYS)
        return ut_fail(e, UT_EBUSY, "there are %d keys, which is the limit",
                       SRV_MAX_KEYS);
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 16;
        struct entry *keys = calloc(cap, sizeof(*keys));

        if (!keys)
            return ut_fail(e, UT_ENOMEM, "no memory for %zu keys", cap);
        if (a->n)
            memcpy(keys, a->keys, a->n * sizeof(*keys));
        if (a->keys)
            sodium_memzero(a->keys, a->cap * sizeof(*keys));
        free(a->keys);
        a->keys = keys;
        a->cap = cap;
    }
    en = &a->keys[a->n++];
    memcpy(en->hash, key->hash, sizeof(en->hash));
    memcpy(en->id, key->id, sizeof(en->id));
    en->role = (enum srv_role)key->role;
    a->closed = true;
    return UT_OK;
}

enum ut_err srv_auth_replace(struct srv_auth *a, const struct srv_key *keys,
                             size_t n, struct ut_error *e)
{
    enum ut_err rc = UT_OK;

    if (a->keys)
        sodium_memzero(a->keys, a->n * sizeof(*a->keys));
    a->n = 0;
    for (size_t i = 0; i < n && !rc; i++)
        rc = srv_auth_add(a, &keys[i], e);
    return rc;
}

void srv_auth_remove(struct srv_auth *a, const char *id)
{
    for (size_t i = 0; i < a->n; i++) {
        if (strcmp(a->keys[i].id, id) != 0)
            continue;
        a->keys[i] = a->keys[--a->n];
        sodium_memzero(&a->keys[a->n], sizeof(a->keys[a->n]));
        return;
    }
}

size_t srv_auth_keys(const struct srv_auth *a)
{
    return a->n;
}

enum ut_err srv_auth_check(const struct srv_auth *a, const char *secret,
                           size_t len, bool local, enum srv_role *role,
                           char actor[SRV_ID_LEN], struct ut_error *e)
{
    const struct entry *found = NULL;
    uint8_t hash[32];

    if (!a->closed && local) {
        *role = SRV_ROLE_ADMIN;
        strcpy(actor, "local");
        return UT_OK;
    }
    if (!a->closed)
        return ut_fail(e, UT_EINVAL,
                       "no API key exists yet: until then only this machine "
                       "may ask, for localhost, through no proxy, over "
                       "HTTP/1.1 or later and from no other site's page; "
                       "tscafd --create-key admin:NAME makes one");
    if (!secret)
        return ut_fail(e, UT_EINVAL,
                       "an API key is needed: send \"Authorization: Bearer "
                       "KEY\" or \"X-API-Key: KEY\"");
    hash_of(secret, len, hash);
    for (size_t i = 0; i < a->n; i++)
        if (sodium_memcmp(a->keys[i].hash, hash, sizeof(hash)) == 0)
            found = &a->keys[i];
    if (!found)
        return ut_fail(e, UT_EINVAL, "the API key is not known here");
    *role = found->role;
    memcpy(actor, found->id, SRV_ID_LEN);
    return UT_OK;
}

enum srv_role srv_auth_role(const char *name)
{
    static const char *const names[] = {
        [SRV_ROLE_ANALYZE] = "analyze",
        [SRV_ROLE_ENROLL] = "enroll",
        [SRV_ROLE_ADMIN] = "admin",
    };

    for (int i = SRV_ROLE_ANALYZE; i <= SRV_ROLE_ADMIN; i++)
        if (strcmp(name, names[i]) == 0)
            return (enum srv_role)i;
    return SRV_ROLE_NONE;
}
