/* The gallery on a device against the gallery without one: the same answers,
 * bit for bit, and the device is what gave them. */
#include "tests/unit/gallery_rig.h"

/* At every edge of a panel and of a tile, one before and one past it. */
static void search__growing_at_edges__as_without_a_device(void **state)
{
    static const unsigned edges[] = {
        0,    1,        31,           32,       33,           TILE - 1,
        TILE, TILE + 1, 2 * TILE - 1, 2 * TILE, 2 * TILE + 1, 1023,
        1024, 1025,     4 * TILE + 1, MAX};
    static const int sizes[] = {1, 2, 8, 9, 32, 33, QUERIES};
    float queries[QUERIES][DIM], v[DIM];
    struct mdl_search_stats stats;
    struct rig r;

    (void)state;
    rig_open(&r, 1, MAX);
    for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
        int n = sizes[i % 7];

        while (r.n < edges[i]) {
            random_vector(r.n + 1, v);
            add(&r, 500, v);
        }
        random_queries(70000 + (unsigned)i, queries);
        random_vector(r.n / 2 + 1, queries[0]); /* one that is there */
        assert_int_equal(compare(&r, queries, n, 1), r.n ? n : 0);
        compare(&r, queries, n, 5);
        compare(&r, queries, n, SRV_TOP_K_MAX); /* k > n, at first */
        srv_gallery_stats(r.device, &stats);
        if (!r.n) /* nothing was there to prove */
            assert_int_equal(stats.by_processor, 3 * n);
        if (!r.n)
            assert_int_equal(stats.again, 0);
    }
    assert_int_equal(logged(&r, "gallery"), 0);
    rig_close(&r);
}

/* Random removals, of the last face and of all, and additions in between. */
static void search__faces_come_and_go__as_without_a_device(void **state)
{
    float queries[QUERIES][DIM], v[DIM];
    unsigned seed = 7;
    struct rig r;

    (void)state;
    rig_open(&r, 1, MAX);
    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < 60; i++) {
            random_vector(r.n + 1, v);
            add(&r, 90, v);
        }
        for (int i = 0; i < 25 + round; i++) {
            seed = seed * 1664525u + 1013904223u;
            remove_face(&r, seed >> 8);
            remove_face(&r, (seed >> 8) % r.n);
        }
        remove_face(&r, r.n - 1);
        random_queries(seed, queries);
        compare(&r, queries, 3, 4);
    }
    srv_gallery_remove_identity(r.device, "id_13");
    srv_gallery_remove_identity(r.host, "id_13");
    assert_true(compare(&r, queries, 8, 3) > 0);
    for (unsigned n = 0; n < r.n; n++)
        remove_face(&r, n);
    assert_int_equal(srv_gallery_faces(r.device), 0);
    compare(&r, queries, 2, 3);
    random_vector(5, v);
    add(&r, 1, v);
    assert_int_equal(compare(&r, queries, 2, 3), 2);
    rig_close(&r);
}

/* What half precision cannot tell apart, or has not at all. */
static void all_equal(unsigned n, float v[DIM])
{
    (void)n;
    random_vector(1, v);
}

static void nearly_equal(unsigned n, float v[DIM])
{
    random_vector(1, v);
    v[n % DIM] += (float)(n * 2654435761u >> 20) * 1e-9f;
}

static void in_pairs(unsigned n, float v[DIM])
{
    random_vector(1 + n % (MAX / 4), v);
}

/* Each better than all before. */
static void rising(unsigned n, float v[DIM])
{
    random_vector(70000, v);
    for (int i = 0; i < DIM; i++)
        v[i] *= 0.5f + (float)n / MAX / 2;
}

static void zeros(unsigned n, float v[DIM])
{
    memset(v, 0, DIM * sizeof(*v));
    v[n % DIM] = n % 3 ? 0 : -0.0f;
}

static void huge_and_tiny(unsigned n, float v[DIM])
{
    random_vector(n + 1, v);
    for (int i = 0; i < DIM; i++)
        v[i] *= n % 50 == 7 ? 1e6f : n % 2 ? 1e-7f : 1e-30f;
}

static void tiny(unsigned n, float v[DIM])
{
    random_vector(n + 1, v);
    for (int i = 0; i < DIM; i++)
        v[i] *= 1e-25f;
}

static void not_numbers(unsigned n, float v[DIM])
{
    random_vector(n + 1, v);
    if (n % 40 == 11)
        v[n % DIM] = n % 80 == 11 ? NAN : INFINITY;
}

static void search__adversarial_rows__as_without_a_device(void **state)
{
    static void (*const kinds[])(unsigned, float[DIM]) = {
        all_equal, nearly_equal,  in_pairs, rising,
        zeros,     huge_and_tiny, tiny,     not_numbers};
    float queries[QUERIES][DIM], v[DIM];

    (void)state;
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
        for (unsigned people = 1; people <= MAX; people *= 45) {
            struct rig r;

            rig_open(&r, 1, MAX);
            while (r.n < MAX) {
                kinds[k](r.n, v);
                add(&r, people, v);
            }
            random_queries(70000, queries);
            kinds[k](MAX / 3, queries[1]);
            memset(queries[2], 0, sizeof(queries[2]));
            queries[3][0] = 1e7f; /* past half precision */
            queries[4][0] = NAN;
            for (int i = 0; i < DIM; i++)
                queries[5][i] *= 1e-20f;
            compare(&r, queries, 9, 1);
            compare(&r, queries, 33, 7);
            compare(&r, queries, 9, SRV_TOP_K_MAX);
            rig_close(&r);
        }
}

/* Equally near faces by hundreds do not stop the device from finding a few
 * that are nearer. */
static void search__many_behind_a_few__device_answers(void **state)
{
    float queries[QUERIES][DIM], v[DIM];
    struct rig r;

    (void)state;
    rig_open(&r, 1, MAX);
    while (r.n < MAX) {
        all_equal(r.n, v);
        if (r.n % 500 == 300)
            random_vector(70000, v);
        add(&r, MAX, v);
    }
    random_queries(70000, queries);
    assert_int_equal(compare(&r, queries, 1, 4), 1);
    assert_int_equal(compare(&r, queries, 1, 5), 0); /* the 5th: any of them */
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(search__growing_at_edges__as_without_a_device),
        cmocka_unit_test(search__faces_come_and_go__as_without_a_device),
        cmocka_unit_test(search__adversarial_rows__as_without_a_device),
        cmocka_unit_test(search__many_behind_a_few__device_answers),
    };

    rig_setup();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
