#ifndef SERVER_GALLERY_H
#define SERVER_GALLERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/search.h"
#include "server/log.h"

/* The in-memory index: every enrolled face's embedding of the serving model,
 * searched exactly by cosine (model/search.h). Readers never wait for a
 * writer's disk: writers hold the lock only to append or to overwrite a row. */

#define SRV_ID_LEN 32 /* "face_" or "id_" + 24 hex digits + NUL */
#define SRV_TOP_K_MAX 100

struct srv_match {
    char identity_id[SRV_ID_LEN];
    char name[201 * 4];
    float similarity; /* cosine of the identity's nearest face */
};

struct srv_gallery;

/* max_faces: over it additions say UT_EBUSY. */
UT_MUSTUSE enum ut_err srv_gallery_new(int dim, size_t max_faces,
                                       struct srv_gallery **out,
                                       struct ut_error *e);
void srv_gallery_free(struct srv_gallery *g);
/* Once, before all faces: searches on these devices too, where they can and
 * have room; log (may be NULL) says where not. They outlive g. Errors:
 * UT_ENOMEM. */
UT_MUSTUSE enum ut_err srv_gallery_place(struct srv_gallery *g,
                                         struct mdl_backend *const *devices,
                                         int n, struct srv_log *log,
                                         struct ut_error *e);
/* After many additions: brings the devices up to date, so that the next search
 * need not, those too that had no room or were parked. false: some device has
 * not all faces. Thread: any. */
bool srv_gallery_settle(struct srv_gallery *g);
/* Gives the devices' memory back; the processor searches until the gallery is
 * settled again. Thread: any. */
void srv_gallery_park(struct srv_gallery *g);
/* How searches were answered. Thread: any. */
void srv_gallery_stats(struct srv_gallery *g, struct mdl_search_stats *out);

/* embedding: [dim], L2-normalised. Visible to the next search.
 * Errors: UT_EBUSY, UT_ENOMEM. Thread: any. */
UT_MUSTUSE enum ut_err srv_gallery_add(struct srv_gallery *g,
                                       const char *identity_id,
                                       const char *name, const char *face_id,
                                       const float *embedding,
                                       struct ut_error *e);
void srv_gallery_rename(struct srv_gallery *g, const char *identity_id,
                        const char *name);
/* Zeroes the removed embeddings' memory, on devices too. Unknown ids are
 * ignored. */
void srv_gallery_remove_face(struct srv_gallery *g, const char *face_id);
void srv_gallery_remove_identity(struct srv_gallery *g,
                                 const char *identity_id);

/* The top_k (1 to SRV_TOP_K_MAX) nearest identities, by the best face of each,
 * for each of n queries [n, dim]; matches [n][top_k], counts [n]. One pass over
 * the matrix serves 32 queries. Thread: any, one scratch per thread. */
struct srv_gallery_scratch;
UT_MUSTUSE enum ut_err srv_gallery_scratch_new(const struct srv_gallery *g,
                                               struct srv_gallery_scratch **out,
                                               struct ut_error *e);
void srv_gallery_scratch_free(struct srv_gallery_scratch *s);
void srv_gallery_search(struct srv_gallery *g, struct srv_gallery_scratch *s,
                        const float *const *queries, int n,
                        struct srv_match *const *matches, const int *top_k,
                        int *counts);

/* The best cosine of q against one identity's faces; -2 if it has none. */
float srv_gallery_compare(struct srv_gallery *g, const char *identity_id,
                          const float *q);

bool srv_gallery_has(struct srv_gallery *g, const char *face_id);

size_t srv_gallery_faces(const struct srv_gallery *g);

#endif
