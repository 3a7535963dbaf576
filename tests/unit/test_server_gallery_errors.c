/* The gallery on devices that are lost, have no room, or are shared with
 * others: the answers stay the processor's. */
#include <pthread.h>
#include <unistd.h>

#include "server/inference/devices.h"
#include "tests/unit/gallery_rig.h"

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

/* A context that goes while the gallery grows is no want of room. */
static void search__context_lost_while_growing__comes_back(void **state)
{
    float queries[QUERIES][DIM];
    struct rig r;

    (void)state;
    random_queries(70000, queries);
    for (unsigned before = 0; before <= TILE; before += TILE) {
        rig_open(&r, 1, MAX);
        fill(&r, before);
        assert_int_equal(compare(&r, queries, 5, 3), before ? 5 : 0);
        fill(&r, before + 1);
        lose_context();
        assert_int_equal(compare(&r, queries, 5, 3), 0);
        assert_int_equal(logged(&r, "processor searches meanwhile"), 1);
        assert_int_equal(compare(&r, queries, 5, 3), 5);
        rig_close(&r);
    }
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

/* ---- the host's memory runs out ---- */

static enum ut_err place_and_free(void *arg, struct ut_error *e)
{
    struct rig *r = arg;
    struct srv_gallery *g;
    enum ut_err rc = srv_gallery_new(DIM, MAX, &g, e);

    if (rc)
        return rc;
    rc = srv_gallery_place(g, r->devices, r->n_devices, r->log, e);
    srv_gallery_free(g);
    return rc;
}

static void place__each_allocation_fails__clean_error(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, 2, MAX);
    assert_true(each_allocation_fails(place_and_free, &r) >= 9);
    rig_close(&r);
}

/* Without memory to ask the device the answer is the processor's, and right,
 * and the device, which is given up, keeps no faces. */
static void search__each_allocation_fails__processor_answers(void **state)
{
    struct srv_match got, *matches = &got;
    struct mdl_search_stats stats;
    struct srv_gallery_scratch *s;
    int one = 1, n, failed = 0;
    struct ut_error e;
    float v[DIM];
    const float *q = v;
    bool hit = true;
    struct rig r;

    (void)state;
    random_vector(43, v);
    for (; hit; failed += hit) {
        rig_open(&r, 1, MAX);
        fill(&r, 300);
        assert_int_equal(srv_gallery_scratch_new(r.device, &s, &e), UT_OK);
        fault_arm(failed);
        srv_gallery_search(r.device, s, &q, 1, &matches, &one, &n);
        hit = fault_disarm();
        assert_int_equal(n, 1);
        assert_string_equal(got.identity_id, "id_42");
        assert_int_equal(logged(&r, "the processor searches"), hit);
        srv_gallery_stats(r.device, &stats);
        assert_int_equal(stats.device_bytes, hit ? 0 : 320 * DIM * 2);
        srv_gallery_scratch_free(s);
        rig_close(&r);
    }
    assert_int_equal(failed, 2); /* of a seeker */
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
        cmocka_unit_test(search__context_lost__answers_and_comes_back),
        cmocka_unit_test(search__context_lost_while_growing__comes_back),
        cmocka_unit_test(search__no_room__said_once_processor_searches),
        cmocka_unit_test(park__memory_goes__processor_answers),
        cmocka_unit_test(place__more_than_the_device_holds__said),
        cmocka_unit_test(place__processor__never_asked),
        cmocka_unit_test(place__each_allocation_fails__clean_error),
        cmocka_unit_test(search__each_allocation_fails__processor_answers),
        cmocka_unit_test(search__while_others_write_and_a_context_goes__right),
    };

    rig_setup();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
