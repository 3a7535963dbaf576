/* The gallery against a plain double loop, and under writers. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/inference/gallery.h"
#include "tests/support/unit.h"

#define DIM 24
#define FACES 9000 /* more than two chunks */
#define QUERIES 40 /* more than one pass  */

static void vector_of(unsigned seed, float v[DIM])
{
    double norm = 0;

    for (int i = 0; i < DIM; i++) {
        seed = seed * 1664525u + 1013904223u;
        v[i] = (float)(seed >> 8 & 0xffff) / 32768 - 1;
        norm += (double)v[i] * v[i];
    }
    for (int i = 0; i < DIM; i++)
        v[i] = (float)(v[i] / sqrt(norm));
}

static double cosine(unsigned a, unsigned b)
{
    float x[DIM], y[DIM];
    double sum = 0;

    vector_of(a, x);
    vector_of(b, y);
    for (int i = 0; i < DIM; i++)
        sum += (double)x[i] * y[i];
    return sum;
}

/* Face f belongs to identity f % 100. */
static void add(struct srv_gallery *g, unsigned f)
{
    char id[32], face[32], name[32];
    struct ut_error e;
    float v[DIM];

    snprintf(id, sizeof(id), "id_%u", f % 100);
    snprintf(face, sizeof(face), "face_%u", f);
    snprintf(name, sizeof(name), "Name %u", f % 100);
    vector_of(f + 1, v);
    if (srv_gallery_add(g, id, name, face, v, &e))
        fail_msg("%s", e.msg);
}

static int search(struct srv_gallery *g, unsigned seed, int top_k,
                  struct srv_match *out)
{
    struct srv_gallery_scratch *s;
    struct ut_error e;
    float v[DIM];
    const float *q = v;
    int n;

    vector_of(seed, v);
    assert_int_equal(srv_gallery_scratch_new(g, &s, &e), UT_OK);
    srv_gallery_search(g, s, &q, 1, &out, &top_k, &n);
    srv_gallery_scratch_free(s);
    return n;
}

static bool removed(unsigned f)
{
    return f % 7 == 3 || f % 100 == 13;
}

/* The best cosine of each identity by a double loop. */
static void best_of_all(unsigned q, double best[100])
{
    for (int i = 0; i < 100; i++)
        best[i] = -2;
    for (unsigned f = 0; f < FACES; f++)
        if (!removed(f))
            best[f % 100] = fmax(best[f % 100], cosine(q, f + 1));
}

static void search__many_faces__as_a_double_loop(void **state)
{
    static struct srv_match got[QUERIES][5];
    static float vectors[QUERIES][DIM];
    struct srv_match *matches[QUERIES];
    const float *queries[QUERIES];
    int top_k[QUERIES], counts[QUERIES];
    struct srv_gallery_scratch *s;
    struct srv_gallery *g;
    struct ut_error e;

    (void)state;
    assert_int_equal(srv_gallery_new(DIM, FACES, &g, &e), UT_OK);
    assert_int_equal(search(g, 1, 5, got[0]), 0);
    for (unsigned f = 0; f < FACES; f++)
        add(g, f);
    for (unsigned f = 3; f < FACES; f += 7) {
        char face[32];

        snprintf(face, sizeof(face), "face_%u", f);
        srv_gallery_remove_face(g, face);
    }
    srv_gallery_remove_identity(g, "id_13");
    for (unsigned q = 0; q < QUERIES; q++) {
        vector_of(90000 + q, vectors[q]);
        queries[q] = vectors[q];
        matches[q] = got[q];
        top_k[q] = 5;
    }
    assert_int_equal(srv_gallery_scratch_new(g, &s, &e), UT_OK);
    srv_gallery_search(g, s, queries, QUERIES, matches, top_k, counts);
    srv_gallery_scratch_free(s);
    for (unsigned q = 0; q < QUERIES; q++) {
        double best[100];

        best_of_all(90000 + q, best);
        assert_int_equal(counts[q], 5);
        for (int k = 0; k < 5; k++) {
            int at = 0;
            char id[32];

            for (int i = 1; i < 100; i++)
                if (best[i] > best[at])
                    at = i;
            snprintf(id, sizeof(id), "id_%d", at);
            assert_string_equal(got[q][k].identity_id, id);
            assert_true(fabs(got[q][k].similarity - best[at]) < 1e-5);
            best[at] = -2;
        }
    }
    srv_gallery_free(g);
}

static void add__each_allocation_fails__as_before(void **state)
{
    struct srv_match got[2];
    struct srv_gallery *g;
    struct ut_error e;
    float v[DIM];
    long n = 0;

    (void)state;
    vector_of(7, v);
    assert_int_equal(srv_gallery_new(DIM, 10, &g, &e), UT_OK);
    for (;; n++) {
        enum ut_err rc;

        fault_arm(n);
        rc = srv_gallery_add(g, "id_1", "One", "face_1", v, &e);
        if (!fault_disarm())
            break;
        assert_int_equal(rc, UT_ENOMEM);
        assert_int_equal(srv_gallery_faces(g), 0);
        assert_true(srv_gallery_compare(g, "id_1", v) == -2);
    }
    assert_true(n > 4);
    assert_int_equal(search(g, 7, 2, got), 1);
    assert_string_equal(got[0].name, "One");
    srv_gallery_free(g);
}

static void add__limit_and_removal__rows_reused(void **state)
{
    struct srv_match got[3];
    struct srv_gallery *g;
    struct ut_error e;
    float v[DIM];

    (void)state;
    assert_int_equal(srv_gallery_new(DIM, 3, &g, &e), UT_OK);
    for (unsigned f = 0; f < 3; f++)
        add(g, f);
    vector_of(99, v);
    assert_int_equal(srv_gallery_add(g, "id_9", "N", "face_9", v, &e),
                     UT_EBUSY);
    srv_gallery_remove_identity(g, "id_1");
    srv_gallery_remove_face(g, "face_none");
    assert_int_equal(srv_gallery_faces(g), 2);
    assert_int_equal(search(g, 2, 3, got), 2);
    assert_true(srv_gallery_compare(g, "id_1", v) == -2);
    assert_int_equal(srv_gallery_add(g, "id_9", "N", "face_9", v, &e), UT_OK);
    srv_gallery_rename(g, "id_9", "New");
    assert_int_equal(search(g, 99, 1, got), 1);
    assert_string_equal(got[0].name, "New");
    assert_true(got[0].similarity > 0.9999f);
    vector_of(99, v);
    assert_true(srv_gallery_compare(g, "id_9", v) > 0.9999f);
    srv_gallery_free(g);
}

static void *write_all(void *arg)
{
    char face[32];

    for (unsigned f = 100; f < 400; f++) {
        add(arg, f);
        snprintf(face, sizeof(face), "face_%u", f);
        if (f % 2)
            srv_gallery_remove_face(arg, face);
    }
    return NULL;
}

static void search__while_others_write__always_finds_the_old(void **state)
{
    struct srv_match got[1];
    struct srv_gallery *g;
    struct ut_error e;
    pthread_t writer;

    (void)state;
    assert_int_equal(srv_gallery_new(DIM, FACES, &g, &e), UT_OK);
    for (unsigned f = 0; f < 100; f++)
        add(g, f);
    assert_int_equal(pthread_create(&writer, NULL, write_all, g), 0);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(search(g, i % 100 + 1, 1, got), 1);
        assert_true(got[0].similarity > 0.9999f);
    }
    pthread_join(writer, NULL);
    assert_int_equal(srv_gallery_faces(g), 250);
    srv_gallery_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(search__many_faces__as_a_double_loop),
        cmocka_unit_test(add__limit_and_removal__rows_reused),
        cmocka_unit_test(add__each_allocation_fails__as_before),
        cmocka_unit_test(search__while_others_write__always_finds_the_old),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
