/* Keys: who is let in, and what the store keeps of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/auth.h"
#include "tests/support/unit.h"

static struct srv_auth *auth;

static int make(void **state)
{
    struct ut_error e;

    (void)state;
    return srv_auth_new(&auth, &e);
}

static int unmake(void **state)
{
    (void)state;
    srv_auth_free(auth);
    return 0;
}

static struct srv_key new_key(const char *id, enum srv_role role, char *secret)
{
    struct srv_key k = {.role = (int)role};

    snprintf(k.id, sizeof(k.id), "%s", id);
    srv_auth_secret(secret, k.hash);
    return k;
}

/* The role that a secret gives, SRV_ROLE_NONE if none; *actor whose. */
static enum srv_role check(const char *secret, bool loopback, char *actor)
{
    enum srv_role role = SRV_ROLE_NONE;
    struct ut_error e;

    if (srv_auth_check(auth, secret, secret ? strlen(secret) : 0, loopback,
                       &role, actor, &e)) {
        assert_int_equal(e.code, UT_EINVAL);
        return SRV_ROLE_NONE;
    }
    return role;
}

static void no_keys__open_to_this_machine_only(void **state)
{
    char actor[SRV_ID_LEN];

    (void)state;
    assert_int_equal(check(NULL, true, actor), SRV_ROLE_ADMIN);
    assert_string_equal(actor, "local");
    assert_int_equal(check(NULL, false, actor), SRV_ROLE_NONE);
    assert_int_equal(check("guess", false, actor), SRV_ROLE_NONE);
}

static void keys__three_roles__each_its_own(void **state)
{
    const enum srv_role roles[] = {SRV_ROLE_ANALYZE, SRV_ROLE_ENROLL,
                                   SRV_ROLE_ADMIN};
    char secrets[3][SRV_AUTH_SECRET_LEN], actor[SRV_ID_LEN], wrong[64];
    struct ut_error e;

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct srv_key k;
        char id[8];

        snprintf(id, sizeof(id), "key_%d", i);
        k = new_key(id, roles[i], secrets[i]);
        assert_int_equal(srv_auth_add(auth, &k, &e), UT_OK);
    }
    for (int i = 0; i < 3; i++) {
        char id[8];

        snprintf(id, sizeof(id), "key_%d", i);
        assert_int_equal(check(secrets[i], false, actor), roles[i]);
        assert_string_equal(actor, id);
        snprintf(wrong, sizeof(wrong), "%s", secrets[i]);
        wrong[20] ^= 1;
        assert_int_equal(check(wrong, true, actor), SRV_ROLE_NONE);
        wrong[20] ^= 1;
        strcat(wrong, "A");
        assert_int_equal(check(wrong, true, actor), SRV_ROLE_NONE);
    }
    assert_int_equal(check(NULL, true, actor), SRV_ROLE_NONE);
    assert_int_equal(check("", true, actor), SRV_ROLE_NONE);
    srv_auth_remove(auth, "key_1");
    srv_auth_remove(auth, "key_1");
    assert_int_equal(srv_auth_keys(auth), 2);
    assert_int_equal(check(secrets[1], true, actor), SRV_ROLE_NONE);
    assert_int_equal(check(secrets[2], true, actor), SRV_ROLE_ADMIN);
}

static void last_key__removed__stays_closed(void **state)
{
    char secret[SRV_AUTH_SECRET_LEN], actor[SRV_ID_LEN];
    struct srv_key k = new_key("key_1", SRV_ROLE_ADMIN, secret);
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_auth_add(auth, &k, &e), UT_OK);
    srv_auth_remove(auth, "key_1");
    assert_int_equal(srv_auth_keys(auth), 0);
    assert_int_equal(check(NULL, true, actor), SRV_ROLE_NONE);
    assert_int_equal(check(secret, true, actor), SRV_ROLE_NONE);
}

static void add__at_the_limit_and_one_past__busy(void **state)
{
    struct srv_key k = {.id = "key", .role = SRV_ROLE_ANALYZE};
    struct ut_error e;

    (void)state;
    for (int i = 0; i < SRV_MAX_KEYS; i++) {
        memcpy(k.hash, &i, sizeof(i));
        assert_int_equal(srv_auth_add(auth, &k, &e), UT_OK);
    }
    assert_int_equal(srv_auth_add(auth, &k, &e), UT_EBUSY);
    assert_non_null(strstr(e.msg, "10000"));
}

static void secrets__two__differ_in_both_parts(void **state)
{
    char a[SRV_AUTH_SECRET_LEN], b[SRV_AUTH_SECRET_LEN];
    uint8_t hash_a[32], hash_b[32];

    (void)state;
    srv_auth_secret(a, hash_a);
    srv_auth_secret(b, hash_b);
    assert_memory_equal(a, "tscaf_", 6);
    assert_int_equal(strlen(a), 49);
    assert_string_not_equal(a, b);
    assert_memory_not_equal(hash_a, hash_b, 32);
}

static void role__names__known_or_none(void **state)
{
    (void)state;
    assert_int_equal(srv_auth_role("analyze"), SRV_ROLE_ANALYZE);
    assert_int_equal(srv_auth_role("enroll"), SRV_ROLE_ENROLL);
    assert_int_equal(srv_auth_role("admin"), SRV_ROLE_ADMIN);
    assert_int_equal(srv_auth_role("Admin"), SRV_ROLE_NONE);
    assert_int_equal(srv_auth_role(""), SRV_ROLE_NONE);
}

static void replace__by_others__only_they_count(void **state)
{
    struct srv_key k = {.id = "key_1", .role = SRV_ROLE_ADMIN}, other = k;
    char secrets[2][SRV_AUTH_SECRET_LEN], actor[SRV_ID_LEN];
    enum srv_role role;
    struct srv_auth *a;
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_auth_new(&a, &e), UT_OK);
    srv_auth_secret(secrets[0], k.hash);
    srv_auth_secret(secrets[1], other.hash);
    strcpy(other.id, "key_2");
    assert_int_equal(srv_auth_add(a, &k, &e), UT_OK);
    assert_int_equal(srv_auth_replace(a, &other, 1, &e), UT_OK);
    assert_int_equal(srv_auth_keys(a), 1);
    assert_int_equal(srv_auth_check(a, secrets[0], strlen(secrets[0]), true,
                                    &role, actor, &e),
                     UT_EINVAL);
    assert_int_equal(srv_auth_check(a, secrets[1], strlen(secrets[1]), false,
                                    &role, actor, &e),
                     UT_OK);
    assert_string_equal(actor, "key_2");
    /* None is left: still nobody is let in without. */
    assert_int_equal(srv_auth_replace(a, NULL, 0, &e), UT_OK);
    assert_int_equal(srv_auth_check(a, NULL, 0, true, &role, actor, &e),
                     UT_EINVAL);
    srv_auth_free(a);
}

static void
load__from_the_store__keys_work_and_secrets_are_not_there(void **state)
{
    char secret[SRV_AUTH_SECRET_LEN], actor[SRV_ID_LEN], line[256];
    struct srv_key k = new_key("", SRV_ROLE_ENROLL, secret);
    struct srv_store *s;
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_store_open(test_dir(), NULL, &s, &e), UT_OK);
    k.name = strdup("ops");
    assert_int_equal(srv_store_key_create(s, "local", &k, &e), UT_OK);
    assert_int_equal(srv_auth_load(auth, s, &e), UT_OK);
    srv_store_close(s);
    assert_int_equal(check(secret, false, actor), SRV_ROLE_ENROLL);
    assert_string_equal(actor, k.id);
    snprintf(line, sizeof(line), "cat %s/tscaf.db* | grep -qaF '%s'",
             test_dir(), secret + 6);
    assert_int_not_equal(system(line), 0);
    srv_key_fini(&k);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, make, unmake)
    const struct CMUnitTest tests[] = {
        T(no_keys__open_to_this_machine_only),
        T(keys__three_roles__each_its_own),
        T(last_key__removed__stays_closed),
        T(add__at_the_limit_and_one_past__busy),
        T(secrets__two__differ_in_both_parts),
        T(role__names__known_or_none),
        T(replace__by_others__only_they_count),
        T(load__from_the_store__keys_work_and_secrets_are_not_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
