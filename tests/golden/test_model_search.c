/* The search on a device against the processor's own: with the processor in the
 * GPU's place (tests/plugins/host), or on a GPU where TSCAF_TEST_CUDA=1 asks
 * for it. The gallery's rules are tested by unit/test_server_gallery_device. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/data/augment.h"
#include "model/search.h"
#include "tests/support/unit.h"

#define DIM 40
#define TOP 7
#define QUERIES MDL_SEARCH_QUERIES

static void random_row(uint64_t seed, float row[DIM])
{
    double norm = 0;

    for (int i = 0; i < DIM; i++) {
        row[i] = (float)(2 * mdl_uniform(&seed) - 1);
        norm += (double)row[i] * row[i];
    }
    for (int i = 0; i < DIM; i++)
        row[i] = (float)(row[i] / sqrt(norm));
}

struct best {
    float product[TOP];
    size_t row[TOP];
};

static float keep(void *arg, int query, size_t row, float product)
{
    struct best *b = &((struct best *)arg)[query];
    int at = TOP;

    for (int i = 0; i < TOP; i++)
        if (b->row[i] == row)
            return b->product[TOP - 1];
    while (at && (product > b->product[at - 1] ||
                  (product == b->product[at - 1] && row < b->row[at - 1])))
        at--;
    for (int i = TOP - 1; i > at; i--) {
        b->product[i] = b->product[i - 1];
        b->row[i] = b->row[i - 1];
    }
    if (at < TOP) {
        b->product[at] = product;
        b->row[at] = row;
    }
    return b->product[TOP - 1];
}

static void run(struct mdl_search *s, bool here, int n, uint64_t seed,
                struct best best[QUERIES])
{
    static float rows[QUERIES][DIM];
    const float *queries[QUERIES];
    struct mdl_search_scratch *x;
    struct ut_error e;

    for (int q = 0; q < n; q++) {
        random_row(seed + (uint64_t)q, rows[q]);
        queries[q] = rows[q];
        for (int i = 0; i < TOP; i++) {
            best[q].product[i] = -INFINITY;
            best[q].row[i] = SIZE_MAX;
        }
    }
    if (mdl_search_scratch_new(s, &x, &e))
        fail_msg("%s", e.msg);
    (here ? mdl_search_run_here : mdl_search_run)(s, x, queries, n, keep, best);
    mdl_search_scratch_free(x);
}

static void compare(struct mdl_search *s, int n, uint64_t seed)
{
    static struct best got[QUERIES], want[QUERIES];
    struct mdl_search_stats before, after;

    mdl_search_stats(s, &before);
    run(s, false, n, seed, got);
    mdl_search_stats(s, &after);
    run(s, true, n, seed, want);
    for (int q = 0; q < n; q++)
        for (int i = 0; i < TOP; i++)
            if (got[q].row[i] != want[q].row[i] ||
                memcmp(&got[q].product[i], &want[q].product[i], sizeof(float)))
                fail_msg("%zu rows, query %d of %d, place %d: row %zu %.9g, "
                         "not row %zu %.9g",
                         mdl_search_rows(s), q, n, i, got[q].row[i],
                         (double)got[q].product[i], want[q].row[i],
                         (double)want[q].product[i]);
    assert_int_equal(after.by_device - before.by_device, n);
}

static void on_remark(void *arg, const char *line)
{
    (void)arg;
    fail_msg("%s", line);
}

/* One before, at, and one past a tile of the stand-in, and on a GPU of its. */
static void search__every_edge__as_the_processor(void **state)
{
    static const size_t edges[] = {1,   31,  33,  255,   256,   257,   511,
                                   512, 513, 900, 65535, 65536, 65537, 131073};
    static const int sizes[] = {1, 2, 8, 9, QUERIES};
    size_t n =
        getenv("TSCAF_TEST_CUDA") ? sizeof(edges) / sizeof(edges[0]) : 10;
    struct mdl_backend *b;
    struct mdl_search *s;
    struct ut_error e;
    float row[DIM];

    (void)state;
    if (mdl_backend_open("cuda", 0, &b, &e) ||
        mdl_search_new(DIM, edges[n - 1], &s, &e) ||
        mdl_search_place(s, &b, 1, on_remark, NULL, &e))
        fail_msg("%s", e.msg);
    for (size_t i = 0; i < n; i++) {
        while (mdl_search_rows(s) < edges[i]) {
            random_row(mdl_search_rows(s) + 1, row);
            assert_int_equal(mdl_search_add(s, row, &e), UT_OK);
        }
        for (int k = 0; k < 5; k++)
            compare(s, sizes[k], 1u << 30 | (unsigned)i << 8);
    }
    /* Rows that go, the last ones too, and what takes their places. */
    for (size_t i = 0; i < 300; i++)
        mdl_search_remove(s, i * 7919 % mdl_search_rows(s));
    compare(s, QUERIES, 1u << 29);
    random_row(1u << 29, row); /* the first query itself */
    assert_int_equal(mdl_search_add(s, row, &e), UT_OK);
    compare(s, QUERIES, 1u << 29);
    mdl_search_free(s);
    mdl_backend_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(search__every_edge__as_the_processor),
    };
    if (!getenv("TSCAF_TEST_CUDA")) {
        setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
        setenv("TSCAF_CUDA_CACHE", test_dir(), 1);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
