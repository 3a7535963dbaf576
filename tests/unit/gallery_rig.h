#ifndef TESTS_UNIT_GALLERY_RIG_H
#define TESTS_UNIT_GALLERY_RIG_H

/* Two galleries with the same faces: one on devices for which the processor
 * stands (tests/plugins/host, tiles of 256 rows), one without. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/inference/gallery.h"
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

static inline void rig_open(struct rig *r, int n_devices, size_t max)
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

static inline void rig_close(struct rig *r)
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
static inline int logged(struct rig *r, const char *text)
{
    char line[SRV_LOG_MAX_LINE];
    int n = 0;

    rewind(r->lines);
    while (fgets(line, sizeof(line), r->lines))
        n += strstr(line, text) != NULL;
    return n;
}

static inline void random_vector(unsigned seed, float v[DIM])
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
static inline void add(struct rig *r, unsigned people, const float v[DIM])
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

static inline void remove_face(struct rig *r, unsigned n)
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

static inline void search(struct srv_gallery *g, float (*queries)[DIM], int n,
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
static inline int compare(struct rig *r, float (*queries)[DIM], int n,
                          int top_k)
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

static inline void random_queries(unsigned seed, float (*queries)[DIM])
{
    for (unsigned q = 0; q < QUERIES; q++)
        random_vector(seed + q, queries[q]);
}

static inline void lose_context(void)
{
    fclose(fopen(lose, "w"));
}

static inline void fill(struct rig *r, unsigned n)
{
    float v[DIM];

    while (r->n < n) {
        random_vector(r->n + 1, v);
        add(r, 400, v);
    }
}

/* Points the plug-in at the stand-in, and what it writes at the test's folder.
 */
static inline void rig_setup(void)
{
    snprintf(lose, sizeof(lose), "%s/lose", test_dir());
    snprintf(log_file, sizeof(log_file), "%s/log", test_dir());
    setenv("TSCAF_CUDA_PLUGIN", PLUGINS "host.so", 1);
    setenv("TSCAF_CUDA_CACHE", test_dir(), 1);
    setenv("TSCAF_HOST_LOSE", lose, 1);
    setenv("TSCAF_HOST_ENGINES", "fw", 1);
    cmocka_set_test_filter(getenv("TEST_FILTER")); /* NULL: all */
}

#endif
