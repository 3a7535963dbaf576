#ifndef SERVER_STORE_H
#define SERVER_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "server/inference/gallery.h"

/* What must not be lost: identities, faces, keys, the audit log. One set of
 * calls and of statements over either of two databases
 * (server/store/store_sql.h): SQLite, or PostgreSQL, which several servers
 * share. Every change is one transaction with its audit line and is durable
 * when the call returns. Calls block: never on the loop; one thread at a time
 * per handle (the store pool has one thread). */

struct srv_pair {
    char *key, *value;
};

struct srv_identity {
    char id[SRV_ID_LEN];
    char *name, *external_id, *consent_ref; /* owned; "" when absent */
    struct srv_pair *metadata;              /* owned */
    size_t n_metadata;
    uint32_t face_count;
    int64_t created_ms, updated_ms; /* Unix time */
};

struct srv_face {
    char id[SRV_ID_LEN], identity_id[SRV_ID_LEN];
    char model_version[17];
    float box[4];
    unsigned quality; /* enum mdl_quality bits */
    float *embedding; /* owned; [dim] or NULL when not asked for */
    int dim;
    uint8_t *crop; /* owned; PNG or NULL */
    size_t crop_len;
    bool has_crop;
    int64_t created_ms;
};

struct srv_key {
    char id[SRV_ID_LEN];
    char *name; /* owned */
    int role;   /* Tscaf__V1__Role */
    uint8_t hash[32];
    int64_t created_ms;
};

struct srv_audit {
    uint64_t seq;
    int64_t at_ms;
    char *actor, *action, *subject, *detail; /* owned */
};

void srv_identity_fini(struct srv_identity *x);
void srv_face_fini(struct srv_face *x);
void srv_key_fini(struct srv_key *x);
void srv_audit_fini(struct srv_audit *x);

struct srv_store;

#define SRV_STORE_FILE "tscaf.db" /* SQLite's, in the data folder */

/* Opens the database at url ("postgres://..."), or opens or creates
 * DIR/SRV_STORE_FILE where url is NULL; migrates its schema. DIR is made if it
 * is missing. A connection that is lost later is made again by the calls that
 * need it. Errors: UT_EIO, UT_EBUSY (PostgreSQL cannot be reached), UT_EINVAL
 * (no such URL), UT_EFORMAT (newer schema); none shows the URL, which may hold
 * a password. */
UT_MUSTUSE enum ut_err srv_store_open(const char *dir, const char *url,
                                      struct srv_store **out,
                                      struct ut_error *e);
void srv_store_close(struct srv_store *s);

/* Copies all of one store into another, which must be empty, in one
 * transaction; nobody else may write to the first. said: what was copied, in
 * words ("identity 3, face 5, ..."). Errors: UT_EEXISTS (not empty), UT_EIO,
 * UT_EBUSY, UT_ENOMEM; then nothing was. */
UT_MUSTUSE enum ut_err srv_store_copy(struct srv_store *from,
                                      struct srv_store *to, char *said,
                                      size_t len, struct ut_error *e);

/* Between the two, what is read stays true and all changes are one, made by
 * the end if rc says that all went well, and else none. Other writers wait. */
UT_MUSTUSE enum ut_err srv_store_begin(struct srv_store *s, struct ut_error *e);
UT_MUSTUSE enum ut_err srv_store_end(struct srv_store *s, enum ut_err rc,
                                     struct ut_error *e);

/* Whether other servers may write there too. */
bool srv_store_shared(const struct srv_store *s);
/* Of a shared one, on a handle for nothing else: returns when somebody changed
 * something, when the connection had to be made anew (there may be changes that
 * nobody told of), when wake_fd can be read, or after timeout_ms. UT_EBUSY: it
 * cannot be reached; at once, so wait before asking again. */
UT_MUSTUSE enum ut_err srv_store_wait(struct srv_store *s, int wake_fd,
                                      int timeout_ms, struct ut_error *e);

/* All: UT_ENOTFOUND, UT_EEXISTS (external_id), UT_EIO, UT_EBUSY (PostgreSQL
 * cannot be reached: nothing was changed; later may work). actor: key id or
 * "local", for the audit line. */
UT_MUSTUSE enum ut_err srv_store_identity_create(struct srv_store *s,
                                                 const char *actor,
                                                 struct srv_identity *x,
                                                 struct ut_error *e);
UT_MUSTUSE enum ut_err srv_store_identity_get(struct srv_store *s,
                                              const char *id,
                                              struct srv_identity *out,
                                              struct ut_error *e);
/* Writes all of x's fields over the stored ones; sets updated_ms. */
UT_MUSTUSE enum ut_err srv_store_identity_update(struct srv_store *s,
                                                 const char *actor,
                                                 struct srv_identity *x,
                                                 struct ut_error *e);
/* Deletes its faces and crops too; *n_faces how many. */
UT_MUSTUSE enum ut_err srv_store_identity_delete(struct srv_store *s,
                                                 const char *actor,
                                                 const char *id,
                                                 uint32_t *n_faces,
                                                 struct ut_error *e);
/* Ids after cursor, in id order, at most limit; the caller fini's and frees
 * the array. */
UT_MUSTUSE enum ut_err srv_store_identity_list(
    struct srv_store *s, const char *cursor, const char *query, uint32_t limit,
    struct srv_identity **out, size_t *n, struct ut_error *e);

/* x->id and created_ms are set; crop and embedding are borrowed. */
UT_MUSTUSE enum ut_err srv_store_face_add(struct srv_store *s,
                                          const char *actor, struct srv_face *x,
                                          struct ut_error *e);
UT_MUSTUSE enum ut_err srv_store_face_list(struct srv_store *s,
                                           const char *identity_id,
                                           struct srv_face **out, size_t *n,
                                           struct ut_error *e);
UT_MUSTUSE enum ut_err srv_store_face_crop(struct srv_store *s,
                                           const char *identity_id,
                                           const char *face_id, uint8_t **png,
                                           size_t *len, struct ut_error *e);
UT_MUSTUSE enum ut_err srv_store_face_delete(struct srv_store *s,
                                             const char *actor,
                                             const char *identity_id,
                                             const char *face_id,
                                             struct ut_error *e);
/* Every face with embedding of that model version, for filling the gallery. */
typedef enum ut_err (*srv_store_face_fn)(void *arg, const struct srv_face *f,
                                         const char *identity_name,
                                         struct ut_error *e);
UT_MUSTUSE enum ut_err srv_store_faces_each(struct srv_store *s,
                                            const char *model_version,
                                            srv_store_face_fn fn, void *arg,
                                            struct ut_error *e);
/* That one alone, if it is there. */
UT_MUSTUSE enum ut_err srv_store_face_of(struct srv_store *s,
                                         const char *model_version,
                                         const char *face_id,
                                         srv_store_face_fn fn, void *arg,
                                         struct ut_error *e);

/* ---- Embeddings by more than one model ---- */

struct srv_crop {
    int64_t seq; /* the face's place, for the next call */
    char face_id[SRV_ID_LEN];
    uint8_t *png; /* owned */
    size_t len;
};

/* Faces after seq, at most limit, with a crop and without an embedding by that
 * model; out [limit]. */
UT_MUSTUSE enum ut_err srv_store_crops(struct srv_store *s, const char *version,
                                       int64_t after, int limit,
                                       struct srv_crop *out, int *n,
                                       struct ut_error *e);
/* How many those are, from the first on. */
UT_MUSTUSE enum ut_err srv_store_crops_count(struct srv_store *s,
                                             const char *version, int64_t *n,
                                             struct ut_error *e);
/* Adds embeddings [n, dim] of faces; one that was deleted meanwhile is passed
 * over. */
UT_MUSTUSE enum ut_err srv_store_embed(struct srv_store *s, const char *version,
                                       const struct srv_crop *faces,
                                       const float *embeddings, int n, int dim,
                                       struct ut_error *e);
/* Faces without an embedding by that model and without a crop, at most limit;
 * as srv_store_face_list. */
UT_MUSTUSE enum ut_err srv_store_unmatchable(struct srv_store *s,
                                             const char *version, int limit,
                                             struct srv_face **out, size_t *n,
                                             struct ut_error *e);

/* ---- Records: datasets, jobs, models, as the messages that they are ---- */

enum srv_table { SRV_TABLE_DATASET, SRV_TABLE_JOB, SRV_TABLE_MODEL };

struct srv_record {
    enum srv_table table;
    const char *id;
    const ProtobufCMessage *message; /* NULL: delete it */
};

/* prefix and 24 random hex digits. */
void srv_store_new_id(const char *prefix, char id[SRV_ID_LEN]);

/* Inserts, replaces, deletes n records together, with an audit line about
 * subject unless actor is NULL. Errors: UT_ENOTFOUND for one to delete. */
UT_MUSTUSE enum ut_err srv_store_put(struct srv_store *s, const char *actor,
                                     const char *action, const char *subject,
                                     const struct srv_record *records, int n,
                                     struct ut_error *e);
/* The same, and embeddings by models other than these two go: the change over
 * to another model. */
UT_MUSTUSE enum ut_err srv_store_change_over(struct srv_store *s,
                                             const char *actor,
                                             const char *version,
                                             const char *previous,
                                             const struct srv_record *records,
                                             int n, struct ut_error *e);
/* A message to be freed by protobuf_c_message_free_unpacked. */
UT_MUSTUSE enum ut_err srv_store_get(struct srv_store *s, enum srv_table table,
                                     const char *id,
                                     const ProtobufCMessageDescriptor *d,
                                     ProtobufCMessage **out,
                                     struct ut_error *e);
/* All of a table, oldest first; srv_messages_free frees them. */
UT_MUSTUSE enum ut_err srv_store_list(struct srv_store *s, enum srv_table table,
                                      const ProtobufCMessageDescriptor *d,
                                      ProtobufCMessage ***out, size_t *n,
                                      struct ut_error *e);
void srv_messages_free(ProtobufCMessage **list, size_t n);

#define SRV_MAX_KEYS 10000

/* Errors: UT_ESTATE past SRV_MAX_KEYS. */
UT_MUSTUSE enum ut_err srv_store_key_create(struct srv_store *s,
                                            const char *actor,
                                            struct srv_key *x,
                                            struct ut_error *e);
UT_MUSTUSE enum ut_err srv_store_key_list(struct srv_store *s,
                                          struct srv_key **out, size_t *n,
                                          struct ut_error *e);
UT_MUSTUSE enum ut_err srv_store_key_delete(struct srv_store *s,
                                            const char *actor, const char *id,
                                            struct ut_error *e);
/* Newest first, seq below before (0: from the newest). */
UT_MUSTUSE enum ut_err srv_store_audit_list(struct srv_store *s,
                                            uint64_t before, uint32_t limit,
                                            struct srv_audit **out, size_t *n,
                                            struct ut_error *e);
/* Oldest first, from seq on. The log is what other servers follow: what has a
 * line was made, in the lines' order. */
UT_MUSTUSE enum ut_err srv_store_audit_from(struct srv_store *s, uint64_t seq,
                                            uint32_t limit,
                                            struct srv_audit **out, size_t *n,
                                            struct ut_error *e);

#endif
