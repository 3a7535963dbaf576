/* The index: rows of mdl_search, dense (the last face fills a hole), whose they
 * are, and a lock that writers hold for one face's time only. */
#include "server/inference/gallery.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "model/search.h"

/* Running out of memory is an error, not an exit. */
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(item) (item)->lost = true
#include <uthash.h>

#define CHUNK_ROWS 4096

struct face;

struct identity {
    char id[SRV_ID_LEN];
    char *name;         /* owned */
    struct face *faces; /* owned list */
    bool lost;          /* not in the table: no memory */
    UT_hash_handle hh;
};

struct face {
    char id[SRV_ID_LEN];
    struct identity *owner;
    struct face *next, *prev; /* of the owner's */
    size_t row;
    bool lost;
    UT_hash_handle hh;
};

struct srv_gallery {
    size_t max_faces, n_faces;
    pthread_rwlock_t lock;
    struct mdl_search *search; /* owned; row i is that of face_at(i) */
    struct face ***chunks;     /* owned; [CHUNK_ROWS] each, which never move */
    size_t n_chunks;
    struct identity *identities; /* tables, owned */
    struct face *faces;
    struct srv_log *log; /* NULL until placed */
};

struct srv_gallery_scratch {
    struct mdl_search_scratch *search; /* owned */
};

enum ut_err srv_gallery_new(int dim, size_t max_faces, struct srv_gallery **out,
                            struct ut_error *e)
{
    struct srv_gallery *g = calloc(1, sizeof(*g));
    pthread_rwlockattr_t attr;
    enum ut_err rc;

    *out = NULL;
    if (!g)
        return ut_fail(e, UT_ENOMEM, "no memory for the gallery");
    g->max_faces = max_faces;
    g->chunks = calloc(max_faces / CHUNK_ROWS + 1, sizeof(*g->chunks));
    rc = g->chunks
             ? mdl_search_new(dim, max_faces, &g->search, e)
             : ut_fail(e, UT_ENOMEM, "no memory for %zu faces", max_faces);
    if (rc) {
        free(g->chunks);
        free(g);
        return rc;
    }
    /* Else searches that follow each other closely would starve a writer. */
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr,
                                  PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&g->lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    *out = g;
    return UT_OK;
}

void srv_gallery_free(struct srv_gallery *g)
{
    struct identity *i, *next_i;
    struct face *f, *next_f;

    if (!g)
        return;
    HASH_ITER(hh, g->faces, f, next_f)
    {
        HASH_DEL(g->faces, f);
        free(f);
    }
    HASH_ITER(hh, g->identities, i, next_i)
    {
        HASH_DEL(g->identities, i);
        free(i->name);
        free(i);
    }
    for (size_t c = 0; c < g->n_chunks; c++)
        free(g->chunks[c]);
    free(g->chunks);
    mdl_search_free(g->search);
    pthread_rwlock_destroy(&g->lock);
    free(g);
}

static void on_remark(void *arg, const char *line)
{
    const struct srv_gallery *g = arg;

    srv_log_line(g->log, SRV_LOG_WARN, NULL, "gallery: %s", line);
}

enum ut_err srv_gallery_place(struct srv_gallery *g,
                              struct mdl_backend *const *devices, int n,
                              struct srv_log *log, struct ut_error *e)
{
    g->log = log;
    return mdl_search_place(g->search, devices, n, on_remark, g, e);
}

static bool settle(struct srv_gallery *g, bool again)
{
    bool all;

    pthread_rwlock_rdlock(&g->lock);
    all = mdl_search_settle(g->search, again);
    pthread_rwlock_unlock(&g->lock);
    return all;
}

bool srv_gallery_settle(struct srv_gallery *g)
{
    return settle(g, true);
}

void srv_gallery_park(struct srv_gallery *g)
{
    mdl_search_park(g->search);
}

/* ---- rows ---- */

static struct face **face_at(const struct srv_gallery *g, size_t row)
{
    return &g->chunks[row / CHUNK_ROWS][row % CHUNK_ROWS];
}

static enum ut_err add_chunk(struct srv_gallery *g, struct ut_error *e)
{
    struct face **c = calloc(CHUNK_ROWS, sizeof(struct face *));

    if (!c)
        return ut_fail(e, UT_ENOMEM, "no memory for more faces");
    g->chunks[g->n_chunks++] = c;
    return UT_OK;
}

/* The last row moves into row. */
static void fill_hole(struct srv_gallery *g, size_t row)
{
    size_t last = --g->n_faces;

    mdl_search_remove(g->search, row);
    *face_at(g, row) = *face_at(g, last);
    (*face_at(g, row))->row = row;
    *face_at(g, last) = NULL;
}

/* ---- writers ---- */

static struct identity *find_identity(const struct srv_gallery *g,
                                      const char *id)
{
    struct identity *i;

    HASH_FIND_STR(g->identities, id, i);
    return i;
}

/* The identity of that id, made if need be; NULL without memory. */
static struct identity *need_identity(struct srv_gallery *g, const char *id,
                                      const char *name)
{
    struct identity *i = find_identity(g, id);

    if (i)
        return i;
    i = calloc(1, sizeof(*i));
    if (!i)
        return NULL;
    strncpy(i->id, id, SRV_ID_LEN - 1);
    i->name = strdup(name);
    if (i->name)
        HASH_ADD_STR(g->identities, id, i);
    if (!i->name || i->lost) {
        free(i->name);
        free(i);
        return NULL;
    }
    return i;
}

static void drop_if_empty(struct srv_gallery *g, struct identity *i)
{
    if (i->faces)
        return;
    HASH_DEL(g->identities, i);
    free(i->name);
    free(i);
}

static enum ut_err add(struct srv_gallery *g, const char *identity_id,
                       const char *name, const char *face_id,
                       const float *embedding, struct ut_error *e)
{
    struct identity *owner;
    struct face *f;

    if (g->n_faces >= g->max_faces)
        return ut_fail(e, UT_EBUSY, "%zu faces are enrolled, the limit",
                       g->n_faces);
    if (g->n_faces == g->n_chunks * CHUNK_ROWS && add_chunk(g, e))
        return UT_ENOMEM;
    f = calloc(1, sizeof(*f));
    owner = f ? need_identity(g, identity_id, name) : NULL;
    if (owner) {
        strncpy(f->id, face_id, SRV_ID_LEN - 1);
        HASH_ADD_STR(g->faces, id, f);
    }
    if (!owner || f->lost || mdl_search_add(g->search, embedding, e)) {
        if (owner && !f->lost)
            HASH_DEL(g->faces, f);
        if (owner)
            drop_if_empty(g, owner);
        free(f);
        return ut_fail(e, UT_ENOMEM, "no memory for face %s", face_id);
    }
    f->owner = owner;
    f->next = owner->faces;
    if (f->next)
        f->next->prev = f;
    owner->faces = f;
    f->row = g->n_faces++;
    *face_at(g, f->row) = f;
    return UT_OK;
}

enum ut_err srv_gallery_add(struct srv_gallery *g, const char *identity_id,
                            const char *name, const char *face_id,
                            const float *embedding, struct ut_error *e)
{
    enum ut_err rc;

    pthread_rwlock_wrlock(&g->lock);
    rc = add(g, identity_id, name, face_id, embedding, e);
    pthread_rwlock_unlock(&g->lock);
    return rc;
}

void srv_gallery_rename(struct srv_gallery *g, const char *identity_id,
                        const char *name)
{
    char *copy = strdup(name);
    struct identity *i;

    if (!copy)
        return;
    pthread_rwlock_wrlock(&g->lock);
    i = find_identity(g, identity_id);
    if (i) {
        char *old = i->name;

        i->name = copy;
        copy = old;
    }
    pthread_rwlock_unlock(&g->lock);
    free(copy);
}

static void remove_face(struct srv_gallery *g, struct face *f)
{
    if (f->prev)
        f->prev->next = f->next;
    else
        f->owner->faces = f->next;
    if (f->next)
        f->next->prev = f->prev;
    fill_hole(g, f->row);
    HASH_DEL(g->faces, f);
    free(f);
}

void srv_gallery_remove_face(struct srv_gallery *g, const char *face_id)
{
    struct face *f;

    pthread_rwlock_wrlock(&g->lock);
    HASH_FIND_STR(g->faces, face_id, f);
    if (f) {
        struct identity *owner = f->owner;

        remove_face(g, f);
        drop_if_empty(g, owner);
    }
    pthread_rwlock_unlock(&g->lock);
    if (f)
        settle(g, false); /* nothing of it stays on a device */
}

void srv_gallery_remove_identity(struct srv_gallery *g, const char *identity_id)
{
    struct identity *i;

    pthread_rwlock_wrlock(&g->lock);
    i = find_identity(g, identity_id);
    while (i && i->faces)
        remove_face(g, i->faces);
    if (i)
        drop_if_empty(g, i);
    pthread_rwlock_unlock(&g->lock);
    if (i)
        settle(g, false);
}

/* ---- readers ---- */

enum ut_err srv_gallery_scratch_new(const struct srv_gallery *g,
                                    struct srv_gallery_scratch **out,
                                    struct ut_error *e)
{
    struct srv_gallery_scratch *s = malloc(sizeof(*s));
    enum ut_err rc;

    *out = NULL;
    if (!s)
        return ut_fail(e, UT_ENOMEM, "no memory for a search");
    rc = mdl_search_scratch_new(g->search, &s->search, e);
    if (rc)
        free(s);
    else
        *out = s;
    return rc;
}

void srv_gallery_scratch_free(struct srv_gallery_scratch *s)
{
    if (!s)
        return;
    mdl_search_scratch_free(s->search);
    free(s);
}

/* The best identities so far, best first, each by its best face; of equal
 * faces the one in the lower row. */
struct ranking {
    struct entry {
        float similarity;
        size_t row;
        const struct identity *who;
    } list[SRV_TOP_K_MAX];
    int n, top_k;
};

struct rankings {
    const struct srv_gallery *g;
    struct ranking *of; /* [queries] */
};

static bool is_better(const struct entry *a, const struct entry *b)
{
    return a->similarity > b->similarity ||
           (a->similarity == b->similarity && a->row < b->row);
}

static void rank(struct ranking *r, const struct entry *new)
{
    int at = 0, end;

    while (at < r->n && !is_better(new, &r->list[at])) {
        if (r->list[at].who == new->who)
            return; /* a better face of the same person is there */
        at++;
    }
    if (at == r->top_k)
        return;
    /* The person's worse entry goes, or else the last one. */
    for (end = at; end < r->n && r->list[end].who != new->who;)
        end++;
    if (end == r->n) {
        if (r->n < r->top_k)
            r->n++;
        else
            end--;
    }
    memmove(&r->list[at + 1], &r->list[at],
            (size_t)(end - at) * sizeof(r->list[0]));
    r->list[at] = *new;
}

static float on_row(void *arg, int query, size_t row, float similarity)
{
    struct rankings *all = arg;
    struct ranking *r = &all->of[query];
    const struct entry new = {similarity, row, (*face_at(all->g, row))->owner};

    rank(r, &new);
    return r->n == r->top_k ? r->list[r->n - 1].similarity : -INFINITY;
}

static int put_matches(const struct ranking *r, struct srv_match *matches)
{
    for (int i = 0; i < r->n; i++) {
        struct srv_match *m = &matches[i];

        memcpy(m->identity_id, r->list[i].who->id, SRV_ID_LEN);
        strncpy(m->name, r->list[i].who->name, sizeof(m->name) - 1);
        m->name[sizeof(m->name) - 1] = '\0';
        m->similarity = r->list[i].similarity;
    }
    return r->n;
}

void srv_gallery_search(struct srv_gallery *g, struct srv_gallery_scratch *s,
                        const float *const *queries, int n,
                        struct srv_match *const *matches, const int *top_k,
                        int *counts)
{
    pthread_rwlock_rdlock(&g->lock);
    for (int first = 0; first < n; first += MDL_SEARCH_QUERIES) {
        int count =
            n - first < MDL_SEARCH_QUERIES ? n - first : MDL_SEARCH_QUERIES;
        struct ranking rankings[MDL_SEARCH_QUERIES];
        struct rankings all = {g, rankings};

        for (int q = 0; q < count; q++) {
            rankings[q].n = 0;
            rankings[q].top_k = top_k[first + q] < SRV_TOP_K_MAX
                                    ? top_k[first + q]
                                    : SRV_TOP_K_MAX;
        }
        mdl_search_run(g->search, s->search, queries + first, count, on_row,
                       &all);
        for (int q = 0; q < count; q++)
            counts[first + q] = put_matches(&rankings[q], matches[first + q]);
    }
    pthread_rwlock_unlock(&g->lock);
}

float srv_gallery_compare(struct srv_gallery *g, const char *identity_id,
                          const float *q)
{
    const struct identity *i;
    float best = -2;

    pthread_rwlock_rdlock(&g->lock);
    i = find_identity(g, identity_id);
    for (const struct face *f = i ? i->faces : NULL; f; f = f->next) {
        float v = mdl_search_score(g->search, f->row, q);

        best = v > best ? v : best;
    }
    pthread_rwlock_unlock(&g->lock);
    return best;
}

size_t srv_gallery_faces(const struct srv_gallery *g)
{
    struct srv_gallery *w = (struct srv_gallery *)(uintptr_t)g;
    size_t n;

    pthread_rwlock_rdlock(&w->lock);
    n = g->n_faces;
    pthread_rwlock_unlock(&w->lock);
    return n;
}

bool srv_gallery_has(struct srv_gallery *g, const char *face_id)
{
    struct face *f;

    pthread_rwlock_rdlock(&g->lock);
    HASH_FIND_STR(g->faces, face_id, f);
    pthread_rwlock_unlock(&g->lock);
    return f != NULL;
}

void srv_gallery_stats(struct srv_gallery *g, struct mdl_search_stats *out)
{
    mdl_search_stats(g->search, out);
}
