/* The index: rows of a packed matrix in chunks that never move, a lock that
 * writers hold for one row's time only. Search is exact: one pass over the
 * matrix for all queries of a batch. */
#include "server/gallery.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_ROWS 4096
#define MAX_QUERIES 32 /* a batch */

struct row {
    char face_id[SRV_ID_LEN];
    int owner; /* index of its identity, -1: free */
};

struct identity {
    char id[SRV_ID_LEN];
    char *name; /* owned; NULL: a free slot */
    size_t n_faces;
};

struct chunk {
    float *data; /* owned; [CHUNK_ROWS, dim], 64-byte aligned */
    struct row rows[CHUNK_ROWS];
};

struct srv_gallery {
    int dim;
    size_t max_faces, n_faces, n_rows; /* rows ever used */
    pthread_rwlock_t lock;
    struct chunk **chunks; /* [max_chunks], filled as needed */
    size_t n_chunks, max_chunks;
    struct identity *identities; /* owned */
    int n_identities, cap_identities;
};

/* One candidate per identity while searching. */
struct best {
    float similarity;
    int owner;
};

struct srv_gallery_scratch {
    float *score; /* owned; [cap], best cosine of each identity */
    int cap;
};

enum ut_err srv_gallery_new(int dim, size_t max_faces, struct srv_gallery **out,
                            struct ut_error *e)
{
    struct srv_gallery *g = calloc(1, sizeof(*g));

    *out = NULL;
    if (!g)
        return ut_fail(e, UT_ENOMEM, "no memory for the gallery");
    g->dim = dim;
    g->max_faces = max_faces;
    g->max_chunks = max_faces / CHUNK_ROWS + 1;
    g->chunks = calloc(g->max_chunks, sizeof(struct chunk *));
    if (!g->chunks) {
        free(g);
        return ut_fail(e, UT_ENOMEM, "no memory for %zu faces", max_faces);
    }
    pthread_rwlock_init(&g->lock, NULL);
    *out = g;
    return UT_OK;
}

void srv_gallery_free(struct srv_gallery *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->n_chunks; i++) {
        free(g->chunks[i]->data);
        free(g->chunks[i]);
    }
    for (int i = 0; i < g->n_identities; i++)
        free(g->identities[i].name);
    free(g->chunks);
    free(g->identities);
    pthread_rwlock_destroy(&g->lock);
    free(g);
}

static struct row *row_at(const struct srv_gallery *g, size_t i)
{
    return &g->chunks[i / CHUNK_ROWS]->rows[i % CHUNK_ROWS];
}

static float *vector_at(const struct srv_gallery *g, size_t i)
{
    return g->chunks[i / CHUNK_ROWS]->data + i % CHUNK_ROWS * (size_t)g->dim;
}

static int find_identity(const struct srv_gallery *g, const char *id)
{
    for (int i = 0; i < g->n_identities; i++)
        if (g->identities[i].name && !strcmp(g->identities[i].id, id))
            return i;
    return -1;
}

/* The identity of that id, made if need be; -1 without memory. */
static int need_identity(struct srv_gallery *g, const char *id,
                         const char *name)
{
    int at = find_identity(g, id), cap;
    struct identity *more;

    if (at >= 0)
        return at;
    for (at = 0; at < g->n_identities && g->identities[at].name;)
        at++;
    if (at == g->cap_identities) {
        cap = g->cap_identities ? g->cap_identities * 2 : 64;
        more = realloc(g->identities, (size_t)cap * sizeof(*more));
        if (!more)
            return -1;
        g->identities = more;
        g->cap_identities = cap;
    }
    g->identities[at] = (struct identity){.name = strdup(name)};
    if (!g->identities[at].name)
        return -1;
    strncpy(g->identities[at].id, id, SRV_ID_LEN - 1);
    if (at == g->n_identities)
        g->n_identities++;
    return at;
}

static enum ut_err add_chunk(struct srv_gallery *g, struct ut_error *e)
{
    struct chunk *c = calloc(1, sizeof(*c));

    if (c)
        c->data =
            aligned_alloc(64, CHUNK_ROWS * (size_t)g->dim * sizeof(float));
    if (!c || !c->data) {
        free(c);
        return ut_fail(e, UT_ENOMEM, "no memory for more faces");
    }
    for (int i = 0; i < CHUNK_ROWS; i++)
        c->rows[i].owner = -1;
    g->chunks[g->n_chunks++] = c;
    return UT_OK;
}

static size_t free_row(const struct srv_gallery *g)
{
    /* Only after deletions are there free rows before the end. */
    for (size_t i = 0; g->n_rows > g->n_faces && i < g->n_rows; i++)
        if (row_at(g, i)->owner < 0)
            return i;
    return g->n_rows;
}

enum ut_err srv_gallery_add(struct srv_gallery *g, const char *identity_id,
                            const char *name, const char *face_id,
                            const float *embedding, struct ut_error *e)
{
    enum ut_err rc = UT_OK;
    size_t at;
    int owner;

    pthread_rwlock_wrlock(&g->lock);
    if (g->n_faces >= g->max_faces) {
        rc = ut_fail(e, UT_EBUSY, "%zu faces are enrolled, the limit",
                     g->n_faces);
        goto out;
    }
    at = free_row(g);
    if (at == g->n_chunks * CHUNK_ROWS)
        rc = add_chunk(g, e);
    owner = rc ? -1 : need_identity(g, identity_id, name);
    if (!rc && owner < 0)
        rc = ut_fail(e, UT_ENOMEM, "no memory for identity %s", identity_id);
    if (rc)
        goto out;
    memcpy(vector_at(g, at), embedding, (size_t)g->dim * sizeof(float));
    row_at(g, at)->owner = owner;
    strncpy(row_at(g, at)->face_id, face_id, SRV_ID_LEN - 1);
    g->identities[owner].n_faces++;
    g->n_faces++;
    if (at == g->n_rows)
        g->n_rows++;
out:
    pthread_rwlock_unlock(&g->lock);
    return rc;
}

void srv_gallery_rename(struct srv_gallery *g, const char *identity_id,
                        const char *name)
{
    char *copy = strdup(name);
    int at;

    if (!copy)
        return;
    pthread_rwlock_wrlock(&g->lock);
    at = find_identity(g, identity_id);
    if (at >= 0) {
        char *old = g->identities[at].name;

        g->identities[at].name = copy;
        copy = old;
    }
    pthread_rwlock_unlock(&g->lock);
    free(copy);
}

/* Zeroes row i and forgets its identity with its last face. */
static void clear_row(struct srv_gallery *g, size_t i)
{
    struct row *r = row_at(g, i);
    struct identity *owner = &g->identities[r->owner];

    memset(vector_at(g, i), 0, (size_t)g->dim * sizeof(float));
    memset(r, 0, sizeof(*r));
    r->owner = -1;
    g->n_faces--;
    if (!--owner->n_faces) {
        free(owner->name);
        memset(owner, 0, sizeof(*owner));
    }
}

void srv_gallery_remove_face(struct srv_gallery *g, const char *face_id)
{
    pthread_rwlock_wrlock(&g->lock);
    for (size_t i = 0; i < g->n_rows; i++)
        if (row_at(g, i)->owner >= 0 &&
            !strcmp(row_at(g, i)->face_id, face_id)) {
            clear_row(g, i);
            break;
        }
    pthread_rwlock_unlock(&g->lock);
}

void srv_gallery_remove_identity(struct srv_gallery *g, const char *identity_id)
{
    int owner;

    pthread_rwlock_wrlock(&g->lock);
    owner = find_identity(g, identity_id);
    for (size_t i = 0; owner >= 0 && i < g->n_rows; i++)
        if (row_at(g, i)->owner == owner)
            clear_row(g, i);
    pthread_rwlock_unlock(&g->lock);
}

enum ut_err srv_gallery_scratch_new(struct srv_gallery_scratch **out,
                                    struct ut_error *e)
{
    *out = calloc(1, sizeof(**out));
    return *out ? UT_OK : ut_fail(e, UT_ENOMEM, "no memory for a search");
}

void srv_gallery_scratch_free(struct srv_gallery_scratch *s)
{
    if (!s)
        return;
    free(s->score);
    free(s);
}

/* Sixteen sums side by side, which the compiler turns into vectors. */
static float dot(const float *a, const float *b, int n)
{
    float sum[16] = {0}, total = 0;
    int i = 0;

    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++)
            sum[k] += a[i + k] * b[i + k];
    for (; i < n; i++)
        total += a[i] * b[i];
    for (int k = 0; k < 16; k++)
        total += sum[k];
    return total;
}

/* Inserts into list [top_k], best first, ties in order of coming. */
static void rank(struct best *list, int *n, int top_k, float similarity,
                 int owner)
{
    int at = *n;

    while (at > 0 && list[at - 1].similarity < similarity)
        at--;
    if (at >= top_k)
        return;
    if (*n < top_k)
        ++*n;
    memmove(list + at + 1, list + at, (size_t)(*n - 1 - at) * sizeof(*list));
    list[at] = (struct best){similarity, owner};
}

static void put_matches(const struct srv_gallery *g, const float *score,
                        struct srv_match *matches, int top_k, int *count)
{
    struct best list[SRV_TOP_K_MAX] = {{0}};
    int n = 0;

    if (top_k > SRV_TOP_K_MAX)
        top_k = SRV_TOP_K_MAX;
    for (int i = 0; i < g->n_identities; i++)
        if (score[i] > -2)
            rank(list, &n, top_k, score[i], i);
    for (int i = 0; i < n; i++) {
        const struct identity *owner = &g->identities[list[i].owner];

        memcpy(matches[i].identity_id, owner->id, SRV_ID_LEN);
        strncpy(matches[i].name, owner->name, sizeof(matches[i].name) - 1);
        matches[i].name[sizeof(matches[i].name) - 1] = '\0';
        matches[i].similarity = list[i].similarity;
    }
    *count = n;
}

void srv_gallery_search(struct srv_gallery *g, struct srv_gallery_scratch *s,
                        const float *const *queries, int n,
                        struct srv_match *const *matches, const int *top_k,
                        int *counts)
{
    int cap;

    for (int q = 0; q < n; q++)
        counts[q] = 0;
    pthread_rwlock_rdlock(&g->lock);
    cap = g->cap_identities * (n > MAX_QUERIES ? n : MAX_QUERIES);
    if (cap > s->cap) { /* only after the gallery grew */
        free(s->score);
        s->score = malloc((size_t)cap * sizeof(*s->score));
        s->cap = s->score ? cap : 0;
    }
    if (!s->cap || !g->n_faces)
        goto out;
    for (int i = 0; i < n * g->n_identities; i++)
        s->score[i] = -2;
    for (size_t i = 0; i < g->n_rows; i++) {
        int owner = row_at(g, i)->owner;

        for (int q = 0; q < n && owner >= 0; q++) {
            float v = dot(queries[q], vector_at(g, i), g->dim);
            float *best = &s->score[q * g->n_identities + owner];

            if (v > *best)
                *best = v;
        }
    }
    for (int q = 0; q < n; q++)
        put_matches(g, s->score + q * g->n_identities, matches[q], top_k[q],
                    &counts[q]);
out:
    pthread_rwlock_unlock(&g->lock);
}

float srv_gallery_compare(struct srv_gallery *g, const char *identity_id,
                          const float *q)
{
    float best = -2;
    int owner;

    pthread_rwlock_rdlock(&g->lock);
    owner = find_identity(g, identity_id);
    for (size_t i = 0; owner >= 0 && i < g->n_rows; i++)
        if (row_at(g, i)->owner == owner) {
            float v = dot(q, vector_at(g, i), g->dim);

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
