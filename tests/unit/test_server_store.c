/* The store and the gallery: what is written is there, also after reopening. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "server/store.h"
#include "tests/support/unit.h"

#define DIM 8

static char dir[] = "/tmp/tscaf-store-XXXXXX";

static struct srv_store *open_store(void)
{
    struct srv_store *s;
    struct ut_error e;

    if (srv_store_open(dir, &s, &e))
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
    struct srv_face f = {.model_version = "0123456789abcdef",
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
    assert_int_equal(
        srv_store_faces_each(s, "0123456789abcdef", count_face, &n, &e), UT_OK);
    assert_int_equal(n, 1);
    /* Another model's embeddings are not handed out. */
    assert_int_equal(
        srv_store_faces_each(s, "fedcba9876543210", count_face, &n, &e), UT_OK);
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

static void open__not_a_folder__named(void **state)
{
    struct srv_store *s;
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_store_open("/dev/null/x", &s, &e), UT_EIO);
    assert_non_null(strstr(e.msg, "/dev/null/x"));
    assert_null(s);
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    char line[64];

    (void)state;
    snprintf(line, sizeof(line), "rm -rf %s", dir);
    return system(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity__written_and_reopened__all_there),
        cmocka_unit_test(identity__duplicate_and_unknown__named),
        cmocka_unit_test(delete__identity__faces_gone_and_proof_left),
        cmocka_unit_test(open__not_a_folder__named),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
