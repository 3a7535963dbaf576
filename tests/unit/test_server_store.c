/* The store over SQLite, then over PostgreSQL: what is written is there, also
 * after reopening. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/tscaf.pb-c.h"
#include "server/store/store.h"
#include "tests/support/postgres.h"
#include "tests/support/unit.h"

#define DIM 8
#define VERSION "0123456789abcdef"
#define LATER "fedcba9876543210"

static const char *url; /* NULL: SQLite */

static struct srv_store *open_store(void)
{
    struct srv_store *s;
    struct ut_error e;

    if (srv_store_open(test_dir(), url, &s, &e))
        fail_msg("%s", e.msg);
    return s;
}

static struct srv_identity identity(const char *name, const char *external)
{
    struct srv_identity x = {.name = strdup(name),
                             .external_id = strdup(external),
                             .consent_ref = strdup("paper 7")};

    x.metadata = calloc(1, sizeof(*x.metadata));
    x.metadata[0].key = strdup("depot");
    x.metadata[0].value = strdup("north");
    x.n_metadata = 1;
    return x;
}

static void add_face(struct srv_store *s, const char *id, char out[SRV_ID_LEN])
{
    float embedding[DIM] = {1, 2, 3};
    struct srv_face f = {.model_version = VERSION,
                         .embedding = embedding,
                         .dim = DIM,
                         .crop = (uint8_t *)(uintptr_t) "png",
                         .crop_len = 3};
    struct ut_error e;

    snprintf(f.identity_id, sizeof(f.identity_id), "%s", id);
    if (srv_store_face_add(s, "local", &f, &e))
        fail_msg("%s", e.msg);
    memcpy(out, f.id, SRV_ID_LEN);
}

static enum ut_err count_face(void *arg, const struct srv_face *f,
                              const char *name, struct ut_error *e)
{
    (void)e;
    assert_int_equal(f->dim, DIM);
    assert_true(f->embedding[1] == 2);
    assert_true(name[0] != '\0');
    ++*(int *)arg;
    return UT_OK;
}

static void identity__written_and_reopened__all_there(void **state)
{
    struct srv_store *s = open_store();
    struct srv_identity x = identity("J\xc3\xb6rg", "e-1"), got;
    char face[SRV_ID_LEN];
    struct ut_error e;
    uint8_t *png;
    size_t len;
    int n = 0;

    (void)state;
    assert_int_equal(srv_store_identity_create(s, "local", &x, &e), UT_OK);
    add_face(s, x.id, face);
    srv_store_close(s);
    s = open_store();
    assert_int_equal(srv_store_identity_get(s, x.id, &got, &e), UT_OK);
    assert_string_equal(got.name, "J\xc3\xb6rg");
    assert_string_equal(got.external_id, "e-1");
    assert_int_equal(got.face_count, 1);
    assert_int_equal(got.n_metadata, 1);
    assert_string_equal(got.metadata[0].value, "north");
    srv_identity_fini(&got);
    assert_int_equal(srv_store_faces_each(s, VERSION, count_face, &n, &e),
                     UT_OK);
    assert_int_equal(n, 1);
    /* Another model's embeddings are not handed out. */
    assert_int_equal(srv_store_faces_each(s, LATER, count_face, &n, &e), UT_OK);
    assert_int_equal(n, 1);
    assert_int_equal(srv_store_face_crop(s, x.id, face, &png, &len, &e), UT_OK);
    assert_int_equal(len, 3);
    free(png);
    srv_identity_fini(&x);
    srv_store_close(s);
}

static void identity__duplicate_and_unknown__named(void **state)
{
    struct srv_store *s = open_store();
    struct srv_identity x = identity("A", "e-dup"), y = identity("B", "e-dup");
    struct srv_identity got;
    struct ut_error e;
    uint32_t n;

    (void)state;
    assert_int_equal(srv_store_identity_create(s, "local", &x, &e), UT_OK);
    assert_int_equal(srv_store_identity_create(s, "local", &y, &e), UT_EEXISTS);
    assert_non_null(strstr(e.msg, "e-dup"));
    assert_int_equal(srv_store_identity_get(s, "id_none", &got, &e),
                     UT_ENOTFOUND);
    assert_int_equal(srv_store_identity_delete(s, "local", "id_none", &n, &e),
                     UT_ENOTFOUND);
    assert_int_equal(srv_store_face_delete(s, "local", x.id, "face_none", &e),
                     UT_ENOTFOUND);
    srv_identity_fini(&x);
    srv_identity_fini(&y);
    srv_store_close(s);
}

static void delete__identity__faces_gone_and_proof_left(void **state)
{
    struct srv_store *s = open_store();
    struct srv_identity x = identity("Gone", "");
    struct srv_audit *log;
    struct srv_face *faces;
    char face[SRV_ID_LEN];
    struct ut_error e;
    uint32_t n_faces;
    size_t n;

    (void)state;
    assert_int_equal(srv_store_identity_create(s, "key_1", &x, &e), UT_OK);
    add_face(s, x.id, face);
    add_face(s, x.id, face);
    assert_int_equal(srv_store_identity_delete(s, "key_1", x.id, &n_faces, &e),
                     UT_OK);
    assert_int_equal(n_faces, 2);
    assert_int_equal(srv_store_face_list(s, x.id, &faces, &n, &e), UT_OK);
    assert_int_equal(n, 0);
    free(faces);
    assert_int_equal(srv_store_audit_list(s, 0, 1, &log, &n, &e), UT_OK);
    assert_int_equal(n, 1);
    assert_string_equal(log[0].action, "identity.delete");
    assert_string_equal(log[0].actor, "key_1");
    assert_string_equal(log[0].subject, x.id);
    assert_string_equal(log[0].detail, "{\"faces\":2}");
    srv_audit_fini(&log[0]);
    free(log);
    srv_identity_fini(&x);
    srv_store_close(s);
}

static void identity__updated__replaced_with_its_metadata(void **state)
{
    struct srv_store *s = open_store();
    struct srv_identity x = identity("Before", "e-up"), got;
    struct srv_identity other = identity("Other", "e-other");
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_store_identity_create(s, "local", &x, &e), UT_OK);
    assert_int_equal(srv_store_identity_create(s, "local", &other, &e), UT_OK);
    x.name[0] = 'b';
    free(x.external_id);
    x.external_id = strdup("");
    x.metadata[0].value[0] = 'N';
    assert_int_equal(srv_store_identity_update(s, "local", &x, &e), UT_OK);
    assert_int_equal(srv_store_identity_get(s, x.id, &got, &e), UT_OK);
    assert_string_equal(got.name, "before");
    assert_string_equal(got.external_id, "");
    assert_int_equal(got.n_metadata, 1);
    assert_string_equal(got.metadata[0].value, "North");
    assert_true(got.updated_ms >= got.created_ms);
    srv_identity_fini(&got);
    /* Nothing of a refused one is written, its metadata neither. */
    free(x.external_id);
    x.external_id = strdup("e-other");
    x.metadata[0].value[0] = 'X';
    assert_int_equal(srv_store_identity_update(s, "local", &x, &e), UT_EEXISTS);
    assert_int_equal(srv_store_identity_get(s, x.id, &got, &e), UT_OK);
    assert_string_equal(got.metadata[0].value, "North");
    srv_identity_fini(&got);
    snprintf(x.id, sizeof(x.id), "id_none");
    assert_int_equal(srv_store_identity_update(s, "local", &x, &e),
                     UT_ENOTFOUND);
    srv_identity_fini(&x);
    srv_identity_fini(&other);
    srv_store_close(s);
}

static size_t list_names(struct srv_store *s, const char *cursor,
                         const char *query, uint32_t limit, char last[32])
{
    struct srv_identity *list;
    struct ut_error e;
    size_t n;

    if (srv_store_identity_list(s, cursor, query, limit, &list, &n, &e))
        fail_msg("%s", e.msg);
    for (size_t i = 0; i < n; i++) {
        assert_true(!i || strcmp(list[i - 1].id, list[i].id) < 0);
        snprintf(last, 32, "%s", list[i].id);
    }
    for (size_t i = 0; i < n; i++)
        srv_identity_fini(&list[i]);
    free(list);
    return n;
}

static void list__query_and_cursor__pages_in_order(void **state)
{
    struct srv_store *s = open_store();
    struct srv_identity x[4], *last = NULL, got;
    char at[32] = "", name[32];
    struct ut_error e;

    (void)state;
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "Paging 100%% %d", i);
        x[i] = identity(name, "");
        assert_int_equal(srv_store_identity_create(s, "local", &x[i], &e),
                         UT_OK);
        if (!last || strcmp(x[i].id, last->id) > 0)
            last = &x[i];
    }
    /* A second pair for the last of them. */
    last->metadata = realloc(last->metadata, 2 * sizeof(*last->metadata));
    last->metadata[1].key = strdup("a");
    last->metadata[1].value = strdup("");
    last->n_metadata = 2;
    assert_int_equal(srv_store_identity_update(s, "local", last, &e), UT_OK);
    /* Neither % nor _ means anything; case does not count. */
    assert_int_equal(list_names(s, "", "paging 100%", 10, at), 4);
    assert_string_equal(at, last->id);
    assert_int_equal(list_names(s, "", "paging 100_", 10, at), 0);
    assert_int_equal(list_names(s, last->id, "paging 100%", 10, at), 0);
    /* The limit counts identities, not pairs. */
    assert_int_equal(list_names(s, "", "paging 100%", 3, at), 3);
    assert_int_equal(list_names(s, at, "paging 100%", 2, at), 1);
    assert_string_equal(at, last->id);
    assert_int_equal(srv_store_identity_get(s, at, &got, &e), UT_OK);
    assert_int_equal(got.n_metadata, 2);
    assert_string_equal(got.metadata[0].key, "a");
    assert_string_equal(got.metadata[1].value, "north");
    srv_identity_fini(&got);
    for (int i = 0; i < 4; i++)
        srv_identity_fini(&x[i]);
    srv_store_close(s);
}

static void key__created_listed_deleted__as_it_was(void **state)
{
    struct srv_store *s = open_store();
    struct srv_key x = {.name = strdup("depot"), .role = 2}, *list;
    struct ut_error e;
    size_t n;

    (void)state;
    for (int i = 0; i < 32; i++)
        x.hash[i] = (uint8_t)(i * 8);
    assert_int_equal(srv_store_key_create(s, "local", &x, &e), UT_OK);
    assert_int_equal(srv_store_key_list(s, &list, &n, &e), UT_OK);
    assert_int_equal(n, 1);
    assert_string_equal(list[0].id, x.id);
    assert_string_equal(list[0].name, "depot");
    assert_int_equal(list[0].role, 2);
    assert_int_equal(list[0].created_ms, x.created_ms);
    assert_memory_equal(list[0].hash, x.hash, 32);
    srv_key_fini(&list[0]);
    free(list);
    assert_int_equal(srv_store_key_delete(s, "local", x.id, &e), UT_OK);
    assert_int_equal(srv_store_key_delete(s, "local", x.id, &e), UT_ENOTFOUND);
    assert_non_null(strstr(e.msg, x.id));
    assert_int_equal(srv_store_key_list(s, &list, &n, &e), UT_OK);
    assert_int_equal(n, 0);
    srv_key_fini(&x);
    srv_store_close(s);
}

static void audit__paged__newest_first(void **state)
{
    struct srv_store *s = open_store();
    struct srv_audit *log;
    uint64_t before = 0;
    struct ut_error e;
    size_t n, all = 0;

    (void)state;
    do {
        assert_int_equal(srv_store_audit_list(s, before, 2, &log, &n, &e),
                         UT_OK);
        for (size_t i = 0; i < n; i++) {
            assert_true(!before || log[i].seq < before);
            before = log[i].seq;
            assert_true(log[i].at_ms > 1600000000000);
            srv_audit_fini(&log[i]);
        }
        free(log);
        all += n;
    } while (n);
    assert_true(all >= 8); /* what the tests before did */
    srv_store_close(s);
}

static void put_model(struct srv_store *s, const char *id, const char *reason)
{
    Tscaf__V1__ModelInfo m = TSCAF__V1__MODEL_INFO__INIT;
    const struct srv_record put = {SRV_TABLE_MODEL, id, &m.base};
    struct ut_error e;

    m.reason = (char *)(uintptr_t)reason;
    if (srv_store_put(s, "local", "model.create", id, &put, 1, &e))
        fail_msg("%s", e.msg);
}

static void records__put_again_and_deleted__the_last_word(void **state)
{
    const ProtobufCMessageDescriptor *d = &tscaf__v1__model_info__descriptor;
    struct srv_store *s = open_store();
    const struct srv_record gone[] = {{SRV_TABLE_MODEL, "m1", NULL},
                                      {SRV_TABLE_MODEL, "m9", NULL}};
    ProtobufCMessage **list, *m;
    struct ut_error e;
    size_t n;

    (void)state;
    put_model(s, "m1", "first");
    put_model(s, "m2", "");
    put_model(s, "m1", "second");
    assert_int_equal(srv_store_get(s, SRV_TABLE_MODEL, "m1", d, &m, &e), UT_OK);
    assert_string_equal(((Tscaf__V1__ModelInfo *)(void *)m)->reason, "second");
    protobuf_c_message_free_unpacked(m, NULL);
    assert_int_equal(srv_store_list(s, SRV_TABLE_MODEL, d, &list, &n, &e),
                     UT_OK);
    assert_int_equal(n, 2);
    assert_string_equal(((Tscaf__V1__ModelInfo *)(void *)list[0])->reason,
                        "second");
    srv_messages_free(list, n);
    /* Both or none. */
    assert_int_equal(srv_store_put(s, NULL, NULL, NULL, gone, 2, &e),
                     UT_ENOTFOUND);
    assert_non_null(strstr(e.msg, "there is no model \"m9\""));
    assert_int_equal(srv_store_get(s, SRV_TABLE_MODEL, "m1", d, &m, &e), UT_OK);
    protobuf_c_message_free_unpacked(m, NULL);
    assert_int_equal(srv_store_put(s, NULL, NULL, NULL, gone, 1, &e), UT_OK);
    assert_int_equal(srv_store_get(s, SRV_TABLE_MODEL, "m1", d, &m, &e),
                     UT_ENOTFOUND);
    assert_null(m);
    srv_store_close(s);
}

static void change_over__embeddings__kept_for_two_models(void **state)
{
    struct srv_store *s = open_store();
    struct srv_identity x = identity("Twice", "");
    float later[DIM] = {1, 2, 9};
    struct srv_crop crops[50];
    struct srv_face *without;
    char face[SRV_ID_LEN];
    struct ut_error e;
    int64_t count;
    size_t n_without;
    int n, seen = 0;

    (void)state;
    assert_int_equal(srv_store_identity_create(s, "local", &x, &e), UT_OK);
    add_face(s, x.id, face);
    assert_int_equal(srv_store_crops_count(s, LATER, &count, &e), UT_OK);
    assert_true(count >= 2);
    assert_int_equal(srv_store_crops(s, LATER, 0, 50, crops, &n, &e), UT_OK);
    assert_int_equal(n, count);
    for (int i = 0; i < n; i++) {
        assert_int_equal(crops[i].len, 3);
        assert_memory_equal(crops[i].png, "png", 3);
        free(crops[i].png);
        assert_int_equal(
            srv_store_embed(s, LATER, &crops[i], later, 1, DIM, &e), UT_OK);
    }
    assert_string_equal(crops[n - 1].face_id, face);
    /* Again is no second one; a face that is gone is passed over. */
    assert_int_equal(srv_store_embed(s, LATER, crops, later, 1, DIM, &e),
                     UT_OK);
    strcpy(crops[0].face_id, "face_none");
    assert_int_equal(srv_store_embed(s, LATER, crops, later, 1, DIM, &e),
                     UT_OK);
    assert_int_equal(srv_store_faces_each(s, LATER, count_face, &seen, &e),
                     UT_OK);
    assert_int_equal(seen, n);
    assert_int_equal(
        srv_store_change_over(s, "local", LATER, "other", NULL, 0, &e), UT_OK);
    seen = 0;
    assert_int_equal(srv_store_faces_each(s, VERSION, count_face, &seen, &e),
                     UT_OK);
    assert_int_equal(seen, 0);
    assert_int_equal(
        srv_store_unmatchable(s, VERSION, 50, &without, &n_without, &e), UT_OK);
    assert_int_equal(n_without, 0); /* all have crops */
    free(without);
    srv_identity_fini(&x);
    srv_store_close(s);
}

static enum ut_err refuse(void *arg, const struct srv_face *f, const char *name,
                          struct ut_error *e)
{
    (void)f;
    (void)name;
    ++*(int *)arg;
    return ut_fail(e, UT_EBUSY, "full");
}

static void faces_each__refused__ends_and_goes_on_later(void **state)
{
    struct srv_store *s = open_store();
    struct ut_error e;
    int n = 0, all = 0;

    (void)state;
    assert_int_equal(srv_store_faces_each(s, LATER, refuse, &n, &e), UT_EBUSY);
    assert_string_equal(e.msg, "full");
    assert_int_equal(n, 1);
    assert_int_equal(srv_store_faces_each(s, LATER, count_face, &all, &e),
                     UT_OK);
    assert_true(all > 1);
    srv_store_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity__written_and_reopened__all_there),
        cmocka_unit_test(identity__duplicate_and_unknown__named),
        cmocka_unit_test(delete__identity__faces_gone_and_proof_left),
        cmocka_unit_test(identity__updated__replaced_with_its_metadata),
        cmocka_unit_test(list__query_and_cursor__pages_in_order),
        cmocka_unit_test(key__created_listed_deleted__as_it_was),
        cmocka_unit_test(audit__paged__newest_first),
        cmocka_unit_test(records__put_again_and_deleted__the_last_word),
        cmocka_unit_test(change_over__embeddings__kept_for_two_models),
        cmocka_unit_test(faces_each__refused__ends_and_goes_on_later),
    };
    struct test_postgres p;
    int bad = cmocka_run_group_tests_name("SQLite", tests, NULL, NULL);

    if (test_postgres_new(&p, "test_server_store over PostgreSQL")) {
        url = p.url;
        bad += cmocka_run_group_tests_name("PostgreSQL", tests, NULL, NULL);
        test_postgres_free(&p);
    }
    return bad;
}
