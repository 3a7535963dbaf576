/* The gallery on a device, with the processor in its place (tests/plugins/host,
 * tiles of 256 rows), against the gallery without one: the same answers, bit
 * for bit, and the device is what gave them. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/devices.h"
#include "tests/support/unit.h"

#define DIM 24
#define MAX 2100
#define TILE 256
#define QUERIES 40 /* more than one pass */

static char lose[128], log_file[128];

struct rig {
    struct mdl_backend *devices[2];
    int n_devices;
    struct srv_log *log;
    FILE *lines;
    struct srv_gallery *device, *host;
    unsigned n; /* faces added so far */
};

static void rig_open(struct rig *r, int n_devices, size_t max)
{
    char count[8];
    struct ut_error e;

    snprintf(count, sizeof(count), "%d", n_devices);
    setenv("TSCAF_HOST_DEVICES", count, 1);
    *r = (struct rig){.n_devices = n_devices, .lines = fopen(log_file, "w+")};
    for (int i = 0; i < n_devices; i++)
        if (mdl_backend_open("cuda", i, &r->devices[i], &e))
            fail_msg("%s", e.msg);
    if (srv_log_new(fileno(r->lines), SRV_LOG_INFO, &r->log, &e) ||
        srv_gallery_new(DIM, max, &r->device, &e) ||
        srv_gallery_new(DIM, max, &r->host, &e) ||
        srv_gallery_place(r->device, r->devices, n_devices, r->log, &e))
        fail_msg("%s", e.msg);
}

static void rig_close(struct rig *r)
{
    srv_gallery_free(r->device);
    srv_gallery_free(r->host);
    srv_log_free(r->log);
    fclose(r->lines);
    for (int i = 0; i < r->n_devices; i++)
        mdl_backend_close(r->devices[i]);
    unsetenv("TSCAF_HOST_DEVICES");
}

/* How many lines of the log have that text. */
static int logged(struct rig *r, const char *text)
{
    char line[SRV_LOG_MAX_LINE];
    int n = 0;

    rewind(r->lines);
    while (fgets(line, sizeof(line), r->lines))
        n += strstr(line, text) != NULL;
    return n;
}

static void random_vector(unsigned seed, float v[DIM])
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

/* Face n, of one of `people` identities, into both galleries. */
static void add(struct rig *r, unsigned people, const float v[DIM])
{
    struct srv_gallery *both[] = {r->device, r->host};
    char id[32], face[32];
    struct ut_error e;

    snprintf(id, sizeof(id), "id_%u", r->n % people);
    snprintf(face, sizeof(face), "face_%u", r->n);
    for (int i = 0; i < 2; i++)
        if (srv_gallery_add(both[i], id, id, face, v, &e))
            fail_msg("%s", e.msg);
    r->n++;
}

static void remove_face(struct rig *r, unsigned n)
{
    char face[32];

    snprintf(face, sizeof(face), "face_%u", n);
    srv_gallery_remove_face(r->device, face);
    srv_gallery_remove_face(r->host, face);
}

struct answer {
    struct srv_match matches[QUERIES][SRV_TOP_K_MAX];
    int counts[QUERIES];
};

static void search(struct srv_gallery *g, float (*queries)[DIM], int n,
                   int top_k, struct answer *a)
{
    struct srv_match *matches[QUERIES];
    const float *list[QUERIES];
    int wanted[QUERIES];
    struct srv_gallery_scratch *s;
    struct ut_error e;

    memset(a, 0, sizeof(*a));
    for (int i = 0; i < n; i++) {
        list[i] = queries[i];
        matches[i] = a->matches[i];
        wanted[i] = top_k;
    }
    assert_int_equal(srv_gallery_scratch_new(g, &s, &e), UT_OK);
    srv_gallery_search(g, s, list, n, matches, wanted, a->counts);
    srv_gallery_scratch_free(s);
}

/* Both galleries answer alike; how many of the queries a device answered. */
static int compare(struct rig *r, float (*queries)[DIM], int n, int top_k)
{
    static struct answer got, want;
    struct mdl_search_stats before, after;

    srv_gallery_stats(r->device, &before);
    search(r->device, queries, n, top_k, &got);
    srv_gallery_stats(r->device, &after);
    search(r->host, queries, n, top_k, &want);
    for (int q = 0; q < n; q++) {
        if (got.counts[q] != want.counts[q])
            fail_msg("%d of %d matches", got.counts[q], want.counts[q]);
        for (int k = 0; k < got.counts[q]; k++) {
            const struct srv_match *a = &got.matches[q][k];
            const struct srv_match *b = &want.matches[q][k];

            if (strcmp(a->identity_id, b->identity_id) ||
                memcmp(&a->similarity, &b->similarity, sizeof(float)))
                fail_msg("query %d, match %d of %u faces: %s %.9g, not %s %.9g",
                         q, k, r->n, a->identity_id, (double)a->similarity,
                         b->identity_id, (double)b->similarity);
        }
    }
    assert_int_equal(after.by_device + after.by_processor + after.again -
                         before.by_device - before.by_processor - before.again,
                     n);
    return (int)(after.by_device - before.by_device);
}

static void random_queries(unsigned seed, float (*queries)[DIM])
{
    for (unsigned q = 0; q < QUERIES; q++)
        random_vector(seed + q, queries[q]);
}

/* At every edge of a panel and of a tile, one before and one past it. */
static void search__growing_at_edges__as_without_a_device(void **state)
{
    static const unsigned edges[] = {
        0,    1,        31,           32,       33,           TILE - 1,
        TILE, TILE + 1, 2 * TILE - 1, 2 * TILE, 2 * TILE + 1, 1023,
        1024, 1025,     4 * TILE + 1, MAX};
    static const int sizes[] = {1, 2, 8, 9, 32, 33, QUERIES};
    float queries[QUERIES][DIM], v[DIM];
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

/* ---- errors ---- */

static void lose_context(void)
{
    fclose(fopen(lose, "w"));
}

static void fill(struct rig *r, unsigned n)
{
    float v[DIM];

    while (r->n < n) {
        random_vector(r->n + 1, v);
        add(r, 400, v);
    }
}

static void search__context_lost__answers_and_comes_back(void **state)
{
    float queries[QUERIES][DIM];
    struct rig r;

    (void)state;
    rig_open(&r, 1, MAX);
    fill(&r, 700);
    random_queries(70000, queries);
    assert_int_equal(compare(&r, queries, 5, 3), 5);
    for (int i = 1; i <= 5; i++) {
        lose_context();
        assert_int_equal(compare(&r, queries, 5, 3), 0);
        assert_int_equal(logged(&r, "failed to search: CUDA: "), i);
        assert_int_equal(compare(&r, queries, 5, 3), 5);
    }
    assert_int_equal(logged(&r, "processor searches meanwhile"), 5);
    /* Lost while a face goes; then again and again without an answer. */
    lose_context();
    remove_face(&r, 650);
    assert_int_equal(compare(&r, queries, 5, 3), 5);
    for (int i = 0; i < 3; i++) {
        lose_context();
        assert_int_equal(compare(&r, queries, 5, 3), 0);
    }
    assert_int_equal(logged(&r, "the processor searches from here"), 1);
    assert_int_equal(compare(&r, queries, 5, 3), 0);
    fill(&r, 900);
    remove_face(&r, 100);
    assert_int_equal(compare(&r, queries, 5, 3), 0);
    assert_int_equal(logged(&r, "the processor searches from here"), 1);
    assert_true(srv_gallery_settle(r.device)); /* it is tried again */
    assert_int_equal(compare(&r, queries, 5, 3), 5);
    rig_close(&r);
}

/* No room from the start, and none to grow. */
static void search__no_room__said_once_processor_searches(void **state)
{
    float queries[QUERIES][DIM];
    struct mdl_search_stats stats;

    (void)state;
    random_queries(70000, queries);
    for (unsigned before = 0; before <= TILE; before += TILE) {
        struct rig r;

        rig_open(&r, 1, MAX);
        fill(&r, before);
        assert_int_equal(compare(&r, queries, 5, 3), before ? 5 : 0);
        setenv("TSCAF_HOST_DEVICE_MIB", "0", 1);
        fill(&r, before + 1);
        assert_int_equal(compare(&r, queries, 5, 3), 0);
        unsetenv("TSCAF_HOST_DEVICE_MIB");
        fill(&r, 2 * TILE + 1);
        assert_int_equal(compare(&r, queries, 5, 3), 0);
        assert_int_equal(logged(&r, "has no room to search"), 1);
        srv_gallery_stats(r.device, &stats);
        assert_int_equal(stats.device_bytes, 0);
        setenv("TSCAF_HOST_DEVICE_MIB", "0", 1);
        assert_false(srv_gallery_settle(r.device));
        assert_int_equal(logged(&r, "has no room to search"), 2);
        unsetenv("TSCAF_HOST_DEVICE_MIB");
        assert_true(srv_gallery_settle(r.device)); /* now there is some */
        assert_int_equal(compare(&r, queries, 5, 3), 5);
        rig_close(&r);
    }
}

/* What a gallery that rests holds of a device goes, and comes back. */
static void park__memory_goes__processor_answers(void **state)
{
    float queries[QUERIES][DIM];
    struct mdl_search_stats stats;
    struct ut_buf text;
    struct ut_error e;
    struct rig r;

    (void)state;
    rig_open(&r, 2, MAX);
    fill(&r, 600);
    random_queries(70000, queries);
    assert_true(srv_gallery_settle(r.device));
    srv_gallery_stats(r.device, &stats);
    assert_int_equal(stats.device_bytes, 2 * 608 * DIM * 2);
    assert_int_equal(compare(&r, queries, 5, 3), 5);
    srv_gallery_park(r.device);
    srv_gallery_stats(r.device, &stats);
    assert_int_equal(stats.device_bytes, 0);
    remove_face(&r, 7);
    fill(&r, 700);
    assert_int_equal(compare(&r, queries, 5, 3), 0);
    assert_true(srv_gallery_settle(r.device));
    assert_int_equal(compare(&r, queries, 33, 3), 33);
    ut_buf_init(&text, 4096);
    assert_int_equal(srv_devices_gallery(r.device, &text, &e), UT_OK);
    assert_non_null(strstr(text.data, "\ntscaf_gallery_queries_total"
                                      "{by=\"device\"} 38\n"));
    assert_non_null(strstr(text.data, "\ntscaf_gallery_queries_total"
                                      "{by=\"processor\"} 5\n"));
    assert_non_null(strstr(text.data, "\ntscaf_gallery_device_bytes 67584\n"));
    ut_buf_fini(&text);
    assert_int_equal(logged(&r, "gallery"), 0);
    rig_close(&r);
}

/* A limit that the device could never hold is said at once. */
static void place__more_than_the_device_holds__said(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, 1, (1u << 30) / (2 * DIM)); /* its memory: host/device.c */
    assert_int_equal(logged(&r, "past what fits the processor searches"), 0);
    rig_close(&r);
    rig_open(&r, 1, (1u << 30) / (2 * DIM) + 1);
    assert_int_equal(logged(&r, "past what fits the processor searches"), 1);
    rig_close(&r);
}

static void place__processor__never_asked(void **state)
{
    float queries[QUERIES][DIM];
    struct mdl_search_stats stats;
    struct ut_error e;
    struct rig r;

    (void)state;
    rig_open(&r, 0, MAX);
    assert_int_equal(mdl_backend_open("cpu", 0, &r.devices[0], &e), UT_OK);
    r.n_devices = 1;
    assert_int_equal(srv_gallery_place(r.device, r.devices, 1, r.log, &e),
                     UT_OK);
    fill(&r, 300);
    random_queries(70000, queries);
    assert_int_equal(compare(&r, queries, 5, 3), 0);
    srv_gallery_stats(r.device, &stats);
    assert_int_equal(stats.by_processor, 5);
    rig_close(&r);
}

/* ---- many at once ---- */

struct worker {
    struct rig *r;
    pthread_t thread;
    int bad;
};

static void *search_all(void *arg)
{
    struct worker *w = arg;
    struct srv_match match, *matches = &match;
    struct srv_gallery_scratch *s;
    struct ut_error e;
    int one = 1, n;

    if (srv_gallery_scratch_new(w->r->device, &s, &e)) {
        w->bad++;
        return NULL;
    }
    for (unsigned i = 0; i < 60; i++) {
        float v[DIM];
        const float *q = v;
        char id[32];

        random_vector(i % 50 + 1, v);
        snprintf(id, sizeof(id), "id_%u", i % 50);
        srv_gallery_search(w->r->device, s, &q, 1, &matches, &one, &n);
        w->bad += n != 1 || strcmp(match.identity_id, id) ||
                  match.similarity < 0.9999f;
    }
    srv_gallery_scratch_free(s);
    return NULL;
}

static void *write_all(void *arg)
{
    struct worker *w = arg;

    for (unsigned n = 50; n < 600; n++) {
        char id[32], face[32];
        struct ut_error e;
        float v[DIM];

        snprintf(id, sizeof(id), "id_%u", n);
        snprintf(face, sizeof(face), "face_%u", n);
        random_vector(n + 1, v);
        w->bad += srv_gallery_add(w->r->device, id, id, face, v, &e) != UT_OK;
        if (n % 3)
            srv_gallery_remove_face(w->r->device, face);
        if (n == 200 || n == 400) /* once more in a row: given up */
            lose_context();
    }
    return NULL;
}

static void search__while_others_write_and_a_context_goes__right(void **state)
{
    struct worker workers[10];
    struct mdl_search_stats before, after;
    struct rig r;

    (void)state;
    for (int devices = 1; devices <= 2; devices++) {
        rig_open(&r, devices, MAX);
        fill(&r, 50);
        for (int i = 0; i < 10; i++) {
            workers[i] = (struct worker){.r = &r};
            assert_int_equal(pthread_create(&workers[i].thread, NULL,
                                            i ? search_all : write_all,
                                            &workers[i]),
                             0);
        }
        for (int i = 0; i < 10; i++) {
            pthread_join(workers[i].thread, NULL);
            assert_int_equal(workers[i].bad, 0);
        }
        unlink(lose);
        srv_gallery_stats(r.device, &before);
        workers[1] = (struct worker){.r = &r};
        search_all(&workers[1]);
        assert_int_equal(workers[1].bad, 0);
        srv_gallery_stats(r.device, &after);
        assert_true(after.by_device > before.by_device);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(search__growing_at_edges__as_without_a_device),
        cmocka_unit_test(search__faces_come_and_go__as_without_a_device),
        cmocka_unit_test(search__adversarial_rows__as_without_a_device),
        cmocka_unit_test(search__many_behind_a_few__device_answers),
        cmocka_unit_test(search__context_lost__answers_and_comes_back),
        cmocka_unit_test(search__no_room__said_once_processor_searches),
        cmocka_unit_test(park__memory_goes__processor_answers),
        cmocka_unit_test(place__more_than_the_device_holds__said),
        cmocka_unit_test(place__processor__never_asked),
        cmocka_unit_test(search__while_others_write_and_a_context_goes__right),
    };

    snprintf(lose, sizeof(lose), "%s/lose", test_dir());
    snprintf(log_file, sizeof(log_file), "%s/log", test_dir());
    setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
    setenv("TSCAF_CUDA_CACHE", test_dir(), 1);
    setenv("TSCAF_HOST_LOSE", lose, 1);
    setenv("TSCAF_HOST_ENGINES", "fw", 1);
    cmocka_set_test_filter(getenv("TEST_FILTER")); /* NULL: all */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
